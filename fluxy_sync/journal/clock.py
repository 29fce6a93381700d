"""The clock that journal time goes by: a machine's own since its boot, which no correction of the wall clock moves."""

import contextlib
import functools
import hashlib
import os
import time
import uuid
from pathlib import Path

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where the platform has one."""
    return time.clock_gettime(_CLOCK)


@functools.cache
def host() -> str:
    """Names this machine's ``boottime``: all that share the clock give the same name, until the next boot."""
    boot, namespace = str(uuid.getnode()), ""
    with contextlib.suppress(OSError):
        # Beside the name: machines that were cloned while they ran, or started without entropy, share a boot's id.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() + os.uname().nodename
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/time").readlink())  # a container may have a clock of its own
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


class Clock:
    """What each script is told: whose clock, and what it says.

    Args:
        name: of the machine; its own, where none is given.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or host()

    def ms(self) -> int:
        """Milliseconds; they never go back."""
        return int(boottime() * 1000)
