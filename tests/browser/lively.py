"""A gateway in the middle of a lively hour, made by hand in a store of its own: for pictures of the dashboard."""

import random
import threading
import time
from collections.abc import Sequence
from itertools import pairwise

from fluxy_sync import FluxySync
from fluxy_sync.journal import Inventory, Journal
from tests.stuck import die, fail, queue

HOUR_S = 3_600
SAMPLE_S = 12
DELIVERED = 48_211
DIED_MS_BYTES = 6
# What was pending at which share of the hour: an outage from the second to the third.
LEVELS = ((0.0, 24.0), (0.28, 22.0), (0.44, 430.0), (0.52, 36.0))
RETRIES = 7
# Lane, reason, and how many seconds ago.
LETTERS = (
    ("orders", "422", 8_940),
    ("meter:0417", "409", 6_130),
    ("user:42", "expired", 3_380),
    ("orders", "413", 1_260),
)


def make_lively(sync: FluxySync, offline_s: float = 0.0) -> None:
    """Lanes that are sent, retried, held and paused, dead letters, and an hour behind them."""
    for lane, reason, ago_s in LETTERS:
        age_letter(sync.engine.journal, die(sync, lane, reason, body={"text": "x" * (ago_s % 3_000)}), ago_s)
    fill(sync, "meter:0417", 214, 1_560)
    for _ in range(RETRIES):
        fail(sync, "meter:0417", next(iter(sync.pending("meter:0417"))).id, 0)
    fail(sync, "meter:0417", next(iter(sync.pending("meter:0417"))).id, 1_200)
    age_letter(sync.engine.journal, die(sync, "orders", "409", on_dead="halt"), 1_130)
    fill(sync, "orders", 96, 700)
    fill(sync, "user:42", 31, 209)
    fill(sync, "photos", 12, 32)
    sync.pause("photos")
    queue(sync, None, countdown=5_400)
    fill(sync, "default", 8, 8)
    past_hour(sync.engine.journal, random.Random(4), offline_s)


def fill(sync: FluxySync, lane: str, count: int, then_s: float) -> None:
    """Queue so many operations, and let some time go by."""
    body = {"reading": "x" * 700}
    sync.queue_many([{"method": "POST", "path": "/v1/events", "lane": lane, "body": body} for _ in range(count)])
    advance(sync.engine.journal, then_s)


def advance(journal: Journal, seconds: float) -> None:
    """Let journal time go by."""
    journal.store.command("HINCRBY", journal.keys.fixed[0], "now", round(seconds * 1000))


def age_letter(journal: Journal, operation_id: str, seconds: float) -> None:
    """As if it had died so long ago."""
    letter = Inventory(journal).find_letter(operation_id)
    assert letter is not None
    raw = journal.store.command("HGET", journal.keys.dead, letter.member)
    was, then = (ms.to_bytes(DIED_MS_BYTES, "big") for ms in (letter.died_ms, letter.died_ms - round(seconds * 1000)))
    journal.store.command("HSET", journal.keys.dead, letter.member, raw.replace(was, then, 1))


def past_hour(journal: Journal, chance: random.Random, offline_s: float = 0.0) -> None:
    """Samples of an hour with an outage, ending at what the store holds now."""
    now, delivered = int(time.time()), DELIVERED
    levels = (*LEVELS, (1.0, journal.snapshot().pending))
    samples = []
    for at in range(now, now - HOUR_S - 2 * SAMPLE_S, -SAMPLE_S):
        share = 1 - (now - at) / HOUR_S
        pending = round(level(levels, share)) + chance.randrange(-8, 9) * (at < now)
        samples.append(f"{at} {max(0, pending)} {delivered} {len(LETTERS)}")
        delivered -= 0 if now - at < offline_s else sent(share, chance)
    journal.store.command("RPUSH", journal.keys.samples, *reversed(samples))
    journal.store.command("HSET", journal.keys.fixed[0], "delivered_total", DELIVERED)


def level(points: Sequence[tuple[float, float]], share: float) -> float:
    """The height of a line through the points."""
    for (left, low), (right, high) in pairwise(points):
        if share <= right:
            return low + (high - low) * max(0.0, share - left) / (right - left)
    return points[-1][1]


def sent(share: float, chance: random.Random) -> int:
    """Deliveries in one step: none in the outage, many after it."""
    begins, ends, over = (point[0] for point in LEVELS[1:4])
    if begins < share <= ends:
        return 0
    return chance.randrange(70, 100) if ends < share <= over else chance.randrange(14, 44)


def keep_delivering(journal: Journal, ends: threading.Event) -> None:
    """As if a worker delivered: the totals grow, until told."""
    while not ends.wait(0.25):
        journal.store.command("HINCRBY", journal.keys.fixed[0], "delivered_total", 1)
