"""Cases of what comes through the broker: messages, control commands and their answers, Celery's events."""

import bz2
import json
import lzma
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import redis

from fluxy_sync.operation import SYNC_OP
from fluxy_sync.sealing import CONTENT_TYPE
from tests.chaos.background import Background
from tests.chaos.forged_messages import BODIES, MESSAGES, ODD_VALUES, is_taken, pools
from tests.chaos.garbage import Garbage
from tests.chaos.gauge import Gauge
from tests.chaos.reader_bench import FINE, Bench, environment_of
from tests.chaos.scene import PATIENCE_S
from tests.chaos.trial import wait_until
from tests.conftest import ROOT

Case = Callable[[Bench], None]

REFUSED = {"unsealed", "misplaced", "invalid"}
MOST_MIB, MOST_LOG_MIB = 500.0, 32.0  # with what is decompressed, and taken apart
BOMB_BYTES = 200 * 1024 * 1024
PACKERS = {"zlib": zlib.compress, "bzip2": bz2.compress, "xz": lzma.compress}
EVENTS = (
    "worker-heartbeat", "worker-online", "worker-offline", "task-received", "task-started", "task-succeeded",
    "task-failed", "task-retried", "task-revoked", "task-sent", "task-\x1b[2J", "nobody-knows",
)  # fmt: skip
HEADS = ("type", "hostname", "timestamp", "local_received", "utcoffset", "clock")  # by which an event is sorted in
FIELDS = (
    "pid", "freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys", "uuid", "name", "args", "kwargs",
    "state", "retries", "eta", "expires", "exception", "traceback", "runtime", "result", "root_id", "parent_id",
)  # fmt: skip


def messages(bench: Bench) -> None:
    """A message is dropped, or becomes a dead letter of something that was never accepted."""
    here, before = bench.here, {one.id for one in bench.here.sync.dead_letters()}
    found: list[bytes] = [*MESSAGES.values()]
    for _, data in bench.garbage.values(b'{"body": ""}', most=8):
        head = {"task": SYNC_OP, "id": here.forger.id()}
        found += [data, here.forger.message(data, head), here.forger.message(data, head, CONTENT_TYPE)]
        text = data.decode("latin-1")[:300]
        found += [here.forger.message(data, {"task": text, "id": text}), here.forger.message(data, {}, text)]
        found += [here.forger.message(data, head | dict.fromkeys(("lang", "origin", "eta", "compression"), text))]
        found += [
            here.forger.message(BODIES["an odd part"], head | {"id": text}),
            here.forger.message(data, head, text),
        ]
    for name, packed in bombs(bench):
        found.append(here.forger.message(packed, {"task": SYNC_OP, "id": here.forger.id(), "compression": name}))
    for message in found:
        here.forger.client.lpush(here.forger.queue, message)
        here.forger.client.lpush(f"{here.forger.namespace}.tasks", message)
    wait_until(lambda: is_taken(here), PATIENCE_S, "garbage in the queues to be taken")
    new = [one for one in here.sync.dead_letters() if one.id not in before]
    reasons = {one.reason for one in new}
    bench.run.check(reasons <= REFUSED, f"garbage in the queues became dead letters: {reasons}")
    bench.look("garbage in the queues", "dead ls", "dead ls --json")
    for one in new[:5]:
        bench.command(f"dead show {one.id} --reveal", "garbage in the queues")
    bench.still_works("garbage in the queues")


def bombs(bench: Bench, start: bytes = b"") -> Iterator[tuple[str, bytes]]:
    """A few bytes that become many, and how they are packed."""
    for name in bench.run.scale(["zlib"], list(PACKERS)):
        yield name, PACKERS[name](start + bytes(BOMB_BYTES))


def commands(bench: Bench) -> None:
    """Control commands that aren't sealed change nothing."""
    here, before = bench.here, pools(bench.here)
    about = {"exchange": "celery.pidbox", "routing_key": ""}
    for _, data in bench.garbage.values(b'{"method": "shutdown"}', most=8):
        for message in (
            data, here.forger.message(data, {}, delivery_info=about),
            here.forger.message(data, {}, CONTENT_TYPE, delivery_info=about),
        ):  # fmt: skip
            here.forger.client.publish("/0.celery.pidbox", message)
    bench.run.check(pools(here) == before, "garbage changed the worker's pool")
    bench.still_works("garbage in control commands")


class Interrupter(Background):
    """Answers whatever is asked of the workers, with garbage."""

    def __init__(self, client: "redis.Redis", garbage: Garbage, message: Callable[..., bytes]) -> None:
        super().__init__("interrupter", 0.01)
        self._client, self._garbage, self._message = client, garbage, message
        self.said = 0

    def step(self) -> None:
        for member in self._client.smembers("_kombu.binding.reply.celery.pidbox"):
            queue = member.rpartition(b"\x06\x16")[2]
            for _, data in self._garbage.values(b'{"x": {"ok": "pong"}}', most=2):
                about = {"exchange": "reply.celery.pidbox", "routing_key": ""}
                self._client.lpush(queue, data, self._message(data, {}, delivery_info=about))
                self._client.expire(queue, 30)
                self.said += 1


