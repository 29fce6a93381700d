"""The OAuth2 access token: fetched once for all processes, kept sealed, and never hammered for."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync.delivery import boottime
from fluxy_sync.engine import Engine
from fluxy_sync.journal import Journal
from fluxy_sync.operation import Outcome
from fluxy_sync.settings import Settings
from fluxy_sync.vault import Vault, new_key
from tests.http_server import Said, said_json
from tests.raw_server import RawServer, read_request, saying
from tests.token_endpoint import (
    DELIVERED,
    MARKER,
    REFUSED,
    UNAUTHORIZED,
    UNREACHABLE,
    Endpoint,
    Fleet,
    send,
    together,
)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture
def fleet(endpoint: Endpoint, store_url: str, namespace: str, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(endpoint, store_url, namespace, tmp_path)
    yield made
    made.close()


# --- one fetch for all


def test_all_processes_use_one_token(fleet: Fleet, endpoint: Endpoint) -> None:
    """Whoever comes first fetches, the others wait for it; later nobody asks again."""
    one, two = fleet.process(), fleet.process()
    assert together(one, two, one, two, one, two) == [DELIVERED] * 6
    assert send(fleet.process()) == DELIVERED
    assert (endpoint.fetches, set(endpoint.tokens)) == (1, {"1"})


def test_a_refused_token_is_replaced_once_for_all(fleet: Fleet, endpoint: Endpoint, journal: Journal) -> None:
    """Two processes with two threads each meet the 401: one fetch, and each sends again within its flight."""
    one, two = fleet.process(), fleet.process()
    together(one, two)
    fleet.forget_the_fetch()
    endpoint.valid = {"2"}
    assert together(one, two, one, two) == [DELIVERED] * 4
    assert endpoint.fetches == 2
    assert endpoint.tokens[-1] == "2"


def test_a_process_that_comes_late_takes_what_another_got(fleet: Fleet, endpoint: Endpoint, journal: Journal) -> None:
    """Its token is refused, and the store has a newer one: no fetch."""
    one, two = fleet.process(), fleet.process()
    together(one, two)
    fleet.forget_the_fetch()
    endpoint.valid = {"2"}
    assert send(one) == DELIVERED
    endpoint.answer = Said(500)
    assert send(two) == DELIVERED
    assert endpoint.fetches == 2


def test_what_stays_refused_is_not_fetched_again_at_once(fleet: Fleet, endpoint: Endpoint, journal: Journal) -> None:
    """The new token is refused as well: the gate's business. After the pause one trial fetches again."""
    one, two = fleet.process(), fleet.process()
    together(one, two)
    fleet.forget_the_fetch()
    endpoint.valid = set()
    assert [send(d) for d in (one, two, one, two)] == [UNAUTHORIZED] * 4
    assert together(one, two, one, two) == [UNAUTHORIZED] * 4
    assert endpoint.fetches == 2
    lasts_ms = journal.store.command("PTTL", journal.keys.auth_lock)
    assert 0 < lasts_ms <= 5000
    fleet.forget_the_fetch()
    assert send(one) == UNAUTHORIZED
    assert endpoint.fetches == 3


def test_the_processes_of_an_engine_share_it(fleet: Fleet, store_url: str, endpoint: Endpoint) -> None:
    """As workers are really made, from settings."""
    key = new_key()
    engines = [Engine(Settings(**fleet.settings, redis_url=store_url, keys=key)) for _ in range(2)]
    assert [send(engine.delivery) for engine in engines] == [DELIVERED] * 2
    assert endpoint.fetches == 1
    for engine in engines:
        engine.delivery.close()
        engine.journal.store.close()


# --- sealed


def test_the_store_never_sees_the_token(fleet: Fleet, endpoint: Endpoint, journal: Journal, namespace: str) -> None:
    """Neither in a value nor in a key; it goes when it may no longer be used, and opens with no other ring."""
    assert send(fleet.process()) == DELIVERED
    held = journal.store.command("GET", journal.keys.auth)
    names = [name for name in journal.store.command("KEYS", "*") if namespace.encode() in name]
    values = [journal.store.command("DUMP", name) for name in names]
    assert held
    assert MARKER.encode() not in b"".join([held, *names, *values])
    assert 3_500_000 < journal.store.command("PTTL", journal.keys.auth) <= 3_570_000
    other = fleet.process(vault=Vault.from_text([new_key()]))
    fleet.forget_the_fetch()
    assert send(other) == DELIVERED
    assert endpoint.fetches == 2


