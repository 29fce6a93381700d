"""What a person sees of the journal, and does to it: lists, dead letters, holds. None of it needs a key."""

import re
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import Any, Literal

import msgspec

from fluxy_sync.errors import CorruptRecord
from fluxy_sync.journal import record
from fluxy_sync.journal.journal import WAKE_S, Journal, all_guarded, read_id, text, understood
from fluxy_sync.journal.store import Argument
from fluxy_sync.vault import KEY_ID_BYTES

PAGE_OPERATIONS = 500  # in one call; the scripts stop earlier where records are large
PAGE_LETTERS = 200
STEP_BYTES = 1024 * 1024  # of dead letters that go in one step: some 3 ms of the store's time
CLEAR_RECORDS = 500
AUDIT_NOTES = 10_000
LANES_AT_ONCE = 500
LATEST_S = 253_402_300_799  # the end of the year 9999: a later time is damaged
PAUSED = "paused"
DAMAGED = "damaged-"  # starts the name of a dead letter whose id can't be read
SET_ASIDE = "set-aside-"  # and of one that was never accepted, and claims the id of an operation

State = Literal["pending", "retrying", "syncing"]
End = Literal["head", "tail"]


class Waiting(msgspec.Struct, frozen=True):
    """One operation in its lane. ``size`` is its record's, in bytes; ``key_id`` names the key that sealed it."""

    id: str
    lane: str
    state: State
    age_s: float
    size: int
    retries: int
    last_error: str
    next_try_in_s: float | None
    expires_in_s: float | None
    halts: bool
    key_id: str
    index: int


class DeadLetter(msgspec.Struct, frozen=True):
    """An operation that gave up. ``number`` grows with each death, ``died_ms`` is by the wall clock.

    ``member`` is its id as the store has it: that of a damaged record can't be told from ``id``.
    """

    number: int
    id: str
    lane: str
    reason: str
    retries: int
    died_ms: int
    size: int
    key_id: str
    detail_key_id: str
    halts: bool
    member: bytes

    @property
    def died_at(self) -> datetime:
        """When it died, by the wall clock of the store (UTC)."""
        return datetime.fromtimestamp(min(self.died_ms / 1000, LATEST_S), UTC)


class LetterBody(msgspec.Struct, frozen=True):
    """A dead letter whole: its record, and the sealed detail beside it."""

    lane: str
    reason: str
    retries: int
    died_ms: int
    detail: bytes
    record: bytes
    raw: bytes


