"""<fluxy-sync-indicator> on an application's page, fed by a real gateway through the application's own route."""

import os
import signal
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from fluxy_sync import FluxySync
from tests.browser import chromium
from tests.browser.application import Application, read
from tests.browser.board import Dashboard
from tests.conftest import Gateway, wait_until
from tests.stuck import queue
from tests.upstream import Upstream


@pytest.fixture
def application(browser: Chrome, dashboard: Dashboard) -> Iterator[Application]:
    """An application's page with one indicator, open in the browser; the dashboard behind it runs."""
    dashboard.start()
    with Application(dashboard) as running:
        browser.get(running.url)
        yield running


def wait_for(browser: Chrome, state: str, text: str, timeout: float = 20.0) -> None:
    """Wait until the indicator shows that."""
    wait_until(
        lambda: (read(browser)["state"], read(browser)["text"]) == (state, text), timeout, f"{state} with {text!r}"
    )


def test_from_offline_to_the_check_mark(
    browser: Chrome, application: Application, gateway: Gateway, upstream: Upstream, sync: FluxySync
) -> None:
    """Queued while offline: one pending update, after a reload too; upstream back: syncing, then the check mark."""
    upstream.script("/posts", ["stall"])
    gateway.start("worker", "beat")
    wait_for(browser, "offline", "Offline")
    sync.queue("POST", "/posts", body={"title": "hi"})
    wait_for(browser, "offline", "Offline, 1 pending updates")
    browser.refresh()
    wait_for(browser, "offline", "Offline, 1 pending updates")
    upstream.start()
    wait_for(browser, "syncing", "Syncing 1 items...")
    wait_until(upstream.requests, what="the request to arrive")
    upstream.release(201)
    wait_for(browser, "synced", "All synced")
    assert (read(browser)["role"], read(browser)["spoken"]) == ("status", "All synced")
    text = browser.find_element(By.ID, "one").shadow_root.find_element(By.CSS_SELECTOR, '[part="text"]')
    assert text.size["width"] <= 1, "the check mark stands alone; its words are for screen readers"
    assert chromium.complaints(browser) == []


def test_paused_pending_and_unauthorized(
    browser: Chrome, application: Application, gateway: Gateway, upstream: Upstream, sync: FluxySync
) -> None:
    """Each state of the gate has its own words, and so has an operation that waits behind an open gate."""
    upstream.start()
    gateway.start("worker", "beat")
    wait_for(browser, "synced", "All synced")
    sync.pause("photos")
    queue(sync, "photos")
    wait_for(browser, "pending", "1 pending updates")
    sync.pause()
    wait_for(browser, "paused", "Paused, 1 pending updates")
    sync.resume()
    wait_for(browser, "pending", "1 pending updates")
    upstream.default(401)
    queue(sync, "posts")
    wait_for(browser, "unauthorized", "Not authorized, 2 pending updates")


def test_it_works_under_a_strict_policy(browser: Chrome, application: Application, sync: FluxySync) -> None:
    """Only its own origin and trusted types: nothing is refused, and it looks as it should."""
    queue(sync)
    wait_for(browser, "pending", "1 pending updates")
    assert read(browser)["iconWidth"] == "16px"
    display = "return getComputedStyle(document.getElementById('one')).display"
    assert browser.execute_script(display) == "inline-block"
    assert chromium.complaints(browser) == []


def test_a_dashboard_that_says_nothing_makes_it_unknown(
    hasty: Chrome, application: Application, dashboard: Dashboard, sync: FluxySync
) -> None:
    """A frozen dashboard can't vouch for its number: after a while it isn't shown; when it speaks again, it is."""
    queue(sync)
    wait_for(hasty, "pending", "1 pending updates")
    os.kill(dashboard.pid, signal.SIGSTOP)
    try:
        wait_for(hasty, "stale", "Sync status unknown")
        assert read(hasty)["record"]["stale"] is True
    finally:
        os.kill(dashboard.pid, signal.SIGCONT)
    wait_for(hasty, "pending", "1 pending updates")


def test_a_dashboard_that_ends_and_comes_back(
    browser: Chrome, application: Application, dashboard: Dashboard, sync: FluxySync
) -> None:
    """It connects again by itself, and takes the word of the new process."""
    queue(sync)
    wait_for(browser, "pending", "1 pending updates")
    dashboard.stop()
    wait_until(lambda: not read(browser)["connected"], what="the loss to be noticed")
    sync.clear_queue()
    dashboard.start()
    wait_for(browser, "synced", "All synced")
