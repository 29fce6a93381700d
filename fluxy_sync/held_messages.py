"""Messages that a worker can't open, as their key is missing: held unacked until it comes, then offered again."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fluxy_sync.logs import get_logger
from fluxy_sync.sealing import has_key

logger = get_logger(__name__)

HELD_S = 30.0  # then another worker may have its key
OFFERS_PER_S = 10  # of messages whose key is missing: whoever invents thousands of them keeps nobody busy
LOOK_S = 1.0
MOST_BESIDE = 1000  # that leave room for others, as messages with an eta do; with more, the worker takes no more


class _Held(NamedTuple):
    message: Any
    key: str
    since: float
    beside: bool


class HeldMessages:
    """What one consumer holds. Where its worker ends, the broker has them back at once.

    Args:
        consumer: Celery's, in whose loop all of this runs.
        has: whether a key is there by now.
    """

    def __init__(self, consumer: Any, has: Callable[[str], bool] = has_key) -> None:
        self._consumer, self._has = consumer, has
        self._held: list[_Held] = []
        self._looks = False

    def hold(self, message: Any, key: str) -> None:
        """Keep one unacked. It leaves room for others, unless there are a great many."""
        beside = len(self._held) < MOST_BESIDE
        if beside:
            self._consumer.qos.increment_eventually()
        self._held.append(_Held(message, key, time.monotonic(), beside))
        self._look_soon()

    def forget(self) -> None:
        """The connection is gone, and with it the right to answer for them."""
        self._held = []

    def _look_soon(self) -> None:
        if not self._looks:
            self._looks = True
            # Timers may run in a thread of their own; the connection is the consumer's.
            self._consumer.timer.call_after(LOOK_S, self._consumer.call_soon, (self._look,))

    def _look(self) -> None:
        self._looks = False
        there = {key for key in {one.key for one in self._held} if self._has(key)}
        lasts_s, now = max(HELD_S, len(self._held) / OFFERS_PER_S), time.monotonic()
        offered = [one for one in self._held if one.key in there or now - one.since >= lasts_s]
        kept = set(map(id, offered))
        self._held = [one for one in self._held if id(one) not in kept]
        for one in offered:
            if one.beside:
                self._consumer.qos.decrement_eventually()
            one.message.reject_log_error(logger, self._consumer.connection_errors, requeue=True)
        if self._held:
            self._look_soon()
