"""The one poller of a dashboard: reads the journal four times a second, and at once when something changes."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.journal import Hints, Inventory, Journal, Snapshot
from fluxy_sync.journal.inventory import Histogram
from fluxy_sync.logs import get_logger
from fluxy_sync.status import Status, status_of

logger = get_logger(__name__)

POLL_S = 0.25
BUSY_POLL_S = 0.05
BUSY_S = 1.0  # after a change: so long it looks often, and needs no hint
HISTOGRAMS_S = 2.0
RATE_S = 10.0


class Reading(NamedTuple):
    """The journal at one moment."""

    snapshot: Snapshot
    status: Status
    delivered_per_s: float
    histograms: dict[str, Histogram]


class Rate:
    """How many each second, over the last ten; it moves once a second."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self.per_s = 0.0

    def note(self, now: float, total: int) -> float:
        """Take the total of this moment in, and give the rate."""
        samples = self._samples
        if samples and total < samples[-1][1]:
            samples.clear()  # another journal
        if not samples or now - samples[-1][0] >= 1:
            samples.append((now, total))
            while len(samples) > 2 and now - samples[1][0] >= RATE_S:
                samples.popleft()
            began, first = samples[0]
            self.per_s = round((total - first) / (now - began), 2) if now > began else 0.0
        return self.per_s


class Poller(threading.Thread):
    """Tells each reading, and None when the store can't be read; goes on whatever the store does.

    Args:
        journal: with connections of its own.
        tell: takes a reading or None; called on this thread.
        on_crash: called if the thread ends without having been asked to.
    """

    def __init__(
        self, journal: Journal, tell: Callable[[Reading | None], object], on_crash: Callable[[], object]
    ) -> None:
        super().__init__(name="sync-poller", daemon=True)
        self._journal = journal
        self._inventory = Inventory(journal)
        self._tell = tell
        self._on_crash = on_crash
        self._hints = Hints(lambda: journal)
        self._rate = Rate()
        self._histograms: dict[str, Histogram] = {}
        self._histograms_at = float("-inf")
        self._readable = True
        self._seen: tuple[int, int] | None = None  # rev and claims
        self._changed_at = float("-inf")
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                self._wait(self._look(time.monotonic()))
        finally:
            self._hints.close()
            if not self._ended.is_set():
                self._on_crash()

    def end(self) -> None:
        """Stop it within a poll's time."""
        self._ended.set()

    def _look(self, now: float) -> bool:
        try:
            reading = self._read(now)
        except (StorageUnavailable, msgspec.ValidationError) as error:
            if self._readable:
                logger.warning("The store can't be read; the last known values are shown as stale: %s", error)
            self._readable, self._seen = False, None
            self._tell(None)
            return False
        self._readable = True
        seen = reading.snapshot.rev, reading.snapshot.syncing
        if seen != self._seen:
            self._seen, self._changed_at = seen, now
        self._tell(reading)
        return True

    def _read(self, now: float) -> Reading:
        snapshot = self._journal.snapshot()
        if now - self._histograms_at >= HISTOGRAMS_S:
            self._histograms, self._histograms_at = self._inventory.histograms(), now
        rate = self._rate.note(now, snapshot.delivered_total)
        return Reading(snapshot, status_of(snapshot), rate, self._histograms)

    def _wait(self, readable: bool) -> None:
        if not readable:
            self._hints.close()
            self._ended.wait(POLL_S)
        elif time.monotonic() - self._changed_at < BUSY_S:
            self._hints.close()
            self._ended.wait(BUSY_POLL_S)
        else:
            self._hints.wait(POLL_S, self._ended)
