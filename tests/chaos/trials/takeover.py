"""Some of several workers die for good: the others take their lanes over."""

import os
import signal
import time

import redis

from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial, wait_until
from tests.referee import judge

STAYS, SAME_HOST, OTHER_HOST = "worker:stays", "worker:same-host", "worker:other-host"
LANES = [f"lane{n}" for n in range(6)]  # one for each process of the three pools
TAKEN_OVER_WITHIN_S = 15.0
RENEWED_WITHIN_S = 5.0


@trial()
def takeover(run: Run) -> None:
    """All workers but one are killed in mid-request: the one that is left has sent what they held within 15 s.

    On the same host, whose lock files tell that they are dead, and as on another one, with lock files of its own: there
    only a claim's end tells. The worst moment is just after a claim: the short run has that one alone.
    """
    waits: dict[str, list[float]] = {SAME_HOST: [], OTHER_HOST: []}
    accepted: list[tuple[str, str, int]] = []
    with Stage(run) as stage:
        stage.upstream.start()
        stage.gateway.start(STAYS, "beat")
        for turn in range(run.scale(1, 12)):
            seen = len(stage.upstream.requests())
            accepted += let_each_hold_a_lane(stage, turn)
            for role, found in lose_workers(run, stage, seen).items():
                waits[role] += found
        stage.drain()
        verdict = judge(accepted, stage.upstream.requests())
        run.check(verdict.ok, str(verdict))
        stage.check_counts()
    for role, found in waits.items():
        run.check(found, f"{role} held no lane")
        where = role.removeprefix("worker:").replace("-", " ")
        figure = f"takeover from the {where}, the longest of {len(found)}"
        run.figure(figure, max(found), "s", at_most=TAKEN_OVER_WITHIN_S)


def let_each_hold_a_lane(stage: Stage, turn: int) -> list[tuple[str, str, int]]:
    """Start three workers, and let each of their processes wait for an answer; what was accepted."""
    stage.gateway.start(SAME_HOST)
    stage.gateway.start(OTHER_HOST, FLUXY_SYNC_DATA_DIR=str(stage.folder / "elsewhere"))
    seen, accepted = len(stage.upstream.requests()), []
    for lane in LANES:
        stage.upstream.script(f"/{lane}", ["stall"])
        operation = stage.sync.queue("POST", f"/{lane}", body={"lane": lane, "n": turn}, lane=lane)
        accepted.append((operation.id, lane, turn))
    wait_until(lambda: len(stage.upstream.requests()) == seen + len(LANES), 30.0, "each process sends")
    return accepted


def lose_workers(run: Run, stage: Stage, seen: int) -> dict[str, list[float]]:
    """Kill two of the three; by worker, the seconds until each of its lanes' operations was sent again."""
    held = {role: lanes_of(stage, role) for role in (SAME_HOST, OTHER_HOST)}
    settle_down(run.chance.choice((0.0, run.chance.uniform(0.0, RENEWED_WITHIN_S))) if run.full else 0.0)
    killed = time.time()
    for role in held:
        process = stage.gateway.processes.pop(role)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    stage.upstream.release(201)
    lost = {lane for lanes in held.values() for lane in lanes}
    wait_until(lambda: lost <= set(sent_again(stage, seen)), 60.0, "all lanes are taken over")
    again = sent_again(stage, seen)
    return {role: [again[lane] - killed for lane in lanes] for role, lanes in held.items()}


def lanes_of(stage: Stage, role: str) -> list[str]:
    """The lanes that the processes of a worker hold now."""
    group = stage.gateway.processes[role].pid
    with redis.Redis.from_url(stage.store.url, decode_responses=True) as client:
        claims = client.hgetall(f"{{{stage.namespace}}}:claims")
    return [lane for lane, claim in claims.items() if os.getpgid(int(claim.rpartition(" ")[2])) == group]


def sent_again(stage: Stage, seen: int) -> dict[str, float]:
    """Lane -> when its operation came for the second time, of those that were sent after the first ``seen``."""
    first: set[str] = set()
    again: dict[str, float] = {}
    for request in stage.upstream.requests()[seen:]:
        lane = request["path"][1:]
        if lane in first:
            again.setdefault(lane, request["t"])
        first.add(lane)
    return again
