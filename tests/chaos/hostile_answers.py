"""What an upstream may answer that no HTTP library would send: bytes, and what becomes of the connection."""

import gzip
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.raw_server import RawServer, read_request

EVIL = b"evil-of-the-answer-before"  # whoever takes it for an answer has mixed up two requests
SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n" + EVIL
PATIENCE_S = 0.1  # with a client that waits for more, and gets none
MIB = b"x" * 1024 * 1024
BOMB = gzip.compress(bytes(64 * 1024 * 1024), 9)

STATUS_LINES = (
    b"HTTP/1.1 200 OK", b"HTTP/1.1 201", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 None", b"HTTP/1.1 304 Same",
    b"HTTP/1.1 503 Later",
    b"HTTP/1.1 422 No", b"HTTP/1.1 307 There", b"HTTP/1.1 429 Slow", b"HTTP/1.1 401 Who", b"HTTP/1.1 999 Odd",
    b"HTTP/1.1 000 Odd",
    b"HTTP/1.1 -1 Odd", b"HTTP/1.1 2e2 Odd", b"HTTP/1.1 99999999999 Odd", b"HTTP/2 200 OK", b"HTTP/9.9 200 OK",
    b"HTTP/1.1",
    b"ICY 200 OK", b"", b"\0\xff", b"HTTP/1.1 200 " + b"x" * 70_000, b"HTTP/1.1 101 Switch", b"HTTP/1.1 100 Go on",
    b"200 OK",
    b"HTTP/1.1 204 None\r\nContent-Length: 25", b"http/1.1 200 ok", b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK",
    b"HTTP/1.1  200  OK",
)  # fmt: skip
HEADERS = (
    b"Content-Length: 2", b"Content-Length: 2", b"Content-Length: 0", b"Content-Length: 9", b"Content-Length: -1",
    b"Content-Length: 99999999999999999999", b"Content-Length: 2, 2", b"Content-Length: +2",
    b"Content-Length: 2\r\nContent-Length: 27",
    b"Content-Length: \xd9\xa2", b"Content-Length:", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2", b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding:\tchunked", b"Connection: close", b"Connection: keep-alive",
    b"Connection: upgrade\r\nUpgrade: h2c", b"Content-Encoding: gzip", b"Content-Encoding: br, gzip, deflate",
    b"Content-Encoding: " + b"gzip, " * 5000, b"Retry-After: -1", b"Retry-After: 1e9", b"Retry-After: " + b"9" * 5000,
    b"Retry-After: never", b"Retry-After: Fri, 99 Foo 99999 99:99:99 GMT", b"Retry-After: \xd9\xa2",
    b"Date: Thu, 01 Jan 0001 00:00:00 -9999", b"Date: Fri, 31 Dec 9999 23:59:59 GMT", b"Date: \0", b"Location: /there",
    b"Location: http://captive.invalid/", b"Location: //", b"Location: http://[::1",
    b"Location: http://127.0.0.1:99999999/",
    b"Location: \r\n /folded", b"Location: \xff\xfe", b"Location: javascript:alert(1)", b"Location: " + b"x" * 60_000,
    b"Location:",
    b"X-Long: " + b"x" * 60_000, b"no colon", b": no name", b" folded: x", b"X-Null: \0", b"X-Bare: a\rb",
    b"X-Split: a\nHTTP/1.1 200 OK",
    b"Set-Cookie: a=b; Domain=.", b"Content-Type: text/html; charset=\xff", b"Trailer: Content-Length",
    b"Keep-Alive: timeout=-1",
    b"WWW-Authenticate: Digest " + b"a=" * 5000, b"Proxy-Authenticate: NTLM", b"Alt-Svc: h3=\":443\"", b"\xff\xfe: x",
)  # fmt: skip
BODIES = (
    b"", b"ok", b"o", b"ok" + SMUGGLED, SMUGGLED, b"2\r\nok\r\n0\r\n\r\n",
    b"2\r\nok\r\n0\r\n\r\n" + SMUGGLED, b"0\r\n\r\n" + SMUGGLED,
    b"2\r\nok", b"-2\r\nok\r\n0\r\n\r\n", b"zz\r\nok\r\n", b"ffffffffffffffff\r\nok",
    b"2;" + b"x" * 70_000 + b"\r\nok\r\n0\r\n\r\n",
    b"0\r\nContent-Length: 9\r\n\r\n" + SMUGGLED, b"0x2\r\nok\r\n0\r\n\r\n", b"+2\r\nok\r\n0\r\n\r\n", b"2\nok\n0\n\n",
    b"2 \r\nok\r\n0\r\n\r\n",
    b"\r\n" + SMUGGLED, MIB, BOMB, b"%x\r\n" % len(BOMB) + BOMB + b"\r\n0\r\n\r\n", b"\0" * 100, b"1\r\nx\r\n" * 1000,
)  # fmt: skip
RIGHT_LINES = 11  # the first ones
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


class Hostile(NamedTuple):
    """One answer.

    Attributes:
        data: what is written.
        ending: what becomes of the connection then: ``keep``, ``close``, ``reset``, ``flood`` or ``trickle``.
    """

    data: bytes
    ending: str


def hostile(chance: random.Random) -> Hostile:
    """An answer put together by chance."""
    headers = chance.choices(HEADERS, k=chance.choice([0, 1, 1, 2, 3, 5]))
    if chance.random() < 0.02:
        headers += [b"X-%d: %d" % (n, n) for n in range(chance.choice([90, 200, 20_000]))]
    end = chance.choice([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n "])
    status = chance.choice(STATUS_LINES[: chance.choice([RIGHT_LINES, RIGHT_LINES, len(STATUS_LINES)])])
    head = end.join([status, *headers, b"", b""])
    interim = INTERIM * chance.choice([0] * 8 + [1, 3, 500])
    data = interim + head + chance.choice(BODIES)
    if chance.random() < 0.1:
        at = chance.randrange(len(data))
        data = data[:at] + chance.randbytes(chance.randrange(1, 20)) + data[at + 1 :]
    return Hostile(data, chance.choice(["keep", "keep", "keep", "close", "close", "reset", "flood", "trickle"]))


class HostileServer:
    """Answers requests for ``/hostile`` with the bytes it was given, and those for ``/right/N`` rightly."""

    def __init__(self) -> None:
        self.next = Hostile(b"", "close")
        self.mixed_up: list[bytes] = []  # requests that aren't whole ones: the rest of another

    def handle(self, connection: socket.socket) -> None:
        while request := read_request(connection):
            connection.settimeout(PATIENCE_S)
            line = request.partition(b"\r\n")[0]
            if line.startswith(b"POST /hostile"):
                if not self._say(connection, self.next):
                    return
            elif line.startswith(b"POST /right/"):
                body = line.split(b" ")[1]
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            else:
                connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    def _say(self, connection: socket.socket, answer: Hostile) -> bool:
        """Whether the connection goes on."""
        if answer.ending == "trickle":
            for at in range(0, min(len(answer.data), 2000), 7):
                connection.sendall(answer.data[at : at + 7])
                time.sleep(0.005)
        else:
            connection.sendall(answer.data)
        while answer.ending == "flood":
            connection.sendall(MIB)
        if answer.ending == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return answer.ending == "keep"


@contextmanager
def hostile_server() -> Iterator[tuple[HostileServer, RawServer]]:
    server = HostileServer()
    with RawServer(server.handle) as running:
        yield server, running
