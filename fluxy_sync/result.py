"""The kept answer of an operation, and waiting for it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from celery import states
from celery.backends.base import DisabledBackend

from fluxy_sync.errors import OperationFailed, ResultNotKept, ResultTimeout, StorageUnavailable
from fluxy_sync.journal import Inventory
from fluxy_sync.kept_result import BACKEND_AWAY
from fluxy_sync.tasks import SyncTask

FIRST_POLL_S, LONGEST_POLL_S = 0.02, 0.25
FIRST_LOOK_S, LONGEST_LOOK_S = 0.5, 30.0
REST, REST_ON_A_HINT = 100, 20  # times as long as a look through the lane took, before the next one


class KeptAnswer(msgspec.Struct, frozen=True):
    """What the upstream answered: its status, the headers that FLUXY_SYNC_RESULT_HEADERS chooses (names in lower case),
    and the first 64 KiB of its body.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read as JSON.

        Raises:
            ValueError: it isn't JSON, or it was longer than what is kept.
        """
        return json.loads(self.body)


class ResultOf:
    """The result of one operation, as far as it is kept.

    Args:
        keeps: whether it was queued with ``keep_result``; None if that isn't known.
    """

    def __init__(self, app: Any, task: SyncTask, operation_id: str, lane: str, keeps: bool | None) -> None:
        self._app, self._task, self._id, self._lane = app, task, operation_id, lane
        self._keeps = keeps

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result: a KeptAnswer, or what a task of your own returned.

        Raises:
            ResultNotKept: at once, where nothing is kept.
            ResultTimeout: it isn't there within ``timeout`` seconds (None: wait for ever); the operation goes on.
            OperationFailed: it became a dead letter, or was cancelled.
            StorageUnavailable: the store can't be reached.
            UnknownKey, CorruptRecord: what is kept as its result can't be opened, or isn't this operation's.
        """
        if self._keeps is False:
            raise self._not_kept()
        journal, looks = self._app.fluxy_engine.journal, _Looks()
        for _ in _polls(timeout):
            meta = self._stored()
            if meta is not None and meta[0] == states.SUCCESS:
                return self._read(*meta)
            # A failure is stored a moment before it is settled: only once it is, it is known what became of it.
            if looks.is_time(hinted=meta is not None or journal.is_dead(self._id)):
                with looks:
                    waits = self._waits()
                if not waits:
                    meta = self._stored()  # it may just have left
                    if meta is not None:
                        return self._read(*meta)
                    self._raise_gone()
        raise ResultTimeout(f"the operation {self._id} has no result after {timeout} s; it is kept, and goes on")

    def _stored(self) -> tuple[str, Any] | None:
        result = self._task.AsyncResult(self._id)
        if isinstance(result.backend, DisabledBackend):
            raise ResultNotKept("nothing is kept of any answer: the Celery app has no result_backend")
        try:
            meta = result._get_task_meta()
        except BACKEND_AWAY as error:
            raise StorageUnavailable(
                f"the result of {self._id} can't be read now ({type(error).__name__}); the operation goes on; is the "
                "store running? see 'fluxy-sync up'"
            ) from error
        return (meta["status"], meta.get("result")) if meta["status"] in states.READY_STATES else None

    def _waits(self) -> bool:
        engine = self._app.fluxy_engine
        state, record = engine.journal.find(self._lane, self._id)
        if state == "absent":
            return False
        if self._keeps is None:
            operation = engine.open(engine.journal.parse(record), self._lane)
            task = self._app.tasks.get(operation.task, self._task)
            self._keeps = task.keeps_result(operation)
            if not self._keeps:
                raise self._not_kept()
        return True

    def _read(self, status: str, value: Any) -> Any:
        if status == states.SUCCESS:
            is_answer = isinstance(value, dict) and value.keys() == {"status", "headers", "body"}
            return KeptAnswer(value["status"], value["headers"], _as_bytes(value["body"])) if is_answer else value
        if status == states.REVOKED:
            raise self._failed("cancelled")
        self._raise_gone()
        return None

    def _raise_gone(self) -> None:
        letter = Inventory(self._app.fluxy_engine.journal).find_letter(self._id)
        if letter is not None:
            raise self._failed(letter.reason)
        if self._keeps is None:
            raise self._not_kept()
        raise self._failed("cancelled")

    def _failed(self, reason: str) -> OperationFailed:
        if reason == "cancelled":
            text = f"the operation {self._id} was cancelled, or its result's time is over; there is nothing to wait for"
        else:
            text = f"the operation {self._id} became a dead letter ({reason}); it is kept: see 'fluxy-sync dead show'"
        return OperationFailed(text, self._id, reason)

    def _not_kept(self) -> ResultNotKept:
        return ResultNotKept(
            f"nothing is kept of the answer to {self._id}: queue it with keep_result=True, and ask within "
            "FLUXY_SYNC_RESULT_TTL_S"
        )


class _Looks:
    """When to look through the lane: at once, then ever more seldom. A long lane costs the store a lot each time."""

    def __init__(self) -> None:
        self._pause_s, self._next, self._next_on_a_hint, self._began = FIRST_LOOK_S, 0.0, 0.0, 0.0

    def is_time(self, *, hinted: bool) -> bool:
        """Whether to look now; ``hinted``: something says that it left the lane."""
        return time.monotonic() >= (self._next_on_a_hint if hinted else self._next)

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        ended = time.monotonic()
        took_s = ended - self._began
        self._next = ended + max(self._pause_s, REST * took_s)
        self._next_on_a_hint = ended + REST_ON_A_HINT * took_s
        self._pause_s = min(self._pause_s * 2, LONGEST_LOOK_S)


def _as_bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _polls(timeout: float | None) -> Iterator[None]:
    """Moments to look, ever further apart, the last one at the end."""
    ends, pause_s = None if timeout is None else time.monotonic() + timeout, FIRST_POLL_S
    while True:
        yield
        left = LONGEST_POLL_S if ends is None else ends - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause_s, left))
        pause_s = min(pause_s * 1.5, LONGEST_POLL_S)
