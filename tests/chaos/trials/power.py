"""Power cuts: the store loses whatever it had not synced, at any of its writes, syncs and changes of files."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.host.locks import LockFile
from fluxy_sync.journal import Claim, Inventory, Journal, NewRecord, Store, connect
from fluxy_sync.journal.record import parse
from fluxy_sync.operation import new_operation_id
from tests.chaos.agreement import Journaled
from tests.chaos.power import Disk, Grain, Lost, build
from tests.chaos.trial import Run, trial

Mode = Literal["always", "waitaof", "everysec"]
WORKER = "worker"
STRANDS = 3  # so many stores at once, as each waits for its disk most of the time
PRODUCERS = 3
MOST_CALLS = {"always": 150, "waitaof": 150, "everysec": 1500}
CUT_S = 30.0
END_S = 30.0
STARTING = threading.Lock()
"""One strand at a time: a process that another one is starting would hold this one's lock for a moment."""
MOST_KEPT = 500  # operations that a store goes into its next cut with


class Kind(NamedTuple):
    """One kind of cuts, and how many of them are made in the short and the full run."""

    name: str
    mode: Mode
    grain: Grain
    short: int
    full: int

    @property
    def promises(self) -> bool:
        """Whether nothing may be lost; else what is gets measured."""
        return self.mode != "everysec" and self.grain == "sectors"


FINE = "always, with single bytes of garbage"
KINDS = (
    Kind("always", "always", "sectors", 36, 1000),
    Kind("waitaof", "waitaof", "sectors", 12, 1000),
    Kind("everysec", "everysec", "sectors", 6, 100),
    Kind(FINE, "always", "bytes", 6, 1000),
)


class Asked(NamedTuple):
    """One operation that a producer asked for, and with which others."""

    lane: str
    n: int
    sealed: bytes
    batch: tuple[str, ...]


