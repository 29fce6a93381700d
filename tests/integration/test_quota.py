"""The quota: what is refused, what makes room, and that it bounds the store's real memory beside the broker."""

from collections.abc import Iterator

import pytest
import redis

from fluxy_sync.errors import QueueFull
from fluxy_sync.journal import Idle, Inventory, Journal, NewRecord, Quota, Store, connect
from fluxy_sync.journal.journal import RECENT_IDS
from fluxy_sync.operation import check_lane, new_operation_id
from tests.journal_steps import (
    WORKER,
    claim,
    die,
    halted_by,
    held_for,
    letters,
    names,
    new,
    queue,
    settle_head,
    waiting,
)

LIMIT = 1_000_000
COMMAND, REPEATED = b"command-0001", True


def limited(journal: Journal, **quota: object) -> Journal:
    return Journal(journal.store, journal.keys.namespace, Quota(**quota))  # type: ignore[arg-type]


# --- memory


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(connect(store_url))
    yield store
    store.close()


def fill(journal: Journal, own_lanes: bool, keyed: bool) -> int:
    """Append until the queue is full; returns how many were accepted."""
    for accepted in range(100_000):
        name = new_operation_id()
        lane = check_lane(None, name) if own_lanes else "default"
        try:
            journal.append([NewRecord(name, lane, b"x" * 120, once=b"%016d" % accepted if keyed else b"")])
        except QueueFull:
            return accepted
    raise AssertionError("it never was full")


def memory_of(journal: Journal) -> int:
    """What the journal's keys take, counted by the store itself."""
    client: redis.Redis = journal.store.client
    keys = [key for key in client.scan_iter(f"{journal.keys.prefix}*", count=1000) if b":recent" not in key]
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys)


@pytest.mark.parametrize("own_lanes", [False, True], ids=["one lane", "a lane for each"])
@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "once keys"])
def test_max_bytes_bounds_memory(store: Store, namespace: str, own_lanes: bool, keyed: bool) -> None:
    """The keys stay within MAX_BYTES; most of it can be used on a long lane."""
    journal = Journal(store, namespace, Quota(max_bytes=LIMIT))
    accepted = fill(journal, own_lanes, keyed)
    used = memory_of(journal)
    assert used <= LIMIT
    assert used >= LIMIT * (0.3 if own_lanes or keyed else 0.6)
    assert accepted > 500


def test_dead_letters_count_against_max_bytes(store: Store, namespace: str) -> None:
    """Also those that were dropped to make room: dropping frees no memory, so the queue is full in the end."""
    journal = Journal(store, namespace, Quota(max_bytes=LIMIT, max_lane_pending=50, drop_oldest=True))
    fill(journal, own_lanes=False, keyed=False)
    used = memory_of(journal)
    assert LIMIT * 0.5 <= used <= LIMIT
    assert journal.snapshot().pending == 50
    inventory = Inventory(journal)
    inventory.drop(letters(journal)[:100])
    queue(journal, "fits-again")


# --- a lane's own bound


def test_a_full_lane_refuses_and_others_do_not(journal: Journal) -> None:
    """None of a batch is accepted, not even what would go to another lane; the error names the setting."""
    small = limited(journal, max_lane_pending=2)
    small.append([new("one"), new("two"), new("other", "b")])
    with pytest.raises(QueueFull, match=r"FLUXY_SYNC_MAX_LANE_PENDING.*nothing was accepted"):
        small.append([new("more", "b"), new("three")])
    assert (waiting(small), waiting(small, "b")) == (["one", "two"], ["other"])
    small.append([new("more", "b")])
    settle_head(small, "delivered")
    small.append([new("three")])
    assert waiting(small) == ["two", "three"]


def test_cancelled_ones_take_no_room(journal: Journal) -> None:
    """Tombstones stand in the lane, but aren't operations."""
    small = limited(journal, max_lane_pending=2)
    queue(small, "one", "two")
    small.cancel("a", "two")
    queue(small, "three")
    with pytest.raises(QueueFull):
        queue(small, "four")


def test_a_batch_that_is_larger_than_the_bound_is_refused(journal: Journal) -> None:
    """Whether the oldest are dropped or not: it could never fit."""
    for drop_oldest in (False, True):
        small = limited(journal, max_lane_pending=3, drop_oldest=drop_oldest)
        with pytest.raises(QueueFull):
            small.append([new(f"op-{n}") for n in range(4)])
    assert journal.snapshot().pending == journal.snapshot().dead == 0


# --- dropping the oldest


