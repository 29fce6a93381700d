"""Outages: what the upstream asks for, trials while it refuses the credentials, and what the first delivery moves."""

import hashlib
import time

import pytest

from fluxy_sync.journal import Claim, Idle, Inventory, Journal
from fluxy_sync.journal.journal import CLAIM_S, Verdict
from tests.journal_steps import (
    OTHER_WORKER,
    WORKER,
    claim,
    counts,
    idle,
    let_pass,
    names,
    new,
    now_ms,
    queue,
    settle_head,
)

TRIAL_S = 30.0
FORWARD_JITTER_S = 1.0
LONG_S = 600.0


def due_in(journal: Journal) -> float:
    """When something can be claimed; nothing can now."""
    found = idle(journal).due_in_s
    assert found is not None
    return found


def next_tries(journal: Journal) -> dict[str, float]:
    """Lane -> seconds until it is due."""
    ready = journal.store.client.zrange(journal.keys.fixed[1], 0, -1, withscores=True)
    return {lane.decode(): (score - now_ms(journal)) / 1000 for lane, score in ready}


def fail(journal: Journal, *lanes: str, pause_s: float = LONG_S, floor_s: float = 0.0) -> None:
    """An operation on each lane fails for the first time."""
    for lane in lanes:
        queue(journal, f"op-{lane}", lane=lane)
    for lane in lanes:
        settle_head(journal, "retry", lane, pause_s=pause_s, floor_s=floor_s)


def deliver_one(journal: Journal, name: str = "fine") -> None:
    """The upstream takes an operation on a lane of its own."""
    queue(journal, name, lane=f"z-{name}")
    settle_head(journal, "delivered", f"z-{name}")


# --- the whole upstream waits


@pytest.mark.parametrize("verdict", ["retry", "wait"])
def test_the_upstream_may_ask_everybody_to_wait(journal: Journal, verdict: str) -> None:
    """429 with Retry-After: nothing is claimed before that, and the holder is told that the gate waits."""
    queue(journal, "one")
    queue(journal, "other", lane="b")
    run = claim(journal)
    settled = journal.settle("a", run.fence, "one", verdict, upstream_s=40)  # type: ignore[arg-type]
    assert (settled.status, settled.gate) == ("ok", "waiting")
    found = idle(journal)
    assert found.gate == "open"
    assert 35 < due_in(journal) <= 40
    assert 35_000 < journal.snapshot().opens_in_ms <= 40_000
    assert journal.snapshot().gate == "open"
    let_pass(journal, 40)
    assert {claim(journal).lane, claim(journal).lane} == {"a", "b"}
    assert journal.snapshot().opens_in_ms == 0


def test_the_longer_wait_counts(journal: Journal) -> None:
    """A shorter one that is asked for later, or a gate that opens, doesn't end it."""
    for lane in "abc":
        queue(journal, f"op-{lane}", lane=lane)
    runs = [claim(journal) for _ in "abc"]
    for run, upstream_s in zip(runs, (10, 300, 20), strict=True):
        journal.settle(run.lane, run.fence, f"op-{run.lane}", "retry", upstream_s=upstream_s)
    assert 290 < due_in(journal) <= 300
    journal.close_gate("offline", "refused")
    journal.open_gate("offline", opens_in_s=0.3)
    assert 290 < due_in(journal) <= 300


def test_a_stale_holder_makes_nobody_wait(journal: Journal) -> None:
    """Nor does an answer about an operation that isn't the head."""
    queue(journal, "one")
    stale = claim(journal)
    let_pass(journal, CLAIM_S)
    living = claim(journal, OTHER_WORKER)
    assert journal.settle("a", stale.fence, "one", "retry", upstream_s=300).status == "fenced"
    assert journal.settle("a", living.fence, "another", "retry", upstream_s=300, give_up=True).status == "already"
    assert journal.snapshot().opens_in_ms == 0
    assert isinstance(journal.claim(WORKER), Claim)


