"""The dashboard, from outside: its record, and its stream of server-sent events."""

import base64
import contextlib
import http.client
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from fluxy_sync.errors import FluxySyncError
from fluxy_sync.tls import Tls
from fluxy_sync.words import address_of, status_text

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 2.0
SILENCE_S = 20.0  # a stream that is silent for longer is lost: the dashboard pings each 15 s
CHUNK_BYTES = 64 * 1024
LONGEST_EVENT_BYTES = 1024 * 1024
_NETWORK_ERRORS = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


class DashboardUnavailable(FluxySyncError):
    """The dashboard can't be read; what it showed last is kept, marked as stale."""


class EventParser:
    """Bytes in, the data of events out (WHATWG HTML, section 9.2.6); None for a comment, which is a sign of life."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Take the next piece, cut anywhere."""
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        text = self._rest + chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) + sum(map(len, self._data)) > LONGEST_EVENT_BYTES:
            raise DashboardUnavailable("the dashboard's stream can't be read: an event without an end")
        for line in lines:
            yield from self._line(line)

    def _line(self, line: bytes) -> Iterator[bytes | None]:
        field, _, value = line.partition(b":")
        if line.startswith(b":"):
            yield None
        elif field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif not line and self._data:
            yield b"\n".join(self._data)
            self._data.clear()


class EventStream:
    """An open stream. One thread reads it; any may stop it."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def events(self) -> Iterator[bytes | None]:
        """The data of each event as it comes, None for a ping; ends when it is stopped.

        Raises:
            DashboardUnavailable: the stream was lost, or was silent for longer than SILENCE_S.
        """
        parser = EventParser()
        try:
            while chunk := self._response.read1(CHUNK_BYTES):
                yield from parser.feed(chunk)
        except _NETWORK_ERRORS as error:
            raise DashboardUnavailable("the dashboard's stream was lost") from error

    def stop(self) -> None:
        """Wake the thread that waits for the next event; there is none."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # it has ended already
            self._response.shutdown()

    def close(self) -> None:
        """Give the connection up."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Dashboard:
    """A running dashboard.

    Args:
        url: its base URL; user and password in it go into each request, and nowhere else.
    """

    def __init__(self, url: str, tls: Tls) -> None:
        parts = urlsplit(url)
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers = _authorization(parts.username, parts.password)
        self._tls = tls
        self.address = address_of(self._url)

    def record(self) -> bytes:
        """``GET /api/sync``.

        Raises:
            DashboardUnavailable: it doesn't answer with its record.
        """
        response = self._get("/api/sync", "application/json")
        try:
            return response.read(LONGEST_EVENT_BYTES)
        except _NETWORK_ERRORS as error:
            raise DashboardUnavailable(f"the dashboard at {self.address} went away") from error
        finally:
            response.close()

    def stream(self) -> EventStream:
        """``GET /api/sync/events``.

        Raises:
            DashboardUnavailable: it doesn't answer with its stream.
        """
        response = self._get("/api/sync/events", "text/event-stream")
        sock = getattr(response.connection, "sock", None)
        if sock is not None:
            sock.settimeout(SILENCE_S)  # its head came in time; the rest comes when something changes
        return EventStream(response)

    def _get(self, path: str, kind: str) -> urllib3.BaseHTTPResponse:
        response = self._send(path, kind)
        if response.status == 200 and response.headers.get("Content-Type", "").startswith(kind):
            return response
        response.close()
        if response.status == 200:
            raise DashboardUnavailable(f"what answers at {self.address} is no dashboard; see FLUXY_SYNC_DASHBOARD_URL")
        said = status_text(response.status)
        raise DashboardUnavailable(f"the dashboard at {self.address} answered {said}; see FLUXY_SYNC_DASHBOARD_URL")

    def _send(self, path: str, kind: str) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool().request(
                "GET",
                f"{self._url}{path}",
                headers={"Accept": kind, **self._headers},
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=ANSWER_TIMEOUT_S),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except _NETWORK_ERRORS as error:
            raise DashboardUnavailable(f"the dashboard at {self.address} can't be reached") from error

    def _pool(self) -> urllib3.PoolManager:
        """A new one for each request: each has a connection to itself, and none is kept."""
        options: dict[str, Any] = {}
        if self._url.startswith("https:"):
            trusted = self._tls.trusted
            options["ca_certs"] = trusted if isinstance(trusted, str) else DEFAULT_CA_BUNDLE_PATH
        return urllib3.PoolManager(num_pools=1, **options)


def _authorization(user: str | None, password: str | None) -> dict[str, str]:
    """Basic authentication (RFC 7617) with what a URL holds, in UTF-8; nothing where it holds no user."""
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
