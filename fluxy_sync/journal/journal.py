"""Each transition of the journal as a method: seconds and records outside, milliseconds and bytes inside."""

import functools
import inspect
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec

from fluxy_sync.errors import AcceptanceUnknown, FluxySyncError, OperationTooLarge, QueueFull, StorageUnavailable
from fluxy_sync.journal import record
from fluxy_sync.journal.answers import (
    NO_QUOTA,
    Appended,
    Buried,
    Cause,
    Claim,
    Idle,
    Quota,
    Settlement,
    Snapshot,
    Tick,
    Verdict,
)
from fluxy_sync.journal.clock import Clock
from fluxy_sync.journal.keys import Keys
from fluxy_sync.journal.record import NewRecord, StoredRecord
from fluxy_sync.journal.store import Argument, NotSent, ReplyLost, Script, Store, pack
from fluxy_sync.logs import get_logger

CLAIM_S = 14.0  # so that another host has sent what a dead one held within 15 s
CLOCK_MARGIN_S = 5.0  # journal time may run ahead of a holder's clock by one step of the prelude's MAX_STEP_MS
RUN_OPERATIONS = 64
RUN_BYTES = 256 * 1024
TAKEOVERS_UNTIL_DEAD = 5
WAKE_S = 86_400.0  # a wake token waits in the broker until a worker takes it, however long none runs
WAKE_LOST_S = 3.0  # one that was to be published so long ago, and isn't in the broker, is lost
RECENT_IDS = 10_000
MOST_TOGETHER = 10_000  # operations that are accepted all or none
MOST_BYTES_TOGETHER = 32 * 1024**2
LANES_AT_ONCE = 500
NOBODY = "- -"
ASK_AGAIN_S = 4.0  # how long a lost reply is asked for again
DURABLE_TIME_S = 2.0

SCRIPTS = (
    "append", "claim", "settle", "release", "renew", "reclaim", "bury", "cancel", "find", "gate", "wake", "tick",
    "probe", "snapshot", "hold", "clear", "page", "letters", "replay", "accept", "drop", "reseal", "reseal_letter",
    "audit", "swap", "recount_lane", "recount", "seek",
)  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")

logger = get_logger(__name__)

ONCE_WINDOW_S = 86_400.0
CAUSE_CHARS = 200  # of an error's text in the log
REASON_BYTES = 200  # of 255 at most, where a character that was cut is made readable
_CLAIM = re.compile(rb"\d+ \d+ (\S+ \S+)")
_FULL = {
    "pending": "the queue is full (FLUXY_SYNC_MAX_PENDING is reached); nothing was accepted; wait until it drains, or "
    "raise the limit",
    "bytes": "the queue is full (FLUXY_SYNC_MAX_BYTES is reached, dead letters included); nothing was accepted; wait "
    "until it drains, replay or drop dead letters, or raise the limit",
    "lane": "the lane is full (FLUXY_SYNC_MAX_LANE_PENDING is reached); nothing was accepted; wait until it drains, or "
    "raise the limit",
}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000


def _read_buried(flat: Sequence[bytes]) -> tuple[Buried, ...]:
    parts = zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
    return tuple(Buried(_text(lane), read_id(packed), _text(reason), raw) for lane, packed, reason, raw in parts)


def _read_heads(pages: Any) -> list[str]:
    return [read_id(head) for _, head, _, flying, *_ in pages if head and flying]


def _read_tick(answer: Any) -> Tick:
    gate, opens, due, pending, beat, delivered, offline = answer
    return Tick(
        _text(gate), _seconds(opens), _seconds(due), pending, _seconds(beat), _seconds(delivered), bool(offline)
    )


def _read_snapshot(answer: Any) -> Snapshot:
    *values, held_for = answer
    causes = dict(zip(map(_text, held_for[::2]), map(int, held_for[1::2]), strict=True))
    return msgspec.convert([*map(_text, values), causes], Snapshot)


