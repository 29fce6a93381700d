"""Task events: how an operation shows on Flower's own pages. Lossy by nature, and never with a payload."""

import time
from typing import Any

from fluxy_sync.faults import place_of
from fluxy_sync.logs import get_logger
from fluxy_sync.sealing import REDACTED
from fluxy_sync.tasks import UnderWay
from fluxy_sync.tokens import broker_errors

logger = get_logger(__name__)

BUFFERED = 60  # events in one message: three for each operation
FLUSH_EVERY_S = 0.5
AWAY_S = 5.0  # after a failure the broker is left alone for so long


class TaskEvents:
    """Tells of the operations that one process delivers, many in one message.

    Celery's tracer sends no events: a worker's parent does, for the messages that it receives. Here it is the flush.
    """

    def __init__(self, app: Any, hostname: str) -> None:
        self._app, self._hostname = app, hostname
        self._errors = broker_errors(app)
        self._dispatcher: Any = None
        self._quiet_until = 0.0
        self._flushed_at = 0.0

    def begins(self, now: UnderWay) -> None:
        """A try begins."""
        self._send(
            "task-received", uuid=now.id, name=now.operation.task, args=REDACTED, kwargs=REDACTED, root_id=now.id,
            parent_id=None, retries=now.retries, eta=None, expires=None,
        )  # fmt: skip
        self._send("task-started", uuid=now.id)
        if time.monotonic() - self._flushed_at > FLUSH_EVERY_S:
            self.flush()  # what is sent now may take long

    def ends(self, now: UnderWay, took_s: float) -> None:
        """It was settled."""
        if now.settled_as == "delivered":
            self._send("task-succeeded", uuid=now.id, result=REDACTED, runtime=took_s)
        elif now.settled_as == "dead":
            self._send("task-failed", uuid=now.id, exception=now.reason, traceback="")
        else:
            self._send("task-retried", uuid=now.id, exception=now.reason, traceback="")

    def flush(self) -> None:
        """Send what is buffered."""
        self._flushed_at = time.monotonic()
        if self._dispatcher is not None:
            self._guarded(self._dispatcher.flush)

    def _send(self, kind: str, **fields: Any) -> None:
        if time.monotonic() >= self._quiet_until:
            self._guarded(lambda: self._opened().send(kind, **fields))

    def _opened(self) -> Any:
        if self._dispatcher is None:
            self._dispatcher = self._app.events.Dispatcher(
                self._app.connection_for_write(), hostname=self._hostname, buffer_while_offline=False,
                buffer_group=frozenset({"task"}), buffer_limit=BUFFERED,
            )  # fmt: skip
        return self._dispatcher

    def _guarded(self, publish: Any) -> None:
        try:
            publish()
        except self._errors as error:
            logger.info("Task events were not sent (%s).", type(error).__name__)
            self._dispatcher, self._quiet_until = None, time.monotonic() + AWAY_S
        except Exception as error:  # noqa: BLE001 -- they only show what happens: nothing of it may stop a delivery
            logger.error("Task events were not sent: %s", place_of(error))
            self._dispatcher, self._quiet_until = None, time.monotonic() + AWAY_S
