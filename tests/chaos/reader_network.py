"""Cases of what comes over the network: answers of the store, of the upstream and its neighbours; requests."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from fluxy_sync import FluxySync
from fluxy_sync.access_token import TokenEndpoint
from fluxy_sync.connectivity import Probe, ProbeResult
from fluxy_sync.delivery import Delivery, Flight, boottime
from fluxy_sync.errors import FluxySyncError
from fluxy_sync.event_stream import Dashboard
from fluxy_sync.expiry import UpstreamClock, http_date
from fluxy_sync.live_source import read_record
from fluxy_sync.resolver import Resolver
from fluxy_sync.settings import Settings
from fluxy_sync.tls import Tls
from tests.chaos.garbage import STEERING
from tests.chaos.hostile_answers import hostile, hostile_server
from tests.chaos.hostile_requests import ask, asked
from tests.chaos.reader_bench import NOTHING, Bench
from tests.chaos.trials.hostile import ASKERS, DEADLINE_S, PATIENCE_S, REASON, check_answer, check_reply, send
from tests.raw_server import RawServer, read_request

Case = Callable[[Bench], None]

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
REPLIES = (
    b"+OK\r\n", b"$-1\r\n", b"*-1\r\n", b":1\r\n", b"*0\r\n", b"-ERR \x1b[2J forged\r\n", b"-LOADING\r\n",
    b"-NOSCRIPT x\r\n",
    b"$99999999999\r\nx", b"*1000000000\r\n", b"$3\r\nabc", b"*2\r\n$1\r\n", b"%1\r\n+a\r\n+b\r\n", b"_\r\n", b"#t\r\n",
    b"*3\r\n:1\r\n$1\r\nx\r\n:2\r\n", b"-MOVED 1 127.0.0.1:1\r\n", b"*1\r\n" * 5000, b":" + b"9" * 400 + b"\r\n",
    b"!5\r\nERR x\r\n",
)  # fmt: skip


@contextmanager
def answering(bench: Bench, answer: list[bytes]) -> Iterator[RawServer]:
    """A server that answers each request with what ``answer`` holds then, and closes the connection."""

    def handle(connection: socket.socket) -> None:
        if read_request(connection):
            connection.settimeout(5)
            connection.sendall(answer[0])

    with RawServer(handle) as running:
        yield running


def with_body(body: bytes, head: bytes = JSON_HEAD) -> bytes:
    return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def odd_answers(bench: Bench, right: bytes, *, most: int = 6) -> Iterator[tuple[str, bytes]]:
    """Garbage as a body, as a whole answer, and in its headers."""
    for kind, data in bench.garbage.values(right, most=most):
        yield f"{kind} as a body: {data[:60]!r}", with_body(data)
        yield f"{kind} as an answer: {data[:60]!r}", data or b"\r\n"
        line = data.replace(b"\r", b"").replace(b"\n", b"")[:5000]
        yield f"{kind} in a header: {data[:60]!r}", with_body(right, JSON_HEAD + b"Date: " + line + b"\r\n")
        yield f"{kind} as a place: {data[:60]!r}", with_body(b"", b"HTTP/1.1 302 Found\r\nLocation: " + line + b"\r\n")


# --- the store


def store_answers(bench: Bench) -> None:
    """Whatever answers at the store's address: commands end with an error of ours, in time and in little memory."""
    answer = [b""]

    def handle(connection: socket.socket) -> None:
        connection.settimeout(5)
        while connection.recv(65536):
            connection.sendall(answer[0])

    chosen = bench.run.scale(bench.run.chance.sample(REPLIES, 5), REPLIES)
    with RawServer(handle) as running:
        url = running.url.replace("http://", "redis://")
        for reply in [
            *chosen,
            *(data for _, data in (bench.garbage.one(b"$3\r\nabc\r\n") for _ in range(bench.run.scale(2, 8)))),
        ]:
            answer[0] = (reply or b"\r\n") * 60
            for command in bench.run.scale(("status",), ("status", "queue POST /x")):
                began = time.monotonic()
                bench.command(command, f"the store answered {reply[:60]!r}", FLUXY_SYNC_REDIS_URL=url)
                bench.run.check(
                    time.monotonic() - began < 15, f"{command} took too long: the store answered {reply[:60]!r}"
                )
    bench.lives("odd answers of a store")


