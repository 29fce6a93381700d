"""What a person sees of the lanes, page after page, and what is re-sealed meanwhile."""

import pytest

from fluxy_sync.journal import Inventory, Journal, Waiting
from fluxy_sync.journal.journal import CLAIM_S
from fluxy_sync.journal.record import pack_id, parse
from tests.journal_steps import (
    claim,
    die,
    fresh_uuid,
    halted_by,
    held_for,
    let_pass,
    letters,
    names,
    new,
    queue,
    settle_head,
    waiting,
)

SCAN_RECORDS = 500  # of lua/_prelude.lua: what one call looks at
MIB = 1024 * 1024


@pytest.fixture
def inventory(journal: Journal) -> Inventory:
    return Inventory(journal)


def shown(inventory: Inventory, lane: str = "a") -> list[str]:
    return [each.id for each in inventory.waiting(lane)]


def replace(journal: Journal, index: int, record: bytes) -> None:
    journal.store.command("LSET", journal.keys.lane("a"), index, record)


# --- what is shown


def test_an_operation_is_shown_with_all_that_is_known_of_it(journal: Journal, inventory: Inventory) -> None:
    """Without its payload: state, age, retries, last error, times, key, place."""
    name = fresh_uuid()
    journal.append([new("failing", size=30), new(name, expires_s=500, halt=True, once=b"o" * 16)])
    settle_head(journal, "retry", reason="503", pause_s=100, floor_s=20)
    settle_head_later(journal)
    let_pass(journal, 10)
    head, behind = inventory.waiting("a")
    assert head == Waiting(
        id="failing", lane="a", state="retrying", age_s=head.age_s, size=1 + 8 + 7 + 2 + 30, retries=2,
        last_error="connection lost".replace(" ", "-"), next_try_in_s=head.next_try_in_s, expires_in_s=None,
        halts=False, key_id=b"fail".hex(), index=0,
    )  # fmt: skip
    assert 109 < head.age_s < 120
    assert head.next_try_in_s is not None
    assert 280 < head.next_try_in_s <= 290
    assert (behind.id, behind.state, behind.halts, behind.retries) == (name, "pending", True, 0)
    assert behind.expires_in_s is not None
    assert 380 < behind.expires_in_s < 391
    assert (behind.next_try_in_s, behind.index, behind.last_error) == (None, 1, "")


def settle_head_later(journal: Journal) -> None:
    let_pass(journal, 100)
    settle_head(journal, "retry", reason="connection lost", pause_s=300)


def test_what_is_being_sent_is_shown_as_that(journal: Journal, inventory: Inventory) -> None:
    """The head of a claimed lane, and no other; nor one whose holder is dead, or is over his time."""
    queue(journal, "one", "two")
    claim(journal)
    let_pass(journal, CLAIM_S)
    assert [each.state for each in inventory.waiting("a")] == ["pending", "pending"]
    assert (journal.in_flight(), inventory.in_flight(), inventory.in_flight("a")) == ([], 0, 0)
    claim(journal)
    assert [each.state for each in inventory.waiting("a")] == ["syncing", "pending"]
    assert journal.in_flight() == ["one"]
    assert (inventory.in_flight(), inventory.in_flight("a"), inventory.in_flight("b")) == (1, 1, 0)
    journal.reclaim("aa")
    assert [each.state for each in inventory.waiting("a")] == ["pending", "pending"]
    assert journal.in_flight() == []
    assert inventory.in_flight() == 0


def test_a_countdown_is_shown(journal: Journal, inventory: Inventory) -> None:
    """Wherever it stands in its lane."""
    journal.append([new("now"), new("later", countdown_s=60)])
    _, later = inventory.waiting("a")
    assert later.next_try_in_s is not None
    assert 55 < later.next_try_in_s <= 60


def test_one_operation_is_found_as_it_is_shown(journal: Journal, inventory: Inventory) -> None:
    """With its whole record; an absent or cancelled one isn't."""
    queue(journal, "failing", "behind", "gone")
    settle_head(journal, "retry", reason="503", pause_s=100)
    journal.cancel("a", "gone")
    for listed in inventory.waiting("a"):
        found = inventory.find("a", listed.id)
        assert found is not None
        one, record = found
        assert (one.state, one.retries, one.index) == (listed.state, listed.retries, listed.index)
        assert (parse(record).id, len(record)) == (listed.id, listed.size)
    assert inventory.find("a", "gone") is None
    assert inventory.find("a", "never-queued") is None


