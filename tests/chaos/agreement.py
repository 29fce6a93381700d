"""Whether everything that a journal knows agrees with its records: counted and looked up by hand."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fluxy_sync.errors import CorruptRecord
from fluxy_sync.journal import Journal
from fluxy_sync.journal.record import StoredRecord, parse
from tests.journal_state import check_of


class Journaled:
    """All that a journal holds, read from a store that is quiet. Names are Latin-1, as damage spares no encoding."""

    def __init__(self, journal: Journal) -> None:
        client, keys = journal.store.client, journal.keys
        fixed = dict(zip(("counts", "ready", "claims", "retries", "held", "oldest"), keys.fixed, strict=False))
        prefix = keys.lane_prefix.encode()
        found = sorted(client.scan_iter(f"{keys.lane_prefix}*", count=1000))
        raw: dict[str, list[bytes]] = {_name(key[len(prefix) :]): client.lrange(key, 0, -1) for key in found}
        self.lanes: dict[str, list[StoredRecord]] = {name: [_read(r) for r in raw[name]] for name in raw}
        self.sizes = {name: [len(r) for r in raw[name]] for name in raw}
        self.dead: dict[bytes, bytes] = client.hgetall(keys.dead)
        self.index = set(client.zrange(keys.dead_index, 0, -1))
        self.counts = _text(client.hgetall(fixed["counts"]))
        self.claims = _text(client.hgetall(fixed["claims"]))
        self.held = _text(client.hgetall(fixed["held"]))
        self.retries = _text(client.hgetall(fixed["retries"]))
        self.cancelled = _text(client.hgetall(keys.cancelled))
        self.why = _text(client.hgetall(f"{keys.prefix}held:why"))
        self.ready = {_name(lane): int(at) for lane, at in client.zrange(fixed["ready"], 0, -1, withscores=True)}
        self.oldest = {_name(lane): int(at) for lane, at in client.zrange(fixed["oldest"], 0, -1, withscores=True)}

    def waiting(self, lane: str) -> list[str]:
        """The ids in a lane, in order, tombstones left out."""
        return [record.id for record in self.lanes.get(lane, []) if not _is_tombstone(record)]

    @property
    def ids(self) -> set[str]:
        """All that waits."""
        return {name for lane in self.lanes for name in self.waiting(lane)}

    @property
    def twice(self) -> set[str]:
        """The ids that more than one record has."""
        ids = Counter(record.id for records in self.lanes.values() for record in records)
        return {name for name, count in ids.items() if count > 1}

    def disagreements(self) -> list[str]:
        """What doesn't fit; empty where all does."""
        return [f"{name}: {told} is told, {found} is found" for name, told, found in self._pairs() if told != found]

    def _pairs(self) -> Iterator[tuple[str, Any, Any]]:
        waiting = {lane: len(self.waiting(lane)) for lane in self.lanes}
        records = [(r, size) for lane in self.lanes for r, size in zip(self.lanes[lane], self.sizes[lane], strict=True)]
        size = sum(size for r, size in records if not _is_tombstone(r)) + sum(map(len, self.dead.values()))
        told = {name: int(self.counts.get(name, 0)) for name in ("pending", "bytes", "held", "dead")}
        yield "pending", told["pending"], sum(waiting.values())
        yield "bytes", told["bytes"], size
        yield "held", told["held"], sum(waiting.get(lane, 0) for lane in self.held)
        yield "dead", told["dead"], len(self.dead)
        yield "the dead letters' index", self.index, set(self.dead)
        heads = {lane: records[0].accepted_ms for lane, records in self.lanes.items() if not _is_broken(records[0])}
        yield "oldest", {lane: at for lane, at in self.oldest.items() if lane in heads or lane not in self.lanes}, heads
        tombstones = {lane: sum(map(_is_tombstone, records)) for lane, records in self.lanes.items()}
        yield "cancelled", {k: int(v) for k, v in self.cancelled.items()}, {k: n for k, n in tombstones.items() if n}
        may_go = {lane for lane in self.lanes if lane not in self.held}
        yield "lanes that wait for their time", set(self.ready) - set(self.claims), may_go - set(self.claims)
        yield "claims that end", set(self.claims) - set(self.ready), set()
        causes = Counter(name for text in self.held.values() for name in {_cause(line) for line in text.split("\n")})
        yield "held for", {name: int(count) for name, count in self.why.items()}, dict(causes)
        yield "retries of lanes that hold nothing", set(self.retries) - set(self.lanes), set()


def _name(raw: bytes) -> str:
    return raw.decode("latin-1")


def _text(found: dict[bytes, bytes]) -> dict[str, str]:
    return {_name(name): _name(value) for name, value in found.items()}


def _read(record: bytes) -> StoredRecord:
    """One whose clear part is damaged has the format 0, and its bytes for an id."""
    try:
        found = parse(record)
    except CorruptRecord:
        return _broken(record.hex())
    clear = record[: len(record) - len(found.sealed) - 2]
    is_whole = check_of(clear) == record[len(clear) : len(clear) + 2] and found.format == 1
    return found if is_whole and bool(found.sealed) != found.cancelled else _broken(record.hex())


def _broken(name: str) -> StoredRecord:
    return StoredRecord(0, name, 0, 0, 0, 0, b"", 0, b"damaged")


def _is_broken(record: StoredRecord) -> bool:
    return record.format == 0


def _is_tombstone(record: StoredRecord) -> bool:
    return record.cancelled and not record.sealed


def _cause(line: str) -> str:
    why = line.partition(" ")[2]
    return "halted" if why.startswith("halted:") else why
