"""What a browser, or somebody who isn't one, may send to the dashboard."""

import base64
import random
import socket
from typing import NamedTuple

from tests.dashboard import PASSWORD, USER

METHODS = (
    b"GET", b"GET", b"GET", b"POST", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT",
    b"get",
    b"PROPFIND", b"G\0T", b"GET GET", b"",
)  # fmt: skip
OURS = (
    "/sync", "/sync/", "/sync/indicator.js", "/sync/static/sync.js", "/sync/static/", "/api/sync", "/api/sync/lanes",
    "/api/sync/dead",
    "/api/sync/history", "/api/sync/openapi.json", "/api/sync/pause", "/api/sync/resume", "/api/sync/dead/replay",
    "/api/sync/dead/drop", "/api/task/revoke/some-id", "/metrics", "/healthcheck",
)  # fmt: skip
FLOWERS = (
    "/", "/workers", "/workers?json=1", "/worker/sync@one", "/task/some-id", "/tasks", "/tasks/datatable", "/broker",
    "/login", "/logout",
    "/static/js/flower.js", "/api/workers", "/api/tasks", "/api/task/types", "/api/queues/length",
    "/api/task/info/some-id",
    "/api/task/result/some-id", "/api/task/apply/x", "/api/task/async-apply/x", "/api/task/send-task/x",
    "/api/task/abort/x",
    "/api/worker/shutdown/sync@one", "/api/worker/pool/restart/sync@one", "/api/worker/pool/grow/sync@one",
    "/api/worker/pool/autoscale/sync@one", "/api/worker/queue/add-consumer/sync@one",
    "/api/worker/queue/cancel-consumer/sync@one",
    "/api/task/timeout/x", "/api/task/rate-limit/x", "/monitor", "/dashboard", "/account/settings", "/nothing",
)  # fmt: skip
TRICKS = (
    "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/....//....//etc/passwd",
    "//etc/passwd", "/\\..\\x",
    "/%00", "/%", "/%zz", "/%ff%fe", "/\x01", "/x" * 3000, ";a=b", "?", "?a[]=1&a[]=2", "?limit=-1",
    "?limit=" + "9" * 400, "?limit=%00",
    "?limit=1&limit=2", "?after=x", "?" + "a=1&" * 2000, "?sort=%27", "?q=" + "%F0%9F%92%A9" * 50, "#f", "?_xsrf=1",
    "?callback=alert",
    "?terminate=x&signal=9",
)  # fmt: skip
HEADERS = (
    b"Host: elsewhere.example", b"Host: x\r\nHost: y", b"Host: [::1", b"Host: ", b"Host: " + b"x" * 5000,
    b"Origin: https://evil.example",
    b"Origin: null", b"Referer: https://evil.example/", b"Sec-Fetch-Site: cross-site", b"X-Forwarded-For: 127.0.0.1",
    b"X-Real-Ip: \xff",
    b"X-Scheme: javascript", b"X-Forwarded-Proto: \0", b"X-HTTP-Method-Override: DELETE",
    b"Cookie: user=2|1:0|10:1|4:user|4:YQ==|abc",
    b"Cookie: _xsrf=2|a|b|1", b"Cookie: \xff=\xfe; =;;", b"Cookie: " + b"a=b; " * 3000, b"X-XSRFToken: x",
    b"Accept-Language: " + b"xx," * 500,
    b"If-None-Match: *", b"Range: bytes=0-,-1,99999999999-", b"Range: bytes=-99999999999999999999",
    b"If-Modified-Since: yesterday",
    b"Expect: 100-continue", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x",
    b"Content-Type: application/json",
    b"Content-Type: application/x-www-form-urlencoded", b"Content-Type: multipart/form-data; boundary=x",
    b"Content-Type: \xff; charset=\xfe",
    b"Content-Type: application/json; charset=utf-16", b"Content-Encoding: gzip", b"Transfer-Encoding: chunked",
    b"X: " + b"y" * 70_000,
    b"no colon", b": x", b"Last-Event-ID: \0\r\n: x", b"Accept: text/event-stream", b"Connection: \0",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[]", b"null", b'{"lane": 5}', b'{"lane": "\\u0000"}', b'{"lane": "' + b"x" * 5000 + b'"}',
    b'{"ids": []}', b'{"all": true}',
    b'{"ids": ["some-id"]}', b'{"ids": [1]}', b'{"ids": ["\\ud800"]}', b'{"all": true, "to": "nowhere"}',
    b'{"a": ' * 2000, b"[" * 50_000,
    b"a=1&b=2", b"n=1&min=x&max=-1", b"workername=../../x&queue=%00", b"args=[&kwargs={", b"\xff\xfe\0",
    b"--x\r\nContent-Disposition: x\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"x" * 200_000,
    b"draw=1&start=x&length=-1&order[0][column]=99&columns[99][data]=x&search[value]=(",
)  # fmt: skip
WRONG_LOGINS = (
    b"", b"ann", b"ann:", b":", b"ann:wrong", b"\xff:\xfe", b"ann:swordfish\0", b"ANN:swordfish", b"ann:swordfish:x",
    b"a" * 5000
)  # fmt: skip
ODD_LOGINS = (
    b"Basic",
    b"Basic  ",
    b"Basic ====",
    b"Basic \xff",
    b"Bearer x",
    b"basic " + b"=" * 5000,
    b"Digest username=ann",
    b"Basic a b",
)


class Asked(NamedTuple):
    """One request, and whether its sender may come in."""

    data: bytes
    signed_in: bool


def asked(chance: random.Random) -> Asked:
    """A request put together by chance."""
    signed_in = chance.random() < 0.5
    method = chance.choice(METHODS if chance.random() < 0.3 else (b"GET", b"GET", b"POST"))
    path, body = path_of(chance), chance.choice(BODIES)
    lines = [
        b" ".join([method, path.encode("utf-8", "surrogatepass"), chance.choice([b"HTTP/1.1"] * 30 + [b"HTTP/9.9"])])
    ]
    chosen = chance.sample(HEADERS, chance.choice([0, 1, 1, 2, 4]))
    lines += chosen if any(one.startswith(b"Host") for one in chosen) else [b"Host: 127.0.0.1", *chosen]
    lines.append(b"Connection: close")
    if signed_in:
        lines.append(b"Authorization: Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()))
    elif chance.random() < 0.7:
        wrong = b"Basic " + base64.b64encode(chance.choice(WRONG_LOGINS))
        lines.append(b"Authorization: " + chance.choice([wrong, chance.choice(ODD_LOGINS)]))
    if body or chance.random() < 0.5:
        length = chance.choice([b"%d" % len(body)] * 30 + [b"-1", b"x", b"9" * 30, b"0"])
        lines.append(b"Content-Length: " + length)
    return Asked(b"\r\n".join([*lines, b"", body]), signed_in)


def path_of(chance: random.Random) -> str:
    """One of the dashboard's addresses, sometimes with a trick."""
    path = chance.choice([*OURS, *OURS, *FLOWERS])
    if chance.random() < 0.3:
        trick = chance.choice(TRICKS)
        path = path.partition("?")[0] + trick if chance.random() < 0.7 else trick
    return path if path.startswith("/") else f"/{path}"


def ask(port: int, data: bytes, patience_s: float) -> bytes:
    """The answer, as far as it comes; empty where the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as connection:
        pieces = []
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                pieces.append(piece)
        except OSError:
            return b"".join(pieces)  # it was closed while we still wrote, or goes on
    return b"".join(pieces)
