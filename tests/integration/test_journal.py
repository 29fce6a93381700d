"""Delivering: who may send what, and what becomes of it, script by script on a real store."""

import pytest

from fluxy_sync.connectivity import TICK_S
from fluxy_sync.journal import Claim, Idle, Journal, Quota
from fluxy_sync.journal.journal import CLAIM_S, RUN_BYTES, TAKEOVERS_UNTIL_DEAD, Verdict
from fluxy_sync.journal.record import parse
from tests.journal_steps import (
    OTHER_WORKER,
    WORKER,
    begin,
    claim,
    die_with_it,
    idle,
    let_pass,
    names,
    new,
    queue,
    settle_head,
    waiting,
)

# --- claim


def test_an_empty_journal_gives_nothing(journal: Journal) -> None:
    """And knows no time at which it would."""
    assert journal.claim(WORKER) == Idle("open", None)


def test_a_claim_gives_a_lane_with_its_first_operations(journal: Journal) -> None:
    """In order, with a fence, its length and the journal's epoch, which stays the same."""
    queue(journal, "one", "two")
    queue(journal, "other", lane="b")
    first, second = claim(journal), claim(journal, OTHER_WORKER)
    assert (first.lane, names(first.records), first.length_s, first.retries) == ("a", ["one", "two"], CLAIM_S, 0)
    assert (second.lane, names(second.records)) == ("b", ["other"])
    assert second.fence > first.fence
    assert first.epoch == second.epoch != ""
    assert journal.holders() == {("aa", 11), ("bb", 21)}


def test_a_claimed_lane_is_nobody_elses_until_its_deadline(journal: Journal) -> None:
    """Then it comes due by itself: a claim that is never released is taken over."""
    queue(journal, "one")
    mine = claim(journal)
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert CLAIM_S - 2 < due_in <= CLAIM_S
    let_pass(journal, CLAIM_S)
    theirs = claim(journal, OTHER_WORKER)
    assert (theirs.lane, names(theirs.records)) == ("a", ["one"])
    assert theirs.fence > mine.fence


@pytest.mark.parametrize("cause", ["offline", "unauthorized", "paused"])
def test_nothing_is_claimed_through_a_closed_gate(journal: Journal, cause: str) -> None:
    """Whatever closed it; what waits keeps its place. Only an unauthorized one knows when it tries again."""
    queue(journal, "one")
    journal.close_gate(cause, "why")  # type: ignore[arg-type]
    found = idle(journal)
    assert (found.gate, found.due_in_s is None) == (cause, cause != "unauthorized")
    journal.open_gate(cause)  # type: ignore[arg-type]
    assert names(claim(journal).records) == ["one"]


def test_claims_begin_when_the_opening_jitter_is_over(journal: Journal) -> None:
    """Many gateways don't return at the same moment."""
    queue(journal, "one")
    journal.close_gate("offline", "refused")
    journal.open_gate("offline", opens_in_s=30)
    waiting_for = idle(journal)
    assert waiting_for.gate == "open"
    assert waiting_for.due_in_s is not None
    assert 25 < waiting_for.due_in_s <= 30
    let_pass(journal, 30)
    assert names(claim(journal).records) == ["one"]


def test_the_lane_that_waits_longest_goes_first(journal: Journal) -> None:
    """By the time at which it came due, not by its name."""
    for lane in "cab":
        queue(journal, f"op-{lane}", lane=lane)
        let_pass(journal, 1)
    assert [claim(journal).lane for _ in range(3)] == ["c", "a", "b"]


def test_a_countdown_holds_an_operation_and_what_follows(journal: Journal) -> None:
    """The lane comes due with its head; a countdown further back ends the run there."""
    journal.append([new("later", countdown_s=60), new("behind")])
    journal.append([new("now", "b"), new("soon", "b", countdown_s=60), new("last", "b")])
    assert names(claim(journal).records) == ["now"]
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert due_in <= CLAIM_S
    let_pass(journal, 60)
    assert sorted(names(claim(journal).records) for _ in "ab") == [["later", "behind"], ["now", "soon", "last"]]


def test_a_head_that_is_not_due_yet_puts_its_lane_off(journal: Journal) -> None:
    """After a delivery the claim ends where the next operation waits for its time."""
    journal.append([new("now"), new("later", countdown_s=60)])
    run = claim(journal)
    assert journal.settle("a", run.fence, "now", "delivered").next_id == ""
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert 55 < due_in <= 60
    assert journal.holders() == set()


