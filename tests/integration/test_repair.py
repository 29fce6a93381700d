"""Damaged files of the store: the launcher mends them unattended, tells what that cost, and keeps a copy."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fluxy_sync.doctor.records import count, judge_records, judge_repairs
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.journal import Claim, Inventory, Journal, Store, connect
from fluxy_sync.journal.record import parse
from fluxy_sync.repair import RECOUNT_FILE, REPAIRS_FILE, repairs
from fluxy_sync.repair import files as mending
from tests.chaos.agreement import Journaled
from tests.conftest import wait_until
from tests.journal_steps import WORKER, counts, held_for, new, queue, settle_head, waiting

FIRST, SECOND = [f"first-{n}" for n in range(20)], [f"second-{n}" for n in range(20)]


MANIFEST = "file appendonly.aof.1.base.aof seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i"


class Place:
    """A store's directory, and what its launcher said."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.said: list[str] = []
        self.epochs: list[bytes] = []

    @property
    def folder(self) -> Path:
        return self.data_dir / "store" / "appendonlydir"

    @property
    def manifest(self) -> Path:
        return self.folder / "appendonly.aof.manifest"

    def file(self, kind: str) -> Path:
        """The newest file of a kind."""
        return max(self.folder.glob(f"*.{kind}.aof"), key=lambda path: int(path.name.split(".")[2]))

    def store(self) -> EmbeddedStore:
        return EmbeddedStore(self.data_dir, say=self.said.append)

    @contextmanager
    def running(self) -> Iterator[Journal]:
        with self.store() as store, closing(Store(connect(store.url))) as wire:
            journal = Journal(wire, "fluxy")
            yield journal
            self.epochs.append(wire.command("HGET", counts(journal), "epoch"))

    def change(self, kind: str, edit: Callable[[bytes], bytes]) -> bytes:
        """Damage a file; gives what it was."""
        path = self.file(kind)
        whole = path.read_bytes()
        path.write_bytes(edit(whole))
        assert path.read_bytes() != whole
        return whole


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Forty operations on two lanes; after the first twenty, one was delivered on each lane."""
    place = Place(tmp_path / "data")
    with place.running() as journal:
        for name in FIRST:
            queue(journal, name, lane=lane_of(name))
        assert {settle_head(journal, "delivered", lane) for lane in "ab"} == set(FIRST[:2])
        for name in SECOND:
            queue(journal, name, lane=lane_of(name))
    return place


def lane_of(name: str) -> str:
    return "ab"[int(name.split("-")[1]) % 2]


def rewrite(journal: Journal) -> None:
    """Let the store write a new base file."""
    store = journal.store
    store.command("BGREWRITEAOF")
    wait_until(lambda: b"aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0" in store.command("INFO", "persistence"))


def check(journal: Journal, lost: set[str] = frozenset(), again: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """All but those are there, in order; and all that is counted agrees."""
    found = Journaled(journal)
    assert (found.disagreements(), found.twice) == ([], set())
    for lane in "ab":
        expected = [name for name in FIRST + SECOND if lane_of(name) == lane]
        expected = [name for name in expected if name not in lost and (name in again or name not in FIRST[:2])]
        assert found.waiting(lane) == expected


def flip(at: int, bit: int = 4) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def in_front_of(name: str, back: bytes, offset: int, bit: int = 4) -> Callable[[bytes], bytes]:
    """Flip a bit near the last ``back`` before an operation's record."""
    record = bytes([1, len(name)]) + name.encode()
    return lambda data: flip(data.rindex(back, 0, data.index(record)) + offset, bit)(data)


