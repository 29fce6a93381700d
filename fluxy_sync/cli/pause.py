"""``fluxy-sync pause`` and ``resume``: stop sending, and go on."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from fluxy_sync.cli.exits import CommandFailed
from fluxy_sync.cli.options import lane_option
from fluxy_sync.cli.output import clock, json_option, print_json, rfc3339
from fluxy_sync.cli.progress import waiting_for
from fluxy_sync.words import gate_text, reason_text, visible

if TYPE_CHECKING:
    from fluxy_sync.maintenance import Maintenance

LONGEST_FLIGHT_S = 35.0  # the default total deadline of a request, and some


@click.command(short_help="Send nothing more, until resume.")
@lane_option("Only this one.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=LONGEST_FLIGHT_S, show_default=True, metavar="SECONDS",
    help="How long to wait for what is in flight.",
)  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Don't wait for it.")
@json_option
def pause(lane: str | None, wait_s: float, no_wait: bool, as_json: bool) -> None:
    """Send nothing more, of one lane or of all, until 'fluxy-sync resume'.

    What is queued meanwhile is accepted and waits. Says when the last request in flight has landed; ends with 1 where
    it hasn't within --wait.

    \b
    Examples:
      fluxy-sync pause && systemctl restart api
      fluxy-sync pause --lane photos --no-wait
    """
    from fluxy_sync.cli.access import open_maintenance

    maintenance = open_maintenance()
    done = maintenance.pause(lane)
    if not as_json:
        click.echo(visible(f"{what(lane)} is paused{'' if done.changed else ' already'}: nothing more is sent."))
    landing = Landing(done.landed, 0.0) if done.landed or no_wait else wait_for_landing(maintenance, lane, wait_s)
    if as_json:
        at = rfc3339(datetime.now(UTC)) if landing.landed else None
        print_json({"changed": done.changed, "landed": landing.landed, "landed_at": at, "waited_s": landing.waited_s})
    elif landing.landed or no_wait:
        click.echo(landing.sentence())
    if not (landing.landed or no_wait):
        raise CommandFailed(f"a request is still in flight after {wait_s:g} s; the pause holds")


class Landing(NamedTuple):
    """Whether the last request in flight has landed, and how long that was waited for."""

    landed: bool
    waited_s: float

    def sentence(self) -> str:
        """The same for people."""
        if not self.landed:
            return "A request is still in flight."
        return (
            f"The last request landed at {clock(datetime.now(UTC))} UTC." if self.waited_s else "Nothing is in flight."
        )


def wait_for_landing(maintenance: "Maintenance", lane: str | None, wait_s: float) -> Landing:
    """Wait so long for what is in flight."""
    began = time.monotonic()
    with waiting_for("Waiting for what is in flight; Ctrl-C ends the waiting, not the pause"):
        landed = maintenance.landed(lane, wait_s)
    return Landing(landed, round(time.monotonic() - began, 3))


def what(lane: str | None) -> str:
    """What is paused, in words."""
    return "The gate" if lane is None else f"Lane {lane}"


@click.command()
@lane_option("Only this one.")
@json_option
def resume(lane: str | None, as_json: bool) -> None:
    """End a pause, of one lane or of all.

    \b
    Examples:
      fluxy-sync resume
      fluxy-sync resume --lane photos
    """
    from fluxy_sync.cli.access import open_engine, open_maintenance, open_waking
    from fluxy_sync.status import read_status

    changed = open_waking().resume(lane)
    engine = open_engine()
    status = read_status(engine.journal)
    held = open_maintenance(engine).inventory.held() if lane is not None else ()
    causes = next((why for name, why in held if name == lane), ())
    if as_json:
        print_json({"changed": changed, "gate": status.gate, "held_for": list(causes)})
        return
    click.echo(visible(f"{what(lane)} {'is paused no more' if changed else 'was not paused; nothing changed'}."))
    if causes:
        click.echo(visible(f"It is held: {', '.join(map(reason_text, causes))}."))
    if closed := gate_text(status.gate, status.reason):
        click.echo(visible(f"The gate is {closed}: nothing is sent yet."))
