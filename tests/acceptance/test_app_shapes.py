"""Other people's apps: each runs in a real worker, with fluxy-sync and without, and all that it does is the same."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from fluxy_sync import FluxySync
from fluxy_sync.operation import SYNC_OP
from tests.conftest import ROOT, Gateway, wait_until
from tests.shaped_app import Shape
from tests.upstream import Upstream

POOLS = {
    "configured_later": "prefork",
    "updated_later": "solo",
    "strict": "threads",
    "limited": "prefork",
    "spawned": "prefork",
}
LIMITED = ("limited",)


class Run:
    """One app in one worker."""

    def __init__(self, shape: str, installed: bool, gateway: Gateway, folder: Path) -> None:
        self.notes, self.log = folder / f"{shape}-{installed}.notes", folder / f"{shape}-{installed}.log"
        self.notes.touch()
        self.queue = f"{gateway.environment['FLUXY_SYNC_NAMESPACE']}-{'with' if installed else 'without'}"
        self.environment = gateway.environment | {
            "SHAPE": shape, "SHAPE_INSTALLED": str(int(installed)), "SHAPE_QUEUE": self.queue,
            "SHAPE_NOTES": str(self.notes), "FLUXY_SYNC_NODE": self.queue, "C_FORCE_ROOT": "1",
        }  # fmt: skip
        queues = [self.queue, f"{self.queue}.other"]
        if installed:
            queues.append(gateway.settings().queue_name)
        with self.log.open("wb") as log:
            self.worker = subprocess.Popen(
                [
                    sys.executable, "-m", "celery", "-A", "tests.shaped_app", "worker", "-P", POOLS[shape], "-c", "2",
                    "-Q", ",".join(queues), "-n", self.queue, "--without-mingle", "--without-gossip", "-l", "INFO",
                ],
                env={**os.environ, **self.environment}, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self) -> None:
        wait_until(lambda: " ready." in self.log.read_text() or self.worker.poll() is not None, 30)
        assert self.worker.poll() is None, self.log.read_text()[-3000:]

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.worker.pid, signal.SIGKILL)  # plain Celery may take half a minute to end in order
        self.worker.wait()


def outcomes(app: Celery, run: Run, shape: str) -> dict[str, Any]:
    """What a user of the app sees of its plain tasks."""
    add, total, where = (app.tasks[f"shape.{name}"] for name in ("add", "total", "where"))
    late = add.apply_async((1, 1), countdown=30)
    app.control.revoke(late.id)
    app.control.revoke([late.id, "no such task"], terminate=True)
    found = {
        "a call": add.delay(1, 2).get(timeout=20),
        "by name": app.send_task("shape.add", (3, 4), None, 0).get(timeout=20),
        "by name alone": app.send_task("shape.add", kwargs={"x": 1, "y": 1}, priority=1).get(timeout=20),
        "a group": group(add.s(n, n) for n in range(3)).apply_async().get(timeout=20),
        "a chord": chord([add.s(n, n) for n in range(3)], total.s()).apply_async().get(timeout=20),
        "a chain": chain(add.s(1, 2), add.s(3)).apply_async().get(timeout=20),
        "a place": [str(part).replace(run.queue, "") for part in where.apply_async().get(timeout=20)],
        "control": getattr(app.control, "shout", lambda: "plain")(),
        "replies": len(app.control.ping(destination=[f"celery@{run.queue}", run.queue], timeout=1.0)),
        "accepted": sorted({*app.conf.accept_content} - {"application/x-fluxy-sealed"}),
        "protocol": app.conf.task_protocol,
    }
    failed = app.tasks["shape.fail"].delay("what")
    with pytest.raises(LookupError, match="what"):
        failed.get(timeout=20)
    if shape in LIMITED:
        found["a slow one"] = app.tasks["shape.slow"].delay().get(timeout=20)
    found["marks"] = sorted(set(run.noted()))
    found["revoked"] = app.control.inspect(timeout=2.0, destination=[run.queue]).revoked() is not None
    return found


@pytest.fixture
def runs(gateway: Gateway, upstream: Upstream, tmp_path: Path, request: Any) -> Iterator[list[Run]]:
    upstream.start()
    pair = [Run(request.param, installed, gateway, tmp_path) for installed in (False, True)]
    try:
        yield pair
    finally:
        for run in pair:
            run.stop()


@pytest.mark.parametrize("runs", POOLS, indirect=True, ids=str)
def test_an_app_does_the_same_with_install_and_without(
    runs: list[Run], upstream: Upstream, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    """Routes, control, serializers, limits and pools are the app's; with ``install``, operations go through besides."""
    seen = []
    for run in runs:
        run.wait_ready()
        for name, value in run.environment.items():
            if name != "SHAPE":
                monkeypatch.setenv(name, value)
        shape = run.environment["SHAPE"]
        app = Shape(shape, run.queue, run is runs[1]).make()
        app.finalize()
        seen.append(outcomes(app, run, shape))
        if run is runs[1] and shape == "spawned":
            stay_where_they_are(app, run)
        elif run is runs[1]:
            follow_an_operation(app, run, upstream)
        app.close()
    assert seen[1] == seen[0]


def follow_an_operation(app: Celery, run: Run, upstream: Upstream) -> None:
    """A plain task behind an operation comes sealed, and runs; an operation that is revoked doesn't."""
    task, plain = app.tasks[SYNC_OP], app.tasks["shape.note"]
    revoked = task.apply_async(("POST", "/revoked"), lane="shapes", countdown=2)
    app.control.revoke(revoked.id)
    chain(task.si("POST", "/first"), plain.si("behind"), task.si("POST", "/last")).apply_async()
    app.send_task(SYNC_OP, ("POST", "/by-name"), None, 0.1)
    wait_until(lambda: {r["path"] for r in upstream.requests()} == {"/first", "/last", "/by-name"}, what=run.log.name)
    assert "behind" in run.noted()


def stay_where_they_are(app: Celery, run: Run) -> None:
    """What can't be delivered by such a worker is kept, and the log says what to do."""
    assert "This worker delivers no operations" in run.log.read_text()
    operation = FluxySync(app=app).queue("POST", "/kept")
    assert app.tasks["shape.add"].delay(2, 2).get(timeout=20) == 4
    assert operation.state == "pending"
    assert "fluxy_runtime" not in run.log.read_text()
