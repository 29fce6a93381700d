"""The page /sync shows what the store holds, follows it, and says so when it can't."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.vault import new_key
from tests.browser import chromium
from tests.browser.board import Dashboard
from tests.browser.page import UNKNOWN, SyncPage, open_by_cookie, post
from tests.conftest import Gateway, wait_until
from tests.stuck import MARKER, die, fail, queue

HTML = "<img src=x onerror=alert(1)><b>bold</b>"
PATHS = ("/api/sync", "/api/sync/events", "/api/sync/lanes", "/api/sync/dead", "/api/sync/history")


def test_signed_out_there_is_no_data_and_no_action(browser: Chrome, dashboard: Dashboard, sync: FluxySync) -> None:
    """Without the password the browser shows nothing of the queue, and what it sends changes nothing."""
    queue(sync, "orders-of-ann")
    dashboard.start()
    browser.get(f"{dashboard.origin}/sync")
    assert "orders-of-ann" not in browser.page_source
    assert browser.find_elements(By.TAG_NAME, "fluxy-sync-indicator") == []
    browser.get(f"{dashboard.origin}/sync/indicator.js")  # open to all, and of the dashboard's origin
    assert post(browser, "/api/sync/pause", "omit")[0] == 401
    assert sync.status().gate != "paused"
    for path in PATHS:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(dashboard.origin + path, timeout=10)
        assert refused.value.code == 401
        assert b"orders-of-ann" not in refused.value.read()


def test_it_shows_the_numbers_of_the_store_and_follows_them(page: SyncPage, sync: FluxySync) -> None:
    """Pending, retrying, held and dead are those of the store, at once and after each change, without a payload."""
    fail(sync, "meters", queue(sync, "meters"))
    queue(sync, "meters")
    die(sync, "orders")
    queue(sync, "photos")
    sync.pause("photos")
    page.open()
    page.wait_for(pending="3", retrying="1", held="1", dead="1", syncing="0")
    wait_until(lambda: page.lane("meters"), what="the lane's row")
    meters = page.lane("meters")
    assert meters is not None
    assert (meters["state"], meters["pending"], meters["retries"]) == ("retrying", "2", "1")
    assert "503 Service Unavailable" in meters["why"]
    assert meters["next"].startswith("in ")
    photos = page.lane("photos")
    assert photos is not None
    assert (photos["state"], photos["why"]) == ("held", "Someone paused it")
    assert [letter["reason"] for letter in page.read()["dead"]] == ["The upstream answered 422 Unprocessable Content"]
    assert page.read()["notes"]["held"] == "lanes: 1 paused"
    queue(sync, "orders")
    die(sync, "more")
    page.wait_for(pending="4", dead="2")
    wait_until(lambda: page.lane("orders") and len(page.read()["dead"]) == 2, what="the lists to follow")
    sync.clear_queue()
    page.wait_for(pending="0", retrying="0", held="0", oldest="none")
    (empty,) = wait_until(
        lambda: (lanes := page.read()["lanes"]) and len(lanes) == 1 and lanes, what="only the paused lane"
    )
    assert (empty["lane"], empty["pending"], empty["age"], empty["why"]) == ("photos", "0", "—", "Someone paused it")
    sync.resume("photos")
    wait_until(lambda: page.read()["lanes"] == [], what="an empty list of lanes")
    assert MARKER not in page.driver.page_source
    assert chromium.complaints(page.driver) == []


def test_it_says_why_and_since_when_the_gate_is_closed(page: SyncPage, sync: FluxySync) -> None:
    """A closed gate is told in words, with its reason and its time; so is its opening."""
    sync.engine.journal.close_gate("offline", "dns")
    page.open()
    wait_until(lambda: page.read()["gate"] == "Offline", what="the gate")
    assert page.read()["why"].startswith("The upstream's name can't be resolved.")
    assert page.read()["since"].startswith("Since ")
    sync.pause()
    wait_until(lambda: page.read()["gate"] == "Paused", what="the pause")
    assert "(python)" in page.read()["why"]
    assert page.read()["switch"] == "Resume everything"
    sync.resume()
    sync.engine.journal.open_gate("offline")
    wait_until(lambda: page.read()["gate"] == "Open", what="the opening")


def test_names_of_lanes_stay_text(page: SyncPage, sync: FluxySync) -> None:
    """A lane whose name is HTML is shown letter by letter, in both lists and in what is said about it."""
    die(sync, HTML)
    queue(sync, HTML)
    page.open()
    wait_until(lambda: page.lane(HTML) and page.read()["dead"], what="both lists")
    assert page.read()["dead"][0]["lane"] == HTML
    page.switch_of(HTML).click()
    page.wait_for_toast(f"Lane {HTML} is paused")
    assert page.driver.find_elements(By.CSS_SELECTOR, "#sync img, #sync b, .toast img, .toast b") == []
    assert chromium.complaints(page.driver) == []


def test_it_fits_a_phone(page: SyncPage, sync: FluxySync) -> None:
    """At 360 pixels nothing reaches over the edge, whatever the lanes are called, and each control can be clicked."""
    for lane in ("x" * 200, "ein sehr langer Name " * 9, None):
        fail(sync, lane or "meters", queue(sync, lane or "meters"))
        die(sync, f"{lane}"[:199] + "+")
    queue(sync, None)
    chromium.resize(page.driver, 360, 780)
    page.open()
    wait_until(lambda: len(page.read()["lanes"]) == 4 and len(page.read()["dead"]) == 3, what="both lists")
    assert page.overflow() == 0
    page.switch_of("meters").click()
    wait_until(lambda: sync.status().held_for == {"paused": 1}, what="the lane to be paused")
    page.click("#dead-rows input")
    wait_until(lambda: page.find("#dead-selected").text == "1 selected")
    assert page.overflow() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_readable_in_both_themes(page: SyncPage, sync: FluxySync, theme: str) -> None:
    """It wears Flower's theme, and each of its texts has the contrast that WCAG asks for (4.5 to 1)."""
    die(sync, "orders")
    fail(sync, "meters", queue(sync, "meters"))
    queue(sync, "photos")
    sync.pause("photos")
    page.open()
    page.driver.execute_script("localStorage.setItem('flower-theme', arguments[0])", theme)
    page.reload()
    wait_until(lambda: len(page.read()["lanes"]) == 2 and page.read()["dead"], what="both lists")
    assert page.find("html").get_attribute("data-bs-theme") == theme
    poor = page.driver.execute_script((Path(__file__).parent / "contrast.js").read_text())
    assert poor == []


