"""Files and directories of our own: the one place that opens, makes, replaces and removes them.

Each function looks at the whole way to a file (``paths``), opens the directory, and works relative to that. No
symbolic link is followed, and what was opened must be a plain file of ours. Root reads what belongs to root.
"""

import errno
import fnmatch
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, BinaryIO

from fluxy_sync.errors import ConfigError
from fluxy_sync.host.paths import check_way, is_sheltered, not_ours, others_may_write, resolved, trusted_owners

PRIVATE_DIR, PRIVATE_FILE, PARENT_DIR = 0o700, 0o600, 0o755
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a planted pipe must not make us wait
_NO_PLAIN_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR, errno.ENODEV, errno.EOPNOTSUPP}


class NotText(ConfigError, ValueError):
    """A file of ours holds something else than text."""


# --- directories


def make_private_dir(path: Path) -> Path:
    """Create ``path`` and its parents, for its owner alone (0700); one of ours that others may look into is closed.

    Raises:
        ConfigError: it can't be made, belongs to somebody else, is shared with others, or could be replaced by them.
    """
    try:
        place = resolved(path)
        for parent in reversed(place.parents):
            if not exists(parent):
                os.mkdir(parent, PARENT_DIR)  # noqa: PTH102 -- as below
        with suppress(FileExistsError):
            os.mkdir(place, PRIVATE_DIR)  # noqa: PTH102 -- one call, and no parents
        resolved(place)  # what was made just now is on the way as well
        with _directory(place, writes=True) as folder:
            _close_to_others(place, folder)
    except OSError as error:
        raise ConfigError(f"{path} can't be used as a directory of our own ({error.strerror})") from error
    return path


def _close_to_others(path: Path, folder: int) -> None:
    found = os.fstat(folder)
    is_shared = others_may_write(found) and not is_sheltered(path)
    if is_shared or found.st_mode & stat.S_ISVTX or path == Path("/"):
        raise ConfigError(
            f"{path} is shared with others (mode {stat.S_IMODE(found.st_mode):04o}): use a directory of your own "
            "inside it, to which nobody else may write; nothing was changed"
        )
    if stat.S_IMODE(found.st_mode) != PRIVATE_DIR:
        os.fchmod(folder, PRIVATE_DIR)


@contextmanager
def _directory(path: Path, *, writes: bool) -> Iterator[int]:
    """Open a directory; to write in it, it must be ours."""
    place = resolved(path)
    _check_directory(path, os.lstat(place), writes=writes)  # whose it is says more than that it can't be opened
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_directory(path, os.fstat(folder), writes=writes)
        yield folder
    finally:
        os.close(folder)


def _check_directory(path: Path, found: os.stat_result, *, writes: bool) -> None:
    if writes and found.st_uid != os.geteuid():
        raise ConfigError(not_ours(path, found.st_uid))
    if not writes:
        check_way(path, found, path)


def sync_dir(path: Path) -> None:
    """Bring the directory's own entries to disk: a rename isn't durable before."""
    with _directory(path, writes=True) as folder:
        os.fsync(folder)


def paths_in(path: Path, pattern: str = "*") -> list[Path]:
    """What a directory of ours holds by names like these, sorted; nothing where it isn't there."""
    try:
        with _directory(path, writes=True) as folder:
            names = os.listdir(folder)  # noqa: PTH208 -- a descriptor
            return [path / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern)]
    except FileNotFoundError:
        return []


# --- looking


def exists(path: Path) -> bool:
    """Whether there is anything by this name, a dangling link as well.

    Raises:
        OSError: that can't be told, as we may not look there.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def size_of(path: Path) -> int | None:
    """The size of a plain file, without opening it; None where there is none."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


# --- opening


