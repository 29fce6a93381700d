"""``fluxy-sync keys``: the keys that seal the queue."""

from typing import TYPE_CHECKING, NamedTuple

import click

from fluxy_sync.cli.exits import OrderedGroup
from fluxy_sync.cli.output import Column, json_option, make_console, make_table, print_json
from fluxy_sync.cli.progress import waiting_for
from fluxy_sync.cli.rotate import rotate

if TYPE_CHECKING:
    from fluxy_sync.engine import Engine

COLUMNS = (Column("key"), Column("records", right=True), Column("what it does"))


class Key(NamedTuple):
    """One key of the ring, or one that records need and the ring lacks."""

    id: str
    in_ring: bool
    seals: bool
    records: int


@click.group(cls=OrderedGroup)
def keys() -> None:
    """Make, list and rotate the keys that seal the queue.

    \b
    Examples:
      fluxy-sync keys ls
      fluxy-sync keys rotate
    """


@keys.command()
@json_option
def new(as_json: bool) -> None:
    """Print a new key.

    A gateway with a store of its own makes its key by itself. Elsewhere, all producers and workers of a gateway need
    the same one: put it into FLUXY_SYNC_KEYS, or into a file that FLUXY_SYNC_KEYS_FILE names. Keep a copy: what was
    queued can't be opened without it.

    \b
    Examples:
      export FLUXY_SYNC_KEYS="$(fluxy-sync keys new)"
      (umask 077 && fluxy-sync keys new > fluxy-sync.key)
    """
    from fluxy_sync.vault import key_id_of, new_key, parse_key

    key = new_key()
    if as_json:
        print_json({"id": key_id_of(parse_key(key)).hex(), "key": key})
    else:
        click.echo(key)


@keys.command(short_help="List the ring's keys, and what each has sealed.")
@json_option
def ls(as_json: bool) -> None:
    """List the ring's keys by their ids, and how many records each has sealed.

    Records are operations, dead letters, and a secret of the queue's own. A key that records need and the ring lacks
    is listed, too: put it back, and what it sealed goes on.

    \b
    Examples:
      fluxy-sync keys ls
      fluxy-sync keys ls --json | jq '.keys[] | select(.in_ring | not)'
    """
    from fluxy_sync.cli.access import open_engine

    engine = open_engine()
    with waiting_for("Looking at what waits"):
        found = look(engine)
    file = engine.settings.keys_file
    if as_json:
        print_json({"file": file and str(file), "keys": [one._asdict() for one in found]})
        return
    console = make_console(whole_lines=True)
    if found:
        console.print(make_table(COLUMNS, [(one.id, f"{one.records:,}", part_of(one)) for one in found], console.width))
    if engine.settings.key_texts:
        click.echo(f"The ring stands in {file or 'FLUXY_SYNC_KEYS'}.")
    else:
        click.echo("No ring is set here: see FLUXY_SYNC_KEYS.")


def look(engine: "Engine") -> list[Key]:
    """The keys of the ring, the sealing one first, then those that are missing."""
    from fluxy_sync.cli.access import who
    from fluxy_sync.rotation import Rotation

    usage = Rotation(engine, who()).usage()
    ring = engine.vault.key_ids if engine.settings.key_texts else ()
    known = [Key(one, True, one == ring[0], usage.get(one, 0)) for one in ring]
    return known + [Key(one, False, False, usage[one]) for one in sorted(usage.keys() - set(ring))]


def part_of(key: Key) -> str:
    """What a key does, in words."""
    if not key.in_ring:
        return "missing: what it sealed waits for it"
    return "seals and opens" if key.seals else "opens"


keys.add_command(rotate)
