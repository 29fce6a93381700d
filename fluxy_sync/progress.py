"""A line in the log when deliveries begin, each minute while they go on, and when they end."""

import time
from collections.abc import Callable

from fluxy_sync.journal import Journal, Snapshot, Tick
from fluxy_sync.logs import get_logger
from fluxy_sync.words import duration, many

logger = get_logger(__name__)

EACH_S = 60.0
JUST_NOW_S = 5.0

Totals = tuple[int, int, int]  # delivered, retried, dead


class Progress:
    """Told of each tick, it says now and then what became of the operations.

    Args:
        clock: seconds that go on steadily.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, Totals] | None = None  # while deliveries go on
        self._last: tuple[float, Totals] | None = None  # what was said last, or would have been

    def note(self, tick: Tick, journal: Journal) -> None:
        """Say what there is to say.

        Raises:
            StorageUnavailable: the counts can't be read.
        """
        now = self._clock()
        if self._last is None:
            self._last = (now, _totals(journal.snapshot()))
        begins = self._began is None and tick.delivered_ago_s is not None and tick.delivered_ago_s < JUST_NOW_S
        is_time = now - self._last[0] >= EACH_S and (self._began is not None or tick.pending > 0)
        if not begins and not is_time:
            return
        snapshot = journal.snapshot()
        (said_at, before), totals = self._last, _totals(snapshot)
        if totals == before:
            self._end(now, totals, snapshot.pending)
        elif self._began is None:
            self._began = (now, before)
            logger.info("Deliveries begin: %s; %s.", _became(before, totals), _wait(snapshot.pending))
        else:
            since = duration(now - said_at)
            logger.info("Deliveries of the last %s: %s; %s.", since, _became(before, totals), _wait(snapshot.pending))
        self._last = (now, totals)

    def _end(self, now: float, totals: Totals, pending: int) -> None:
        """Nothing has happened for as long as a summary covers."""
        if self._began is not None and self._last is not None:
            began, before = self._began
            took = duration(self._last[0] - began)
            logger.info("Deliveries end: %s within %s; %s.", _became(before, totals), took, _wait(pending))
        self._began = None


def _totals(snapshot: Snapshot) -> Totals:
    return snapshot.delivered_total, snapshot.retried_total, snapshot.dead_total


def _became(before: Totals, after: Totals) -> str:
    """What became of operations since; a journal that was counted anew begins at nothing."""
    delivered, retried, dead = (max(0, now - then) for now, then in zip(after, before, strict=True))
    parts = [f"{delivered:,} delivered", f"{retried:,} tried again" if retried else ""]
    return ", ".join(filter(None, [*parts, many(dead, "dead letter") if dead else ""]))


def _wait(pending: int) -> str:
    return f"{many(pending, 'operation')} {'waits' if pending == 1 else 'wait'}"
