"""Results that somebody without a key wrote, or put in another one's place: none is taken for an answer."""

import base64
import json
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, states
from celery.result import AsyncResult, GroupResult
from pydantic import SecretStr

from fluxy_sync import (
    FluxySync,
    OperationFailed,
    ResultNotKept,
    ResultTimeout,
    StorageUnavailable,
    SyncTask,
    install,
)
from fluxy_sync.app import create_app
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.engine import Engine
from fluxy_sync.errors import CorruptRecord, DeliveryFailed, UnknownKey
from fluxy_sync.journal import Claim
from fluxy_sync.operation import SYNC_OP
from fluxy_sync.rotation import Rotation
from fluxy_sync.sealing import SEALED_VALUE, register_vault, result_serializer_name, seal_value
from fluxy_sync.settings import GATEWAY_FILE, KEYS_FILE, Settings
from fluxy_sync.vault import Vault, new_key
from tests.upstream import free_port

ANSWER = {"status": 200, "headers": {}, "body": "forged"}


class Ours(AsyncResult):
    """A result class of the user's own."""

    def shout(self) -> str:
        return f"{self.id}!"


class Shop(Celery):
    """An app of the user's own, with a class of its own for results."""

    @property
    def AsyncResult(self) -> Any:
        return self.__dict__.get("shown_by") or self.subclass_with_self(Ours, name="AsyncResult")

    @AsyncResult.setter
    def AsyncResult(self, value: Any) -> None:
        self.__dict__["shown_by"] = value


@pytest.fixture
def settings(store_url: str, namespace: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=store_url, keys=new_key(), upstream=f"http://127.0.0.1:{free_port()}", namespace=namespace,
        data_dir=tmp_path,
    )  # fmt: skip


@pytest.fixture
def shop(settings: Settings) -> Iterator[Celery]:
    """A user's own app, whose results are JSON."""
    app = Shop("shop", broker="memory://", backend=settings.results.url, set_as_current=False)
    install(app, settings=settings)

    @app.task(name="shop.own", base=SyncTask, shared=False)
    def own() -> None:
        """A SyncTask of the user's."""

    @app.task(name="shop.plain", shared=False)
    def plain() -> None:
        """A task that has nothing to do with it."""

    yield app
    app.close()


@pytest.fixture
def ours(settings: Settings) -> Iterator[Celery]:
    """Our own app, in whose results all is sealed."""
    app = create_app(settings)
    yield app
    app.close()


