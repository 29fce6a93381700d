"""Keys: rotated online, missing and found again, and what one damaged byte costs."""

import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync
from fluxy_sync.engine import Engine
from fluxy_sync.rotation import Rotation
from fluxy_sync.vault import key_id_of, new_key, parse_key
from tests.conftest import ROOT, Gateway, wait_until
from tests.journal_steps import let_pass
from tests.referee import judge
from tests.upstream import Upstream

PENDING = 100_000 if os.environ.get("FULL") else 10_000
LANES = 5


def id_of(key: str) -> str:
    return key_id_of(parse_key(key)).hex()


@pytest.fixture
def ring(gateway: Gateway, tmp_path: Path) -> Path:
    """The ring's file, shared by the gateway's processes and the test's own."""
    path = tmp_path / "ring"
    path.write_text(gateway.environment.pop("FLUXY_SYNC_KEYS"))
    gateway.environment["FLUXY_SYNC_KEYS_FILE"] = str(path)
    return path


class Producer(threading.Thread):
    """Queues on and on, on lanes of its own."""

    def __init__(self, sync: FluxySync) -> None:
        super().__init__(daemon=True)
        self._sync, self._ends = sync, threading.Event()
        self.accepted: list[tuple[str, str, int]] = []

    def run(self) -> None:
        for n in itertools.count():
            if self._ends.wait(0.005):
                return
            operation = self._sync.queue("POST", "/p", body={"lane": "p", "n": n}, lane="p")
            self.accepted.append((operation.id, "p", n))

    def finish(self) -> list[tuple[str, str, int]]:
        self._ends.set()
        self.join(10)
        return self.accepted


def fill(sync: FluxySync) -> list[tuple[str, str, int]]:
    """Queue the backlog, on a few long lanes."""
    accepted = []
    for start in range(0, PENDING, 500):
        numbers = range(start, start + 500)
        batch = [
            {"method": "POST", "path": "/b", "lane": f"b{n % LANES}", "body": {"lane": f"b{n % LANES}", "n": n}}
            for n in numbers
        ]
        handles = sync.queue_many(batch)
        accepted += [(handle.id, handle.lane, n) for handle, n in zip(handles, numbers, strict=True)]
    return accepted


def rotate(gateway: Gateway, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fluxy_sync", "keys", "rotate", "--json", *options],
        env={**os.environ, **gateway.environment}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def sealed_by(sync: FluxySync) -> dict[str, int]:
    return Rotation(Engine(sync.engine.settings), "test").usage()


@pytest.mark.timeout(600)
def test_the_ring_is_rotated_under_load_and_over_a_kill(gateway: Gateway, upstream: Upstream, ring: Path) -> None:
    """While it drains and producers queue: killed half-way, run again, complete; then the old key is gone from the
    ring, and all of it arrives, whole and in order.
    """
    old = id_of(ring.read_text())
    sync = FluxySync(gateway.settings())
    accepted = fill(sync)
    upstream.start()
    upstream.script("/b", [422])
    gateway.start("worker", "beat")
    wait_until(lambda: sync.status().dead == 1)
    sync.replay(to="tail")
    producer = Producer(FluxySync(gateway.settings()))
    producer.start()
    first = rotate(gateway)
    wait_until(lambda: sum(n for key, n in sealed_by(sync).items() if key != old) > 0, 60)
    first.kill()
    first.communicate()
    second = rotate(gateway, "--retire")
    told, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    document = json.loads(told)
    assert old not in ring.read_text()
    assert set(sealed_by(sync)) == {id_of(ring.read_text().split()[0])}, document
    assert document["retired"] == [old]
    accepted += producer.finish()
    assert sync.status().pending > 0, "it ended while there was something left to open"
    wait_until(lambda: sync.status().pending == 0, 300)
    refused = {r["key"] for r in upstream.requests() if r["status"] == 422}
    verdict = judge(accepted, upstream.requests(), refused)
    assert verdict.ok, verdict
    status = sync.status()
    assert (status.dead, status.held) == (0, 0)
    assert verdict.delivered == len(accepted)


def test_a_missing_key_holds_its_lane_until_it_is_back(gateway: Gateway, upstream: Upstream, ring: Path) -> None:
    """The status says which key; nothing is deleted, other lanes go on; with the key back in the ring, it goes on."""
    lost = ring.read_text()
    FluxySync(gateway.settings()).queue("POST", "/sealed-by-another", body={"n": 1}, lane="held")
    ring.write_text(new_key())
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/behind", lane="held")
    sync.queue("POST", "/other", lane="other")
    upstream.start()
    gateway.start("worker", "beat")
    wait_until(lambda: len(upstream.requests()) == 1)
    wait_until(lambda: (sync.status().held, sync.status().pending) == (2, 2))
    status = sync.status()
    assert status.held_for == {f"key:{id_of(lost)}": 1}
    assert (status.pending, status.dead) == (2, 0)
    ring.write_text(f"{ring.read_text()} {lost}")
    let_pass(sync.engine.journal, 30)
    wait_until(lambda: sync.status().pending == 0)
    assert [r["path"] for r in upstream.requests()] == ["/other", "/sealed-by-another", "/behind"]
    assert sync.status().held == 0


@pytest.mark.parametrize("part", ["clear", "key id", "nonce", "sealed", "tag"])
def test_one_flipped_byte_costs_that_operation_alone(gateway: Gateway, upstream: Upstream, part: str) -> None:
    """Wherever it is: exactly that record becomes a dead letter, ``corrupt``, and all others are delivered."""
    sync = FluxySync(gateway.settings())
    for n in range(5):
        sync.queue("POST", f"/{n}", body={"n": n}, lane="a", expires=3600, once=f"once-{n}", on_dead="go_on")
    journal = sync.engine.journal
    record = bytearray(journal.store.command("LINDEX", journal.keys.lane("a"), 2))
    sealed = len(record) - len(journal.parse(bytes(record)).sealed)
    at = {"clear": sealed - 9, "key id": sealed + 1, "nonce": sealed + 6, "sealed": sealed + 20, "tag": len(record) - 1}
    record[at[part]] ^= 0x10
    journal.store.command("LSET", journal.keys.lane("a"), 2, bytes(record))
    upstream.start()
    gateway.start("worker", "beat")
    wait_until(lambda: sync.status().pending == 0)
    assert [r["path"] for r in upstream.requests()] == ["/0", "/1", "/3", "/4"]
    assert [letter.reason for letter in sync.dead_letters()] == ["corrupt"]


def test_a_rings_file_is_taken_up_while_everything_runs(gateway: Gateway, upstream: Upstream, ring: Path) -> None:
    """A producer seals with the new key within a second or two, and the worker opens it, without a restart."""
    sync = FluxySync(gateway.settings())
    upstream.start()
    gateway.start("worker", "beat")
    sync.queue("POST", "/before")
    wait_until(lambda: len(upstream.requests()) == 1)
    fresh = new_key()
    ring.write_text(f"{fresh} {ring.read_text()}")

    def sealed_anew() -> Any:
        operation = sync.queue("POST", "/after", lane=None, countdown=30)
        key_id = next(iter(sync.pending(operation.lane))).key_id
        operation.cancel()
        return key_id == id_of(fresh)

    wait_until(sealed_anew)
    sync.queue("POST", "/after")
    wait_until(lambda: sync.status().pending == 0)
    assert [r["path"] for r in upstream.requests()] == ["/before", "/after"]