def test_no_token_is_published_while_the_upstream_waits(journal: Journal) -> None:
    """But shortly before its end: a flush that is woken lingers for a moment."""
    queue(journal, "one")
    settle_head(journal, "retry", upstream_s=40)
    journal.forget_wake()
    assert journal.append([new("other", "b")]).woken is False
    assert journal.win_wake() is False
    tick = journal.tick("beat", "b")
    assert (tick.gate, tick.wants_token, tick.may_claim) == ("open", False, False)
    let_pass(journal, 39.5)
    tick = journal.tick("beat", "b")
    assert (tick.wants_token, tick.claims_in_s is not None) == (True, True)
    assert journal.win_wake() is True


# --- trials while the credentials are refused


def test_one_operation_finds_out_whether_the_credentials_work_again(journal: Journal) -> None:
    """Each 30 s, alone; nothing else is claimed meanwhile."""
    queue(journal, "one", "two")
    queue(journal, "other", lane="b")
    assert journal.close_gate("unauthorized", "401")
    found = idle(journal)
    assert found.gate == "unauthorized"
    assert TRIAL_S - 5 < due_in(journal) <= TRIAL_S
    let_pass(journal, TRIAL_S)
    for _ in range(2):
        run = claim(journal)
        assert len(run.records) == 1
        assert run.call_helper is False
        assert TRIAL_S - 5 < due_in(journal) <= TRIAL_S
        journal.settle(run.lane, run.fence, names(run.records)[0], "wait")
        let_pass(journal, TRIAL_S)
    run = claim(journal)
    assert journal.open_gate("unauthorized") is True
    assert journal.settle(run.lane, run.fence, names(run.records)[0], "delivered").gate == "open"
    assert isinstance(journal.claim(WORKER), Claim)


@pytest.mark.parametrize("cause", ["offline", "paused"])
def test_no_trial_through_a_gate_that_is_closed_for_more(journal: Journal, cause: str) -> None:
    """It needs the link, and no person against it."""
    queue(journal, "one")
    journal.close_gate("unauthorized", "401")
    journal.close_gate(cause, "why")  # type: ignore[arg-type]
    let_pass(journal, TRIAL_S)
    assert journal.claim(WORKER) == Idle("paused" if cause == "paused" else "unauthorized", None)
    tick = journal.tick("beat", "b")
    assert (tick.opens_in_s, tick.wants_token) == (None, False)
    assert journal.win_wake() is False
    journal.open_gate(cause)  # type: ignore[arg-type]
    assert isinstance(journal.claim(WORKER), Claim)


def test_a_trial_waits_for_the_upstream_too(journal: Journal) -> None:
    """Retry-After holds for it as for all."""
    queue(journal, "one", "two")
    settle_head(journal, "retry", upstream_s=100)
    journal.close_gate("unauthorized", "401")
    let_pass(journal, TRIAL_S)
    assert 65 < due_in(journal) <= 70


def test_a_trial_is_not_used_up_by_an_empty_journal(journal: Journal) -> None:
    """It waits for the next operation that is due."""
    journal.close_gate("unauthorized", "401")
    let_pass(journal, TRIAL_S)
    assert journal.claim(WORKER) == Idle("unauthorized", None)
    queue(journal, "one")
    assert isinstance(journal.claim(WORKER), Claim)


def test_ticks_tell_of_the_next_trial(journal: Journal) -> None:
    """So that workers listen, and a token is published for it."""
    queue(journal, "one")
    journal.close_gate("unauthorized", "401")
    tick = journal.tick("beat", "b")
    assert (tick.gate, tick.consumes, tick.wants_token) == ("unauthorized", True, False)
    assert tick.opens_in_s is not None
    assert TRIAL_S - 5 < tick.opens_in_s <= TRIAL_S
    journal.forget_wake()
    assert journal.win_wake() is False
    let_pass(journal, TRIAL_S)
    assert journal.tick("beat", "b").wants_token is True
    assert journal.win_wake() is True


