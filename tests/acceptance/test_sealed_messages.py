"""Celery messages of plain tasks, which stand in no lane, while keys are rotated, retired and missing."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection

from fluxy_sync import FluxySync
from fluxy_sync.rotation import Rotation
from fluxy_sync.sealing import CONTENT_TYPE
from fluxy_sync.vault import key_id_of, new_key, parse_key
from tests.command_line import CommandLine, Run, document
from tests.conftest import Gateway, wait_until

PLAIN = "user.plain"


def id_of(key: str) -> str:
    return key_id_of(parse_key(key)).hex()


@pytest.fixture
def ring(gateway: Gateway, tmp_path: Path) -> Path:
    """The gateway's ring in a file."""
    path = tmp_path / "ring"
    path.write_text(gateway.environment.pop("FLUXY_SYNC_KEYS"))
    gateway.environment |= {"FLUXY_SYNC_KEYS_FILE": str(path), "NOTES": str(tmp_path / "notes")}
    return path


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[], list[str]]:
    """What the plain task was called with."""
    notes = tmp_path / "notes"
    return lambda: notes.read_text().splitlines() if notes.exists() else []


@pytest.fixture
def sync(gateway: Gateway, ring: Path) -> FluxySync:
    return FluxySync(gateway.settings(imports=()))


def send(sync: FluxySync, word: str, **options: Any) -> None:
    sync.app.send_task(PLAIN, (word,), queue=f"{sync.engine.settings.namespace}.tasks", **options)


def said_no(done: Run) -> str:
    """The sentence of a command that failed."""
    assert done.returncode == 1, done
    return done.stderr


def start(gateway: Gateway) -> None:
    gateway.start("worker", FLUXY_SYNC_IMPORTS="tests.user_tasks", MQTT_PORT="1")


def taken(store: "redis.Redis", task: str = PLAIN) -> int:
    """Messages of the task that workers have taken and not acked."""
    return sum(task.encode() in value for value in store.hvals("unacked"))


@pytest.fixture
def store(store_url: str) -> Any:
    with redis.Redis.from_url(store_url) as client:
        client.delete("unacked", "unacked_index")
        yield client


@pytest.mark.parametrize("options", [{}, {"priority": 5}, {"countdown": 3600}, {"compression": "zlib"}], ids=str)
def test_no_key_is_retired_that_a_waiting_message_needs(
    with_store: CommandLine, sync: FluxySync, ring: Path, gateway: Gateway, options: dict[str, Any],
    ran: Callable[[], list[str]],
) -> None:  # fmt: skip
    """Of whichever priority, with an eta, compressed: it is counted; it runs, and then the key goes."""
    old = ring.read_text()
    send(sync, "kept", **options)
    document(with_store("keys", "rotate", "--json"))
    said = said_no(with_store("keys", "rotate", "--retire"))
    assert "1 Celery message in the broker" in said
    assert id_of(old) in said
    assert "let the workers run them" in said
    assert len(ring.read_text().split()) == 2
    if "countdown" in options:
        return
    start(gateway)
    wait_until(lambda: ran() == ["plain ('kept',)"])
    assert document(with_store("keys", "rotate", "--retire", "--json"))["retired"] == [id_of(old)]


def test_no_key_is_retired_that_a_taken_message_needs(
    with_store: CommandLine, sync: FluxySync, ring: Path, gateway: Gateway, store: "redis.Redis",
    ran: Callable[[], list[str]],
) -> None:  # fmt: skip
    """A worker holds one until its eta: it is counted, and runs when it is due."""
    start(gateway)
    send(sync, "later", countdown=12)
    wait_until(lambda: taken(store) == 1)
    document(with_store("keys", "rotate", "--json"))
    assert "1 Celery message in the broker" in said_no(with_store("keys", "rotate", "--retire"))
    assert len(ring.read_text().split()) == 2
    wait_until(lambda: ran() == ["plain ('later',)"], 30)


def test_a_users_prefixed_queue_is_looked_through(
    sync: FluxySync, ring: Path, store: "redis.Redis", gateway: Gateway
) -> None:
    """Whatever its app, queue and kombu's global prefix are; what was forged, or opens with no key, hinders nobody."""
    name = f"shop-{sync.engine.settings.namespace}"
    options = {"global_keyprefix": "{shop}:", "sep": ":", "priority_steps": list(range(10))}
    serializer = sync.app.conf.task_serializer
    with Connection(gateway.settings().broker.url, transport_options=options) as connection:
        producer = connection.Producer()
        for priority in (0, 7):
            producer.publish(
                ((), {}, {}), routing_key=name, serializer=serializer, priority=priority, headers={"task": "shop.x"},
                declare=[_queue(name)],
            )  # fmt: skip
    keys = list(store.scan_iter(f"{{shop}}:{name}*"))
    assert len(keys) == 2
    forged = json.loads(store.lrange(keys[0], 0, 0)[0])
    forged["body"] = "QUJD"
    store.lpush(keys[0], json.dumps(forged), b"nonsense", json.dumps({"content-type": CONTENT_TYPE}))
    try:
        Rotation(sync.engine, "test").add_key()
        with pytest.raises(Exception, match="2 Celery messages in the broker"):
            Rotation(sync.engine, "test").retire()
    finally:
        store.delete(*keys)
    assert Rotation(sync.engine, "test").retire()


