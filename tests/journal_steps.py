"""Short ways to say what a test does to a journal."""

import uuid
from collections.abc import Sequence
from typing import Any

from fluxy_sync.journal import Claim, DeadLetter, Idle, Inventory, Journal, NewRecord
from fluxy_sync.journal.clock import Clock, host
from fluxy_sync.journal.journal import CLAIM_S, Verdict
from fluxy_sync.journal.record import pack_id, parse

WORKER = "aa 11"
OTHER_WORKER = "bb 21"


class ClockByHand(Clock):
    """A machine's clock that only goes on by hand; ``at_ms``: what it says."""

    at_ms = 1

    def ms(self) -> int:
        return self.at_ms


def new(name: str, lane: str = "a", *, size: int = 8, **more: Any) -> NewRecord:
    """An operation whose sealed part is ``size`` bytes; ``more`` as NewRecord has it."""
    return NewRecord(name, lane, name.encode().ljust(size, b".")[:size], **more)


def queue(journal: Journal, *names: str, lane: str = "a") -> None:
    """Accept operations on one lane, in this order."""
    journal.append([new(name, lane) for name in names])


def claim(journal: Journal, holder: str = WORKER, *, most: int = 64) -> Claim:
    """Claim, where something must be due."""
    found = journal.claim(holder, most=most)
    assert isinstance(found, Claim), found
    return found


def begin(journal: Journal, holder: str = WORKER) -> Claim:
    """Claim, and begin with the head, as a worker does."""
    found = claim(journal, holder)
    if found.takeovers:
        assert journal.renew(found.lane, found.fence, begins=found.takeovers)
    return found


def die_with_it(journal: Journal, deaths: int, lane: str = "a", way: str = "deadline") -> None:
    """Claim, begin, and die, so many times: each time another process."""
    for number in range(deaths):
        assert begin(journal, f"dead {number}").lane == lane
        if way == "deadline":
            let_pass(journal, CLAIM_S)
        else:
            journal.reclaim("dead")


def idle(journal: Journal) -> Idle:
    """Claim, where nothing may be due."""
    found = journal.claim(WORKER)
    assert isinstance(found, Idle), found
    return found


def names(records: Sequence[bytes]) -> list[str]:
    """The ids of stored records."""
    return [parse(record).id for record in records]


def waiting(journal: Journal, lane: str = "a") -> list[str]:
    """The ids in a lane, tombstones left out."""
    records = map(parse, journal.store.command("LRANGE", journal.keys.lane(lane), 0, -1))
    return [record.id for record in records if record.flags != 4]


def settle_head(journal: Journal, verdict: Verdict, lane: str = "a", **more: Any) -> str:
    """Claim what is due, which must be this lane, and settle its head; returns its id."""
    run = claim(journal, most=1)
    assert run.lane == lane
    name = names(run.records)[0]
    assert journal.settle(run.lane, run.fence, name, verdict, give_up=True, **more).status == "ok"
    return name


def die(journal: Journal, *dying: str, lane: str = "a", reason: str = "422", **more: Any) -> list[DeadLetter]:
    """Accept operations on an empty lane and let each become a dead letter; returns all letters."""
    journal.append([new(name, lane, **more) for name in dying])
    for _ in dying:
        settle_head(journal, "dead", lane, reason=reason)
    return letters(journal)


def letters(journal: Journal) -> list[DeadLetter]:
    return list(Inventory(journal).letters())


def halted_by(name: str) -> str:
    """The cause for which a lane waits after that operation died."""
    return f"halted:{pack_id(name).hex()}"


def held_for(journal: Journal, lane: str = "a") -> tuple[str, ...]:
    """What a lane waits for."""
    return dict(Inventory(journal).held()).get(lane, ())


def let_pass(journal: Journal, seconds: float) -> None:
    """Move journal time on, and let this machine's clock lead on from there."""
    journal.store.command("HINCRBY", counts(journal), "now", round(seconds * 1000))
    journal.store.command("HDEL", journal.keys.pulse, f"clock {host()}")


def now_ms(journal: Journal) -> int:
    """Journal time as it was last written."""
    return int(journal.store.command("HGET", counts(journal), "now"))


def counts(journal: Journal) -> str:
    return journal.keys.fixed[0]


def fresh_uuid() -> str:
    return str(uuid.uuid4())
