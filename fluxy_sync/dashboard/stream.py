"""Server-sent events: the whole record to each listener, on connect and on change. Nobody waits for the slowest."""

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

from tornado.iostream import StreamClosedError

from fluxy_sync.dashboard.board import Board, Record, essence
from fluxy_sync.dashboard.handler import Refusal, SyncHandler
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

PAUSE_S = 0.2  # between two events of a stream; with the poller's 50 ms, a change is told within 300 ms
PING_S = 15.0
SLOW_S = 30.0  # a listener that takes nothing for so long is gone
MOST_STREAMS = 1_000
RETRY = b"retry: 1000\n\n"
PING = b": ping\n\n"
# What the kernel holds back for one listener, so that a slow one is noticed before it is minutes behind.
SEND_BUFFER_BYTES = 8 * 1024


def event_of(record: Record) -> bytes:
    """A record as a server-sent event (WHATWG HTML, 9.2)."""
    number = "" if record["rev"] is None else f"id: {record['rev']}\n"
    return f"{number}data: {json.dumps(record)}\n\n".encode()


class Outbox:
    """What one listener gets next. Of what he didn't take in time only the newest is kept."""

    def __init__(self, first: bytes) -> None:
        self._newest: bytes | None = first
        self._ended = False
        self._filled = asyncio.Event()
        self._filled.set()

    def put(self, event: bytes) -> None:
        self._newest = event
        self._filled.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._filled.set()

    async def take(self) -> bytes | None:
        """The newest event, or a ping after a while without one; None at the end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._filled.wait(), PING_S)
        self._filled.clear()
        event, self._newest = self._newest, None
        return None if self._ended else event or PING


class Hub:
    """Gives each change of the board to all listeners, at most five times a second. Belongs to the event loop."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._outboxes: set[Outbox] = set()
        self._told: Record = {}
        self._pausing = False
        self._closed = False

    def join(self) -> Outbox | None:
        """A new listener's outbox, the record in it; None where there are too many."""
        if self._closed or len(self._outboxes) >= MOST_STREAMS:
            return None
        outbox = Outbox(event_of(self._board.record()))
        self._outboxes.add(outbox)
        return outbox

    def leave(self, outbox: Outbox) -> None:
        """He is gone."""
        self._outboxes.discard(outbox)

    def look(self) -> None:
        """Tell what changed on the board, now or when the pause is over."""
        if self._pausing or self._closed:
            return
        record = self._board.record()
        told = essence(record)
        if told == self._told:
            return
        self._told, self._pausing = told, True
        asyncio.get_running_loop().call_later(PAUSE_S, self._go_on)
        event = event_of(record)
        for outbox in self._outboxes:
            outbox.put(event)

    def _go_on(self) -> None:
        self._pausing = False
        self.look()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for outbox in self._outboxes:
            outbox.end()


class Events(SyncHandler):
    """GET /api/sync/events."""

    _outbox: Outbox | None = None

    async def get(self) -> None:
        hub: Hub = self.application.hub
        outbox = self._outbox = hub.join()
        if outbox is None:
            raise Refusal(503, "too many streams are open; close some")
        try:
            await self._send(outbox)
        except StreamClosedError:
            pass
        except TimeoutError:
            logger.info("A listener took nothing for %g s; its stream is closed.", SLOW_S)
            self.request.connection.stream.close()
        finally:
            hub.leave(outbox)

    async def _send(self, outbox: Outbox) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")  # nginx would hold events back
        _tune(self.request.connection.stream.socket)
        self.write(RETRY)
        while (event := await outbox.take()) is not None:
            self.write(event)
            await asyncio.wait_for(self.flush(), SLOW_S)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._outbox is not None:
            self._outbox.end()


def _tune(connection: Any) -> None:
    """Let the kernel tell soon that a listener is slow or gone."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
            # For one that is gone without a word: the pings alone never fill the buffer.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round((SLOW_S + PING_S) * 1000))
