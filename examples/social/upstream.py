"""The server that the posts are for: it keeps them in SQLite, honours Idempotency-Key, and can go down.

    python -m examples.social.upstream --port 8080 --database posts.sqlite --switch upstream-is-down

While the file named by ``--switch`` exists, nobody listens: connections are refused.
"""

import argparse
import hashlib
import http.server
import json
import signal
import socket
import socketserver
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

LOOK_S = 0.05
PATH = "/api/v1/posts"
UNWANTED = "spam"
LARGEST_BODY_BYTES = 64 * 1024
SCHEMA = """
CREATE TABLE IF NOT EXISTS posts (id INTEGER PRIMARY KEY AUTOINCREMENT, local_id TEXT, content TEXT);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, digest TEXT, status INTEGER, body TEXT);
"""


class Answer(NamedTuple):
    """What the server says: a status, and a document that travels as JSON."""

    status: int
    document: Any


class Shelf:
    """The server's posts, and the answer that each key was given."""

    def __init__(self, path: Path | str) -> None:
        self._path = path
        with self._transaction() as database:
            for statement in SCHEMA.split(";"):
                database.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=10)) as database, database:
            yield database

    def posts(self) -> list[dict[str, Any]]:
        """All posts, in the order in which they arrived."""
        with self._transaction() as database:
            rows = database.execute("SELECT id, local_id, content FROM posts ORDER BY id")
            return [{"id": number, "local_id": local_id, "content": content} for number, local_id, content in rows]

    def take(self, key: str, body: bytes) -> Answer:
        """One post for one key: the same request gets the same answer, another one under that key is refused."""
        digest = hashlib.sha256(body).hexdigest()
        with self._transaction() as database:
            database.execute("BEGIN IMMEDIATE")
            known = database.execute("SELECT digest, status, body FROM answers WHERE key = ?", (key,)).fetchone()
            if known is not None:
                return _again(digest, *known)
            answer = _keep(database, body)
            row = (key, digest, answer.status, json.dumps(answer.document))
            database.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", row)
            return answer


def _again(digest: str, first_digest: str, status: int, body: str) -> Answer:
    if digest != first_digest:
        return _refusal("this Idempotency-Key belongs to another request")
    return Answer(status, json.loads(body))


def _keep(database: sqlite3.Connection, body: bytes) -> Answer:
    try:
        post = json.loads(body)
        content, local_id = str(post["content"]), str(post["local_id"])
    except (ValueError, TypeError, KeyError):
        return _refusal("a post has a content and a local_id")
    if UNWANTED in content.lower():
        return _refusal(f"no {UNWANTED} here")
    number = database.execute("INSERT INTO posts (local_id, content) VALUES (?, ?)", (local_id, content)).lastrowid
    return Answer(HTTPStatus.CREATED, {"id": number, "local_id": local_id, "content": content})


def _refusal(error: str) -> Answer:
    return Answer(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": error})


class Server(socketserver.ThreadingTCPServer):
    """Listens from its making to ``close()``."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    allow_reuse_port = True  # beside the socket that holds the port
    request_queue_size = 128

    def __init__(self, port: int, shelf: Shelf, answer_after_s: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.shelf = shelf
        self.answer_after_s = answer_after_s
        threading.Thread(target=self.serve_forever, args=(LOOK_S,), name="upstream", daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that went away in mid-request asks again."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Posts, and the list of them. HTTP/1.0: no connection outlives its answer, so that down is down."""

    server: Server

    def do_HEAD(self) -> None:
        """A probe."""
        self._say(Answer(HTTPStatus.OK, {}))

    def do_GET(self) -> None:
        """All posts."""
        self._say(Answer(HTTPStatus.OK, {"posts": self.server.shelf.posts()}))

    def do_POST(self) -> None:
        """One post."""
        answer = self._take()
        time.sleep(self.server.answer_after_s)
        self._say(answer)

    def _take(self) -> Answer:
        key = self.headers.get("Idempotency-Key", "").strip().strip('"')
        length = int(self.headers.get("Content-Length", 0))
        if self.path != PATH:
            return Answer(HTTPStatus.NOT_FOUND, {"error": "there are only posts here"})
        if not key:
            return Answer(HTTPStatus.BAD_REQUEST, {"error": "a post needs an Idempotency-Key"})
        if length > LARGEST_BODY_BYTES:
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "the post is too long"})
        return self.server.shelf.take(key, self.rfile.read(length))

    def _say(self, answer: Answer) -> None:
        body = json.dumps(answer.document).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quietly."""


def hold_port(port: int) -> socket.socket:
    """Bind the port without listening, for as long as we live: while the server is down nobody else gets it."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("127.0.0.1", port))
    return holder


def serve(options: argparse.Namespace) -> NoReturn:
    """Follow the switch for ever."""
    shelf = Shelf(options.database)
    server: Server | None = None
    with hold_port(options.port):
        sys.stdout.write("following its switch\n")
        sys.stdout.flush()
        while True:
            if options.switch.exists() and server is not None:
                server.close()
                server = None
            elif not options.switch.exists() and server is None:
                server = Server(options.port, shelf, options.answer_after)
            time.sleep(LOOK_S)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Keeps posts, and goes down when it is told to.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--switch", type=Path, required=True, help="while this file exists, it is down")
    parser.add_argument("--answer-after", type=float, default=0.0, help="seconds that each answer to a post takes")
    signal.signal(signal.SIGTERM, _end)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
