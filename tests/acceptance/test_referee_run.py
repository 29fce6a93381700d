"""The referee: random kills while producers queue and the engine drains; then the upstream's record is judged."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Journal
from tests.conftest import ROOT, SEED, Gateway, wait_until
from tests.referee import judge
from tests.upstream import Upstream

KILLS = 50
PRODUCERS = 4
OPERATIONS = 600  # of each producer, spread over the run


def start_producers(gateway: Gateway, folder: Path) -> list["subprocess.Popen[bytes]"]:
    """Each has lanes of its own, so that the order of acceptance in a lane is known outside the store."""
    return [
        subprocess.Popen(
            [
                sys.executable, "-m", "tests.producer", "--name", f"p{i}", "--count", str(OPERATIONS),
                "--lanes", f"{i}a,{i}b", "--record", str(folder / f"accepted-{i}.jsonl"), "--every", "0.05",
            ],
            env={**os.environ, **gateway.environment},
            cwd=ROOT,
        )
        for i in range(PRODUCERS)
    ]  # fmt: skip


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
    """Worker, pool process, store and beat die at random: every accepted operation arrives, each lane in order."""
    chance = random.Random(SEED)
    with EmbeddedStore(tmp_path / "referee") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        upstream.default({"status": 201, "delay_s": 0.02})  # so that many a kill comes in mid-request
        gateway.start("worker:one", "worker:two", "beat")
        producers += start_producers(gateway, tmp_path)
        killer = Killer(gateway, store, chance)
        sync = FluxySync(gateway.settings())
        for n in range(1, KILLS + 1):
            killer.strike()
            if n == KILLS // 2:
                upstream.stop()
            if n == KILLS // 2 + 3:
                upstream.start()
            seen = len(upstream.requests())
            wait_until(lambda seen=seen: len(upstream.requests()) > seen or not upstream.running or done(producers), 60)
        assert [p.wait(120) for p in producers] == [0] * PRODUCERS
        wait_until(lambda: pending(sync) == 0, 120)

        accepted = [
            (line["id"], line["lane"], line["n"])
            for i in range(PRODUCERS)
            for line in map(json.loads, (tmp_path / f"accepted-{i}.jsonl").read_text().splitlines())
        ]
        verdict = judge(accepted, upstream.requests())
        print(f"seed {SEED}: {verdict}; kills: {' '.join(killer.log)}")
        assert verdict.ok, f"seed {SEED}: {verdict}; kills: {' '.join(killer.log)}"
        assert len(accepted) == PRODUCERS * OPERATIONS
        with redis.Redis.from_url(store.url) as client:
            found = counts_of(client, gateway.environment["FLUXY_SYNC_NAMESPACE"])
        assert found == counted(sync.engine.journal)
        sync.engine.journal.store.close()


def done(producers: "list[subprocess.Popen[bytes]]") -> bool:
    return all(p.poll() is not None for p in producers)


def pending(sync: FluxySync) -> int:
    try:
        return sync.status().pending
    except StorageUnavailable:
        return -1
