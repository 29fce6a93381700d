"""The worker's consumer: no message ends it, it lives on where the store's memory is full, and it ends in time.

kombu notes each message that was taken (HSET, ZADD), looks for lost ones under a lock (SET), and stores bindings
(SADD); a store at its maxmemory refuses all of these, and Celery's worker ends with that error (kombu 5.7), as it does
where a store takes no writes during a failover. It also ends with a message that it can't read, and puts that back: so
would every worker after it. Whoever can write to the broker can send one; here it is dropped.
"""

import bz2
import contextlib
import lzma
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import task_ready
from kombu import compression
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ConnectionError as StoreAway
from redis.exceptions import OutOfMemoryError, ResponseError

from fluxy_sync.held_messages import HeldMessages
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import OWN_MESSAGES
from fluxy_sync.sealing import CONTENT_TYPE, missing_key

logger = get_logger(__name__)

NO_MEMORY = "The store's memory is full: the broker's notes are left out until there is room."
REFUSAL_PAUSE_S = 1.0
UNREADABLE = "A message that can't be read was dropped (%s)."
MALFORMED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What code that trusts a message raises for one that isn't as it should be."""
MOST_BYTES = 64 * 1024 * 1024
"""What a compressed message may become: a few bytes can ask for all memory."""


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Go on without what the store has no memory for."""
    try:
        yield
    except OutOfMemoryError:
        logger.warning(NO_MEMORY)


@contextlib.contextmanager
def refusal_as_outage() -> Iterator[None]:
    """A store that refuses, e.g. during a failover, is like one that is away: Celery tries again then."""
    try:
        yield
    except ResponseError as error:
        logger.error("The consumer stops: the store refuses for now (%s).", str(error)[:200])
        time.sleep(REFUSAL_PAUSE_S)
        raise StoreAway("the store refuses for now") from error


def is_message(raw: Any) -> bool:
    """Whether it has the parts by which kombu and Celery handle a message; what they hold is read later."""
    if not isinstance(raw, dict) or not isinstance(raw.get("properties"), dict):
        return False
    properties = raw["properties"]
    delivery = properties.get("delivery_info")
    known = properties.get("body_encoding") in (None, "base64")
    if not (known and isinstance(delivery, dict) and isinstance(raw.get("headers") or {}, dict)):
        return False
    texts = [properties.get("delivery_tag"), delivery.get("exchange"), delivery.get("routing_key")]
    may_be_missing = [raw.get(name) for name in ("body", "content-type", "content-encoding")]
    return all(isinstance(text, str) for text in texts + [text for text in may_be_missing if text is not None])


def _bounded(decompressor: Callable[[], Any]) -> Callable[[bytes], bytes]:
    def decompress(body: bytes) -> bytes:
        one = decompressor()
        found: bytes = one.decompress(body, MOST_BYTES)
        if not one.eof:
            raise ValueError(f"it isn't whole, or larger than {MOST_BYTES:,} bytes once it is decompressed")
        return found

    return decompress


def bound_decompression() -> None:
    """Let kombu, which decompresses each message that says so before anybody looks at it, stop at a size."""
    compression.register(zlib.compress, _bounded(zlib.decompressobj), "application/x-gzip", ["gzip", "zlib"])
    compression.register(bz2.compress, _bounded(bz2.BZ2Decompressor), "application/x-bz2", ["bzip2", "bzip"])
    compression.register(lzma.compress, _bounded(lzma.LZMADecompressor), "application/x-lzma", ["lzma", "xz"])


class QoS(kombu_redis.QoS):
    """kombu's, that goes on without its notes. A wake token is worth nothing: it may get lost."""

    def append(self, message: Any, delivery_tag: str) -> None:
        try:
            super().append(message, delivery_tag)
        except OutOfMemoryError:
            logger.warning(NO_MEMORY)
            virtual.QoS.append(self, message, delivery_tag)

    def restore_unacked(self, *args: Any, **kwargs: Any) -> None:
        if self.channel.connection.client is None:
            # Celery has let go of a connection that was lost: kombu (5.7) ends the worker with an AttributeError here.
            self._delivered.clear()  # the store has its notes of them, from which they come back
        else:
            super().restore_unacked(*args, **kwargs)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        with without_memory():
            super().restore_visible(*args, **kwargs)


