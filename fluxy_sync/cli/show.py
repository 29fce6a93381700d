"""``fluxy-sync show``: one operation, waiting or dead."""

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from fluxy_sync.cli.exits import CommandFailed
from fluxy_sync.cli.ls import in_time, to_record
from fluxy_sync.cli.options import id_argument, lane_option, reveal_option
from fluxy_sync.cli.output import clock, json_option, make_console, print_json, rfc3339
from fluxy_sync.operation import SYNC_OP, Operation
from fluxy_sync.words import duration, gate_text, many, reason_text, size_text, visible

if TYPE_CHECKING:
    from fluxy_sync.journal import DeadLetter, Waiting
    from fluxy_sync.maintenance import Found, Maintenance
    from fluxy_sync.status import Status

SHOWN_BYTES = 64  # of a body that isn't text


@click.command()
@id_argument
@lane_option("Where it waits; otherwise all lanes are looked through.")
@reveal_option
@json_option
def show(operation_id: str, lane: str | None, reveal: bool, as_json: bool) -> None:
    """Show one operation, waiting or dead.

    What it says (method, path, headers, body) stays sealed unless you ask for it with --reveal.

    \b
    Examples:
      fluxy-sync show 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d
      fluxy-sync show 01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d --reveal
      fluxy-sync show invoice-7 --reveal --json | jq -r .request.body
    """
    from fluxy_sync.cli.access import open_engine, open_maintenance
    from fluxy_sync.status import read_status

    engine = open_engine()
    maintenance = open_maintenance(engine)
    found = maintenance.find(operation_id, lane)
    if found is None:
        where = "" if lane is None else f" on lane {lane}"
        raise CommandFailed(
            f"no operation {operation_id} waits{where} or is dead: it was delivered or cancelled, or never queued"
        )
    tell(maintenance, found, reveal, as_json, read_status(engine.journal))


def tell(
    maintenance: "Maintenance", found: "Found", reveal: bool, as_json: bool, status: "Status | None" = None
) -> None:
    """Print an operation; what it says only with ``reveal``, and after the audit log has it."""
    from fluxy_sync.admin.acceptance import is_unaccepted

    if reveal and is_unaccepted(found.entry):
        from fluxy_sync.cli.unaccepted import tell_unaccepted

        tell_unaccepted(maintenance.examine(found.entry.id), as_json)
        return
    opened = maintenance.reveal(found) if reveal else None
    detail = maintenance.reveal_detail(found) if reveal else b""
    hindered = {} if status is None else _hindered(maintenance, found.entry, status)
    if as_json:
        print_json(_record(found.entry) | hindered | ({} if opened is None else _revealed(opened, detail)))
    else:
        _print(found.entry, hindered, opened, detail)


def _hindered(maintenance: "Maintenance", entry: "Waiting | DeadLetter", status: "Status") -> dict[str, Any]:
    """What keeps an operation from being sent: why its lane is held, and the gate."""
    from fluxy_sync.journal import DeadLetter

    if isinstance(entry, DeadLetter):
        return {}
    held = next((why for lane, why in maintenance.inventory.held() if lane == entry.lane), ())
    return {"held_for": list(held), "gate": status.gate, "gate_reason": status.reason}


# --- for machines


def _record(entry: "Waiting | DeadLetter") -> dict[str, Any]:
    from fluxy_sync.journal import DeadLetter

    return letter_record(entry) if isinstance(entry, DeadLetter) else to_record(entry)


def letter_record(letter: "DeadLetter") -> dict[str, Any]:
    """One dead letter for machines."""
    return {
        "id": letter.id, "lane": letter.lane, "state": "dead", "reason": letter.reason, "retries": letter.retries,
        "died_at": rfc3339(letter.died_at), "halts": letter.halts, "size": letter.size, "key_id": letter.key_id or None,
    }  # fmt: skip


def _revealed(operation: Operation, detail: bytes) -> dict[str, Any]:
    answer = {"detail": encoded(detail)} if detail else {}
    if operation.task != SYNC_OP:
        return {"task": {"name": operation.task} | as_call(operation), **answer}
    return request_record(operation) | answer


def as_call(operation: Operation) -> dict[str, Any]:
    """The arguments of an operation for machines."""
    call: dict[str, Any] = json.loads(json.dumps({"args": operation.args, "kwargs": operation.kwargs}, default=plain))
    return call


