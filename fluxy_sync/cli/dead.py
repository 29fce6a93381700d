"""``fluxy-sync dead``: the operations that gave up, and what to do with them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import click

from fluxy_sync.cli.confirm import confirm
from fluxy_sync.cli.exits import CommandFailed, OrderedGroup
from fluxy_sync.cli.options import (
    all_option,
    dead_id_argument,
    dead_ids_argument,
    lane_option,
    limit_option,
    reveal_option,
    yes_option,
)
from fluxy_sync.cli.output import Column, clock, json_option, make_console, make_table, print_json
from fluxy_sync.cli.progress import progress_bar
from fluxy_sync.cli.show import letter_record, tell
from fluxy_sync.words import many, reason_text, size_text, visible

if TYPE_CHECKING:
    from fluxy_sync.journal import DeadLetter
    from fluxy_sync.maintenance import Maintenance

COLUMNS = (
    Column("operation"),
    Column("lane", below=True, wraps=True),
    Column("died (UTC)"),
    Column("size", right=True),
    Column("why", below=True, wraps=True),
    Column("retries", right=True),
)


@click.group(cls=OrderedGroup)
def dead() -> None:
    """See, replay or drop the operations that gave up; accept what was never accepted.

    \b
    Examples:
      fluxy-sync dead ls
      fluxy-sync dead show 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d --reveal
      fluxy-sync dead replay --all
    """


# --- dead ls


@dead.command()
@lane_option("Only those of this one.")
@limit_option
@json_option
def ls(lane: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters in the order in which they died.

    \b
    Examples:
      fluxy-sync dead ls
      fluxy-sync dead ls --lane user:42
      fluxy-sync dead ls --json | jq -r '.dead[] | select(.reason == "422") | .id'
    """
    from fluxy_sync.cli.access import open_engine, open_maintenance

    engine = open_engine()
    letters = (one for one in open_maintenance(engine).dead_letters() if lane in (None, one.lane))
    first = list(islice(letters, limit))
    more = max(0, engine.journal.snapshot().dead - len(first)) if lane is None else sum(1 for _ in letters)
    if as_json:
        print_json({"dead": [letter_record(one) for one in first], "more": more})
    else:
        _print(first, more)


def _print(letters: "Sequence[DeadLetter]", more: int) -> None:
    console = make_console(whole_lines=True)
    if not letters:
        console.print("There are no dead letters.")
        return
    console.print(make_table(COLUMNS, map(_row, letters), console.width), soft_wrap=not console.is_terminal)
    if more:
        console.print(f"{more:,} more; --limit shows more of them.")


def _row(one: "DeadLetter") -> tuple[str, ...]:
    return one.id, one.lane, clock(one.died_at), size_text(one.size), reason_text(one.reason), f"{one.retries:,}"


# --- dead show


@dead.command()
@dead_id_argument
@reveal_option
@json_option
def show(operation_id: str, reveal: bool, as_json: bool) -> None:
    """Show one dead letter.

    With --reveal also what it says, and the first bytes of the answer that refused it.

    \b
    Examples:
      fluxy-sync dead show 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d
      fluxy-sync dead show 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d --reveal
    """
    from fluxy_sync.cli.access import open_maintenance

    maintenance = open_maintenance()
    found = maintenance.find_dead(operation_id)
    if found is None:
        raise CommandFailed(f"no dead letter has the id {operation_id}; see 'fluxy-sync dead ls'")
    tell(maintenance, found, reveal, as_json)


# --- dead replay


@dead.command()
@dead_ids_argument
@all_option
@click.option(
    "--to", type=click.Choice(["tail", "head"]), default="tail", show_default=True,
    help="Behind what waits in its lane, or in front of it.",
)  # fmt: skip
@click.option("--body", metavar="TEXT|@FILE|-", help="Another body, for one operation: it gets a new idempotency key.")
@json_option
def replay(
    ids: tuple[str, ...], everything: bool, to: Literal["head", "tail"], body: str | None, as_json: bool
) -> None:
    """Put dead letters back into their lanes, in their original order.

    Those that were never accepted (they came unsealed, or for another place) stay: see 'fluxy-sync dead accept'.

    \b
    Examples:
      fluxy-sync dead replay 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d
      fluxy-sync dead replay 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d --body '{"title": "hello"}'
      fluxy-sync dead replay --all --to head
    """
    chosen = choose(ids, everything)
    if body is not None and (chosen is None or len(chosen) > 1):
        raise click.UsageError("--body is for one dead letter.")
    data = _new_body(body)
    from fluxy_sync.cli.access import open_engine, open_waking

    total = count_chosen(open_engine(), chosen)
    with progress_bar("Replaying", total) as advance:
        count = open_waking(advance).replay(chosen, end=to, **data)
    report(count, total, chosen, "replayed", "back on their lanes" if count != 1 else "back on its lane", as_json)