# --- the upstream and its neighbours


def upstream_answers(bench: Bench) -> None:
    """The upstream decides about its operation, and about nothing else."""
    with hostile_server() as (server, running):
        delivery = Delivery(Settings(upstream=running.url, connect_timeout_s=1.0, read_timeout_s=0.4))
        for _ in range(bench.run.scale(15, 500)):
            server.next = answer = hostile(bench.run.chance)
            began = boottime()
            check_reply(bench.run, send(delivery, "/hostile"), repr(answer)[:2000])
            bench.run.check(boottime() - began < DEADLINE_S + 1, f"an exchange took too long: {repr(answer)[:2000]}")
        delivery.close()


def probe_answers(bench: Bench) -> None:
    """A probe says online, offline, or a portal, with a fixed code."""
    answer = [b""]
    expects = bench.run.scale(("body=x", "header=X-Y: z"), ("status=200", "body=x", "header=X-Y: z"))
    with answering(bench, answer) as running:
        for expect in expects:
            probe = Probe(Settings(upstream=running.url, probe_expect=expect))
            for what, answer[0] in odd_answers(bench, b"{}", most=3):
                result = bench.only_ours(what, probe.ask)
                fine = isinstance(result, ProbeResult) and REASON.fullmatch(result.reason)
                bench.run.check(fine, f"the probe says {result} after {what}")
                bench.only_ours(what, lambda r=result: http_date(r.date))
            probe.close()


def dates(bench: Bench) -> None:
    """What isn't a date says nothing; one of any year can be noted and compared."""
    clock = UpstreamClock()
    odd = (
        "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 99 Foo 2026 99:99:99 GMT", "1 Jan 1 00:00 +9999", "0", "-1", "9" * 400,
        "Sun, 06 Nov 1994 08:49:37 GMT" * 9,
        "Sun, 06 Nov 1994 08:49:37 " + "9" * 20, "Sunday, 06-Nov-94 08:49:37 GMT",
    )  # fmt: skip
    garbage = [data.decode("latin-1") for _, data in bench.garbage.values(odd[0].encode(), most=8)]
    for text in (*odd, *garbage):
        bench.only_ours(f"the date {text[:60]!r}", lambda text=text: (http_date(text), clock.note(text)))


def token_answers(bench: Bench) -> None:
    """The endpoint gives a token that fits into a header, or none."""
    answer = [b""]
    right = json.dumps({"access_token": "x", "token_type": "Bearer", "expires_in": 3600}).encode()
    odd = [
        {"access_token": "x", "expires_in": value} for value in ("nan", "inf", -1, [], 10**400, "9" * 400, None, True)
    ] + [{"access_token": value} for value in (7, "a\r\nX: y", "", "x" * 60_000, STEERING.decode("latin-1"), None)]
    with answering(bench, answer) as running:
        given = {
            "upstream": running.url, "auth_oauth2_token_url": f"{running.url}/token", "auth_oauth2_client_id": "a",
            "auth_oauth2_client_secret": "b", "connect_timeout_s": 1, "read_timeout_s": 1,
        }  # fmt: skip
        endpoint = TokenEndpoint(Settings(**given), Tls())
        bodies = [(f"the token {one}"[:100], with_body(json.dumps(one).encode())) for one in odd]
        for what, answer[0] in (*bodies, *odd_answers(bench, right, most=4)):
            token = bench.only_ours(what, lambda: endpoint.fetch(Flight(boottime() + 60, boottime() + 5)))
            fine = token is NOTHING or (token.access_token.isascii() and 0 <= token.lifetime_s <= 30 * 86_400)
            bench.run.check(fine, f"{token} came of {what}")
        endpoint.close()


