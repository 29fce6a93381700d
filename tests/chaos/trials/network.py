"""The link, cut in every way that TCP allows: nothing is lost, and hardly anything is tried in vain."""

import collections
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial, wait_until
from tests.conftest import Gateway
from tests.upstream import Upstream

WORKERS = ("worker:one", "worker:two")
FAILED = re.compile(r"/(\S+)\] Task fluxy_sync\.sync_op\[\S+\] retry: (.*)")
SOON = {"CONNECT_TIMEOUT_S": "1", "READ_TIMEOUT_S": "1.5", "TOTAL_TIMEOUT_S": "3"}  # so that many faults fit into a run
LANES = 8  # more than there are pool processes


class Fault(NamedTuple):
    """One thing that goes wrong, and for how long (seconds, from and to)."""

    name: str
    begin: Callable[[Proxy, Upstream], None]
    lasts: tuple[float, float]


def lies(answer: dict[str, object]) -> Callable[[Proxy, Upstream], None]:
    """The upstream acts, and answers in a way that can't be read."""
    return lambda _, upstream: upstream.default(answer)


FAULTS = [
    Fault("refused", lambda proxy, _: proxy.set("refused"), (0.3, 2.0)),
    Fault("partition", lambda proxy, _: proxy.set("silent"), (0.5, 4.0)),
    Fault("answers lost", lambda proxy, _: proxy.set("no-answers"), (0.5, 3.0)),
    Fault("requests lost", lambda proxy, _: proxy.set("no-requests"), (0.5, 3.0)),
    Fault("10 % resets", lambda proxy, _: proxy.set(resets=0.1), (0.5, 1.5)),
    Fault("500 ms delay", lambda proxy, _: proxy.set(delay_s=0.5), (1.0, 2.0)),
    Fault("answers cut", lambda proxy, _: proxy.set(cuts=0.3), (0.5, 1.5)),
    Fault("a byte at a time", lambda proxy, _: proxy.set(trickle_s=0.005), (0.5, 1.5)),
    Fault("half open", lambda proxy, _: proxy.forget(), (0.2, 2.0)),
    Fault("half open and resets", lambda proxy, _: (proxy.forget(), proxy.set(resets=0.1, cuts=0.1))[0], (0.5, 1.5)),
    Fault("all but cut", lambda proxy, _: proxy.set(resets=0.1, cuts=0.1, delay_s=0.5, trickle_s=0.002), (1.0, 2.0)),
    Fault(
        "a length too long", lies({"headers": {"Content-Length": "9"}, "body": "short", "ending": "close"}), (0.3, 1)
    ),
    Fault("a length too short", lies({"headers": {"Content-Length": "2"}, "body": "longer"}), (0.3, 1)),
    Fault("a length that is none", lies({"headers": {"Content-Length": "x"}, "ending": "close"}), (0.3, 1)),
    Fault(
        "broken chunks",
        lies({"headers": {"Transfer-Encoding": "chunked"}, "body": "5\r\nab\r\nzz\r\n", "ending": "close"}),
        (0.3, 1),
    ),
    Fault("503 and resets", lambda proxy, up: (up.default(503), proxy.set(resets=0.1))[0], (0.3, 1.0)),
]


@trial()
def network(run: Run) -> None:
    """Links that are cut, lossy one way, reset, slow or half open, and answers that lie: nothing lost, order kept."""
    with Stage(run, **SOON) as stage, Proxy(stage.upstream.port, run.seed) as proxy:
        stage.gateway.environment["FLUXY_SYNC_UPSTREAM"] = proxy.url
        stage.upstream.start()
        for name in ("p1", "p2"):
            stage.produce(name, [f"{name}-{lane}" for lane in "abc"], every_s=run.scale(0.03, 0.05))
        stage.gateway.start(*WORKERS, "beat")
        begun = go_through_faults(run, proxy, stage.upstream)
        stage.end_producers()
        stage.drain()
        run.figure("faults", begun)
        stage.judge()


def go_through_faults(run: Run, proxy: Proxy, upstream: Upstream) -> int:
    """Each fault once, in some order; in a full run for 10 minutes, two of them at once now and then."""
    begun, ends = 0, time.monotonic() + run.scale(0, 600)
    while begun == 0 or time.monotonic() < ends:
        for fault in run.chance.sample(FAULTS, len(FAULTS)):
            fault.begin(proxy, upstream)
            settle_down(run.chance.uniform(*fault.lasts) * run.scale(0.5, 1.0))
            proxy.set()
            upstream.default(201)
            settle_down(run.chance.uniform(0.0, run.scale(0.3, 3.0)))
            begun += 1
        run.note(f"{begun} faults")
    return begun


WAYS_TO_LOSE_IT = ("refused", "silent", "no-answers", "no-requests")


class Attempts:
    """Tries of operations that failed, by worker process, as the workers' logs tell."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._before = {role: len(gateway.log(role)) for role in WORKERS}

    def by_process(self) -> dict[str, list[str]]:
        """Process -> why each of its tries failed, since this was made."""
        found: dict[str, list[str]] = collections.defaultdict(list)
        for role, before in self._before.items():
            for process, why in FAILED.findall(self._gateway.log(role)[before:]):
                found[f"{role} {process}"].append(why)
        return found


@trial()
def link_lost(run: Run) -> None:
    """When the link is lost, each worker process tries at most one operation in vain, however the link was lost.

    All processes are busy when it is cut. Connections that wait for an answer end by the read timeout, which is 1.5 s
    here; the default is 25 s.
    """
    worst: dict[str, int] = {}
    with Stage(run, **SOON) as stage, Proxy(stage.upstream.port, run.seed) as proxy:
        stage.gateway.environment["FLUXY_SYNC_UPSTREAM"] = proxy.url
        stage.upstream.start()
        stage.upstream.default({"delay_s": 0.01})
        stage.gateway.start(*WORKERS, "beat")
        for name in ("p1", "p2"):
            stage.produce(name, [f"{name}-{lane}" for lane in range(LANES // 2)], every_s=run.scale(0.02, 0.1))
        for _ in range(run.scale(1, 30)):
            for link in run.chance.sample(WAYS_TO_LOSE_IT, run.scale(2, len(WAYS_TO_LOSE_IT))):
                worst[link] = max(worst.get(link, 0), lose_link_once(run, stage, proxy, link))
        stage.end_producers()
        stage.drain()
        for link, most in worst.items():
            run.figure(f"attempts in vain of a worker process, {link}", most, at_most=1)
        stage.judge()


def lose_link_once(run: Run, stage: Stage, proxy: Proxy, link: str) -> int:
    """Cut the link while operations are being delivered; the most that one process tried in vain."""
    arrived = len(stage.upstream.requests())
    wait_until(lambda: len(stage.upstream.requests()) > arrived + 20, 30, "deliveries before the cut")
    settle_down(run.chance.uniform(0.0, 0.2))
    attempts = Attempts(stage.gateway)
    proxy.set(link)
    wait_until(lambda: (s := stage.snapshot()) and s.gate == "offline" and not s.syncing, 60, "the loss to be noticed")
    # Whoever would go on trying does it now: by its steward's and beat's next looks.
    settle_down(2.5)
    found = attempts.by_process()
    proxy.set()
    return max(map(len, found.values()), default=0)
