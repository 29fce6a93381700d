"""``fluxy-sync status``: what waits, and why."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from fluxy_sync.cli.output import json_option, make_console, print_json

if TYPE_CHECKING:
    from rich.panel import Panel

    from fluxy_sync.status import Status

# Sign, style and meaning of each state of the gate: the word and the sign carry what the colour does.
GATES = {
    "open": ("●", "green", "operations are sent as they come"),
    "offline": ("○", "yellow", "the upstream can't be reached"),
    "paused": ("‖", "yellow", "someone paused it"),
    "unauthorized": ("✕", "red", "the upstream refuses the credentials"),
}
UNKNOWN_GATE = ("?", "red", "")
REASONS = {
    "refused": "connection refused",
    "dns": "the upstream's name can't be resolved",
    "no-route": "no route to the upstream",
    "connect-timeout": "no answer to the connection",
    "read-timeout": "no answer to the request",
    "connection-lost": "the connection was lost",
    "tls": "the TLS handshake failed",
    "captive-portal": "a captive portal answers in the upstream's place",
}
WRONG_ANSWER = "wrong-answer-"
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Say what waits in the queue, and why.

    \b
    Examples:
      fluxy-sync status
      fluxy-sync status --json
    """
    from fluxy_sync.engine import Engine
    from fluxy_sync.settings import load_settings
    from fluxy_sync.status import read_status

    settings = load_settings()
    record = read_status(Engine(settings).journal)
    if as_json:
        print_json(record.to_dict())
    else:
        make_console().print(status_panel(record, settings.namespace, settings.upstream, datetime.now(UTC)))


def status_panel(record: "Status", namespace: str, upstream: str | None, now: datetime) -> "Panel":
    """The record as a field engineer reads it at once."""
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    mark, style, meaning = GATES.get(record.gate, UNKNOWN_GATE)
    table.add_row("gate", f"[bold {style}]{mark} {record.gate}[/]", reason_text(record.reason) or meaning)
    if record.since is not None:
        table.add_row("since", "", _since(record.since, now))
    for name, count, note in _counts(record):
        table.add_row(name, f"[bold]{count:,}[/]" if count else "0", note)
    title = f"[bold]fluxy-sync[/] {namespace}{f' → {upstream}' if upstream else ''}"
    return Panel(table, title=title, title_align="left", border_style=style, padding=(0, 2), expand=False)


def _counts(record: "Status") -> list[tuple[str, int, str]]:
    oldest = "" if record.oldest_age_s is None else f"the oldest for {duration(record.oldest_age_s)}"
    lanes = f"on {record.lanes:,} {'lane' if record.lanes == 1 else 'lanes'}" if record.lanes else ""
    return [
        ("pending", record.pending, ", ".join(filter(None, (lanes, oldest)))),
        ("syncing", record.syncing, "being sent now" if record.syncing else ""),
        ("retrying", record.retrying, "tried before, waiting for the next try" if record.retrying else ""),
        ("held", record.held, "wait for someone, or for a missing key" if record.held else ""),
        ("dead", record.dead, "[red]gave up; kept, not sent[/]" if record.dead else ""),
        ("delivered", record.delivered_total, "in all"),
    ]


def _since(moment: str, now: datetime) -> str:
    began = datetime.fromisoformat(moment)
    return f"{began:%Y-%m-%d %H:%M:%S} UTC, {duration((now - began).total_seconds())} ago"


def reason_text(reason: str) -> str:
    """A reason code in words."""
    if reason.startswith(WRONG_ANSWER):
        return f"the upstream answers {reason.removeprefix(WRONG_ANSWER)}"
    return REASONS.get(reason, reason)


def duration(seconds: float) -> str:
    """A length of time in two neighbouring units: ``3 d 4 h``, ``12 s``."""
    left = max(0, round(seconds))
    for (unit, size), (next_unit, next_size) in pairwise(UNITS):
        if left >= size:
            rest = left % size // next_size
            return f"{left // size} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{left} s"