def test_a_command_that_can_not_be_read_costs_its_operation_alone(place: Place) -> None:
    """What lies behind it is kept, in order; nothing that goes by position is done again; the epoch is new."""
    before = place.change("incr", in_front_of("second-3", b"MULTI", 2))
    name = place.file("incr").name
    with place.running() as journal:
        check(journal, lost={"second-3"})
    assert place.epochs[0] != place.epochs[1]
    (repair,) = repairs(place.data_dir)
    assert 1 <= repair.lost_operations <= 2
    assert (repair.put_back, repair.unknown) == (16, False)
    assert place.said == [f"{repair.line}; see {place.data_dir / REPAIRS_FILE}"]
    assert name in repair.line
    assert "\n" not in repair.line
    kept = (Path(repair.copy) / name).read_bytes()
    assert len(kept) == len(before)
    assert kept != before
    with place.running() as journal:
        check(journal, lost={"second-3"})
    assert len(place.said) == 1, "once"
    assert place.epochs[1] == place.epochs[2]


def test_what_was_delivered_behind_a_damage_is_sent_again(place: Place) -> None:
    """In order, before what followed it."""
    place.change("incr", in_front_of("first-5", b"RPUSH", -3))
    with place.running() as journal:
        check(journal, lost={"first-5"}, again={"first-0", "first-1"})


@pytest.mark.parametrize(
    ("back", "offset", "bit"),
    [(b"RPUSH", 4, 0), (b"RPUSH", -4, 1), (b"EXEC", 0, 1), (b"MULTI", -8, 1), (b"$9\r\n", 1, 0), (b"\r\n$9", 0, 2)],
    ids=["unknown command", "its length", "no end of a transaction", "too many arguments", "an id's length", "no CR"],
)
def test_whatever_the_server_refuses(place: Place, back: bytes, offset: int, bit: int) -> None:
    """One operation beside it may be lost; every other one is there, and all counts agree."""
    place.change("incr", in_front_of("second-4", back, offset, bit))
    with place.running() as journal:
        found = Journaled(journal)
        assert found.disagreements() == []
        assert set(FIRST[2:] + SECOND) - found.ids <= {"second-3", "second-4"}
        assert found.waiting("a") == [name for name in FIRST[2:] + SECOND if lane_of(name) == "a" and name in found.ids]


def test_a_length_that_looks_like_an_early_end(place: Place) -> None:
    """The server would cut off all that is behind it."""
    place.change("incr", lambda data: data.replace(b"$9\r\n\x08second-2", b"$900000\r\n\x08second-2", 1))
    with place.running() as journal:
        check(journal, lost={"second-2"})


@pytest.mark.parametrize("tail", [bytes(4096), random.Random(1).randbytes(4096), b"*1\r\n$5\r\nMULTI\r\n" + bytes(9)])
def test_garbage_behind_the_end(place: Place, tail: bytes) -> None:
    """As some disks leave it after a power cut: nothing is lost."""
    place.change("incr", lambda data: data + tail)
    with place.running() as journal:
        check(journal)
    assert len(repairs(place.data_dir)) == 1


def test_an_unfinished_write_is_no_damage(place: Place) -> None:
    """It goes, and with it nothing that anybody was told of: a line, no record; the epoch is new."""
    place.change("incr", lambda data: data[: data.index(b"second-19") + 30])
    with place.running() as journal:
        check(journal, lost={"second-19"})
    assert len(place.said) == 1
    assert "was cut off" in place.said[0]
    assert repairs(place.data_dir) == []
    assert place.epochs[0] != place.epochs[1]


@pytest.mark.parametrize(
    "text", [None, "", "\0" * 88, "file x seq", MANIFEST], ids=["missing", "empty", "zeros", "cut", "end"]
)
@pytest.mark.parametrize("rewritten", [False, True])
def test_a_manifest_is_made_anew(place: Place, text: str | None, rewritten: bool) -> None:
    """From the files that are there: nothing is lost."""
    with place.running() as journal:
        if rewritten:
            rewrite(journal)
        queue(journal, "later", lane="c")
    place.manifest.unlink()
    if text is not None:
        place.manifest.write_text(text)
    with place.running() as journal:
        assert waiting(journal, "c") == ["later"]
        check(journal)
    assert [repair.lost_bytes for repair in repairs(place.data_dir)] == [0]


