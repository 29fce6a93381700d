"""The main job: the link goes, operations wait; the link comes back, they arrive in order.

How soon is measured where nothing runs beside it: ``make chaos ARGS=link-back``.
"""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

from fluxy_sync import FluxySync
from tests.conftest import ROOT, Gateway, wait_until
from tests.referee import judge
from tests.upstream import Upstream


def produce(gateway: Gateway, name: str, count: int, lanes: str, record: Path) -> "subprocess.Popen[bytes]":
    arguments = ["--name", name, "--count", str(count), "--lanes", lanes, "--record", str(record)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.producer", *arguments], env={**gateway.environment, "PATH": ""}, cwd=ROOT
    )


def accepted_of(*records: Path) -> list[tuple[str, str, int]]:
    lines = [json.loads(line) for record in records for line in record.read_text().splitlines()]
    return [(line["id"], line["lane"], line["n"]) for line in lines]


def test_a_thousand_operations_wait_for_the_link_and_arrive_in_order(
    gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    """Upstream down: all are accepted, hardly any is tried; upstream up: all arrive, each lane in order, at once."""
    gateway.start("worker", "beat")
    records = [tmp_path / f"accepted-{i}.jsonl" for i in range(4)]
    producers = [produce(gateway, f"p{i}", 250, "a,b,c", record) for i, record in enumerate(records)]
    assert [p.wait(60) for p in producers] == [0, 0, 0, 0]

    sync = FluxySync(gateway.settings())
    status = sync.status()
    assert (status.pending, status.lanes, status.gate, status.online) == (1000, 3, "offline", False)
    assert gateway.log("worker").count("refused") <= 2 + 1, (
        "one attempt for each pool process, and one line for the gate"
    )

    upstream.start()
    back = time.time()
    wait_until(lambda: sync.status().pending == 0, 60)
    received = upstream.requests()
    assert received[0]["t"] - back < gateway.settings().probe_interval_s, "it was not the link's return that woke them"
    # What one producer queued on a lane has an order that is known outside the store.
    for record in records:
        accepted = accepted_of(record)
        ids = {operation_id for operation_id, _, _ in accepted}
        verdict = judge(accepted, [r for r in received if r["key"] in ids])
        assert verdict.ok, str(verdict)
    assert len(received) == 1000


def test_it_wakes_by_itself_without_beat(gateway: Gateway, upstream: Upstream) -> None:
    """Beat is dead and stays dead: the workers' stewards notice the link's return within 7 s."""
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/one", body={"n": 1})
    wait_until(lambda: sync.status().gate == "offline")
    gateway.kill("beat")
    upstream.start()
    back = time.time()
    wait_until(upstream.requests)
    assert upstream.requests()[0]["t"] - back < 7.0


def test_a_failing_operation_is_retried_with_backoff_and_holds_only_its_lane(
    gateway: Gateway, upstream: Upstream
) -> None:
    """503 three times: four tries with one key, attempts 1-4, pauses within [d/2, d]; only its lane waits for it."""
    upstream.start()
    upstream.script("/flaky", [503, 503, 503, 201])
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue_many([{"method": "POST", "path": f"/other/{n}", "lane": f"free{n}"} for n in range(5)])
    first = sync.queue("POST", "/flaky", body={"n": 0}, lane="slow")
    sync.queue("POST", "/behind", body={"n": 1}, lane="slow")
    wait_until(lambda: sync.status().pending == 0, 30)

    tries = [r for r in upstream.requests() if r["path"] == "/flaky"]
    assert [r["attempt"] for r in tries] == [1, 2, 3, 4]
    assert {r["key"] for r in tries} == {first.id}
    assert len({r["body"] for r in tries}) == 1
    pauses = [later["mono"] - earlier["mono"] for earlier, later in itertools.pairwise(tries)]
    for pause, d in zip(pauses, (1.0, 2.0, 4.0), strict=True):
        assert d / 2 <= pause <= d + 0.25, pauses  # and the moment that a request takes
    order = [r["path"] for r in upstream.requests()]
    assert order.index("/behind") == len(order) - 1
    assert all(order.index(f"/other/{n}") < order.index("/flaky") + 4 for n in range(5))


def test_a_worker_that_starts_while_the_gate_is_closed_delivers_nothing(gateway: Gateway, upstream: Upstream) -> None:
    """The gate is read before anything is consumed."""
    upstream.start()
    sync = FluxySync(gateway.settings())
    sync.engine.journal.close_gate("paused", "by-a-test")
    sync.queue("POST", "/held", body={})
    gateway.start("worker", "beat")
    gateway.wait_for("beat", "beat: Starting")
    wait_until(lambda: len(upstream.probes()) >= 1)
    assert upstream.requests() == []
    assert sync.status().gate == "paused"
    sync.engine.journal.open_gate("paused")
    wait_until(upstream.requests)


def test_two_namespaces_on_one_store_never_touch_each_other(
    gateway: Gateway, upstream: Upstream, store_url: str, tmp_path: Path
) -> None:
    """A worker of one namespace leaves the other's operations alone, and its gate, too."""
    upstream.start()
    other = Gateway({key.removeprefix("FLUXY_SYNC_"): value for key, value in gateway.environment.items()}, tmp_path)
    other.environment["FLUXY_SYNC_NAMESPACE"] += "b"
    theirs, ours = FluxySync(other.settings()), FluxySync(gateway.settings())
    waiting = theirs.queue("POST", "/theirs", body={})
    gateway.start("worker", "beat")
    ours.queue("POST", "/ours", body={})
    wait_until(lambda: ours.status().delivered_total == 1)
    ours.engine.journal.close_gate("paused", "by-a-test")
    assert [r["path"] for r in upstream.requests()] == ["/ours"]
    assert waiting.state == "pending"
    assert theirs.status().gate == "open"
