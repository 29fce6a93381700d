"""A SyncTask of the user's that runs for long: it runs once, its lane waits for it, and the others go on."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, SyncTask
from fluxy_sync.journal.journal import CLAIM_S
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

TOTAL_TIMEOUT_S = 1.0
LONG_S = TOTAL_TIMEOUT_S + CLAIM_S + 4.0


class Scene:
    """A gateway with long tasks, and what they noted."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._notes = Path(gateway.environment["NOTES"])
        self.sync = FluxySync(gateway.settings(imports=()))
        self.run, self.limited = self._task("long.run"), self._task("long.limited")

    def _task(self, name: str) -> Any:
        @self.sync.app.task(name=name, base=SyncTask, shared=False)
        def task(name: str, seconds: float) -> None:
            """As a producer knows it; it runs in the worker."""

        return task

    def notes(self, name: str = "") -> list[str]:
        """What tasks noted, each without its process."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return [line.rpartition(" ")[0] for line in lines if name in line]

    def process_of(self, name: str) -> int:
        """The process that began with it last."""
        return int([line for line in self._notes.read_text().splitlines() if f"begun {name} " in line][-1].split()[-1])

    def wait_begun(self, name: str, times: int = 1) -> None:
        wait_until(lambda: self.notes().count(f"begun {name}") == times, 40.0, f"{name} begins")

    def wait_delivered(self, count: int, timeout: float = 40.0) -> None:
        wait_until(lambda: self.sync.status().delivered_total == count, timeout, f"{count} are delivered")


@pytest.fixture
def scene(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> Scene:
    upstream.start()
    gateway.environment |= {
        "FLUXY_SYNC_IMPORTS": "tests.long_tasks", "NOTES": str(tmp_path / "notes"),
        "FLUXY_SYNC_TOTAL_TIMEOUT_S": str(TOTAL_TIMEOUT_S),
        "FLUXY_SYNC_CONNECT_TIMEOUT_S": str(TOTAL_TIMEOUT_S), "FLUXY_SYNC_WORKER_CONCURRENCY": "2",
    }  # fmt: skip
    gateway.start("worker", "beat")
    return Scene(gateway)


@pytest.mark.timeout(120)
def test_a_task_that_outlasts_every_timeout_runs_once(scene: Scene) -> None:
    """Its claim is renewed as long as it runs: nobody else begins with it, its lane waits, other lanes don't."""
    scene.run.apply_async(("long", LONG_S), lane="long")
    scene.run.apply_async(("behind", 0.0), lane="long")
    scene.wait_begun("long")
    for number in range(20):
        scene.run.apply_async((f"other-{number}", 0.0), lane="other")
    scene.wait_delivered(20)
    assert scene.notes("long") == ["begun long"]
    scene.wait_delivered(22)
    mine = [line for line in scene.notes() if "other" not in line]
    assert mine == ["begun long", "ended long", "begun behind", "ended behind"]
    assert scene.sync.status().dead == 0
    assert "too late" not in scene.gateway.log("worker")


@pytest.mark.timeout(90)
def test_a_task_whose_process_is_killed_runs_once_more(scene: Scene) -> None:
    """And its lane goes on behind it."""
    scene.run.apply_async(("long", 3.0), lane="long")
    scene.run.apply_async(("behind", 0.0), lane="long")
    scene.wait_begun("long")
    os.kill(scene.process_of("long"), signal.SIGKILL)
    scene.wait_delivered(2)
    assert scene.notes() == ["begun long", "begun long", "ended long", "begun behind", "ended behind"]


@pytest.mark.timeout(90)
def test_a_task_keeps_its_lane_up_to_the_deadline_that_it_names(scene: Scene) -> None:
    """Past that, another process begins while it still runs; its own settlement comes too late, and says so."""
    operation = scene.limited.apply_async(("long", CLAIM_S + 8.0), lane="long")
    scene.wait_begun("long", 2)
    scene.gateway.wait_for("worker", "was settled too late")
    assert f"The operation {operation.id} on lane long was settled too late" in scene.gateway.log("worker")


@pytest.mark.timeout(90)
def test_a_worker_that_is_stopped_lets_a_task_end(scene: Scene) -> None:
    """A warm stop waits for what runs, begins nothing more, and leaves the rest."""
    scene.run.apply_async(("long", 3.0), lane="long")
    scene.run.apply_async(("behind", 0.0), lane="long")
    scene.wait_begun("long")
    assert scene.gateway.stop("worker") == 0
    assert scene.notes() == ["begun long", "ended long"]
    assert scene.sync.status().pending == 1
