"""An application's page with the indicator, under a strict policy, and its own route for the event stream.

The route passes the dashboard's stream on, or sends what a test says; a test may also let it refuse.
"""

import contextlib
import http.client
import json
import select
import socket
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from selenium.webdriver import Chrome

from fluxy_sync.dashboard.pages import STATIC
from tests.browser.board import PASSWORD, USER, Dashboard

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
INDICATOR = '<fluxy-sync-indicator id="{}" src="/stream"></fluxy-sync-indicator>'
PAGE = '<!doctype html><html lang="en"><title>Posts</title><script src="/indicator.js"></script><main>{}</main>'
LOOK_S = 0.05
PING = b": ping\n\n"
_READ = """
const [id] = arguments;
const node = document.getElementById(id);
const part = (name) => node.shadowRoot.querySelector(name);
const icon = getComputedStyle(part('[part="icon"]'));
return {
  state: node.getAttribute("state"), text: part('[part="text"]').textContent, spoken: part(".spoken").textContent,
  role: part('[part="root"]').getAttribute("role"), connected: node.connected, record: node.record,
  iconWidth: icon.width, animation: icon.animationName, paths: part('[part="icon"]').childElementCount,
};
"""


class Application:
    """Serves the page from a thread of its own.

    Args:
        dashboard: whose stream is passed on; without one the stream holds what ``say`` said.
    """

    def __init__(self, dashboard: Dashboard | None = None, indicators: int = 1) -> None:
        self.dashboard = dashboard
        self.page = PAGE.format("".join(INDICATOR.format(name) for name in ("one", "two")[:indicators]))
        self.refusing = False
        self.open_streams = 0
        self.opened = 0
        self.pings = 0
        self._events: list[bytes] = []
        self._said = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"application": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def say(self, **record: Any) -> None:
        """Send a record to whoever listens, and to whoever comes: what it lacks is that of a quiet queue."""
        quiet = {"boot": "one", "rev": 1, "pending": 0, "is_syncing": False, "gate": "open", "stale": False}
        with self._said:
            self._events.append(f"data: {json.dumps(quiet | record)}\n\n".encode())
            self._said.notify_all()

    def next_event(self, seen: int) -> tuple[bytes, int]:
        """What was said since then: to a newcomer (-1) only the last; and how much was said in all."""
        with self._said:
            self._said.wait_for(lambda: len(self._events) > max(seen, 0), LOOK_S)
            start = len(self._events) - 1 if seen < 0 else seen
            return b"".join(self._events[max(start, 0) :]), len(self._events)

    def count(self, change: int) -> None:
        with self._said:
            self.open_streams += change
            self.opened += change > 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(LOOK_S,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    application: Application

    def do_GET(self) -> None:
        if self.path == "/stream":
            self._stream()
        elif self.path == "/indicator.js":
            self._give("text/javascript", (STATIC / "indicator.js").read_bytes())
        else:
            self._give("text/html", self.application.page.encode())

    def _give(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        if self.application.refusing:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.application.count(1)
        try:
            with contextlib.suppress(OSError):
                self._pass_on() if self.application.dashboard else self._say_on()
        finally:
            self.application.count(-1)

    def _say_on(self) -> None:
        seen = -1
        while not self._is_gone() and not self.application.refusing:
            events, seen = self.application.next_event(seen)
            self.wfile.write(events or PING)
            self.application.pings += not events

    def _pass_on(self) -> None:
        assert self.application.dashboard is not None
        theirs = http.client.HTTPConnection("127.0.0.1", self.application.dashboard.port)
        with contextlib.closing(theirs):
            login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            theirs.request("GET", "/api/sync/events", headers={"Authorization": f"Basic {login}"})
            answer = theirs.getresponse()
            while (some := answer.read1(4096)) and not self._is_gone():
                self.wfile.write(some)

    def _is_gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


def read(driver: Chrome, name: str = "one") -> dict[str, Any]:
    """What an indicator shows and says."""
    found: dict[str, Any] = driver.execute_script(_READ, name)
    return found
