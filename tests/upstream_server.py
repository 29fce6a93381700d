"""The server's side of the upstream: it answers by a script and records. Standard library only.

It runs as a process of its own, by its file's path, so that it starts fast. See ``tests/upstream.py``.
"""

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import socket
import struct
import time
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

MAX_HEAD_BYTES = 256 * 1024
ENDINGS = (
    asyncio.CancelledError,  # told to stop while a request was held
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    ConnectionError,
    ValueError,
)
CAPTIVE_PORTAL = "http://captive-portal.invalid/login"

Action = int | str | dict[str, Any]
"""A status; a name of NAMED; or ``{"status", "headers", "body", "delay_s"}``, each of them optional."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What happens to one request.

    ``recorded`` is the record's status. ``sent`` says whether an answer leaves, ``ending`` what becomes of
    the connection: ``keep``, ``close``, ``reset`` (a TCP RST) or ``stall`` (open and silent until released).
    """

    status: int = 201
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: str = ""
    delay_s: float = 0.0
    recorded: str | int | None = None
    sent: bool = True
    ending: str = "keep"

    @property
    def record(self) -> str | int:
        """The status that the record of the request gets."""
        return self.status if self.recorded is None else self.recorded


NAMED = {
    "stall": Answer(recorded="stalled", ending="stall"),
    "drop": Answer(recorded="dropped", sent=False, ending="close"),
    "reset": Answer(recorded="reset", sent=False, ending="reset"),
    "answer_then_drop": Answer(ending="close"),
    "accept_then_drop": Answer(sent=False, ending="close"),
    "redirect": Answer(status=302, headers={"Location": CAPTIVE_PORTAL}),
}


def answer_of(action: Action) -> Answer:
    """Read an action.

    Raises:
        ValueError: there is no such action.
    """
    if isinstance(action, int):
        return Answer(status=action)
    if isinstance(action, dict):
        return Answer(**action)
    if action not in NAMED:
        raise ValueError(f"no such action: {action!r}; use a status, a dict or one of {', '.join(NAMED)}")
    return NAMED[action]


@dataclasses.dataclass
class Script:
    """Which answer comes next. It travels as JSON, so that a stopped upstream goes on where it was."""

    answers: dict[str, list[Action]] = dataclasses.field(default_factory=dict)
    default: Action = 201
    probe: Action = 200

    def next_for(self, path: str) -> Answer:
        """Take the next answer of the longest prefix of ``path`` that has one left, else the default."""
        prefixes = [prefix for prefix, left in self.answers.items() if left and path.startswith(prefix)]
        if not prefixes:
            return answer_of(self.default)
        return answer_of(self.answers[max(prefixes, key=len)].pop(0))

    def change(self, field: str, value: Any) -> None:
        """Set the default, the probes' answer, or (a pair) the answers of one prefix."""
        if field == "answers":
            prefix, actions = value
            self.answers[prefix] = actions
        else:
            setattr(self, field, value)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str | None:
        """The Idempotency-Key without its quotes (a structured string, as the IETF draft asks)."""
        quoted = self.headers.get("idempotency-key")
        return None if quoted is None else quoted.strip().strip('"')

    @property
    def is_probe(self) -> bool:
        """A look at whether the server is there, rather than an operation."""
        return self.method in ("GET", "HEAD") and self.key is None

    def as_record(self) -> dict[str, Any]:
        """What the record says about the request itself."""
        attempt = self.headers.get("fluxy-attempt", "")
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            **_body_fields(self.body),
            "key": self.key,
            "attempt": int(attempt) if attempt.isdigit() else None,
            "fence": self.headers.get("fluxy-fence"),
        }


def _body_fields(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "encoding": "base64"}


class Record:
    """The JSON-lines file: each line is handed to the system before the request is answered."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._number = path.read_bytes().count(b"\n")

    def write(self, kind: str, fields: dict[str, Any]) -> int:
        """Append one line and return its number."""
        line = {"n": self._number, "kind": kind, "t": time.time(), "mono": time.monotonic(), **fields}
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._number += 1
        return self._number - 1


class Server:
    """Answers by the script, writes everything down."""

    def __init__(self, record: Record, script: Script) -> None:
        self.script = script
        self._record = record
        self._released: asyncio.Future[Action] | None = None

    def release(self, action: Action) -> None:
        """Answer all that are stalled now."""
        waiting, self._released = self._released, None
        if waiting is not None:
            waiting.set_result(action)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        # Cancelled when the server ends: Python 3.11 would print that with a traceback.
        with contextlib.suppress(*ENDINGS, asyncio.CancelledError):
            while await self._exchange(await read_request(reader), writer):
                pass
        writer.close()

    async def _exchange(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        probe = request.is_probe
        answer = answer_of(self.script.probe) if probe else self.script.next_for(request.path)
        number = self._record.write("probe" if probe else "request", {**request.as_record(), "status": answer.record})
        if answer.ending == "stall":
            answer = await self._stalled(number)
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.sent:
            writer.write(encode_answer(answer, head_only=request.method == "HEAD"))
            await writer.drain()
        if answer.ending == "reset":
            abort(writer)
        return answer.ending == "keep" and request.headers.get("connection", "").lower() != "close"

    async def _stalled(self, number: int) -> Answer:
        if self._released is None:
            self._released = asyncio.get_running_loop().create_future()
        answer = answer_of(await asyncio.shield(self._released))
        self._record.write("release", {"of": number, "status": answer.record})
        return answer


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request: head, then a body by Content-Length or in chunks.

    Raises:
        asyncio.IncompleteReadError: the peer went away before the end.
        ValueError: it isn't HTTP.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _version = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Request(method, path, headers, await _read_chunks(reader))
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
    return body


def encode_answer(answer: Answer, *, head_only: bool) -> bytes:
    """The answer's bytes. Its own headers win over ours."""
    body = answer.body.encode()
    headers = {"date": formatdate(usegmt=True), "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in answer.headers.items()}
    phrase = HTTPStatus(answer.status).phrase if answer.status in HTTPStatus._value2member_map_ else ""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} {phrase}\r\n{head}\r\n".encode("latin-1") + (b"" if head_only else body)


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: with a linger time of 0, closing sends RST (socket(7))."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def obey(server: Server, control: socket.socket) -> None:
    """Carry out commands, one JSON line each, until told to stop or until whoever gave them is gone."""
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=64 * 1024 * 1024)
    writer.write(b'"ready"\n')
    while line := await reader.readline():
        command, *arguments = json.loads(line)
        if command == "change":
            server.script.change(*arguments)
        elif command == "release":
            server.release(*arguments)
        writer.write(json.dumps(dataclasses.asdict(server.script)).encode() + b"\n")
        await writer.drain()
        if command == "stop":
            break
    writer.close()


async def run(options: argparse.Namespace) -> None:
    """Serve until stopped."""
    server = Server(Record(options.record), Script(**json.loads(options.script)))
    listener = await asyncio.start_server(server.serve, options.host, options.port, limit=MAX_HEAD_BYTES, backlog=512)
    if options.control_fd is None:
        print(f"http://{options.host}:{options.port}", flush=True)
        await listener.serve_forever()
    else:
        await obey(server, socket.socket(fileno=options.control_fd))
        listener.close()  # whoever came now would be served by a loop that has ended


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="An HTTP upstream that answers 201 and records what it was sent.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--record", type=Path, required=True, help="JSON lines are appended to this file")
    parser.add_argument("--script", default="{}", help='JSON, e.g. {"default": 503, "answers": {"/api": [201]}}')
    parser.add_argument("--control-fd", type=int, help=argparse.SUPPRESS)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
