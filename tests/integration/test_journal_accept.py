"""Accepting: all or none, each once; and taking an operation back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxy_sync.errors import QueueFull
from fluxy_sync.journal import Journal, Quota
from fluxy_sync.journal.journal import RECENT_IDS
from fluxy_sync.journal.record import pack_id, parse
from tests.journal_steps import claim, idle, let_pass, names, new, now_ms, queue, settle_head, waiting

SCAN_RECORDS = 500  # of lua/_prelude.lua: what one call looks at
COMMAND, REPEATED = b"command-0001", True


def append_raw(journal: Journal, command: bytes, repeated: bool, *names: str, limit: int = RECENT_IDS) -> list[object]:
    """The script itself, so that one command can be given twice."""
    flat = journal.flatten([new(name) for name in names], ["a"])
    arguments = [command, int(repeated), journal._quota.max_pending, 0, 0, "reject", limit, 3000, 0, *flat]
    answer: list[object] = journal.run("append", *arguments, lanes=["a"])
    return answer


# --- append


def test_one_operation_is_accepted(journal: Journal) -> None:
    """It waits in its lane with its id, its times and its sealed part, and is counted."""
    assert journal.append([new("one", countdown_s=2, expires_s=9)]).woken is False
    stored = parse(journal.store.command("LINDEX", journal.keys.lane("a"), 0))
    assert (stored.id, stored.sealed, stored.accepted_ms) == ("one", b"one.....", now_ms(journal))
    assert (stored.due_ms - stored.accepted_ms, stored.expires_ms - stored.accepted_ms) == (2000, 9000)
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.lanes, snapshot.bytes) == (1, 1, 1 + 4 + 1 + 18 + 2 + 8)


def test_many_operations_keep_their_order_on_each_lane(journal: Journal) -> None:
    """One command fills several lanes, each in the order given."""
    journal.append([new("a1"), new("b1", "b"), new("a2"), new("b2", "b"), new("a3")])
    assert waiting(journal) == ["a1", "a2", "a3"]
    assert waiting(journal, "b") == ["b1", "b2"]
    assert sorted(journal.lanes()) == ["a", "b"]


def test_a_due_operation_wins_one_wake_token(journal: Journal) -> None:
    """Only who makes a lane due is told to wake a worker, and only while no token waits."""
    assert journal.append([new("later", "c", countdown_s=5)]).woken is False
    assert journal.append([new("one")]).woken is True
    assert journal.append([new("two")]).woken is False
    assert journal.append([new("other", "b")]).woken is False
    journal.forget_wake()
    assert journal.append([new("third", "d")]).woken is True


def test_nothing_wins_a_token_through_a_closed_gate(journal: Journal) -> None:
    """While offline, queueing wakes nobody."""
    journal.close_gate("offline", "refused")
    assert journal.append([new("one")]).woken is False


@pytest.mark.parametrize("bound", ["max_pending", "max_bytes"])
def test_a_full_queue_accepts_none_of_a_batch(journal: Journal, bound: str) -> None:
    """Two of three would fit: none is accepted, the error names the setting, and what is there stays."""
    limit = {"max_pending": 3, "max_bytes": 11_900}[bound]  # three of 3,000 bytes and what the store needs beside them
    small = Journal(journal.store, journal.keys.namespace, Quota(**{bound: limit}))
    small.append([new("kept", size=3000)])
    with pytest.raises(QueueFull, match=f"FLUXY_SYNC_{bound.upper()}.*nothing was accepted"):
        small.append([new("x1", size=3000), new("x2", "b", size=3000), new("x3", size=3000)])
    assert waiting(small) == ["kept"]
    assert waiting(small, "b") == []
    small.append([new("x1", size=3000), new("x2", "b", size=3000)])
    assert small.snapshot().pending == 3


@pytest.mark.parametrize("name", ["op-1", "01a2090f-0785-712b-9338-b758cc648102"])
def test_a_known_id_is_not_stored_again(journal: Journal, name: str) -> None:
    """Queued again with the same id, also after it was delivered, it is accepted and stored once."""
    queue(journal, name)
    queue(journal, name)
    assert waiting(journal) == [name]
    settle_head(journal, "delivered")
    queue(journal, name, "next")
    assert waiting(journal) == ["next"]


def test_an_id_named_twice_in_one_batch_is_stored_once(journal: Journal) -> None:
    """The first one counts."""
    journal.append([new("twin"), new("twin", "b"), new("twin")])
    assert (waiting(journal), waiting(journal, "b")) == (["twin"], [])
    assert journal.snapshot().pending == 1


def test_a_known_id_passes_a_full_queue(journal: Journal) -> None:
    """A repeat needs no room: its caller hears 'accepted', not 'full'."""
    small = Journal(journal.store, journal.keys.namespace, Quota(max_pending=1))
    queue(small, "one")
    queue(small, "one")
    with pytest.raises(QueueFull):
        queue(small, "two")


def test_a_command_that_comes_twice_is_stored_once(journal: Journal) -> None:
    """The reply was lost and the command is sent again: the same answer, one copy."""
    assert append_raw(journal, COMMAND, False, "one", "two")[0] == b"ok"
    assert append_raw(journal, COMMAND, REPEATED, "one", "two") == [b"ok", 0, 0]
    assert waiting(journal) == ["one", "two"]


def test_a_late_copy_of_a_refused_command_is_refused(journal: Journal) -> None:
    """Once its caller was told 'full', the first copy may not land, even where there is room by then."""
    small = Journal(journal.store, journal.keys.namespace, Quota(max_pending=1))
    queue(small, "first")
    assert append_raw(small, COMMAND, REPEATED, "late") == [b"full", b"pending"]
    settle_head(small, "delivered")
    assert append_raw(small, COMMAND, False, "late") == [b"refused"]
    assert waiting(small) == []


def test_a_refusal_that_was_heard_leaves_nothing_behind(journal: Journal) -> None:
    """A plain 'full' may be tried again as it is."""
    small = Journal(journal.store, journal.keys.namespace, Quota(max_pending=1))
    queue(small, "first")
    assert append_raw(small, COMMAND, False, "again")[0] == b"full"
    settle_head(small, "delivered")
    assert append_raw(small, COMMAND, False, "again")[0] == b"ok"


def test_ids_are_remembered_for_a_bounded_while(journal: Journal) -> None:
    """At least ``limit`` ids are known, at most twice as many: the memory that repeats cost is bounded."""
    limit, recent, old = 5, journal.keys.fixed[12], journal.keys.fixed[13]
    for n in range(23):
        append_raw(journal, b"c%d" % n, False, f"op-{n}", limit=limit)
        size = journal.store.command("SCARD", recent) + journal.store.command("SCARD", old)
        assert min(n + 1, limit) <= size <= 2 * limit
    assert append_raw(journal, b"again", False, "op-22", limit=limit) == [b"ok", 0, 0]
    assert append_raw(journal, b"forgotten", False, "op-1", limit=limit)[0] == b"ok"
    assert waiting(journal)[-1] == "op-1"


# --- cancel and find


@pytest.mark.parametrize("place", [0, 1, 2])
def test_any_waiting_operation_can_be_taken_back(journal: Journal, place: int) -> None:
    """Head, middle or tail: it comes back as it was stored, the others keep their order, the counts follow."""
    queue(journal, "op-0", "op-1", "op-2")
    status, record = journal.cancel("a", f"op-{place}")
    assert (status, parse(record).id, parse(record).sealed) == ("cancelled", f"op-{place}", f"op-{place}....".encode())
    left = [f"op-{n}" for n in range(3) if n != place]
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.cancelled_total, snapshot.bytes) == (2, 1, 2 * 23)
    assert journal.cancel("a", f"op-{place}")[0] == "absent"
    assert names(claim(journal).records) == left


def test_what_is_being_sent_can_not_be_taken_back(journal: Journal) -> None:
    """The head of a claimed lane is in flight; what waits behind it isn't."""
    queue(journal, "head", "behind")
    run = claim(journal)
    assert journal.cancel("a", "head") == ("sending", b"")
    assert journal.cancel("a", "behind")[0] == "cancelled"
    settled = journal.settle("a", run.fence, "head", "delivered")
    assert (settled.status, settled.next_id) == ("ok", "")
    assert journal.snapshot().pending == 0
    assert journal.store.command("EXISTS", journal.keys.lane("a")) == 0


