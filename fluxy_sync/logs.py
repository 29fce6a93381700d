"""Logs that nobody forges: names, headers and errors come from elsewhere, and are written as text."""

import logging
from collections.abc import Mapping
from typing import Any

from fluxy_sync.escaping import one_event, visible

_HARMLESS = (int, float, type(None))  # a format such as %d or %g needs them as they are


def get_logger(name: str) -> logging.Logger:
    """The logger of one of our modules: what its events are given is written as text, whoever formats them."""
    logger = logging.getLogger(name)
    logger.addFilter(_as_text)
    return logger


def _as_text(record: logging.LogRecord) -> bool:
    if isinstance(record.args, Mapping):
        record.args = {name: _argument(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(map(_argument, record.args))
    if record.exc_info and not record.exc_text:
        # Python's formatter, and those made from it, take the text that is there already.
        record.exc_text = one_event(logging.Formatter().formatException(record.exc_info))
    return True


def _argument(value: object) -> object:
    return value if isinstance(value, _HARMLESS) else visible(str(value))


class EventFormatter(logging.Formatter):
    """Another formatter's text, with everything written out that could steer a terminal or begin a forged line.

    Args:
        inner: one that adds no colours.
        colors: Celery's for each level, where the log goes to a terminal.
    """

    def __init__(self, inner: logging.Formatter, colors: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._inner = inner
        self._colors = colors or {}

    def format(self, record: logging.LogRecord) -> str:
        text = one_event(self._inner.format(record))
        color = self._colors.get(record.levelname)
        return str(color(text)) if color else text
