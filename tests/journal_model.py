"""What the journal promises, in plain Python: the state machine compares the real one with it after each step.

Times are milliseconds of journal time. What the store keeps in indexes is derived here, so that a forgotten index
shows as a difference.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from fluxy_sync.journal import NewRecord
from fluxy_sync.journal.record import pack_id

TAKEOVERS_UNTIL_DEAD = 5
CAUSES = ("paused", "unauthorized", "offline")  # the first that holds is shown


class Full(Exception):
    """The quota is reached."""


@dataclasses.dataclass
class Entry:
    """One operation in its lane; cancelled ones stay in their place until they come to the front."""

    id: str
    accepted: int
    due: int
    expires: int
    sealed: bytes
    cancelled: bool = False

    @property
    def size(self) -> int:
        return 1 + len(pack_id(self.id)) + 7 + 6 * bool(self.due) + 6 * bool(self.expires) + len(self.sealed)


@dataclasses.dataclass
class Holding:
    """A claim on a lane."""

    fence: int
    takeovers: int
    holder: str | None  # None: it was taken from a dead one


@dataclasses.dataclass
class Lane:
    """One lane. ``ready`` is when it may be claimed; ``held`` when it is offered again (0: never), and why."""

    entries: list[Entry] = dataclasses.field(default_factory=list)
    ready: int | None = None
    claim: Holding | None = None
    retries: tuple[int, str, str] | None = None
    held: tuple[int, str] | None = None

    @property
    def waiting(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.cancelled]

    @property
    def head(self) -> Entry | None:
        return self.entries[0] if self.entries else None

    def count(self, operation_id: str) -> int:
        """Retries of the head, if that is the one named."""
        return self.retries[0] if self.retries and self.retries[2] == operation_id else 0

    def pop(self) -> None:
        del self.entries[0]
        while self.entries and self.entries[0].cancelled:
            del self.entries[0]
        self.retries = None

    def rest(self, now: int) -> None:
        """Nobody holds the lane any more."""
        self.claim = None
        head = self.head
        self.ready = None if head is None or self.held else max(now, head.due)


@dataclasses.dataclass
class Grant:
    """A claim that was given."""

    lane: str
    fence: int
    retries: int
    call_helper: bool
    run: list[str]


class JournalModel:
    """The journal. ``wake`` tells whether a token waits."""

    def __init__(self, lanes: Sequence[str], max_pending: int) -> None:
        self.now = 1
        self.lanes = {name: Lane() for name in lanes}
        self.max_pending = max_pending
        self.dead: dict[str, tuple[str, str, int, int]] = {}  # lane, reason, retries, bytes
        self.causes: set[str] = set()
        self.opens_at = 0
        self.wake = False
        self.fence = 0
        self.known: set[str] = set()
        self.totals = dict.fromkeys(("delivered", "retried", "dead", "cancelled"), 0)
        self.last_delivered = 0

    # --- what can be seen

    @property
    def gate(self) -> str:
        return next((cause for cause in CAUSES if cause in self.causes), "open")

    @property
    def pending(self) -> int:
        return sum(len(lane.waiting) for lane in self.lanes.values())

    @property
    def bytes(self) -> int:
        living = sum(entry.size for lane in self.lanes.values() for entry in lane.waiting)
        return living + sum(size for *_, size in self.dead.values())

    @property
    def due(self) -> list[tuple[int, str]]:
        return sorted((lane.ready, name) for name, lane in self.lanes.items() if lane.ready is not None)

    def counts(self) -> dict[str, Any]:
        """The snapshot, but for its revision and the age of the gate's state."""
        lanes = self.lanes.values()
        accepted = [lane.head.accepted for lane in lanes if lane.head]
        syncing = sum(1 for lane in lanes if lane.claim and lane.claim.holder and (lane.ready or 0) > self.now)
        return {
            "pending": self.pending,
            "syncing": syncing,
            "retrying": sum(1 for lane in lanes if lane.retries),
            "held": sum(len(lane.waiting) for lane in lanes if lane.held),
            "dead": len(self.dead),
            "bytes": self.bytes,
            "lanes": len(accepted),
            "oldest_age_ms": self.now - min(accepted) if accepted else -1,
            "gate": self.gate,
            "delivered_total": self.totals["delivered"],
            "retried_total": self.totals["retried"],
            "dead_total": self.totals["dead"],
            "cancelled_total": self.totals["cancelled"],
            "offline": int("offline" in self.causes),
        }

    # --- transitions

    def append(self, records: Sequence[NewRecord]) -> bool:
        fresh = {record.id: record for record in reversed(records) if record.id not in self.known}
        if fresh and self.max_pending and self.pending + len(fresh) > self.max_pending:
            raise Full
        new = [record for record in records if fresh.get(record.id) is record]
        return self._push(new)

    def _push(self, records: Sequence[NewRecord]) -> bool:
        came_due = [self._push_one(record) for record in records]
        return any(came_due) and self.win_wake()

    def _push_one(self, record: NewRecord) -> bool:
        lane, countdown = self.lanes[record.lane], round(record.countdown_s * 1000)
        self.known.add(record.id)
        expires = self.now + round(record.expires_s * 1000) if record.expires_s else 0
        entry = Entry(record.id, self.now, self.now + countdown if countdown else 0, expires, record.sealed)
        lane.entries.append(entry)
        if len(lane.entries) > 1 or lane.held or lane.ready is not None:
            return False
        lane.ready = self.now + countdown
        return not countdown

    def claim(self, holder: str, most: int, length_ms: int, drop_wake: bool) -> Grant | tuple[str, int | None]:
        """The claim, or the gate and when there may be something."""
        if drop_wake:
            self.wake = False
        if self.causes:
            return self.gate, None
        if self.opens_at > self.now:
            return "open", self.opens_at - self.now
        while self.due:
            ready, name = self.due[0]
            if ready > self.now:
                return "open", ready - self.now
            grant = self._take(name, holder, most, length_ms)
            if grant:
                return grant
        return "open", None

    def _take(self, name: str, holder: str, most: int, length_ms: int) -> Grant | None:
        lane = self.lanes[name]
        head, takeovers = lane.head, lane.claim.takeovers + 1 if lane.claim else 0
        if head and takeovers >= TAKEOVERS_UNTIL_DEAD:
            self._bury(name, "killed-its-worker", 0)
            lane.rest(self.now)
            return None
        if head and head.due <= self.now:
            self.fence += 1
            lane.claim, lane.ready = Holding(self.fence, takeovers, holder), self.now + length_ms
            helper = bool(self.due) and self.due[0][0] <= self.now and self.win_wake()
            return Grant(name, self.fence, lane.count(head.id), helper, self._run(lane, most))
        lane.rest(self.now)
        return None

    def _run(self, lane: Lane, most: int) -> list[str]:
        run = []
        for entry in lane.entries[:most]:
            if entry.due > self.now:
                break
            if not entry.cancelled:
                run.append(entry.id)
        return run

    def _bury(self, name: str, reason: str, detail: int) -> None:
        lane = self.lanes[name]
        head = lane.entries[0]
        size = 1 + len(name) + 1 + len(reason) + 4 + 6 + 4 + detail + head.size
        self.dead[head.id] = (name, reason, lane.count(head.id), size)
        self.totals["dead"] += 1
        lane.pop()

    def settle(
        self, name: str, fence: int, operation_id: str, verdict: str, *, pause_ms: int, reason: str, replacement: bytes,
        detail: bytes, followers: Sequence[NewRecord], give_up: bool, length_ms: int,
    ) -> tuple[str, str, str, int, bool]:  # fmt: skip
        """Status, the next head's id, the gate, until when the claim lasts, and whether the wake token was won."""
        lane = self.lanes[name]
        if lane.claim is None or lane.claim.fence != fence:
            return "fenced", "", self.gate, 0, False
        if lane.head is None or lane.head.id != operation_id:
            return "already", *self._go_on(lane, give_up, length_ms), False
        woken = self._push(followers)
        if verdict in ("retry", "wait"):
            self._wait(lane, verdict, pause_ms, reason, replacement)
        elif verdict == "hold":
            lane.held = (self.now + pause_ms if pause_ms else 0, reason)
            lane.rest(self.now)
        else:
            self._remove_head(name, verdict, reason, detail)
        going_on = verdict in ("delivered", "dead") and not give_up
        due = lane.head is not None and lane.head.due <= self.now
        if verdict in ("delivered", "dead"):
            return "ok", *self._go_on(lane, not (going_on and due), length_ms), woken
        return "ok", "", self.gate, 0, woken

    def _go_on(self, lane: Lane, give_up: bool, length_ms: int) -> tuple[str, str, int]:
        if give_up or lane.head is None:
            lane.rest(self.now)
            return "", self.gate, 0
        left = (lane.ready or 0) - self.now
        if left < length_ms - 3000:
            lane.ready, left = self.now + length_ms, length_ms
        return lane.head.id, self.gate, left

    def _wait(self, lane: Lane, verdict: str, pause_ms: int, reason: str, replacement: bytes) -> None:
        head = lane.entries[0]
        if replacement:
            head.sealed = replacement
        counted = verdict == "retry"
        self.totals["retried"] += counted
        count = lane.count(head.id) + counted
        if count:
            lane.retries = (count, reason, head.id)
        lane.claim, lane.ready = None, self.now + pause_ms

    def _remove_head(self, name: str, verdict: str, reason: str, detail: bytes) -> None:
        lane = self.lanes[name]
        if verdict == "dead":
            self._bury(name, reason, len(detail))
        else:
            lane.pop()
            self.totals["delivered"] += 1
            self.last_delivered = self.now
        if lane.claim:
            lane.claim.takeovers = 0

    def _if_held_by(self, name: str, fence: int, action: Callable[[Lane], None]) -> bool:
        lane = self.lanes[name]
        if lane.claim is None or lane.claim.fence != fence:
            return False
        action(lane)
        return True

    def release(self, name: str, fence: int) -> bool:
        return self._if_held_by(name, fence, lambda lane: lane.rest(self.now))

    def renew(self, name: str, fence: int, length_ms: int) -> bool:
        def extend(lane: Lane) -> None:
            lane.ready = self.now + length_ms

        return self._if_held_by(name, fence, extend)

    def reclaim(self, incarnation: str, alive: Sequence[int]) -> list[str]:
        """The lanes whose claims are given up. Their fences are numbered by the store, in any order."""
        living = {f"{incarnation} {pid}" for pid in alive}
        freed = []
        for name, lane in self.lanes.items():
            holder = lane.claim and lane.claim.holder
            if lane.claim and holder and holder.startswith(f"{incarnation} ") and holder not in living:
                lane.claim.holder, lane.ready = None, self.now
                freed.append(name)
        if freed:
            self.wake = False
        return freed

    def cancel(self, name: str, operation_id: str) -> str:
        lane = self.lanes[name]
        entry = next((entry for entry in lane.waiting if entry.id == operation_id), None)
        if entry is None:
            return "absent"
        if entry is lane.head:
            if lane.claim and lane.claim.holder:
                return "sending"
            if lane.held and lane.held[1].startswith("key:"):
                lane.held = None
            lane.pop()
            lane.rest(self.now)
        else:
            entry.cancelled, entry.due, entry.expires, entry.sealed = True, 0, 0, b""
        self.totals["cancelled"] += 1
        return "cancelled"

    def find(self, name: str, operation_id: str) -> str:
        lane = self.lanes[name]
        if all(entry.id != operation_id for entry in lane.waiting):
            return "absent"
        if lane.entries[0].id != operation_id:
            return "pending"
        if lane.claim and lane.claim.holder:
            return "syncing"
        return "retrying" if lane.count(operation_id) else "pending"

    def tick(self, forget_wake: bool) -> tuple[str, int, int | None, int, int | None]:
        """The gate, when it opens, when a lane is due, pending, and how long ago the last delivery was."""
        if forget_wake:
            self.wake = False
        for lane in self.lanes.values():
            if lane.held and 0 < lane.held[0] <= self.now:
                lane.held = None
                lane.ready = self.now if lane.ready is None else lane.ready
        due = max(0, self.due[0][0] - self.now) if self.due else None
        delivered = self.now - self.last_delivered if self.last_delivered else None
        return self.gate, max(0, self.opens_at - self.now), due, self.pending, delivered

    def close_gate(self, cause: str) -> bool:
        changed = cause not in self.causes
        self.causes.add(cause)
        return changed

    def open_gate(self, cause: str, opens_in_ms: int) -> bool:
        if cause not in self.causes:
            return False
        self.causes.remove(cause)
        self.opens_at = self.now + opens_in_ms
        return True

    def win_wake(self) -> bool:
        if self.causes or self.wake:
            return False
        self.wake = True
        return True