def test_a_run_is_bounded_by_count(journal: Journal) -> None:
    """The rest stays for the next one."""
    queue(journal, *[f"op-{n}" for n in range(10)])
    assert names(claim(journal, most=4).records) == [f"op-{n}" for n in range(4)]


def test_a_run_is_bounded_by_bytes(journal: Journal) -> None:
    """However large what follows is: only a head that is larger itself goes beyond the bound, alone."""
    journal.append([new(f"op-{n}", size=RUN_BYTES // 3) for n in range(8)])
    journal.append([new("small", "b"), new("huge", "b", size=3 * RUN_BYTES), new("end", "b")])
    assert names(claim(journal).records) == ["op-0", "op-1"]
    run = claim(journal)
    assert names(run.records) == ["small"]
    journal.settle("b", run.fence, "small", "delivered", give_up=True)
    assert names(claim(journal).records) == ["huge"]


def test_a_claim_calls_a_helper_where_more_is_due(journal: Journal) -> None:
    """One helper for one more lane, none for the last, none while a token waits."""
    for lane in "abc":
        queue(journal, f"op-{lane}", lane=lane)
    first = journal.claim(WORKER, drop_wake=True)
    assert isinstance(first, Claim)
    assert first.call_helper is True  # its own token was used up
    assert claim(journal).call_helper is False  # that token still waits
    journal.forget_wake()
    assert claim(journal).call_helper is False  # nothing more is due


# --- settle


def test_a_delivered_head_goes_and_the_claim_goes_on(journal: Journal) -> None:
    """The next head is named, the claim is renewed, the counts follow."""
    queue(journal, "one", "two")
    run = claim(journal)
    let_pass(journal, 5)
    settled = journal.settle("a", run.fence, "one", "delivered")
    assert (settled.status, settled.next_id, settled.gate, settled.ends_in_s) == ("ok", "two", "open", CLAIM_S)
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.delivered_total, snapshot.syncing) == (1, 1, 1)
    assert snapshot.bytes == 1 + 4 + 7 + 2 + 8
    assert journal.settle("a", run.fence, "two", "delivered").next_id == ""
    assert journal.snapshot().pending == journal.snapshot().bytes == journal.snapshot().syncing == 0
    assert journal.holders() == set()


def test_a_settle_tells_that_the_gate_closed(journal: Journal) -> None:
    """So that the run ends there; the answer that was received still counts."""
    queue(journal, "one", "two")
    run = claim(journal)
    journal.close_gate("paused", "by-hand")
    settled = journal.settle("a", run.fence, "one", "delivered")
    assert (settled.status, settled.gate) == ("ok", "paused")
    assert waiting(journal) == ["two"]


@pytest.mark.parametrize(("verdict", "counted"), [("retry", 1), ("wait", 0)])
def test_a_head_that_is_tried_again_keeps_its_place(journal: Journal, verdict: Verdict, counted: int) -> None:
    """Nothing behind it is sent meanwhile, other lanes are; only a retry counts."""
    queue(journal, "failing", "behind")
    queue(journal, "other", lane="b")
    assert settle_head(journal, verdict, pause_s=30) == "failing"
    assert settle_head(journal, "delivered", "b") == "other"
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert 25 < due_in <= 30
    assert journal.snapshot().retried_total == counted
    let_pass(journal, 30)
    run = claim(journal)
    assert (names(run.records), run.retries) == (["failing", "behind"], counted)


def test_retries_are_counted_for_one_head_only(journal: Journal) -> None:
    """They add up over the tries, waits between them included, and end with that head."""
    queue(journal, "failing", "next")
    for verdict in ("retry", "wait", "retry", "retry"):
        settle_head(journal, verdict)  # type: ignore[arg-type]
    assert (claim(journal).retries, journal.snapshot().retrying) == (3, 1)
    let_pass(journal, CLAIM_S)
    settle_head(journal, "delivered")
    assert (claim(journal).retries, journal.snapshot().retrying) == (0, 0)


def test_a_retry_may_carry_another_body(journal: Journal) -> None:
    """Its id and its times stay; the bytes are counted anew."""
    journal.append([new("one", expires_s=60)])
    run = claim(journal)
    before = parse(run.records[0])
    journal.settle("a", run.fence, "one", "retry", replacement=b"a longer sealed part")
    after = parse(claim(journal).records[0])
    assert (after.id, after.accepted_ms, after.expires_ms) == (before.id, before.accepted_ms, before.expires_ms)
    assert after.sealed == b"a longer sealed part"
    assert journal.snapshot().bytes == 1 + 4 + 1 + 12 + 2 + 20


def test_a_held_lane_waits_for_more_than_time(journal: Journal) -> None:
    """It isn't claimed, new operations join it, and it counts as held with all that it holds."""
    queue(journal, "unreadable", "behind")
    run = claim(journal)
    assert journal.settle("a", run.fence, "unreadable", "hold", reason="key:0badcafe").status == "ok"
    queue(journal, "later")
    let_pass(journal, 10_000)
    assert journal.claim(WORKER) == Idle("open", None)
    snapshot = journal.snapshot()
    assert (snapshot.held, snapshot.pending, snapshot.syncing) == (3, 3, 0)


def test_a_held_lane_that_was_emptied_stays_held(journal: Journal) -> None:
    """What is queued on it later waits, too; without a hold it would be due."""
    queue(journal, "one")
    run = claim(journal)
    journal.settle("a", run.fence, "one", "hold", reason="halted")
    assert journal.cancel("a", "one")[0] == "cancelled"
    assert journal.append([new("two")]).woken is False
    assert journal.claim(WORKER) == Idle("open", None)
    assert journal.snapshot().held == 1


def test_a_dead_head_is_kept_and_its_lane_goes_on(journal: Journal) -> None:
    """It moves to the dead letters with its reason and retries, and counts against the bytes."""
    queue(journal, "refused", "next")
    settle_head(journal, "retry")
    run = claim(journal)
    settled = journal.settle("a", run.fence, "refused", "dead", reason="422", detail=b"sealed answer")
    assert (settled.status, settled.next_id) == ("ok", "next")
    assert journal.is_dead("refused")
    letter = journal.store.command("HGET", journal.keys.dead, b"\x07refused")
    assert letter[:6] == b"\x01a\x03422"[:6]
    assert int.from_bytes(letter[6:10], "big") == 1
    assert letter.endswith(b"sealed answer" + run.records[0])
    snapshot = journal.snapshot()
    assert (snapshot.dead, snapshot.dead_total, snapshot.pending) == (1, 1, 1)
    assert snapshot.bytes == len(letter) + len(run.records[1])


def test_a_settle_acts_only_on_the_head_it_names(journal: Journal) -> None:
    """Asked twice, as after a lost reply, it answers 'already', and the next operation stays."""
    queue(journal, "one", "two")
    run = claim(journal)
    for expected in ("ok", "already", "already"):
        settled = journal.settle("a", run.fence, "one", "delivered")
        assert (settled.status, settled.next_id) == (expected, "two")
    assert journal.settle("a", run.fence, "never-queued", "dead").status == "already"
    assert waiting(journal) == ["two"]
    assert journal.snapshot().delivered_total == 1


def test_already_may_give_the_claim_up(journal: Journal) -> None:
    """The lane is due again at once."""
    queue(journal, "one", "two")
    run = claim(journal)
    journal.settle("a", run.fence, "one", "delivered")
    assert journal.settle("a", run.fence, "one", "delivered", give_up=True).ends_in_s == 0
    assert names(claim(journal, OTHER_WORKER).records) == ["two"]


@pytest.mark.parametrize("verdict", ["delivered", "retry", "wait", "hold", "dead"])
def test_a_stale_fence_settles_nothing(journal: Journal, verdict: Verdict) -> None:
    """Who lost the lane can't change anything, with whichever verdict, and appends no followers."""
    queue(journal, "one")
    stale = claim(journal)
    let_pass(journal, CLAIM_S)
    living = claim(journal, OTHER_WORKER)
    before = waiting(journal), journal.holders(), journal.snapshot().rev
    settled = journal.settle("a", stale.fence, "one", verdict, followers=[new("follower")], give_up=True)
    assert (settled.status, settled.next_id) == ("fenced", "")
    assert (waiting(journal), journal.holders(), journal.snapshot().rev) == before
    assert journal.settle("a", living.fence, "one", "delivered").status == "ok"
    assert journal.settle("a", living.fence, "one", "delivered").status == "fenced"  # it ended with the lane


def test_a_late_holder_may_still_settle_while_nobody_took_over(journal: Journal) -> None:
    """The claim is over but the lane is nobody else's: the answer that came late counts, and is sent no second time."""
    queue(journal, "one")
    run = claim(journal)
    let_pass(journal, 10 * CLAIM_S)
    assert journal.settle("a", run.fence, "one", "delivered").status == "ok"
    assert waiting(journal) == []


def test_followers_are_appended_in_the_same_step(journal: Journal) -> None:
    """Past the quota, each once, on their own lanes or behind the head on its own."""
    small = Journal(journal.store, journal.keys.namespace, Quota(max_pending=2))
    queue(small, "first", "second")
    run = claim(small)
    steps = [new("next-step", "b"), new("link", "a"), new("second-step", "b")]
    settled = small.settle("a", run.fence, "first", "delivered", followers=steps, reason="200")
    assert (settled.status, settled.next_id) == ("ok", "second")
    assert (waiting(small), waiting(small, "b")) == (["second", "link"], ["next-step", "second-step"])
    assert small.settle("a", run.fence, "first", "delivered", followers=steps).status == "already"
    assert small.snapshot().pending == 4
    queue(small, "link", lane="b")  # a repeat of one that is known
    assert small.snapshot().pending == 4


def test_followers_wake_a_worker(journal: Journal) -> None:
    """Where they make another lane due, the settle wins the token."""
    queue(journal, "first")
    run = journal.claim(WORKER, drop_wake=True)
    assert isinstance(run, Claim)
    assert journal.settle("a", run.fence, "first", "delivered", followers=[new("next", "b")]).woken is True


def test_the_next_lane_can_be_claimed_in_the_same_round_trip(journal: Journal) -> None:
    """The last settle of a run gives the lane up and brings the next claim, for the holder that is named."""
    queue(journal, "one")
    queue(journal, "other", lane="b")
    run = claim(journal)
    settled = journal.settle("a", run.fence, "one", "delivered", give_up=True, then_claim=WORKER)
    assert isinstance(settled.claim, Claim)
    assert (settled.status, settled.claim.lane, names(settled.claim.records)) == ("ok", "b", ["other"])
    assert settled.claim.fence > run.fence
    journal.close_gate("offline", "refused")
    settled = journal.settle("b", settled.claim.fence, "other", "retry", give_up=True, then_claim=WORKER)
    assert (settled.status, settled.claim) == ("ok", Idle("offline", None))
    assert journal.settle("b", 1, "other", "retry").claim is None


# --- release, renew, reclaim


def test_a_released_lane_is_due_at_once(journal: Journal) -> None:
    """And an empty one isn't scheduled any more."""
    queue(journal, "one")
    run = claim(journal)
    assert journal.release("a", run.fence) is True
    assert journal.release("a", run.fence) is False
    assert names(claim(journal, OTHER_WORKER).records) == ["one"]


def test_a_renewed_claim_lasts_longer(journal: Journal) -> None:
    """From now on; a lost one can't be renewed, nor released."""
    queue(journal, "one")
    run = claim(journal)
    let_pass(journal, CLAIM_S - 1)
    assert journal.renew("a", run.fence) is True
    let_pass(journal, CLAIM_S - 5)
    idle(journal)
    let_pass(journal, 5)
    claim(journal, OTHER_WORKER)
    assert journal.renew("a", run.fence) is False
    assert journal.release("a", run.fence) is False


def test_a_dead_incarnations_claims_are_given_up_at_once(journal: Journal) -> None:
    """Others keep theirs; nothing late of the dead one settles; a lost wake token is forgotten."""
    queue(journal, "one")
    queue(journal, "other", lane="b")
    dead, living = claim(journal), claim(journal, OTHER_WORKER)
    assert journal.reclaim("aa") == 1
    assert journal.win_wake() is True
    assert journal.settle("a", dead.fence, "one", "delivered").status == "fenced"
    assert journal.holders() == {("bb", 21)}
    assert journal.snapshot().syncing == 1
    assert journal.reclaim("aa") == 0
    again = claim(journal)
    assert (again.lane, names(again.records)) == ("a", ["one"])
    assert again.fence > living.fence
    assert journal.settle("b", living.fence, "other", "delivered").status == "ok"


def test_a_dead_childs_claims_are_given_up_by_its_pid(journal: Journal) -> None:
    """Those of its living brothers stay."""
    queue(journal, "one")
    queue(journal, "other", lane="b")
    claim(journal, "aa 11")
    claim(journal, "aa 12")
    assert journal.reclaim("aa", alive=[11, 12]) == 0
    assert journal.reclaim("aa", alive=[12, 99]) == 1
    assert journal.holders() == {("aa", 12)}
    assert claim(journal, OTHER_WORKER).lane == "a"


def test_a_reclaimed_head_can_be_taken_back(journal: Journal) -> None:
    """Nobody sends it any more."""
    queue(journal, "one")
    claim(journal)
    assert journal.cancel("a", "one")[0] == "sending"
    journal.reclaim("aa")
    assert journal.find("a", "one")[0] == "pending"
    assert journal.cancel("a", "one")[0] == "cancelled"


# --- takeovers


@pytest.mark.parametrize("way", ["deadline", "reclaim"])
def test_the_fifth_takeover_buries_the_head(journal: Journal, way: str) -> None:
    """An operation that kills each worker that touches it doesn't stop its lane for ever."""
    queue(journal, "killer", "innocent")
    die_with_it(journal, TAKEOVERS_UNTIL_DEAD - 1, way=way)
    assert journal.snapshot().dead == 0
    die_with_it(journal, 1, way=way)
    assert names(claim(journal).records) == ["innocent"]
    assert journal.is_dead("killer")
    letter = journal.store.command("HGET", journal.keys.dead, b"\x06killer")
    assert letter[2:].startswith(b"\x11killed-its-worker")
    assert (journal.snapshot().pending, journal.snapshot().dead) == (1, 1)


@pytest.mark.parametrize("ends_by", ["delivered", "retry", "release"])
def test_any_settlement_ends_the_takeover_count(journal: Journal, ends_by: str) -> None:
    """Only takeovers in a row count against a head."""
    queue(journal, "one", "two", "three")
    die_with_it(journal, TAKEOVERS_UNTIL_DEAD - 1)
    run = begin(journal)
    if ends_by == "release":
        journal.release("a", run.fence)
    else:
        journal.settle("a", run.fence, "one", ends_by)  # type: ignore[arg-type]
        let_pass(journal, CLAIM_S)
    die_with_it(journal, TAKEOVERS_UNTIL_DEAD - 1)
    assert journal.snapshot().dead == 0


@pytest.mark.parametrize("holders", [["aa 11"], ["aa 11", "aa 12", "bb 21"]], ids=["one", "several"])
def test_claims_whose_replies_were_lost_bury_nothing(journal: Journal, holders: list[str]) -> None:
    """Nobody began with them: however many follow each other, the operation is still there, and is delivered."""
    queue(journal, "one")
    for number in range(3 * TAKEOVERS_UNTIL_DEAD):
        claim(journal, holders[number % len(holders)])
        let_pass(journal, CLAIM_S)
    run = begin(journal)
    assert names(run.records) == ["one"]
    assert journal.settle("a", run.fence, "one", "delivered").status == "ok"
    assert journal.snapshot().dead == 0


def test_a_holder_that_claims_again_was_not_killed(journal: Journal) -> None:
    """It began, and could not settle: the store was away for longer than its claim, again and again."""
    queue(journal, "one")
    for _ in range(3 * TAKEOVERS_UNTIL_DEAD):
        begin(journal, WORKER)
        let_pass(journal, CLAIM_S)
    assert names(begin(journal, WORKER).records) == ["one"]


def test_lost_replies_between_deaths_hide_no_killer(journal: Journal) -> None:
    """What counts is kept while claims come to nothing."""
    queue(journal, "killer", "innocent")
    for _ in range(TAKEOVERS_UNTIL_DEAD):
        die_with_it(journal, 1, way="reclaim")
        claim(journal, OTHER_WORKER)
        let_pass(journal, CLAIM_S)
    assert names(claim(journal).records) == ["innocent"]
    assert journal.is_dead("killer")


def test_a_begin_that_is_said_twice_counts_once(journal: Journal) -> None:
    """Its reply may be lost: it is said again. One that comes too late changes nothing."""
    queue(journal, "one")
    die_with_it(journal, 1)
    run = claim(journal)
    assert run.takeovers == 1
    assert [journal.renew("a", run.fence, begins=run.takeovers) for _ in range(9)] == [True] * 9
    let_pass(journal, CLAIM_S)
    assert claim(journal, OTHER_WORKER).takeovers == 2
    assert not journal.renew("a", run.fence, begins=run.takeovers)


# --- bury


def test_what_is_not_accepted_can_be_kept_as_a_dead_letter(journal: Journal) -> None:
    """It is counted as dead, never as pending; a second one of the same id doesn't replace the first."""
    assert [journal.bury(new("foreign", size=size), "unsealed") for size in (8, 20)] == [True, False]
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.dead, snapshot.dead_total) == (0, 1, 1)
    letter = journal.store.command("HGET", journal.keys.dead, b"\x07foreign")
    assert snapshot.bytes == len(letter)
    assert journal.claim(WORKER) == Idle("open", None)


def test_a_claim_ends_early_enough_to_be_taken_over() -> None:
    """What a dead host held is sent by another one within 15 s: its claim has ended, and a tick has seen that."""
    assert CLAIM_S + TICK_S <= 15.0