def _check_together(records: Sequence[NewRecord]) -> None:
    """All or none is one step of the store, for which everybody waits: some 15 us for each operation."""
    size = sum(len(r.sealed) for r in records)
    if len(records) > MOST_TOGETHER or (size > MOST_BYTES_TOGETHER and len(records) > 1):
        raise OperationTooLarge(
            f"these are {len(records):,} operations of {size:,} bytes together: queue at most {MOST_TOGETHER:,} or "
            f"{MOST_BYTES_TOGETHER // 1024**2} MiB in one call; nothing was accepted"
        )


def read_id(packed: bytes) -> str:
    """A record's id, readable even where it is damaged."""
    try:
        return record.unpack_id(packed)
    except (ValueError, IndexError):
        return packed.decode("ascii", "backslashreplace")


def text(value: bytes) -> str:
    """A name or code of the store, readable even where it was damaged."""
    return value.decode("utf-8", "backslashreplace")


def _text(value: Any) -> Any:
    return text(value) if isinstance(value, bytes) else value


def _code(reason: str) -> str:
    """A reason as the scripts take it: a short word."""
    return text("-".join(reason.split()).encode()[:REASON_BYTES]) or "-"


UNREADABLE = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
READERS = {f"fluxy_sync.journal.{name}" for name in ("journal", "inventory", "record", "seek", "answers", "store")}
_NOT_OURS = "the store holds something that the journal can't have written; it was damaged, or changed by hand"


class _Reading:
    """While a method reads what the store holds, which may have been damaged: then it is as if the store refused."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UNREADABLE) and not isinstance(error, FluxySyncError) and _while_reading(error):
            raise _unreadable(self._ask, error) from error


def guarded(ask: Callable[P, Any]) -> Callable[P, Any]:
    """What the store holds may have been damaged, or written by somebody else: then it is as if it refused."""
    reading = _Reading(ask)

    @functools.wraps(ask)
    def ask_and_read(*args: P.args, **kwargs: P.kwargs) -> Any:
        with reading:
            return ask(*args, **kwargs)

    @functools.wraps(ask)
    def ask_and_read_on(*args: P.args, **kwargs: P.kwargs) -> Any:
        with reading:
            yield from ask(*args, **kwargs)

    return ask_and_read_on if inspect.isgeneratorfunction(ask) else ask_and_read


def understood(read: Callable[[Any], T], reply: Any) -> T:
    """What ``read`` makes of a reply of the store's.

    Raises:
        StorageUnavailable: it can't be read: what the store holds was damaged, or written by somebody else.
    """
    try:
        return read(reply)
    except UNREADABLE as error:
        raise _unreadable(read, error) from error


def _while_reading(error: BaseException) -> bool:
    """Whether it comes from where replies are read: what fails on the way to the store is a fault of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") in READERS


def _unreadable(read: Callable[..., Any], error: Exception) -> StorageUnavailable:
    cause = f"{type(error).__name__}: {ascii(str(error))[:CAUSE_CHARS]}"
    logger.error("A reply of the store can't be read (%s, %s).", getattr(read, "__qualname__", "?"), cause)
    return StorageUnavailable(f"{_NOT_OURS} ({type(error).__name__})")


