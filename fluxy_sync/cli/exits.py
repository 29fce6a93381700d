"""The one place that turns this library's errors into exit codes."""

from typing import Any

import click

from fluxy_sync.errors import ConfigError, FluxySyncError, InvalidOperation, StorageUnavailable

FAILED = 1
WRONG_USAGE = 2
STORE_UNREACHABLE = 3

# The first class that fits counts; their subclasses are meant, too.
EXIT_CODES: tuple[tuple[type[FluxySyncError], int], ...] = (
    (ConfigError, WRONG_USAGE),
    (InvalidOperation, WRONG_USAGE),
    (StorageUnavailable, STORE_UNREACHABLE),
    (FluxySyncError, FAILED),
)


def exit_code_of(error: FluxySyncError) -> int:
    """The exit code that tells this error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


class ErrorMappingGroup(click.Group):
    """A group whose commands may raise this library's errors: one sentence on stderr, and the exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FluxySyncError as error:
            click.echo(f"fluxy-sync: {error}", err=True)
            ctx.exit(exit_code_of(error))
