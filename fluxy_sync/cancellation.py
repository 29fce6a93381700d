"""Cancelling operations of which the ids are known, and mostly not the lanes."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from fluxy_sync.engine import Engine
from fluxy_sync.errors import ConfigError, FluxySyncError, InvalidOperation, StorageUnavailable
from fluxy_sync.journal import Journal
from fluxy_sync.journal.seek import seek
from fluxy_sync.kept_result import BACKEND_AWAY
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import MAX_LANE_BYTES, OWN_LANE_MARK, check_operation_id
from fluxy_sync.tasks import SyncTask

logger = get_logger(__name__)

REVOKE_LOOKS_S = 2.0
IDS_AT_ONCE = 500


def cancel_anywhere(app: Any, operation_id: str, lane: str | None = None) -> bool:
    """Cancel an operation on its lane, or on whichever holds it; True where it was waiting there.

    Raises:
        StorageUnavailable: the store can't be reached; nothing changed.
    """
    engine: Engine = app.fluxy_engine
    if lane is not None:
        return _cancel(app, engine, operation_id, lane)
    found = seek(engine.journal, [operation_id], _lanes(engine.journal, [operation_id]))
    return any(_cancel(app, engine, operation_id, where) for _, where in found)


def cancel_revoked(app: Any, task_ids: Sequence[str]) -> None:
    """Cancel those of the tasks that wait in the journal; most of them may be no operations at all.

    It never raises, and looks for two seconds at most: what couldn't be looked for is said in the log.
    """
    ids = [one for one in task_ids if _may_be_ours(one)]
    engine: Engine = app.fluxy_engine
    ends = time.monotonic() + REVOKE_LOOKS_S
    try:
        if not ids or not engine.journal.snapshot().pending:
            return
        for first in range(0, len(ids), IDS_AT_ONCE):
            some = ids[first : first + IDS_AT_ONCE]
            for operation_id, lane in seek(engine.journal, some, _lanes(engine.journal, some), give_up_at=ends):
                _cancel(app, engine, operation_id, lane)
    except (ConfigError, StorageUnavailable, TimeoutError) as error:
        logger.warning(
            "Celery's workers were told to revoke %d tasks, but whether operations wait under these ids isn't known "
            "(%s): see 'fluxy-sync cancel'.", len(ids), error,
        )  # fmt: skip


def _may_be_ours(task_id: str) -> bool:
    try:
        check_operation_id(task_id)
    except InvalidOperation:
        return False
    return True


def _lanes(journal: Journal, ids: Iterable[str]) -> Iterable[str]:
    """All lanes, those that the operations may have to themselves first."""
    own = dict.fromkeys(f"{OWN_LANE_MARK}{one}"[:MAX_LANE_BYTES] for one in ids)
    yield from own
    yield from (lane for lane in journal.lanes() if lane not in own)


def _cancel(app: Any, engine: Engine, operation_id: str, lane: str) -> bool:
    status, record = engine.journal.cancel(lane, operation_id)
    if status == "cancelled":
        _mark_revoked(app, engine, lane, record)
    return status == "cancelled"


def _mark_revoked(app: Any, engine: Engine, lane: str, record: bytes) -> None:
    """Where results are kept, the state becomes REVOKED."""
    stored = engine.journal.parse(record)
    try:
        operation = engine.open(stored, lane)
    except FluxySyncError:
        return  # it can't be opened here, so nobody waits for its result here
    task = app.tasks.get(operation.task)
    if not isinstance(task, SyncTask) or not task.keeps_result(operation):
        return
    try:
        task.backend.mark_as_revoked(stored.id, reason="cancelled", store_result=True)
    except BACKEND_AWAY as error:
        logger.warning(
            "The operation %s was cancelled, but its result can't be marked as revoked (%s).",
            stored.id, type(error).__name__,
        )  # fmt: skip
