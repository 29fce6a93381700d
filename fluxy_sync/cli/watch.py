"""``fluxy-sync watch``: what waits, and why, as it changes."""

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fluxy_sync.cli.output import clock, make_console, print_json, rfc3339
from fluxy_sync.cli.status import Watched, status_panel
from fluxy_sync.words import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel

    from fluxy_sync.live import Live
    from fluxy_sync.settings import Settings
    from fluxy_sync.status import Status

RATE_WINDOW_S = 10.0
RATE_LEAST_S = 1.0  # before so long was looked at, a rate would be a guess
TURN_S = 0.1
CLOCK_S = 0.5  # ages on the screen go on, and a new size of the terminal is noticed
TURNING = "-\\|/"
WIDTH = 80  # at most: a frame that follows its text would jump
TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document per change, each on a line.")
def watch(as_json: bool) -> None:
    """Show what waits in the queue, and why, as it changes; Ctrl-C ends it.

    It follows the dashboard where FLUXY_SYNC_DASHBOARD_URL names one, and else the store. While neither can be read, it
    shows what was last known, and says so. Without a terminal it prints JSON.

    \b
    Examples:
      fluxy-sync watch
      fluxy-sync watch --json | jq --unbuffered .pending
      FLUXY_SYNC_DASHBOARD_URL=http://me:secret@gateway:5555 fluxy-sync watch
    """
    with contextlib.suppress(KeyboardInterrupt):
        from fluxy_sync.engine import Engine
        from fluxy_sync.live import Live
        from fluxy_sync.settings import load_settings

        signal.signal(signal.SIGTERM, _end)
        logging.getLogger("fluxy_sync").addHandler(logging.NullHandler())  # the screen says it all
        settings = load_settings()
        console = make_console()
        with contextlib.closing(Live(Engine(settings))) as live:
            if as_json or not console.is_terminal:
                print_changes(live)
            else:
                show(live, settings, console)


def _end(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)  # in order: the terminal gets its screen back


class Rate:
    """Deliveries per second over the last RATE_WINDOW_S, from totals that were seen now and then."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, total: int, now: float) -> float | None:
        """Take the total that holds from now on; None before RATE_LEAST_S have passed."""
        if self._seen and total < self._seen[-1][1]:
            self._seen.clear()  # another store
        if not self._seen or total != self._seen[-1][1]:
            self._seen.append((now, total))
        since = now - RATE_WINDOW_S
        while len(self._seen) > 1 and self._seen[1][0] <= since:
            self._seen.popleft()
        began, before = self._seen[0]
        passed_s = min(RATE_WINDOW_S, now - began)
        return (total - before) / passed_s if passed_s >= RATE_LEAST_S else None


@contextlib.contextmanager
def _changes_of(live: "Live") -> Iterator[threading.Event]:
    """An event that is set on each change while the block runs."""
    changed = threading.Event()
    unsubscribe = live.status.subscribe(lambda _: changed.set())
    try:
        yield changed
    finally:
        unsubscribe()


def print_changes(live: "Live") -> None:
    """One document now, and one after each change. Who reads slowly misses some in between, never the last one."""
    rate = Rate()
    with _changes_of(live) as changed:
        while True:
            changed.clear()
            print_json(to_document(live, live.status.value, rate))
            changed.wait()


def to_document(live: "Live", record: "Status", rate: Rate) -> dict[str, Any]:
    """The record of ``status --json``, and what is known about it."""
    per_s, since = rate.note(record.delivered_total, time.monotonic()), live.stale_since
    return {
        **record.to_dict(),
        "delivered_per_s": None if per_s is None or record.stale else round(per_s, 3),
        "namespace": live.namespace,
        "source": live.source,
        "at": rfc3339(datetime.now(UTC)),
        "stale_since": since and rfc3339(since),
    }


def show(live: "Live", settings: "Settings", console: "Console") -> None:
    """The picture on the terminal's other screen; what was last seen stays when it ends."""
    from rich.live import Live as Screen

    rate, panel = Rate(), None
    try:
        with _changes_of(live) as changed, Screen(console=console, screen=True, auto_refresh=False) as screen:
            while True:
                changed.clear()
                record = live.status.value
                panel = picture(live, record, settings, rate)
                panel.expand, panel.width = True, min(WIDTH, console.width)
                screen.update(panel, refresh=True)
                changed.wait(TURN_S if record.is_syncing else CLOCK_S)
    finally:
        if panel is not None:
            console.print(panel)


def picture(live: "Live", record: "Status", settings: "Settings", rate: Rate) -> "Panel":
    """The panel of ``status``, with what only time shows."""
    now, moment = datetime.now(UTC), time.monotonic()
    per_s = rate.note(record.delivered_total, moment)
    watched = Watched(
        turning="" if record.stale else TURNING[int(moment / TURN_S) % len(TURNING)],
        rate="" if per_s is None or record.stale else f"{per_s:,.1f} per second",
        stale=stale_text(live.stale_since, now, live.trouble),
        source=source_text(live.source, "" if record.stale else live.trouble),
    )
    return status_panel(record, live.namespace, settings.upstream, now, watched)


def stale_text(since: datetime | None, now: datetime, trouble: str) -> str:
    """When this was last known to be true, and why it isn't any more."""
    if since is None:
        return ""
    why = _in_short(trouble) or "the dashboard can't read its store"
    return f"last known {clock(since)} UTC, {duration((now - since).total_seconds())} ago\n{why}"


def source_text(source: str | None, trouble: str) -> str:
    """Where the picture comes from, and why not from the dashboard."""
    name = "the dashboard" if source == "dashboard" else "the store"
    return f"{name}: {_in_short(trouble)}" if trouble else name


def _in_short(trouble: str) -> str:
    return trouble.partition(";")[0]
