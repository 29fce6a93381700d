"""``install(app)`` on apps of other shapes: what is the app's own stays, in whatever order things are said."""

import base64
import copy
import gc
import inspect
import json
import logging
import pickle
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, current_app
from celery.app.control import Control
from celery.contrib.testing.worker import start_worker
from celery.exceptions import QueueNotFound

from fluxy_sync import FluxySync, SyncTask, install
from fluxy_sync.errors import ConfigError
from fluxy_sync.journal import Journal
from fluxy_sync.operation import FLUSH, SYNC_OP
from fluxy_sync.sealing import CONTENT_TYPE, PLACE, register_vault, serializer_name, unseal
from fluxy_sync.settings import Settings
from fluxy_sync.tokens import wake
from fluxy_sync.vault import Vault, new_key
from tests.upstream import free_port


@pytest.fixture
def settings(store_url: str, namespace: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=store_url, keys=new_key(), upstream=f"http://127.0.0.1:{free_port()}", namespace=namespace,
        data_dir=tmp_path,
    )  # fmt: skip


@pytest.fixture
def queue() -> str:
    return f"shop-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def store(store_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(store_url) as client:
        yield client


Maker = Callable[..., Celery]


@pytest.fixture
def embedded_worker() -> Iterator[None]:
    """Celery's worker for tests sets logging up, and makes its app the current one: both are as before again."""
    names = (None, "celery", "celery.task", "multiprocessing")
    kept = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level) for name in names}
    app = current_app._get_current_object()
    for name in names:
        logging.getLogger(name).handlers = []
    yield
    for name, (handlers, level) in kept.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).setLevel(level)
    app.set_current()
    app.set_default()


@pytest.fixture
def make(settings: Settings, queue: str) -> Iterator[Maker]:
    """Makes apps, each with its tasks on the store."""
    made: list[Celery] = []

    def make(base: type[Celery] = Celery, **options: Any) -> Celery:
        app = base("shop", broker=settings.broker.url, set_as_current=False, **options)
        app.conf.task_default_queue = queue
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


def by_function(name: str, *_: Any, **__: Any) -> Any:
    return {"queue": "f-elsewhere", "exchange": "", "routing_key": "f-elsewhere"} if "other" not in name else None


class ByObject:
    """The older form of a router."""

    def route_for_task(self, name: str, args: Any = None, kwargs: Any = None) -> Any:
        return "o-elsewhere" if "other" not in name else None


ROUTES: dict[str, Any] = {
    "none": None,
    "a dictionary": {"shop.one": {"queue": "d-elsewhere"}},
    "all of them": {"*": "a-elsewhere"},
    "a pattern": {re.compile(r".*\.(one|flush)"): {"queue": "p-elsewhere", "routing_key": "wrong"}},
    "a function": by_function,
    "an object": ByObject(),
    "a function by name": "tests.integration.test_installation:by_function",
    "a class by name": "tests.integration.test_installation:ByObject",
    "a list": [{"shop.none": "l-elsewhere"}, by_function, ByObject()],
    "a tuple": ("tests.integration.test_installation:ByObject", {"shop.other": "t-elsewhere"}),
    "pairs": ([("shop.one", "i-elsewhere"), ("shop.*", {"queue": "i-others"})],),
}


