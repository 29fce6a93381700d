"""``python -m benchmarks.fairness``: what one lane that fails for ever costs the others.

A producer queues at a steady rate over a thousand lanes; the latency of each operation counts from before its call to
its arrival at the upstream. Rounds with and without the failing lane alternate, on one store, one worker and one clock.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from benchmarks.measure import Workload, worker_commands
from benchmarks.process import free_port, running, wait_until
from benchmarks.store import store
from fluxy_sync import FluxySync, RetryPolicy
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key

BOUND = 1.10
FAILING = "/fails"
EACH_SECOND = RetryPolicy(max_retries=100_000, base_s=1, factor=1, cap_s=1)  # harsher than the default's backoff
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
START_TIMEOUT_S, LANDING_TIMEOUT_S = 60.0, 60.0


class Upstream(threading.Thread):
    """A server in this process, so that one clock takes both times. It fails one path."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.port = free_port()
        self.arrived: dict[str, float] = {}
        self.failures = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                self.failures += path == FAILING
                self.arrived.setdefault(path, time.monotonic())
                writer.write(FAILED if path == FAILING else CREATED)


class Load:
    """A producer at a steady rate."""

    def __init__(self, sync: FluxySync, upstream: Upstream, lanes: int, rate: float) -> None:
        self._sync, self._upstream, self._lanes, self._rate = sync, upstream, lanes, rate
        self._sent = 0

    def round(self, seconds: float) -> float:
        """Queue for so long, wait until all has arrived; the 95th percentile of the latencies, in milliseconds."""
        queued, began = {}, time.monotonic()
        while time.monotonic() - began < seconds:
            path = f"/{self._sent}"
            queued[path] = time.monotonic()
            self._sync.queue("POST", path, lane=f"lane-{self._sent % self._lanes}")
            self._sent += 1
            time.sleep(max(0.0, began + len(queued) / self._rate - time.monotonic()))
        wait_until(lambda: queued.keys() <= self._upstream.arrived.keys(), "the last arrival", LANDING_TIMEOUT_S)
        latencies = [self._upstream.arrived[path] - at for path, at in queued.items()]
        return statistics.quantiles(latencies, n=20)[-1] * 1000


@contextlib.contextmanager
def gateway(home: Path, upstream: Upstream) -> Iterator[FluxySync]:
    """A store, a worker and beat, and a client of them."""
    with store(home / "store") as running_store, contextlib.ExitStack() as stack:
        settings = {
            "redis_url": running_store.url, "upstream": f"http://127.0.0.1:{upstream.port}", "keys": new_key(),
            "namespace": "bench", "node": "bench", "data_dir": str(home / "data"),
        }  # fmt: skip
        environment = {f"FLUXY_SYNC_{name.upper()}": value for name, value in settings.items()}
        for number, command in enumerate(worker_commands(Workload("fair", "queue", 0))):
            stack.enter_context(running(command, home / f"{number}.log", environment, tell=True))
        sync = FluxySync(Settings(**settings))
        first = sync.queue("POST", "/first")
        wait_until(lambda: first.state == "gone", "the first delivery", START_TIMEOUT_S)
        yield sync


def compare(sync: FluxySync, load: Load, rounds: int, seconds: float, progress: Console) -> tuple[float, float]:
    """The medians of the rounds without and with the failing lane, in milliseconds."""
    load.round(seconds)  # warms up
    without, with_it = [], []
    for number in range(rounds):
        without.append(load.round(seconds))
        failing = sync.queue("POST", FAILING, lane="fails", policy=EACH_SECOND)
        wait_until(lambda failing=failing: failing.state == "retrying", "the first failure", START_TIMEOUT_S)
        with_it.append(load.round(seconds))
        wait_until(failing.cancel, "the failing lane's end", START_TIMEOUT_S)
        progress.print(
            f"round {number + 1}: p95 {without[-1]:.1f} ms without, {with_it[-1]:.1f} ms with the failing lane"
        )
    return statistics.median(without), statistics.median(with_it)


@click.command(context_settings={"max_content_width": 100})
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=5.0, show_default=True, help="Of each half of a round.")
@click.option("--lanes", type=click.IntRange(1), default=999, show_default=True, help="That don't fail.")
@click.option("--rate", type=click.FloatRange(1), default=200.0, show_default=True, help="Operations a second.")
@click.option("--strict", is_flag=True, help="Exit with 1 if the target is missed.")
def main(rounds: int, seconds: float, lanes: int, rate: float, strict: bool) -> None:
    """Measure what one lane that fails for ever costs the others: their p95 latency, with and without it."""
    progress, upstream = Console(stderr=True), Upstream()
    upstream.start()
    with (
        tempfile.TemporaryDirectory(prefix="fluxy-bench-", ignore_cleanup_errors=True) as home,
        gateway(Path(home), upstream) as sync,
    ):
        without, with_it = compare(sync, Load(sync, upstream, lanes, rate), rounds, seconds, progress)
    ratio, verdict = with_it / without, "met" if with_it / without < BOUND else "missed"
    Console().print(f"{lanes} lanes at {rate:g} operations/s, medians of {rounds} rounds:")
    Console().print(f"p95 {without:.1f} ms alone, {with_it:.1f} ms beside a lane that failed {upstream.failures} times")
    Console().print(f"ratio {ratio:.2f}, bound {BOUND:g}: {verdict}")
    if strict and ratio >= BOUND:
        sys.exit(1)


if __name__ == "__main__":
    main()
