"""An expiry that is given as a date: what it means on a machine whose wall clock may be wrong.

Clocks of gateways are years off until the network's time arrives. So nobody is judged by a date unless the clock agrees
with the upstream's, and the clock by which the date was given was no other one.
"""

import email.utils
import time
from collections.abc import Callable
from datetime import UTC, datetime

from fluxy_sync.journal.clock import boottime, host
from fluxy_sync.operation import Deadline

TOLERANCE_S = 60.0
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No gateway ran before this version was written: a clock that says so has not been set yet."""
ASK_AGAIN_S = 60.0


def http_date(value: str) -> datetime | None:
    """Read a Date, or a date in Retry-After (RFC 9110, 5.6.7); None where it isn't one."""
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def deadline_at(when: datetime) -> Deadline:
    """The date, with what is needed to tell later whether this machine's clock was right."""
    return Deadline(when.timestamp(), host(), time.time(), boottime())


def is_out_of_reach(when: datetime) -> bool:
    """Whether this machine's clock was never set, so that it would reach the date after decades only."""
    return time.time() < EARLIEST <= when.timestamp()


class UpstreamClock:
    """What the upstream's answers say of this machine's wall clock.

    Args:
        wall: seconds since 1970, as this machine believes.
        uptime: seconds on a clock that is never set.
        machine: names the boot that ``uptime`` belongs to.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        uptime: Callable[[], float] = boottime,
        machine: Callable[[], str] = host,
    ) -> None:
        self._wall, self._uptime, self._machine = wall, uptime, machine
        self._booted_at: float | None = None  # by the upstream's clock
        self._asked = float("-inf")
        self._noted = ""

    def note(self, date: str) -> None:
        """Take in the Date of an answer that has just come; what isn't a date says nothing."""
        if date == self._noted:
            return  # of the same second
        self._noted = date
        at = http_date(date)
        if at is not None:
            self._booted_at = at.timestamp() - self._uptime()

    def wants_answer(self) -> bool:
        """Whether to ask the upstream: nothing is known of its clock, and it wasn't asked of late."""
        now = self._uptime()
        if self._booted_at is not None or now - self._asked < ASK_AGAIN_S:
            return False
        self._asked = now
        return True

    def has_passed(self, deadline: Deadline) -> bool | None:
        """Whether the date has passed; never where a clock was wrong. None: the upstream doesn't tell the time."""
        if self._booted_at is None:
            return None
        booted_at = self._wall() - self._uptime()
        if abs(booted_at - self._booted_at) > TOLERANCE_S or deadline.given_at < EARLIEST:
            return False
        set_by = booted_at - (deadline.given_at - deadline.up_s)
        if deadline.machine == self._machine() and abs(set_by) > TOLERANCE_S:
            return False  # the clock was set since the date was given
        return self._wall() >= deadline.at
