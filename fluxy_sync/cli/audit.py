"""``fluxy-sync audit``: who did what, and when."""

from collections.abc import Mapping
from datetime import UTC, datetime

import click

from fluxy_sync.cli.options import limit_option
from fluxy_sync.cli.output import Column, clock, json_option, make_console, make_table, print_json, rfc3339

COLUMNS = (Column("when (UTC)"), Column("who", below=True, wraps=True), Column("what", wraps=True))


@click.command(short_help="Show who did what to the queue, and when.")
@limit_option
@json_option
def audit(limit: int, as_json: bool) -> None:
    """Show the audit log, the newest first: who did what to the queue, and when.

    It has each reveal, cancel, clear, drop, replay, pause, resume and rotation of keys, noted before it was done. The
    newest 10,000 are kept.

    \b
    Examples:
      fluxy-sync audit
      fluxy-sync audit --json | jq -r '.notes[] | select(.what == "reveal")'
    """
    from fluxy_sync.cli.access import open_maintenance

    notes = open_maintenance().inventory.notes(limit)
    if as_json:
        print_json({"notes": [_record(note) for note in notes]})
        return
    console = make_console(whole_lines=True)
    if not notes:
        console.print("Nothing has been noted yet.")
        return
    rows = ((clock(_when(note)), note["who"], f"{note['what']} {note['which']}") for note in notes)
    console.print(make_table(COLUMNS, rows, console.width), soft_wrap=not console.is_terminal)


def _record(note: Mapping[str, str]) -> dict[str, str]:
    kept = {name: note.get(name, "") for name in ("who", "what", "which")}
    return {"at": rfc3339(_when(note))} | kept


def _when(note: Mapping[str, str]) -> datetime:
    return datetime.fromtimestamp(int(note["wall"]) / 1000, UTC)
