"""A store that others administer: what its user may do, and what is said where that is too little."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fluxy_sync import ConfigError, FluxySync, StorageUnavailable
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Store, connect
from fluxy_sync.journal.store import explain
from tests.conftest import ROOT, Gateway, wait_until
from tests.upstream import Upstream

PASSWORD = "s3cret"
ACL = ROOT / "deploy" / "users.acl"


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store in which we are the administrator."""
    with EmbeddedStore(tmp_path / "managed") as running:
        running.wait_ready()
        yield running


def url_of(managed: EmbeddedStore, *rules: str) -> str:
    """The address of a user with these rights."""
    admin = connect(managed.url)
    admin.execute_command("ACL", "SETUSER", "fluxy", "reset", "on", f">{PASSWORD}", *rules)
    admin.close()
    return f"unix://fluxy:{PASSWORD}@{managed.url.partition('@')[2]}"


def rules_of_the_file(namespace: str) -> list[str]:
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith("user ")]
    return [rule.replace("fluxy", namespace) for rule in line.split()[4:]]


@pytest.fixture
def on(gateway: Gateway, managed: EmbeddedStore) -> Gateway:
    gateway.environment["FLUXY_SYNC_REDIS_URL"] = managed.url
    return gateway


def test_the_acl_file_is_enough(on: Gateway, managed: EmbeddedStore, upstream: Upstream, namespace: str) -> None:
    """Queue, deliver, pause, list and replay: nothing is refused, by worker, beat or producer."""
    on.environment["FLUXY_SYNC_REDIS_URL"] = url_of(managed, *rules_of_the_file(namespace))
    upstream.start()
    upstream.script("/refused", [422, 201])
    on.start("worker", "beat")
    sync = FluxySync(on.settings())
    sync.queue("POST", "/a", lane=None)
    sync.queue("POST", "/refused", lane=None)
    wait_until(lambda: sync.status().dead == 1 and sync.status().pending == 0)
    assert sync.replay() == 1
    wait_until(lambda: sync.status().delivered_total == 2)
    assert sync.pause().changed
    assert sync.resume()
    assert on.stop("worker") == on.stop("beat") == 0
    logs = on.log("worker") + on.log("beat")
    assert "may not" not in logs
    assert "NOPERM" not in logs


def test_the_refused_command_is_named(on: Gateway, managed: EmbeddedStore) -> None:
    """With the file that has all that is needed, and the ways on."""
    on.environment["FLUXY_SYNC_REDIS_URL"] = url_of(managed, "~*", "&*", "+@all", "-@dangerous")
    with pytest.raises(ConfigError, match=r"may not run INFO.*users\.acl.*MAX_BYTES.*STORE_VOUCHED"):
        FluxySync(on.settings()).queue("POST", "/a")
    on.environment["FLUXY_SYNC_REDIS_URL"] = url_of(managed, "~*", "&*", "+@all", "-evalsha")
    with pytest.raises(StorageUnavailable, match=r"may not run 'evalsha'; deploy/users\.acl") as caught:
        FluxySync(on.settings()).queue("POST", "/secret-path", body={"secret": 1})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("durability", ["always", "waitaof"])
def test_who_vouches_goes_on(
    on: Gateway, managed: EmbeddedStore, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without INFO and CONFIG; without that word it is at least said that nothing is known."""
    on.environment["FLUXY_SYNC_REDIS_URL"] = url_of(managed, "~*", "&*", "+@all", "-@dangerous")
    caplog.set_level(logging.WARNING)
    sync = FluxySync(on.settings(store_vouched=True, durability=durability))
    sync.queue("POST", "/a")
    assert sync.status().pending == 1
    assert "CONFIG GET" not in caplog.text
    FluxySync(on.settings(max_bytes=10**9)).queue("POST", "/b")
    assert "FLUXY_SYNC_STORE_VOUCHED" in caplog.text


def test_what_a_vouched_store_shows_is_checked(on: Gateway, managed: EmbeddedStore) -> None:
    """A word isn't worth more than what the store itself says."""
    admin = Store(connect(managed.url))
    admin.command("CONFIG", "SET", "appendfsync", "everysec")
    with pytest.raises(ConfigError, match="appendfsync everysec"):
        FluxySync(on.settings(store_vouched=True)).queue("POST", "/a")
    admin.close()


def test_a_cluster_is_named() -> None:
    """Not a bare error of the client's library."""
    said = str(explain(redis.exceptions.MovedError("1234 127.0.0.1:7001")))
    assert "Redis Cluster" in said
    assert "sentinel://" in said