def open_private(path: Path, flags: int, *, may_have_links: bool = False) -> int:
    """Open a plain file of ours; what is created is its owner's alone (0600). Gives the descriptor.

    Args:
        flags: as for ``os.open``.
        may_have_links: whether it may have other names (hard links), though it is written to.

    Raises:
        ConfigError: it is something else, or belongs to somebody else, or others may write to it.
        OSError: it can't be opened, as ``os.open`` has it.
    """
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    with _directory(path.parent, writes=writes) as folder:
        try:
            file = os.open(path.name, flags | _SAFELY, PRIVATE_FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in _NO_PLAIN_FILE:
                raise ConfigError(_no_plain_file(path)) from error
            raise
        try:
            _check(path, file, os.fstat(folder), writes=writes, may_have_links=may_have_links)
            os.set_blocking(file, True)
        except BaseException:
            os.close(file)
            raise
    return file


def _no_plain_file(path: Path) -> str:
    return f"{path} is no plain file of ours (a symbolic link is not followed); move it away; nothing was changed"


def _check(path: Path, file: int, folder: os.stat_result, *, writes: bool, may_have_links: bool) -> None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(_no_plain_file(path))
    if found.st_uid != os.geteuid() and (writes or found.st_uid not in trusted_owners()):
        raise ConfigError(not_ours(path, found.st_uid))
    if writes and found.st_nlink > 1 and not may_have_links:
        raise ConfigError(f"{path} has other names (hard links), which would change with it; put a copy in its place")
    if others_may_write(found):
        if found.st_uid != os.geteuid() or (folder.st_mode & 0o077 and not is_sheltered(path.parent)):
            raise ConfigError(f"other users may write to {path}; if it is as you left it, run 'chmod go-w {path}'")
        os.fchmod(file, PRIVATE_FILE)  # an earlier version made it by the umask; the directory has kept others out


def open_to_read(path: Path) -> BinaryIO:
    """Open a file of ours, or of root's; raises as ``open_private`` does."""
    return os.fdopen(open_private(path, os.O_RDONLY), "rb")


def open_to_append(path: Path) -> BinaryIO:
    """Open a file of ours, made where it is missing; raises as ``open_private`` does."""
    return os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def open_to_change(path: Path) -> BinaryIO:
    """Open a data file that is there, of which there may be copies by hard links."""
    return os.fdopen(open_private(path, os.O_RDWR, may_have_links=True), "r+b")


def create(path: Path) -> FileIO:
    """Make a file anew, for its owner alone; what had its name is removed. It isn't on disk before it is synced."""
    with _directory(path.parent, writes=True) as folder:
        return FileIO(_create(path.name, folder), "wb")


def _create(name: str, folder: int) -> int:
    with suppress(FileNotFoundError):  # left by a process that died, maybe with another mode
        os.unlink(name, dir_fd=folder)
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, PRIVATE_FILE, dir_fd=folder)
    os.fchmod(file, PRIVATE_FILE)  # whatever the umask
    return file


def read_private(path: Path, default: str | None = None, *, errors: str = "strict") -> str:
    """The text of a file of ours, or of root's; ``default`` where it is missing and one is given.

    Raises:
        ConfigError: it isn't to be trusted, see ``open_private``; or, as NotText, it isn't UTF-8.
        OSError: it is missing, or can't be read.
    """
    if default is not None:
        with suppress(PermissionError):  # to be told below, with whose it is
            if not exists(path):
                return default
    with open_to_read(path) as file:
        data = file.read()
    try:
        return data.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise NotText(f"{path} isn't text in UTF-8: put it back from a copy, or move it away") from error


def read_secret(path: Path) -> str:
    """The text of a file that the user named: it may be a link, belong to anybody, as a mounted secret does, or be a
    pipe; only nobody may write to it without being asked.

    Raises:
        ConfigError: every user of this machine may write to it, or replace it.
        OSError, UnicodeDecodeError: it can't be read.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode):
            folder = path.resolve().parent.stat()
            loose = folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX
            if found.st_mode & stat.S_IWOTH or loose:
                where = path if found.st_mode & stat.S_IWOTH else path.parent
                raise ConfigError(f"every user may write to {where}; run 'chmod o-w {where}'")
        return file.read().decode()


# --- changing


def write_private(path: Path, text: str, *, keep_access: bool = False) -> None:
    """Replace the file's text (0600): after a power cut it holds the old text or the new one, on disk.

    With ``keep_access`` the file's owner and mode stay as they are: others may read it by right.

    Raises:
        ConfigError: the directory isn't ours.
        OSError: it can't be written; what was there is there.
    """
    draft = f".{path.name}.{os.getpid()}"
    with _directory(path.parent, writes=True) as folder:
        try:
            with os.fdopen(_create(draft, folder), "w", encoding="utf-8") as file:
                if keep_access:
                    was = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
                    os.fchmod(file.fileno(), was.st_mode & 0o777)
                file.write(text)
                sync(file)
            os.rename(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)
        os.fsync(folder)


def sync(file: IO[str] | IO[bytes]) -> None:
    """Bring a file's content to disk."""
    file.flush()
    os.fsync(file.fileno())


def move(path: Path, name: str) -> None:
    """Give a file of ours another name in its directory; what had that name is gone."""
    with _directory(path.parent, writes=True) as folder:
        os.rename(path.name, name, src_dir_fd=folder, dst_dir_fd=folder)


def remove(path: Path) -> None:
    """Remove a file of ours, if it is there."""
    if exists(path):
        with _directory(path.parent, writes=True) as folder, suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)


def keep_copy(path: Path, folder: Path) -> None:
    """Put a copy of a data file into a directory of ours: a hard link where the disk has them."""
    with _directory(path.parent, writes=True) as source, _directory(folder, writes=True) as target:
        with suppress(FileNotFoundError):  # of an attempt that was cut off
            os.unlink(path.name, dir_fd=target)
        try:
            os.link(path.name, path.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError:
            with open_to_read(path) as old, create(folder / path.name) as new:
                shutil.copyfileobj(old, new)
                sync(new)


def remove_tree(path: Path) -> None:
    """Remove a directory of ours with all that is in it; links in it are removed, not followed."""
    with _directory(path.parent, writes=True) as folder:
        shutil.rmtree(path.name, dir_fd=folder)
