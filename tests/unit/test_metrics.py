"""The metrics: by their names, from the last reading alone, and never a number that isn't known."""

import re
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fluxy_sync.dashboard.board import STALE_AFTER_S, Board, essence
from fluxy_sync.dashboard.metrics import SyncMetrics
from fluxy_sync.dashboard.poller import Rate, Reading
from fluxy_sync.journal import Snapshot
from fluxy_sync.journal.inventory import Histogram
from fluxy_sync.status import status_of

NAMES = {
    "fluxy_sync_pending": 7, "fluxy_sync_syncing": 2, "fluxy_sync_retrying": 1, "fluxy_sync_held": 3,
    "fluxy_sync_dead": 4, "fluxy_sync_oldest_age_seconds": 12.5, "fluxy_sync_delivered_total": 100,
    "fluxy_sync_retried_total": 20, "fluxy_sync_dead_total": 9, "fluxy_sync_up": 1,
}  # fmt: skip
BUCKETS = Histogram((0.5, 2.5), (3, 1, 2), 40.25)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def snapshot(**changes: Any) -> Snapshot:
    found = Snapshot(
        pending=7, syncing=2, retrying=1, held=3, dead=4, bytes=900, lanes=5, oldest_age_ms=12_500, gate="paused",
        since_wall_ms=1_700_000_000_000, reason="by ann", delivered_total=100, rev=42, retried_total=20, dead_total=9,
        cancelled_total=0, dropped_total=0, offline=0, opens_in_ms=0, held_for={"paused": 1},
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


def reading(**changes: Any) -> Reading:
    found = snapshot(**changes)
    return Reading(found, status_of(found), 2.5, {"latency": BUCKETS, "response": BUCKETS})


def scrape(board: Board) -> dict[tuple[str, str], float]:
    """What a scrape gives: (name, labels) -> value."""
    registry = CollectorRegistry()
    registry.register(SyncMetrics(board))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, ",".join(f"{k}={v}" for k, v in s.labels.items())): s.value for s in samples}


def test_each_number_has_its_name() -> None:
    """Gauges and counters as the journal counts them, without labels."""
    board = Board("n", Clock())
    board.put(reading())
    found = scrape(board)
    assert {name: found[name, ""] for name in NAMES} == NAMES


def test_the_gate_is_one_of_four() -> None:
    """One gauge, 1 for the state that it is in."""
    board = Board("n", Clock())
    board.put(reading())
    gate = {labels: value for (name, labels), value in scrape(board).items() if name == "fluxy_sync_gate"}
    assert gate == {"state=open": 0, "state=offline": 0, "state=paused": 1, "state=unauthorized": 0}


def test_histograms_are_cumulative() -> None:
    """Each bucket counts all up to its bound; the last one counts everything."""
    board = Board("n", Clock())
    board.put(reading())
    found = scrape(board)
    for name in ("fluxy_sync_accept_to_delivered_seconds", "fluxy_sync_response_seconds"):
        assert [found[f"{name}_bucket", f"le={bound}"] for bound in ("0.5", "2.5", "+Inf")] == [3, 4, 6]
        assert (found[f"{name}_count", ""], found[f"{name}_sum", ""]) == (6, 40.25)


def test_no_label_grows() -> None:
    """The only labels are the gate's states and the buckets' bounds."""
    board = Board("n", Clock())
    board.put(reading())
    assert {re.sub("=.*", "", labels) for _, labels in scrape(board)} == {"", "state", "le"}


def test_what_is_not_known_is_left_out() -> None:
    """Before the first reading, after a failed one, and when the poller says nothing any more: ``up 0`` and no more."""
    clock = Clock()
    board = Board("n", clock)
    assert scrape(board) == {("fluxy_sync_up", ""): 0}
    board.put(reading())
    board.put(None)
    assert scrape(board) == {("fluxy_sync_up", ""): 0}
    board.put(reading(pending=0, oldest_age_ms=-1))
    assert scrape(board)["fluxy_sync_oldest_age_seconds", ""] == 0
    clock.now += STALE_AFTER_S + 0.1
    assert scrape(board) == {("fluxy_sync_up", ""): 0}


def test_a_stale_record_keeps_what_was_known() -> None:
    """Its numbers are the last ones; what passes with time alone makes no other moment of it."""
    board = Board("n", Clock())
    board.put(reading())
    fresh = board.record()
    board.put(None)
    stale = board.record()
    assert stale == {**fresh, "stale": True}
    assert essence(stale) != essence(fresh)
    board.put(reading(oldest_age_ms=13_000))
    assert essence(board.record()) == essence(fresh)


def test_the_rate_is_of_the_last_ten_seconds() -> None:
    """It rises and falls with the deliveries, moves once a second, and starts anew with another journal."""
    rate = Rate()
    assert rate.note(0.0, 50) == 0
    assert rate.note(0.5, 60) == 0
    assert rate.note(1.0, 70) == 20
    for second in range(2, 31):
        rate.note(float(second), 70 + 10 * min(second, 20))
    assert rate.note(30.4, 999) == 0
    assert rate.note(31.0, 270) == 0
    assert rate.note(32.0, 5) == 0
    assert rate.note(33.0, 8) == 3
