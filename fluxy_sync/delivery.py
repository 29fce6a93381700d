"""One HTTP exchange -> Outcome."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urljoin

import msgspec
import requests
import urllib3
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict

from fluxy_sync.certificates import fault_of
from fluxy_sync.credentials import Credentials, credentials_of
from fluxy_sync.expiry import UpstreamClock, http_date
from fluxy_sync.faults import local_fault
from fluxy_sync.flight import (
    NETWORK_ERRORS,
    ClaimEnded,
    CredentialsError,
    DeadlinePassed,
    Flight,
    GuardedAdapter,
    boottime,
    flying,
    read_body,
)
from fluxy_sync.operation import JsonBody, Outcome, Verdict, origin_of
from fluxy_sync.outcome import (
    RETRYABLE,
    Answer,
    Happened,
    Lost,
    NoConnection,
    NoCredentials,
    Rules,
    Unsendable,
    outcome_of,
)
from fluxy_sync.settings import Settings
from fluxy_sync.tls import Tls

__all__ = [
    "RETRY_AFTER_CAP_S",
    "ClaimEnded",
    "DeadlinePassed",
    "Delivery",
    "Flight",
    "Reply",
    "Request",
    "Stamp",
    "boottime",
    "build_request",
    "can_be_taken_by_others",
    "fence_scope",
    "retry_after_s",
    "what_happened",
]

RETRY_AFTER_CAP_S = 300.0
DETAIL_BYTES = 1024  # of a refusing answer, kept sealed with the dead letter
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEEPS_METHOD = frozenset({307, 308})
USER_AGENT = "fluxy-sync"
PAGE_TYPES = ("text/html", "application/xhtml")


class Request(msgspec.Struct, frozen=True):
    """One request to the upstream, ready but for its credentials."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    def __repr__(self) -> str:
        return f"Request({self.method})"  # what it says belongs into no log


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


class Reply(msgspec.Struct, frozen=True):
    """What became of a request, and the upstream's answer to it, if one came.

    Attributes:
        headers: those that RESULT_HEADERS chooses, by lower-case names.
        body: its first 64 KiB.
        took_credentials: the answer shows that the upstream takes the gateway's credentials.
    """

    outcome: Outcome
    headers: dict[str, str] = {}
    body: bytes = b""
    took_credentials: bool = False


def can_be_taken_by_others(settings: Settings, url: str = "") -> bool:
    """Whether what goes to a URL (default: the upstream) may end at a captive portal that a probe could tell of.

    Over plain HTTP anybody can answer; only PROBE_EXPECT lets a probe know the upstream.
    """
    return settings.probe_expect is not None and (url or settings.upstream_url).startswith("http://")


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After field: seconds or an HTTP-date (RFC 9110, 10.2.3), capped at 300 s."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), RETRY_AFTER_CAP_S)
    at = http_date(value)
    return None if at is None else min(max(0.0, (at - now).total_seconds()), RETRY_AFTER_CAP_S)


def what_happened(error: Exception, *, wrote: bool = True) -> NoConnection | Lost | Unsendable:
    """An exchange without an answer: what could not connect, and what was lost later.

    Args:
        wrote: something of the request may have left; before that, only a TLS handshake gets lost.
    """
    if isinstance(error, DeadlinePassed):
        return NoConnection("connect-timeout")
    if isinstance(error, (requests.exceptions.InvalidURL, urllib3.exceptions.LocationParseError)):
        return Unsendable("invalid-url")
    if isinstance(error, requests.exceptions.SSLError):
        # Also while writing: under TLS 1.3 that is when a client learns that its certificate was refused.
        fault = fault_of(error)
        return NoConnection(f"tls:{fault}" if fault else "tls")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return NoConnection("connect-timeout")
    if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return Lost("read-timeout") if wrote else NoConnection("tls")
    happened = _of_connection_error(error)
    return happened if wrote or isinstance(happened, NoConnection) else NoConnection("tls")


def _of_connection_error(error: Exception) -> NoConnection | Lost:
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return NoConnection("dns")
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        refused = isinstance(reason.__cause__ or reason.__context__, ConnectionRefusedError)
        return NoConnection("refused" if refused else "no-route")
    return Lost("connection-lost")


