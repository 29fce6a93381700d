"""What the journal holds, in plain Python, and the few moves that all of its transitions are made of.

Times are milliseconds of journal time. What the store keeps in indexes and counts is derived here, so that a forgotten
one shows as a difference.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

from fluxy_sync.journal import NewRecord
from fluxy_sync.journal.inventory import SET_ASIDE
from fluxy_sync.journal.record import REFUSED, pack_id

CAUSES = ("paused", "unauthorized", "offline")  # the first that holds is shown
TRIAL_MS = 30_000
LINGER_MS = 1000
FORWARD_AFTER = 3  # failures in a row
FORWARD_JITTER_MS = 1000


def check_of(clear: bytes) -> bytes:
    """The check of a record's clear part: a weighted sum, modulo the largest prime of two bytes."""
    return (sum(i * byte for i, byte in enumerate(clear, start=1)) % 65_521).to_bytes(2, "big")


@dataclasses.dataclass
class Entry:
    """One operation in its lane; cancelled ones stay in their place until they come to the front."""

    id: str
    accepted: int
    due: int
    expires: int
    sealed: bytes
    halt: bool = False
    once: bytes = b""
    replays: int = 0
    cancelled: bool = False

    @property
    def stored(self) -> bytes:
        """The record, as documented in ``fluxy_sync/journal/record.py``."""
        flags = (
            bool(self.due), 2 * bool(self.expires), 4 * self.cancelled, 8 * self.halt, 16 * bool(self.once),
            32 * bool(self.replays),
        )  # fmt: skip
        clear = b"\1" + pack_id(self.id) + bytes([sum(flags)]) + self.accepted.to_bytes(6, "big")
        clear += self.due.to_bytes(6, "big") if self.due else b""
        clear += self.expires.to_bytes(6, "big") if self.expires else b""
        clear += self.once + (self.replays.to_bytes(2, "big") if self.replays else b"")
        return clear + check_of(clear) + self.sealed

    @property
    def size(self) -> int:
        return len(self.stored)

    def become_tombstone(self) -> None:
        self.cancelled, self.due, self.expires, self.sealed = True, 0, 0, b""
        self.halt, self.once, self.replays = False, b"", 0


@dataclasses.dataclass
class Holding:
    """A claim on a lane."""

    fence: int
    takeovers: int
    holder: str | None  # None: it was taken from a dead one


@dataclasses.dataclass
class Retry:
    """What is known of a head that failed: since when, not before which time (by the upstream), and when it is due."""

    count: int
    since: int
    floor: int
    at: int
    reason: str
    id: str


@dataclasses.dataclass
class Lane:
    """One lane. ``ready`` is when it may be claimed; ``held`` why it isn't -> when it is offered again (0: never)."""

    entries: list[Entry] = dataclasses.field(default_factory=list)
    ready: int | None = None
    claim: Holding | None = None
    retry: Retry | None = None
    held: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def waiting(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.cancelled]

    @property
    def head(self) -> Entry | None:
        return self.entries[0] if self.entries else None

    def flies(self, now: int) -> bool:
        """Whether somebody may be sending the head: he has a claim that hasn't ended."""
        return self.claim is not None and self.claim.holder is not None and (self.ready or 0) > now

    def retry_of(self, operation_id: str) -> Retry | None:
        """Its retry state, if that is the one named."""
        return self.retry if self.retry and self.retry.id == operation_id else None

    def count(self, operation_id: str) -> int:
        retry = self.retry_of(operation_id)
        return retry.count if retry else 0

    def advance(self) -> None:
        """The head has changed."""
        while self.entries and self.entries[0].cancelled:
            del self.entries[0]
        self.retry = None

    def rest(self, now: int) -> None:
        """Nobody holds the lane any more."""
        self.claim = None
        head = self.head
        if head is None or self.held:
            self.ready = None
        else:
            retry = self.retry_of(head.id)
            self.ready = max(now, head.due, retry.at if retry else 0)


@dataclasses.dataclass
class Letter:
    """A dead letter."""

    lane: str
    reason: str
    retries: int
    detail: bytes
    entry: Entry
    number: int

    @property
    def is_foreign(self) -> bool:
        """Whether it was never accepted."""
        return self.reason in REFUSED

    @property
    def size(self) -> int:
        return 1 + len(self.lane.encode()) + 1 + len(self.reason) + 4 + 6 + 4 + len(self.detail) + self.entry.size