def test_a_list_that_changes_keeps_the_focus(page: SyncPage, sync: FluxySync) -> None:
    """Whoever works with the keyboard stays on his button, and in the list when his row goes."""
    for lane in ("first", "mine", "last"):
        queue(sync, lane)
    page.open()
    wait_until(lambda: len(page.read()["lanes"]) == 3, what="the lanes")
    focus = "return document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    page.driver.execute_script("arguments[0].focus()", page.switch_of("mine"))
    sync.clear_queue(lane="first")
    queue(sync, "new")
    wait_until(lambda: [row["lane"] for row in page.read()["lanes"]] == ["mine", "last", "new"], what="another list")
    assert page.driver.execute_script(focus) == "Pause lane mine"
    sync.clear_queue(lane="mine")
    wait_until(lambda: page.driver.execute_script(focus) == "Pause lane last", what="the next row's button")
    sync.clear_queue()
    wait_until(lambda: page.driver.execute_script(focus) == "lanes-title", what="the heading")


def test_a_reload_and_a_restart_keep_the_plot(page: SyncPage, sync: FluxySync) -> None:
    """The last hour lies in the store: neither another page nor another dashboard begins at nothing."""
    for _ in range(7):
        queue(sync)
    sync.engine.journal.tick("beat", "beat")  # which a running gateway does each second
    page.open()
    wait_until(lambda: page.read()["plot"].startswith("At most 7 pending operations"), what="the plot")
    sync.clear_queue()
    page.wait_for(pending="0")
    page.reload()
    wait_until(lambda: page.read()["plot"].startswith("At most 7 pending operations"), what="the plot after a reload")
    page.dashboard.stop()
    page.dashboard.start()
    page.open()
    wait_until(lambda: page.read()["plot"].startswith("At most 7 pending operations"), what="the plot after a restart")
    assert page.driver.execute_script("return document.querySelectorAll('#plot-table tr').length") >= 1


