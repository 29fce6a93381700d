"""``fluxy-sync cancel``: take one operation out of the queue."""

import click

from fluxy_sync.cli.confirm import confirm
from fluxy_sync.cli.exits import CommandFailed
from fluxy_sync.cli.options import id_argument, lane_option, yes_option
from fluxy_sync.cli.output import json_option, print_json
from fluxy_sync.words import duration, visible


@click.command(short_help="Take one operation out of the queue.")
@id_argument
@lane_option("Where it waits; otherwise all lanes are looked through.")
@yes_option
@json_option
def cancel(operation_id: str, lane: str | None, yes: bool, as_json: bool) -> None:
    """Take one operation out of the queue: it is never sent, and nothing of it is kept.

    One that is being sent can't be called back.

    \b
    Examples:
      fluxy-sync cancel 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d --yes
      fluxy-sync cancel invoice-7 --lane invoices --yes
    """
    where, age_s = _find(operation_id, lane)
    confirm(visible(f"Cancel {operation_id} on lane {where}, accepted {duration(age_s)} ago?"), yes)
    from fluxy_sync.cli.access import open_client

    if not open_client().cancel(operation_id, where):
        raise CommandFailed(
            f"{operation_id} is being sent, or left meanwhile; nothing changed; see 'fluxy-sync show {operation_id}'"
        )
    if as_json:
        print_json({"cancelled": operation_id, "lane": where})
    else:
        click.echo(visible(f"{operation_id} on lane {where} is cancelled."))


def _find(operation_id: str, lane: str | None) -> tuple[str, float]:
    """The lane on which it waits, and its age in seconds.

    Raises:
        CommandFailed: it doesn't wait.
    """
    from fluxy_sync.cli.access import open_maintenance
    from fluxy_sync.journal import DeadLetter

    found = open_maintenance().find(operation_id, lane)
    if found is None:
        raise CommandFailed(f"no operation {operation_id} waits{_on(lane)}; nothing changed")
    if isinstance(found.entry, DeadLetter):
        raise CommandFailed(
            f"{operation_id} is a dead letter; nothing changed; delete it with 'fluxy-sync dead drop {operation_id}'"
        )
    return found.entry.lane, found.entry.age_s


def _on(lane: str | None) -> str:
    return "" if lane is None else visible(f" on lane {lane}")
