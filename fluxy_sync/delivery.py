"""One HTTP exchange -> Outcome."""

import contextlib
import contextvars
import email.utils
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from fluxy_sync.errors import FluxySyncError
from fluxy_sync.operation import JsonBody, Outcome, Verdict, origin_of
from fluxy_sync.settings import Settings

RETRY_AFTER_CAP_S = 300.0
UNAUTHORIZED_PAUSE_S = 30.0
ANSWER_BYTES = 64 * 1024  # read at most this much of an answer; a longer one costs its connection
DETAIL_BYTES = 1024  # of a refusing answer, kept sealed with the dead letter
MAX_REDIRECTS = 5
RETRYABLE = frozenset({408, 425, 429})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEEPS_METHOD = frozenset({307, 308})
USER_AGENT = "fluxy-sync"

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where the platform has one."""
    return time.clock_gettime(_CLOCK)


class ClaimEnded(FluxySyncError):
    """The claim ran out before the request was written; nothing was sent."""


class DeadlinePassed(FluxySyncError):
    """The exchange's total deadline passed before the request was written; nothing was sent."""


class Flight:
    """One operation under way: until when it may be written, and until when it may last (boottime seconds)."""

    def __init__(self, claim_ends: float, deadline: float) -> None:
        self.claim_ends = claim_ends
        self.deadline = deadline
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise ClaimEnded or DeadlinePassed where nothing may be written any more."""
        now = boottime()
        if now >= self.claim_ends:
            raise ClaimEnded("the claim ended before the request was written; nothing was sent")
        if now >= self.deadline:
            raise DeadlinePassed("the deadline passed before the request was written; nothing was sent")

    def watch(self, sock: socket.socket | None) -> None:
        """Note the socket that ``abort`` is to shut."""
        with self._lock:
            self._socket = sock

    def abort(self) -> None:
        """Wake the thread that waits for the upstream: the deadline passed."""
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    self._socket = None  # it was closed already


_flight: contextvars.ContextVar[Flight | None] = contextvars.ContextVar("fluxy_sync_flight", default=None)


@contextlib.contextmanager
def flying(flight: Flight) -> Iterator[None]:
    """Make the flight's limits hold for what this thread sends within."""
    token = _flight.set(flight)
    try:
        yield
    finally:
        flight.watch(None)
        _flight.reset(token)


class _Guarded:
    """Checks the claim's end before it connects, and again before it writes."""

    sock: Any
    auto_open: int

    def connect(self) -> None:
        flight = _flight.get()
        if flight is not None:
            flight.check()
        super().connect()  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        flight = _flight.get()
        if flight is not None:
            flight.check()
            flight.watch(self.sock)
        super().send(data)  # type: ignore[misc]


class _GuardedHTTP(_Guarded, HTTPConnection):
    pass


