"""``fluxy-sync up``: a gateway on this machine, until Ctrl-C."""

import sys
from io import TextIOWrapper

import click


@click.command()
@click.option("--dashboard/--no-dashboard", default=None, help="Start Flower as well.  [default: if it is installed]")
def up(dashboard: bool | None) -> None:
    """Run a gateway until Ctrl-C: the store, the sync worker, beat and the dashboard.

    Without FLUXY_SYNC_REDIS_URL it keeps a store of its own under FLUXY_SYNC_DATA_DIR.

    \b
    Examples:
      FLUXY_SYNC_UPSTREAM=https://api.example.com fluxy-sync up
      FLUXY_SYNC_UPSTREAM=https://api.example.com FLUXY_SYNC_DATA_DIR=/var/lib/fluxy-sync fluxy-sync up
    """
    import os

    from fluxy_sync.gateway import Gateway, is_secret
    from fluxy_sync.host.handover import close_to_others, wipe
    from fluxy_sync.settings import read_environment

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name in letters that the terminal lacks ends no gateway
    close_to_others()
    gateway = Gateway(read_environment(), dashboard=dashboard)
    wipe(os.environ, [name for name in os.environ if is_secret(name)])
    raise SystemExit(gateway.run())
