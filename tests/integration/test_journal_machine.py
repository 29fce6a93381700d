"""Any interleaving of transitions leaves the journal as the model says: compared whole, after each step."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import DeadLetter, NewRecord, Quota, Store, connect
from fluxy_sync.journal.record import REFUSED, pack_id, parse, unpack_id
from tests.journal_machine import A_MONTH_MS, CLAIM_MS, LANES, QUOTAS, JournalCourse, in_seconds, lanes, sometimes
from tests.journal_reading import read
from tests.journal_state import CAUSES, Letter

settings.register_profile(
    "journal",
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)

LONGEST_STEP_MS = 5000

workers = st.sampled_from(["aa 11", "aa 12", "bb 21"])
pauses = st.sampled_from([0, 1, 1000, 20_000])
verdicts = st.sampled_from(["delivered", "retry", "wait", "hold", "dead"])
seals = st.sampled_from([b"", b"", b"another body"])
reasons = st.sampled_from(
    ["503", "422", "key:0badcafe", "task:app.send", "worker-error:KeyError", "credentials", "expired"]
)
whys = st.sampled_from(["paused", "paused", "key:0badcafe", "worker-error:KeyError", "credentials", "replay"])


class JournalMachine(JournalCourse):
    """Producers, workers, beat, a person and the link: what each may do at any time."""

    # --- time

    @rule(ms=st.sampled_from([1, 999, 2000, 15_000, 40_000]))
    def time_passes(self, ms: int) -> None:
        self.client.hincrby(self.keys["counts"], "now", ms)
        self.model.now += ms

    @rule(role=st.sampled_from(["beat", "steward"]), leap=st.booleans(), forget=sometimes)
    def tick(self, role: Any, leap: bool, forget: bool) -> None:
        """Also after a pause of the whole machine: journal time takes one step of at most 5 s."""
        if leap:
            self.clock.at_ms += A_MONTH_MS
            self.model.now += LONGEST_STEP_MS
        tick = self.journal.tick(role, "w1", forget_wake=forget)
        gate, opens, due, pending, delivered = self.model.tick(forget)
        assert (tick.gate, tick.pending) == (gate, pending)
        assert (tick.opens_in_s, tick.due_in_s) == (in_seconds(opens), in_seconds(due))
        assert tick.delivered_ago_s == in_seconds(delivered)
        assert tick.wants_token == (due == 0 and opens is not None and opens <= 1000)
        self._end_wake()
        assert self.journal.win_wake() == self.model.win_wake()

    # --- accepting

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Most of what can go wrong needs something that waits, or is dead."""
        records = [self._new_record(data) for _ in range(data.draw(st.integers(3, 8), "records"))]
        self._append(records, QUOTAS[0])
        for _ in range(data.draw(st.integers(0, 2), "dead")):
            self._end_wake()
            self.bury(data, data.draw(lanes, "lane"))

    @rule(data=st.data(), quota=st.sampled_from(QUOTAS))
    def append(self, data: st.DataObject, quota: Quota) -> None:
        """New ones, and now and then some that are known already, or named twice."""
        self._append(self._new(data, 3), quota)

    @rule(data=st.data(), lane=lanes)
    def bury(self, data: st.DataObject, lane: str) -> None:
        """One that isn't accepted. It may have died before, or claim the id of an operation, living or dead."""
        name = data.draw(st.sampled_from(["foreign-0", "foreign-3", *sorted(self.accepted)]), "id")
        self.made += 1
        foreign = NewRecord(name, lane, b"foreign %d" % self.made)
        reason = data.draw(st.sampled_from(sorted(REFUSED)), "reason")
        assert self.journal.bury(foreign, reason) == self.model.bury_foreign(foreign, reason)

    @precondition(lambda self: any(letter.is_foreign for letter in self.model.dead.values()))
    @rule(data=st.data(), at_once=st.booleans())
    def examine(self, data: st.DataObject, at_once: bool) -> None:
        """A person reads one that was never accepted, and may accept it now, or later."""
        foreign = [letter for letter in self.inventory.letters() if self.model.dead[letter.id].is_foreign]
        letter = data.draw(st.sampled_from(foreign), "letter")
        body = self.inventory.letter(letter.member)
        assert body is not None
        self.shown.append((letter, body.raw, self.model.dead[letter.id]))
        if at_once:
            self._accept(data, *self.shown[-1])

    @precondition(lambda self: self.shown)
    @rule(data=st.data())
    def accept_what_was_shown(self, data: st.DataObject) -> None:
        """It may have been dropped, accepted, set aside or replaced since."""
        self._accept(data, *data.draw(st.sampled_from(self.shown), "shown"))

    def _accept(self, data: st.DataObject, letter: DeadLetter, raw: bytes, shown: Letter) -> None:
        """Under a new id, or one that something else has or had."""
        self.made += 1
        used = sorted(self.model.known | {one.entry.id for one in self.model.dead.values()})
        name = data.draw(st.sampled_from([f"op-{2 * self.made}"] * 3 + used), "id")
        lane = data.draw(st.sampled_from([letter.lane] * 5 + list(LANES)), "lane")
        new = NewRecord(name, lane, b"accepted", 0.0, data.draw(st.sampled_from([0.0, 60.0]), "expires"))
        is_same = self.model.dead.get(letter.id) is shown and lane == letter.lane
        expected = self.model.accept_foreign(letter.id, new) if is_same else (False, False)
        done = self.inventory.accept(letter, raw, new)
        assert done == expected
        if done[0]:
            self._note_accepted([new])

    # --- delivering

    @precondition(lambda self: self.model.due)
    @rule(worker=workers, most=st.integers(1, 4), on_trial=st.booleans())
    def claim_what_comes_due(self, worker: str, most: int, on_trial: bool) -> None:
        """The gate opens and time passes until something is due; also a lane that somebody holds."""
        self._open_gate("paused", "offline", *([] if on_trial else ["unauthorized"]))
        trial_at = self.model.trial_at if "unauthorized" in self.model.causes else 0
        ready = max(self.model.due[0][0], self.model.opens_at, trial_at)
        self.time_passes(max(0, ready - self.model.now))
        self._claim(worker, most, drop_wake=False)

    @rule(worker=workers, most=st.integers(1, 4), drop_wake=st.booleans())
    def claim(self, worker: str, most: int, drop_wake: bool) -> None:
        self._claim(worker, most, drop_wake)

    @precondition(lambda self: self._living())
    @rule(data=st.data(), give_up=sometimes)
    def deliver(self, data: st.DataObject, give_up: bool) -> None:
        """The head, by the lane's holder."""
        self._settle_head(data, verdict="delivered", pause_ms=0, reason="-", give_up=give_up, replacement=b"")

    @precondition(lambda self: self._living())
    @rule(data=st.data(), reason=st.sampled_from(["422", "expired"]))
    def refuse(self, data: st.DataObject, reason: str) -> None:
        """The head becomes a dead letter."""
        self._settle_head(data, verdict="dead", pause_ms=0, reason=reason, give_up=False, replacement=b"")

    @precondition(lambda self: self._living())
    @rule(data=st.data(), verdict=verdicts, pause_ms=pauses, reason=reasons, give_up=sometimes, replacement=seals)
    def settle(self, data: st.DataObject, **what: Any) -> None:
        """The head, by the lane's holder, in any way."""
        self._settle_head(data, **what)

    def _settle_head(self, data: st.DataObject, **what: Any) -> None:
        lane, fence, _ = data.draw(st.sampled_from(self._living()), "claim")
        head = self.model.lanes[lane].head
        self._settle(data, lane, fence, head.id if head else "never-queued", **what)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verdict=verdicts, pause_ms=pauses, reason=reasons, give_up=sometimes, replacement=seals)
    def settle_amiss(self, data: st.DataObject, **what: Any) -> None:
        """By a holder or a stale one, with an id that may have been settled before, or wait behind the head."""
        lane, fence, run = self._some_claim(data)
        name = data.draw(st.sampled_from([*run, *self.order[lane], "never-queued"]), "id")
        self._settle(data, lane, fence, name, **what)

    @rule(data=st.data(), tries=st.integers(1, 5), ends=st.booleans())
    def an_outage(self, data: st.DataObject, tries: int, ends: bool) -> None:
        """The server refuses what comes due, again and again; then it takes the next one."""
        for verdict in ["retry"] * tries + ["delivered"] * ends:
            if not self.model.due:
                return
            given = len(self.claims)
            self.claim_what_comes_due("aa 11", 2, on_trial=False)
            self._end_wake()
            pause_ms = data.draw(st.sampled_from([20_000, 300_000, 900_000]), "pause")
            for lane, fence, run in self.claims[given:]:
                self._settle(
                    data, lane, fence, run[0], verdict=verdict, pause_ms=pause_ms, reason="503", give_up=True,
                    replacement=b"", floor_ms=data.draw(st.sampled_from([0, 0, 400, 200_000]), "floor"),
                )  # fmt: skip
                self._end_wake()

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), length_ms=st.sampled_from([0, 5000, CLAIM_MS]), begins=st.booleans())
    def release_or_renew(self, data: st.DataObject, length_ms: int, begins: bool) -> None:
        lane, fence, _ = self._some_claim(data)
        if length_ms:
            takeovers = self.takeovers[fence] if begins else None
            renewed = self.model.renew(lane, fence, length_ms, takeovers)
            assert self.journal.renew(lane, fence, length_ms / 1000, begins=takeovers) == renewed
        else:
            assert self.journal.release(lane, fence) == self.model.release(lane, fence)

    @precondition(lambda self: self._living())
    @rule(incarnation=st.sampled_from(["aa", "bb"]), alive=st.sets(st.sampled_from([11, 12, 21])))
    def reclaim(self, incarnation: str, alive: set[int]) -> None:
        freed = self.model.reclaim(incarnation, sorted(alive))
        assert self.journal.reclaim(incarnation, sorted(alive)) == len(freed)
        fences = {lane: read(self.journal, LANES)["claims"][lane].fence for lane in freed}
        assert sorted(fences.values()) == list(range(self.model.fence + 1, self.model.fence + len(freed) + 1))
        for lane, fence in fences.items():
            self.model.lanes[lane].claim.fence = fence  # type: ignore[union-attr]
        self.model.fence += len(freed)

    @rule(worker=workers, deaths=st.integers(1, 6), begins=st.booleans())
    def workers_die(self, worker: str, deaths: int, begins: bool) -> None:
        """Each as soon as it has claimed something, or has begun with it."""
        for _ in range(deaths):
            given = len(self.claims)
            self._claim(worker, 2, drop_wake=False)
            self._end_wake()
            for lane, fence, _ in self.claims[given:] if begins else ():
                takeovers = self.takeovers[fence]
                self.model.renew(lane, fence, CLAIM_MS, takeovers)
                assert self.journal.renew(lane, fence, begins=takeovers)
            if self._living():
                self.reclaim(worker.split()[0], set())
                self._end_wake()

    # --- what a person does

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
            self._end(lane, name)

    @rule(lane=lanes, most=st.sampled_from([1, 1, 2, 20]))
    def clear(self, lane: str, most: int) -> None:
        taken = self.model.clear(lane, most)
        operations = [entry.id for entry in taken if not entry.cancelled]
        assert self.inventory.clear(lane, most) == (len(operations), len(taken))
        for name in operations:
            self._end(lane, name)

    @rule(lane=lanes, why=whys, for_ms=st.sampled_from([0, 3000]))
    def hold(self, lane: str, why: str, for_ms: int) -> None:
        assert self.inventory.hold(lane, why, for_ms / 1000) == self.model.hold_by_hand(lane, why, for_ms)

    @precondition(lambda self: self.model.held_for)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([name for name in LANES if self.model.lanes[name].held]), "lane")
        why = data.draw(st.sampled_from([*self.model.lanes[lane].held, "paused"]), "why")
        assert self.inventory.let_go(lane, why) == self.model.let_go(lane, why)

    @precondition(lambda self: self.model.dead)
    @rule(data=st.data(), end=st.sampled_from(["head", "tail"]), sealed=seals)
    def replay(self, data: st.DataObject, end: Any, sealed: bytes) -> None:
        """Some dead letters, also one twice, in any order."""
        letters = {letter.id: letter for letter in self.inventory.letters()}
        ids = data.draw(st.lists(st.sampled_from(sorted(letters)), min_size=1, max_size=4), "ids")
        gone, woken = self.model.replay([(name, sealed) for name in ids], end)
        assert self.inventory.replay([(letters[name], sealed) for name in ids], end) == (len(gone), woken)
        for name in gone:
            lane = letters[name].lane
            behind_flying = min(len(self.order[lane]), int(self.model.lanes[lane].flies(self.model.now)))
            self.order[lane].insert(behind_flying if end == "head" else len(self.order[lane]), name)

    @precondition(lambda self: self.model.dead)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        letters = {letter.id: letter for letter in self.inventory.letters()}
        ids = data.draw(st.lists(st.sampled_from(sorted(letters)), min_size=1, max_size=2), "ids")
        assert self.inventory.drop([letters[name] for name in ids]) == self.model.drop(ids)
        self.ended |= {name for name in ids if letters[name].reason not in REFUSED}

    @rule(data=st.data(), lane=lanes, was=st.sampled_from([b"x", b"an", b"no"]), sealed=seals.filter(bool))
    def reseal(self, data: st.DataObject, lane: str, was: bytes, sealed: bytes) -> None:
        """Some were changed since they were read, or are gone."""
        parts = [(name, was, sealed) for name in {self._some_id(data, lane) for _ in range(3)}]
        last = len(self.model.lanes[lane].entries) - 1
        assert self.inventory.reseal(lane, last, parts) == self.model.reseal(lane, parts)

    @rule(lane=lanes, most=st.integers(1, 5))
    def look(self, lane: str, most: int) -> None:
        """A lane, page after page; the dead letters; what is held."""
        found = [waiting for page in self.inventory.pages(lane, most) for waiting in page.waiting]
        in_lane = self.model.lanes[lane]
        assert [(w.id, w.state, w.size, w.halts) for w in found] == [
            (entry.id, self.model.find(lane, entry.id), entry.size, entry.halt) for entry in in_lane.waiting
        ]
        assert [w.retries for w in found[:1]] == [in_lane.count(w.id) for w in found[:1]]
        assert [letter.id for letter in self.inventory.letters()] == list(self.model.dead)
        held = {name: tuple(lane.held) for name, lane in self.model.lanes.items() if lane.held}
        assert dict(self.inventory.held()) == held

    # --- the link

    @precondition(lambda self: self._living())
    @rule(data=st.data())
    def credentials_are_refused(self, data: st.DataObject) -> None:
        """401: nothing is lost or counted; the gate closes, but for a trial now and then."""
        self._settle_head(data, verdict="wait", pause_ms=0, reason="401", give_up=True, replacement=b"")
        self._end_wake()
        assert self.journal.close_gate("unauthorized", "401") == self.model.close_gate("unauthorized")

    @precondition(lambda self: len(self.claims) % 4 == 3)
    @rule(cause=st.sampled_from(CAUSES))
    def close_gate(self, cause: Any) -> None:
        assert self.journal.close_gate(cause, "refused") == self.model.close_gate(cause)

    @precondition(lambda self: self.model.causes)
    @rule(causes=st.sets(st.sampled_from(CAUSES), min_size=1), opens_in_ms=st.sampled_from([0, 300]))
    def open_gate(self, causes: set[str], opens_in_ms: int) -> None:
        self._open_gate(*sorted(causes), opens_in_ms=opens_in_ms)

    def _open_gate(self, *causes: Any, opens_in_ms: int = 0) -> None:
        for cause in causes:
            changed = self.journal.open_gate(cause, opens_in_s=opens_in_ms / 1000)
            assert changed == self.model.open_gate(cause, opens_in_ms)
            self._end_wake()


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
