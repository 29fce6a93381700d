"""The outcome table: what becomes of an operation, for each answer and each way of getting none."""

import email.utils
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.delivery import (
    RETRY_AFTER_CAP_S,
    UNAUTHORIZED_PAUSE_S,
    DeadlinePassed,
    Delivery,
    Flight,
    Request,
    Stamp,
    boottime,
    build_request,
    fence_scope,
    judge,
    judge_error,
    retry_after_s,
)
from fluxy_sync.operation import JsonBody, Outcome, Verdict
from fluxy_sync.settings import Settings

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STAMP = Stamp(key="op-1", attempt=2, fence=7, scope="0123456789abcdef")
statuses = st.integers(100, 599)
pauses = st.none() | st.floats(0, RETRY_AFTER_CAP_S)

# --- answers


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.DELIVERED),
        (201, Verdict.DELIVERED),
        (202, Verdict.DELIVERED),
        (204, Verdict.DELIVERED),
        (299, Verdict.DELIVERED),
        (300, Verdict.DEAD),
        (302, Verdict.DEAD),
        (304, Verdict.DEAD),
        (400, Verdict.DEAD),
        (401, Verdict.WAIT),
        (403, Verdict.DEAD),
        (404, Verdict.DEAD),
        (408, Verdict.RETRY),
        (409, Verdict.DEAD),
        (410, Verdict.DEAD),
        (413, Verdict.DEAD),
        (422, Verdict.DEAD),
        (425, Verdict.RETRY),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
        (501, Verdict.RETRY),
        (502, Verdict.RETRY),
        (503, Verdict.RETRY),
        (504, Verdict.RETRY),
        (507, Verdict.RETRY),
        (599, Verdict.RETRY),
    ],
)
def test_the_table_of_answers(status: int, verdict: Verdict) -> None:
    """Each row of the design's table, by its status."""
    outcome = judge(status, detail=b"why")
    assert (outcome.verdict, outcome.reason, outcome.status) == (verdict, str(status), status)
    assert outcome.detail == (b"why" if verdict is Verdict.DEAD else b"")


@given(statuses, pauses, st.booleans(), st.binary(max_size=8))
def test_every_answer_has_one_outcome(status: int, pause: float | None, foreign: bool, detail: bytes) -> None:
    """Only 2xx delivers, whatever else is said; only what is definitely refused dies; no reason carries a payload."""
    outcome = judge(status, retry_after=pause, foreign_redirect=foreign, detail=detail)
    assert (outcome.verdict is Verdict.DELIVERED) is (200 <= status < 300)
    if outcome.verdict is Verdict.DEAD:
        assert not foreign
        assert status < 500
        assert status not in (401, 408, 425, 429)
    assert outcome.reason in (str(status), "captive-portal")
    assert outcome.verdict is Verdict.DEAD or outcome.detail == b""


@given(pauses)
def test_retry_after_is_a_floor_for_what_is_tried_again(pause: float | None) -> None:
    """For 5xx, 429 and the like it is carried over; a 401 has a pause of its own."""
    for status in (408, 425, 429, 500, 503):
        assert judge(status, retry_after=pause).retry_after_s == pause
    assert judge(401, retry_after=pause).retry_after_s == UNAUTHORIZED_PAUSE_S
    assert judge(400, retry_after=pause).verdict is Verdict.DEAD


def test_a_conflict_is_tried_again_only_while_the_first_try_runs() -> None:
    """409 with Retry-After says so; without, it is a refusal."""
    assert judge(409, retry_after=0.0).verdict is Verdict.RETRY
    assert judge(409).verdict is Verdict.DEAD


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_foreign_origin_is_the_link(status: int) -> None:
    """A captive portal: nothing of the operation is at fault."""
    assert judge(status, foreign_redirect=True) == Outcome(Verdict.UNREACHABLE, "captive-portal", status)


# --- no answer


