"""Dead letters: listed, found, dropped, re-sealed. How they are put back: ``test_replay.py``."""

import time

import pytest

from fluxy_sync.journal import DeadLetter, Inventory, Journal
from fluxy_sync.journal.inventory import PAGE_LETTERS
from fluxy_sync.journal.record import pack_id
from tests.journal_steps import (
    WORKER,
    claim,
    counts,
    die,
    fresh_uuid,
    idle,
    letters,
    names,
    new,
    queue,
    settle_head,
    waiting,
)


@pytest.fixture
def inventory(journal: Journal) -> Inventory:
    return Inventory(journal)


def letter(journal: Journal, name: str) -> DeadLetter:
    return next(each for each in letters(journal) if each.id == name)


def stored(journal: Journal, index: int = 0) -> bytes:
    record: bytes = journal.store.command("LINDEX", journal.keys.lane("a"), index)
    return record


# --- listed and found


def test_a_dead_letter_tells_what_became_of_it(journal: Journal, inventory: Inventory) -> None:
    """Reason, retries, when by the wall clock, which keys sealed it; its record and detail are kept whole."""
    journal.append([new("refused", expires_s=60, halt=True, size=30)])
    record = stored(journal)
    settle_head(journal, "retry", reason="503")
    settle_head(journal, "dead", reason="422", detail=b"sealed answer")
    (found,) = letters(journal)
    assert found == DeadLetter(
        number=1, id="refused", lane="a", reason="422", retries=1, died_ms=found.died_ms, size=found.size,
        key_id=b"refu".hex(), detail_key_id=b"seal".hex(), halts=True, member=pack_id("refused"),
    )  # fmt: skip
    assert abs(found.died_ms - time.time() * 1000) < 60_000
    assert found.died_at.timestamp() == pytest.approx(found.died_ms / 1000)
    body = inventory.letter(found.member)
    assert body is not None
    assert (body.lane, body.reason, body.retries, body.detail, body.record) == ("a", "422", 1, b"sealed answer", record)
    assert journal.snapshot().bytes == found.size == len(body.raw)


def test_they_are_listed_in_the_order_of_their_deaths(journal: Journal, inventory: Inventory) -> None:
    """However many: page after page."""
    named = [f"op-{n}" for n in range(2 * PAGE_LETTERS + 1)]
    for name in named:
        journal.bury(new(name), "unsealed")
    assert [each.id for each in letters(journal)] == named
    assert [each.number for each in letters(journal)] == list(range(1, len(named) + 1))
    assert [each.id for each in inventory.letters(after=len(named) - 2)] == named[-2:]


@pytest.mark.parametrize("count", [0, 1, PAGE_LETTERS - 1, PAGE_LETTERS])
def test_listing_ends(journal: Journal, count: int) -> None:
    """Also where the last page is full."""
    for n in range(count):
        journal.bury(new(f"op-{n}"), "unsealed")
    assert len(letters(journal)) == count


def test_large_ones_are_listed_a_few_at_a_time(journal: Journal) -> None:
    """None is left out."""
    for n in range(5):
        journal.bury(new(f"op-{n}", size=1024 * 1024), "unsealed")
    assert [each.id for each in letters(journal)] == [f"op-{n}" for n in range(5)]
    assert journal.run("letters", 0, 200)[0] == 1


def test_one_is_found_by_its_id(journal: Journal, inventory: Inventory) -> None:
    """Text or UUID; others aren't there."""
    name = fresh_uuid()
    die(journal, "one", name, "three")
    for known in ("one", name, "three"):
        found = inventory.find_letter(known)
        assert found is not None
        assert found == letter(journal, known)
    assert inventory.find_letter("never-queued") is None
    for no_id in ("", "x" * 300, "\xfc\udc80", "damaged-" + "9" * 400, "damaged-"):
        assert inventory.find_letter(no_id) is None
    assert inventory.letter(pack_id("never-queued")) is None


def test_an_operation_may_be_called_like_a_damaged_one(journal: Journal, inventory: Inventory) -> None:
    """It is found by its own name."""
    die(journal, "one", "damaged-1")
    found = inventory.find_letter("damaged-1")
    assert found is not None
    assert (found.id, found.number) == ("damaged-1", 2)


