"""A user's Celery app whose tasks note that they ran; with INSTALL set, fluxy-sync is installed."""

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker.request import Request
from kombu import compression

from fluxy_sync import install
from fluxy_sync.settings import load_settings

settings = load_settings()
app = Celery("shop", broker=settings.broker.url, set_as_current=False)
app.conf.update(
    task_default_queue=os.environ["SHOP_QUEUE"],
    worker_concurrency=1,
    broker_transport_options={"body_encoding": "utf-8"},
    broker_connection_retry_on_startup=True,
)
if os.environ.get("INSTALL"):
    install(app, settings=settings)
# The user's own, under a name that kombu has and under one that it hasn't.
compression.register(lambda body: body[::-1], lambda body: body[::-1], "application/x-gzip", ["gzip"])
compression.register(lambda body: body[::-1], lambda body: body[::-1], "application/x-mine", ["mine"])


class FaultyRequest(Request):  # type: ignore[misc]
    """Fails as long as a fault lasts, e.g. a database of the user's is away."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if Path(os.environ["FAULT"]).exists():
            raise ValueError("the fault lasts")


def note(what: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{what}\n")


@app.task(name="shop.note")
def add_note(what: str) -> None:
    note(what[:50])


class Faulty(app.Task):  # type: ignore[misc,name-defined]
    Request = FaultyRequest


@app.task(name="shop.faulty", base=Faulty)
def faulty(what: str) -> None:
    note(what)