def replies(bench: Bench) -> None:
    """Somebody answers in the workers' place: the doctor says that it can't read that, or hears the right answers."""
    forger = bench.here.forger
    order = [sys.executable, "-m", "fluxy_sync", "doctor", "--json"]
    with Interrupter(forger.client, bench.garbage, forger.message) as interrupter:
        given = bench.here.stage.gateway.environment
        done = subprocess.run(order, env=environment_of(given), capture_output=True, timeout=60, cwd=ROOT)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    bench.clean(output, "garbage in replies")
    bench.run.check(interrupter.said and "Traceback" not in output, f"the doctor said {output[-3000:]}")
    names = [check["name"] for check in json.loads(done.stdout)["checks"]]
    bench.run.check("workers" in names and "records" in names, f"the doctor looked at {names} alone")
    bench.still_works("garbage in replies")


def events(bench: Bench) -> None:
    """Events of workers and tasks that don't exist: Flower's pages show them, or leave them out."""
    here, log = bench.here, bench.dashboard.log_path
    process, before = bench.dashboard.process, log.stat().st_size
    assert process is not None
    pages = ("/workers?json=1", "/workers", "/tasks", "/metrics", "/broker", "/api/sync")
    with Gauge({"dashboard": process.pid}, 0.05, families=False) as gauge:
        for n, odd in enumerate((invented_events(bench), unreadable_events(bench), exploding_events(bench))):
            for event in odd:
                here.forger.client.publish("/0.celeryev/worker.heartbeat", event)
            honest = f"sync@honest-{n}"
            wait_until(lambda name=honest: is_shown(bench, name), PATIENCE_S, "a heartbeat to be shown after garbage")
            bench.look("garbage in events", "status", pages=pages, most=len(pages))
    most, grown = gauge.most_mib("dashboard"), (log.stat().st_size - before) / 2**20
    bench.run.check(most <= MOST_MIB, f"the dashboard took {most:.0f} MiB for garbage in events")
    bench.run.check(grown <= MOST_LOG_MIB, f"the dashboard's log grew by {grown:.0f} MiB for garbage in events")
    bench.still_works("garbage in events")


def is_shown(bench: Bench, worker: str) -> bool:
    """Whether Flower knows a worker, of which an event has just come."""
    event = event_of("worker-heartbeat", worker) | {"timestamp": time.time(), "local_received": time.time()}
    message = bench.here.forger.message(json.dumps(event).encode(), {})
    bench.here.forger.client.publish("/0.celeryev/worker.heartbeat", message)
    answer = bench.dashboard.get("/workers?json=1")
    bench.run.check(answer.status_code in FINE, f"/workers answered {answer.status_code} after garbage in events")
    return answer.status_code == 200 and worker in answer.text


def event_of(kind: str, worker: str) -> dict[str, Any]:
    event = {"type": kind, "hostname": worker, "timestamp": 1.0, "utcoffset": 0, "pid": 1, "clock": 1, "freq": 2.0}
    return event | {"active": 0, "processed": 0, "loadavg": [0.1, 0.2, 0.3], "sw_ident": "py-celery", "sw_ver": "5"}


def invented_events(bench: Bench) -> Iterator[bytes]:
    """Of each kind, with one odd value, each of a worker of its own: Flower keeps the last that it heard."""
    message = bench.here.forger.message
    for kind in EVENTS:
        task = {"uuid": bench.here.forger.id(), "name": "forged"} if kind.startswith("task") else {}
        some = FIELDS if kind == "worker-heartbeat" else bench.run.chance.sample(FIELDS, 4)
        for field in bench.run.scale(some, FIELDS):
            values = ODD_VALUES if kind == "worker-heartbeat" else bench.run.chance.sample(ODD_VALUES, 3)
            for n, value in enumerate(values):  # not too many: there is room for so many workers alone
                event = event_of(kind, f"sync@{kind} {field} {n}") | task | {field: value}
                yield message(json.dumps(event).encode(), {})
        yield message(json.dumps([event_of(kind, "sync@several") | task] * 3).encode(), {})


def unreadable_events(bench: Bench) -> Iterator[bytes]:
    """Each of these may cost the receiver its connection, and what comes until it is back."""
    message, chance = bench.here.forger.message, bench.run.chance
    for kind in bench.run.scale([chance.choice(EVENTS)], EVENTS):
        yield message(json.dumps({"type": kind, "hostname": f"sync@{kind}"}).encode(), {})
        for head in bench.run.scale(chance.sample(HEADS, 2), HEADS):
            event = event_of(kind, "sync@odd") | {head: chance.choice(ODD_VALUES)}
            yield message(json.dumps(event).encode(), {})
    for _, data in bench.garbage.values(b'{"type": "worker-heartbeat"}', most=8):
        yield data
        yield message(data, {})
        yield message(data, {"hostname": data.decode("latin-1")[:100]}, CONTENT_TYPE)


def exploding_events(bench: Bench) -> Iterator[bytes]:
    for name, packed in bombs(bench, b'{"type": "worker-heartbeat", "x": "'):
        yield bench.here.forger.message(packed, {"compression": name})


BROKER: dict[str, Case] = {
    "the queues {ns}.sync and {ns}.tasks": messages, "control commands (celery.pidbox)": commands,
    "replies to control commands": replies, "Celery's events (celeryev)": events,
}  # fmt: skip
