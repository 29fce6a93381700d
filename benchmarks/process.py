"""Subprocesses that the benchmark starts, and ends whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

END_TIMEOUT_S = 10.0
POLL_S = 0.02


class BenchmarkError(Exception):
    """The benchmark can't go on; the message says why."""


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until ``condition`` holds.

    Raises:
        BenchmarkError: it didn't within ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} didn't come within {timeout_s:g} s")
        time.sleep(POLL_S)


def accepts(port: int) -> bool:
    """Whether something listens on a loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(
    command: list[str], log: Path, env: dict[str, str] | None = None, *, tell: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, its output in ``log``; end the group on leaving.

    A BenchmarkError gets the end of the log added if the process had ended by itself, or if ``tell`` is set.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    except BenchmarkError as error:
        if tell or process.poll() is not None:
            raise BenchmarkError(f"{error}\n{tail(log)}") from error
        raise
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; after a while SIGKILL to the whole group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a process's output."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
