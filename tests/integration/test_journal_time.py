"""Journal time, the gate, wake tokens and what there is to see."""

import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Claim, Idle, Journal, Store, connect
from fluxy_sync.journal.journal import CLAIM_S, CLOCK_MARGIN_S, WAKE_LOST_S, WAKE_S
from tests.conftest import wait_until
from tests.journal_steps import (
    OTHER_WORKER,
    WORKER,
    ClockByHand,
    claim,
    counts,
    fresh_uuid,
    idle,
    let_pass,
    names,
    new,
    now_ms,
    queue,
    settle_head,
)

DAY_MS = 86_400_000


def on(journal: Journal, machine: str, at_ms: int = 1) -> tuple[Journal, ClockByHand]:
    """The same journal from another machine, whose clock goes on by hand."""
    clock = ClockByHand(machine)
    clock.at_ms = at_ms
    return Journal(journal.store, journal.keys.namespace, clock=clock), clock


# --- journal time


def test_a_claim_lasts_as_long_as_by_its_holders_clock(journal: Journal) -> None:
    """Nobody else gets the lane before, however often he asks, and whatever the store's own clock says."""
    here, clock = on(journal, "here")
    queue(here, "one")
    first = claim(here, WORKER)
    for _ in range(int(CLAIM_S) * 10 - 1):
        clock.at_ms += 100
        here.tick("beat", "b")
        here.store.command("HSET", counts(here), "wall", 1)  # what an earlier version kept of the store's clock
        assert isinstance(here.claim(OTHER_WORKER), Idle)
    clock.at_ms += 100
    assert claim(here, OTHER_WORKER).fence > first.fence


def test_after_a_silence_journal_time_takes_one_step(journal: Journal) -> None:
    """The machine slept, or nobody looked: 5 s pass for claims and pauses, then time goes on as before."""
    here, clock = on(journal, "here")
    queue(here, "one")
    claim(here)
    clock.at_ms += 365 * DAY_MS
    assert idle(here).due_in_s == CLAIM_S - 5
    here.tick("beat", "b")
    clock.at_ms += 1000
    assert idle(here).due_in_s == CLAIM_S - 6


def test_a_call_that_was_long_on_its_way_moves_nothing(journal: Journal) -> None:
    """Its sender stood still between its look at the clock and the sending."""
    here, clock = on(journal, "here", at_ms=100_000)
    queue(here, "one")
    before = now_ms(here)
    for back_ms in (1, 4000, 50_000):
        clock.at_ms = 100_000 - back_ms
        queue(here, f"after-{back_ms}")
        assert now_ms(here) == before
    clock.at_ms = 100_001
    queue(here, "last")
    assert now_ms(here) == before + 1


def test_a_machine_that_boots_keeps_journal_time(journal: Journal) -> None:
    """Another boot is another clock: it leads on from where time stood."""
    before, clock = on(journal, "boot-1", at_ms=9_000_000)
    queue(before, "one")
    clock.at_ms += 2000
    before.tick("beat", "b")
    stood = now_ms(journal)
    after, clock = on(journal, "boot-2", at_ms=40)
    queue(after, "two")
    assert now_ms(journal) == stood
    clock.at_ms += 3000
    queue(after, "three")
    assert now_ms(journal) == stood + 3000


def test_time_goes_on_when_a_machine_whose_clock_was_ahead_is_gone(journal: Journal) -> None:
    """Clocks drift apart in months: the slower one leads on at its next tick, it doesn't wait to have caught up."""
    slow, slow_clock = on(journal, "slow")
    fast, fast_clock = on(journal, "fast")
    queue(slow, "one")
    for _ in range(10):
        fast_clock.at_ms += 2000
        fast.tick("steward", "f")
    slow_clock.at_ms += 10_000
    slow.tick("steward", "s")
    stood = time_of(slow)
    slow_clock.at_ms += 1000
    assert time_of(slow) == stood + 1000


def time_of(journal: Journal) -> int:
    """Journal time as a script sees it now."""
    queue(journal, fresh_uuid(), lane="clock")
    return now_ms(journal)


def test_a_great_many_boots_leave_no_heap_of_clocks(journal: Journal) -> None:
    """Each is forgotten some time; what is known of stewards stays."""
    journal.tick("steward", "w")
    for boot in range(200):
        on(journal, f"boot-{boot}")[0].tick("beat", "b")
    pulse = journal.store.client.hkeys(journal.keys.pulse)
    assert len(pulse) <= 66
    assert b"steward w" in pulse


