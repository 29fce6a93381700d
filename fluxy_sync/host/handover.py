"""Secrets on their way from a gateway to its processes: by a socket that both hold, never by the environment.

What is in the environment of a process stays readable there for as long as it lives, also for others of the same
user, and goes on to whatever it starts. So a child gets the number of a socket. It first closes itself to others of its
user, then asks, reads, and closes the socket.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress

from fluxy_sync.errors import ConfigError

VARIABLE = "FLUXY_SYNC_SECRETS_FD"
PR_SET_DUMPABLE = 4  # linux/prctl.h
_ASK = b"?"
_READ_AT_ONCE = 65_536
_taken: dict[str, str] = {}


class Handover:
    """What one child is given, by the names of environment variables. To be used as a context around its start."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._text = json.dumps(dict(secrets)).encode()

    def __enter__(self) -> "Handover":
        self._ours, self._its = socket.socketpair()
        return self

    @property
    def fd(self) -> int:
        """The child's descriptor: it has to inherit it, and to be told its number as ``VARIABLE``."""
        return self._its.fileno()

    def __exit__(self, *exception: object) -> None:
        self._its.close()
        # Its buffer may be smaller than the secrets, and the child takes a while until it asks.
        threading.Thread(target=self._answer, name="handover", daemon=True).start()

    def _answer(self) -> None:
        with self._ours, suppress(ConnectionError):  # a child that ended before it asked is started again
            if self._ours.recv(1) == _ASK:
                self._ours.sendall(self._text)


def taken_over() -> Mapping[str, str]:
    """What the gateway that started this process has handed to it; empty where none has.

    Raises:
        ConfigError: it ended meanwhile.
    """
    told = os.environ.pop(VARIABLE, None)
    if told is not None:
        close_to_others()
        _taken.update(_receive(told))
    return _taken


def _receive(told: str) -> dict[str, str]:
    try:
        with socket.socket(fileno=int(told)) as source:
            source.sendall(_ASK)
            text = b"".join(iter(lambda: source.recv(_READ_AT_ONCE), b""))
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{VARIABLE} is for processes that a gateway starts, and this one got nothing") from error
    return {str(name): str(value) for name, value in found.items()}


def close_to_others() -> None:
    """Keep other processes of this user from reading our memory and environment, or attaching (Linux only).

    It ends with an exec, and holds for children by a fork. It leaves no core dumps, and debuggers need root.
    """
    if sys.platform == "linux":
        import ctypes  # a producer has no use for it

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def wipe(environment: MutableMapping[str, str], names: Iterable[str]) -> None:
    """Take variables out of our own environment, and write zeros over them, where /proc/PID/environ and ps look."""
    import ctypes

    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    for name in names:
        if (at := library.getenv(os.fsencode(name))) is not None:
            ctypes.memset(at, 0, len(ctypes.string_at(at)))
        environment.pop(name, None)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that has no use for our settings: the store, and the guard."""
    return {name: value for name, value in environment.items() if not name.startswith(("FLUXY_SYNC_", "FLOWER_"))}
