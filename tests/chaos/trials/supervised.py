"""``fluxy-sync up`` and all that it starts, killed at random; nobody helps but whoever starts ``up`` again."""

import random
from collections import Counter

import psutil

from tests.chaos.operator import check_dashboard
from tests.chaos.processes import each, lives
from tests.chaos.stage import settle_down
from tests.chaos.supervised import Supervised
from tests.chaos.trial import Run, trial, wait_until

LANES = {"p1": ("1a", "1b"), "p2": ("2a", "2b")}
SUPERVISOR = "supervisor"
SUPERVISOR_AND_GUARD = "supervisor and guard"
VICTIMS = ("store", "worker", "child", "beat", "dashboard", "guard", SUPERVISOR)
ALIVE_S = 60.0


@trial()
def supervised(run: Run) -> None:
    """The supervisor, its guard and all of its processes die by kill -9, one by one: nothing lost, nobody needed.

    Only the supervisor is started again from outside, as systemd would; its guard dies with it now and then.
    """
    struck: Counter[str] = Counter()
    with Supervised(run) as stage:
        stage.upstream.start()
        stage.upstream.default({"status": 201, "delay_s": 0.02})
        stage.start()
        for name, lanes in LANES.items():
            stage.produce(name, lanes, every_s=0.05)
        for victim in victims(run):
            strike(stage, victim, run.chance)
            struck[victim] += 1
            check_alive(stage)
            settle_down(run.chance.uniform(0.0, 0.3))
        stage.end_producers()
        stage.drain()
        stage.judge()
        check_dashboard(run, stage, stage.read_dashboard)
    run.note(f"struck: {', '.join(f'{n} x {name}' for name, n in sorted(struck.items()))}")
    run.figure("kills", struck.total())


def victims(run: Run) -> list[str]:
    """Each once in a short run; in a full one by chance, and supervisor and guard together now and then."""
    if run.full:
        return run.chance.choices((*VICTIMS, SUPERVISOR_AND_GUARD), k=120)
    return run.chance.sample(VICTIMS, len(VICTIMS))


def strike(stage: Supervised, victim: str, chance: random.Random) -> None:
    """Kill it; start again what nobody else does."""
    if victim not in (SUPERVISOR, SUPERVISOR_AND_GUARD):
        targets = stage.pool() if victim == "child" else [wait_until(lambda: stage.part(victim), 20.0, f"the {victim}")]
        each([chance.choice(targets)] if targets else [], "kill")
        return
    family = psutil.Process(stage.process.pid).children(recursive=True) if stage.process else []
    guard = stage.part("guard")
    stage.kill()
    if victim == SUPERVISOR_AND_GUARD and guard is not None:
        each([guard], "kill")
    stage.start()
    wait_until(lambda: not any(map(lives, family)), ALIVE_S, "nothing is left of the gateway that was killed")


def check_alive(stage: Supervised) -> None:
    """Whatever was killed: something arrives."""
    seen = len(stage.upstream.requests())
    wait_until(lambda: len(stage.upstream.requests()) > seen, ALIVE_S, "anything arrives")
