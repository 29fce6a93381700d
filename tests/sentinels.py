"""A primary, a replica and three sentinels, and a partition that clients don't see."""

import contextlib
import selectors
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import redis

from fluxy_sync.embedded import find_server
from tests.conftest import wait_until
from tests.upstream import free_port

SERVICE, PASSWORD = "shop", "secret"
PEERS = "127.0.0.2"  # from where the replica and the sentinels come to the primary


class Front(threading.Thread):
    """What stands in front of the primary: once ``cut``, it passes on what clients say, and nothing of its peers."""

    def __init__(self, behind: int) -> None:
        super().__init__(daemon=True)
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._cut = self._ended = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._of_peers: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def cut(self) -> None:
        """Neither the replica nor a sentinel gets an answer any more, and their connections stay."""
        self._cut = True

    def end(self) -> None:
        self._ended = True
        self.join()
        for one in [self._listener, *self._pairs]:
            one.close()

    def run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.05):
                one: Any = key.fileobj
                if one is self._listener:
                    self._take()
                else:
                    self._pass_on(one)

    def _take(self) -> None:
        client, (host, _) = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._behind))
        for one, other in ((client, server), (server, client)):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)
            if host == PEERS:
                self._of_peers.add(one)

    def _pass_on(self, one: socket.socket) -> None:
        other = self._pairs.get(one)
        if other is None:
            return
        data = b""
        with contextlib.suppress(OSError):
            data = one.recv(65536)
        if data and self._cut and one in self._of_peers:
            return
        if data:
            with contextlib.suppress(OSError):
                other.sendall(data)
            return
        for end in (one, other):
            self._selector.unregister(end)
            self._pairs.pop(end, None)
            self._of_peers.discard(end)
            end.close()


class Failover:
    """The servers, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.old_port, self.new_port = free_port(), free_port()
        self.sentinel_ports = [free_port() for _ in range(3)]
        common = (
            f"bind 127.0.0.1\nrequirepass {PASSWORD}\nmasterauth {PASSWORD}\nappendonly yes\nappendfsync always\n"
            f"save ''\nbind-source-addr {PEERS}\nrepl-diskless-sync-delay 0\nrepl-timeout 5\n"
        )
        self._start("old", f"port {self.old_port}\n{common}")
        self.front = Front(self.old_port)
        self.front.start()
        self._start("new", f"port {self.new_port}\n{common}replicaof 127.0.0.1 {self.front.port}\n")
        for server in (self.old, self.new):
            wait_until(lambda server=server: answers(server))
        wait_until(lambda: self.new.info("replication")["master_link_status"] == "up")
        for port in self.sentinel_ports:
            self._start(
                f"sentinel-{port}",
                f"port {port}\nbind 127.0.0.1 {PEERS}\nbind-source-addr {PEERS}\nprotected-mode no\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.front.port} 2\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
                f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 5000\n",
                "--sentinel",
            )
        wait_until(lambda: all(self._knows_others(port) for port in self.sentinel_ports), 30)

    @property
    def old(self) -> "redis.Redis":
        return redis.Redis(port=self.old_port, password=PASSWORD, socket_timeout=5, protocol=2)

    @property
    def new(self) -> "redis.Redis":
        return redis.Redis(port=self.new_port, password=PASSWORD, socket_timeout=5, protocol=2)

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"sentinel://:{PASSWORD}@{nodes}/{SERVICE}"

    def _start(self, name: str, conf: str, *options: str) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True)
        (folder / "conf").write_text(f"{conf}dir {folder}\n")
        with (folder / "log").open("wb") as log:
            self._processes.append(
                subprocess.Popen([find_server().path, folder / "conf", *options], stdout=log, cwd=folder)
            )

    def _state(self, port: int) -> Any:
        client: Any = redis.Redis(port=port, socket_timeout=2, protocol=2, decode_responses=True)
        with client, contextlib.suppress(redis.RedisError):
            return client.sentinel_master(SERVICE)
        return None

    def _knows_others(self, port: int) -> bool:
        state = self._state(port)
        return bool(state and state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)

    def have_agreed(self) -> bool:
        """Whether most sentinels say that the replica is the primary."""
        states = [self._state(port) for port in self.sentinel_ports]
        return sum(bool(state and state["port"] == self.new_port) for state in states) >= 2

    def close(self) -> None:
        self.front.end()
        for process in self._processes:
            process.kill()
            process.wait()


def answers(client: "redis.Redis") -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False