class Channel(kombu_redis.Channel):
    """kombu's, on which a binding that was stored earlier will do, and what isn't a message does nothing."""

    QoS = QoS

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        with without_memory():
            super()._queue_bind(*args, **kwargs)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (RecursionError, ValueError) as error:  # it isn't JSON
            logger.error(UNREADABLE, type(error).__name__)
            return True

    def _receive_one(self, *args: Any) -> Any:
        try:
            return super()._receive_one(*args)
        except RecursionError as error:  # other broadcasts that can't be read kombu passes over by itself
            logger.error(UNREADABLE, type(error).__name__)
            return True

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        super().basic_consume(queue, *args, **kwargs)
        callbacks = self.connection._callbacks
        callbacks[queue] = _checked(callbacks[queue])


@contextlib.contextmanager
def written_jobs_kept(pool: Any) -> Iterator[None]:
    """Keep the jobs that a process was given, and that it hasn't said yet that it took.

    Celery's flush of the pool (5.7, ``AsynPool.flush``) forgets them, though they will run: at its end the parent then
    stops reading, and the process waits 30 s for somebody to read what it says (billiard's
    ``_ensure_messages_consumed``).
    """
    processes: Any = getattr(pool, "_pool", None)
    jobs: dict[int, Any] = processes._cache if hasattr(processes, "flush") else {}
    written = {number: job for number, job in jobs.items() if job._write_to is not None and not job._accepted}
    for number in written:
        del jobs[number]
    try:
        yield
    finally:
        jobs.update(written)


def _checked(callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def take(raw: Any) -> Any:
        if is_message(raw):
            return callback(raw)
        return logger.error(UNREADABLE, "it isn't a message")

    return take


class PatientConsumer(Consumer):
    """Celery's consumer, on such channels where the broker is a Redis."""

    def __init__(self, on_task_request: Callable[[Any], None], *args: Any, **kwargs: Any) -> None:
        bound_decompression()
        self._run = on_task_request
        self._held = HeldMessages(self)
        super().__init__(self._run_or_keep, *args, **kwargs)

    class Blueprint(Consumer.Blueprint):
        """Its steps, each of which may find that the store refuses."""

        def start(self, parent: Any) -> None:
            with refusal_as_outage():
                super().start(parent)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        handle = super().create_task_handler(*args, **kwargs)

        def handle_or_drop(message: Any) -> Any:
            try:
                key = missing_key(message.body) if message.content_type == CONTENT_TYPE else ""
                if key and message.headers.get("task") not in OWN_MESSAGES:
                    return self._keep(message, key)
                return handle(message)
            except MALFORMED as error:
                logger.error(UNREADABLE, type(error).__name__, exc_info=True)
                if not message.acknowledged:
                    message.ack_log_error(logger, self.connection_errors)
                return None

        return handle_or_drop

    def _run_or_keep(self, request: Any) -> None:
        """Hand a request to the pool. It may have waited for its eta or a rate limit, and the ring have changed."""
        key = missing_key(request.body) if request.content_type == CONTENT_TYPE else ""
        if not key:
            return self._run(request)
        task_ready(request)
        return self._keep(request.message, key)

    def _keep(self, message: Any, key: str) -> None:
        """Hold a message that can't be opened here, unacked: until its key is there, or it is offered to all again.

        Held ones leave room for others, as those with an eta do. Where this worker ends, they go back at once.
        """
        logger.error(
            "A message of %.100r needs the key %s, which isn't in the ring here; it is kept in the broker: add it.",
            message.headers.get("task"), key,
        )  # fmt: skip
        self._held.hold(message, key)

    def on_close(self) -> None:
        self._held.forget()  # the broker has them back
        with written_jobs_kept(self.pool):
            super().on_close()

    def ensure_connected(self, conn: Any) -> Any:
        connected = super().ensure_connected(conn)
        transport = connected.transport
        if type(transport).Channel is kombu_redis.Channel:
            transport.Channel = Channel
            # The one that was made with the connection isn't in use yet.
            for _ in range(len(transport._avail_channels)):
                transport._avail_channels.pop().close()
        return connected
