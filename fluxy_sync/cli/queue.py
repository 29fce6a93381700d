"""``fluxy-sync queue``: accept one operation."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from fluxy_sync.cli import suggest
from fluxy_sync.cli.output import json_option, print_json
from fluxy_sync.errors import InvalidOperation
from fluxy_sync.operation import DEFAULT_LANE, JsonBody

PLAIN_TEXT = "text/plain; charset=utf-8"


@click.command()
@click.argument("method")
@click.argument("path")
@click.option("--body", metavar="TEXT|@FILE|-", help="Text (JSON is sent as such), a file's bytes, or stdin's.")
@click.option("--header", "headers", metavar="K:V", multiple=True, help="A header of the request; may be repeated.")
@click.option(
    "--lane",
    default=DEFAULT_LANE,
    show_default=True,
    shell_complete=suggest.lanes,
    help="Operations of one lane keep their order.",
)
@click.option("--id", help="Its idempotency key.  [default: a new UUID]")
@click.option("--once", metavar="KEY", help="While an operation with this key waits, it stands for this one.")
@click.option(
    "--expires",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="If it wasn't sent by then, it becomes a dead letter.",
)
@click.option(
    "--on-dead",
    type=click.Choice(["go_on", "halt"]),
    help="If it becomes a dead letter, its lane goes on, or waits for someone.  [default: FLUXY_SYNC_ON_DEAD]",
)
@click.option("--keep-result", is_flag=True, help="Keep the answer, for a program that asks for it.")
@json_option
def queue(method: str, path: str, body: str | None, headers: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Queue one HTTP request; when this returns, it is on disk, sealed.

    PATH is below the upstream, or an absolute URL to an allowed origin.

    \b
    Examples:
      fluxy-sync queue POST /api/posts --body '{"title": "hi"}'
      fluxy-sync queue PUT /photos/7 --body @photo.jpg --header 'Content-Type: image/jpeg' --lane photos
      sensor-read | fluxy-sync queue POST /api/readings --body - --lane sensor:7 --expires 3600
      fluxy-sync queue POST /api/orders --body @order.json --once order:42 --on-dead halt
    """
    given = parse_headers(headers)
    data = read_body(body)
    if isinstance(data, str):
        given, data = with_content_type(given, PLAIN_TEXT), data.encode()
    from fluxy_sync.client import FluxySync

    operation = FluxySync(via="cli").queue(method, path, body=data, headers=given or None, **options)
    if as_json:
        print_json({"id": operation.id, "lane": operation.lane})
    else:
        click.echo(f"{operation.id} is queued on lane {operation.lane}")


def parse_headers(lines: Sequence[str]) -> dict[str, str]:
    """Read ``K:V`` lines.

    Raises:
        InvalidOperation: a line has no colon, or a header is given twice.
    """
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise InvalidOperation("write a header as 'Name: value'; nothing was accepted")
        if name.lower() in map(str.lower, headers):
            raise InvalidOperation(f"the header {name!r} is given twice; give it once; nothing was accepted")
        headers[name] = value.strip(" \t")
    return headers


def with_content_type(headers: dict[str, str], content_type: str) -> dict[str, str]:
    """The headers, with a content type unless they name one."""
    named = any(name.lower() == "content-type" for name in headers)
    return headers if named else {**headers, "Content-Type": content_type}


def read_body(argument: str | None) -> bytes | str | None:
    """The body that ``--body`` means: JSON text as JsonBody, other text as it is, a file's or stdin's bytes.

    Raises:
        InvalidOperation: the text isn't Unicode, or it is JSON with NaN or infinity.
        click.BadParameter: the file can't be read.
    """
    if argument is None:
        return None
    if argument == "-":
        return sys.stdin.buffer.read()
    if argument.startswith("@"):
        return _read_file(argument[1:])
    return _read_text(argument)


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise click.BadParameter(
            f"{path!r} can't be read ({reason}); nothing was accepted", param_hint="--body"
        ) from None


def _read_text(text: str) -> bytes | str:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InvalidOperation("the body isn't UTF-8 text; pass bytes with @FILE or -; nothing was accepted") from None
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidOperation):
            raise
        return text
    return JsonBody(data)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidOperation(
        f"the body has {name}, which JSON doesn't know; write null or a number, or pass other text with @FILE; "
        "nothing was accepted"
    )
