"""Crashes: whatever is killed, nothing is lost, doubled with another key, or reordered.

No claim of a dead process is waited for. How soon it goes on is measured where nothing runs beside it:
``make chaos ARGS=restart``.
"""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from fluxy_sync import FluxySync, create_app
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal.journal import CLAIM_S
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream


def in_flight(upstream: Upstream, path: str) -> dict[str, object]:
    """The request that hangs at the upstream."""
    found: dict[str, object] = wait_until(lambda: next((r for r in upstream.requests() if r["path"] == path), None))
    return found


def test_a_killed_worker_is_replaced(gateway: Gateway, upstream: Upstream) -> None:
    """kill -9 in mid-request: sent again by the new worker, long before the claim ends, with the same key; in order."""
    upstream.start()
    upstream.script("/first", ["stall", 201])
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    first = sync.queue("POST", "/first", body={"n": 0})
    sync.queue("POST", "/second", body={"n": 1})
    in_flight(upstream, "/first")
    gateway.kill("worker")
    started = time.time()
    gateway.start("worker", wait=False)
    wait_until(lambda: sync.status().pending == 0)

    paths = [(r["path"], r["key"]) for r in upstream.requests()]
    assert paths[:2] == [("/first", first.id), ("/first", first.id)]
    assert paths[2][0] == "/second"
    assert upstream.requests()[1]["t"] - started < CLAIM_S / 2
    assert len({r["body"] for r in upstream.requests()[:2]}) == 1


def test_a_killed_pool_process_gives_its_lane_back(gateway: Gateway, upstream: Upstream) -> None:
    """kill -9 of the process in mid-request: its worker's steward gives the claim up at once."""
    upstream.start()
    upstream.script("/first", ["stall", 201])
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/first", body={"n": 0})
    in_flight(upstream, "/first")
    holder = next(iter(sync.engine.journal.holders()))[1]
    assert holder != gateway.processes["worker"].pid
    killed = time.time()
    os.kill(holder, signal.SIGKILL)
    wait_until(lambda: sync.status().pending == 0)
    assert len(upstream.requests()) == 2
    assert upstream.requests()[1]["t"] - killed < CLAIM_S / 2


def test_everything_dies_at_once(upstream: Upstream, gateway: Gateway, tmp_path: Path) -> None:
    """A reboot, the store included: what was accepted is delivered by the next life."""
    with EmbeddedStore(tmp_path / "reboot") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        upstream.script("/first", ["stall", 201])
        gateway.start("worker", "beat")
        sync = FluxySync(gateway.settings())
        sync.queue_many([{"method": "POST", "path": "/first"}, {"method": "POST", "path": "/second"}])
        in_flight(upstream, "/first")
        assert store.process is not None
        store.process.kill()
        gateway.kill("worker")
        gateway.kill("beat")
        store.process.wait()
        upstream.release(503)

        store.start()
        store.wait_ready()
        gateway.start("worker", "beat")
        wait_until(lambda: sync.status().pending == 0)
        assert [r["path"] for r in upstream.requests()] == ["/first", "/first", "/second"]
        assert sync.status().delivered_total == 2


def test_the_store_dies_and_comes_back_under_the_worker(upstream: Upstream, gateway: Gateway, tmp_path: Path) -> None:
    """kill -9 of the store in mid-request: the answer is settled when it is back; nothing is lost or reordered."""
    with EmbeddedStore(tmp_path / "killed") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        upstream.script("/first", ["stall"])
        gateway.start("worker", "beat")
        sync = FluxySync(gateway.settings())
        sync.queue_many([{"method": "POST", "path": "/first"}, {"method": "POST", "path": "/second"}])
        in_flight(upstream, "/first")
        assert store.process is not None
        store.process.kill()
        store.process.wait()
        upstream.release(201)
        store.start()
        store.wait_ready()
        wait_until(lambda: sync.status().pending == 0, 40)
        paths = [r["path"] for r in upstream.requests()]
        assert paths[-1] == "/second"
        assert paths.count("/second") == 1
        assert len({r["key"] for r in upstream.requests()}) == 2


def test_a_frozen_worker_sends_and_settles_nothing_stale(gateway: Gateway, upstream: Upstream) -> None:
    """SIGSTOP for longer than its claim while another takes over, then SIGCONT: its late settle is refused."""
    upstream.start()
    upstream.script("/first", ["stall", 201])
    gateway.start("worker:frozen", "beat")
    sync = FluxySync(gateway.settings())
    first = sync.queue("POST", "/first", body={"n": 0})
    sync.queue("POST", "/second", body={"n": 1})
    in_flight(upstream, "/first")
    frozen = gateway.processes["worker:frozen"]
    family = [frozen.pid, *(child.pid for child in psutil.Process(frozen.pid).children(recursive=True))]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        gateway.start("worker:other")
        wait_until(lambda: sync.status().pending == 0, 40)
        taken_over = [(r["path"], r["key"]) for r in upstream.requests()]
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)
    upstream.release(503)
    third = sync.queue("POST", "/third", body={"n": 2})
    wait_until(lambda: third.state == "gone")
    assert [path for path, _ in taken_over] == ["/first", "/first", "/second"]
    assert taken_over[1][1] == first.id
    assert [r["path"] for r in upstream.requests()] == ["/first", "/first", "/second", "/third"]
    fences = [int(str(r["fence"]).split(";")[0]) for r in upstream.requests()]
    assert fences[1] > fences[0]
    status = sync.status()
    assert (status.pending, status.dead, status.delivered_total) == (0, 0, 3)


