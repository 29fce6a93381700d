"""What a user's type checker sees of the public names: checked by mypy in ``tests/unit/test_typing.py``, never run."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, assert_type

from fluxy_sync import (
    DeadLetter,
    FluxySync,
    HttpTask,
    KeptAnswer,
    OperationFailed,
    QueuedOperation,
    RetryPolicy,
    SyncTask,
    sync_op,
)
from fluxy_sync.doctor import Report
from fluxy_sync.journal import Waiting
from fluxy_sync.live import Live, LiveValue
from fluxy_sync.maintenance import Pause
from fluxy_sync.status import Status


def queueing(sync: FluxySync) -> None:
    operation = sync.queue("POST", "/posts", body={"n": 1}, once="a", outcomes={404: "delivered"}, on_dead="halt")
    assert_type(operation, QueuedOperation)
    assert_type(operation.id, str)
    assert_type(operation.cancel(), bool)
    assert_type(sync.queue_many([{"method": "POST", "path": "/posts"}]), list[QueuedOperation])
    assert_type(sync_op, SyncTask)
    sync_op.delay("POST", "/posts", body={"n": 1})


async def queueing_in_a_loop(sync: FluxySync) -> None:
    assert_type(await sync.aqueue("POST", "/posts", lane=None), QueuedOperation)
    assert_type(await sync.aqueue_many([]), list[QueuedOperation])


def seeing(sync: FluxySync) -> None:
    assert_type(sync.status(), Status)
    assert_type(sync.status().held_for, dict[str, int])
    assert_type(sync.pending("lane"), Iterator[Waiting])
    assert_type(sync.dead_letters(), Iterator[DeadLetter])
    assert_type(sync.doctor(), Report)


def live_values(sync: FluxySync) -> None:
    assert_type(sync.pending_count, LiveValue[int])
    assert_type(sync.pending_count.value, int)
    assert_type(sync.is_syncing(), bool)
    assert_type(sync.live, Live)
    assert_type(sync.live.status.value.stale, bool)
    assert_type(sync.pending_count.subscribe(print), Callable[[], None])
    assert_type(sync.live.changes(), AsyncIterator[Status])
    sync.close()


async def live_values_in_a_loop(sync: FluxySync) -> None:
    async for count in sync.pending_count.changes():
        assert_type(count, int)


def acting(sync: FluxySync) -> None:
    assert_type(sync.clear_queue(), int)
    assert_type(sync.replay("id", to="head", body={"n": 2}), int)
    assert_type(sync.drop(["id"]), int)
    assert_type(sync.pause(wait_s=1.0), Pause)
    assert_type(sync.resume("lane"), bool)


def results(answer: KeptAnswer, error: OperationFailed, policy: RetryPolicy, task: HttpTask) -> Any:
    assert_type(answer.status, int)
    assert_type(error.reason, str)
    assert_type(policy.max_retries, int)
    return task.send("POST", "/posts")


def mistakes(sync: FluxySync) -> None:
    sync.queue("POST")  # type: ignore[call-arg]
    sync.queue("POST", "/posts", on_dead="explode")  # type: ignore[arg-type]
    sync.queue("POST", "/posts", lane=7)  # type: ignore[arg-type]
    sync.pending_count.value = 3  # type: ignore[misc]
    sync.replay(to="middle")  # type: ignore[arg-type]
