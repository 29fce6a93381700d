"""The server that both sides send to: nginx where it is installed, else a small one of ours.

It answers 201 below /api/ and logs each such request as one line of fixed width, the time in seconds: the
server's own clock measures the drain, so neither side is asked to report about itself.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import accepts, free_port, running, wait_until

START_TIMEOUT_S = 10.0
LINE_BYTES = len("1700000000.123\n")
NGINX = """
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    log_format arrival '$msec';
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 200; }}
        location /api/ {{ access_log {log} arrival; return 201; }}
    }}
}}
"""


class HttpServer:
    """A running server and its log of arrivals."""

    def __init__(self, port: int, log: Path, name: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.name = name
        self._log = log

    def forget(self) -> None:
        """Empty the log, before a new measurement."""
        os.truncate(self._log, 0)

    def count(self) -> int:
        """Requests since the log was emptied."""
        return self._log.stat().st_size // LINE_BYTES

    def arrivals(self) -> list[float]:
        """Their times in seconds, in order."""
        return sorted(float(line) for line in self._log.read_text().split())


@contextlib.contextmanager
def http_server(home: Path) -> Iterator[HttpServer]:
    """Run the server in ``home``."""
    port, log = free_port(), home / "arrivals.log"
    log.touch()
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    command = _nginx(nginx, home, port, log) if nginx else _own(port, log)
    with running(command, home / "http.log"):
        wait_until(lambda: accepts(port), "the HTTP server", START_TIMEOUT_S)
        yield HttpServer(port, log, "nginx" if nginx else "asyncio")


def _nginx(binary: str, home: Path, port: int, log: Path) -> list[str]:
    config = home / "nginx.conf"
    config.write_text(NGINX.format(home=home, port=port, log=log))
    return [binary, "-p", str(home), "-c", str(config), "-e", str(home / "nginx-error.log")]


def _own(port: int, log: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.http_server", str(port), str(log)]


class Connection(asyncio.Protocol):
    """The fallback's connection: reads requests with a Content-Length, answers at once."""

    CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, log_fd: int) -> None:
        self._log_fd = log_fd
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._take_request():
            pass

    def _take_request(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = _content_length(head)
        if not end or len(rest) < length:
            return False
        self._buffer = rest[length:]
        counted = head.split(b" ", 2)[1].startswith(b"/api/")
        if counted:
            os.write(self._log_fd, f"{time.time():.3f}\n".encode())
        self._transport.write(self.CREATED if counted else self.FINE)
        return True


def _content_length(head: bytes) -> int:
    _, found, value = head.lower().partition(b"\r\ncontent-length:")
    return int(value.partition(b"\r\n")[0]) if found else 0


async def _serve(port: int, log: Path) -> None:
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(log_fd), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("log", type=Path)
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.log))
