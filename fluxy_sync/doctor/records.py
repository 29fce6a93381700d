"""The store's records: what repairs cost, and whether the counters agree with what is there."""

from typing import NamedTuple

from fluxy_sync.doctor.check import Check, Issue, conclude
from fluxy_sync.doctor.patient import Patient, is_of_gateway
from fluxy_sync.journal import Journal
from fluxy_sync.repair import RECOUNT_FILE, REPAIRS_FILE, Repair, repairs
from fluxy_sync.words import many

AT_ONCE = 1000
TRIES = 5  # to find the journal unchanged before and after


class Counted(NamedTuple):
    """What is told and what was found. ``stuck``: lanes with operations that nobody would ever claim."""

    pending: int
    dead: int
    found_pending: int
    found_dead: int
    stuck: int


def check_repairs(patient: Patient) -> Check:
    """The repairs of the gateway's own store that nobody has acknowledged."""
    data_dir = patient.settings.data_dir
    return judge_repairs(repairs(data_dir), f"once you have seen to it, delete {data_dir / REPAIRS_FILE}")


def judge_repairs(found: list[Repair], advice: str) -> Check:
    """The last one, and how many there were before it."""
    if not found:
        return conclude("repairs", "none that is new")
    last = found[-1]
    earlier = f", and {many(len(found) - 1, 'repair')} before" if found[1:] else ""
    return conclude("repairs", f"{last.at}{earlier}", [Issue("warning", last.line, advice)])


def check_records(patient: Patient) -> Check:
    """Compare what is counted with what is there."""
    own = patient.settings.data_dir / RECOUNT_FILE
    advice = f"stop the gateway, create the file {own}, and start it: it counts anew"
    counted = count(patient.journal)
    return judge_records(counted, advice if is_of_gateway(patient.settings) else "please report it")


def judge_records(counted: Counted | None, advice: str) -> Check:
    """Whether the counters can be believed; None where the journal changed all the time."""
    if counted is None:
        return Check("records", "skipped", "the journal changes too fast to be counted; look again when it is quieter")
    issues = []
    if (counted.pending, counted.dead) != (counted.found_pending, counted.found_dead):
        told = f"{counted.pending:,} pending and {counted.dead:,} dead are told"
        found = f"{told}, {counted.found_pending:,} and {counted.found_dead:,} are there"
        issues.append(Issue("warning", found, advice))
    if counted.stuck:
        issues.append(Issue("failed", f"{many(counted.stuck, 'lane')} that nobody would ever claim", advice))
    return conclude("records", f"{counted.found_pending:,} counted", issues)


def count(journal: Journal) -> Counted | None:
    """Count by hand, without stopping anybody."""
    counts = journal.keys.fixed[0]
    for _ in range(TRIES):
        before = journal.store.command("HGET", counts, "rev")
        counted = _count(journal)
        if journal.store.command("HGET", counts, "rev") == before:
            return counted
    return None


def _count(journal: Journal) -> Counted:
    client, keys = journal.store.client, journal.keys
    counts, ready, claims, _, held, *_ = keys.fixed
    told = [int(each or 0) for each in client.hmget(counts, "pending", "dead")]
    tombstones = sum(map(int, client.hvals(keys.cancelled)))
    prefix = keys.lane_prefix.encode()
    records = stuck = 0
    cursor = b"0"
    while True:
        cursor, found = journal.store.command("SCAN", cursor, "MATCH", f"{keys.lane_prefix}*", "COUNT", AT_ONCE)
        with client.pipeline(transaction=False) as pipeline:
            for key in found:
                lane = key[len(prefix) :]
                pipeline.llen(key)
                pipeline.zscore(ready, lane)
                pipeline.hexists(held, lane)
                pipeline.hexists(claims, lane)
            answers = pipeline.execute()
        records += sum(answers[::4])
        stuck += sum(
            score is None and not (is_held or is_claimed)
            for score, is_held, is_claimed in zip(answers[1::4], answers[2::4], answers[3::4], strict=True)
        )
        if cursor == b"0":
            return Counted(told[0], told[1], records - tombstones, client.hlen(keys.dead), stuck)
