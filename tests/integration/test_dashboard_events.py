"""Whoever can write to the broker can send any task event: the dashboard goes on, shows all its pages, and stays small.

Thousands of forged events go to a real dashboard, over the real store.
"""

import base64
import bz2
import json
import lzma
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from fluxy_sync.dashboard.heard import MOST_BYTES, MOST_TEXT, MOST_TRACEBACK
from fluxy_sync.dashboard.monitor import MOST_WAITING
from fluxy_sync.dashboard.options import MAX_TASKS, MAX_WORKERS
from fluxy_sync.dashboard.roll import MOST_PAIRS
from tests.conftest import SEED, wait_until
from tests.dashboard import Dashboard

CHANNEL = "/0.celeryev/worker.heartbeat"
DATATABLE = "/tasks/datatable?draw=1&start=0&length=9000&order[0][column]=0&order[0][dir]=asc&columns[0][data]="
PAGES = [
    "/", "/workers", "/workers?json=1", "/tasks", "/broker", "/metrics", "/healthcheck", "/sync", "/api/workers",
    "/api/workers?status=1", "/api/tasks", "/api/tasks?sort_by=-received&limit=9000", "/api/task/types",
    "/api/queues/length", DATATABLE + "name", DATATABLE + "started", DATATABLE + "worker",
]  # fmt: skip
BOMB_BYTES = 200_000_000
GROWTH_BYTES = 300_000_000
HOSTILE = [
    None, True, -1, 0, 2**31, 2**64, 10**400, -0.5, 1e308, "", "x" * 300, "x" * 100_000, "1", "nan", [], {}, [1], [[]],
    {"a": {}}, ["x"] * 3, [1, 2], [1, 2, "3"], "\x1b[2J", "a\nb", "\u202e", "\x00", "<script>alert(1)</script>",
    "{{ 7 * 7 }}", "../../etc", "a/b?c#d", "%s%n", '"', "\\", "\u2028", "日本", "\U0001f642", {"__class__": "x"},
    "{[]: 1}", "{" * 300, "-" * 400 + "1", "{'a': 1, 'b': 2}", "(" * 90,
]  # fmt: skip
FIELDS = [
    "type", "hostname", "timestamp", "utcoffset", "pid", "clock", "freq", "active", "processed", "loadavg", "sw_ident",
    "sw_ver", "sw_sys", "uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires", "result",
    "runtime", "exception", "traceback", "exchange", "routing_key", "local_received", "state", "worker", "children",
    "event", "alive", "heartbeats", "_fields", "__dict__", "__class__", "update", "id", "root", "parent", "received",
]  # fmt: skip
KINDS = [
    "worker-online", "worker-heartbeat", "worker-offline", "task-sent", "task-received", "task-started",
    "task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected", "task-cancelled",
]  # fmt: skip


