"""Whoever can write to the store, but has no key, makes the worker send nothing, and doesn't end it.

``make chaos ARGS=forgery`` tries all that a forger can do; here stands what once was possible.
"""

import bz2
import json
from typing import Any

import pytest
from celery import Celery

from fluxy_sync import FluxySync, InvalidOperation
from fluxy_sync.compression import MOST_BYTES
from fluxy_sync.errors import CorruptRecord
from fluxy_sync.operation import SYNC_OP
from fluxy_sync.rotation import Rotation
from fluxy_sync.sealing import CONTENT_TYPE, register_vault
from fluxy_sync.vault import Vault, new_key
from tests.chaos.forger import Forger, sealed_body
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

BODY = json.dumps([["POST", "/forged"], {"body": "forged"}, {}]).encode()


@pytest.fixture
def sync(gateway: Gateway, upstream: Upstream) -> FluxySync:
    """A gateway that runs."""
    upstream.start()
    gateway.start("worker", "beat")
    return FluxySync(gateway.settings())


def paths(upstream: Upstream) -> list[str]:
    return [request["path"] for request in upstream.requests()]


def send_unsealed(forger: Forger, sync: FluxySync) -> None:
    """An operation that somebody without a key sent; it is a dead letter then."""
    dead = sync.status().dead
    forger.client.lpush(forger.queue, forger.message(BODY, {"task": SYNC_OP, "id": forger.id()}))
    wait_until(lambda: sync.status().dead == dead + 1)


def test_no_message_ends_a_worker(sync: FluxySync, gateway: Gateway, upstream: Upstream, forger: Forger) -> None:
    """What isn't JSON, isn't a message, or has parts that no message has, is dropped: the next one is taken."""
    head = {"task": SYNC_OP, "id": "1"}
    for message in (
        b"\xff", b"hello", b"[" * 100_000, b"[]", b"{}", forger.message(BODY, [1]),
        forger.message(BODY, {"task": ["x"]}),
        forger.message(BODY, head, body_encoding="rot13"), forger.message(BODY, head, delivery_tag=["a"]),
        forger.message(BODY, head, delivery_info=None), forger.message(b'[["POST", "/forged"], {}, [1]]', head),
        forger.message(b'[["POST", "/forged"], {}, {"chain": 5}]', head),
        forger.message(BODY, {"task": SYNC_OP, "id": None}),
        forger.message(BODY, {"task": "fluxy_sync.flush", "id": "1", "eta": 7, "timelimit": 5}),
    ):  # fmt: skip
        forger.client.lpush(forger.queue, message)
    forger.client.publish("/0.celery.pidbox", b"[" * 100_000)
    wait_until(lambda: not forger.client.llen(forger.queue))
    sync.queue("POST", "/after")
    wait_until(lambda: paths(upstream) == ["/after"])
    assert gateway.processes["worker"].poll() is None
    assert "A message that can't be read was dropped (JSONDecodeError)." in gateway.log("worker")


def test_a_message_to_our_queue_stays_small(
    sync: FluxySync, gateway: Gateway, upstream: Upstream, forger: Forger
) -> None:
    """A few bytes that ask for all memory when they are decompressed are dropped unread."""
    bomb = bz2.compress(bytes(MOST_BYTES + 1))
    head = {"task": SYNC_OP, "id": "1", "compression": "bzip2"}
    forger.client.lpush(forger.queue, forger.message(bomb, head))
    sync.queue("POST", "/after")
    wait_until(lambda: paths(upstream) == ["/after"])
    wait_until(lambda: "larger than" in gateway.log("worker"))
    assert gateway.processes["worker"].poll() is None


def test_what_came_unsealed_opens_on_no_lane(sync: FluxySync, upstream: Upstream, forger: Forger) -> None:
    """The worker seals it, to keep it: a copy of it on the lane that it names is corrupt, and replaces nothing."""
    send_unsealed(forger, sync)
    lane, _, record = forger.letter("unsealed")
    forger.put(lane, record)
    sync.queue("POST", "/after", lane=lane)
    wait_until(lambda: paths(upstream) == ["/after"])
    assert [letter.reason for letter in sync.dead_letters()] == ["unsealed", "corrupt"]


