"""A server that writes bytes as they are, valid or not: what no HTTP library would send."""

import re
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Handler = Callable[[socket.socket], None]


def read_request(connection: socket.socket) -> bytes:
    """One whole request: an answer that comes while its body is still on the way may be lost with a reset."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += (piece := connection.recv(65536))
        if not piece:
            return head
    length = re.search(rb"(?im)^content-length: (\d+)", head)
    left = (int(length[1]) if length else 0) - len(head.partition(b"\r\n\r\n")[2])
    pieces = [head]
    while left > 0 and (piece := connection.recv(65536)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def saying(*answers: bytes, keep: bool = False) -> Handler:
    """Read one request for each answer and write it; then close the connection, unless it is kept open."""

    def handle(connection: socket.socket) -> None:
        for answer in answers:
            if not read_request(connection):
                return
            connection.sendall(answer)
        while keep and connection.recv(1024 * 1024):
            pass

    return handle


class RawServer:
    """Hands each connection to the handler, in a thread of its own."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._handler(connection)
            except OSError:
                return  # the other side went away

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._connections):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
        self._listener.close()
        for thread in (self._acceptor, *self._threads):
            thread.join(5)
