"""Taking operations off a lane: clearing it, a great many tombstones, lanes that are long or hold large operations."""

import pytest

from fluxy_sync.journal import Claim, Idle, Inventory, Journal, Quota
from fluxy_sync.journal.journal import CLAIM_S, TAKEOVERS_UNTIL_DEAD
from fluxy_sync.journal.record import pack_id, parse
from tests.journal_reading import keys_of
from tests.journal_state import Entry
from tests.journal_steps import (
    OTHER_WORKER,
    WORKER,
    begin,
    claim,
    die,
    die_with_it,
    idle,
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


def clear_all(inventory: Inventory, lane: str = "a") -> list[int]:
    """Clear a lane, step by step: the operations of each."""
    steps = []
    while (found := inventory.clear(lane, 10**6))[1]:
        steps.append(found[0])
    return steps


def traces(journal: Journal) -> int:
    """How many of the keys that speak of lanes there are."""
    keys = keys_of(journal)
    names = ("ready", "claims", "retries", "held", "oldest", "cancelled", "large")
    return int(journal.store.command("EXISTS", journal.keys.lane("a"), *(keys[name] for name in names)))


# --- clear


def test_a_cleared_lane_is_empty(journal: Journal, inventory: Inventory) -> None:
    """With its backoff and its tombstones; the counts follow, and others keep theirs."""
    queue(journal, "failing", "two", "three", "four")
    queue(journal, "other", lane="b")
    journal.cancel("a", "three")
    settle_head(journal, "retry", pause_s=600)
    assert clear_all(inventory) == [3]
    snapshot = journal.snapshot()
    assert (snapshot.pending, snapshot.cancelled_total, snapshot.retrying, snapshot.lanes) == (1, 4, 0, 1)
    assert settle_head(journal, "delivered", "b") == "other"
    assert journal.snapshot().bytes == 0
    assert traces(journal) == 0
    queue(journal, "new")
    assert names(claim(journal).records) == ["new"]


def test_only_so_many_are_taken(journal: Journal, inventory: Inventory) -> None:
    """From the front, tombstones included: what came after the clear began isn't touched."""
    queue(journal, *[f"op-{n}" for n in range(6)])
    journal.cancel("a", "op-1")
    assert inventory.clear("a", 3) == (2, 3)
    assert waiting(journal) == ["op-3", "op-4", "op-5"]
    assert journal.snapshot().pending == 3
    assert inventory.clear("b", 3) == (0, 0)
    assert names(claim(journal).records) == ["op-3", "op-4", "op-5"]


def test_tombstones_behind_what_was_taken_go_too(journal: Journal, inventory: Inventory) -> None:
    """The next head is an operation."""
    queue(journal, "one", "two", "three")
    journal.cancel("a", "two")
    assert inventory.clear("a", 1) == (1, 1)
    assert journal.store.command("LLEN", journal.keys.lane("a")) == 1
    assert names(claim(journal).records) == ["three"]


def test_a_clear_that_finds_nothing_changes_nothing(journal: Journal, inventory: Inventory) -> None:
    """It isn't told to who listens either."""
    revision = journal.snapshot().rev
    assert inventory.clear("a", 100) == (0, 0)
    assert journal.snapshot().rev == revision
    assert traces(journal) == 0


def test_a_cleared_lane_keeps_its_claim(journal: Journal, inventory: Inventory) -> None:
    """One is being sent: what is queued next waits until its holder has seen that it is gone, and overtakes nothing."""
    queue(journal, "flying", "two")
    run = claim(journal)
    assert clear_all(inventory) == [2]
    assert inventory.in_flight("a") == 1
    assert journal.append([new("new")]).woken is False
    due_in = idle(journal).due_in_s
    assert due_in is not None
    assert CLAIM_S - 5 < due_in <= CLAIM_S
    settled = journal.settle("a", run.fence, "flying", "delivered")
    assert (settled.status, settled.next_id) == ("already", "new")
    assert journal.settle("a", run.fence, "new", "delivered").status == "ok"
    assert journal.snapshot().delivered_total == 1
    assert traces(journal) == 0


@pytest.mark.parametrize("way", ["release", "give up", "deadline", "reclaim"])
def test_a_cleared_lane_reopens(journal: Journal, inventory: Inventory, way: str) -> None:
    """When its claim ends, however that is."""
    queue(journal, "flying")
    run = claim(journal)
    clear_all(inventory)
    queue(journal, "new")
    if way == "release":
        journal.release("a", run.fence)
    elif way == "give up":
        assert journal.settle("a", run.fence, "flying", "retry", pause_s=600, give_up=True).status == "already"
    elif way == "deadline":
        let_pass(journal, CLAIM_S)
    else:
        journal.reclaim("aa")
    assert names(claim(journal, OTHER_WORKER).records) == ["new"]


def test_a_replay_to_the_head_of_a_cleared_lane_overtakes_nothing(journal: Journal, inventory: Inventory) -> None:
    """Its claim stands for what is still being sent."""
    die(journal, "dead")
    queue(journal, "flying")
    run = claim(journal)
    clear_all(inventory)
    assert inventory.replay([(letters(journal)[0], b"")], "head")[0] == 1
    assert isinstance(journal.claim(WORKER), Idle)
    assert journal.holders() == {("aa", 11)}
    assert journal.snapshot().oldest_age_ms >= 0
    assert journal.settle("a", run.fence, "flying", "delivered").next_id == "dead"


def test_an_empty_lane_under_a_claim_is_forgotten_at_its_deadline(journal: Journal, inventory: Inventory) -> None:
    """Nothing is left of it."""
    queue(journal, "flying")
    claim(journal)
    clear_all(inventory)
    let_pass(journal, CLAIM_S)
    assert journal.claim(WORKER) == Idle("open", None)
    assert traces(journal) == 0


def test_takeovers_of_what_was_cleared_do_not_count_for_the_next(journal: Journal, inventory: Inventory) -> None:
    """A killer is cleared in its last flight: the innocent one behind it isn't buried for it."""
    queue(journal, "killer")
    die_with_it(journal, TAKEOVERS_UNTIL_DEAD - 1)
    begin(journal)
    clear_all(inventory)
    queue(journal, "innocent")
    let_pass(journal, CLAIM_S)
    assert names(claim(journal).records) == ["innocent"]


def test_a_held_lane_can_be_cleared(journal: Journal, inventory: Inventory) -> None:
    """It stays held, by what a person set."""
    queue(journal, "one", "two")
    inventory.hold("a")
    assert clear_all(inventory) == [2]
    assert (journal.snapshot().held, journal.snapshot().held_for) == (0, {"paused": 1})
    queue(journal, "three")
    assert journal.claim(WORKER) == Idle("open", None)


def test_a_long_lane_is_cleared_in_steps(journal: Journal, inventory: Inventory) -> None:
    """None takes more than 500."""
    journal.append([new(f"op-{n}") for n in range(1200)])
    assert clear_all(inventory) == [500, 500, 200]
    assert (journal.snapshot().pending, journal.snapshot().bytes) == (0, 0)


def test_large_ones_are_cleared_a_few_at_a_time(journal: Journal, inventory: Inventory) -> None:
    """A step ends with its mebibyte, whatever came before."""
    journal.append([new(f"small-{n}") for n in range(100)])
    for n in range(10):
        journal.append([new(f"large-{n}", size=MIB)])
    steps = clear_all(inventory)
    assert sum(steps) == 110
    assert max(steps[1:]) <= 4
    assert (journal.snapshot().pending, journal.snapshot().bytes, traces(journal)) == (0, 0, 0)


# --- tombstones in great numbers


@pytest.mark.parametrize("many", [SCAN_RECORDS - 1, SCAN_RECORDS, SCAN_RECORDS + 1, 2 * SCAN_RECORDS + 7])
@pytest.mark.parametrize("behind", [0, 1])
def test_a_great_many_tombstones_are_swept_in_steps(journal: Journal, many: int, behind: int) -> None:
    """Each look drops some; nothing that waits behind them is lost, and an emptied lane leaves no trace."""
    queue(journal, "head")
    bury_alive(journal, many)
    queue(journal, *["last"][:behind])
    assert settle_head(journal, "delivered") == "head"
    assert length(journal) == behind + max(0, many - SCAN_RECORDS)
    looks = 0
    while isinstance(found := journal.claim(WORKER), Idle) and found.due_in_s is not None:
        assert found.due_in_s == 0, "look again"
        looks += 1
    assert looks == max(0, (many - 1) // SCAN_RECORDS - 1)
    if behind:
        assert isinstance(found, Claim)
        assert names(found.records) == ["last"]
        assert 0 <= journal.snapshot().oldest_age_ms < 60_000
        assert journal.settle("a", found.fence, "last", "delivered").status == "ok"
    assert (journal.snapshot().pending, journal.snapshot().lanes, traces(journal)) == (0, 0, 0)


def bury_alive(journal: Journal, many: int) -> None:
    """Tombstones of so many operations, as ``cancel`` leaves them."""
    queue(journal, "sample")
    assert journal.cancel("a", "sample")[0] == "cancelled"
    client, key = journal.store.client, journal.keys.lane("a")
    sample = client.lindex(key, -1)
    assert sample == Entry("sample", parse(sample).accepted_ms, 0, 0, b"", cancelled=True).stored
    stones = [Entry(f"op-{n}", 1, 0, 0, b"", cancelled=True).stored for n in range(many - 1)]
    client.rpush(key, *stones)
    client.hincrby(journal.keys.fixed[14], "a", len(stones))


def length(journal: Journal) -> int:
    return int(journal.store.command("LLEN", journal.keys.lane("a")))


def test_the_age_is_that_of_the_operation_behind_the_tombstones(journal: Journal) -> None:
    """Not that of the tombstones that were swept."""
    queue(journal, "head")
    bury_alive(journal, SCAN_RECORDS + 5)
    let_pass(journal, 1000)
    queue(journal, "young")
    settle_head(journal, "delivered")
    assert journal.snapshot().oldest_age_ms >= 1_000_000
    assert names(claim(journal).records) == ["young"]
    assert journal.snapshot().oldest_age_ms < 60_000


def test_other_lanes_are_served_between_the_sweeps(journal: Journal) -> None:
    """A lane full of tombstones doesn't stand in front of the others for ever."""
    queue(journal, "head")
    bury_alive(journal, 3 * SCAN_RECORDS)
    settle_head(journal, "delivered")
    queue(journal, "other", lane="b")
    looks = 0
    while isinstance(found := journal.claim(WORKER), Idle):
        looks += 1
    assert (found.lane, looks <= 3) == ("b", True)


def test_what_is_done_to_a_lane_that_is_not_swept_yet(journal: Journal, inventory: Inventory) -> None:
    """Paused and let go, shown, appended to, searched: it is as if the tombstones weren't there."""
    queue(journal, "head")
    bury_alive(journal, 3 * SCAN_RECORDS)
    queue(journal, "last")
    settle_head(journal, "delivered")
    assert [each.id for each in inventory.waiting("a")] == ["last"]
    assert journal.find("a", "last")[0] == "pending"
    assert journal.find("a", "op-2999")[0] == "absent"
    inventory.hold("a")
    assert journal.snapshot().held == 1
    inventory.let_go("a")
    quota = Quota(max_lane_pending=1, drop_oldest=True)
    assert Journal(journal.store, journal.keys.namespace, quota).append([new("newer")]).dropped == 1
    assert [letter.id for letter in letters(journal)] == ["last"]
    assert names(claim(journal).records) == ["newer"]
    assert journal.store.command("EXISTS", journal.keys.fixed[14]) == 0


# --- long lanes, and lanes of large operations


def test_a_lane_of_a_hundred_thousand(journal: Journal, inventory: Inventory) -> None:
    """Found, cancelled, shown and cleared as in a short one."""
    length = 100_000
    fill(journal, length)
    for n in (0, 1, length // 2, length - 1):
        assert journal.find("a", f"op-{n}")[0] == "pending"
    assert journal.find("a", "never-queued") == ("absent", b"")
    gone = (0, 31_000, length - 1)
    for n in gone:
        status, record = journal.cancel("a", f"op-{n}")
        assert (status, parse(record).id) == ("cancelled", f"op-{n}")
    assert [each.id for each in inventory.waiting("a")] == [f"op-{n}" for n in range(length) if n not in gone]
    assert journal.snapshot().pending == length - 3
    assert sum(clear_all(inventory)) == length - 3
    assert (journal.snapshot().pending, journal.snapshot().bytes) == (0, 0)


def fill(journal: Journal, length: int) -> None:
    for first in range(0, length, 1000):
        journal.append([new(f"op-{n}") for n in range(first, first + 1000)])


def test_a_lane_of_large_operations(journal: Journal, inventory: Inventory) -> None:
    """A mebibyte each, small ones around them: found, cancelled and shown."""
    journal.append([new(f"front-{n}") for n in range(150)])
    for n in range(12):
        journal.append([new(f"large-{n}", size=MIB)])
    journal.append([new(f"back-{n}") for n in range(150)])
    order = [f"front-{n}" for n in range(150)] + [f"large-{n}" for n in range(12)] + [f"back-{n}" for n in range(150)]
    for name in ("front-0", "large-0", "large-11", "back-149"):
        assert journal.find("a", name)[0] == "pending"
    assert [each.id for each in inventory.waiting("a")] == order
    status, record = journal.cancel("a", "large-5")
    assert (status, len(parse(record).sealed)) == ("cancelled", MIB)
    assert journal.cancel("a", "front-0")[0] == "cancelled"
    order = [name for name in order if name not in ("large-5", "front-0")]
    assert [each.id for each in inventory.waiting("a")] == order
    delivered = []
    while isinstance(run := journal.claim(WORKER), Claim):
        for record in run.records:
            name = parse(record).id
            settled = journal.settle("a", run.fence, name, "delivered")
            delivered.append(name)
        if settled.next_id:
            journal.release("a", run.fence)
    assert delivered == order


def test_no_call_reads_much_at_once(journal: Journal, inventory: Inventory) -> None:
    """Whatever a lane holds: a store that copies 40 MiB for one script answers nobody else meanwhile."""
    journal.append([new(f"front-{n}") for n in range(200)])
    for n in range(40):
        journal.append([new(f"large-{n}", size=MIB)])
    journal.append([new(f"back-{n}") for n in range(200)])
    grew, before = [], scripts_memory(journal)

    def watch() -> None:
        nonlocal before
        now = scripts_memory(journal)
        grew.append(now - before)
        before = now

    look_from = -1
    while (answer := journal.run("find", "a", pack_id("front-0"), look_from, lanes=["a"]))[0] == b"next":
        look_from = answer[1]
        watch()
    assert len(grew) >= 10
    for _ in inventory.pages("a"):
        watch()
    while inventory.length("a"):
        claim(journal)
        watch()
        inventory.clear("a", 100)
        watch()
        let_pass(journal, CLAIM_S)
    assert len(grew) > 100
    assert max(grew) < 6 * MIB


@pytest.mark.parametrize("way", ["append", "retry", "head", "tail", "follower"])
def test_a_lane_is_known_to_hold_large_ones(journal: Journal, inventory: Inventory, way: str) -> None:
    """However they came: it is read in small steps until it is empty."""
    large = keys_of(journal)["large"]
    if way in ("head", "tail"):
        journal.bury(new("large", size=MIB), "dropped")
        queue(journal, "small")
        assert inventory.replay([(letters(journal)[0], b"")], way)[0] == 1  # type: ignore[arg-type]
    elif way == "retry":
        queue(journal, "large", "small")
        settle_head(journal, "retry", replacement=b"x" * MIB)
    elif way == "follower":
        queue(journal, "first", lane="b")
        settle_head(journal, "delivered", "b", followers=[new("large", size=MIB), new("small")])
    else:
        journal.append([new("large", size=MIB), new("small")])
    assert journal.store.client.smembers(large) == {b"a"}
    settle_head(journal, "delivered")
    assert journal.store.client.smembers(large) == {b"a"}
    settle_head(journal, "delivered")
    assert journal.store.client.smembers(large) == set()


def scripts_memory(journal: Journal) -> int:
    """What the scripts hold in memory, with what wasn't collected yet."""
    return int(journal.store.client.info("memory")["used_memory_lua"])
