"""The engine's own tasks by name; and wake tokens, each one a message that starts a flush. Nothing depends on one."""

import contextlib
from typing import Any

from kombu.exceptions import OperationalError

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import FLUSH
from fluxy_sync.sealing import REDACTED

logger = get_logger(__name__)


def broker_errors(app: Any) -> tuple[type[BaseException], ...]:
    """What a broker that is away, or refuses (its memory is full), raises."""
    with app.connection_for_write() as connection:
        return (OperationalError, OSError, *connection.recoverable_connection_errors, *connection.channel_errors)


def wake(app: Any) -> bool:
    """Publish one wake token. A failure costs nothing, the next tick comes: then it is False."""
    queue = app.fluxy_engine.settings.queue_name
    redacted = {"argsrepr": REDACTED, "kwargsrepr": REDACTED}
    try:
        app.tasks[FLUSH].apply_async(queue=queue, retry=False, ignore_result=True, **redacted)
    except broker_errors(app) as error:
        logger.warning("A wake token was not published (%s); the next tick will.", type(error).__name__)
        with contextlib.suppress(StorageUnavailable):
            app.fluxy_engine.journal.forget_wake()
        return False
    return True


def queue_is_empty(app: Any) -> bool:
    """Whether no token waits in the broker."""
    with app.connection_or_acquire() as connection:
        try:
            queue = app.fluxy_engine.settings.queue_name
            return bool(connection.default_channel.queue_declare(queue, passive=True).message_count == 0)
        except connection.channel_errors:
            return True  # on Redis an empty queue doesn't exist
