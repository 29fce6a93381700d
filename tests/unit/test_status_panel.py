"""What a field engineer reads: every state in words, with or without colours."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from fluxy_sync.cli.status import GATES, duration, reason_text, status_panel
from fluxy_sync.status import Status

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
IDLE = {
    "pending": 0, "syncing": 0, "is_syncing": False, "retrying": 0, "held": 0, "dead": 0, "bytes": 0, "lanes": 0,
    "oldest_age_s": None, "gate": "open", "online": True, "delivered_total": 0, "rev": 0, "stale": False, "since": None,
    "reason": "",
}  # fmt: skip


def shown(**changes: object) -> str:
    """The panel as plain text, 80 columns wide."""
    console = Console(file=io.StringIO(), width=80)
    console.print(status_panel(Status(**(IDLE | changes)), "shop", "https://api.example.com", NOW))
    text: str = console.file.getvalue()
    return text


@pytest.mark.parametrize("gate", ["open", "offline", "paused", "unauthorized"])
def test_each_gate_is_told_by_a_sign_and_its_word(gate: str) -> None:
    """No state is told by colour alone, and no two share a sign."""
    assert f"{GATES[gate][0]} {gate}" in shown(gate=gate)
    assert len({sign for sign, _, _ in GATES.values()}) == len(GATES)


def test_since_when_and_why() -> None:
    """A closed gate comes with its reason in words, the moment in UTC, and how long ago that was."""
    text = shown(gate="offline", reason="dns", since="2026-11-23T09:58:30.000Z")
    assert "the upstream's name can't be resolved" in text
    assert "2026-11-23 09:58:30 UTC, 2 h 1 min ago" in text


def test_every_count_is_there() -> None:
    """Pending with lanes and the oldest's age, syncing, retrying, held, dead and delivered."""
    text = shown(pending=1200, lanes=3, oldest_age_s=75.0, syncing=2, retrying=1, held=4, dead=5, delivered_total=67)
    for line in (
        "pending      1,200   on 3 lanes, the oldest for 1 min 15 s",
        "syncing          2",
        "retrying         1",
    ):
        assert line in text
    for line in ("held             4", "dead             5   gave up; kept, not sent", "delivered       67"):
        assert line in text


def test_it_fits_a_terminal_of_80_columns() -> None:
    """The longest lines stay whole."""
    text = shown(gate="offline", reason="captive-portal", since="2026-01-01T00:00:00.000Z", held=10**6, pending=10**6)
    assert "a captive portal answers in the upstream's place" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86405, "1 d")],
)
def test_durations_are_read_at_once(seconds: float, text: str) -> None:
    """Two neighbouring units at most."""
    assert duration(seconds) == text


def test_a_reason_that_has_no_words_is_shown_as_it_is() -> None:
    """Nothing is hidden because it is new; wrong answers name their status."""
    assert (reason_text("new-code"), reason_text("wrong-answer-503")) == ("new-code", "the upstream answers 503")
