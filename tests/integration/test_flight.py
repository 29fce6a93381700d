"""A request under way: it is written only within its claim, and lasts no longer than its deadline."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync.delivery import ClaimEnded, Delivery, Flight, Reply, Request, Stamp, boottime, build_request
from fluxy_sync.journal import Journal
from fluxy_sync.lease_renewer import Keeper
from fluxy_sync.operation import Outcome, Verdict
from fluxy_sync.settings import Settings
from tests.conftest import wait_until
from tests.journal_steps import WORKER, claim, queue
from tests.raw_server import Handler, RawServer, read_request

FAR = 1e12


class Silent:
    """A server that accepts, notes what comes, and answers one byte of a header at a time, for ever."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self.received = b""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._listener.settimeout(0.05)
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                self.accepted += 1
                self._trickle(connection)

    def _trickle(self, connection: socket.socket) -> None:
        connection.settimeout(0.05)
        while not self._ended.is_set():
            try:
                received = connection.recv(65536)
                if not received:
                    return
                self.received += received
            except TimeoutError:
                pass
            try:
                if self.received:
                    connection.sendall(b"H")
            except OSError:
                return

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Silent]:
    silent = Silent()
    yield silent
    silent.close()


@pytest.fixture
def delivery(server: Silent, tmp_path: Path) -> Iterator[Delivery]:
    sender = Delivery(Settings(redis_url="redis://unused", upstream=server.url, data_dir=tmp_path))
    yield sender
    sender.close()


def send(delivery: Delivery, flight: Flight) -> Outcome:
    stamp = Stamp("key", 1, 1, "scope")
    return delivery.send(build_request(delivery.upstream, "POST", "/", b"{}", {}, stamp), flight).outcome


def test_nothing_connects_after_the_claim(delivery: Delivery, server: Silent) -> None:
    """A process that was stopped, and wakes late, doesn't even connect."""
    with pytest.raises(ClaimEnded):
        send(delivery, Flight(claim_ends=boottime() - 1, deadline=FAR))
    assert server.accepted == 0


class EndsWhileConnecting(Flight):
    """A claim that ends between connecting and writing."""

    checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.checks == 2:
            self.claim_ends = boottime() - 1
        super().check()


def test_nothing_is_written_after_the_claim(delivery: Delivery, server: Silent) -> None:
    """It is looked at again after connecting, which may take long: not one byte leaves."""
    with pytest.raises(ClaimEnded):
        send(delivery, EndsWhileConnecting(claim_ends=FAR, deadline=FAR))
    wait_until(lambda: server.accepted == 1)
    assert server.received == b""


def test_an_answer_that_trickles_ends_at_the_total_deadline(
    delivery: Delivery, journal: Journal, server: Silent
) -> None:
    """Each byte comes in time, the whole doesn't: read timeouts are per read, the keeper ends the exchange."""
    keeper = Keeper(journal)
    began = boottime()
    flight = Flight(claim_ends=FAR, deadline=began + 1.0)
    keeper.add(flight, "a", 1)
    assert send(delivery, flight) == Outcome(Verdict.RETRY, "total-timeout")
    keeper.remove(flight)
    assert 1.0 <= boottime() - began < 5.0


def test_a_claim_is_renewed_while_its_request_lasts(journal: Journal) -> None:
    """Below its last seconds the claim is moved on, in the journal and for the flight; a lost one isn't."""
    queue(journal, "one")
    fence = claim(journal, WORKER).fence
    keeper = Keeper(journal)
    kept = Flight(claim_ends=boottime() + 2.0, deadline=FAR)
    lost = Flight(claim_ends=boottime() + 2.0, deadline=FAR)
    keeper.add(kept, "a", fence)
    keeper.add(lost, "a", fence + 1)
    ends = lost.claim_ends
    wait_until(lambda: kept.claim_ends > boottime() + 8.0)
    assert lost.claim_ends == ends
    keeper.remove(kept)
    keeper.remove(lost)


@pytest.mark.parametrize(
    "behind",
    [
        b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nevil" * 1000,
        b"x",
    ],
)
@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 204 No Content\r\n\r\n"]
)
def test_what_is_behind_an_answer_is_nobodys_answer(first: bytes, behind: bytes) -> None:
    """More of it may be on its way: the next request gets a connection of its own."""
    one, two = first + behind, b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\ntwo"
    with RawServer(turns(one, two)) as server:
        delivery = Delivery(Settings(upstream=server.url))
        found = [ask(delivery).outcome.status for _ in range(2)]
        delivery.close()
        assert server.accepted == 2
    assert found == [int(first[9:12]), 202]


def test_a_connection_that_speaks_something_else_now_is_not_used_again() -> None:
    """101: whatever comes over it is no answer (RFC 9110, section 15.2.2)."""
    with RawServer(
        turns(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n", b"HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n")
    ) as server:
        delivery = Delivery(Settings(upstream=server.url))
        found = [ask(delivery).outcome.status for _ in range(2)]
        delivery.close()
        assert server.accepted == 2
    assert found == [101, 202]


def turns(*answers: bytes) -> Handler:
    """The next answer to each request, whatever its connection; connections stay open."""
    left = iter(answers)

    def handle(connection: socket.socket) -> None:
        while read_request(connection):
            connection.sendall(next(left))

    return handle


def ask(delivery: Delivery) -> Reply:
    return delivery.send(
        Request("POST", f"{delivery.upstream}/", {"Content-Length": "1"}, b"x"), Flight(FAR, boottime() + 5)
    )
