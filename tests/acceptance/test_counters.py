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
from tests.acceptance.test_referee_run import Killer
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


class Everything(Killer):
    """Kills the dashboard, too."""

    def __init__(self, gateway: Gateway, store: EmbeddedStore, chance: random.Random, dashboard: Dashboard) -> None:
        super().__init__(gateway, store, chance)
        self._dashboard = dashboard
        self._ways = [self.worker, self.child, self.store, self.dashboard]

    def dashboard(self) -> None:
        self._dashboard.end(signal.SIGKILL)
        self._dashboard.start()


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
        gateway.start("worker:one", "worker:two", "beat")
        sync = FluxySync(gateway.settings())
        settings = {name: value for name, value in gateway.environment.items() if name != "FLUXY_SYNC_KEYS"}
        dashboard = Dashboard(settings, tmp_path).start()
        census = Census(store.url, sync.engine.settings.namespace)
        census.start()
        killer, waits = Everything(gateway, store, chance, dashboard), []
        try:
            for n in range(KILLS):
                lanes = [chance.choice(LANES) for _ in range(12)]
                sync.queue_many([{"method": "POST", "path": f"/{lane}", "lane": lane} for lane in lanes])
                if n % 5 == 4:
                    upstream.script(f"/{chance.choice(LANES)}", [422])
                killer.strike()
                began = time.monotonic()
                wait_until(lambda: agrees(dashboard, census), 15, f"seed {SEED}, kill {n}: {killer.log[-1]}")
                waits.append(time.monotonic() - began)
        finally:
            census.finish()
            dashboard.end(signal.SIGKILL)
        print(f"seed {SEED}: {KILLS} kills; the longest until it agreed {max(waits):.2f} s; {' '.join(killer.log)}")
        sync.engine.journal.store.close()
