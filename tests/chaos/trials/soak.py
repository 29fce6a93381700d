"""Twenty minutes of steady work with a link that comes and goes: nothing grows."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from statistics import median

from tests.chaos.background import Background
from tests.chaos.gauge import MIB, Gauge, Reading, family
from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial
from tests.dashboard import Dashboard

SHORT_S, FULL_S = 240.0, 1200.0
EVERY_S = 0.03  # between two operations of one producer, of three
ERRORS = (503, 500, 429, "reset", "drop", "answer_then_drop", {"status": 201, "delay_s": 0.3})
GROWTH, GROWTH_MIB = 0.10, 4.0  # the greater of the two; 4 MiB are 10,000 remembered ids, and the allocator's leisure
MORE_FILES = 5  # connections that are made when something is done for the first time, e.g. a broadcast


class Visitor(Background):
    """Looks at the status and the dashboard, and at the beginning of its stream, again and again."""

    def __init__(self, stage: Stage, dashboard: Dashboard) -> None:
        super().__init__("visitor", 0.5)
        self._stage, self._dashboard = stage, dashboard

    def step(self) -> None:
        self._stage.sync.status()
        for path in ("/api/sync", "/sync", "/metrics"):
            self._dashboard.get(path)
        with self._dashboard.events() as events:
            events.block()


@trial(short=False)
def soak(run: Run) -> None:
    """Twenty minutes of work while the link comes and goes and the server fails: memory and open files stay flat.

    Each process alone: from the second fifth of the time to the last one, its resident memory may grow by a tenth, or
    4 MiB. By its name alone, without FULL, it takes four minutes.
    """
    lasts_s = run.scale(SHORT_S, FULL_S)
    with Stage(run) as stage, ExitStack() as ends:
        ends.callback(stage.gateway.close)
        stage.upstream.start()
        stage.gateway.start("worker", "beat")
        dashboard = Dashboard(stage.gateway.environment, stage.folder).start()
        ends.callback(dashboard.end)
        for name in ("p1", "p2", "p3"):
            stage.produce(name, lanes=[f"{name}-{n}" for n in range(5)], every_s=EVERY_S)
        with Gauge(processes(stage, dashboard), 1.0, families=False) as gauge, Visitor(stage, dashboard):
            trouble(run, stage, time.monotonic() + lasts_s)
        stage.end_producers()
        stage.drain()
        stage.judge()
        (stage.folder / "readings.json").write_text(json.dumps(gauge.readings))
        for name, readings in gauge.readings.items():
            judge_growth(run, name, readings)


def processes(stage: Stage, dashboard: Dashboard) -> dict[str, int]:
    """Each process of the gateway by a name."""
    assert stage.store.process is not None
    assert dashboard.process is not None
    parent, *pool = family(stage.gateway.processes["worker"].pid)
    return {
        "worker": parent, **{f"pool {n}": pid for n, pid in enumerate(pool, start=1)},
        "beat": stage.gateway.processes["beat"].pid, "dashboard": dashboard.process.pid,
        "store": stage.store.process.pid,
    }  # fmt: skip


def trouble(run: Run, stage: Stage, until: float) -> None:
    """Errors now and then; the link is away for a moment, again and again; a person pauses and goes on."""
    for turn in count():
        for lane in run.chance.sample([f"/p{p}-{n}" for p in (1, 2, 3) for n in range(5)], 5):
            stage.upstream.script(lane, [run.chance.choice(ERRORS)])
        settle_down(run.chance.uniform(2, 8))
        if turn % 2:
            stage.upstream.stop()
            settle_down(run.chance.uniform(0.5, 4))
            stage.upstream.start()
        if turn % 5 == 4:
            stage.sync.pause()
            settle_down(1)
            stage.sync.resume()
        if time.monotonic() > until:
            return


def judge_growth(run: Run, name: str, readings: Sequence[Reading]) -> None:
    """Compare the medians of the second and the last fifth."""
    run.check(all(one.resident for one in readings), f"{name} ended, or can't be measured here")
    fifth = len(readings) // 5
    early, late = readings[fifth : 2 * fifth], readings[-fifth:]
    before, after = (median(one.resident for one in part) / MIB for part in (early, late))
    run.figure(f"{name}: memory", after, "MiB")
    run.figure(f"{name}: memory grew by", after - before, "MiB", at_most=max(GROWTH * before, GROWTH_MIB))
    files = [median(one.files for one in part) for part in (early, late)]
    run.figure(f"{name}: open files grew by", files[1] - files[0], at_most=MORE_FILES)