def test_a_cancelled_operation_does_not_shift_the_holder(journal: Journal) -> None:
    """The next head is named: a holder that has an older copy of the run never sends the cancelled one."""
    queue(journal, "one", "two", "three")
    run = claim(journal)
    journal.cancel("a", "two")
    assert journal.settle("a", run.fence, "one", "delivered").next_id == "three"


def test_cancelled_ones_leave_no_trace(journal: Journal) -> None:
    """When the last living operation goes, so do the tombstones behind it and their count."""
    queue(journal, "one", "two", "three")
    journal.cancel("a", "two")
    journal.cancel("a", "three")
    assert settle_head(journal, "delivered") == "one"
    left = journal.store.command("EXISTS", journal.keys.lane("a"), journal.keys.fixed[14], journal.keys.oldest)
    assert (left, idle(journal).due_in_s) == (0, None)


def test_cancelling_a_retried_head_ends_its_wait(journal: Journal) -> None:
    """Its backoff and its retry state were its own: the next one is due at once and starts from nothing."""
    queue(journal, "failing", "next")
    settle_head(journal, "retry", pause_s=600)
    assert journal.find("a", "failing")[0] == "retrying"
    assert journal.cancel("a", "failing")[0] == "cancelled"
    run = claim(journal)
    assert (names(run.records), run.retries, journal.snapshot().retrying) == (["next"], 0, 0)


