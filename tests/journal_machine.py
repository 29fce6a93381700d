"""What the journal's state machine is made of: one journal, its model, and what must hold after each step.

Journal time is exact here: the machine's clock stands, or leaps by so much that a script takes its longest step.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant

from fluxy_sync.errors import QueueFull
from fluxy_sync.journal import Claim, DeadLetter, Idle, Inventory, Journal, NewRecord, Quota, Store
from fluxy_sync.journal.journal import CLAIM_S
from fluxy_sync.journal.record import REFUSED, parse
from tests.journal_model import Full, Grant, JournalModel, Settling
from tests.journal_reading import expected, keys_of, read
from tests.journal_state import Letter
from tests.journal_steps import ClockByHand

LANES = ("default", "sensor:7", "~ein Weg")
QUOTAS = (
    Quota(max_pending=12),
    Quota(max_pending=12, drop_oldest=True),
    Quota(max_pending=12, max_lane_pending=5),
    Quota(max_lane_pending=4, drop_oldest=True),
)
CLAIM_MS = round(CLAIM_S * 1000)
ONCE_MS = 10_000
A_MONTH_MS = 30 * 86_400_000  # more than all that passes by itself in one course
WAKE_MARGIN_MS = 1500

lanes = st.sampled_from(LANES)
sometimes = st.sampled_from([False, False, False, True])
rarely = st.sampled_from([False] * 9 + [True])
onces = st.sampled_from([b""] * 4 + [b"A" * 16, b"B" * 16])


def in_seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


class JournalCourse(RuleBasedStateMachine):
    """One journal and its model, in step."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        namespace = f"m{uuid.uuid4().hex}"
        self.clock = ClockByHand()
        self.journals = {
            quota: Journal(store, namespace, quota, once_window_s=ONCE_MS / 1000, clock=self.clock) for quota in QUOTAS
        }
        self.journal = self.journals[QUOTAS[0]]
        self.inventory = Inventory(self.journal)
        self.client = store.client
        self.keys = keys_of(self.journal)
        self.model = JournalModel(LANES, ONCE_MS)
        self.claims: list[tuple[str, int, Sequence[str]]] = []  # every claim that was ever given
        self.takeovers: dict[int, int] = {}  # fence -> what the claim's answer told
        self.order: dict[str, list[str]] = {lane: [] for lane in LANES}  # what waits, as it was promised
        self.accepted: set[str] = set()
        self.ended: set[str] = set()  # delivered, or taken back
        self.shown: list[tuple[DeadLetter, bytes, Letter]] = []  # what a person has read of dead letters
        self.made = 0
        self.rev = 0
        self.client.hset(self.keys["counts"], "now", self.model.now)
        self._end_wake()

    def teardown(self) -> None:
        self.client.unlink(*self.journal.keys.fixed, *map(self.journal.keys.lane, LANES))

    def _end_wake(self) -> None:
        """The one thing that real time ends, a wake token, ends now or not before the next step."""
        if self.client.pttl(self.keys["wake"]) < WAKE_MARGIN_MS:
            self.client.delete(self.keys["wake"])
            self.model.wake = False

    def _new(self, data: st.DataObject, most: int) -> list[NewRecord]:
        return [self._new_record(data) for _ in range(data.draw(st.integers(1, most), "records"))]

    def _new_record(self, data: st.DataObject) -> NewRecord:
        """A new one; now and then one that was made before, on any lane."""
        number = self.made = self.made + 1
        if data.draw(rarely, "again"):
            number = data.draw(st.integers(1, self.made), "number")
        return NewRecord(
            str(uuid.UUID(int=number)) if number % 2 else f"op-{number}",
            data.draw(lanes, "lane"),
            b"x" * data.draw(st.integers(1, 8), "bytes"),
            data.draw(st.sampled_from([0.0, 0.0, 0.0, 2.0, 30.0]), "countdown"),
            data.draw(st.sampled_from([0.0, 0.0, 60.0]), "expires"),
            data.draw(sometimes, "halt"),
            data.draw(onces, "once"),
        )

    def _note_accepted(self, records: Sequence[NewRecord]) -> None:
        for record in records:
            if record.id in self.model.known and record.id not in self.accepted:
                self.accepted.add(record.id)
                self.order[record.lane].append(record.id)

    def _end(self, lane: str, name: str) -> None:
        self.order[lane].remove(name)
        self.ended.add(name)

    def _living(self) -> list[tuple[str, int, Sequence[str]]]:
        return [c for c in self.claims if (held := self.model.lanes[c[0]].claim) and held.fence == c[1]]

    def _some_claim(self, data: st.DataObject) -> tuple[str, int, Sequence[str]]:
        return data.draw(st.sampled_from(self._living() or self.claims) | st.sampled_from(self.claims), "claim")

    def _some_id(self, data: st.DataObject, lane: str) -> str:
        waiting = [entry.id for entry in self.model.lanes[lane].waiting]
        ids = sorted(self.accepted) if data.draw(rarely, "any id") or not waiting else waiting
        return data.draw(st.sampled_from(ids or ["never-queued"]), "id")

    def _append(self, records: Sequence[NewRecord], quota: Quota) -> None:
        try:
            woken, dropped, first = self.model.append(records, quota)
        except Full as full:
            with pytest.raises(QueueFull, match=str(full)):
                self.journals[quota].append(records)
            return
        found = self.journals[quota].append(records)
        assert (found.woken, found.dropped, found.first) == (woken, len(dropped), first)
        for name in dropped:
            self.order[self.model.dead[name].lane].remove(name)
        self._note_accepted(records)

    def _claim(self, worker: str, most: int, drop_wake: bool) -> None:
        dead_before = list(self.model.dead)
        expected = self.model.claim(worker, most, CLAIM_MS, drop_wake)
        found = self.journal.claim(worker, most=most, drop_wake=drop_wake)
        buried = [(letter.lane, name, letter.reason) for name, letter in self.model.dead.items()][len(dead_before) :]
        assert [(each.lane, each.id, each.reason) for each in found.buried] == buried
        for lane, name, _ in buried:
            self.order[lane].remove(name)
        if not isinstance(expected, Grant):
            assert isinstance(found, Idle)
            assert (found.gate, found.due_in_s) == (expected[0], in_seconds(expected[1]))
            return
        assert isinstance(found, Claim), found
        run = [parse(record).id for record in found.records]
        granted = Grant(found.lane, found.fence, found.retries, found.call_helper, found.takeovers, run)
        assert granted == expected
        assert (found.length_s, found.journal_ms) == (CLAIM_MS / 1000, self.model.now)
        assert all(found.fence > fence for _, fence, _ in self.claims)
        self.claims.append((found.lane, found.fence, run))
        self.takeovers[found.fence] = found.takeovers

    def _settle(
        self, data: st.DataObject, lane: str, fence: int, name: str, *, give_up: bool, floor_ms: int = -1, **what: Any
    ) -> None:
        followers = self._new(data, 2) if data.draw(sometimes, "with followers") else []
        followers = [f for f in {f.id: f for f in followers}.values() if f.id not in self.model.known]
        if floor_ms < 0:
            floor_ms = data.draw(st.sampled_from([0, 0, what["pause_ms"]]), "floor")
        upstream_ms = data.draw(st.sampled_from([0] * 9 + [800, 30_000]), "upstream")
        settling = Settling(
            **what, floor_ms=floor_ms, upstream_ms=upstream_ms, detail=b"refused", followers=followers, give_up=give_up
        )
        status, next_id, gate, ends_in, woken = self.model.settle(lane, fence, name, settling, CLAIM_MS)
        found = self.journal.settle(
            lane, fence, name, what["verdict"], pause_s=what["pause_ms"] / 1000, floor_s=floor_ms / 1000,
            upstream_s=upstream_ms / 1000, reason=what["reason"], replacement=what["replacement"], detail=b"refused",
            followers=followers, give_up=give_up,
        )  # fmt: skip
        assert (found.status, found.next_id, found.gate) == (status, next_id, gate)
        assert (found.ends_in_s, found.woken, found.journal_ms) == (ends_in / 1000, woken, self.model.now)
        if found.status != "ok":
            return
        assert self.order[lane][0] == name, "never out of order"
        self._note_accepted(followers)
        if what["verdict"] == "delivered":
            self._end(lane, name)
        elif what["verdict"] == "dead":
            self.order[lane].remove(name)

    # --- what must hold after each step

    @invariant()
    def all_is_well(self) -> None:
        """Every key and the snapshot are as the model says; and what no model need tell holds."""
        self._end_wake()
        found = read(self.journal, LANES)
        for key, wanted in expected(self.model).items():
            assert found[key] == wanted, f"{key}: {found[key]} is not {wanted}"
        snapshot = msgspec.structs.asdict(self.journal.snapshot())
        assert snapshot == snapshot | self.model.counts()
        assert snapshot["rev"] >= self.rev
        self.rev = snapshot["rev"]
        waiting: set[str] = set()
        for lane in LANES:
            records = [parse(record) for record in found["lanes"][lane]]
            names = [record.id for record in records if not record.cancelled]
            assert names == self.order[lane], "what was accepted and isn't gone waits, in the order of acceptance"
            assert lane in found["ready"] or lane in found["held"] or not records, "never claimed again"
            waiting |= set(names)
        dead = {name for name, _, reason, *_ in found["dead"] if reason not in REFUSED}
        assert self.accepted == waiting | dead | self.ended
        assert len(self.accepted) == len(waiting) + len(dead) + len(self.ended)
