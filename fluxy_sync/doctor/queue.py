"""The queue: what waits, what is held and dead, and how much of the quota that takes."""

from fluxy_sync.doctor.check import Check, Issue, conclude
from fluxy_sync.doctor.patient import Patient
from fluxy_sync.journal import Snapshot, default_max_bytes
from fluxy_sync.words import duration, many, size_text

MUCH = 0.8  # of a quota

# What to do about each reason why a lane is held.
HELD = {
    "paused": ("paused", "go on with: fluxy-sync resume --lane LANE"),
    "halted": ("halted by a dead letter", "replay or drop it: fluxy-sync dead ls"),
    "credentials": ("held: the upstream refuses its operation's own credentials", "look at them: fluxy-sync ls"),
    "replaying": ("held while dead letters go back", "it goes on within 30 s"),
}
WORKER_ERROR_ADVICE = (
    "find the place in the worker's log; if it began with an upgrade, run 'pip check', or go back to the version "
    "before; once the cause is gone, the lanes go on by themselves"
)


def check_queue(patient: Patient) -> Check:
    """What waits, is held, and is dead."""
    settings = patient.settings
    max_bytes = settings.max_bytes or default_max_bytes(int(patient.info.get("maxmemory", 0)))
    return judge_queue(patient.snapshot, settings.max_pending, max_bytes)


def judge_queue(snapshot: Snapshot, max_pending: int, max_bytes: int) -> Check:
    """What waits, what is held and dead, and how much of the quota that takes (0: no bound)."""
    pending = f"{snapshot.pending:,}{f' of {max_pending:,}' if max_pending else ''} pending"
    facts = [pending, f"{size_text(snapshot.bytes)}{f' of {size_text(max_bytes)}' if max_bytes else ''}"]
    if snapshot.oldest_age_ms >= 0:
        facts.append(f"the oldest for {duration(snapshot.oldest_age_ms / 1000)}")
    issues = [
        _quota_issue(snapshot.pending, max_pending, "MAX_PENDING"),
        _quota_issue(snapshot.bytes, max_bytes, "MAX_BYTES"),
        _retry_issue(snapshot.retrying),
        _dead_issue(snapshot.dead),
        *(_held_issue(cause, count) for cause, count in sorted(snapshot.held_for.items())),
    ]
    return conclude("queue", ", ".join(facts), issues)


def _quota_issue(used: int, most: int, name: str) -> Issue | None:
    if not most or used <= MUCH * most:
        return None
    advice = f"let it drain, look at 'fluxy-sync ls' and 'fluxy-sync dead ls', or raise FLUXY_SYNC_{name}"
    if used >= most:
        return Issue("failed", f"the queue is full (FLUXY_SYNC_{name})", advice)
    return Issue("warning", f"{used / most:.0%} of FLUXY_SYNC_{name} is used", advice)


def _retry_issue(retrying: int) -> Issue | None:
    advice = "see what the upstream answered: fluxy-sync ls"
    return Issue("warning", f"{many(retrying, 'lane')} retrying after a failure", advice) if retrying else None


def _dead_issue(dead: int) -> Issue | None:
    advice = "look at them: fluxy-sync dead ls; then replay or drop them"
    return Issue("warning", many(dead, "dead letter"), advice) if dead else None


def _held_issue(cause: str, lanes: int) -> Issue | None:
    kind, _, what = cause.partition(":")
    if kind == "key":
        return None  # told under 'keys'
    if kind == "task":
        return Issue("warning", f"{many(lanes, 'lane')} held: no worker has task {what}", "check FLUXY_SYNC_IMPORTS")
    if kind == "worker-error":
        failed = f"the worker failed with {what}; nothing was lost, and each is tried again in 30 s"
        return Issue("failed", f"{many(lanes, 'lane')} held: {failed}", WORKER_ERROR_ADVICE)
    found, advice = HELD.get(kind, (f"held: {cause}", "look closer: fluxy-sync ls"))
    return Issue("warning", f"{many(lanes, 'lane')} {found}", advice)
