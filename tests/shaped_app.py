"""Celery apps as people shape them, each with or without fluxy-sync: ``celery -A tests.shaped_app worker``.

SHAPE names the app, SHAPE_INSTALLED says whether ``install`` is called, SHAPE_QUEUE is where its tasks go.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.app.control import Control
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request
from kombu import Queue

from fluxy_sync import install
from fluxy_sync.settings import load_settings

SHAPES: dict[str, Callable[["Shape"], Celery]] = {}


class Shape:
    """What an app is made of."""

    def __init__(self, name: str, queue: str, installed: bool) -> None:
        self.name, self.queue, self.installed = name, queue, installed
        self.settings = load_settings()

    def make(self) -> Celery:
        app = SHAPES[self.name](self)
        add_tasks(app)
        return app

    def addresses(self) -> dict[str, Any]:
        return {
            "broker_url": self.settings.broker.url,
            "result_backend": self.settings.results.url,
            "task_default_queue": self.queue,
            "broker_transport_options": {"polling_interval": 0.05},
        }

    def install(self, app: Celery) -> None:
        if self.installed:
            install(app)

    def other(self) -> str:
        return f"{self.queue}.other"


def shape(make: Callable[[Shape], Celery]) -> Callable[[Shape], Celery]:
    SHAPES[make.__name__] = make
    return make


class Shouting(Control):
    """A control class of the user's."""

    def shout(self) -> str:
        return "control!"


class Marking(Request):
    """A request class of the user's."""

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        note(f"request {self.name}")
        return super().execute_using_pool(pool, **kwargs)


class Marked(Task):
    """A base class for tasks of the user's."""

    abstract = True
    Request = "tests.shaped_app:Marking"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(f"call {self.name}")
        return super().__call__(*args, **kwargs)


def note(line: str) -> None:
    with Path(os.environ["SHAPE_NOTES"]).open("a") as notes:
        notes.write(line + "\n")


def all_elsewhere(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    """A router function that leaves nothing where it was."""
    return {"queue": f"{os.environ['SHAPE_QUEUE']}.other", "routing_key": f"{os.environ['SHAPE_QUEUE']}.other"}


class Router:
    """A router of the older form."""

    def route_for_task(self, name: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": f"{os.environ['SHAPE_QUEUE']}.other"}


@shape
def configured_later(it: Shape) -> Celery:
    """``install`` comes first; then all of the configuration, read when it is first needed."""
    app = Celery("shaped", set_as_current=False, control="tests.shaped_app:Shouting")
    it.install(app)
    config = it.addresses() | {"task_routes": (all_elsewhere,), "accept_content": ["json"], "task_queues": None}
    app.config_from_object(config)
    return app


@shape
def updated_later(it: Shape) -> Celery:
    """Pickle, the first protocol and a class for all tasks; the configuration is replaced twice after ``install``."""
    app = Celery("shaped", set_as_current=False, task_cls=Marked, config_source={"timezone": "Europe/Berlin"})
    _ = app.conf.timezone
    it.install(app)
    app.conf.update(it.addresses())
    app.conf.accept_content = ["json"]
    app.conf.update(accept_content=["pickle", "json"], task_serializer="pickle", result_serializer="pickle")
    app.conf.task_protocol = 1
    app.conf.worker_consumer = "celery.worker.consumer:Consumer"
    app.conf.task_routes = {re.compile(r"shape\..*"): {"queue": it.other()}}
    app.control_cls = Shouting
    it.install(app)
    return app


@shape
def strict(it: Shape) -> Celery:
    """Nothing is made by itself: neither queues nor the final app; names of settings have a prefix."""
    app = Celery("shaped", set_as_current=False, autofinalize=False, namespace="SHOP")
    config = {f"SHOP_{name.upper()}": value for name, value in it.addresses().items()}
    config |= {
        "SHOP_TASK_CREATE_MISSING_QUEUES": False,
        "SHOP_TASK_QUEUES": [Queue(it.queue), Queue(it.other(), routing_key=it.other())],
        "SHOP_TASK_ROUTES": [{"shape.where": it.other()}, "tests.shaped_app:Router"],
    }
    app.config_from_object(config, namespace="SHOP")
    app.control_cls = "tests.shaped_app:Shouting"
    it.install(app)
    return app


@shape
def limited(it: Shape) -> Celery:
    """Limits, priorities and annotations for all tasks; it is finalized, and was used, before ``install``."""
    app = Celery("shaped", set_as_current=False, control=Shouting)
    app.conf.update(it.addresses(), task_soft_time_limit=2, task_time_limit=20)
    app.conf.task_annotations = {"*": {"routing_key": it.other(), "priority": 3}}
    app.conf.task_routes = Router()
    app.finalize()
    app.control.ping(timeout=0.01)
    it.install(app)
    app.control_cls = Control
    return app


@shape
def spawned(it: Shape) -> Celery:
    """Its pool's processes are begun anew, with a pickled app, instead of being forked."""
    app = Celery("shaped", set_as_current=False)
    it.install(app)
    app.conf.update(it.addresses(), worker_pool_start_method="spawn")
    return app


def add_tasks(app: Celery) -> None:
    """Plain tasks, none of which knows of fluxy-sync."""

    @app.task(name="shape.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shape.total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="shape.fail", shared=False)
    def fail(text: str) -> None:
        raise LookupError(text)

    @app.task(name="shape.where", bind=True, shared=False)
    def where(self: Any) -> list[Any]:
        return [self.request.delivery_info["routing_key"], self.request.delivery_info["priority"]]

    @app.task(name="shape.slow", shared=False)
    def slow() -> str:
        try:
            time.sleep(20)
        except SoftTimeLimitExceeded:
            return "its soft limit"
        return "the end"

    @app.task(name="shape.note", shared=False)
    def note_it(line: str) -> None:
        note(line)


if "SHAPE" in os.environ:
    app = Shape(os.environ["SHAPE"], os.environ["SHAPE_QUEUE"], os.environ["SHAPE_INSTALLED"] == "1").make()
    app.finalize()
