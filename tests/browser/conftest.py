"""A real browser, and a dashboard to look at; without a browser these tests are skipped."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from fluxy_sync import FluxySync
from tests.browser import chromium
from tests.browser.board import Dashboard
from tests.browser.page import SyncPage
from tests.conftest import Gateway

DESKTOP = (1280, 900)
HASTE = """
const patient = window.setTimeout;
window.setTimeout = (then, ms, ...rest) => patient(then, ms / 20, ...rest);
"""


def pytest_runtest_setup() -> None:
    """Skip all tests of this folder from one place, so that the summary has one line for them."""
    if chromium.installed() is None:
        pytest.skip(chromium.MISSING)


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests: each dashboard has an origin of its own, and with it cookies, logins and storage."""
    driver = chromium.start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Chrome]:
    """The browser with one empty window of a desktop's size."""
    chromium.resize(chrome, *DESKTOP)
    chromium.complaints(chrome)
    yield chrome
    first, *others = chrome.window_handles
    for other in others:
        chrome.switch_to.window(other)
        chrome.close()
    chrome.switch_to.window(first)
    chrome.get("about:blank")


@pytest.fixture
def sync(gateway: Gateway) -> FluxySync:
    """A producer of the gateway."""
    return FluxySync(gateway.settings())


@pytest.fixture
def dashboard(gateway: Gateway) -> Dashboard:
    """The gateway's dashboard; it isn't running yet."""
    return Dashboard(gateway)


@pytest.fixture
def page(browser: Chrome, dashboard: Dashboard) -> SyncPage:
    """The page /sync of a dashboard that runs, not opened yet."""
    dashboard.start()
    return SyncPage(browser, dashboard)


@pytest.fixture
def hasty(browser: Chrome) -> Iterator[Chrome]:
    """The same browser, in whose pages a timeout of 20 s takes one second."""
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HASTE})
    yield browser
    browser.switch_to.window(browser.window_handles[0])
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
