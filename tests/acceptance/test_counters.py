"""Counters against the truth: whatever dies, the dashboard shows what a count by hand finds in the journal."""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import redis

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore
from tests.chaos.background import Timed
from tests.chaos.processes import ProcessFaults, Restarter
from tests.chaos.store_faults import StoreFaults
from tests.conftest import SEED, Gateway, wait_until
from tests.dashboard import Dashboard
from tests.upstream import Upstream

KILLS = 200 if os.environ.get("FULL") else 15
LANES = ("a", "b", "c", "d")

Counts = tuple[int, int, int]


class Census(threading.Thread):
    """Counts by hand, all the time: what lay in the lanes and among the dead at each revision of the journal."""

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(url)
        self._prefix = f"{{{namespace}}}:"
        self._ends = threading.Event()
        self.found: dict[int, Counts] = {}

    def run(self) -> None:
        while not self._ends.wait(0.002):
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                rev, counts = self._count()
                self.found[rev] = counts

    def _count(self) -> tuple[int, Counts]:
        """Revision, pending, dead and delivered, from one moment."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hmget(f"{self._prefix}counts", "rev", "delivered_total")
        pipeline.hvals(f"{self._prefix}cancelled")
        pipeline.hlen(f"{self._prefix}dead")
        for lane in LANES:
            pipeline.llen(f"{self._prefix}lane:{lane}")
        (rev, delivered), cancelled, dead, *lengths = pipeline.execute()
        return int(rev or 0), (sum(lengths) - sum(map(int, cancelled)), dead, int(delivered or 0))

    def finish(self) -> None:
        self._ends.set()
        self.join(5)
        self._client.close()


def agrees(dashboard: Dashboard, census: Census) -> bool:
    """Whether what the dashboard shows now is what was counted by hand at that revision."""
    record = dashboard.get("/api/sync").json()
    if record["stale"] or record["rev"] not in census.found:
        return False
    shown = (record["pending"], record["dead"], record["delivered_total"])
    assert shown == census.found[record["rev"]], record
    return True


@pytest.mark.timeout(900 if os.environ.get("FULL") else 120)
def test_the_dashboard_shows_the_truth_after_each_kill(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """Worker, pool process, store and dashboard die at random while operations are queued, refused and delivered: each
    time the dashboard agrees with a count by hand.
    """
    chance = random.Random(SEED)
    with EmbeddedStore(tmp_path / "own") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        upstream.default({"status": 201, "delay_s": 0.05})
        sync = FluxySync(gateway.settings())
        settings = {name: value for name, value in gateway.environment.items() if name != "FLUXY_SYNC_KEYS"}
        dashboard = Dashboard(settings, tmp_path).start()
        census = Census(store.url, sync.engine.settings.namespace)
        census.start()
        restarter, timed, waits = Restarter(gateway, {"worker:one": {}, "worker:two": {}, "beat": {}}), Timed(), []
        processes = ProcessFaults(restarter, timed)

        def kill_dashboard(_chance: random.Random) -> None:
            dashboard.end(signal.SIGKILL)
            dashboard.start()

        ways = [processes.kill_worker, processes.kill_child, StoreFaults(store, timed).kill_store, kill_dashboard]
        struck = []
        try:
            with restarter:
                for role in ("worker:one", "worker:two"):
                    wait_until(lambda role=role: " ready." in gateway.log(role), 30)
                for n in range(KILLS):
                    lanes = [chance.choice(LANES) for _ in range(12)]
                    sync.queue_many([{"method": "POST", "path": f"/{lane}", "lane": lane} for lane in lanes])
                    if n % 5 == 4:
                        upstream.script(f"/{chance.choice(LANES)}", [422])
                    struck.append(chance.choice(ways))
                    struck[-1](chance)
                    timed.end_all()
                    began = time.monotonic()
                    wait_until(lambda: agrees(dashboard, census), 15, f"seed {SEED}, kill {n}: {struck[-1].__name__}")
                    waits.append(time.monotonic() - began)
        finally:
            census.finish()
            dashboard.end(signal.SIGKILL)
        told = " ".join(way.__name__ for way in struck)
        print(f"seed {SEED}: {KILLS} kills; the longest until it agreed {max(waits):.2f} s; {told}")
        sync.engine.journal.store.close()
