"""A gateway's last process: it ends the others, in order, once their supervisor is gone, however that went.

Run by its path, with the standard library alone, so that it starts fast and stays small. Two commands:

``guard.py watch``
    reads lines ``+<pid> <rank>`` and ``-<pid>`` from stdin. When stdin ends, it sends SIGTERM to the pids
    that are left, the lowest rank first, and after a grace SIGKILL to the process groups that they lead.

``guard.py exec <parent pid> <command>...``
    becomes the command, which gets SIGTERM when its parent dies (Linux only): in case the guard died as well.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

GRACE_S = 6.0  # for each rank; a store without clients ends at once, so all are gone within 10 s
POLL_S = 0.02
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def watch(lines: Iterable[str]) -> None:
    """Follow the supervisor's lines to their end, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ranks = _ranks_at_end(lines)
    for rank in sorted(set(ranks.values())):
        _end([pid for pid, its_rank in ranks.items() if its_rank == rank])


def _ranks_at_end(lines: Iterable[str]) -> dict[int, int]:
    ranks: dict[int, int] = {}
    for line in lines:
        pid, *rank = map(int, line[1:].split())
        if line.startswith("+"):
            ranks[pid] = rank[0]
        else:
            ranks.pop(pid, None)
    return ranks


def _end(pids: list[int]) -> None:
    deadline = time.monotonic() + GRACE_S
    for pid in pids:
        _reaches(os.kill, pid, signal.SIGTERM)  # the leader alone: a pool's processes finish what they hold
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for pid in pids:
        _reaches(os.killpg, pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    """Whether the process runs: a zombie doesn't, however long its new parent leaves it."""
    with suppress(OSError), Path(f"/proc/{pid}/stat").open(encoding="utf-8", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return _reaches(os.kill, pid, 0)


def _reaches(send: Callable[[int, int], None], pid: int, number: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        send(pid, number)
        return True
    return False


def become(parent: int, command: list[str]) -> None:
    """Execute ``command`` in place of this process, tied to its parent's life."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("its parent ended before it could start")
    os.execvp(command[0], command)  # noqa: S606 - our own argument list


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(sys.stdin)
    else:
        become(int(sys.argv[2]), sys.argv[3:])
