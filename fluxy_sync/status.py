"""The snapshot: what waits, and why."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from fluxy_sync.journal import Journal, Snapshot

ASKED_TO_WAIT_MS = 300  # what is shorter is the jitter of an opening gate


class Status(msgspec.Struct, frozen=True):
    """The record that ``status --json``, ``GET /api/sync`` and ``FluxySync.status()`` share (DESIGN, the contract)."""

    pending: int
    syncing: int
    is_syncing: bool
    retrying: int
    held: int
    dead: int
    bytes: int
    lanes: int
    oldest_age_s: float | None
    gate: str
    online: bool
    delivered_total: int
    rev: int
    stale: bool
    since: str | None
    reason: str
    opens_in_s: float  # the upstream asked everybody to wait so long (429, Retry-After)
    held_for: dict[str, int]  # why lanes are held -> how many: paused, halted, key:<id>, task:<name>,
    # worker-error:<exception>, credentials
    dropped_total: int

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values."""
        return msgspec.structs.asdict(self)


def read_status(journal: Journal) -> Status:
    """Take a snapshot.

    Raises:
        StorageUnavailable: the store can't be read; unknown is never shown as 0.
    """
    return status_of(journal.snapshot())


def status_of(s: Snapshot) -> Status:
    """The record of one moment."""
    since = (
        datetime.fromtimestamp(s.since_wall_ms / 1000, UTC).isoformat(timespec="milliseconds")
        if s.since_wall_ms
        else None
    )
    return Status(
        pending=s.pending,
        syncing=s.syncing,
        is_syncing=s.syncing > 0,
        retrying=s.retrying,
        held=s.held,
        dead=s.dead,
        bytes=s.bytes,
        lanes=s.lanes,
        oldest_age_s=None if s.oldest_age_ms < 0 else s.oldest_age_ms / 1000,
        gate=s.gate,
        online=s.gate != "offline" and not s.offline,
        delivered_total=s.delivered_total,
        rev=s.rev,
        stale=False,
        since=since and since.replace("+00:00", "Z"),
        reason=s.reason or ("429" if s.opens_in_ms >= ASKED_TO_WAIT_MS else ""),
        opens_in_s=s.opens_in_ms / 1000,
        held_for=s.held_for,
        dropped_total=s.dropped_total,
    )