def test_the_oldest_makes_room(journal: Journal) -> None:
    """It becomes a dead letter, 'dropped', with its retries, and may be replayed; the counts tell."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    queue(small, "one", "two")
    settle_head(small, "retry", pause_s=600)
    appended = small.append([new("three")])
    assert (appended.dropped, waiting(small)) == (1, ["two", "three"])
    (letter,) = letters(journal)
    assert (letter.id, letter.reason, letter.retries) == ("one", "dropped", 1)
    snapshot = small.snapshot()
    assert (snapshot.pending, snapshot.dead, snapshot.dropped_total, snapshot.retrying) == (2, 1, 1, 0)
    run = claim(small)
    assert (names(run.records), run.retries) == (["two", "three"], 0)


@pytest.mark.parametrize("bound", ["max_pending", "max_lane_pending"])
def test_what_is_being_sent_is_never_dropped(journal: Journal, bound: str) -> None:
    """The one behind it is; where there is none, the queue is full."""
    small = limited(journal, **{bound: 3}, drop_oldest=True)
    queue(small, "flying", "two", "three")
    run = claim(small)
    assert small.append([new("four")]).dropped == 1
    assert waiting(small) == ["flying", "three", "four"]
    assert [letter.id for letter in letters(small)] == ["two"]
    assert small.append([new("five"), new("six")]).dropped == 2
    assert waiting(small) == ["flying", "five", "six"]
    with pytest.raises(QueueFull):
        small.append([new(f"op-{n}") for n in range(3)])
    settled = small.settle("a", run.fence, "flying", "delivered")
    assert (settled.status, settled.next_id) == ("ok", "five")


def test_an_only_one_that_is_being_sent_stays(journal: Journal) -> None:
    """There is nothing to drop: the new one is refused."""
    small = limited(journal, max_lane_pending=1, drop_oldest=True)
    queue(small, "flying")
    claim(small)
    with pytest.raises(QueueFull):
        queue(small, "two")
    small.reclaim("aa")
    queue(small, "two")  # nobody sends it any more
    assert waiting(small) == ["two"]
    assert names(claim(small).records) == ["two"]


@pytest.mark.parametrize("flying", [True, False])
def test_tombstones_are_passed_over(journal: Journal, flying: bool) -> None:
    """The oldest operation is dropped, whatever lies in front of it, and the count of tombstones stays exact."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    queue(small, "head", "gone")
    run = claim(small)
    small.cancel("a", "gone")
    queue(small, "second")
    if not flying:
        small.release("a", run.fence)
    assert small.append([new("third")]).dropped == 1
    assert [letter.id for letter in letters(small)] == (["second"] if flying else ["head"])
    assert waiting(small) == (["head", "third"] if flying else ["second", "third"])
    assert small.store.command("EXISTS", small.keys.fixed[14]) == 0
    assert small.store.command("LLEN", small.keys.lane("a")) == small.snapshot().pending == 2


def test_all_or_none_over_several_lanes(journal: Journal) -> None:
    """One lane could make room, the other can't: nothing is dropped, nothing accepted."""
    small = limited(journal, max_lane_pending=1, drop_oldest=True)
    small.append([new("one"), new("flying", "b")])
    Inventory(journal).hold("a")
    claim(small)
    with pytest.raises(QueueFull):
        small.append([new("two"), new("more", "b")])
    assert (waiting(small), waiting(small, "b")) == (["one"], ["flying"])
    assert (small.snapshot().dead, small.snapshot().dropped_total) == (0, 0)
    assert small.append([new("two"), new("else", "c")]).dropped == 1


def test_each_lane_of_a_batch_gives_up_its_own_oldest(journal: Journal) -> None:
    """In the order in which the lanes are named; one with room drops nothing."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    small.append([new(f"{lane}{n}", lane) for lane in "abc" for n in range(2)])
    small.cancel("c", "c0")
    assert small.append([new("b2", "b"), new("c2", "c"), new("a2"), new("b3", "b")]).dropped == 3
    assert [letter.id for letter in letters(small)] == ["b0", "b1", "a0"]
    assert [waiting(small, lane) for lane in "abc"] == [["a1", "a2"], ["b2", "b3"], ["c1", "c2"]]


def test_only_the_lanes_of_the_batch_give_something_up(journal: Journal) -> None:
    """The whole queue is full: another lane's operations aren't dropped for a newcomer's."""
    small = limited(journal, max_pending=3, drop_oldest=True)
    queue(small, "one", "two", "three")
    with pytest.raises(QueueFull):
        small.append([new("newcomer", "b")])
    assert small.append([new("four")]).dropped == 1
    assert waiting(small) == ["two", "three", "four"]


def test_both_bounds_count(journal: Journal) -> None:
    """What a lane drops for its own bound makes room in the whole queue as well."""
    small = limited(journal, max_pending=4, max_lane_pending=2, drop_oldest=True)
    small.append([new("a0"), new("a1"), new("b0", "b"), new("b1", "b")])
    assert small.append([new("a2"), new("b2", "b")]).dropped == 2
    assert small.snapshot().pending == 4


