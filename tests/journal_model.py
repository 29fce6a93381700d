"""What the journal promises, in plain Python: the state machine compares the real one with it after each step."""

import dataclasses
from collections.abc import Callable, Sequence

from fluxy_sync.journal import NewRecord, Quota
from tests.journal_by_hand import ByHand
from tests.journal_state import TRIAL_MS, Holding, Lane, Retry

TAKEOVERS_UNTIL_DEAD = 5


class Full(Exception):
    """The quota is reached."""


@dataclasses.dataclass
class Grant:
    """A claim that was given."""

    lane: str
    fence: int
    retries: int
    call_helper: bool
    takeovers: int
    run: list[str]


@dataclasses.dataclass
class Settling:
    """What a holder says of the head."""

    verdict: str
    pause_ms: int = 0
    floor_ms: int = 0
    upstream_ms: int = 0
    reason: str = "-"
    replacement: bytes = b""
    detail: bytes = b""
    followers: Sequence[NewRecord] = ()
    give_up: bool = False


class JournalModel(ByHand):
    """Accepting, delivering, and the passing of time."""

    # --- accepting

    def append(self, records: Sequence[NewRecord], quota: Quota) -> tuple[bool, list[str], dict[int, tuple[str, str]]]:
        """Whether the token was won, what was dropped, and whose once keys were taken: position -> id and lane."""
        fresh, first = self._sort_out(records)
        drops = self._plan(fresh, quota)
        dropped = [self._drop_oldest(name) for name, count in drops.items() for _ in range(count)]
        came_due = [self.accept(record) for record in fresh]
        return any(came_due) and self.win_wake(), dropped, first

    def _sort_out(self, records: Sequence[NewRecord]) -> tuple[list[NewRecord], dict[int, tuple[str, str]]]:
        fresh: list[NewRecord] = []
        first: dict[int, tuple[str, str]] = {}
        named, onces = set(self.known), {}
        for position, record in enumerate(records):
            if record.id in named:
                continue
            named.add(record.id)
            taken = onces.get(record.once) or self.first_of(record.once)
            if taken:
                first[position] = (taken.id, taken.lane)
                continue
            fresh.append(record)
            if record.once:
                onces[record.once] = record
        return fresh, first

    def _plan(self, fresh: Sequence[NewRecord], quota: Quota) -> dict[str, int]:
        """How many of which lane must go: for each that comes one at most, where it is over its limit already."""
        comes = {lane: sum(r.lane == lane for r in fresh) for lane in dict.fromkeys(r.lane for r in fresh)}
        drops, may_go = dict.fromkeys(comes, 0), dict.fromkeys(comes, 0)
        for name, count in comes.items():
            lane = self.lanes[name]
            there = len(lane.waiting)
            may_go[name] = max(0, there - lane.flies(self.now)) if quota.drop_oldest else 0
            if quota.max_lane_pending:
                over = max(0, there + count - quota.max_lane_pending)
                drops[name] = min(over, count) if quota.drop_oldest else over
            if drops[name] > may_go[name]:
                raise Full("FLUXY_SYNC_MAX_LANE_PENDING")
        over = self.pending + len(fresh) - sum(drops.values()) - quota.max_pending if quota.max_pending else 0
        if quota.drop_oldest:
            over = min(over, len(fresh) - sum(drops.values()))
        for record in fresh:
            if over > 0 and drops[record.lane] < may_go[record.lane]:
                drops[record.lane] += 1
                over -= 1
        if over > 0 and fresh:
            raise Full("FLUXY_SYNC_MAX_PENDING")
        return drops

    def _drop_oldest(self, name: str) -> str:
        """The oldest one that nobody may be sending becomes a dead letter."""
        lane = self.lanes[name]
        oldest = lane.waiting[1 if lane.flies(self.now) else 0]
        self.bury(name, oldest, "dropped")
        at = lane.entries.index(oldest)
        if lane.flies(self.now):
            del lane.entries[1 : at + 1]
        else:
            del lane.entries[: at + 1]
            self._forget_head(name)
            lane.rest(self.now)
        self.halt_for(name, oldest)
        self.totals["dropped"] += 1
        return oldest.id

    # --- delivering

    def claim(self, holder: str, most: int, length_ms: int, drop_wake: bool) -> Grant | tuple[str, int | None]:
        """The claim, or the gate and when there may be something."""
        if drop_wake:
            self.wake = False
        if self.opens_in != 0:
            return self.gate, self.opens_in
        while self.due:
            ready, name = self.due[0]
            if ready > self.now:
                return self.gate, ready - self.now
            grant = self._take(name, holder, most, length_ms)
            if grant:
                return grant
        return self.gate, None

    def _take(self, name: str, holder: str, most: int, length_ms: int) -> Grant | None:
        lane = self.lanes[name]
        head, takeovers = lane.head, 0
        if lane.claim:  # a holder that claims again lives
            takeovers = lane.claim.takeovers + (lane.claim.holder != holder)
        if head and not lane.held and takeovers >= TAKEOVERS_UNTIL_DEAD:
            self.bury_head(name, "killed-its-worker")
        elif head and not lane.held and head.due <= self.now:
            # Until it says that it begins, it counts for nothing: but for a lane's first.
            claim = Holding(self.fence + 1, max(0, takeovers - 1), holder)
            return self._grant(name, lane, head.id, claim, takeovers, most, length_ms)
        lane.rest(self.now)
        return None

    def _grant(
        self, name: str, lane: Lane, head: str, claim: Holding, takeovers: int, most: int, length_ms: int
    ) -> Grant:
        if self.gate == "unauthorized":
            self.trial_at, most = self.now + TRIAL_MS, 1
        self.fence = claim.fence
        lane.claim, lane.ready = claim, self.now + length_ms
        return Grant(name, claim.fence, lane.count(head), self.wake_if_due(), takeovers, self._run(lane, most))

    def _run(self, lane: Lane, most: int) -> list[str]:
        run = []
        for entry in lane.entries[:most]:
            if entry.due > self.now:
                break
            if not entry.cancelled:
                run.append(entry.id)
        return run

    def settle(
        self, name: str, fence: int, operation_id: str, what: Settling, length_ms: int
    ) -> tuple[str, str, str, int, bool]:
        """Status, the next head's id, the gate, until when the claim lasts, and whether the wake token was won."""
        lane = self.lanes[name]
        if lane.claim is None or lane.claim.fence != fence:
            return "fenced", "", self.gate_now, 0, False
        if lane.head is None or lane.head.id != operation_id:
            next_id, ends_in = self._go_on(lane, what.give_up, length_ms)
            return "already", next_id, self.gate_now, ends_in, False
        came_due = [self.accept(follower) for follower in what.followers]
        woken = any(came_due) and self.win_wake()
        if what.upstream_ms:
            self.opens_at = max(self.opens_at, self.now + what.upstream_ms)
        next_id, ends_in = self._apply(name, lane, what, length_ms)
        return "ok", next_id, self.gate_now, ends_in, woken

    def _apply(self, name: str, lane: Lane, what: Settling, length_ms: int) -> tuple[str, int]:
        if what.verdict in ("retry", "wait"):
            self._wait(lane, what)
            return "", 0
        if what.verdict == "hold":
            lane.claim, lane.ready = None, None
            self.hold(name, what.reason, self.now + what.pause_ms if what.pause_ms else 0)
            return "", 0
        self._remove_head(name, what)
        going_on = self._go_on(lane, what.give_up, length_ms)
        self.bring_forward()
        return going_on

    def _wait(self, lane: Lane, what: Settling) -> None:
        head = lane.entries[0]
        head.sealed = what.replacement or head.sealed
        counted = what.verdict == "retry"
        self.totals["retried"] += counted
        self.streak += counted
        before = lane.retry_of(head.id)
        count, since = (before.count, before.since) if before else (0, self.now)
        at, floor = self.now + what.pause_ms, self.now + what.floor_ms if what.floor_ms else 0
        if count + counted:
            lane.retry = Retry(count + counted, since, floor, at, what.reason, head.id)
        lane.claim, lane.ready = None, None if lane.held else at

    def _remove_head(self, name: str, what: Settling) -> None:
        lane = self.lanes[name]
        if what.verdict == "dead":
            self.bury_head(name, what.reason, what.detail)
        else:
            self.leave(lane.entries[0])
            self.totals["delivered"] += 1
            self.note_delivery()
            del lane.entries[0]
            lane.advance()
        if lane.claim:
            lane.claim.takeovers = 0

    def _go_on(self, lane: Lane, give_up: bool, length_ms: int) -> tuple[str, int]:
        """The next head's id while the claim goes on with it, and until when it lasts."""
        head = lane.head
        if give_up or head is None or head.due > self.now or lane.held:
            lane.rest(self.now)
            return "", 0
        left = (lane.ready or 0) - self.now
        if left < length_ms - 3000:
            lane.ready, left = self.now + length_ms, length_ms
        return head.id, left

    def _if_held_by(self, name: str, fence: int, action: Callable[[Lane], None]) -> bool:
        lane = self.lanes[name]
        if lane.claim is None or lane.claim.fence != fence:
            return False
        action(lane)
        return True

    def release(self, name: str, fence: int) -> bool:
        return self._if_held_by(name, fence, lambda lane: lane.rest(self.now))

    def renew(self, name: str, fence: int, length_ms: int, begins: int | None) -> bool:
        def extend(lane: Lane) -> None:
            lane.ready = self.now + length_ms
            if lane.claim and begins is not None:
                lane.claim.takeovers = begins

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

    # --- time, and the gate

    def tick(self, forget_wake: bool) -> tuple[str, int | None, int | None, int, int | None]:
        """The gate, when it opens, when a lane is due, pending, and how long ago the last delivery was."""
        if forget_wake:
            self.wake = False
        for name in self.lanes:
            self.unhold(name, lambda _, at: 0 < at <= self.now)
        self.once = {key: once for key, once in self.once.items() if self.first_of(key)}
        if not self.pending:
            self.causes.discard("unauthorized")
        due = max(0, self.due[0][0] - self.now) if self.due else None
        delivered = self.now - self.delivered_at if self.delivered_at else None
        return self.gate, self.opens_in, due, self.pending, delivered

    def close_gate(self, cause: str) -> bool:
        if cause in self.causes:
            return False
        self.causes.add(cause)
        if cause == "unauthorized":
            self.trial_at = self.now + TRIAL_MS
        return True

    def open_gate(self, cause: str, opens_in_ms: int) -> bool:
        if cause not in self.causes:
            return False
        self.causes.remove(cause)
        self.opens_at = max(self.opens_at, self.now + opens_in_ms)
        return True