@pytest.fixture
def store(store_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(store_url) as client:
        yield client


def put(store: "redis.Redis", task_id: str, meta: Any) -> None:
    """Write what W would."""
    text = meta if isinstance(meta, (str, bytes)) else json.dumps(meta)
    store.set(f"celery-task-meta-{task_id}", text)


def meta_of(task_id: str, result: Any, status: str = states.SUCCESS, **more: Any) -> dict[str, Any]:
    return {"status": status, "result": result, "task_id": task_id, "traceback": None, "children": [], **more}


def cut(text: str) -> str:
    return text[: len(SEALED_VALUE) + 20]


FORGED: dict[str, Any] = {
    "an answer in clear": lambda one, vault: meta_of(one, ANSWER),
    "nothing": lambda one, vault: meta_of(one, None),
    "a number": lambda one, vault: meta_of(one, 200),
    "a list": lambda one, vault: meta_of(one, [SEALED_VALUE]),
    "a text": lambda one, vault: meta_of(one, "delivered"),
    "no value": lambda one, vault: {"status": "SUCCESS", "task_id": one},
    "another operation's": lambda one, vault: meta_of(one, seal_value(vault, ANSWER, "another")),
    "another operation's, whole": lambda one, vault: meta_of("another", seal_value(vault, ANSWER, "another")),
    "no id": lambda one, vault: {"status": "SUCCESS", "result": seal_value(vault, ANSWER, one)},
    "bad base64": lambda one, vault: meta_of(one, SEALED_VALUE + "A"),
    "no base64": lambda one, vault: meta_of(one, SEALED_VALUE + "%%%"),
    "nothing sealed": lambda one, vault: meta_of(one, SEALED_VALUE),
    "not ASCII": lambda one, vault: meta_of(one, SEALED_VALUE + "\u0430" * 80),
    "cut off": lambda one, vault: meta_of(one, cut(seal_value(vault, ANSWER, one))),
    "changed": lambda one, vault: meta_of(one, seal_value(vault, ANSWER, one)[:-9] + "AAAAAAAA="),
    "of another key": lambda one, vault: meta_of(one, seal_value(Vault.from_text([new_key()]), ANSWER, one)),
    "noise of our key": lambda one, vault: meta_of(
        one, SEALED_VALUE + base64.b64encode(bytes.fromhex(vault.key_ids[0]) + bytes(60)).decode()
    ),
    "a list for all of it": lambda one, vault: ["SUCCESS"],
    "a text for all of it": lambda one, vault: '"SUCCESS"',
    "null": lambda one, vault: "null",
    "not JSON": lambda one, vault: b"\xff\x00",
    "deep": lambda one, vault: "[" * 200_000,
    "huge": lambda one, vault: meta_of(one, "x" * 8_000_000),
    "no state": lambda one, vault: {"task_id": one},
    "a list for its state": lambda one, vault: meta_of(one, ANSWER, []),  # type: ignore[arg-type]
    "children that are none": lambda one, vault: meta_of(one, seal_value(vault, ANSWER, one), children=[7]),
    "a failure that is none": lambda one, vault: meta_of(one, 7, "FAILURE"),
    "a failure without a class": lambda one, vault: meta_of(one, {"a": 1}, "FAILURE"),
    "a failure that is a function": lambda one, vault: meta_of(
        one, {"exc_type": "system", "exc_module": "os", "exc_message": "true"}, "FAILURE"
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGED)
def test_no_forged_result_is_an_answer(shop: Celery, store: "redis.Redis", how: str) -> None:
    """While the operation waits: ``op.get()`` gives no answer, and nothing but an error of ours comes of it."""
    sync = FluxySync(app=shop)
    operation = sync.queue("POST", "/waits", keep_result=True)
    put(store, operation.id, FORGED[how](operation.id, sync.engine.vault))
    with pytest.raises((CorruptRecord, UnknownKey, ResultTimeout)):
        operation.get(timeout=0.05)
    assert operation.state == "pending"


@pytest.mark.parametrize("how", FORGED)
def test_a_sync_tasks_result_is_sealed_or_corrupt(shop: Celery, store: "redis.Redis", how: str) -> None:
    """Celery's own ways to read it raise as well; each is an error of ours."""
    one = shop.tasks["shop.own"].apply_async(ignore_result=False, countdown=60)
    put(store, one.id, FORGED[how](one.id, shop.fluxy_engine.vault))  # type: ignore[attr-defined]
    for read in (lambda r: r.result, lambda r: r.get(timeout=1), lambda r: r.state, lambda r: r.children):
        with pytest.raises(Exception, match=r"result|key|sealed") as told:
            read(shop.tasks["shop.own"].AsyncResult(one.id))
        assert type(told.value).__module__ == "fluxy_sync.errors"


def test_what_was_sealed_for_it_is_read(shop: Celery, store: "redis.Redis") -> None:
    """By each way that Celery has: the task's result class, the app's, and one that is pickled."""
    vault, task = shop.fluxy_engine.vault, shop.tasks["shop.own"]  # type: ignore[attr-defined]
    for value in (ANSWER, None, "text", [1]):
        put(store, "mine", meta_of("mine", seal_value(vault, value, "mine")))
        assert [task.AsyncResult("mine").get(1), shop.AsyncResult("mine").get(1)] == [value] * 2
        assert task.AsyncResult("mine").state == shop.AsyncResult("mine").status == "SUCCESS"
    for result in (task.AsyncResult("mine"), shop.AsyncResult("mine")):
        assert isinstance(result, Ours)
        assert result.shout() == "mine!"
        assert pickle.dumps(result)
    put(store, "other", meta_of("other", seal_value(vault, value, "other")))
    grouped = GroupResult("g", [task.AsyncResult("mine"), shop.AsyncResult("other")], app=shop)
    assert grouped.get(timeout=5) == [[1], [1]]
    assert grouped.join_native(timeout=5) == [[1], [1]]


def test_a_group_with_a_forged_result_gives_none(shop: Celery, store: "redis.Redis") -> None:
    """Read one by one or all together."""
    task = shop.tasks["shop.own"]
    put(store, "one", meta_of("one", ANSWER))
    put(store, "two", meta_of("two", seal_value(shop.fluxy_engine.vault, 2, "two")))  # type: ignore[attr-defined]
    for read in (GroupResult.get, GroupResult.join, GroupResult.join_native):
        grouped = GroupResult("g", [task.AsyncResult("two"), task.AsyncResult("one")], app=shop)
        with pytest.raises(CorruptRecord, match="not sealed"):
            read(grouped, timeout=5)


def test_a_sealed_value_under_another_id_is_refused_by_the_app(shop: Celery, store: "redis.Redis") -> None:
    """``app.AsyncResult`` can't know whose id it is; a sealed value opens for its own alone."""
    put(store, "two", meta_of("two", seal_value(shop.fluxy_engine.vault, ANSWER, "one")))  # type: ignore[attr-defined]
    with pytest.raises(CorruptRecord):
        _ = shop.AsyncResult("two").result


@pytest.mark.parametrize("value", [3, None, {"a": [1]}, "text", "fluxy"])
def test_a_plain_tasks_result_stays_as_it_is(shop: Celery, store: "redis.Redis", value: Any) -> None:
    """Whatever it is, by whichever way."""
    put(store, "plain", meta_of("plain", value, children=[[["child", None], None]]))
    for result in (
        shop.AsyncResult("plain"),
        shop.tasks["shop.plain"].AsyncResult("plain"),
        AsyncResult("plain", app=shop),
    ):
        assert (result.result, result.get(timeout=1), result.state) == (value, value, "SUCCESS")
        assert [child.id for child in result.children] == ["child"]
        assert type(result.backend).__module__.startswith("celery.backends")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ({"exc_type": "SystemExit", "exc_module": "builtins", "exc_message": ["1"]}, "unknown"),
        ({"exc_type": "DeliveryFailed", "exc_module": "fluxy_sync.errors", "exc_message": ["422"]}, "422"),
        ({"exc_type": "DeliveryFailed", "exc_module": "fluxy_sync.errors", "exc_message": ["\x1b[2J"]}, "unknown"),
        ({"exc_type": "DeliveryFailed", "exc_module": "fluxy_sync.errors", "exc_message": ["x" * 5000]}, "unknown"),
        ({"exc_type": "DeliveryFailed", "exc_module": "fluxy_sync.errors", "exc_message": [["a"]]}, "unknown"),
    ],
)
def test_a_failure_is_a_reason_and_nothing_else(
    shop: Celery, store: "redis.Redis", failure: dict[str, Any], reason: str
) -> None:
    """No exception of the forger's choice is raised in the process that asks."""
    put(store, "failed", meta_of("failed", failure, "FAILURE"))
    with pytest.raises(DeliveryFailed) as told:
        shop.tasks["shop.own"].AsyncResult("failed").get(timeout=1)
    assert told.value.reason == reason


