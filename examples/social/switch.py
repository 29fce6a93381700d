"""The switch that takes the upstream down and up: a file, so that it stays as it is while anybody restarts."""

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE_S = 2.0
LOOK_S = 0.02


class Switch:
    """The file that ``examples.social.upstream`` follows, and the upstream's address."""

    def __init__(self, path: Path, upstream: str) -> None:
        self._path = path
        address = urlsplit(upstream)
        self._address = (address.hostname or "", address.port or 80)

    @property
    def is_up(self) -> bool:
        """Whether the upstream is to accept connections."""
        return not self._path.exists()

    def turn(self, up: bool) -> None:
        """Turn it, and wait a moment until the upstream has followed."""
        if up:
            self._path.unlink(missing_ok=True)
        else:
            self._path.touch()
        ends = time.monotonic() + PATIENCE_S
        while self._accepts() != up and time.monotonic() < ends:
            time.sleep(LOOK_S)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(self._address, timeout=1.0).close()
        except OSError:
            return False
        return True
