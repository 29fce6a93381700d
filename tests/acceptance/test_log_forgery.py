"""Whoever can write to the store or the broker can't steer the terminal of ``up``, nor forge a line of its log."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fluxy_sync.operation import SYNC_OP
from tests.acceptance.test_up import Up
from tests.chaos.forger import Forger
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

BODY = json.dumps([["POST", "/forged"], {}, {}]).encode()
LINE = "[2026-01-01 00:00:00,000: INFO/MainProcess] FORGED"
FORGED = f"x\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n{LINE}\r{LINE}\u2028{LINE}"
UP_LINE = re.compile(r"(worker|beat|dashboard|gateway|store) +\| .*|fluxy-sync is up: .*")


@pytest.fixture
def up(tmp_path: Path, upstream: Upstream) -> Iterator[Up]:
    """A gateway that runs, and what it prints goes to a file."""
    running = Up(tmp_path, upstream)
    upstream.start()
    running.start()
    wait_until(lambda: "fluxy-sync is up" in printed(running), 60)
    yield running
    running.end()


def printed(up: Up) -> str:
    return up.log_path.read_bytes().decode() if up.log_path.exists() else ""


def forge(forger: Forger) -> None:
    """Everything that a message and a record can carry into a log."""
    head = {"task": SYNC_OP, "id": "1", "lang": "py"}
    for message in (
        forger.message(BODY, head, f"application/{FORGED}"),
        forger.message(BODY, {}, f"application/{FORGED}"),
        forger.message(BODY, {**head, "task": f"task.{FORGED}"}),
        forger.message(BODY, {**head, "id": f"id.{FORGED}"}),
        forger.message(BODY, {**head, "lang": FORGED, "origin": FORGED, "argsrepr": FORGED, "eta": FORGED}),
        forger.message(BODY, {FORGED: FORGED, **head, "compression": FORGED}),
        forger.message(BODY, {**head, "expires": FORGED, "timelimit": [FORGED, 1], "reply_to": FORGED}),
        forger.message(f"{{{FORGED}".encode(), head),
        forger.message(b"{}", {"x": FORGED}, correlation_id=FORGED),
    ):
        forger.client.lpush(forger.queue, message)
    for number in range(3):
        forger.put(f"lane-{number}-{FORGED}", b"no record")
    forger.client.publish("/0.celery.pidbox", FORGED.encode())
    forger.client.publish("/0.celery.pidbox", forger.message(json.dumps({"method": FORGED}).encode(), {}))


def test_nothing_forged_reaches_the_terminal(up: Up) -> None:
    """All that `up` prints are its own lines, and each character prints; what was forged stands in them as text."""
    told = json.loads((up.data / "gateway.json").read_text())
    with redis.Redis.from_url(told["redis_url"]) as client:
        forger = Forger(client, told["namespace"], random.Random(1))
        forge(forger)
        wait_until(lambda: not client.llen(forger.queue))
        wait_until(lambda: len(list(forger.letters())) >= 3)
        wait_until(lambda: "lane-2" in printed(up))
        wait_until(lambda: "application/x" in printed(up))
        wait_until(lambda: "task.x" in printed(up))
    up.end()
    said = printed(up)
    assert "FORGED" in said
    lines = said.rstrip("\n").split("\n")
    assert [line for line in lines if not line.replace("\t", "").isprintable()] == []
    assert [line for line in lines if not UP_LINE.fullmatch(line)] == []
    assert [line for line in lines if re.match(r"\w+ +\| " + re.escape(LINE), line)] == []


def test_nothing_forged_reaches_a_workers_log(gateway: Gateway, upstream: Upstream, store_url: str) -> None:
    """A worker that runs alone writes its log by itself: each line prints, and none that was forged begins one."""
    upstream.start()
    gateway.start("worker")
    with redis.Redis.from_url(store_url) as client:
        forger = Forger(client, gateway.environment["FLUXY_SYNC_NAMESPACE"], random.Random(1))
        forge(forger)
        wait_until(lambda: not client.llen(forger.queue))
        wait_until(lambda: "lane-2" in gateway.log_path("worker").read_bytes().decode())
        wait_until(lambda: "task.x" in gateway.log_path("worker").read_bytes().decode())
    said = gateway.log_path("worker").read_bytes().decode()
    first = said.index("MainProcess]")  # before it stands the banner
    lines = said[first:].rstrip("\n").split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith(LINE)] == []