@pytest.mark.parametrize(("reason", "goes_on"), [("key:0badcafe", True), ("halted", False)])
def test_cancelling_a_held_head(journal: Journal, reason: str, goes_on: bool) -> None:
    """A hold for the head's own missing key ends with the head; one that a person set stays."""
    queue(journal, "unreadable", "next")
    run = claim(journal)
    journal.settle("a", run.fence, "unreadable", "hold", reason=reason)
    assert journal.cancel("a", "unreadable")[0] == "cancelled"
    assert journal.snapshot().held == (0 if goes_on else 1)
    assert isinstance(journal.claim("aa 11"), type(run)) is goes_on


def test_find_tells_the_state(journal: Journal) -> None:
    """Pending, syncing, retrying or absent; an id that waits on another lane is absent here."""
    queue(journal, "head", "behind")
    assert journal.find("a", "head")[0] == "pending"
    assert journal.find("b", "head") == ("absent", b"")
    for no_id in ("", "x" * 300, "\xfc\udc80"):
        assert journal.find("a", no_id)[0] == journal.cancel("a", no_id)[0] == "absent"
        assert journal.is_dead(no_id) is False
    run = claim(journal)
    assert journal.find("a", "head")[0] == "syncing"
    assert journal.find("a", "behind")[0] == "pending"
    journal.settle("a", run.fence, "head", "retry", pause_s=9)
    status, record = journal.find("a", "head")
    assert (status, parse(record).id) == ("retrying", "head")
    let_pass(journal, 9)
    settle_head(journal, "dead")
    assert journal.find("a", "head")[0] == "absent"
    assert journal.is_dead("head")
    assert not journal.is_dead("behind")


@pytest.mark.parametrize("length", [SCAN_RECORDS - 1, SCAN_RECORDS, SCAN_RECORDS + 1, 2 * SCAN_RECORDS])
def test_long_lanes_are_searched_in_stretches(journal: Journal, length: int) -> None:
    """First, last and those around the stretches' ends are found, whatever the lane's length."""
    journal.append([new(f"op-{n}") for n in range(length)])
    around = {0, 1, length - 1, length - SCAN_RECORDS - 1, length - SCAN_RECORDS, length - SCAN_RECORDS + 1}
    for n in sorted(n for n in around if 0 <= n < length):
        assert journal.find("a", f"op-{n}")[0] == "pending"
    assert journal.find("a", "never-queued") == ("absent", b"")
    assert journal.cancel("a", "op-0")[0] == "cancelled"
    assert waiting(journal)[0] == "op-1"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200) | st.uuids().map(str))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_id_is_found_settled_and_remembered(journal: Journal, name: str) -> None:
    """Whatever an id looks like, each transition means the same operation by it."""
    lane = pack_id(name).hex()[:200]
    journal.append([new(name, lane)])
    assert journal.find(lane, name)[0] == "pending"
    run = claim(journal)
    assert names(run.records) == [name]
    assert journal.settle(lane, run.fence, name, "retry").status == "ok"
    run = claim(journal)
    assert (run.lane, run.retries) == (lane, 1)
    assert journal.settle(lane, run.fence, name, "dead", give_up=True).status == "ok"
    assert journal.is_dead(name)
    journal.append([new(name, lane)])
    assert journal.find(lane, name)[0] == "absent"
