"""A damaged record costs that record at most: nothing else is lost, blocked or sent as something else."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.journal import Claim, Inventory, Journal
from fluxy_sync.journal.record import parse
from tests.journal_state import Entry, check_of
from tests.journal_steps import WORKER, claim, fresh_uuid, halted_by, let_pass, names, new, queue, settle_head

CLEAR_PART = 1 + 1 + 4 + 1 + 6 + 2  # of a record whose id has four characters


def stored(journal: Journal, index: int = 0) -> bytes:
    record: bytes = journal.store.command("LINDEX", journal.keys.lane("a"), index)
    return record


def damage(journal: Journal, index: int, record: bytes) -> None:
    journal.store.command("LSET", journal.keys.lane("a"), index, record)


def reasons(journal: Journal) -> list[bytes]:
    """Why each dead letter died."""
    values = journal.store.command("HVALS", journal.keys.dead)
    return [value[2 + value[0] :][: value[1 + value[0]]] for value in values]


@pytest.mark.parametrize("keeps", range(CLEAR_PART + 1))
def test_a_head_that_was_cut_off_is_buried_alone(journal: Journal, keeps: int) -> None:
    """However little is left of it: it becomes a dead letter, 'corrupt', and its lane goes on."""
    queue(journal, "op-0", "op-1")
    queue(journal, "other", lane="b")
    damage(journal, 0, stored(journal)[:keeps])
    runs = {run.lane: names(run.records) for run in (claim(journal), claim(journal))}
    assert runs == {"a": ["op-1"], "b": ["other"]}
    assert reasons(journal) == [b"corrupt"]
    assert (journal.snapshot().pending, journal.snapshot().dead) == (2, 1)


@pytest.mark.parametrize("keeps", [0, 1, 2, 9, 17, 18, 23, 25, 26, 27])
def test_an_operation_with_a_uuid_that_was_cut_off(journal: Journal, keeps: int) -> None:
    """Ids in binary form are as safe."""
    whole = [fresh_uuid(), fresh_uuid()]
    queue(journal, *whole)
    damage(journal, 0, stored(journal)[:keeps])
    assert names(claim(journal).records) == whole[1:]
    assert reasons(journal) == [b"corrupt"]


def test_several_damaged_ones_in_a_row_are_all_buried(journal: Journal) -> None:
    """One claim gets past them."""
    queue(journal, *[f"op-{n}" for n in range(5)])
    for index in range(4):
        damage(journal, index, stored(journal, index)[: 6 + index])
    assert names(claim(journal).records) == ["op-4"]
    assert reasons(journal) == [b"corrupt"] * 4


def test_a_run_ends_before_a_damaged_record(journal: Journal) -> None:
    """The holder settles what it has; the damaged one is nobody's next head, and the next claim buries it."""
    queue(journal, "op-0", "op-1", "op-2")
    damage(journal, 1, stored(journal, 1)[:5])
    run = claim(journal)
    assert names(run.records) == ["op-0"]
    settled = journal.settle("a", run.fence, "op-0", "delivered")
    assert (settled.status, settled.next_id) == ("ok", "")
    assert names(claim(journal).records) == ["op-2"]
    assert reasons(journal) == [b"corrupt"]


def test_no_flag_makes_a_living_record_a_tombstone(journal: Journal) -> None:
    """A flipped bit may say 'cancelled': a record that still has its sealed part isn't dropped for that."""
    queue(journal, "op-0", "op-1")
    record = bytearray(stored(journal))
    record[6] |= 4
    damage(journal, 0, bytes(record))
    assert names(claim(journal).records) == ["op-1"]
    assert reasons(journal) == [b"corrupt"]


def whole_record(name: str, *, sealed: bytes = b"keyIsealed part") -> bytes:
    """A record with every field that there may be, from long ago."""
    return Entry(name, 1_000_000, 1_000_500, 9_000_000, sealed, True, b"sixteen bytes...", 3).stored


