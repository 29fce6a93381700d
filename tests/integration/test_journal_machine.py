"""Any interleaving of transitions leaves the journal as the model says: compared whole, after each step.

Journal time is exact here: before each step the store's note of the wall clock is put into the future, so that the
script sees no time pass, or far into the past, so that it takes its longest step.
"""

import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import QueueFull
from fluxy_sync.journal import Claim, Idle, Journal, NewRecord, Store, connect
from fluxy_sync.journal.record import FLAG_CANCELLED, pack_id, parse, unpack_id
from tests.journal_model import CAUSES, Full, Grant, Holding, JournalModel

settings.register_profile(
    "journal",
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)

LANES = ("default", "sensor:7", "~ein Weg")
KEYS = (
    "counts", "ready", "claims", "retries", "held", "oldest", "dead", "index", "gate", "wake", "events", "pulse",
    "recent", "old", "cancelled",
)  # fmt: skip
WORKERS = ("aa 11", "aa 12", "bb 21")
MAX_PENDING = 12
CLAIM_S = 15.0
LONGEST_STEP_MS = 5000
AN_HOUR_MS = 3_600_000
WAKE_MARGIN_MS = 1500

lanes = st.sampled_from(LANES)
sometimes = st.sampled_from([False, False, False, True])
rarely = st.sampled_from([False] * 9 + [True])
pauses = st.sampled_from([0.0, 0.001, 1.0, 20.0])
verdicts = st.sampled_from(["delivered", "retry", "wait", "hold", "dead"])
replacements = st.sampled_from([b"", b"", b"another body"])
reasons = st.sampled_from(["503", "key:0badcafe", "halted"])


