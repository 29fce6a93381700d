"""FluxySync: what a producer service uses."""

import asyncio
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from fluxy_sync.admin.acceptance import Unaccepted
from fluxy_sync.app import cancel_anywhere, create_app, default_app
from fluxy_sync.doctor import Report, examine_app
from fluxy_sync.engine import Engine
from fluxy_sync.errors import InvalidOperation
from fluxy_sync.journal import DeadLetter, NewRecord, Waiting
from fluxy_sync.journal.inventory import End
from fluxy_sync.known_options import unknown
from fluxy_sync.live import Live, LiveValue
from fluxy_sync.maintenance import UNCHANGED, Maintenance, Pause, who_am_i
from fluxy_sync.operation import DEFAULT_LANE, SYNC_OP
from fluxy_sync.result import ResultOf
from fluxy_sync.retry import RetryPolicy
from fluxy_sync.settings import OnDead, Settings
from fluxy_sync.status import Status, read_status
from fluxy_sync.tasks import SyncTask
from fluxy_sync.tokens import wake


class QueuedOperation:
    """A handle on an accepted operation."""

    def __init__(self, sync: "FluxySync", operation_id: str, lane: str, *, keeps_result: bool | None = None) -> None:
        self._sync = sync
        self._keeps_result = keeps_result
        self.id = operation_id
        self.lane = lane

    @property
    def state(self) -> str:
        """``pending``, ``syncing`` (being sent), ``retrying``, ``dead``, or ``gone``: delivered or cancelled.

        Raises:
            StorageUnavailable: the store can't be reached.
        """
        journal = self._sync.engine.journal
        found, _ = journal.find(self.lane, self.id)
        if found != "absent":
            return found
        return "dead" if journal.is_dead(self.id) else "gone"

    def cancel(self) -> bool:
        """Take it out of the queue; False where it is being sent or gone already."""
        return self._sync.cancel(self.id, self.lane)

    def get(self, timeout: float | None = None) -> Any:
        """Wait for its answer, a KeptAnswer, where it was queued with ``keep_result=True``.

        Raises:
            ResultNotKept: at once, where nothing is kept.
            ResultTimeout: it isn't there within ``timeout`` seconds (None: wait for ever); the operation goes on.
            OperationFailed: it became a dead letter, or was cancelled.
            StorageUnavailable: the store can't be reached.
            UnknownKey, CorruptRecord: what is kept as its result can't be opened, or isn't this operation's.
        """
        app = self._sync.app
        return ResultOf(app, app.tasks[SYNC_OP], self.id, self.lane, self._keeps_result).get(timeout)

    def __repr__(self) -> str:
        return f"QueuedOperation(id={self.id!r}, lane={self.lane!r})"


