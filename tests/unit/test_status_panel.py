"""What a field engineer reads: every state in words, with or without colours."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from fluxy_sync.cli.status import GATES, next_commands, status_panel
from fluxy_sync.status import Status

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
IDLE = {
    "pending": 0, "syncing": 0, "is_syncing": False, "retrying": 0, "held": 0, "dead": 0, "bytes": 0, "lanes": 0,
    "oldest_age_s": None, "gate": "open", "online": True, "delivered_total": 0, "rev": 0, "stale": False, "since": None,
    "reason": "", "opens_in_s": 0.0, "held_for": {}, "dropped_total": 0,
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


@pytest.mark.parametrize("gate", ["open", "offline"])
def test_what_needs_nobody_proposes_nothing(gate: str) -> None:
    """While it goes on by itself, there is no next command, and nothing of what doesn't occur."""
    text = shown(gate=gate, pending=3, retrying=1)
    assert "next" not in text.splitlines()[-2]
    assert "dropped" not in text


def test_held_lanes_are_told_by_their_reasons() -> None:
    """Which key is missing, which task nobody has, who halted or paused, and on how many lanes each."""
    text = shown(held=7, held_for={"key:1a2b3c4d": 3, "paused": 1, "halted": 2, "task:shop.publish": 1})
    for line in (
        "key 1a2b3c4d is missing: 3 lanes", "paused: 1 lane", "halted by a dead letter: 2 lanes",
        "no worker has the task shop.publish: 1 lane",
    ):  # fmt: skip
        assert line in text


def test_the_upstreams_wish_to_wait_is_told() -> None:
    """An open gate that waits for a Retry-After says for how long."""
    assert "● open   the upstream asked to wait another 42 s" in shown(reason="429", opens_in_s=42.0)


def test_dropped_operations_are_told() -> None:
    """What had to make room for newer ones is counted."""
    assert "dropped          7   in all, for newer ones: the queue was full" in shown(dropped_total=7)


@pytest.mark.parametrize(
    ("changes", "commands"),
    [
        ({"dead": 1}, ["fluxy-sync dead ls"]),
        ({"gate": "paused", "reason": "by ann@gateway (cli)"}, ["fluxy-sync resume"]),
        ({"gate": "unauthorized", "reason": "401"}, ["fluxy-sync doctor"]),
        ({"held": 1, "held_for": {"key:1a2b3c4d": 1}}, ["fluxy-sync keys ls", "fluxy-sync ls"]),
        ({"held": 1, "held_for": {"halted": 1}, "dead": 1}, ["fluxy-sync ls", "fluxy-sync dead ls"]),
    ],
)
def test_the_next_command_is_named(changes: dict[str, object], commands: list[str]) -> None:
    """What a person has to do something about comes with the command that goes on from there."""
    assert next_commands(Status(**(IDLE | changes))) == commands
    assert all(command in shown(**changes) for command in commands)


def test_names_are_no_markup() -> None:
    """An address or a name with brackets is shown as it is."""
    console = Console(file=io.StringIO(), width=80)
    console.print(status_panel(Status(**(IDLE | {"reason": "[red]\x1b"})), "[bold]", "http://[::1]:80", NOW))
    text: str = console.file.getvalue()
    assert "[bold] → http://[::1]:80" in text
    assert r"[red]\x1b" in text
