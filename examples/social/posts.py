"""The application's own memory: its posts, in SQLite. They outlive a restart."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

State = Literal["sending", "delivered", "refused"]

SHOWN = 100
SCHEMA = """
CREATE TABLE IF NOT EXISTS posts (
    local_id TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'sending',
    operation_id TEXT NOT NULL DEFAULT '',
    server_id TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    turn INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1
)
"""


class Post(NamedTuple):
    """One post.

    Attributes:
        local_id: the temporary id, and the once key under which it is queued.
        operation_id: of the operation that carries it; empty until it is known to be queued.
        server_id: the server's own id, once the post is delivered.
        reason: why it is refused: a status, or a code of fluxy-sync's or of ours.
        turn: its place in the order in which posts were queued.
        version: grows with each change, so that a page knows what to draw anew.
    """

    local_id: str
    content: str
    state: State
    operation_id: str
    server_id: str
    reason: str
    created_at: float
    turn: int
    version: int


class Posts:
    """All posts. Safe to use from several threads."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _run(self, statement: str, *values: Any) -> list[Post]:
        with self._lock:
            return [Post(*row) for row in self._database.execute(statement, values)]

    # --- reading

    def shown(self) -> list[Post]:
        """The newest ones, the newest first."""
        return self._run("SELECT * FROM posts ORDER BY created_at DESC, turn DESC LIMIT ?", SHOWN)

    def find(self, local_id: str) -> Post | None:
        """One post."""
        return next(iter(self._run("SELECT * FROM posts WHERE local_id = ?", local_id)), None)

    def in_state(self, state: State) -> list[Post]:
        """The posts in a state, in the order in which they were queued."""
        return self._run("SELECT * FROM posts WHERE state = ? ORDER BY turn", state)

    # --- writing

    def add(self, local_id: str, content: str) -> Post:
        """A new post, which is being sent."""
        return self._run(
            "INSERT INTO posts (local_id, content, created_at, turn)"
            " VALUES (?, ?, ?, (SELECT COALESCE(MAX(turn), 0) + 1 FROM posts)) RETURNING *",
            local_id, content, time.time(),
        )[0]  # fmt: skip

    def remove(self, local_id: str) -> None:
        """As if it had never been written."""
        self._run("DELETE FROM posts WHERE local_id = ?", local_id)

    def queued(self, local_id: str, operation_id: str) -> Post:
        """It is on its way as this operation."""
        return self._run("UPDATE posts SET operation_id = ? WHERE local_id = ? RETURNING *", operation_id, local_id)[0]

    def send_again(self, local_id: str, content: str) -> None:
        """It is on its way once more, behind all others."""
        self._run(
            "UPDATE posts SET state = 'sending', reason = '', content = ?, version = version + 1,"
            " turn = (SELECT MAX(turn) + 1 FROM posts) WHERE local_id = ?",
            content, local_id,
        )  # fmt: skip

    def delivered(self, local_id: str, server_id: str, content: str) -> None:
        """The server has it, under this id and with this content."""
        self._run(
            "UPDATE posts SET state = 'delivered', reason = '', server_id = ?, content = ?, version = version + 1"
            " WHERE local_id = ?",
            server_id, content, local_id,
        )  # fmt: skip

    def refused(self, local_id: str, reason: str) -> None:
        """It won't arrive unless somebody does something."""
        self._run(
            "UPDATE posts SET state = 'refused', reason = ?, version = version + 1"
            " WHERE local_id = ? AND (state, reason) != ('refused', ?)",
            reason, local_id, reason,
        )  # fmt: skip
