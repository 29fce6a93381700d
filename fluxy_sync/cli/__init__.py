"""The ``fluxy-sync`` command. What a command needs is imported when it runs, so that ``--help`` answers at once."""

import click

from fluxy_sync import __version__
from fluxy_sync.cli.audit import audit
from fluxy_sync.cli.cancel import cancel
from fluxy_sync.cli.clear import clear
from fluxy_sync.cli.completion import completion
from fluxy_sync.cli.dead import dead
from fluxy_sync.cli.demo import demo
from fluxy_sync.cli.doctor import doctor
from fluxy_sync.cli.exits import ErrorMappingGroup
from fluxy_sync.cli.flower import flower
from fluxy_sync.cli.keys import keys
from fluxy_sync.cli.ls import ls
from fluxy_sync.cli.pause import pause, resume
from fluxy_sync.cli.queue import queue
from fluxy_sync.cli.show import show
from fluxy_sync.cli.status import status
from fluxy_sync.cli.up import up
from fluxy_sync.cli.watch import watch

PROGRAM = "fluxy-sync"


@click.group(cls=ErrorMappingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """A durable, offline-first sync engine for edge gateways.

    Settings come from FLUXY_SYNC_* variables. On the machine of a running gateway, no setting is needed.

    \b
    Examples:
      FLUXY_SYNC_UPSTREAM=https://api.example.com fluxy-sync up
      fluxy-sync queue POST /api/posts --body '{"title": "hi"}'
      fluxy-sync status
      fluxy-sync ls
      fluxy-sync dead replay --all

    Exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 3 the store is unreachable.
    """


for command in (
    up, demo, queue, status, watch, doctor, ls, show, dead, cancel, clear, pause, resume, audit, keys, flower,
    completion,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Run the command line, and exit."""
    cli.main(prog_name=PROGRAM)
