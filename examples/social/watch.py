"""The live counters: passed on to every page that listens, and the sign to look what became of the posts."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from examples.social.feed import Feed
from fluxy_sync import FluxySync, FluxySyncError
from fluxy_sync.status import Status

AGAIN_S = 1.0
PING_S = 15.0  # the indicator calls a stream dead that has been silent for 20 s
UNKNOWN: dict[str, Any] = {**dict.fromkeys(Status.__struct_fields__), "stale": True}


class Watch:
    """Follows the queue's live status, with one reader for all pages.

    Attributes:
        record: the last one, as ``GET /api/sync`` of the dashboard gives it; ``stale`` while the store can't be read.
    """

    def __init__(self, sync: FluxySync, feed: Feed) -> None:
        self._sync, self._feed = sync, feed
        self._whose = {"boot": str(uuid.uuid4()), "namespace": sync.engine.settings.namespace}
        self._news = asyncio.Event()
        self._ending = asyncio.Event()
        self.record: dict[str, Any] = {**UNKNOWN, **self._whose}

    async def run(self) -> None:
        """Follow it until ``end``."""
        while not self._ending.is_set():
            try:
                await self._follow()
            except FluxySyncError:
                self._tell({**self.record, "stale": True})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), AGAIN_S)

    async def _follow(self) -> None:
        """Until ``end``, or until the posts must be looked at again without a change.

        Raises:
            StorageUnavailable: the store can't be read.
        """
        async for status in self._sync.live.changes():
            if not status.stale:
                await asyncio.to_thread(self._feed.follow)  # first: a page that hears of the change asks for the posts
            self._tell(status.to_dict() | self._whose)
            if self._feed.is_unsure:
                return

    def _tell(self, record: dict[str, Any]) -> None:
        self.record = record
        self._news.set()
        self._news = asyncio.Event()

    async def end(self) -> None:
        """End the streams, and what follows the queue."""
        self._ending.set()
        self._tell(self.record)
        await asyncio.to_thread(self._sync.close)

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: the whole record, at once and on each change."""
        yield "retry: 1000\n\n"
        while not self._ending.is_set():
            news = self._news
            yield f"id: {self.record['rev']}\ndata: {json.dumps(self.record)}\n\n"
            while not news.is_set():
                try:
                    await asyncio.wait_for(news.wait(), PING_S)
                except TimeoutError:
                    yield ": ping\n\n"