class JournalMachine(RuleBasedStateMachine):
    """One journal, three lanes, three workers and the model."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.journal = Journal(store, f"m{uuid.uuid4().hex}", max_pending=MAX_PENDING)
        self.client = store.client
        self.keys = dict(zip(KEYS, self.journal.keys.fixed, strict=True))
        self.model = JournalModel(LANES, MAX_PENDING)
        self.claims: list[tuple[str, int, Sequence[str]]] = []  # every claim that was ever given
        self.accepted: dict[str, list[str]] = {lane: [] for lane in LANES}  # in order
        self.delivered: dict[str, list[str]] = {lane: [] for lane in LANES}
        self.gone: set[str] = set()
        self.made = 0
        self.rev = 0
        self.client.hset(self.keys["counts"], "now", self.model.now)
        self._stop_time()

    def teardown(self) -> None:
        self.client.unlink(*self.journal.keys.fixed, *map(self.journal.keys.lane, LANES))

    # --- what the rules are made of

    def _stop_time(self, *, wall_ms: int | None = None) -> None:
        """Hold journal time for the next script; a wake token near its end ends now."""
        ahead = round(time.time() * 1000) + AN_HOUR_MS
        pipeline = self.client.pipeline()
        pipeline.hset(self.keys["counts"], "wall", ahead if wall_ms is None else wall_ms)
        pipeline.pttl(self.keys["wake"])
        if pipeline.execute()[1] < WAKE_MARGIN_MS:
            self.client.delete(self.keys["wake"])
            self.model.wake = False

    def _new(self, data: st.DataObject, most: int) -> list[NewRecord]:
        return [self._new_record(data) for _ in range(data.draw(st.integers(1, most), "records"))]

    def _new_record(self, data: st.DataObject) -> NewRecord:
        """A new one; now and then one that was made before, on any lane."""
        number = self.made = self.made + 1
        if data.draw(rarely, "again"):
            number = data.draw(st.integers(1, self.made), "number")
        name = str(uuid.UUID(int=number)) if number % 2 else f"op-{number}"
        countdown = data.draw(st.sampled_from([0.0, 0.0, 0.0, 2.0, 30.0]), "countdown")
        expires = data.draw(st.sampled_from([0.0, 0.0, 60.0]), "expires")
        return NewRecord(
            name, data.draw(lanes, "lane"), b"x" * data.draw(st.integers(0, 8), "bytes"), countdown, expires
        )

    def _note_accepted(self, records: Sequence[NewRecord]) -> None:
        for record in records:
            if not any(record.id in ids for ids in self.accepted.values()):
                self.accepted[record.lane].append(record.id)

    def _living(self) -> list[tuple[str, int, Sequence[str]]]:
        return [c for c in self.claims if (held := self.model.lanes[c[0]].claim) and held.fence == c[1]]

    def _some_claim(self, data: st.DataObject) -> tuple[str, int, Sequence[str]]:
        return data.draw(st.sampled_from(self._living() or self.claims) | st.sampled_from(self.claims), "claim")

    def _some_id(self, data: st.DataObject, lane: str) -> str:
        waiting = [entry.id for entry in self.model.lanes[lane].waiting]
        ids = self.accepted[lane] if data.draw(rarely, "any id") or not waiting else waiting
        return data.draw(st.sampled_from(ids or ["never-queued"]), "id")

    # --- time

    @rule(ms=st.sampled_from([1, 999, 2000, 15_000, 40_000]))
    def time_passes(self, ms: int) -> None:
        self.client.hincrby(self.keys["counts"], "now", ms)
        self.model.now += ms

    @rule(role=st.sampled_from(["beat", "steward"]), leap=st.booleans(), forget=sometimes)
    def tick(self, role: Any, leap: bool, forget: bool) -> None:
        """Also after a pause of the whole machine: journal time takes one step of at most 5 s."""
        if leap:
            self._stop_time(wall_ms=1)
            self.model.now += LONGEST_STEP_MS
        tick = self.journal.tick(role, "w1", forget_wake=forget)
        gate, opens, due, pending, delivered = self.model.tick(forget)
        assert (tick.gate, tick.pending) == (gate, pending)
        assert tick.opens_in_s == opens / 1000
        assert tick.due_in_s == _seconds(due)
        assert tick.delivered_ago_s == _seconds(delivered)
        assert tick.wants_token == (gate == "open" and due == 0)
        self._stop_time()
        assert self.journal.win_wake() == self.model.win_wake()

    # --- accepting

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Most of what can go wrong needs something that waits."""
        records = [self._new_record(data) for _ in range(data.draw(st.integers(3, 8), "records"))]
        assert self.journal.append(records) == self.model.append(records)
        self._note_accepted(records)

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        """New ones, and now and then some that are known already, or named twice."""
        records = self._new(data, 3)
        try:
            won = self.model.append(records)
        except Full:
            with pytest.raises(QueueFull):
                self.journal.append(records)
            return
        assert self.journal.append(records) == won
        self._note_accepted(records)

    # --- delivering

    @precondition(lambda self: self.model.due)
    @rule(worker=st.sampled_from(WORKERS), most=st.integers(1, 4))
    def claim_what_comes_due(self, worker: str, most: int) -> None:
        """The gate opens and time passes until something is due; also a lane that somebody holds."""
        self._open_gate("paused", "unauthorized", "offline")
        ready = max(self.model.due[0][0], self.model.opens_at)
        self.time_passes(max(0, ready - self.model.now))
        self.claim(worker, most, drop_wake=False)

    @rule(worker=st.sampled_from(WORKERS), most=st.integers(1, 4), drop_wake=st.booleans())
    def claim(self, worker: str, most: int, drop_wake: bool) -> None:
        dead_before = set(self.model.dead)
        expected = self.model.claim(worker, most, int(CLAIM_S * 1000), drop_wake)
        found = self.journal.claim(worker, most=most, drop_wake=drop_wake)
        self.gone |= set(self.model.dead) - dead_before
        if not isinstance(expected, Grant):
            assert found == Idle(expected[0], _seconds(expected[1]))
            return
        assert isinstance(found, Claim), found
        run = [parse(record).id for record in found.records]
        assert Grant(found.lane, found.fence, found.retries, found.call_helper, run) == expected
        assert (found.length_s, found.journal_ms) == (CLAIM_S, self.model.now)
        assert all(found.fence > fence for _, fence, _ in self.claims)
        self.claims.append((found.lane, found.fence, run))

    @precondition(lambda self: self._living())
    @rule(data=st.data(), give_up=sometimes)
    def deliver(self, data: st.DataObject, give_up: bool) -> None:
        """The head, by the lane's holder."""
        self._settle_head(data, verdict="delivered", pause_s=0.0, reason="-", give_up=give_up, replacement=b"")

    @precondition(lambda self: self._living())
    @rule(data=st.data(), verdict=verdicts, pause_s=pauses, reason=reasons, give_up=sometimes, replacement=replacements)
    def settle(self, data: st.DataObject, **what: Any) -> None:
        """The head, by the lane's holder, in any way."""
        self._settle_head(data, **what)

    def _settle_head(self, data: st.DataObject, **what: Any) -> None:
        lane, fence, _ = data.draw(st.sampled_from(self._living()), "claim")
        head = self.model.lanes[lane].head
        self._settle(data, lane, fence, head.id if head else "never-queued", **what)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verdict=verdicts, pause_s=pauses, reason=reasons, give_up=sometimes, replacement=replacements)
    def settle_amiss(self, data: st.DataObject, **what: Any) -> None:
        """By a holder or a stale one, with an id that may have been settled before, or wait behind the head."""
        lane, fence, run = self._some_claim(data)
        name = data.draw(st.sampled_from([*run, *self.accepted[lane], "never-queued"]), "id")
        self._settle(data, lane, fence, name, **what)

    def _settle(
        self, data: st.DataObject, lane: str, fence: int, name: str, *, verdict: Any, pause_s: float, reason: str,
        give_up: bool, replacement: bytes,
    ) -> None:  # fmt: skip
        followers = self._new(data, 2) if data.draw(sometimes, "with followers") else []
        followers = [f for f in {f.id: f for f in followers}.values() if f.id not in self.model.known]
        before = self._head_of(lane)
        status, next_id, gate, ends_in, woken = self.model.settle(
            lane, fence, name, verdict, pause_ms=round(pause_s * 1000), reason=reason, replacement=replacement,
            detail=b"refused", followers=followers, give_up=give_up, length_ms=int(CLAIM_S * 1000),
        )  # fmt: skip
        found = self.journal.settle(
            lane, fence, name, verdict, pause_s=pause_s, reason=reason, replacement=replacement, detail=b"refused",
            followers=followers, give_up=give_up,
        )  # fmt: skip
        assert (found.status, found.next_id, found.gate) == (status, next_id, gate)
        assert (found.ends_in_s, found.woken) == (ends_in / 1000, woken)
        if found.status != "ok":
            return
        assert before == name
        self._note_accepted(followers)
        if verdict in ("delivered", "dead"):
            self.gone.add(name)
        if verdict == "delivered":
            self.delivered[lane].append(name)

    def _head_of(self, lane: str) -> str | None:
        record = self.client.lindex(self.journal.keys.lane(lane), 0)
        return parse(record).id if record else None

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), length_s=st.sampled_from([None, 5.0, CLAIM_S]))
    def release_or_renew(self, data: st.DataObject, length_s: float | None) -> None:
        lane, fence, _ = self._some_claim(data)
        if length_s is None:
            assert self.journal.release(lane, fence) == self.model.release(lane, fence)
        else:
            assert self.journal.renew(lane, fence, length_s) == self.model.renew(lane, fence, int(length_s * 1000))

    @precondition(lambda self: self._living())
    @rule(incarnation=st.sampled_from(["aa", "bb"]), alive=st.sets(st.sampled_from([11, 12, 21])))
    def reclaim(self, incarnation: str, alive: set[int]) -> None:
        freed = self.model.reclaim(incarnation, sorted(alive))
        assert self.journal.reclaim(incarnation, sorted(alive)) == len(freed)
        fences = {lane: self._claims()[lane].fence for lane in freed}
        assert sorted(fences.values()) == list(range(self.model.fence + 1, self.model.fence + len(freed) + 1))
        for lane, fence in fences.items():
            self.model.lanes[lane].claim.fence = fence  # type: ignore[union-attr]
        self.model.fence += len(freed)

    # --- one operation, and the gate

    @rule(data=st.data(), lane=lanes)
    def find_and_cancel(self, data: st.DataObject, lane: str) -> None:
        name = self._some_id(data, lane)
        found = self.journal.find(lane, name)
        assert found[0] == self.model.find(lane, name)
        if found[0] in ("pending", "retrying") and data.draw(st.booleans(), "leave it"):
            return
        status, record = self.journal.cancel(lane, name)
        assert status == self.model.cancel(lane, name)
        if status == "cancelled":
            assert record == found[1]
            assert parse(record).id == name
            self.gone.add(name)

    @precondition(lambda self: len(self.claims) % 4 == 3)
    @rule(cause=st.sampled_from(CAUSES))
    def close_gate(self, cause: Any) -> None:
        assert self.journal.close_gate(cause, "refused") == self.model.close_gate(cause)

    @precondition(lambda self: self.model.causes)
    @rule(causes=st.sets(st.sampled_from(CAUSES), min_size=1), opens_in_s=st.sampled_from([0.0, 0.3]))
    def open_gate(self, causes: set[str], opens_in_s: float) -> None:
        self._open_gate(*sorted(causes), opens_in_s=opens_in_s)

    def _open_gate(self, *causes: Any, opens_in_s: float = 0.0) -> None:
        for cause in causes:
            changed = self.journal.open_gate(cause, opens_in_s=opens_in_s)
            assert changed == self.model.open_gate(cause, round(opens_in_s * 1000))
            self._stop_time()

    # --- what must hold after each step

    @invariant()
    def all_is_well(self) -> None:
        """Every key and the snapshot are as the model says; and what no model need tell holds."""
        self._stop_time()
        found = self._read()
        assert found == self._expected()
        snapshot = msgspec.structs.asdict(self.journal.snapshot())
        assert snapshot == snapshot | self.model.counts()
        assert snapshot["rev"] >= self.rev
        self.rev = snapshot["rev"]
        for lane in LANES:
            self._check_order(lane, [name for name, cancelled, *_ in found["lanes"][lane] if not cancelled])
            assert lane in found["ready"] or lane in found["held"] or not found["lanes"][lane], "never claimed again"

    def _check_order(self, lane: str, waiting: list[str]) -> None:
        """What was accepted and isn't gone waits in its lane, in the order of acceptance; so was it delivered."""
        assert waiting == [name for name in self.accepted[lane] if name not in self.gone]
        delivered = self.delivered[lane]
        assert delivered == [name for name in self.accepted[lane] if name in set(delivered)]

    def _read(self) -> dict[str, Any]:
        pipeline = self.client.pipeline()
        for name in ("retries", "held", "dead", "cancelled"):
            pipeline.hgetall(self.keys[name])
        for name in ("ready", "oldest", "index"):
            pipeline.zrange(self.keys[name], 0, -1, withscores=True)
        pipeline.hmget(self.keys["counts"], "now", "pending", "bytes", "dead", "fence")
        pipeline.hgetall(self.keys["gate"])
        pipeline.exists(self.keys["wake"])
        pipeline.smembers(self.keys["recent"])
        for lane in LANES:
            pipeline.lrange(self.journal.keys.lane(lane), 0, -1)
        retries, held, dead, cancelled, ready, oldest, index, counts, gate, wake, recent, *records = pipeline.execute()
        assert {name for name, _ in index} == set(dead)
        return {
            "time and counts": [int(count or 0) for count in counts],
            "lanes": {lane: [_entry(r) for r in raw] for lane, raw in zip(LANES, records, strict=True)},
            "ready": {lane.decode(): int(score) for lane, score in ready},
            "oldest": {lane.decode(): int(score) for lane, score in oldest},
            "claims": self._claims(),
            "retries": {lane.decode(): _retries(state) for lane, state in retries.items()},
            "held": {lane.decode(): state.decode() for lane, state in held.items()},
            "dead": {unpack_id(packed): _letter(value) for packed, value in dead.items()},
            "cancelled": {lane.decode(): int(count) for lane, count in cancelled.items()},
            "gate": {name.decode() for name in gate} - {"opens_at", "since"},
            "opens_at": int(gate.get(b"opens_at", 0)),
            "wake": bool(wake),
            "known": set(map(unpack_id, recent)),
        }

    def _claims(self) -> dict[str, Holding]:
        claims = {}
        for lane, claim in self.client.hgetall(self.keys["claims"]).items():
            fence, takeovers, holder = claim.decode().split(" ", 2)
            claims[lane.decode()] = Holding(int(fence), int(takeovers), None if holder == "- -" else holder)
        return claims

    def _expected(self) -> dict[str, Any]:
        model = self.model
        return {
            "time and counts": [model.now, model.pending, model.bytes, len(model.dead), model.fence],
            "lanes": {
                name: [(e.id, e.cancelled, e.accepted, e.due, e.expires, e.sealed) for e in lane.entries]
                for name, lane in model.lanes.items()
            },
            "ready": {name: lane.ready for name, lane in model.lanes.items() if lane.ready is not None},
            "oldest": {name: lane.head.accepted for name, lane in model.lanes.items() if lane.head},
            "claims": {name: lane.claim for name, lane in model.lanes.items() if lane.claim},
            "retries": {name: lane.retries for name, lane in model.lanes.items() if lane.retries},
            "held": {name: f"{lane.held[0]} {lane.held[1]}" for name, lane in model.lanes.items() if lane.held},
            "dead": model.dead,
            "cancelled": {
                name: count for name, lane in model.lanes.items() if (count := len(lane.entries) - len(lane.waiting))
            },
            "gate": model.causes,
            "opens_at": model.opens_at,
            "wake": model.wake,
            "known": model.known,
        }


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _entry(raw: bytes) -> tuple[Any, ...]:
    record = parse(raw)
    cancelled = bool(record.flags & FLAG_CANCELLED)
    return record.id, cancelled, record.accepted_ms, record.due_ms, record.expires_ms, record.sealed


