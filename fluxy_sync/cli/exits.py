"""The one place that turns this library's errors into exit codes."""

from typing import IO, Any

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


class Failure(click.ClickException):
    """An error of this library, told in its one sentence on stderr."""

    def __init__(self, error: FluxySyncError) -> None:
        super().__init__(str(error))
        self.exit_code = exit_code_of(error)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"fluxy-sync: {self.message}", file=file, err=file is None)


class ErrorMappingGroup(click.Group):
    """A group whose commands may raise this library's errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FluxySyncError as error:
            raise Failure(error) from error
