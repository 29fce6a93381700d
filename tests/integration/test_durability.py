"""DURABILITY is checked against the store at the start, and WAITAOF's answer is never taken on trust."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import AcceptanceUnknown, ConfigError
from fluxy_sync.journal import Journal, NewRecord, Store, check_durability, connect


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of the test's own, which syncs each second."""
    with EmbeddedStore(tmp_path, appendfsync="everysec") as embedded:
        embedded.wait_ready()
        opened = Store(connect(embedded.url))
        yield opened
        opened.close()
        opened.client.close()


def test_a_store_that_keeps_less_than_asked_is_refused(store: Store) -> None:
    """The sentence names the store's setting and ours; what holds is accepted."""
    with pytest.raises(ConfigError, match=r"appendfsync everysec.*FLUXY_SYNC_DURABILITY"):
        check_durability(store, "always")
    check_durability(store, "everysec")
    store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="evict"):
        check_durability(store, "everysec")
    store.command("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(ConfigError, match="appendonly no"):
        check_durability(store, "everysec")


def test_a_waitaof_that_answers_too_early_is_refused(store: Store) -> None:
    """Valkey's, and that of Redis before 8.0: with a sync each second it answers before anything is on disk."""
    with pytest.raises(ConfigError, match=r"appendfsync everysec.*WAITAOF answers before"):
        check_durability(store, "waitaof")
    store.command("CONFIG", "SET", "appendfsync", "always")
    check_durability(store, "waitaof")


@pytest.mark.parametrize(
    ("info", "believed"),
    [
        ("redis_version:8.0.0", True),
        ("redis_version:10.2.1", True),
        ("redis_version:7.4.2", False),
        ("redis_version:8.0.0\r\nvalkey_version:10.0.0", False),
        ("", False),
    ],
)
def test_whose_waitaof_is_believed(info: str, believed: bool, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that of a Redis in which it was mended."""
    ask, told = store.command, f"# Server\r\n{info}\r\n".encode()
    monkeypatch.setattr(store, "command", lambda *asked: told if asked[0] == "INFO" else ask(*asked))
    if believed:
        check_durability(store, "waitaof")
    else:
        with pytest.raises(ConfigError, match="WAITAOF"):
            check_durability(store, "waitaof")


def test_waitaof_is_asked_behind_each_append(store: Store) -> None:
    """And its answer is read: what it confirms is accepted."""
    store.command("CONFIG", "SET", "appendfsync", "always")
    journal = Journal(store, "waiting", waitaof=True)
    journal.append([NewRecord("one", "a", b"x")])
    assert journal.snapshot().pending == 1
    assert b"cmdstat_waitaof:" in store.command("INFO", "commandstats")


def test_a_waitaof_that_is_refused_leaves_the_acceptance_unknown(store: Store) -> None:
    """The operation was appended, but nobody promises its fsync: the error carries the id, and asking again is safe."""
    store.command("CONFIG", "SET", "appendonly", "no")
    journal = Journal(store, "waiting", waitaof=True)
    with pytest.raises(AcceptanceUnknown) as unknown:
        journal.append([NewRecord("one", "a", b"x")])
    assert unknown.value.operation_ids == ("one",)
    assert journal.snapshot().pending == 1
