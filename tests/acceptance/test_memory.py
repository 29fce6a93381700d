"""What a worker's memory is spent on."""

from fluxy_sync import FluxySync, RetryPolicy
from tests.chaos.gauge import MIB, family, read
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

TRIES = 12


def test_a_body_that_fails_again_and_again_is_held_once(gateway: Gateway, upstream: Upstream) -> None:
    """The connection is lost under each try of 4 MiB: what a try left behind is gone before the next one."""
    upstream.start().script("/large", ["drop"] * TRIES)
    gateway.environment |= {"FLUXY_SYNC_MAX_BODY_BYTES": str(8 * MIB), "FLUXY_SYNC_WORKER_CONCURRENCY": "1"}
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    policy = RetryPolicy(base_s=0.05, cap_s=0.05)
    sync.queue("POST", "/large", body=b"x" * MIB, policy=policy)
    wait_until(lambda: len(upstream.requests()) > TRIES, what="the first one to be delivered")
    _, child = family(gateway.processes["worker"].pid)
    before = read(child).resident
    upstream.script("/large", ["drop"] * TRIES)
    sync.queue("POST", "/large", body=b"x" * 4 * MIB, policy=policy)
    wait_until(lambda: sync.status().delivered_total == 2, what="the large one to be delivered")
    assert len(upstream.requests()) == 2 * (TRIES + 1)
    assert read(child).resident - before < 32 * MIB  # four copies of 4 MiB, and what malloc keeps