ENDS = [
    meta_of("x", {"exc_type": "DeliveryFailed", "exc_module": "fluxy_sync.errors", "exc_message": ["422"]}, "FAILURE"),
    meta_of("x", {"exc_type": "TaskRevokedError", "exc_module": "celery.exceptions", "exc_message": ["c"]}, "REVOKED"),
    meta_of("x", {"exc_type": "Retry", "exc_module": "celery.exceptions", "exc_message": ["c"]}, "RETRY"),
    meta_of("x", None, "PENDING"),
    meta_of("x", ANSWER, "DELIVERED"),
]


@pytest.mark.parametrize("meta", ENDS, ids=lambda meta: str(meta["status"]))
def test_a_forged_end_ends_no_wait(shop: Celery, store: "redis.Redis", meta: dict[str, Any]) -> None:
    """While the operation waits, its lane says so; once that has lost it, the forger may deny it, and not answer."""
    sync = FluxySync(app=shop)
    operation = sync.queue("POST", "/waits", keep_result=True)
    put(store, operation.id, meta | {"task_id": operation.id})
    with pytest.raises(ResultTimeout):
        operation.get(timeout=0.3)
    sync.clear_queue()
    put(store, operation.id, meta | {"task_id": operation.id})
    with pytest.raises(OperationFailed) as told:
        operation.get(timeout=5)
    assert told.value.reason == "cancelled"


