"""``fluxy-sync up`` on a store whose files are damaged: it starts by itself, and a person is told what that cost."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.app import create_app
from fluxy_sync.repair import REPAIRS_FILE
from tests.command_line import environment, fluxy_sync
from tests.conftest import ROOT, wait_until
from tests.upstream import Upstream


class Up:
    """``fluxy-sync up``, again and again on the same data."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.data, self.log_path = folder / "data", folder / "up.log"
        self.environment = environment(self.data, UPSTREAM=upstream.url, DASHBOARD_PORT="0")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_path.open("wb") as log:
            order = [sys.executable, "-m", "fluxy_sync", "up"]
            self.process = subprocess.Popen(order, env=self.environment, stdout=log, stderr=log, cwd=ROOT)
        wait_until(lambda: "fluxy-sync is up" in self.log_path.read_text(), 40)

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None


@pytest.fixture
def up(tmp_path: Path, upstream: Upstream) -> Iterator[Up]:
    running = Up(tmp_path, upstream)
    yield running
    running.end()


@pytest.fixture
def producer(up: Up, monkeypatch: pytest.MonkeyPatch) -> FluxySync:
    for name in list(os.environ):
        if name.startswith("FLUXY_SYNC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(up.data))
    return FluxySync(app=create_app())


@pytest.mark.parametrize("how", ["a flipped bit", "no manifest"])
def test_it_starts_and_says_what_was_lost(how: str, up: Up, upstream: Upstream, producer: FluxySync) -> None:
    """One line in the gateway's log, a warning of the doctor's until it is acknowledged; the rest is delivered."""
    up.start()
    with contextlib.suppress(StorageUnavailable):
        for n in range(9):
            producer.queue("POST", "/a", body={"n": n})
    up.end()
    folder = up.data / "store" / "appendonlydir"
    if how == "no manifest":
        (folder / "appendonly.aof.manifest").unlink()
    else:
        (path,) = folder.glob("*.incr.aof")
        data = bytearray(path.read_bytes())
        data[data.index(b"RPUSH", len(data) // 2) - 3] ^= 8
        path.write_bytes(data)
    up.start()
    said = [line for line in up.log_path.read_text().splitlines() if "were damaged and have been repaired" in line]
    assert len(said) == 1
    assert said[0].startswith("gateway   | the store's files")
    told = fluxy_sync("doctor", env=up.environment)
    assert "at most" in told.stdout or "nothing lost" in told.stdout
    assert "delete" in told.stdout
    (up.data / REPAIRS_FILE).unlink()
    assert "have been repaired" not in fluxy_sync("doctor", env=up.environment).stdout
    upstream.start()
    wait_until(lambda: producer.status().pending == 0, 40)
    assert {request["path"] for request in upstream.requests()} >= {"/a"}
    assert len({request["key"] for request in upstream.requests()}) >= 8
