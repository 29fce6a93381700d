"""What ``watch`` adds to ``status``: a rate, a sign that turns, and plain words where the picture may not be true."""

import io
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fluxy_sync.cli.status import Watched, status_panel
from fluxy_sync.cli.watch import RATE_LEAST_S, RATE_WINDOW_S, Rate, source_text, stale_text
from tests.dashboard_server import IDLE

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def shown(watched: Watched, **changes: object) -> str:
    """The panel as plain text, 80 columns wide."""
    console = Console(file=io.StringIO(), width=80)
    record = type(IDLE)(**(IDLE.to_dict() | changes))
    console.print(status_panel(record, "shop", "https://api.example.com", NOW, watched))
    text: str = console.file.getvalue()
    return text


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    """Whatever was before them; and none is told before a second was looked at."""
    rate = Rate()
    assert rate.note(100, 0.0) is None
    assert rate.note(105, RATE_LEAST_S / 2) is None
    assert rate.note(110, 2.0) == 5.0
    assert rate.note(110, 10.0) == 1.0
    assert rate.note(160, 20.0) == 5.0
    assert rate.note(160, 30.0) == 0.0


def test_another_store_begins_a_new_rate() -> None:
    """A total that went back is no negative rate."""
    rate = Rate()
    rate.note(100, 0.0)
    assert rate.note(5, 5.0) is None
    assert rate.note(15, 10.0) == 2.0


@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 50)), min_size=1, max_size=20))
def test_the_rate_never_counts_more_than_was_delivered(steps: list[tuple[float, int]]) -> None:
    """Looked at however irregularly: what was delivered in the window is at most what was delivered in all."""
    rate, total, now = Rate(), 0, 0.0
    rate.note(total, now)
    for pause_s, more in steps:
        total, now = total + more, now + pause_s
        per_s = rate.note(total, now)
        if per_s is not None:
            assert 0 <= per_s * min(now, RATE_WINDOW_S) <= total + 1e-6


def test_what_is_sent_turns() -> None:
    """The sign stands beside the words, and the rate beside the total."""
    text = shown(Watched(turning="/", rate="12.5 per second", source="the store"), syncing=2, delivered_total=7)
    assert "syncing          2   / being sent now" in text
    assert "delivered        7   in all, 12.5 per second" in text
    assert "read from            the store" in text


def test_a_stale_picture_says_so_first() -> None:
    """By sign, word and time, not by colour alone; it fits 80 columns."""
    note = stale_text(
        datetime(2026, 11, 23, 11, 59, 20, tzinfo=UTC), NOW, "the store can't be reached; nothing was accepted"
    )
    text = shown(Watched(stale=note), stale=True, pending=3)
    first, second = text.splitlines()[1:3]
    assert "! stale   last known 2026-11-23 11:59:20 UTC, 40 s ago" in first
    assert "the store can't be reached" in second
    assert "nothing was accepted" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_picture_that_is_true_has_no_such_line() -> None:
    """``status`` looks as before."""
    assert stale_text(None, NOW, "") == ""
    assert "stale" not in shown(Watched())
    assert "read from" not in shown(Watched())


@pytest.mark.parametrize(
    ("source", "trouble", "text"),
    [
        ("dashboard", "", "the dashboard"),
        ("store", "", "the store"),
        (
            "store",
            "the dashboard at http://a:1 can't be reached",
            "the store: the dashboard at http://a:1 can't be reached",
        ),
    ],
)
def test_where_it_comes_from(source: str, trouble: str, text: str) -> None:
    """And why it isn't the dashboard, where one is named."""
    assert source_text(source, trouble) == text


def test_what_the_dashboard_can_not_read_is_told() -> None:
    """Its stale record comes without an error of ours."""
    assert "the dashboard can't read its store" in stale_text(NOW, NOW, "")
