"""A request under way: its limits, and the connections that keep to them."""

import contextlib
import contextvars
import errno
import functools
import http.client
import io
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from fluxy_sync.errors import FluxySyncError
from fluxy_sync.journal.clock import boottime as boottime  # whoever flies a request counts by it, too
from fluxy_sync.resolver import resolve
from fluxy_sync.tls import Tls

ANSWER_BYTES = 64 * 1024  # kept at most of an answer's body; a longer one costs its connection
RECEIVED_BYTES = 1024 * 1024  # taken at most from the socket for one answer, its head and framing included
MAX_INTERIM_ANSWERS = 100
KEPT_ALIVE_S = 60.0  # less than what servers and address translators (NAT) commonly keep a silent connection for


class ClaimEnded(FluxySyncError):
    """The claim ran out before the request was written; nothing was sent."""


class DeadlinePassed(FluxySyncError):
    """The exchange's total deadline passed before the request was written; nothing was sent."""


class CredentialsError(FluxySyncError):
    """The gateway's credentials could not be got; nothing was sent. ``reason`` is a fixed code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


NETWORK_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    DeadlinePassed,
    OSError,
)
"""What an exchange raises for what the network or the other side does."""


class Flight:
    """One operation under way: until when it may be written, and until when it may last (boottime seconds).

    ``link_since``: when the link came back. A connection that wasn't used since may have died unnoticed.
    """

    def __init__(self, claim_ends: float, deadline: float, link_since: float = 0.0) -> None:
        self.claim_ends = claim_ends
        self.deadline = deadline
        self.link_since = link_since
        self.wrote = False  # something of the request under way may have left
        self.acted: int | None = None  # the 2xx of an answer whose head has come
        self.holds_claim = True  # as far as was last seen
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def left_s(self) -> float:
        """Seconds to the deadline, and never none: a timeout of 0 has another meaning."""
        return max(self.deadline - boottime(), 0.001)

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


class _Unheard(logging.Filter):
    """urllib3 tells the path of each request at DEBUG: not of one that is under way here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _flight.get() is None


_flight: contextvars.ContextVar[Flight | None] = contextvars.ContextVar("fluxy_sync_flight", default=None)


for _name in ("connection", "connectionpool", "response"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_Unheard())


@contextlib.contextmanager
def flying(flight: Flight) -> Iterator[None]:
    """Make the flight's limits hold for what this thread sends within."""
    token = _flight.set(flight)
    try:
        yield
    finally:
        flight.watch(None)
        _flight.reset(token)


class _Incoming(io.RawIOBase):
    """What comes for one answer: up to the flight's deadline, and RECEIVED_BYTES of it.

    A timeout of the socket holds for each piece: without this, a byte now and then would last for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw: Any = sock.makefile("rb", buffering=0)
        self._flight = _flight.get()
        self._left = RECEIVED_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise OSError(errno.EMSGSIZE, "the answer is longer than anything that would be looked at")
        with self._shortened():
            count: int | None = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= count or 0
        return count

    @contextlib.contextmanager
    def _shortened(self) -> Iterator[None]:
        timeout = self._sock.gettimeout()
        if self._flight is None or (timeout is not None and timeout <= self._flight.left_s):
            yield
            return
        self._sock.settimeout(self._flight.left_s)
        try:
            yield
        finally:
            self._sock.settimeout(timeout)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Source:
    """Stands for the socket where http.client wants only the file that it reads an answer from."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._sock))


