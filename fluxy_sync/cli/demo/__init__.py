"""``fluxy-sync demo``: the main job, for real, on one machine, and judged at the upstream."""

import click

from fluxy_sync.cli.exits import FAILED
from fluxy_sync.cli.output import json_option, make_console, print_json


@click.command()
@click.option("--exit", "and_exit", is_flag=True, help="End when all is judged, without the dashboard.")
@json_option
def demo(and_exit: bool, as_json: bool) -> None:
    """Show it: queue while the upstream is down, kill workers, bring the upstream up, and judge what arrived.

    It runs on a store, a namespace, ports and a directory of its own, and removes them when it ends. Then the
    dashboard stays until Ctrl-C; with --exit, or --json, which prints what was judged, it ends by itself. The exit
    code is 0 only if everything arrived, once or again with the same key, and in order.

    \b
    Examples:
      fluxy-sync demo
      fluxy-sync demo --exit
    """
    from fluxy_sync.cli.demo.stage import Stage
    from fluxy_sync.cli.demo.story import Story

    console = make_console(stderr=as_json)
    with Stage(dashboard=not (and_exit or as_json)) as stage:
        story = Story(stage, console)
        judgement = story.tell()
        if as_json:
            print_json(judgement.to_dict())
        elif not and_exit:
            story.leave_dashboard()
    raise SystemExit(0 if judgement.holds else FAILED)
