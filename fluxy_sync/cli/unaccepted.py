"""How a dead letter that was never accepted is shown: all that would be sealed, nothing left out or rearranged."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fluxy_sync.cli.output import print_json
from fluxy_sync.cli.show import (
    as_call,
    letter_pairs,
    letter_record,
    plain,
    print_pairs,
    request_record,
)
from fluxy_sync.operation import SYNC_OP
from fluxy_sync.words import many, visible

if TYPE_CHECKING:
    from fluxy_sync.admin.acceptance import Unaccepted

EDGE = "| "  # in front of each line of what came: no line of it can pass for one of ours
HEX_BYTES = 32  # in a line


def tell_unaccepted(found: "Unaccepted", as_json: bool) -> None:
    """Print all that would be sealed if it were accepted, and the digest that stands for that."""
    if as_json:
        print_json(_record(found))
        return
    print_pairs(letter_pairs(found.letter))
    click.echo("\nIt was never accepted, and nobody knows who sent it. This is all that would be sent:\n")
    for line in _lines(found):
        click.echo(line)
    click.echo(f"\nTo accept exactly this:\n  fluxy-sync dead accept {found.letter.id} --digest {found.digest}")


def _record(found: "Unaccepted") -> dict[str, Any]:
    is_request = found.task == SYNC_OP
    call = request_record(found.operation) if is_request else as_call(found.operation)
    return letter_record(found.letter) | {"task": found.task, **call, "digest": found.digest}


def _lines(found: "Unaccepted") -> Iterator[str]:
    yield f"task: {visible(found.task)}"
    if found.task != SYNC_OP:
        call = {"args": found.args, "kwargs": found.kwargs}
        yield "arguments:"
        yield from _edged(json.dumps(call, default=plain, indent=2))
        return
    method, path = found.args
    headers, body = found.kwargs.get("headers") or {}, found.kwargs.get("body")
    yield f"request: {visible(method)} {visible(path)}"
    yield f"{many(len(headers), 'header')} of its own{':' if headers else ''}"
    yield from (f"{EDGE}{visible(name)}: {visible(value)}" for name, value in headers.items())
    yield "no body" if body is None else f"body, {many(len(body), 'byte')}:"
    yield from _edged(_as_text(body or b""))


def _as_text(body: bytes) -> str:
    """As it is: JSON laid out anew could hide a key that is there twice."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "\n".join(body[at : at + HEX_BYTES].hex(" ") for at in range(0, len(body), HEX_BYTES))


def _edged(text: str) -> Iterator[str]:
    return (EDGE + visible(line, keep="\t") for line in text.split("\n")) if text else iter(())
