"""What the journal is told, and what it answers."""

from typing import Literal

import msgspec

SOON_S = 1.0  # a flush that is woken so early tells its worker's steward when to wake it again

Verdict = Literal["delivered", "retry", "wait", "hold", "dead"]
Cause = Literal["paused", "unauthorized", "offline"]


class Quota(msgspec.Struct, frozen=True):
    """What the journal accepts; 0 means no bound."""

    max_pending: int = 0
    max_bytes: int = 0
    max_lane_pending: int = 0
    drop_oldest: bool = False


NO_QUOTA = Quota()


class Appended(msgspec.Struct, frozen=True):
    """What an append did.

    Attributes:
        woken: the caller has won the right to publish a wake token.
        dropped: operations that became dead letters to make room.
        first: position of a record whose once key was taken -> id and lane of the operation that has it.
    """

    woken: bool
    dropped: int = 0
    first: dict[int, tuple[str, str]] = msgspec.field(default_factory=dict)


class Buried(msgspec.Struct, frozen=True):
    """A head that was found dead when its lane was claimed."""

    lane: str
    id: str
    reason: str
    record: bytes


class Claim(msgspec.Struct, frozen=True):
    """One worker's right to a lane. ``length_s`` counts from when the claim was asked for.

    ``takeovers``: holders in a row that are gone and may have begun to send its head. Where there are any, the holder
    says that it begins (``Journal.renew``) before it does anything with the head.
    """

    lane: str
    fence: int
    length_s: float
    retries: int
    call_helper: bool
    journal_ms: int
    epoch: str
    records: tuple[bytes, ...]
    takeovers: int = 0
    buried: tuple[Buried, ...] = ()


class Idle(msgspec.Struct, frozen=True):
    """Nothing can be claimed; ``due_in_s`` tells when something may be, None if that isn't known."""

    gate: str
    due_in_s: float | None
    buried: tuple[Buried, ...] = ()


class Settlement(msgspec.Struct, frozen=True):
    """What a settle found. ``next_id`` is the new head while the claim goes on, else ''.

    ``gate`` is 'waiting' where the gate is open but the upstream asked to wait.
    """

    status: str  # 'ok', 'already' or 'fenced'
    next_id: str
    gate: str
    ends_in_s: float
    woken: bool
    journal_ms: int
    claim: Claim | Idle | None = None  # what `then_claim` found


class Tick(msgspec.Struct, frozen=True):
    """What there is to do now; times are seconds, None where unknown.

    ``opens_in_s`` is None through a closed gate; an unauthorized one opens for a trial now and then.
    """

    gate: str
    opens_in_s: float | None
    due_in_s: float | None
    pending: int
    beat_age_s: float | None
    delivered_ago_s: float | None
    offline: bool

    @property
    def wants_token(self) -> bool:
        """Whether a lane is due and may be claimed."""
        return self.due_in_s == 0 and self.may_claim

    @property
    def may_claim(self) -> bool:
        """Whether the gate lets claims through, now or in a moment."""
        return self.opens_in_s is not None and self.opens_in_s <= SOON_S

    @property
    def claims_in_s(self) -> float | None:
        """When something can be claimed: a lane is due, and the gate lets it through."""
        if self.opens_in_s is None or self.due_in_s is None:
            return None
        return max(self.opens_in_s, self.due_in_s)

    @property
    def consumes(self) -> bool:
        """Whether workers listen: an unauthorized gate lets a trial through now and then."""
        return self.gate in ("open", "unauthorized")


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """The counts at one moment, in the order in which ``lua/snapshot.lua`` returns them."""

    pending: int
    syncing: int
    retrying: int
    held: int
    dead: int
    bytes: int
    lanes: int
    oldest_age_ms: int
    gate: str
    since_wall_ms: int
    reason: str
    delivered_total: int
    rev: int
    retried_total: int
    dead_total: int
    cancelled_total: int
    dropped_total: int
    offline: int
    opens_in_ms: int
    held_for: dict[str, int]