def test_a_new_manifest_leaves_out_what_the_base_holds(place: Place) -> None:
    """A file that a rewrite left behind isn't done twice."""
    with place.running() as journal:
        old = place.file("incr").read_bytes()
        rewrite(journal)
        name = place.file("incr").name
        queue(journal, "later", lane="c")
    seq = int(name.split(".")[2])
    place.file("incr").rename(place.folder / f"appendonly.aof.{seq + 1}.incr.aof")
    (place.folder / name).write_bytes(old)
    place.manifest.unlink()
    with place.running() as journal:
        check(journal)
        assert waiting(journal, "c") == ["later"]


def test_a_damaged_base_costs_what_can_not_be_read(place: Place) -> None:
    """Of a stretch of a lane one record; what followed the base is kept, and delivered again where it had been."""
    with place.running() as journal:
        rewrite(journal)
        queue(journal, "later", lane="c")
        assert settle_head(journal, "delivered") == "first-2"
    place.change("base", in_front_of("first-8", b"$", 1, 6))
    with place.running() as journal:
        check(journal, lost={"first-8"})
        assert waiting(journal, "c") == ["later"]
    (repair,) = repairs(place.data_dir)
    assert 1 <= repair.lost_operations <= 3


def test_a_damaged_base_of_which_a_lane_is_lost(place: Place) -> None:
    """Whatever can't be read of it: the rest is in order, and fences may begin anew, as the epoch is new."""
    with place.running() as journal:
        rewrite(journal)
    place.change("base", lambda data: data.replace(b"$14\r\n{fluxy}:counts", bytes(20), 1))
    with place.running() as journal:
        assert Journaled(journal).disagreements() == []
        assert isinstance(journal.claim(WORKER), Claim)
    assert place.epochs[-1] != place.epochs[0]


@pytest.mark.parametrize(("damaged", "lost"), [(b"$46\r\n\x01a\x03422", 1), (b"$12\r\n{fluxy}:dead\r\n", 4)])
def test_dead_letters_in_a_damaged_base(place: Place, damaged: bytes, lost: int) -> None:
    """Those that can't be read are told to be lost, and the others are kept; the counts agree."""
    with place.running() as journal:
        for _ in range(4):  # the lanes take turns, and either may begin
            run = journal.claim(WORKER, most=1)
            assert isinstance(run, Claim)
            assert journal.settle(run.lane, run.fence, parse(run.records[0]).id, "dead", reason="422", give_up=True)
        rewrite(journal)
    place.change("base", lambda data: data.replace(damaged, b"\0" + damaged[1:], 1))
    with place.running() as journal:
        assert Journaled(journal).disagreements() == []
        assert len(list(Inventory(journal).letters())) == 4 - lost
    (repair,) = repairs(place.data_dir)
    assert lost <= repair.lost_operations <= lost + 3


def test_a_base_that_is_gone(place: Place) -> None:
    """What was accepted since is kept, though it isn't known what the base held."""
    with place.running() as journal:
        rewrite(journal)
        queue(journal, "later-0", "later-1", lane="a")
        assert settle_head(journal, "delivered", "a") == "first-2"
    place.file("base").unlink()
    with place.running() as journal:
        found = Journaled(journal)
        assert (found.disagreements(), found.waiting("a")) == ([], ["later-0", "later-1"])
    assert repairs(place.data_dir)[0].unknown


def test_the_first_base_held_nothing(place: Place) -> None:
    """So that it is gone costs nothing."""
    place.file("base").unlink()
    with place.running() as journal:
        check(journal)
    (repair,) = repairs(place.data_dir)
    assert (repair.unknown, repair.lost_operations) == (False, 0)