@pytest.mark.parametrize("broken", [b"", b"nonsense", b"x" * 200])
def test_a_damaged_token_is_replaced(fleet: Fleet, endpoint: Endpoint, journal: Journal, broken: bytes) -> None:
    """It is worth one fetch."""
    journal.store.command("SET", journal.keys.auth, broken)
    assert send(fleet.process()) == DELIVERED
    assert send(fleet.process()) == DELIVERED
    assert endpoint.fetches == 1


# --- no token to be had


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Said(500), UNREACHABLE),
        (Said(429), UNREACHABLE),
        (Said(302, {"Location": "http://captive.invalid/"}), UNREACHABLE),
        (said_json(401, error="invalid_client"), REFUSED),
        (said_json(400, error="invalid_scope"), REFUSED),
        (Said(200, {}, b"<html>log in</html>"), REFUSED),
        (Said(200, {}, b"\xff\xfe"), REFUSED),
        (Said(200, {}, b"[]"), REFUSED),
        (Said(404), REFUSED),
        (said_json(token_type="Bearer"), REFUSED),
        (said_json(access_token=None), REFUSED),
        (said_json(access_token=f"{MARKER}\r\nX: 1"), REFUSED),
        (said_json(access_token=7), REFUSED),
        (said_json(access_token=MARKER, token_type="mac"), REFUSED),
        (said_json(access_token=MARKER, expires_in="soon"), REFUSED),
    ],
)
def test_without_a_token_nothing_is_sent(
    fleet: Fleet, endpoint: Endpoint, answer: Said, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    """The upstream isn't asked, and the endpoint not again within the pause, by no process."""
    endpoint.answer = answer
    with caplog.at_level(logging.DEBUG):
        assert [send(delivery) for delivery in (fleet.process(), fleet.process())] == [outcome] * 2
    assert (endpoint.fetches, endpoint.upstream.seen) == (1, [])
    assert MARKER not in caplog.text
    assert caplog.text.count("No access token could be got") == 1


def test_an_endpoint_that_is_down_is_asked_again_after_the_pause(
    fleet: Fleet, endpoint: Endpoint, journal: Journal
) -> None:
    """Nothing reached the upstream meanwhile; then it goes on by itself."""
    token = json.dumps({"access_token": f"{MARKER}-1", "token_type": "Bearer"}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(token), token)

    def hang_up_once(connection: Any) -> None:
        if server.accepted > 1:
            saying(answer)(connection)

    with RawServer(hang_up_once) as server:
        fleet.settings["auth_oauth2_token_url"] = f"{server.url}/token"
        one, other = fleet.process(), fleet.process()
        assert [send(one), send(other)] == [UNREACHABLE] * 2  # the pause is everybody's
        assert (server.accepted, endpoint.upstream.seen) == (1, [])
        fleet.forget_the_fetch()
        assert send(other) == DELIVERED


def test_an_endpoint_that_trickles_ends_at_the_deadline(fleet: Fleet, endpoint: Endpoint) -> None:
    """A token request keeps to the flight's limits, too."""

    def trickle(connection: Any) -> None:
        read_request(connection)
        connection.settimeout(0.05)
        while True:
            try:
                connection.recv(1)
                return
            except TimeoutError:
                connection.sendall(b"x")

    with RawServer(trickle) as server:
        began = boottime()
        assert send(fleet.process(auth_oauth2_token_url=f"{server.url}/token"), lasts_s=0.7) == UNREACHABLE
        assert boottime() - began < 3.0
    assert endpoint.upstream.seen == []


@pytest.mark.parametrize(("lifetime", "fetches"), [(None, 1), ("60", 1), (0, 1), (-5, 2), (10**12, 1), (1.5, 1)])
def test_any_lifetime_is_taken(fleet: Fleet, endpoint: Endpoint, lifetime: Any, fetches: int) -> None:
    """None and 0 mean an hour, the longest is a month; one that has ended serves once."""
    endpoint.lifetime = lifetime
    delivery = fleet.process()
    assert [send(delivery), send(delivery)] == [DELIVERED] * 2
    assert endpoint.fetches == fetches
