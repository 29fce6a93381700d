"""One exchange with a real server, well-behaved or not: it always ends, and with the right outcome."""

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from fluxy_sync.connectivity import Probe
from fluxy_sync.delivery import Delivery, Flight, Reply, Request, boottime
from fluxy_sync.operation import Outcome, Verdict
from fluxy_sync.settings import Settings
from tests.raw_server import Handler, RawServer, read_request, saying
from tests.upstream import Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOST = Outcome(Verdict.RETRY, "connection-lost")
LATE = Outcome(Verdict.RETRY, "total-timeout")


@pytest.fixture
def made() -> Iterator[Callable[..., Delivery]]:
    """Makes deliveries that are closed afterwards."""
    all_made: list[Delivery] = []

    def make(upstream: str, **settings: Any) -> Delivery:
        values: dict[str, Any] = {"connect_timeout_s": 0.5, "read_timeout_s": 0.3} | settings
        all_made.append(Delivery(Settings(upstream=upstream, **values)))
        return all_made[-1]

    yield make
    for delivery in all_made:
        delivery.close()


Make = Callable[..., Delivery]


def reply(
    delivery: Delivery, path: str = "/", lasts_s: float = 5.0, method: str = "POST", body: bytes = b"x", **headers: str
) -> Reply:
    url = path if "://" in path else delivery.upstream + path
    now = boottime()
    sent = {"Content-Length": str(len(body))} | headers
    return delivery.send(Request(method, url, sent, body), Flight(now + 60, now + lasts_s))


def outcome(make: Make, handler: Handler, lasts_s: float = 5.0, **options: Any) -> Outcome:
    with RawServer(handler) as server:
        return reply(make(server.url), lasts_s=lasts_s, **options).outcome


# --- no connection, or none that lasts


def test_a_real_refusal_is_the_link(made: Make) -> None:
    """A closed port, through the whole stack of requests and urllib3."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert reply(made(url)) == Reply(Outcome(Verdict.UNREACHABLE, "refused"))


def test_a_real_unknown_name_is_the_link(made: Make) -> None:
    """A name that can't exist (RFC 6761, section 6.4)."""
    assert reply(made("http://upstream.invalid")).outcome == Outcome(Verdict.UNREACHABLE, "dns")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf", "connection-lost"),
        (b"not http\r\n\r\n", "connection-lost"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "connection-lost"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "connection-lost"),
    ],
)
def test_a_real_loss_after_connecting_is_tried_again(made: Make, answer: bytes, reason: str) -> None:
    """A closed connection, half a body, something that isn't HTTP."""
    assert outcome(made, saying(answer)) == Outcome(Verdict.RETRY, reason)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
def test_silence_is_a_read_timeout(made: Make, answer: bytes) -> None:
    """Nothing came, or the rest doesn't."""
    assert outcome(made, saying(answer, keep=True)) == Outcome(Verdict.RETRY, "read-timeout")


# --- answers that would hang or crash a client