def test_a_file_in_the_middle_is_gone(place: Place) -> None:
    """What was accepted before and behind it is kept."""
    path = place.file("incr")
    whole = path.read_bytes()
    starts = [match.start() for match in re.finditer(rb"\*1\r\n\$5\r\nMULTI", whole)]
    cuts = [0, starts[30], starts[32], len(whole)]
    for n in range(3):
        (place.folder / f"appendonly.aof.{n + 2}.incr.aof").write_bytes(whole[cuts[n] : cuts[n + 1]])
    lines = "".join(f"file appendonly.aof.{n}.incr.aof seq {n} type i\n" for n in (2, 3, 4))
    place.manifest.write_text(f"file appendonly.aof.1.base.aof seq 1 type b\n{lines}")
    (place.folder / "appendonly.aof.3.incr.aof").unlink()
    path.unlink()
    with place.running() as journal:
        found = Journaled(journal)
        assert found.disagreements() == []
        assert len(set(FIRST[2:] + SECOND) - found.ids) == 2
    assert repairs(place.data_dir)[0].unknown


def test_what_was_done_to_operations_behind_a_damage(place: Place) -> None:
    """Cancelled, dead and resealed ones stay so; a lane that a person paused waits; a replayed letter goes."""
    with place.running() as journal:
        inventory = Inventory(journal)
        journal.append([new("damaged", "x", countdown_s=600)])
        assert journal.cancel("a", "second-2")[0] == "cancelled"
        assert settle_head(journal, "dead", "a", reason="422") == "first-2"
        assert settle_head(journal, "dead", "b", reason="422") == "first-3"
        assert settle_head(journal, "wait", "a", replacement=b"resealed") == "first-4"
        (replayed,) = (letter for letter in inventory.letters() if letter.id == "first-3")
        inventory.replay([(replayed, b"")], "head")
        inventory.hold("b", "paused")
        journal.append([new("dies", "y"), new("stays", "y")])
        inventory.hold("a", "paused")
        assert settle_head(journal, "dead", "y", reason="422") == "dies"
    place.change("incr", in_front_of("damaged", b"MULTI", 2))
    with place.running() as journal:
        found = Journaled(journal)
        assert found.disagreements() == []
        assert "second-2" not in found.ids
        assert next((one.id, one.sealed) for one in found.lanes["a"]) == ("first-4", b"resealed")
        assert found.waiting("b")[0] == "first-3"
        assert (held_for(journal, "a"), held_for(journal, "b")) == (("paused",), ("paused",))
        assert found.waiting("y") == ["stays"]
        assert {letter.id for letter in Inventory(journal).letters()} == {"first-2", "dies"}


def test_what_nobody_can_mend_is_an_error(place: Place) -> None:
    """It says so at once, the second start too, and nothing is deleted."""
    place.file("base").rename(rdb := place.folder / "appendonly.aof.1.base.rdb")
    rdb.write_bytes(b"VALKEY080" + bytes(40))
    place.manifest.write_text(place.manifest.read_text().replace("base.aof", "base.rdb"))
    before = {path.name: path.read_bytes() for path in place.folder.iterdir()}
    for _ in range(2):
        store = place.store()
        store.start()
        with pytest.raises(StorageUnavailable, match="ended"):
            store.wait_ready(20)
    assert {path.name: path.read_bytes() for path in place.folder.iterdir()} == before


def test_a_disk_that_can_not_be_read_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was changed, and it says what to do."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    place.change("incr", in_front_of("second-3", b"MULTI", 2))
    monkeypatch.setattr(mending._Files, "content", fail)
    store = place.store()
    store.start()
    with pytest.raises(StorageUnavailable, match=r"Input/output error.*nothing of them was deleted"):
        store.wait_ready(20)
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        store.is_ready()


