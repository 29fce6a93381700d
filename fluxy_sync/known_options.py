"""The names of options that a call may have: ours, Celery's and kombu's. Another one would be ignored, silently."""

import difflib
import functools
import inspect
from collections.abc import Collection, Iterable

from celery import Celery, Task
from celery.app.amqp import AMQP
from kombu.messaging import Producer

from fluxy_sync.errors import InvalidOperation

OURS = ("lane", "policy", "once", "on_dead", "outcomes", "keep_result", "countdown", "expires", "eta")
OF_A_MESSAGE = (
    "queue", "exchange", "exchange_type", "routing_key", "priority", "serializer", "compression", "delivery_mode",
    "immediate", "mandatory", "headers", "retry", "retry_policy", "declare", "expiration", "timeout", "confirm_timeout",
    "content_type", "content_encoding", "correlation_id", "message_id", "timestamp", "type", "user_id", "app_id",
    "cluster_id", "stamped_headers", "ignore_result", "event_dispatcher",
)  # fmt: skip
"""Celery and kombu (5.7) take these as ``**options``."""


@functools.cache
def celerys() -> frozenset[str]:
    """What Celery's ways to send a task take."""
    found: set[str] = set(OF_A_MESSAGE)
    for call in (Celery.send_task, Task.apply_async, Task.apply, AMQP.as_task_v2, Producer.publish):
        found.update(inspect.signature(call).parameters)
    return frozenset(found - {"self", "options", "properties"})


def check_options(given: Iterable[str], stamps: Collection[str] = ()) -> None:
    """Refuse what nobody knows.

    Args:
        stamps: the names of Celery's stamps, which stand beside the options.

    Raises:
        InvalidOperation: it names the nearest right one.
    """
    for name in given:
        if name not in OURS and name not in celerys() and name not in stamps:
            raise unknown(name, [*OURS, *sorted(celerys())])


def unknown(name: object, known: Collection[str]) -> InvalidOperation:
    """What is said of a name that isn't known."""
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}" if len(known) < 20 else ""
    return InvalidOperation("; ".join(filter(None, (f"no option is named {name!r}", meant, "nothing was accepted"))))