@pytest.mark.parametrize("name", ["op-1", "01a2090f-0785-712b-9338-b758cc648102"])
def test_one_flipped_bit_of_a_clear_part_costs_that_record_alone(journal: Journal, name: str) -> None:
    """Every bit of every byte: the one is a dead letter, as it was found; what follows it is delivered at once."""
    let_pass(journal, 2000)
    record = whole_record(name)
    clear = len(record) - len(parse(record).sealed)
    flips = [(at, bit) for at in range(clear) for bit in range(8)]
    for at, bit in flips:
        lane, damaged = f"{at}.{bit}", _flip(record, at, bit)
        journal.append([new(f"head-{lane}", lane, size=len(record)), new(f"behind-{lane}", lane)])
        journal.store.command("LSET", journal.keys.lane(lane), 0, damaged)
        run = claim(journal)
        assert [(each.lane, each.reason, each.record) for each in run.buried] == [(lane, "corrupt", damaged)]
        assert (run.lane, names(run.records)) == (lane, [f"behind-{lane}"])
        assert journal.settle(lane, run.fence, f"behind-{lane}", "delivered").status == "ok"
    snapshot = journal.snapshot()
    assert (snapshot.dead, snapshot.delivered_total, snapshot.pending) == (len(flips), len(flips), 0)
    assert snapshot.held_for == {}, "a damaged one halts nothing"
    assert {value[-len(record) :] for value in journal.store.command("HVALS", journal.keys.dead)} == {
        _flip(record, at, bit) for at, bit in flips
    }


@pytest.mark.parametrize("name", ["op-1", "01a2090f-0785-712b-9338-b758cc648102"])
def test_a_flipped_bit_of_a_sealed_part_is_not_the_journals_to_judge(journal: Journal, name: str) -> None:
    """It is given out as it is: the seal tells the worker, who knows the key."""
    let_pass(journal, 2000)
    record = whole_record(name)
    clear = len(record) - len(parse(record).sealed)
    for at in range(clear, len(record)):
        for bit in range(8):
            lane, damaged = f"{at}.{bit}", _flip(record, at, bit)
            journal.append([new(f"head-{lane}", lane), new(f"behind-{lane}", lane)])
            journal.store.command("LSET", journal.keys.lane(lane), 0, damaged)
            run = claim(journal)
            assert (run.lane, run.records[0], run.buried) == (lane, damaged, ())
            assert names(run.records) == [name, f"behind-{lane}"]
            assert journal.settle(lane, run.fence, name, "dead", reason="corrupt").status == "ok"
            assert Inventory(journal).let_go(lane, halted_by(name))[0], "it asked for that"
            assert settle_head(journal, "delivered", lane) == f"behind-{lane}"


@pytest.mark.parametrize("what", ["format", "flag", "due before it was accepted", "due in a hundred years"])
def test_what_can_not_be_true_is_damaged(journal: Journal, what: str) -> None:
    """Though its check is right: it is neither sent nor put off, but kept as a dead letter."""
    let_pass(journal, 2000)
    queue(journal, "op-0", "op-1")
    record = Entry("op-0", 1_000_000, 1_000_500, 0, b"sealed").stored
    if what.startswith("due"):
        due = 999_999 if "before" in what else 1_000_001 + 100 * 365 * 86_400_000
        record = Entry("op-0", 1_000_000, due, 0, b"sealed").stored
    else:
        clear = bytearray(record[: -len(b"sealed") - 2])
        clear[0 if what == "format" else 6] += 64
        record = bytes(clear) + check_of(clear) + b"sealed"
    damage(journal, 0, record)
    run = claim(journal)
    assert ([each.record for each in run.buried], names(run.records)) == ([record], ["op-1"])


def test_a_run_brings_no_record_whose_clear_part_can_not_be_true(journal: Journal) -> None:
    """What is behind the head is looked at lightly, and wholly when it becomes the head."""
    let_pass(journal, 2000)
    queue(journal, "op-0", "op-1", "op-2")
    damaged = bytearray(whole_record("op-1"))
    damaged[-len(b"keyIsealed part") - 1] ^= 1  # of its check
    damage(journal, 1, bytes(damaged))
    run = claim(journal)
    assert names(run.records) == ["op-0", "op-1", "op-2"]
    settled = journal.settle("a", run.fence, "op-0", "delivered")
    assert (settled.status, settled.next_id) == ("ok", "")
    found = claim(journal)
    assert ([each.id for each in found.buried], names(found.records)) == (["op-1"], ["op-2"])


def test_a_damaged_head_may_still_be_settled(journal: Journal) -> None:
    """It was sent before it was damaged, and is named by an id that is whole."""
    queue(journal, "op-0", "op-1")
    run = claim(journal)
    record = bytearray(stored(journal))
    record[8] ^= 1
    damage(journal, 0, bytes(record))
    assert journal.settle("a", run.fence, "op-0", "delivered").next_id == "op-1"
    assert (journal.snapshot().delivered_total, journal.snapshot().dead) == (1, 0)


