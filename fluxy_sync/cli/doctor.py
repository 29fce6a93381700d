"""``fluxy-sync doctor``: what is wrong with a gateway, and what to do about it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fluxy_sync.cli.exits import FAILED, STORE_UNREACHABLE
from fluxy_sync.cli.output import json_option, make_console, print_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fluxy_sync.doctor import Check, Report

# Sign and style of each state: the sign and the word carry what the colour does.
SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✕", "bold red"), "skipped": ("·", "dim")}
STATE_WIDTH, NAME_WIDTH = 9, 10


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Look at all that a gateway needs, and say what to do about what is wrong.

    The store and how it keeps what it accepts, its disk, the keys, the broker, beat, the workers, the upstream, the
    clock and the queue. It leaves nothing behind.

    Exit codes: 0 nothing failed (there may be warnings), 1 something did, 3 the store is unreachable.

    \b
    Examples:
      fluxy-sync doctor
      fluxy-sync doctor --json
    """
    from fluxy_sync.doctor import Report

    if as_json:
        report = Report(tuple(_examine()))
        print_json(report.to_dict())
    else:
        report = Report(tuple(_show(make_console(), _examine())))
        click.echo(summary(report))
    raise SystemExit(exit_code(report))


def _examine() -> Iterator["Check"]:
    from fluxy_sync.app import create_app
    from fluxy_sync.doctor import examine, examine_app
    from fluxy_sync.engine import Engine
    from fluxy_sync.errors import ConfigError
    from fluxy_sync.settings import load_settings

    settings = load_settings()
    try:
        app = create_app(settings)
    except ConfigError:  # keys that can't be read: the rest can still be looked at
        return examine(Engine(settings))
    return examine_app(app)


def _show(console: "Console", checks: Iterator["Check"]) -> Iterator["Check"]:
    """Print each check as it is done; on a terminal with a sign that the next one is under way."""
    with console.status("looking ..."):
        for check in checks:
            if console.is_terminal:
                console.print(row(check))
            else:
                console.print(plain_text(check), markup=False, soft_wrap=True)
            yield check


def row(check: "Check") -> "RenderableType":
    """One check for a terminal, wrapped within its column."""
    from rich.table import Table
    from rich.text import Text

    sign, style = SIGNS[check.state]
    table = Table.grid(padding=(0, 1))
    table.add_column(width=STATE_WIDTH)
    table.add_column(width=NAME_WIDTH)
    table.add_column(overflow="fold")
    said = Text(check.found, style="dim" if check.state == "skipped" else "")
    if check.advice:
        said.append(f"\n→ {check.advice}", style="bold")
    table.add_row(Text(f"{sign} {check.state}", style=style), check.name, said)
    return table


def plain_text(check: "Check") -> str:
    """One check for a file or a pipe: a line, and what to do on the next one."""
    sign, _ = SIGNS[check.state]
    line = f"{sign} {check.state:<{STATE_WIDTH - 2}} {check.name:<{NAME_WIDTH}} {check.found}"
    indent = " " * (STATE_WIDTH + NAME_WIDTH + 2)
    return f"{line}\n{indent}→ {check.advice}" if check.advice else line


def summary(report: "Report") -> str:
    """The last line: how many failed, how many warn."""
    count = {state: sum(check.state == state for check in report.checks) for state in SIGNS}
    if count["failed"] or count["warning"]:
        return f"{count['failed']} failed, {count['warning']} {'warning' if count['warning'] == 1 else 'warnings'}"
    return "all is well"


def exit_code(report: "Report") -> int:
    """0 nothing failed, 1 something did, 3 the store is unreachable."""
    if not report.store_answers:
        return STORE_UNREACHABLE
    return 0 if report.ok else FAILED
