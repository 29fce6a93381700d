"""``fluxy-sync watch``: the picture as it changes, for programs line by line, for people on a terminal of their own."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync
from tests.command_line import CommandLine, environment, refused
from tests.conftest import Gateway, wait_until
from tests.dashboard_server import DashboardServer

COMMAND = [sys.executable, "-m", "fluxy_sync", "watch"]
BEHIND = "\x1b[?1049l"  # the terminal's own screen comes back


class Watching:
    """A ``watch`` without a terminal, and the documents that it has printed."""

    def __init__(self, env: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.seen: list[dict[str, Any]] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(json.loads(line))

    def until(self, **expected: Any) -> dict[str, Any]:
        """The first document in which all this holds."""
        found = wait_until(lambda: [one for one in self.seen if expected.items() <= one.items()], 20, str(expected))
        document: dict[str, Any] = found[0]
        return document

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Exit code and stderr."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self._reading.join(20)
        self.process.communicate()


class Terminal:
    """A ``watch`` on a terminal of its own."""

    def __init__(self, env: dict[str, str]) -> None:
        self._fd, its_end = pty.openpty()
        self.resize(80)
        env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}  # they would win
        env["TERM"] = "xterm-256color"
        self._process = subprocess.Popen(COMMAND, env=env, stdin=its_end, stdout=its_end, stderr=its_end)
        os.close(its_end)
        self._written = b""

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        """All that it has written so far."""
        with contextlib.suppress(OSError):  # it has ended
            while select.select([self._fd], [], [], 0.01)[0]:
                self._written += os.read(self._fd, 65536)
        return self._written.decode(errors="ignore")  # it may end in the middle of a sign

    @property
    def screen(self) -> str:
        """What the last frame shows, without colours."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.read().rpartition("\x1b[H")[2])

    @property
    def words(self) -> str:
        """The same without its frame, each line's words one space apart."""
        return " ".join(re.sub("[│╭╮╰╯─]", " ", self.screen).split())

    def wait_for(self, text: str, timeout: float = 20.0) -> None:
        """Wait until it is shown."""
        try:
            wait_until(lambda: text in self.words, timeout)
        except AssertionError:
            raise AssertionError(f"{text!r} isn't shown within {timeout} s:\n{self.screen}") from None

    @property
    def widest(self) -> int:
        """Columns of its widest line."""
        return max(map(len, self.screen.splitlines()), default=0)

    def end(self) -> int:
        """What Ctrl-C does; its exit code."""
        self._process.send_signal(signal.SIGINT)
        wait_until(lambda: self.read() and self._process.poll() is not None, 20, "it ends")
        self.read()
        return self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


@pytest.fixture
def env(gateway: Gateway) -> dict[str, str]:
    settings = {name.removeprefix("FLUXY_SYNC_"): value for name, value in gateway.environment.items()}
    return environment(gateway.folder / "data", **settings)


@pytest.fixture
def start(env: dict[str, str]) -> Iterator[Callable[..., Watching]]:
    """Starts a ``watch`` without a terminal."""
    with contextlib.ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(contextlib.closing(Watching(env | more, *options)))


@pytest.fixture
def open_terminal(env: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Opens a terminal in which it runs."""
    with contextlib.ExitStack() as stack:
        yield lambda **more: stack.enter_context(contextlib.closing(Terminal(env | more)))


def test_each_change_is_one_document(start: Callable[..., Watching], sync: FluxySync) -> None:
    """The record of ``status --json``, when it was seen, and where; at once, and nothing for what doesn't change."""
    watching = start("--json")
    first = watching.until(pending=0)
    assert sync.status().to_dict().keys() < first.keys()
    assert (first["source"], first["stale_since"], first["delivered_per_s"]) == ("store", None, None)
    assert first["namespace"] == sync.engine.settings.namespace
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["at"])
    for count in (1, 2, 3):
        sync.queue("POST", "/a")
        watching.until(pending=count)
    sync.pause()
    watching.until(gate="paused")
    assert [one["pending"] for one in watching.seen] == [0, 1, 2, 3, 3]
    assert watching.end() == (0, "")


def test_it_needs_no_terminal(start: Callable[..., Watching], sync: FluxySync) -> None:
    """Into a pipe it prints JSON without being asked to; a signal ends it in order."""
    watching = start()
    watching.until(pending=0)
    assert watching.end(signal.SIGTERM) == (143, "")


def test_who_reads_no_more_ends_it(env: dict[str, str], sync: FluxySync) -> None:
    """As any command before ``head``: no traceback."""
    with subprocess.Popen([*COMMAND, "--json"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert json.loads(running.stdout.readline())["pending"] == 0
        running.stdout.close()
        sync.queue("POST", "/a")
        assert running.wait(20) in (0, 1)
        assert b"Traceback" not in running.stderr.read()


def test_a_picture_on_the_terminal(open_terminal: Callable[..., Terminal], sync: FluxySync) -> None:
    """The panel of ``status`` on the other screen, as changes come and the terminal's size goes; Ctrl-C ends it."""
    terminal = open_terminal()
    terminal.wait_for("pending 0")
    sync.queue("POST", "/a")
    terminal.wait_for("pending 1 on 1 lane, the oldest for")
    assert terminal.widest <= 80
    terminal.resize(44)
    wait_until(lambda: 0 < terminal.widest <= 44, 20, "narrow")
    terminal.resize(100)
    wait_until(lambda: terminal.widest > 44, 20, "wide again")
    assert terminal.end() == 0
    text = terminal.read()
    assert "1" in text.partition(BEHIND)[2].partition("pending")[2]  # what was last seen stays
    assert "\x1b[?25h" in text.partition("pending")[2]  # and the cursor is there again
    assert "Traceback" not in text


def test_a_store_that_is_away_is_told(alone: CommandLine, tmp_path: Path) -> None:
    """Before anything was read: one sentence, exit code 3; as ``status`` does."""
    assert "store can't be reached" in refused(alone("watch", REDIS_URL=f"unix://{tmp_path}/no.sock"), 3)
    assert "no store is running" in refused(alone("watch", "--json"), 3)


@pytest.fixture
def away(tmp_path: Path) -> dict[str, str]:
    """A store that isn't there."""
    return {"FLUXY_SYNC_REDIS_URL": f"unix://{tmp_path}/no.sock"}


def test_it_follows_the_dashboard(start: Callable[..., Watching], namespace: str, away: dict[str, str]) -> None:
    """Where one is named, a store isn't needed; when it goes away, what it showed is stale, and since when is told."""
    with DashboardServer(namespace) as dashboard:
        dashboard.show(pending=7)
        watching = start("--json", FLUXY_SYNC_DASHBOARD_URL=dashboard.url, **away)
        assert watching.until(pending=7)["source"] == "dashboard"
        wait_until(lambda: dashboard.streams, 10)
        dashboard.show(pending=8, delivered_total=3)
        watching.until(pending=8)
    stale = watching.until(stale=True)
    assert (stale["pending"], stale["delivered_per_s"]) == (8, None)
    assert stale["stale_since"] < stale["at"]
    assert watching.end() == (0, "")


def test_neither_can_be_read(alone: CommandLine, namespace: str, away: dict[str, str]) -> None:
    """The sentence names both, and no password."""
    with DashboardServer(namespace) as dashboard:
        url = dashboard.url
    told = refused(alone("watch", DASHBOARD_URL=url, REDIS_URL=away["FLUXY_SYNC_REDIS_URL"]), 3)
    assert "the dashboard at http://127.0.0.1:" in told
    assert "the store can't be reached" in told
    assert "p%40ss" not in told


def test_a_stale_picture_on_the_terminal(
    open_terminal: Callable[..., Terminal], namespace: str, away: dict[str, str]
) -> None:
    """It says so, since when, and why."""
    with DashboardServer(namespace) as dashboard:
        dashboard.show(pending=7)
        terminal = open_terminal(FLUXY_SYNC_DASHBOARD_URL=dashboard.url, **away)
        terminal.wait_for("read from the dashboard")
    terminal.wait_for("! stale last known")
    terminal.wait_for("can't be reached")
    assert "pending 7" in terminal.words
    assert "p%40ss" not in terminal.read()
    assert terminal.end() == 0


def test_help_shows_how(alone: CommandLine) -> None:
    """With examples, and without a store."""
    done = alone("watch", "--help")
    assert done.returncode == 0
    assert "fluxy-sync watch --json | jq" in done.stdout
