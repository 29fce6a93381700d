"""The engine's own tasks by name; and wake tokens, each one a message that starts a flush. Nothing depends on one."""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from kombu.exceptions import OperationalError

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import FLUSH
from fluxy_sync.sealing import REDACTED

logger = get_logger(__name__)

SPARED_TIMES, SPARED_S = 10, 10.0
NOT_FOUND = "404"  # AMQP's; kombu's other transports say the same


def broker_errors(app: Any) -> tuple[type[BaseException], ...]:
    """What a broker that is away, or refuses (its memory is full), raises."""
    with app.connection_for_write() as connection:
        return (OperationalError, OSError, *connection.recoverable_connection_errors, *connection.channel_errors)


def is_spared(app: Any) -> bool:
    """Whether the broker failed a moment ago: whoever has something to do doesn't wait for it again."""
    return time.monotonic() < float(app.__dict__.get("fluxy_broker_again", 0.0))


def spare(app: Any, took_s: float) -> None:
    """Leave a broker that failed alone: for long where it took long, as one does that doesn't answer at all."""
    app.__dict__["fluxy_broker_again"] = time.monotonic() + min(SPARED_TIMES * took_s, SPARED_S)


def leave_deposed(app: Any) -> None:
    """Drop what is connected to a broker that the sentinels have deposed: its messages would reach nobody."""
    if not str(app.conf.broker_url).startswith("sentinel:"):
        return
    with contextlib.suppress(StorageUnavailable):  # then whoever publishes finds out
        generation = app.fluxy_engine.journal.store.generation
        if app.__dict__.setdefault("fluxy_generation", generation) != generation:
            app.__dict__["fluxy_generation"] = generation
            if app.pool.limit:  # else each connection is used once
                app.pool.resize(app.pool.limit, ignore_errors=True, reset=True)


def wake(app: Any) -> bool:
    """Publish one wake token. A failure costs nothing, the next tick comes: then it is False."""
    if is_spared(app):
        return False
    leave_deposed(app)
    began = time.monotonic()
    queue = app.fluxy_engine.settings.queue_name
    redacted = {"argsrepr": REDACTED, "kwargsrepr": REDACTED}
    try:
        app.tasks[FLUSH].apply_async(queue=queue, retry=False, ignore_result=True, **redacted)
    except broker_errors(app) as error:
        spare(app, time.monotonic() - began)
        logger.warning("A wake token was not published (%s); the next tick will.", type(error).__name__)
        with contextlib.suppress(StorageUnavailable):
            app.fluxy_engine.journal.forget_wake()
        return False
    return True


def tokens_waiting(connection: Any, queue: str) -> int:
    """How many messages wait in a queue; 0 where there is no such queue, as on Redis for an empty one.

    Raises what the connection's transport does where the broker refuses, or is away.
    """
    channel = connection.default_channel
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except connection.channel_errors as error:
        if not getattr(channel, "is_open", True):
            connection.collect()  # AMQP closes a channel that asked for what isn't there, and kombu would keep it
        if str(getattr(error, "reply_code", "")) != NOT_FOUND:
            raise
        return 0


def queue_is_empty(app: Any) -> bool:
    """Whether no token waits in the broker."""
    leave_deposed(app)
    with app.connection_or_acquire() as connection:
        return tokens_waiting(connection, app.fluxy_engine.settings.queue_name) == 0


def any_waits(app: Any, queues: Iterable[str]) -> bool:
    """Whether a message waits in one of these queues; False where the broker can't say."""
    if is_spared(app):
        return False
    leave_deposed(app)
    began = time.monotonic()
    try:
        with app.connection_or_acquire() as connection:
            return any(tokens_waiting(connection, queue) for queue in queues)
    except broker_errors(app):
        spare(app, time.monotonic() - began)
        return False
