"""What stands beside the records may be damaged, or written by somebody else: that costs as little as it can."""

from typing import Any

import pytest

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.journal import Inventory, Journal
from fluxy_sync.journal.record import pack_id
from fluxy_sync.journal.recount import recount
from fluxy_sync.status import read_status
from tests.chaos.agreement import Journaled
from tests.journal_steps import WORKER, claim, die, idle, let_pass, letters, names, new, queue, settle_head, waiting

ODD = [b"", b"\xff\xfe", b"x", b"nan", b"-1", b"1e308", b"9" * 30, b"a b c d"]


def put(journal: Journal, name: str, field: str | bytes, value: bytes) -> None:
    journal.store.command("HSET", f"{journal.keys.prefix}{name}", field, value)


@pytest.mark.parametrize("value", ODD)
def test_a_damaged_claim_is_nobodys(journal: Journal, value: bytes) -> None:
    """Its lane is claimed anew when it comes due; other lanes, and whoever looks, don't notice."""
    queue(journal, "op-0")
    run = claim(journal)
    put(journal, "claims", "a", value)
    queue(journal, "other", lane="b")
    assert settle_head(journal, "delivered", "b") == "other"
    assert journal.settle("a", run.fence, "op-0", "delivered").status == "fenced"
    assert (journal.holders(), journal.in_flight(), journal.snapshot().pending) == (set(), [], 1)
    assert journal.reclaim("w") == 0
    let_pass(journal, run.length_s + 0.001)
    assert names(claim(journal).records) == ["op-0"]


@pytest.mark.parametrize("value", ODD)
def test_a_lane_that_is_held_for_nonsense_goes_on(journal: Journal, value: bytes) -> None:
    """The next tick lets it go; a cause beside it that can be read stays."""
    queue(journal, "op-0")
    Inventory(journal).hold("b", "paused")
    put(journal, "held", "a", value)
    put(journal, "held", "b", b"0 paused\n" + value)
    list(Inventory(journal).held())
    journal.tick("beat", "beat")
    assert dict(Inventory(journal).held()) == {"b": ("paused",)}


@pytest.mark.parametrize("value", ODD)
def test_an_operation_with_a_damaged_once_key_is_settled(journal: Journal, value: bytes) -> None:
    """And the key can be used again."""
    journal.append([new("op-0", once=b"o" * 16)])
    put(journal, "once", b"o" * 16, value)
    assert settle_head(journal, "delivered") == "op-0"
    journal.append([new("op-1", once=b"p" * 16)])
    assert settle_head(journal, "delivered") == "op-1"


@pytest.mark.parametrize("value", ODD)
def test_damaged_retry_states_stop_nothing(journal: Journal, value: bytes) -> None:
    """Not even when the waiting lanes are brought forward after an outage."""
    for n in range(4):
        queue(journal, f"op-{n}", lane=f"lane-{n}")
        settle_head(journal, "retry", f"lane-{n}", reason="503", pause_s=60)
    put(journal, "retries", "lane-0", value)
    put(journal, "retries", b"\xff", value)
    queue(journal, "after")
    assert settle_head(journal, "delivered") == "after"
    assert [one.id for one in Inventory(journal).waiting("lane-0")] == ["op-0"]


@pytest.mark.parametrize("value", [*ODD, b"\1a", b"\1a\xff422", b"\xc8" + b"x" * 100])
def test_a_damaged_dead_letter_is_listed_and_dropped(journal: Journal, value: bytes) -> None:
    """It hides no other one, is no operation, and can be dropped by its name."""
    die(journal, "one", "two")
    put(journal, "dead", pack_id("one"), value)
    inventory = Inventory(journal)
    first, second = letters(journal)
    assert (first.reason, second.id) == ("corrupt", "two")
    assert inventory.letter(first.member) is not None
    assert inventory.replay([(first, b"")], "tail")[0] == 0
    found = inventory.find_letter(first.id)
    assert found is not None
    assert inventory.drop([found])[0] == 1
    assert [each.id for each in letters(journal)] == ["two"]


