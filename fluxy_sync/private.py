"""Files that only their owner reads: written at once or not at all, and locked while somebody lives."""

import fcntl
import os
import time
from pathlib import Path

from fluxy_sync.errors import ConfigError

LOCK_POLL_S = 0.02


def make_private_dir(path: Path) -> Path:
    """Create ``path`` and its parents, for its owner alone (0700).

    Raises:
        ConfigError: it can't be made or belongs to somebody else.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{path} can't be used as a directory of our own ({error.strerror})") from error
    return path


def write_private(path: Path, text: str, *, keep_access: bool = False) -> None:
    """Replace the file's text (0600): after a power cut it holds the old text or the new one, on disk.

    With ``keep_access`` the file's owner and mode stay as they are: others may read it by right.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_synced(draft, text)
        if keep_access:
            was = path.stat()
            os.chown(draft, was.st_uid, was.st_gid)
            draft.chmod(was.st_mode & 0o777)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_dir(path.parent)


def _write_synced(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # a draft of a process that died may have another mode
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_dir(path: Path) -> None:
    """Bring the directory's own entries to disk: a rename isn't durable before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LockFile:
    """An flock on a file that names its holder's pid; it ends with the last process that inherited it."""

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
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
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
            return self.path.read_text(encoding="utf-8").strip() or "unknown"
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
