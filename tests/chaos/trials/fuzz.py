"""The record format and the journal's scripts, with bytes and arguments that nobody would write."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import redis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.engine import Engine
from fluxy_sync.errors import CorruptRecord, SealError
from fluxy_sync.journal import Claim, Journal, Store, connect
from fluxy_sync.journal.record import parse
from fluxy_sync.operation import Operation, new_operation_id
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.chaos.forger import rebuilt
from tests.chaos.ledger import counts_by_hand
from tests.chaos.script_fuzz import ScriptFuzz
from tests.chaos.trial import Run, trial

CALLS = 20  # of scripts, on one journal
OPERATIONS = 4
WORKER = "w 1"


def seeded(run: Run, examples: int) -> Callable[[Any], Any]:
    """Hypothesis by the run's seed; what breaks is made as small as possible, and shown."""
    how = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], print_blob=False,
    )  # fmt: skip
    return lambda test: hypothesis.seed(run.seed)(how(test))


@contextmanager
def store_of(run: Run) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(run.folder / "store") as store:
        store.wait_ready()
        yield store


# --- scripts


@trial()
def fuzz_scripts(run: Run) -> None:
    """The journal's scripts refuse odd arguments before they write, or what they write is counted right."""
    with store_of(run) as store, redis.Redis.from_url(store.url) as client:
        wire = Store(connect(store.url))
        for n in range(run.scale(60, 4_000)):
            fuzz = ScriptFuzz(Journal(wire, f"n{n}"), client, run.chance)
            for _ in range(CALLS):
                wrong = fuzz.call()
                run.check(not wrong, wrong)
            client.delete(*client.scan_iter(f"{{n{n}}}:*", count=1000))
        wire.close()
    run.figure("calls of scripts", (n + 1) * CALLS)
    run.figure("calls that were refused", ScriptFuzz.refused)


# --- records


def cut(record: bytes) -> st.SearchStrategy[bytes]:
    return st.integers(0, len(record) - 1).map(lambda n: record[:n])


def flipped(record: bytes) -> st.SearchStrategy[bytes]:
    bits = st.lists(st.integers(0, 8 * len(record) - 1), min_size=1, max_size=4, unique=True)
    return bits.map(lambda all_of_them: flip(record, all_of_them))


def flip(record: bytes, bits: list[int]) -> bytes:
    number = int.from_bytes(record, "big")
    for bit in bits:
        number ^= 1 << bit
    return number.to_bytes(len(record), "big")


def other_fields(record: bytes) -> st.SearchStrategy[bytes]:
    """Other clear fields, with a check that fits them."""
    moment = st.sampled_from([0, 1, 10_000]) | st.integers(0, 2**48 - 1)
    ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)
    fields = st.fixed_dictionaries(
        {},
        optional={
            "id": ids | st.uuids().map(str),
            "accepted": moment, "due": moment, "expires": moment, "halt": st.booleans(),
            "once": st.binary(min_size=16, max_size=16), "replays": st.integers(0, 65_535),
            "sealed": st.binary(max_size=80),
        },
    )  # fmt: skip
    return fields.map(lambda given: rebuilt(record, **given))


def spliced(record: bytes, other: bytes) -> st.SearchStrategy[bytes]:
    return st.tuples(st.integers(0, len(record)), st.integers(0, len(other))).map(
        lambda at: record[: at[0]] + other[at[1] :]
    )


@trial()
def fuzz_records(run: Run) -> None:
    """A damaged or forged record is read as itself or as damaged: it costs itself alone, and opens as nothing else."""
    found: dict[str, int] = dict.fromkeys(("damaged", "sent as it was", "put off", "dead"), 0)
    with store_of(run) as store, redis.Redis.from_url(store.url) as client:
        settings = {"redis_url": store.url, "keys": new_key(), "upstream": "http://127.0.0.1:1", "data_dir": run.folder}

        @seeded(run, run.scale(200, 10_000))
        @hypothesis.given(data=st.data())
        def damage_one(data: st.DataObject) -> None:
            name = new_operation_id()
            try:
                Damaged(Engine(Settings(namespace=name, **settings)), client, data).judge(found)
            finally:
                client.delete(*client.scan_iter(f"{{{name}}}:*", count=1000))

        damage_one()
    for what, count in found.items():
        run.figure(f"records {what}", count)


