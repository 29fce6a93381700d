"""A terminal that was stopped by Ctrl-S, or a pipe that nobody reads: the gateway goes on without it."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.app import create_app
from tests.conftest import ROOT, wait_until
from tests.upstream import Upstream

CTRL_S, CTRL_Q = b"\x13", b"\x11"
OPERATIONS = 3000


class Output:
    """What `up` writes to: its own end, and ours."""

    def __init__(self, kind: str) -> None:
        self.ours, self.its = pty.openpty() if kind == "terminal" else os.pipe()
        if kind == "terminal":
            os.write(self.ours, CTRL_S)
        self.kind = kind

    def read_all(self) -> str:
        """What comes once it is read again."""
        if self.kind == "terminal":
            os.write(self.ours, CTRL_Q)
        text = b""
        while select.select([self.ours], [], [], 1.0)[0]:
            with contextlib.suppress(OSError):
                text += os.read(self.ours, 1 << 16)
        return text.decode(errors="replace")


@pytest.fixture(params=["pipe", "terminal"])
def output(request: pytest.FixtureRequest) -> Iterator[Output]:
    made = Output(request.param)
    yield made
    for number in (made.ours, made.its):
        os.close(number)


@pytest.fixture
def up(output: Output, upstream: Upstream, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLUXY_SYNC_")}
    ours = {
        "FLUXY_SYNC_DATA_DIR": str(tmp_path / "data"),
        "FLUXY_SYNC_UPSTREAM": upstream.url,
        "FLUXY_SYNC_LOG_LEVEL": "DEBUG",
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "fluxy_sync", "up", "--no-dashboard"],
        env=kept | ours,
        stdin=subprocess.DEVNULL,
        stdout=output.its,
        stderr=output.its,
        cwd=ROOT,
    )
    yield running
    if running.poll() is None:
        running.kill()
        running.wait()


def test_a_blocked_output_stops_nothing(
    up: "subprocess.Popen[bytes]",
    output: Output,
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of operations with their DEBUG lines are delivered, and what was held is shown once it is read."""
    for name in [name for name in os.environ if name.startswith("FLUXY_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path / "data"))
    producer = FluxySync(app=create_app())
    upstream.start()

    def queue() -> bool:
        with contextlib.suppress(StorageUnavailable):
            producer.queue_many([{"method": "POST", "path": "/a", "lane": f"l{n % 8}"} for n in range(OPERATIONS)])
            return True
        return False

    wait_until(queue, 30)
    wait_until(lambda: producer.status().delivered_total == OPERATIONS, 60)
    assert up.poll() is None
    assert "fluxy-sync is up" in output.read_all()
    if output.kind == "terminal":
        os.write(output.ours, CTRL_S)
    producer.queue("POST", "/last")
    wait_until(lambda: producer.status().delivered_total == OPERATIONS + 1)
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
