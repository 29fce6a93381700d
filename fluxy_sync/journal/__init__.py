"""The journal: all lanes, in Redis. It is the truth; Celery's messages are only wake-up calls."""

from fluxy_sync.journal.answers import Appended, Claim, Idle, Quota, Settlement, Snapshot, Tick
from fluxy_sync.journal.durability import check_durability, default_max_bytes, maxmemory_of
from fluxy_sync.journal.hints import Hints
from fluxy_sync.journal.inventory import DeadLetter, Inventory, Waiting
from fluxy_sync.journal.journal import Journal
from fluxy_sync.journal.record import NewRecord, StoredRecord
from fluxy_sync.journal.store import Store, as_map, connect

__all__ = [
    "Appended",
    "Claim",
    "DeadLetter",
    "Hints",
    "Idle",
    "Inventory",
    "Journal",
    "NewRecord",
    "Quota",
    "Settlement",
    "Snapshot",
    "Store",
    "StoredRecord",
    "Tick",
    "Waiting",
    "as_map",
    "check_durability",
    "connect",
    "default_max_bytes",
    "maxmemory_of",
]
