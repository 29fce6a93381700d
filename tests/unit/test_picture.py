"""What is shown: the newest of what was read, as of now, and marked where it may not be true any more."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fluxy_sync.live_source import Reading
from fluxy_sync.picture import Picture, Signals
from tests.dashboard_server import IDLE

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def from_store(began: float, **status: Any) -> Reading:
    return Reading(type(IDLE)(**(IDLE.to_dict() | status)), "store", "shop", began)


def from_dashboard(rev: int, boot: str = "a", began: float = 0.0, **status: Any) -> Reading:
    return Reading(type(IDLE)(**(IDLE.to_dict() | {"rev": rev} | status)), "dashboard", "shop", began, boot)


def test_an_older_record_never_replaces_a_newer_one() -> None:
    """Of the same boot, the higher rev stays; an equal one counts: what isn't counted may have changed."""
    picture = Picture()
    assert picture.take(from_dashboard(5, pending=5), NOW)
    assert not picture.take(from_dashboard(4, pending=4), NOW)
    assert picture.take(from_dashboard(5, pending=5, gate="paused"), NOW)
    assert (picture.status.pending, picture.status.gate) == (5, "paused")


def test_another_boot_begins_anew() -> None:
    """A dashboard that was started again, on another store perhaps, is believed."""
    picture = Picture()
    picture.take(from_dashboard(5, "a"), NOW)
    assert picture.take(from_dashboard(1, "b"), NOW)
    assert not picture.take(from_dashboard(0, "b"), NOW)


def test_readings_of_the_store_count_by_when_they_began() -> None:
    """One that took long doesn't replace one that began later, whatever its rev: a store may be a restored one."""
    picture = Picture()
    assert picture.take(from_store(2.0, pending=2, rev=9), NOW)
    assert not picture.take(from_store(1.0, pending=1, rev=10), NOW)
    assert picture.take(from_store(3.0, pending=3, rev=1), NOW)


def test_after_a_fallback_the_dashboard_must_not_be_behind() -> None:
    """What was read from the store meanwhile is newer than what the same dashboard knew before."""
    picture = Picture()
    picture.take(from_dashboard(5, began=1.0), NOW)
    assert picture.take(from_store(2.0, rev=8), NOW)
    assert not picture.take(from_dashboard(7, began=3.0), NOW)
    assert picture.take(from_dashboard(8, began=4.0), NOW)
    assert picture.source == "dashboard"


def test_what_can_not_be_read_is_stale() -> None:
    """The last known values stay, with the moment at which they were true; the next reading ends that."""
    picture = Picture()
    picture.doubt()
    assert picture.status is None
    picture.take(from_store(1.0, pending=7), NOW)
    picture.doubt()
    assert (picture.status.pending, picture.status.stale, picture.read_at) == (7, True, NOW)
    picture.take(from_store(2.0, pending=7), NOW + timedelta(minutes=1))
    assert (picture.status.stale, picture.read_at) == (False, NOW + timedelta(minutes=1))


def test_what_the_dashboard_calls_stale_was_true_earlier() -> None:
    """Its stale record doesn't move that moment."""
    picture = Picture()
    picture.take(from_dashboard(1), NOW)
    picture.take(from_dashboard(1, stale=True), NOW + timedelta(minutes=1))
    assert (picture.status.stale, picture.read_at) == (True, NOW)


@pytest.mark.parametrize(("stale", "expected"), [(False, (15.0, 0.0)), (True, (5.0, 3.0))])
def test_time_goes_on_while_it_can_be_trusted(stale: bool, expected: tuple[float, float]) -> None:
    """Ten seconds after a reading the oldest is ten seconds older; a stale picture stands still."""
    picture = Picture()
    picture.take(from_store(100.0, oldest_age_s=5.0, opens_in_s=3.0, stale=stale), NOW)
    aged = picture.aged(110.0)
    assert (aged.oldest_age_s, aged.opens_in_s) == expected
    assert Picture().aged(1.0) is None


def test_time_that_passes_is_no_change() -> None:
    """An effect runs once for a change of several values, and not for equal values or for older ages."""
    from reaktiv import Effect

    signals, seen = Signals(), []
    effect = Effect(lambda: seen.append((signals.pending.get(), signals.is_syncing.get(), signals.status.get())))
    for status in (
        from_store(1.0, pending=300, is_syncing=True, oldest_age_s=1.0).status,
        from_store(2.0, pending=300, is_syncing=True, oldest_age_s=2.0).status,
        from_store(3.0, pending=299, is_syncing=False).status,
    ):
        signals.show(status, lambda: None)
    assert [pair[:2] for pair in seen] == [(None, None), (300, True), (299, False)]
    effect.dispose()


def test_effects_are_noticed_as_long_as_they_live() -> None:
    """That is what keeps the background thread going: reaktiv's own list of what hangs on a signal."""
    from reaktiv import Effect

    signals = Signals()
    assert not signals.are_watched
    effect = Effect(lambda: signals.status.get())
    assert signals.are_watched
    effect.dispose()
    assert not signals.are_watched
    effect = Effect(lambda: signals.pending.get())
    assert signals.are_watched
    del effect
    assert not signals.are_watched
