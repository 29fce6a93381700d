"""A real link between two machines, with all that a cable, a radio or a router does to packets."""

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial, wait_until
from tests.chaos.trials.network import SOON, WORKERS
from tests.chaos.trials.timing import LINK_BACK_S, P95
from tests.chaos.wire import GATEWAY, MOVED, SERVER, Wire

Act = Callable[[Wire], object]
LOSS = ("-m", "statistic", "--mode", "random", "--probability")
RESET = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")


class Fault(NamedTuple):
    """What happens to the link, and how it ends. ``cut``: nothing gets through meanwhile."""

    name: str
    begin: Act
    end: Act
    cut: bool = True


def drops(*chains: str) -> Act:
    """All packets that way are lost, and nobody is told."""
    return lambda wire: [wire.filter(chain, "-j", "DROP") for chain in chains]


FAULTS = [
    Fault("the cable is out", Wire.pull, Wire.plug_in),
    Fault("the interface is down", Wire.switch_off, Wire.switch_on),
    Fault("nothing gets through", drops("INPUT", "OUTPUT"), Wire.pass_all),
    Fault("requests are lost", drops("OUTPUT"), Wire.pass_all),
    Fault("answers are lost", drops("INPUT"), Wire.pass_all),
    Fault("a router refuses", lambda wire: wire.filter("OUTPUT", "-j", "REJECT"), Wire.pass_all),
    Fault("a firewall resets", lambda wire: wire.filter("OUTPUT", *RESET), Wire.pass_all),
    Fault("a third of the packets is lost", lambda wire: [
        wire.filter(chain, *LOSS, "0.3", "-j", "DROP") for chain in ("INPUT", "OUTPUT")
    ], Wire.pass_all, cut=False),
    Fault("10 % resets", lambda wire: wire.filter("OUTPUT", *LOSS, "0.1", *RESET), Wire.pass_all, cut=False),
    Fault("another network", lambda wire: wire.move(MOVED), lambda wire: wire.move(GATEWAY), cut=False),
]  # fmt: skip


@trial()
def wire(run: Run) -> None:
    """On a real link, whatever happens to its packets, nothing is lost, order is kept, and it goes on at once.

    The gateway is a machine of its own, in a network namespace; faults are the kernel's: no carrier, no route, packets
    lost both ways or one way, with and without word of it, and an address that changes.
    """
    took = []
    with Wire() as link, Stage(run, **SOON) as stage:
        stage.upstream.host = SERVER
        stage.gateway.environment["FLUXY_SYNC_UPSTREAM"] = stage.upstream.url
        stage.gateway.launcher = link.launcher
        stage.upstream.start()
        for name in ("p1", "p2"):
            stage.produce(name, [f"{name}-{lane}" for lane in "abc"], every_s=run.scale(0.05, 0.1))
        stage.gateway.start(*WORKERS, "beat")
        for _ in range(run.scale(1, 20)):
            for fault in run.chance.sample(FAULTS, run.scale(5, len(FAULTS))):
                took += suffer(run, stage, link, fault)
        stage.end_producers()
        stage.drain()
        run.percentile("from the link's return to the first delivery", took, P95, "s", LINK_BACK_S)
        stage.judge()


def suffer(run: Run, stage: Stage, link: Wire, fault: Fault) -> list[float]:
    """One fault, until it is known and for a while; seconds from its end to the first delivery."""
    wait_until(lambda: (s := stage.snapshot()) and s.gate == "open" and not s.pending, 60, "a quiet moment")
    fault.begin(link)
    if not fault.cut:
        settle_down(run.chance.uniform(1.0, 2.0))
        fault.end(link)
        return []
    wait_until(lambda: (s := stage.snapshot()) and s.gate == "offline", 60, f"it to be noticed that {fault.name}")
    settle_down(run.chance.uniform(0.0, run.scale(1.0, 4.0)))
    arrived, back = len(stage.upstream.requests()), time.time()
    fault.end(link)
    wait_until(lambda: len(stage.upstream.requests()) > arrived, 60, f"a delivery after {fault.name}")
    return [float(stage.upstream.requests()[arrived]["t"] - back)]
