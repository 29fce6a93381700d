"""Keeps a gateway's processes alive while it lives, and ends them in order when it ends."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType, MappingProxyType
from typing import Any, NamedTuple

from fluxy_sync import guard
from fluxy_sync.errors import ConfigError, FluxySyncError
from fluxy_sync.escaping import INDENT, visible
from fluxy_sync.host.handover import VARIABLE, Handover, without_secrets
from fluxy_sync.host.locks import LockFile

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0  # a process that lived this long starts again without a pause grown by earlier deaths
DEFAULT_GRACE_S = 5.0
EARLIER_GATEWAY_S = 15.0  # how long the guard of a killed gateway takes at most to end its processes
UP_POLL_S = 0.5
WRONG_USAGE = 2  # the exit code of a command that can't work as it is configured
LONGEST_LINE_BYTES = 64 * 1024
WORK_RANK, STORE_RANK = 0, 1  # the guard's order: the store ends last

Say = Callable[[str], None]
Process = subprocess.Popen[bytes]


class Command(NamedTuple):
    """A program to keep alive: ``ready_mark`` is the text in its output that tells that it is up.

    ``secrets`` are variables as well; it takes them over (``host.handover``), they are in no environment.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready_mark: str = ""
    grace_s: float = DEFAULT_GRACE_S
    secrets: Mapping[str, str] = MappingProxyType({})


