"""Plain tasks and deliveries share the processes of a worker."""

from pathlib import Path

import pytest

from fluxy_sync import FluxySync, create_app
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

OPERATIONS = 150
ANSWER_S = 0.1


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_plain_task_does_not_wait_for_a_backlog(
    gateway: Gateway, upstream: Upstream, tmp_path: Path, pool: str
) -> None:
    """With one process a flush ends its slice early for a plain task; deliveries go on after it."""
    notes = tmp_path / "notes"
    notes.touch()
    upstream.default({"status": 201, "delay_s": ANSWER_S})
    upstream.start()
    gateway.worker_options = ["-c", "1", "-P", pool]
    gateway.start("worker", NOTES=str(notes), FLUXY_SYNC_IMPORTS="tests.user_tasks", MQTT_PORT="1")
    settings = gateway.settings()
    sync, app = FluxySync(settings), create_app(settings)
    sync.queue_many([{"method": "POST", "path": "/x", "lane": f"{n % 5}"} for n in range(OPERATIONS)])
    wait_until(lambda: len(upstream.requests()) > 5)
    before = len(upstream.requests())
    app.send_task("user.plain", queue=f"{settings.namespace}.tasks")
    wait_until(lambda: notes.read_text(), 30)
    assert len(upstream.requests()) - before < 3 / ANSWER_S
    wait_until(lambda: sync.status().pending == 0, 40)
    assert len(upstream.requests()) == OPERATIONS
