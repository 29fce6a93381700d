"""Runs a gateway whose one child writes what a file holds, and waits."""

import sys
from collections.abc import Mapping

from fluxy_sync.errors import FluxySyncError
from fluxy_sync.gateway import Gateway
from fluxy_sync.settings import Settings
from fluxy_sync.supervisor import Command

LAST_LINE = "that was all"
SCRIPT = f"""
import signal, sys
sys.stdout.buffer.write(open(sys.argv[1], "rb").read() + b"\\n{LAST_LINE}\\n")
sys.stdout.flush()
signal.pause()
"""


def child(_live: Settings, environment: Mapping[str, str]) -> list[Command]:
    return [Command("child", (sys.executable, "-c", SCRIPT, sys.argv[1]), environment, LAST_LINE)]


if __name__ == "__main__":
    try:
        sys.exit(Gateway(Settings(), dashboard=False, commands=child).run())
    except FluxySyncError as error:
        sys.exit(f"{type(error).__name__}: {error}")
