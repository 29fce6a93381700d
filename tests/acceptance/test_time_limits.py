"""Celery's time limits and a flush: none of the app's ends an exchange whose answer is on its way."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, SyncTask
from tests.conftest import ROOT, Gateway, wait_until
from tests.upstream import Upstream

ANSWER_S, HARD_S, SOFT_S = 2.0, 1.0, 0.5


@pytest.fixture
def start(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> Iterator[Callable[..., FluxySync]]:
    """Start a worker of the limited app, with these options and settings."""
    upstream.default({"status": 201, "delay_s": ANSWER_S})
    upstream.start()
    workers: list[subprocess.Popen[bytes]] = []

    def run(*options: str, **settings: Any) -> FluxySync:
        queue = f"{gateway.settings().namespace}.shop"
        environment = gateway.environment | {
            "SHOP_QUEUE": queue, "NOTES": str(tmp_path / "notes"), "HARD_LIMIT_S": str(HARD_S),
            "SOFT_LIMIT_S": str(SOFT_S), "FLUXY_SYNC_NODE": "one",
        } | settings  # fmt: skip
        queues = f"{queue},{gateway.settings().queue_name}"
        command = [
            sys.executable, "-m", "celery", "-A", "tests.limited_app", "worker", "-Q", queues, "-c", "2",
            "--without-mingle", "--without-gossip", *options,
        ]  # fmt: skip
        with (tmp_path / "limited.log").open("wb") as log:
            workers.append(
                subprocess.Popen(
                    command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
                )
            )
        gateway.start("beat")
        return FluxySync(gateway.settings())

    yield run
    for worker in workers:
        worker.terminate()
        try:
            worker.wait(20)
        finally:
            worker.kill()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("given", ["configuration", "annotations", "command line"])
def test_no_limit_of_the_app_ends_a_flush(
    start: Callable[..., FluxySync], upstream: Upstream, tmp_path: Path, given: str
) -> None:
    """Each answer takes longer than the app's limits: all is delivered at the first try, by processes that live on."""
    options = [f"--time-limit={HARD_S}", f"--soft-time-limit={SOFT_S}"] if given == "command line" else []
    sync = start(*options, ANNOTATED="1" if given == "annotations" else "")
    for number in range(8):
        sync.queue("POST", f"/{number}", lane=f"lane-{number % 4}")
    wait_until(lambda: sync.status().pending == 0, 60.0, "all is delivered")
    assert (sync.status().delivered_total, sync.status().dead) == (8, 0)
    assert sorted(request["path"] for request in upstream.requests()) == [f"/{number}" for number in range(8)]
    log = (tmp_path / "limited.log").read_text()
    assert "TimeLimitExceeded" not in log
    assert "time limit" not in log.lower()


@pytest.mark.timeout(60)
def test_a_sync_task_has_only_the_soft_limit_that_it_names(start: Callable[..., FluxySync], tmp_path: Path) -> None:
    """Plain tasks keep the app's limits. A SyncTask isn't interrupted by those, but by one of its own, or a call's."""
    sync = start()
    app = sync.app

    @app.task(name="limited.own", base=SyncTask, shared=False)
    def own(seconds: float) -> None:
        """As a producer knows it."""

    @app.task(name="limited.soft", base=SyncTask, shared=False)
    def limited(seconds: float) -> None:
        """As a producer knows it."""

    notes = tmp_path / "notes"
    own.apply_async((2.0,), lane="own")
    limited.apply_async((30.0,), lane="soft")
    wait_until(lambda: sync.status().pending == 0, 20.0)
    assert sorted(notes.read_text().splitlines()) == ["own ended", "soft interrupted"]
    assert sync.status().dead == 0
    own.apply_async((30.0,), lane="call", soft_time_limit=0.5)
    wait_until(lambda: sync.status().held_for == {"worker-error:SoftTimeLimitExceeded": 1}, 20.0)
    assert sync.status().dead == 0
