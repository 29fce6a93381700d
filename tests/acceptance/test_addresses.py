"""Other ways to the store: over TLS, and by sentinels."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore, find_server, free_port
from tests.conftest import Gateway, wait_until
from tests.http_server import Authority
from tests.upstream import Upstream


class TlsFront(threading.Thread):
    """Ends TLS in front of a store, as a store in the cloud does."""

    def __init__(self, context: ssl.SSLContext, store_port: int) -> None:
        super().__init__(daemon=True)
        self._context, self._store_port = context, store_port
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self.port = 0
        self.listening = threading.Event()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self.listening.set()
        await self._ended.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._store_port)
        ways = [asyncio.create_task(pump(reader, to_writer)), asyncio.create_task(pump(to_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way, end in zip(ways, (writer, to_writer), strict=True):
                way.cancel()
                end.transport.abort()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


class Address(NamedTuple):
    """Where a store listens, and its password."""

    port: int
    password: str


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Address]:
    """A store that listens on a loopback port as well."""
    with EmbeddedStore(tmp_path / "store") as store, redis.Redis.from_url(store.url) as client:
        address = Address(free_port(), redis.connection.parse_url(store.url)["password"])
        client.config_set("bind", "127.0.0.1")
        client.config_set("port", address.port)
        yield address


def deliver_one(gateway: Gateway, upstream: Upstream, url: str) -> None:
    """Queue while nobody works; then a worker and beat deliver it, woken by a token, and keep its result."""
    gateway.environment["FLUXY_SYNC_REDIS_URL"] = url
    upstream.start()
    upstream.default({"status": 201, "body": "made"})
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    operation = sync.queue("POST", "/one", keep_result=True)
    assert operation.get(timeout=20).body == b"made"
    assert sync.pending_count.value == 0
    sync.live.close()
    assert "insecure" not in gateway.log("worker")


def test_a_store_behind_tls(gateway: Gateway, upstream: Upstream, store: Address, tmp_path: Path) -> None:
    """All of it goes over TLS, and the certificate is checked by each client: our own, kombu's and Celery's."""
    authority = Authority(tmp_path)
    port, password = store
    front = TlsFront(authority.serving(), port)
    front.start()
    assert front.listening.wait(10)
    url = f"rediss://:{password}@127.0.0.1:{front.port}/0"
    deliver_one(gateway, upstream, f"{url}?ssl_ca_certs={authority.bundle}")
    for one in (gateway.settings(redis_url=url).broker, gateway.settings(redis_url=url).results):
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            redis.Redis.from_url(one.url).ping()
    gateway.close()
    front.end()


@pytest.fixture
def sentinel_port(store: Address, tmp_path: Path) -> Iterator[int]:
    """A sentinel that watches the store as ``shop``."""
    port, (store_port, password) = free_port(), store
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\n"
        f"sentinel monitor shop 127.0.0.1 {store_port} 1\nsentinel auth-pass shop {password}\n"
    )
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([find_server().path, conf, "--sentinel"], stdout=log, cwd=tmp_path)
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            wait_until(lambda: answers(client))
        yield port
    finally:
        process.kill()
        process.wait()


def answers(client: "redis.Redis") -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def test_a_store_behind_sentinels(gateway: Gateway, upstream: Upstream, store: Address, sentinel_port: int) -> None:
    """They name the store; one that doesn't answer is passed over."""
    deliver_one(gateway, upstream, f"sentinel://:{store.password}@127.0.0.1:1,127.0.0.1:{sentinel_port}/shop")


def test_a_full_store_behind_sentinels_drains(
    gateway: Gateway, upstream: Upstream, store: Address, sentinel_port: int
) -> None:
    """Its memory is full, so that the broker can note nothing: the consumer connects anew and lives on."""
    gateway.environment["FLUXY_SYNC_REDIS_URL"] = f"sentinel://:{store.password}@127.0.0.1:{sentinel_port}/shop"
    upstream.start()
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    with redis.Redis(port=store.port, password=store.password) as client:
        client.config_set("maxmemory", 1)
        client.client_kill_filter(_type="normal", skipme=True)
        gateway.wait_for("worker", "The store's memory is full: the broker's notes are left out")
        assert "the store refuses for now" not in gateway.log("worker")
        client.config_set("maxmemory", 0)
    sync.queue("POST", "/after")
    wait_until(lambda: [request["path"] for request in upstream.requests()] == ["/after"])
    assert gateway.processes["worker"].poll() is None
