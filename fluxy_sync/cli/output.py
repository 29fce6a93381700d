"""What all commands print with: one JSON document on stdout, or text for people."""

import json
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document; times are in UTC.")


def print_json(document: Mapping[str, Any]) -> None:
    """Print the document in one line on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))


def make_console(*, stderr: bool = False) -> "Console":
    """A console for people: colours and movement on a terminal, plain text elsewhere."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal that can't show a sign still shows the text
    return Console(file=stream, highlight=False)