def connection_error(reason: Exception) -> requests.ConnectionError:
    """As requests wraps what urllib3 raised."""
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/", reason))  # type: ignore[arg-type]


def new_connection_error(cause: Exception) -> urllib3.exceptions.NewConnectionError:
    error = urllib3.exceptions.NewConnectionError(None, "failed")  # type: ignore[arg-type]
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (connection_error(new_connection_error(ConnectionRefusedError())), Verdict.UNREACHABLE, "refused"),
        (connection_error(new_connection_error(OSError(113, "no route"))), Verdict.UNREACHABLE, "no-route"),
        (
            connection_error(urllib3.exceptions.NameResolutionError("h", None, socket.gaierror())),  # type: ignore[arg-type]
            Verdict.UNREACHABLE,
            "dns",
        ),
        (requests.ConnectTimeout(), Verdict.UNREACHABLE, "connect-timeout"),
        (DeadlinePassed(), Verdict.UNREACHABLE, "connect-timeout"),
        (requests.exceptions.SSLError(), Verdict.UNREACHABLE, "tls"),
        (requests.ReadTimeout(), Verdict.RETRY, "read-timeout"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), Verdict.RETRY, "read-timeout"),  # type: ignore[arg-type]
        (TimeoutError(), Verdict.RETRY, "read-timeout"),
        (
            requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted", ConnectionResetError())),
            Verdict.RETRY,
            "connection-lost",
        ),
        (urllib3.exceptions.IncompleteRead(3, 10), Verdict.RETRY, "connection-lost"),
        (requests.exceptions.ChunkedEncodingError(), Verdict.RETRY, "connection-lost"),
        (ConnectionResetError(), Verdict.RETRY, "connection-lost"),
        (BrokenPipeError(), Verdict.RETRY, "connection-lost"),
        (requests.exceptions.InvalidURL(), Verdict.DEAD, "invalid-url"),
        (urllib3.exceptions.LocationParseError("x"), Verdict.DEAD, "invalid-url"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_table_of_errors(error: Exception, verdict: Verdict, reason: str) -> None:
    """What could not connect is the link; what was lost later may have arrived, and is tried again."""
    assert judge_error(error) == Outcome(verdict, reason)


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    delivery = Delivery(Settings(upstream="http://127.0.0.1:1", connect_timeout_s=0.5, read_timeout_s=0.3))
    yield delivery
    delivery.close()


def send(delivery: Delivery, url: str) -> Outcome:
    now = boottime()
    return delivery.send(Request("POST", url, {}, b"x"), Flight(now + 5, now + 5))


def test_a_real_refusal_is_the_link(delivery: Delivery) -> None:
    """A closed port, through the whole stack of requests and urllib3."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert send(delivery, f"http://127.0.0.1:{port}/") == Outcome(Verdict.UNREACHABLE, "refused")


def test_a_real_unknown_name_is_the_link(delivery: Delivery) -> None:
    """A name that can't exist (RFC 6761, section 6.4)."""
    assert send(delivery, "http://upstream.invalid/") == Outcome(Verdict.UNREACHABLE, "dns")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "read-timeout"),
        (b"", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf", "connection-lost"),
        (b"not http\r\n\r\n", "connection-lost"),
    ],
)
def test_a_real_loss_after_connecting_is_tried_again(delivery: Delivery, answer: bytes | None, reason: str) -> None:
    """Silence, a closed connection, half a body, something that isn't HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        outcome = _exchange(delivery, server, answer)
    assert outcome == Outcome(Verdict.RETRY, reason)


def test_a_body_that_stalls_is_a_read_timeout(delivery: Delivery) -> None:
    """The head came, the rest doesn't."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        outcome = _exchange(delivery, server, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", close=False)
    assert outcome == Outcome(Verdict.RETRY, "read-timeout")


