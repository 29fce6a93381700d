"""The proxy's own process: a link that can be cut, by TCP's own means. Standard library only.

It runs by its file's path, so that it starts fast. See ``tests/chaos/proxy.py``.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import socket
import ssl
import struct
from collections.abc import Coroutine
from typing import Any

PIECE = 65536
BACKLOG = 512
FILL_S = 0.05  # a connection that isn't taken up within this found the queue full
RESET_WITHIN = 6000  # bytes, both ways together, within which a connection that is to be reset lives
REQUESTS, ANSWERS = "requests", "answers"
LOSES = {"silent": (REQUESTS, ANSWERS), "no-requests": (REQUESTS,), "no-answers": (ANSWERS,)}


@dataclasses.dataclass
class Weather:
    """How the link is now.

    Attributes:
        link: ``up``; ``refused`` (nobody listens, all connections are reset); ``silent`` (a cable was pulled: what is
            sent gets lost both ways, and no connection comes about); ``no-requests`` or ``no-answers`` (lost one way).
        resets: the share of new connections that are reset at some moment.
        cuts: the share of answers of which the client sees a part or nothing, before its connection is reset.
        delay_s: added to each round trip at least: half of it to each piece, both ways.
        trickle_s: between two bytes of an answer; 0 passes it whole.
        target: a loopback port to which new connections lead; 0 is the upstream's.
        certificate: a PEM file with a key: new connections begin with TLS, which ends here. Empty: as they come.
        gently: a new target or certificate doesn't reset the connections there are.
    """

    link: str = "up"
    resets: float = 0.0
    cuts: float = 0.0
    delay_s: float = 0.0
    trickle_s: float = 0.0
    target: int = 0
    certificate: str = ""
    gently: bool = False


class Link:
    """All connections between clients and the target."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.weather = Weather()
        self.chance = random.Random(seed)
        self.target = target
        self._port = port
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._fillers: list[socket.socket] = []
        self._passages: set[Passage] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Take up connections."""
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self._port))
            self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        if self._acceptor is None:
            self._acceptor = asyncio.create_task(self._accept(self._listener))

    def set(self, weather: Weather) -> None:
        """Change the weather; what is under way feels it at once."""
        leads_on = (weather.target, weather.certificate) == (self.weather.target, self.weather.certificate)
        self.weather = weather
        if not leads_on and not weather.gently:
            self._reset_all()
        if weather.link == "refused":
            self._refuse()
        elif weather.link == "silent":
            self._deafen()
        else:
            self.open()

    def forget(self) -> None:
        """All connections there are lead nowhere from now on, and neither side is told: they are half open."""
        for passage in self._passages:
            passage.lost.update((REQUESTS, ANSWERS))

    def _refuse(self) -> None:
        self._stop_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._reset_all()

    def _reset_all(self) -> None:
        for passage in list(self._passages):
            passage.reset()

    def _deafen(self) -> None:
        """Fill the queue of connections to be accepted: the kernel then drops whoever knocks."""
        self.open()
        self._stop_accepting()
        assert self._listener is not None
        self._listener.listen(0)
        while self._fill_one(self._listener.getsockname()):
            pass

    def _fill_one(self, address: tuple[str, int]) -> bool:
        filler = socket.socket()
        filler.settimeout(FILL_S)
        try:
            filler.connect(address)
        except TimeoutError:
            filler.close()
            return False
        self._fillers.append(filler)
        return True

    def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.cancel()
            self._acceptor = None

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            self.spawn(self._serve(client))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, client: socket.socket) -> None:
        weather = self.weather
        try:
            near = await take_up(client, weather.certificate)
        except OSError:  # a handshake that failed, too
            return
        try:
            far = await asyncio.open_connection("127.0.0.1", weather.target or self.target)
        except OSError:
            abort(near[1])
            return
        passage = Passage(self, near, far)
        self._passages.add(passage)
        try:
            await passage.run()
        finally:
            self._passages.discard(passage)


End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def take_up(client: socket.socket, certificate: str) -> End:
    """A connection that was accepted, after the TLS handshake where there is a certificate."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.connect_accepted_socket(
        lambda: asyncio.StreamReaderProtocol(reader), client, ssl=context
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class Passage:
    """One connection. Once something of a direction was lost nothing of it passes any more: TCP has no holes."""

    def __init__(self, link: Link, near: End, far: End) -> None:
        self._link, self._near, self._far = link, near, far
        self.lost: set[str] = set()
        doomed = link.chance.random() < link.weather.resets
        self._left = link.chance.randrange(RESET_WITHIN) if doomed else None

    async def run(self) -> None:
        """Pass everything on until both ends are closed."""
        ways = self._pass(REQUESTS, self._near[0], self._far[1]), self._pass(ANSWERS, self._far[0], self._near[1])
        await asyncio.gather(*ways)
        for _, writer in (self._near, self._far):
            writer.close()

    def reset(self) -> None:
        """Both sides get a TCP RST."""
        abort(self._near[1])
        abort(self._far[1])

    async def _pass(self, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(PIECE):
                await asyncio.sleep(self._link.weather.delay_s / 2)
                if self._is_lost(way):
                    continue
                if not self._survives(len(data)) or (way == ANSWERS and await self._is_cut(data, sink)):
                    self.reset()
                    return
                await self._write(way, data, sink)
        if self._is_lost(way):
            await asyncio.Event().wait()  # that it was closed isn't told either
        with contextlib.suppress(OSError):
            sink.write_eof() if sink.can_write_eof() else sink.close()

    def _is_lost(self, way: str) -> bool:
        if way in LOSES.get(self._link.weather.link, ()):
            self.lost.add(way)
        return way in self.lost

    def _survives(self, count: int) -> bool:
        if self._left is not None:
            self._left -= count
        return self._left is None or self._left > 0

    async def _is_cut(self, data: bytes, sink: asyncio.StreamWriter) -> bool:
        if self._link.chance.random() >= self._link.weather.cuts:
            return False
        sink.write(data[: self._link.chance.choice((0, self._link.chance.randrange(len(data))))])
        await sink.drain()
        return True

    async def _write(self, way: str, data: bytes, sink: asyncio.StreamWriter) -> None:
        pause_s = self._link.weather.trickle_s
        if way == REQUESTS or not pause_s:
            sink.write(data)
        else:
            for byte in data:
                sink.write(bytes((byte,)))
                await asyncio.sleep(pause_s)
        await sink.drain()


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: with a linger time of 0, closing sends RST (socket(7))."""
    with contextlib.suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def obey(link: Link, control: socket.socket) -> None:
    """Carry out commands, one JSON line each, until whoever gave them is gone."""
    reader, writer = await asyncio.open_unix_connection(sock=control)
    while True:
        writer.write(b"done\n")
        await writer.drain()
        line = await reader.readline()
        if not line:
            return
        command = json.loads(line)
        if command == "forget":
            link.forget()
        else:
            link.set(Weather(**command))


async def run(options: argparse.Namespace) -> None:
    """Stand in between until told to end."""
    link = Link(options.port, options.target, options.seed)
    link.open()
    await obey(link, socket.socket(fileno=options.control_fd))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    for name in ("--port", "--target", "--seed", "--control-fd"):
        parser.add_argument(name, type=int, required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
