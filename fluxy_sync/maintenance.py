"""What a person sees of a gateway's queue, and does to it. Each change goes into the audit log before it is made."""

import os
import pwd
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any, TypeVar

import msgspec

from fluxy_sync.admin.acceptance import Unaccepted, examine, is_unaccepted, refuse_replay, seal_accepted
from fluxy_sync.engine import Engine
from fluxy_sync.errors import CorruptRecord, InvalidOperation, SealError
from fluxy_sync.journal import DeadLetter, Inventory, StoredRecord, Waiting
from fluxy_sync.journal.inventory import PAGE_LETTERS, PAUSED, STEP_BYTES, End, LetterBody
from fluxy_sync.journal.record import parse
from fluxy_sync.operation import DEFAULT_LANE, OWN_LANE_MARK, Operation, check_size, encode_body
from fluxy_sync.outcome import EXPIRED

REPLAYING = "replaying"
REPLAYING_S = 30.0  # a long replay that was killed half-way holds its lane no longer than this
LANDING_POLL_S = 0.05
LIKELY_LANES = 2  # that an operation is looked for on before the dead letters are
FARTHEST_MS = 2**53
UNCHANGED: Any = object()

T = TypeVar("T")
Part = tuple[DeadLetter, bytes]  # a dead letter, and another sealed part for it, or none


class Pause(msgspec.Struct, frozen=True):
    """A pause: whether that changed something, and whether the last request in flight has landed."""

    changed: bool
    landed: bool


class Found(msgspec.Struct, frozen=True):
    """One operation, waiting or dead. ``stored`` is None where its record is damaged."""

    entry: Waiting | DeadLetter
    stored: StoredRecord | None
    detail: bytes = b""  # sealed


def who_am_i(via: str) -> str:
    """The user of this process for the audit log, e.g. ``ann (uid 1000)@gateway-7 (cli)``.

    By the password database: the environment says what its user likes. SUDO_UID is noted beside root as what it is,
    something that was said.
    """
    uid, real = os.geteuid(), os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user without a name
        name = "unknown"
    said = os.environ.get("SUDO_UID", "")
    more = f", real uid {real}" if real != uid else ""
    more += f", SUDO_UID says {said}" if uid == 0 and re.fullmatch(r"[1-9]\d{0,9}", said, re.ASCII) else ""
    return f"{name} (uid {uid}{more})@{socket.gethostname()} ({via})"