def test_a_damaged_one_is_shown_as_that(journal: Journal, inventory: Inventory) -> None:
    """What lies around it is shown whole, and looking ends."""
    queue(journal, "one", "two", "three")
    replace(journal, 1, b"\1\3")
    assert [(each.id, each.last_error) for each in inventory.waiting("a")] == [
        ("one", ""), ("?", "corrupt"), ("three", "")
    ]  # fmt: skip
    replace(journal, 0, b"\1\3")
    claim(journal)
    assert [each.id for each in inventory.waiting("a")] == ["three"]


def test_a_damaged_head_in_flight_is_named_as_well_as_can_be(journal: Journal) -> None:
    """It may be damaged while it is being sent: whoever asks what is in flight gets an answer."""
    queue(journal, "one")
    claim(journal)
    replace(journal, 0, b"\1\3two")
    assert journal.in_flight() == ["two"]
    replace(journal, 0, b"\1\3\xff\xff\xff")
    assert len(journal.in_flight()) == 1


# --- page after page


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_pages_of_any_size_show_each_once(journal: Journal, inventory: Inventory, most: int) -> None:
    """In order, where nothing changes meanwhile; tombstones leave no gap and no end."""
    queue(journal, *[f"op-{n}" for n in range(20)])
    for n in (1, 2, 3, 4, 9, 18, 19):
        journal.cancel("a", f"op-{n}")
    seen = [each.id for page in inventory.pages("a", most) for each in page.waiting]
    assert seen == waiting(journal)


def test_looking_ends_however_many_tombstones_there_are(journal: Journal, inventory: Inventory) -> None:
    """More of them in a row than a page holds, and more than a call looks back."""
    queue(journal, "first", *[f"op-{n}" for n in range(40)], "last")
    for n in range(40):
        journal.cancel("a", f"op-{n}")
    for most in (3, 10):
        assert [each.id for page in inventory.pages("a", most) for each in page.waiting] == ["first", "last"]
    assert shown(inventory) == ["first", "last"]


def test_looking_ends_however_many_damaged_ones_there_are(journal: Journal, inventory: Inventory) -> None:
    """Whose ids may be all the same."""
    queue(journal, *[f"op-{n}" for n in range(10)])
    for n in range(2, 9):
        replace(journal, n, b"")
    found = [each.id for page in inventory.pages("a", 3) for each in page.waiting]
    assert [name for name in found if name != "?"] == ["op-0", "op-1", "op-9"]


@pytest.mark.parametrize("leave", [1, 2, 5, 9])
def test_heads_that_leave_meanwhile_hide_nothing(journal: Journal, inventory: Inventory, leave: int) -> None:
    """What is there all along is shown, though it moved to the front between two pages."""
    queue(journal, *[f"op-{n}" for n in range(30)])
    seen: list[str] = []
    for page in inventory.pages("a", 4):
        seen += [each.id for each in page.waiting]
        if len(waiting(journal)) > 2 * leave:
            inventory.clear("a", leave)
    stayed = waiting(journal)
    assert [name for name in seen if name in stayed] == stayed


def test_a_great_many_heads_that_leave_meanwhile_hide_nothing(journal: Journal, inventory: Inventory) -> None:
    """More than one call looks back for where it was."""
    queue(journal, *[f"op-{n}" for n in range(4 * SCAN_RECORDS)])
    pages = inventory.pages("a", 10 * SCAN_RECORDS)
    seen = [each.id for _ in range(3) for each in next(pages).waiting]
    assert len(seen) == 3 * SCAN_RECORDS
    left = 3 * SCAN_RECORDS - 10
    while left > 0:
        left -= inventory.clear("a", left)[1]
    seen += [each.id for page in pages for each in page.waiting]
    assert seen == [f"op-{n}" for n in range(4 * SCAN_RECORDS)]


