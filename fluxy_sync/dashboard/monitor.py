"""Flower's own eyes on the workers: it hears them, believes what can be, and asks them nothing.

Workers take and send sealed messages alone, and the dashboard has no keys: its broadcasts would only fill their logs.
Events are in clear, and whoever can write to the broker can send them.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from celery.events import EventReceiver
from flower.events import Events
from flower.inspector import Inspector
from kombu.transport import redis as kombu_redis

from fluxy_sync.consumer import MALFORMED, bound_decompression
from fluxy_sync.dashboard.heard import Event, not_ahead, plain_message, raw_events, read_event
from fluxy_sync.dashboard.roll import Roll
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

LONGEST_PAUSE_S = 5.0
MOST_WAITING = 4_000
"""Events that were heard, and that Flower hasn't taken yet."""
EACH_TURN = 200
"""Events in one turn of the loop: it has pages to serve as well."""
SAY_EVERY_S = 60.0
MALFORMED_EVENT = "malformed"
NO_ROOM = "no room for another worker or task"
TOO_FAST = "too many at once"
NOT_TAKEN = "not taken by Flower"


class Dropped:
    """Counts the events that weren't believed; the log has a line each minute at most."""

    def __init__(self) -> None:
        self.total = 0
        self._since: Counter[str] = Counter()
        self._said_at = -SAY_EVERY_S

    def note(self, why: str) -> None:
        """One more."""
        self.total += 1
        self._since[why] += 1
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            logger.warning(
                "Task events were dropped (%s): they may be forged.",
                ", ".join(f"{count:,} {reason}" for reason, count in sorted(self._since.items())),
            )
            self._since.clear()
            self._said_at = now


class Receiver(EventReceiver):
    """Celery's, that reads each message itself, and goes on whatever comes."""

    def __init__(self, connection: Any, hear: Any, dropped: Dropped, app: Any) -> None:
        super().__init__(connection, app=app)
        self._hear, self._dropped = hear, dropped

    @contextlib.contextmanager
    def establish_connection(self) -> Iterator[Any]:
        with super().establish_connection() as connection:
            transport = connection.transport
            if issubclass(type(transport).Channel, kombu_redis.Channel):
                transport.Channel = channel_class(type(transport).Channel, self._dropped)
                # The one that was made with the connection isn't in use yet.
                for _ in range(len(transport._avail_channels)):
                    transport._avail_channels.pop().close()
            yield connection

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        return [Consumer(queues=[self.queue], on_message=self._take, no_ack=True, accept=self.accept)]

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._dropped.note(MALFORMED_EVENT)

    def _take(self, message: Any) -> None:
        try:
            if message.content_type != "application/json":
                raise ValueError("it isn't JSON")
            bunch = raw_events(message.body)
        except MALFORMED:
            self._dropped.note(MALFORMED_EVENT)
            return
        for raw in bunch:
            try:
                _, event = self.event_from_message(read_event(raw))
            except MALFORMED:
                self._dropped.note(MALFORMED_EVENT)
            else:
                self._hear(not_ahead(event, event["local_received"]))


def channel_class(of: Any, dropped: Dropped) -> Any:
    """A kombu channel of Redis that looks at each event before it is decoded."""

    class Channel(of):
        """kombu's."""

        def _handle_message(self, client: Any, response: Any) -> Any:
            payload = super()._handle_message(client, response)
            if isinstance(payload["data"], bytes | str):
                payload["data"] = _checked(payload["data"], dropped)
            return payload

    return Channel


def _checked(data: bytes | str, dropped: Dropped) -> bytes:
    try:
        return plain_message(data.encode() if isinstance(data, str) else data)
    except MALFORMED:
        dropped.note(MALFORMED_EVENT)
        return b""  # kombu passes over it


class Listening(Events):
    """Flower's, which after a long outage of the store is back soon: its own pauses double without an end.

    Flower's state sees only events that are as they should be, and no more workers and tasks than there is room for.
    """

    def __init__(self, *args: Any, max_workers_in_memory: int, **kwargs: Any) -> None:
        super().__init__(*args, max_workers_in_memory=max_workers_in_memory, **kwargs)
        bound_decompression()  # other transports than Redis decompress before we see a message
        self.dropped = Dropped()
        self._roll = Roll(max_workers_in_memory, self._forget)
        self._waiting: deque[Event] = deque()
        self._is_due = False
        for worker in list(self.state.counter):  # of a state that was kept
            self._roll.admit(worker, "", time.monotonic())

    def run(self) -> None:
        pause_s = 1.0
        while True:
            try:
                self._capture()
                pause_s = 1.0
            except Exception as error:  # noqa: BLE001 -- whatever the broker's transport raises: it is tried again
                logger.info("Task events can't be heard (%s); tried again in %g s.", type(error).__name__, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _capture(self) -> None:
        with self.capp.connection() as connection:
            receiver = Receiver(connection, self.on_event, self.dropped, self.capp)
            receiver.capture(limit=None, timeout=None, wakeup=False)

    def on_event(self, event: Event) -> None:
        """Keep an event for the loop's next turn; Flower's state is the loop's alone."""
        if len(self._waiting) >= MOST_WAITING:
            self.dropped.note(TOO_FAST)
            return
        self._waiting.append(event)
        if not self._is_due:
            self._is_due = True
            self.io_loop.add_callback(self._take_turn)

    def _take_turn(self) -> None:
        self._is_due = False
        for _ in range(min(EACH_TURN, len(self._waiting))):
            self._tell_flower(self._waiting.popleft())
        if self._waiting and not self._is_due:
            self._is_due = True
            self.io_loop.add_callback(self._take_turn)

    def _tell_flower(self, event: Event) -> None:
        if not self._roll.admit(event["hostname"], event.get("name") or "", time.monotonic()):
            self.dropped.note(NO_ROOM)
            return
        tasks = self.state.tasks
        oldest = next(iter(tasks.data.values())) if len(tasks) >= tasks.limit else None
        try:
            self.state.event(event)
        except MALFORMED as error:
            logger.debug("Flower can't take an event.", exc_info=error)
            self.dropped.note(NOT_TAKEN)
        if oldest is not None and oldest.uuid not in tasks.data:
            vars(oldest).clear()  # it refers to itself (Celery 5.7): a flood would outrun the garbage collection

    def _forget(self, workers: set[str]) -> None:
        """Let go of what Flower knows of workers that are silent, and of the tasks that nobody else names."""
        state, left = self.state, self._roll.tasks
        state.metrics.remove_workers(workers)
        for worker in workers:
            for known in (state.counter, state.workers, state.tasks_by_worker):
                known.pop(worker, None)
        for task in state._seen_types - left:
            state._seen_types.discard(task)
            state.tasks_by_type.pop(task, None)


class Mute(Inspector):
    """Knows no worker but by what it hears."""

    def inspect(self, workername: str | None = None) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.Future(loop=self.io_loop.asyncio_loop)
        done.set_result(None)
        return done


def events_of(app: Any, options: Any, io_loop: Any) -> Listening:
    """The events as Flower makes them from its options; the flush tells them without being asked to."""
    return Listening(
        app,
        db=options.db,
        persistent=options.persistent,
        state_save_interval=options.state_save_interval,
        enable_events=False,
        io_loop=io_loop,
        max_workers_in_memory=options.max_workers,
        max_tasks_in_memory=options.max_tasks,
    )
