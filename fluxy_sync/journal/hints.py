"""The journal's messages "something changed". One may get lost, or none may be had at all: nothing depends on them."""

import contextlib
import threading
import time
from collections.abc import Callable

import redis

from fluxy_sync.errors import FluxySyncError
from fluxy_sync.journal.journal import Journal

TURN_S = 0.05  # what a stop waits at most for somebody who listens
CONFIRM_S = 1.0  # what the store may take to say that it was subscribed to
DEAF_S = 2.0  # after the store's messages were lost

_LOST = (redis.RedisError, FluxySyncError, OSError)


class Hints:
    """Hears of changes, for one thread.

    Args:
        reach: gives the journal; its client's timeout bounds each step.
    """

    def __init__(self, reach: Callable[[], Journal]) -> None:
        self._reach = reach
        self._messages: redis.client.PubSub | None = None
        self._deaf_until = 0.0

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for a change; False where none was heard of.

        True also once it has begun to listen: what happened before was not heard.
        """
        if self._messages is None and time.monotonic() >= self._deaf_until and self._subscribe(stop):
            return True
        ends = time.monotonic() + seconds
        while not stop.is_set() and (left_s := ends - time.monotonic()) > 0:
            if self._messages is None:
                stop.wait(left_s)
            elif self._hear(min(left_s, TURN_S)):
                return True
        return False

    def forget(self) -> None:
        """Drop those that have come: what they hint at is about to be read."""
        while self._messages is not None and self._hear(0.0):
            pass

    def close(self) -> None:
        """Listen no more, until the next wait."""
        messages, self._messages = self._messages, None
        if messages is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                messages.close()

    def _subscribe(self, stop: threading.Event) -> bool:
        try:
            journal = self._reach()
            messages: Callable[[], redis.client.PubSub] = journal.store.client.pubsub  # redis-py leaves it untyped
            self._messages = messages()
            self._messages.subscribe(journal.keys.events)
        except _LOST:
            self._lose()
            return False
        ends = time.monotonic() + CONFIRM_S
        while self._messages is not None and not stop.is_set() and time.monotonic() < ends:
            if self._hear(TURN_S):
                return True
        self._lose()
        return False

    def _hear(self, seconds: float) -> bool:
        if self._messages is None:
            return False
        try:
            return self._messages.get_message(timeout=seconds) is not None
        except _LOST:
            self._lose()
            return False

    def _lose(self) -> None:
        self.close()
        self._deaf_until = time.monotonic() + DEAF_S