class _Response(http.client.HTTPResponse):
    """An answer read within the flight's limits."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Source(sock), *args, **kwargs)  # type: ignore[arg-type]
        self._under = sock

    def begin(self) -> None:
        super().begin()
        # Else urllib3 logs what it couldn't read of the head, with the URL.
        self.msg.defects.clear()
        self.msg.set_payload("")

    def _close_conn(self) -> None:
        """It is over. What is behind it, nobody asked for: it must not become the answer to the next request."""
        if self.status == http.client.SWITCHING_PROTOCOLS or self._has_more():
            with contextlib.suppress(OSError):  # it was closed already
                self._under.shutdown(socket.SHUT_RDWR)
        super()._close_conn()  # type: ignore[misc]

    def _has_more(self) -> bool:
        timeout = self._under.gettimeout()
        try:
            self._under.settimeout(0)
            return bool(self.fp.peek(1))
        except OSError:  # it is closed, or too much came
            return True
        finally:
            with contextlib.suppress(OSError):
                self._under.settimeout(timeout)

    def _read_status(self) -> tuple[str, int, str]:
        """Skip all interim answers (RFC 9110, section 15.2), of which http.client only knows 100.

        The real answer would be taken for that of the connection's next request.
        """
        for _ in range(MAX_INTERIM_ANSWERS):
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if found[1] >= 200 or found[1] == http.client.SWITCHING_PROTOCOLS:
                return found
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("the answer never came, only interim ones")


class _Guarded:
    """Checks the claim's end before it connects, and again before it writes; looks names up within the deadline."""

    sock: Any
    host: Any
    port: Any
    timeout: Any
    auto_open: int
    response_class: Any = _Response
    left_at = 0.0  # boottime at which it went back to its pool
    _dns_host: Any

    def connect(self) -> None:
        flight = _flight.get()
        if flight is not None:
            flight.check()
            flight.wrote = False
        super().connect()  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        flight = _flight.get()
        if flight is None:
            return super()._new_conn()  # type: ignore[misc, no-any-return]
        name, timeout = self._dns_host, self.timeout
        failed: Exception = OSError("the name has no address")  # never: that is an error of the look-up's
        for address in self._resolve(flight):
            try:
                self._dns_host, self.timeout = address, min(timeout, flight.left_s)
                return super()._new_conn()  # type: ignore[misc, no-any-return]
            except (NewConnectionError, ConnectTimeoutError) as error:
                failed = error
                flight.check()
            finally:
                self._dns_host, self.timeout = name, timeout
        raise failed

    def _resolve(self, flight: Flight) -> list[str]:
        try:
            return resolve(self._dns_host, self.port, flight.left_s)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        except UnicodeError:
            raise LocationParseError(f"'{self.host}', label empty or too long") from None

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        flight = _flight.get()
        if flight is not None:
            flight.check()
            flight.watch(self.sock)
            flight.wrote = True
            # For all that is written at once: with the time to connect, a large body on a slow link never arrived.
            self.sock.settimeout(flight.left_s)
        super().send(data)  # type: ignore[misc]


class _GuardedHTTP(_Guarded, HTTPConnection):
    pass


class _GuardedHTTPS(_Guarded, HTTPSConnection):
    strict: bool | None = None

    def connect(self) -> None:
        if self.strict is not None:
            # A new one for each connection, as urllib3 makes it: the file of trusted authorities may have changed.
            context = create_urllib3_context()
            others = context.verify_flags & ~ssl.VERIFY_X509_STRICT
            context.verify_flags = others | ssl.VERIFY_X509_STRICT if self.strict else others
            self.ssl_context = context
        super().connect()


class _Fresh:
    """Takes no connection that may have died unnoticed: a request would wait on it until its read timeout."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        flight = _flight.get()
        if connection.left_at < max(boottime() - KEPT_ALIVE_S, flight.link_since if flight else 0.0):
            connection.close()  # it connects anew when it is used
        return connection

    def _put_conn(self, connection: Any) -> None:
        if connection is not None:
            connection.left_at = boottime()
        super()._put_conn(connection)  # type: ignore[misc]


class _HTTPPool(_Fresh, HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(_Fresh, HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS

    def __init__(self, *args: Any, strict: bool | None = None, **kwargs: Any) -> None:
        self._strict = strict
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.strict = self._strict
        return connection


class GuardedAdapter(HTTPAdapter):
    """A requests transport whose connections keep to the flight's limits. It never repeats a request.

    Args:
        tls: what it trusts and shows, whoever sends over it.
        connect_timeout_s, read_timeout_s: for each connection made, and between two pieces of an answer.
        kept: connections that are kept for the next requests.
    """

    def __init__(self, tls: Tls, connect_timeout_s: float, read_timeout_s: float, kept: int = 10) -> None:
        self._tls = tls
        self._timeouts = (connect_timeout_s, read_timeout_s)
        super().__init__(pool_maxsize=kept, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        with_tls: Any = functools.partial(_HTTPSPool, strict=self._tls.strict)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": with_tls}

    def send(self, request: requests.PreparedRequest, *_args: Any, **_kwargs: Any) -> requests.Response:
        """Send it; the body of the answer is still to be read."""
        return super().send(
            request, stream=True, timeout=self._timeouts, verify=self._tls.trusted, cert=self._tls.shown
        )

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().cert_verify(*args, **kwargs)  # type: ignore[no-untyped-call]
        except OSError as error:  # a file that was there at the start is gone
            raise requests.exceptions.SSLError(error) from error


def read_body(response: requests.Response) -> bytes:
    """The first ANSWER_BYTES of an answer. One that is read to its end gives its connection back to the pool."""
    body = b""
    try:
        # Until nothing comes: only then urllib3 says that a body ended too early.
        while len(body) < ANSWER_BYTES:
            piece = response.raw.read(ANSWER_BYTES - len(body), decode_content=False)
            if not piece:
                return body
            body += piece
    except ValueError as error:  # http.client, of a negative chunk size
        raise urllib3.exceptions.ProtocolError("the answer's framing is broken") from error
    finally:
        response.close()
    return body
