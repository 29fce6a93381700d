"""Locks between processes: a file of ours, locked while somebody lives."""

import fcntl
import os
import time
from pathlib import Path

from fluxy_sync.host.files import open_private, read_private

LOCK_POLL_S = 0.02


class LockFile:
    """An flock on a file that names its holder's pid; it ends with the last process that inherited it.

    Raises, where it opens its file: ConfigError if that is a symbolic link, or isn't ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self, timeout: float = 0.0) -> bool:
        """Try for ``timeout`` seconds; false if another process still holds it."""
        deadline = time.monotonic() + timeout
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_POLL_S)
        return True

    def _try(self) -> bool:
        descriptor = open_private(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        self.name_holder(os.getpid())
        return True

    def name_holder(self, pid: int) -> None:
        """Write the pid that a refused process will show to a person."""
        line = f"{pid}\n".encode()
        os.pwrite(self._descriptor, line, 0)
        os.ftruncate(self._descriptor, len(line))  # afterwards: who looks in between finds no empty file

    @property
    def holder(self) -> str:
        """The pid that the file names, as text; ``unknown`` if it names none."""
        try:
            return read_private(self.path, errors="replace").strip() or "unknown"
        except OSError:
            return "unknown"

    def fileno(self) -> int:
        """The descriptor to hand to a child, so that the lock lasts as long as the child."""
        return self._descriptor

    def release(self) -> None:
        """Give up our share of the lock; a child that inherited it keeps its own."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
