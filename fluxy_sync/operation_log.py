"""What a worker logs of single operations and wake tokens: nothing above DEBUG, where all goes well.

A line for each costs more than its delivery leaves room for, and an SD card its life; ``progress`` sums them up.
"""

import logging
from collections.abc import Mapping

from fluxy_sync.operation import FLUSH
from fluxy_sync.tasks import now_under_way

_LOGGERS = ("celery.app.trace", "celery.worker.strategy")  # which log that a task was received, and how it ended


class _Quiet(logging.Filter):
    """Turns Celery's INFO lines about an operation that this thread delivers, and about wake tokens, into DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.INFO or not isinstance(record.args, Mapping):
            return True
        if record.args.get("name") != FLUSH and now_under_way(str(record.args.get("id"))) is None:
            return True
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


_quiet = _Quiet()


def quieten() -> None:
    """Log single operations and wake tokens at DEBUG in this process, and in those that it forks."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_quiet)
