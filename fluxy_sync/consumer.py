"""The worker's consumer: no message ends it, it lives on where the store's memory is full, and it ends in time.

kombu notes each message that was taken (HSET, ZADD), looks for lost ones under a lock (SET), and stores bindings
(SADD); a store at its maxmemory refuses all of these, and Celery's worker ends with that error (kombu 5.7), as it does
where a store takes no writes during a failover. It also ends with a message that it can't read, and puts that back: so
would every worker after it. Whoever can write to the broker can send one; here it is dropped.
"""

import contextlib
import functools
import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import task_ready
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ConnectionError as StoreAway
from redis.exceptions import OutOfMemoryError, ResponseError

from fluxy_sync.compression import MOST_BYTES as MOST_BYTES
from fluxy_sync.compression import bound_decompression as bound_decompression
from fluxy_sync.held_messages import HeldMessages
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import OWN_MESSAGES
from fluxy_sync.own_queues import blames_message, is_own, mark_own
from fluxy_sync.sealing import CONTENT_TYPE, missing_key

logger = get_logger(__name__)

NO_MEMORY = "The store's memory is full: the broker's notes are left out until there is room."
REFUSAL_PAUSE_S = 1.0
UNREADABLE = "A message that can't be read was dropped (%s)."
MALFORMED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What code that trusts a message raises for one that isn't as it should be."""
MOST_PAUSE_S = 2.0
"""Between two attempts to reach the broker; by itself Celery waits up to 30 s."""
PAUSE_STEP_S = 0.2


class Unreadable(Exception):
    """kombu can't make a message of what came. It never leaves the channel."""


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


class QoS(kombu_redis.QoS):
    """kombu's, that goes on without its notes. A wake token is worth nothing: it may get lost."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        delivery = message.delivery_info
        is_noted = isinstance(delivery, dict) and {"exchange", "routing_key"} <= delivery.keys()
        if not is_noted or isinstance(delivery_tag, bool) or not isinstance(delivery_tag, str | int | float):
            raise Unreadable("what it says of its delivery")
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


class Message(virtual.Message):
    """kombu's, that tells a message which can't be read from whatever else may fail."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        channel.is_decoding = False
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except MALFORMED as error:
            raise Unreadable(type(error).__name__) from error


class _Patient:
    """A channel on which a binding that was stored earlier will do, and what isn't a message does nothing."""

    QoS = QoS
    Message = Message
    is_decoding = False  # until kombu has made a value of the bytes that came

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        with without_memory():
            super()._queue_bind(*args, **kwargs)  # type: ignore[misc]

    def _brpop_read(self, **options: Any) -> Any:
        return self._passing_over(super()._brpop_read, **options)  # type: ignore[misc]

    def _receive_one(self, *args: Any) -> Any:
        return self._passing_over(super()._receive_one, *args)  # type: ignore[misc]

    def _passing_over(self, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.is_decoding = True
        try:
            return read(*args, **options)
        except Unreadable as error:
            logger.error(UNREADABLE, error)
        except (RecursionError, ValueError) as error:  # it isn't JSON
            if not self.is_decoding:
                raise  # what was done with the message failed
            logger.error(UNREADABLE, type(error).__name__)
        return True


class Channel(_Patient, kombu_redis.Channel):
    """kombu's for one Redis."""


class SentinelChannel(_Patient, kombu_redis.SentinelChannel):
    """kombu's for a Redis behind sentinels."""


PATIENT: dict[Any, type] = {kombu_redis.Channel: Channel, kombu_redis.SentinelChannel: SentinelChannel}
"""By kombu's own. All other transports work as they are."""


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


class PatientConsumer(Consumer):
    """Celery's consumer, on such channels where the broker is a Redis."""

    def __init__(self, on_task_request: Callable[[Any], None], *args: Any, **kwargs: Any) -> None:
        self._run = on_task_request
        self._held = HeldMessages(self)
        super().__init__(self._run_or_keep, *args, **kwargs)

    class Blueprint(Consumer.Blueprint):
        """Its steps, each of which may find that the store refuses."""

        def start(self, parent: Any) -> None:
            with refusal_as_outage():
                super().start(parent)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        mark_own(self.task_consumer, self.app.fluxy_engine.settings)
        handle = super().create_task_handler(*args, **kwargs)

        def handle_or_drop(message: Any) -> Any:
            try:
                key = missing_key(message.body) if message.content_type == CONTENT_TYPE else ""
                if key and message.headers.get("task") not in OWN_MESSAGES:
                    return self._keep(message, key)
                return handle(message)
            except MALFORMED as error:
                if not is_own(message) or not blames_message(error, message, self.app):
                    raise
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
        limits = self.app.conf.broker_connection_max_retries
        conn.ensure_connection = functools.partial(_ensure_soon, conn.ensure_connection, len(conn.alt), limits)
        try:
            connected = super().ensure_connected(conn)
        finally:
            del conn.ensure_connection
        transport = connected.transport
        patient = PATIENT.get(getattr(transport, "Channel", None))
        if patient is not None:
            transport.Channel = patient
            # The one that was made with the connection isn't in use yet.
            for _ in range(len(transport._avail_channels)):
                transport._avail_channels.pop().close()
        return connected


def drop_connection(connection: Any) -> None:
    """Let a consumer's connection to a Redis behind sentinels end: it notices by itself, and connects anew."""
    transport = getattr(connection, "transport", None)
    if not isinstance(transport, kombu_redis.SentinelTransport):
        return
    for channel in list(transport.channels):
        for name in ("client", "subclient"):  # as far as they were made
            wire = getattr(channel.__dict__.get(name), "connection", None)
            sock = getattr(wire, "_sock", None)
            if sock is not None:
                with contextlib.suppress(OSError):  # it has ended already
                    sock.shutdown(socket.SHUT_RDWR)


def _ensure_soon(
    ensure: Callable[..., Any],
    hosts: int,
    max_retries: int | None,
    tell: Callable[[BaseException, float], None],
    _: int | None,
    callback: Callable[[], None],
) -> Any:
    """kombu's ``ensure_connection`` as Celery calls it, with short pauses in which all else in this process goes on.

    There are as many retries as last as long as Celery's own would. kombu has a ``sleep`` of its own, that holds all
    greenlets up where it was imported before gevent's patches: so it is told hardly to pause.
    """

    def tell_and_pause(error: BaseException, interval: float) -> None:
        pause_s = MOST_PAUSE_S if interval else 0.0  # 0: another host is asked first
        tell(error, pause_s)
        ends = time.monotonic() + pause_s
        while time.monotonic() < ends:
            callback()
            time.sleep(PAUSE_STEP_S)

    retries = retries_in_the_same_time(max_retries, max(hosts, 1))
    hardly = {"interval_start": 0.001, "interval_step": 0, "interval_max": 0.001}
    return ensure(tell_and_pause, retries, callback=callback, **hardly)


def retries_in_the_same_time(retries: int | None, hosts: int) -> int | None:
    """How many pauses of ours last as long as Celery's: 2, 4, 6 ... 30 s, one each time that it has asked all hosts."""
    if not retries:
        return retries
    cycles, more = divmod(retries, hosts)
    pauses = [min(2 * (cycle + 1), 30) for cycle in range(cycles)]
    return hosts * math.ceil(sum(pauses) / MOST_PAUSE_S) + more
