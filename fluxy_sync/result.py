"""The kept answer of an operation, and waiting for it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from celery import states

from fluxy_sync.errors import OperationFailed, ResultNotKept, ResultTimeout
from fluxy_sync.journal import Inventory
from fluxy_sync.tasks import SyncTask

FIRST_POLL_S, LONGEST_POLL_S = 0.02, 0.25


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
        for _ in _polls(timeout):
            meta = self._stored()
            if meta is not None and meta[0] == states.SUCCESS:
                return self._read(*meta)
            # A failure is stored a moment before it is settled: only once it is, it is known what became of it.
            if not self._waits():
                meta = self._stored()  # it may just have left
                if meta is not None:
                    return self._read(*meta)
                self._raise_gone()
        raise ResultTimeout(f"the operation {self._id} has no result after {timeout} s; it is kept, and goes on")

    def _stored(self) -> tuple[str, Any] | None:
        result = self._task.AsyncResult(self._id)
        meta = result._get_task_meta()
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
