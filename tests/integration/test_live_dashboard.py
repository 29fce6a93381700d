"""Live values from the dashboard's stream: followed while it is there, replaced by the store while it isn't."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, StorageUnavailable, event_stream
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.conftest import wait_until
from tests.dashboard_server import DashboardServer
from tests.http_server import Authority

SEEN_S = 0.5  # the promise is 0.3: a busy machine may add something


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fluxy-live")]


@pytest.fixture
def dashboard(namespace: str) -> Iterator[DashboardServer]:
    with DashboardServer(namespace) as server:
        yield server


@pytest.fixture
def sync(store_url: str, namespace: str, dashboard: DashboardServer) -> Iterator[FluxySync]:
    """With a dashboard and a store."""
    made = make(redis_url=store_url, namespace=namespace, dashboard_url=dashboard.url)
    yield made
    made.close()
    wait_until(lambda: threads() == [], 5)


@pytest.fixture
def viewer(namespace: str, dashboard: DashboardServer, tmp_path: Path) -> Iterator[FluxySync]:
    """With a dashboard, and a store that isn't there."""
    made = make(redis_url=f"unix://{tmp_path}/no.sock", namespace=namespace, dashboard_url=dashboard.url)
    yield made
    made.close()


def make(**settings: Any) -> FluxySync:
    return FluxySync(Settings(keys=new_key(), upstream="http://127.0.0.1:9", **settings))


def followed(sync: FluxySync, dashboard: DashboardServer) -> FluxySync:
    """Wait until its stream is followed."""
    _ = sync.pending_count.value
    wait_until(lambda: dashboard.streams and sync.live.source == "dashboard", 10)
    return sync


def test_the_stream_is_followed(sync: FluxySync, dashboard: DashboardServer) -> None:
    """With user and password from the URL, unquoted; a change is seen at once, and an equal record is no change."""
    dashboard.show(pending=40)
    told: list[tuple[int, float]] = []
    assert followed(sync, dashboard).pending_count.value == 40
    sync.pending_count.subscribe(lambda count: told.append((count, time.monotonic())))
    began = time.monotonic()
    dashboard.show(pending=41)
    wait_until(lambda: told, 5)
    assert (told[0][0], told[0][1] - began < SEEN_S) == (41, True)
    dashboard.show(dead=1)
    wait_until(lambda: sync.live.status.value.dead == 1, 5)
    assert [count for count, _ in told] == [41]
    assert (sync.live.namespace, sync.live.trouble, dashboard.streams) == (dashboard.namespace, "", 1)


def test_the_first_value_is_the_dashboards(viewer: FluxySync, dashboard: DashboardServer) -> None:
    """Asked for once, before the stream is open."""
    dashboard.show(pending=7)
    assert viewer.pending_count.value == 7
    assert "/base/api/sync" in dashboard.asked


def test_the_store_stands_in_and_steps_back(sync: FluxySync, dashboard: DashboardServer) -> None:
    """While the dashboard is away nothing is stale; when it is back it is followed again."""
    dashboard.show(pending=40, rev=100)
    followed(sync, dashboard)
    stale: list[bool] = []
    sync.live.status.subscribe(lambda status: stale.append(status.stale))
    dashboard.stop()
    wait_until(lambda: sync.pending_count.value == 0, 5)
    sync.queue("POST", "/a")
    wait_until(lambda: sync.pending_count.value == 1, 5)
    assert sync.live.source == "store"
    wait_until(lambda: "can't be reached" in sync.live.trouble, 5)
    dashboard.start()
    wait_until(lambda: sync.pending_count.value == 40, 10)
    assert (sync.live.source, sync.live.trouble) == ("dashboard", "")
    assert True not in stale


def test_a_stream_that_breaks_is_opened_again(viewer: FluxySync, dashboard: DashboardServer) -> None:
    """Cut in the middle, again and again: it ends up with the newest record, and knocks ever less often."""
    followed(viewer, dashboard)
    for count in range(1, 4):
        dashboard.cut()
        dashboard.show(pending=count)
        wait_until(lambda last=count: viewer.pending_count.value == last and not viewer.live.stale_since, 10)
    assert dashboard.asked.count("/base/api/sync/events") < 8


def test_with_neither_the_last_known_values_are_stale(viewer: FluxySync, dashboard: DashboardServer) -> None:
    """No store either: what was shown stays, marked; until the dashboard is back."""
    dashboard.show(pending=40)
    followed(viewer, dashboard)
    dashboard.stop()
    wait_until(lambda: viewer.live.status.value.stale, 5)
    assert viewer.pending_count.value == 40
    assert viewer.live.stale_since is not None
    dashboard.start()
    wait_until(lambda: not viewer.live.status.value.stale, 10)


def test_what_neither_ever_told_is_no_number(viewer: FluxySync, dashboard: DashboardServer) -> None:
    """The error names both; the password isn't in it."""
    dashboard.stop()
    with pytest.raises(StorageUnavailable, match=r"the dashboard at .* can't be reached; .*store can't be") as caught:
        _ = viewer.pending_count.value
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)