class Child:
    """One process that is started again whenever it ends, after a pause of 0.2 s that doubles up to 5 s."""

    def __init__(
        self,
        name: str,
        spawn: Callable[[], Process],
        *,
        rank: int = WORK_RANK,
        ready_mark: str = "",
        grace_s: float = DEFAULT_GRACE_S,
        last_words: Callable[[], str] | None = None,
    ) -> None:
        self.name = name
        self.rank = rank
        self.grace_s = grace_s
        self.process: Process | None = None
        self.was_ready = False
        self.due_at = 0.0
        self._spawn = spawn
        self._ready_mark = ready_mark
        self._pause_s = FIRST_PAUSE_S
        self._started_at = 0.0
        self._said: object = None
        self._partial, self._was_cut = b"", False
        self._last_line = ""
        self._last_words = last_words or (lambda: self._last_line)

    @classmethod
    def of(cls, command: Command) -> "Child":
        """A child that runs ``command`` in a session of its own, its output read by the supervisor."""
        return cls(
            command.name,
            lambda: _spawn(command),
            ready_mark=command.ready_mark,
            grace_s=command.grace_s,
        )

    def start(self, now: float) -> None:
        """Start the process.

        Raises:
            OSError, FluxySyncError: it can't be started now.
        """
        self._started_at, self._partial, self._was_cut = now, b"", False
        self.process = self._spawn()
        self.was_ready |= not self._ready_mark

    def has_ended(self) -> bool:
        """Whether the process ended; what is left of its group is killed while its pid is still its own."""
        assert self.process is not None
        if self.process.returncode is None and _is_zombie(self.process):
            self.kill()
            self.process.wait()
        return self.process.returncode is not None

    def terminate(self) -> None:
        """Ask the process to end: its leader alone, a pool's processes finish what they hold."""
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        """Kill the process and whatever it started in its group."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def settle_death(self, reason: str, now: float) -> str | None:
        """Forget the process and choose when it starts again; a notice, once for a series of equal deaths."""
        if now - self._started_at >= STEADY_S:
            self._pause_s, self._said = FIRST_PAUSE_S, None
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        self.process, self.due_at = None, now + pause_s
        if reason == self._said:
            return None
        self._said = reason
        words = self._last_words()
        return f"{self.name} ended ({reason}){': ' if words else ''}{words}; it is started again"

    def last_words(self) -> str:
        """The last line of its output."""
        return self._last_words()

    def lines_of(self, output: bytes) -> list[str]:
        """Add to its output; the lines that are complete now, as text: none steers a terminal or forges another."""
        *whole, rest = (self._partial + output).split(b"\n")
        cut = len(rest) > LONGEST_LINE_BYTES
        pieces, self._partial = ([*whole, rest], b"") if cut else (whole, rest)
        lines = [visible(piece.decode(errors="replace").rstrip(), keep="\t") for piece in pieces]
        if self._was_cut and lines and lines[0]:
            lines[0] = INDENT + lines[0]  # where a line that is too long goes on, it doesn't look like another
        self._was_cut = cut or (self._was_cut and not lines)
        self._last_line = next((line for line in reversed(lines) if line), self._last_line)
        self.was_ready |= any(self._ready_mark in line for line in lines)
        return lines

    def is_up(self, now: float) -> bool:
        """Whether it has told that it is ready, or has lived long enough to be taken for it."""
        return self.process is not None and (self.was_ready or now - self._started_at >= STEADY_S)


def _spawn(command: Command) -> Process:
    tied = [sys.executable, "-I", "-S", guard.__file__, "exec", str(os.getpid())]
    with Handover(command.secrets) as handover:
        return subprocess.Popen(
            [*tied, *command.argv],
            env={**command.env, VARIABLE: str(handover.fd)},
            pass_fds=(handover.fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a terminal's Ctrl-C reaches the supervisor alone
            bufsize=0,
        )


def _is_zombie(process: Process) -> bool:
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Guard:
    """Our end of the guard process; it holds ``lock`` until it has ended everything."""

    def __init__(self, lock: LockFile) -> None:
        self._lock = lock
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, once the guard of an earlier gateway is through.

        Raises:
            ConfigError: that one doesn't end.
        """
        if not self._lock.acquire(EARLIER_GATEWAY_S):
            raise ConfigError(f"an earlier gateway (pid {self._lock.holder}) is still ending; try again")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, "watch"],
            env=without_secrets(os.environ),
            stdin=subprocess.PIPE,
            pass_fds=(self._lock.fileno(),),
            start_new_session=True,
        )
        self._lock.name_holder(self._process.pid)
        self._lock.release()

    def has_ended(self) -> bool:
        """Whether it died; then nothing ends the others if the supervisor is killed now."""
        return self._process is not None and self._process.poll() is not None

    def follow(self, child: Child) -> None:
        """Name a process that it has to end."""
        assert child.process is not None
        self._tell(f"+{child.process.pid} {child.rank}\n")

    def forget(self, pid: int) -> None:
        """Name a process that has ended."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()

    def close(self) -> None:
        """Let it end whatever is left, and itself."""
        if self._process is not None:
            with suppress(BrokenPipeError):
                self._process.communicate()


class Supervisor:
    """Runs children until SIGINT, SIGTERM or SIGHUP; to be used by the main thread, as a context.

    They end in the reverse order of their start. A second SIGINT cuts the grace of all but the store.
    """

    def __init__(self, say: Say, guard_lock: LockFile) -> None:
        self._say = say
        self._guard = Guard(guard_lock)
        self._children: list[Child] = []
        self._interrupts = 0
        self.stop_asked = False  # by a signal
        self._selector = selectors.DefaultSelector()
        self._old_handlers: dict[int, Any] = {}
        self._stopping = False

    def __enter__(self) -> "Supervisor":
        self._listen()
        try:
            self._guard.start()
        except BaseException:
            self._unlisten()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.stop()
        finally:
            self._guard.close()
            self._unlisten()

    def _listen(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._clear_wakeups)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            self._old_handlers[number] = signal.signal(number, self._on_signal)

    def _unlisten(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        self.stop_asked |= number != signal.SIGCHLD

    def _clear_wakeups(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def add(self, child: Child) -> None:
        """Start a child and keep it alive."""
        self._children.append(child)
        self._start(child)

    def run(self) -> None:
        """Keep the children alive until a signal asks for the end."""
        while not self.stop_asked:
            self.pump()

    def wait_up(self, children: Sequence[Child]) -> bool:
        """Wait until all of these are up; false if a signal asked for the end before."""
        while not all(child.is_up(time.monotonic()) for child in children) and not self.stop_asked:
            self.pump(UP_POLL_S)
        return not self.stop_asked

    def pump(self, timeout: float | None = None) -> None:
        """Wait for output, a death, a signal or ``timeout`` seconds, and see to what happened.

        Raises:
            ConfigError: a child that never came up said that it can't work like this (exit code 2).
        """
        for key, _ in self._selector.select(self._patience(timeout)):
            key.data()
        if self._guard.has_ended():
            self._replace_guard()
        for child in self._children:
            if child.process is not None and child.has_ended():
                self._bury(child)
            elif child.process is None and not self._stopping and child.due_at <= time.monotonic():
                self._start(child)

    def _patience(self, timeout: float | None) -> float | None:
        waiting = [] if self._stopping else [child.due_at for child in self._children if child.process is None]
        waits = [max(0.0, due_at - time.monotonic()) for due_at in waiting]
        return min([*waits, *([] if timeout is None else [timeout])], default=None)

    def _start(self, child: Child) -> None:
        try:
            child.start(time.monotonic())
        except (OSError, FluxySyncError) as error:
            self._tell(child.settle_death(str(error), time.monotonic()))
            return
        self._guard.follow(child)
        assert child.process is not None
        if (output := child.process.stdout) is not None:
            os.set_blocking(output.fileno(), False)
            self._selector.register(output, selectors.EVENT_READ, lambda: self._forward(child))

    def _forward(self, child: Child) -> bool:
        """Pass on what the child wrote; false when there is no more for now."""
        assert child.process is not None
        assert child.process.stdout is not None
        try:
            output = os.read(child.process.stdout.fileno(), LONGEST_LINE_BYTES)
        except BlockingIOError:
            return False
        for line in child.lines_of(output or b"\n"):
            if line:
                self._say(f"{child.name:<9} | {line}")
        if not output:
            self._close_output(child.process)
        return bool(output)

    def _close_output(self, process: Process) -> None:
        if process.stdout is not None and not process.stdout.closed:
            self._selector.unregister(process.stdout)
            process.stdout.close()

    def _bury(self, child: Child) -> None:
        process = child.process
        assert process is not None
        if process.stdout is not None and not process.stdout.closed:
            while self._forward(child):
                pass
            self._close_output(process)
        self._guard.forget(process.pid)
        if not self._stopping and process.returncode == WRONG_USAGE and not child.was_ready:
            child.process = None
            said = visible(child.last_words()).removeprefix("fluxy-sync: ")
            raise ConfigError(f"{child.name} can't run like this: {said or 'it said nothing'}")
        notice = child.settle_death(_outcome(process.returncode), time.monotonic())
        self._tell(None if self._stopping else notice)

    def _tell(self, notice: str | None) -> None:
        if notice is not None:
            self._say(f"{'gateway':<9} | {visible(notice)}")

    def _replace_guard(self) -> None:
        with suppress(OSError):  # out of processes or memory: tried again at the next turn
            self._guard.start()
        for child in self._children:
            if child.process is not None:
                self._guard.follow(child)

    def stop(self) -> None:
        """End the children, the last one started first, and wait for each."""
        self._stopping = True
        for child in reversed(self._children):
            self._end(child)

    def _end(self, child: Child) -> None:
        """SIGTERM, and SIGKILL when its grace is over or, for all but the store, at a second SIGINT."""
        deadline = time.monotonic() + child.grace_s
        child.terminate()
        while child.process is not None:
            left = deadline - time.monotonic()
            if left <= 0 or (child.rank == WORK_RANK and self._interrupts > 1):
                child.kill()
                left = DEFAULT_GRACE_S
            self.pump(left)


def _outcome(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
