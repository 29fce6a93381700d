"""The messages of our own queues: whoever may write to the broker can put anything there, and none ends a worker.

In all other queues of an app nothing is different from plain Celery.
"""

import sys
from collections.abc import Callable
from typing import Any

from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu.transport import virtual

from fluxy_sync.compression import BoundedMessage
from fluxy_sync.settings import Settings

_THEIRS = frozenset({"celery", "kombu", "amqp", "vine", "billiard", "redis", "dateutil", "fluxy_sync"})


def is_own(message: Any) -> bool:
    """Whether it came by one of our queues. ``mark_own`` was called for their consumer."""
    return getattr(message, "is_bounded", False)


def mark_own(consumer: Any, settings: Settings) -> None:
    """Let a consumer (kombu's) tell messages of our queues, and stop at a size when it decompresses one.

    A message's own word for where it was sent doesn't count: its sender wrote it.
    """
    queues = frozenset({settings.queue_name, f"{settings.namespace}.tasks"})
    channel = consumer.channel
    transport = channel.connection
    if isinstance(transport, virtual.Transport):
        comes_by_own = _noting(transport, queues)
    else:
        # By the tag under which the broker was asked for a queue.
        def comes_by_own(delivery: dict[str, Any]) -> bool:
            return delivery.get("consumer_tag") in {consumer._active_tags.get(queue) for queue in queues}

    channel.Message = _marked(channel.Message, comes_by_own)


def _noting(transport: Any, queues: frozenset[str]) -> Callable[[dict[str, Any]], bool]:
    deliver = transport._deliver
    arrives = [False]

    def deliver_noted(message: Any, queue: str) -> Any:
        arrives[0] = queue in queues
        try:
            return deliver(message, queue)
        finally:
            arrives[0] = False

    transport._deliver = deliver_noted
    return lambda delivery: arrives[0]


def _marked(kind: type, comes_by_own: Callable[[dict[str, Any]], bool]) -> type:
    class Marked(BoundedMessage):
        def __init__(self, body: Any = None, *, delivery_info: Any = None, **options: Any) -> None:
            self.is_bounded = comes_by_own(delivery_info or {})
            super().__init__(body, delivery_info=delivery_info, **options)

    return type(kind.__name__, (kind, Marked), {})


def blames_message(error: BaseException, message: Any, app: Any) -> bool:
    """Whether it was the message that made the handling fail: where a user's code took part, Celery's own is asked."""
    return not _is_of_user(error) or not _is_readable(message, app)


def _is_of_user(error: BaseException) -> bool:
    frame = error.__traceback__
    while frame is not None:
        room = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if room not in _THEIRS and room not in sys.stdlib_module_names:
            return True
        frame = frame.tb_next
    return False


def _is_readable(message: Any, app: Any) -> bool:
    """Whether Celery's own strategy and request can make anything of it."""
    try:
        headers, body, decoded = message.headers, None, True
        if "task" not in headers:
            body, headers, *_ = proto1_to_proto2(message, message.payload)
        elif "args" in message.payload:
            body, headers, *_ = hybrid_to_proto2(message, message.payload)
        else:
            decoded = False
        task = app.tasks[headers["task"]]
        request = Request(message, app=app, task=task, body=body, headers=headers, decoded=decoded)
        hash(request.id)
    except Exception:  # noqa: BLE001 -- whatever it is, it comes from the message alone
        return False
    return True
