"""What Prometheus reads. It only looks at the board, so a scrape never waits; what isn't known is left out."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fluxy_sync.dashboard.board import Board
from fluxy_sync.dashboard.poller import Reading
from fluxy_sync.journal.inventory import Histogram

PREFIX = "fluxy_sync_"
GATES = ("open", "offline", "paused", "unauthorized")
GAUGES = {
    "pending": "Accepted operations that aren't settled, those in flight included",
    "syncing": "Operations being sent",
    "retrying": "Lanes whose head has failed and waits for its next try",
    "held": "Operations on lanes that wait for more than time",
    "dead": "Dead letters",
}
COUNTERS = {
    "delivered": "Operations that were delivered",
    "retried": "Tries that failed and count as retries",
    "dead": "Operations that became dead letters",
}
HISTOGRAMS = {
    "latency": ("accept_to_delivered_seconds", "From the acceptance of an operation to its delivery"),
    "response": ("response_seconds", "From sending a request to the upstream's answer"),
}


class SyncMetrics(Collector):
    """The journal's numbers, without a label that grows with lanes or operations."""

    def __init__(self, board: Board, dropped_events: Callable[[], int] = int) -> None:
        self._board, self._dropped_events = board, dropped_events

    def describe(self) -> list[Metric]:
        return []  # what is collected differs: nothing while nothing is known

    def collect(self) -> Iterator[Metric]:
        reading = None if self._board.stale else self._board.reading
        yield GaugeMetricFamily(f"{PREFIX}up", "Whether the store can be read", float(reading is not None))
        if reading is not None:
            yield from _gauges(reading)
            yield from _counters(reading)
            dropped = "Task events that weren't as they should be, or too many"
            yield CounterMetricFamily(f"{PREFIX}task_events_dropped", dropped, self._dropped_events())
            yield from (_histogram(name, found) for name, found in reading.histograms.items())


def _gauges(reading: Reading) -> Iterator[Metric]:
    status = reading.status
    for name, text in GAUGES.items():
        yield GaugeMetricFamily(PREFIX + name, text, getattr(status, name))
    age = "How long the oldest pending operation has waited; 0 if none waits"
    yield GaugeMetricFamily(f"{PREFIX}oldest_age_seconds", age, status.oldest_age_s or 0.0)
    gate = GaugeMetricFamily(f"{PREFIX}gate", "1 for the state that the gate is in", labels=["state"])
    for state in GATES:
        gate.add_metric([state], float(status.gate == state))
    yield gate


def _counters(reading: Reading) -> Iterator[Metric]:
    for name, text in COUNTERS.items():
        yield CounterMetricFamily(PREFIX + name, text, getattr(reading.snapshot, f"{name}_total"))


def _histogram(name: str, found: Histogram) -> Metric:
    metric, text = HISTOGRAMS[name]
    total, buckets = 0, []
    for bound, count in zip((*found.bounds_s, None), found.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound is None else str(float(bound)), total))
    return HistogramMetricFamily(PREFIX + metric, text, buckets=buckets, sum_value=found.sum_s)
