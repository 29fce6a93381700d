"""Beat's scheduler: in memory, on a monotonic clock. It runs the connectivity check in beat's own process."""

import time
from typing import Any

from celery import beat
from celery.schedules import schedule

from fluxy_sync.connectivity import TICK_S, Watch
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import CHECK_CONNECTIVITY
from fluxy_sync.steward import give_up_on, make_watch

logger = get_logger(__name__)

CLOCK_JUMP_S = 60.0


class Scheduler(beat.Scheduler):
    """Celery's scheduler without its file and its wall clock.

    A message a second would write 210 MB a day into the AOF, and Celery's schedule stops for years when the clock
    goes back: so the check runs here, intervals count on the monotonic clock, and crontabs start anew after a jump.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._last_run: dict[str, float] = {}
        self._watch: Watch | None = None
        self._store_was_down = False
        self._offset = time.time() - time.monotonic()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Run what is due. Returns the seconds until it wants to be called again."""
        started = time.monotonic()
        self._mend_clock()
        waits = [self._run_entry(entry) for entry in list(self.schedule.values())]
        return max(0.01, min([TICK_S, *waits]) - (time.monotonic() - started))

    def _mend_clock(self) -> None:
        """The wall clock jumped: entries by the calendar forget when they last ran."""
        offset = time.time() - time.monotonic()
        if abs(offset - self._offset) > CLOCK_JUMP_S:
            for entry in self.schedule.values():
                entry.last_run_at = entry.default_now()
        self._offset = offset

    def _run_entry(self, entry: Any) -> float:
        if type(entry.schedule) is not schedule:
            due, wait = entry.is_due()
            if due:
                self.apply_entry(self.reserve(entry), producer=self.producer)
            return float(wait)
        every, now = entry.schedule.run_every.total_seconds(), time.monotonic()
        wait = self._last_run.get(entry.name, -every) + every - now if entry.name in self._last_run else 0.0
        if wait > 0:
            return float(wait)
        self._last_run[entry.name] = now
        if entry.task == CHECK_CONNECTIVITY:
            return min(every, self._check())
        self.apply_entry(self.reserve(entry), producer=self.producer)
        return float(every)

    def _check(self) -> float:
        """The connectivity check. Returns the seconds until a lane comes due, if that is sooner than the next one."""
        try:
            if self._watch is None:
                self._watch = make_watch(self.app, "beat", "beat")
            tick = self._watch.check()
            self._store_was_down = False
        except StorageUnavailable as error:
            if not self._store_was_down:
                logger.error("The check can't run (%s); it goes on trying.", error)
            self._store_was_down = True
            return TICK_S
        except ConfigError as error:
            give_up_on(error)
        if tick.claims_in_s:
            self._last_run.update(self._sooner(tick.claims_in_s))
            return min(TICK_S, tick.claims_in_s)
        return TICK_S

    def _sooner(self, due_in_s: float) -> dict[str, float]:
        """Bring the next check forward to the moment at which a lane comes due."""
        now = time.monotonic()
        checks = [entry for entry in self.schedule.values() if entry.task == CHECK_CONNECTIVITY]
        return {
            entry.name: now
            - entry.schedule.run_every.total_seconds()
            + min(due_in_s, entry.schedule.run_every.total_seconds())
            for entry in checks
        }
