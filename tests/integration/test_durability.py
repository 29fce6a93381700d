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
    check_durability(store, "waitaof")
    store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="evict"):
        check_durability(store, "everysec")
    store.command("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(ConfigError, match="appendonly no"):
        check_durability(store, "everysec")


def test_waitaof_accepts_only_what_is_on_disk(store: Store) -> None:
    """With a store that syncs each second the call waits for the sync."""
    journal = Journal(store, "waiting", waitaof=True)
    journal.append([NewRecord("one", "a", b"x")])
    assert journal.snapshot().pending == 1


def test_a_waitaof_that_is_refused_leaves_the_acceptance_unknown(store: Store) -> None:
    """The operation was appended, but nobody promises its fsync: the error carries the id, and asking again is safe."""
    store.command("CONFIG", "SET", "appendonly", "no")
    journal = Journal(store, "waiting", waitaof=True)
    with pytest.raises(AcceptanceUnknown) as unknown:
        journal.append([NewRecord("one", "a", b"x")])
    assert unknown.value.operation_ids == ("one",)
    assert journal.snapshot().pending == 1
