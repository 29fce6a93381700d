"""A long replay, and what is queued together, take the store's time in small steps."""

from typing import Any

import pytest

from fluxy_sync import FluxySync, OperationTooLarge
from fluxy_sync.journal import Inventory, Journal
from fluxy_sync.journal.inventory import PAGE_LETTERS, STEP_BYTES
from fluxy_sync.journal.journal import MOST_TOGETHER
from tests.journal_steps import claim, die, fresh_uuid, held_for, names, new, queue, waiting


class Steps:
    """What each step of a replay took."""

    def __init__(self, producer: FluxySync, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        self.bytes: list[int] = []
        self.held: list[tuple[str, ...]] = []
        journal = producer.engine.journal
        run = journal.run

        def note(script: str, *arguments: Any, **more: Any) -> object:
            if script in ("replay", "drop"):
                members = arguments[5::4] if script == "replay" else arguments[3::3]
                values = [journal.store.command("HGET", journal.keys.dead, member) for member in members]
                self.counts.append(len(values))
                self.bytes.append(sum(len(value) for value in values))
                self.held.append(held_for(journal))
            return run(script, *arguments, **more)

        monkeypatch.setattr(journal, "run", note)


@pytest.fixture
def steps(producer: FluxySync, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(producer, monkeypatch)


def die_large(journal: Journal, lanes: list[str]) -> list[str]:
    """One dead letter of 300 kB after another, each on the next of these lanes."""
    ids = []
    for lane in lanes:
        ids.append(fresh_uuid())
        journal.append([new(ids[-1], lane, size=300_000)])
        run = claim(journal)
        assert run.lane == lane
        journal.settle(lane, run.fence, ids[-1], "dead", reason="422", give_up=True)
    return ids


@pytest.mark.parametrize("end", ["head", "tail"])
def test_large_letters_go_back_a_few_at_a_time_and_in_order(
    end: str, producer: FluxySync, journal: Journal, steps: Steps
) -> None:
    """No step holds the store for long, and at the head nothing of a lane is sent before all of it is back."""
    ids = die_large(journal, ["a", "b", "a"] * 5)
    queue(journal, "later")
    assert producer.replay(to=end) == 15  # type: ignore[arg-type]
    assert len(steps.counts) >= 5
    assert max(steps.bytes) <= STEP_BYTES
    dead_a = [one for n, one in enumerate(ids) if n % 3 != 1]
    assert waiting(journal) == ([*dead_a, "later"] if end == "head" else ["later", *dead_a])
    assert waiting(journal, "b") == ids[1::3]
    assert set(steps.held) == {("replaying",) if end == "head" else ()}
    assert held_for(journal) == held_for(journal, "b") == ()


def test_many_letters_go_back_a_page_at_a_time(producer: FluxySync, journal: Journal, steps: Steps) -> None:
    """In front of what waits, in their old order."""
    named = [f"op-{n}" for n in range(2 * PAGE_LETTERS + 50)]
    die(journal, *named)
    assert producer.replay(to="head") == len(named)
    assert steps.counts == [PAGE_LETTERS, PAGE_LETTERS, 50]
    assert waiting(journal) == named


def test_large_letters_are_dropped_a_few_at_a_time(producer: FluxySync, journal: Journal, steps: Steps) -> None:
    """To free memory takes time, too."""
    die_large(journal, ["a"] * 8)
    assert producer.drop() == 8
    assert max(steps.bytes) <= STEP_BYTES


def test_dead_letters_are_read_backwards(journal: Journal) -> None:
    """Page after page, from a number on to the oldest; large ones, too."""
    inventory = Inventory(journal)
    die(journal, *[f"op-{n}" for n in range(PAGE_LETTERS + 7)])
    die_large(journal, ["b"] * 5)
    forwards = [letter.number for letter in inventory.letters()]
    assert [letter.number for letter in inventory.letters_backwards(forwards[-1])] == forwards[::-1]
    assert [letter.number for letter in inventory.letters_backwards(3)] == [3, 2, 1]
    assert list(inventory.letters_backwards(0)) == []


def test_what_is_queued_together_has_a_bound(journal: Journal) -> None:
    """All or none is one step: more than it may take is refused, with the bound, and nothing is accepted."""
    with pytest.raises(OperationTooLarge, match="at most 10,000 or 32 MiB in one call; nothing was accepted"):
        journal.append([new(f"op-{n}") for n in range(MOST_TOGETHER + 1)])
    with pytest.raises(OperationTooLarge, match="nothing was accepted"):
        journal.append([new(f"op-{n}", size=17 * 1024**2) for n in range(2)])
    assert journal.snapshot().pending == 0
    journal.append([new(f"op-{n}") for n in range(MOST_TOGETHER)])
    journal.append([new("large", "b", size=33 * 1024**2)])
    assert journal.snapshot().pending == MOST_TOGETHER + 1
    assert names(claim(journal).records)[0] == "op-0"
