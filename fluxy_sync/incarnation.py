"""Who a worker is on this machine, and which earlier ones are dead."""

import contextlib
import errno
import fcntl
import math
import mmap
import os
import select
import struct
import uuid
from pathlib import Path
from typing import BinaryIO

from fluxy_sync.errors import ConfigError
from fluxy_sync.host.files import exists, make_private_dir, move, open_private, paths_in, remove

_DOOR, _CLOSING, _OTHERS = 0, 1, 2
_BELL = struct.Struct("d")
BELLS_AT_ONCE = 512  # a write of so few bytes is never torn (PIPE_BUF)


def _lock(path: Path, *, with_children: bool) -> BinaryIO | None:
    """Open and lock a file of ours; None where somebody holds it.

    Args:
        with_children: flock, which children inherit by the fork; else a POSIX lock, which ends with this process.
    """
    file = os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
    try:
        (fcntl.flock if with_children else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return None
    return file


def is_running(runtime_dir: Path, node: str) -> bool:
    """Whether a worker of this node name lives on this machine."""
    if not exists(runtime_dir):
        return False
    node_lock = _lock(_node_path(runtime_dir, node), with_children=False)
    if node_lock is not None:
        node_lock.close()
    return node_lock is None


def _node_path(runtime_dir: Path, node: str) -> Path:
    return runtime_dir / f"{node}.node"


class Incarnation:
    """One life of one worker: a UUID whose file stays locked as long as any of its processes lives.

    Made before the pool forks, so that the children inherit the lock, and the flags that the parent shows them.

    Raises:
        ConfigError: a worker of this node name lives already on this machine, or the directory can't be written.
    """

    def __init__(self, runtime_dir: Path, node: str) -> None:
        try:
            make_private_dir(runtime_dir)
        except ConfigError as error:
            raise ConfigError(
                f"the worker can't keep its lock files in {runtime_dir}: {error}; "
                "set FLUXY_SYNC_DATA_DIR to a directory that it may write"
            ) from error
        self._dir = runtime_dir
        self.id = uuid.uuid4().hex
        # Not for the children: a pool that outlives its parent for a moment must not keep the next one from starting.
        node_lock = _lock(_node_path(runtime_dir, node), with_children=False)
        if node_lock is None:
            raise ConfigError(
                f"a worker named {node} is running on this machine already; stop it, or set another FLUXY_SYNC_NODE"
            )
        self._node_lock = node_lock
        # Locked before it gets its name: a steward that looks meanwhile would take it for a dead one's.
        unnamed = runtime_dir / f"{self.id}.new"
        own = _lock(unnamed, with_children=True)
        assert own is not None  # a fresh UUID's file is nobody else's
        move(unnamed, self._path(self.id).name)
        self._own_lock = own
        self._flags = mmap.mmap(-1, mmap.PAGESIZE)
        self._bell, self._button = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._button, False)

    def _path(self, incarnation: str) -> Path:
        return self._dir / f"{incarnation}.worker"

    @property
    def holder(self) -> str:
        """This process as the holder of claims."""
        return f"{self.id} {os.getpid()}"

    @property
    def door_closed(self) -> bool:
        """Whether this worker can't reach the upstream, whatever the gate says."""
        return self._flags[_DOOR] == 1

    @door_closed.setter
    def door_closed(self, closed: bool) -> None:
        self._flags[_DOOR] = int(closed)

    @property
    def closing(self) -> bool:
        """Whether the worker is shutting down. Set from a signal handler: no more than a byte in memory."""
        return self._flags[_CLOSING] == 1

    @closing.setter
    def closing(self, closing: bool) -> None:
        self._flags[_CLOSING] = int(closing)

    @property
    def others_wait(self) -> bool:
        """Whether other messages than ours wait for a process of this worker: a flush ends its slice early then."""
        return self._flags[_OTHERS] == 1

    @others_wait.setter
    def others_wait(self, wait: bool) -> None:
        self._flags[_OTHERS] = int(wait)

    def ring(self, at: float) -> None:
        """Tell the steward that something comes due at ``at`` (boottime seconds), sooner than it would look."""
        # A full pipe is no loss: the steward is about to look.
        with contextlib.suppress(BlockingIOError):
            os.write(self._button, _BELL.pack(at))

    def wait_for_bell(self, timeout_s: float) -> list[float]:
        """Wait until somebody rings, and give all times that were told."""
        bell = select.poll()  # select() takes no descriptor from 1024 on
        bell.register(self._bell, select.POLLIN)
        ready = bell.poll(math.ceil(max(0.0, timeout_s) * 1000))
        data = os.read(self._bell, _BELL.size * BELLS_AT_ONCE) if ready else b""
        return [at for (at,) in _BELL.iter_unpack(data)]

    def dead_ones(self) -> list[str]:
        """Earlier incarnations on this machine of which no process lives."""
        dead = []
        for path in paths_in(self._dir, "*.worker"):
            if path.stem != self.id and (file := _lock(path, with_children=True)) is not None:
                file.close()
                dead.append(path.stem)
        return dead

    def forget(self, incarnation: str) -> None:
        """Its claims were given up: its file isn't needed any more."""
        remove(self._path(incarnation))

    def close(self) -> None:
        """The worker and its pool have ended in order: nothing is left to clean up. Celery may say so twice."""
        if self._own_lock.closed:
            return
        remove(self._path(self.id))
        self._own_lock.close()
        self._node_lock.close()
        os.close(self._bell)
        os.close(self._button)