class _Got(msgspec.Struct, frozen=True):
    """An answer as it came."""

    status: int
    headers: CaseInsensitiveDict[str]
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """A date is told by the clock that wrote it: a gateway's own may be years off."""
        value = self.headers.get("Retry-After")
        if value is None:
            return None
        return retry_after_s(value, http_date(self.headers.get("Date", "")) or datetime.now(UTC))


class Delivery:
    """Sends requests: one kept-alive session per process and origin; credentials only to the upstream's origin.

    Args:
        settings: the upstream, its allowed origins, TLS, and the deadlines (connect, read, total; seconds).
        credentials: the gateway's; made from the settings, for this process alone, where they aren't given.

    Attributes:
        clock: what the upstream's answers say of this machine's clock.
        confirm: tells whether it is the upstream that answers now; asked where an answer may be a captive portal's.

    Raises:
        ConfigError: a file of the settings can't be read, or isn't what it should be.
    """

    def __init__(self, settings: Settings, credentials: Credentials | None = None) -> None:
        self._settings = settings
        self.upstream = settings.upstream_url
        self.clock = UpstreamClock()
        self.origin = origin_of(self.upstream)
        self._tls = Tls.of(settings)
        self._credentials = credentials or credentials_of(settings, self._tls)
        self._adapters: dict[str, GuardedAdapter] = {}
        self._link: tuple[object, float] = (None, 0.0)
        self.confirm: Callable[[], bool] | None = None

    def note_link(self, mark: object) -> None:
        """Tell since when the link is there: no connection of before is used any more. A new ``mark`` is a new time."""
        if mark != self._link[0]:
            self._link = mark, boottime()

    def deadline_s(self, body_bytes: int) -> float:
        """The total deadline: longer for large bodies, at 64 KiB a second."""
        return self._settings.total_timeout_s + body_bytes / 65536

    def is_foreign(self, path: str) -> bool:
        """Whether an absolute URL leads to an allowed origin that isn't the upstream's."""
        return "://" in path and origin_of(path) != self.origin

    def send(self, request: Request, flight: Flight, *rules: Rules) -> Reply:
        """Send a request once, follow redirects that keep method and origin, and judge the answer.

        Credentials that the upstream refuses are refreshed once, and the same request is sent again at once.

        Args:
            rules: overrides of the outcome table: the operation's own, then its task's.

        Raises:
            ClaimEnded: nothing was sent.
            OSError: this machine lacks something (open files, memory, disk).
        """
        got, flight.link_since = None, self._link[1]
        try:
            with flying(flight):
                happened, got = self._follow(request, flight)
        except CredentialsError as error:
            happened = NoCredentials(error.reason)
        except NETWORK_ERRORS as error:
            if fault := local_fault(error):
                raise fault from None
            happened = what_happened(error, wrote=flight.wrote)
            if isinstance(happened, Lost) and boottime() >= flight.deadline:
                happened = Lost("total-timeout")
        outcome = outcome_of(happened, request.method, *rules)
        if got is None:
            return Reply(outcome)
        if self.confirm is not None and self._may_be_portal(got, request, outcome) and not self.confirm():
            return Reply(outcome_of(Answer(got.status, foreign_redirect=True)))
        return Reply(outcome, self._chosen(got), got.body, _took_credentials(happened))

    def _may_be_portal(self, got: _Got, request: Request, outcome: Outcome) -> bool:
        """Whether a page, or a redirect, would settle an operation that may have been taken by somebody else."""
        settles = outcome.verdict in (Verdict.DELIVERED, Verdict.DEAD)
        is_page = _is_page(got.headers) or got.status in REDIRECTS
        return settles and is_page and can_be_taken_by_others(self._settings, request.url)

    def _chosen(self, got: _Got) -> dict[str, str]:
        names = (name.lower() for name in self._settings.result_headers)
        return {name: got.headers[name] for name in names if name in got.headers}

    def _follow(self, request: Request, flight: Flight) -> tuple[Happened, _Got | None]:
        for _ in range(MAX_REDIRECTS + 1):
            got = self._ask(request, flight)
            target = _target_of(got, request.url)
            if target is not None and not self._is_allowed(target):
                return Answer(got.status, foreign_redirect=True), None
            if target is None or not _may_follow(got.status, request, target):
                return self._answer(got, request), got
            request = msgspec.structs.replace(request, url=target)
        return Unsendable("too-many-redirects"), None

    def _is_allowed(self, target: str) -> bool:
        try:
            return origin_of(target) in (self.origin, *self._settings.allowed_origins)
        except ValueError:
            return False

    def _answer(self, got: _Got, request: Request) -> Answer:
        return Answer(got.status, got.retry_after_s, ours=self._is_ours(request), detail=got.body[:DETAIL_BYTES])

    def _is_ours(self, request: Request) -> bool:
        """Whether it is for the gateway's credentials: the upstream's, and without an Authorization of its own."""
        own = any(name.lower() == "authorization" for name in request.headers)
        return not own and origin_of(request.url) == self.origin

    def _ask(self, request: Request, flight: Flight) -> _Got:
        """One exchange; another one where the upstream refused credentials that could be refreshed."""
        credentials = self._credentials
        if credentials is None or not self._is_ours(request):
            return self._exchange(_prepare(request), flight)
        prepared = _prepare(request)
        used = credentials.add_to(prepared, flight)
        got = self._exchange(prepared, flight)
        if got.status == 401 and _refreshed(credentials, used, flight):
            prepared = _prepare(request)
            credentials.add_to(prepared, flight)
            got = self._exchange(prepared, flight)
        return got

    def _exchange(self, prepared: requests.PreparedRequest, flight: Flight) -> _Got:
        url, flight.acted = str(prepared.url), None
        origin = origin_of(url)
        response = self._adapter(origin).send(prepared)
        is_sure = not (_is_page(response.headers) and can_be_taken_by_others(self._settings, url))
        flight.acted = response.status_code if 200 <= response.status_code < 300 and is_sure else None
        if origin == self.origin:
            self.clock.note(response.headers.get("Date", ""))
        for hook in prepared.hooks["response"]:  # a user's AuthBase wants to see it, and may answer a challenge
            response = hook(response) or response
        return _Got(response.status_code, response.headers, read_body(response))

    def _adapter(self, origin: str) -> GuardedAdapter:
        adapter = self._adapters.get(origin)
        if adapter is None:
            tls = self._tls if origin == self.origin else self._tls.anonymous
            timeouts = self._settings.connect_timeout_s, self._settings.read_timeout_s
            adapter = self._adapters[origin] = GuardedAdapter(tls, *timeouts)
        return adapter

    def close(self) -> None:
        """Close all connections."""
        for adapter in self._adapters.values():
            adapter.close()
        if self._credentials is not None:
            self._credentials.close()