class Damaged:
    """A lane, one record of which was changed, and whoever drains it."""

    def __init__(self, engine: Engine, client: "redis.Redis", data: st.DataObject) -> None:
        self.engine, self.client, self.journal = engine, client, engine.journal
        self.accepted = {new_operation_id() if n % 2 else f"op-{n}": self._operation(n) for n in range(OPERATIONS)}
        extra: dict[str, Any] = data.draw(
            st.sampled_from([{}, {"expires_s": 60.0}, {"halt": True}, {"once": b"o" * 16}])
        )
        self.index = data.draw(st.integers(0, OPERATIONS - 1))
        options = ({} if n != self.index else extra for n in range(OPERATIONS))
        pairs = zip(self.accepted.items(), options, strict=True)
        self.journal.append([engine.seal(one, "a", name, **more) for (name, one), more in pairs])
        record, other = (self._stored((self.index + n) % OPERATIONS) for n in (0, 1))
        ways = [cut(record), flipped(record), other_fields(record), spliced(record, other), st.binary(max_size=80)]
        self.changed = data.draw(st.one_of(ways))
        hypothesis.assume(self._id() not in self._others)  # a twin of another one would be sent as that
        client.lset(self.journal.keys.lane("a"), self.index, self.changed)
        client.hincrby(self.journal.keys.fixed[0], "bytes", len(self.changed) - len(record))

    @staticmethod
    def _operation(n: int) -> Operation:
        return Operation(("POST", f"/{n}"), {"body": b"x" * n})

    def _stored(self, index: int) -> bytes:
        record: bytes = self.client.lindex(self.journal.keys.lane("a"), index)
        return record

    def judge(self, found: dict[str, int]) -> None:
        found["damaged"] += not self._id()
        delivered = self._drain()
        others = self._others
        left = [parse(record).id for record in self.client.lrange(self.journal.keys.lane("a"), 0, -1)]
        found["put off"] += bool(left)
        found["sent as it was"] += len(delivered) > len(others)
        found["dead"] += self.journal.snapshot().dead
        # One that was put off, or asks for a halt, holds what is behind it: that is its lane's order.
        came = [name for name in delivered if name in others]
        assert came == others[: len(came)], f"{came}, and not {others}: {self.changed!r}"
        assert left or came == others, f"only {came} of {others}: {self.changed!r}"
        counts, snapshot = counts_by_hand(self.client, self.journal.keys.namespace), self.journal.snapshot()
        assert (snapshot.pending, snapshot.dead) == (counts["pending"], counts["dead"])

    @property
    def _others(self) -> list[str]:
        return [name for n, name in enumerate(self.accepted) if n != self.index]

    def _id(self) -> str:
        try:
            return parse(self.changed).id
        except CorruptRecord:
            return ""

    def _drain(self) -> list[str]:
        delivered, ends = [], time.monotonic() + 10
        while isinstance(claim := self.journal.claim(WORKER), Claim):
            assert time.monotonic() < ends, f"it is drained without end: {self.changed!r}"
            delivered += self._settle(claim)
        return delivered

    def _settle(self, claim: Claim) -> list[str]:
        """Only the first of the run, as a worker does that is told to stop."""
        stored = parse(claim.records[0])
        try:
            operation = self.engine.open(stored, claim.lane)
        except SealError:
            status = self.journal.settle(
                claim.lane, claim.fence, stored.id, "dead", reason="corrupt", give_up=True
            ).status
            assert status == "ok", f"{status}: {claim.records[0]!r}"
            return []
        assert self.accepted.get(stored.id) == operation, f"it opened as another one: {claim.records[0]!r}"
        status = self.journal.settle(claim.lane, claim.fence, stored.id, "delivered", give_up=True).status
        assert status == "ok", f"{status}: {claim.records[0]!r}"
        return [stored.id]