class Maintenance:
    """Lists, and changes with an audit log.

    Args:
        who: for the audit log.
        wake: publishes a wake token; without it the next tick does.
        on_step: hears of each step of a long replay or drop how many dead letters it took.

    Raises, from every method: StorageUnavailable where the store can't be reached or refuses.
    """

    def __init__(
        self,
        engine: Engine,
        who: str,
        wake: Callable[[], object] = lambda: None,
        on_step: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._who = who
        self._wake = wake
        self._on_step = on_step

    @property
    def inventory(self) -> Inventory:
        return Inventory(self._engine.journal)

    def note(self, what: str, which: str) -> None:
        """Write into the audit log what is about to be done."""
        self.inventory.note(self._who, what, which)

    # --- looking

    def lanes(self) -> Iterator[str]:
        """The lanes that hold operations: first some of those that have waited longest, then the others."""
        first = dict.fromkeys(self.inventory.waiting_since(FARTHEST_MS))
        yield from first
        yield from (lane for lane in self._engine.journal.lanes() if lane not in first)

    def pending(self, lane: str | None = None) -> Iterator[Waiting]:
        """What waits, lane by lane, head first; never the whole queue at once."""
        for name in self._engine.journal.lanes() if lane is None else [lane]:
            yield from self.inventory.waiting(name)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """The dead letters in the order in which they died."""
        return self.inventory.letters()

    def find(self, operation_id: str, lane: str | None = None) -> Found | None:
        """An operation that waits, on that lane or on whichever holds it, or that is dead."""
        lanes = self.candidates(operation_id, lane)
        likely = islice(lanes, LIKELY_LANES)
        return (
            self._find_waiting(operation_id, likely)
            or self.find_dead(operation_id)
            or self._find_waiting(operation_id, lanes)
        )

    def _find_waiting(self, operation_id: str, lanes: Iterable[str]) -> Found | None:
        for name in lanes:
            waiting = self.inventory.find(name, operation_id)
            if waiting is not None:
                return Found(waiting[0], _parsed(waiting[1]))
        return None

    def find_dead(self, operation_id: str) -> Found | None:
        """A dead letter."""
        letter = self.inventory.find_letter(operation_id)
        body = letter and self.inventory.letter(letter.member)
        return Found(letter, _parsed(body.record), body.detail) if letter and body else None

    def candidates(self, operation_id: str, lane: str | None) -> Iterator[str]:
        """The lanes on which an operation may be, the likely ones first."""
        if lane is not None:
            yield lane
            return
        likely = (DEFAULT_LANE, f"{OWN_LANE_MARK}{operation_id}")
        yield from likely
        yield from (name for name in self._engine.journal.lanes() if name not in likely)

    def reveal(self, found: Found) -> Operation:
        """Open an operation that was accepted, payload and all; that goes into the audit log.

        Raises:
            UnknownKey, CorruptRecord: it can't be opened.
        """
        self.note("reveal", found.entry.id)
        if found.stored is None:
            raise CorruptRecord("the record is damaged: nothing of it can be opened")
        return self._engine.open(found.stored, found.entry.lane)

    def reveal_detail(self, found: Found) -> bytes:
        """What was kept beside a dead letter: the first bytes of the answer, or an error's text."""
        return self._engine.open_detail(found.detail, found.entry.lane, found.entry.id)

    # --- what was never accepted

    def examine(self, operation_id: str) -> Unaccepted:
        """Open a dead letter that was never accepted: all that would be sent, and its digest. Goes into the audit log.

        Raises:
            InvalidOperation: there is none with that id, it was accepted, or there is no key here.
            UnknownKey, CorruptRecord: it can't be opened.
        """
        self.note("reveal", operation_id)
        return self._examine(operation_id)

    def _examine(self, operation_id: str) -> Unaccepted:
        letter = self.inventory.find_letter(operation_id)
        found = None if letter is None else examine(self._engine, letter)
        if found is None:
            raise InvalidOperation(f"no dead letter has the id {operation_id}: see 'fluxy-sync dead ls'")
        return found

    def accept(self, operation_id: str, digest: str) -> str:
        """Make a dead letter that was never accepted a new operation at the end of its lane. Returns that one's id.

        Args:
            digest: of what ``examine`` showed.

        Raises:
            InvalidOperation: it isn't what was shown, or can't be accepted; nothing was.
            UnknownKey, CorruptRecord: it can't be opened.
        """
        found = self._examine(operation_id)
        new = seal_accepted(self._engine, found, digest)
        self.note("accept", f"{operation_id}, {found.digest}, as {new.id}")
        done, woken = self.inventory.accept(found.letter, found.raw, new)
        if not done:
            raise InvalidOperation(
                f"{operation_id} was changed, dropped or accepted meanwhile: see 'fluxy-sync audit'; "
                "nothing was accepted"
            )
        if woken:
            self._wake()
        return new.id

    # --- dead letters

    def replay(self, ids: Iterable[str] | None = None, *, end: End = "tail", body: Any = UNCHANGED) -> int:
        """Put dead letters back into their lanes, in their original order. Returns how many went.

        Args:
            ids: which; None for all that were accepted. What was never accepted stays where it is: see ``accept``.
            end: behind what waits in their lanes, or in front of it (behind an operation that is being sent).
            body: another body, for one operation: it goes out under a new key then.

        Raises:
            InvalidOperation: the body can't be sent, the operation has none, or one that is named was never
                accepted; nothing changed.
            UnknownKey, CorruptRecord: it has to be opened for that, and can't be.
        """
        letters = self._select(ids, newest_first=end == "head")
        if ids is not None:
            letters = iter(list(map(_replayable, letters)))  # all of them, before anything changes
        if body is not UNCHANGED:
            return self._replay_edited(list(letters), end, body)
        parts = ((letter, self._without_date(letter)) for letter in letters if not is_unaccepted(letter))
        self.note("replay", "all" if ids is None else ", ".join(ids if not isinstance(ids, str) else [ids]))
        return self._replay_at_head(parts) if end == "head" else self._replay_at_tail(parts)

    def _without_date(self, letter: DeadLetter) -> bytes:
        """Another sealed part for one whose date has passed, or it would expire again; none for the others.

        Who lacks the key can't look: there it does expire again.
        """
        if letter.reason != EXPIRED or not self._engine.settings.key_texts:
            return b""
        whole = self.inventory.letter(letter.member)
        try:
            operation = None if whole is None else self._open_letter(letter, whole)
        except SealError:
            return b""  # it says so itself when its turn comes
        if operation is None or operation.deadline is None:
            return b""
        return self._engine.seal_bytes(msgspec.structs.replace(operation, deadline=None), letter.lane, letter.id)

    def _open_letter(self, letter: DeadLetter, whole: LetterBody) -> Operation:
        """What will be sealed for its id must have been sealed for that: its record may have been exchanged."""
        stored = parse(whole.record)
        if stored.id != letter.id:
            raise CorruptRecord(f"the dead letter {letter.id} holds the record of another one")
        return self._engine.open(stored, letter.lane)

    def _select(self, ids: Iterable[str] | None, *, newest_first: bool = False) -> Iterator[DeadLetter]:
        if ids is None:
            # Those that die meanwhile, maybe again, are others: else this might never end.
            last = self.inventory.last_number()
            if newest_first:
                return self.inventory.letters_backwards(last)
            return takewhile(lambda letter: letter.number <= last, self.inventory.letters())
        found = (self.inventory.find_letter(one) for one in ([ids] if isinstance(ids, str) else ids))
        named = (letter for letter in found if letter)
        return iter(sorted(named, key=lambda letter: letter.number, reverse=newest_first))

    def _replay_at_tail(self, letters: Iterator[Part]) -> int:
        return sum(self._put_back(some, "tail") for some in chunks(letters, _size_of_part))

    def _replay_at_head(self, letters: Iterator[Part]) -> int:
        """The newest first: each goes in front of the one before."""
        count, held = 0, dict[str, float]()  # lanes, and when each was held last
        steps = chunks(letters, _size_of_part)
        step = next(steps, None)
        while step is not None:
            following = next(steps, None)
            # In several steps the lanes must wait, or the later ones would be sent before the earlier are back.
            if held or following is not None:
                self._hold_for_replay({letter.lane for letter, _ in step}, held)
            count += self._put_back(step, "head")
            step = following
        woken = [self.inventory.let_go(lane, REPLAYING)[1] for lane in held]
        if any(woken):
            self._wake()
        return count

    def _hold_for_replay(self, lanes: Iterable[str], held: dict[str, float]) -> None:
        """Hold these lanes, and the others still; a lane of one operation has no order to keep."""
        now = time.monotonic()
        due = [lane for lane, since in held.items() if now - since > REPLAYING_S / 3]
        for lane in {*due, *(lane for lane in lanes if lane not in held and not lane.startswith(OWN_LANE_MARK))}:
            self.inventory.hold(lane, REPLAYING, REPLAYING_S)
            held[lane] = now

    def _replay_edited(self, letters: list[DeadLetter], end: End, body: Any) -> int:
        if not letters:
            return 0
        if len(letters) > 1:
            raise InvalidOperation("another body is for one dead letter: name the one; nothing changed")
        letter = letters[0]
        whole = self.inventory.letter(letter.member)
        if whole is None:
            return 0
        sealed = self._engine.seal_bytes(self._edited(letter, whole, body), letter.lane, letter.id)
        self.note("replay with another body", letter.id)
        return self._put_back([(letter, sealed)], end)

    def _edited(self, letter: DeadLetter, whole: LetterBody, body: Any) -> Operation:
        old = self._open_letter(letter, whole)
        if not (len(old.args) == 2 and old.kwargs.keys() <= {"body", "headers"}):
            raise InvalidOperation("only an HTTP operation has a body that can be replaced; nothing changed")
        encoded = encode_body(body)
        check_size(len(encoded or b""), self._engine.settings.max_body_bytes)
        kept = {name: value for name, value in old.kwargs.items() if name != "body"}
        kwargs = kept if encoded is None else {**kept, "body": encoded}
        return msgspec.structs.replace(old, kwargs=kwargs, generation=old.generation + 1)

    def _put_back(self, letters: Sequence[Part], end: End) -> int:
        count, woken = self.inventory.replay(letters, end)
        if woken:
            self._wake()
        self._on_step(count)
        return count

    def drop(self, ids: Iterable[str] | None = None) -> int:
        """Delete dead letters for good, those named or all. Returns how many went."""
        self.note("drop", "all" if ids is None else ", ".join(ids if not isinstance(ids, str) else [ids]))
        count = 0
        for some in chunks(self._select(ids), _size_of):
            dropped, woken = self.inventory.drop(some)
            count += dropped
            if woken:
                self._wake()
            self._on_step(dropped)
        return count

    # --- what waits

    def clear(self, lane: str | None = None) -> Iterator[int]:
        """Wipe what waits now, on one lane or on all, step by step; yields how many went with each step."""
        self.note("clear", "all lanes" if lane is None else f"lane {lane}")
        if lane is not None:
            yield from self._clear_lane(lane)
            return
        # What is queued meanwhile is newer than this moment, and stays.
        now = self.inventory.journal_ms()
        steps: list[int] | None = None
        while steps != [] and (lanes := self.inventory.waiting_since(now)):
            steps = []
            for name in lanes:
                for taken in self._clear_lane(name):
                    steps.append(taken)
                    yield taken

    def _clear_lane(self, lane: str) -> Iterator[int]:
        left = self.inventory.length(lane)
        while left > 0:
            taken, seen = self.inventory.clear(lane, left)
            if not seen:
                return
            left -= seen
            yield taken

    def pause(self, lane: str | None = None, *, wait_s: float = 0.0) -> Pause:
        """Send nothing more, of one lane or of all, until ``resume``; wait so long for what is in flight to land."""
        self.note("pause", "all lanes" if lane is None else f"lane {lane}")
        if lane is None:
            changed = self._engine.journal.close_gate("paused", f"by {self._who}")
        else:
            changed, _ = self.inventory.hold(lane, PAUSED)
        return Pause(changed, self.landed(lane, wait_s))

    def landed(self, lane: str | None = None, wait_s: float = 0.0) -> bool:
        """Whether nothing is in flight, on one lane or on all; wait so long for that."""
        ends = time.monotonic() + wait_s
        while self.in_flight(lane):
            if time.monotonic() >= ends:
                return False
            time.sleep(LANDING_POLL_S)
        return True

    def in_flight(self, lane: str | None = None) -> int:
        """How many requests may be under way: lanes with a claim that hasn't run out, of all or of this one."""
        # Behind a closed gate nobody takes over what a dead worker held: its claim runs out and stays.
        live = self._engine.journal.snapshot().syncing
        return live if lane is None or live == 0 else self.inventory.in_flight(lane)

    def resume(self, lane: str | None = None) -> bool:
        """End a pause; False where there was none."""
        self.note("resume", "all lanes" if lane is None else f"lane {lane}")
        if lane is None:
            changed = self._engine.journal.open_gate("paused")
            woken = changed and self._engine.journal.win_wake()
        else:
            changed, woken = self.inventory.let_go(lane, PAUSED)
        if woken:
            self._wake()
        return changed


def _parsed(raw: bytes) -> StoredRecord | None:
    try:
        return parse(raw)
    except CorruptRecord:
        return None


def _replayable(letter: DeadLetter) -> DeadLetter:
    refuse_replay(letter)
    return letter


def _size_of(letter: DeadLetter) -> int:
    return letter.size


def _size_of_part(part: Part) -> int:
    return part[0].size + len(part[1])


def chunks(letters: Iterable[T], size_of: Callable[[T], int] = lambda _: 0) -> Iterator[list[T]]:
    """The letters in lists of what one step takes, by number and by bytes; a larger one is a step of its own."""
    some, size = list[T](), 0
    for letter in letters:
        its_size = size_of(letter)
        if some and (len(some) == PAGE_LETTERS or size + its_size > STEP_BYTES):
            yield some
            some, size = [], 0
        some.append(letter)
        size += its_size
    if some:
        yield some
