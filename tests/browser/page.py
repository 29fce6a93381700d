"""The page /sync as a person uses it."""

from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from tornado.web import create_signed_value

from tests.browser.board import Dashboard
from tests.conftest import wait_until

UNKNOWN = "\u2014"

_READ = """
const text = (selector) => document.querySelector(selector)?.textContent.trim() ?? null;
const rows = (selector, fields) => [...document.querySelectorAll(selector)].map((row) =>
  Object.fromEntries(fields.map((field) => [field, row.querySelector(`[data-cell="${field}"]`)?.textContent ?? ""])));
const texts = (kind) =>
  Object.fromEntries([...document.querySelectorAll(`[data-${kind}]`)].map((n) => [n.dataset[kind], n.textContent]));
const shown = (id) => { const node = document.getElementById(id); return Boolean(node && !node.hidden); };
return {
  values: texts("value"), notes: texts("note"),
  gate: text("#gate-name"), why: text("#gate-why"), since: text("#gate-since"),
  alert: shown("alert") ? text("#alert") : "",
  stale: document.getElementById("sync").hasAttribute("data-stale"),
  lanes: rows("#lanes-rows tr", ["lane", "state", "pending", "age", "retries", "next", "why"]),
  dead: rows("#dead-rows tr", ["lane", "reason", "retries", "size"]),
  plot: text("#plot-words"),
  switch: shown("pause-all") ? text("#pause-all") : null,
  toasts: [...document.querySelectorAll("#toast-container .toast-body")].map((node) => node.textContent),
};
"""
_POST = """
const [path, credentials, done] = arguments;
const options = {method: "POST", credentials, headers: {"Content-Type": "application/json"}, body: "{}"};
fetch(location.origin + path, options).then(async (answer) => done([answer.status, await answer.text()]));
"""
_WIDTH = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


class SyncPage:
    """What stands on it, and what can be clicked."""

    def __init__(self, driver: Chrome, dashboard: Dashboard) -> None:
        self.driver = driver
        self.dashboard = dashboard

    def open(self, path: str = "/sync") -> "SyncPage":
        """Sign in and open it, and wait for its first record."""
        self.driver.get(self.dashboard.url(path))
        wait_until(lambda: self.read()["gate"] != UNKNOWN, what="a first record on the page")
        return self

    def reload(self) -> None:
        self.driver.refresh()
        wait_until(lambda: self.read()["gate"] != UNKNOWN, what="a first record on the page")

    def read(self) -> dict[str, Any]:
        """All that is shown, at one moment."""
        found: dict[str, Any] = self.driver.execute_script(_READ)
        return found

    def value(self, name: str) -> str:
        """One of the counts."""
        return str(self.read()["values"][name])

    def lane(self, name: str) -> dict[str, str] | None:
        """What a lane's row shows; None if there is none."""
        return next((row for row in self.read()["lanes"] if row["lane"].startswith(name)), None)

    def wait_for(self, timeout: float = 10.0, **values: str) -> None:
        """Wait until these counts are shown."""
        wait_until(lambda: values.items() <= self.read()["values"].items(), timeout, f"the page to show {values}")

    def wait_for_toast(self, part: str) -> None:
        """Wait until somebody is told so."""
        wait_until(lambda: any(part in toast for toast in self.read()["toasts"]), what=f"a toast with {part!r}")

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        wait_until(lambda: self.driver.find_elements(By.CSS_SELECTOR, css), what=css)
        self.find(css).click()

    def switch_of(self, lane: str) -> WebElement:
        """The button that pauses or resumes a lane."""
        names = (f"Pause lane {lane}", f"Resume lane {lane}")
        for button in self.driver.find_elements(By.CSS_SELECTOR, '#lanes-rows [data-act="switch"]'):
            if button.get_attribute("aria-label") in names:
                return button
        raise AssertionError(f"lane {lane} has no button")

    def answer(self, button: str) -> None:
        """Click a button of the dialog that asks: "yes" or "no"."""
        wait_until(lambda: self.find("#confirm").is_displayed(), what="the dialog that asks")
        self.find(f'#confirm button[value="{button}"]').click()

    def overflow(self) -> int:
        """By how many pixels it is wider than its window."""
        return int(self.driver.execute_script(_WIDTH))


def open_by_cookie(driver: Chrome, dashboard: Dashboard, person: str) -> SyncPage:
    """The page as somebody sees it who has signed in by OAuth: a cookie says who that is."""
    secret = "a-cookie-secret"
    domain = person.partition("@")[2]
    dashboard.start(FLOWER_BASIC_AUTH="", FLOWER_AUTH=f".*@{domain}", FLOWER_COOKIE_SECRET=secret)
    driver.get(f"{dashboard.origin}/sync/indicator.js")
    driver.add_cookie({"name": "user", "value": create_signed_value(secret, "user", person).decode()})
    driver.get(f"{dashboard.origin}/sync")
    return SyncPage(driver, dashboard)


def post(driver: Chrome, path: str, credentials: str = "same-origin") -> tuple[int, str]:
    """Send an empty action from the page that is open, as a script of that page could: the status and text."""
    status, text = driver.execute_async_script(_POST, path, credentials)
    return status, text