def test_a_second_worker_of_one_name_refuses_to_start(gateway: Gateway, upstream: Upstream) -> None:
    """Two live workers of one node name would take each other for dead: the second says so and ends with code 2."""
    upstream.start()
    gateway.start("worker:twin")
    second = Gateway(
        {k.removeprefix("FLUXY_SYNC_"): v for k, v in gateway.environment.items()}, gateway.folder / "second"
    )
    second.folder.mkdir()
    second.start("worker:twin", wait=False)
    try:
        assert second.processes["worker:twin"].wait(30) == 2
        last = second.log("worker:twin").strip().splitlines()[-1]
        assert "a worker named twin is running on this machine already" in last
        assert "Traceback" not in second.log("worker:twin")
    finally:
        second.close()


def test_a_worker_stops_in_order(gateway: Gateway, upstream: Upstream) -> None:
    """SIGTERM in mid-drain: what is under way is settled, the rest stays, nothing is sent twice."""
    upstream.start()
    upstream.default({"status": 201, "delay_s": 0.05})
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue_many([{"method": "POST", "path": f"/{n}", "body": {"n": n}} for n in range(60)])
    wait_until(lambda: len(upstream.requests()) > 3)
    assert gateway.stop("worker") == 0
    status = sync.status()
    assert status.pending == 60 - len(upstream.requests())
    assert not status.is_syncing
    gateway.start("worker")
    wait_until(lambda: sync.status().pending == 0)
    assert [r["path"] for r in upstream.requests()] == [f"/{n}" for n in range(60)]


def test_worker_and_beat_may_start_before_their_store(upstream: Upstream, gateway: Gateway, tmp_path: Path) -> None:
    """After a reboot nothing comes in order: they wait for the store, and deliver once it is there."""
    with EmbeddedStore(tmp_path / "late") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        sync = FluxySync(gateway.settings())
        sync.queue("POST", "/waiting", body={})
        store.stop()
        gateway.start("worker", "beat", wait=False)
        gateway.wait_for("worker", "starts without its store")
        gateway.wait_for("beat", "goes on trying")
        store.start()
        store.wait_ready()
        wait_until(lambda: sync.status().pending == 0, 40)
        assert [r["path"] for r in upstream.requests()] == ["/waiting"]
        sync.engine.journal.store.close()


def test_a_worker_that_fails_says_so_by_its_exit_code(gateway: Gateway) -> None:
    """A supervisor that starts again only what failed must see that it did."""
    gateway.start("worker", wait=False, FLUXY_SYNC_IMPORTS="tests.dying_pool")
    assert gateway.processes["worker"].wait(30) > 0
    assert "Could not start worker processes" in gateway.log("worker")


@pytest.mark.parametrize("role", ["worker", "beat"])
def test_a_store_that_keeps_too_little_is_refused(
    upstream: Upstream, gateway: Gateway, tmp_path: Path, role: str
) -> None:
    """DURABILITY is checked against the store at the start: one sentence, exit code 2, no traceback."""
    with EmbeddedStore(tmp_path / "lax", appendfsync="everysec") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        gateway.start(role, wait=False)
        assert gateway.processes[role].wait(30) == 2
    said = gateway.log(role)
    assert "fluxy-sync: the store has 'appendfsync everysec', not 'always'" in said
    assert "Traceback" not in said


def test_a_worker_that_is_stopped_as_a_task_begins_does_not_wait_for_it(gateway: Gateway, tmp_path: Path) -> None:
    """SIGTERM after a task was handed to a process, before it took it: it runs once, and the worker ends at once.

    Celery's own consumer (5.7) would forget the task, and the process wait 30 s for somebody to read its result.
    """
    notes = tmp_path / "notes"
    gateway.worker_options = ["-l", "DEBUG", "-c", "1"]
    gateway.start("worker", FLUXY_SYNC_IMPORTS="tests.user_tasks", NOTES=str(notes))
    worker = gateway.processes["worker"]
    app = create_app(gateway.settings())
    inspect = app.control.inspect(timeout=0.2)
    app.send_task("user.plain", args=("before",))
    wait_until(notes.exists)
    wait_until(lambda: [*(inspect.active() or {}).values()] == [[]])  # its end was heard
    (process,) = psutil.Process(worker.pid).children()
    process.suspend()
    app.send_task("user.plain", args=("once",))
    wait_until(lambda: any((inspect.reserved() or {}).values()))
    wait_until(inspect.ping)  # it was written a turn of the loop later
    worker.terminate()
    gateway.wait_for("worker", "Worker: Stopping Pool")
    process.resume()
    assert worker.wait(20) == 0
    assert notes.read_text() == "plain ('before',)\nplain ('once',)\n"
