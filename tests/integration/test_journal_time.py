"""Journal time, the gate, wake tokens and what there is to see."""

import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Claim, Idle, Journal, Store, connect
from fluxy_sync.journal.journal import CLAIM_S, WAKE_S
from tests.conftest import wait_until
from tests.journal_steps import (
    OTHER_WORKER,
    WORKER,
    claim,
    counts,
    idle,
    let_pass,
    names,
    now_ms,
    queue,
    settle_head,
)

DAY_MS = 86_400_000


def set_wall(journal: Journal, ahead_ms: int) -> None:
    """As if the wall's clock had been elsewhere at the last look: ahead of now, or behind."""
    journal.store.command("HSET", counts(journal), "wall", round(time.time() * 1000) + ahead_ms)


# --- journal time


def test_journal_time_takes_no_notice_of_a_leap_forward(journal: Journal) -> None:
    """The clock leaps by years when the network's time arrives: at most 5 s pass for claims and pauses."""
    queue(journal, "one")
    claim(journal)
    before = now_ms(journal)
    set_wall(journal, -365 * DAY_MS)
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert CLAIM_S - 10 < due_in <= CLAIM_S - 5
    journal.tick("beat", "b")
    assert 5000 <= now_ms(journal) - before < 10_000


def test_journal_time_never_goes_back(journal: Journal) -> None:
    """The clock goes back by years: time stands for one look, then goes on from there."""
    queue(journal, "one")
    before = now_ms(journal)
    set_wall(journal, 365 * DAY_MS)
    journal.tick("beat", "b")
    assert now_ms(journal) == before
    set_wall(journal, -3000)
    journal.tick("beat", "b")
    assert before + 2900 <= now_ms(journal) <= before + 5000


@given(st.lists(st.integers(-400 * DAY_MS, 400 * DAY_MS), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_clock_only_slows_journal_time_down(journal: Journal, leaps: list[int]) -> None:
    """However the clock leaps, each look moves journal time by 0 to 5 s, and never back."""
    queue(journal, "one")
    for leap in leaps:
        before = now_ms(journal)
        set_wall(journal, leap)
        journal.tick("steward", "w")
        assert before <= now_ms(journal) <= before + 5000


def test_time_is_kept_on_disk_only_while_something_waits(tmp_path: Path) -> None:
    """With operations waiting, ticks write time each 2 s; an idle system writes nothing to disk at all."""
    with EmbeddedStore(tmp_path) as running:
        store = Store(connect(running.url))
        journal = Journal(store, "idle")
        journal.tick("beat", "b")
        queue(journal, "one")
        settle_head(journal, "delivered")

        def appended() -> int:
            return int(store.client.info("persistence")["aof_current_size"])

        quiet = appended()
        for _ in range(20):
            journal.tick("beat", "b")
            journal.tick("steward", "w")
            journal.win_probe(0)
            assert journal.claim(WORKER) == Idle("open", None)
            set_wall_silently(store, journal, -3000)
        assert appended() == quiet
        queue(journal, "two")
        quiet = appended()
        journal.tick("beat", "b")
        assert appended() == quiet  # less than 2 s since it was written
        set_wall_silently(store, journal, -3000)
        journal.tick("beat", "b")
        assert appended() > quiet
        store.close()


def set_wall_silently(store: Store, journal: Journal, ahead_ms: int) -> None:
    """Like ``set_wall``, but past the AOF."""
    wall = round(time.time() * 1000) + ahead_ms
    script = "redis.set_repl(redis.REPL_NONE) return redis.call('HSET', KEYS[1], 'wall', ARGV[1])"
    store.client.eval(script, 1, counts(journal), wall)


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
    journal.store.command("PEXPIRE", journal.keys.wake, DAY_MS)
    journal.tick("beat", "b")
    assert journal.win_wake() is True
    assert 0 < journal.store.command("PTTL", journal.keys.wake) <= WAKE_S * 1000


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