def flood(start: bytes, piece: bytes) -> Handler:
    """Write ``start``, and then ``piece`` for ever."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return handle


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "handler",
    [
        flood(b"HTTP/1.1 200 OK\r\n", b"X-Flood: 1\r\n" * 1000),
        flood(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
        flood(b"", b"H" * 65536),
        flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        flood(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000),
        flood(CHUNKED, b"f" * 65536),
        flood(CHUNKED + b"-1\r\n", b"x" * 65536),
        flood(CHUNKED + b"2;", b"extension" * 8192),
        flood(CHUNKED + b"2\r\nok\r\n0\r\n", b"X-Trailer: 1\r\n" * 1000),
        saying(CHUNKED + b"-2\r\nok\r\n0\r\n\r\n"),
        saying(CHUNKED + b"zz\r\nok\r\n0\r\n\r\n"),
        saying(CHUNKED + b"\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ],
    ids=[
        "header flood",
        "endless header",
        "endless status line",
        "100 for ever",
        "103 for ever",
        "endless chunk size",
        "endless negative chunk",
        "endless chunk extension",
        "trailer flood",
        "negative chunk",
        "chunk size that is no number",
        "empty chunk size",
        "two lengths",
    ],
)
def test_a_broken_answer_ends_the_exchange_as_lost(made: Make, handler: Handler) -> None:
    """It may have been received, so it is tried again; and that is known long before the deadline."""
    began = time.monotonic()
    assert outcome(made, handler, lasts_s=20.0) == LOST
    assert time.monotonic() - began < 10.0


def test_a_delivery_with_an_endless_body_is_one(made: Make) -> None:
    """The status has come: 64 KiB of the body are kept, the rest costs the connection."""
    with RawServer(flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)) as server:
        found = reply(made(server.url))
    assert (found.outcome.verdict, len(found.body)) == (Verdict.DELIVERED, 64 * 1024)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_trickles_ends_at_the_deadline(made: Make, start: bytes) -> None:
    """Each byte comes in time, the whole doesn't; and nobody else watches over it."""

    def trickle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(start)
        connection.settimeout(0.05)
        while True:
            try:
                connection.recv(1)
                return
            except TimeoutError:
                connection.sendall(b"x")

    began = boottime()
    assert outcome(made, trickle, lasts_s=0.7) == LATE
    assert 0.7 <= boottime() - began < 3.0


