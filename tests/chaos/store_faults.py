"""What can happen to the store under a running gateway, and to the messages and connections that go through it."""

import random
import shlex
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fluxy_sync.embedded import EmbeddedStore, ServerBinary, find_server
from fluxy_sync.errors import ConfigError, StorageUnavailable
from tests.chaos.background import Background, Timed
from tests.chaos.proxy import Proxy
from tests.chaos.trial import wait_until

NOBODYS_PORT = 1
BACK_S = 30.0
GONE = (redis.ConnectionError, redis.TimeoutError)


def server_with(folder: Path, *options: str) -> ServerBinary:
    """The server that is used anyway, started with more options, e.g. ``--enable-debug-command yes``."""
    real = find_server()
    script = folder / "server"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(real.path))} "$@" {shlex.join(options)}\n')
    script.chmod(0o700)
    return real._replace(path=script)


def admin(store: EmbeddedStore, timeout_s: float = 5.0) -> "redis.Redis":
    """A client that asks once."""
    return redis.Redis.from_url(store.url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


class StoreFaults:
    """Each begins with a store that is well: a fault that lasts is mended before the next one."""

    def __init__(self, store: EmbeddedStore, timed: Timed) -> None:
        self._store, self._timed = store, timed

    # --- its process

    def kill_store(self, chance: random.Random) -> None:
        """SIGKILL; it starts again at once or within a second."""
        self._down(chance, lambda process: process.kill())

    def restart_store(self, chance: random.Random) -> None:
        """SIGTERM, and a start."""
        self._down(chance, lambda process: process.terminate())

    def _down(self, chance: random.Random, end: Callable[..., object]) -> None:
        self._well()
        assert self._store.process is not None
        end(self._store.process)
        self._store.process.wait()
        self._timed.begin("store", chance.choice((0.0, chance.uniform(0.0, 1.0))), self._start)

    def _start(self) -> None:
        wait_until(self._starts, BACK_S, "the store's lock is free again")
        self._store.wait_ready()

    def _starts(self) -> bool:
        with suppress(ConfigError):  # a child that rewrote its file still holds the lock
            self._store.start()
            return True
        return False

    def freeze_store(self, chance: random.Random) -> None:
        """SIGSTOP for a while, then SIGCONT: it executes late what it had been sent."""
        self._well()
        process = self._store.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self._timed.begin("store", chance.uniform(0.2, 3.0), lambda: process.send_signal(signal.SIGCONT))

    def sleep_store(self, chance: random.Random) -> None:
        """DEBUG SLEEP: the same from within."""
        self._well()
        seconds = chance.uniform(0.2, 3.0)
        with admin(self._store, 0.05) as client, suppress(redis.TimeoutError):
            client.execute_command("DEBUG", "SLEEP", f"{seconds:.3f}")
        self._timed.begin("store", seconds, self._answers)

    def rewrite_file(self, _chance: random.Random) -> None:
        """BGREWRITEAOF: whatever comes next comes in the middle of it."""
        self._ask("BGREWRITEAOF")

    # --- what it refuses

    def fill_memory(self, chance: random.Random) -> None:
        """maxmemory is what it uses now: OOM, for a moment."""
        self._well()
        with admin(self._store) as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]))
        self._timed.begin("store", chance.uniform(0.3, 2.0), self._set_later("maxmemory", self._store.maxmemory))

    def make_read_only(self, chance: random.Random) -> None:
        """A replica of nobody: READONLY, and whoever waited in a BRPOP is thrown out of it, as in a failover."""
        self._well()
        self._ask("REPLICAOF", "127.0.0.1", NOBODYS_PORT)
        self._timed.begin("store", chance.uniform(0.3, 2.0), lambda: self._ask("REPLICAOF", "NO", "ONE"))

    def want_replicas(self, chance: random.Random) -> None:
        """NOREPLICAS: it wants a replica to write, and has none."""
        self._well()
        self._ask("CONFIG", "SET", "min-replicas-to-write", 1)
        self._timed.begin("store", chance.uniform(0.3, 2.0), self._set_later("min-replicas-to-write", 0))

    def flush_scripts(self, _chance: random.Random) -> None:
        self._ask("SCRIPT", "FLUSH")

    def end_clients(self, chance: random.Random) -> None:
        """CLIENT KILL of all that ask, or of all that listen."""
        self._ask("CLIENT", "KILL", "TYPE", chance.choice(("normal", "normal", "pubsub")), "SKIPME", "yes")

    # --- what all of these need

    def _well(self) -> None:
        self._timed.end("store")
        self._answers()

    def _answers(self) -> None:
        wait_until(self._store.is_ready, BACK_S, "the store answers")

    def _set_later(self, name: str, value: int) -> Callable[[], None]:
        return lambda: self._ask("CONFIG", "SET", name, value)

    def _ask(self, *command: str | int) -> None:
        """Ask it once; if it isn't there, it isn't asked: a start takes back what was set."""
        with admin(self._store) as client, suppress(*GONE, redis.ResponseError):
            client.execute_command(*command)


class WireFaults:
    """What happens to the connections of whoever comes through the proxy."""

    def __init__(self, proxy: Proxy, timed: Timed) -> None:
        self._proxy, self._timed = proxy, timed

    def reset_connections(self, _chance: random.Random) -> None:
        """TCP RST to all of them."""
        self._proxy.set("refused")
        self._proxy.set()

    def cut_replies(self, chance: random.Random) -> None:
        """Of a share of the replies only a part arrives, then RST: what was asked for has happened."""
        self._proxy.set(cuts=0.3, resets=0.2)
        self._timed.begin("proxy", chance.uniform(0.2, 1.5), self._proxy.set)


class Thief(Background):
    """Takes wake tokens out of the broker before a worker gets them: they get lost, come late, or come twice and late.

    It looks for ``loot_s`` seconds at a time when told so by ``steal``; what it owes comes back in its time.
    """

    LATE_S = 2.0

    def __init__(self, store: EmbeddedStore, queue: str) -> None:
        super().__init__("thief", 0.02)
        self._store, self._queue = store, queue
        self._steals_until, self._copies = 0.0, 0
        self._owes: list[tuple[float, bytes]] = []
        self._lock = threading.Lock()
        self.stolen = 0

    def steal(self, chance: random.Random) -> None:
        """Begin: for 0.3 to 1.5 s, and give each back never, once or twice."""
        with self._lock:
            self._steals_until = time.monotonic() + chance.uniform(0.3, 1.5)
            self._copies = chance.choice((0, 1, 2))

    def double(self, _chance: random.Random) -> None:
        """Each message that waits comes twice; none of those that are noted as taken is remembered."""
        with admin(self._store) as client, suppress(*GONE, redis.ResponseError):
            for message in client.lrange(self._queue, 0, -1):
                client.lpush(self._queue, message)
            client.delete("unacked", "unacked_index")

    def step(self) -> None:
        with self._lock, admin(self._store) as client, suppress(*GONE, redis.ResponseError):
            now = time.monotonic()
            while now < self._steals_until and (message := client.rpop(self._queue)):
                self._owes += [(now + self.LATE_S, message)] * self._copies
                self.stolen += 1
            while self._owes and self._owes[0][0] <= now:
                client.lpush(self._queue, self._owes[0][1])
                self._owes.pop(0)


def ends_pubsub(store: EmbeddedStore, while_not: Callable[[], bool], seconds: float) -> bool:
    """Throw out whoever listens, again and again, until the condition holds; false if it never did."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with admin(store) as client, suppress(*GONE, redis.ResponseError):
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        with suppress(StorageUnavailable):
            if while_not():
                return True
        time.sleep(0.01)
    return False
