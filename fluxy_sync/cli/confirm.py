"""Before something is destroyed: --yes, or a person who says so."""

import sys

import click

from fluxy_sync.cli.exits import CommandFailed, NotConfirmed


def confirm(question: str, yes: bool) -> None:
    """Return where the question is answered by yes.

    Raises:
        NotConfirmed: there is no terminal to ask on.
        CommandFailed: the answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed("this can't be undone: give --yes where there is no terminal to ask on; nothing changed")
    if not click.confirm(question, err=True):
        raise CommandFailed("nothing changed")
