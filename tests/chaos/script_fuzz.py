"""The journal's scripts with arguments that its own code never gives them, and what must hold afterwards."""

import random
from collections.abc import Sequence
from typing import Any

import redis

from fluxy_sync import StorageUnavailable
from fluxy_sync.journal import Journal, NewRecord
from fluxy_sync.journal.journal import SCRIPTS
from fluxy_sync.journal.record import pack_id, parse
from fluxy_sync.journal.store import script_sha
from fluxy_sync.operation import new_operation_id
from tests.chaos.ledger import counts_by_hand

LANES = ("a", "b", "c")
UNCOUNTED = ("pulse", "histogram")  # written past the AOF by whoever looks
ODD: tuple[bytes, ...] = (
    b"", b"0", b"1", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"1e15", b"0.5", b"9" * 20, b"0x10", b" 1", b"x",
    b"\xff\0",
    b"a b", b"\n", b"true", b"x" * 300,
)  # fmt: skip
WORKER = "w 1"


class ScriptFuzz:
    """One namespace with something in every state; scripts are called on it with odd arguments."""

    refused = 0  # calls, in all

    def __init__(self, journal: Journal, client: "redis.Redis", chance: random.Random) -> None:
        self._journal, self._client, self._chance = journal, client, chance
        self._keys = journal.keys
        self.ids: list[str] = []
        self.fence = 0
        self._fill()

    def _fill(self) -> None:
        """Waiting, retrying, claimed, held, cancelled, dead, once."""
        self.ids = [new_operation_id() for _ in range(12)]
        records = [
            NewRecord(
                one, LANES[n % 3], b"keyI" + bytes(n), once=bytes([n]) * 16 if n % 4 == 0 else b"", halt=n % 5 == 0
            )
            for n, one in enumerate(self.ids)
        ]
        self._journal.append(records)
        self._journal.cancel("a", self.ids[6])
        self._journal.bury(NewRecord(new_operation_id(), "a", b"keyIx"), "unsealed")
        claim: Any = self._journal.claim(WORKER)
        self._journal.settle(claim.lane, claim.fence, self.ids[LANES.index(claim.lane)], "dead", reason="422")
        claim = self._journal.claim(WORKER)
        self.fence = claim.fence

    # --- one call

    def call(self) -> str:
        """Call one script; an error must have changed nothing, and whatever happened must be counted right."""
        name = self._chance.choice([name for name in SCRIPTS if name not in OFFLINE])
        arguments = self._mutated(self._usual(name))
        before = self._dump()
        try:
            self._eval(name, arguments)
        except redis.ResponseError as error:
            ScriptFuzz.refused += 1
            now = self._dump()
            ended = before.keys() - now.keys() - {self._keys.wake.encode()}  # that one ends by itself
            changed = [key for key in ended | now.keys() if before.get(key) != now.get(key)]
            return f"{name}{arguments} failed ({error}) after it had changed {changed}" if changed else ""
        wrong = self.wrong()
        return f"{name}{arguments}: {wrong}" if wrong else ""

    def _eval(self, name: str, arguments: Sequence[Any]) -> Any:
        more = {"tick": [self._keys.samples], "audit": [self._keys.audit], "swap": [self._keys.secret]}
        lanes = [self._keys.lane(lane) for lane in LANES]
        extra = more.get(name) or (lanes[:1] if name in ONE_LANE else lanes)
        keys = [*self._keys.fixed, *extra, *([self._keys.histogram] if name == "settle" else [])]
        clock = [b"host", str(self._chance.choice([1, 1000, 2000, 10**9])).encode()]
        if self._chance.random() < 0.1:
            clock[1] = self._chance.choice(ODD)
        return self._client.execute_command("EVALSHA", script_sha(name), len(keys), *keys, *arguments, *clock)

    def _mutated(self, arguments: list[Any]) -> list[Any]:
        found = list(arguments)
        for _ in range(self._chance.choice([0, 1, 1, 2, 3])):
            at = self._chance.randrange(len(found) + 1)
            way = self._chance.choice(["odd", "odd", "odd", "gone", "more", "cut"])
            if way == "odd" and at < len(found):
                found[at] = self._chance.choice(ODD)
            elif way == "gone" and at < len(found):
                del found[at]
            elif way == "more":
                found.insert(at, self._chance.choice(ODD))
            elif way == "cut":
                found = found[:at]
        return found

    def _usual(self, name: str) -> list[Any]:
        """The arguments of a call as the journal makes it."""
        one, lane = pack_id(self._chance.choice(self.ids)), self._chance.choice(LANES)
        if name in ONE_LANE:
            lane = LANES[0]
        new = [1, LANES[0], pack_id(new_operation_id()), 0, 60_000, 0, b"o" * 16, b"keyInew"]
        letters = [str(n) for n in range(3)]
        calls: dict[str, list[Any]] = {
            "append": [b"cmd" + self._chance.randbytes(4), 0, 0, 0, 0, "drop_oldest", 1000, 3000, 1000, *new, *new],
            "claim": [WORKER, 15_000, 64, 262_144, self._keys.lane_prefix, 5, 3000, "epoch", 1],
            "settle": [lane, self.fence, one, self._chance.choice(["delivered", "retry", "wait", "hold", "dead"]),
            1000, "503",
                       b"", b"detail", 0, 15_000, 3000, 10, 0, 1000, 5, *new],
            "release": [lane, self.fence], "renew": [lane, self.fence, 15_000, -1], "reclaim": ["w", 2],
            "bury": [lane, pack_id(new_operation_id()), "unsealed", b"keyIx"],
            "cancel": [lane, one, -1], "find": [lane, one, -1],
            "gate": [self._chance.choice(["paused", "offline", "unauthorized"]), self._chance.choice(["", "why"]), 100],
            "wake": [3000], "tick": ["steward", "n", 0, 3000, 2000, self._keys.lane_prefix], "probe": [1000],
            "snapshot": [],
            "hold": [lane, "paused", self._chance.choice([0, 1]), 500, 3000], "clear": [lane, 2],
            "page": [lane, 1, one, 10], "letters": [0, 10],
            "replay": ["tail", 3000, 1000, *(x for letter in letters for x in (1, LANES[0], letter, b""))],
            "accept": [*self._unaccepted(), 3000, *new[:-2], b"", b"keyInew"],
            "drop": [3000, *(x for letter in letters for x in (1, LANES[0], letter))],
            "reseal": [lane, 3, one, b"keyI", b"newIsealed"], "reseal_letter": [one, b"x", b"", b"newIsealed"],
            "audit": [100, "who", "what", "which"], "swap": [b"x", b"y"],
        }  # fmt: skip
        letters[:] = [key.decode("latin-1") for key in self._client.hkeys(self._keys.dead)] or letters
        if name in ("replay", "drop"):
            width = [
                x
                for letter in letters
                for x in (1, LANES[0], letter.encode("latin-1"), b"")[: 4 if name == "replay" else 3]
            ]
            return calls[name][: 3 if name == "replay" else 1] + width
        return calls.get(name, [lane, one, 0, 10])  # a newer script: whatever it makes of these

    def _unaccepted(self) -> tuple[bytes, bytes]:
        """A dead letter that was never accepted, as it is stored."""
        found = self._client.hgetall(self._keys.dead)
        return next(((name, value) for name, value in found.items() if b"unsealed" in value), (b"x", b"y"))

    # --- what holds

    def _dump(self) -> dict[bytes, bytes]:
        prefix, uncounted = self._keys.prefix, {f"{self._keys.prefix}{name}".encode() for name in UNCOUNTED}
        keys = [key for key in self._client.scan_iter(f"{prefix}*", count=1000) if key not in uncounted]
        return {key: self._client.dump(key) for key in keys}

    def wrong(self) -> str:
        """What doesn't fit together, or nothing."""
        found = counts_by_hand(self._client, self._keys.namespace)
        found["bytes"] -= sum(map(len, self._tombstones()))
        try:
            snapshot: Any = self._journal.snapshot()
        except StorageUnavailable as error:
            return f"the counts can't be read: {error}"
        told = {name: getattr(snapshot, name) for name in found}
        if told != found:
            return f"the counters say {told}, the records {found}"
        lost = [lane for lane in LANES if self._journal.keys and self._is_lost(lane)]
        return f"the lanes {lost} hold operations, and nothing would ever look at them" if lost else ""

    def _tombstones(self) -> list[bytes]:
        """What cancelled operations leave in their place: it isn't counted."""
        records = [record for lane in LANES for record in self._client.lrange(self._keys.lane(lane), 0, -1)]
        return [record for record in records if not parse(record).sealed]

    def _is_lost(self, lane: str) -> bool:
        prefix = self._keys.prefix
        holds = self._client.llen(self._keys.lane(lane))
        score = self._client.zscore(f"{prefix}ready", lane)
        known = score is not None and abs(score) < 1e14
        return bool(holds and not known and not self._client.hexists(f"{prefix}held", lane))


ONE_LANE = {"settle", "release", "bury", "accept", "cancel", "find", "hold", "clear", "page", "reseal"}
OFFLINE = {"recount", "recount_lane"}  # for a journal that nobody else uses: whoever calls them has counted by himself
