"""A TCP proxy between the workers and the upstream, in a process of its own: the link, and its faults."""

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.chaos import proxy_server
from tests.chaos.proxy_server import Weather
from tests.upstream import free_port

ANSWER_TIMEOUT_S = 10.0


class Proxy:
    """The proxy seen from a trial; it passes everything until it is told otherwise.

    Args:
        target: the upstream's loopback port.
        seed: of all that it does by chance.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.port = free_port()
        self._control, theirs = socket.socketpair()
        options = {"--port": self.port, "--target": target, "--seed": seed, "--control-fd": theirs.fileno()}
        command = [sys.executable, "-I", "-S", str(Path(proxy_server.__file__).resolve())]  # stdlib only: starts fast
        with theirs:
            self._process = subprocess.Popen(
                [*command, *(str(part) for pair in options.items() for part in pair)], pass_fds=[theirs.fileno()]
            )
        self._control.settimeout(ANSWER_TIMEOUT_S)
        self._await_done()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end; with a certificate it is https."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, link: str = "up", **weather: Any) -> None:
        """Change how the link is, see ``Weather``: what isn't said is as it should be. It has changed on return."""
        self._tell(dataclasses.asdict(Weather(link, **weather)))

    def forget(self) -> None:
        """Make all connections half open: they lead nowhere, and neither side is told."""
        self._tell("forget")

    def _tell(self, command: Any) -> None:
        self._control.sendall(json.dumps(command).encode() + b"\n")
        self._await_done()

    def _await_done(self) -> None:
        if self._control.recv(16) != b"done\n":
            raise ConnectionError("the proxy ended; see its standard error")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()
