"""Once keys: the first operation with a key is the one, while it waits and for a window after it left."""

from collections.abc import Callable

import pytest

from fluxy_sync.errors import QueueFull
from fluxy_sync.journal import Inventory, Journal, NewRecord, Quota
from fluxy_sync.journal.record import parse
from tests.journal_steps import claim, let_pass, letters, new, queue, settle_head, waiting

KEY, OTHER_KEY = b"sixteen bytes..1", b"sixteen bytes..2"
WINDOW_S = 60.0


@pytest.fixture
def journal(journal: Journal) -> Journal:
    return with_quota(journal)


def with_quota(journal: Journal, quota: Quota = Quota()) -> Journal:  # noqa: B008
    return Journal(journal.store, journal.keys.namespace, quota, once_window_s=WINDOW_S)


def keyed(name: str, lane: str = "a", key: bytes = KEY, **more: object) -> NewRecord:
    return new(name, lane, once=key, **more)


def test_the_first_one_is_named(journal: Journal) -> None:
    """Whatever its lane: the later one isn't stored, and its caller learns which operation stands for it."""
    assert journal.append([keyed("first", "b")]).first == {}
    found = journal.append([new("plain"), keyed("second"), keyed("other", key=OTHER_KEY), keyed("third", "b")])
    assert found.first == {1: ("first", "b"), 3: ("first", "b")}
    assert (waiting(journal), waiting(journal, "b")) == (["plain", "other"], ["first"])
    assert journal.snapshot().pending == 3


def test_a_key_named_twice_in_one_batch_is_stored_once(journal: Journal) -> None:
    """The first of them counts."""
    found = journal.append([keyed("one"), keyed("two", "b"), keyed("three")])
    assert found.first == {1: ("one", "a"), 2: ("one", "a")}
    assert (waiting(journal), waiting(journal, "b")) == (["one"], [])


def test_a_later_one_is_not_remembered(journal: Journal) -> None:
    """It was never accepted: queued again when the window is over, it is."""
    journal.append([keyed("first")])
    journal.append([keyed("second")])
    settle_head(journal, "delivered")
    let_pass(journal, WINDOW_S)
    assert journal.append([keyed("second")]).first == {}
    assert waiting(journal) == ["second"]


def test_the_same_operation_queued_again_is_a_repeat_not_a_second_one(journal: Journal) -> None:
    """As after a lost reply: accepted, stored once, and not told that another stands for it."""
    journal.append([keyed("one")])
    assert journal.append([keyed("one")]).first == {}
    assert waiting(journal) == ["one"]


def test_a_later_one_needs_no_room(journal: Journal) -> None:
    """Its caller hears which one has the key, not 'full'."""
    small = with_quota(journal, Quota(max_pending=1))
    small.append([keyed("first")])
    assert small.append([keyed("second")]).first == {0: ("first", "a")}
    with pytest.raises(QueueFull):
        small.append([keyed("third", key=OTHER_KEY)])
    let_pass(journal, 10 * WINDOW_S)
    settle_head(small, "delivered")
    assert small.append([keyed("third", key=OTHER_KEY)]).first == {}, "a refused one takes no key"


def delivered(journal: Journal) -> None:
    settle_head(journal, "delivered")


def dead(journal: Journal) -> None:
    settle_head(journal, "dead", reason="422")


def cancelled_head(journal: Journal) -> None:
    assert journal.cancel("a", "first")[0] == "cancelled"


def cancelled_behind(journal: Journal) -> None:
    claim(journal)  # of the one in front of it
    assert journal.cancel("a", "first")[0] == "cancelled"


def cleared(journal: Journal) -> None:
    assert Inventory(journal).clear("a", 10)[0] > 0


def dropped(journal: Journal) -> None:
    small = with_quota(journal, Quota(max_lane_pending=1, drop_oldest=True))
    assert small.append([new("newer")]).dropped == 1


WAYS = [delivered, dead, cancelled_head, cancelled_behind, cleared, dropped]


@pytest.mark.parametrize("leave", WAYS)
def test_the_window_starts_when_the_first_one_leaves(journal: Journal, leave: Callable[[Journal], None]) -> None:
    """By whichever way, however long it had waited; when the window is over the key is free."""
    if leave is cancelled_behind:
        queue(journal, "head")
    journal.append([keyed("first")])
    let_pass(journal, 10 * WINDOW_S)
    assert journal.append([keyed("second")]).first == {0: ("first", "a")}
    leave(journal)
    let_pass(journal, WINDOW_S - 5)
    assert journal.append([keyed("third")]).first == {0: ("first", "a")}
    let_pass(journal, 5)
    assert journal.append([keyed("fourth", "c")]).first == {}
    assert waiting(journal, "c") == ["fourth"]
    let_pass(journal, 10 * WINDOW_S)
    assert journal.append([keyed("fifth", "c")]).first == {0: ("fourth", "c")}, "the new one waits"


