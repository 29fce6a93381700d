"""Replay: dead letters go back into their lanes, at the tail or at the head."""

import pytest

from fluxy_sync.journal import DeadLetter, Inventory, Journal
from fluxy_sync.journal.record import pack_id, parse
from tests.journal_state import Entry
from tests.journal_steps import (
    OTHER_WORKER,
    claim,
    die,
    halted_by,
    held_for,
    idle,
    let_pass,
    letters,
    names,
    new,
    now_ms,
    queue,
    settle_head,
    waiting,
)


@pytest.fixture
def inventory(journal: Journal) -> Inventory:
    return Inventory(journal)


def stored(journal: Journal, index: int = 0) -> bytes:
    record: bytes = journal.store.command("LINDEX", journal.keys.lane("a"), index)
    return record


def test_at_the_tail_they_follow_what_waits(journal: Journal, inventory: Inventory) -> None:
    """One after another, in the order given, each into its own lane; past the quota, as they count already."""
    die(journal, "dead-1", "dead-2")
    die(journal, "other", lane="b")
    queue(journal, "one")
    found = {each.id: (each, b"") for each in letters(journal)}
    journal.forget_wake()
    assert inventory.replay([found["dead-2"], found["other"], found["dead-1"]], "tail") == (3, True)
    assert (waiting(journal), waiting(journal, "b")) == (["one", "dead-2", "dead-1"], ["other"])
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.dead, snapshot.dead_total) == (4, 0, 3)
    assert snapshot.bytes == sum(len(stored(journal, n)) for n in range(3)) + len(
        journal.store.command("LINDEX", journal.keys.lane("b"), 0)
    )
    assert letters(journal) == []


def test_at_the_head_each_goes_in_front_of_the_one_before(journal: Journal, inventory: Inventory) -> None:
    """Given in reverse they stand in their old order, in front of all that waits."""
    die(journal, "dead-1", "dead-2", "dead-3")
    queue(journal, "one", "two")
    assert inventory.replay([(each, b"") for each in reversed(letters(journal))], "head")[0] == 3
    assert names(claim(journal).records) == ["dead-1", "dead-2", "dead-3", "one", "two"]


def test_at_the_head_they_go_behind_what_is_being_sent(journal: Journal, inventory: Inventory) -> None:
    """Its holder finds it at the head, and goes on with them."""
    die(journal, "dead-1", "dead-2")
    queue(journal, "flying", "behind")
    run = claim(journal)
    assert inventory.replay([(each, b"") for each in reversed(letters(journal))], "head")[0] == 2
    assert waiting(journal) == ["flying", "dead-1", "dead-2", "behind"]
    assert journal.settle("a", run.fence, "flying", "delivered").next_id == "dead-1"


def test_at_the_head_of_a_lane_in_backoff(journal: Journal, inventory: Inventory) -> None:
    """It is due at once: the backoff was the former head's."""
    die(journal, "dead")
    queue(journal, "failing")
    settle_head(journal, "retry", pause_s=600)
    journal.forget_wake()
    assert inventory.replay([(letters(journal)[0], b"")], "head") == (1, True)
    run = claim(journal)
    assert (names(run.records), run.retries) == (["dead", "failing"], 0)


def test_at_the_tail_of_a_lane_in_backoff(journal: Journal, inventory: Inventory) -> None:
    """It waits behind the head, as all do."""
    die(journal, "dead")
    queue(journal, "failing")
    settle_head(journal, "retry", pause_s=600)
    journal.forget_wake()
    assert inventory.replay([(letters(journal)[0], b"")], "tail") == (1, False)
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert due_in > 590


@pytest.mark.parametrize("end", ["head", "tail"])
def test_on_a_held_lane_they_wait(journal: Journal, inventory: Inventory, end: str) -> None:
    """And count as held."""
    die(journal, "dead")
    inventory.hold("a")
    journal.forget_wake()
    assert inventory.replay([(letters(journal)[0], b"")], end) == (1, False)  # type: ignore[arg-type]
    assert journal.snapshot().held == 1
    assert idle(journal).due_in_s is None


@pytest.mark.parametrize("end", ["head", "tail"])
def test_a_claim_of_a_dead_holder_stops_nothing(journal: Journal, inventory: Inventory, end: str) -> None:
    """Nobody is sending the head: a replay may go in front of it."""
    die(journal, "dead")
    queue(journal, "one")
    claim(journal)
    journal.reclaim("aa")
    inventory.replay([(letters(journal)[0], b"")], end)  # type: ignore[arg-type]
    expected = ["dead", "one"] if end == "head" else ["one", "dead"]
    assert names(claim(journal, OTHER_WORKER).records) == expected