def test_interim_answers_are_not_the_answer(made: Make) -> None:
    """103 comes before the real one, which would else be taken for that of the next request (RFC 9110, 15.2)."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    first = hints + hints + b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\none"
    with RawServer(saying(first, b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\ntwo")) as server:
        delivery = made(server.url)
        found = [(one.outcome.status, one.body) for one in (reply(delivery), reply(delivery))]
        assert server.accepted == 1
    assert found == [(201, b"one"), (202, b"two")]


def test_a_broken_head_is_not_logged_with_the_path(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 would write the whole URL."""
    with caplog.at_level(logging.INFO), RawServer(saying(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n")) as server:
        assert reply(made(server.url), "/secret-path").outcome.verdict is Verdict.DELIVERED
    assert "secret-path" not in caplog.text


def test_a_large_body_has_until_the_deadline_to_be_written(made: Make) -> None:
    """Not the time to connect: on a slow link it would never arrive."""

    read = threading.Event()

    def read_later(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        read.wait(5)
        read_request(connection)
        connection.sendall(OK)

    threading.Timer(1.5, read.set).start()  # three times the time to connect
    with RawServer(read_later) as server:
        delivery = made(server.url, read_timeout_s=10)
        found = reply(delivery, lasts_s=20.0, body=b"x" * 16 * 1024 * 1024)
    assert found.outcome.verdict is Verdict.DELIVERED


def test_a_probe_survives_the_same(made: Make) -> None:
    """A wrong answer or a broken one, never an exception."""
    with RawServer(flood(CHUNKED + b"-1\r\n", b"x" * 65536)) as server:
        probe = Probe(Settings(upstream=server.url, probe_expect="body=ok", connect_timeout_s=0.5))
        assert probe.ask().reason == "connection-lost"
        probe.close()


# --- what the answer says


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Date": 0, "Retry-After": 90}, 90.0),
        ({"Date": -400_000_000, "Retry-After": -400_000_000 + 60}, 60.0),
        ({"Date": 400_000_000, "Retry-After": 400_000_000 - 60}, 0.0),
        ({"Date": 400_000_000, "Retry-After": 400_000_000 + 10**6}, 300.0),
    ],
)
def test_a_date_is_told_by_the_clock_that_wrote_it(made: Make, headers: dict[str, int], seconds: float) -> None:
    """A gateway's own clock may be years off: Retry-After counts from the answer's Date."""
    now = datetime.now(UTC).replace(microsecond=0)
    lines = (f"{name}: {format_datetime(now + timedelta(seconds=at), usegmt=True)}" for name, at in headers.items())
    answer = "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    assert outcome(made, saying(answer.encode())) == Outcome(Verdict.RETRY, "503", 503, seconds)


@pytest.mark.parametrize("date", ["", "Date: soon\r\n"])
def test_without_a_valid_date_our_clock_counts(made: Make, date: str) -> None:
    """Better than nothing."""
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    answer = f"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n{date}Retry-After: {at}\r\n\r\n"
    floor = outcome(made, saying(answer.encode())).retry_after_s
    assert floor is not None
    assert 90 <= floor <= 100


def test_the_answer_is_given_back(made: Make) -> None:
    """The chosen headers by lower-case names, and the body; of a refusal, its first bytes with the outcome."""
    head = b'Content-Type: text/plain\r\nETag: "1"\r\nX-Other: 2\r\nContent-Length: 2000\r\n\r\n'
    with RawServer(saying(b"HTTP/1.1 422 No\r\n" + head + b"y" * 2000)) as server:
        found = reply(made(server.url, result_headers="Content-Type ETag X-None"))
    assert found.headers == {"content-type": "text/plain", "etag": '"1"'}
    assert found.body == b"y" * 2000
    assert found.outcome == Outcome(Verdict.DEAD, "422", 422, detail=b"y" * 1024)


def test_rules_reach_the_table(made: Make, upstream: Upstream) -> None:
    """The operation's, then its task's, for its method."""
    upstream.default(404)
    with upstream:
        delivery, now = made(upstream.url), boottime()
        request = Request("DELETE", upstream.url + "/a", {"Idempotency-Key": '"a"'}, None)
        flight = Flight(now + 5, now + 5)
        rules: list[dict[str, str]] = [{"DELETE 404": "delivered"}, {"404": "retry"}]
        assert delivery.send(request, flight, *rules).outcome.verdict is Verdict.DELIVERED
        assert delivery.send(request, flight, {}, *rules[1:]).outcome.verdict is Verdict.RETRY
        assert delivery.send(request, flight).outcome.verdict is Verdict.DEAD


@pytest.mark.parametrize(
    ("status", "took"), [(200, True), (404, True), (401, False), (407, False), (429, False), (302, False), (503, False)]
)
def test_an_answer_may_show_that_the_credentials_are_taken(made: Make, status: int, took: bool) -> None:
    """What says "later" or "elsewhere" may come from a server that never looked at them."""
    with RawServer(saying(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())) as server:
        assert reply(made(server.url)).took_credentials is took
    with RawServer(saying(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())) as server:
        assert not reply(made(server.url), Authorization="Own x").took_credentials


# --- redirects


def redirecting(location: str, status: int = 307) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("location", ["http://[::1", "http://captive.invalid/login", "//[", "https://a:99999/", "x:y"])
def test_a_redirect_to_somewhere_else_is_the_link(made: Make, location: str) -> None:
    """A captive portal, also one that can't spell; its page is nobody's answer."""
    with RawServer(saying(redirecting(location))) as server:
        assert reply(made(server.url)) == Reply(Outcome(Verdict.UNREACHABLE, "captive-portal", 307))


@pytest.mark.parametrize(
    ("status", "verdict"), [(307, Verdict.DELIVERED), (308, Verdict.DELIVERED), (302, Verdict.DEAD)]
)
def test_a_redirect_within_the_origin_is_followed_where_it_keeps_the_method(
    made: Make, status: int, verdict: Verdict
) -> None:
    """A 302 would make a GET of it."""
    assert outcome(made, saying(redirecting("/there", status), OK)).verdict is verdict


def test_a_redirect_to_an_allowed_origin_is_a_refusal_not_the_link(made: Make) -> None:
    """It isn't followed, as it leaves the origin; but no captive portal knows that name."""
    with RawServer(saying(redirecting("https://cdn.example/x"))) as server:
        found = reply(made(server.url, allowed_origins="https://cdn.example")).outcome
    assert (found.verdict, found.reason) == (Verdict.DEAD, "307")


def test_redirects_without_end_are_given_up(made: Make) -> None:
    """No try can ever succeed."""
    forever = saying(*itertools.repeat(redirecting("/again"), 10))
    assert outcome(made, forever) == Outcome(Verdict.DEAD, "too-many-redirects")
