"""The peer: Celery with one message per operation, as its documentation shows it."""

import functools
import os
from typing import Any

import requests
from celery import Celery

TIMEOUT_S = 30.0

app = Celery("plain", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=False,
    broker_connection_retry_on_startup=True,
)


@functools.cache
def session() -> requests.Session:
    """One session for each worker process."""
    return requests.Session()


@app.task(name="plain.post")
def post(path: str, body: dict[str, Any]) -> None:
    """Send one operation."""
    session().post(os.environ["BENCH_UPSTREAM"] + path, json=body, timeout=TIMEOUT_S).raise_for_status()