def test_an_unauthorized_gate_opens_when_nothing_waits(journal: Journal) -> None:
    """There is nothing left to try with: the next operation finds out by itself. Other causes stay."""
    queue(journal, "one")
    journal.close_gate("unauthorized", "401")
    journal.close_gate("offline", "refused")
    journal.tick("beat", "b")
    assert journal.snapshot().gate == "unauthorized"
    journal.cancel("a", "one")
    revision = journal.snapshot().rev
    assert journal.tick("beat", "b").gate == "offline"
    assert journal.snapshot().rev == revision + 1
    assert abs(int(journal.store.command("HGET", journal.keys.fixed[8], "since")) - time.time() * 1000) < 60_000


# --- after an outage


def test_the_first_delivery_brings_waiting_lanes_forward(journal: Journal) -> None:
    """Three failures in a row, then it works: who waited for a long backoff is due within a second, with jitter."""
    fail(journal, "a", "b", "c")
    deliver_one(journal)
    tries = next_tries(journal)
    assert all(-5 < tries[lane] <= FORWARD_JITTER_S for lane in "abc")
    now = int(journal.store.command("HGET", counts(journal), "delivered_at"))
    jitter = {lane: int(hashlib.sha1(f"{lane}{now}".encode()).hexdigest()[:6], 16) % 1000 for lane in "abc"}
    ready = journal.store.client.zrange(journal.keys.fixed[1], 0, -1, withscores=True)
    assert {lane.decode(): int(score) - now for lane, score in ready} == jitter
    (shown,) = Inventory(journal).waiting("a")
    assert shown.next_try_in_s is not None
    assert shown.next_try_in_s <= FORWARD_JITTER_S
    let_pass(journal, FORWARD_JITTER_S)
    runs = [claim(journal) for _ in "abc"]
    assert [run.retries for run in runs] == [1, 1, 1], "what was counted stays counted"


def test_two_failures_are_no_outage(journal: Journal) -> None:
    """Backoffs stay where they are."""
    fail(journal, "a", "b")
    deliver_one(journal)
    assert min(next_tries(journal).values()) > LONG_S - 10
    fail(journal, "c", "d")  # the delivery in between ended that row
    deliver_one(journal, "again")
    assert min(next_tries(journal).values()) > LONG_S - 20


def test_uncounted_waits_make_no_outage(journal: Journal) -> None:
    """The link was down: the gate brings those back."""
    for lane in "abcd":
        queue(journal, f"op-{lane}", lane=lane)
        settle_head(journal, "wait", lane, pause_s=LONG_S)
    deliver_one(journal)
    assert min(next_tries(journal).values()) > LONG_S - 10


def test_a_head_that_failed_while_others_were_delivered_stays(journal: Journal) -> None:
    """It is itself at fault: an outage that ends is no news for it."""
    fail(journal, "poison")
    let_pass(journal, 1)
    deliver_one(journal)
    let_pass(journal, 1)
    fail(journal, "a", "b", "c")
    deliver_one(journal, "again")
    tries = next_tries(journal)
    assert all(tries[lane] <= FORWARD_JITTER_S for lane in "abc")
    assert tries["poison"] > LONG_S - 20


def test_what_failed_first_at_the_moment_of_a_delivery_is_brought_forward(journal: Journal) -> None:
    """Rather one too many."""
    fail(journal, "a", "b", "c")
    state = journal.store.command("HGET", journal.keys.fixed[3], "a").split(b" ", 2)
    journal.store.command("HSET", counts(journal), "delivered_at", state[1])
    deliver_one(journal)
    assert next_tries(journal)["a"] <= FORWARD_JITTER_S


def test_since_when_a_head_fails_is_kept_over_its_retries(journal: Journal) -> None:
    """It failed in the first outage, which ended, and in the second: it isn't brought forward for the second's end."""
    fail(journal, "poison", pause_s=100)
    let_pass(journal, 1)
    deliver_one(journal)
    let_pass(journal, 100)
    for pause_s in (0, 0, 0, LONG_S):
        settle_head(journal, "retry", "poison", pause_s=pause_s)
    deliver_one(journal, "again")
    assert next_tries(journal)["poison"] > LONG_S - 10