def test_a_dashboard_that_comes_back_is_live_again(page: SyncPage, sync: FluxySync) -> None:
    """Another process answers with another boot: its numbers count, though they are fewer."""
    for _ in range(3):
        queue(sync)
    page.open()
    page.wait_for(pending="3")
    page.dashboard.stop()
    sync.clear_queue()
    queue(sync)
    page.dashboard.start()
    page.wait_for(20.0, pending="1")


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that a test may stop."""
    with EmbeddedStore(tmp_path / "own") as running:
        running.wait_ready()
        yield running


def test_a_store_that_is_gone_is_told_and_so_is_its_return(
    browser: Chrome, own_store: EmbeddedStore, tmp_path: Path
) -> None:
    """The last known numbers stay and are marked; nothing becomes 0; with the store back they are live again."""
    settings = {"REDIS_URL": own_store.url, "KEYS": new_key(), "UPSTREAM": "http://127.0.0.1:9", "NAMESPACE": "own"}
    gateway = Gateway(settings, tmp_path)
    try:
        dashboard = Dashboard(gateway)
        dashboard.start()
        queue(FluxySync(gateway.settings()))
        page = SyncPage(browser, dashboard).open()
        page.wait_for(pending="1")
        own_store.stop()
        wait_until(lambda: page.read()["stale"], what="the page to be stale")
        assert page.read()["alert"].startswith("The store can't be read. What you see was last known at ")
        assert page.value("pending") == "1"
        page.reload()
        wait_until(lambda: page.read()["stale"], what="a new page to be stale")
        assert page.value("pending") == "1"
        dashboard.stop()
        dashboard.start()
        page.driver.get(dashboard.url())
        wait_until(lambda: page.read()["alert"] == "The store can't be read. Nothing is known yet.", what="the alert")
        assert set(page.read()["values"].values()) == {UNKNOWN}
        own_store.start()
        own_store.wait_ready()
        page.wait_for(20.0, pending="1")
        assert (page.read()["alert"], page.read()["stale"]) == ("", False)
    finally:
        gateway.close()


def test_long_lists_come_in_parts(page: SyncPage, sync: FluxySync) -> None:
    """The first of many are shown, with the number of all, and more when asked for."""
    for n in range(30):
        queue(sync, f"lane-{n}")
        die(sync, f"dead-{n}")
    page.open()
    wait_until(lambda: (len(page.read()["lanes"]), len(page.read()["dead"])) == (25, 25), what="the first of each")
    assert (page.find("#lanes-count").text, page.find("#lanes-more span").text) == ("30", "5 more lanes.")
    assert (page.find("#dead-count").text, page.find("#dead-more span").text) == ("30", "The first 25 of 30.")
    page.click("#lanes-more button")
    page.click("#dead-more button")
    wait_until(lambda: (len(page.read()["lanes"]), len(page.read()["dead"])) == (30, 30), what="all of each")
    assert not page.find("#lanes-more").is_displayed()


def test_below_a_prefix_it_is_the_same(browser: Chrome, dashboard: Dashboard, sync: FluxySync) -> None:
    """With Flower's url_prefix its files, its stream, its lists and its actions are found below that."""
    queue(sync, "mine")
    dashboard.start(FLOWER_URL_PREFIX="ops/flower")
    page = SyncPage(browser, dashboard).open("/ops/flower/sync")
    page.wait_for(pending="1")
    wait_until(lambda: page.lane("mine"), what="the lane")
    page.switch_of("mine").click()
    page.wait_for_toast("Lane mine is paused.")
    assert chromium.complaints(browser) == []


def test_who_is_signed_out_meanwhile_is_told(browser: Chrome, dashboard: Dashboard, sync: FluxySync) -> None:
    """When the sign-in no longer counts, the numbers don't either, and the page says what to do."""
    queue(sync)
    page = open_by_cookie(browser, dashboard, "ann@example.com")
    page.wait_for(pending="1")
    browser.delete_cookie("user")
    dashboard.stop()
    dashboard.start()
    wait_until(lambda: page.read()["stale"], 30, what="the page to be stale")
    assert page.read()["alert"] == "You are signed out. Reload the page to sign in again."


def test_read_only_shows_all_and_offers_nothing(browser: Chrome, dashboard: Dashboard, sync: FluxySync) -> None:
    """In Flower's read-only mode there is no button to press, and the API refuses."""
    die(sync, "orders")
    queue(sync, "meters")
    dashboard.start(FLOWER_READ_ONLY="1")
    page = SyncPage(browser, dashboard).open()
    wait_until(lambda: page.read()["lanes"] and page.read()["dead"], what="both lists")
    assert page.driver.find_elements(By.CSS_SELECTOR, "#sync :is(input, select, dialog, [data-act]), #pause-all") == []
    status, text = post(browser, "/api/sync/pause")
    assert (status, "read-only" in text) == (403, True)
    assert sync.status().gate != "paused"
