"""The referee: random kills while producers queue and the engine drains; then the upstream's record is judged."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Journal
from fluxy_sync.rotation import Rotation
from tests.conftest import ROOT, SEED, Gateway, wait_until
from tests.referee import judge, operation_id, was_delivered
from tests.upstream import Upstream

KILLS = 50
PRODUCERS = 4
OPERATIONS = 600  # of each producer, spread over the run
SCRATCH = "scratch"  # ends the names of lanes that may be cleared
LANES = [f"{i}{lane}" for i in range(PRODUCERS) for lane in ("a", "b", SCRATCH)]


def start_producers(gateway: Gateway, folder: Path) -> list["subprocess.Popen[bytes]"]:
    """Each has lanes of its own, so that the order of acceptance in a lane is known outside the store."""
    return [
        subprocess.Popen(
            [
                sys.executable, "-m", "tests.producer", "--name", f"p{i}", "--count", str(OPERATIONS), "--expires", "6",
                "--lanes", f"{i}a,{i}b,{i}{SCRATCH}", "--every", "0.05",
                "--record", str(folder / f"accepted-{i}.jsonl"),
            ],
            env={**os.environ, **gateway.environment},
            cwd=ROOT,
        )
        for i in range(PRODUCERS)
    ]  # fmt: skip


class Operator(threading.Thread):
    """A person who does everything that a person can do, at random, and remembers what came of it."""

    def __init__(self, sync: FluxySync, upstream: Upstream, chance: random.Random) -> None:
        super().__init__(name="operator", daemon=True)
        self._sync, self._upstream, self._chance = sync, upstream, chance
        self._ways: list[Callable[[str], object]] = [
            self.pause_lane, self.pause_all, self.cancel, self.cancel, self.clear, self.refuse, self.refuse,
            self.replay, self.replay, self.hold, self.rotate,
        ]  # fmt: skip
        self.cancelled: dict[str, float] = {}  # when it was certain
        self.cleared = 0
        self.log: list[str] = []
        self.errors: list[BaseException] = []
        self._ends = threading.Event()

    def run(self) -> None:
        while not self._ends.wait(0.3):
            way, lane = self._chance.choice(self._ways), self._chance.choice(LANES)
            try:
                way(lane)
                self.log.append(way.__name__)
            except StorageUnavailable:
                self.log.append(f"({way.__name__})")
            except BaseException as error:  # noqa: BLE001 -- the test fails with it
                self.errors.append(error)
                return

    def finish(self) -> None:
        """End, and leave nothing paused."""
        self._ends.set()
        self.join(30)
        assert not self.errors, self.errors
        for lane in LANES:
            self._sync.resume(lane)
        self._sync.resume()

    def pause_lane(self, lane: str) -> None:
        self._sync.pause(lane)
        self._ends.wait(0.4)
        self._sync.resume(lane)

    def pause_all(self, _lane: str) -> None:
        self._sync.pause(wait_s=1.0)
        self._ends.wait(0.2)
        self._sync.resume()

    def cancel(self, lane: str) -> None:
        waiting = list(itertools.islice(self._sync.pending(lane), 20))
        if waiting:
            one = self._chance.choice(waiting)
            if self._sync.cancel(one.id, lane):
                self.cancelled[one.id] = time.time()

    def clear(self, lane: str) -> None:
        self.cleared += self._sync.clear_queue(f"{lane[0]}{SCRATCH}")

    def refuse(self, lane: str) -> None:
        self._upstream.script(f"/{lane}", [self._chance.choice([422, 503, "drop"])])

    def replay(self, _lane: str) -> None:
        refused = [letter.id for letter in self._sync.dead_letters() if letter.reason == "422"]
        if refused:
            self._sync.replay(refused, to=self._chance.choice(["head", "tail"]))  # type: ignore[arg-type]

    def hold(self, lane: str) -> None:
        self._sync.maintenance.inventory.hold(lane, "key:00000000", 1.0)

    def rotate(self, _lane: str) -> None:
        rotation = Rotation(self._sync.engine, "the referee")
        if len(self._sync.engine.vault.key_ids) < 4:
            rotation.add_key()
        list(rotation.run())


class Killer:
    """Kills one part at random, and starts it again as a supervisor would."""

    def __init__(self, gateway: Gateway, store: EmbeddedStore, chance: random.Random) -> None:
        self._gateway, self._store, self._chance = gateway, store, chance
        self._ways: list[Callable[[], None]] = [self.worker, self.worker, self.child, self.child, self.store, self.beat]
        self.log: list[str] = []

    def strike(self) -> None:
        way = self._chance.choice(self._ways)
        self.log.append(way.__name__)
        way()

    def worker(self) -> None:
        role = self._chance.choice(["worker:one", "worker:two"])
        self._gateway.kill(role)
        # As a supervisor would: a pool that outlives its parent for a moment still holds the node's name.
        self._start_until_it_lives(role)

    def _start_until_it_lives(self, role: str) -> None:
        def lives() -> bool:
            process = self._gateway.processes.get(role)
            if process is None or process.poll() is not None:
                self._gateway.start(role, wait=False)
            return self._gateway.log(role).count(" ready.") > ready

        ready = self._gateway.log(role).count(" ready.")
        wait_until(lives, 30)

    def child(self) -> None:
        parent = psutil.Process(self._gateway.processes[self._chance.choice(["worker:one", "worker:two"])].pid)
        children = parent.children()
        if children:
            os.kill(self._chance.choice(children).pid, signal.SIGKILL)

    def store(self) -> None:
        assert self._store.process is not None
        self._store.process.kill()
        self._store.process.wait()
        self._store.start()
        self._store.wait_ready()

    def beat(self) -> None:
        self._gateway.kill("beat")
        self._gateway.start("beat", wait=False)


def counts_of(client: "redis.Redis", namespace: str) -> tuple[int, int, int]:
    """Pending, dead and bytes, counted by hand."""
    prefix = f"{{{namespace}}}:"
    cancelled = sum(int(n) for n in client.hvals(f"{prefix}cancelled"))
    records = [r for key in client.scan_iter(f"{prefix}lane:*") for r in client.lrange(key, 0, -1)]
    dead = client.hvals(f"{prefix}dead")
    return len(records) - cancelled, len(dead), sum(map(len, records)) + sum(map(len, dead))


def counted(journal: Journal) -> tuple[int, int, int]:
    snapshot = journal.snapshot()
    return snapshot.pending, snapshot.dead, snapshot.bytes


@pytest.fixture
def producers(gateway: Gateway, tmp_path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes, once they are started; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.timeout(280)
def test_fifty_random_kills_lose_double_and_reorder_nothing(
    gateway: Gateway, upstream: Upstream, producers: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """Worker, pool process, store and beat die at random, while a person pauses, cancels, clears, replays and rotates
    the keys, operations are refused, held or expire, and the queue is full at times: every accepted operation is
    delivered, dead with a reason, or was taken back; each lane in order.
    """
    chance = random.Random(SEED)
    with EmbeddedStore(tmp_path / "referee") as store:
        store.wait_ready()
        ring = tmp_path / "ring"
        ring.write_text(gateway.environment.pop("FLUXY_SYNC_KEYS"))
        gateway.environment |= {
            "FLUXY_SYNC_REDIS_URL": store.url, "FLUXY_SYNC_KEYS_FILE": str(ring), "FLUXY_SYNC_MAX_LANE_PENDING": "150",
        }  # fmt: skip
        upstream.start()
        upstream.default({"status": 201, "delay_s": 0.02})  # so that many a kill comes in mid-request
        gateway.start("worker:one", "worker:two", "beat")
        producers += start_producers(gateway, tmp_path)
        killer = Killer(gateway, store, chance)
        sync = FluxySync(gateway.settings())
        operator = Operator(FluxySync(gateway.settings()), upstream, random.Random(SEED + 1))
        operator.start()
        for n in range(1, KILLS + 1):
            killer.strike()
            if n == KILLS // 2:
                upstream.stop()
            if n == KILLS // 2 + 3:
                upstream.start()
            seen = len(upstream.requests())
            wait_until(lambda seen=seen: len(upstream.requests()) > seen or not upstream.running or done(producers), 60)
        assert [p.wait(120) for p in producers] == [0] * PRODUCERS
        operator.finish()
        replay_refused(sync)
        wait_until(lambda: pending(sync) == 0, 120)

        accepted = [
            (line["id"], line["lane"], line["n"])
            for i in range(PRODUCERS)
            for line in map(json.loads, (tmp_path / f"accepted-{i}.jsonl").read_text().splitlines())
        ]
        dead = {letter.id: letter.reason for letter in sync.dead_letters()}
        verdict = judge(accepted, upstream.requests(), undecided(accepted, upstream, operator, dead))
        story = f"kills: {' '.join(killer.log)}; the operator: {' '.join(operator.log)}"
        print(f"seed {SEED}: {verdict}; {len(dead)} dead; {story}")
        assert verdict.ok, f"seed {SEED}: {verdict}; {story}"
        assert len(accepted) == PRODUCERS * OPERATIONS
        check_the_undecided(accepted, upstream, operator, dead)
        with redis.Redis.from_url(store.url) as client:
            found = counts_of(client, gateway.environment["FLUXY_SYNC_NAMESPACE"])
        assert found == counted(sync.engine.journal)
        sync.engine.journal.store.close()


def replay_refused(sync: FluxySync) -> None:
    """What the server refused by chance goes out again, so that only what expired stays dead."""
    while refused := [letter.id for letter in sync.dead_letters() if letter.reason == "422"]:
        sync.replay(refused)
        wait_until(lambda: pending(sync) == 0, 120)


Accepted = list[tuple[str, str, int]]


def undecided(accepted: Accepted, upstream: Upstream, operator: Operator, dead: dict[str, str]) -> set[str]:
    """Those whose place, or arrival, nobody promised: taken back, dead, replayed after a refusal, or cleared."""
    refused = {operation_id(r["key"]) for r in upstream.requests() if r["status"] == 422}
    cleared = {one for one, lane, _ in accepted if lane.endswith(SCRATCH)}
    return set(operator.cancelled) | set(dead) | refused | cleared


def check_the_undecided(accepted: Accepted, upstream: Upstream, operator: Operator, dead: dict[str, str]) -> None:
    """Each of them, too, was delivered, is dead with a reason, or was taken back."""
    delivered = {operation_id(r["key"]) for r in upstream.requests() if was_delivered(r)}
    assert set(dead.values()) <= {"expired"}, dead
    missing = {one: lane for one, lane, _ in accepted if one not in delivered | set(dead) | set(operator.cancelled)}
    assert all(lane.endswith(SCRATCH) for lane in missing.values()), missing
    assert len(missing) <= operator.cleared
    # What was cancelled may have been sent before by a worker that died; nothing of it leaves afterwards.
    sent = [(operation_id(r["key"]), r["t"]) for r in upstream.requests()]
    assert [one for one, at in sent if at > operator.cancelled.get(one, at)] == []


def done(producers: "list[subprocess.Popen[bytes]]") -> bool:
    return all(p.poll() is not None for p in producers)


def pending(sync: FluxySync) -> int:
    try:
        return sync.status().pending
    except StorageUnavailable:
        return -1
