"""What a worker writes while it delivers."""

from fluxy_sync import FluxySync
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

COUNT = 50


def deliver(gateway: Gateway, upstream: Upstream) -> list[str]:
    """Deliver some, one of them at the second try, and give the ids."""
    upstream.start()
    upstream.script("/twice", [503, 201])
    gateway.start("worker", "beat")
    producer = FluxySync(gateway.settings())
    ids = [producer.queue("POST", "/a", lane=None).id for _ in range(COUNT - 1)]
    ids.append(producer.queue("POST", "/twice", lane=None).id)
    wait_until(lambda: producer.status().delivered_total == COUNT)
    gateway.stop("worker")
    return ids


def test_no_line_for_each_operation(gateway: Gateway, upstream: Upstream) -> None:
    """Neither for an operation nor for a wake token: an SD card has a life. Beat's log has a summary."""
    ids = deliver(gateway, upstream)
    wait_until(lambda: "Deliveries begin" in gateway.log("beat"))
    log = gateway.log("worker")
    assert not [one for one in ids if one in log]
    assert not [line for line in log.splitlines() if "fluxy_sync.flush[" in line]


def test_at_debug_each_operation_has_its_line(gateway: Gateway, upstream: Upstream) -> None:
    """For who looks for one."""
    gateway.worker_options = ["--loglevel", "DEBUG"]
    ids = deliver(gateway, upstream)
    lines = gateway.log("worker").splitlines()
    for one in ids:
        assert [line for line in lines if "DEBUG" in line and f"sync_op[{one}] succeeded" in line], one
