"""One measurement: fill a fresh store while no worker runs, weigh it, start the workers, time the drain."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.http_server import HttpServer
from benchmarks.process import BenchmarkError, running, wait_until
from benchmarks.store import Store, store

NAMESPACE = "bench"
PRODUCE_TIMEOUT_S = 300.0
START_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 30.0
SLOWEST_PER_S = 20.0  # a drain below this rate is given up
QUIET = ["--without-mingle", "--without-gossip", "-l", "WARNING"]

Process = subprocess.Popen[bytes]


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is queued, and how: ``shape`` is one of produce.py's."""

    name: str
    shape: str
    operations: int
    lanes: int = 1
    quiet: bool = False  # without task events


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one measurement gave. ``writes_per_s``: plain SETs, one after another, on the same store."""

    writes_per_s: float
    enqueued_per_s: float
    bytes_per_operation: float
    drained_per_s: float


def measure(workload: Workload, server: HttpServer, home: Path) -> Figures:
    """Run one workload on a store of its own under ``home``.

    Raises:
        BenchmarkError: a process failed, or something took too long; the message ends with its log.
    """
    with store(home) as running_store:
        env = environment(running_store, server, home) | {"FLUXY_SYNC_TASK_EVENTS": str(not workload.quiet)}
        writes_per_s = running_store.writes_per_s()
        empty = running_store.memory()
        enqueued_per_s = produced(workload, env)
        weight = running_store.memory() - empty
        drained_per_s = drained(workload, server, env, home)
    return Figures(writes_per_s, enqueued_per_s, weight / workload.operations, drained_per_s)


def environment(running_store: Store, server: HttpServer, home: Path) -> dict[str, str]:
    """The settings of both sides."""
    from fluxy_sync.vault import new_key

    return {
        "BENCH_REDIS_URL": running_store.url,
        "BENCH_UPSTREAM": server.url,
        "FLUXY_SYNC_REDIS_URL": running_store.url,
        "FLUXY_SYNC_UPSTREAM": server.url,
        "FLUXY_SYNC_KEYS": new_key(),
        "FLUXY_SYNC_NAMESPACE": NAMESPACE,
        "FLUXY_SYNC_NODE": "bench",
        "FLUXY_SYNC_DATA_DIR": str(home / "data"),
    }


def produced(workload: Workload, env: dict[str, str]) -> float:
    """Queue it all from one process; return the rate."""
    command = [sys.executable, "-m", "benchmarks.produce", workload.shape]
    command += [str(workload.operations), str(workload.lanes)]
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PRODUCE_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"queueing failed ({workload.name}):\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    return report["timed"] / report["seconds"] if report["timed"] else 0.0


def drained(workload: Workload, server: HttpServer, env: dict[str, str], home: Path) -> float:
    """Start the workers; the rate from the first to the last request, by the server's clock."""
    server.forget()
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(running(command, home / f"worker-{number}.log", env, tell=True))
            for number, command in enumerate(worker_commands(workload))
        ]
        await_arrivals(1, workload, server, workers, START_TIMEOUT_S)
        timeout_s = DRAIN_TIMEOUT_S + workload.operations / SLOWEST_PER_S
        await_arrivals(workload.operations, workload, server, workers, timeout_s)
    return rate(server.arrivals(), workload)


def await_arrivals(
    count: int, workload: Workload, server: HttpServer, workers: Sequence[Process], timeout_s: float
) -> None:
    """Wait for so many requests.

    Raises:
        BenchmarkError: they didn't come in time, or a worker ended.
    """

    def arrived() -> bool:
        if any(worker.poll() is not None for worker in workers):
            raise BenchmarkError(f"a worker ended by itself ({workload.name})")
        return server.count() >= count

    wait_until(arrived, f"{count} requests ({workload.name})", timeout_s)


def rate(arrivals: list[float], workload: Workload) -> float:
    """Requests per second between the first and the last one.

    Raises:
        BenchmarkError: something was sent twice, so that the figure would be wrong.
    """
    if len(arrivals) != workload.operations:
        raise BenchmarkError(f"{len(arrivals)} requests for {workload.operations} operations ({workload.name})")
    return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], 0.001)


def worker_commands(workload: Workload) -> list[list[str]]:
    """A prefork worker of two processes; ours has its beat beside it."""
    celery = [sys.executable, "-m", "celery"]
    if workload.shape == "plain":
        return [[*celery, "-A", "benchmarks.plain_celery", "worker", "-n", "plain@bench", "-c", "2", *QUIET]]
    ours = [*celery, "-A", "fluxy_sync.app"]
    queues = f"{NAMESPACE}.sync,{NAMESPACE}.tasks"
    return [
        [*ours, "worker", "-n", "sync@bench", "-Q", queues, "-c", "2", *QUIET],
        [*ours, "beat", "-l", "WARNING", "--pidfile="],
    ]