class Notes:
    """What was asked and what was told, kept outside of the store."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.accepted: dict[str, float] = {}
        self.may_be_gone: set[str] = set()  # a delivery or a cancellation was asked for
        self.gone: dict[str, float] = {}  # and told to have happened, when

    def keep_only(self, ids: set[str]) -> None:
        """Forget all others."""
        self.asked = {name: self.asked[name] for name in ids if name in self.asked}
        self.accepted = {name: self.accepted.get(name, 0.0) for name in self.asked}
        self.may_be_gone, self.gone = set(), {}


class Cut(NamedTuple):
    """What one cut cost: accepted operations that are gone, since when, deliveries that were undone, and the rest.

    ``odd``: what else isn't as it must be, where that is only measured.
    """

    lost: int
    lost_s: float
    undone: int
    entries: int
    repaired: bool
    garbled: int
    accepted: int
    odd: int


class Strand:
    """One store that loses its power again and again."""

    def __init__(self, run: Run, library: Path, kind: Kind, number: int, chance: random.Random) -> None:
        self._run, self._kind, self._chance = run, kind, chance
        mode = kind.mode
        data_dir = run.folder / f"{mode}-{kind.grain}-{number}"
        self._disk = Disk(library, data_dir)
        self._said: list[str] = []
        self._garbled: set[str] = set()
        self._odd = 0
        self._failed: list[BaseException] = []
        fsync: Literal["always", "everysec"] = "everysec" if mode == "everysec" else "always"
        self._store = EmbeddedStore(
            data_dir, appendfsync=fsync, server=self._disk.server, ballast_bytes=1024 * 1024, say=self._said.append
        )
        self._wire = Store(connect(self._store.url))
        self._journal = Journal(self._wire, "power", waitaof=mode == "waitaof")
        self._notes, self._numbers = Notes(), iter(range(10**9))
        self._over, self._given_up = threading.Event(), threading.Event()

    def give_up(self) -> None:
        """End after the cut that is under way."""
        self._given_up.set()

    def run(self, cuts: int) -> list[Cut]:
        """Cut its power so many times."""
        try:
            with STARTING:
                self._store.start()
            self._store.wait_ready()
            return [self._cut() for _ in range(cuts) if not self._given_up.is_set()]
        finally:
            self._wire.close()
            if self._store.process is not None:
                self._store.process.kill()
                self._store.process.wait()

    def _cut(self) -> Cut:
        self._over.clear()
        self._said.clear()
        self._disk.trust()
        self._journal.reclaim(WORKER)
        self._disk.cut_after(self._chance.randint(0, MOST_CALLS[self._kind.mode]), self._chance.choice((0, 1, 2)))
        producers = [partial(self._produce, (f"{n}.1", f"{n}.2")) for n in range(PRODUCERS)]
        works: list[Callable[[random.Random], None]] = [*producers, self._work, self._work]
        threads = [threading.Thread(target=self._keep_on, args=(work, self._draw())) for work in works]
        for thread in threads:
            thread.start()
        if self._chance.random() < 0.4:
            with suppress(StorageUnavailable):
                self._wire.command("BGREWRITEAOF")
        assert self._store.process is not None
        self._store.process.wait(CUT_S)
        with STARTING:
            self._wait_for_children()
            cut_at = time.time()
            lost = self._disk.lose(self._chance, self._kind.grain)
            (self._store.data_dir / "store.boot").write_text("another")
            self._store.start()
        self._store.wait_ready()
        self._over.set()
        for thread in threads:
            thread.join(END_S)
            self._run.check(not thread.is_alive(), "a producer or worker doesn't end")
        if self._failed:
            raise self._failed[0]
        return self._judge(cut_at, lost)

    def _draw(self) -> random.Random:
        return random.Random(self._chance.random())

    def _wait_for_children(self) -> None:
        """Until nothing of the server is left: a child that rewrites its file is killed with it, and holds its lock."""
        lock = LockFile(self._store.data_dir / "store.lock")
        self._run.check(lock.acquire(CUT_S), "a child of the server's lives on")
        lock.release()

    # --- what goes on meanwhile

    def _keep_on(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            while not self._over.is_set():
                work(chance)
        except StorageUnavailable:
            pass  # it is down: it was asked again for as long as that makes sense
        except BaseException as error:  # noqa: BLE001 -- raised in the strand's own thread
            self._failed.append(error)

    def _produce(self, lanes: Sequence[str], chance: random.Random) -> None:
        lane = chance.choice(lanes)
        ids = tuple(new_operation_id() for _ in range(chance.randint(2, 5) if chance.random() < 0.3 else 1))
        records = []
        for name in ids:
            sealed = chance.randbytes(chance.choice((10, 150, 2000)))
            self._notes.asked[name] = Asked(lane, next(self._numbers), sealed, ids)
            records.append(NewRecord(name, lane, sealed))
        self._journal.append(records)
        self._notes.accepted.update(dict.fromkeys(ids, time.time()))

    def _work(self, chance: random.Random) -> None:
        found = self._journal.claim(f"{WORKER} 1", most=8)
        if not isinstance(found, Claim):
            self._over.wait(0.002)
            return
        for record in found.records:
            name = parse(record).id
            if not self._settle(found, name, chance):
                return
        self._journal.release(found.lane, found.fence)

    def _settle(self, claim: Claim, name: str, chance: random.Random) -> bool:
        """Whether the run goes on."""
        asked = self._notes.asked
        way = chance.random()
        if way < 0.1:
            self._journal.settle(claim.lane, claim.fence, name, "retry", reason="503")
            return False
        if way < 0.15:
            return bool(self._journal.settle(claim.lane, claim.fence, name, "dead", reason="422").next_id)
        self._notes.may_be_gone.add(name)
        if way < 0.25:
            other = chance.choice([each for each in list(asked) if asked[each].lane == claim.lane])
            self._notes.may_be_gone.add(other)
            if self._journal.cancel(claim.lane, other)[0] == "cancelled":
                self._notes.gone[other] = time.time()
            return True
        settled = self._journal.settle(claim.lane, claim.fence, name, "delivered")
        if settled.status == "ok":
            self._notes.gone[name] = time.time()
        return bool(settled.next_id)

    # --- the judgement

    def _judge(self, cut_at: float, disk: Lost) -> Cut:
        found, notes = Journaled(self._journal), self._notes
        before, self._odd = len(self._garbled), 0
        self._check_lanes(found, cut_at, disk)
        wrong = found.disagreements()
        self._run.check(not wrong, f"{self._kind.name}: the journal doesn't agree with itself: {wrong}")
        letters = list(Inventory(self._journal).letters())
        there = found.ids | {letter.id for letter in letters}
        for name in there & set(notes.asked):
            others = set(notes.asked[name].batch) & set(notes.asked) - there - notes.may_be_gone - set(notes.accepted)
            self._run.check(disk.garbage or not others, "of operations that were queued together only some are there")
        lost = {name for name in notes.accepted if name not in there and name not in notes.may_be_gone}
        if disk.garbage:
            # Else a thread noted late what it had been told before the cut.
            self._set_apart({name for name in lost if notes.accepted[name] >= cut_at}, cut_at, disk)
            lost -= self._garbled
        undone = (notes.gone.keys() & there) - self._garbled  # of one that is there twice, one is left
        if self._kind.mode != "everysec":
            for name in lost | undone:
                self._tell(name, cut_at, disk)
        since = min((notes.accepted[name] for name in lost), default=cut_at)
        cut = Cut(
            lost=len(lost),
            lost_s=max(0.0, cut_at - since),
            undone=len(undone),
            entries=disk.entries,
            repaired=bool(self._said),
            garbled=len(self._garbled) - before,
            accepted=len(notes.accepted),
            odd=self._odd,
        )
        if len(there) > MOST_KEPT:
            self._make_room(found)
            there = Journaled(self._journal).ids
        notes.keep_only(there)
        return cut

    def _tell(self, name: str, cut_at: float, disk: Lost) -> None:
        """The evidence of an operation that is gone, or there again."""
        accepted, settled = (
            notes.get(name, float("nan")) - cut_at for notes in (self._notes.accepted, self._notes.gone)
        )
        self._run.note(
            f"{self._kind.name}: {name} is {'there again' if name in self._notes.gone else 'gone'}; accepted "
            f"{accepted:+.3f} s from the cut, settled {settled:+.3f} s; garbage: {disk.garbage}; changes of "
            f"the directory undone: {disk.entries}"
        )

    def _make_room(self, found: Journaled) -> None:
        """Let go of what has been judged: it would only make each judgement longer."""
        inventory = Inventory(self._journal)
        inventory.drop(list(inventory.letters()))
        for lane, records in found.lanes.items():
            inventory.clear(lane, len(records))

    def _check_lanes(self, found: Journaled, cut_at: float, disk: Lost) -> None:
        """Each lane is in order, and holds what was accepted."""
        self._set_apart(found.twice, cut_at, disk)
        for lane, records in found.lanes.items():
            live = [(record, self._notes.asked[record.id]) for record in records if record.id in self._notes.asked]
            live = [(record, asked) for record, asked in live if record.sealed]
            changed = {r.id for r, asked in live if (asked.lane, asked.sealed) != (lane, r.sealed)}
            self._set_apart(changed, cut_at, disk)
            numbers = [asked.n for record, asked in live if record.id not in self._garbled]
            self._expect(numbers == sorted(numbers), f"lane {lane} is out of order")

    def _set_apart(self, ids: set[str], cut_at: float, disk: Lost) -> None:
        """Count by itself what the disk made garbage before anybody was told of it: see docs/RELIABILITY.md.

        Only where it left garbage; and never what was told to be accepted before the cut, unless by ``everysec``.
        """
        fresh = ids - self._garbled
        self._run.check(disk.garbage or not fresh, f"{self._kind.name}: not as they were accepted: {sorted(fresh)}")
        told = [name for name in fresh if self._notes.accepted.get(name, cut_at) < cut_at]
        self._expect(not told or self._kind.mode == "everysec", f"not as they were accepted: {told}")
        self._garbled |= ids

    def _expect(self, holds: bool, what: str) -> None:
        """What must be so; where that is only measured, it is counted."""
        self._odd += not holds
        self._run.check(holds or self._kind.grain == "bytes", f"{self._kind.name}: {what}")


def cuts_of(run: Run, library: Path, kind: Kind) -> list[Cut]:
    """Cut the power of some stores at once, so many times in all."""
    cuts = run.scale(kind.short, kind.full)
    shares = [cuts // STRANDS + (n < cuts % STRANDS) for n in range(STRANDS)]
    strands = [Strand(run, library, kind, n, random.Random(f"{run.seed} {kind.name} {n}")) for n in range(STRANDS)]
    with ThreadPoolExecutor(STRANDS) as pool:
        try:
            done = list(pool.map(Strand.run, strands, shares))
        finally:
            for strand in strands:
                strand.give_up()
    return [cut for each in done for cut in each]


@trial()
def power_cut(run: Run) -> None:
    """After a power cut each accepted operation is there, in order, once, and no transition is there by half.

    With ``always`` and ``waitaof`` (which wants a store that syncs each write: see ``check_durability``) none is lost;
    with ``everysec`` what was lost is measured. Producers queue one or several at once, workers deliver, retry, bury
    and cancel, the store rewrites its file meanwhile. The power goes before, within or after any write, sync, creation,
    rename or removal of the store's. Then its disk has all that was synced, and of the rest: nothing, or a part, or a
    part of which sectors hold zeros or garbage; of the directory's changes that were not synced the first so many.
    Bytes that were synced are as they were: a disk that lies about that is another matter. No disk garbles single bytes
    of a sector; what that would cost is measured, too: it can make another command of one.
    """
    library = build(run.folder)
    for kind in KINDS:
        began = time.monotonic()
        cuts = cuts_of(run, library, kind)
        run.note(f"{kind.name}: {len(cuts)} cuts in {time.monotonic() - began:.0f} s")
        report(run, kind, cuts)


def report(run: Run, kind: Kind, cuts: Sequence[Cut]) -> None:
    """The figures of one kind of cuts."""
    name = kind.name
    run.figure(f"{name}: power cuts", len(cuts))
    run.figure(f"{name}: of these with unsynced bytes, repaired at the start", sum(cut.repaired for cut in cuts))
    run.figure(f"{name}: of these with undone changes of the directory", sum(cut.entries > 0 for cut in cuts))
    run.figure(f"{name}: accepted operations that were there to lose", sum(cut.accepted for cut in cuts))
    lost = [cut.lost for cut in cuts]
    bound = 0 if kind.promises else None
    run.figure(f"{name}: accepted operations lost", sum(lost), at_most=bound)
    if kind.mode == "everysec":
        run.figure(f"{name}: accepted operations lost in a cut, median", median(lost))
        run.figure(f"{name}: accepted operations lost in a cut, most", max(lost))
        run.figure(f"{name}: the oldest of them was accepted before the cut", max(cut.lost_s for cut in cuts), "s")
    garbled = sum(cut.garbled for cut in cuts)
    run.figure(f"{name}: in flight at the cut, garbage on the disk, accepted when asked for again", garbled)
    run.figure(f"{name}: settlements undone", sum(cut.undone for cut in cuts), at_most=bound)
    if kind.grain == "bytes":
        run.figure(f"{name}: out of order, or accepted and not as it was", sum(cut.odd for cut in cuts))
