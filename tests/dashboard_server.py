"""The dashboard's side of live values: its record and its stream of server-sent events, by the contract.

A double: the real dashboard can't be made to hang, to send an older record, or to go away in mid-event on cue.
"""

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from fluxy_sync.status import Status

IDLE = Status(
    pending=0, syncing=0, is_syncing=False, retrying=0, held=0, dead=0, bytes=0, lanes=0, oldest_age_s=None,
    gate="open", online=True, delivered_total=0, rev=0, stale=False, since=None, reason="", opens_in_s=0.0,
    held_for={}, dropped_total=0,
)  # fmt: skip
NUMBERS = ("pending", "syncing", "retrying", "held", "dead", "bytes", "lanes", "delivered_total", "rev")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        dashboard = self.server.dashboard
        dashboard.asked.append(self.path)
        if dashboard.hangs:
            dashboard.ended.wait()
        elif self.headers.get("Authorization") != dashboard.authorization:
            self._say(401, "text/plain", b"who are you?")
        elif self.path == "/base/api/sync":
            record = dashboard.document()
            self._say(503 if record.get("pending") is None else 200, "application/json", json.dumps(record).encode())
        elif self.path == "/base/api/sync/events":
            self._stream(dashboard)
        else:
            self._say(404, "text/plain", b"")

    def _say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, dashboard: "DashboardServer") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send(b"retry: 1000\n\n")
        dashboard.feed(self._send, self.connection)
        self.close_connection = True

    def _send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_arguments: Any) -> None:
        """Quietly."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tls: ssl.SSLContext | None = None
    dashboard: "DashboardServer"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""


class DashboardServer:
    """Shows what it is told to. ``stop()`` is a crash: streams end in the middle; ``start()`` uses the same port."""

    def __init__(self, namespace: str, *, user: str = "ops", password: str = "p@ss/w%rd", tls: Any = None) -> None:
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.namespace, self.boot = namespace, "boot-1"
        self.asked: list[str] = []
        self.hangs = False
        self.knows = True
        self.ping_s = 0.2
        self.ended = threading.Event()
        self.status = IDLE
        self._tls, self._port = tls, 0
        self._changed = threading.Condition()
        self._version = 0
        self._streams: set[socket.socket] = set()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://ops:p%40ss%2Fw%25rd@127.0.0.1:{self._port}/base"

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def start(self) -> None:
        self.ended.clear()
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.dashboard, self._server.tls = self, self._tls
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        self.ended.set()
        self.cut()

    def cut(self) -> None:
        """End all streams, in the middle."""
        with self._changed:
            for connection in list(self._streams):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def show(self, **changes: Any) -> None:
        """Send another record; ``boot`` isn't part of the status."""
        with self._changed:
            self.boot = changes.pop("boot", self.boot)
            self.status = Status(**(self.status.to_dict() | {"rev": self.status.rev + 1} | changes))
            self._version += 1
            self._changed.notify_all()

    def document(self) -> dict[str, Any]:
        """The record as it is sent."""
        told = {**self.status.to_dict(), "boot": self.boot, "namespace": self.namespace, "delivered_per_s": 0.0}
        return told if self.knows else told | dict.fromkeys(NUMBERS) | {"stale": True}

    def feed(self, send: Callable[[bytes], None], connection: socket.socket) -> None:
        """Send the record now and after each change, until the stream is cut."""
        self._streams.add(connection)
        seen = -1
        try:
            while not self.ended.is_set():
                seen, event = self._next(seen)
                send(event)
        finally:
            self._streams.discard(connection)

    def _next(self, seen: int) -> tuple[int, bytes]:
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, self.ping_s)
            if self._version == seen:
                return seen, b": ping\n\n"
            return self._version, f"id: {self.status.rev}\ndata: {json.dumps(self.document())}\n\n".encode()
