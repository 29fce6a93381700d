"""``fluxy-sync status``: what waits, and why."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from fluxy_sync.cli.output import clock, json_option, make_console, print_json
from fluxy_sync.words import KEY, duration, many, reason_text, visible

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
STALE_SIGN, STALE_STYLE = "!", "red"
HELD_NOTE = "wait for someone, or for a missing key"
PAUSED = "paused"
STYLES = {"dead": "red"}


class Watched(NamedTuple):
    """What ``watch`` adds to the picture."""

    turning: str = ""  # a sign that turns while something is being sent
    rate: str = ""
    stale: str = ""  # since when, and why
    source: str = ""


NOT_WATCHED = Watched()


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


def status_panel(
    record: "Status", namespace: str, upstream: str | None, now: datetime, watched: Watched = NOT_WATCHED
) -> "Panel":
    """The record as a field engineer reads it at once."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    mark, style, meaning = GATES.get(record.gate, UNKNOWN_GATE)
    if record.stale:
        style = STALE_STYLE
        table.add_row("values", f"[bold {style}]{STALE_SIGN} stale[/]", Text(visible(watched.stale, "\n"), style))
    table.add_row("gate", f"[bold {style}]{mark} {record.gate}[/]", Text(gate_note(record, meaning)))
    if record.since is not None:
        table.add_row("since", "", _since(record.since, now))
    for name, count, note in _counts(record, watched):
        table.add_row(name, f"[bold]{count:,}[/]" if count else "0", Text(note, STYLES.get(name, "")))
    if commands := next_commands(record):
        table.add_row("next", "", "\n".join(commands))
    if watched.source:
        table.add_row("read from", "", Text(visible(watched.source)))
    title = Text.assemble(("fluxy-sync", "bold"), f" {namespace}{f' → {upstream}' if upstream else ''}")
    return Panel(table, title=title, title_align="left", border_style=style, padding=(0, 2), expand=False)


def _counts(record: "Status", watched: Watched) -> list[tuple[str, int, str]]:
    oldest = "" if record.oldest_age_s is None else f"the oldest for {duration(record.oldest_age_s)}"
    lanes = f"on {many(record.lanes, 'lane')}" if record.lanes else ""
    counts = [
        ("pending", record.pending, ", ".join(filter(None, (lanes, oldest)))),
        ("syncing", record.syncing, f"{watched.turning} being sent now".lstrip() if record.syncing else ""),
        ("retrying", record.retrying, "tried before, waiting for the next try" if record.retrying else ""),
        ("held", record.held, held_note(record)),
        ("dead", record.dead, "gave up; kept, not sent" if record.dead else ""),
        ("dropped", record.dropped_total, "in all, for newer ones: the queue was full"),
        ("delivered", record.delivered_total, ", ".join(filter(None, ("in all", watched.rate)))),
    ]
    return [row for row in counts if row[0] != "dropped" or row[1]]


def held_note(record: "Status") -> str:
    """Why lanes are held, a line for each reason."""
    lines = [f"{_why(why)}: {many(lanes, 'lane')}" for why, lanes in sorted(record.held_for.items())]
    return "\n".join(lines) or (HELD_NOTE if record.held else "")


def _why(why: str) -> str:
    return why if why == PAUSED else visible(reason_text(why))


def gate_note(record: "Status", meaning: str) -> str:
    """Why the gate is as it is, and for how long it stays so, where that is known."""
    if record.gate == "open" and record.opens_in_s and record.reason:
        return f"the upstream asked to wait another {duration(record.opens_in_s)}"
    return visible(reason_text(record.reason)) or meaning


def next_commands(record: "Status") -> list[str]:
    """What to run next, to see more or to go on."""
    found = {
        "fluxy-sync resume": record.gate == "paused",
        "fluxy-sync doctor": record.gate == "unauthorized",
        "fluxy-sync keys ls": any(why.startswith(KEY) for why in record.held_for),
        "fluxy-sync ls": bool(record.held_for),
        "fluxy-sync dead ls": record.dead > 0,
    }
    return [command for command, fits in found.items() if fits]


def _since(moment: str, now: datetime) -> str:
    began = datetime.fromisoformat(moment)
    return f"{clock(began)} UTC, {duration((now - began).total_seconds())} ago"
