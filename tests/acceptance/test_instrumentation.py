"""What Celery tells instrumentation of an operation: its name and id, and nothing of what it says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, HttpTask, RetryPolicy
from fluxy_sync.operation import SYNC_OP
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

MARKER = "xyzzy-marker"
CALL: dict[str, Any] = {"body": {"secret": MARKER}, "headers": {"X-Secret": MARKER}}
QUICK = RetryPolicy(max_retries=1, base_s=0.01, cap_s=0.01)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def sync(gateway: Gateway, upstream: Upstream, notes: Path) -> Iterator[FluxySync]:
    """A gateway whose worker is watched."""
    gateway.environment |= {"FLUXY_SYNC_IMPORTS": "tests.instrumented", "NOTES": str(notes)}
    upstream.start()
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings(imports=()))
    for name, base in (("redacted.own", HttpTask), ("shown.own", HttpTask)):

        @sync.app.task(name=name, base=base, bind=True, shared=False, policy=QUICK)
        def remote(self: HttpTask, method: str, path: str, body: Any = None, headers: Any = None) -> None:
            """Runs in the worker."""

    yield sync
    sync.app.close()


def seen(notes: Path) -> list[dict[str, Any]]:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [json.loads(line) for line in lines]


def settled(sync: FluxySync) -> Callable[[], bool]:
    return lambda: sync.status().pending == 0


def queue(sync: FluxySync, task: str, path: str, **options: Any) -> Any:
    return sync.app.tasks[task].apply_async(("POST", path), dict(CALL), lane=None, policy=QUICK, **options)


def test_signals_show_nothing_of_an_operation(sync: FluxySync, upstream: Upstream, notes: Path) -> None:
    """Delivered, retried, refused, expired, failing in the user's body or asking for a retry there: no signal, hook,
    log record or frame holds path, body or header, while the body itself has all of them.
    """
    upstream.script(f"/{MARKER}/again", [503, 201])
    upstream.script(f"/{MARKER}/spent", [503, 503, 503])
    upstream.script(f"/{MARKER}/refused", [{"status": 422, "body": MARKER}])
    upstream.script(f"/{MARKER}/hung-up", ["drop", 201])
    for kind in ("delivered", "again", "spent", "refused", "hung-up"):
        queue(sync, SYNC_OP, f"/{MARKER}/{kind}")
    queue(sync, SYNC_OP, f"/{MARKER}/expired", expires=0.001)
    for kind in ("delivered", "raises", "retries", "changes"):
        queue(sync, "redacted.own", f"/{MARKER}/own/{kind}", ignore_result=False)
    wait_until(settled(sync), 60)
    found = seen(notes)
    assert [one for one in found if one["found"]] == []
    told = {one["signal"] for one in found}
    assert told >= {"task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "after_return"}
    assert all(one["real"] for one in found if one["signal"] == "body")
    assert [one["retries"] for one in found if one["signal"] == "body"].count(1) == 1
    assert sync.status().dead == 5
    arrived = [r for r in upstream.requests() if r["status"] == 201]
    assert all(r["body"] == json.dumps(CALL["body"], separators=(",", ":")) for r in arrived)
    assert all(r["headers"]["x-secret"] == MARKER for r in arrived)
    assert len(arrived) == 5


def test_credentials_that_fail_show_nothing_either(
    gateway: Gateway, upstream: Upstream, notes: Path, request: pytest.FixtureRequest
) -> None:
    """A 401 leaves no frames behind."""
    gateway.environment["FLUXY_SYNC_AUTH_BEARER"] = "a-token"
    upstream.script(f"/{MARKER}/unauthorized", [401] * 9)
    sync: FluxySync = request.getfixturevalue("sync")
    queue(sync, SYNC_OP, f"/{MARKER}/unauthorized")
    wait_until(lambda: sync.status().gate == "unauthorized")
    wait_until(lambda: any(one["signal"] == "task_postrun" for one in seen(notes)))
    assert [one for one in seen(notes) if one["found"]] == []


def test_a_task_may_show_its_arguments(sync: FluxySync, notes: Path) -> None:
    """``redact = False``: then instrumentation finds them, and the look that found nothing elsewhere works."""
    for kind in ("delivered", "raises"):
        queue(sync, "shown.own", f"/{MARKER}/{kind}")
    wait_until(settled(sync))
    found = {one["signal"] for one in seen(notes) if one["found"]}
    assert found >= {"task_prerun", "task_failure"}


def test_links_get_what_they_always_got(sync: FluxySync, upstream: Upstream, notes: Path) -> None:
    """The result, or the id of what failed; and the next step of a chain its own arguments, hidden on their way."""
    upstream.script(f"/{MARKER}/refused", [422])
    told = sync.app.signature("told.link", queue=f"{sync.engine.settings.namespace}.tasks")
    queue(sync, SYNC_OP, f"/{MARKER}/linked", link=told)
    on_error = sync.app.signature("told.error", queue=f"{sync.engine.settings.namespace}.tasks")
    failed = queue(sync, SYNC_OP, f"/{MARKER}/refused", link_error=on_error)
    task = sync.app.tasks[SYNC_OP]
    (task.si("POST", f"/{MARKER}/first", **CALL) | task.si("POST", f"/{MARKER}/second", **CALL)).apply_async()
    wait_until(lambda: len([one for one in seen(notes) if one["signal"] == "link"]) == 2)
    wait_until(lambda: any(r["path"].endswith("/second") for r in upstream.requests()))
    given = [one["args"] for one in seen(notes) if one["signal"] == "link"]
    assert sorted(given) == sorted([["{'status': 201}"], [failed.id]])
    before_the_end = [one for one in seen(notes) if one["found"] and one["signal"] in ("task_prerun", "task_failure")]
    assert before_the_end == []
