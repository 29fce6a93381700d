"""Flower's own eyes on the workers: it hears them, and asks them nothing.

Workers take and send sealed messages alone, and the dashboard has no keys: its broadcasts would only fill their logs.
"""

import asyncio
import time
from typing import Any

from celery.events import EventReceiver
from flower.events import Events
from flower.inspector import Inspector

from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

LONGEST_PAUSE_S = 5.0


class Listening(Events):
    """Flower's, which after a long outage of the store is back soon: its own pauses double without an end."""

    def run(self) -> None:
        pause_s = 1.0
        while True:
            try:
                self._capture()
                pause_s = 1.0
            except Exception as error:  # noqa: BLE001 -- whatever the broker's transport raises: it is tried again
                logger.info("Task events can't be heard (%s); tried again in %g s.", type(error).__name__, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _capture(self) -> None:
        with self.capp.connection() as connection:
            receiver = EventReceiver(connection, handlers={"*": self.on_event}, app=self.capp)
            receiver.capture(limit=None, timeout=None, wakeup=False)


class Mute(Inspector):
    """Knows no worker but by what it hears."""

    def inspect(self, workername: str | None = None) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.Future(loop=self.io_loop.asyncio_loop)
        done.set_result(None)
        return done


def events_of(app: Any, options: Any, io_loop: Any) -> Listening:
    """The events as Flower makes them from its options; the flush tells them without being asked to."""
    return Listening(
        app,
        db=options.db,
        persistent=options.persistent,
        state_save_interval=options.state_save_interval,
        enable_events=False,
        io_loop=io_loop,
        max_workers_in_memory=options.max_workers,
        max_tasks_in_memory=options.max_tasks,
    )
