"""A worker that fails where its lane says, for FLUXY_SYNC_IMPORTS: 'writing/KeyError', until the file CURED exists."""

import errno
import functools
import os
import ssl
from pathlib import Path
from typing import Any

from celery.exceptions import NotRegistered, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from fluxy_sync import SyncTask, delivery, flush, http_task, tasks
from fluxy_sync.app import default_app
from fluxy_sync.errors import QueueFull, StorageUnavailable
from fluxy_sync.flight import GuardedAdapter, _Guarded, _Response
from fluxy_sync.journal import Journal

MARKER = "xyzzy-said-by-an-error"
ERRORS: dict[str, Any] = {
    "AttributeError": lambda: AttributeError(MARKER),
    "TypeError": lambda: TypeError(MARKER),
    "KeyError": lambda: KeyError(MARKER),
    "ValueError": lambda: ValueError(MARKER),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", MARKER.encode(), 0, 1, MARKER),
    "RuntimeError": lambda: RuntimeError(MARKER),
    "RecursionError": lambda: RecursionError(MARKER),
    "MemoryError": lambda: MemoryError(MARKER),
    "AssertionError": lambda: AssertionError(MARKER),
    "SoftTimeLimitExceeded": lambda: SoftTimeLimitExceeded(MARKER),
    "NotRegistered": lambda: NotRegistered(MARKER),
    "OperationalError": lambda: OperationalError(MARKER),
    "QueueFull": lambda: QueueFull(MARKER),
    "StorageUnavailable": lambda: StorageUnavailable("the store is away"),  # ours, and told as it is
    "FileNotFoundError": lambda: FileNotFoundError(errno.ENOENT, MARKER),
    "OSError": lambda: OSError(errno.EMFILE, MARKER),
    "SSLError": lambda: ssl.SSLError(1, MARKER),  # the table has a row for it
    "ConnectionResetError": lambda: ConnectionResetError(errno.ECONNRESET, MARKER),  # and for it
}

flush.OFFER_S = 2.0


def fail(step: str, lane: str) -> None:
    """Raise what the lane asks for at this step."""
    asked, _, error = lane.partition("/")
    if asked == step and not Path(os.environ["CURED"]).exists():
        raise ERRORS[error]()


def lane_under_way() -> str:
    now = tasks._under_way.get()
    return now.lane if now is not None else ""


def failing(step: str, original: Any, *, afterwards: bool = False, lane_of: Any = None) -> Any:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        lane = lane_of(*args, **kwargs) if lane_of else lane_under_way()
        if not afterwards:
            fail(step, lane)
        result = original(*args, **kwargs)
        if afterwards:
            fail(step, lane)
        return result

    return wrapped


app = default_app()
engine = type(app.fluxy_engine)
engine.open = failing("opening", engine.open, lane_of=lambda _engine, _stored, lane: lane)
http_task.build_request = failing("preparing", http_task.build_request)  # type: ignore[attr-defined]
GuardedAdapter.send = failing("connecting", GuardedAdapter.send)  # type: ignore[method-assign]
_Guarded.send = failing("writing", _Guarded.send, afterwards=True)  # type: ignore[method-assign]
_Response.begin = failing("reading", _Response.begin)  # type: ignore[method-assign]
delivery.read_body = failing("body", delivery.read_body)  # type: ignore[attr-defined]
http_task.kept_answer = failing("answered", http_task.kept_answer)
flush.Flush._settle = failing("settling", flush.Flush._settle, lane_of=lambda _, now, *_more: now.lane)  # type: ignore[method-assign]
flush.Flush._tell = failing("telling", flush.Flush._tell, lane_of=lambda _, now, *_more: now.lane)  # type: ignore[method-assign]


def lane_if_delivered(_journal: Any, lane: str, _fence: int, _id: str, verdict: str, **_: Any) -> str:
    return lane if verdict == "delivered" else ""


Journal.settle = failing("journal", Journal.settle, lane_of=lane_if_delivered)  # type: ignore[method-assign]


@app.task(name="failing.own", base=SyncTask, bind=True)
def own(self: SyncTask, number: int) -> None:
    """A task of the user's that fails by no fault of its own."""
    fail("running", lane_under_way())
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{lane_under_way()} {number}\n")
