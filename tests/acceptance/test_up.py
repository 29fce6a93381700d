"""``fluxy-sync up``: the whole gateway on one machine, and producers that need no setting at all."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.app import create_app
from tests.conftest import ROOT, wait_until
from tests.upstream import Upstream


class Up:
    """``fluxy-sync up`` as a subprocess."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.data = folder / "data"
        self.log_path = folder / "up.log"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUXY_SYNC_")}
        self.environment |= {"FLUXY_SYNC_DATA_DIR": str(self.data), "FLUXY_SYNC_UPSTREAM": upstream.url}
        self.environment["FLUXY_SYNC_DASHBOARD_PORT"] = "0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fluxy_sync", "up"], env=self.environment, stdout=log, stderr=log, cwd=ROOT
            )

    def children(self) -> dict[str, psutil.Process]:
        """Its children by role."""
        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline())
                found |= {role: child for role in ("valkey", "worker", "beat") if role in line and role not in found}
        return found

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture
def up(tmp_path: Path, upstream: Upstream) -> Iterator[Up]:
    running = Up(tmp_path, upstream)
    yield running
    running.end()


@pytest.fixture
def producer(up: Up, monkeypatch: pytest.MonkeyPatch) -> FluxySync:
    """A producer on the same machine: it knows the data directory, and nothing else."""
    for name in list(os.environ):
        if name.startswith("FLUXY_SYNC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(up.data))
    return FluxySync(app=create_app())


def test_a_producer_may_start_before_its_gateway(up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """Until a gateway runs, StorageUnavailable says how to start one; then the same producer works as it is."""
    with pytest.raises(StorageUnavailable, match="fluxy-sync up"):
        producer.queue("POST", "/early", body={})
    upstream.start()
    up.start()
    wait_until(lambda: accepts(producer), 30)
    wait_until(upstream.requests)
    assert (up.data / "keys").stat().st_mode & 0o777 == 0o600
    assert (up.data / "gateway.json").stat().st_mode & 0o777 == 0o600
    told = json.loads((up.data / "gateway.json").read_text())
    assert told["max_bytes"] > 0


def accepts(producer: FluxySync) -> bool:
    with contextlib.suppress(StorageUnavailable):
        producer.queue("POST", "/early", body={})
        return True
    return False


def test_the_supervisor_is_killed_and_started_again(up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """kill -9 of the supervisor in mid-request: all its children end; the next start delivers with the same key."""
    upstream.start()
    upstream.script("/first", ["stall", 201])
    up.start()
    wait_until(lambda: accepts_first(producer), 30)
    wait_until(lambda: [r for r in upstream.requests() if r["path"] == "/first"])
    family = list(up.children().values())
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not any(is_alive(p) for p in family), 20, "its children end")
    up.start()
    wait_until(lambda: len(upstream.requests()) >= 2, 30)
    assert len({r["key"] for r in upstream.requests()}) == 1
    wait_until(lambda: pending(producer) == 0)


def test_supervisor_and_guard_are_killed_together(up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """The worker that they leave ends in its own time: the next start waits for that, and comes up by itself."""
    upstream.start()
    upstream.script("/first", ["stall", 201])
    up.start()
    wait_until(lambda: accepts_first(producer), 30)
    wait_until(lambda: [r for r in upstream.requests() if r["path"] == "/first"])
    worker = up.children()["worker"]
    assert up.process is not None
    supervisor = psutil.Process(up.process.pid)
    supervisor.suspend()  # else it may start another guard before it dies, too, and that one ends the worker
    for child in supervisor.children():
        if "guard.py" in " ".join(child.cmdline()):
            child.kill()
    up.process.kill()
    up.process.wait()
    up.start()
    wait_until(lambda: "it is waited for" in up.log_path.read_text(), 20)
    assert is_alive(worker)
    upstream.release(201)
    wait_until(lambda: accepts(producer), 20)
    wait_until(lambda: any(r["path"] == "/early" for r in upstream.requests()), 30)
    assert up.process.poll() is None


def accepts_first(producer: FluxySync) -> bool:
    with contextlib.suppress(StorageUnavailable):
        producer.queue("POST", "/first", body={"n": 0}, id="first")
        return True
    return False


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def pending(producer: FluxySync) -> int:
    with contextlib.suppress(StorageUnavailable):
        return producer.status().pending
    return -1


def test_each_child_is_started_again(up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """kill -9 of store, worker and beat: the supervisor restarts each, and operations go on arriving in order."""
    upstream.start()
    up.start()
    wait_until(lambda: accepts(producer), 30)
    for n, role in enumerate(("worker", "beat", "valkey")):
        wait_until(lambda role=role: role in up.children(), 20)
        up.children()[role].kill()
        wait_until(lambda n=n: queued(producer, n), 20)
        wait_until(lambda n=n: any(r["path"] == f"/{n}" for r in upstream.requests()), 30, f"/{n} after {role} died")
    assert [r["path"] for r in upstream.requests()] == ["/early", "/0", "/1", "/2"]


def test_the_ballast_comes_back_while_it_runs(up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """The disk was full, and has room again: the ballast is laid without a restart, for the next time."""
    upstream.start()
    up.start()
    wait_until(lambda: accepts(producer), 30)
    ballast = up.data / "ballast"
    size = ballast.stat().st_size
    os.truncate(ballast, 0)
    wait_until(lambda: accepts(producer) and ballast.stat().st_size == size > 0, 20)


def queued(producer: FluxySync, n: int) -> bool:
    with contextlib.suppress(StorageUnavailable):
        producer.queue("POST", f"/{n}", body={"n": n}, id=f"op{n}")
        return True
    return False


def test_it_stops_in_order_and_refuses_a_second_start(up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """A second start on the same data says who is there, with code 2; SIGINT ends everything, with code 0."""
    upstream.start()
    up.start()
    wait_until(lambda: accepts(producer), 30)
    wait_until(lambda: "worker" in up.children(), 20)
    second = subprocess.run(
        [sys.executable, "-m", "fluxy_sync", "up"],
        env=up.environment,
        capture_output=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    assert second.returncode == 2
    assert b"Traceback" not in second.stderr
    assert up.process is not None
    wait_until(upstream.requests)
    family = list(up.children().values())
    started = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert time.monotonic() - started < 40
    assert not any(is_alive(p) for p in family)
    assert not (up.data / "gateway.json").exists()