class Forger:
    """Sends whatever it likes to where task events are heard."""

    def __init__(self, client: "redis.Redis") -> None:
        self.client = client
        self.chance = random.Random(SEED)

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """One as Celery makes it."""
        common = {"hostname": "sync@one", "utcoffset": 0, "pid": 7, "clock": 1, "timestamp": time.time(), "type": kind}
        if kind.startswith("worker-"):
            own: dict[str, Any] = {"freq": 2.0, "active": 0, "processed": 3, "loadavg": [0.1, 0.2, 0.3],
                                   "sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}  # fmt: skip
        else:
            own = {"uuid": f"id-{self.chance.randrange(500)}", "name": "shop.pay", "args": "()", "kwargs": "{}",
                   "retries": 0, "eta": None, "expires": None, "root_id": None, "parent_id": None}  # fmt: skip
        return {**common, **own, **fields}

    def bent(self) -> dict[str, Any]:
        """One with fields that are wrong, missing, or that no event has."""
        event = self.event(self.chance.choice(KINDS))
        for _ in range(self.chance.choice((1, 1, 1, 2, 5))):
            if self.chance.random() < 0.15:
                event.pop(self.chance.choice(list(event)), None)
            else:
                event[self.chance.choice(FIELDS)] = self.chance.choice(HOSTILE)
        return event

    def message(self, body: bytes, /, headers: Any = None, **changes: Any) -> bytes:
        """A message of kombu's."""
        properties = {
            "delivery_mode": 1, "priority": 0, "body_encoding": "base64", "delivery_tag": "t",
            "delivery_info": {"exchange": "celeryev", "routing_key": "worker.heartbeat"},
        }  # fmt: skip
        parts = {"body": base64.b64encode(body).decode(), "content-type": "application/json", "headers": headers or {},
                 "content-encoding": "utf-8", "properties": properties}  # fmt: skip
        return json.dumps(parts | changes).encode()

    def send(self, *events: Any) -> None:
        """Send events, in one bunch if there are several."""
        body = json.dumps(events[0] if len(events) == 1 else events, ensure_ascii=False).encode()
        self.client.publish(CHANNEL, self.message(body))


@pytest.fixture
def forger(store_url: str) -> Iterator[Forger]:
    with redis.Redis.from_url(store_url) as client:
        yield Forger(client)


@pytest.fixture
def heard(shown: Dashboard, forger: Forger) -> Dashboard:
    """A dashboard that hears events."""
    wait_until(lambda: is_heard(shown, forger, "first"), what="the first event to be heard")
    return shown


def is_heard(dashboard: Dashboard, forger: Forger, uuid: str) -> bool:
    """Whether an event that is as it should be reaches Flower, now."""
    forger.send(forger.event("task-received", uuid=uuid))
    return dashboard.get(f"/task/{uuid}").status_code == 200


def peak(dashboard: Dashboard) -> int:
    """The most memory that it ever held, in bytes."""
    assert dashboard.process is not None
    status = Path(f"/proc/{dashboard.process.pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def check(dashboard: Dashboard, *, outrun: bool = False) -> None:
    """Every page of Flower's shows, those of each task as well; only a listener that was outrun listens anew."""
    for page in PAGES:
        assert dashboard.get(page).status_code == 200, page
    for uuid in [quote(uuid, safe="") for uuid in list(dashboard.get("/api/tasks").json())[:300]]:
        for page in (f"/task/{uuid}", f"/api/task/info/{uuid}"):
            assert dashboard.get(page).status_code == 200, page
    assert outrun or "can't be heard" not in dashboard.log
    assert "Traceback" not in dashboard.log


def test_one_forged_heartbeat(heard: Dashboard, forger: Forger) -> None:
    """It once broke the page of the workers for good."""
    for value in (
        {"active": "x"},
        {"active": [1]},
        {"loadavg": {"a": 1}},
        {"freq": "x"},
        {"alive": 1},
        {"hostname": []},
    ):
        forger.send(forger.event("worker-heartbeat", **{"hostname": "sync@forged"} | value))
    wait_until(lambda: is_heard(heard, forger, "after"))
    check(heard)


def test_thousands_of_forged_events(heard: Dashboard, forger: Forger) -> None:
    """Fields that are wrong, missing or that nobody knows, one by one and in bunches; a real event is heard after."""
    for _ in range(4_000):
        forger.send(forger.bent())
    for _ in range(300):
        forger.send(*(forger.bent() for _ in range(forger.chance.randrange(2, 30))))
    wait_until(lambda: is_heard(heard, forger, "after"))
    check(heard)
    assert "events were dropped" in heard.log
    assert heard.log.count("events were dropped") <= 3


def test_what_is_no_message(heard: Dashboard, forger: Forger) -> None:
    """What isn't JSON, isn't an event, or says that it is something else: the same listener hears the next."""
    event = json.dumps(forger.event("task-received")).encode()
    for raw in (
        b"\xff", b"hello", b"[" * 100_000, b"{}", b"[]", b"null", b"1", b"x" * (2 * MOST_BYTES),
        forger.message(b"["), forger.message(b"[" * 100_000), forger.message(b"[[[]]]"), forger.message(b"null"),
        forger.message(b'{"type": 5}'), forger.message(b'{"type": "worker-none"}'), forger.message(b'"x"'),
        forger.message(event, **{"content-type": "application/x-python-serialize"}),
        forger.message(event, **{"content-type": "application/x-yaml"}), forger.message(event, **{"content-type": 5}),
        forger.message(event, **{"content-encoding": "utf-16"}), forger.message(event, **{"content-encoding": None}),
        forger.message(event, body="%%%"), forger.message(event, body=5), forger.message(event, properties={}),
        forger.message(event, properties=None), forger.message(event, {"compression": "application/x-gzip"}),
        forger.message(event, [1]), forger.message(b"\xff\xfe"), forger.message(event.replace(b"shop.pay", b"\\ud800")),
    ):  # fmt: skip
        forger.client.publish(CHANNEL, raw)
    wait_until(lambda: is_heard(heard, forger, "after"))
    check(heard)


def test_bombs(heard: Dashboard, forger: Forger) -> None:
    """Messages that unpack to 200 MB each, packed in each way that kombu knows: none is unpacked."""
    before = peak(heard)
    body = b'"' + b"0" * BOMB_BYTES + b'"'
    packed = {
        "application/x-gzip": zlib.compress(body, 9), "application/x-bz2": bz2.compress(body),
        "application/x-lzma": lzma.compress(body, preset=0), "xz": lzma.compress(body, preset=0),
        "gzip": zlib.compress(body, 1),
    }  # fmt: skip
    del body
    for _ in range(10):
        for kind, bomb in packed.items():
            forger.client.publish(CHANNEL, forger.message(bomb, {"compression": kind}))
    wait_until(lambda: is_heard(heard, forger, "after"))
    assert peak(heard) - before < 64 * 1024 * 1024
    check(heard)


def test_a_flood_of_events_that_are_as_they_should_be(heard: Dashboard, forger: Forger) -> None:
    """New workers and tasks without end, all texts as long as they may be: memory and metrics stop growing."""
    before, wide = peak(heard), "\U0001f642"
    texts = {"args": wide * MOST_TEXT, "kwargs": wide * MOST_TEXT, "result": wide * MOST_TEXT,
             "exception": wide * MOST_TEXT, "traceback": wide * MOST_TRACEBACK}  # fmt: skip
    for number in range(2 * MAX_TASKS):
        forger.send(forger.event("task-succeeded", uuid=f"u{number}", runtime=1.0, **texts))
        if not number % 500:
            wait_until(lambda: is_heard(heard, forger, "pause"))
    for number in range(2 * MOST_PAIRS):
        name = f"{number}" * 40
        forger.send(
            forger.event("worker-heartbeat", hostname=f"w{number}"),
            *(forger.event(kind, hostname=f"w{number % 50}", name=name[:255], runtime=1.0) for kind in KINDS[3:]),
        )
        if not number % (MOST_WAITING // 20):
            wait_until(lambda: is_heard(heard, forger, "pause"))
    wait_until(lambda: is_heard(heard, forger, "after"))
    assert peak(heard) - before < GROWTH_BYTES
    check(heard, outrun=True)  # the store lets go of who takes what is published too slowly
    lines = heard.get("/metrics").text.splitlines()
    workers = [line for line in lines if line.startswith("flower_worker_online{")]
    runtimes = [line for line in lines if line.startswith("flower_task_runtime_seconds_count{")]
    assert 0 < len(workers) <= MAX_WORKERS
    assert 0 < len(runtimes) <= MOST_PAIRS
    dropped = next(float(line.split()[1]) for line in lines if line.startswith("fluxy_sync_task_events_dropped_total"))
    assert dropped >= MOST_PAIRS