@pytest.mark.parametrize("way", ["cancel", "clear", "retry", "release"])
def test_whatever_is_done_with_a_damaged_head(journal: Journal, way: str) -> None:
    """It is taken out, or buried when its lane is claimed next; never sent."""
    queue(journal, "op-0", "op-1")
    run = claim(journal)
    record = bytearray(stored(journal))
    record[8] ^= 1
    damage(journal, 0, bytes(record))
    if way == "retry":
        assert journal.settle("a", run.fence, "op-0", "retry").status == "ok"
    else:
        journal.release("a", run.fence)
    if way == "cancel":
        assert journal.cancel("a", "op-0")[0] == "cancelled"
    elif way == "clear":
        assert Inventory(journal).clear("a", 1) == (1, 1)
    assert names(claim(journal).records) == ["op-1"]
    assert journal.snapshot().pending == 1


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_damaged_nothing_else_is_lost(journal: Journal, data: st.DataObject) -> None:
    """Cut off, flipped or overwritten: every other operation is delivered in order, the damaged one counted."""
    journal = Journal(journal.store, fresh_uuid())
    ids, index, delivered = ["head", fresh_uuid(), "tail"], data.draw(st.integers(0, 2)), []
    queue(journal, *ids)
    damaged = data.draw(_damaged(stored(journal, index)))
    assume(b"head" not in damaged and b"tail" not in damaged)  # not by chance another operation
    damage(journal, index, damaged)
    for _ in range(10):
        found = journal.claim(WORKER)
        if isinstance(found, Claim):
            delivered.append(_deliver(journal, found))
        else:
            let_pass(journal, (found.due_in_s or 0) + 0.001)
    assert journal.snapshot().pending == 0
    others = [name for n, name in enumerate(ids) if n != index]
    assert [name for name in delivered if name in others] == others
    snapshot = journal.snapshot()
    assert (snapshot.dead, snapshot.delivered_total) in ((0, 3), (1, 2))


def _damaged(record: bytes) -> st.SearchStrategy[bytes]:
    cut = st.integers(0, len(record) - 1).map(lambda n: record[:n])
    flip = st.tuples(st.integers(0, len(record) - 1), st.integers(0, 7)).map(lambda at: _flip(record, *at))
    return cut | flip | st.binary(max_size=40)


def _flip(record: bytes, at: int, bit: int) -> bytes:
    return record[:at] + bytes([record[at] ^ 1 << bit]) + record[at + 1 :]


def _deliver(journal: Journal, run: Claim) -> str:
    """What the store gives out can be read, and settled by the name that is read."""
    name = parse(run.records[0]).id
    assert journal.settle(run.lane, run.fence, name, "delivered", give_up=True).status == "ok"
    return name


def test_a_damaged_record_elsewhere_does_not_stop_a_search(journal: Journal) -> None:
    """What lies beside it is found and cancelled."""
    queue(journal, "op-0", "op-1", "op-2")
    damage(journal, 1, b"")
    assert journal.find("a", "op-2")[0] == "pending"
    assert journal.cancel("a", "op-2")[0] == "cancelled"
    assert settle_head(journal, "delivered") == "op-0"
    assert not isinstance(journal.claim(WORKER), Claim)
    assert (journal.snapshot().dead, journal.snapshot().pending) == (1, 0)


# --- what is said of it


def test_what_can_not_be_read_is_named_and_keeps_its_cause(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """The log says which reply, and what was wrong with it; the error keeps the cause."""
    journal.store.command("HSET", journal.keys.fixed[0], "now", "soon")
    with pytest.raises(StorageUnavailable, match="damaged, or changed by hand") as caught:
        Inventory(journal).journal_ms()
    assert isinstance(caught.value.__cause__, ValueError)
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("error", [TypeError, ValueError, LookupError, OverflowError])
def test_a_fault_of_the_callers_is_not_called_damage(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Only what can't be read of a reply is the store's: anything else is shown as what it is."""

    def fail(*_: object, **__: object) -> None:
        raise error("ours")

    queue(journal, "one")
    run = claim(journal)
    monkeypatch.setattr(journal.store, "run", fail)
    monkeypatch.setattr(journal.store, "run_then", fail)
    inventory = Inventory(journal)
    steps: list[Callable[[], object]] = [
        lambda: journal.claim(WORKER),
        lambda: journal.settle("a", run.fence, "one", "retry"),
        lambda: journal.tick("beat", "beat"),
        journal.snapshot,
        journal.in_flight,
        lambda: list(inventory.waiting("a")),
        lambda: inventory.find("a", "one"),
        lambda: list(inventory.letters()),
    ]
    for step in steps:
        with pytest.raises(error, match="ours"):
            step()
