"""Live values beside a real worker and the real dashboard: what they show is what happens."""

import time
from collections.abc import Iterator

import pytest
from reaktiv import Effect

from fluxy_sync import FluxySync
from tests.conftest import Gateway, wait_until
from tests.dashboard import PASSWORD, USER, Dashboard
from tests.upstream import Upstream

SEEN_S = 0.3  # the promise
SLACK_S = 0.3  # what a busy machine may add


class Indicator:
    """The seed's reactive user interface, in Python: one effect that reads two values."""

    def __init__(self, sync: FluxySync) -> None:
        self._sync = sync
        self.shown: list[str] = []
        self.at: list[float] = []
        self.effect = Effect(self.show)

    def show(self) -> None:
        if self._sync.is_syncing.value:
            text = f"Syncing {self._sync.pending_count.value} items..."
        elif self._sync.pending_count.value > 0:
            text = f"{self._sync.pending_count.value} pending updates"
        else:
            text = "\u2713"
        self.at.append(time.monotonic())
        self.shown.append(text)


@pytest.fixture
def dashboard(gateway: Gateway) -> Iterator[Dashboard]:
    """The real dashboard of this gateway; it isn't running yet."""
    made = Dashboard({name: value for name, value in gateway.environment.items() if "KEYS" not in name}, gateway.folder)
    yield made
    made.end()


def test_the_seeds_indicator(gateway: Gateway, upstream: Upstream, sync: FluxySync) -> None:
    """Pending while the upstream is down; syncing, and ever fewer, when it is up; then the check mark."""
    gateway.start("worker", "beat")
    indicator = Indicator(sync)
    assert indicator.shown == ["\u2713"]
    for count in range(1, 4):
        sync.queue("POST", "/a")
        wait_until(lambda last=count: indicator.shown[-1] == f"{last} pending updates", 10)
    upstream.default({"status": 201, "delay_s": 0.3})
    before = len(indicator.shown)
    upstream.start()
    wait_until(lambda: indicator.shown[-1] == "\u2713", 30)
    syncing = [text for text in indicator.shown[before:] if text.startswith("Syncing")]
    assert syncing == [f"Syncing {count} items..." for count in (3, 2, 1)]
    assert (sync.status().pending, sync.live.status.value.delivered_total) == (0, 3)
    indicator.effect.dispose()
    sync.close()


def test_the_real_dashboard_is_followed(gateway: Gateway, dashboard: Dashboard) -> None:
    """A change is seen through it within the promise; when it is killed the store stands in, and steps back later."""
    dashboard.start()
    url = dashboard.url.replace("://", f"://{USER}:{PASSWORD}@")
    sync = FluxySync(gateway.settings(dashboard_url=url))
    indicator = Indicator(sync)
    wait_until(lambda: sync.live.source == "dashboard" and not sync.live.trouble, 10)
    for count in range(1, 4):
        began = time.monotonic()
        sync.queue("POST", "/a")
        wait_until(lambda last=count: indicator.shown[-1] == f"{last} pending updates", 10)
        assert indicator.at[-1] - began < SEEN_S + SLACK_S
    dashboard.end(9)
    wait_until(lambda: sync.live.source == "store", 10)
    sync.queue("POST", "/a")
    wait_until(lambda: indicator.shown[-1] == "4 pending updates", 10)
    dashboard.start()
    wait_until(lambda: sync.live.source == "dashboard", 15)
    sync.queue("POST", "/a")
    wait_until(lambda: indicator.shown[-1] == "5 pending updates", 10)
    assert indicator.shown == ["\u2713", *(f"{count} pending updates" for count in range(1, 6))]
    assert sync.live.status.value.to_dict() | {"oldest_age_s": 0} == sync.status().to_dict() | {"oldest_age_s": 0}
    indicator.effect.dispose()
    sync.close()
