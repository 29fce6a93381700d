"""How many connections a store's client opens, and whose they are."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Store, connect
from fluxy_sync.journal import store as module
from tests.conftest import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """On a server of its own, so that nobody else's connections are counted."""
    with EmbeddedStore(tmp_path / "own") as running:
        running.wait_ready()
        made = Store(connect(running.url))
        made.command("PING")
        yield made
        made.close()


def info(store: Store, name: str) -> int:
    lines = store.command("INFO").decode().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith(f"{name}:"))


def in_threads(count: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_short_lived_threads_share_a_connection(store: Store) -> None:
    """A web server may serve each request in a thread of its own: fifty of them, one after another, open none."""
    before = info(store, "total_connections_received")
    for _ in range(50):
        in_threads(1, lambda: store.command("PING"))
    assert info(store, "total_connections_received") == before


def test_threads_that_wait_hold_no_connection(store: Store) -> None:
    """Only who speaks to the store at this moment needs one, not each thread that ever did."""
    before, turns, all_there = info(store, "total_connections_received"), threading.Lock(), threading.Barrier(50)

    def work() -> None:
        with turns:
            store.command("PING")
        all_there.wait(10)  # it lives until each has had its turn

    in_threads(50, work)
    assert info(store, "total_connections_received") == before


def test_a_bursts_connections_are_closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are kept for the next burst; those that nobody has used for a time go as well."""
    together = threading.Barrier(40)

    def work() -> None:
        together.wait(10)
        store.command("EVAL", "local n = 0; for i = 1, 300000 do n = n + i end", 0)

    in_threads(40, work)
    wait_until(lambda: info(store, "connected_clients") <= module.MOST_FREE)
    monkeypatch.setattr(module, "FREE_S", 0.0)
    store.command("PING")
    wait_until(lambda: info(store, "connected_clients") == 1)


def test_a_forked_process_opens_its_own(store: Store) -> None:
    """Two processes on one connection would read each other's replies."""
    mine = store.command("CLIENT", "ID")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if store.command("CLIENT", "ID") != mine else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.command("CLIENT", "ID") == mine