def test_keys_are_rotated_over_what_came_unsealed(sync: FluxySync, forger: Forger) -> None:
    """It is sealed anew as one that was never accepted: it can still be read, and opens on no lane."""
    send_unsealed(forger, sync)
    list(Rotation(sync.engine, "test").run())
    (letter,) = sync.dead_letters()
    assert sync.examine(letter.id).args == ("POST", "/forged")


@pytest.fixture
def stolen(gateway: Gateway, sync: FluxySync, forger: Forger) -> dict[str, bytes]:
    """Sealed bodies that a program with our key sent: of an operation for another queue, and of another task."""
    name = register_vault(Vault.from_text([gateway.environment["FLUXY_SYNC_KEYS"]]), "program")
    program = Celery("program", broker=gateway.settings().broker.url, set_as_current=False)
    spare = f"{forger.namespace}.spare"
    for task in (SYNC_OP, "shop.plain"):
        program.send_task(task, ("POST", "/stolen"), {"body": 1}, queue=spare, serializer=name, task_id="given")
    program.close()
    return {task: sealed_body(forger.client.rpop(spare)) for task in (SYNC_OP, "shop.plain")}


@pytest.mark.parametrize(("of", "id"), [(SYNC_OP, "given"), (SYNC_OP, "another"), ("shop.plain", "given")])
def test_a_sealed_message_counts_only_where_it_was_meant_to(
    stolen: dict[str, bytes], of: str, id: str, sync: FluxySync, upstream: Upstream, forger: Forger
) -> None:
    """Not on another queue, under another id, or for another task: it is kept as a dead letter."""
    forger.client.lpush(forger.queue, forger.message(stolen[of], {"task": SYNC_OP, "id": id}, CONTENT_TYPE))
    wait_until(lambda: sync.status().dead == 1)
    assert [letter.reason for letter in sync.dead_letters()] == ["misplaced"]
    sync.queue("POST", "/after")
    wait_until(lambda: paths(upstream) == ["/after"])


def test_a_result_is_of_one_operation(sync: FluxySync, forger: Forger) -> None:
    """That of another one, put in its place, is refused; and no message opens as a result."""
    one, two = (sync.queue("POST", "/x", keep_result=True) for _ in range(2))
    assert (one.get(20).status, two.get(20).status) == (201, 201)
    forger.client.set(f"celery-task-meta-{one.id}", forger.client.get(f"celery-task-meta-{two.id}"))
    with pytest.raises(CorruptRecord, match="another operation"):
        one.get(1)


def test_a_message_is_no_result() -> None:
    """Both are sealed by the same ring, for different uses."""
    from kombu.serialization import dumps, loads

    from fluxy_sync.sealing import RESULT_TYPE, result_serializer_name

    name = register_vault(Vault.from_text([new_key()]), "uses")
    of_results = result_serializer_name("uses")
    message: Any = dumps({"a": 1}, serializer=name)
    result: Any = dumps({"a": 1}, serializer=of_results)
    assert loads(message[2], CONTENT_TYPE, "binary", accept=[CONTENT_TYPE]) == {"a": 1}
    for sealed, kind in ((message[2], RESULT_TYPE), (result[2], CONTENT_TYPE)):
        with pytest.raises(Exception, match="changed after it was sealed"):
            loads(sealed, kind, "binary", accept=[kind])


def test_an_operation_whose_arguments_do_not_fit_is_not_replayed(sync: FluxySync) -> None:
    """It was refused where its chain reached it, and can't be sent."""
    engine, operation_id = sync.engine, "refused"
    from fluxy_sync.operation import Operation

    record = engine.seal(Operation(("x", "POST", "/y")), "default", operation_id, refused=True)
    engine.journal.bury(record, "invalid")
    with pytest.raises(InvalidOperation, match="don't fit its task"):
        sync.replay(operation_id)
    with pytest.raises(InvalidOperation, match="don't fit its task"):
        sync.accept(operation_id, digest=sync.examine(operation_id).digest)
    assert sync.replay() == 0