def test_a_users_kept_results_are_resealed(shop: Celery, store: "redis.Redis", settings: Settings) -> None:
    """A rotation seals a SyncTask's value anew, in place; what is beside it, forged ones and plain ones stay."""
    old = Vault.from_text(settings.key_texts)
    put(store, "mine", meta_of("mine", seal_value(old, ANSWER, "mine"), date_done="2026-01-01", group_id="g"))
    store.expire("celery-task-meta-mine", 100)
    others = {
        "theirs": meta_of("theirs", seal_value(old, ANSWER, "another")),
        "plain": meta_of("plain", "fluxy-sealed:"),
        "cut": meta_of("cut", SEALED_VALUE + "QUJ"),
    }
    for name, meta in others.items():
        put(store, name, meta)
    store.set(b"celery-task-meta-\xff", "x")
    rotated = settings.model_copy(update={"keys": SecretStr(f"{new_key()} {settings.key_texts[0]}")})
    list(Rotation(Engine(rotated), "test").run())
    register_vault(Vault.from_text(rotated.key_texts[:1]), settings.namespace)
    assert shop.tasks["shop.own"].AsyncResult("mine").get(timeout=1) == ANSWER
    kept = json.loads(store.get("celery-task-meta-mine") or b"")
    assert (kept["date_done"], kept["group_id"]) == ("2026-01-01", "g")
    assert 0 < store.ttl("celery-task-meta-mine") <= 100  # type: ignore[operator]
    for name, meta in others.items():
        assert json.loads(store.get(f"celery-task-meta-{name}") or b"") == meta
    store.delete(b"celery-task-meta-\xff")


# --- our own app


def sealed(settings: Settings, meta: dict[str, Any]) -> Any:
    """A result as our own app keeps it."""
    from kombu.serialization import dumps

    register_vault(Vault.from_text(settings.key_texts), settings.namespace)
    return dumps(meta, serializer=result_serializer_name(settings.namespace))[2]


def readers(app: Celery, task_id: str) -> list[Any]:
    return [app.AsyncResult(task_id), app.tasks[SYNC_OP].AsyncResult(task_id), AsyncResult(task_id, app=app)]


def test_each_result_of_our_app_is_of_one_task(ours: Celery, settings: Settings, store: "redis.Redis") -> None:
    """That of another one, or one without an id, put in its place, is refused by whichever class reads it."""
    put(store, "mine", sealed(settings, meta_of("mine", 1)))
    assert [one.get(timeout=1) for one in readers(ours, "mine")] == [1, 1, 1]
    for meta in (meta_of("another", 2), {"status": "SUCCESS", "result": 2}, meta_of("another", None, "STARTED")):
        put(store, "swapped", sealed(settings, meta))
        for read in (lambda r: r.result, lambda r: r.state, lambda r: r.get(timeout=1)):
            for one in readers(ours, "swapped"):
                with pytest.raises(CorruptRecord, match="another operation"):
                    read(one)


@pytest.mark.parametrize("value", ["{}", json.dumps(meta_of("bad", 1)), b"\xff", b"x" * 100])
def test_an_unsealed_result_of_our_app_is_corrupt(ours: Celery, store: "redis.Redis", value: Any) -> None:
    """Nobody without a key can write one."""
    put(store, "bad", value)
    for one in readers(ours, "bad"):
        with pytest.raises(Exception, match=r"result|key") as told:
            _ = one.result
        assert type(told.value).__module__ == "fluxy_sync.errors"


