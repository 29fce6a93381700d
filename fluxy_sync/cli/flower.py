"""``fluxy-sync flower``: the dashboard alone, until Ctrl-C."""

import click


@click.command(short_help="Run the dashboard alone.", context_settings={"ignore_unknown_options": True})
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="[default: FLUXY_SYNC_DASHBOARD_PORT]")
@click.option("--address", metavar="ADDRESS", help="Listen here.  [default: 127.0.0.1]")
@click.option("--read-only", is_flag=True, help="Show everything, change nothing.")
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED, metavar="[--FLOWERS-OWN=VALUE]...")
def flower(port: int | None, address: str | None, read_only: bool, flower_options: tuple[str, ...]) -> None:
    """Run the dashboard alone until Ctrl-C: what waits and why, with replay, drop, pause and resume.

    'fluxy-sync up' has one already; this is for a gateway without one, or beside another machine's store. It listens on
    the loopback interface and asks for a password, which is made on the first start and kept in FLUXY_SYNC_DATA_DIR.
    All options of Flower can be given, as --name=value or as FLOWER_* variables. It needs no keys: it shows no payload.

    \b
    Examples:
      fluxy-sync flower
      fluxy-sync flower --port 8080 --read-only
      FLOWER_BASIC_AUTH=ann:secret fluxy-sync flower --address 0.0.0.0
      fluxy-sync flower --url_prefix=flower --xheaders=true
    """
    from fluxy_sync.app import keyless_app
    from fluxy_sync.dashboard import serve
    from fluxy_sync.host.handover import close_to_others
    from fluxy_sync.settings import load_settings

    close_to_others()
    settings = load_settings()
    _ = settings.store_url
    given = {"port": port, "address": address, "read_only": "true" if read_only else None}
    ours = [f"--{name}={value}" for name, value in given.items() if value is not None]
    serve(keyless_app(settings), [*flower_options, *ours])