def test_stewards_that_are_gone_are_forgotten(journal: Journal) -> None:
    """Containers may have a new name at each start: one that hasn't ticked for a day goes, of many also sooner."""

    def tick_long_ago(name: str, ms: int) -> None:
        journal.tick("steward", name)
        journal.store.command("HINCRBY", journal.keys.pulse, f"steward {name}", -ms)

    def known() -> int:
        return len([field for field in journal.store.client.hkeys(journal.keys.pulse) if field.startswith(b"steward")])

    for node in range(40):
        tick_long_ago(f"yesterday-{node}", DAY_MS + 1)
    for node in range(40):
        tick_long_ago(f"today-{node}", DAY_MS // 2)
    assert known() == 40
    for node in range(600):
        tick_long_ago(f"restart-{node}", DAY_MS // 2)
    assert known() <= 502
    journal.tick("beat", "beat")
    assert known() <= 502


delays = st.integers(0, 900)
machines = st.sampled_from("abc")


@given(st.lists(st.tuples(machines, st.integers(1, 3000), delays), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_claim_ends_before_its_holder_lets_it_go(journal: Journal, calls: list[tuple[str, int, int]]) -> None:
    """Three machines call at any times, with clocks that have nothing in common, and are long on their way.

    Whatever they do, nobody gets a lane within CLAIM_S - CLOCK_MARGIN_S of its holder's asking.
    """
    journal = Journal(journal.store, fresh_uuid())
    real_ms = 1
    each = {name: on(journal, name, at_ms=origin) for name, origin in (("a", 1), ("b", 10**9), ("c", 77))}
    origins = {name: clock.at_ms for name, (_, clock) in each.items()}
    for name in each:
        each[name][0].tick("steward", name)
    queue(each["a"][0], "one")
    claimed_ms, fence = real_ms, claim(each["a"][0], "aa 1").fence
    for name, pause_ms, delay_ms in calls:
        real_ms += pause_ms
        caller, clock = each[name]
        clock.at_ms = max(origins[name], origins[name] + real_ms - 1 - delay_ms)
        found = caller.claim(f"{name} 2")
        if isinstance(found, Claim):
            assert real_ms - claimed_ms >= (CLAIM_S - CLOCK_MARGIN_S) * 1000
            assert found.fence > fence
            claimed_ms, fence = real_ms - delay_ms, found.fence


def test_time_is_kept_on_disk_only_while_something_waits(tmp_path: Path) -> None:
    """With operations waiting, ticks write time each 2 s; an idle system writes nothing to disk at all."""
    with EmbeddedStore(tmp_path) as running:
        store = Store(connect(running.url))
        clock = ClockByHand("here")
        journal = Journal(store, "idle", clock=clock)
        journal.tick("beat", "b")
        queue(journal, "one")
        settle_head(journal, "delivered")

        def appended() -> int:
            return int(store.client.info("persistence")["aof_current_size"])

        quiet = appended()
        for step_ms in [1000, 10_000] * 10:
            clock.at_ms += step_ms
            journal.tick("beat", "b")
            journal.tick("steward", "w")
            journal.win_probe(0)
            assert journal.claim(WORKER) == Idle("open", None)
        assert appended() == quiet
        queue(journal, "two")
        quiet = appended()
        clock.at_ms += 1999
        journal.tick("beat", "b")
        assert appended() == quiet  # less than 2 s since it was written
        clock.at_ms += 1
        journal.tick("beat", "b")
        assert appended() > quiet
        store.close()


# --- tick


def test_a_tick_tells_what_there_is_to_do(journal: Journal) -> None:
    """Nothing; something due; a claim under way; a delivery just now."""
    tick = journal.tick("beat", "b")
    assert (tick.gate, tick.due_in_s, tick.pending, tick.delivered_ago_s) == ("open", None, 0, None)
    assert tick.wants_token is False
    queue(journal, "one", "two")
    tick = journal.tick("steward", "w")
    assert (tick.due_in_s, tick.pending, tick.wants_token) == (0, 2, True)
    run = claim(journal)
    tick = journal.tick("steward", "w")
    assert tick.due_in_s is not None
    assert CLAIM_S - 2 < tick.due_in_s <= CLAIM_S
    journal.settle("a", run.fence, "one", "delivered")
    let_pass(journal, 3)
    tick = journal.tick("steward", "w")
    assert tick.delivered_ago_s is not None
    assert 3 <= tick.delivered_ago_s < 5
    journal.close_gate("offline", "refused")
    let_pass(journal, CLAIM_S)
    tick = journal.tick("steward", "w")
    assert (tick.gate, tick.due_in_s, tick.wants_token) == ("offline", 0, False)


def test_stewards_see_whether_beat_is_alive(journal: Journal) -> None:
    """Beat's own ticks count, a steward's don't; unknown is None."""
    assert journal.tick("steward", "w").beat_age_s is None
    journal.tick("beat", "b")
    age = journal.tick("steward", "w").beat_age_s
    assert age is not None
    assert 0 <= age < 2


def test_a_held_lane_is_offered_again_when_its_time_comes(journal: Journal) -> None:
    """One held for a person stays held."""
    queue(journal, "unreadable")
    queue(journal, "halted", lane="b")
    for lane, pause_s in (("a", 30.0), ("b", 0.0)):
        run = claim(journal)
        journal.settle(lane, run.fence, names(run.records)[0], "hold", pause_s=pause_s, reason="key:0badcafe")
    let_pass(journal, 25)
    journal.tick("beat", "b")
    assert journal.snapshot().held == 2
    let_pass(journal, 6)
    assert journal.tick("beat", "b").wants_token is True
    assert names(claim(journal).records) == ["unreadable"]
    assert journal.snapshot().held == 1


def test_lanes_that_stay_held_do_not_hide_others(journal: Journal) -> None:
    """Among a thousand held for ever, the few that are to be offered again all get their turn."""
    held = {f"stuck-{n}": "0 halted" for n in range(1000)} | {f"due-{n}": "1 key:0badcafe" for n in range(20)}
    let_pass(journal, 60)
    journal.store.client.hset(journal.keys.fixed[4], mapping=held)
    for _ in range(60):
        journal.tick("beat", "b")
    left = journal.store.client.hkeys(journal.keys.fixed[4])
    assert sorted(lane for lane in left if lane.startswith(b"due")) == []
    assert len(left) == 1000


# --- wake tokens and the probe's lock


def test_one_token_waits_at_a_time(journal: Journal) -> None:
    """Won once, until a flush drops it or it is forgotten; a closed gate gives none."""
    assert [journal.win_wake(), journal.win_wake()] == [True, False]
    journal.forget_wake()
    assert journal.win_wake() is True
    journal.claim(WORKER)
    assert journal.win_wake() is False
    journal.claim(WORKER, drop_wake=True)
    journal.close_gate("paused", "by-hand")
    assert journal.win_wake() is False
    journal.open_gate("paused")
    assert journal.win_wake() is True


def test_a_token_is_used_up_before_a_closed_gate_too(journal: Journal) -> None:
    """A flush that finds the gate closed ends; its token must not be waited for."""
    journal.win_wake()
    journal.close_gate("offline", "refused")
    journal.claim(WORKER, drop_wake=True)
    journal.open_gate("offline")
    assert journal.win_wake() is True


def test_a_tick_ends_a_token_that_outlives_its_bound(journal: Journal) -> None:
    """The clock went back: the key's expiry lies far ahead, and nothing would be woken until then."""
    journal.win_wake()
    assert journal.tick("beat", "b").gate == "open"
    assert journal.win_wake() is False
    journal.store.command("PEXPIRE", journal.keys.wake, 2 * DAY_MS)
    journal.tick("beat", "b")
    assert journal.win_wake() is True
    assert 0 < journal.store.command("PTTL", journal.keys.wake) <= WAKE_S * 1000


def let_token_age(journal: Journal, seconds: float) -> None:
    journal.store.command("PEXPIRE", journal.keys.wake, round((WAKE_S - seconds) * 1000))


def test_while_no_worker_runs_one_token_waits(journal: Journal) -> None:
    """However long producers go on queueing: each token takes memory that nobody counts."""
    queue(journal, "one")
    assert not journal.win_wake()  # queueing has won it
    for hours in range(24):
        let_token_age(journal, hours * 3600 + 10)
        appended = journal.append([new(fresh_uuid(), f"lane-{hours}")])
        assert not appended.woken
    run = journal.claim(WORKER, drop_wake=True)
    assert isinstance(run, Claim)
    assert run.call_helper  # a worker took it, and more lanes are due: it publishes the next one


def test_a_lost_token_is_replaced_by_who_finds_the_broker_empty(journal: Journal) -> None:
    """Not before its publisher has had the time to publish it."""
    queue(journal, "one")
    let_token_age(journal, WAKE_LOST_S - 1)
    assert journal.win_wake() is False
    let_token_age(journal, WAKE_LOST_S + 1)
    assert [journal.win_wake(), journal.win_wake()] == [True, False]


def test_a_tick_may_forget_a_token(journal: Journal) -> None:
    """As a steward does at its start: whoever was to take it may be gone."""
    journal.win_wake()
    journal.tick("steward", "w", forget_wake=True)
    assert journal.win_wake() is True


def test_the_upstream_is_probed_by_one_at_a_time(journal: Journal) -> None:
    """Within an interval only one wins; a clock that went back doesn't block the next one."""
    assert [journal.win_probe(60), journal.win_probe(60)] == [True, False]
    assert journal.win_probe(0) is True
    journal.store.command("HSET", journal.keys.fixed[11], "probe", round(time.time() * 1000) + DAY_MS)
    assert journal.win_probe(60) is True


# --- the gate


def test_the_gate_opens_when_no_cause_is_left(journal: Journal) -> None:
    """Paused is shown before unauthorized before offline; each change is told once."""
    for cause in ("offline", "unauthorized", "paused"):
        assert journal.close_gate(cause, f"why-{cause}") is True  # type: ignore[arg-type]
        assert journal.close_gate(cause, "another") is False  # type: ignore[arg-type]
        snapshot = journal.snapshot()
        assert (snapshot.gate, snapshot.reason, snapshot.offline) == (cause, f"why-{cause}", 1)
        assert abs(snapshot.since_wall_ms - time.time() * 1000) < 60_000
    for cause, shown in (("unauthorized", "paused"), ("paused", "offline"), ("offline", "open")):
        assert journal.open_gate(cause) is True  # type: ignore[arg-type]
        assert journal.open_gate(cause) is False  # type: ignore[arg-type]
        assert journal.snapshot().gate == shown
    assert (journal.snapshot().reason, journal.snapshot().offline) == ("", 0)


def test_the_gate_is_the_same_for_everyone(journal: Journal, store_url: str) -> None:
    """It is in the store: another process sees it, and may open it."""
    journal.close_gate("offline", "refused")
    second = Store(connect(store_url))
    other = Journal(second, journal.keys.namespace)
    assert other.claim(WORKER) == Idle("offline", None)
    other.open_gate("offline")
    second.close()
    assert journal.snapshot().gate == "open"


# --- the snapshot


def test_an_empty_journal_counts_nothing(journal: Journal) -> None:
    """All zero, and no age."""
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.syncing, snapshot.held, snapshot.dead, snapshot.lanes) == (0, 0, 0, 0, 0)
    assert (snapshot.oldest_age_ms, snapshot.gate, snapshot.since_wall_ms, snapshot.rev) == (-1, "open", 0, 0)


def test_syncing_counts_living_claims_only(journal: Journal) -> None:
    """A claim whose time is over, or whose holder is dead, sends nothing any more."""
    for lane in "abc":
        queue(journal, f"op-{lane}", lane=lane)
    claim(journal)
    claim(journal, OTHER_WORKER)
    assert journal.snapshot().syncing == 2
    journal.reclaim("bb")
    assert journal.snapshot().syncing == 1
    let_pass(journal, CLAIM_S)
    assert journal.snapshot().syncing == 0
    assert journal.snapshot().pending == 3


def test_the_oldest_age_is_that_of_the_longest_waiting_head(journal: Journal) -> None:
    """It grows with journal time and falls when that head goes."""
    queue(journal, "old", lane="b")
    let_pass(journal, 100)
    queue(journal, "young", lane="a")
    assert 100_000 <= journal.snapshot().oldest_age_ms < 105_000
    assert sorted(journal.lanes()) == ["a", "b"]
    settle_head(journal, "delivered", "b")
    assert journal.snapshot().oldest_age_ms < 5_000


def test_each_change_is_told_to_who_listens(journal: Journal) -> None:
    """The revision grows with each change and is published; looking changes nothing."""
    listener = journal.store.client.pubsub()
    listener.subscribe(journal.keys.events)
    wait_until(lambda: (listener.get_message() or {}).get("type") == "subscribe")
    queue(journal, "one")
    told = wait_until(lambda: listener.get_message(ignore_subscribe_messages=True))
    revision = journal.snapshot().rev
    assert int(told["data"]) == revision
    journal.find("a", "one")
    journal.tick("beat", "b")
    assert journal.snapshot().rev == revision
    assert isinstance(journal.claim(WORKER), Claim)
    assert journal.snapshot().rev == revision + 1
    listener.close()


def test_namespaces_do_not_touch_each_other(journal: Journal) -> None:
    """Two gateways on one store: the same lane and id are two different things."""
    other = Journal(journal.store, f"{journal.keys.namespace}-2")
    queue(journal, "one")
    queue(other, "one")
    other.close_gate("paused", "by-hand")
    settle_head(journal, "delivered")
    assert (journal.snapshot().pending, other.snapshot().pending) == (0, 1)
    assert journal.snapshot().gate == "open"
