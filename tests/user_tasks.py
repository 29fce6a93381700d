"""A user's own tasks, loaded into the shipped worker by FLUXY_SYNC_IMPORTS."""

import json
import os
import socket
from pathlib import Path
from typing import Any

from fluxy_sync import HttpTask, RetryPolicy, SyncTask, Unreachable
from fluxy_sync.app import default_app

app = default_app()
app.conf.beat_schedule = {
    **app.conf.beat_schedule,
    "heartbeat": {
        "task": "fluxy_sync.sync_op",
        "schedule": 1.0,
        "args": ("POST", "/heartbeat"),
        "options": {"lane": "beat"},
    },
}


def note(line: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(line + "\n")


@app.task(name="user.plain")
def plain(*args: Any) -> None:
    """A task that isn't a SyncTask."""
    note(f"plain {args!r}")


@app.task(name="user.publish", base=SyncTask, bind=True, policy=RetryPolicy(max_retries=1, base_s=0.1, cap_s=0.1))
def publish(self: SyncTask, topic: str, payload: str) -> str:
    """Something MQTT-like: its own connection, its own acknowledgement."""
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ["MQTT_PORT"])), timeout=2) as connection:
            connection.sendall(f"{topic} {payload}\n".encode())
            answer = connection.recv(16)
    except ConnectionRefusedError as error:
        raise Unreachable("the broker can't be reached") from error
    if answer != b"ack\n":
        raise ValueError(f"refused: {payload}")
    return "published"


@app.task(name="user.again", base=SyncTask, bind=True, autoretry_for=(LookupError,), retry_kwargs={"countdown": 0.1})
def again(self: SyncTask, word: str) -> None:
    """Fails until its third try, by Celery's own retry options."""
    note(f"again {word} {self.request.retries}")
    if self.request.retries < 2:
        raise LookupError(f"not yet: {word}")


@app.task(name="user.reworded", base=HttpTask, bind=True)
def reworded(self: HttpTask, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """Changes its own body, once, before it is sent: where that can't be, into what can't be sent."""
    if self.request.retries == 0:
        was = json.loads(body)
        self.retry(args=(method, path), kwargs={"body": {"was": was if was["n"] else object()}}, countdown=0.1)
    return self.send(method, path, body, headers)
