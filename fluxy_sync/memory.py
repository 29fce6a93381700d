"""How much memory this process may use: the machine's, or what its control group leaves it."""

import os
import re
from pathlib import Path

MOST_GROUPS = 32  # a process is in one of each kind; kernels have a dozen
_BYTES = re.compile(r"[1-9][0-9]{0,18}")


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes: the machine's RAM, or the lowest limit of this process's cgroups if that is less."""
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([ram, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> list[int]:
    """Limits of this process's memory cgroups (v2 and v1) and of those above them."""
    limits: list[int] = []
    for line in _read(root / "proc/self/cgroup").splitlines()[:MOST_GROUPS]:
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if not path.startswith("/") or "\0" in path:
            continue
        if not controllers:
            limits += _limits_up_from(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_up_from(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return limits


def _limits_up_from(top: Path, path: str, name: str) -> list[int]:
    group = top / path.lstrip("/")
    files = [folder / name for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return [int(text) for file in files if _BYTES.fullmatch(text := _read(file).strip())]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
