"""What a person does to the journal, in plain Python."""

from collections.abc import Sequence

from fluxy_sync.journal import NewRecord
from tests.journal_state import Entry, JournalState, Letter, Once, halted_by, is_heads_own


class ByHand(JournalState):
    """Taking back, clearing, holding, and what is done with dead letters."""

    # --- operations that wait

    def cancel(self, name: str, operation_id: str) -> str:
        lane = self.lanes[name]
        entry = next((entry for entry in lane.waiting if entry.id == operation_id), None)
        if entry is None:
            return "absent"
        if entry is not lane.head:
            self.leave(entry)
            entry.become_tombstone()
        elif lane.flies(self.now):
            return "sending"
        else:
            self.leave(entry)
            del lane.entries[0]
            self._forget_head(name)
            lane.rest(self.now)
        self.totals["cancelled"] += 1
        return "cancelled"

    def _forget_head(self, name: str) -> None:
        """It is gone, and with it what was its own fault."""
        self.lanes[name].advance()
        self.unhold(name, lambda why, _: is_heads_own(why))

    def find(self, name: str, operation_id: str) -> str:
        lane = self.lanes[name]
        if all(entry.id != operation_id for entry in lane.waiting):
            return "absent"
        if lane.entries[0].id != operation_id:
            return "pending"
        if lane.flies(self.now):
            return "syncing"
        return "retrying" if lane.count(operation_id) else "pending"

    def clear(self, name: str, most: int) -> list[Entry]:
        """Take records off the front, tombstones included. A claim on the lane stays, for the next head."""
        lane = self.lanes[name]
        taken, lane.entries = lane.entries[:most], lane.entries[most:]
        if not taken:
            return []
        for entry in taken:
            if not entry.cancelled:
                self.leave(entry)
                self.totals["cancelled"] += 1
        self._forget_head(name)
        if lane.claim and lane.flies(self.now):
            lane.claim.takeovers = 0
        else:
            lane.rest(self.now)
        return taken

    def reseal(self, name: str, parts: Sequence[tuple[str, bytes, bytes]]) -> int:
        """Put other sealed parts in, where what was read is still there."""
        entries = {entry.id: entry for entry in self.lanes[name].waiting}
        fit = [(entries[i], new) for i, was, new in parts if i in entries and entries[i].sealed.startswith(was)]
        for entry, new in fit:
            entry.sealed = new
        return len(fit)

    # --- holds

    def hold_by_hand(self, name: str, why: str, for_ms: int) -> tuple[bool, bool]:
        """Whether that is new, and whether an operation of the lane is being sent."""
        return self.hold(name, why, self.now + for_ms if for_ms else 0), self.lanes[name].flies(self.now)

    def let_go(self, name: str, why: str) -> tuple[bool, bool]:
        """Whether a cause went, and whether the wake token was won."""
        changed = self.unhold(name, lambda cause, _: cause == why)
        return changed, changed and self.wake_if_due()

    # --- dead letters

    def replay(self, letters: Sequence[tuple[str, bytes]], end: str) -> tuple[list[str], bool]:
        """Put dead letters back, each with another sealed part or b"": which went, and whether the token was won."""
        gone = []
        for operation_id, sealed in letters:
            is_foreign = operation_id in self.dead and self.dead[operation_id].is_foreign
            letter = None if is_foreign else self._exhume(operation_id)
            if letter:
                entry = self._renew(letter, sealed)
                if end == "tail":
                    self.push(letter.lane, entry)
                else:
                    self._put_in_front(letter.lane, entry)
                gone.append(operation_id)
        return gone, bool(gone) and self.wake_if_due()

    def drop(self, ids: Sequence[str]) -> tuple[int, bool]:
        """Delete dead letters: how many were there, and whether the token was won."""
        count = sum(self._exhume(operation_id) is not None for operation_id in ids)
        return count, bool(count) and self.wake_if_due()

    def _exhume(self, operation_id: str) -> Letter | None:
        letter = self.dead.pop(operation_id, None)
        if letter:
            self.unhold(letter.lane, lambda why, _: why == halted_by(operation_id))
        return letter

    def _renew(self, letter: Letter, sealed: bytes) -> Entry:
        """Its time to live starts anew; one that the server refused goes out under a new key, unless it is edited."""
        old = letter.entry
        refused = len(letter.reason) == 3 and letter.reason[0] in "34" and letter.reason.isdecimal()
        expires = self.now + old.expires - old.accepted if old.expires else 0
        replays = old.replays + (refused and not sealed)
        first = self.first_of(old.once)
        once = old.once if first is None or first.id == old.id else b""
        if once:
            self.once[once] = Once(old.id, letter.lane, self.once_ms)
        return Entry(old.id, self.now, 0, expires, sealed or old.sealed, old.halt, once, replays)

    def _put_in_front(self, name: str, entry: Entry) -> None:
        """Before all that waits, but behind what is being sent."""
        lane = self.lanes[name]
        if lane.flies(self.now):
            lane.entries.insert(1, entry)
        else:
            lane.entries.insert(0, entry)
            lane.advance()
            lane.rest(self.now)

    def bury_foreign(self, record: NewRecord, reason: str) -> bool:
        """Keep one that was never accepted, unless a dead letter has its id."""
        if record.id in self.dead:
            return False
        self.bury(record.lane, Entry(record.id, self.now, 0, 0, record.sealed), reason)
        return True

    def accept_foreign(self, name: str, record: NewRecord) -> tuple[bool, bool]:
        """Accept one under another id, which nothing may have: whether that was done, and the wake token won."""
        if record.id in self.known or record.id in self.dead:
            return False, False
        self._exhume(name)
        return True, self.accept(record) and self.win_wake()
