"""A dashboard as a process of its own: how tests start it, ask it, and listen to it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from fluxy_sync.embedded import free_port
from tests.conftest import ROOT, wait_until

USER, PASSWORD = "ann", "swordfish"
LOGIN = (USER, PASSWORD)
EMPTY: dict[str, Any] = {}
ROLE = ("-m", "fluxy_sync.app", "flower")


class Dashboard:
    """``python -m fluxy_sync.app flower`` on a free port; ann may sign in."""

    def __init__(self, settings: dict[str, str], folder: Path, prefix: str = "") -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = self.origin + prefix
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLUXY_SYNC_", "FLOWER_"))}
        self.environment = {**kept, **settings, "FLOWER_PORT": str(self.port)}
        self.environment["FLOWER_BASIC_AUTH"] = f"{USER}:{PASSWORD}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, command: Sequence[str] = ROLE, **environment: str) -> "Dashboard":
        """Start it, and wait until it has read the store."""
        self.spawn(*options, command=command, **environment)
        wait_until(self._has_read, 30, "the dashboard has read the store")
        return self

    def spawn(self, *options: str, command: Sequence[str] = ROLE, **environment: str) -> "Dashboard":
        """Start it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, *options],
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        return self

    def _has_read(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with contextlib.suppress(requests.ConnectionError):
            return self.get("/api/sync").status_code in (200, 401)
        return False

    @property
    def log_path(self) -> Path:
        return self.folder / "dashboard.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def get(self, path: str, auth: Any = LOGIN, **options: Any) -> requests.Response:
        return requests.get(self.url + path, auth=auth, timeout=20, allow_redirects=False, **options)

    def post(self, path: str, body: Any = EMPTY, auth: Any = LOGIN, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, auth=auth, timeout=20, **options)

    def post_raw(self, path: str, data: bytes) -> requests.Response:
        headers = {"Content-Type": "application/json"}
        return requests.post(self.url + path, data=data, auth=LOGIN, timeout=20, headers=headers)

    def record(self) -> dict[str, Any]:
        """What GET /api/sync gives."""
        answer = self.get("/api/sync")
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    @contextlib.contextmanager
    def events(self) -> Iterator["Listener"]:
        """A listener to its stream."""
        with self.get("/api/sync/events", stream=True) as answer:
            assert answer.status_code == 200
            yield Listener(answer)

    def end(self, number: int = signal.SIGTERM, timeout: float = 10.0) -> int:
        """End it; its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(timeout)
        finally:
            process.kill()


class Listener:
    """Reads one stream of server-sent events."""

    def __init__(self, answer: requests.Response) -> None:
        self.headers = answer.headers
        self._lines = answer.iter_lines(chunk_size=1)

    def block(self) -> list[str]:
        """The lines up to the next empty one."""
        lines: list[str] = []
        for line in self._lines:
            if not line:
                return lines
            lines.append(line.decode())
        raise EOFError("the stream has ended")

    def record(self) -> dict[str, Any]:
        """The next record."""
        while True:
            data = [line.removeprefix("data: ") for line in self.block() if line.startswith("data: ")]
            if data:
                record: dict[str, Any] = json.loads(data[0])
                return record

    def until(self, condition: Any) -> dict[str, Any]:
        """The next record for which the condition holds."""
        while not condition(record := self.record()):
            pass
        return record


def open_stream(dashboard: Dashboard, receive_buffer: int = 0) -> socket.socket:
    """A bare socket that has asked for the stream, and reads nothing by itself."""
    import base64

    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", dashboard.port))
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    request = f"GET /api/sync/events HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\r\n"
    connection.sendall(request.encode())
    return connection