@pytest.mark.parametrize("step", ["files.Manifest.write", "launch.note", "launch.recount"])
def test_a_repair_that_is_cut_off_is_done_again(place: Place, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever step: nothing more is lost, all is recounted, and a person is told."""

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    place.change("incr", in_front_of("second-3", b"MULTI", 2))
    with monkeypatch.context() as patch:
        patch.setattr(f"fluxy_sync.repair.{step}", cut)
        store = place.store()
        store.start()
        with pytest.raises(KeyboardInterrupt):
            store.wait_ready()
    with place.running() as journal:
        check(journal, lost={"second-3"})
    assert place.epochs[0] != place.epochs[1]
    assert len(repairs(place.data_dir)) == 1


def test_only_so_many_copies_are_kept(place: Place) -> None:
    """The oldest ones go."""
    for n in range(9):
        (place.data_dir / "damaged" / f"2020-01-0{n + 1}T00.00.00Z").mkdir(parents=True)
    place.change("incr", in_front_of("second-3", b"MULTI", 2))
    with place.running():
        pass
    kept = sorted(path.name for path in (place.data_dir / "damaged").iterdir())
    assert kept[:4] == [f"2020-01-0{n}T00.00.00Z" for n in (6, 7, 8, 9)]
    assert len(kept) == 5


def test_counts_are_made_anew_on_request(place: Place) -> None:
    """Of a flip that left the file whole: a wrong count, a lane that nobody would claim, a letter that nobody lists."""
    with place.running() as journal:
        assert settle_head(journal, "dead", "a", reason="422") == "first-2"
        journal.store.command("HINCRBY", counts(journal), "pending", 1000)
        journal.store.command("HINCRBY", counts(journal), "dead", 5)
        journal.store.command("ZREM", journal.keys.fixed[1], "b")
        journal.store.command("DEL", journal.keys.dead_index)
        assert len(Journaled(journal).disagreements()) == 4
    (place.data_dir / RECOUNT_FILE).touch()
    with place.running() as journal:
        found = Journaled(journal)
        assert (found.disagreements(), set(found.ready)) == ([], {"a", "b"})
    assert not (place.data_dir / RECOUNT_FILE).exists()
    assert repairs(place.data_dir) == []


def test_after_a_power_cut_no_count_is_trusted(place: Place) -> None:
    """Whatever the disk made of them; fences may be lost, so the epoch is new. After an orderly end nothing is done."""
    with place.running():
        pass
    (place.data_dir / "store.boot").write_text("another boot")
    with place.running():
        pass
    assert len(set(place.epochs)) == 1
    store = place.store()
    store.start()
    store.wait_ready()
    with closing(Store(connect(store.url))) as wire:
        wire.command("HSET", counts(Journal(wire, "fluxy")), "pending", "1\0", "now", "x", "fence", "-")
    assert store.process is not None
    store.process.kill()
    store.process.wait()
    (place.data_dir / "store.boot").write_text("another boot")
    with place.running() as journal:
        check(journal)
        assert isinstance(journal.claim(WORKER), Claim)
    assert len(set(place.epochs)) == 2
    assert repairs(place.data_dir) == []


def test_the_doctor_tells_the_last_repair(place: Place) -> None:
    """A warning that names the copy, and the file to delete; and how many there were before."""
    assert judge_repairs([], "delete it").state == "ok"
    for name in ("second-3", "second-9"):
        place.change("incr", in_front_of(name, b"MULTI", 2))
        with place.running():
            pass
    found = repairs(place.data_dir)
    check = judge_repairs(found, "delete it")
    assert (check.state, check.advice) == ("warning", "delete it")
    assert found[1].copy in check.found
    assert "1 repair before" in check.found


def test_the_doctor_counts_the_records(place: Place) -> None:
    """Counts that don't agree are a warning, a lane that nobody would claim a failure; both with what to do."""
    with place.running() as journal:
        check = judge_records(count(journal), "count anew")
        assert (check.state, check.found) == ("ok", "38 counted")
        journal.store.command("HINCRBY", counts(journal), "pending", 1000)
        check = judge_records(count(journal), "count anew")
        assert (check.state, check.advice) == ("warning", "count anew")
        assert check.found.startswith("1,038 pending and 0 dead are told, 38 and 0 are there")
        journal.store.command("ZREM", journal.keys.fixed[1], "b")
        check = judge_records(count(journal), "count anew")
        assert (check.state, "1 lane that nobody would ever claim" in check.found) == ("failed", True)
    assert judge_records(None, "").state == "skipped"
