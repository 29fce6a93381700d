"""Where the demo plays: a directory, an upstream and a gateway of its own, all gone when it ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit

from fluxy_sync import guard
from fluxy_sync.cli.demo.upstream import Upstream
from fluxy_sync.cli.exits import FAILED
from fluxy_sync.errors import FluxySyncError
from fluxy_sync.host.files import open_to_read, read_private
from fluxy_sync.settings import ENV_PREFIX

if TYPE_CHECKING:
    from fluxy_sync.client import FluxySync

PATIENCE_S = 45.0  # for one step, on a slow and busy machine
LOOK_S = 0.02
STOP_S = 45.0
LAST_LINES = 15
NODE = "demo"
UP = "fluxy-sync is up"
READY = f"sync@{NODE} ready."
_DASHBOARD = re.compile(r"dashboard (http://\S+)")
_ENDS = (signal.SIGTERM, signal.SIGHUP)


class DemoFailed(FluxySyncError):
    """A step of the demo didn't come true in time."""


class Login(NamedTuple):
    """How to open the dashboard."""

    url: str
    user: str
    password: str


class Stage:
    """To be entered by the main thread of a process that does nothing else: its environment becomes the demo's."""

    def __init__(self, *, dashboard: bool) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="fluxy-demo-"))
        self.namespace = f"demo-{uuid.uuid4().hex[:8]}"
        self.upstream = Upstream()
        self._dashboard = dashboard
        self._gateway: subprocess.Popen[bytes] | None = None
        self._lines: list[str] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _ENDS:
            self._handlers[number] = signal.signal(number, _interrupt)
        _enter_environment(self.home, self.namespace, self.upstream.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _unless_interrupted():
            self._stop_gateway()
            self.upstream.close()
            shutil.rmtree(self.home, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start_gateway(self) -> None:
        """``fluxy-sync up`` as a process of its own, which ends if this one does."""
        flags = [] if self._dashboard else ["--no-dashboard"]
        tied = [sys.executable, "-I", "-S", guard.__file__, "exec", str(os.getpid())]
        self._gateway = subprocess.Popen(
            [*tied, sys.executable, "-m", "fluxy_sync", "up", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches the demo alone, which ends it in order
        )
        threading.Thread(target=self._listen, args=(self._gateway,), name="demo-gateway", daemon=True).start()
        self.wait_until(lambda: self._line_with(UP), "the gateway comes up")

    def _listen(self, gateway: "subprocess.Popen[bytes]") -> None:
        assert gateway.stdout is not None
        with gateway.stdout:
            for line in gateway.stdout:
                self._lines.append(line.decode(errors="replace").rstrip())

    def _stop_gateway(self) -> None:
        gateway = self._gateway
        if gateway is None:
            return
        gateway.terminate()
        try:
            gateway.wait(STOP_S)
        except subprocess.TimeoutExpired:
            gateway.kill()  # its guard ends the rest
            gateway.wait()

    def _line_with(self, text: str) -> str | None:
        return next((line for line in self._lines if text in line), None)

    @property
    def starts_of_worker(self) -> int:
        """How often the sync worker has come up."""
        return sum(READY in line for line in self._lines)

    @property
    def log(self) -> str:
        """All that the gateway and its processes have said."""
        return "\n".join(self._lines)

    def wait_until(self, holds: Callable[[], Any], what: str) -> None:
        """Look until it holds.

        Raises:
            DemoFailed: it didn't in time, or the gateway ended.
        """
        gives_up_at = time.monotonic() + PATIENCE_S
        while not holds():
            if self._gateway is not None and self._gateway.poll() is not None:
                self._fail(f"the gateway ended before {what}")
            if time.monotonic() > gives_up_at:
                self._fail(f"not within {PATIENCE_S:g} s: {what}")
            time.sleep(LOOK_S)

    def _fail(self, why: str) -> NoReturn:
        said = "\n".join(self._lines[-LAST_LINES:]) or "nothing"
        raise DemoFailed(f"{why}; the gateway's last lines:\n{said}")

    def kill_worker(self, sync: "FluxySync") -> int:
        """kill -9 the sync worker's parent process; returns its pid."""
        pid = self.worker_pid(sync)
        os.kill(pid, signal.SIGKILL)
        return pid

    def worker_pid(self, sync: "FluxySync") -> int:
        """The worker's pid, as it tells it itself (Celery's remote control).

        Raises:
            DemoFailed: it doesn't answer.
        """
        name = f"sync@{NODE}"
        told = sync.app.control.inspect([name], timeout=PATIENCE_S, limit=1).stats()
        if not told:
            self._fail("the worker doesn't answer")
        return int(told[name]["pid"])

    def holds_in_clear(self, text: str) -> bool:
        """Whether the text stands anywhere in the store's files or in what the gateway logged."""
        wanted = text.encode()
        files = [path for folder in ("store", "log") for path in (self.home / folder).rglob("*") if path.is_file()]
        return any(wanted in _content(path) for path in files) or text in self.log

    def login(self) -> Login | None:
        """The dashboard's address and password, once it answers; None if Flower isn't installed.

        Raises:
            DemoFailed: it doesn't answer in time.
        """
        from fluxy_sync.gateway import DASHBOARD_PASSWORD_FILE, DASHBOARD_USER

        found = _DASHBOARD.search(self._line_with(UP) or "")
        if found is None:
            return None
        self.wait_until(lambda: _answers(found[1]), "the dashboard answers")
        return Login(found[1], DASHBOARD_USER, read_private(self.home / DASHBOARD_PASSWORD_FILE).strip())

    def wait(self) -> None:
        """Wait for Ctrl-C, or for the gateway's end."""
        if self._gateway is not None:
            self._gateway.wait()


def _enter_environment(home: Path, namespace: str, upstream: str) -> None:
    """What a user has set must not leak into the demo; its processes inherit what is set here."""
    for name in list(os.environ):
        if name.startswith((ENV_PREFIX, "FLOWER_")):
            del os.environ[name]
    (home / "tmp").mkdir()
    os.environ["TMPDIR"] = str(home / "tmp")  # a pool that is killed leaves its temporary directory
    ours = {"DATA_DIR": str(home), "NAMESPACE": namespace, "UPSTREAM": upstream, "NODE": NODE, "DASHBOARD_PORT": "0"}
    os.environ.update({f"{ENV_PREFIX}{name}": value for name, value in ours.items()})


def _content(path: Path) -> bytes:
    with open_to_read(path) as file:
        return file.read()


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=1.0).close()
    except OSError:
        return False
    return True


class Ended(SystemExit):
    """SIGTERM or SIGHUP. Not a KeyboardInterrupt: one that strikes inside an ``exec``, as imports do it for their
    classes, makes CPython die of SIGINT at its end, even if it was caught (run_eval_code_obj in pythonrun.c).
    """


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Ended(FAILED)


@contextmanager
def _unless_interrupted() -> Iterator[None]:
    """A second Ctrl-C must not keep the demo from tidying up."""
    old = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDS)}
    try:
        yield
    finally:
        for number, handler in old.items():
            with suppress(TypeError):  # a handler that wasn't set from Python can't be set again
                signal.signal(number, handler)
