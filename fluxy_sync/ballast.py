"""Disk space kept back, so that a store that ended on a full disk can start again and drain."""

import contextlib
import os
from pathlib import Path

from fluxy_sync.host.files import create, exists, move, open_private, remove, size_of

BALLAST_BYTES = 16 * 1024 * 1024
SMALLEST_BALLAST_BYTES = 1024 * 1024
FULL_BELOW_BYTES = 1024 * 1024  # a disk that can't take this much more counts as full
ROOM_FACTOR = 4  # the ballast takes at most this part of what is free


class Ballast:
    """A file of real disk blocks: spent when the disk is full, put back when there is room again."""

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self.path = path
        self.size = size

    @property
    def is_spent(self) -> bool:
        """Whether the disk was full and has not had room since: an empty file stands for that."""
        return size_of(self.path) == 0

    def keep(self) -> None:
        """Spend it if the disk is full, put it back if there is room; to be called before each start."""
        if self.is_spent:
            # On a small disk less than before: else there might never be room again.
            size = min(self.size, _disk_bytes(self.path.parent) // (2 * ROOM_FACTOR))
            if _free_bytes(self.path.parent) >= ROOM_FACTOR * size:
                self._lay(size)
        elif not exists(self.path):
            self._lay(min(self.size, _free_bytes(self.path.parent) // ROOM_FACTOR))
        elif not _takes(self.path.with_name(".probe"), FULL_BELOW_BYTES):
            file = open_private(self.path, os.O_WRONLY)
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)

    def _lay(self, size: int) -> None:
        """Allocate ``size`` bytes; a disk that is too short, or has no room after all, stays without."""
        if size >= SMALLEST_BALLAST_BYTES:
            draft = self.path.with_name(".ballast")
            with contextlib.suppress(OSError):
                _allocate(draft, size)
                move(draft, self.path.name)
            remove(draft)


def _takes(path: Path, size: int) -> bool:
    """Whether the disk takes ``size`` more bytes: asked by trying, since quotas don't show in statvfs."""
    try:
        _allocate(path, size)
    except OSError:
        return False
    finally:
        remove(path)
    return True


def _allocate(path: Path, size: int) -> None:
    with create(path) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS
            for _ in range(0, size, FULL_BELOW_BYTES):
                file.write(bytes(FULL_BELOW_BYTES))
            os.fsync(file.fileno())


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _disk_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_blocks * disk.f_frsize
