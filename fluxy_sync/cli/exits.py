"""The one place that turns this library's errors into exit codes."""

from typing import Any

import click

from fluxy_sync.errors import ConfigError, FluxySyncError, InvalidOperation, StorageUnavailable
from fluxy_sync.escaping import visible

FAILED = 1
WRONG_USAGE = 2
STORE_UNREACHABLE = 3


class CommandFailed(FluxySyncError):
    """A command could not do what it was asked for, e.g. as there is no such operation."""


class NotConfirmed(FluxySyncError):
    """A command would destroy something, and nobody is there to confirm it."""


# The first class that fits counts; their subclasses are meant, too.
EXIT_CODES: tuple[tuple[type[FluxySyncError], int], ...] = (
    (ConfigError, WRONG_USAGE),
    (InvalidOperation, WRONG_USAGE),
    (NotConfirmed, WRONG_USAGE),
    (StorageUnavailable, STORE_UNREACHABLE),
    (FluxySyncError, FAILED),
)


def exit_code_of(error: FluxySyncError) -> int:
    """The exit code that tells this error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


class OrderedGroup(click.Group):
    """A group that lists its commands in the order in which they were added: as one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class ErrorMappingGroup(OrderedGroup):
    """A group whose commands may raise this library's errors: one sentence on stderr, and the exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FluxySyncError as error:
            click.echo(f"fluxy-sync: {visible(str(error))}", err=True)
            ctx.exit(exit_code_of(error))
