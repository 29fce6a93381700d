"""The upstream is a name, and names can't be looked up, or only slowly."""

import re
import time
from datetime import datetime

import redis

from tests.chaos.dns import NAME, NXDOMAIN, RIGHT, SERVFAIL, Mood, NameServer, asking_us
from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial, wait_until

LINK_BACK_S = 1.5
CLOSES = {"headers": {"Connection": "close"}, "ending": "close"}  # each request needs a connection, and so a look-up
TRY_FAILED = re.compile(r"\[(\S+ \S+): INFO/\S+\] Task fluxy_sync\.sync_op\[(\S+)\] retry: ")
LANES = 4
WRONG = {"no such name": Mood(NXDOMAIN), "a server that fails": Mood(SERVFAIL)}


@trial()
def names(run: Run) -> None:
    """Names that can't be looked up, or slowly: all is kept, deadlines and claims hold, ticks go on, it heals at once.

    ``getaddrinfo`` has no deadline: the C library's default is 10 s, more with more servers and search domains. Here
    an operation has 2 s in all, and 1 s to connect.
    """
    with Stage(run, CONNECT_TIMEOUT_S="1", TOTAL_TIMEOUT_S="2") as stage, NameServer() as server:
        stage.gateway.environment["FLUXY_SYNC_UPSTREAM"] = f"http://{NAME}:{stage.upstream.port}"
        stage.gateway.launcher = asking_us(stage.folder)
        stage.upstream.start()
        stage.upstream.default(CLOSES)
        stage.upstream.probe({"status": 200, **CLOSES})
        stage.gateway.start("worker:one", "beat")
        stage.produce("p", [f"lane{n}" for n in range(LANES)], every_s=0.05)
        wait_until(lambda: len(stage.upstream.requests()) > 3, 20, "deliveries by name")
        took = [heal_once(run, stage, server, mood) for _ in range(run.scale(1, 25)) for mood in WRONG.values()]
        hang(run, stage, server)
        deliver_slowly(stage, server)
        stage.end_producers()
        stage.drain()
        run.figure("queries", server.queries)
        run.percentile("from the name's return to the first delivery", took, 0.95, "s", LINK_BACK_S)
        stage.judge()


def heal_once(run: Run, stage: Stage, server: NameServer, mood: Mood) -> float:
    """The name is gone until that is known, then nothing answers at all, as without a link; seconds to the delivery."""
    server.mood = mood
    wait_until(lambda: (s := stage.snapshot()) and s.gate == "offline" and s.reason == "dns", 20, "it to be offline")
    server.mood = Mood(silent=True)
    settle_down(run.chance.uniform(0.5, 4.0))
    wait_until(lambda: (s := stage.snapshot()) and not s.syncing, 20, "tries that were under way to end")
    arrived, back = len(stage.upstream.requests()), time.time()
    server.mood = RIGHT
    wait_until(lambda: len(stage.upstream.requests()) > arrived, 60, "the first delivery")
    return float(stage.upstream.requests()[arrived]["t"] - back)


def hang(run: Run, stage: Stage, server: NameServer) -> None:
    """No answer comes while operations are to be sent: tries end in time, ticks go on, and no claim is overrun."""
    wait_until(lambda: stage.snapshot().pending == 0, 30, "everything to be delivered first")  # type: ignore[union-attr]
    before = len(stage.gateway.log("worker:one"))
    server.mood = Mood(silent=True)
    began = datetime.now()  # noqa: DTZ005 -- as Celery's log
    pulse = Pulse(stage)
    wait_until(lambda: pulse.look() and TRY_FAILED.search(stage.gateway.log("worker:one")[before:]), 20, "a failed try")
    ends = time.monotonic() + run.scale(1.0, 60.0)
    wait_until(lambda: pulse.look() and time.monotonic() > ends, 90, "")
    server.mood = RIGHT
    at = TRY_FAILED.findall(stage.gateway.log("worker:one")[before:])[0][0]
    lasted = (datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f") - began).total_seconds()  # noqa: DTZ007
    run.figure("a try without an answer from DNS ended after", lasted, "s", at_most=3.5)
    run.figure("longest time between two ticks of beat", pulse.longest_s, "s", at_most=2.5)
    run.figure("claims that were overrun", pulse.overrun, at_most=0)


class Pulse:
    """What the store shows of beat and claims, looked at again and again."""

    def __init__(self, stage: Stage) -> None:
        self._client = redis.Redis.from_url(stage.store.url)
        self._prefix = f"{{{stage.namespace}}}:"
        self._last, self._last_at = b"", time.monotonic()
        self.longest_s = 0.0
        self.overrun = 0

    def look(self) -> bool:
        """Note it; always true."""
        beat, now = self._client.hget(f"{self._prefix}pulse", "beat") or b"", time.monotonic()
        self.longest_s = max(self.longest_s, now - self._last_at)
        if beat != self._last:
            self._last, self._last_at = beat, now
        takeovers = [int(claim.split(b" ")[1]) for claim in self._client.hvals(f"{self._prefix}claims")]
        self.overrun = max([self.overrun, *takeovers])
        return True


def deliver_slowly(stage: Stage, server: NameServer) -> None:
    """Each look-up takes half of what an operation has: it is delivered nevertheless."""
    arrived = len(stage.upstream.requests())
    server.mood = Mood(late_s=1.0)
    wait_until(lambda: len(stage.upstream.requests()) > arrived + 3, 60, "deliveries with slow DNS")
    server.mood = RIGHT
