"""Wall clocks that are wrong, leap and waver: the store's, everybody else's, and both."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from fluxy_sync.operation import new_operation_id
from tests.chaos.background import Background
from tests.chaos.clock import TEN_YEARS_S, ClockedStage, since_1970
from tests.chaos.stage import settle_down
from tests.chaos.trial import Run, trial
from tests.dashboard import Dashboard
from tests.referee import operation_id

ANSWER_S, SLOW_ANSWER_S = 0.02, 6.0  # the second is longer than a claim lasts that the clock leaps over
COUNTDOWNS_S = (3.0, 6.0, 9.0)
IN_TIME = timedelta(days=1)  # a date by which all is sent; but for years it has passed, by what the clocks say
EXPIRES_S = 40.0  # of what waits for the longest of them
LANES = {"p1": ["p1-0", "p1-1", "p1-2"], "p2": ["p2-0", "p2-1", "p2-2"]}
PROMPTLY_S = 3.0
FLOWER_S = 1.0  # so often Flower saves what it has heard


class Canary(Background):
    """Queues an operation now and then, at any moment of any leap: each must be sent soon."""

    def __init__(self, stage: ClockedStage) -> None:
        super().__init__("canary", 0.25)
        self._stage = stage
        self.queued_at: dict[str, float] = {}

    def step(self) -> None:
        name = new_operation_id()
        self.queued_at[name] = time.monotonic()
        self._stage.sync.queue("POST", "/canary", body={}, lane=None, id=name)


class Gaps:
    """The longest time in which something that changes again and again stayed as it was."""

    def __init__(self) -> None:
        self._since, self._seen = time.monotonic(), object()
        self.longest_s = 0.0

    def look(self, seen: object) -> None:
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - self._since)
        if seen != self._seen:
            self._since, self._seen = now, seen


class Observer(Background):
    """Looks at beat's ticks, at what Flower's timers do, and at the ages that the dashboard shows."""

    def __init__(self, stage: ClockedStage, dashboard: Dashboard, client: "redis.Redis") -> None:
        super().__init__("observer", 0.05)
        self._pulse = f"{{{stage.namespace}}}:pulse"
        self._dashboard, self._client = dashboard, client
        self._began = time.monotonic()
        self.beat, self.flower = Gaps(), Gaps()
        self.records: list[tuple[float, dict[str, Any]]] = []  # seconds since the beginning, and what was shown then

    def step(self) -> None:
        self.beat.look(self._client.hget(self._pulse, "beat"))
        self.flower.look([path.stat().st_ino for path in self._dashboard.folder.glob("flower.dat")])
        self.records.append((time.monotonic() - self._began, self._dashboard.record()))


@contextmanager
def running(stage: ClockedStage) -> Iterator[tuple[Canary, Observer]]:
    """All processes of a gateway by their own clock, and somebody who looks on."""
    soon, slow = ({"status": 201, "delay_s": delay_s} for delay_s in (ANSWER_S, SLOW_ANSWER_S))
    stage.upstream.start()
    stage.upstream.default(soon)
    stage.upstream.script("/slow", [slow] * 1000)
    stage.upstream.script("/p1-0", [*[soon] * 20, 503, *[soon] * 60, 503, 503])
    stage.start("worker:one", "worker:two", "beat")
    dashboard = Dashboard(stage.gateway.environment, stage.folder)
    saves = [f"--db={stage.folder / 'flower'}", "--persistent=true", f"--state_save_interval={FLOWER_S * 1000:.0f}"]
    try:
        dashboard.start(*saves, **stage.clock.environment)
        with (
            redis.Redis.from_url(stage.store.url) as client,
            Canary(stage) as canary,
            Observer(stage, dashboard, client) as observer,
        ):
            yield canary, observer
    finally:
        dashboard.end()


def leap_about(run: Run, stage: ClockedStage) -> None:
    """Years forth and back, for one of the clocks or both; a second forth and back; many leaps within one claim."""
    store, others = stage.clocks
    leaps = [(clocks, sign * TEN_YEARS_S) for clocks in ((store,), (others,), (store, others)) for sign in (1, -1)]
    run.chance.shuffle(leaps)
    for clocks, ahead_s in leaps:
        for clock in clocks:
            clock.set(ahead_s)
        settle_down(run.chance.uniform(0.3, 0.6))
    for ahead_s in (1.0, -1.0) * 3:
        for clock in stage.clocks:
            clock.set(ahead_s)
        settle_down(0.5)
    for _ in range(16):
        store.set(run.chance.choice((-1, 1)) * run.chance.choice((3.0, 3600.0, TEN_YEARS_S)))
        settle_down(0.25)
    for clock in stage.clocks:
        clock.set(0.0)


@trial()
def clocks(run: Run) -> None:
    """Whatever the clocks do, order and pauses hold, no claim is doubled, nothing expires or sleeps; beat ticks on.

    All of a gateway begins in 1970, and gets the right time while it works. Then the store's clock, everybody else's,
    or both leap by ten years, forth and back, waver by a second, and leap again and again within one claim.
    """
    with ClockedStage(run, since_1970(), WORKER_CONCURRENCY="4") as stage, running(stage) as (canary, observer):
        stage.check_clocks(run)
        own = queue_what_waits(stage)
        for name, lanes in LANES.items():
            stage.produce(name, lanes=lanes, every_s=0.05, deadline=datetime.now(UTC) + IN_TIME)
        settle_down(1.5)
        for clock in stage.clocks:
            clock.set(0.0)  # the network's time arrives
        for again in range(run.scale(1, 20)):
            own |= queue_what_waits(stage) if again else {}
            leap_about(run, stage)
        stage.end_producers()
        canary.finish()
        stage.drain()
        observer.finish()
        check_all(run, stage, own, canary, observer)


def queue_what_waits(stage: ClockedStage) -> dict[str, tuple[float, float]]:
    """Operations that need long, wait for their time, or would expire: when each was queued, and its countdown."""
    queued: dict[str, tuple[float, float]] = {}
    for lane in ("slow-0", "slow-1", "slow-2") * 2:
        one = stage.sync.queue("POST", f"/{lane}", body={}, lane=lane)
        queued[one.id] = (time.monotonic(), 0.0)
    for countdown in COUNTDOWNS_S:
        queued_at = time.monotonic()
        one = stage.sync.queue("POST", "/later", body={}, lane=None, countdown=countdown, expires=EXPIRES_S)
        queued[one.id] = (queued_at, countdown)
    return queued


def check_all(
    run: Run, stage: ClockedStage, own: dict[str, tuple[float, float]], canary: Canary, observer: Observer
) -> None:
    """What must hold in the end."""
    stage.judge({*own, *canary.queued_at})
    requests = stage.upstream.requests()
    arrived: dict[str, list[float]] = defaultdict(list)
    for request in requests:
        arrived[operation_id(request["key"])].append(request["mono"])
    missing = [name for name in (*own, *canary.queued_at) if name not in arrived]
    run.figure("expired, or never sent", len(missing) + len(list(stage.sync.dead_letters())), at_most=0)
    run.figure("requests of one lane at once", doubled(requests), at_most=0)
    waits = [arrived[name][0] - queued_at - countdown for name, (queued_at, countdown) in own.items() if countdown]
    run.figure("a countdown ends too early by at most", max(0.0, -min(waits)), "s", at_most=0.1)
    run.figure("a countdown ends too late by at most", max(0.0, *waits), "s", at_most=PROMPTLY_S)
    soon = [arrived[name][0] - queued_at for name, queued_at in canary.queued_at.items()]
    run.percentile("queued at any moment, sent after", soon, 1.0, "s", at_most=PROMPTLY_S)
    run.percentile("a refused one is sent again after", list(pauses(requests)), 1.0, "s", at_most=2.0 + PROMPTLY_S)
    run.figure("longest time between two ticks of beat", observer.beat.longest_s, "s", at_most=PROMPTLY_S)
    longest_s = FLOWER_S + PROMPTLY_S
    run.figure("longest time between two ticks of Flower's timer", observer.flower.longest_s, "s", at_most=longest_s)
    off = [(record["oldest_age_s"] or 0.0) - at for at, record in observer.records]
    run.check(len(off) > 5, "the dashboard was not asked")
    run.figure("an age that is shown is too high by at most", max(0.0, *off), "s", at_most=5.0)
    run.check(not any(record["stale"] for _, record in observer.records), "the dashboard showed what it had as stale")


def doubled(requests: Sequence[dict[str, Any]]) -> int:
    """Requests that came while an earlier one of their lane was still unanswered, or with an older claim's fence."""
    count = 0
    until: dict[str, float] = {}
    fences: dict[str, int] = {}
    for request in requests:
        number, _, scope = request["fence"].partition(";")  # the scope is one lane's
        slow = request["path"].startswith("/slow")
        answered = 0.0 if request["status"] == 503 else SLOW_ANSWER_S if slow else ANSWER_S
        at_once = request["mono"] < until.get(scope, 0.0) - 0.001
        count += at_once or int(number) < fences.get(scope, 0)
        until[scope], fences[scope] = request["mono"] + answered, int(number)
    return count


def pauses(requests: Sequence[dict[str, Any]]) -> Iterator[float]:
    """Seconds from each refusal to the next try."""
    refused: dict[str, float] = {}
    for request in requests:
        if request["key"] in refused:
            yield request["mono"] - refused.pop(request["key"])
        if request["status"] == 503:
            refused[request["key"]] = request["mono"]
