"""A person who does everything that a person can do, at random; and what must then be true of what he touched."""

import itertools
import random
import time
from collections.abc import Callable, Sequence

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.rotation import Rotation
from tests.chaos.background import Background
from tests.chaos.stage import Stage
from tests.chaos.trial import Run, wait_until
from tests.referee import operation_id, was_delivered

SCRATCH = "scratch"  # ends the names of lanes that may be cleared
MOST_KEYS = 4
DRAIN_S = 120.0


class Operator(Background):
    """Pauses, resumes, cancels, clears, replays, holds and rotates the keys.

    Attributes:
        cancelled: ids, and when it was certain that they don't leave any more.
        touched: ids that may have been cancelled, or that were replayed: nobody promised their place.
        done: how often each was done, or was refused by a store that was away: ``cancel``, ``(cancel)``.
    """

    def __init__(self, sync: FluxySync, lanes: Sequence[str], chance: random.Random) -> None:
        super().__init__("operator", 0.3)
        self._sync, self._lanes, self._chance = sync, lanes, chance
        self._ways: list[Callable[[str], None]] = [
            self.pause_lane, self.pause_all, self.cancel, self.cancel, self.clear, self.replay, self.replay, self.hold,
            self.rotate,
        ]  # fmt: skip
        self.cancelled: dict[str, float] = {}
        self.touched: set[str] = set()
        self.done: dict[str, int] = {}

    def step(self) -> None:
        way, lane = self._chance.choice(self._ways), self._chance.choice(self._lanes)
        name = way.__name__
        try:
            way(lane)
        except StorageUnavailable:
            name = f"({name})"
        self.done[name] = self.done.get(name, 0) + 1

    def finish(self) -> None:
        """End, and leave nothing paused."""
        super().finish()
        for lane in self._lanes:
            self._sync.resume(lane)
        self._sync.resume()

    def close(self) -> None:
        """Close his connections."""
        self._sync.live.close()
        self._sync.engine.journal.store.close()

    def pause_lane(self, lane: str) -> None:
        self._sync.pause(lane)
        self.over.wait(0.4)
        self._sync.resume(lane)

    def pause_all(self, _lane: str) -> None:
        self._sync.pause(wait_s=1.0)
        self.over.wait(0.2)
        self._sync.resume()

    def cancel(self, lane: str) -> None:
        waiting = list(itertools.islice(self._sync.pending(lane), 20))
        if waiting:
            one = self._chance.choice(waiting).id
            self.touched.add(one)  # before: the answer may get lost
            if self._sync.cancel(one, lane):
                self.cancelled[one] = time.time()

    def clear(self, lane: str) -> None:
        if lane.endswith(SCRATCH):
            self._sync.clear_queue(lane)

    def replay(self, _lane: str) -> None:
        self.replay_dead("head" if self._chance.random() < 0.5 else "tail")

    def replay_dead(self, end: str = "tail") -> bool:
        """Put back whatever died but of age; False where there was nothing."""
        dead = [letter.id for letter in self._sync.dead_letters() if letter.reason != "expired"]
        self.touched.update(dead)
        return bool(dead) and self._sync.replay(dead, to=end) > 0  # type: ignore[arg-type]

    def hold(self, lane: str) -> None:
        self._sync.maintenance.inventory.hold(lane, "key:00000000", 1.0)

    def rotate(self, _lane: str) -> None:
        rotation = Rotation(self._sync.engine, "the operator")
        if len(self._sync.engine.vault.key_ids) < MOST_KEYS:
            rotation.add_key()
        list(rotation.run())


def settle_accounts(run: Run, stage: Stage, operator: Operator) -> None:
    """Let everything drain, what was refused meanwhile too; then judge all of it, and what the operator touched."""
    stage.drain()
    while operator.replay_dead():
        stage.drain()
    ledger, dead = stage.ledger, {letter.id: letter.reason for letter in stage.sync.dead_letters()}
    run.check(set(dead.values()) <= {"expired"}, f"dead for another reason: {dead}")
    cleared = {one for one, lane, _ in ledger.accepted if lane.endswith(SCRATCH)}
    stage.judge(operator.touched | cleared)
    check_undecided(run, stage, operator, set(dead))
    run.note(f"the operator: {', '.join(f'{n} x {name}' for name, n in sorted(operator.done.items()))}")


def check_undecided(run: Run, stage: Stage, operator: Operator, dead: set[str]) -> None:
    """Those whose place nobody promised, too, were delivered, are dead with a reason, or were taken back; and the
    journal's totals account for each operation.
    """
    ledger, requests, snapshot = stage.ledger, stage.upstream.requests(), stage.snapshot()
    assert snapshot is not None
    delivered = {operation_id(request["key"]) for request in requests if was_delivered(request)}
    missing = {one: lane for one, lane, _ in ledger.accepted if one not in delivered | dead}
    strays = [one for one, lane in missing.items() if not (lane.endswith(SCRATCH) or one in operator.touched)]
    run.check(not strays, f"neither delivered nor dead nor taken back: {strays}")
    taken_back = snapshot.cancelled_total
    run.check(len(missing) <= taken_back, f"{len(missing)} never arrived, and {taken_back} were taken back")
    # What was cancelled may have been sent before by a worker that died; nothing of it leaves afterwards.
    sent = [(operation_id(request["key"]), request["t"]) for request in requests]
    late = [one for one, at in sent if at > operator.cancelled.get(one, at)]
    run.check(not late, f"cancelled, and sent afterwards: {late}")
    settled = snapshot.delivered_total + taken_back + snapshot.dead + snapshot.pending
    accepted, unsure = len(ledger.accepted), len(ledger.unsure)
    run.check(
        accepted <= settled <= accepted + unsure,
        f"{accepted} to {accepted + unsure} were accepted, and the totals account for {settled}",
    )


def check_dashboard(run: Run, stage: Stage, read: Callable[[], dict[str, object]]) -> None:
    """What ``GET /api/sync`` tells is what the journal counts, once both tell of the same revision."""
    names = ("pending", "syncing", "retrying", "held", "dead", "bytes", "lanes", "gate", "delivered_total", "rev")

    def both() -> tuple[dict[str, object], dict[str, object]] | None:
        record, status = read(), stage.sync.status().to_dict()
        return (record, status) if record.get("stale") is False and record["rev"] == status["rev"] else None

    record, status = wait_until(both, 15.0, "the dashboard shows the newest revision")
    shown, counted = ({name: one[name] for name in names} for one in (record, status))
    run.check(shown == counted, f"the dashboard shows {shown}, the journal counts {counted}")
