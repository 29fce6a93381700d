"""``fluxy-sync keys``: the keys that seal the queue."""

import click

from fluxy_sync.cli.output import json_option, print_json


@click.group()
def keys() -> None:
    """Make the keys that seal the queue."""


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
