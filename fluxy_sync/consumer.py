"""The worker's consumer: it lives on where the store's memory is full, so that the journal drains and makes room.

kombu notes each message that was taken (HSET, ZADD), looks for lost ones under a lock (SET), and stores bindings
(SADD); a store at its maxmemory refuses all of these, and Celery's worker ends with that error (kombu 5.7).
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from celery.worker.consumer import Consumer
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import OutOfMemoryError

logger = logging.getLogger(__name__)

NO_MEMORY = "The store's memory is full: the broker's notes are left out until there is room."


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Go on without what the store has no memory for."""
    try:
        yield
    except OutOfMemoryError:
        logger.warning(NO_MEMORY)


class QoS(kombu_redis.QoS):
    """kombu's, that goes on without its notes. A wake token is worth nothing: it may get lost."""

    def append(self, message: Any, delivery_tag: str) -> None:
        try:
            super().append(message, delivery_tag)
        except OutOfMemoryError:
            logger.warning(NO_MEMORY)
            virtual.QoS.append(self, message, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        with without_memory():
            super().restore_visible(*args, **kwargs)


class Channel(kombu_redis.Channel):
    """kombu's, on which a binding that was stored earlier will do."""

    QoS = QoS

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        with without_memory():
            super()._queue_bind(*args, **kwargs)


class PatientConsumer(Consumer):
    """Celery's consumer, on such channels where the broker is a Redis."""

    def ensure_connected(self, conn: Any) -> Any:
        connected = super().ensure_connected(conn)
        transport = connected.transport
        if type(transport).Channel is kombu_redis.Channel:
            transport.Channel = Channel
            # The one that was made with the connection isn't in use yet.
            for _ in range(len(transport._avail_channels)):
                transport._avail_channels.pop().close()
        return connected
