"""``python -m benchmarks.holds``: how long one call holds the store, on a lane of a million operations.

The store itself measures, without the wire: its statistics give the mean, SLOWLOG the longest call. Only what takes
LOGGED_MS or more is logged: a log of each command that scripts run grows so large that giving its memory back shows up
in the next script's time.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.store import store
from fluxy_sync.engine import Engine
from fluxy_sync.journal import Inventory, Journal, NewRecord
from fluxy_sync.maintenance import Maintenance
from fluxy_sync.operation import JsonBody, Operation
from fluxy_sync.rotation import Rotation
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key

BOUND_MS = 10.0
LOGGED_MS = 0.5
LANE = "long"
BATCH = 1000
RING = "ring"


@dataclasses.dataclass(frozen=True)
class Held:
    """One action: its calls, and their times in milliseconds."""

    action: str
    calls: int
    mean_ms: float
    longest_ms: float  # LOGGED_MS where none took so long


class Bench:
    """A journal with one long lane."""

    def __init__(self, url: str, home: Path, operations: int) -> None:
        self.ring = home / RING
        self.ring.write_text(new_key())
        self.engine = Engine(Settings(redis_url=url, keys_file=self.ring, upstream="http://127.0.0.1:1"))
        self.journal: Journal = self.engine.journal
        self.inventory = Inventory(self.journal)
        self.maintenance = Maintenance(self.engine, "benchmark")
        self.operations = operations
        self.client: Any = self.journal.store.client
        self.client.config_set("slowlog-log-slower-than", round(LOGGED_MS * 1000))
        self.client.config_set("slowlog-max-len", 10_000)

    def fill(self) -> None:
        """Queue it all, without waiting for the disk: what is measured is not that."""
        self.client.config_set("appendfsync", "no")
        self.client.config_set("auto-aof-rewrite-percentage", 0)  # its copy would take a core away
        sealed = Operation(("POST", "/api/posts"), {"body": JsonBody(b'{"title":"' + b"x" * 48 + b'"}')})
        for start in range(0, self.operations, BATCH):
            self.journal.append([self._record(sealed, n) for n in range(start, min(start + BATCH, self.operations))])

    def _record(self, operation: Operation, n: int) -> NewRecord:
        return self.engine.seal(operation, LANE, f"op-{n}")

    def measure(self, action: str, run: Callable[[], object]) -> Held:
        """Run an action, and ask the store how long its scripts took."""
        self.client.slowlog_reset()
        self.client.config_resetstat()
        run()
        scripts = self.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec_per_call": 0})
        slow = [e for e in self.client.slowlog_get(10_000) if e["command"].startswith(b"EVALSHA")]
        longest_ms = max([LOGGED_MS, *(entry["duration"] / 1000 for entry in slow)])
        return Held(action, scripts["calls"], scripts["usec_per_call"] / 1000, longest_ms)

    def actions(self) -> Iterator[Held]:
        """Everything that looks through, or changes, a whole lane."""
        middle, find = self.operations // 2, self.journal.find
        yield self.measure("show: in the middle", lambda: find(LANE, f"op-{middle}"))
        yield self.measure("show: at the head", lambda: find(LANE, "op-0"))
        yield self.measure("show: not there", lambda: find(LANE, "nobody"))
        yield self.measure("cancel: in the middle", lambda: self.journal.cancel(LANE, f"op-{middle}"))
        yield self.measure("cancel: the head", lambda: self.journal.cancel(LANE, "op-0"))
        yield self.measure("ls: the first 50", lambda: list(islice(self.maintenance.pending(LANE), 50)))
        yield self.measure("pending(): all", lambda: sum(1 for _ in self.maintenance.pending(LANE)))
        yield self.measure("pause and resume the lane", self._pause)
        yield self.measure("status", self.journal.snapshot)
        yield self.measure("tick", lambda: self.journal.tick("beat", "beat"))
        yield self.measure("10,000 operations die", self._die)
        yield self.measure("dead letters: list", lambda: sum(1 for _ in self.maintenance.dead_letters()))
        yield self.measure("replay 5,000 to the head", lambda: self._replay(5000, "head"))
        yield self.measure("replay all to the tail", lambda: self._replay(None, "tail"))
        yield self.measure("keys rotate: all", self._rotate)
        yield self.measure("clear: all", lambda: sum(self.maintenance.clear(LANE)))

    def _pause(self) -> None:
        self.maintenance.pause(LANE)
        self.maintenance.resume(LANE)

    def _die(self) -> None:
        left = 10_000
        while left:
            claim: Any = self.journal.claim("bench 1")
            for raw in claim.records:
                one = self.journal.parse(raw).id
                self.journal.settle(LANE, claim.fence, one, "dead", reason="422")
                left -= 1
                if not left:
                    break
            self.journal.release(LANE, claim.fence)

    def _replay(self, count: int | None, end: Any) -> None:
        letters = [one.id for one in islice(self.maintenance.dead_letters(), count)] if count else None
        self.maintenance.replay(letters, end=end)

    def _rotate(self) -> None:
        rotation = Rotation(self.engine, "benchmark")
        rotation.add_key()
        for _ in rotation.run():
            pass


@click.command(context_settings={"max_content_width": 100})
@click.option("--operations", type=click.IntRange(20_000), default=1_000_000, show_default=True, help="In the lane.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a call took longer than the bound.")
def main(operations: int, strict: bool) -> None:
    """Measure how long one call holds the store, whatever it looks through."""
    progress, found = Console(stderr=True), []
    with (
        tempfile.TemporaryDirectory(prefix="fluxy-bench-", ignore_cleanup_errors=True) as home,
        store(Path(home) / "store") as running,
    ):
        bench = Bench(running.url, Path(home), operations)
        progress.print(f"queueing {operations:,} operations ...")
        bench.fill()
        for held in bench.actions():
            progress.print(f"{held.action}: {held.calls:,} calls, the longest {held.longest_ms:.2f} ms")
            found.append(held)
    Console().print(table(found, operations))
    if strict and any(held.longest_ms > BOUND_MS for held in found):
        sys.exit(1)


def table(found: list[Held], operations: int) -> Table:
    """The actions as a table for the terminal."""
    result = Table(
        title=f"The longest hold of the store, one lane of {operations:,} operations (bound {BOUND_MS:g} ms)",
        title_justify="left", title_style="", box=SIMPLE, pad_edge=False, show_edge=False,
    )  # fmt: skip
    for heading in ("", "calls", "mean ms", "longest ms", ""):
        result.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for held in found:
        verdict = "met" if held.longest_ms <= BOUND_MS else "missed"
        result.add_row(
            held.action,
            f"{held.calls:,}",
            f"{held.mean_ms:.2f}",
            f"{held.longest_ms:.2f}",
            verdict,
        )
    return result


if __name__ == "__main__":
    main()