def test_a_result_that_asks_for_all_memory_is_refused(ours: Celery, store: "redis.Redis") -> None:
    """Celery unpacks whatever says that it is packed; ours never is."""
    import zlib

    from celery.backends.base import COMPRESSED_PAYLOAD_MAGIC

    put(store, "bomb", COMPRESSED_PAYLOAD_MAGIC + b"application/x-gzip\x00" + zlib.compress(bytes(200_000_000)))
    for one in readers(ours, "bomb"):
        with pytest.raises(CorruptRecord, match="can't be read"):
            _ = one.result


def test_a_wait_costs_little_where_much_is_behind_it(shop: Celery, settings: Settings) -> None:
    """20,000 operations on the lane: it is looked through once or twice, not at each poll; the answer comes at once."""
    sync = FluxySync(app=shop)
    operation = sync.queue("POST", "/first", keep_result=True)
    for _ in range(4):
        sync.queue_many([{"method": "POST", "path": "/behind"}] * 5_000)
    with redis.Redis.from_url(settings.store_url) as client:
        before = client.info("commandstats")["cmdstat_lrange"]["calls"]
        with pytest.raises(ResultTimeout):
            operation.get(timeout=3)
        once = client.info("commandstats")["cmdstat_lrange"]["calls"] - before
        assert once < 2.5 * 20_000 / 128
        answer = {"status": 200, "headers": {}, "body": "late"}
        sealed = meta_of(operation.id, seal_value(sync.engine.vault, answer, operation.id))
        threading.Timer(0.5, put, (client, operation.id, sealed)).start()
        began = time.monotonic()
        assert operation.get(timeout=20).body == b"late"
        assert time.monotonic() - began < 5


def test_what_left_while_somebody_waits_is_told(shop: Celery) -> None:
    """Dropped from the queue, or dead: the wait ends in seconds, not at its timeout."""
    sync = FluxySync(app=shop)
    operation = sync.queue("POST", "/goes", keep_result=True)
    threading.Timer(0.3, sync.clear_queue).start()
    with pytest.raises(OperationFailed) as told:
        operation.get(timeout=20)
    assert told.value.reason == "cancelled"
    late = sync.queue("POST", "/dies", keep_result=True)
    claim = sync.engine.journal.claim("w 1")
    assert isinstance(claim, Claim)
    threading.Timer(
        0.6, sync.engine.journal.settle, ("default", claim.fence, late.id, "dead"), {"reason": "422"}
    ).start()
    with pytest.raises(OperationFailed) as told:
        late.get(timeout=20)
    assert told.value.reason == "422"


def test_an_app_without_a_result_backend_keeps_nothing(settings: Settings) -> None:
    """``get`` says so in our words."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    install(app, settings=settings)
    with pytest.raises(ResultNotKept, match="result_backend"):
        FluxySync(app=app).queue("POST", "/x", keep_result=True).get(timeout=1)
    app.close()


def test_a_wait_works_in_the_thread_that_asked_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a gateway ran it raises; once one runs, the same thread gets its answers."""
    for name in [name for name in os.environ if name.startswith("FLUXY_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path))
    sync = FluxySync(app=create_app())
    _ = sync.app.backend
    with pytest.raises(StorageUnavailable):
        sync.operation("an-id").get(timeout=0.1)
    with EmbeddedStore(tmp_path) as store:
        (tmp_path / KEYS_FILE).write_text(new_key())
        told = {"redis_url": store.url, "namespace": "fluxy", "upstream": "http://127.0.0.1:1"}
        (tmp_path / GATEWAY_FILE).write_text(json.dumps(told))
        operation = sync.queue("POST", "/x", keep_result=True)
        sync.app.backend.store_result(operation.id, ANSWER, states.SUCCESS)
        assert operation.get(timeout=5).body == b"forged"
        sync.engine.journal.store.close()