def names(bench: Bench) -> None:
    """A name of any form is looked up in time, or is no name."""
    resolver = Resolver()
    odd = ["localhost", "a" * 64 + ".invalid", "." * 300, "x..invalid", "-.invalid", "xn--a.invalid", "\udcff.invalid"]
    odd += [data.decode("latin-1")[:300] for _, data in bench.garbage.values(b"name.invalid", most=6)]
    for name in odd:
        began = time.monotonic()
        try:
            found = resolver.resolve(name, 80, 2.0)
        except (OSError, UnicodeError, ValueError) as error:
            bench.run.check(
                not isinstance(error, ValueError) or "\0" in name or isinstance(error, UnicodeError), repr(error)
            )
        else:
            bench.run.check(all(isinstance(one, str) for one in found), f"{name!r} is {found}")
        bench.run.check(time.monotonic() - began < 3, f"looking {name[:60]!r} up took too long")


# --- the dashboard, from both sides


def dashboard_answers(bench: Bench) -> None:
    """Whatever answers in the dashboard's place: live values are stale, or those of the store."""
    answer, right = [b""], json.dumps(bench.dashboard.record()).encode()
    with answering(bench, answer) as running:
        dashboard = Dashboard(running.url, Tls())
        settings = bench.here.stage.gateway.settings(dashboard_url=running.url)
        sync = FluxySync(settings)
        for what, answer[0] in odd_answers(bench, right, most=5):
            read = bench.only_ours(what, lambda: read_record(dashboard.record()))
            if read is not NOTHING and read.status is not None:
                bench.only_ours(what, lambda: sync.pending_count.value)
        for kind, data in bench.garbage.values(right, most=5):
            lines = b"".join(b"data: " + line + b"\n" for line in data.split(b"\n"))
            for stream in (STREAM_HEAD + data, STREAM_HEAD + lines + b"\n", STREAM_HEAD + b"data: " + data):
                answer[0] = stream
                bench.only_ours(f"{kind} in the stream: {data[:60]!r}", lambda: listen(dashboard))
        sync.live.close()
        sync.engine.journal.store.close()


def listen(dashboard: Dashboard) -> None:
    with dashboard.stream() as stream:
        for event in stream.events():
            if event is not None:
                try:
                    read_record(event)
                except FluxySyncError:
                    continue  # the next one may be right


def requests(bench: Bench) -> None:
    """No request makes an error of the dashboard's own; a stranger learns nothing."""
    sent = [asked(bench.run.chance) for _ in range(bench.run.scale(60, 3000))]
    with ThreadPoolExecutor(ASKERS) as askers:
        answers = askers.map(lambda one: ask(bench.dashboard.port, one.data, PATIENCE_S), sent)
        for request, answer in zip(sent, answers, strict=True):
            check_answer(bench.run, bench.dashboard, request, answer)
    for kind, data in bench.garbage.values(b'{"all": true}', most=8):
        for path in (
            "/api/sync/pause",
            "/api/sync/dead/drop",
            "/api/sync/dead/replay",
            "/api/sync/operations/x/cancel",
        ):
            answer = bench.dashboard.post_raw(path, data)
            fine = answer.status_code < 500 or answer.status_code == 503
            bench.run.check(fine, f"{path} answered {answer.status_code} to {kind}: {data[:60]!r}")
    bench.here.sync.resume()
    bench.still_works("odd requests")


NETWORK: dict[str, Case] = {
    "what the store answers": store_answers, "the upstream's answers": upstream_answers,
    "the probe's answers": probe_answers, "the Date of answers": dates, "the token endpoint's answers": token_answers,
    "answers of the DNS": names, "the dashboard's record and stream": dashboard_answers,
    "requests to the dashboard": requests,
}  # fmt: skip
