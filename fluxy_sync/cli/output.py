"""What all commands print with: one JSON document on stdout, or text and tables for people."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from fluxy_sync.words import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

WIDE = 120  # columns from which a table shows everything side by side
UNBOUNDED = 10_000  # columns: without a terminal nobody needs wrapped lines, and `grep` wants whole ones
LONGEST_LANE = 24  # characters of a lane's name in one line of a table
LONGEST_ID = 40  # characters that an id of the usual kind has at most: such a one is never broken

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document; times are in UTC.")


class Column(NamedTuple):
    """A column of a table. What is ``below`` stands under the first column where the terminal is narrow."""

    title: str
    below: bool = False
    right: bool = False
    wraps: bool = False


def print_json(document: Mapping[str, Any]) -> None:
    """Print the document in one line on stdout. What doesn't print is escaped: it steers no terminal."""
    spells_all = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, ensure_ascii=not spells_all, allow_nan=False)
    click.echo(text if text.isprintable() else "".join(map(_printable, text)))


def _printable(character: str) -> str:
    if character == "\x7f":  # which JSON lets stand
        return "\\u007f"
    return character if character.isprintable() else json.dumps(character)[1:-1]


def rfc3339(moment: datetime) -> str:
    """A moment as all JSON documents give it: ``2026-11-23T12:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(moment: datetime) -> str:
    """A moment as people read it, in UTC: ``2026-11-23 12:00:00``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def make_console(*, stderr: bool = False, whole_lines: bool = False) -> "Console":
    """A console for people: colours and movement on a terminal, plain text elsewhere.

    Args:
        whole_lines: wrap nothing where there is no terminal.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal that can't show a sign still shows the text
    console = Console(file=stream, highlight=False, emoji=False)
    if whole_lines and not console.is_terminal:
        console.width = UNBOUNDED
    return console


def make_table(columns: Sequence[Column], rows: Iterable[Sequence[str] | str], width: int) -> "Table":
    """A table for a console so many columns wide; a row that is one text is a heading. No cell is ever cut off."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    wide, rows = width >= WIDE, list(rows)
    long_ids = any(len(row[0]) > LONGEST_ID for row in rows if not isinstance(row, str))
    table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        wraps = column.wraps or (column is columns[0] and (long_ids or not wide))
        if wide or not column.below:
            align: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(column.title, justify=align, overflow="fold", no_wrap=not wraps)
    for row in rows:
        table.add_row(*([_heading(row)] if isinstance(row, str) else _cells(columns, row, wide)))
    return table


def _heading(text: str) -> "Text":
    from rich.text import Text

    return Text(visible(text), style="bold")


def _cells(columns: Sequence[Column], row: Sequence[str], wide: bool) -> "list[RenderableType]":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    pairs = list(zip(columns, map(visible, row), strict=True))
    first, *beside = [Text(text) for column, text in pairs if wide or not column.below]
    below = "; ".join(text for column, text in pairs if column.below and text)
    if wide or not below:
        return [first, *beside]
    return [Group(first, Padding(Text(below, style="dim"), (0, 0, 0, 2))), *beside]