def _queue(name: str) -> Any:
    from kombu import Queue

    return Queue(name, routing_key=name)


def test_a_wake_token_needs_no_key(sync: FluxySync, ring: Path, store: "redis.Redis") -> None:
    """Another one comes: one that waits keeps no key."""
    sync.queue("POST", "/x", countdown=3600).cancel()
    from fluxy_sync.tokens import wake

    assert wake(sync.app)
    rotation = Rotation(sync.engine, "test")
    rotation.add_key()
    list(rotation.run())
    assert rotation.retire()


def test_a_broker_that_cannot_be_looked_through_needs_somebodys_word(
    with_store: CommandLine, sync: FluxySync, ring: Path
) -> None:
    """As with AMQP: nothing is retired until a person says that its queues are empty."""
    document(with_store("keys", "rotate", "--json"))
    amqp = {"BROKER_URL": "amqp://guest@127.0.0.1:1//"}
    said = said_no(with_store("keys", "rotate", "--retire", **amqp))
    assert "--broker-is-empty" in said
    assert len(ring.read_text().split()) == 2
    assert document(with_store("keys", "rotate", "--retire", "--broker-is-empty", "--json", **amqp))["retired"]


@pytest.mark.parametrize("options", [{}, {"countdown": 2}], ids=str)
def test_a_message_whose_key_is_missing_is_kept_until_it_is_back(
    sync: FluxySync, ring: Path, gateway: Gateway, store: "redis.Redis", ran: Callable[[], list[str]],
    options: dict[str, Any],
) -> None:  # fmt: skip
    """It isn't acked, others run meanwhile, the log says so once in a while; with the key back, it runs."""
    lost = ring.read_text()
    send(sync, "sealed by another", **options)
    ring.write_text(new_key())
    start(gateway)
    gateway.wait_for("worker", f"A message of '{PLAIN}' needs the key {id_of(lost)}")
    assert taken(store) == 1
    for number in range(5):
        send(FluxySync(gateway.settings(imports=())), str(number))
    wait_until(lambda: len(ran()) == 5)
    assert gateway.log("worker").count("needs the key") == 1
    ring.write_text(f"{ring.read_text()} {lost}")
    wait_until(lambda: "plain ('sealed by another',)" in ran(), 20)
    wait_until(lambda: taken(store) == 0)


def test_a_key_that_goes_while_a_message_waits_for_its_eta_loses_nothing(
    sync: FluxySync, ring: Path, gateway: Gateway, store: "redis.Redis", ran: Callable[[], list[str]]
) -> None:
    """Somebody took the key out by hand: the message that the worker holds is kept, and runs with the key back."""
    lost = ring.read_text()
    start(gateway)
    due = time.monotonic() + 4
    send(sync, "later", countdown=4)
    wait_until(lambda: taken(store) == 1)
    ring.write_text(new_key())
    gateway.wait_for("worker", "needs the key")
    assert time.monotonic() >= due - 1
    assert (ran(), taken(store)) == ([], 1)
    ring.write_text(f"{ring.read_text()} {lost}")
    wait_until(lambda: ran() == ["plain ('later',)"], 20)


def test_a_key_that_goes_while_a_message_waits_for_a_rate_limit_loses_nothing(
    sync: FluxySync, ring: Path, gateway: Gateway, ran: Callable[[], list[str]]
) -> None:
    """The same for one that Celery holds back as too many came."""
    lost = ring.read_text()
    start(gateway)
    sync.app.control.rate_limit(PLAIN, "15/m", reply=True, timeout=5)
    for word in ("first", "second"):
        send(sync, word)
    wait_until(lambda: ran() == ["plain ('first',)"])
    ring.write_text(new_key())
    gateway.wait_for("worker", "needs the key")
    ring.write_text(f"{ring.read_text()} {lost}")
    wait_until(lambda: ran() == ["plain ('first',)", "plain ('second',)"], 30)


def test_a_worker_that_ends_leaves_a_kept_message_in_the_broker(
    sync: FluxySync, ring: Path, gateway: Gateway, ran: Callable[[], list[str]]
) -> None:
    """The next one takes it, with the key."""
    lost = ring.read_text()
    send(sync, "kept")
    ring.write_text(new_key())
    start(gateway)
    gateway.wait_for("worker", "needs the key")
    assert gateway.stop("worker") == 0
    ring.write_text(f"{ring.read_text()} {lost}")
    gateway.log_path("worker").unlink()
    start(gateway)
    wait_until(lambda: ran() == ["plain ('kept',)"])