def test_what_is_over_its_bound_only_stops_growing(journal: Journal) -> None:
    """Followers and replays pass the quota, and a bound may be lowered: one goes for each that comes, no more."""
    queue(journal, *[f"op-{n}" for n in range(10)])
    for bound in ("max_lane_pending", "max_pending"):
        small = limited(journal, **{bound: 3}, drop_oldest=True)
        assert small.append([new(f"{bound}-1"), new(f"{bound}-2")]).dropped == 2
        assert small.snapshot().pending == 10
        with pytest.raises(QueueFull):
            limited(journal, **{bound: 3}).append([new("refused")])


def test_bytes_are_not_made_by_dropping(journal: Journal) -> None:
    """A dropped one is kept as a dead letter: MAX_BYTES refuses, and nothing is dropped in vain."""
    small = limited(journal, max_bytes=20_000, max_lane_pending=2, drop_oldest=True)
    small.append([new("one", size=6000), new("two", size=6000)])
    with pytest.raises(QueueFull, match="FLUXY_SYNC_MAX_BYTES"):
        small.append([new("three", size=8000)])
    assert (waiting(small), small.snapshot().dead) == (["one", "two"], 0)
    assert small.append([new("three", size=2000)]).dropped == 1


def test_a_dropped_one_halts_its_lane_where_it_asked_for_that(journal: Journal) -> None:
    """What depended on it isn't sent without a person's word; more may be dropped meanwhile."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    small.append([new("key", halt=True), new("other", halt=True)])
    assert small.append([new("two"), new("three")]).dropped == 2
    assert held_for(journal) == (halted_by("key"), halted_by("other"))
    assert (journal.snapshot().held, journal.snapshot().held_for) == (2, {"halted": 1})
    assert isinstance(journal.claim(WORKER), Idle)
    Inventory(journal).drop(letters(journal))
    assert names(claim(journal).records) == ["two", "three"]


def test_a_dropped_one_behind_what_is_being_sent_halts_too(journal: Journal) -> None:
    """The flight lands; nothing follows it."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    small.append([new("flying"), new("key", halt=True)])
    run = claim(small)
    assert small.append([new("two")]).dropped == 1
    assert journal.snapshot().held == 2
    settled = small.settle("a", run.fence, "flying", "delivered")
    assert (settled.status, settled.next_id) == ("ok", "")
    assert isinstance(journal.claim(WORKER), Idle)


def test_a_held_lane_drops_its_oldest(journal: Journal) -> None:
    """It stays held, and the counts are exact."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    queue(small, "one", "two")
    Inventory(journal).hold("a")
    assert small.append([new("three")]).dropped == 1
    assert (journal.snapshot().held, held_for(journal)) == (2, ("paused",))


def test_a_dropped_countdown_lets_the_next_one_go(journal: Journal) -> None:
    """The lane waited for the dropped one's time; a claimed lane keeps its claim."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    small.append([new("later", countdown_s=600), new("two")])
    small.append([new("three")])
    assert names(claim(small).records) == ["two", "three"]


def test_a_command_that_comes_twice_drops_once(journal: Journal) -> None:
    """The reply was lost: the repeat finds all known, and neither stores nor drops again."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    queue(small, "one", "two")
    flat = small.flatten([new("three"), new("four", once=b"o" * 16)], ["a"])
    head = [COMMAND, 0, 0, 0, 2, "drop_oldest", RECENT_IDS, 3000, 60_000]
    assert small.run("append", *head, *flat, lanes=["a"])[2] == 2
    head[1] = int(REPEATED)
    assert small.run("append", *head, *flat, lanes=["a"]) == [b"ok", 0, 0]
    assert waiting(small) == ["three", "four"]
    assert (small.snapshot().dead, small.snapshot().dropped_total) == (2, 2)


def test_known_ones_and_later_ones_of_a_key_drop_nothing(journal: Journal) -> None:
    """They need no room."""
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    small.append([new("one", once=b"o" * 16), new("two")])
    appended = small.append([new("two"), new("three", once=b"o" * 16), new("one")])
    assert (appended.dropped, appended.first) == (0, {1: ("one", "a")})
    assert waiting(small) == ["one", "two"]


def test_a_dropped_one_may_be_replayed(journal: Journal) -> None:
    """Past the quota."""
    die(journal, "dead")
    small = limited(journal, max_lane_pending=2, drop_oldest=True)
    queue(small, "one", "two")
    small.append([new("three")])
    assert Inventory(journal).replay([(each, b"") for each in letters(journal)], "tail")[0] == 2
    assert waiting(small) == ["two", "three", "dead", "one"]
    assert small.append([new("four")]).dropped == 1
    assert small.snapshot().pending == 4
