"""What can be read: the record, lanes, dead letters and the last hour. None of it needs a key, none shows a payload."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from fluxy_sync.dashboard.board import Board
from fluxy_sync.dashboard.handler import Refusal, SyncHandler
from fluxy_sync.dashboard.openapi import LIMIT_DEFAULT, LIMIT_MOST, document
from fluxy_sync.journal import DeadLetter, Inventory, Waiting
from fluxy_sync.journal.inventory import PAUSED
from fluxy_sync.words import reason_text

FARTHEST = 2**53
NO_ERROR = ("", "-")
HELD_LOOKED_AT = 1_000
HEAD_PAGE = 8  # records: enough to find a head, which stands behind what was cancelled


class Sync(SyncHandler):
    """GET /api/sync."""

    async def get(self) -> None:
        board: Board = self.application.board
        if board.reading is None:
            raise Refusal(503, "the store can't be read, and hasn't been since the dashboard started")
        self.finish(board.record())


class Lanes(SyncHandler):
    """GET /api/sync/lanes."""

    parameters = frozenset({"limit"})

    async def get(self) -> None:
        limit = self.whole_number("limit", LIMIT_DEFAULT, 1, LIMIT_MOST)
        self.finish(await self.run(lanes, self.application.inventory, limit))


class Dead(SyncHandler):
    """GET /api/sync/dead."""

    parameters = frozenset({"after", "limit"})

    async def get(self) -> None:
        limit = self.whole_number("limit", LIMIT_DEFAULT, 1, LIMIT_MOST)
        after = self.whole_number("after", 0, 0, FARTHEST)
        self.finish(await self.run(dead_letters, self.application.inventory, limit, after))


class History(SyncHandler):
    """GET /api/sync/history."""

    async def get(self) -> None:
        samples = await self.run(self.application.inventory.samples)
        self.finish({"now": rfc3339(datetime.now(UTC)), "samples": samples})


class OpenApi(SyncHandler):
    """GET /api/sync/openapi.json."""

    async def get(self) -> None:
        prefix = (self.application.options.url_prefix or "").strip("/")
        self.finish(document(f"/{prefix}" if prefix else ""))


def lanes(inventory: Inventory, limit: int) -> dict[str, Any]:
    """The lanes that have waited longest, each with its head's state; then those that are paused and empty."""
    names = inventory.waiting_since(FARTHEST)[:limit]
    held = inventory.why_held(names)
    found = [_lane(inventory, name, held.get(name, ())) for name in names]
    found += [_empty_lane(name, causes) for name, causes in _paused_empty(inventory, limit - len(names))]
    shown = [lane for lane in found if lane is not None]
    return {"lanes": shown, "more": max(0, inventory.lane_count() - len(names))}


def _lane(inventory: Inventory, name: str, causes: tuple[str, ...]) -> dict[str, Any] | None:
    pages = inventory.pages(name, HEAD_PAGE)
    head = next(chain.from_iterable(page.waiting for page in pages), None)
    if head is None:
        return None  # it has just drained
    error = None if head.last_error in NO_ERROR else head.last_error
    return {
        "lane": name,
        "pending": max(1, inventory.count(name)),
        "state": _state(head, causes),
        "oldest_age_s": head.age_s,
        "retries": head.retries,
        "next_try_in_s": None if causes or head.state == "syncing" else head.next_try_in_s,
        "last_error": error,
        "last_error_text": error and reason_text(error),
        "held_for": list(causes),
        "held_for_text": [reason_text(why) for why in causes],
    }


def _paused_empty(inventory: Inventory, most: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Paused lanes without an operation: nothing else shows them, and what is queued there next waits."""
    held = islice(inventory.held(), HELD_LOOKED_AT)
    return islice(((lane, causes) for lane, causes in held if PAUSED in causes and not inventory.count(lane)), most)


def _empty_lane(name: str, causes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "lane": name,
        "pending": 0,
        "state": "held",
        "oldest_age_s": None,
        "retries": 0,
        "next_try_in_s": None,
        "last_error": None,
        "last_error_text": None,
        "held_for": list(causes),
        "held_for_text": [reason_text(why) for why in causes],
    }


def _state(head: Waiting, causes: tuple[str, ...]) -> str:
    return "held" if causes and head.state != "syncing" else head.state


def dead_letters(inventory: Inventory, limit: int, after: int) -> dict[str, Any]:
    """A page of dead letters in the order in which they died; ``next`` goes on behind it."""
    found: Iterator[DeadLetter] = islice(inventory.letters(after), limit + 1)
    letters = list(found)
    last = letters[limit - 1].number if len(letters) > limit else None
    return {"letters": [_letter(one) for one in letters[:limit]], "next": last}


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.number,
        "id": letter.id,
        "lane": letter.lane,
        "reason": letter.reason,
        "reason_text": reason_text(letter.reason),
        "retries": letter.retries,
        "died_at": rfc3339(letter.died_at),
        "size": letter.size,
        "halts": letter.halts,
    }


def rfc3339(moment: datetime) -> str:
    """A moment as all JSON documents give it: ``2026-11-23T12:00:00.000Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
