"""What is said where the store is away: never what isn't so."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.app import create_app
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.operation import SYNC_OP
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.upstream import free_port

AWAY: dict[str, Callable[[Path], Any]] = {
    "no gateway has run": lambda folder: None,
    "it is down": lambda folder: f"redis://127.0.0.1:{free_port()}",
    "its socket is gone": lambda folder: f"unix://{folder}/none.sock",
}
READS: dict[str, Callable[[FluxySync], Any]] = {
    "state": lambda sync: sync.operation("an-id").state,
    "status": lambda sync: sync.status(),
    "cancel": lambda sync: sync.cancel("an-id"),
    "cancel on its lane": lambda sync: sync.operation("an-id").cancel(),
    "pending": lambda sync: list(sync.pending()),
    "dead letters": lambda sync: list(sync.dead_letters()),
    "get": lambda sync: sync.operation("an-id").get(timeout=0.1),
    "clear": lambda sync: sync.clear_queue(),
    "replay": lambda sync: sync.replay(),
    "pause": lambda sync: sync.pause(),
}
ACCEPTS: dict[str, Callable[[FluxySync], Any]] = {
    "queue": lambda sync: sync.queue("POST", "/x"),
    "once": lambda sync: sync.queue("POST", "/x", once="a"),
    "delay": lambda sync: sync.app.tasks[SYNC_OP].delay("POST", "/x"),
    "send_task": lambda sync: sync.app.send_task(SYNC_OP, ("POST", "/x")),
}


@pytest.fixture(params=AWAY)
def sync(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FluxySync:
    """A producer whose store isn't there."""
    for name in [name for name in os.environ if name.startswith("FLUXY_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path))
    url = AWAY[request.param](tmp_path)
    if url is None:
        return FluxySync(app=create_app())
    return FluxySync(Settings(redis_url=url, keys=new_key(), upstream="http://127.0.0.1:1", data_dir=tmp_path))


@pytest.mark.parametrize("read", READS)
def test_a_look_says_nothing_of_accepting(sync: FluxySync, read: str) -> None:
    """Nobody wanted anything to be accepted."""
    with pytest.raises(StorageUnavailable) as told:
        READS[read](sync)
    assert "accepted" not in str(told.value)
    assert "fluxy-sync up" in str(told.value)


@pytest.mark.parametrize("accept", ACCEPTS)
def test_what_was_not_accepted_is_said_once(sync: FluxySync, accept: str) -> None:
    """Whoever queues hears that, and what to do."""
    with pytest.raises(StorageUnavailable) as told:
        ACCEPTS[accept](sync)
    assert str(told.value).count("nothing was accepted") == 1
    assert "fluxy-sync up" in str(told.value)


def test_the_same_is_said_of_a_store_that_went_away(tmp_path: Path) -> None:
    """A process that was at work when it went."""
    with EmbeddedStore(tmp_path) as store:
        store.wait_ready()
        sync = FluxySync(
            Settings(redis_url=store.url, keys=new_key(), upstream="http://127.0.0.1:1", data_dir=tmp_path)
        )
        assert sync.queue("POST", "/x").state == "pending"
    for read in READS.values():
        with pytest.raises(StorageUnavailable, match="fluxy-sync up") as told:
            read(sync)
        assert "accepted" not in str(told.value)
    for accept in ACCEPTS.values():
        with pytest.raises(StorageUnavailable, match="fluxy-sync up") as told:
            accept(sync)
        assert str(told.value).count("nothing was accepted") == 1


def test_nothing_is_sent_to_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a gateway has run: plain tasks and broadcasts raise instead of being gone; eager ones run."""
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path))
    app: Celery = create_app()

    @app.task(name="shop.plain", shared=False)
    def plain(word: str) -> str:
        return word + "!"

    for send in (
        lambda: plain.delay("a"),
        lambda: app.send_task("shop.unknown"),
        lambda: plain.apply_async(("a",), countdown=5),
        lambda: app.control.revoke("an-id"),
        lambda: app.control.ping(timeout=0.1),
    ):
        with pytest.raises(StorageUnavailable, match=r"no store is running under .*'fluxy-sync up'"):
            send()
    app.conf.task_always_eager = True
    assert plain.delay("a").get() == "a!"
    app.close()