def request_record(operation: Operation) -> dict[str, Any]:
    """The request of a ``sync_op`` for machines."""
    method, path = operation.args
    headers, body = operation.kwargs.get("headers") or {}, operation.kwargs.get("body")
    shown_body = None if body is None else encoded(body)
    return {"request": {"method": method, "path": path, "headers": headers, "body": shown_body}}


def encoded(data: bytes) -> dict[str, str]:
    """Bytes in JSON: as text where they are UTF-8, else in base64."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def plain(value: Any) -> Any:
    """What JSON has no form for."""
    return encoded(bytes(value)) if isinstance(value, (bytes, bytearray, memoryview)) else repr(value)


# --- for people


def _print(entry: "Waiting | DeadLetter", hindered: Mapping[str, Any], opened: Operation | None, detail: bytes) -> None:
    from fluxy_sync.journal import DeadLetter

    print_pairs(letter_pairs(entry) if isinstance(entry, DeadLetter) else _waiting_pairs(entry, hindered))
    if opened is not None:
        click.echo()
        _print_opened(opened)
    if detail:
        _print_part("what was kept of the failure", detail)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns; without those that have none."""
    from rich.table import Table
    from rich.text import Text

    console = make_console(whole_lines=True)
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            table.add_row(Text(visible(name)), Text(visible(value)))
    console.print(table)


def _waiting_pairs(one: "Waiting", hindered: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "operation", one.id
    yield "lane", one.lane
    yield "state", one.state
    yield "lane is held", ", ".join(map(reason_text, hindered.get("held_for", ())))
    yield "gate", gate_text(hindered.get("gate", "open"), hindered.get("gate_reason", ""))
    yield "place", "the head" if one.index == 0 else f"behind about {many(one.index, 'other')}"
    yield "age", duration(one.age_s)
    yield "retries", f"{one.retries:,}"
    yield "last error", "" if one.last_error in ("", "-") else reason_text(one.last_error)
    yield "next try", "" if one.next_try_in_s is None else in_time(one.next_try_in_s)
    yield "expires", "" if one.expires_in_s is None else in_time(one.expires_in_s)
    yield from _both(one)


def letter_pairs(letter: "DeadLetter") -> Iterator[tuple[str, str]]:
    """What is known of a dead letter without a key."""
    from fluxy_sync.admin.acceptance import is_unaccepted

    yield "operation", letter.id
    yield "lane", letter.lane
    yield "state", "dead: never accepted, not sent" if is_unaccepted(letter) else "dead: kept, not sent"
    yield "why", reason_text(letter.reason)
    yield "died", f"{clock(letter.died_at)} UTC"
    yield "retries", f"{letter.retries:,}"
    yield from _both(letter)


def _both(entry: "Waiting | DeadLetter") -> Iterator[tuple[str, str]]:
    yield "if it dies", "its lane waits for someone" if entry.halts else ""
    yield "size", f"{size_text(entry.size)}, sealed{f' by key {entry.key_id}' if entry.key_id else ''}"


def _print_opened(operation: Operation) -> None:
    if operation.task != SYNC_OP:
        print_pairs([("task", operation.task)])
        call = {"args": operation.args, "kwargs": operation.kwargs}
        _print_part("arguments", json.dumps(call, default=plain).encode())
        return
    method, path = operation.args
    print_pairs([("request", f"{method} {path}")])
    headers = operation.kwargs.get("headers") or {}
    if headers:
        click.echo(f"\n{many(len(headers), 'header')}:")
    for name, value in headers.items():
        click.echo(f"{visible(name)}: {visible(value)}")
    body = operation.kwargs.get("body")
    if body is not None:
        _print_part("body", body)


def _print_part(name: str, data: bytes) -> None:
    click.echo(f"\n{name}, {many(len(data), 'byte')}:")
    click.echo(readable(data))


def readable(data: bytes) -> str:
    """Bytes as people read them: JSON laid out, other text as it is, else the first bytes in hex."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        more = f" and {len(data) - SHOWN_BYTES:,} bytes more" if len(data) > SHOWN_BYTES else ""
        return f"not text; {data[:SHOWN_BYTES].hex(' ')}{more} (--json gives all of it in base64)"
    with contextlib.suppress(ValueError, RecursionError):  # it isn't JSON
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return visible(text, keep="\n\t")
