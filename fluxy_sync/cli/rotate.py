"""``fluxy-sync keys rotate``: re-seal what waits with another key, while the gateway works."""

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fluxy_sync.cli.exits import CommandFailed
from fluxy_sync.cli.output import json_option, make_console, print_json
from fluxy_sync.errors import ConfigError
from fluxy_sync.words import many

if TYPE_CHECKING:
    from fluxy_sync.engine import Engine
    from fluxy_sync.rotation import Progress, Rotation

HOW_IN_ENVIRONMENT = (
    "The ring stands in FLUXY_SYNC_KEYS: what waits is sealed anew with its first key, {key}. For a new key, put the "
    "output of 'fluxy-sync keys new' in front of the others, for every producer and worker, start them again, and run "
    "this once more."
)
GOES_ON = "A rotation is under way: it goes on with the key {key}, and no new one is made."
NEW_KEY = "The new key {key} stands in front of the others in {file}."


class Begun(NamedTuple):
    """A rotation's key, and whether it is a new one."""

    key: str
    added: bool
    sentence: str


@click.command(short_help="Seal everything that waits with a new key.")
@click.option("--retire", is_flag=True, help="Take the old keys out of the ring's file at the end.")
@click.option(
    "--broker-is-empty", is_flag=True, help="With --retire: no Celery message waits in a broker other than Redis."
)
@json_option
def rotate(retire: bool, broker_is_empty: bool, as_json: bool) -> None:
    """Seal everything that waits with a new key, while the gateway works.

    Makes a new key, unless a rotation is under way: one that was killed goes on where it was. With --retire the old
    keys leave the ring's file afterwards, into another one beside it; backups of the store need them.

    It refuses while a Celery message of a task of yours needs one of them: such a message is in no lane, and isn't
    re-sealed. A broker other than Redis can't be looked through: say --broker-is-empty once its queues are.

    \b
    Examples:
      fluxy-sync keys rotate
      fluxy-sync keys rotate --retire
    """
    from fluxy_sync.cli.access import open_engine, who
    from fluxy_sync.rotation import Rotation

    engine = open_engine()
    rotation = Rotation(engine, who())
    if retire and rotation.ring_file is None:
        raise ConfigError("--retire is for a ring in a file; take old keys out of FLUXY_SYNC_KEYS yourself")
    begun = begin(rotation, engine, retire)
    if not as_json:
        click.echo(begun.sentence)
    resealed, last = run(rotation)
    retired = _retire(rotation, broker_is_empty) if retire and _is_done(last) else []
    left = [one for one in engine.vault.key_ids if one != begun.key and one not in retired]
    if as_json:
        print_json(_document(begun, resealed, last, retired, left))
    else:
        _tell(resealed, last, retired, left, rotation)
    if not _is_done(last):
        raise CommandFailed("someone still seals with an old key: start all producers and workers again, then run this")


def begin(rotation: "Rotation", engine: "Engine", retire: bool) -> Begun:
    """Make a new key, unless the ring stands elsewhere, or records or old keys of an earlier rotation are left."""
    first, *old = engine.vault.key_ids
    if rotation.ring_file is None:
        return Begun(first, False, HOW_IN_ENVIRONMENT.format(key=first))
    # Where the ring can't be changed here, whoever put its first key there wants that one.
    if old and (retire or not rotation.is_writable or rotation.usage().keys() & set(old)):
        return Begun(first, False, GOES_ON.format(key=first))
    key = rotation.add_key()
    return Begun(key, True, NEW_KEY.format(key=key, file=rotation.ring_file))


def run(rotation: "Rotation") -> "tuple[int, Progress | None]":
    """Re-seal, with a bar for each pass on a terminal; how many were re-sealed, and how the last pass ended."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = make_console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    resealed: dict[int, int] = {}
    last = None
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Re-sealing", total=rotation.total())
        try:
            for last in rotation.run():
                resealed[last.number] = last.resealed
                what = f"Pass {last.number}: {sum(resealed.values()):,} re-sealed"
                bar.update(task, completed=last.looked_at, description=what)
        except KeyboardInterrupt:
            raise CommandFailed("stopped on the way; run it again, and it goes on where it was") from None
    return sum(resealed.values()), last


def _is_done(last: "Progress | None") -> bool:
    return last is None or not (last.resealed or last.left)


def _retire(rotation: "Rotation", vouched: bool) -> list[str]:
    try:
        return rotation.retire(vouched=vouched)
    except ConfigError as error:
        raise CommandFailed(str(error)) from error


def _document(
    begun: Begun, resealed: int, last: "Progress | None", retired: list[str], left: list[str]
) -> dict[str, Any]:
    return {
        "key": begun.key, "new_key": begun.added, "done": _is_done(last), "passes": last.number if last else 0,
        "resealed": resealed, "skipped": last.skipped if last else 0, "retired": retired, "old_keys": left,
    }  # fmt: skip


def _tell(resealed: int, last: "Progress | None", retired: list[str], left: list[str], rotation: "Rotation") -> None:
    if _is_done(last):
        click.echo(f"{many(resealed, 'record')} re-sealed; everything that can be opened is sealed by that key.")
    if last is not None and last.skipped:
        click.echo(f"{many(last.skipped, 'record')} can't be opened by any key of the ring: kept as they are.")
    if retired:
        click.echo(f"Retired: {', '.join(retired)}. Keep a copy as long as there are backups of the store.")
    elif left:
        by_hand = "take them out where the ring comes from"
        how = "'fluxy-sync keys rotate --retire' takes them out" if rotation.is_writable else by_hand
        click.echo(f"Old keys still in the ring: {', '.join(left)}; {how}.")
