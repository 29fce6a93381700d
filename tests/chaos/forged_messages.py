"""Celery messages, control commands and hints from somebody without a key."""

import bz2
import json
import lzma
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from celery import Celery

from fluxy_sync.journal.record import parse
from fluxy_sync.operation import FLUSH, SYNC_OP
from fluxy_sync.sealing import CONTENT_TYPE, register_vault
from tests.chaos.forged_records import unsealed_body
from tests.chaos.forger import sealed_body
from tests.chaos.scene import PATIENCE_S, STOLEN, Scene
from tests.chaos.trial import wait_until

PLAIN = "shop.plain"  # a task of somebody's own; no worker has it
SPARE = "spare"  # a queue that nobody listens to
MESSAGES: dict[str, bytes] = {
    "nothing": b"", "no text": b"\xff\xfe", "no JSON": b"hello", "a list": b"[]", "an object": b"{}", "a number": b"1",
    "null": b"null", "a text": b'"text"', "odd parts": b'{"body": 1, "properties": {}}', "deep JSON": b"[" * 100_000,
    "odd headers": b'{"body": "", "headers": [1], "properties": {"delivery_tag": "1", "delivery_info": {}}}',
}  # fmt: skip
BODIES: dict[str, bytes] = {
    "no body": b"", "a number": b"1", "an object": b'{"a": 1}', "too few parts": b"[[]]", "a deep one": b"[" * 100_000,
    "an odd method": b'[["GET\\r\\nX: y", "/stolen"], {}, {}]', "odd arguments": b'[{"a": 1}, [], {}]',
    "another origin": b'[["POST", "http://127.0.0.1:1/"], {}, {}]', "an odd part": b'[["POST", "/stolen"], {}, "text"]',
    "an odd chain": b'[["POST", "/stolen"], {}, {"chain": 5}]', "a null": b'[["POST", "/stolen"], {}, null]',
    "odd links": b'[["POST", "/stolen"], {}, {"callbacks": [7], "errbacks": {"task": []}}]',
    "version 1": b'{"task": "fluxy_sync.sync_op", "id": "x", "args": ["POST", "/stolen"], "kwargs": {}}',
}  # fmt: skip
ODD_VALUES: list[Any] = [None, 7, -1, [], [[]], {"a": 1}, "x" * 5000, "\0\r\n", "never", 1e300, True]
ODD_HEADERS = (
    "id", "task", "eta", "expires", "timelimit", "retries", "group", "stamped_headers", "stamps", "callbacks", "chain",
    "chord", "lang", "root_id", "ignore_result", "utc", "delivery_info", "headers", "args", "compression",
)  # fmt: skip
ODD_PROPERTIES: dict[str, Any] = {
    "delivery_info": {"exchange": 1}, "body_encoding": "rot13", "delivery_tag": ["a"], "reply_to": "x",
    "priority": "high"
}  # fmt: skip
BOMBS: dict[Callable[[bytes], bytes], str] = {zlib.compress: "zlib", bz2.compress: "bzip2", lzma.compress: "xz"}
BOMB_BYTES = 128 * 1024 * 1024
COMMANDS = ("shutdown", "pool_restart", "pool_grow", "revoke", "fluxy_consume", "rate_limit", "ping", "cancel_consumer")


def forge_messages(here: Scene) -> None:
    """One after another: what can't be read is dropped, what can leads at most to a dead letter."""
    raw = steal(here)
    made = [*MESSAGES.values(), *with_odd_headers(here), *odd_ones(here), *moved(here, *raw)]
    for message in made:
        here.forger.client.lpush(here.forger.queue, message)
        here.forger.client.lpush(f"{here.forger.namespace}.tasks", message)
    here.forged["messages"] += 2 * len(made)
    patience_s = here.run.scale(PATIENCE_S, 10 * PATIENCE_S)  # there are 20 times as many
    wait_until(lambda: is_taken(here), patience_s, "all forged messages to be taken")
    here.still_works("forged messages")


def is_taken(here: Scene) -> bool:
    here.lives("forged messages")
    queues = (here.forger.queue, f"{here.forger.namespace}.tasks")
    return not any(here.forger.client.llen(queue) for queue in queues)


def with_odd_headers(here: Scene) -> Iterator[bytes]:
    """Messages for tasks that the worker has, unsealed or as if sealed, some header of which is odd."""
    for task in (SYNC_OP, FLUSH, "celery.chain", "nobody.knows"):
        for name in ODD_HEADERS:
            for _ in range(here.run.scale(1, 20)):
                odd = odd_value(here.run.chance)
                headers = {"task": task, "id": here.forger.id(), "lang": "py"} | {name: odd}
                yield here.forger.message(unsealed_body(), headers)
                yield here.forger.message(here.forger.noise(), headers, CONTENT_TYPE)


