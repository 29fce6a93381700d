"""Whoever can write to the store can write over the access token and the turn to fetch it: it costs a fetch at most."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fluxy_sync.access_token import PAUSE_S
from fluxy_sync.delivery import boottime
from fluxy_sync.journal import Journal
from fluxy_sync.token_place import LONGEST_SEALED_BYTES, TURN_S, Token
from fluxy_sync.vault import associated_data
from tests.http_server import HttpServer, Said
from tests.token_endpoint import DELIVERED, MARKER, UNREACHABLE, Endpoint, Fleet, send

TURN_MS = int(TURN_S * 1000)
NAME = b"0123456789abcdef"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture
def fleet(endpoint: Endpoint, store_url: str, namespace: str, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(endpoint, store_url, namespace, tmp_path)
    yield made
    made.close()


# --- another configuration


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_oauth2_token_url": "/another"},
        {"auth_oauth2_client_id": "another"},
        {"auth_oauth2_scope": "another"},
        {"upstream": "another"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_token_goes_to_the_upstream_it_was_fetched_for(
    fleet: Fleet, endpoint: Endpoint, changes: dict[str, str]
) -> None:
    """After a change of upstream, token URL, client or scope the store's token, which still lives, is never sent."""
    assert send(fleet.process()) == DELIVERED
    with HttpServer(lambda _: Said(201)) as another:
        if "auth_oauth2_token_url" in changes:
            changes = {"auth_oauth2_token_url": f"{endpoint.server.url}/another"}
        if "upstream" in changes:
            changes = {"upstream": another.url}
        assert send(fleet.process(**changes)) == DELIVERED
        seen = [str(one.authorization) for one in (*endpoint.upstream.seen, *another.seen)]
    assert seen == [f"Bearer {MARKER}-1", f"Bearer {MARKER}-2"]
    assert endpoint.fetches == 2


@pytest.mark.parametrize("turn", [NAME.decode(), "failed:token-refused", f"fetched:{NAME.decode()}"])
def test_the_turn_of_another_configuration_holds_nobody_up(fleet: Fleet, endpoint: Endpoint, turn: str) -> None:
    """It neither waits for a fetch of the old client's, nor believes that one failed."""
    old = fleet.place(auth_oauth2_client_id="old")
    old.take_turn("f" * 16)
    assert old.pass_turn("f" * 16, turn, TURN_S)
    began = boottime()
    assert send(fleet.process()) == DELIVERED
    assert boottime() - began < 3.0
    assert endpoint.fetches == 1


def test_a_token_of_the_earlier_version_is_fetched_anew(fleet: Fleet, endpoint: Endpoint, journal: Journal) -> None:
    """It was bound to the namespace alone, and may have been for anybody."""
    sealed = fleet.vault.seal(
        msgspec.msgpack.encode(Token("g", "of-the-earlier-version", 3600.0)),
        associated_data(b"auth", journal.keys.namespace.encode()),
    )
    journal.store.command("SET", journal.keys.auth, sealed, "PX", 3_600_000)
    journal.store.command("SET", journal.keys.auth_lock, b"fetched:" + NAME, "PX", int(PAUSE_S * 1000))
    assert send(fleet.process()) == DELIVERED
    assert endpoint.tokens == ["1"]


# --- whatever stands there


def prefix_of(fleet: Fleet, journal: Journal) -> bytes:
    """What stands before each turn of this configuration."""
    fleet.place().take_turn(NAME.decode())
    written: bytes = journal.store.command("GET", journal.keys.auth_lock)
    fleet.forget_the_fetch()
    return written.removesuffix(NAME)


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize(
    "turn",
    [
        b"", b"\xff\xfe", b"somebody", NAME.upper(), NAME + b"0", NAME[:-1], b"x" * 5_000_000, NAME + b"\n",
        b"failed:", b"failed:\x1b[2Jforged", b"failed:422", b"failed:token-refused ", b"fetched:", b"fetched:\xff",
        b"fetched:" + NAME + b"x", "\u0661".encode() * 8,
    ],
    ids=lambda turn: repr(turn[:20]),
)  # fmt: skip
def test_a_turn_in_no_known_form_is_nobodys(
    fleet: Fleet, endpoint: Endpoint, journal: Journal, turn: bytes, prefixed: bool
) -> None:
    """Bytes that aren't text, an unknown name or reason, megabytes: the next one fetches, at once."""
    value = prefix_of(fleet, journal) + turn if prefixed else turn
    journal.store.command("SET", journal.keys.auth_lock, value, "PX", TURN_MS)
    began = boottime()
    assert send(fleet.process()) == DELIVERED
    assert boottime() - began < 3.0
    assert endpoint.fetches == 1


@pytest.mark.parametrize("turn", [NAME, b"fetched:" + NAME, b"failed:token-refused"])
def test_a_turn_without_an_end_is_over(fleet: Fleet, endpoint: Endpoint, journal: Journal, turn: bytes) -> None:
    """Nobody writes one: whoever waited for it would wait for ever."""
    journal.store.command("SET", journal.keys.auth_lock, prefix_of(fleet, journal) + turn)
    assert send(fleet.process()) == DELIVERED
    assert endpoint.fetches == 1
    assert 0 < journal.store.command("PTTL", journal.keys.auth_lock) <= TURN_MS


def test_a_forged_turn_holds_up_within_the_deadline_alone(fleet: Fleet, journal: Journal) -> None:
    """One in the right form looks like another process's: it is waited for, and no longer."""
    journal.store.command("SET", journal.keys.auth_lock, prefix_of(fleet, journal) + NAME, "PX", TURN_MS)
    assert send(fleet.process(), lasts_s=0.5) == UNREACHABLE


KINDS: list[tuple[Any, ...]] = [
    ("RPUSH", "x"),
    ("HSET", "a", "b"),
    ("SADD", "x"),
    ("ZADD", 1, "x"),
    ("XADD", "*", "a", "b"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
@pytest.mark.parametrize("key", ["auth", "auth_lock"])
def test_a_value_of_another_kind_is_replaced(
    fleet: Fleet, endpoint: Endpoint, journal: Journal, key: str, kind: tuple[Any, ...]
) -> None:
    """A list or a hash where a text belongs costs one fetch; then the processes share their token again."""
    journal.store.command(kind[0], getattr(journal.keys, key), *kind[1:])
    assert [send(fleet.process()), send(fleet.process())] == [DELIVERED] * 2
    assert endpoint.fetches == 1


@pytest.mark.parametrize("size", [LONGEST_SEALED_BYTES, 20_000_000])
def test_a_token_without_bounds_is_replaced(fleet: Fleet, endpoint: Endpoint, journal: Journal, size: int) -> None:
    """Megabytes in its place aren't even fetched from the store."""
    key_id = bytes.fromhex(fleet.vault.key_ids[0])
    journal.store.command("SET", journal.keys.auth, key_id + bytes(size))
    assert [send(fleet.process()), send(fleet.process())] == [DELIVERED] * 2
    assert endpoint.fetches == 1
