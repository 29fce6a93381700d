"""A controllable HTTP/1.1 upstream in a process of its own: it answers as told, and records what it saw.

In a test: ``with Upstream(tmp_path / "upstream.jsonl") as upstream: upstream.script("/api", [503, 201])``.
In a shell: ``python -m tests.upstream --port 8080 --record upstream.jsonl``. Standard library only.
"""

import contextlib
import dataclasses
import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import upstream_server
from tests.upstream_server import Action, Script, answer_of

START_TIMEOUT_S = 10.0
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A free loopback port below the ephemeral range: no outgoing connection takes it between two starts."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop}")


class Upstream:
    """The upstream seen from a test. It may be scripted before it runs, and started again after each end.

    What is scripted lasts over ``stop()`` and ``start()``; after ``kill()`` the script is what was last told,
    with the answers that were consumed since the last command back in it.

    Args:
        record: the JSON-lines file; kept over restarts.
        port: a loopback port; 0 picks a free one, kept over restarts.

    Attributes:
        host: the address to listen on from the next start on.
    """

    def __init__(self, record: Path, port: int = 0) -> None:
        self.record, self.host = record, "127.0.0.1"
        self.port = port or free_port()
        self._script = Script()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.RLock()  # several threads of a test may tell it things, one at a time
        self._seen: list[dict[str, Any]] = []
        self._offset = 0

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Listen. Returns once connections are accepted."""
        with self._lock:
            return self._start()

    def _start(self) -> Self:
        if self.running:
            return self
        self._close()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(self._command(theirs.fileno()), pass_fds=[theirs.fileno()])
        self._control.settimeout(START_TIMEOUT_S)
        try:
            self._read_line()
        except OSError:
            self.kill()
            raise
        return self

    def _command(self, control_fd: int) -> list[str]:
        options = {
            "--host": self.host,
            "--port": self.port,
            "--record": self.record,
            "--script": json.dumps(dataclasses.asdict(self._script)),
            "--control-fd": control_fd,
        }
        flags = [str(part) for pair in options.items() for part in pair]
        return [
            sys.executable,
            "-I",
            "-S",
            str(Path(upstream_server.__file__).resolve()),
            *flags,
        ]  # stdlib only: starts fast

    def stop(self) -> None:
        """Close the listening socket and every connection: new connections are refused."""
        with self._lock:
            if self.running:
                self._tell("stop")
            self._close()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        if self._control is not None:
            self._control.close()  # also ends a process that still listens to it
            self._control = None
        if self._process is not None:
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def script(self, prefix: str, actions: Iterable[Action]) -> None:
        """Answer the next requests below ``prefix`` with one action each; then the default holds again."""
        actions = list(actions)
        for action in actions:
            answer_of(action)
        self._change("answers", (prefix, actions))

    def default(self, action: Action) -> None:
        """Answer operations so when no script has an answer for them (at first 201)."""
        answer_of(action)
        self._change("default", action)

    def probe(self, action: Action) -> None:
        """Answer probes (GET and HEAD without an Idempotency-Key) so (at first 200)."""
        answer_of(action)
        self._change("probe", action)

    def release(self, action: Action = 201) -> None:
        """Answer all requests that are stalled now."""
        answer_of(action)
        if self.running:
            self._tell("release", action)

    def requests(self) -> list[dict[str, Any]]:
        """What arrived, in order, but for probes. A released one has ``released``: its late status."""
        lines = self._lines()
        late = {line["of"]: line["status"] for line in lines if line["kind"] == "release"}
        found = [line for line in lines if line["kind"] == "request"]
        return [line | {"released": late[line["n"]]} if line["n"] in late else line for line in found]

    def probes(self) -> list[dict[str, Any]]:
        """The probes that arrived, in order."""
        return [line for line in self._lines() if line["kind"] == "probe"]

    def _lines(self) -> list[dict[str, Any]]:
        """All lines; each is read and parsed once, so that polling stays cheap."""
        with self._lock, contextlib.suppress(FileNotFoundError), self.record.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _unfinished = file.read().rpartition(b"\n")
            self._offset += len(whole + newline)
            self._seen += [json.loads(line) for line in whole.splitlines()]
        return self._seen

    def _change(self, field: str, value: Any) -> None:
        with self._lock:
            if self.running:
                self._tell("change", field, value)
            else:
                self._script.change(field, value)

    def _tell(self, *command: Any) -> None:
        """Send a command; the answer is the script as it stands after it."""
        with self._lock:
            if self._control is None:
                raise RuntimeError("the upstream isn't running")
            self._control.sendall(json.dumps(command).encode() + b"\n")
            self._script = Script(**json.loads(self._read_line()))

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            if self._control is None or not (data := self._control.recv(65536)):
                raise ConnectionError(f"the upstream on port {self.port} ended; see its standard error")
            line += data
        return line


if __name__ == "__main__":
    upstream_server.main()
