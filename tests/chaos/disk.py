"""A small disk that can be filled to its last byte."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.trial import LeftOut

PIECE = 256 * 1024
PAGE = 4096


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs of that size at ``folder``.

    Raises:
        LeftOut: it can't be mounted here.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "fluxy-chaos", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise LeftOut(f"it needs to mount a tmpfs, as root ({done.stderr.decode().strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Filler:
    """Somebody else's file, that takes all the room that there is."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "somebody-elses-file"

    def grow(self) -> int:
        """Take what is free, to the last page. Returns the bytes that it has taken."""
        taken = 0
        with self.path.open("ab", buffering=0) as file:
            for size in (PIECE, PAGE):
                while count := _take(file.fileno(), size):
                    taken += count
        return taken

    def go(self) -> None:
        """Give it all back."""
        self.path.unlink(missing_ok=True)


def _take(descriptor: int, size: int) -> int:
    try:
        return os.write(descriptor, bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0