def test_its_time_to_live_starts_anew(journal: Journal, inventory: Inventory) -> None:
    """Counted from now; an operation without one has none; a countdown isn't waited for again."""
    die(journal, "expired", reason="expired", expires_s=60)
    journal.append([new("later", countdown_s=30)])
    let_pass(journal, 30)
    settle_head(journal, "dead", reason="expired")
    let_pass(journal, 1000)
    for each in letters(journal):
        inventory.replay([(each, b"")], "tail")
    first, second = (parse(stored(journal, n)) for n in range(2))
    assert now_ms(journal) - first.accepted_ms < 5000
    assert first.expires_ms - first.accepted_ms == 60_000
    assert (second.expires_ms, second.due_ms) == (0, 0)


@pytest.mark.parametrize(
    ("reason", "sealed", "counts"),
    [
        ("422", b"", True), ("400", b"", True), ("304", b"", True), ("499", b"", True), ("422", b"edited", False),
        ("expired", b"", False), ("retries-spent", b"", False), ("503", b"", False), ("200", b"", False),
        ("4221", b"", False), ("x422", b"", False), ("42", b"", False), ("dropped", b"", False),
        ("killed-its-worker", b"", False),
    ],
)  # fmt: skip
def test_one_that_the_server_refused_goes_out_under_a_new_key(
    journal: Journal, inventory: Inventory, reason: str, sealed: bytes, counts: bool
) -> None:
    """Any other may have been done already: its key stays. An edited one brings its own."""
    die(journal, "one", reason=reason)
    inventory.replay([(letters(journal)[0], sealed)], "tail")
    assert parse(stored(journal)).replays == int(counts)


def test_each_refusal_counts(journal: Journal, inventory: Inventory) -> None:
    """Up to what two bytes hold; deaths for other reasons in between leave the number."""
    die(journal, "one", reason="422")
    for reason, replays in (("409", 1), ("expired", 2), ("422", 2), ("422", 3)):
        inventory.replay([(letters(journal)[0], b"")], "tail")
        assert parse(stored(journal)).replays == replays
        settle_head(journal, "dead", reason=reason)
    died_often = Entry("one", 1, 0, 0, b"one.....", replays=65_535).stored
    value = journal.store.command("HGET", journal.keys.dead, pack_id("one"))
    letter = value[: value.index(b"\1\3one")]
    journal.store.command("HSET", journal.keys.dead, pack_id("one"), letter + died_often)
    inventory.replay([(letters(journal)[0], b"")], "tail")
    assert parse(stored(journal)).replays == 65_535


def test_it_keeps_what_it_was(journal: Journal, inventory: Inventory) -> None:
    """Its id, its once key, whether it halts, its sealed part; an edited one has another sealed part."""
    die(journal, "one", halt=True, once=b"sixteen bytes...")
    die_again = inventory.replay([(letters(journal)[0], b"")], "tail")
    assert die_again[0] == 1
    record = parse(stored(journal))
    assert (record.id, record.once, record.halts, record.sealed) == ("one", b"sixteen bytes...", True, b"one.....")
    settle_head(journal, "dead", reason="422")
    assert held_for(journal) == (halted_by("one"),)
    inventory.replay([(letters(journal)[0], b"edited, and longer than it was")], "head")
    record = parse(stored(journal))
    assert (record.id, record.halts, record.sealed) == ("one", True, b"edited, and longer than it was")
    assert journal.snapshot().bytes == len(stored(journal))
    assert held_for(journal) == ()


def test_a_replayed_one_starts_without_retries(journal: Journal, inventory: Inventory) -> None:
    """Its policy begins anew."""
    queue(journal, "failing")
    for _ in range(3):
        settle_head(journal, "retry", reason="503")
    settle_head(journal, "dead", reason="retries-spent")
    assert letters(journal)[0].retries == 3
    inventory.replay([(letters(journal)[0], b"")], "tail")
    assert claim(journal).retries == 0


def test_only_what_is_there_is_put_back(journal: Journal, inventory: Inventory) -> None:
    """One named twice, dropped meanwhile, or of another lane: the others go."""
    die(journal, "one", "two")
    one, two = letters(journal)
    inventory.drop([two])
    elsewhere = DeadLetter(**{name: getattr(one, name) for name in one.__struct_fields__} | {"lane": "b"})
    assert inventory.replay([(elsewhere, b""), (two, b"")], "tail") == (0, False)
    assert inventory.drop([elsewhere]) == (0, False)
    journal.forget_wake()
    assert inventory.replay([(one, b""), (two, b""), (one, b"")], "tail") == (1, True)
    assert waiting(journal) == ["one"]
    assert journal.snapshot().pending == 1


def test_a_replayed_one_is_still_known(journal: Journal, inventory: Inventory) -> None:
    """Queued again with its id, it is stored once."""
    die(journal, "one")
    inventory.replay([(letters(journal)[0], b"")], "tail")
    queue(journal, "one")
    assert waiting(journal) == ["one"]
