"""The table: medians of the rounds, ratios, and the targets that they are held to."""

import dataclasses
import statistics
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.measure import Figures

Rounds = dict[str, list[Figures]]
"""Workload name -> its figures, one for each round."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One line: a figure of one workload beside that of another, and the bound of their ratio."""

    name: str
    figure: str
    ours: str
    peer: str
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is within its bound."""
        high = self.at_most is None or ratio <= self.at_most
        return high and (self.at_least is None or ratio >= self.at_least)

    @property
    def target(self) -> str:
        """The bound as text; empty where there is none."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


COMPARISONS = (
    Comparison("enqueued/s: sync_op.delay()", "enqueued_per_s", "one lane", "plain", at_least=5.0),
    Comparison("enqueued/s: FluxySync.queue()", "enqueued_per_s", "4 lanes", "plain"),
    Comparison("enqueued/s: queue_many(), 500 each", "enqueued_per_s", "many lanes", "plain"),
    # Celery's own worker tells no events unless it is asked to: like is compared with like.
    Comparison("drained/s: 4 lanes, no task events", "drained_per_s", "4 lanes, quiet", "plain", at_least=3.0),
    Comparison("drained/s: 4 lanes", "drained_per_s", "4 lanes", "plain"),
    Comparison("drained/s: one strict lane", "drained_per_s", "one lane", "plain", at_least=1.7),
    Comparison("bytes per pending operation", "bytes_per_operation", "4 lanes", "plain", at_most=0.2),
    Comparison("drained/s: with vs. without events", "drained_per_s", "4 lanes", "4 lanes, quiet", at_least=0.85),
    Comparison("drained/s: many vs. 4 lanes", "drained_per_s", "many lanes", "4 lanes", at_least=0.8),
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One compared figure. ``peer``, ``ratio`` and ``met`` are None where the peer didn't run."""

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    target: str
    met: bool | None


def compare(rounds: Rounds, comparisons: Sequence[Comparison] = COMPARISONS) -> list[Line]:
    """Medians of the rounds, line by line."""
    return [_line(comparison, rounds) for comparison in comparisons if comparison.ours in rounds]


def _line(comparison: Comparison, rounds: Rounds) -> Line:
    ours = _median(rounds[comparison.ours], comparison.figure)
    if comparison.peer not in rounds:
        return Line(comparison.name, ours, None, None, comparison.target, None)
    peer = _median(rounds[comparison.peer], comparison.figure)
    ratio = ours / peer
    met = comparison.holds(ratio) if comparison.target else None
    return Line(comparison.name, ours, peer, ratio, comparison.target, met)


def _median(figures: list[Figures], name: str) -> float:
    return float(statistics.median(getattr(figure, name) for figure in figures))


def table(lines: list[Line], title: str) -> Table:
    """The lines as a table for the terminal."""
    result = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    result.add_column("", no_wrap=True)
    for heading in ("fluxy-sync", "beside it", "ratio", "target", ""):
        result.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        verdict = {None: "", True: "met", False: "missed"}[line.met]
        result.add_row(line.name, _number(line.ours), _number(line.peer), _ratio(line.ratio), line.target, verdict)
    return result


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