def _retries(state: bytes) -> tuple[int, str, str]:
    count, reason, packed = state.split(b" ", 2)
    return int(count), reason.decode(), unpack_id(packed)


def _letter(value: bytes) -> tuple[str, str, int, int]:
    """Lane, reason, retries and size of a dead letter (its form: ``lua/_prelude.lua``)."""
    lane, rest = value[1 : 1 + value[0]], value[1 + value[0] :]
    reason, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
    return lane.decode(), reason.decode(), struct.unpack(">I", rest[:4])[0], len(value)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of its own that needn't wait for the disk: it is the journal's steps that are looked at here."""
    with EmbeddedStore(tmp_path, appendfsync="everysec") as running:
        store = Store(connect(running.url))
        yield store
        store.close()


@pytest.mark.timeout(600)  # a failure is shrunk to the shortest one that fails
def test_any_interleaving_leaves_the_journal_as_the_model_says(store: Store) -> None:
    """Nothing is lost, doubled, reordered or stalled, and each count is exact, whatever happens in whichever order."""
    run_state_machine_as_test(lambda: JournalMachine(store), settings=settings.get_profile("journal"))


def test_ids_are_stored_as_they_are_read() -> None:
    """The machine's own way of reading ids agrees with the journal's."""
    for name in (str(uuid.uuid4()), "op-1", "never-queued"):
        assert unpack_id(pack_id(name)) == name