def test_damaged_ones_have_a_name_by_their_number(journal: Journal, inventory: Inventory) -> None:
    """They can be looked at and dropped, but not put back; their records are kept as they were found."""
    queue(journal, "one", "two", "three")
    journal.store.command("LSET", journal.keys.lane("a"), 0, b"\1\3\xff\xff")
    journal.store.command("LSET", journal.keys.lane("a"), 1, b"")
    run = claim(journal)
    assert names(run.records) == ["three"]
    found = letters(journal)
    assert [(each.id, each.reason) for each in found] == [("damaged-1", "corrupt"), ("damaged-2", "corrupt")]
    for each, record in zip(found, (b"\1\3\xff\xff", b""), strict=True):
        assert inventory.find_letter(each.id) == each
        body = inventory.letter(each.member)
        assert body is not None
        assert body.record == record
    assert inventory.find_letter("damaged-3") is None
    assert inventory.find_letter("damaged-x") is None
    assert inventory.replay([(each, b"") for each in found], "tail") == (0, False)
    assert journal.snapshot().dead == 2
    assert inventory.drop(found)[0] == 2
    assert (journal.snapshot().dead, letters(journal)) == (0, [])


def test_two_that_were_damaged_alike_are_both_kept(journal: Journal, inventory: Inventory) -> None:
    """Nothing of a damaged record tells it from another: neither takes the other's place."""
    queue(journal, "one", "two", "three", "four")
    damaged = [b"\1\3two" + rest * (len(stored(journal)) - 5) for rest in (b"x", b"y")]
    for index, record in enumerate(damaged):
        journal.store.command("LSET", journal.keys.lane("a"), index, record)
    run = claim(journal)
    assert names(run.records) == ["three", "four"]
    found = letters(journal)
    assert len(found) == journal.snapshot().dead == 2
    bodies = [inventory.letter(each.member) for each in found]
    assert [body and body.record for body in bodies] == damaged
    assert journal.snapshot().bytes == sum(each.size for each in found) + sum(map(len, run.records))
    assert inventory.drop(found)[0] == 2
    assert journal.snapshot().dead == 0


def test_a_damaged_one_does_not_take_another_dead_letters_place(journal: Journal, inventory: Inventory) -> None:
    """Its damaged id may be that of one that died before."""
    die(journal, "two")
    queue(journal, "one")
    journal.store.command("LSET", journal.keys.lane("a"), 0, b"\1\3two?")
    idle(journal)
    assert [each.reason for each in letters(journal)] == ["422", "corrupt"]
    first = inventory.find_letter("two")
    assert first is not None
    assert first.reason == "422"
    assert inventory.replay([(first, b"")], "tail")[0] == 1
    assert waiting(journal) == ["two"]


# --- dropped


def test_dropped_ones_are_gone(journal: Journal, inventory: Inventory) -> None:
    """With their bytes; the totals remember that they died."""
    die(journal, "one", "two", "three")
    one, two, three = letters(journal)
    assert inventory.drop([one, three, one]) == (2, False)
    assert letters(journal) == [two]
    snapshot = journal.snapshot()
    assert (snapshot.dead, snapshot.dead_total, snapshot.bytes) == (1, 3, two.size)
    assert journal.is_dead("one") is False
    assert journal.claim(WORKER).gate == "open"  # type: ignore[union-attr]


# --- re-sealed


def test_a_dead_letter_is_resealed(journal: Journal, inventory: Inventory) -> None:
    """Its detail and its record's sealed part; all else stays."""
    journal.append([new("one", expires_s=60, once=b"sixteen bytes...")])
    settle_head(journal, "dead", reason="422", detail=b"sealed answer")
    (before,) = letters(journal)
    body = inventory.letter(before.member)
    assert body is not None
    assert inventory.reseal_letter(before.member, body.raw, b"another seal", b"and another") is True
    after = inventory.letter(before.member)
    assert after is not None
    assert (after.detail, after.record) == (b"another seal", body.record[: -len(b"one.....")] + b"and another")
    assert (after.lane, after.reason, after.died_ms) == (body.lane, body.reason, body.died_ms)
    assert [each.number for each in letters(journal)] == [before.number]
    assert journal.snapshot().bytes == len(after.raw)
    assert inventory.reseal_letter(before.member, body.raw, b"", b"late") is False
    assert inventory.reseal_letter(pack_id("never-queued"), b"", b"", b"") is False
    assert inventory.letter(before.member) == after


def test_a_damaged_letter_is_not_resealed(journal: Journal, inventory: Inventory) -> None:
    """Nobody can have opened it: what is left of it stays."""
    queue(journal, "one")
    journal.store.command("LSET", journal.keys.lane("a"), 0, b"\1\3one\0")
    idle(journal)
    (found,) = letters(journal)
    body = inventory.letter(found.member)
    assert body is not None
    assert inventory.reseal_letter(found.member, body.raw, b"", b"sealed") is False
    assert inventory.letter(found.member) == body


def test_a_number_is_never_given_twice(journal: Journal, inventory: Inventory) -> None:
    """Also after all letters are gone."""
    die(journal, "one", "two")
    inventory.drop(letters(journal))
    die(journal, "three")
    assert [each.number for each in letters(journal)] == [3]
    assert journal.store.command("HGET", counts(journal), "dead_seq") == b"3"
