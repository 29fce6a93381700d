"""The store's files end at any byte, or are damaged anywhere: it starts unattended, and it is known what that cost."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import CorruptRecord
from fluxy_sync.journal import Claim, Idle, Inventory, Journal, NewRecord, Store, connect
from fluxy_sync.journal.inventory import read_letter
from fluxy_sync.journal.journal import CLAIM_S
from fluxy_sync.journal.record import parse
from fluxy_sync.repair import RECOUNT_FILE, REPAIRS_FILE, repairs
from fluxy_sync.repair.aof import SMALLEST_OPERATION_BYTES
from tests.chaos.agreement import Journaled
from tests.chaos.aof import ends
from tests.chaos.stage import settle_down
from tests.chaos.trial import Run, trial, wait_until

WORKER = "worker 1"
LAST = 3  # transactions that are cut at each byte
NAMESPACE = "damage"
HOLE_BYTES = 2000


class Files:
    """A store's directory that is put back into the same state again and again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.said: list[str] = []
        self._master = data_dir.with_name(f"{data_dir.name}-master")

    @property
    def folder(self) -> Path:
        return self.data_dir / "store" / "appendonlydir"

    def file(self, kind: str) -> Path:
        """The newest file of a kind."""
        return max(self.folder.glob(f"*.{kind}.aof"), key=lambda path: int(path.name.split(".")[2]))

    @contextmanager
    def running(self) -> Iterator[Journal]:
        """Start it, as the launcher does; it is killed in the end."""
        store = EmbeddedStore(self.data_dir, ballast_bytes=1024 * 1024, say=self.said.append)
        try:
            store.start()
            store.wait_ready()
            with closing(Store(connect(store.url))) as wire:
                yield Journal(wire, NAMESPACE)
        finally:
            if store.process is not None:
                store.process.kill()
                store.process.wait()

    def keep(self) -> None:
        """Note the state of the files."""
        shutil.copytree(self.folder, self._master)

    def restore(self) -> None:
        """Put them back."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._master, self.folder)
        shutil.rmtree(self.data_dir / "damaged", ignore_errors=True)
        (self.data_dir / REPAIRS_FILE).unlink(missing_ok=True)
        self.said.clear()


def new(name: str, lane: str, chance: random.Random, **more: Any) -> NewRecord:
    return NewRecord(name, lane, chance.randbytes(chance.choice((80, 120, 400))), **more)


# --- cut off anywhere


@trial()
def every_byte(run: Run) -> None:
    """Wherever the file ends, the store starts, and the journal is as it was after one of its transactions.

    The last transactions (an append of two, a claim, a delivery, a retry, a dead letter, a cancellation, a hold) are
    cut at each byte in the full run, at some in the short one. Counts, lanes, `ready` and all other indexes agree.
    """
    files = Files(run.folder / "every-byte")
    with files.running() as journal:
        _some_of_everything(journal, run.chance)
    whole = files.file("incr").read_bytes()
    boundaries = ends(whole)
    files.keep()
    begin = boundaries[-1 - run.scale(LAST, 5)]
    cuts = [*range(begin, len(whole))]
    chosen = sorted(run.chance.sample(cuts, run.scale(24, len(cuts))))
    states: dict[int, Any] = {}
    for at in (*(end for end in boundaries if end >= begin), *chosen):
        files.restore()
        files.file("incr").write_bytes(whole[:at])
        with files.running() as journal:
            found = Journaled(journal)
        run.check(not found.disagreements(), f"cut at byte {at}: {found.disagreements()}")
        run.check(not repairs(files.data_dir), f"cut at byte {at}: called a damage")
        if at in boundaries:
            states[at] = state_of(found)
        else:
            last = max(end for end in boundaries if end < at)
            run.check(state_of(found) == states[last], f"cut at byte {at}: not as it was at byte {last}")
    run.figure("bytes at which the file was cut", len(chosen))
    run.figure("transactions that these belong to", len([end for end in boundaries if end > begin]))


def state_of(found: Journaled) -> Any:
    """All that must be as it was; the epoch isn't."""
    counts = {name: value for name, value in found.counts.items() if name != "epoch"}
    rest = (found.dead, found.claims, found.held, found.retries, found.cancelled, found.ready, found.oldest)
    return counts, {lane: [r.id for r in records] for lane, records in found.lanes.items()}, *rest


def _some_of_everything(journal: Journal, chance: random.Random) -> None:
    inventory = Inventory(journal)
    for n in range(12):
        journal.append([new(f"op-{n}", f"lane {n % 3}", chance)])
    for verdict in ("delivered", "retry", "dead", "hold"):
        _settle(journal, verdict)
    journal.append([new("one", "x", chance, countdown_s=5), new("two", "y", chance, once=b"o" * 16)])
    inventory.hold("y", "paused")
    journal.cancel("lane 0", "op-9")
    _settle(journal, "dead")
    journal.append([new("three", "x", chance), new("four", "z", chance)])
    _settle(journal, "delivered")