def test_a_dashboard_that_hangs_holds_nothing_up(sync: FluxySync, dashboard: DashboardServer) -> None:
    """It takes the connection and says nothing: the store is watched meanwhile, as soon as it is without."""
    dashboard.hangs = True
    assert sync.pending_count.value == 0
    seen: list[tuple[int, float]] = []
    sync.pending_count.subscribe(lambda count: seen.append((count, time.monotonic())))
    for count in range(1, 4):
        began = time.monotonic()
        sync.queue("POST", "/a")
        wait_until(lambda last=count: seen and seen[-1][0] == last, 5)
        assert seen[-1][1] - began < SEEN_S
    assert sync.live.source == "store"


def test_a_dashboard_that_falls_silent_is_left(
    sync: FluxySync, dashboard: DashboardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pings don't come: the stream is lost, though nobody closed it."""
    monkeypatch.setattr(event_stream, "SILENCE_S", 0.5)
    dashboard.ping_s = 30.0
    dashboard.show(pending=40)
    followed(sync, dashboard)
    dashboard.hangs = True
    wait_until(lambda: sync.live.source == "store" and sync.pending_count.value == 0, 10)
    assert "was lost" in sync.live.trouble or "can't be reached" in sync.live.trouble


def test_wrong_credentials_are_told(sync: FluxySync, dashboard: DashboardServer) -> None:
    """The store stands in, and the reason says what to look at."""
    dashboard.authorization = "Basic somebody-else"
    assert sync.pending_count.value == 0
    wait_until(lambda: "answered 401 Unauthorized; see FLUXY_SYNC_DASHBOARD_URL" in sync.live.trouble, 5)
    assert sync.live.source == "store"


def test_another_server_is_no_dashboard(sync: FluxySync, dashboard: DashboardServer, store_url: str) -> None:
    """A path that doesn't exist there: the store stands in."""
    wrong = make(
        redis_url=store_url, namespace=dashboard.namespace, dashboard_url=dashboard.url.removesuffix("/base") + "/x/"
    )
    assert wrong.pending_count.value == 0
    wait_until(lambda: "answered 404" in wrong.live.trouble, 5)
    wrong.close()


def test_a_late_record_is_left_out(viewer: FluxySync, dashboard: DashboardServer) -> None:
    """An older one of the same boot never replaces a newer one; another boot is believed, whatever its rev."""
    dashboard.show(pending=5, rev=50)
    followed(viewer, dashboard)
    wait_until(lambda: viewer.pending_count.value == 5, 5)
    dashboard.show(pending=4, rev=49)
    dashboard.show(pending=6, rev=51)
    wait_until(lambda: viewer.pending_count.value == 6, 5)
    dashboard.show(pending=1, rev=1, boot="boot-2")
    wait_until(lambda: viewer.pending_count.value == 1, 5)


def test_what_the_dashboard_calls_stale_is_stale(sync: FluxySync, dashboard: DashboardServer) -> None:
    """It can't read its store: its last values stay, marked, until it can."""
    dashboard.show(pending=40)
    followed(sync, dashboard)
    dashboard.show(stale=True, rev=dashboard.status.rev)
    wait_until(lambda: sync.live.status.value.stale, 5)
    assert sync.pending_count.value == 40
    dashboard.show(stale=False)
    wait_until(lambda: not sync.live.status.value.stale, 5)


def test_a_dashboard_that_knows_nothing_is_not_zero(viewer: FluxySync, dashboard: DashboardServer) -> None:
    """It was started without a store: no number is shown before it has read one."""
    dashboard.knows = False
    with pytest.raises(StorageUnavailable):
        _ = viewer.pending_count.value
    dashboard.knows = True
    dashboard.show(pending=3)
    wait_until(lambda: viewer.live._all_signals().pending.get() == 3, 10)
    assert viewer.pending_count.value == 3


def test_the_store_of_another_queue_never_stands_in(
    store_url: str, namespace: str, dashboard: DashboardServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the dashboard shows another namespace, its last values get stale; a warning says what to set."""
    dashboard.show(pending=40)
    dashboard.namespace = "elsewhere"
    sync = followed(make(redis_url=store_url, namespace=namespace, dashboard_url=dashboard.url), dashboard)
    assert sync.live.namespace == "elsewhere"
    assert "FLUXY_SYNC_NAMESPACE" in caplog.text
    dashboard.stop()
    wait_until(lambda: sync.live.status.value.stale, 5)
    assert sync.pending_count.value == 40
    sync.close()


def test_over_tls(store_url: str, namespace: str, tmp_path: Path) -> None:
    """With the authorities that FLUXY_SYNC_CA_BUNDLE names; a stream that waits is ended at once."""
    authority = Authority(tmp_path)
    with DashboardServer(namespace, tls=authority.serving()) as dashboard:
        dashboard.ping_s = 30.0
        dashboard.show(pending=40)
        settings = {"redis_url": store_url, "namespace": namespace, "dashboard_url": dashboard.url}
        strange = make(**settings)
        assert strange.pending_count.value == 0
        strange.close()
        sync = followed(make(**settings, ca_bundle=authority.bundle), dashboard)
        assert sync.pending_count.value == 40
        began = time.monotonic()
        sync.close()
        assert time.monotonic() - began < 0.5
        wait_until(lambda: threads() == [], 5)


def test_a_stream_that_waits_is_ended_at_once(sync: FluxySync, dashboard: DashboardServer) -> None:
    """close() doesn't wait for the next event."""
    dashboard.ping_s = 30.0
    followed(sync, dashboard)
    began = time.monotonic()
    sync.close()
    assert time.monotonic() - began < 0.5
    assert threads() == []
