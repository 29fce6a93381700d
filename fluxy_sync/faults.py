"""Exceptions that no row of the outcome table names, told without what they say: a message may quote a payload."""

import errno
import traceback

import requests
import urllib3

FRAMES = 12  # told at most, the innermost ones
CAUSES = 8  # of one exception, looked at at most

LOCAL = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT,
        errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ECHILD, errno.ENOEXEC,
    }
)  # fmt: skip
"""What the system says of this machine, and never of the network."""


def local_fault(error: BaseException) -> OSError | None:
    """The system's complaint about this machine (too many open files, a full disk) behind an error of the network."""
    if isinstance(error, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
        return None  # certificates are files, too: the table has a row for TLS
    return next((one for one in _causes(error) if isinstance(one, OSError) and one.errno in LOCAL), None)


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and what it was made from, however that was noted."""
    found: list[BaseException] = []
    left: list[object] = [error]
    while left and len(found) < CAUSES:
        one = left.pop(0)
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            left += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return found


def place_of(error: BaseException) -> str:
    """The exception's type and where it was raised, innermost first: ``KeyError at /a/b.py:12 in run < ...``."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = " < ".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(frames))
    code = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    return f"{type(error).__name__}{f' ({code})' if code else ''}{f' at {places}' if places else ''}"