def _settle(journal: Journal, verdict: Any) -> None:
    found = journal.claim(WORKER, most=1)
    assert isinstance(found, Claim)
    name = parse(found.records[0]).id
    journal.settle(found.lane, found.fence, name, verdict, pause_s=60.0, reason="422", give_up=True)


# --- damaged anywhere


class Hurt(NamedTuple):
    """A kind of damage, and how many of it are made in the short and the full run."""

    name: str
    do: Callable[[Files, random.Random], None]
    short: int
    full: int


def _flips(kind: str, low: float, high: float) -> Callable[[Files, random.Random], None]:
    """Some bits in a short stretch."""

    def hurt(files: Files, chance: random.Random) -> None:
        data = bytearray(files.file(kind).read_bytes())
        at = int(len(data) * chance.uniform(low, high))
        for _ in range(chance.choice((1, 1, 1, 3))):
            data[min(len(data) - 1, at + chance.randint(0, 20))] ^= 1 << chance.randrange(8)
        files.file(kind).write_bytes(data)

    return hurt


def _sector(files: Files, chance: random.Random) -> None:
    path = files.file(chance.choice(("base", "incr")))
    data = path.read_bytes()
    at = chance.randrange(len(data) // 512) * 512
    path.write_bytes(data[:at] + (bytes(512) if chance.random() < 0.5 else chance.randbytes(512)) + data[at + 512 :])


def _hole(files: Files, chance: random.Random) -> None:
    """Bytes are missing in the middle."""
    data = files.file("incr").read_bytes()
    at = chance.randrange(len(data) - HOLE_BYTES)
    files.file("incr").write_bytes(data[:at] + data[at + chance.randint(1, HOLE_BYTES) :])


def _end(files: Files, chance: random.Random) -> None:
    """The end is garbage."""
    with files.file("incr").open("ab") as file:
        file.write(bytes(4096) if chance.random() < 0.5 else chance.randbytes(chance.randint(1, 4096)))


def _manifest(files: Files, chance: random.Random) -> None:
    (path,) = files.folder.glob("*.manifest")
    whole = path.read_bytes()
    way = chance.randrange(4)
    if way == 0:
        path.unlink()
    else:
        path.write_bytes((b"", chance.randbytes(len(whole)), whole[: chance.randint(1, len(whole) - 1)])[way - 1])


def _base_gone(files: Files, _chance: random.Random) -> None:
    files.file("base").unlink()


MISSING = "bytes missing in the middle"
KINDS = (
    Hurt("flipped bits in the file's tail", _flips("incr", 0.95, 1.0), 4, 100),
    Hurt("flipped bits in the file's middle", _flips("incr", 0.0, 0.95), 8, 300),
    Hurt("flipped bits in the base file", _flips("base", 0.0, 1.0), 6, 200),
    Hurt("a sector of zeros or garbage", _sector, 4, 150),
    Hurt(MISSING, _hole, 2, 100),
    Hurt("garbage behind the end", _end, 2, 50),
    Hurt("the manifest missing, empty, garbled or cut off", _manifest, 3, 50),
    Hurt("the base file missing", _base_gone, 1, 3),
)


class Cost(NamedTuple):
    """What one damage did. ``silent``: nobody noticed it; ``wrong``: counts or indexes were, until a recount."""

    lost: int
    told: int
    repaired: bool
    silent: int
    wrong: bool
    garbled: int


@trial()
def damage(run: Run) -> None:
    """Whatever is damaged in its files, the store starts by itself, and no more is lost than it says.

    Everything else is there, agrees with its counts, and is handed out. Damage that leaves the format whole is noticed
    by nobody at the start: then the records are sealed, and the counts can be made anew.
    """
    files = Files(run.folder / "damage")
    chance = run.chance
    with files.running() as journal:
        ids = _fill(journal, chance)
    files.keep()
    costs: dict[str, list[Cost]] = {}
    for kind in KINDS:
        for _ in range(run.scale(kind.short, kind.full)):
            files.restore()
            kind.do(files, chance)
            costs.setdefault(kind.name, []).append(_cost(run, files, kind.name, ids))
    for name, found in costs.items():
        lost = [cost.lost for cost in found]
        run.note(
            f"{name}: {len(found)}, {sum(cost.repaired for cost in found)} repaired; of {len(ids)} operations "
            f"{sum(lost)} lost in all, at most {max(lost)} at once, {sum(cost.garbled for cost in found)} corrupt"
        )
    every = [cost for found in costs.values() for cost in found]
    run.figure("damaged stores that were started", len(every))
    run.figure("of these repaired", sum(cost.repaired for cost in every))
    run.figure(
        "operations lost beyond what was told", sum(max(0, c.lost - c.told) for c in every if c.repaired), at_most=0
    )
    run.figure("damages that nobody notices at the start", sum(not cost.repaired for cost in every))
    run.figure("of these with counts or indexes that are wrong until a recount", sum(cost.wrong for cost in every))
    run.figure("operations lost by them", sum(cost.silent for cost in every))
    run.figure("operations that became corrupt", sum(cost.garbled for cost in every))


# Operations by their ids: the lane, and what is sealed for it.
Operations = dict[str, tuple[str, bytes]]


def _fill(journal: Journal, chance: random.Random) -> Operations:
    """A base file, and much behind it; gives what waits or is dead in the end."""
    sealed: Operations = {}

    def queue(count: int) -> None:
        for _ in range(count):
            records = [
                new(f"op-{len(sealed) + i}", f"lane-{chance.randrange(9)}", chance)
                for i in range(chance.choice((1, 1, 4)))
            ]
            sealed.update({one.id: (one.lane, one.sealed) for one in records})
            journal.append(records)

    def work(count: int) -> None:
        for _ in range(count):
            _settle(journal, chance.choice(("delivered", "delivered", "dead")))

    queue(150)
    work(60)
    journal.store.command("BGREWRITEAOF")
    done = b"aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0"
    wait_until(lambda: done in journal.store.command("INFO", "persistence"), 20, "a new base file")
    for _ in range(4):
        queue(40)
        work(40)
    found = Journaled(journal)
    kept = found.ids | {letter.id for letter in Inventory(journal).letters()}
    return {name: sealed[name] for name in kept}


def _cost(run: Run, files: Files, kind: str, ids: Operations) -> Cost:
    with files.running() as journal:
        wrong = Journaled(journal).disagreements()
        given, corrupt, left = ({}, 0, "") if wrong else _hand_out(journal)
    told, there = repairs(files.data_dir), given
    run.check(not (told and wrong), f"{kind}: after the repair the journal doesn't agree with itself: {wrong}")
    run.check(not (told and left), f"{kind}: after the repair {left}")
    if wrong or left:  # a time may be wrong, too
        (files.data_dir / RECOUNT_FILE).touch()
        with files.running() as journal:
            still = Journaled(journal).disagreements()
            run.check(not still, f"{kind}: after a recount the journal doesn't agree with itself: {still}")
            more, corrupt, left = _hand_out(journal)
            run.check(not left, f"{kind}: after a recount {left}")
            there = given | more
    lost = max(0, len(set(ids) - set(there)) - corrupt)
    garbled = corrupt + sum(ids[name] != found for name, found in there.items() if name in ids)
    hidden = HOLE_BYTES // SMALLEST_OPERATION_BYTES if kind == MISSING else 0  # a repair can't know of those
    unknown = any(repair.unknown for repair in told)
    at_most = len(ids) if unknown else hidden + sum(repair.lost_operations for repair in told)
    return Cost(lost, at_most, bool(told), 0 if told else lost, there is not given, garbled)


def _runs_out(idle: Idle, deadline: float) -> bool:
    """Whether a claim is left that runs out soon: its holder's name was damaged, so that nobody gives it up."""
    settle_down(min(0.1, idle.due_in_s or 0.0))
    return idle.due_in_s is not None and idle.due_in_s <= CLAIM_S and time.monotonic() < deadline


def _hand_out(journal: Journal) -> tuple[Operations, int, str]:
    """Everything that the journal gives out, its dead letters, how many of these can't be read, and what is left."""
    there: Operations = {}
    journal.reclaim(WORKER.split()[0])  # what it was settling when that was damaged
    deadline = time.monotonic() + 2 * CLAIM_S
    while not isinstance(found := journal.claim(WORKER), Idle) or _runs_out(found, deadline):
        if isinstance(found, Idle):
            continue
        record = parse(found.records[0])
        there[record.id] = (found.lane, record.sealed)
        journal.settle(found.lane, found.fence, record.id, "delivered", give_up=True)
    pending = journal.snapshot().pending
    left = f"{pending} operations are left that nobody gets: {found}" if pending else ""
    corrupt = 0
    for value in journal.store.client.hvals(journal.keys.dead):
        letter = read_letter(value)
        try:
            record = None if letter.reason == "corrupt" else parse(letter.record)
        except CorruptRecord:
            record = None
        if record is None:
            corrupt += 1
        else:
            there[record.id] = (letter.lane, record.sealed)
    return there, corrupt, left