def test_ticks_forget_keys_whose_window_is_over(journal: Journal) -> None:
    """Some hundred at a time; those that still stand stay."""
    ended = [keyed(f"op-{n}", key=b"%016d" % n) for n in range(250)]
    journal.append([*ended, keyed("waits", "b", OTHER_KEY)])
    Inventory(journal).clear("a", 500)
    once, ends = journal.keys.fixed[15:17]

    def remembered() -> int:
        return int(journal.store.command("HLEN", once))

    journal.tick("beat", "b")
    assert remembered() == 251
    let_pass(journal, WINDOW_S)
    for left in (151, 51, 1, 1):
        journal.tick("beat", "b")
        assert remembered() == left
    assert journal.store.command("ZCARD", ends) == 0
    assert journal.append([keyed("later", "c", OTHER_KEY)]).first == {0: ("waits", "b")}


def test_a_replayed_operation_has_its_key_again(journal: Journal) -> None:
    """While it waits, however long; its window starts anew when it leaves."""
    journal.append([keyed("first")])
    dead(journal)
    assert Inventory(journal).replay([(letters(journal)[0], b"")], "tail")[0] == 1
    let_pass(journal, 10 * WINDOW_S)
    journal.tick("beat", "b")
    assert journal.append([keyed("second")]).first == {0: ("first", "a")}
    assert parse(journal.store.command("LINDEX", journal.keys.lane("a"), 0)).once == KEY
    settle_head(journal, "delivered")
    assert journal.append([keyed("third")]).first == {0: ("first", "a")}


@pytest.mark.parametrize("purged", [False, True], ids=["noted still", "forgotten"])
def test_a_replay_after_the_window_takes_a_free_key(journal: Journal, purged: bool) -> None:
    """Whether a tick has seen that it is over or not."""
    journal.append([keyed("first")])
    dead(journal)
    let_pass(journal, WINDOW_S)
    if purged:
        journal.tick("beat", "b")
    Inventory(journal).replay([(letters(journal)[0], b"")], "tail")
    assert journal.append([keyed("second")]).first == {0: ("first", "a")}


def test_a_replay_does_not_take_a_key_from_another(journal: Journal) -> None:
    """It goes back without one: both are sent, and the key stays with the one that has it."""
    journal.append([keyed("first")])
    dead(journal)
    let_pass(journal, WINDOW_S)
    journal.append([keyed("second", "b")])
    let_pass(journal, 1)
    Inventory(journal).replay([(letters(journal)[0], b"")], "tail")
    assert parse(journal.store.command("LINDEX", journal.keys.lane("a"), 0)).once == b""
    settle_head(journal, "delivered", "b")
    settle_head(journal, "delivered", "a")
    assert journal.append([keyed("third")]).first == {0: ("second", "b")}
    let_pass(journal, WINDOW_S)
    assert journal.append([keyed("third")]).first == {}


def test_a_dead_letter_that_lost_its_key_ends_no_window(journal: Journal) -> None:
    """A second one with the same key has it by then: the first one's death again changes nothing."""
    journal.append([keyed("first")])
    dead(journal)
    let_pass(journal, WINDOW_S)
    journal.append([keyed("second", "b")])
    let_pass(journal, 1)
    Inventory(journal).replay([(letters(journal)[0], b"")], "tail")
    settle_head(journal, "delivered", "b")
    let_pass(journal, WINDOW_S - 5)
    dead(journal)
    let_pass(journal, 5)
    assert journal.append([keyed("third", "c")]).first == {}


def test_dropping_a_dead_letter_leaves_its_window(journal: Journal) -> None:
    """The key is free when the window is over, not before."""
    journal.append([keyed("first")])
    dead(journal)
    Inventory(journal).drop(letters(journal))
    assert journal.append([keyed("second")]).first == {0: ("first", "a")}
    let_pass(journal, WINDOW_S)
    assert journal.append([keyed("second")]).first == {}


def test_a_follower_may_have_a_key(journal: Journal) -> None:
    """It is accepted with its predecessor's settlement; later ones learn of it."""
    queue(journal, "first")
    settle_head(journal, "delivered", followers=[keyed("step", "b")])
    assert journal.append([keyed("second")]).first == {0: ("step", "b")}


def test_the_longest_lane_and_id_are_told(journal: Journal) -> None:
    """Lengths are stored in one byte."""
    lane, name = "l" * 200, "n" * 200
    journal.append([keyed(name, lane)])
    assert journal.append([keyed("second")]).first == {0: (name, lane)}
