"""``python -m benchmarks``: rounds of all workloads, interleaved, and one table of their medians."""

import dataclasses
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks.http_server import HttpServer, http_server
from benchmarks.measure import Figures, Workload, measure
from benchmarks.process import BenchmarkError
from benchmarks.report import Line, Rounds, compare, table

PER_LANE = 2


def workloads(operations: int, lanes: int, peer: str) -> list[Workload]:
    """What is measured in each round."""
    ours = [
        Workload("one lane", "delay", operations),
        Workload("4 lanes", "queue", operations, lanes=4),
        Workload("4 lanes, quiet", "queue", operations, lanes=4, quiet=True),
        Workload("many lanes", "many", lanes * PER_LANE, lanes=lanes),
    ]
    return ours if peer == "none" else [Workload("plain", "plain", operations), *ours]


def run_rounds(chosen: list[Workload], rounds: int, server: HttpServer, home: Path, progress: Console) -> Rounds:
    """Each workload once a round; each round begins with another one, so that a slow minute strikes all."""
    results: Rounds = {workload.name: [] for workload in chosen}
    for number in range(rounds):
        turn = number % len(chosen)
        for workload in chosen[turn:] + chosen[:turn]:
            figures = measure(workload, server, home / f"{number}-{workload.name.replace(' ', '-')}")
            results[workload.name].append(figures)
            progress.print(f"round {number + 1}, {workload.name}: {told(figures)}")
    return results


def told(figures: Figures) -> str:
    """One measurement in words."""
    rates = f"{figures.enqueued_per_s:,.0f} enqueued/s, {figures.drained_per_s:,.0f} drained/s"
    return f"{rates}, {figures.bytes_per_operation:,.0f} bytes each"


def document(options: dict[str, object], server: str, rounds: Rounds, lines: list[Line]) -> dict[str, object]:
    """Everything that was measured, for --json."""
    figures = {name: [dataclasses.asdict(round_) for round_ in found] for name, found in rounds.items()}
    machine = {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()}
    compared = [dataclasses.asdict(line) for line in lines]
    return {"machine": machine, "server": server, "options": options, "rounds": figures, "results": compared}


@click.command(context_settings={"max_content_width": 100})
@click.option("--peer", type=click.Choice(["celery", "none"]), default="celery", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--operations", type=click.IntRange(2), default=3000, show_default=True, help="In each workload.")
@click.option("--lanes", type=click.IntRange(1), default=5000, show_default=True, help="Of the last workload.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a target is missed.")
def main(peer: str, rounds: int, operations: int, lanes: int, json_file: Path | None, strict: bool) -> None:
    """Measure fluxy-sync beside plain Celery: same store, same server, same machine, one run."""
    console, progress = Console(), Console(stderr=True)
    options: dict[str, object] = {"peer": peer, "rounds": rounds, "operations": operations, "lanes": lanes}
    with tempfile.TemporaryDirectory(prefix="fluxy-bench-", ignore_cleanup_errors=True) as home:
        try:
            with http_server(Path(home)) as server:
                found = run_rounds(workloads(operations, lanes, peer), rounds, server, Path(home), progress)
        except BenchmarkError as error:
            raise click.ClickException(str(error)) from error
    lines = compare(found)
    shown = f"{operations:,} operations; many: {lanes:,} lanes of {PER_LANE}; {server.name}"
    title = f"Medians of {rounds} rounds, {shown}"
    console.print(table(lines, title))
    writes = statistics.median(figures.writes_per_s for figures in itertools.chain(*found.values()))
    console.print(f"This disk takes {writes:,.0f} durable writes/s, one after another: one call each can't be faster.")
    if json_file:
        json_file.write_text(json.dumps(document(options, server.name, found, lines), indent=2) + "\n")
    if strict and any(line.met is False for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