def odd_value(chance: random.Random) -> Any:
    return chance.choice(ODD_VALUES)


def odd_ones(here: Scene) -> Iterator[bytes]:
    """Bodies and properties that are none, and what Celery would unpack or run elsewhere."""
    forger, head = here.forger, {"task": SYNC_OP}
    for body in BODIES.values():
        yield forger.message(body, head | {"id": forger.id()})
    for name, value in ODD_PROPERTIES.items():
        yield forger.message(unsealed_body(), head | {"id": forger.id()}, **{name: value})
    yield forger.message(zlib.compress(unsealed_body()), head | {"id": forger.id(), "compression": "zlib"})
    for pack, name in BOMBS.items():
        yield forger.message(pack(bytes(BOMB_BYTES)), head | {"id": forger.id(), "compression": name})
    yield forger.message(b"cos\nsystem\n(S'true'\ntR.", head | {"id": forger.id()}, "application/x-python-serialize")


def steal(here: Scene) -> tuple[bytes, bytes]:
    """The sealed bodies of two messages of a program that has the key; a third one is delivered meanwhile."""
    name = register_vault(here.sync.engine.vault, "program")
    program = Celery("program", broker=here.stage.gateway.settings().broker.url, set_as_current=False)
    for task in (SYNC_OP, PLAIN):
        program.send_task(task, ("POST", STOLEN), {"body": 1}, queue=SPARE, serializer=name, task_id=f"sealed-{task}")
    program.send_task(SYNC_OP, ("POST", "/raw"), {"body": 1}, queue=here.forger.queue, serializer=name, task_id="raw")
    program.close()
    here.accepted["raw"] = ("POST", "/raw", 1)
    wait_until(lambda: here.arrived("raw"), PATIENCE_S, "a sealed message to be journalled and sent")
    first, second = (sealed_body(here.forger.client.rpop(SPARE)) for _ in range(2))
    return first, second


def moved(here: Scene, operation: bytes, plain: bytes) -> Iterator[bytes]:
    """What somebody with the key sealed, put to another use."""
    message = here.forger.message
    yield message(operation, {"task": SYNC_OP, "id": f"sealed-{SYNC_OP}"}, CONTENT_TYPE)  # of another queue
    yield message(operation, {"task": SYNC_OP, "id": "another"}, CONTENT_TYPE)
    yield message(plain, {"task": SYNC_OP, "id": f"sealed-{PLAIN}"}, CONTENT_TYPE)  # of another task
    yield message(
        operation, {"task": FLUSH, "id": "x", "chain": [{"task": SYNC_OP, "args": ["POST", STOLEN]}]}, CONTENT_TYPE
    )
    here.sync.pause()
    here.queue("kept", keep_result=True)
    for sealed in (parse(here.forger.head("kept")).sealed, here.forger.client.get(here.forger.keys.auth)):
        yield message(sealed, {"task": SYNC_OP, "id": here.forger.id()}, CONTENT_TYPE)
    here.sync.resume()


def forge_broadcasts(here: Scene) -> None:
    """Control commands, events and hints: what isn't sealed commands nothing."""
    before = pools(here)
    for channel in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat", here.forger.keys.events):
        for data in broadcasts(here):
            here.forger.client.publish(channel, data)
            here.forged["broadcasts"] += 1
    here.run.check(pools(here) == before, "a forged command changed the worker's pool")
    here.still_works("forged broadcasts")


def pools(here: Scene) -> dict[str, Any]:
    """The worker's process and its pool: whoever shut it down, or let it grow, would change them."""
    found: dict[str, Any] = {}

    def ask() -> bool:
        found.update(here.sync.app.control.inspect(timeout=1.0).stats() or {})
        return bool(found)

    wait_until(ask, PATIENCE_S, "the worker to answer")
    return {name: (stats["pid"], stats["pool"]["max-concurrency"]) for name, stats in found.items()}


def broadcasts(here: Scene) -> Iterator[bytes]:
    yield from MESSAGES.values()
    for name in COMMANDS:
        command = {"method": name, "arguments": {"n": 9, "namespace": here.forger.namespace, "change": "pause"}}
        about = {"exchange": "celery.pidbox", "routing_key": ""}
        yield here.forger.message(json.dumps(command).encode(), {}, delivery_info=about)
        yield here.forger.message(here.forger.noise(), {}, CONTENT_TYPE, delivery_info=about)
