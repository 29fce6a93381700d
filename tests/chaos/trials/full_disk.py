"""The disk of the store fills up while it queues and drains, to the last byte and beyond the ballast."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

from fluxy_sync import AcceptanceUnknown, QueueFull, StorageUnavailable
from fluxy_sync.operation import new_operation_id
from tests.chaos.background import Background, logged
from tests.chaos.disk import Filler, small_disk
from tests.chaos.stage import settle_down
from tests.chaos.supervised import Supervised
from tests.chaos.trial import Run, trial, wait_until

DISK_MB = 96
BACK_S = 12.0  # the supervisor's longest pause between two starts is 5 s
FELT_S = 30.0
LANES = {"p1": ("1a", "1b"), "p2": ("2a", "2b")}
SOME = 30
MORE_BYTES = 400  # of the file, before the limit on its size is felt


class Asker(Background):
    """Queues an operation now and then, once, and notes what came of it: what was refused must never arrive.

    Attributes:
        accepted_at: when the last one was accepted (monotonic).
        refused: how many were refused, each with the word that nothing was accepted.
    """

    def __init__(self, stage: Supervised) -> None:
        super().__init__("asker", 0.03)
        self._stage = stage
        self._n = 0
        self.accepted_at = 0.0
        self.refused = 0

    def step(self) -> None:
        one, self._n = new_operation_id(), self._n + 1
        try:
            self._stage.sync.queue("POST", "/asker", body={"lane": "asker", "n": self._n}, lane="asker", id=one)
        except AcceptanceUnknown:
            self._note("asked", one)
        except (StorageUnavailable, QueueFull):
            self.refused += 1
        else:
            self._note("accepted", one)
            self.accepted_at = time.monotonic()

    def _note(self, word: str, one: str) -> None:
        """As a producer does."""
        line = {"is": word, "id": one, "lane": "asker", "n": self._n, "t": time.time()}
        with self._stage.record_of("asker").open("a", encoding="utf-8") as record:
            record.write(json.dumps(line) + "\n")

    def accepts_again(self, run: Run, what: str) -> None:
        """Wait until something is accepted, and note how long that took from now."""
        began = time.monotonic()
        wait_until(lambda: self.accepted_at > began, BACK_S + FELT_S, what)
        run.figure(what, self.accepted_at - began, "s", at_most=BACK_S)


@trial()
def full_disk(run: Run) -> None:
    """The store's disk is full to the last byte, ballast and all: nothing accepted is lost; it comes back by itself.

    With appendfsync always the store ends. First its launcher frees the ballast: what waits drains, though nobody else
    gives room back. When that is full, too, producers are told that nothing was accepted, until there is room.
    """
    with small_disk(run.folder / "disk", DISK_MB) as disk, Supervised(run, data=disk / "data") as stage:
        filler = Filler(disk)
        with logged(run.folder / "trial.log"), begun(stage) as asker:
            for turn in range(run.scale(1, 12)):
                fail_a_write(run, stage, asker)
                fill_twice(run, stage, filler, asker, dies=turn % 2 == 1)
        stage.end_producers()
        stage.drain()
        stage.judge()
        run.figure("refused, of which nothing arrived", asker.refused, at_least=1)


@trial(short=False)
def full_disk_everysec(run: Run) -> None:
    """With appendfsync everysec the store stays up on a full disk, refuses, and goes on by itself: nothing is lost."""
    with (
        small_disk(run.folder / "disk", DISK_MB) as disk,
        Supervised(run, disk / "data", DURABILITY="everysec") as stage,
    ):
        filler = Filler(disk)
        with logged(run.folder / "trial.log"), begun(stage) as asker:
            store = stage.part("store")
            for _ in range(run.scale(1, 20)):
                refused = asker.refused
                filler.grow()
                wait_until(lambda: asker.refused > refused + 5, FELT_S, "producers are told")  # noqa: B023
                settle_down(run.chance.uniform(0.5, 8.0))
                filler.go()
                asker.accepts_again(run, "room again, until it accepts")
                deliver(stage, "a disk with room")
            run.check(store == stage.part("store"), "the store ended")
        stage.end_producers()
        stage.drain()
        stage.judge()
        run.figure("refused, of which nothing arrived", asker.refused, at_least=1)


def begun(stage: Supervised) -> Asker:
    """All is up, and under load."""
    stage.upstream.start()
    stage.upstream.default({"status": 201, "delay_s": 0.02})
    stage.start()
    for name, lanes in LANES.items():
        stage.produce(name, lanes, every_s=0.03)
    deliver(stage, "a disk that is empty")
    return Asker(stage)


def fill_twice(run: Run, stage: Supervised, filler: Filler, asker: Asker, *, dies: bool) -> None:
    """Fill the disk, and then what the ballast was; then give it back. ``dies``: meanwhile the supervisor is killed."""
    store_ends(stage, filler.grow)
    asker.accepts_again(run, "full, until it accepts again on the ballast")
    run.check(stage.store.short_of_disk, "the store's disk is full, and nobody says so")
    deliver(stage, "a disk that is full but for the ballast")
    store_ends(stage, filler.grow)
    refused = asker.refused
    wait_until(lambda: asker.refused > refused + 5, FELT_S, "producers are told")
    settle_down(run.chance.uniform(0.5, run.scale(1.0, 8.0)))
    if dies:
        stage.kill()
        stage.start(wait=False)
        settle_down(run.chance.uniform(0.5, 8.0))
    filler.go()
    asker.accepts_again(run, "room again, until it accepts")
    wait_until(lambda: not stage.store.short_of_disk, BACK_S, "there is room again, and so a ballast")
    deliver(stage, "a disk with room")


def deliver(stage: Supervised, what: str) -> None:
    """Wait until some more has arrived."""
    seen = len(stage.upstream.requests())
    wait_until(lambda: len(stage.upstream.requests()) > seen + SOME, FELT_S, f"deliveries on {what}")


def store_ends(stage: Supervised, cause: Callable[[], object]) -> None:
    """Do what ends the store, and wait until it has."""
    before = wait_until(lambda: stage.part("store"), FELT_S, "the store runs")
    cause()
    wait_until(lambda: (now := stage.part("store")) is None or now.pid != before.pid, FELT_S, "the store feels it")


def fail_a_write(run: Run, stage: Supervised, asker: Asker) -> None:
    """The file can't grow any more: a write fails half-way, and the store ends in the middle of a record."""
    store = wait_until(lambda: stage.part("store"), FELT_S, "the store runs")
    size = max(path.stat().st_size for path in aof_files(stage.data)) + run.chance.randrange(MORE_BYTES)
    store_ends(stage, lambda: resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (size, size)))
    asker.accepts_again(run, "a failed write, until it accepts again")


def aof_files(data: Path) -> list[Path]:
    """The files to which the store may be writing."""
    return list((data / "store" / "appendonlydir").glob("*.incr.aof"))
