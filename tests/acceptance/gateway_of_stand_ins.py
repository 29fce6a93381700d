"""Runs a gateway whose worker and beat are stand-ins."""

import sys
from collections.abc import Mapping
from pathlib import Path

from fluxy_sync.errors import FluxySyncError
from fluxy_sync.gateway import Gateway
from fluxy_sync.settings import Settings
from fluxy_sync.supervisor import Command


def stand_ins(_live: Settings, environment: Mapping[str, str]) -> list[Command]:
    path = str(Path(__file__).with_name("stand_in.py"))
    names = ("worker", "beat")
    return [Command(name, (sys.executable, path, name), environment, " ready.", 20.0) for name in names]


try:
    sys.exit(Gateway(Settings(), dashboard=False, commands=stand_ins).run())
except FluxySyncError as error:
    sys.exit(f"{type(error).__name__}: {error}")