def _exchange(delivery: Delivery, server: socket.socket, answer: bytes | None, *, close: bool = True) -> Outcome:
    """Send to a server that reads the request, answers so, and closes the connection (None: it only listens)."""
    kept: list[socket.socket] = []

    def serve() -> None:
        connection, _ = server.accept()
        kept.append(connection)
        connection.recv(65536)
        if answer is not None:
            connection.sendall(answer)
            if close:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return send(delivery, f"http://127.0.0.1:{server.getsockname()[1]}/")
    finally:
        thread.join(5)
        for connection in kept:
            connection.close()


# --- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("86400", RETRY_AFTER_CAP_S),
        ("9" * 400, RETRY_AFTER_CAP_S),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90.0),
        ("Sun Mar  1 12:01:30 2026", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", RETRY_AFTER_CAP_S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    """Seconds or an HTTP-date in any of its three forms (RFC 9110, 5.6.7), capped; anything else is no floor."""
    assert retry_after_s(value, NOW) == seconds


@given(st.integers(-(10**8), 10**8))
def test_http_dates_are_seconds_from_now(seconds: int) -> None:
    """Never negative, never beyond the cap."""
    value = email.utils.format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_s(value, NOW) == min(max(0, seconds), RETRY_AFTER_CAP_S)


@given(
    st.text(max_size=60)
    | st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} -?\d{1,6} \d\d:\d\d(:\d\d)? ?[+-]?[A-Z0-9]{0,7}\Z")
)
def test_no_retry_after_breaks_the_exchange(value: str) -> None:
    """Whatever a server sends there: a floor within the bounds, or none."""
    found = retry_after_s(value, NOW)
    assert found is None or 0 <= found <= RETRY_AFTER_CAP_S


# --- the request


def request(method: str = "POST", path: str = "/api", body: bytes | None = b"x", **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return build_request("https://api.example.com", method, path, body, given, STAMP)


def test_each_request_says_which_operation_try_and_claim_it_is() -> None:
    """The key as a structured string, the attempt from 1, the fence with its scope."""
    sent = request().headers
    assert sent["Idempotency-Key"] == '"op-1"'
    assert sent["Fluxy-Attempt"] == "2"
    assert sent["Fluxy-Fence"] == '7; scope="0123456789abcdef"'


@pytest.mark.parametrize(
    ("body", "kind"), [(JsonBody(b"{}"), "application/json"), (b"{}", "application/octet-stream"), (None, None)]
)
def test_the_body_says_what_it_is(body: bytes | None, kind: str | None) -> None:
    """Unless the operation's own headers do."""
    assert request(body=body).headers.get("Content-Type") == kind
    assert request(body=body, content_type="text/csv").headers.get("content-type") == "text/csv"
    names = [name.lower() for name in request(body=body, content_type="text/csv").headers]
    assert names.count("content-type") == 1


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"abc", "3"), ("POST", None, "0"), ("PATCH", None, "0"), ("DELETE", None, None), ("DELETE", b"", "0")],
)
def test_the_length_is_always_known(method: str, body: bytes | None, length: str | None) -> None:
    """So that nothing is sent in chunks, which not every server takes."""
    assert request(method, body=body).headers.get("Content-Length") == length


def test_paths_stand_below_the_upstream_and_urls_for_themselves() -> None:
    """An absolute URL is sent as it is."""
    assert request(path="/api?x=1").url == "https://api.example.com/api?x=1"
    assert request(path="https://other.example.com/x").url == "https://other.example.com/x"


@given(st.tuples(*[st.text(max_size=8)] * 3), st.tuples(*[st.text(max_size=8)] * 3))
def test_fence_scopes_tell_nothing_and_differ(one: Any, two: Any) -> None:
    """A lane's name isn't readable in it; another lane, namespace or journal has another."""
    if "\0" not in "".join(one + two):
        assert (fence_scope(*one) == fence_scope(*two)) is (one == two)
    assert len(fence_scope(*one)) == 16
