"""The demo's upstream: a small HTTP server that refuses connections until it is brought up, and keeps a record."""

import hashlib
import http.server
import json
import socketserver
import threading
import time
from http import HTTPStatus
from typing import Any, NamedTuple

ANSWER_AFTER_S = 0.04  # slow enough to watch, and to be killed in the middle of it


class Arrival(NamedTuple):
    """One request as the upstream saw it: its key, its lane, its number on that lane, and what it carried."""

    key: str
    lane: str
    number: int
    digest: str
    at: float  # monotonic seconds


class Upstream(socketserver.ThreadingTCPServer):
    """Its port is taken from the start, so that nobody else gets it: bound, but not listening, it refuses."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server_bind()
        self.arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def come_up(self) -> None:
        """Listen, and answer."""
        self.server_activate()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="demo-upstream", daemon=True)
        self._thread.start()

    def record(self, arrival: Arrival) -> None:
        """Note a request before it is answered: a sender that dies now has been heard."""
        with self._lock:
            self.arrivals.append(arrival)

    def close(self) -> None:
        """Go away for good."""
        if self._thread is not None:
            self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that was killed leaves a broken connection: that is the demo's plot, not an error."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Probes get 200; operations are recorded and get 201."""

    server: Upstream
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        """A probe."""
        self._answer(HTTPStatus.OK)

    do_GET = do_HEAD

    def do_POST(self) -> None:
        """An operation."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.record(_arrival(self.headers.get("Idempotency-Key", "").strip('"'), self.path, body))
        time.sleep(ANSWER_AFTER_S)
        self._answer(HTTPStatus.CREATED)

    do_PUT = do_PATCH = do_DELETE = do_POST

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The record tells it all."""


def _arrival(key: str, path: str, body: bytes) -> Arrival:
    """What a request tells; one that isn't the story's own has no lane."""
    try:
        told = json.loads(body)
        lane, number = str(told["lane"]), int(told["number"])
    except (ValueError, TypeError, KeyError):
        lane, number = "", 0
    digest = hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
    return Arrival(key, lane, number, digest, time.monotonic())
