"""Everything at once: processes die and freeze, the store too, the upstream has moods, and a person interferes."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import redis
import requests

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore, free_port
from tests.chaos.background import Timed, logged
from tests.chaos.moods import USUAL, Moods
from tests.chaos.operator import SCRATCH, Operator, check_dashboard, settle_accounts
from tests.chaos.processes import ProcessFaults, ProducerFaults, Restarter
from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage
from tests.chaos.store_faults import StoreFaults, Thief, WireFaults, ends_pubsub, server_with
from tests.chaos.trial import Run, trial, wait_until

PRODUCERS = 4
LANES = [f"{i}{lane}" for i in range(PRODUCERS) for lane in ("a", "b", SCRATCH)]
LOGIN = ("ann", "swordfish")
ALIVE_EVERY, ALIVE_S = 10, 60.0  # faults, seconds
LONG_STOP_EVERY = 50  # faults
TURN_S = 20.0

Fault = Callable[[random.Random], object]


class StormStage(Stage):
    """A stage whose store takes DEBUG, and may be reached through a proxy."""

    def __init__(self, run: Run, **settings: str) -> None:
        super().__init__(run, **settings)
        self.store_port = free_port()  # for the proxy
        listens = ("--bind", "127.0.0.1", "--port", str(self.store_port))
        server = server_with(self.folder, "--enable-debug-command", "yes", *listens)
        self.store = EmbeddedStore(self.folder / "store", server=server)
        self.gateway.environment["FLUXY_SYNC_REDIS_URL"] = self.store.url
        self.dashboard_port = free_port()

    def read_dashboard(self) -> dict[str, Any]:
        """What ``GET /api/sync`` answers; nothing while it is away."""
        try:
            answer = requests.get(f"http://127.0.0.1:{self.dashboard_port}/api/sync", auth=LOGIN, timeout=5)
        except requests.RequestException:
            return {}
        record: dict[str, Any] = answer.json() if answer.ok else {}
        return record


class Strike(NamedTuple):
    """One fault to come: its victim is chosen by ``chance``; the next one comes ``pause_s`` later."""

    name: str
    chance: random.Random
    pause_s: float


class Storm:
    """All faults, on one stage."""

    def __init__(self, run: Run, stage: StormStage, proxy: Proxy) -> None:
        self._run, self._stage = run, stage
        password = redis.connection.parse_url(stage.store.url)["password"]
        through_proxy = f"redis://:{password}@127.0.0.1:{proxy.port}/0"
        roles = {
            "worker:one": {},
            "worker:two": {"FLUXY_SYNC_REDIS_URL": through_proxy},
            "beat": {},
            "flower": {"FLOWER_PORT": str(stage.dashboard_port), "FLOWER_BASIC_AUTH": ":".join(LOGIN)},
        }
        self.timed = Timed()
        self.restarter = Restarter(stage.gateway, roles)
        self.thief = Thief(stage.store, f"{stage.namespace}.sync")
        self.moods = Moods(stage.upstream, LANES, self._fresh_chance())
        self.operator = Operator(FluxySync(stage.gateway.settings()), LANES, self._fresh_chance())
        processes, producers = ProcessFaults(self.restarter, self.timed), ProducerFaults(stage)
        store, wire = StoreFaults(stage.store, self.timed), WireFaults(proxy, self.timed)
        self.weights: dict[Fault, int] = {
            processes.kill_worker: 8, processes.kill_child: 8, processes.kill_beat: 3, processes.kill_dashboard: 2,
            producers.kill_producer: 5, store.kill_store: 6,
            processes.stop_worker: 4, processes.stop_worker_past_its_claim: 0, store.restart_store: 2,
            store.freeze_store: 2, store.sleep_store: 2, store.rewrite_file: 1, store.fill_memory: 2,
            store.make_read_only: 2, store.want_replicas: 1, store.flush_scripts: 2, store.end_clients: 4,
            wire.reset_connections: 2, wire.cut_replies: 2, self.thief.steal: 3, self.thief.double: 2,
            self.end_pubsub_at_turns: 1,
        }  # fmt: skip
        self.faults = {fault.__name__: fault for fault in self.weights}
        self.struck: Counter[str] = Counter()

    def _fresh_chance(self) -> random.Random:
        return random.Random(self._run.chance.getrandbits(64))

    @property
    def kills(self) -> int:
        """How many were a kill -9."""
        return sum(count for name, count in self.struck.items() if name.startswith("kill_"))

    def plan(self, kills: int) -> Iterator[Strike]:
        """The faults in their order until there are so many kills, all by chance but the long stops."""
        names, weights = list(self.faults), list(self.weights.values())
        while self.kills < kills:
            name = self._run.chance.choices(names, weights)[0]
            if self.struck.total() % LONG_STOP_EVERY == 2:
                name = "stop_worker_past_its_claim"
            yield Strike(name, self._fresh_chance(), self._run.chance.uniform(0.05, 0.6))

    def strike(self, one: Strike) -> None:
        """Do it, and let it work."""
        self.struck[one.name] += 1
        self.faults[one.name](one.chance)
        self.timed.pass_by(one.pause_s)

    def end_pubsub_at_turns(self, _chance: random.Random) -> None:
        """The link goes and comes back, and each time the consumers are told so, their connections are reset."""
        with self.moods.turn:
            self.timed.end("store")
            self._stage.upstream.stop()
            ends_pubsub(self._stage.store, self._is_offline, TURN_S)
            self._stage.upstream.start()
            ends_pubsub(self._stage.store, lambda: not self._is_offline(), TURN_S)

    def _is_offline(self) -> bool:
        return not self._stage.sync.status().online

    @contextmanager
    def blowing(self) -> Iterator[None]:
        """Within, the moods, the operator and the thief are at it; afterwards all is well again."""
        with self.operator, self.moods, self.thief, ExitStack() as ends:
            ends.callback(self.timed.end_all)  # first: the operator has to resume what he paused
            yield

    def check_alive(self) -> None:
        """Whatever has struck: something arrives."""
        seen = len(self._stage.upstream.requests())
        wait_until(lambda: self._arrives(seen), ALIVE_S, "anything arrives")

    def _arrives(self, seen: int) -> bool:
        self.timed.pass_by(0.05)
        return len(self._stage.upstream.requests()) > seen


@trial()
def storm(run: Run) -> None:
    """Random faults of all kinds, overlapping, while it queues and drains: nothing lost, reordered, changed or read.

    kill -9 of worker, pool process, beat, dashboard, store and producer (in mid-call); workers stopped for moments and
    for longer than a claim; the store frozen, restarted, full, read-only, its scripts flushed, its connections closed,
    reset and cut in mid-reply; wake tokens lost, doubled, late; listeners thrown out in the moment of pause and resume;
    an upstream with moods; and a person who pauses, cancels, clears, replays, holds and rotates the keys.
    """
    proxy_seed = run.chance.getrandbits(32)
    with StormStage(run, MAX_LANE_PENDING="150") as stage, Proxy(stage.store_port, proxy_seed) as proxy:
        stage.upstream.start()
        stage.upstream.default(USUAL)
        blow(run, stage, Storm(run, stage, proxy))


def blow(run: Run, stage: StormStage, storm: Storm) -> None:
    """Run the storm, and judge what it left."""
    began = time.monotonic()
    with closing(storm.operator), logged(run.folder / "trial.log"), storm.restarter:
        for i in range(PRODUCERS):
            lanes = [lane for lane in LANES if lane.startswith(str(i))]
            stage.produce(f"p{i}", lanes, every_s=0.06, expires_s=6.0, cap_s=2.0)
        wait_until(lambda: len(stage.upstream.requests()) > 0, 30.0, "the gateway delivers")
        with storm.blowing():
            rage(run, storm)
        stage.end_producers()
        run.note(f"the storm is over after {time.monotonic() - began:.0f} s")
        settle_accounts(run, stage, storm.operator)
        check_dashboard(run, stage, stage.read_dashboard)
    run.figure("faults", storm.struck.total())
    run.figure("kills among them", storm.kills)
    run.figure("processes that ended by themselves", len(storm.restarter.ended))
    run.check(
        all("(0)" not in one for one in storm.restarter.ended), "a process ended by itself and said that all was well"
    )


def rage(run: Run, storm: Storm) -> None:
    """One fault after another; now and then it must be seen to be alive."""
    try:
        for n, one in enumerate(storm.plan(run.scale(18, 1000)), 1):
            storm.strike(one)
            if n % ALIVE_EVERY == 0:
                storm.check_alive()
            if n % 100 == 0:
                run.note(f"{n} faults")
    finally:
        run.note(f"struck: {', '.join(f'{n} x {name}' for name, n in sorted(storm.struck.items()))}")
        run.note(f"ended by themselves: {', '.join(storm.restarter.ended) or 'none'}")
