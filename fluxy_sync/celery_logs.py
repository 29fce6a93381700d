"""The log of our own app's worker and beat: whatever Celery, kombu and tasks write there is written as text."""

import logging
from typing import Any

from celery.app.log import Logging
from celery.utils.log import ColorFormatter

from fluxy_sync.logs import EventFormatter


class EventLogging(Logging):
    """Celery's, in which an event is one line, or a line and others that are set in, in whatever format is configured.

    A configuration of the user's own stays as it is: one made at the signal ``setup_logging``, or one kept by
    ``worker_hijack_root_logger=False``.
    """

    def setup_handlers(self, logger: logging.Logger, *args: Any, **kwargs: Any) -> logging.Logger:
        configured = list(logger.handlers)
        found: logging.Logger = super().setup_handlers(logger, *args, **kwargs)
        for handler in found.handlers:
            if handler not in configured and handler.formatter is not None:
                handler.setFormatter(_safe(handler.formatter))
        return found


def _safe(formatter: logging.Formatter) -> EventFormatter:
    colors = None
    if isinstance(formatter, ColorFormatter) and formatter.use_color:
        formatter.use_color, colors = False, formatter.colors
    return EventFormatter(formatter, colors)
