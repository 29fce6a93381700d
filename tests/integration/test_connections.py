"""A connection that may have died unnoticed isn't used: a request would wait on it until its read timeout."""

from collections.abc import Iterator

import pytest

from fluxy_sync import flight
from fluxy_sync.connectivity import Probe
from fluxy_sync.delivery import Delivery, Flight, Request, boottime
from fluxy_sync.settings import Settings
from tests.raw_server import RawServer, saying

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer(saying(*[OK] * 9, keep=True)) as server:
        yield server


@pytest.fixture
def delivery(server: RawServer) -> Iterator[Delivery]:
    sender = Delivery(Settings(upstream=server.url))
    yield sender
    sender.close()


def send(delivery: Delivery) -> None:
    request = Request("POST", f"{delivery.upstream}/", {"Content-Length": "1"}, b"x")
    outcome = delivery.send(request, Flight(boottime() + 9, boottime() + 9)).outcome
    assert outcome.status == 200


def test_a_connection_is_kept(server: RawServer, delivery: Delivery) -> None:
    """As long as nothing speaks against it."""
    delivery.note_link(b"1")
    for _ in range(3):
        delivery.note_link(b"1")
        send(delivery)
    assert server.accepted == 1


def test_none_from_before_the_link_came_back_is_used(server: RawServer, delivery: Delivery) -> None:
    """The other end, or a translator of addresses in between, may have forgotten it, and tells nobody."""
    for mark in (b"1", b"2", b"2"):
        delivery.note_link(mark)
        send(delivery)
    assert server.accepted == 2


def test_none_is_used_that_was_silent_for_long(
    server: RawServer, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour may lie between two operations."""
    send(delivery)
    monkeypatch.setattr(flight, "KEPT_ALIVE_S", 0.0)
    send(delivery)
    assert server.accepted == 2


def test_a_probe_asks_anew_where_the_link_is_in_doubt(server: RawServer) -> None:
    """A kept connection that is dead says nothing of the link."""
    probe = Probe(Settings(upstream=server.url))
    assert [probe.ask(anew=anew).online for anew in (False, False, True, False)] == [True] * 4
    assert server.accepted == 2
    probe.close()
