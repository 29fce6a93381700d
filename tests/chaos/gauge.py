"""How much memory processes take, how many files they hold open, and a limit that the kernel keeps them to."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.chaos.background import Background
from tests.chaos.trial import wait_until

MIB = 1024 * 1024
_SIZE = re.compile(r"^(Pss|Rss): +(\d+) kB", re.MULTILINE)


class Reading(NamedTuple):
    """Of one process, or of several together.

    Attributes:
        bytes: what they share counts for each only in part (PSS), so that sums are right.
        resident: bytes that are in memory, shared or not (RSS).
        files: open file descriptors.
    """

    bytes: int = 0
    resident: int = 0
    files: int = 0


def read(pid: int) -> Reading:
    """Look at one process; nothing of one that has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        sizes = dict(_SIZE.findall((folder / "smaps_rollup").read_text(encoding="ascii")))
        files = len(list((folder / "fd").iterdir()))
    except OSError:
        return Reading()
    return Reading(int(sizes["Pss"]) * 1024, int(sizes["Rss"]) * 1024, files)


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def read_family(pid: int) -> Reading:
    """Look at a process and all that came of it, together."""
    found = [read(one) for one in family(pid)]
    return Reading(*(sum(values) for values in zip(*found, strict=True)))


class Gauge(Background):
    """Looks at processes again and again.

    Args:
        pids: by a name of each.
        families: with all that came of each.
    """

    def __init__(self, pids: Mapping[str, int], every_s: float = 0.25, *, families: bool = True) -> None:
        super().__init__("gauge", every_s)
        self._pids = pids
        self._look = read_family if families else read
        self.readings: dict[str, list[Reading]] = {name: [] for name in pids}

    def step(self) -> None:
        for name, pid in self._pids.items():
            self.readings[name].append(self._look(pid))

    def most_mib(self, name: str) -> float:
        return max(one.bytes for one in self.readings[name]) / MIB


class MemoryGroup:
    """A control group (cgroup v2 or v1) whose processes together get no more than so many bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, pid: int) -> None:
        """Take a process in that has only just begun; what comes of it belongs to it, too."""
        (self._folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed as the limit was reached."""
        files = [path for name in ("memory.events", "memory.oom_control") if (path := self._folder / name).exists()]
        found = [re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE) for path in files]
        return sum(int(one[1]) for one in found if one)


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup | None]:
    """A group for as long as it is needed; None where none can be made here. All in it must have ended by then."""
    folder = _make_group("/sys/fs/cgroup", "memory.max", limit)
    folder = folder or _make_group("/sys/fs/cgroup/memory", "memory.limit_in_bytes", limit)
    try:
        yield MemoryGroup(folder) if folder else None
    finally:
        if folder:
            wait_until(lambda: _remove(folder), 10, "the end of all processes of the control group")


def _make_group(top: str, file: str, limit: int) -> Path | None:
    folder = Path(top) / f"fluxy-chaos-{os.getpid()}"
    try:
        folder.mkdir()
        if (folder / file).exists():
            (folder / file).write_text(str(limit), encoding="ascii")
            return folder
        folder.rmdir()
    except OSError:
        _remove(folder)
    return None


def _remove(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()
