"""A user's own Celery app, with a task of its own, that had fluxy-sync installed."""

import os

from celery import Celery

from fluxy_sync import SyncTask, install
from fluxy_sync.settings import load_settings

settings = load_settings()
app = Celery("shop", broker=settings.broker.url, backend=settings.results.url, set_as_current=False)
app.conf.update(
    task_default_queue=os.environ["SHOP_QUEUE"],
    task_serializer="json",
    accept_content=["json"],
    result_serializer="json",
)
install(app, settings=settings)


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    """A task that has nothing to do with it."""
    return x + y


@app.task(name="shop.secret", base=SyncTask)
def secret(word: str) -> str:
    """A SyncTask whose result is kept in the user's own backend."""
    return f"result of {word}"


@app.task(name="shop.nothing", base=SyncTask)
def nothing() -> None:
    """A SyncTask that returns nothing."""
