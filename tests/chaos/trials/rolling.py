"""Workers that end in order, one after another and all at once, under load: as in each update."""

import time

from fluxy_sync.gateway import WORKER_GRACE_S
from tests.chaos.stage import Stage
from tests.chaos.trial import Run, trial, wait_until

WORKERS = ("worker:one", "worker:two")
SLOW_S = 1.0  # within the stop timeout: the answer is waited for
LANES = [f"lane{n}" for n in range(6)]


@trial()
def rolling_restart(run: Run) -> None:
    """All workers get SIGTERM under load, one after another and at once, again and again: nothing is sent twice.

    Every operation is sent exactly once, in order, without a retry: who ends in order finishes what he sends and gives
    back the rest. The answers come within the stop timeout (here 0.02 to 1 s, of 35 s); each worker ends within it.
    """
    took: list[float] = []
    with Stage(run) as stage:
        stage.upstream.start()
        stage.upstream.default({"status": 201, "delay_s": 0.02})
        stage.gateway.start(*WORKERS, "beat")
        for n in range(2):
            stage.produce(f"p{n}", LANES[n::2], every_s=0.06)
        for turn in range(run.scale(2, 60)):
            for roles in [WORKERS] if turn % 2 else [WORKERS[:1], WORKERS[1:]]:
                wait_for_a_slow_request(run, stage)
                took += end_in_order(run, stage, roles)
                start_again(stage, roles)
        stage.end_producers()
        stage.drain()
        verdict = stage.judge()
        run.figure("sent twice", verdict.repeats, at_most=0)
        retries = sum(request["attempt"] != 1 for request in stage.upstream.requests())
        run.figure("retries", retries, at_most=0)
    run.figure("workers ended in order", len(took))
    run.figure("the longest took to end", max(took), "s", at_most=WORKER_GRACE_S)


def wait_for_a_slow_request(run: Run, stage: Stage) -> None:
    """Let one lane's next answer take long, and wait until it is waited for: the end comes in mid-request."""
    lane, seen = run.chance.choice(LANES), len(stage.upstream.requests())
    stage.upstream.script(f"/{lane}", [{"status": 201, "delay_s": SLOW_S}])
    wait_until(
        lambda: any(request["path"] == f"/{lane}" for request in stage.upstream.requests()[seen:]),
        30.0,
        "a slow request",
    )


def end_in_order(run: Run, stage: Stage, roles: tuple[str, ...]) -> list[float]:
    """SIGTERM to each of these; the seconds after which they had ended."""
    began, took = time.monotonic(), []
    processes = [stage.gateway.processes.pop(role) for role in roles]
    for process in processes:
        process.terminate()
    for process in processes:
        code = process.wait(WORKER_GRACE_S + 5.0)
        run.check(code == 0, f"a worker ended with {code}")
        took.append(time.monotonic() - began)
    return took


def start_again(stage: Stage, roles: tuple[str, ...]) -> None:
    """Start them, and wait until each consumes: its log tells of its earlier lives, too."""
    before = {role: stage.gateway.log(role).count(" ready.") for role in roles}
    stage.gateway.start(*roles, wait=False)
    wait_until(
        lambda: all(stage.gateway.log(role).count(" ready.") > count for role, count in before.items()),
        30.0,
        "the workers",
    )
