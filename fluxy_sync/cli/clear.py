"""``fluxy-sync clear``: wipe what waits."""

import click

from fluxy_sync.cli.confirm import confirm
from fluxy_sync.cli.options import lane_option, yes_option
from fluxy_sync.cli.output import json_option, print_json
from fluxy_sync.cli.progress import progress_bar
from fluxy_sync.words import many, visible


@click.command(short_help="Wipe the operations that wait now.")
@lane_option("Only this one.")
@yes_option
@json_option
def clear(lane: str | None, yes: bool, as_json: bool) -> None:
    """Wipe the operations that wait now, on one lane or on all.

    What is queued meanwhile stays, and so do dead letters. What is being sent may still arrive.

    \b
    Examples:
      fluxy-sync clear --lane user:42
      fluxy-sync clear --yes
    """
    from fluxy_sync.cli.access import open_engine, open_maintenance

    engine = open_engine()
    maintenance = open_maintenance(engine)
    status = engine.journal.snapshot()
    total = status.pending if lane is None else maintenance.inventory.count(lane)
    where = "all lanes" if lane is None else f"lane {lane}"
    confirm(visible(f"Wipe {many(total, 'operation')} on {where} for good?"), yes)
    flying = maintenance.in_flight(lane)
    count = 0
    try:
        with progress_bar("Clearing", total) as advance:
            for taken in maintenance.clear(lane):
                count += taken
                advance(taken)
    finally:
        tell(count, where, flying, status.dead, as_json)


def tell(count: int, where: str, flying: int, dead: int, as_json: bool) -> None:
    """Say what went, what is kept, and what may still arrive; also where it was interrupted."""
    if as_json:
        print_json({"cleared": count, "in_flight": flying, "dead": dead})
        return
    click.echo(visible(f"{many(count, 'operation')} on {where} {'is' if count == 1 else 'are'} gone."))
    if flying:
        click.echo(f"{many(flying, 'request')} in flight may still arrive.")
    if dead:
        click.echo(f"{many(dead, 'dead letter')} {'is' if dead == 1 else 'are'} kept; see 'fluxy-sync dead ls'.")