def keep_every_number(journal: Journal) -> None:
    """Let there be every kind of number that a journal keeps beside the records."""
    die(journal, "dead-0", "dead-1", lane="d")
    for n, verdict in enumerate(("delivered", "retry", "hold")):
        queue(journal, f"was-{n}", lane=f"lane-{n}")
        settle_head(journal, verdict, f"lane-{n}", reason="503", pause_s=60, upstream_s=0.001, took_s=0.2)
        let_pass(journal, 1)
    queue(journal, "op-0", "op-1", "op-2", "op-3")
    journal.cancel("a", "op-1")
    journal.close_gate("unauthorized", "401")
    journal.open_gate("unauthorized")
    journal.tick("beat", "beat")
    journal.win_probe(0.0)
    put(journal, "counts", "forward", b"1")
    put(journal, "counts", "forward_at", b"0")
    put(journal, "pulse", "held", b"0")


def test_after_a_recount_nothing_that_was_just_accepted_is_taken_for_new(journal: Journal) -> None:
    """Whoever wasn't told that it was accepted asks again, and what was remembered of it may have been damaged."""
    queue(journal, "op-0", "op-1")
    journal.store.command("DEL", f"{journal.keys.prefix}recent")
    recount(journal)
    assert settle_head(journal, "delivered") == "op-0"
    queue(journal, "op-0", "op-1")
    assert waiting(journal) == ["op-1"]


@pytest.mark.parametrize("value", [b"x", b"1", b"999999999999"])
def test_a_recount_remembers_few_ids_whatever_the_time_is(journal: Journal, value: bytes) -> None:
    """Not those of all that waits: a store whose memory is small may hold a million."""
    let_pass(journal, 3600)
    queue(journal, *(f"op-{n}" for n in range(20)))
    let_pass(journal, 3600)
    queue(journal, "last", lane="b")
    journal.store.command("DEL", f"{journal.keys.prefix}recent", f"{journal.keys.prefix}ready")
    put(journal, "counts", "now", value)
    recount(journal)
    assert journal.store.command("SCARD", f"{journal.keys.prefix}recent") <= 1


@pytest.mark.parametrize("places", [("dead",), ("dead:index",), ("dead", "dead:index")])
def test_a_recount_finds_each_dead_letter_under_its_own_id(journal: Journal, places: tuple[str, ...]) -> None:
    """Its key, or its place among the others, may be what was damaged: nothing of it is lost."""
    die(journal, "one", "two", "three")
    store, prefix = journal.store.client, journal.keys.prefix
    was, damaged = pack_id("two"), b"\3tvo"
    if "dead" in places:
        store.hset(f"{prefix}dead", damaged, store.hget(f"{prefix}dead", was))
        store.hdel(f"{prefix}dead", was)
    if "dead:index" in places:
        store.zadd(f"{prefix}dead:index", {damaged: store.zscore(f"{prefix}dead:index", was)})
        store.zrem(f"{prefix}dead:index", was)
    recount(journal)
    assert {letter.id: letter.reason for letter in letters(journal)} == dict.fromkeys(("one", "two", "three"), "422")
    assert Inventory(journal).find_letter("two") is not None
    assert not Journaled(journal).disagreements()


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", ["counts", "cancelled", "histogram", "held:why", "gate", "pulse"])
def test_damaged_numbers_stop_nothing(journal: Journal, name: str, value: bytes) -> None:
    """Whichever they are: what is there is delivered, at once, also where the journal's time was lost."""
    keep_every_number(journal)
    for field in journal.store.client.hkeys(f"{journal.keys.prefix}{name}"):
        put(journal, name, field, value)
    journal.tick("beat", "beat")
    journal.win_probe(0.0)
    assert settle_head(journal, "delivered", took_s=0.2) == "op-0"
    assert settle_head(journal, "dead", reason="422") == "op-2"
    queue(journal, "op-4")
    assert journal.cancel("a", "op-4")[0] == "cancelled"
    assert settle_head(journal, "retry", reason="503") == "op-3"
    inventory = Inventory(journal)
    inventory.hold("lane-1", "paused")
    inventory.let_go("lane-2", "503")
    found = inventory.samples(), inventory.histograms(), read_status(journal)
    assert all(found)
    assert [letter.id for letter in letters(journal)] == ["dead-0", "dead-1", "op-2"]


