"""Where a store's unix socket goes, and whether a socket is to be trusted with a password.

Whoever can replace a socket's file gets what clients send to it, the store's password first. So its directory must
be ours or root's, and nobody else may write to it or rename it.
"""

import hashlib
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fluxy_sync.errors import ConfigError
from fluxy_sync.host.files import exists, make_private_dir
from fluxy_sync.host.paths import check_way, resolved

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # sockaddr_un.sun_path, without its NUL
AWAY_MARK = ".fluxy-sync"  # the end of the name of a socket that isn't in its data directory
LINGERING = Path("/var/lib/systemd/linger")
_DIGEST_CHARS = 24


def socket_path(preferred: Path) -> Path:
    """The socket's path: ``preferred``, or a short one in a private directory where that is too long.

    The short one is the same at each start. It lies in $XDG_RUNTIME_DIR or /run/user/UID, else in a directory of our
    own (``fluxy-sync-UID``, 0700) under the temporary directory. systemd removes /run/user/UID at the user's last
    logout, with what runs there, unless they linger (loginctl enable-linger): only then it is used. A cleaner of
    temporary files may take a socket that is in use (systemd-tmpfiles doesn't): the gateway notices, and starts the
    store again at the same place.

    Raises:
        ConfigError: no place is short enough, or the one that is there belongs to somebody else.
    """
    if _fits(preferred):
        return preferred
    name = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:_DIGEST_CHARS] + AWAY_MARK
    for folder in _short_folders():
        if _fits(folder / name):
            return folder / name
    raise ConfigError(f"{preferred} is too long for a unix socket; use a shorter FLUXY_SYNC_DATA_DIR")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH


def _short_folders() -> Iterator[Path]:
    uid = os.geteuid()
    of_session = f"/run/user/{uid}"
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), of_session):
        stays = folder.startswith("/") and (folder != of_session or _lingers(uid))
        if stays and _is_private(Path(folder)):
            yield Path(folder)
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 -- what lies there is checked
        folder = f"{parent}/fluxy-sync-{uid}"
        if len(os.fsencode(folder)) + _DIGEST_CHARS < LONGEST_SOCKET_PATH:
            yield make_private_dir(Path(folder))


def _lingers(uid: int) -> bool:
    """Whether systemd keeps the user's runtime directory while nobody is logged in."""
    try:
        return (LINGERING / pwd.getpwuid(uid).pw_name).exists()
    except (KeyError, OSError):
        return False


def _is_private(folder: Path) -> bool:
    """Whether it is ours alone, and stays so; without a session of the user's it mostly doesn't exist."""
    try:
        place = resolved(folder)
        found = os.lstat(place)
    except (OSError, ConfigError):
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700


def check_socket(path: Path) -> None:
    """Check that nobody but us and root could have put this socket there.

    Raises:
        ConfigError: somebody could.
    """
    if exists(path.parent):
        folder = resolved(path.parent)
        check_way(folder, os.lstat(folder), path)


def is_away(path: str) -> bool:
    """Whether it is the socket of an embedded store whose data directory's path is too long."""
    return path.endswith(AWAY_MARK)
