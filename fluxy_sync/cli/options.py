"""Options and arguments that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from fluxy_sync.cli import suggest
from fluxy_sync.errors import InvalidOperation
from fluxy_sync.operation import OWN_LANE_MARK, check_lane, check_operation_id

DEFAULT_LIMIT = 50
MOST_SHOWN = 1_000_000_000

Command = TypeVar("Command", bound=Callable[..., Any])


def _lane(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The name of a lane that may be there; those of operations without a lane begin with '~'."""
    try:
        if value is not None:
            check_lane(value.removeprefix(OWN_LANE_MARK), "")
    except InvalidOperation:
        raise click.BadParameter("a lane's name is text of 1 to 200 bytes without control characters") from None
    return value


def _id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The id of an operation that may be there."""
    try:
        return check_operation_id(value)
    except InvalidOperation:
        raise click.BadParameter(
            "an operation's id is 1 to 200 printable ASCII characters without quote, backslash and space"
        ) from None


def _ids(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_id(context, parameter, value) for value in values)


def lane_option(text: str) -> Callable[[Command], Command]:
    """``--lane``, which knows the lanes that are there."""
    return click.option("--lane", metavar="LANE", help=text, callback=_lane, shell_complete=suggest.lanes)


limit_option = click.option(
    "--limit",
    type=click.IntRange(1, MOST_SHOWN),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="Show at most so many.",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask.")
reveal_option = click.option(
    "--reveal", is_flag=True, help="Show method, path, headers and body; that goes into the audit log."
)
id_argument = click.argument("operation_id", metavar="ID", callback=_id)
dead_id_argument = click.argument("operation_id", metavar="ID", callback=_id, shell_complete=suggest.dead_letters)
dead_ids_argument = click.argument(
    "ids", metavar="[ID]...", nargs=-1, callback=_ids, shell_complete=suggest.dead_letters
)
all_option = click.option("--all", "everything", is_flag=True, help="All dead letters.")
