"""Lanes that wait for more than time: for a person, a key, a task, credentials, or what is done with a dead letter."""

import pytest

from fluxy_sync.journal import Claim, Idle, Inventory, Journal, Quota
from fluxy_sync.journal.inventory import PAUSED
from fluxy_sync.journal.journal import CLAIM_S, TAKEOVERS_UNTIL_DEAD
from tests.journal_steps import (
    WORKER,
    begin,
    claim,
    die,
    die_with_it,
    halted_by,
    held_for,
    idle,
    let_pass,
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


def hold_head(journal: Journal, reason: str, *, lane: str = "a", pause_s: float = 0.0) -> None:
    """The worker that has the lane finds that its head can't be sent."""
    run = claim(journal)
    assert run.lane == lane
    settled = journal.settle(lane, run.fence, names(run.records)[0], "hold", reason=reason, pause_s=pause_s)
    assert settled.status == "ok"


# --- by a person


def test_a_paused_lane_waits_and_others_do_not(journal: Journal, inventory: Inventory) -> None:
    """Nothing of it is sent until it is let go; what is queued meanwhile joins it."""
    queue(journal, "one")
    queue(journal, "other", lane="b")
    assert inventory.hold("a") == (True, False)
    assert inventory.hold("a") == (False, False)
    queue(journal, "two")
    assert settle_head(journal, "delivered", "b") == "other"
    assert journal.claim(WORKER) == Idle("open", None)
    snapshot = journal.snapshot()
    assert (snapshot.held, snapshot.held_for) == (2, {PAUSED: 1})
    assert inventory.let_go("a")[0] is True
    assert inventory.let_go("a")[0] is False
    assert names(claim(journal).records) == ["one", "two"]
    assert (journal.snapshot().held, journal.snapshot().held_for) == (0, {})


def test_an_empty_lane_may_be_paused(journal: Journal, inventory: Inventory) -> None:
    """What comes later waits there, and wakes nobody."""
    assert inventory.hold("a") == (True, False)
    assert journal.snapshot().held == 0
    assert journal.append([new("one")]).woken is False
    assert journal.snapshot().held == 1
    assert journal.claim(WORKER) == Idle("open", None)
    assert inventory.let_go("a") == (True, True)
    assert names(claim(journal).records) == ["one"]


def test_letting_go_wakes_a_worker_only_where_something_is_due(journal: Journal, inventory: Inventory) -> None:
    """Not for an empty lane, nor for one that waits for its head's time."""
    inventory.hold("a")
    inventory.hold("b")
    journal.append([new("later", "b", countdown_s=60)])
    assert inventory.let_go("a") == (True, False)
    assert inventory.let_go("b") == (True, False)
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert 55 < due_in <= 60


def test_pausing_a_lane_tells_what_is_being_sent(journal: Journal, inventory: Inventory) -> None:
    """That one still lands; its holder goes no further."""
    queue(journal, "one", "two")
    run = claim(journal)
    assert inventory.hold("a") == (True, True)
    settled = journal.settle("a", run.fence, "one", "delivered")
    assert (settled.status, settled.next_id, settled.ends_in_s) == ("ok", "", 0)
    assert inventory.in_flight("a") == 0
    assert journal.claim(WORKER) == Idle("open", None)
    assert waiting(journal) == ["two"]


@pytest.mark.parametrize("way", ["retry", "wait", "hold", "dead", "release", "already"])
def test_a_lane_paused_while_it_is_claimed_rests_afterwards(journal: Journal, inventory: Inventory, way: str) -> None:
    """However its claim ends."""
    queue(journal, "one", "two")
    run = claim(journal)
    inventory.hold("a")
    if way == "release":
        assert journal.release("a", run.fence)
    else:
        named = "another" if way == "already" else "one"
        verdict = "retry" if way == "already" else way
        journal.settle("a", run.fence, named, verdict, reason="key:0badcafe")  # type: ignore[arg-type]
    assert journal.holders() == set()
    let_pass(journal, 10 * CLAIM_S)
    assert journal.claim(WORKER) == Idle("open", None)
    assert journal.snapshot().held == len(waiting(journal))


def test_a_lane_held_twice_for_the_same_leaves_the_schedule(journal: Journal, inventory: Inventory) -> None:
    """Somebody held it for its head's credentials while it was claimed, and then its holder does."""
    queue(journal, "one")
    run = claim(journal)
    inventory.hold("a", "credentials")
    journal.settle("a", run.fence, "one", "hold", reason="credentials", pause_s=30)
    assert journal.tick("beat", "b").due_in_s is None
    assert journal.snapshot().held_for == {"credentials": 1}
    let_pass(journal, 31)
    assert journal.tick("beat", "b").due_in_s == 0


@pytest.mark.parametrize("way", ["deadline", "reclaim"])
def test_a_lane_paused_while_its_holder_dies_rests(journal: Journal, inventory: Inventory, way: str) -> None:
    """Nobody takes it over; let go, it starts without a count of takeovers."""
    queue(journal, "one")
    die_with_it(journal, TAKEOVERS_UNTIL_DEAD - 1)
    begin(journal)
    inventory.hold("a")
    if way == "deadline":
        let_pass(journal, CLAIM_S)
    else:
        assert journal.reclaim("aa") == 1
    assert journal.claim(WORKER) == Idle("open", None)
    inventory.let_go("a")
    assert names(claim(journal).records) == ["one"]


def test_letting_go_does_not_end_a_claim(journal: Journal, inventory: Inventory) -> None:
    """Held and let go while one is being sent: its holder goes on, and nobody else gets the lane."""
    queue(journal, "one", "two")
    run = claim(journal)
    inventory.hold("a")
    inventory.let_go("a")
    assert idle(journal).due_in_s is not None
    assert journal.settle("a", run.fence, "one", "delivered").next_id == "two"


def test_a_hold_may_end_by_itself(journal: Journal, inventory: Inventory) -> None:
    """As that of a long replay does, whose client may die: the tick lets the lane go."""
    queue(journal, "one")
    inventory.hold("a", "replay", 30)
    let_pass(journal, 25)
    assert journal.tick("beat", "b").wants_token is False
    inventory.hold("a", "replay", 30)  # it lives: from now on
    let_pass(journal, 10)
    assert journal.tick("beat", "b").wants_token is False
    let_pass(journal, 21)
    assert journal.tick("beat", "b").wants_token is True
    assert held_for(journal) == ()


def test_a_backoff_outlasts_a_hold(journal: Journal, inventory: Inventory) -> None:
    """A lane that is let go isn't due before its head's next try."""
    queue(journal, "failing")
    settle_head(journal, "retry", pause_s=600)
    inventory.hold("a")
    inventory.let_go("a")
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert 590 < due_in <= 600


# --- for several causes


def test_a_lane_waits_until_its_last_cause_is_gone(journal: Journal, inventory: Inventory) -> None:
    """Each is counted and listed; the order in which they go doesn't matter."""
    queue(journal, "one")
    hold_head(journal, "key:0badcafe")
    inventory.hold("a")
    inventory.hold("a", "replay")
    assert held_for(journal) == ("key:0badcafe", PAUSED, "replay")
    assert journal.snapshot().held_for == {"key:0badcafe": 1, PAUSED: 1, "replay": 1}
    assert journal.snapshot().held == 1
    for why, left in (("replay", 2), ("key:0badcafe", 1)):
        inventory.let_go("a", why)
        assert len(held_for(journal)) == left
        assert journal.snapshot().held == 1
        assert journal.claim(WORKER) == Idle("open", None)
    inventory.let_go("a")
    assert names(claim(journal).records) == ["one"]


def test_one_cause_that_is_offered_again_leaves_the_others(journal: Journal, inventory: Inventory) -> None:
    """The tick takes only those whose time has come."""
    queue(journal, "one")
    hold_head(journal, "key:0badcafe", pause_s=30)
    inventory.hold("a")
    let_pass(journal, 31)
    assert journal.tick("beat", "b").wants_token is False
    assert held_for(journal) == (PAUSED,)


@pytest.mark.parametrize("reason", ["", " ", "\n"])
def test_a_hold_without_a_reason_can_be_let_go(journal: Journal, inventory: Inventory, reason: str) -> None:
    """It is named all the same."""
    queue(journal, "one")
    hold_head(journal, reason)
    assert held_for(journal) == ("-",)
    assert inventory.let_go("a", "-")[0] is True


def test_an_emptied_lane_keeps_the_holds_that_are_not_its_heads(journal: Journal, inventory: Inventory) -> None:
    """Cancelling its only operation ends 'its key is missing', not 'paused'."""
    queue(journal, "one")
    hold_head(journal, "key:0badcafe")
    inventory.hold("a")
    assert journal.cancel("a", "one")[0] == "cancelled"
    assert held_for(journal) == (PAUSED,)
    assert (journal.snapshot().held, journal.snapshot().held_for) == (0, {PAUSED: 1})
    queue(journal, "two")
    assert journal.snapshot().held == 1


@pytest.mark.parametrize("way", ["cancel", "clear", "drop_oldest"])
@pytest.mark.parametrize("reason", ["key:0badcafe", "task:app.send", "credentials"])
def test_what_is_the_heads_own_fault_goes_with_it(
    journal: Journal, inventory: Inventory, reason: str, way: str
) -> None:
    """Cancelled, cleared, or dropped to make room: the next one is due."""
    queue(journal, "one", "next")
    hold_head(journal, reason)
    if way == "cancel":
        assert journal.cancel("a", "one")[0] == "cancelled"
    elif way == "clear":
        assert inventory.clear("a", 1) == (1, 1)
    else:
        quota = Quota(max_lane_pending=2, drop_oldest=True)
        assert Journal(journal.store, journal.keys.namespace, quota).append([new("third")]).dropped == 1
    assert held_for(journal) == ()
    assert (journal.snapshot().held, journal.snapshot().held_for) == (0, {})
    assert names(claim(journal).records)[0] == "next"


# --- halted by a dead one


def test_a_halting_operation_that_dies_halts_its_lane(journal: Journal, inventory: Inventory) -> None:
    """What follows it waits for a person: replayed, it goes first or last; the lane goes on."""
    journal.append([new("key", halt=True), new("depends"), new("on-it")])
    assert settle_head(journal, "dead", reason="422") == "key"
    assert held_for(journal) == (halted_by("key"),)
    assert (journal.snapshot().held, journal.snapshot().held_for) == (2, {"halted": 1})
    assert journal.claim(WORKER) == Idle("open", None)
    (letter,) = letters(journal)
    assert letter.halts is True
    journal.forget_wake()
    assert inventory.replay([(letter, b"")], "head") == (1, True)
    assert held_for(journal) == ()
    assert names(claim(journal).records) == ["key", "depends", "on-it"]


def test_dropping_the_dead_one_lets_its_lane_go(journal: Journal, inventory: Inventory) -> None:
    """The person has decided: what follows is sent without it."""
    journal.append([new("key", halt=True), new("depends")])
    settle_head(journal, "dead", reason="422")
    journal.forget_wake()
    assert inventory.drop(letters(journal)) == (1, True)
    assert (held_for(journal), journal.snapshot().held) == ((), 0)
    assert names(claim(journal).records) == ["depends"]


def test_dropping_another_dead_one_does_not(journal: Journal, inventory: Inventory) -> None:
    """Each lane waits for its own."""
    journal.append([new("plain"), new("key", halt=True), new("depends")])
    settle_head(journal, "dead", reason="422")
    settle_head(journal, "dead", reason="422")
    plain, _ = letters(journal)
    assert inventory.drop([plain]) == (1, False)
    assert held_for(journal) == (halted_by("key"),)


def test_a_halted_lane_may_be_let_go_by_hand(journal: Journal, inventory: Inventory) -> None:
    """Without deciding about the dead letter."""
    journal.append([new("key", halt=True), new("depends")])
    settle_head(journal, "dead", reason="422")
    journal.forget_wake()
    assert inventory.let_go("a", halted_by("key")) == (True, True)
    assert names(claim(journal).records) == ["depends"]
    assert journal.snapshot().dead == 1


def test_a_halt_ends_the_claim(journal: Journal) -> None:
    """The holder isn't given the next one."""
    journal.append([new("key", halt=True), new("depends")])
    run = claim(journal)
    settled = journal.settle("a", run.fence, "key", "dead", reason="expired")
    assert (settled.status, settled.next_id, settled.ends_in_s) == ("ok", "", 0)
    assert journal.holders() == set()


def test_an_operation_that_kills_its_workers_halts_its_lane_too(journal: Journal) -> None:
    """Where it asked for that."""
    journal.append([new("killer", halt=True), new("depends")])
    die_with_it(journal, TAKEOVERS_UNTIL_DEAD, way="reclaim")
    found = journal.claim(WORKER)
    assert isinstance(found, Idle)
    assert [(each.id, each.reason) for each in found.buried] == [("killer", "killed-its-worker")]
    assert held_for(journal) == (halted_by("killer"),)


def test_a_plain_operation_that_dies_halts_nothing(journal: Journal) -> None:
    """Nor does a delivered one that would have halted its lane."""
    journal.append([new("plain"), new("halting", halt=True), new("last")])
    settle_head(journal, "dead", reason="422")
    settle_head(journal, "delivered")
    assert held_for(journal) == ()
    assert isinstance(journal.claim(WORKER), Claim)


def test_a_lane_halted_twice_counts_once_and_waits_for_both(journal: Journal, inventory: Inventory) -> None:
    """`held_for` counts lanes: for each cause, how many wait."""
    die(journal, "one", halt=True)
    inventory.let_go("a", halted_by("one"))
    journal.append([new("two", halt=True), new("next")])
    settle_head(journal, "dead", reason="422")
    inventory.hold("a", halted_by("one"))
    assert journal.snapshot().held_for == {"halted": 1}
    one, two = letters(journal)
    inventory.drop([two])
    assert journal.snapshot().held_for == {"halted": 1}
    assert journal.claim(WORKER) == Idle("open", None)
    inventory.drop([one])
    assert journal.snapshot().held_for == {}
    assert names(claim(journal).records) == ["next"]
