"""An option that nobody knows is refused: one that is ignored would be a lane, or an expiry, that isn't."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.canvas import StampingVisitor

from fluxy_sync import FluxySync, InvalidOperation, RetryPolicy, create_app
from fluxy_sync.operation import SYNC_OP
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key

ONE: dict[str, Any] = {"method": "POST", "path": "/x"}


@pytest.fixture
def sync(store_url: str, namespace: str, tmp_path: Path) -> Iterator[FluxySync]:
    settings = Settings(
        redis_url=store_url, keys=new_key(), upstream="http://127.0.0.1:1", namespace=namespace, data_dir=tmp_path
    )
    app = create_app(settings)
    yield FluxySync(app=app)
    app.close()


SLIPS = {
    "lan": "lane", "expire": "expires", "outcome": "outcomes", "header": "headers", "keep_results": "keep_result",
    "on_death": "on_dead", "Lane": "lane", "count_down": "countdown", "polices": "policy",
}  # fmt: skip
WAYS: dict[str, Callable[[FluxySync, dict[str, Any]], Any]] = {
    "queue_many": lambda sync, slip: sync.queue_many([ONE, ONE | slip]),
    "aqueue_many": lambda sync, slip: asyncio.run(sync.aqueue_many([ONE, ONE | slip])),
    "apply_async": lambda sync, slip: sync.app.tasks[SYNC_OP].apply_async(("POST", "/x"), **slip),
    "send_task": lambda sync, slip: sync.app.send_task(SYNC_OP, ("POST", "/x"), **slip),
    "a signature": lambda sync, slip: sync.app.tasks[SYNC_OP].si("POST", "/x").set(**slip).apply_async(),
}


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("way", WAYS)
def test_a_slip_is_refused(sync: FluxySync, way: str, slip: str) -> None:
    """It names the right one, and nothing was accepted, none of its fellows either."""
    with pytest.raises(InvalidOperation, match=f"'{slip}'; did you mean '{SLIPS[slip]}'.*nothing was accepted"):
        WAYS[way](sync, {slip: "user:1"})
    assert sync.status().pending == 0


@pytest.mark.parametrize(
    "call", [lambda sync: sync.queue, lambda sync: lambda *a, **k: asyncio.run(sync.aqueue(*a, **k))]
)
def test_queue_refuses_it_as_python_does(sync: FluxySync, call: Callable[[FluxySync], Callable[..., Any]]) -> None:
    """A keyword that it doesn't have."""
    with pytest.raises(TypeError, match="lan"):
        call(sync)("POST", "/x", lan="user:1")
    assert sync.status().pending == 0


@pytest.mark.parametrize("missing", ["method", "path"])
def test_what_an_operation_needs_is_said(sync: FluxySync, missing: str) -> None:
    """As an error of ours, like all that is wrong with an operation."""
    with pytest.raises(InvalidOperation, match=f"'{missing}' is missing; nothing was accepted"):
        sync.queue_many([ONE, {key: value for key, value in ONE.items() if key != missing}])
    assert sync.status().pending == 0


def test_what_is_known_passes(sync: FluxySync) -> None:
    """Ours, Celery's and kombu's; those of groups, chains and stamps."""
    task = sync.app.tasks[SYNC_OP]
    ours: dict[str, Any] = {
        "lane": "a", "policy": RetryPolicy(), "once": "b", "on_dead": "halt", "outcomes": {404: "delivered"},
        "keep_result": True, "countdown": 1, "expires": 60,
    }  # fmt: skip
    sync.queue_many([ONE | ours | {"body": 1, "headers": {"A": "b"}, "id": "an-id"}])
    celerys = {
        "queue": "q", "exchange": "e", "routing_key": "r", "priority": 3, "serializer": "json", "compression": "gzip",
        "retry": True, "retry_policy": {}, "shadow": "s", "headers": {}, "add_to_parent": False, "ignore_result": True,
        "time_limit": 5, "soft_time_limit": 4, "connection": None, "producer": None, "root_id": "x", "parent_id": "y",
        "group_id": "z", "link": [], "link_error": [], "reply_to": "me", "argsrepr": "", "delivery_mode": 2,
        "chord": None, "correlation_id": "c", "user_id": "u", "expiration": 5, "stamped_headers": ["mine"], "mine": 1,
    }  # fmt: skip
    task.apply_async(("POST", "/x"), task_id="second", **ours | celerys | {"once": "c"})

    class Stamps(StampingVisitor):
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"whose": "mine"}

    several = group(task.si("POST", f"/{n}") for n in range(2))
    several.stamp(Stamps())
    several.apply_async()
    steps = chain(task.si("POST", "/a"), task.si("POST", "/b"))
    steps.stamp(Stamps())
    steps.apply_async()
    assert sync.status().pending == 5
