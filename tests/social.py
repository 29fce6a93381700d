"""The social example as a user starts it, and its pages as a browser without script sees them."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil

from examples.social.posts import Posts
from tests.conftest import ROOT, wait_until

START_S = 60.0
STOP_S = 60.0
PROCESSES = {
    "store": "valkey-server",
    "worker": "fluxy_sync.app worker",
    "beat": "fluxy_sync.app beat",
    "social": "examples.social.web",
    "upstream": "examples.social.upstream",
}
_ADDRESS = re.compile(r"The social example is at (\S+)")


class Shown(NamedTuple):
    """One post as a page shows it."""

    local_id: str
    state: str
    server_id: str
    content: str


class Page(HTMLParser):
    """What a page shows: posts, messages, and what stands in the composer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__()
        self.status, self.text = status, text
        self.posts: list[Shown] = []
        self.texts: dict[str, str] = {}
        self._into = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "li":
            post = Shown(given["id"], given["data-state"], given["data-server-id"], "")
            self.posts.append(post)
        self._into = given.get("id", "") if tag in ("p", "textarea") else ""
        if given.get("class") == "content" or given.get("id", "").startswith("edit-"):
            self._into = "post"

    def handle_endtag(self, tag: str) -> None:
        self._into = ""

    def handle_data(self, data: str) -> None:
        if self._into == "post":
            self.posts[-1] = self.posts[-1]._replace(content=self.posts[-1].content + data.lstrip("\n"))
        elif self._into:
            self.texts[self._into] = data.lstrip("\n")

    @property
    def error(self) -> str:
        return self.texts.get("error", "")

    @property
    def draft(self) -> str:
        return self.texts.get("content", "")

    @property
    def states(self) -> list[str]:
        """The posts' states, the oldest first."""
        return [post.state for post in reversed(self.posts)]


class Social:
    """``python -m examples.social`` as a subprocess, and requests to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.data = folder / "data"
        self._options = [*options, "--data-dir", str(self.data)]
        self._log = folder / "social.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUXY_SYNC_")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.social", "--no-dashboard", *self._options],
                stdout=log, stderr=log, cwd=ROOT, env=environment,
            )  # fmt: skip
        try:
            self.url = wait_until(self._address, START_S, "the example is up")
        except BaseException:
            self.stop()
            raise

    def _address(self) -> str:
        assert self.process is not None
        assert self.process.poll() is None, self.said
        found = _ADDRESS.search(self.said)
        return found[1] if found and "Ctrl-C" in self.said else ""

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it as a person does; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_S)

    # --- its processes

    def process_of(self, part: str) -> psutil.Process:
        """One of its own children, once it runs: the worker without its pool."""
        found: psutil.Process = wait_until(lambda: self._find(PROCESSES[part]), 20, f"a process of {part}")
        return found

    def _find(self, words: str) -> psutil.Process | None:
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it has just ended
                if words in " ".join(child.cmdline()):
                    return child
        return None

    def kill(self, part: str) -> None:
        """kill -9."""
        self.process_of(part).kill()

    def restart_application(self, number: int = signal.SIGKILL) -> None:
        """End the application alone, and wait for the next one."""
        ended = self.process_of("social")
        ended.send_signal(number)
        psutil.wait_procs([ended], 20)
        wait_until(self.answers, 20, "the application is back")

    def answers(self) -> bool:
        """Whether the application is there."""
        try:
            return self.page().status == 200
        except OSError:  # it is just being started again
            return False

    # --- its pages

    def ask(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Page:
        """GET, or POST with a form; redirects are followed, as a browser does it."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, names)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Page(answer.status, answer.read().decode())
        except urllib.error.HTTPError as refused:
            with refused:
                return Page(refused.code, refused.read().decode())

    def headers(self) -> Message:
        with urllib.request.urlopen(f"{self.url}/", timeout=20) as answer:
            return answer.headers  # type: ignore[no-any-return]

    def page(self) -> Page:
        return self.ask("/")

    def post(self, content: str) -> Page:
        return self.ask("/posts", {"content": content})

    def turn(self, state: str) -> None:
        """The switch on the page."""
        assert self.ask("/upstream", {"state": state}).status == 200

    def record(self) -> dict[str, Any]:
        """The counters."""
        with urllib.request.urlopen(f"{self.url}/api/sync", timeout=20) as answer:
            return dict(json.load(answer))

    def wait_states(self, *states: str, timeout: float = 40.0) -> Page:
        """The page, once its posts have these states, the oldest first."""
        return wait_until(lambda: _with_states(self.page(), states), timeout, f"posts are {states}")  # type: ignore[no-any-return]

    def wait_record(self, name: str, value: object) -> None:
        wait_until(lambda: self.record()[name] == value, what=f"{name} is {value}")

    def clean(self) -> None:
        """Bring the server up, let everything arrive, and take all posts off the page."""
        self.turn("up")
        wait_until(lambda: "sending" not in self.page().states, 40)
        posts = self.page().posts
        for post in posts:
            if post.state == "refused":
                self.ask(f"/posts/{post.local_id}/discard", {})
        with closing(Posts(self.data / "social.sqlite")) as kept:
            for post in posts:
                kept.remove(post.local_id)

    # --- the truth

    def at_upstream(self) -> list[tuple[str, str, str]]:
        """What the server keeps: id, local id and content."""
        with closing(sqlite3.connect(self.data / "upstream.sqlite")) as database:
            rows = database.execute("SELECT id, local_id, content FROM posts ORDER BY id").fetchall()
        return [(str(number), local_id, content) for number, local_id, content in rows]


def _with_states(page: Page, states: tuple[str, ...]) -> Page | None:
    return page if tuple(page.states) == states else None


class Listener:
    """One open event stream."""

    def __init__(self, social: Social) -> None:
        self._answer = urllib.request.urlopen(f"{social.url}/api/sync/events", timeout=20)
        self.records: list[dict[str, Any]] = []
        self.ended = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self._answer:
            for line in self._answer:
                if line.startswith(b"data: "):
                    self.records.append(json.loads(line.removeprefix(b"data: ")))
        self.ended = True


def left_behind(folder: Path) -> Iterator[int]:
    """Processes that still know the folder."""
    for process in psutil.process_iter():
        try:
            known = " ".join([*process.cmdline(), *process.environ().values()])
        except psutil.Error:
            continue
        if str(folder) in known and process.pid != os.getpid():
            yield process.pid
