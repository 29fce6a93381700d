"""A user's own Celery app whose tasks are limited to seconds, for all tasks alike, with fluxy-sync installed."""

import os
import time
from pathlib import Path

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from fluxy_sync import SyncTask, install
from fluxy_sync.settings import load_settings

settings = load_settings()
hard, soft = float(os.environ["HARD_LIMIT_S"]), float(os.environ["SOFT_LIMIT_S"])
app = Celery("limited", broker=settings.broker.url, set_as_current=False)
app.conf.update(task_default_queue=os.environ["SHOP_QUEUE"], task_time_limit=hard, task_soft_time_limit=soft)
if os.environ.get("ANNOTATED"):
    app.conf.task_annotations = {"*": {"time_limit": hard, "soft_time_limit": soft}}
install(app, settings=settings)


def note(line: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(line + "\n")


@app.task(name="limited.plain")
def plain(seconds: float) -> None:
    """A task that the app's limits are for."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("plain interrupted")
        raise


@app.task(name="limited.own", base=SyncTask)
def own(seconds: float) -> None:
    """A SyncTask, which names no limit."""
    time.sleep(seconds)
    note("own ended")


@app.task(name="limited.soft", base=SyncTask, soft_time_limit=0.5)
def limited(seconds: float) -> None:
    """A SyncTask with a limit of its own."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("soft interrupted")
