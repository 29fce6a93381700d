"""Whoever answers at the store's address, but is none: each method says so, by an error of ours."""

import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fluxy_sync.errors import AcceptanceUnknown, ConfigError, StorageUnavailable
from fluxy_sync.journal import DeadLetter, Inventory, Journal, NewRecord, Store, check_durability, connect, maxmemory_of
from fluxy_sync.journal.store import NotSent
from tests.raw_server import RawServer

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
NO_STORE = (b"$3\r\nabc\r\n", b":7\r\n", b"*0\r\n", b"%1\r\n*1\r\n:1\r\n:1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n")
ODD_REPLIES = (
    b":7\r\n", b"$3\r\nabc\r\n", b"*0\r\n", b"*2\r\n:1\r\n:2\r\n", b"*3\r\n$1\r\n\xff\r\n*0\r\n_\r\n", b"_\r\n",
    b"+OK\r\n", b"#t\r\n",
    b"*9\r\n" + b":1\r\n" * 9, b"%1\r\n*1\r\n:1\r\n:1\r\n", b"*1\r\n" * 3000 + b":1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n",
    b"-ERR x\r\n",
)  # fmt: skip


def impostor(hello: bytes, reply: bytes) -> RawServer:
    """It greets, and then gives the same reply to everything."""

    def handle(connection: socket.socket) -> None:
        while request := connection.recv(65536):
            connection.sendall(hello if b"HELLO" in request else reply * max(1, request.count(b"\r\n*") + 1))

    return RawServer(handle)


@pytest.fixture(params=ODD_REPLIES, ids=lambda reply: repr(reply[:16]))
def wire(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A connection to somebody who gives odd replies."""
    with impostor(HELLO, request.param) as running:
        store = Store(connect(running.url.replace("http", "redis"), 1.0))
        yield store
        store.close()


@pytest.mark.parametrize("greeting", NO_STORE)
def test_who_greets_like_no_store_is_none(greeting: bytes) -> None:
    """Nothing was sent then, and no error of a library comes through."""
    with impostor(greeting, b":1\r\n") as running:
        store = Store(connect(running.url.replace("http", "redis"), 1.0))
        with pytest.raises(NotSent):
            store.command("PING")
        store.close()


LETTER = DeadLetter(1, "x", "a", "unsealed", 0, 1, 1, "", "", False, b"\1x")
GIVEN: dict[str, Any] = {  # by the names of parameters
    "number": 7, "before": 7,
    "holder": "w 1", "lane": "a", "fence": 1, "operation_id": "x", "verdict": "delivered", "incarnation": "w",
    "new": NewRecord("x", "a", b"keyIx"), "reason": "x", "cause": "paused", "interval_s": 1.0, "role": "beat",
    "name": "n", "script": "find", "index": 0, "count": 1, "last": 1, "parts": [("x", b"a", b"b")], "key": "{n}:k",
    "was": b"x", "value": b"y", "most": 5, "journal_ms": 1, "member": b"\1x", "detail": b"", "sealed": b"",
    "letters": [], "end": "tail", "lanes": ["a"], "who": "w", "what": "w", "which": "w", "letter": LETTER,
}  # fmt: skip


def calls(one: Journal | Inventory) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each public method, with arguments that are right."""
    for name, method in inspect.getmembers(one, inspect.ismethod):
        if name.startswith("_") or name in ("append", "run", "lane_keys", "flatten"):
            continue
        parameters = inspect.signature(method).parameters.values()
        given = [GIVEN[one.name] for one in parameters if one.default is one.empty and one.kind != one.VAR_POSITIONAL]
        yield name, lambda method=method, given=given: method(*given)


def test_an_odd_reply_is_an_error_of_ours(wire: Store) -> None:
    """Whatever is asked of the journal: its answer can be read, or the store can't be used."""
    journal = Journal(wire, "n")
    for one in (journal, Inventory(journal)):
        for name, call in calls(one):
            try:
                found = call()
                if inspect.isgenerator(found):
                    next(found, None)
            except StorageUnavailable:
                continue
            except Exception as error:
                error.add_note(f"{type(one).__name__}.{name}")
                raise


def test_what_was_asked_for_may_have_been_accepted(wire: Store) -> None:
    """After an odd reply it isn't said that nothing was accepted, unless the store refused."""
    try:
        Journal(wire, "n").append([NewRecord("x", "a", b"keyIx")])
    except StorageUnavailable as error:
        told = isinstance(error, NotSent) or "the store refused a command" in str(error)
        assert told or isinstance(error, AcceptanceUnknown)  # noqa: PT017


def test_an_odd_configuration_is_an_error_of_ours(wire: Store) -> None:
    """A store whose settings can't be read is one that can't be used, or that keeps too little."""
    for ask in (lambda: check_durability(wire, "always"), lambda: check_durability(wire, "waitaof")):
        with pytest.raises((ConfigError, StorageUnavailable)):
            ask()
    try:
        found = maxmemory_of(wire)
    except StorageUnavailable:
        return
    assert found == 0
