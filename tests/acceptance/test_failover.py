"""A failover by sentinels: a primary that they have deposed is left, also where it can still be reached."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync import FluxySync
from tests.command_line import environment, fluxy_sync
from tests.conftest import Gateway, wait_until
from tests.sentinels import Failover
from tests.upstream import Upstream

LEAVES_S = 2.0  # the sentinels are asked each second


@pytest.fixture
def servers(gateway: Gateway, tmp_path: Path) -> Iterator[Failover]:
    made = Failover(tmp_path / "servers")
    gateway.environment["FLUXY_SYNC_REDIS_URL"] = made.url
    yield made
    made.close()


def test_a_deposed_primary_accepts_nothing_more(servers: Failover, gateway: Gateway, upstream: Upstream) -> None:
    """Cut off from its replica and the sentinels, not from clients: only what came before they agreed is lost."""
    sync = FluxySync(gateway.settings())
    gateway.start("worker", "beat")
    sync.queue("POST", "/before")
    lane = sync.engine.journal.keys.lane("after")
    wait_until(lambda: servers.new.exists(sync.engine.journal.keys.lane("default")))
    servers.front.cut()
    wait_until(servers.have_agreed, 30)
    agreed = time.monotonic()
    after: list[str] = []
    while time.monotonic() - agreed < 2 * LEAVES_S:
        operation_id = sync.queue("POST", "/x", lane="after").id
        if time.monotonic() - agreed > LEAVES_S:
            after.append(operation_id)
    accepted_by_old = servers.old.dump(lane)
    more = [sync.queue("POST", "/x", lane="after").id for _ in range(20)]
    assert servers.old.dump(lane) == accepted_by_old
    upstream.start()
    wait_until(lambda: {*after, *more} <= {request["key"] for request in upstream.requests()}, 40)
    wait_until(lambda: sync.status().pending == 0)
    assert gateway.processes["worker"].poll() is None
    sync.close()


def test_the_doctor_warns_of_a_primary_that_accepts_alone(servers: Failover, gateway: Gateway, tmp_path: Path) -> None:
    """Without ``min-replicas-to-write``, a primary that is cut off goes on accepting; with it, nothing is said."""
    settings = {name.removeprefix("FLUXY_SYNC_"): value for name, value in gateway.environment.items()}

    def durability() -> dict[str, str]:
        run = fluxy_sync("doctor", "--json", env=environment(tmp_path / "data", **settings))
        (check,) = (check for check in json.loads(run.stdout)["checks"] if check["name"] == "durability")
        return dict(check)

    assert durability()["state"] == "warning"
    assert "min-replicas-to-write 1" in durability()["advice"]
    servers.old.config_set("min-replicas-to-write", 1)
    assert durability()["state"] == "ok"