def all_guarded(kind: type[T]) -> type[T]:
    """``guarded`` for each public method of a class."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_") and not hasattr(method, "__wrapped__"):
            setattr(kind, name, guarded(method))
    return kind


@all_guarded
class Journal:
    """The lanes of one namespace.

    Raises, from every method: StorageUnavailable where the store is down or refuses.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        quota: Quota = NO_QUOTA,
        *,
        once_window_s: float = ONCE_WINDOW_S,
        waitaof: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self.keys = Keys(namespace)
        clock = clock or Clock()
        self._scripts = {name: Script(name, self.keys.fixed, clock) for name in SCRIPTS}
        self._quota = quota
        self.once_ms = _ms(once_window_s)
        self._waitaof = waitaof

    # --- accepting

    def append(self, records: Sequence[NewRecord]) -> Appended:
        """Accept records, all or none; those that are known already aren't stored again.

        Raises:
            OperationTooLarge: they are too many, or too large, for one step of the store; nothing was accepted.
            QueueFull: the quota is reached; nothing was accepted.
            StorageUnavailable: nothing was accepted.
            AcceptanceUnknown: the store went away before it answered.
        """
        _check_together(records)
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

    def _append_once(self, command_id: bytes, asked_before: bool, records: Sequence[NewRecord]) -> Appended:
        lanes = list(dict.fromkeys(r.lane for r in records))
        quota = self._quota
        head: list[Argument] = [
            command_id, int(asked_before), quota.max_pending, quota.max_bytes, quota.max_lane_pending,
            "drop_oldest" if quota.drop_oldest else "reject", RECENT_IDS, _ms(WAKE_S), self.once_ms,
        ]  # fmt: skip
        after = (pack("WAITAOF", 1, 0, _ms(ASK_AGAIN_S)),) if self._waitaof else ()
        answer, *waited = self.store.run_then(
            self._scripts["append"], head + self.flatten(records, lanes), self.lane_keys(lanes), *after
        )
        try:
            return self._read_append(answer, waited, records)
        except UNREADABLE as error:
            raise self._unknown(records) from error

    def _read_append(self, answer: Any, waited: Sequence[Any], records: Sequence[NewRecord]) -> Appended:
        if answer[0] == b"full":
            raise QueueFull(_FULL[_text(answer[1])])
        if answer[0] == b"refused" or any(isinstance(reply, Exception) or reply[0] < 1 for reply in waited):
            raise self._unknown(records)
        taken = zip(answer[3::3], answer[4::3], answer[5::3], strict=True)
        first = {position: (read_id(packed), _text(lane)) for position, packed, lane in taken}
        return Appended(bool(answer[1]), answer[2], first)

    @staticmethod
    def flatten(records: Sequence[NewRecord], lanes: list[str]) -> list[Argument]:
        """Operations as the scripts take them: see ``accept`` in ``lua/_lanes.lua``."""
        number = {lane: index for index, lane in enumerate(lanes, start=1)}
        flat: list[Argument] = []
        for r in records:
            flat += [
                number[r.lane], r.lane, record.pack_id(r.id), _ms(r.countdown_s), _ms(r.expires_s), int(r.halt), r.once,
                r.sealed,
            ]  # fmt: skip
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
        answer = self.run("claim", *self._claim_arguments(holder, most, length_s, drop_wake))
        return understood(self._read_claim, answer)

    def _claim_arguments(self, holder: str, most: int, length_s: float, drop_wake: bool) -> tuple[Argument, ...]:
        return (
            holder, _ms(length_s), most, RUN_BYTES, self.keys.lane_prefix, TAKEOVERS_UNTIL_DEAD, _ms(WAKE_S),
            os.urandom(8).hex(), int(drop_wake),
        )  # fmt: skip

    @staticmethod
    def _read_claim(answer: Any) -> Claim | Idle:
        if answer[0] == b"none":
            return Idle(_text(answer[1]), _seconds(answer[2]), _read_buried(answer[3]))
        return Claim(
            lane=_text(answer[1]),
            fence=answer[2],
            length_s=answer[3] / 1000,
            retries=answer[4],
            call_helper=bool(answer[5]),
            journal_ms=answer[6],
            epoch=_text(answer[7]),
            takeovers=answer[8],
            buried=_read_buried(answer[9]),
            records=tuple(answer[10:]),
        )

    def settle(
        self,
        lane: str,
        fence: int,
        operation_id: str,
        verdict: Verdict,
        *,
        pause_s: float = 0.0,
        floor_s: float = 0.0,
        upstream_s: float = 0.0,
        reason: str = "-",
        took_s: float | None = None,
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
            floor_s: the part of the pause that the upstream asked for: nothing brings the lane forward before it.
            upstream_s: how long the upstream asked everybody to wait.
            reason: a status or a fixed code without spaces, shown in clear.
            took_s: how long the upstream took to answer; None where it didn't.
            replacement: another sealed part for a head that is tried again.
            detail: sealed, kept with a dead letter.
            followers: appended in the same step, past the quota.
            give_up: release the lane with it.
            length_s: what the claim is renewed to.
            then_claim: the holder for whom the next lane is claimed in the same round trip.
        """
        lanes = list(dict.fromkeys(r.lane for r in followers))
        arguments: list[Argument] = [
            lane, fence, record.pack_id(operation_id), verdict, _ms(pause_s), _code(reason),
            replacement, detail, int(give_up), _ms(length_s), _ms(WAKE_S), _ms(floor_s), _ms(upstream_s), self.once_ms,
            -1 if took_s is None else _ms(took_s),
        ]  # fmt: skip
        arguments += self.flatten(followers, lanes)
        claim = self._claim_arguments(then_claim, RUN_OPERATIONS, length_s, False)
        after = (self._scripts["claim"].pack(claim),) if then_claim else ()
        answers = self.store.run_then(
            self._scripts["settle"], arguments, [*self.lane_keys([lane, *lanes]), self.keys.histogram], *after
        )
        return understood(self._read_settlement, answers)

    def _read_settlement(self, answers: Any) -> Settlement:
        answer, *claimed = answers
        return Settlement(
            status=_text(answer[0]),
            next_id=read_id(answer[1]) if answer[1] else "",
            gate=_text(answer[2]),
            ends_in_s=answer[3] / 1000,
            woken=bool(answer[4]),
            journal_ms=answer[5],
            claim=self._read_claim(claimed[0]) if claimed and not isinstance(claimed[0], Exception) else None,
        )

    def release(self, lane: str, fence: int) -> bool:
        """Give a claim up; False where it was lost already."""
        return bool(self.run("release", lane, fence, lanes=[lane]))

    def renew(self, lane: str, fence: int, length_s: float = CLAIM_S, *, begins: int | None = None) -> bool:
        """Move a claim's end to ``length_s`` from now; False where it was lost.

        Args:
            begins: the claim's ``takeovers``, where its holder is about to begin: if it dies from here on, that counts.
        """
        return bool(self.run("renew", lane, fence, _ms(length_s), -1 if begins is None else begins))

    def reclaim(self, incarnation: str, alive: Sequence[int] = ()) -> int:
        """Give up the claims of a dead incarnation, or those of its processes that aren't ``alive``."""
        return int(self.run("reclaim", incarnation, *alive))

    def holders(self) -> set[tuple[str, int]]:
        """Incarnation and process id of each claim's holder."""
        holders = (holder.split(" ") for holder in self.claims().values())
        return {(incarnation, int(pid)) for incarnation, pid in holders if pid.isdecimal()}

    def claims(self) -> dict[str, str]:
        """Lane -> who holds a claim on it; claims that were taken from the dead are nobody's."""
        found = self.store.command("HGETALL", self.keys.claims)
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        found = {lane: _CLAIM.fullmatch(claim) for lane, claim in pairs}
        holders = {text(lane): text(claim[1]) for lane, claim in found.items() if claim}
        return {lane: holder for lane, holder in holders.items() if holder != NOBODY}

    def bury(self, new: NewRecord, reason: str) -> bool:
        """Keep an operation that isn't accepted as a dead letter; False, and nothing is kept, where one has its id."""
        return bool(self.run("bury", new.lane, record.pack_id(new.id), reason, new.sealed, lanes=[new.lane]))

    def in_flight(self) -> list[str]:
        """The ids of operations that are being sent: the heads of claimed lanes."""
        pages = [self.run("page", lane, 0, b"", 1, lanes=[lane]) for lane in self.claims()]
        return understood(_read_heads, pages)

    # --- one operation

    def cancel(self, lane: str, operation_id: str) -> tuple[str, bytes]:
        """Take an operation out of its lane: ``('cancelled', record)``, ``('sending', b'')`` or ``('absent', b'')``."""
        status, *rest = self.search("cancel", lane, operation_id)
        return _text(status), rest[0] if rest else b""

    def find(self, lane: str, operation_id: str) -> tuple[str, bytes]:
        """Its state in its lane (``pending``, ``retrying``, ``syncing`` or ``absent``) and its record."""
        status, *rest = self.search("find", lane, operation_id)
        return _text(status), rest[0] if rest else b""

    def search(self, script: Literal["find", "cancel"], lane: str, operation_id: str) -> list[Any]:
        """Look through a lane from its tail, stretch by stretch; what the script answers in the end."""
        packed, look_from = record.pack_id(operation_id), -1
        while True:
            answer: list[Any] = self.run(script, lane, packed, look_from, lanes=[lane])
            if answer[0] != b"next":
                return answer
            look_from = answer[1]

    def lanes(self) -> Iterator[str]:
        """The lanes that hold operations, in no order; one that is there all along comes at least once."""
        cursor = b"0"
        while True:
            cursor, found = self.store.command("ZSCAN", self.keys.oldest, cursor, "COUNT", LANES_AT_ONCE)
            yield from (text(lane) for lane in found[::2])
            if cursor == b"0":
                return

    def is_dead(self, operation_id: str) -> bool:
        """Whether it lies in the dead letters."""
        return bool(self.store.command("HEXISTS", self.keys.dead, record.pack_id(operation_id)))

    # --- the gate, time, and what there is to see

    def close_gate(self, cause: Cause, reason: str) -> bool:
        """Close the gate for one cause; True where that changed something."""
        return bool(self.run("gate", cause, reason, 0)[0])

    def open_gate(self, cause: Cause, *, opens_in_s: float = 0.0) -> bool:
        """Take a cause away; the gate opens when none is left. True where that changed something."""
        return bool(self.run("gate", cause, "", _ms(opens_in_s))[0])

    def win_wake(self) -> bool:
        """Win the right to publish one wake token, where none waits in the broker, or the one that was to is lost.

        Ask first whether the broker's queue is empty: one may wait there for long.
        """
        return bool(self.run("wake", _ms(WAKE_S), _ms(WAKE_LOST_S)))

    def forget_wake(self) -> None:
        """A token that was to be published won't be."""
        self.store.command("DEL", self.keys.wake)

    def win_probe(self, interval_s: float) -> bool:
        """Win the right to probe the upstream: nobody did within ``interval_s``."""
        return bool(self.run("probe", _ms(interval_s)))

    def tick(self, role: Literal["beat", "steward"], name: str, *, forget_wake: bool = False) -> Tick:
        """Keep journal time going, and tell what there is to do."""
        answer = self.run(
            "tick",
            role,
            name,
            int(forget_wake),
            _ms(WAKE_S),
            _ms(DURABLE_TIME_S),
            self.keys.lane_prefix,
            keys=[self.keys.samples],
        )
        return understood(_read_tick, answer)

    def snapshot(self) -> Snapshot:
        """All counts, from one moment."""
        return understood(_read_snapshot, self.run("snapshot"))

    def lane_keys(self, lanes: Sequence[str]) -> list[str]:
        return [self.keys.lane(lane) for lane in lanes]

    def run(self, script: str, *arguments: Argument, lanes: Sequence[str] = (), keys: Sequence[str] = ()) -> Any:
        """Run one script, with the keys of the lanes that it names, or with others of its own."""
        return self.store.run(self._scripts[script], *arguments, lane_keys=[*self.lane_keys(lanes), *keys])

    @staticmethod
    def parse(stored: bytes) -> StoredRecord:
        """Read a record's clear part."""
        return record.parse(stored)
