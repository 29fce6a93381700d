"""``fluxy-sync ls``: the operations that wait, and why."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fluxy_sync.cli.options import lane_option, limit_option
from fluxy_sync.cli.output import LONGEST_LANE, WIDE, Column, json_option, make_console, make_table, print_json
from fluxy_sync.operation import OWN_LANE_MARK
from fluxy_sync.words import duration, gate_text, many, reason_text, size_text, visible

if TYPE_CHECKING:
    from fluxy_sync.journal import Waiting
    from fluxy_sync.maintenance import Maintenance
    from fluxy_sync.status import Status

COLUMNS = (
    Column("operation"),
    Column("lane", below=True, wraps=True),
    Column("state"),
    Column("age", right=True),
    Column("size", right=True),
    Column("why, and when", below=True, wraps=True),
)
NAMED = 3  # lanes that are named of those that are held for the same
OWN_LANES = "without a lane"
PAGE = 500


class Shown(NamedTuple):
    """The first operations of a lane."""

    lane: str
    first: "list[Waiting]"
    total: int


class Listing(NamedTuple):
    """What waits, at about one moment: ``held`` gives for each held lane what it waits for."""

    lanes: list[Shown]
    more: int
    held: dict[str, tuple[str, ...]]
    status: "Status"


@click.command()
@lane_option("Only this one.")
@limit_option
@json_option
def ls(lane: str | None, limit: int, as_json: bool) -> None:
    """List the operations that wait, lane by lane, head first.

    The lanes that have waited longest come first, and each shows its share of --limit. A lane sends its head; what
    stands behind it waits for that.

    \b
    Examples:
      fluxy-sync ls
      fluxy-sync ls --lane user:42 --limit 500
      fluxy-sync ls --json | jq -r '.operations[] | select(.state == "retrying") | .id'
    """
    from fluxy_sync.cli.access import open_engine, open_maintenance
    from fluxy_sync.status import read_status

    engine = open_engine()
    found = look(open_maintenance(engine), lane, limit, read_status(engine.journal))
    if as_json:
        print_json(to_document(found, limit))
    else:
        show(found, lane)


def look(maintenance: "Maintenance", lane: str | None, limit: int, status: "Status") -> Listing:
    """Read at most ``limit`` operations; the queue is never read whole."""
    inventory = maintenance.inventory
    lanes = list(islice(maintenance.lanes(), limit)) if lane is None else [lane]
    counts = [inventory.count(name) for name in lanes]
    shown = [
        Shown(name, list(islice(_read(maintenance, name, share), share)), count)
        for name, count, share in zip(lanes, counts, share_out(counts, limit), strict=True)
        if count
    ]
    shown.sort(key=lambda one: is_own(one.lane))  # those without a lane stand together
    total = status.pending if lane is None else sum(counts)
    held = {name: why for name, why in inventory.held() if lane in (None, name)}
    return Listing(shown, max(0, total - sum(len(one.first) for one in shown)), held, status)


def is_own(lane: str) -> bool:
    """Whether an operation that asked for no lane has it to itself."""
    return lane.startswith(OWN_LANE_MARK)


def _read(maintenance: "Maintenance", lane: str, share: int) -> "Iterator[Waiting]":
    pages = maintenance.inventory.pages(lane, min(max(1, share), PAGE))
    return chain.from_iterable(page.waiting for page in pages)


def share_out(counts: Sequence[int], limit: int) -> list[int]:
    """Share ``limit`` places out: nobody gets more than he needs, and else all get the same, the first one more."""
    shares, left = [0] * len(counts), limit
    needy = [position for position, count in enumerate(counts) if count]
    while left and needy:
        each = max(1, left // len(needy))
        for position in needy[:left]:
            given = min(each, counts[position] - shares[position])
            shares[position] += given
            left -= given
        needy = [position for position in needy if counts[position] > shares[position]]
    return shares


def to_document(found: Listing, limit: int) -> dict[str, Any]:
    """The listing for machines."""
    return {
        "operations": [to_record(one) for shown in found.lanes for one in shown.first],
        "more": found.more,
        "held": [{"lane": lane, "why": list(why)} for lane, why in islice(found.held.items(), limit)],
        "held_lanes": len(found.held),
        "gate": found.status.gate,
        "reason": found.status.reason,
    }


def to_record(one: "Waiting") -> dict[str, Any]:
    """One waiting operation for machines; lengths of time in seconds, the size in bytes as the store has it."""
    return {
        "id": one.id, "lane": one.lane, "state": one.state, "age_s": one.age_s, "retries": one.retries,
        "last_error": _code(one.last_error), "next_try_in_s": one.next_try_in_s, "expires_in_s": one.expires_in_s,
        "halts": one.halts, "size": one.size, "key_id": one.key_id or None,
    }  # fmt: skip


def _code(reason: str) -> str | None:
    return None if reason in ("", "-") else reason


def show(found: Listing, lane: str | None) -> None:
    """The listing for people."""
    console = make_console(whole_lines=True)
    if found.lanes:
        rows = list(_rows(found.lanes, console.width >= WIDE, console.width))
        console.print(make_table(COLUMNS, rows, console.width), soft_wrap=not console.is_terminal)
    else:
        console.print(visible(f"Nothing waits{'' if lane is None else f' on lane {lane}'}."), markup=False)
    for line in notes(found):
        console.print(visible(line), markup=False, soft_wrap=not console.is_terminal)


def _rows(lanes: Sequence[Shown], wide: bool, width: int) -> Iterator[Sequence[str] | str]:
    before = ""
    for shown in lanes:
        own = is_own(shown.lane)
        heading = OWN_LANES if own else f"lane {shown.lane}: {many(shown.total, 'operation')}"
        if not wide and heading != before:
            yield heading
        before = heading
        name = ("-" if own else shorten(shown.lane, width)) if wide else ""
        for one in shown.first:
            yield one.id, name, one.state, duration(one.age_s), size_text(one.size), why(one)


def shorten(lane: str, width: int) -> str:
    """A lane's name that leaves room for the rest of its line."""
    return lane if len(lane) <= max(LONGEST_LANE, width - WIDE) else f"{lane[: LONGEST_LANE - 1]}…"


