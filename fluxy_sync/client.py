"""FluxySync: what a producer service uses."""

from collections.abc import Mapping, Sequence
from typing import Any

from fluxy_sync.app import cancel_anywhere, create_app, default_app
from fluxy_sync.engine import Engine
from fluxy_sync.journal import NewRecord
from fluxy_sync.operation import DEFAULT_LANE, SYNC_OP
from fluxy_sync.retry import RetryPolicy
from fluxy_sync.settings import Settings
from fluxy_sync.status import Status, read_status
from fluxy_sync.tasks import SyncTask, wake


class QueuedOperation:
    """A handle on an accepted operation."""

    def __init__(self, sync: "FluxySync", operation_id: str, lane: str) -> None:
        self._sync = sync
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
        return cancel_anywhere(self._sync.app, self.id, self.lane)

    def __repr__(self) -> str:
        return f"QueuedOperation(id={self.id!r}, lane={self.lane!r})"


class FluxySync:
    """The queue of one gateway.

    Args:
        settings: taken from the environment if not given.
        app: a Celery app on which ``install`` was called; the default app otherwise.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    def __init__(self, settings: Settings | None = None, *, app: Any = None) -> None:
        self.app = app or (create_app(settings) if settings is not None else default_app())

    @property
    def engine(self) -> Engine:
        engine: Engine = self.app.fluxy_engine
        return engine

    def queue(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        lane: str | None = DEFAULT_LANE,
        id: str | None = None,
        countdown: float | None = None,
        expires: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> QueuedOperation:
        """Accept one request for later; when this returns, it is on disk, sealed.

        Args:
            method: POST, PUT, PATCH, DELETE, GET, HEAD or OPTIONS.
            path: a path below the upstream, or an absolute URL to an allowed origin.
            body: bytes as they are; anything else is sent as JSON.
            lane: operations of one lane keep their order; None asks for none.
            id: its idempotency key; made if not given. Give it again after AcceptanceUnknown.
            countdown: seconds before which it, and what follows on its lane, isn't sent.
            expires: seconds after which it isn't sent any more but becomes a dead letter.

        Raises:
            InvalidOperation, OperationTooLarge, QueueFull, StorageUnavailable: nothing was accepted.
            AcceptanceUnknown: the store went away before it answered.
        """
        operation = {
            "method": method, "path": path, "body": body, "headers": headers, "lane": lane, "id": id,
            "countdown": countdown, "expires": expires, "policy": policy,
        }  # fmt: skip
        return self.queue_many([operation])[0]

    def queue_many(self, operations: Sequence[Mapping[str, Any]]) -> list[QueuedOperation]:
        """Accept operations, all or none, in one round trip. Each takes the arguments of ``queue`` as keys."""
        task: SyncTask = self.app.tasks[SYNC_OP]
        records = [self._record(task, **operation) for operation in operations]
        if records and self.engine.accept(records):
            wake(self.app)
        return [QueuedOperation(self, record.id, record.lane) for record in records]

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
        **options: Any,
    ) -> NewRecord:
        given = {} if headers is None else {"headers": headers}
        return task.new_record((method, path), {"body": body, **given}, id, lane=lane, **options)

    def operation(self, operation_id: str, lane: str = DEFAULT_LANE) -> QueuedOperation:
        """A handle on an operation that was accepted earlier."""
        return QueuedOperation(self, operation_id, lane)

    def status(self) -> Status:
        """What waits, and why.

        Raises:
            StorageUnavailable: the store can't be read.
        """
        return read_status(self.engine.journal)
