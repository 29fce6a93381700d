"""Flower's options, made safe: what nobody set gets a value that fits a gateway, and nobody gets in unasked."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flower.command
from celery.utils.log import ColorFormatter
from flower.options import options
from tornado.log import LogFormatter
from tornado.options import Error

from fluxy_sync.errors import ConfigError
from fluxy_sync.gateway import (
    DASHBOARD_PASSWORD_FILE,
    DASHBOARD_USER,
    LOOPBACK,
    dashboard_port,
    kept_secret,
    refuse_open_api,
)
from fluxy_sync.host.files import make_private_dir
from fluxy_sync.host.handover import taken_over
from fluxy_sync.logs import EventFormatter
from fluxy_sync.settings import Settings

COOKIE_SECRET_FILE = "dashboard.cookie"  # noqa: S105 - a file's name
MAX_TASKS = 5_000  # about 10 MB; Flower's own 100,000 are too many for a gateway
MAX_WORKERS = 500  # of the 5,000 that Flower would keep; each has series of its own in /metrics
PURGE_AFTER_S = 300
_LOGIN = re.compile(r"[!-9;-~]+:[!-~]+")


class Entry(NamedTuple):
    """How to get in: the password, where it was made here, and the file that keeps it."""

    password: str | None
    kept_in: Path


def read_options(settings: Settings, arguments: Sequence[str]) -> Entry:
    """Read Flower's FLOWER_* variables, its configuration file and its command line, and make them safe.

    Raises:
        ConfigError: one is wrong, or would let anybody in.
    """
    refuse_open_api({**os.environ, **taken_over()})
    for name in [name for name, value in os.environ.items() if name.startswith("FLOWER_") and not value]:
        del os.environ[name]  # as for our own variables, empty means unset
    _set_defaults(settings)
    _read(_apply_variables, "a FLOWER_* variable is wrong")
    _refuse_unknown(arguments)
    program = "fluxy-sync flower"
    _read(lambda: flower.command.apply_options(program, arguments), "Flower's options can't be read")
    entry = Entry(_require_sign_in(settings), settings.data_dir / DASHBOARD_PASSWORD_FILE)
    _extract_settings()
    flower.command.setup_logging()
    _guard_log()
    return entry


def _apply_variables() -> None:
    """Flower reads its variables from the environment alone: what the gateway handed over is there for so long."""
    handed = {name: value for name, value in taken_over().items() if name.startswith("FLOWER_")}
    os.environ.update(handed)
    try:
        flower.command.apply_env_options()
    finally:
        for name in handed:
            del os.environ[name]


def _guard_log() -> None:
    """Let no event be more than one to whoever reads the log, and none steer a terminal."""
    colors = ColorFormatter.colors if sys.stderr.isatty() else None
    for handler in logging.getLogger().handlers:
        formatter = LogFormatter(color=False) if isinstance(handler.formatter, LogFormatter) else handler.formatter
        handler.setFormatter(EventFormatter(formatter or logging.Formatter(), colors))


def _extract_settings() -> None:
    try:
        flower.command.extract_settings()
    except SystemExit as error:
        raise ConfigError("Flower refuses its options: see the line before") from error


def _set_defaults(settings: Settings) -> None:
    ours = {
        "address": LOOPBACK,
        "port": dashboard_port(settings),
        "max-tasks": MAX_TASKS,
        "max-workers": MAX_WORKERS,
        "purge-offline-workers": PURGE_AFTER_S,
    }
    for name, value in ours.items():
        options._options[name].default = value


def _read(read: Callable[[], object], what: str) -> None:
    try:
        read()
    except (ValueError, KeyError, Error, OSError) as error:
        raise ConfigError(f"{what}: {' '.join(str(error).split())}") from error


def _refuse_unknown(arguments: Sequence[str]) -> None:
    """Flower itself passes over what it doesn't know, a mistyped ``--read_onyl`` as well."""
    for argument in arguments:
        if not (argument.startswith("--") and flower.command.is_flower_option(argument)):
            name = argument.partition("=")[0]
            raise ConfigError(f"the dashboard has no option {name}; give those of Flower as --name=value")


def _require_sign_in(settings: Settings) -> str | None:
    """Check who may sign in; the password where one had to be made."""
    if options.auth:
        _keep_cookie_secret(settings)
    elif not options.basic_auth:
        password = _kept(settings, DASHBOARD_PASSWORD_FILE, "set FLOWER_BASIC_AUTH to user:password")
        options.basic_auth = [f"{DASHBOARD_USER}:{password}"]
        return password
    if not all(map(_LOGIN.fullmatch, options.basic_auth or ())):
        raise ConfigError(
            "FLOWER_BASIC_AUTH takes user:password in printable ASCII without spaces; several with commas"
        )
    return None


def _keep_cookie_secret(settings: Settings) -> None:
    """With the same secret as before, a restart signs nobody out."""
    if options.cookie_secret == options._options["cookie-secret"].default:
        options.cookie_secret = _kept(settings, COOKIE_SECRET_FILE, "set FLOWER_COOKIE_SECRET")


def _kept(settings: Settings, name: str, instead: str) -> str:
    try:
        return kept_secret(make_private_dir(settings.data_dir) / name)
    except ConfigError as error:
        raise ConfigError(f"{error}; or {instead}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{settings.data_dir / name} can't be made or read; {instead}") from error


def current_options() -> Any:
    """The options as they are now: Flower keeps one set for its process."""
    return options
