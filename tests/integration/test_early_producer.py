"""A producer's app that was made, and used, before its gateway ran."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.app import create_app
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.sealing import CONTENT_TYPE
from fluxy_sync.settings import GATEWAY_FILE, KEYS_FILE
from fluxy_sync.vault import new_key

MARKER = "xyzzy-plaintext-marker"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that the environment names, and nothing else."""
    for name in [name for name in os.environ if name.startswith("FLUXY_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def app(home: Path) -> Any:
    """An app with a task of the user's, which has been used already."""
    app = create_app()

    @app.task(name="shop.plain", shared=False)
    def plain(secret: str) -> None:
        """Nobody runs it."""

    with pytest.raises(StorageUnavailable):
        FluxySync(app=app).queue("POST", "/before")
    _ = app.amqp.send_task_message  # as a first message makes it
    return app


@pytest.fixture
def store(app: Any, home: Path) -> Iterator[EmbeddedStore]:
    """The gateway's store comes up after that."""
    with EmbeddedStore(home) as store:
        (home / KEYS_FILE).write_text(new_key())
        told = {"redis_url": store.url, "namespace": "fluxy", "upstream": "http://127.0.0.1:1"}
        (home / GATEWAY_FILE).write_text(json.dumps(told))
        yield store


def test_all_its_messages_are_sealed(app: Any, store: EmbeddedStore) -> None:
    """Plain tasks, by ``delay`` and by ``send_task``, and wake tokens: what Celery made before is not used any more."""
    sync = FluxySync(app=app)
    sync.queue("POST", "/after")
    app.tasks["shop.plain"].delay(MARKER)
    app.send_task("shop.unknown", (MARKER,))
    client: Any = sync.engine.journal.store.client
    messages = [json.loads(m) for queue in ("fluxy.tasks", "fluxy.sync") for m in client.lrange(queue, 0, -1)]
    assert len(messages) >= 2
    assert {message["content-type"] for message in messages} == {CONTENT_TYPE}
    assert all(MARKER.encode() not in base64.b64decode(message["body"]) for message in messages)
    assert {task.serializer for task in app.tasks.values()} == {app.conf.task_serializer}
    sync.engine.journal.store.close()


@pytest.mark.parametrize("send", ["delay", "send_task"])
def test_its_first_message_is_sealed(app: Any, store: EmbeddedStore, send: str) -> None:
    """A plain task is what tells it that there is a gateway now."""
    if send == "delay":
        app.tasks["shop.plain"].delay(MARKER)
    else:
        app.send_task("shop.plain", (MARKER,))
    client: Any = app.fluxy_engine.journal.store.client
    (message,) = [json.loads(m) for m in client.lrange("fluxy.tasks", 0, -1)]
    assert message["content-type"] == CONTENT_TYPE
    assert MARKER.encode() not in base64.b64decode(message["body"])
    assert MARKER not in json.dumps(message)
    app.fluxy_engine.journal.store.close()


def test_a_living_producer_follows_its_gateway(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The gateway comes back on another address, e.g. as its old port was taken: the next call finds it."""
    (home / KEYS_FILE).write_text(new_key())

    def tell(store: EmbeddedStore) -> None:
        told = {"redis_url": store.url, "namespace": "fluxy", "upstream": "http://127.0.0.1:1"}
        (home / GATEWAY_FILE).write_text(json.dumps(told))

    sync = FluxySync(app=create_app())
    with EmbeddedStore(tmp_path_factory.mktemp("first")) as first:
        first.wait_ready()
        tell(first)
        sync.queue("POST", "/one")
        assert sync.status().pending == 1
    with pytest.raises(StorageUnavailable):
        sync.queue("POST", "/nowhere")
    with EmbeddedStore(tmp_path_factory.mktemp("second")) as second:
        second.wait_ready()
        tell(second)
        sync.queue("POST", "/two")
        assert sync.status().pending == 1
        client: Any = sync.engine.journal.store.client
        assert client.llen("fluxy.sync") == 1  # Celery's messages go there as well
        sync.engine.journal.store.close()
    with EmbeddedStore(tmp_path_factory.mktemp("third")) as third:
        third.wait_ready()
        with pytest.raises(StorageUnavailable):
            sync.status()
        tell(third)
        assert sync.status().pending == 0  # without queueing, too
        sync.engine.journal.store.close()