@pytest.mark.parametrize("floor_s", [0.4, 60.0, LONG_S])
def test_nothing_is_brought_forward_before_the_upstream_asked(journal: Journal, floor_s: float) -> None:
    """Retry-After is a floor: with a shorter backoff, neither before nor after it for the delivery's sake."""
    fail(journal, "a", "b", "c", floor_s=floor_s)
    deliver_one(journal)
    tries = next_tries(journal)
    assert all(floor_s - 10 < tries[lane] <= max(floor_s, FORWARD_JITTER_S) for lane in "abc")


def test_what_is_due_sooner_stays_sooner(journal: Journal) -> None:
    """Nothing is put off."""
    fail(journal, "a", "b", "c")
    queue(journal, "fine", lane="z")
    run = claim(journal)
    state = journal.store.command("HGET", journal.keys.fixed[3], "a").split(b" ", 4)
    now = now_ms(journal)
    journal.store.command("HSET", journal.keys.fixed[3], "a", b" ".join([*state[:3], b"%d" % now, state[4]]))
    journal.store.command("ZADD", journal.keys.fixed[1], now, "a")
    journal.settle(run.lane, run.fence, "fine", "delivered")
    assert journal.store.command("ZSCORE", journal.keys.fixed[1], "a") == now
    assert next_tries(journal)["b"] <= FORWARD_JITTER_S


def test_held_and_claimed_lanes_are_not_brought_forward(journal: Journal) -> None:
    """A held one stays out of the schedule, a claimed one keeps its deadline."""
    fail(journal, "a", "b", "c", "d", pause_s=1)
    let_pass(journal, 1)
    run = claim(journal)
    for lane in "bcd":
        settle_head(journal, "retry", lane, pause_s=LONG_S)
    Inventory(journal).hold("b")
    deliver_one(journal)
    tries = next_tries(journal)
    assert tries.keys() == {"a", "c", "d"}
    assert tries[run.lane] > FORWARD_JITTER_S
    assert max(tries["c"], tries["d"]) <= FORWARD_JITTER_S
    Inventory(journal).let_go("b")
    assert next_tries(journal)["b"] > LONG_S - 10


def refuse_all(journal: Journal, count: int) -> None:
    """Many lanes, each with an operation that fails."""
    lanes = [f"lane-{n}" for n in range(count)]
    journal.append([new(f"op-{lane}", lane) for lane in lanes])
    for _ in lanes:
        run = claim(journal, most=1)
        journal.settle(run.lane, run.fence, f"op-{run.lane}", "retry", pause_s=10 * LONG_S)


def settle_next(journal: Journal, verdict: Verdict) -> None:
    """Whatever is due."""
    run = claim(journal, most=1)
    journal.settle(run.lane, run.fence, names(run.records)[0], verdict, pause_s=10 * LONG_S, give_up=True)


def soon(journal: Journal) -> int:
    """Lanes that needn't wait for a long backoff any more."""
    return sum(at < LONG_S for at in next_tries(journal).values())


def test_a_great_many_lanes_are_brought_forward_step_by_step(journal: Journal) -> None:
    """Some with each delivery, some with each tick, until all are; nothing holds the store for long."""
    refuse_all(journal, 1500)
    deliver_one(journal)
    first = soon(journal)
    assert 0 < first < 300
    let_pass(journal, FORWARD_JITTER_S)
    settle_next(journal, "delivered")
    second = soon(journal)
    assert first < second < 600
    assert journal.tick("beat", "b").pending == 1499
    assert second < soon(journal) < 900
    for _ in range(60):
        journal.tick("beat", "b")
    assert soon(journal) == 1499
    assert journal.store.command("HMGET", counts(journal), "forward", "forward_at") == [None, None], "it is over"


def test_a_second_outage_meanwhile_starts_over(journal: Journal) -> None:
    """Those of the first that weren't reached yet are still brought forward, and those of the second."""
    refuse_all(journal, 600)
    deliver_one(journal)
    let_pass(journal, FORWARD_JITTER_S)
    for _ in range(3):
        settle_next(journal, "retry")
    settle_next(journal, "delivered")
    for _ in range(60):
        journal.tick("beat", "b")
    assert soon(journal) == 599