class Histogram(msgspec.Struct, frozen=True):
    """Counts by upper bounds in seconds; one more count than bounds, for what lies beyond the last."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


BOUNDS_S = {  # as in ``lua/settle.lua``
    "latency": (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400),
    "response": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
}


class Page(msgspec.Struct, frozen=True):
    """A stretch of a lane: what waits there, the index to go on at (None at its end), and what stood before that."""

    waiting: tuple[Waiting, ...]
    goes_on: int | None
    before: bytes


@all_guarded
class Inventory:
    """Lists and changes what waits and what is dead, in steps that never hold the store for long."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    # --- what waits

    def waiting(self, lane: str) -> Iterator[Waiting]:
        """The operations of a lane, head first, read in pages. What is there all along comes at least once."""
        for page in self.pages(lane):
            yield from page.waiting

    def pages(self, lane: str, most: int = PAGE_OPERATIONS) -> Iterator[Page]:
        """The same in its pages, some of which may be empty. Each looks at ``most`` records at most."""
        page = self.page(lane, most=most)
        yield page
        while page.goes_on is not None:
            page = self.page(lane, page.goes_on, page.before, most)
            yield page

    def page(self, lane: str, index: int = 0, before: str | bytes = b"", most: int = PAGE_OPERATIONS) -> Page:
        """One stretch, from ``index`` on; ``before`` is what the page before it gave: its record may have moved."""
        packed = record.pack_id(before) if isinstance(before, str) and before else before
        answer = self._journal.run("page", lane, index, packed, most, lanes=[lane])
        return understood(partial(_read_page, lane), answer)

    def find(self, lane: str, operation_id: str) -> tuple[Waiting, bytes] | None:
        """One operation of a lane, as ``waiting`` gives it, and its whole record."""
        _, *rest = self._journal.search("find", lane, operation_id)
        if not rest:
            return None
        return understood(partial(_read_found, lane), rest)

    def length(self, lane: str) -> int:
        """Records in a lane, tombstones included."""
        return int(self._journal.store.command("LLEN", self._journal.keys.lane(lane)))

    def count(self, lane: str) -> int:
        """Operations in a lane."""
        tombstones = self._journal.store.command("HGET", self._journal.keys.cancelled, lane)
        return max(0, self.length(lane) - understood(_whole, tombstones))

    def records(self, lane: str, index: int, count: int) -> list[bytes]:
        """Some records as they are stored."""
        found: list[bytes] = self._journal.store.command(
            "LRANGE", self._journal.keys.lane(lane), index, index + count - 1
        )
        return found

    def reseal(self, lane: str, last: int, parts: Sequence[tuple[str, bytes, bytes]]) -> int:
        """Put other sealed parts into records: id, first bytes of the sealed part as it was, the new one."""
        flat: list[Argument] = []
        for operation_id, was, sealed in parts:
            flat += [record.pack_id(operation_id), was, sealed]
        return int(self._journal.run("reseal", lane, last, *flat, lanes=[lane]))

    def swap(self, key: str, was: bytes, value: bytes) -> bool:
        """Replace a string's value where it is still what it was; its time to live stays."""
        return bool(self._journal.run("swap", was, value, keys=[key]))

    def clear(self, lane: str, most: int) -> tuple[int, int]:
        """Take at most ``most`` records off a lane's front: operations and records taken in this step."""
        taken, seen = self._journal.run("clear", lane, min(most, CLEAR_RECORDS), lanes=[lane])
        return taken, seen

    def waiting_since(self, journal_ms: int) -> list[str]:
        """Some lanes whose heads were accepted until then, the longest waiting first."""
        keys = self._journal.keys
        found = self._journal.store.command("ZRANGEBYSCORE", keys.oldest, "-inf", journal_ms, "LIMIT", 0, LANES_AT_ONCE)
        return [text(lane) for lane in found]

    def lane_count(self) -> int:
        """How many lanes hold operations."""
        return int(self._journal.store.command("ZCARD", self._journal.keys.oldest))

    def journal_ms(self) -> int:
        """Journal time as it was last written."""
        return understood(_whole, self._journal.store.command("HGET", self._journal.keys.fixed[0], "now"))

    # --- dead letters

    def letters(self, after: int = 0) -> Iterator[DeadLetter]:
        """The dead letters in the order in which they died, read in pages."""
        while after >= 0:
            after, found = understood(_read_letters, self._journal.run("letters", after, PAGE_LETTERS))
            yield from found

    def letters_backwards(self, number: int) -> Iterator[DeadLetter]:
        """The dead letters from that number on to the oldest, the newest first, read in pages."""
        before, keys = number + 1, self._journal.keys
        while True:
            found = self._journal.store.command(
                "ZREVRANGEBYSCORE", keys.dead_index, f"({before}", "-inf", "WITHSCORES", "LIMIT", 0, PAGE_LETTERS
            )
            if not found:
                return
            first = understood(_lowest, found)
            yield from reversed([*takewhile(partial(_is_before, before), self.letters(after=first - 1))])
            before = first

    def last_number(self) -> int:
        """The number of the newest dead letter."""
        return understood(_whole, self._journal.store.command("HGET", self._journal.keys.fixed[0], "dead_seq"))

    def find_letter(self, operation_id: str) -> DeadLetter | None:
        """The dead letter with that id."""
        score = self._journal.store.command("ZSCORE", self._journal.keys.dead_index, record.pack_id(operation_id))
        if score is None and (numbered := _NUMBERED.fullmatch(operation_id)):
            score = numbered[1]
        if score is None:
            return None
        found = next(self.letters(after=understood(_position, score) - 1), None)
        return found if found is not None and found.id == operation_id else None

    def letter(self, member: bytes) -> LetterBody | None:
        """One dead letter whole."""
        value = self._journal.store.command("HGET", self._journal.keys.dead, member)
        try:
            return None if value is None else read_letter(value)
        except (IndexError, struct.error):
            return LetterBody("", "corrupt", 0, 0, b"", b"", value)

    def reseal_letter(self, member: bytes, was: bytes, detail: bytes, sealed: bytes) -> bool:
        """Put other sealed parts into a dead letter, unless it has changed since it was read."""
        return bool(self._journal.run("reseal_letter", member, was, detail, sealed))

    def replay(self, letters: Sequence[tuple[DeadLetter, bytes]], end: End) -> tuple[int, bool]:
        """Put dead letters back, each with another sealed part or b"". Gives how many went, and whether to wake.

        At the head each goes in front of the one before: give them in reverse.
        """
        lanes = list(dict.fromkeys(letter.lane for letter, _ in letters))
        flat: list[Argument] = []
        for letter, sealed in letters:
            flat += [lanes.index(letter.lane) + 1, letter.lane, letter.member, sealed]
        once_ms = self._journal.once_ms
        woken, count, *_ = self._journal.run("replay", end, _WAKE_MS, once_ms, *flat, lanes=lanes)
        return count, bool(woken)

    def accept(self, letter: DeadLetter, was: bytes, new: record.NewRecord) -> tuple[bool, bool]:
        """Make a dead letter that was never accepted an operation, under another id.

        Whether that was done (not where it has changed since it was read), and whether to wake somebody.
        """
        operation = self._journal.flatten([new], [new.lane])
        done, woken = self._journal.run("accept", letter.member, was, _WAKE_MS, *operation, lanes=[new.lane])
        return bool(done), bool(woken)

    def drop(self, letters: Sequence[DeadLetter]) -> tuple[int, bool]:
        """Delete dead letters for good. Gives how many were there, and whether to wake."""
        lanes = list(dict.fromkeys(letter.lane for letter in letters))
        flat: list[Argument] = []
        for letter in letters:
            flat += [lanes.index(letter.lane) + 1, letter.lane, letter.member]
        woken, count = self._journal.run("drop", _WAKE_MS, *flat, lanes=lanes)
        return count, bool(woken)

    # --- holds

    def hold(self, lane: str, why: str = PAUSED, for_s: float = 0.0) -> tuple[bool, bool]:
        """Hold a lane: whether that changed something, and whether an operation of it is being sent."""
        changed, flying, _ = self._journal.run("hold", lane, why, 1, round(for_s * 1000), _WAKE_MS, lanes=[lane])
        return bool(changed), bool(flying)

    def let_go(self, lane: str, why: str = PAUSED) -> tuple[bool, bool]:
        """Let a lane go on: whether that changed something, and whether to wake somebody."""
        changed, _, woken = self._journal.run("hold", lane, why, 0, 0, _WAKE_MS, lanes=[lane])
        return bool(changed), bool(woken)

    def held(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The held lanes, and what each waits for."""
        cursor = b"0"
        while True:
            cursor, found = self._journal.store.command(
                "HSCAN", self._journal.keys.held, cursor, "COUNT", LANES_AT_ONCE
            )
            for lane, lines in zip(found[::2], found[1::2], strict=True):
                yield text(lane), _causes(lines)
            if cursor == b"0":
                return

    def why_held(self, lanes: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What those of these lanes that are held wait for."""
        if not lanes:
            return {}
        found = self._journal.store.command("HMGET", self._journal.keys.held, *lanes)
        return {lane: _causes(lines) for lane, lines in zip(lanes, found, strict=True) if lines is not None}

    def in_flight(self, lane: str | None = None) -> int:
        """How many lanes somebody holds a claim on that hasn't ended, of all or of this one."""
        if lane is None:
            return self._journal.snapshot().syncing
        return int(self._journal.run("page", lane, 0, b"", 0, lanes=[lane])[3])

    # --- what happened over time

    def samples(self) -> list[tuple[float, int, int, int]]:
        """An hour of the counts: unix seconds, pending, delivered, dead. A value holds until the next one."""
        found = self._journal.store.command("LRANGE", self._journal.keys.samples, 0, -1)
        rows = (match.groups() for sample in found if (match := _SAMPLE.fullmatch(sample)))  # others were damaged
        return [(float(at), int(pending), int(delivered), int(dead)) for at, pending, delivered, dead in rows]

    def histograms(self) -> dict[str, Histogram]:
        """How long operations waited for their delivery (``latency``), and the upstream's answers took (``response``).

        They begin anew when the store starts again.
        """
        found = self._journal.store.command("HGETALL", self._journal.keys.histogram)
        return understood(_read_histograms, found)

    # --- the audit log

    def note(self, who: str, what: str, which: str) -> None:
        """Write down what a person is about to do."""
        self._journal.run("audit", AUDIT_NOTES, who, what, which, keys=[self._journal.keys.audit])

    def notes(self, most: int) -> list[dict[str, str]]:
        """The newest notes of the audit log, the newest first."""
        found = self._journal.store.command("XREVRANGE", self._journal.keys.audit, "+", "-", "COUNT", most)
        return [_note(fields) for _, fields in found]


_WAKE_MS = round(WAKE_S * 1000)
_LETTER_FIELDS = 9
_SAMPLE = re.compile(rb"(\d{1,11}) (\d{1,15}) (\d{1,15}) (\d{1,15})")
_NUMBERED = re.compile(f"(?:{DAMAGED}|{SET_ASIDE})([0-9]{{1,15}})")


def _whole(value: Any) -> int:
    return int(value or 0)


def _position(score: Any) -> int:
    return int(float(score))


def _lowest(found: Any) -> int:
    """The score of the last member, from a reply of either protocol."""
    return _position(found[-1][1] if isinstance(found[-1], list) else found[-1])


def _is_before(number: int, letter: DeadLetter) -> bool:
    return letter.number < number


def _read_page(lane: str, answer: Any) -> Page:
    goes_on, last, now, flying, retry, *flat = answer
    entries = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    found = tuple(_waiting(lane, entry, now, bool(flying), retry) for entry in entries)
    return Page(found, goes_on if goes_on >= 0 else None, last)


def _read_found(lane: str, answer: Any) -> tuple[Waiting, bytes]:
    raw, index, now, flying, retry = answer
    return _waiting(lane, (index, len(raw), raw), now, bool(flying), retry), raw


def _read_letters(answer: Any) -> tuple[int, list[DeadLetter]]:
    after, *flat = answer
    return after, [_letter(flat[at : at + _LETTER_FIELDS]) for at in range(0, len(flat), _LETTER_FIELDS)]


def _read_histograms(found: Any) -> dict[str, Histogram]:
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    values = {text(name): int(value) for name, value in pairs if value.isdigit()}  # others were damaged
    return {name: _histogram(name, bounds, values) for name, bounds in BOUNDS_S.items()}


def _causes(lines: bytes) -> tuple[str, ...]:
    found = [line for line in text(lines).split("\n") if line]
    return tuple(line.partition(" ")[2] or "damaged" for line in found or "?")


def _note(fields: Sequence[bytes]) -> dict[str, str]:
    """A note of the audit log, whole also where somebody else wrote it."""
    found = {"wall": "0", "who": "?", "what": "?", "which": ""} | dict(
        zip(map(text, fields[::2]), map(text, fields[1::2]), strict=True)
    )
    known = found["wall"].isdecimal() and len(found["wall"]) <= 15 and int(found["wall"]) <= LATEST_S * 1000
    return found if known else found | {"wall": "0"}


def _histogram(name: str, bounds: tuple[float, ...], values: dict[str, int]) -> Histogram:
    counts = tuple(values.get(f"{name} {bucket}", 0) for bucket in range(1, len(bounds) + 2))
    return Histogram(bounds, counts, values.get(f"{name} sum", 0) / 1000)


def _waiting(lane: str, entry: tuple[int, int, bytes], now: int, flying: bool, retry: bytes) -> Waiting:
    index, size, clear = entry
    try:
        found = record.parse(clear)
    except CorruptRecord:
        return Waiting("?", lane, "pending", 0.0, size, 0, "corrupt", None, None, False, "", index)
    retries, next_try_ms, reason = _retry(retry, found.id) if index == 0 else (0, 0, "")
    state: State = "syncing" if flying and index == 0 else "retrying" if retries else "pending"
    due = max(found.due_ms, next_try_ms)
    return Waiting(
        id=found.id,
        lane=lane,
        state=state,
        age_s=max(0, now - found.accepted_ms) / 1000,
        size=size,
        retries=retries,
        last_error=reason,
        next_try_in_s=max(0, due - now) / 1000 if due else None,
        expires_in_s=(found.expires_ms - now) / 1000 if found.expires_ms else None,
        halts=found.halts,
        key_id=found.sealed[:KEY_ID_BYTES].hex(),
        index=index,
    )


def _retry(state: bytes, operation_id: str) -> tuple[int, int, str]:
    """Retries, time of the next try (ms) and last error of a head; see ``lua/_prelude.lua``."""
    fields = state.split(b" ", 5)
    if len(fields) < 6 or read_id(fields[5]) != operation_id:
        return 0, 0, ""
    return int(fields[0]), int(fields[3]), text(fields[4])


def _letter(fields: Sequence[Any]) -> DeadLetter:
    number, size, lane, reason, retries, died, clear, member, detail_key = fields
    try:
        found = record.parse(clear)
        operation_id, key_id, halts = found.id, found.sealed[:KEY_ID_BYTES].hex(), found.halts
        if member == record.pack_id(operation_id) + b"\n%d" % number and text(reason) in record.REFUSED:
            operation_id = f"{SET_ASIDE}{number}"
        elif member != record.pack_id(operation_id):
            raise CorruptRecord("its id is damaged")
    except (CorruptRecord, UnicodeDecodeError):
        operation_id, key_id, halts = f"{DAMAGED}{number}", "", False
    return DeadLetter(
        number=number,
        id=operation_id,
        lane=text(lane),
        reason=text(reason),
        retries=retries,
        died_ms=died,
        size=size,
        key_id=key_id,
        detail_key_id=detail_key.hex(),
        halts=halts,
        member=member,
    )


def read_letter(value: bytes) -> LetterBody:
    """Read a dead letter; its form stands in ``lua/_lanes.lua``."""
    lane, rest = value[1 : 1 + value[0]], value[1 + value[0] :]
    reason, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
    retries, rest = struct.unpack(">I", rest[:4])[0], rest[4:]
    died, rest = int.from_bytes(rest[:6], "big"), rest[6:]
    length, rest = struct.unpack(">I", rest[:4])[0], rest[4:]
    return LetterBody(text(lane), text(reason), retries, died, rest[:length], rest[length:], value)