@pytest.mark.parametrize("value", ODD)
def test_no_fence_is_given_out_twice(journal: Journal, value: bytes) -> None:
    """Where the number was damaged, the next one is higher than all that are held, and of another epoch."""
    queue(journal, "op-0")
    queue(journal, "op-1", lane="b")
    queue(journal, "op-2", lane="c")
    first, second = claim(journal), claim(journal)
    put(journal, "counts", "fence", value)
    third = claim(journal)
    assert third.fence > second.fence > first.fence
    assert third.epoch != second.epoch == first.epoch
    assert journal.settle("a", first.fence, "op-0", "delivered").status == "ok"


@pytest.mark.parametrize("value", ODD)
def test_a_damaged_clock_does_not_stop_time(journal: Journal, value: bytes) -> None:
    """It begins anew from what the store knows."""
    journal.tick("beat", "beat")
    pulse = journal.store.command("HKEYS", journal.keys.pulse)
    for field in (field for field in pulse if field.startswith(b"clock ")):
        put(journal, "pulse", field, value)
    queue(journal, "op-0")
    assert settle_head(journal, "delivered") == "op-0"


@pytest.mark.parametrize(
    "name", [b"\xff", b"k\xc3", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80\xc3\xbc"]
)
def test_what_is_in_a_lane_whose_name_can_not_be_read_is_corrupt(journal: Journal, name: bytes) -> None:
    """Nobody could open it, as it was sealed for another lane; what is due beside it is delivered."""
    queue(journal, "op-0", "op-1", lane="a")
    queue(journal, "op-2", lane="b")
    prefix = journal.keys.lane_prefix.encode()
    journal.store.command("RENAME", prefix + b"a", prefix + name)
    for key in ("ready", "oldest"):
        journal.store.command("ZADD", f"{journal.keys.prefix}{key}", 0, name)
    assert settle_head(journal, "delivered", lane="b") == "op-2"
    idle(journal)
    shown = name.decode("utf-8", "backslashreplace")
    assert [(each.id, each.lane, each.reason) for each in letters(journal)] == [
        ("op-0", shown, "corrupt"),
        ("op-1", shown, "corrupt"),
    ]
    assert journal.snapshot().pending == 0


@pytest.mark.parametrize(
    "name", ["kühlhaus", "€", "\u0800", "\ud7ff", "\uffff", "𐀀", "\U0010ffff", "a\tb", "レーン ß 𐍈"]
)
def test_a_lane_may_have_any_name(journal: Journal, name: str) -> None:
    """Whatever text it is."""
    queue(journal, "op-0", lane=name)
    assert settle_head(journal, "delivered", lane=name) == "op-0"


@pytest.mark.parametrize("value", [*ODD, b"999999999999999"])
def test_a_time_that_can_not_be_is_unknown(journal: Journal, value: bytes) -> None:
    """The gate's state is told without it."""
    put(journal, "gate", "since", value)
    put(journal, "gate", "offline", value + b" dns")
    status = read_status(journal)
    assert (status.gate, status.since) == ("offline", None)


def test_what_the_journal_can_not_have_written_is_said(journal: Journal) -> None:
    """As a store that can't be used: whoever asks again each second goes on by himself once it is mended."""
    put(journal, "counts", "now", b"x")
    with pytest.raises(StorageUnavailable, match="damaged, or changed by hand"):
        Inventory(journal).journal_ms()


def test_a_note_of_somebody_else_is_shown(journal: Journal) -> None:
    """The audit log is for reading, whoever wrote into it."""
    for fields in (("who", b"\xff"), ("wall", "never", "what", "x"), ("wall", "9" * 15)):
        journal.store.command("XADD", journal.keys.audit, "*", *fields)
    notes = Inventory(journal).notes(10)
    assert [(note["wall"], note["who"]) for note in notes] == [("0", "?"), ("0", "?"), ("0", "\\xff")]


# --- arguments

NEW = (1, "a", pack_id("op-9"), 0, 0, 0, b"", b"sealed")
APPEND = (b"command", 0, 0, 0, 0, "reject", 10, 3000, 1000)
SETTLE = ("op-0", "delivered", 0, "-", b"", b"", 0, 15_000, 3000, 0, 0, 1000, -1)
WRONG: dict[str, tuple[str, tuple[Any, ...]]] = {
    "an operation cut off": ("append", (*APPEND, *NEW, *NEW[:-1])),
    "a countdown that is none": ("append", (*APPEND, *NEW, 1, "a", pack_id("op-8"), "x", *NEW[4:])),
    "a lane without a key": ("append", (*APPEND, *NEW, 2, *NEW[1:])),
    "the name of another lane": ("append", (*APPEND, *NEW, 1, "b", *NEW[2:])),
    "an id that is none": ("append", (*APPEND, *NEW, 1, "a", b"op-8", *NEW[3:])),
    "nothing sealed": ("append", (*APPEND, *NEW, *NEW[:-1], b"")),
    "a wake token that lives for no time": ("append", (*APPEND[:7], 0, 1000, *NEW)),
    "a follower cut off": ("settle", ("a", 1, pack_id("op-0"), *SETTLE[1:], *NEW[:-1])),
    "a pause that is none": ("settle", ("a", 1, pack_id("op-0"), "retry", "nan", *SETTLE[3:])),
    "a reason of two words": ("settle", ("a", 1, pack_id("op-0"), "dead", 0, "two words", *SETTLE[4:])),
    "an unknown verdict": ("settle", ("a", 1, pack_id("op-0"), "maybe", *SETTLE[2:])),
    "a second letter without its lane's key": ("drop", (3000, 1, "a", pack_id("dead"), 2, "a", b"x")),
    "a third part": ("replay", ("tail", 3000, 1000, 1, "a", pack_id("dead"), b"", 1, "a")),
    "a letter without a reason": ("bury", ("a", pack_id("op-8"), "", b"sealed")),
    "a claim of no length": ("claim", (WORKER, 0, 64, 9000, "{ns}:lane:", 5, 3000, "epoch", 1)),
    "a tick without a prefix": ("tick", ("beat", "beat", 1, 3000, 2000)),
    "a hold without a cause": ("hold", ("a", "", 1, 0, 3000)),
    "a clear of another lane": ("clear", ("b", 5)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_change_nothing(journal: Journal, case: str) -> None:
    """Checks come before writes: all of them, also those of what comes second."""
    die(journal, "dead")
    queue(journal, "op-0", "op-1")
    claim(journal)
    before = everything(journal)
    name, arguments = WRONG[case]
    keys = [journal.keys.samples] if name == "tick" else [journal.keys.histogram] if name == "settle" else []
    with pytest.raises(StorageUnavailable, match="wrong arguments"):
        journal.run(name, *arguments, lanes=[] if name in ("claim", "tick") else ["a"], keys=keys)
    assert everything(journal) == before


def everything(journal: Journal) -> dict[bytes, Any]:
    """All that the store holds of the journal, but who looked when."""
    store, pulse = journal.store, journal.keys.pulse.encode()
    keys = store.command("KEYS", f"{journal.keys.prefix}*".replace("{", "\\{"))
    return {key: store.command("DUMP", key) for key in keys if key != pulse}