class _GuardedHTTPS(_Guarded, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class GuardedAdapter(HTTPAdapter):
    """A requests transport whose connections watch the flight's limits. It never repeats a request."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class Request(msgspec.Struct, frozen=True):
    """One request to the upstream, ready but for its credentials."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


class Stamp(msgspec.Struct, frozen=True):
    """What the engine says of a try: the key, the attempt (from 1), the fence and its scope."""

    key: str
    attempt: int
    fence: int
    scope: str


def fence_scope(epoch: str, namespace: str, lane: str) -> str:
    """An opaque name for the lane, within which fence numbers grow."""
    return hashlib.sha256("\0".join((epoch, namespace, lane)).encode()).hexdigest()[:16]


def build_request(
    upstream: str, method: str, path: str, body: bytes | None, headers: dict[str, str], stamp: Stamp
) -> Request:
    """Put a request together; the operation's own headers stand beside the engine's."""
    sent = {
        "User-Agent": USER_AGENT,
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Idempotency-Key": f'"{stamp.key}"',  # a structured string: draft-ietf-httpapi-idempotency-key-header
        "Fluxy-Attempt": str(stamp.attempt),
        "Fluxy-Fence": f'{stamp.fence}; scope="{stamp.scope}"',
    }
    given = {name.lower() for name in headers}
    if body is not None and "content-type" not in given:
        sent["Content-Type"] = "application/json" if isinstance(body, JsonBody) else "application/octet-stream"
    sent = {name: value for name, value in sent.items() if name.lower() not in given} | headers
    if body is not None or method in ("POST", "PUT", "PATCH"):
        sent["Content-Length"] = str(len(body or b""))
    return Request(method, path if "://" in path else upstream + path, sent, body)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After field: seconds or an HTTP-date (RFC 9110, 10.2.3), capped at 300 s."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), RETRY_AFTER_CAP_S)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(0.0, (at - now).total_seconds()), RETRY_AFTER_CAP_S)


def judge(
    status: int, *, retry_after: float | None = None, foreign_redirect: bool = False, detail: bytes = b""
) -> Outcome:
    """The outcome table for answers: a pure function of what the upstream said.

    Args:
        retry_after: the answer's Retry-After, in seconds.
        foreign_redirect: it redirects to an origin that isn't allowed, as a captive portal does.
        detail: the answer's first bytes.
    """
    if 200 <= status < 300:
        return Outcome(Verdict.DELIVERED, str(status), status)
    if foreign_redirect:
        return Outcome(Verdict.UNREACHABLE, "captive-portal", status)
    if status == 401:
        return Outcome(Verdict.WAIT, "401", status, retry_after_s=UNAUTHORIZED_PAUSE_S)
    if status in RETRYABLE or status >= 500 or (status == 409 and retry_after is not None):
        return Outcome(Verdict.RETRY, str(status), status, retry_after_s=retry_after)
    return Outcome(Verdict.DEAD, str(status), status, detail=detail)


def judge_error(error: Exception) -> Outcome:
    """The outcome table for exchanges without an answer: what could not connect, and what was lost later."""
    if isinstance(error, DeadlinePassed):
        return Outcome(Verdict.UNREACHABLE, "connect-timeout")
    if isinstance(error, (requests.exceptions.InvalidURL, urllib3.exceptions.LocationParseError)):
        return Outcome(Verdict.DEAD, "invalid-url")
    if isinstance(error, requests.exceptions.SSLError):
        return Outcome(Verdict.UNREACHABLE, "tls")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Outcome(Verdict.UNREACHABLE, "connect-timeout")
    if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return Outcome(Verdict.RETRY, "read-timeout")
    return _judge_connection_error(error)


def _judge_connection_error(error: Exception) -> Outcome:
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return Outcome(Verdict.UNREACHABLE, "dns")
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        refused = isinstance(reason.__cause__ or reason.__context__, ConnectionRefusedError)
        return Outcome(Verdict.UNREACHABLE, "refused" if refused else "no-route")
    return Outcome(Verdict.RETRY, "connection-lost")


class Delivery:
    """Sends requests: one kept-alive session per process and origin; credentials only to the upstream's origin.

    Args:
        settings: the upstream, its allowed origins and the deadlines (connect, read, total; seconds).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.upstream = settings.upstream_url
        self.origin = origin_of(self.upstream)
        self._timeouts = (settings.connect_timeout_s, settings.read_timeout_s)
        self._adapters: dict[str, GuardedAdapter] = {}

    def deadline_s(self, body_bytes: int) -> float:
        """The total deadline: longer for large bodies, at 64 KiB a second."""
        return self._settings.total_timeout_s + body_bytes / 65536

    def is_foreign(self, path: str) -> bool:
        """Whether an absolute URL leads to an allowed origin that isn't the upstream's."""
        return "://" in path and origin_of(path) != self.origin

    def send(self, request: Request, flight: Flight) -> Outcome:
        """Send a request once, follow redirects that keep method and origin, and judge the answer.

        Raises:
            ClaimEnded: nothing was sent.
        """
        try:
            with flying(flight):
                return self._follow(request)
        except (requests.RequestException, urllib3.exceptions.HTTPError, DeadlinePassed, OSError) as error:
            if boottime() >= flight.deadline and not isinstance(error, DeadlinePassed):
                return Outcome(Verdict.RETRY, "total-timeout")
            return judge_error(error)

    def _follow(self, request: Request) -> Outcome:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(request)
            try:
                answer = self._read(response)
            finally:
                response.close()
            location = response.headers.get("Location") if response.status_code in REDIRECTS else None
            if location is None:
                retry_after = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
                return judge(response.status_code, retry_after=retry_after, detail=answer[:DETAIL_BYTES])
            target = urljoin(request.url, location)
            if not self._may_go_to(target, request):
                return judge(response.status_code, foreign_redirect=True)
            if response.status_code not in KEEPS_METHOD and request.method not in ("GET", "HEAD"):
                return judge(response.status_code, detail=answer[:DETAIL_BYTES])
            request = msgspec.structs.replace(request, url=target)
        return Outcome(Verdict.DEAD, "too-many-redirects")

    def _may_go_to(self, target: str, request: Request) -> bool:
        try:
            return origin_of(target) == origin_of(request.url)
        except ValueError:
            return False

    def _exchange(self, request: Request) -> requests.Response:
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = request.method, request.url, request.body
        prepared.headers = CaseInsensitiveDict(request.headers)
        prepared.hooks = default_hooks()
        origin = origin_of(request.url)
        if origin == self.origin:
            self._add_credentials(prepared)
        return self._adapter(origin).send(prepared, stream=True, timeout=self._timeouts, verify=True)

    def _add_credentials(self, prepared: requests.PreparedRequest) -> None:
        bearer = self._settings.auth_bearer
        if bearer is not None and "Authorization" not in prepared.headers:
            prepared.headers["Authorization"] = f"Bearer {bearer.get_secret_value()}"

    def _adapter(self, origin: str) -> GuardedAdapter:
        adapter = self._adapters.get(origin)
        if adapter is None:
            adapter = self._adapters[origin] = GuardedAdapter(max_retries=0)
        return adapter

    @staticmethod
    def _read(response: requests.Response) -> bytes:
        """The first bytes of the answer. One read to its end returns the connection to the pool."""
        answer = b""
        # Until nothing comes: only then urllib3 says that a body ended too early.
        while len(answer) < ANSWER_BYTES:
            piece = response.raw.read(ANSWER_BYTES - len(answer), decode_content=False)
            if not piece:
                return answer
            answer += piece
        response.raw.close()
        return answer

    def close(self) -> None:
        """Close all connections."""
        for adapter in self._adapters.values():
            adapter.close()
