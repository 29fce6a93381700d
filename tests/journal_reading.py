"""Everything that the store holds of one journal, and the same of the model, in one form."""

import struct
from collections.abc import Sequence
from typing import Any

from fluxy_sync.journal import Journal
from fluxy_sync.journal.inventory import SET_ASIDE, read_letter
from fluxy_sync.journal.record import pack_id, unpack_id
from tests.journal_state import Holding, JournalState, Once, Retry

KEYS = (
    "counts", "ready", "claims", "retries", "held", "oldest", "dead", "index", "gate", "wake", "events", "pulse",
    "recent", "old", "cancelled", "once", "once_ends", "why", "large",
)  # fmt: skip
COUNTS = ("now", "pending", "bytes", "held", "dead", "fence", "streak", "delivered_at", "forward", "forward_at")


def keys_of(journal: Journal) -> dict[str, str]:
    return dict(zip(KEYS, journal.keys.fixed, strict=True))


def read(journal: Journal, lanes: Sequence[str]) -> dict[str, Any]:
    """Read every key in one round trip."""
    keys, pipeline = keys_of(journal), journal.store.client.pipeline()
    hashes, zsets = ("claims", "retries", "held", "dead", "gate", "cancelled", "once", "why"), ("ready", "oldest")
    for name in hashes:
        pipeline.hgetall(keys[name])
    for name in (*zsets, "index", "once_ends"):
        pipeline.zrange(keys[name], 0, -1, withscores=True)
    pipeline.hmget(keys["counts"], *COUNTS)
    pipeline.exists(keys["wake"])
    pipeline.smembers(keys["recent"])
    for lane in lanes:
        pipeline.lrange(journal.keys.lane(lane), 0, -1)
    answers = pipeline.execute()
    claims, retries, held, dead, gate, cancelled, once, why = answers[:8]
    ready, oldest, index, once_ends, counts, wake, recent, *records = answers[8:]
    ends = {key: int(score) for key, score in once_ends}
    assert {member for member, _ in index} == set(dead)
    assert set(ends) <= set(once)
    return {
        "counts": dict(zip(COUNTS, (int(count or 0) for count in counts), strict=True)),
        "lanes": dict(zip(lanes, records, strict=True)),
        "ready": _scores(ready),
        "oldest": _scores(oldest),
        "claims": {lane.decode(): _claim(claim) for lane, claim in claims.items()},
        "retries": {lane.decode(): _retry(state) for lane, state in retries.items()},
        "held": {lane.decode(): state.decode() for lane, state in held.items()},
        "held for": {name.decode(): int(count) for name, count in why.items()},
        "dead": [(_name(member, int(score)), *_letter(dead[member])) for member, score in index],
        "cancelled": {lane.decode(): int(count) for lane, count in cancelled.items()},
        "once": {key: _once(value, ends.get(key)) for key, value in once.items()},
        "gate": {name.decode() for name in gate} - {"opens_at", "since", "trial_at"},
        "opens and tries at": (int(gate.get(b"opens_at", 0)), int(gate.get(b"trial_at", 0))),
        "wake": bool(wake),
        "known": set(map(unpack_id, recent)),
    }


def expected(model: JournalState) -> dict[str, Any]:
    """What ``read`` must give."""
    lanes = model.lanes.items()
    tombstones = {name: len(lane.entries) - len(lane.waiting) for name, lane in lanes}
    return {
        "counts": dict.fromkeys(COUNTS, 0) | {
            "now": model.now, "pending": model.pending, "bytes": model.bytes, "held": model.held,
            "dead": len(model.dead), "fence": model.fence, "streak": model.streak, "delivered_at": model.delivered_at,
        },
        "lanes": {name: [entry.stored for entry in lane.entries] for name, lane in lanes},
        "ready": {name: lane.ready for name, lane in lanes if lane.ready is not None},
        "oldest": {name: lane.head.accepted for name, lane in lanes if lane.head},
        "claims": {name: lane.claim for name, lane in lanes if lane.claim},
        "retries": {name: lane.retry for name, lane in lanes if lane.retry},
        "held": {name: "\n".join(f"{at} {why}" for why, at in lane.held.items()) for name, lane in lanes if lane.held},
        "held for": model.held_for,
        "dead": [
            (name, letter.lane, letter.reason, letter.retries, letter.detail, letter.entry.stored)
            for name, letter in model.dead.items()
        ],
        "cancelled": {name: count for name, count in tombstones.items() if count},
        "once": model.once,
        "gate": model.causes,
        "opens and tries at": (model.opens_at, model.trial_at),
        "wake": model.wake,
        "known": model.known,
    }  # fmt: skip


def _scores(pairs: Sequence[tuple[bytes, float]]) -> dict[str, int]:
    return {member.decode(): int(score) for member, score in pairs}


def _claim(claim: bytes) -> Holding:
    fence, takeovers, holder = claim.decode().split(" ", 2)
    return Holding(int(fence), int(takeovers), None if holder == "- -" else holder)


def _retry(state: bytes) -> Retry:
    *times, reason, packed = state.split(b" ", 5)
    count, since, floor, at = map(int, times)
    return Retry(count, since, floor, at, reason.decode(), unpack_id(packed))


def _letter(value: bytes) -> tuple[str, str, int, bytes, bytes]:
    letter = read_letter(value)
    return letter.lane, letter.reason, letter.retries, letter.detail, letter.record


def _name(member: bytes, number: int) -> str:
    """An id, or the name of a letter that was set aside."""
    name = unpack_id(member)
    return name if pack_id(name) == member else f"{SET_ASIDE}{number}"


def _once(value: bytes, ends: int | None) -> Once:
    window, length = int.from_bytes(value[:6], "big"), struct.unpack(">B", value[6:7])[0]
    return Once(unpack_id(value[7 + length :]), value[7 : 7 + length].decode(), window, ends)
