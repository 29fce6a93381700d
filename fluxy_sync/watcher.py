"""The background thread behind live values: it follows the dashboard's stream; while there is none, the store."""

import random
import threading
import time
from typing import Protocol

from fluxy_sync.errors import FluxySyncError, StorageUnavailable
from fluxy_sync.event_stream import Dashboard, DashboardUnavailable, EventStream
from fluxy_sync.journal import Hints
from fluxy_sync.live_source import Reading, Sources
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

POLL_S = 0.25  # the store is looked at so often while nothing is heard from it
LEAST_GAP_S = 0.05  # and no more often than this, however much is heard
PATIENCE_S = 0.2  # what a dashboard may take to answer before the store is looked at instead
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 5.0
STUMBLE_S = 1.0  # after an error that nobody expected
STEADY_S = 5.0  # a stream that lasted so long was a good one: the next one is asked for at once


class Door:
    """The way to the dashboard's stream. It is knocked at in a short-lived thread: the store is watched meanwhile."""

    def __init__(self, dashboard: Dashboard | None) -> None:
        self._dashboard = dashboard
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._knocking = self._closed = False
        self._stream: EventStream | None = None
        self._failures = 0
        self._opened_at = self._knock_at = 0.0
        self.trouble = ""  # why there is no stream

    def stream(self, patience_s: float) -> EventStream | None:
        """The stream, once it is open; waits for at most ``patience_s`` seconds."""
        if self._dashboard is None:
            return None
        if not self._knocking and time.monotonic() >= self._knock_at:
            self._knocking = True
            self._answered.clear()
            threading.Thread(target=self._knock, args=(self._dashboard,), name="fluxy-live-door", daemon=True).start()
        self._answered.wait(patience_s if self._knocking else 0.0)
        with self._lock:
            stream, self._stream = self._stream, None
            return stream

    def _knock(self, dashboard: Dashboard) -> None:
        try:
            self._take(dashboard.stream())
        except DashboardUnavailable as error:
            self.lost(error)
        except Exception as error:
            self.lost(DashboardUnavailable(f"its stream met an unexpected error ({type(error).__name__})"))
            raise
        finally:
            self._knocking = False
            self._answered.set()

    def _take(self, stream: EventStream) -> None:
        with self._lock:
            if not self._closed:
                self._stream, self._opened_at = stream, time.monotonic()
                self.trouble = ""
                return
        stream.close()

    def lost(self, error: FluxySyncError) -> None:
        """There is no stream: wait longer before each further try."""
        now = time.monotonic()
        if self.trouble != str(error):
            self.trouble = str(error)
            logger.warning("Live values don't come from the dashboard: %s.", error)
        if now - self._opened_at < STEADY_S or not self._opened_at:
            self._failures += 1
            backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
            self._knock_at = now + backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        else:
            self._failures, self._knock_at = 0, now
        self._opened_at = 0.0

    def close(self) -> None:
        """Knock no more."""
        with self._lock:
            self._closed = True
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


class Audience(Protocol):
    """Who is told what was read."""

    def take(self, reading: Reading) -> None:
        """It was read."""

    def doubt(self, error: FluxySyncError) -> None:
        """Nothing could be read."""

    def wants(self, watcher: "Watcher") -> bool:
        """Whether somebody still looks; after False nothing more is told."""

    def ended(self, watcher: "Watcher") -> None:
        """The watcher's thread ends, whyever."""


class Watcher(threading.Thread):
    """The background thread: follows the dashboard's stream; while there is none, looks at the store."""

    def __init__(self, sources: Sources, audience: Audience) -> None:
        super().__init__(name="fluxy-live", daemon=True)
        self._sources = sources
        self._audience = audience
        self._door = Door(sources.dashboard)
        self._hints = Hints(sources.store.reach)
        self._stopped = threading.Event()
        self._stream: EventStream | None = None

    def run(self) -> None:
        try:
            patience_s = PATIENCE_S
            while self._goes_on():
                try:
                    patience_s = self._turn(patience_s)
                except Exception as error:  # noqa: BLE001 -- whoever is subscribed must not be left with old values
                    self._stumble(error)
        finally:
            for part in (self._door, self._hints, self._sources.store):
                part.close()
            self._audience.ended(self)

    def _turn(self, patience_s: float) -> float:
        """Follow the stream or look at the store; gives the patience with the dashboard of the next turn."""
        stream = self._door.stream(patience_s)
        if stream is None:
            self._look()
            return 0.0
        self._follow(stream)
        return PATIENCE_S

    def _stumble(self, error: Exception) -> None:
        """An error that nobody expected: said in the log, what is known is stale, and it is tried again."""
        logger.error("Live values met an unexpected error; they are read again in a moment.", exc_info=error)
        self._audience.doubt(FluxySyncError(f"live values met an unexpected error ({type(error).__name__})"))
        self._stopped.wait(STUMBLE_S)

    @property
    def trouble(self) -> str:
        """Why the dashboard isn't followed, where one is named."""
        return self._door.trouble

    def stop(self) -> None:
        """End soon."""
        self._stopped.set()
        if (stream := self._stream) is not None:
            stream.stop()

    def _goes_on(self) -> bool:
        return not self._stopped.is_set() and self._audience.wants(self)

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._audience.take(self._sources.from_store())
        except FluxySyncError as error:
            self._audience.doubt(error)
        if self._hints.wait(POLL_S, self._stopped):
            self._stopped.wait(max(0.0, began + LEAST_GAP_S - time.monotonic()))
            self._hints.forget()

    def _follow(self, stream: EventStream) -> None:
        with stream:
            self._stream = stream
            try:
                self._read(stream)
            except FluxySyncError as error:
                if not self._stopped.is_set():
                    self._door.lost(error)
            finally:
                self._stream = None

    def _read(self, stream: EventStream) -> None:
        events = stream.events()
        while self._goes_on():  # also asked before the first one: a stop may have come too early for this stream
            try:
                data = next(events)
            except StopIteration:
                raise DashboardUnavailable("the dashboard ended its stream") from None
            if data is not None:
                self._tell(self._sources.from_record(data))

    def _tell(self, reading: Reading) -> None:
        if reading.status is None:
            self._audience.doubt(StorageUnavailable("the dashboard can't read its store"))
        else:
            self._audience.take(reading)
