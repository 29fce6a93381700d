"""Somebody else answers in the upstream's place: a captive portal, or a server with a wrong certificate."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.chaos.certificates import certificates
from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage, settle_down
from tests.chaos.trial import Run, trial, wait_until
from tests.referee import Verdict, operation_id, was_delivered
from tests.upstream import Upstream

PAGE = {"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>Please log in</html>"}
CLOSES = {"headers": {"Connection": "close"}, "ending": "close"}
BARE = {"status": 200, "headers": {"Content-Type": "text/plain"}, "body": "OK"}
OURS = "X-Upstream", "chaos"  # what only the upstream says, for PROBE_EXPECT
SIGNED = {"status": 200, "headers": dict([OURS])}
UNDER_WAY_S = 0.2  # what was sent before needs so long at most to arrive
EXPECT = f"header={OURS[0]}: {OURS[1]}"


class Place(NamedTuple):
    """A gateway, whose link may lead to a portal."""

    run: Run
    stage: Stage
    proxy: Proxy
    portal: Upstream
    certificate: str  # the upstream's; empty without TLS

    def lead_home(self) -> None:
        """To the upstream, as it should be."""
        self.proxy.set(certificate=self.certificate)

    @property
    def taken(self) -> set[str]:
        """Ids of operations that the portal took as if it were the upstream."""
        return {operation_id(one["key"]) for one in self.portal.requests() if was_delivered(one)}


@contextlib.contextmanager
def place(run: Run, answer: Any, bundle: str = "", certificate: str = "", **settings: str) -> Iterator[Place]:
    """Everything runs, operations are queued and delivered, and the link still leads to the upstream."""
    with contextlib.ExitStack() as ends:
        stage = ends.enter_context(Stage(run, **settings))
        proxy = ends.enter_context(Proxy(stage.upstream.port, run.seed))
        portal = ends.enter_context(Upstream(stage.folder / "portal.jsonl"))
        portal.default(answer)
        portal.probe(answer)
        upstream = proxy.url.replace("http:", "https:") if certificate else proxy.url
        stage.gateway.environment["FLUXY_SYNC_UPSTREAM"] = upstream
        if bundle:
            stage.gateway.environment["FLUXY_SYNC_CA_BUNDLE"] = bundle
        found = Place(run, stage, proxy, portal, certificate)
        found.lead_home()
        stage.upstream.start()
        stage.upstream.probe(SIGNED)
        stage.gateway.start("worker:one", "beat")
        for name in ("p1", "p2"):
            stage.produce(name, [f"{name}-{lane}" for lane in "ab"], every_s=0.05)
        wait_until(lambda: stage.upstream.requests(), 20, "deliveries")
        yield found


def wait_offline(stage: Stage, *reasons: str) -> None:
    """Until the gate is closed, and why."""

    def is_offline() -> bool:
        snapshot = stage.snapshot()
        return snapshot is not None and snapshot.gate == "offline" and snapshot.reason.partition(":")[0] in reasons

    wait_until(is_offline, 20, f"to be offline: {reasons}")


def finish(here: Place, *, given_away: bool = False) -> Verdict:
    """The link leads home for good: all is delivered, and judged. ``given_away``: but for what the portal took."""
    here.lead_home()
    here.stage.end_producers()
    here.stage.drain()
    taken = here.taken if given_away else set()
    here.portal.record.unlink()  # a file with the bodies in clear, of the harness's own
    dead = [letter.reason for letter in here.stage.sync.dead_letters()]
    here.run.figure("dead letters", len(dead), at_most=0)
    return here.stage.judge(undecided=taken)


def visit(run: Run, here: Place, *reasons: str, times: int) -> None:
    """The portal comes up at any moment of deliveries, stays until it is noticed and a little longer, and goes."""
    for _ in range(times):
        arrived = len(here.stage.upstream.requests())
        wait_until(lambda n=arrived: len(here.stage.upstream.requests()) > n + 3, 60, "deliveries before the portal")
        settle_down(run.chance.uniform(0.0, 0.3))
        here.proxy.set(target=here.portal.port)
        wait_offline(here.stage, *reasons)
        settle_down(run.chance.uniform(0.0, 0.5))
        here.lead_home()


@trial()
def portal_https(run: Run) -> None:
    """A captive portal answers 200 with HTML in place of an upstream with TLS: it is given nothing, nothing is lost."""
    bundle, right, wrong = certificates(run.folder)
    with place(run, PAGE, str(bundle), right) as here:
        for _ in range(run.scale(1, 20)):
            here.proxy.set(target=here.portal.port, certificate=wrong["another authority's"])
            wait_offline(here.stage, "tls")
            settle_down(run.chance.uniform(0.2, 1.0))
            here.lead_home()
            wait_until(lambda: here.stage.snapshot().gate == "open", 20, "the gate to open")  # type: ignore[union-attr]
        run.figure("requests that the portal got", len(here.portal.requests()), at_most=0)
        finish(here)


@trial()
def portal_redirect(run: Run) -> None:
    """A captive portal redirects everything, over plain HTTP: nothing is lost, without any setting."""
    with place(run, "redirect") as here:
        visit(run, here, "captive-portal", times=run.scale(2, 60))
        run.figure("operations that the portal met", len(here.portal.requests()))
        run.figure("operations that it took", len(here.taken), at_most=0)
        finish(here)


@trial()
def portal_page(run: Run) -> None:
    """A captive portal answers 200 with HTML to everything, over plain HTTP: with PROBE_EXPECT nothing is lost.

    Not even what was sent before a probe noticed: a page is only taken for a delivery after a probe of its own.
    """
    with place(run, PAGE, PROBE_EXPECT=EXPECT) as here:
        visit(run, here, "wrong-answer-200", times=run.scale(2, 60))
        run.figure("operations that the portal met", len(here.portal.requests()))
        finish(here)


@trial()
def portal_bare(run: Run) -> None:
    """The gap: a portal that says 200 without a page is given what is sent before a probe notices; nothing after.

    What it took is lost, and is counted: nothing tells such an answer from the upstream's. Use HTTPS. With
    PROBE_EXPECT a probe is made each PROBE_INTERVAL_S, 2 s here, also while deliveries seem to succeed.
    """
    with place(run, BARE, PROBE_EXPECT=EXPECT, PROBE_INTERVAL_S="2") as here:
        here.stage.upstream.default(CLOSES)  # no connection is cut, and each operation needs one
        stood, times = [], run.scale(1, 20)
        for _ in range(times):
            began = time.monotonic()
            here.proxy.set(target=here.portal.port, gently=True)
            wait_offline(here.stage, "wrong-answer-200")
            stood.append(time.monotonic() - began)
            wait_until(lambda: (s := here.stage.snapshot()) and not s.syncing, 20, "flights to land")
            met = len(here.portal.requests())
            settle_down(run.chance.uniform(0.5, 1.0))
            run.check(len(here.portal.requests()) == met, "the portal was given something after it was noticed")
            here.lead_home()
            arrived = len(here.stage.upstream.requests())
            wait_until(lambda n=arrived: len(here.stage.upstream.requests()) > n, 60, "deliveries after the portal")
        run.figure("longest until a portal was noticed", max(stood), "s", at_most=6)
        run.figure(f"operations lost to {times} portals that say 200 without a page", len(here.taken))
        finish(here, given_away=True)


@trial()
def certificate(run: Run) -> None:
    """A certificate that is expired, another's or nobody's: nothing is sent, all is kept, and it heals by itself."""
    bundle, right, wrong = certificates(run.folder)
    with place(run, PAGE, str(bundle), right) as here:
        for _ in range(run.scale(1, 20)):
            for path in wrong.values():
                here.proxy.set(certificate=path)
                since = time.time() + UNDER_WAY_S
                wait_offline(here.stage, "tls")
                settle_down(run.chance.uniform(0.3, 1.0))
                arrived = here.stage.upstream.requests()
                late = [one for one in [*arrived, *here.stage.upstream.probes()] if one["t"] > since]
                run.check(not late, f"something was sent in spite of a certificate that is {path}: {late[:1]}")
                here.lead_home()
                count = len(arrived)
                wait_until(lambda n=count: len(here.stage.upstream.requests()) > n, 20, "a delivery after it")
        finish(here)
