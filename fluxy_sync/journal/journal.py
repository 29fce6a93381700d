"""Each transition of the journal as a method: seconds and records outside, milliseconds and bytes inside."""

import os
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from fluxy_sync.errors import AcceptanceUnknown, QueueFull, StorageUnavailable
from fluxy_sync.journal import record
from fluxy_sync.journal.keys import Keys
from fluxy_sync.journal.record import NewRecord, StoredRecord
from fluxy_sync.journal.store import Argument, NotSent, ReplyLost, Script, Store, pack

CLAIM_S = 15.0
CLOCK_MARGIN_S = 5.0  # journal time may run ahead by one step of the prelude's MAX_STEP_MS
RUN_OPERATIONS = 64
RUN_BYTES = 256 * 1024
TAKEOVERS_UNTIL_DEAD = 5
WAKE_S = 3.0
RECENT_IDS = 10_000
ASK_AGAIN_S = 4.0  # how long a lost reply is asked for again
SEARCH_STRETCH = 2_000  # records that one search holds the store for: about 2 ms
DURABLE_TIME_S = 2.0

SCRIPTS = (
    "append", "claim", "settle", "release", "renew", "reclaim", "bury", "cancel", "find", "gate", "wake", "tick",
    "probe", "snapshot",
)  # fmt: skip

Verdict = Literal["delivered", "retry", "wait", "hold", "dead"]
Cause = Literal["paused", "unauthorized", "offline"]


class Claim(msgspec.Struct, frozen=True):
    """One worker's right to a lane. ``length_s`` counts from when the claim was asked for."""

    lane: str
    fence: int
    length_s: float
    retries: int
    call_helper: bool
    journal_ms: int
    epoch: str
    records: tuple[bytes, ...]


class Idle(msgspec.Struct, frozen=True):
    """Nothing can be claimed; ``due_in_s`` tells when something may be, None if that isn't known."""

    gate: str
    due_in_s: float | None


class Settlement(msgspec.Struct, frozen=True):
    """What a settle found. ``next_id`` is the new head while the claim goes on, else ''."""

    status: str  # 'ok', 'already' or 'fenced'
    next_id: str
    gate: str
    ends_in_s: float
    woken: bool
    claim: Claim | Idle | None = None  # what `then_claim` found


class Tick(msgspec.Struct, frozen=True):
    """What there is to do now; times are seconds, None where unknown."""

    gate: str
    opens_in_s: float
    due_in_s: float | None
    pending: int
    beat_age_s: float | None
    delivered_ago_s: float | None

    @property
    def wants_token(self) -> bool:
        """Whether a lane is due and may be claimed."""
        return self.gate == "open" and self.due_in_s == 0


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
    offline: int


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


