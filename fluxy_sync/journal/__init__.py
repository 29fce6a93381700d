"""The journal: all lanes, in Redis. It is the truth; Celery's messages are only wake-up calls."""

from fluxy_sync.journal.durability import check_durability, default_max_bytes, maxmemory_of
from fluxy_sync.journal.journal import Claim, Idle, Journal, Settlement, Snapshot, Tick
from fluxy_sync.journal.record import NewRecord, StoredRecord
from fluxy_sync.journal.store import Store, connect

__all__ = [
    "Claim",
    "Idle",
    "Journal",
    "NewRecord",
    "Settlement",
    "Snapshot",
    "Store",
    "StoredRecord",
    "Tick",
    "check_durability",
    "connect",
    "default_max_bytes",
    "maxmemory_of",
]
