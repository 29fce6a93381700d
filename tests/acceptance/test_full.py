"""Extreme local failures: queue full, store full, store gone. The application rolls back and loses nothing."""

import json
from pathlib import Path

import pytest
import redis

from fluxy_sync import FluxySync, QueueFull, StorageUnavailable
from fluxy_sync.embedded import EmbeddedStore
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream


class PostController:
    """An application with optimistic updates: a post shows at once, and is rolled back where it wasn't queued."""

    def __init__(self, sync: FluxySync) -> None:
        self._sync = sync
        self.posts: list[dict[str, str]] = []
        self.toasts: list[str] = []

    def create_post(self, number: int) -> None:
        post = {"id": f"temp_{number}", "content": f"post {number}"}
        self.posts.insert(0, post)
        body = {"content": post["content"], "local_id": post["id"]}
        try:
            self._sync.queue("POST", "/api/v1/posts", body=body)
            self.toasts.append("Post queued for sync")
        except (QueueFull, StorageUnavailable) as error:
            self.toasts.append(f"Sync queueing failed: {error}")
            self.posts = [shown for shown in self.posts if shown["id"] != post["id"]]


def test_an_application_rolls_back_and_loses_nothing(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """Queue full, then the store gone, then all is well: what the application shows is what the server has."""
    with EmbeddedStore(tmp_path / "own") as store:
        store.wait_ready()
        gateway.environment |= {"FLUXY_SYNC_REDIS_URL": store.url, "FLUXY_SYNC_MAX_PENDING": "3"}
        gateway.start("worker", "beat")
        application = PostController(FluxySync(gateway.settings()))
        for number in range(5):
            application.create_post(number)
        assert [post["id"] for post in application.posts] == ["temp_2", "temp_1", "temp_0"]
        assert all("nothing was accepted" in toast for toast in application.toasts[3:])

        store.stop()
        application.create_post(5)
        assert "can't be reached" in application.toasts[-1]
        assert len(application.posts) == 3

        store.start()
        store.wait_ready()
        upstream.start()
        wait_until(lambda: len(upstream.requests()) == 3, 40)
        application.create_post(6)
        wait_until(lambda: len(upstream.requests()) == 4)
        arrived = [json.loads(request["body"])["local_id"] for request in upstream.requests()]
        assert arrived == [post["id"] for post in reversed(application.posts)]
        assert arrived == ["temp_0", "temp_1", "temp_2", "temp_6"]


def test_the_oldest_may_make_room(gateway: Gateway, upstream: Upstream) -> None:
    """With drop_oldest the newest readings are accepted; the oldest become dead letters, and can be replayed."""
    gateway.environment |= {"FLUXY_SYNC_MAX_LANE_PENDING": "3", "FLUXY_SYNC_ON_FULL": "drop_oldest"}
    sync = FluxySync(gateway.settings())
    queued = [sync.queue("POST", f"/reading/{n}", lane="sensor") for n in range(5)]
    assert [operation.state for operation in queued] == ["dead", "dead", "pending", "pending", "pending"]
    assert [letter.reason for letter in sync.dead_letters()] == ["dropped", "dropped"]
    assert (sync.status().dropped_total, sync.status().pending) == (2, 3)
    assert sync.replay(to="head") == 2
    upstream.start()
    gateway.start("worker", "beat")
    wait_until(lambda: sync.status().pending == 0)
    assert [r["path"] for r in upstream.requests()] == [f"/reading/{n}" for n in range(5)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_full_store_drains_and_accepts_again(gateway: Gateway, upstream: Upstream, tmp_path: Path, pool: str) -> None:
    """Its memory is full, so that not even a wake token fits: what waits is delivered; with room, all is as before."""
    with EmbeddedStore(tmp_path / "own") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        sync = FluxySync(gateway.settings())
        sync.queue_many([{"method": "POST", "path": f"/waits/{n}", "lane": f"{n % 3}"} for n in range(9)])
        client = sync.engine.journal.store.client
        client.config_set("maxmemory", 1)
        with pytest.raises(StorageUnavailable, match="memory is full"):
            sync.queue("POST", "/refused")
        upstream.start()
        gateway.worker_options = ["-P", pool]
        gateway.start("worker", "beat")
        wait_until(lambda: len(upstream.requests()) == 9, 40)
        client.config_set("maxmemory", 0)
        sync.queue("POST", "/accepted", lane="after")
        wait_until(lambda: sync.status().pending == 0)
        assert sorted(r["path"] for r in upstream.requests()) == ["/accepted", *(f"/waits/{n}" for n in range(9))]
        sync.engine.journal.store.close()


REFUSALS = {
    "a replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "without replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_worker_outlives_a_store_that_refuses(
    gateway: Gateway, upstream: Upstream, tmp_path: Path, refusal: str
) -> None:
    """A failover: the store takes no writes for a while, before and after the worker starts. It goes on by itself."""
    begin, end = REFUSALS[refusal]
    with EmbeddedStore(tmp_path / "own") as store, redis.Redis.from_url(store.url) as client:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        gateway.start("worker", "beat")
        sync = FluxySync(gateway.settings())
        client.execute_command(*begin)
        gateway.wait_for("worker", "the store refuses for now" if refusal == "a replica" else "The store is away")
        with pytest.raises(StorageUnavailable):
            sync.queue("POST", "/refused")
        client.client_kill_filter(_type="normal", skipme=True)  # its next connection finds it so from the start
        gateway.wait_for("worker", "the store refuses for now")
        client.execute_command(*end)
        sync.queue("POST", "/accepted")
        wait_until(lambda: [r["path"] for r in upstream.requests()] == ["/accepted"], 20)
        assert gateway.processes["worker"].poll() is None
        sync.engine.journal.store.close()
