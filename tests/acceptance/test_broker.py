"""A broker of its own, beside the store: RabbitMQ from Debian's package."""

import bz2
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from fluxy_sync import FluxySync
from fluxy_sync.compression import MOST_BYTES
from fluxy_sync.operation import FLUSH, SYNC_OP
from tests.command_line import environment, fluxy_sync
from tests.conftest import Gateway, wait_until
from tests.rabbitmq import IS_INSTALLED, RabbitMq
from tests.referee import judge
from tests.upstream import Upstream

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="Debian's package rabbitmq-server isn't installed")

POOLS = ("prefork", "threads", "solo")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    rabbitmq = RabbitMq(tmp_path_factory.mktemp("rabbitmq") / "node")
    try:
        yield rabbitmq
    finally:
        rabbitmq.close()


@pytest.fixture
def broker(node: RabbitMq, gateway: Gateway) -> RabbitMq:
    """A broker that runs, and a gateway that uses it."""
    node.ensure()
    gateway.environment["FLUXY_SYNC_BROKER_URL"] = node.url
    return node


def queue_some(sync: FluxySync, numbers: range) -> list[tuple[str, str, int]]:
    lanes = {n: f"lane{n % 10}" for n in numbers}
    queued = [sync.queue("POST", "/x", body={"n": n, "lane": lane}, lane=lane) for n, lane in lanes.items()]
    return [(operation.id, operation.lane, n) for n, operation in zip(numbers, queued, strict=True)]


def test_nothing_is_lost_or_reordered_when_the_broker_dies(
    broker: RabbitMq, gateway: Gateway, upstream: Upstream
) -> None:
    """2,000 operations over the death and the return of the broker; meanwhile they go on, and no tokens pile up."""
    upstream.start()
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    accepted = queue_some(sync, range(700))
    wait_until(lambda: sync.status().delivered_total > 100, 30)
    broker.kill()
    wait_until(lambda: sync.status().pending == 0, 30)
    accepted += queue_some(sync, range(700, 1400))
    wait_until(lambda: sync.status().pending == 0, 30, "deliveries go on without a broker")
    assert "this worker delivers without it" in gateway.log("worker")
    broker.start()
    accepted += queue_some(sync, range(1400, 2000))
    wait_until(lambda: sync.status().pending == 0, 60)
    gateway.wait_for("worker", "Connected to amqp")
    verdict = judge(accepted, upstream.requests())
    assert verdict.ok, str(verdict)
    assert broker.waiting(gateway.settings().queue_name) <= 2
    assert gateway.processes["worker"].poll() is None


def test_no_message_ends_a_worker(broker: RabbitMq, gateway: Gateway, upstream: Upstream) -> None:
    """Whoever can write to the broker sends what no worker can read, or what asks for all memory: it is dropped."""
    upstream.start()
    gateway.start("worker")
    head: dict[str, Any] = {"task": SYNC_OP, "id": "1"}
    flush = {"task": FLUSH, "id": "1", "eta": 7, "timelimit": 5}
    bomb = head | {"compression": "bzip2"}
    with Connection(broker.url) as connection:
        producer = connection.Producer()
        for headers, body in (
            (head, b"\xff"), (head, b"5"), (flush, b"[[], {}, {}]"), (bomb, bz2.compress(bytes(MOST_BYTES + 1))),
            ({"task": ["x"], "id": "1"}, b""), ({"task": FLUSH, "id": ["x"]}, b"[[], {}, {}]"), ({}, b"[]"),
        ):  # fmt: skip
            producer.publish(
                body, routing_key=gateway.settings().queue_name, headers=headers,
                content_type="application/json", content_encoding="utf-8",
            )  # fmt: skip
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/after")
    wait_until(lambda: [request["path"] for request in upstream.requests()] == ["/after"])
    wait_until(lambda: "larger than" in gateway.log("worker"))
    wait_until(lambda: broker.waiting(gateway.settings().queue_name) == 0)
    assert gateway.processes["worker"].poll() is None


@pytest.mark.parametrize("pool", POOLS)
def test_deliveries_go_on_while_the_broker_is_away(
    broker: RabbitMq, gateway: Gateway, upstream: Upstream, pool: str
) -> None:
    """In each kind of pool, also where the worker was started without its broker; with it, all is as before."""
    broker.kill()
    upstream.start()
    gateway.worker_options = ["--pool", pool]
    gateway.start("worker", wait=False)
    sync = FluxySync(gateway.settings())
    queue_some(sync, range(20))
    wait_until(lambda: len(upstream.requests()) == 20, 30, "deliveries without a broker")
    broker.start()
    gateway.wait_for("worker", " ready.")
    queue_some(sync, range(20))
    wait_until(lambda: len(upstream.requests()) == 40)
    broker.kill()
    queue_some(sync, range(20))
    wait_until(lambda: len(upstream.requests()) == 60)
    assert gateway.stop("worker") == 0


def test_the_doctor_finds_a_broker_that_cannot_be_used(broker: RabbitMq, gateway: Gateway, tmp_path: Path) -> None:
    """One that is away, and one that refuses the password, which isn't shown."""
    settings = {name.removeprefix("FLUXY_SYNC_"): value for name, value in gateway.environment.items()}

    def found(url: str) -> str:
        run = fluxy_sync("doctor", env=environment(tmp_path / "data", **(settings | {"BROKER_URL": url})))
        assert "secret-word" not in run.stdout + run.stderr
        (line,) = (line for line in run.stdout.splitlines() if line.split()[2:3] == ["broker"])
        return line

    assert "wake tokens in queue" in found(broker.url)
    assert "refuses the user, the password" in found(broker.url.replace("guest:guest", "guest:secret-word"))
    broker.kill()
    assert "can't be reached" in found(broker.url)
