"""Celery's soft time limit for the body of a task that runs inside a flush, where the pool knows nothing of it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from celery.exceptions import SoftTimeLimitExceeded


@contextlib.contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded within, after so many seconds (0: never).

    In the main thread of a process only, as a prefork pool's tasks are: nothing can interrupt another thread.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    within = True

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if within:
            raise SoftTimeLimitExceeded(seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        within = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
