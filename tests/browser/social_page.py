"""The social example's page, seen and used through a browser."""

from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.conftest import wait_until
from tests.social import Social

_READ = """
const indicator = document.querySelector("fluxy-sync-indicator");
return {
  indicator: indicator.shadowRoot?.querySelector("[part=text]").textContent ?? "",
  sync: indicator.getAttribute("state"),
  said: document.getElementById("said").textContent,
  error: document.getElementById("error").textContent,
  draft: document.getElementById("content").value,
  server: document.getElementById("upstream-label").innerText,
  posts: [...document.querySelectorAll("#posts > li")].map((post) => ({
    id: post.id, state: post.dataset.state, serverId: post.dataset.serverId, text: post.innerText,
    content: post.querySelector(".content, textarea")?.value ?? post.querySelector(".content, textarea").textContent,
  })),
};
"""


class SocialPage:
    """What stands on it, and what can be clicked."""

    def __init__(self, driver: Chrome, social: Social) -> None:
        self.driver = driver
        self.social = social

    def open(self) -> "SocialPage":
        self.driver.get(self.social.url)
        wait_until(lambda: self.read()["sync"] not in (None, "connecting"), what="a first record on the page")
        return self

    def read(self) -> dict[str, Any]:
        """All that is shown, at one moment."""
        found: dict[str, Any] = self.driver.execute_script(_READ)
        return found

    def states(self) -> list[str]:
        """The posts' states, the oldest first."""
        return [post["state"] for post in reversed(self.read()["posts"])]

    def wait_for(self, timeout: float = 20.0, **shown: Any) -> dict[str, Any]:
        """What is shown, once it has these values."""
        wait_until(lambda: shown.items() <= self.read().items(), timeout, f"the page to show {shown}: {self.read()}")
        return self.read()

    def wait_states(self, *states: str) -> dict[str, Any]:
        wait_until(lambda: tuple(self.states()) == states, 30, f"posts to be {states}")
        return self.read()

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def write(self, text: str) -> None:
        """Type a post and click the button."""
        self.find("#content").send_keys(text)
        self.find("#composer button").click()
        wait_until(lambda: self.find("#composer button").get_attribute("aria-busy") != "true", what="an answer")

    def turn(self, server: str) -> None:
        """Click the switch."""
        self.find("#upstream button").click()
        words = {"up": "Server takes posts", "down": "Server refuses connections"}
        self.wait_for(server=words[server])

    def prefer(self, theme: str) -> None:
        """As somebody who has chosen a light or a dark theme."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def mark(self) -> None:
        """Leave a mark that a reload takes away."""
        self.driver.execute_script("window.mark = true")

    @property
    def is_marked(self) -> bool:
        return bool(self.driver.execute_script("return window.mark === true"))
