"""What the demo does, step by step, and how it tells it."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fluxy_sync.cli.demo.judge import Judgement, LaneJudgement, count_strangers, judge_lanes
from fluxy_sync.cli.demo.stage import Ended, Stage
from fluxy_sync.cli.status import status_panel

if TYPE_CHECKING:
    from fluxy_sync.client import FluxySync
    from fluxy_sync.status import Status

LANES = ("orders", "photos", "readings")
ON_EACH_LANE = 20
OPERATIONS = len(LANES) * ON_EACH_LANE
KILL_AFTER = OPERATIONS // 3  # arrivals, at the second kill
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "social" / "__main__.py"
SECRET = "nobody-reads-this-on-the-way"  # noqa: S105 - stands in each body, to be looked for on disk


class Story:
    """Tells the demo on a console while it happens on a stage."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._step = 0
        self._kills = 0

    def tell(self) -> Judgement:
        """Play it all, and judge it.

        Raises:
            DemoFailed: a step didn't come true.
        """
        self._console.print("\n[bold]fluxy-sync demo[/]: real processes, a real store, real HTTP, on this machine\n")
        self._start()
        from fluxy_sync.client import FluxySync

        sync = FluxySync()
        accepted = self._queue(sync)
        self._kill_while_offline(sync)
        came_up = self._bring_up(sync)
        judgement = self._judge(sync, accepted, came_up)
        self._sum_up(judgement)
        return judgement

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        """A spinner on a terminal; nothing elsewhere."""
        if self._console.is_terminal:
            with self._console.status(what):
                yield
        else:
            yield

    def _say(self, text: str) -> None:
        self._step += 1
        self._console.print(f"[bold cyan]{self._step}[/]  {text}", soft_wrap=True)

    def _note(self, text: str) -> None:
        self._console.print(f"   {text}", soft_wrap=True)

    def _start(self) -> None:
        self._say(f"The upstream is [bold yellow]down[/]: {self._stage.upstream.url} refuses connections.")
        began = time.monotonic()
        with self._working("a gateway starts"):
            self._stage.start_gateway()
        self._say(f"A gateway is up after {_seconds(began)}: an encrypted store, a Celery worker, and beat.")

    def _queue(self, sync: "FluxySync") -> dict[str, list[str]]:
        """Queue round the lanes; returns each lane's keys in their order."""
        accepted: dict[str, list[str]] = {lane: [] for lane in LANES}
        began = time.monotonic()
        for number in range(1, ON_EACH_LANE + 1):
            for lane in LANES:
                body = {"lane": lane, "number": number, "note": SECRET}
                accepted[lane].append(sync.queue("POST", f"/api/{lane}", body=body, lane=lane).id)
        self._say(
            f"{OPERATIONS} operations on {len(LANES)} lanes, queued in {_seconds(began)}, each sealed and on disk."
        )
        with self._working("the gateway notices that the link is down"):
            self._stage.wait_until(lambda: _waits(sync.status()), "the gate closes")
        self._show_status(sync)
        return accepted

    def _show_status(self, sync: "FluxySync") -> None:
        record = sync.status()
        self._console.print(status_panel(record, self._stage.namespace, self._stage.upstream.url, datetime.now(UTC)))

    def _kill_while_offline(self, sync: "FluxySync") -> None:
        self._kill(sync, "while everything waits")
        self._note(f"Still pending: [bold]{sync.status().pending}[/].")

    def _kill(self, sync: "FluxySync", when: str) -> None:
        starts, began = self._stage.starts_of_worker, time.monotonic()
        pid = self._stage.kill_worker(sync)
        self._kills += 1
        self._say(f"[bold red]kill -9[/] {pid}, the worker, {when}.")
        with self._working("the gateway starts another one"):
            self._stage.wait_until(lambda: self._stage.starts_of_worker > starts, "the worker is started again")
        self._note(f"The gateway has started another one within {_seconds(began)}.")

    def _bring_up(self, sync: "FluxySync") -> float:
        """Bring the upstream up, kill the worker in the middle of it, and wait until all has arrived."""
        arrivals = self._stage.upstream.arrivals
        self._stage.upstream.come_up()
        came_up = time.monotonic()
        self._say("The upstream is [bold green]up[/] again. Nobody calls anything: the backlog wakes by itself.")
        self._deliver(lambda: len(arrivals) >= KILL_AFTER, "the first operations arrive")
        self._note(f"The first one arrived {arrivals[0].at - came_up:.1f} s after the upstream's return.")
        self._kill(sync, f"in the middle of sending, after {len(arrivals)} arrivals")
        self._deliver(lambda: not sync.status().pending, "everything is delivered")
        return came_up

    def _deliver(self, until: Callable[[], bool], what: str) -> None:
        """Wait, and on a terminal show what has arrived on each lane."""
        with self._progress() as show:

            def look() -> bool:
                show()
                return until()

            self._stage.wait_until(look, what)
            show()

    @contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        columns = (TextColumn("   {task.description:<9}"), BarColumn(30), MofNCompleteColumn())
        quiet = not self._console.is_terminal
        with Progress(*columns, console=self._console, disable=quiet, transient=True) as progress:
            bars = {lane: progress.add_task(lane, total=ON_EACH_LANE) for lane in LANES}

            def show() -> None:
                for lane, bar in bars.items():
                    keys = {arrival.key for arrival in list(self._stage.upstream.arrivals) if arrival.lane == lane}
                    progress.update(bar, completed=len(keys))

            yield show

    def _judge(self, sync: "FluxySync", accepted: dict[str, list[str]], came_up: float) -> Judgement:
        arrivals, record = list(self._stage.upstream.arrivals), sync.status()
        return Judgement(
            lanes=judge_lanes(accepted, arrivals),
            strangers=count_strangers(accepted, arrivals),
            pending=record.pending,
            dead=record.dead,
            delivered_total=record.delivered_total,
            readable_on_disk=self._stage.holds_in_clear(SECRET),
            kills=self._kills,
            first_arrival_s=round(arrivals[0].at - came_up, 3),
        )

    def _sum_up(self, judgement: Judgement) -> None:
        self._say("Judged by what the upstream recorded:")
        self._console.print(lanes_table(judgement.lanes))
        hidden = (
            "in clear: no promise held" if judgement.readable_on_disk else "nowhere in the store's files or in the log"
        )
        self._note(f"The bodies' text stands {hidden}.")
        self._note(f"The journal counts {judgement.delivered_total} delivered, {judgement.pending} pending.")
        self._console.print()
        self._console.print(verdict(judgement), soft_wrap=True)
        self._console.print()

    def leave_dashboard(self) -> None:
        """Say where it is, and wait for Ctrl-C."""
        with self._working("the dashboard starts"):
            login = self._stage.login()
        if login is None:
            self._console.print("The dashboard isn't installed: pip install 'fluxy-sync[dashboard]'")
        else:
            self._console.print(f"The dashboard is at [bold]{login.url}[/]", soft_wrap=True)
            self._console.print(f"user [bold]{login.user}[/], password [bold]{login.password}[/]", soft_wrap=True)
        self._console.print("\nAll of it goes on until Ctrl-C. In another terminal, try:")
        program = "fluxy-sync" if shutil.which("fluxy-sync") else sys.argv[0]
        tries = (
            f"export FLUXY_SYNC_DATA_DIR={self._stage.home}",
            f"{program} queue POST /api/notes --body hello",
            f"{program} status",
        )
        for line in tries:
            self._console.print(f"  {line}", soft_wrap=True, markup=False)
        if EXAMPLE.exists():  # in a checkout; the package has no examples
            self._console.print("\nFor an application on top of it, with posts that show at once: make social")
        with suppress(KeyboardInterrupt, Ended):
            self._stage.wait()
        self._console.print("\nEnding, and removing what the demo made.")


def _waits(record: "Status") -> bool:
    return record.gate == "offline" and not record.syncing


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"


def lanes_table(lanes: Sequence[LaneJudgement]) -> Padding:
    """What was found on each lane."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("lane")
    for name in ("queued", "arrived", "lost", "repeats", "altered"):
        table.add_column(name, justify="right")
    table.add_column("order")
    for lane in lanes:
        counts = (lane.accepted, lane.arrived, lane.lost, lane.repeats, lane.altered)
        order = "[green]✓ kept[/]" if lane.in_order else "[bold red]✗ broken[/]"
        table.add_row(lane.lane, *map(str, counts), order)
    return Padding.indent(table, 3)


def verdict(judgement: Judgement) -> str:
    """The last line: whether it all held."""
    if not judgement.holds:
        return "[bold red]✗ It didn't hold.[/]"
    repeats = "1 arrived" if judgement.repeats == 1 else f"{judgement.repeats} arrived"
    again = f"{repeats} again, with the same key and the same body" if judgement.repeats else "none arrived twice"
    return (
        f"[bold green]✓ Nothing was lost[/] over {judgement.kills} kills: "
        f"{judgement.accepted} of {judgement.accepted} arrived, each lane in order;\n  {again}."
    )