def _is_page(headers: CaseInsensitiveDict[str]) -> bool:
    return headers.get("Content-Type", "").lower().startswith(PAGE_TYPES)


def _prepare(request: Request) -> requests.PreparedRequest:
    # By hand: most of what requests would do here costs time and has been done.
    prepared = requests.PreparedRequest()
    prepared.method, prepared.url, prepared.body = request.method, request.url, request.body
    prepared.headers = CaseInsensitiveDict(request.headers)
    prepared.hooks = default_hooks()
    return prepared


def _refreshed(credentials: Credentials, used: str, flight: Flight) -> bool:
    try:
        return credentials.refresh(used, flight)
    except CredentialsError:
        return False  # the upstream's refusal stands


def _target_of(got: _Got, url: str) -> str | None:
    """Where it redirects to; None if it doesn't, and nowhere if that can't be read."""
    location = got.headers.get("Location") if got.status in REDIRECTS else None
    if location is None:
        return None
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def _may_follow(status: int, request: Request, target: str) -> bool:
    keeps_method = status in KEEPS_METHOD or request.method in ("GET", "HEAD")
    return keeps_method and origin_of(target) == origin_of(request.url)


def _took_credentials(happened: Happened) -> bool:
    if not isinstance(happened, Answer) or not happened.ours or happened.foreign_redirect:
        return False
    # What says "later" may come from a server in front of the one that looks at credentials.
    refused = happened.status in (401, 407) or happened.status in RETRYABLE
    return 200 <= happened.status < 300 or (400 <= happened.status < 500 and not refused)