class FluxySync:
    """The queue of one gateway.

    Args:
        settings: taken from the environment if not given.
        app: a Celery app on which ``install`` was called; the default app otherwise.
        via: how a person came here, for the audit log.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    def __init__(self, settings: Settings | None = None, *, app: Any = None, via: str = "python") -> None:
        self.app = app or (create_app(settings) if settings is not None else default_app())
        self._who = who_am_i(via)
        self.live = Live(self.engine)

    @property
    def engine(self) -> Engine:
        engine: Engine = self.app.fluxy_engine
        return engine

    @property
    def maintenance(self) -> Maintenance:
        """What a person may see and do, beyond the methods here."""
        return Maintenance(self.engine, self._who, lambda: wake(self.app))

    # --- queueing

    def queue(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        lane: str | None = DEFAULT_LANE,
        id: str | None = None,
        once: str | None = None,
        countdown: float | None = None,
        expires: float | datetime | None = None,
        policy: RetryPolicy | None = None,
        on_dead: OnDead | None = None,
        outcomes: Mapping[Any, str] | None = None,
        keep_result: bool = False,
    ) -> QueuedOperation:
        """Accept one request for later; when this returns, it is on disk, sealed.

        Args:
            method: POST, PUT, PATCH, DELETE, GET, HEAD or OPTIONS.
            path: a path below the upstream, or an absolute URL to an allowed origin.
            body: bytes as they are; anything else is sent as JSON.
            lane: operations of one lane keep their order; None asks for none.
            id: its idempotency key; made if not given. Give it again after AcceptanceUnknown.
            once: a key; while an operation with it waits, and for FLUXY_SYNC_ONCE_WINDOW_S after it left, this call
                returns that one and accepts nothing.
            countdown: seconds before which it, and what follows on its lane, isn't sent.
            expires: seconds after which it isn't sent any more but becomes a dead letter; in journal time, which
                stands still while the gateway is off. Or a date (without a zone: UTC), which counts only while this
                machine's clock agrees with the upstream's.
            on_dead: 'go_on', or 'halt': if it becomes a dead letter, its lane waits until a person replays or drops it.
            outcomes: what an answer means for this one, e.g. ``{"DELETE 404": "delivered", 423: "retry"}``.
            keep_result: keep its answer for ``get()``.

        Raises:
            InvalidOperation, OperationTooLarge, QueueFull, StorageUnavailable: nothing was accepted.
            AcceptanceUnknown: the store went away before it answered.
        """
        operation = {
            "method": method, "path": path, "body": body, "headers": headers, "lane": lane, "id": id, "once": once,
            "countdown": countdown, "expires": expires, "policy": policy, "on_dead": on_dead, "outcomes": outcomes,
            "keep_result": keep_result,
        }  # fmt: skip
        return self._queue([operation])[0]

    def queue_many(self, operations: Sequence[Mapping[str, Any]]) -> list[QueuedOperation]:
        """Accept operations, all or none, in one round trip. Each takes the arguments of ``queue`` as keys.

        Raises:
            InvalidOperation: also for a key that ``queue`` doesn't have.
            OperationTooLarge: also for more than 10,000 operations or 32 MiB in one call, which would hold the store
                for long.
            QueueFull, StorageUnavailable, AcceptanceUnknown: as ``queue`` does.
        """
        for operation in operations:
            _check_keys(operation)
        return self._queue(operations)

    def _queue(self, operations: Sequence[Mapping[str, Any]]) -> list[QueuedOperation]:
        task: SyncTask = self.app.tasks[SYNC_OP]
        records = [self._record(task, **operation) for operation in operations]
        if not records:
            return []
        appended = self.engine.accept(records)
        if appended.woken:
            wake(self.app)
        handles = []
        for position, (record, operation) in enumerate(zip(records, operations, strict=True)):
            operation_id, lane = appended.first.get(position, (record.id, record.lane))
            keeps = None if position in appended.first else bool(operation.get("keep_result"))
            handles.append(QueuedOperation(self, operation_id, lane, keeps_result=keeps))
        return handles

    def _record(
        self,
        task: SyncTask,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Any = None,
        lane: str | None = DEFAULT_LANE,
        id: str | None = None,
        keep_result: bool = False,
        **options: Any,
    ) -> NewRecord:
        given = {} if headers is None else {"headers": headers}
        if keep_result:
            options["ignore_result"] = False
        return task.new_record((method, path), {"body": body, **given}, id, lane=lane, **options)

    async def aqueue(self, method: str, path: str, **options: Any) -> QueuedOperation:
        """``queue`` for asyncio: the store is waited for in a thread. Cancelling the wait may leave it accepted."""
        return await asyncio.to_thread(self.queue, method, path, **options)

    async def aqueue_many(self, operations: Sequence[Mapping[str, Any]]) -> list[QueuedOperation]:
        """``queue_many`` for asyncio."""
        return await asyncio.to_thread(self.queue_many, operations)

    def operation(self, operation_id: str, lane: str = DEFAULT_LANE) -> QueuedOperation:
        """A handle on an operation that was accepted earlier."""
        return QueuedOperation(self, operation_id, lane)

    # --- seeing

    def status(self) -> Status:
        """What waits, and why.

        Raises:
            StorageUnavailable: the store can't be read.
        """
        return read_status(self.engine.journal)

    @property
    def pending_count(self) -> LiveValue[int]:
        """How many operations are accepted and unsettled, live: ``.value``, ``.subscribe``, ``.changes``, effects."""
        return self.live.pending_count

    @property
    def is_syncing(self) -> LiveValue[bool]:
        """Whether something is being sent, live. The whole status is ``live.status``."""
        return self.live.is_syncing

    def close(self) -> None:
        """End what keeps live values up to date; all else goes on working."""
        self.live.close()

    def pending(self, lane: str | None = None) -> Iterator[Waiting]:
        """What waits, on one lane or on all, each lane head first. Read in pages: never the whole queue at once."""
        return self.maintenance.pending(lane)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """The operations that gave up, in the order in which they died."""
        return self.maintenance.dead_letters()

    def doctor(self) -> Report:
        """Look at all that the gateway needs, and say what to do about what is wrong. Takes some seconds."""
        return Report(tuple(examine_app(self.app)))

    # --- acting: each goes into the audit log

    def cancel(self, operation_id: str, lane: str | None = None) -> bool:
        """Take an operation out of the queue; False where it is being sent or gone already."""
        self.maintenance.note("cancel", operation_id)
        return cancel_anywhere(self.app, operation_id, lane)

    def clear_queue(self, lane: str | None = None) -> int:
        """Wipe what waits now, on one lane or on all; dead letters stay. Returns how many went."""
        return sum(self.maintenance.clear(lane))

    def replay(self, ids: str | Iterable[str] | None = None, *, to: End = "tail", body: Any = UNCHANGED) -> int:
        """Put dead letters (all, if none is named) back into their lanes, in their original order.

        Args:
            to: 'tail', behind what waits in their lanes, or 'head', in front of it.
            body: another body for one operation, which then goes out under a new Idempotency-Key.

        Returns how many went back. What was never accepted stays: see ``accept``.

        Raises:
            InvalidOperation: one that is named was never accepted, or the body can't be sent; nothing changed.
        """
        return self.maintenance.replay(ids, end=to, body=body)

    def examine(self, letter_id: str) -> Unaccepted:
        """Open a dead letter that was never accepted (it came unsealed, or for another place), to judge it.

        What it gives, task, args and kwargs, is all that would be sent.

        Raises:
            InvalidOperation: there is none with that id, or it was accepted.
            UnknownKey, CorruptRecord: it can't be opened.
        """
        return self.maintenance.examine(letter_id)

    def accept(self, letter_id: str, *, digest: str) -> str:
        """Accept a dead letter that never was: it becomes a new operation at the end of its lane. Returns the new id.

        Anybody who can write to the broker can have sent it, and the gateway adds its credentials.

        Args:
            digest: that of what ``examine`` gave, so that nothing else is accepted in its place.

        Raises:
            InvalidOperation: the digest is that of something else, or it is gone; nothing was accepted.
        """
        return self.maintenance.accept(letter_id, digest)

    def drop(self, ids: str | Iterable[str] | None = None) -> int:
        """Delete dead letters (all, if none is named) for good. Returns how many went."""
        return self.maintenance.drop(ids)

    def pause(self, lane: str | None = None, *, wait_s: float = 0.0) -> Pause:
        """Send nothing more, of one lane or of all, until ``resume``.

        What is in flight ends as it ends: wait up to ``wait_s`` seconds for it; ``landed`` says whether it has.
        """
        return self.maintenance.pause(lane, wait_s=wait_s)

    def resume(self, lane: str | None = None) -> bool:
        """End a pause; False where there was none."""
        return self.maintenance.resume(lane)


_KEYS = tuple(name for name in inspect.signature(FluxySync.queue).parameters if name != "self")


def _check_keys(operation: Mapping[str, Any]) -> None:
    for key in operation:
        if key not in _KEYS:
            raise unknown(key, _KEYS)
    for key in ("method", "path"):
        if key not in operation:
            raise InvalidOperation(f"an operation has a method and a path; {key!r} is missing; nothing was accepted")
