"""A great many operations, a great many lanes, and a body as large as they may be."""

import base64
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from fluxy_sync.journal.journal import SCRIPTS
from fluxy_sync.journal.store import script_sha
from tests.chaos.background import Background
from tests.chaos.gauge import MIB, Gauge, memory_group
from tests.chaos.ledger import MARKER, counts_by_hand
from tests.chaos.stage import Stage
from tests.chaos.trial import Run, trial, wait_until
from tests.dashboard import Dashboard

AT_ONCE = 500  # a call for 1,000 operations on as many lanes takes the store 10 ms
WORKER_BYTES = 256 * MIB
LONGEST_SCRIPT_MS = 10
DRAIN_S = 3600.0
LARGE_BODY = 64 * MIB
LARGE_WORKER_MIB = 512  # a process that sends it holds it four times


def fill(stage: Stage, count: int, lanes: int) -> None:
    """Queue so many operations on so many lanes in turn; the n-th of a lane carries n."""
    for first in range(0, count, AT_ONCE):
        stage.sync.queue_many(
            [
                {
                    "method": "POST", "path": f"/{n % lanes}", "lane": f"lane-{n % lanes}",
                    "body": {"n": n // lanes, "secret": MARKER},
                }
                for n in range(first, min(count, first + AT_ONCE))
            ]
        )  # fmt: skip


class Arrivals:
    """What arrived, counted while it is read: a million requests are too many to hold."""

    def __init__(self, record: Path) -> None:
        self._next: Counter[str] = Counter()  # path -> the number that is due
        self.count = self.repeats = self.reordered = 0
        with record.open("rb") as lines:
            for line in lines:
                request = json.loads(line)
                if request["kind"] == "request":
                    self._take(request["path"], json.loads(request["body"])["n"])

    def _take(self, path: str, number: int) -> None:
        due = self._next[path]
        if number == due:
            self._next[path], self.count = due + 1, self.count + 1
        elif number == due - 1:
            self.repeats += 1
        else:
            self.reordered += 1


def check_arrivals(run: Run, stage: Stage, count: int) -> None:
    """All that isn't pending has arrived, in the order of each lane; the counts are those of the records."""
    stage.gateway.close()
    arrivals, snapshot = Arrivals(stage.upstream.record), stage.snapshot()
    assert snapshot is not None
    missing = count - snapshot.pending - arrivals.count
    run.figure("lost", max(0, missing), at_most=0)
    run.figure("reordered", arrivals.reordered, at_most=0)
    run.figure("sent, but still pending", max(0, -missing), at_most=stage.gateway.settings().worker_concurrency)
    with redis.Redis.from_url(stage.store.url) as client:
        found = counts_by_hand(client, stage.namespace)
    run.check(found["pending"] == snapshot.pending, f"pending is {snapshot.pending}, but {found} lie there")
    stage.check_secrecy()


# --- a million operations


@trial()
def million(run: Run) -> None:
    """A worker that gets 256 MiB drains a million pending operations, and its memory stays flat.

    In the short run there are fewer. The limit is the kernel's, where it lets us make a control group.
    """
    count, lanes, drained = run.scale((30_000, 300, 6_000), (1_000_000, 1_000, 1_000_000))
    with Stage(run) as stage, memory_group(WORKER_BYTES) as group, ExitStack() as ends:
        ends.callback(stage.gateway.close)
        began = time.monotonic()
        fill(stage, count, lanes)
        run.figure("accepted a second", count / (time.monotonic() - began))
        run.check((stage.sync.status().pending, stage.sync.status().lanes) == (count, lanes), "not all were counted")
        stage.upstream.start()
        stage.gateway.start("worker", "beat", wait=False)
        worker = stage.gateway.processes["worker"].pid
        if group:
            group.add(worker)
        else:
            run.note("no control group can be made here: the worker's memory is only measured")
        stage.gateway.wait_for("worker", " ready.")
        drain(run, stage, worker, drained)
        run.figure("processes that the kernel killed for memory", group.kills if group else 0, at_most=0)
        check_arrivals(run, stage, count)


def drain(run: Run, stage: Stage, worker: int, count: int) -> None:
    """Let so many be delivered, and look at the worker's memory meanwhile."""
    started = stage.sync.status().delivered_total
    wait_until(lambda: stage.sync.status().delivered_total > started, 30, "the first delivery")
    began, before = time.monotonic(), stage.sync.status().delivered_total
    with Gauge({"worker": worker}) as gauge:
        wait_until(lambda: stage.sync.status().delivered_total >= count, DRAIN_S, f"{count} to be delivered")
    run.figure("delivered a second", (count - before) / (time.monotonic() - began))
    sizes = [one.bytes for one in gauge.readings["worker"]]
    run.check(all(sizes), "the worker ended, or can't be measured here")
    early, late = sorted(sizes[: len(sizes) // 5 + 1]), sorted(sizes[-len(sizes) // 5 :])
    growth = (late[len(late) // 2] - early[len(early) // 2]) / MIB
    run.figure("the worker's memory, with its pool", gauge.most_mib("worker"), "MiB", at_most=WORKER_BYTES / MIB)
    run.figure("it grew while it drained by", growth, "MiB", at_most=16)


# --- a great many lanes


@contextmanager
def scripts_timed(run: Run, stage: Stage, at_most: float | None) -> Iterator[None]:
    """Figures of all scripts that hold the store for longer than 10 ms meanwhile, as its slow log tells them.

    Args:
        at_most: how many of a thousand. Whoever shares the machine stops the store now and then; a script that is too
            long is so again and again.
    """
    with redis.Redis.from_url(stage.store.url) as client:
        client.config_set("slowlog-log-slower-than", LONGEST_SCRIPT_MS * 1000)
        client.config_set("slowlog-max-len", 100_000)
        client.slowlog_reset()
        calls = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        yield
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - calls
        slow = [one for one in client.slowlog_get(100_000) if one["command"].startswith(b"EVALSHA")]
    names = {script_sha(name): name for name in SCRIPTS}
    took: dict[str, list[float]] = defaultdict(list)
    for one in slow:
        took[names[one["command"].split()[1]]].append(one["duration"] / 1000)
    for name, each in took.items():
        run.note(f"above {LONGEST_SCRIPT_MS} ms: {name}, {len(each)} times, {max(each):.0f} ms at most")
    run.figure("scripts above 10 ms, of a thousand", 1000 * len(slow) / calls, at_most=at_most)


class Asking(Background):
    """Asks for the status, and the dashboard for its own, again and again; notes how long each took, in seconds."""

    def __init__(self, stage: Stage, dashboard: Dashboard) -> None:
        super().__init__("asking", 0.1)
        self._asked: dict[str, Callable[[], object]] = {"status": stage.sync.status, "dashboard": dashboard.record}
        self.took: dict[str, list[float]] = {name: [] for name in self._asked}

    def step(self) -> None:
        for name, ask in self._asked.items():
            began = time.monotonic()
            ask()
            self.took[name].append(time.monotonic() - began)


@trial()
def hundred_thousand_lanes(run: Run) -> None:
    """A hundred thousand lanes drain; status and dashboard answer at once, and no script holds the store for 10 ms.

    In the short run there are fewer.
    """
    lanes = run.scale(5_000, 100_000)
    with Stage(run) as stage, scripts_timed(run, stage, at_most=1.0):
        stage.upstream.start()
        stage.sync.pause()
        fill(stage, lanes, lanes)
        run.check(stage.sync.status().lanes == lanes, "not all lanes were counted")
        stage.gateway.start("worker", "beat")
        with closing_dashboard(stage) as dashboard, Asking(stage, dashboard) as asking:
            began = time.monotonic()
            stage.sync.resume()
            stage.drain(DRAIN_S)
            run.figure("lanes drained a second", lanes / (time.monotonic() - began))
        for name, took in asking.took.items():
            run.percentile(f"{name} answers in", took, 0.95, "s", at_most=0.5)
        check_arrivals(run, stage, lanes)


@contextmanager
def closing_dashboard(stage: Stage) -> Iterator[Dashboard]:
    dashboard = Dashboard(stage.gateway.environment, stage.folder)
    try:
        yield dashboard.start()
    finally:
        dashboard.end()


# --- a large body


@trial()
def large_body(run: Run) -> None:
    """A body of 64 MiB, the most that may be set, arrives as it was; meanwhile other lanes go on."""
    body = run.chance.randbytes(LARGE_BODY)
    with Stage(run, MAX_BODY_BYTES=str(LARGE_BODY), WORKER_CONCURRENCY="2") as stage:
        stage.upstream.start()
        stage.gateway.start("worker", "beat")
        assert stage.store.process is not None
        pids = {"worker": stage.gateway.processes["worker"].pid, "store": stage.store.process.pid}
        with Gauge(pids, 0.05) as gauge, scripts_timed(run, stage, at_most=None):
            stage.produce("p1", lanes=["a", "b"], every_s=0.02)
            wait_until(lambda: stage.upstream.requests(), 30, "the first small one")
            for _ in range(run.scale(1, 5)):
                send_large(run, stage, body)
            stage.end_producers()
            stage.drain()
        run.figure("the worker's memory, with its pool", gauge.most_mib("worker"), "MiB", at_most=LARGE_WORKER_MIB)
        run.figure("the same, afterwards", gauge.readings["worker"][-1].bytes / MIB, "MiB", at_most=WORKER_BYTES / MIB)
        run.figure("the store's memory", gauge.most_mib("store"), "MiB")
        stage.judge({one["key"] for one in stage.upstream.requests() if one["path"] == "/large"})
        run.percentile("small ones arrive after, meanwhile", small_waits(stage), 0.95, "s", at_most=2.0)


def send_large(run: Run, stage: Stage, body: bytes) -> None:
    """Queue it, and wait until it is gone."""
    began = time.monotonic()
    large = stage.sync.queue("POST", "/large", body=body, lane="large")
    run.figure("accepted after", time.monotonic() - began, "s")
    wait_until(lambda: "large" not in stage.sync.engine.journal.lanes(), 60, "the large one to be delivered")
    run.figure("delivered after", time.monotonic() - began, "s", at_most=30)
    check_body(run, stage, large.id, body)


def check_body(run: Run, stage: Stage, key: str, body: bytes) -> None:
    """It came once, whole."""
    came: list[dict[str, Any]] = [one for one in stage.upstream.requests() if one["key"] == key]
    digests = {hashlib.sha256(base64.b64decode(one["body"])).hexdigest() for one in came}
    run.check(digests == {hashlib.sha256(body).hexdigest()}, "the body isn't what was queued")


def small_waits(stage: Stage) -> list[float]:
    """Seconds from each acceptance of a small one to its first arrival."""
    arrived: dict[str, float] = {}
    for request in stage.upstream.requests():
        arrived.setdefault(request["key"], request["t"])
    return [max(0.0, arrived[name] - at) for name, at in stage.ledger.accepted_at.items()]