class Journal:
    """The lanes of one namespace.

    Raises, from every method: StorageUnavailable where the store is down or refuses.
    """

    def __init__(
        self, store: Store, namespace: str, *, max_pending: int = 0, max_bytes: int = 0, waitaof: bool = False
    ) -> None:
        self.store = store
        self.keys = Keys(namespace)
        self._scripts = {name: Script(name, self.keys.fixed) for name in SCRIPTS}
        self._max_pending = max_pending
        self._max_bytes = max_bytes
        self._waitaof = waitaof

    # --- accepting

    def append(self, records: Sequence[NewRecord]) -> bool:
        """Accept records, all or none; those that are known already aren't stored again.

        Returns whether the caller has won the right to publish a wake token.

        Raises:
            QueueFull: the quota is reached; nothing was accepted.
            StorageUnavailable: nothing was accepted.
            AcceptanceUnknown: the store went away before it answered.
        """
        command_id, asked_before = os.urandom(12), False
        give_up_at = time.monotonic() + ASK_AGAIN_S
        pause_s = 0.02
        while True:
            try:
                return self._append_once(command_id, asked_before, records)
            except (NotSent, ReplyLost) as error:
                asked_before = asked_before or isinstance(error, ReplyLost)
                if not asked_before:
                    raise
                if time.monotonic() >= give_up_at:
                    raise self._unknown(records) from error
            except AcceptanceUnknown:
                raise
            except StorageUnavailable as error:
                if asked_before:
                    raise self._unknown(records) from error
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)

    def _unknown(self, records: Sequence[NewRecord]) -> AcceptanceUnknown:
        return AcceptanceUnknown(
            "the store went away before it answered; the operations may have been accepted: queue them again with the "
            "same ids once it is back, and none is stored twice",
            tuple(r.id for r in records),
        )

    def _append_once(self, command_id: bytes, asked_before: bool, records: Sequence[NewRecord]) -> bool:
        lanes = list(dict.fromkeys(r.lane for r in records))
        head: list[Argument] = [
            command_id, int(asked_before), self._max_pending, self._max_bytes, RECENT_IDS, _ms(WAKE_S),
        ]  # fmt: skip
        after = (pack("WAITAOF", 1, 0, _ms(ASK_AGAIN_S)),) if self._waitaof else ()
        answer, *waited = self.store.run_then(
            self._scripts["append"], head + self._flatten(records, lanes), self._lane_keys(lanes), *after
        )
        if answer[0] == b"full":
            raise QueueFull(
                f"the queue is full ({'FLUXY_SYNC_MAX_PENDING' if answer[1] == b'pending' else 'FLUXY_SYNC_MAX_BYTES'} "
                "is reached); nothing was accepted; wait until it drains, or raise the limit"
            )
        if answer[0] == b"refused" or any(isinstance(reply, Exception) or reply[0] < 1 for reply in waited):
            raise self._unknown(records)
        return bool(answer[1])

    @staticmethod
    def _flatten(records: Sequence[NewRecord], lanes: list[str]) -> list[Argument]:
        number = {lane: index for index, lane in enumerate(lanes, start=1)}
        flat: list[Argument] = []
        for r in records:
            flat += [number[r.lane], r.lane, record.pack_id(r.id), _ms(r.countdown_s), _ms(r.expires_s), r.sealed]
        return flat

    # --- delivering

    def claim(
        self, holder: str, *, most: int = RUN_OPERATIONS, length_s: float = CLAIM_S, drop_wake: bool = False
    ) -> Claim | Idle:
        """Take the lane that has been due longest, with a run of its first operations.

        Args:
            holder: ``'<incarnation> <pid>'``.
            most: operations in the run.
            length_s: the claim's length.
            drop_wake: the caller was woken by a token, which is used up now.
        """
        return self._read_claim(self._run("claim", *self._claim_arguments(holder, most, length_s, drop_wake)))

    def _claim_arguments(self, holder: str, most: int, length_s: float, drop_wake: bool) -> tuple[Argument, ...]:
        return (
            holder, _ms(length_s), most, RUN_BYTES, self.keys.lane_prefix, TAKEOVERS_UNTIL_DEAD, _ms(WAKE_S),
            os.urandom(8).hex(), int(drop_wake),
        )  # fmt: skip

    @staticmethod
    def _read_claim(answer: Any) -> Claim | Idle:
        if answer[0] == b"none":
            return Idle(_text(answer[1]), _seconds(answer[2]))
        return Claim(
            lane=_text(answer[1]),
            fence=answer[2],
            length_s=answer[3] / 1000,
            retries=answer[4],
            call_helper=bool(answer[5]),
            journal_ms=answer[6],
            epoch=_text(answer[7]),
            records=tuple(answer[8:]),
        )

    def settle(
        self,
        lane: str,
        fence: int,
        operation_id: str,
        verdict: Verdict,
        *,
        pause_s: float = 0.0,
        reason: str = "-",
        replacement: bytes = b"",
        detail: bytes = b"",
        followers: Sequence[NewRecord] = (),
        give_up: bool = False,
        length_s: float = CLAIM_S,
        then_claim: str = "",
    ) -> Settlement:
        """Record what became of the head of a claimed lane.

        Args:
            pause_s: until the next try (retry, wait), or until a held lane is offered again (0: never).
            reason: a status or a fixed code without spaces, shown in clear.
            replacement: another sealed part for a head that is tried again.
            detail: sealed, kept with a dead letter.
            followers: appended in the same step, past the quota.
            give_up: release the lane with it.
            length_s: what the claim is renewed to.
            then_claim: the holder for whom the next lane is claimed in the same round trip.
        """
        lanes = list(dict.fromkeys(r.lane for r in followers))
        arguments: list[Argument] = [
            lane, fence, record.pack_id(operation_id), verdict, _ms(pause_s), reason.replace(" ", "-"), replacement,
            detail, int(give_up), _ms(length_s), _ms(WAKE_S),
        ]  # fmt: skip
        arguments += self._flatten(followers, lanes)
        claim = self._claim_arguments(then_claim, RUN_OPERATIONS, length_s, False)
        after = (self._scripts["claim"].pack(claim),) if then_claim else ()
        answer, *claimed = self.store.run_then(
            self._scripts["settle"], arguments, self._lane_keys([lane, *lanes]), *after
        )
        return Settlement(
            status=_text(answer[0]),
            next_id=record.unpack_id(answer[1]) if answer[1] else "",
            gate=_text(answer[2]),
            ends_in_s=answer[3] / 1000,
            woken=bool(answer[4]),
            claim=self._read_claim(claimed[0]) if claimed and not isinstance(claimed[0], Exception) else None,
        )

    def release(self, lane: str, fence: int) -> bool:
        """Give a claim up; False where it was lost already."""
        return bool(self._run("release", lane, fence, lanes=[lane]))

    def renew(self, lane: str, fence: int, length_s: float = CLAIM_S) -> bool:
        """Move a claim's end to ``length_s`` from now; False where it was lost."""
        return bool(self._run("renew", lane, fence, _ms(length_s)))

    def reclaim(self, incarnation: str, alive: Sequence[int] = ()) -> int:
        """Give up the claims of a dead incarnation, or those of its processes that aren't ``alive``."""
        return int(self._run("reclaim", incarnation, *alive))

    def holders(self) -> set[tuple[str, int]]:
        """Incarnation and process id of each claim's holder."""
        claims = self.store.command("HVALS", self.keys.claims)
        holders = (claim.decode().split(" ", 2)[2].split(" ") for claim in claims)
        return {(incarnation, int(pid)) for incarnation, pid in holders if incarnation != "-"}

    def bury(self, new: NewRecord, reason: str) -> None:
        """Keep an operation that isn't accepted as a dead letter."""
        self._run("bury", new.lane, record.pack_id(new.id), reason, new.sealed)

    def in_flight(self) -> list[str]:
        """The ids of operations that are being sent: the heads of claimed lanes."""
        claims = self.store.command("HGETALL", self.keys.claims)
        pairs = claims.items() if isinstance(claims, dict) else zip(claims[::2], claims[1::2], strict=True)
        lanes = [lane.decode() for lane, claim in pairs if not claim.endswith(b"- -")]
        heads = [self.store.command("LINDEX", self.keys.lane(lane), 0) for lane in lanes]
        return [record.parse(head).id for head in heads if head is not None]

    # --- one operation

    def cancel(self, lane: str, operation_id: str) -> tuple[str, bytes]:
        """Take an operation out of its lane: ``('cancelled', record)``, ``('sending', b'')`` or ``('absent', b'')``."""
        return self._search("cancel", lane, operation_id)

    def find(self, lane: str, operation_id: str) -> tuple[str, bytes]:
        """Its state in its lane (``pending``, ``retrying``, ``syncing`` or ``absent``) and its record."""
        return self._search("find", lane, operation_id)

    def _search(self, script: str, lane: str, operation_id: str) -> tuple[str, bytes]:
        packed, end = record.pack_id(operation_id), -1
        while True:
            start = end - SEARCH_STRETCH + 1
            answer = self._run(script, lane, packed, start, end, lanes=[lane])
            if answer[0] != b"next":
                return _text(answer[0]), answer[1] if len(answer) > 1 else b""
            end = start - 1

    def lanes(self) -> list[str]:
        """The lanes that hold operations, the longest waiting first."""
        return [lane.decode() for lane in self.store.command("ZRANGE", self.keys.oldest, 0, -1)]

    def is_dead(self, operation_id: str) -> bool:
        """Whether it lies in the dead letters."""
        return bool(self.store.command("HEXISTS", self.keys.dead, record.pack_id(operation_id)))

    # --- the gate, time, and what there is to see

    def close_gate(self, cause: Cause, reason: str) -> bool:
        """Close the gate for one cause; True where that changed something."""
        return bool(self._run("gate", cause, reason, 0)[0])

    def open_gate(self, cause: Cause, *, opens_in_s: float = 0.0) -> bool:
        """Take a cause away; the gate opens when none is left. True where that changed something."""
        return bool(self._run("gate", cause, "", _ms(opens_in_s))[0])

    def win_wake(self) -> bool:
        """Win the right to publish one wake token."""
        return bool(self._run("wake", _ms(WAKE_S)))

    def forget_wake(self) -> None:
        """A token that was to be published won't be."""
        self.store.command("DEL", self.keys.wake)

    def win_probe(self, interval_s: float) -> bool:
        """Win the right to probe the upstream: nobody did within ``interval_s``."""
        return bool(self._run("probe", _ms(interval_s)))

    def tick(self, role: Literal["beat", "steward"], name: str, *, forget_wake: bool = False) -> Tick:
        """Keep journal time going, and tell what there is to do."""
        gate, opens, due, pending, beat, delivered = self._run(
            "tick", role, name, int(forget_wake), _ms(WAKE_S), _ms(DURABLE_TIME_S)
        )
        return Tick(_text(gate), opens / 1000, _seconds(due), pending, _seconds(beat), _seconds(delivered))

    def snapshot(self) -> Snapshot:
        """All counts, from one moment."""
        answer = self._run("snapshot", self.keys.lane_prefix)
        return msgspec.convert([_text(value) for value in answer], Snapshot)

    def _lane_keys(self, lanes: Sequence[str]) -> list[str]:
        return [self.keys.lane(lane) for lane in lanes]

    def _run(self, script: str, *arguments: Argument, lanes: Sequence[str] = ()) -> Any:
        return self.store.run(self._scripts[script], *arguments, lane_keys=self._lane_keys(lanes))

    @staticmethod
    def parse(stored: bytes) -> StoredRecord:
        """Read a record's clear part."""
        return record.parse(stored)