def _new_body(argument: str | None) -> dict[str, Any]:
    from fluxy_sync.cli.queue import read_body

    data = read_body(argument)
    return {} if data is None else {"body": data.encode() if isinstance(data, str) else data}


# --- dead accept


@dead.command()
@dead_id_argument
@click.option("--digest", metavar="SHA256", required=True, help="Of what 'dead show ID --reveal' showed.")
@json_option
def accept(operation_id: str, digest: str, as_json: bool) -> None:
    """Accept a message that came unsealed or for another place: it is sent, with the gateway's credentials.

    Anybody who can write to the broker can have sent it. Read it first: 'fluxy-sync dead show ID --reveal' shows all
    that would be sent, and its digest. It becomes a new operation at the end of its lane, with a new id; that goes into
    the audit log.

    \b
    Examples:
      fluxy-sync dead show unaccepted-6f1c0b5f2c7f4a7db6a3f0a9d6f3c1e2 --reveal
      fluxy-sync dead accept unaccepted-6f1c0b5f2c7f4a7db6a3f0a9d6f3c1e2 --digest sha256:9f86d0...
    """
    from fluxy_sync.cli.access import open_waking

    accepted_id = open_waking().accept(operation_id, digest)
    if as_json:
        print_json({"accepted": operation_id, "id": accepted_id})
    else:
        click.echo(f"{operation_id} was accepted as operation {accepted_id}.")


# --- dead drop


@dead.command()
@dead_ids_argument
@all_option
@yes_option
@json_option
def drop(ids: tuple[str, ...], everything: bool, yes: bool, as_json: bool) -> None:
    """Delete dead letters for good.

    \b
    Examples:
      fluxy-sync dead drop 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d --yes
      fluxy-sync dead drop --all --yes
    """
    chosen = choose(ids, everything)
    from fluxy_sync.cli.access import open_engine, open_waking

    total = count_chosen(open_engine(), chosen)
    confirm(f"Delete {many(total, 'dead letter')} for good?", yes)
    with progress_bar("Deleting", total) as advance:
        count = open_waking(advance).drop(chosen)
    report(count, total, chosen, "dropped", "deleted", as_json)


# --- which ones


def choose(ids: Iterable[str], everything: bool) -> list[str] | None:
    """The ids that are meant, each once; None for all.

    Raises:
        click.UsageError: both were given, or neither.
    """
    chosen = list(dict.fromkeys(ids))
    if bool(chosen) == everything:
        raise click.UsageError("Name dead letters by their ids, or give --all.")
    return None if everything else chosen


def count_chosen(engine: Any, chosen: Sequence[str] | None) -> int:
    """How many are meant.

    Raises:
        CommandFailed: one of them isn't there.
    """
    if chosen is None:
        return int(engine.journal.snapshot().dead)
    from fluxy_sync.cli.access import open_maintenance

    missing = list(_missing(open_maintenance(engine), chosen))
    if missing:
        raise CommandFailed(
            f"no dead letter has the id {', '.join(missing)}; nothing changed; see 'fluxy-sync dead ls'"
        )
    return len(chosen)


def _missing(maintenance: "Maintenance", ids: Iterable[str]) -> Iterator[str]:
    return (one for one in ids if maintenance.inventory.find_letter(one) is None)


def report(count: int, total: int, chosen: Sequence[str] | None, verb: str, done: str, as_json: bool) -> None:
    """Say how many went.

    Raises:
        CommandFailed: fewer than were named.
    """
    if as_json:
        print_json({verb: count})
    else:
        verb = "is" if count == 1 else "are"
        click.echo(visible(f"{many(count, 'dead letter')} {verb} {done}."))
    if chosen is not None and count < total:
        raise CommandFailed(f"{total - count:,} of {total:,} went away meanwhile, or can't be put back")
