"""``install(app)`` on apps of other people: what plain Celery does with a message is done."""

import base64
import bz2
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import ROOT, Gateway, wait_until

MANY_BYTES = 65 * 1024 * 1024  # more than a message of ours may become


def body_of(name: str, padding: int = 0) -> bytes:
    return json.dumps([[name + "x" * padding], {}, {"callbacks": None, "errbacks": None, "chain": None}]).encode()


def halves(pack: Callable[[bytes], bytes], body: bytes) -> bytes:
    return pack(body[:7]) + pack(body[7:])


def odd_messages(queue: str) -> dict[str, dict[str, Any]]:
    """Messages that kombu can read, as producers in other languages write them; by name."""
    made: dict[str, dict[str, Any]] = {}

    def add(name: str, body: bytes | str | None = None, *, compression: str = "", **changes: Any) -> None:
        encoded = base64.b64encode(body_of(name)).decode() if body is None else body
        headers = {"task": "shop.note", "id": name} | ({"compression": compression} if compression else {})
        delivery = {"exchange": "", "routing_key": queue} | changes.pop("delivery_info", {})
        properties = {"body_encoding": "base64", "delivery_tag": name, "delivery_info": delivery, "priority": 0}
        parts = {"content-type": "application/json", "content-encoding": "utf-8"} | changes.pop("parts", {})
        made[name] = parts | {"body": encoded, "headers": headers, "properties": properties | changes}

    def packed(name: str, compression: str, body: bytes) -> None:
        add(name, base64.b64encode(body).decode(), compression=compression)

    add("ordinary")
    add("text", body_of("text").decode(), body_encoding="utf-8")
    add("capitals", body_of("capitals").decode(), body_encoding="UTF-8")
    add("empty-encoding", body_of("empty-encoding").decode(), body_encoding="")
    add("null-encoding", body_of("null-encoding").decode(), body_encoding=None)
    add("numeric-tag", delivery_tag=17)
    add("fractional-tag", delivery_tag=17.5)
    add("numeric-routing-key", delivery_info={"routing_key": 5})
    add("null-exchange", delivery_info={"exchange": None})
    add("object-exchange", delivery_info={"exchange": {"name": "x"}})
    add("no-content-encoding", parts={"content-encoding": None})
    add("extra-properties", reply_to=None, correlation_id=5, delivery_mode="2")
    packed("bz2-streams", "bzip2", halves(bz2.compress, body_of("bz2-streams")))
    packed("xz-streams", "xz", halves(lzma.compress, body_of("xz-streams")))
    packed("own-decoder", "mine", body_of("own-decoder")[::-1])
    packed("own-decoder-for-gzip", "gzip", body_of("own-decoder-for-gzip")[::-1])
    packed("large", "bzip2", bz2.compress(body_of("large", MANY_BYTES)))
    return made


class Shop:
    """A worker of the user's app, on a queue of its own."""

    def __init__(self, gateway: Gateway, folder: Path, store_url: str, *, installed: bool) -> None:
        folder.mkdir()
        self.queue = f"{gateway.environment['FLUXY_SYNC_NAMESPACE']}-{folder.name}"
        self.notes, self.fault, self._log = folder / "notes", folder / "fault", folder / "log"
        self.notes.touch()
        self._environment = os.environ | gateway.environment
        self._environment |= {"SHOP_QUEUE": self.queue, "NOTES": str(self.notes), "FAULT": str(self.fault)}
        self._environment |= {"INSTALL": "1"} if installed else {}
        self._queues = f"{self.queue},{gateway.settings().queue_name}" if installed else self.queue
        self.client: redis.Redis = redis.Redis.from_url(store_url)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "celery", "-A", "tests.shop_app", "worker", "-Q", self._queues, "-l", "INFO",
                    "-n", self.queue, "--without-mingle", "--without-gossip",
                ],
                env=self._environment, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    def send(self, message: bytes | dict[str, Any]) -> None:
        self.client.lpush(self.queue, message if isinstance(message, bytes) else json.dumps(message))

    def ran(self) -> list[str]:
        return sorted({line.rstrip("x") for line in self.notes.read_text().splitlines()})

    def kept(self) -> bool:
        """Whether a message waits, in the queue or among those that weren't acked."""
        return bool(self.client.llen(self.queue)) or self.queue.encode() in b"".join(self.client.hvals("unacked"))

    def close(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.client.close()


@pytest.fixture
def shops(gateway: Gateway, store_url: str, tmp_path: Path) -> Iterator[list[Shop]]:
    """The app on plain Celery, and the same with ``install``."""
    made = [Shop(gateway, tmp_path / name, store_url, installed=name == "installed") for name in ("plain", "installed")]
    yield made
    for shop in made:
        shop.close()


def test_what_plain_celery_runs_is_run(shops: list[Shop]) -> None:
    """Messages of other languages' producers, of unusual encodings and sizes: each one that plain Celery runs."""
    for shop in shops:
        for message in odd_messages(shop.queue).values():
            shop.send(message)
        shop.start()
    plain, installed = shops
    names = sorted(odd_messages(""))
    wait_until(lambda: plain.ran() == names, 30, f"plain ran {plain.ran()}")
    wait_until(lambda: installed.ran() == names, 30, f"installed ran {installed.ran()}")
    assert not plain.kept()
    assert not installed.kept()


def test_a_message_is_kept_while_the_users_own_code_fails(shops: list[Shop]) -> None:
    """A request class of the user's raises while a fault lasts: as in plain Celery the message isn't dropped."""
    for shop in shops:
        shop.fault.touch()
        message = odd_messages(shop.queue)["ordinary"]
        message["headers"]["task"] = "shop.faulty"
        shop.send(message)
        shop.start()
        assert shop.process is not None
        wait_until(lambda shop=shop: shop.process.poll() is not None, 30, "the worker ends, as plain Celery's does")
        assert shop.kept()
        assert shop.ran() == []
        shop.fault.unlink()
        shop.start()
        wait_until(lambda shop=shop: shop.ran() == ["ordinary"])