@dataclasses.dataclass
class Once:
    """Who has a once key, and when his window ends (None: he still waits)."""

    id: str
    lane: str
    window: int
    ends: int | None = None


def halted_by(operation_id: str) -> str:
    return f"halted:{pack_id(operation_id).hex()}"


def is_heads_own(why: str) -> bool:
    """A hold that is the head's own fault goes with that head."""
    return why == "credentials" or why.startswith(("key:", "task:", "worker-error:"))


class JournalState:
    """Lanes, dead letters, once keys and the gate. ``wake`` tells whether a token waits."""

    def __init__(self, lanes: tuple[str, ...], once_ms: int) -> None:
        self.now = 1
        self.lanes = {name: Lane() for name in lanes}
        self.dead: dict[str, Letter] = {}  # in the order in which they died
        self.last_number = 0  # of a dead letter
        self.once: dict[bytes, Once] = {}
        self.once_ms = once_ms
        self.known: set[str] = set()
        self.causes: set[str] = set()
        self.opens_at = 0
        self.trial_at = 0
        self.wake = False
        self.fence = 0
        self.streak = 0  # counted retries since the last delivery
        self.delivered_at = 0
        self.brings_forward: int | None = None  # lanes that failed first since then
        self.totals = dict.fromkeys(("delivered", "retried", "dead", "cancelled", "dropped"), 0)

    # --- what can be seen

    @property
    def gate(self) -> str:
        return next((cause for cause in CAUSES if cause in self.causes), "open")

    @property
    def opens_in(self) -> int | None:
        """Until claims may begin; an unauthorized gate opens for a trial now and then."""
        if "paused" in self.causes or "offline" in self.causes:
            return None
        trial = self.trial_at if "unauthorized" in self.causes else 0
        return max(0, max(self.opens_at, trial) - self.now)

    @property
    def gate_now(self) -> str:
        return "waiting" if self.gate == "open" and self.opens_in else self.gate

    @property
    def pending(self) -> int:
        return sum(len(lane.waiting) for lane in self.lanes.values())

    @property
    def held(self) -> int:
        return sum(len(lane.waiting) for lane in self.lanes.values() if lane.held)

    @property
    def held_for(self) -> dict[str, int]:
        """Lanes held for each cause; whose death halted one isn't told."""
        causes = [{why.partition(":")[0] if why.startswith("halted:") else why for why in lane.held}
                  for lane in self.lanes.values()]  # fmt: skip
        return {why: sum(why in each for each in causes) for why in set().union(*causes)}

    @property
    def bytes(self) -> int:
        living = sum(entry.size for lane in self.lanes.values() for entry in lane.waiting)
        return living + sum(letter.size for letter in self.dead.values())

    @property
    def due(self) -> list[tuple[int, str]]:
        return sorted((lane.ready, name) for name, lane in self.lanes.items() if lane.ready is not None)

    @property
    def is_due(self) -> bool:
        return bool(self.due) and self.due[0][0] <= self.now

    def counts(self) -> dict[str, Any]:
        """The snapshot, but for its revision and the age of the gate's state."""
        lanes = self.lanes.values()
        accepted = [lane.head.accepted for lane in lanes if lane.head]
        return {
            "pending": self.pending,
            "syncing": sum(1 for lane in lanes if lane.flies(self.now)),
            "retrying": sum(1 for lane in lanes if lane.retry),
            "held": self.held,
            "held_for": self.held_for,
            "dead": len(self.dead),
            "bytes": self.bytes,
            "lanes": len(accepted),
            "oldest_age_ms": self.now - min(accepted) if accepted else -1,
            "gate": self.gate,
            "offline": int("offline" in self.causes),
            "opens_in_ms": (self.opens_in or 0) if self.gate == "open" else 0,
        } | {f"{name}_total": total for name, total in self.totals.items()}

    # --- moves

    def win_wake(self) -> bool:
        opens_in = self.opens_in
        if self.wake or opens_in is None or opens_in > LINGER_MS:
            return False
        self.wake = True
        return True

    def wake_if_due(self) -> bool:
        return self.is_due and self.win_wake()

    def accept(self, record: NewRecord) -> bool:
        """Put a new operation at the end of its lane; true where that made the lane due."""
        countdown, lifetime = round(record.countdown_s * 1000), round(record.expires_s * 1000)
        due, expires = (self.now + ms if ms else 0 for ms in (countdown, lifetime))
        entry = Entry(record.id, self.now, due, expires, record.sealed, record.halt, record.once)
        if record.once:
            self.once[record.once] = Once(record.id, record.lane, self.once_ms)
        self.known.add(record.id)
        return self.push(record.lane, entry)

    def push(self, name: str, entry: Entry) -> bool:
        lane = self.lanes[name]
        lane.entries.append(entry)
        if len(lane.entries) > 1 or lane.held or lane.ready is not None:
            return False
        lane.ready = max(self.now, entry.due)
        return lane.ready == self.now

    def leave(self, entry: Entry) -> None:
        """It is taken out of its lane: its once window starts."""
        once = self.once.get(entry.once)
        if once and once.id == entry.id:
            once.ends = self.now + once.window

    def first_of(self, key: bytes) -> Once | None:
        """Who has a once key, unless his time is over."""
        once = self.once.get(key)
        return once if once and (once.ends is None or once.ends > self.now) else None

    def bury(self, name: str, entry: Entry, reason: str, detail: bytes = b"") -> None:
        """Keep it as a dead letter; the caller takes it out of its lane and calls ``halt_for`` afterwards.

        It takes the place of one that died before under its id; one that was never accepted is set aside for it.
        """
        self.leave(entry)
        self.last_number += 1
        earlier = self.dead.get(entry.id)
        if earlier and earlier.is_foreign:
            aside = f"{SET_ASIDE}{earlier.number}"
            self.dead = {aside if key == entry.id else key: letter for key, letter in self.dead.items()}
        self.dead.pop(entry.id, None)
        retries = self.lanes[name].count(entry.id)
        self.dead[entry.id] = Letter(name, reason, retries, detail, entry, self.last_number)
        self.totals["dead"] += 1

    def halt_for(self, name: str, entry: Entry) -> None:
        """Where the dead one asked for that, its lane waits for a person."""
        if entry.halt:
            self.hold(name, halted_by(entry.id))

    def bury_head(self, name: str, reason: str, detail: bytes = b"") -> None:
        lane = self.lanes[name]
        head = lane.entries[0]
        self.bury(name, head, reason, detail)
        del lane.entries[0]
        self.halt_for(name, head)
        lane.advance()

    def hold(self, name: str, why: str, at: int = 0) -> bool:
        """Hold a lane; one that is claimed leaves the schedule when its claim ends. True where that is new."""
        lane = self.lanes[name]
        is_new = why not in lane.held
        lane.held[why] = at
        if not lane.claim:
            lane.ready = None
        return is_new

    def unhold(self, name: str, ends: Callable[[str, int], bool]) -> bool:
        """Take causes away; the lane goes on when none is left. True where one went."""
        lane = self.lanes[name]
        left = {why: at for why, at in lane.held.items() if not ends(why, at)}
        changed = left != lane.held
        lane.held = left
        if changed and not left and not lane.claim:
            lane.rest(self.now)
        return changed

    # --- after an outage

    def note_delivery(self) -> None:
        """After failures, lanes that failed first since the delivery before are brought forward."""
        since, ends_outage = self.delivered_at, self.streak >= FORWARD_AFTER
        self.streak, self.delivered_at = 0, self.now
        self.brings_forward = since if ends_outage else None

    def bring_forward(self) -> None:
        since, self.brings_forward = self.brings_forward, None
        if since is None:
            return
        for name, lane in self.lanes.items():
            if lane.retry and lane.retry.since >= since and not lane.claim and not lane.held:
                digest = hashlib.sha1(f"{name}{self.now}".encode()).hexdigest()
                at = max(lane.retry.floor, self.now + int(digest[:6], 16) % FORWARD_JITTER_MS)
                if at < lane.retry.at:
                    lane.retry.at = lane.ready = at