def test_heads_that_leave_a_lane_of_large_operations_hide_nothing(journal: Journal, inventory: Inventory) -> None:
    """One call looks back over few of those."""
    for n in range(30):
        journal.append([new(f"op-{n}", size=MIB)])
    pages, seen = inventory.pages("a"), list[str]()
    for _ in range(15):
        seen += [each.id for each in next(pages).waiting]
    left = 12
    while left > 0:
        left -= inventory.clear("a", left)[1]
    seen += [each.id for page in pages for each in page.waiting]
    assert set(waiting(journal)) <= set(seen)
    assert len(seen) < 60


def test_a_page_after_its_lane_was_cleared(journal: Journal, inventory: Inventory) -> None:
    """It ends, or shows what came since."""
    queue(journal, *[f"op-{n}" for n in range(10)])
    pages = inventory.pages("a", 4)
    next(pages)
    inventory.clear("a", 10)
    assert [page.waiting for page in pages] == [()]
    queue(journal, *[f"op-{n}" for n in range(20, 30)])
    pages = inventory.pages("a", 4)
    next(pages)
    inventory.clear("a", 10)
    queue(journal, "new")
    assert [each.id for page in pages for each in page.waiting] == ["new"]


def test_what_is_put_in_front_meanwhile_hides_nothing(journal: Journal, inventory: Inventory) -> None:
    """A replay to the head moves all towards the tail: rather shown twice than left out."""
    die(journal, "dead-0", "dead-1", "dead-2")
    queue(journal, *[f"op-{n}" for n in range(12)])
    seen: list[str] = []
    for page, letter in zip(inventory.pages("a", 4), [*letters(journal), *[None] * 9], strict=False):
        seen += [each.id for each in page.waiting]
        if letter:
            inventory.replay([(letter, b"")], "head")
    assert {f"op-{n}" for n in range(12)} <= set(seen)


def test_pages_may_be_asked_for_by_an_id(journal: Journal, inventory: Inventory) -> None:
    """As well as by what a page gave."""
    queue(journal, *[f"op-{n}" for n in range(6)])
    first = inventory.page("a", most=3)
    assert (first.goes_on, first.before) == (3, pack_id("op-2"))
    inventory.clear("a", 1)
    for before in ("op-2", first.before):
        page = inventory.page("a", 3, before, 2)
        assert [(each.id, each.index) for each in page.waiting] == [("op-3", 2), ("op-4", 3)]


def test_lanes_are_listed_by_how_long_they_wait(journal: Journal, inventory: Inventory) -> None:
    """Those whose heads were accepted until some moment."""
    queue(journal, "old", lane="b")
    let_pass(journal, 100)
    queue(journal, "young")
    now = inventory.journal_ms()
    assert inventory.waiting_since(now) == ["b", "a"]
    assert inventory.waiting_since(now - 50_000) == ["b"]
    assert inventory.length("b") == 1


def test_held_lanes_are_listed_however_many(journal: Journal, inventory: Inventory) -> None:
    """Each with all that it waits for."""
    for n in range(700):
        inventory.hold(f"lane-{n}")
    inventory.hold("lane-3", "replay", 60)
    die(journal, "one", halt=True)
    found = dict(inventory.held())
    assert len(found) == 701
    assert found["lane-3"] == ("paused", "replay")
    assert held_for(journal) == (halted_by("one"),)
    assert journal.snapshot().held_for == {"paused": 700, "replay": 1, "halted": 1}


# --- re-sealing


def test_other_sealed_parts_are_put_in(journal: Journal, inventory: Inventory) -> None:
    """The clear part stays, byte for byte; nothing moves; the bytes are counted anew."""
    journal.append([new("one", expires_s=60, halt=True), new("two", countdown_s=5), new("three", once=b"o" * 16)])
    before = inventory.records("a", 0, 3)
    parts = [(stored.id, stored.sealed[:4], stored.id.encode() * 9) for stored in map(parse, before)]
    assert inventory.reseal("a", 2, parts) == 3
    after = inventory.records("a", 0, 3)
    for old, new_one, (name, _, sealed) in zip(before, after, parts, strict=True):
        clear = len(old) - len(parse(old).sealed)
        assert new_one == old[:clear] + sealed
        assert parse(new_one).id == name
    assert journal.snapshot().bytes == sum(map(len, after))
    assert names(claim(journal).records) == ["one"]


