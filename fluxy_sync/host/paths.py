"""Who could put something else in a path's place: each directory on the way must be ours or root's."""

import errno
import functools
import grp
import os
import pwd
import stat
from pathlib import Path

from fluxy_sync.errors import ConfigError

MOST_LINKS = 40  # as Linux has it
ROOT = 0


def resolved(path: Path) -> Path:
    """The path without symbolic links, once everything on the way to it was looked at, but not what it leads to.

    A link must belong to us or to root, as each directory must, and nobody else may rename what is in it. From a part
    that doesn't exist on, the path is taken as it is.

    Raises:
        ConfigError: somebody else could put something else in its place.
    """
    at, todo, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while todo:
        check_way(at, os.lstat(at), path)
        name = todo.pop()
        if name == "..":
            at = at.parent
            continue
        here = at / name
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return here.joinpath(*reversed(todo))
        if not stat.S_ISLNK(found.st_mode):
            at = here
            continue
        if found.st_uid not in trusted_owners():
            raise ConfigError(f"{here} is a symbolic link of {owner_name(found.st_uid)}: it isn't followed")
        if (links := links + 1) > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = here.readlink()
        at = Path("/") if target.is_absolute() else at
        todo.extend(reversed([part for part in target.parts if part != "/"]))
    return at


def check_way(here: Path, found: os.stat_result, path: Path) -> None:
    """Check a directory on the way to ``path``.

    Raises:
        ConfigError: it belongs to somebody else, or others may rename what is in it.
    """
    if found.st_uid not in trusted_owners():
        raise ConfigError(not_ours(here, found.st_uid))
    if others_may_write(found) and not found.st_mode & stat.S_ISVTX and not is_sheltered(here):
        raise ConfigError(
            f"other users may write to {here} (mode {stat.S_IMODE(found.st_mode):04o}), and could replace {path}; "
            f"run 'chmod go-w {here}', or use a directory elsewhere; nothing was changed"
        )


def is_sheltered(here: Path) -> bool:
    """Whether a directory of ours above this one lets nobody else in, so that modes below it don't matter."""
    return any(above.st_uid == os.geteuid() and not above.st_mode & 0o011 for above in map(os.lstat, here.parents))


def others_may_write(found: os.stat_result) -> bool:
    """Whether somebody beside the owner and root may; a group that holds its owner alone, as many systems make it,
    is no somebody."""
    group_may = bool(found.st_mode & stat.S_IWGRP) and not _is_group_of_one(found.st_gid)
    return group_may or bool(found.st_mode & stat.S_IWOTH)


def _is_group_of_one(gid: int) -> bool:
    try:
        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return me.pw_gid == gid and group.gr_name == me.pw_name and set(group.gr_mem) <= {me.pw_name}


def trusted_owners() -> set[int]:
    """Those who may own a directory on the way to ours, or a file that we only read: root and ourselves."""
    return {ROOT, os.geteuid()} | _unknown_owner()


@functools.cache
def _unknown_owner() -> set[int]:
    """In a user namespace: whom the machine's own root appears as."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
        return set() if lines[-1] == "4294967295" else {int(Path("/proc/sys/kernel/overflowuid").read_text("ascii"))}
    except (OSError, IndexError):  # no Linux
        return set()


def owner_name(uid: int) -> str:
    """A user for an error's text, e.g. ``ann (uid 1000)``."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def not_ours(path: Path, uid: int) -> str:
    """What to do about something that belongs to another user."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"#{uid}"
    return (
        f"{path} belongs to {owner_name(uid)}, and this process is {owner_name(os.geteuid())}; nothing was changed. "
        f"Run it as that user (sudo -u '{name}' fluxy-sync ...), or set FLUXY_SYNC_DATA_DIR to a directory of your own"
    )
