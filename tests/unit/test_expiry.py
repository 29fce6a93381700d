"""An expiry that is a date is judged only where the clocks can be trusted."""

import time
from datetime import UTC, datetime
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from fluxy_sync import expiry
from fluxy_sync.expiry import ASK_AGAIN_S, EARLIEST, UpstreamClock, is_out_of_reach
from fluxy_sync.operation import Deadline
from fluxy_sync.tasks import seconds_to_wait

NOW = EARLIEST + 300 * 86400.0  # what time it really is
TEN_YEARS_S = 10 * 365.25 * 86400.0


class Machine:
    """A machine whose clock is ``ahead_s`` of the right one, ``up_s`` after its boot."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s, self.up_s, self.boot = ahead_s, 1000.0, "first"
        self.clock = UpstreamClock(self.wall, lambda: self.up_s, lambda: self.boot)

    def wall(self) -> float:
        return NOW + self.up_s - 1000.0 + self.ahead_s

    def deadline(self, at: float) -> Deadline:
        """What a producer on this machine is given, now."""
        return Deadline(at, self.boot, self.wall(), self.up_s)

    def hear(self, ahead_s: float = 0.0) -> None:
        """The upstream tells its time."""
        self.clock.note(formatdate(NOW + self.up_s - 1000.0 + ahead_s, usegmt=True))


def test_a_date_passes_when_it_passes() -> None:
    """Clocks that agree: sent until the date, and not after it."""
    machine = Machine()
    deadline = machine.deadline(NOW + 100.0)
    machine.hear()
    assert machine.clock.has_passed(deadline) is False
    machine.up_s += 101.0
    assert machine.clock.has_passed(deadline) is True


def test_a_date_of_years_ago_has_passed() -> None:
    """Where the clock was right when it was given: however old the date is."""
    machine = Machine()
    machine.hear()
    assert machine.clock.has_passed(machine.deadline(EARLIEST - TEN_YEARS_S)) is True


def test_nothing_is_known_before_the_upstream_has_told_the_time() -> None:
    """No Date, or one that can't be read, says nothing; it isn't asked for again and again."""
    machine = Machine()
    for date in ("", "yesterday", "Mon, 99 Jan 2026 00:00:00 GMT"):
        machine.clock.note(date)
        assert machine.clock.has_passed(machine.deadline(NOW - 1.0)) is None
    assert [machine.clock.wants_answer(), machine.clock.wants_answer()] == [True, False]
    machine.up_s += ASK_AGAIN_S
    assert machine.clock.wants_answer()
    machine.hear()
    machine.up_s += ASK_AGAIN_S
    assert not machine.clock.wants_answer()


@pytest.mark.parametrize("ahead_s", [TEN_YEARS_S, -TEN_YEARS_S, 120.0, -120.0])
def test_a_clock_that_disagrees_judges_nobody(ahead_s: float) -> None:
    """Years off, or two minutes: whatever date was given, it hasn't passed."""
    machine = Machine(ahead_s)
    machine.hear()
    assert not any(machine.clock.has_passed(machine.deadline(NOW + s)) for s in (-TEN_YEARS_S, -1.0, 3600.0, ahead_s))


@pytest.mark.parametrize("ahead_s", [TEN_YEARS_S, -TEN_YEARS_S])
def test_a_leap_after_the_upstream_told_the_time_judges_nobody(ahead_s: float) -> None:
    """What was agreed on holds for as long as nobody sets the clock."""
    machine = Machine()
    deadline = machine.deadline(NOW + 3600.0)
    machine.hear()
    machine.ahead_s = ahead_s
    assert machine.clock.has_passed(deadline) is False


def test_what_was_accepted_in_1970_does_not_expire_when_the_time_arrives() -> None:
    """A gateway without a battery says 1970 until the network tells it: an hour from then isn't over now."""
    machine = Machine(-NOW)
    deadline = machine.deadline(machine.wall() + 3600.0)
    machine.ahead_s = 0.0
    machine.hear()
    assert machine.clock.has_passed(deadline) is False
    machine.boot, machine.up_s = "second", 5000.0
    machine.hear()
    assert machine.clock.has_passed(deadline) is False


def test_what_was_accepted_by_a_clock_that_was_set_since_is_not_judged() -> None:
    """Ten years behind, and mended before it was sent; within the same boot that is known."""
    machine = Machine(-TEN_YEARS_S)
    deadline = machine.deadline(NOW - 86400.0)
    machine.ahead_s = 0.0
    machine.hear()
    assert machine.clock.has_passed(deadline) is False


def test_a_date_passes_while_the_gateway_is_off() -> None:
    """After another boot the date counts, although no journal time went by."""
    machine = Machine()
    deadline = machine.deadline(NOW + 3600.0)
    machine.boot, machine.up_s = "second", 10_000.0
    machine.hear()
    assert machine.clock.has_passed(deadline) is True


@pytest.mark.parametrize("wall_s", [0.0, EARLIEST - TEN_YEARS_S])
def test_a_clock_that_was_never_set_lets_nothing_wait_for_decades(
    monkeypatch: pytest.MonkeyPatch, wall_s: float
) -> None:
    """An ``eta`` of today isn't waited for by a clock that says 1970; one that was made by that clock is."""
    monkeypatch.setattr(expiry, "time", SimpleNamespace(time=lambda: wall_s))
    assert is_out_of_reach(datetime.fromtimestamp(NOW, UTC))
    assert not is_out_of_reach(datetime.fromtimestamp(wall_s + 60.0, UTC))
    assert seconds_to_wait(datetime.fromtimestamp(time.time() + 60.0, UTC).isoformat(), None) == 0.0
    assert seconds_to_wait(None, 60.0) == 60.0


def test_a_clock_that_was_set_lets_an_eta_wait() -> None:
    """By this machine's clock, as Celery does."""
    assert 50.0 < seconds_to_wait(datetime.fromtimestamp(time.time() + 60.0, UTC), None) <= 60.0