def why(one: "Waiting") -> str:
    """Why an operation hasn't left yet, and when it may."""
    parts = []
    if _code(one.last_error):
        parts.append(reason_text(one.last_error))
    if one.retries:
        parts.append(many(one.retries, "retry", "retries"))
    if one.next_try_in_s is not None and one.state != "syncing":
        parts.append(f"next try {in_time(one.next_try_in_s)}" if one.retries else _not_before(one.next_try_in_s))
    if one.expires_in_s is not None:
        parts.append(f"expires {in_time(one.expires_in_s)}" if one.expires_in_s > 0 else "has expired")
    return ", ".join(filter(None, parts))


def in_time(seconds: float) -> str:
    """How far away a moment is: ``in 12 s``, ``now``."""
    return f"in {duration(seconds)}" if round(seconds) > 0 else "now"


def _not_before(seconds: float) -> str:
    return f"not before {duration(seconds)} from now" if round(seconds) > 0 else ""


def notes(found: Listing) -> Iterator[str]:
    """What else there is to know: how many more, which lanes are held, and whether the gate is closed."""
    if found.more:
        yield f"{found.more:,} more wait; --limit shows more of them."
    yield from (held_line(causes, lanes) for causes, lanes in group_held(found.held).items())
    if closed := gate_text(found.status.gate, found.status.reason):
        yield f"The gate is {closed}: nothing is sent."


def group_held(held: dict[str, tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    """The held lanes, by what they wait for."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for lane, causes in held.items():
        groups.setdefault(causes, []).append(lane)
    return groups


def held_line(causes: Sequence[str], lanes: Sequence[str]) -> str:
    """Which lanes wait for the same, and for what."""
    named = ", ".join(lanes[:NAMED])
    rest = f" and {len(lanes) - NAMED:,} more" if len(lanes) > NAMED else ""
    verb = "Lane {} is" if len(lanes) == 1 else "Lanes {} are"
    return f"{verb.format(named + rest)} held: {', '.join(map(reason_text, causes))}."
