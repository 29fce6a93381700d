"""The quota bounds the store's real memory, so that a full queue never stops the broker beside it."""

import pytest
import redis

from fluxy_sync.errors import QueueFull
from fluxy_sync.journal import Journal, NewRecord, Store, connect
from fluxy_sync.operation import check_lane, new_operation_id

LIMIT = 1_000_000


def fill(journal: Journal, own_lanes: bool) -> int:
    """Append until the queue is full; returns how many were accepted."""
    for accepted in range(100_000):
        name = new_operation_id()
        lane = check_lane(None, name) if own_lanes else "default"
        try:
            journal.append([NewRecord(name, lane, b"x" * 120)])
        except QueueFull:
            return accepted
    raise AssertionError("it never was full")


@pytest.mark.parametrize("own_lanes", [False, True], ids=["one lane", "a lane for each"])
def test_max_bytes_bounds_memory(store_url: str, namespace: str, own_lanes: bool) -> None:
    """Counted by the store itself, the keys stay within MAX_BYTES; most of it can be used on a long lane."""
    store = Store(connect(store_url))
    journal = Journal(store, namespace, max_bytes=LIMIT)
    accepted = fill(journal, own_lanes)
    client: redis.Redis = store.client
    keys = [key for key in client.scan_iter(f"{{{namespace}}}:*", count=1000) if b":recent" not in key]
    used = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
    assert used <= LIMIT
    assert used >= LIMIT * (0.3 if own_lanes else 0.6)
    assert accepted > 500
    store.close()
    client.close()