def test_what_has_changed_meanwhile_is_left_alone(journal: Journal, inventory: Inventory) -> None:
    """Another sealed part, a tombstone, one that is gone, a dead one: the count tells how many were done."""
    queue(journal, "retried", "cancelled", "stays")
    journal.append([new("gone", "b")])
    parts = [(name, name.encode()[:4], b"resealed") for name in ("retried", "cancelled", "stays", "gone")]
    settle_head(journal, "retry", replacement=b"another body")
    journal.cancel("a", "cancelled")
    before = inventory.records("a", 0, 3)
    assert inventory.reseal("a", 2, parts) == 1
    after = inventory.records("a", 0, 3)
    assert after[:2] == before[:2]
    assert parse(after[2]).sealed == b"resealed"
    assert inventory.reseal("a", 2, [("cancelled", b"", b"resealed")]) == 0
    assert inventory.records("a", 0, 3) == after


def test_a_head_in_flight_is_resealed(journal: Journal, inventory: Inventory) -> None:
    """Its holder's copy is as good: it settles by the id."""
    queue(journal, "one", "two")
    run = claim(journal)
    assert inventory.reseal("a", 1, [("one", b"one", b"resealed-1"), ("two", b"two", b"resealed-2")]) == 2
    settled = journal.settle("a", run.fence, "one", "retry")
    assert settled.status == "ok"
    assert [parse(record).sealed for record in claim(journal).records] == [b"resealed-1", b"resealed-2"]


def test_heads_that_leave_before_a_reseal(journal: Journal, inventory: Inventory) -> None:
    """Those left are found further in front than they were read."""
    queue(journal, *[f"op-{n}" for n in range(10)])
    parts = [(f"op-{n}", b"op-", b"resealed") for n in (3, 4, 8)]
    inventory.clear("a", 4)
    assert inventory.reseal("a", 8, parts) == 2
    sealed = {parse(record).id: parse(record).sealed for record in inventory.records("a", 0, 10)}
    assert {name for name, part in sealed.items() if part == b"resealed"} == {"op-4", "op-8"}
    assert waiting(journal) == [f"op-{n}" for n in range(4, 10)]


def test_a_reseal_of_an_emptied_lane_does_nothing(journal: Journal, inventory: Inventory) -> None:
    """Nor one that names no operation."""
    assert inventory.reseal("a", 5, [("one", b"", b"resealed")]) == 0
    queue(journal, "one")
    assert inventory.reseal("a", 0, []) == 0
    assert parse(inventory.records("a", 0, 1)[0]).sealed == b"one....."


# --- strings, and the audit log


def test_a_string_is_swapped_only_where_it_is_what_it_was(journal: Journal, inventory: Inventory) -> None:
    """And keeps its time to live."""
    key = journal.keys.secret
    journal.store.command("SET", key, b"was", "PX", 60_000)
    assert inventory.swap(key, b"other", b"new") is False
    assert journal.store.command("GET", key) == b"was"
    assert inventory.swap(key, b"was", b"new") is True
    assert journal.store.command("GET", key) == b"new"
    assert 0 < journal.store.command("PTTL", key) <= 60_000
    journal.store.command("DEL", key)
    assert inventory.swap(key, b"new", b"again") is False
    assert journal.store.command("EXISTS", key) == 0


def test_what_a_person_did_is_noted(journal: Journal, inventory: Inventory) -> None:
    """Who, what, which, with what result, and when; the newest first."""
    inventory.note("anna", "clear", "lane a")
    inventory.note("bert", "drop", "op-1")
    newest, oldest = inventory.notes(10)
    assert (newest["who"], newest["what"], newest["which"]) == ("bert", "drop", "op-1")
    assert (oldest["who"], oldest["which"]) == ("anna", "lane a")
    assert int(oldest["wall"]) > 0
    assert [note["who"] for note in inventory.notes(1)] == ["bert"]


def test_the_audit_log_is_bounded(journal: Journal, inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest notes go when there are very many."""
    monkeypatch.setattr("fluxy_sync.journal.inventory.AUDIT_NOTES", 100)
    for n in range(400):
        inventory.note("anna", "drop", f"op-{n}")
    assert 100 <= len(inventory.notes(1000)) < 300
    assert inventory.notes(1)[0]["which"] == "op-399"
