"""Making all that is counted anew from the records themselves, after the store's files were damaged."""

import os
import re
from collections.abc import Iterator
from typing import Any

from fluxy_sync.journal.journal import CLAIM_S, Journal
from fluxy_sync.journal.store import Store

AT_ONCE = 1000
_NUMBER = re.compile(rb"\d{1,15}")
CHANGES = "repair"  # the key's name: see the script ``recount_lane``


def new_epoch() -> str:
    """An epoch that no journal had before."""
    return os.urandom(8).hex()


def namespaces(store: Store) -> set[str]:
    """The namespaces of all journals in a store that hold a count or a lane."""
    found = {key[1:].partition(b"}:")[0] for pattern in ("{*}:counts", "{*}:lane:*") for key in _scan(store, pattern)}
    return {name.decode() for name in found if name.isascii()}  # else it was damaged: settings allow no such name


def recount(journal: Journal) -> int:
    """Count everything anew, let each lane wait where it must, and begin a new epoch; returns what is pending.

    Only while nobody else uses the journal. What a repair wrote down of later changes is done first.
    """
    _drop_garbage(journal)
    operations = size = held = newest = 0
    changes = f"{journal.keys.prefix}{CHANGES}"
    for lane in _lanes(journal):
        keys: list[Any] = [journal.keys.lane_prefix.encode() + lane, changes]
        here, its_size, is_held, its_newest = journal.run("recount_lane", lane, round(CLAIM_S * 1000), keys=keys)
        operations, size, held = operations + here, size + its_size, held + here * is_held
        newest = max(newest, its_newest)
    journal.run("recount", operations, size, held, newest, new_epoch(), keys=[changes])
    return operations


def _drop_garbage(journal: Journal) -> None:
    """Counts that are no numbers would stop every script."""
    counts, store = journal.keys.fixed[0], journal.store
    found = store.command("HGETALL", counts)
    for name, value in found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True):
        if name != b"epoch" and not _NUMBER.fullmatch(value):
            store.command("HDEL", counts, name)


def _lanes(journal: Journal) -> set[bytes]:
    """Every lane that anything is known of; as bytes, since a name may be damaged."""
    keys, store = journal.keys, journal.store
    prefix = keys.lane_prefix
    found = {key[len(prefix) :] for key in _scan(store, f"{_escaped(prefix)}*")}
    _, ready, claims, retries, held, oldest = keys.fixed[:6]
    for name in (ready, oldest):
        found |= set(store.command("ZRANGE", name, 0, -1))
    for name in (claims, retries, held, keys.cancelled):
        found |= set(store.command("HKEYS", name))
    return found


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in text)


def _scan(store: Store, pattern: str) -> Iterator[bytes]:
    cursor = b"0"
    while True:
        cursor, found = store.command("SCAN", cursor, "MATCH", pattern, "COUNT", AT_ONCE)
        yield from found
        if cursor == b"0":
            return
