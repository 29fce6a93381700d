"""A gateway as ``fluxy-sync up`` runs it: store, worker, beat and dashboard under one supervisor, for one trial."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import requests

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore, free_port
from fluxy_sync.gateway import DASHBOARD_PASSWORD_FILE, DASHBOARD_USER
from tests.chaos.stage import Stage
from tests.chaos.trial import Broken, Run, wait_until
from tests.conftest import ROOT

UP_S = 40.0
READY = "fluxy-sync is up"
PARTS = {"store": "valkey", "worker": "worker", "beat": "beat", "dashboard": "flower", "guard": "guard.py"}


class Supervised(Stage):
    """A stage on which ``up`` runs everything, with data of its own. Producers know the data directory, nothing else.

    Attributes:
        data: the data directory; ``store`` only tells the address of the store in it.
        process: ``fluxy-sync up``.
    """

    def __init__(self, run: Run, data: Path | None = None, **settings: str) -> None:
        super().__init__(run, **settings)
        self.data = data or self.folder / "data"
        self.store = EmbeddedStore(self.data)
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = self.folder / "up.log"
        self._port = free_port()
        given = self.gateway.environment
        del given["FLUXY_SYNC_REDIS_URL"], given["FLUXY_SYNC_KEYS_FILE"]
        given |= {"FLUXY_SYNC_DATA_DIR": str(self.data), "FLUXY_SYNC_DASHBOARD_PORT": str(self._port)}

    def __enter__(self) -> Self:
        self._ends.callback(self._close)
        return self

    def _close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(UP_S)
        super()._close()

    @property
    def sync(self) -> FluxySync:
        """Works once ``up`` has made its keys."""
        if self._sync is None:
            settings = self.gateway.settings(redis_url=self.store.url, keys_file=self.data / "keys")
            self._sync = FluxySync(settings)
        return self._sync

    # --- the supervisor

    def start(self, *, wait: bool = True) -> None:
        """Start it (again)."""
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "fluxy_sync", "up"]
            environment = {**os.environ, **self.gateway.environment}
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        if wait:
            self.wait_up(self.count_ups() + 1)

    def wait_up(self, ups: int) -> None:
        """Wait until it has said so often, since the trial began, that all is up."""
        wait_until(lambda: self.count_ups() >= ups or self._failed(), UP_S, "fluxy-sync up is ready")

    def count_ups(self) -> int:
        """How often it has said that all is up."""
        return self.log.count(READY)

    @property
    def log(self) -> str:
        """What it and its children have written."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _failed(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise Broken(f"fluxy-sync up ended with {self.process.returncode}: {self.log[-500:]}")
        return False

    def kill(self) -> None:
        """SIGKILL to the supervisor alone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    # --- what it runs

    def part(self, name: str) -> psutil.Process | None:
        """One of PARTS, if it lives now."""
        return next((child for child in self._children() if _runs(child, PARTS[name])), None)

    def pool(self) -> list[psutil.Process]:
        """The processes of the worker's pool."""
        worker = self.part("worker")
        with suppress(psutil.NoSuchProcess):
            return worker.children() if worker is not None else []
        return []

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children() if self.process is not None else []
        return []

    def read_dashboard(self) -> dict[str, Any]:
        """What ``GET /api/sync`` answers; nothing while it is away."""
        password = (self.data / DASHBOARD_PASSWORD_FILE).read_text().strip()
        try:
            answer = requests.get(f"http://127.0.0.1:{self._port}/api/sync", auth=(DASHBOARD_USER, password), timeout=5)
        except requests.RequestException:
            return {}
        record: dict[str, Any] = answer.json() if answer.ok else {}
        return record


def _runs(process: psutil.Process, word: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        line = process.cmdline()
        return any(word in Path(part).name for part in line[:1] + line[2:])  # the interpreter's -m has no name
    return False