@pytest.mark.parametrize("form", ROUTES)
@pytest.mark.parametrize("when", ["before", "after", "after, by update"])
def test_routes_are_the_apps_own(
    make: Maker, settings: Settings, store: "redis.Redis", form: str, when: str, queue: str
) -> None:
    """Of whatever form, said before ``install`` or after it: tasks go where they went; a wake token to our queue."""
    places = []
    for installed in (False, True):
        app = make()
        if installed and when != "before":
            install(app, settings=settings)
        if when == "after, by update":
            app.conf.update(task_routes=ROUTES[form])
        else:
            app.conf.task_routes = ROUTES[form]
        if installed and when == "before":
            install(app, settings=settings)
        before = lengths(store)
        for name in ("shop.one", "shop.other", "shop.none"):
            app.send_task(name)
        now = lengths(store)
        gained = {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
        places.append({name.replace(queue, "the default"): count for name, count in gained.items()})
        assert app.conf.task_routes is ROUTES[form]
    assert places[0] == places[1]
    before = lengths(store)
    assert wake(app)
    app.tasks[FLUSH].delay()
    assert store.llen(settings.queue_name) == 2
    assert {name for name, count in lengths(store).items() if count != before.get(name, 0)} == {settings.queue_name}


def lengths(store: "redis.Redis") -> dict[str, int]:
    """How many messages wait in each queue of these tests."""
    names = [name for name in store.keys("*") if store.type(name) == b"list" and b":lane:" not in name]  # type: ignore[union-attr]
    return {name.decode(): store.llen(name) for name in names}  # type: ignore[misc]


def test_the_configuration_is_not_even_read(settings: Settings) -> None:
    """So that what is set before ``config_from_object``, and what that brings, both hold."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.worker_prefetch_multiplier = 7
    install(app, settings=settings)
    assert not app.configured
    assert not app.finalized
    app.config_from_object({"task_default_queue": "mine", "accept_content": ["json"]})
    assert (app.conf.worker_prefetch_multiplier, app.conf.task_default_queue) == (7, "mine")
    assert app.conf.accept_content == ["json"]
    app.close()


def test_a_second_call_changes_nothing(make: Maker, settings: Settings, recwarn: pytest.WarningsRecorder) -> None:
    """A module of both producer and worker may be imported twice, and call it on ``current_app``."""
    app = make()
    for _ in range(3):
        assert install(app, settings=settings) is app
    was = (type(app), app.control, app.amqp, app.AsyncResult, app.fluxy_engine)  # type: ignore[attr-defined]
    install(app, settings=settings)
    assert was == (type(app), app.control, app.amqp, app.AsyncResult, app.fluxy_engine)  # type: ignore[attr-defined]
    app.finalize()
    assert len([step for step in app.steps["worker"] if step.__module__.startswith("fluxy_sync")]) == 2
    assert not [warning for warning in recwarn if "already registered" in str(warning.message)]
    previous = current_app._get_current_object()
    app.set_current()
    try:
        install(current_app, settings=settings)
        assert current_app._get_current_object() is app
    finally:
        previous.set_current()
    assert repr(app).startswith("<Celery shop")
    assert type(app).__name__ == "Celery"


class Shouting(Control):
    """A control of the user's."""

    def shout(self) -> str:
        return "!"


CONTROLS: dict[str, Callable[[Celery], Any]] = {
    "a class": lambda app: setattr(app, "control_cls", Shouting),
    "a name": lambda app: setattr(app, "control_cls", f"{__name__}:Shouting"),
    "an object": lambda app: setattr(app, "control", Shouting(app)),
}


@pytest.mark.parametrize("form", CONTROLS)
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_control_class_of_the_users_stays(make: Maker, settings: Settings, form: str, order: str) -> None:
    """Whenever it is set; ``revoke`` cancels in the journal nevertheless."""
    app = make()
    if order == "after":
        install(app, settings=settings)
    CONTROLS[form](app)
    if order == "before":
        install(app, settings=settings)
    assert isinstance(app.control, Shouting)
    assert app.control.shout() == "!"
    operation = FluxySync(app=app).queue("POST", "/x", lane="some")
    app.control.revoke(operation.id)
    assert operation.state == "gone"


def test_a_control_that_is_in_use_goes_on(make: Maker, settings: Settings) -> None:
    """Whoever holds the app's control from before ``install`` revokes by it, too."""
    app = make(control=Shouting)
    held = app.control
    held.mark = 1
    install(app, settings=settings)
    assert app.control is held
    assert held.mark == 1
    operation = FluxySync(app=app).queue("POST", "/x")
    held.terminate(operation.id)
    assert operation.state == "gone"


def test_revoke_tells_celery_and_looks_for_all_ids_in_one_pass(
    make: Maker, settings: Settings, journal: Journal
) -> None:
    """Of 54 ids among 600 lanes those that wait are cancelled, in lists and alone; the others cost little."""
    app = make()
    install(app, settings=settings)
    sync = FluxySync(app=app)
    operations = sync.queue_many([{"method": "POST", "path": "/x", "lane": f"l{n}"} for n in range(600)])
    own = sync.queue("POST", "/x", lane=None)
    foreign = [str(uuid.uuid4()) for _ in range(48)] + ["", "ü", "x" * 300]
    told: list[Any] = []
    app.control.broadcast = lambda command, **options: told.append((command, options["arguments"]["task_id"])) or "told"  # type: ignore[func-returns-value]
    began = calls(journal)
    wanted = [*foreign, operations[7].id, operations[599].id, own.id]
    assert app.control.revoke(wanted, terminate=True) == "told"
    assert told == [("revoke", wanted)]
    assert calls(journal) - began < 40
    assert [operation.state for operation in (operations[7], operations[599], own)] == ["gone"] * 3
    assert sync.status().pending == 598
    app.control.revoke(tuple(one.id for one in operations[:2]))
    app.AsyncResult(operations[2].id).revoke()
    app.control.revoke(uuid.UUID(operations[3].id))
    assert sync.status().pending == 594
    assert sync.cancel(operations[4].id)
    assert not sync.cancel(foreign[0])


def calls(journal: Journal) -> int:
    """How many scripts the store has run."""
    return int(journal.store.client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_revoke_of_many_in_one_long_lane(make: Maker, settings: Settings) -> None:
    """More records than one call looks at: each is found, at whichever end it is, and a cancelled one isn't again."""
    app = make()
    install(app, settings=settings)
    sync = FluxySync(app=app)
    operations = sync.queue_many([{"method": "POST", "path": "/x", "lane": "long"} for _ in range(1700)])
    some = [operations[n].id for n in (0, 499, 500, 501, 1200, 1699)]
    app.control.revoke(some)
    app.control.revoke(some)
    assert sync.status().pending == 1694
    assert [sync.operation(one, "long").state for one in some] == ["gone"] * 6


def test_revoke_while_the_store_is_away(make: Maker, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Celery's own part is done, nothing is raised, and the log says that operations weren't looked for."""
    app = make()
    install(app, settings=settings.model_copy(update={"redis_url": None, "data_dir": Path("/nonexistent")}))
    told: list[str] = []
    app.control.broadcast = lambda command, **_: told.append(command)
    app.control.revoke([str(uuid.uuid4())])
    assert told == ["revoke"]
    assert "isn't known (no store is running" in caplog.text
    assert "nothing was accepted" not in caplog.text


def test_send_task_takes_what_celerys_takes(make: Maker, settings: Settings) -> None:
    """Positional arguments, its signature, and a method of the user's own before or behind it."""

    class Counting(Celery):
        sent = 0

        def send_task(self, *args: Any, **options: Any) -> Any:
            Counting.sent += 1
            return super().send_task(*args, **options)

    app = make(Counting)
    before = app.send_task
    app.send_task = lambda *args, **options: before(*args, **options)
    install(app, settings=settings)
    celerys = list(inspect.signature(Celery.send_task).parameters)
    assert list(inspect.signature(app.send_task).parameters) == celerys[1:]
    sync = FluxySync(app=app)
    result = app.send_task(SYNC_OP, ("POST", "/x"), {"body": 1}, 60, None, "an-id")
    assert (result.id, sync.operation("an-id").state) == ("an-id", "pending")
    sent = Counting.sent
    app.send_task("shop.plain", (1,), {}, 5)
    assert Counting.sent == sent + 1


def test_an_app_that_is_not_to_be_finalized_sends(make: Maker, settings: Settings) -> None:
    """``autofinalize=False``: sending by name doesn't ask for it, and works the same once it is."""
    app = make(autofinalize=False)
    install(app, settings=settings)
    app.send_task("shop.plain", (1,))
    assert not app.finalized
    app.finalize()
    app.send_task(SYNC_OP, ("POST", "/x"), lane="some")
    assert FluxySync(app=app).status().pending == 1


@pytest.mark.parametrize("used", [False, True])
def test_queues_that_are_not_made_by_themselves(make: Maker, settings: Settings, used: bool, queue: str) -> None:
    """``task_create_missing_queues=False``: ours is known, whether the app was used before; others stay unknown."""
    app = make()
    app.conf.task_create_missing_queues = False
    if used:
        app.send_task("shop.plain")
    install(app, settings=settings)
    assert wake(app)
    assert list(app.amqp.queues.consume_from) == [queue]
    app.amqp.queues.select([settings.queue_name])
    with pytest.raises(QueueNotFound):
        app.send_task("shop.plain", queue="unknown")


@pytest.mark.parametrize("copied", [lambda app: pickle.loads(pickle.dumps(app)), copy.deepcopy, copy.copy])
def test_a_pickled_app_is_an_installed_one(make: Maker, settings: Settings, copied: Callable[[Any], Any]) -> None:
    """Its class, its configuration and the engine come back; no key and no password of ours is in the pickle."""
    app = make(Shop, control=Shouting)
    app.conf.task_routes = by_function
    install(app, settings=settings)
    assert settings.key_texts[0].encode() not in pickle.dumps(app)
    again = copied(app)
    assert isinstance(again, Shop)
    assert again.conf.task_routes is by_function
    assert again.control.shout() == "!"
    operation = FluxySync(app=again).queue("POST", "/x")
    assert FluxySync(app=app).operation(operation.id).state == "pending"
    again.close()


class Shop(Celery):
    """An app of the user's own class."""


def test_a_pickled_app_of_another_namespace_is_refused(
    make: Maker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process whose environment is another gateway's: the sentence names both."""
    app = make()
    install(app, settings=settings)
    packed = pickle.dumps(app)
    monkeypatch.setenv("FLUXY_SYNC_NAMESPACE", "another")
    monkeypatch.setattr("fluxy_sync.installation._engines", {})
    with pytest.raises(ConfigError, match=f"'{settings.namespace}'.*'another'"):
        pickle.loads(packed)


@pytest.mark.usefixtures("embedded_worker")
def test_a_worker_accepts_what_is_sealed_whatever_is_configured_last(make: Maker, settings: Settings) -> None:
    """An embedded worker: the boot step has the last word, and adds to what the app accepts."""
    app = make(backend=settings.results.url)
    install(app, settings=settings)

    @app.task(name="shop.plain", shared=False)
    def plain(text: str) -> str:
        return text + "!"

    app.conf.accept_content = ["json", "yaml"]
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        app.conf.accept_content = list(app.conf.accept_content)
        sealed = plain.apply_async(("sealed",), serializer=serializer_name(settings.namespace))
        assert sealed.get(timeout=20, disable_sync_subtasks=False) == "sealed!"
    assert app.conf.accept_content == ["json", "yaml", CONTENT_TYPE]


def test_no_message_is_kept_by_the_thread_that_failed_to_send_it(settings: Settings) -> None:
    """Also of apps without ``install``, and also of a long one."""

    class Large(list[int]):
        """Something that can be looked for."""

    app = Celery("plain", broker=f"redis://127.0.0.1:{free_port()}", set_as_current=False)
    app.conf.broker_transport_options = {"max_retries": 0}
    with pytest.raises(Exception, match="refused"):
        app.send_task("shop.plain", (Large([1]),), retry=False)
    app.close()
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Large)]


def test_a_sealed_message_says_its_place_also_when_it_is_sent_again(
    make: Maker, settings: Settings, store: "redis.Redis", queue: str
) -> None:
    """What a failed message leaves behind isn't the next one's."""
    name = register_vault(Vault.from_text(settings.key_texts), settings.namespace)
    app = make()
    away = Celery("plain", broker=f"redis://127.0.0.1:{free_port()}", set_as_current=False)
    away.conf.broker_transport_options = {"max_retries": 0}
    with pytest.raises(Exception, match="refused"):
        away.send_task("shop.lost", (1,), serializer=name, retry=False)
    away.close()
    sent = app.send_task("shop.plain", (1,), serializer=name)
    message = json.loads(store.lindex(queue, 0))  # type: ignore[arg-type]
    *_, embed = unseal(base64.b64decode(message["body"]))
    assert embed[PLACE] == ["shop.plain", sent.id, queue]


def test_sync_tasks_of_the_users_go_through_the_journal_by_name(make: Maker, settings: Settings) -> None:
    """``send_task`` finds them also where the app was not finalized."""
    app = make()
    install(app, settings=settings)

    @app.task(name="shop.mine", base=SyncTask, shared=False)
    def mine() -> None:
        """A SyncTask."""

    result = app.send_task("shop.mine", lane="some")
    assert FluxySync(app=app).operation(result.id, "some").state == "pending"
