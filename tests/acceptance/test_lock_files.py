"""A worker whose directory of lock files can't be read as it should be."""

from fluxy_sync import FluxySync
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream


def test_a_lock_file_that_cannot_be_opened_ends_no_worker(gateway: Gateway, upstream: Upstream) -> None:
    """Something that is no file has the name of one: it is said once, and deliveries go on."""
    upstream.start()
    (gateway.settings().runtime_dir / "before.worker").mkdir(parents=True)
    gateway.start("worker")
    (gateway.settings().runtime_dir / "later.worker").mkdir()
    sync = FluxySync(gateway.settings())
    for number in range(3):
        sync.queue("POST", "/x")
        wait_until(lambda number=number: len(upstream.requests()) == number + 1)
    assert gateway.log("worker").count("The lock files of other workers can't be read") == 1
    assert gateway.stop("worker") == 0
