"""A stuck gateway: operations that wait, fail and die, without a worker."""

from typing import Any

from fluxy_sync import FluxySync
from fluxy_sync.journal import Claim

MARKER = "xyzzy-plaintext-marker"
HOLDER = "an-incarnation 1"


def queue(sync: FluxySync, lane: str | None = "default", **options: Any) -> str:
    """Queue an operation whose path, header and body hold the marker."""
    given = {"body": {"secret": MARKER}, "headers": {"X-Marker": MARKER}} | options
    return sync.queue("POST", f"/{MARKER}", lane=lane, **given).id


def claim(sync: FluxySync, lane: str) -> Claim:
    """Take a lane, as a worker does, and leave the others."""
    taken: list[Claim] = []
    while not taken or taken[-1].lane != lane:
        found = sync.engine.journal.claim(HOLDER)
        assert isinstance(found, Claim)
        taken.append(found)
    for other in taken[:-1]:
        sync.engine.journal.release(other.lane, other.fence)
    return taken[-1]


def fail(sync: FluxySync, lane: str, operation_id: str, pause_s: float = 60.0) -> None:
    """Try a lane's head once, and let it wait for its next try."""
    fence = claim(sync, lane).fence
    sync.engine.journal.settle(lane, fence, operation_id, "retry", reason="503", pause_s=pause_s)


def die(sync: FluxySync, lane: str = "default", reason: str = "422", detail: bytes = b"", **options: Any) -> str:
    """Queue an operation on an empty lane and let it become a dead letter."""
    operation_id = queue(sync, lane, **options)
    sealed = sync.engine.seal_detail(detail, lane, operation_id)
    fence = claim(sync, lane).fence
    sync.engine.journal.settle(lane, fence, operation_id, "dead", reason=reason, detail=sealed, give_up=True)
    return operation_id


def ids_on(sync: FluxySync, lane: str) -> list[str]:
    return [one.id for one in sync.pending(lane)]
