"""How soon it goes on: after everything was killed, and after the link is back."""

import os
import signal
import time
from collections import defaultdict

from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial, wait_until

RESTART_S = 2.0
LINK_BACK_S = 1.5
P95 = 0.95
LANES = ("a", "b", "c", "d")


def note_load(run: Run) -> None:
    """A machine that has other work to do is slower."""
    run.figure("load of the machine, 1 minute", round(os.getloadavg()[0], 1))


@trial()
def restart(run: Run) -> None:
    """After kill -9 of everything, the first request leaves within 2 s of the worker's start, whatever was in flight.

    Twice: with the store killed, too, and without. All pool processes have an operation in flight when they are
    killed; their claims, of 14 s, aren't waited for. The clock runs from the worker's exec, with beat started at the
    same time, to the request's arrival. Default settings, two pool processes.
    """
    took: dict[str, list[float]] = defaultdict(list)
    with Stage(run) as stage:
        stage.upstream.start()
        note_load(run)
        for n in range(run.scale(3, 110)):
            for what in ("everything", "all but the store"):
                took[what].append(restart_once(run, stage, what, n))
        stage.produce("p", LANES, count=1)  # the judge wants a ledger
        stage.end_producers()
        stage.drain()
        note_load(run)
        for what, values in took.items():
            run.percentile(f"from the worker's start to the first request, {what} killed", values, P95, "s", RESTART_S)
        run.check(not list(stage.sync.dead_letters()), "an operation died")


def restart_once(run: Run, stage: Stage, what: str, n: int) -> float:
    """Kill it all while operations are in flight, start it again; seconds to the first request."""
    if "worker:one" not in stage.gateway.processes:
        stage.gateway.start("worker:one", "beat")
    stage.upstream.default("stall")
    stage.sync.queue_many([{"method": "POST", "path": f"/{lane}", "body": n, "lane": lane} for lane in LANES])
    wait_until(lambda: (s := stage.snapshot()) and s.syncing == 2, 30, "both processes to be busy")
    settle_down(run.chance.uniform(0.0, 0.3))
    for role in ("worker:one", "beat"):
        os.killpg(stage.gateway.processes[role].pid, signal.SIGKILL)
        stage.gateway.processes.pop(role).wait()
    if what == "everything":
        stage.restart_store()
    stage.upstream.release()
    stage.upstream.default(201)
    arrived = len(stage.upstream.requests())
    began = time.time()
    stage.gateway.start("worker:one", "beat", wait=False)
    wait_until(lambda: len(stage.upstream.requests()) > arrived, 60, "the first request")
    took = stage.upstream.requests()[arrived]["t"] - began
    stage.drain()
    return float(took)


@trial()
def link_back(run: Run) -> None:
    """When the link is back, the first delivery is there within 1.5 s, however the link was gone, and however long.

    Default settings, one worker. ``refused``: nobody listened. ``silent``: nothing came back. ``half open``: the same,
    and the connections of before lead nowhere: both processes and the probe had one.
    """
    took: dict[str, list[float]] = defaultdict(list)
    with Stage(run) as stage, Proxy(stage.upstream.port, run.seed) as proxy:
        stage.gateway.environment["FLUXY_SYNC_UPSTREAM"] = proxy.url
        stage.upstream.start()
        stage.gateway.start("worker:one", "beat")
        note_load(run)
        for _ in range(run.scale(2, 100)):
            for how in ("refused", "silent", "half open"):
                took[how].append(return_once(run, stage, proxy, how))
        note_load(run)
        for how, values in took.items():
            run.percentile(f"from the link's return to the first delivery, {how}", values, P95, "s", LINK_BACK_S)


def return_once(run: Run, stage: Stage, proxy: Proxy, how: str) -> float:
    """Lose the link until that is known, get it back; seconds to the first delivery."""
    connect_all(stage)
    if how == "half open":
        proxy.set("silent")
        proxy.forget()
        stage.sync.engine.journal.close_gate("offline", "read-timeout")  # the probes would need 15 s to find out
        stage.sync.queue("POST", "/a", body=0, lane="a")
    else:
        proxy.set("refused")
        stage.sync.queue("POST", "/a", body=0, lane="a")
        wait_until(lambda: (s := stage.snapshot()) and s.gate == "offline", 30, "the loss to be noticed")
        proxy.set(how)
    settle_down(run.chance.uniform(1.0, 4.0))
    arrived = len(stage.upstream.requests())
    back = time.time()
    proxy.set()
    wait_until(lambda: len(stage.upstream.requests()) > arrived, 60, "the first delivery")
    took = stage.upstream.requests()[arrived]["t"] - back
    stage.drain()
    return float(took)


def connect_all(stage: Stage) -> None:
    """Deliver by both processes, so that both have a connection that is kept."""
    stage.upstream.default({"delay_s": 0.2})
    stage.sync.queue_many([{"method": "POST", "path": f"/{lane}", "body": 0, "lane": lane} for lane in LANES])
    stage.drain()
    stage.upstream.default(201)
