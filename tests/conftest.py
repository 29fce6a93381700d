"""Real parts for every test: one store for the run, a namespace for each test, and workers as subprocesses."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Journal, Store, connect
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.upstream import Upstream

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a background job, or under nohup: what tests start would inherit that, and never end by Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


# Through the environment, so that the processes of pytest-xdist share it.
SEED = int(os.environ.setdefault("SEED", str(random.SystemRandom().randrange(2**32))))


def pytest_report_header() -> str:
    return f"seed of the random kills: {SEED} (give it again with SEED={SEED})"


def wait_until(condition: Callable[[], Any], timeout: float = 20.0, what: str = "") -> Any:
    """Look until the condition holds, and return what it gave; fail after ``timeout`` seconds."""
    ends = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > ends:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(0.01)


@contextlib.contextmanager
def ended(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Kill a process, and all that it started, where a test that failed has left it."""
    try:
        yield
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            for one in (process, *family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store that fsyncs each write, started by our own launcher; its address with the password."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as store:
        store.wait_ready()
        yield store.url


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def journal(store_url: str, namespace: str) -> Iterator[Journal]:
    """An empty journal of its own."""
    store = Store(connect(store_url))
    yield Journal(store, namespace)
    store.close()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    """A server that answers as it is told and records what arrives. It isn't running yet."""
    server = Upstream(tmp_path / "upstream.jsonl")
    yield server
    server.stop()


class Gateway:
    """The processes of one gateway, as subprocesses on a namespace of their own."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        self.environment = {f"FLUXY_SYNC_{name}": value for name, value in settings.items()}
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.worker_options: list[str] = []  # Celery's own
        self.launcher: list[str] = []  # a command that executes the one behind it, e.g. in a namespace

    def settings(self, **changes: Any) -> Settings:
        """The settings of this gateway, for a producer in the test's own process."""
        values = {name.removeprefix("FLUXY_SYNC_").lower(): value for name, value in self.environment.items()}
        return Settings(**(values | changes))

    def start(self, *roles: str, wait: bool = True, **environment: str) -> None:
        """Start roles ('worker', 'beat', or 'worker:NAME'), and wait until the workers consume."""
        for role in roles:
            self._spawn(role, environment)
        if wait:
            for role in roles:
                self.wait_for(role, " ready." if role.startswith("worker") else "beat: Starting")

    def _spawn(self, role: str, environment: dict[str, str]) -> None:
        kind, _, name = role.partition(":")
        more = {"FLUXY_SYNC_NODE": name or "one"} | environment
        with self.log_path(role).open("ab") as log:
            self.processes[role] = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "fluxy_sync.app", kind]
                + (self.worker_options if kind == "worker" else []),
                env={**os.environ, **self.environment, **more},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )

    def log_path(self, role: str) -> Path:
        return self.folder / f"{role.replace(':', '-')}.log"

    def log(self, role: str) -> str:
        return self.log_path(role).read_text() if self.log_path(role).exists() else ""

    def wait_for(self, role: str, text: str, timeout: float = 30.0) -> None:
        wait_until(lambda: text in self.log(role) or self._died(role), timeout, f"{role} never said {text!r}")

    def _died(self, role: str) -> bool:
        if self.processes[role].poll() is not None:
            raise AssertionError(f"{role} ended:\n{self.log(role)[-3000:]}")
        return False

    def kill(self, role: str) -> None:
        """End a role's parent by SIGKILL; its pool ends by itself."""
        process = self.processes.pop(role)
        process.kill()
        process.wait()

    def stop(self, role: str) -> int:
        """End a role in order; returns its exit code."""
        process = self.processes.pop(role)
        process.terminate()
        return process.wait(40)

    def close(self) -> None:
        """End everything that is left, pools included."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()


@pytest.fixture
def gateway(store_url: str, namespace: str, upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway without processes yet; its upstream isn't running yet either."""
    settings = {
        "REDIS_URL": store_url,
        "KEYS": new_key(),
        "UPSTREAM": upstream.url,
        "NAMESPACE": namespace,
        "DATA_DIR": str(tmp_path / "data"),
    }
    running = Gateway(settings, tmp_path)
    yield running
    running.close()
