"""A headless Chromium, as Debian packages it, driven by its own chromedriver; nothing is fetched from elsewhere."""

import shutil
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the machines that run this are root's own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",  # Bootstrap scrolls smoothly: a click would miss what still moves
)
MISSING = "no browser here: install the Debian packages chromium and chromium-driver"
PAGE_PATIENCE_S = 20


def installed() -> tuple[str, str] | None:
    """Where the browser and its driver are; None unless both are there."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def start(profile: Path) -> Chrome:
    """Start one with a fresh profile."""
    found = installed()
    if found is None:
        raise FileNotFoundError(MISSING)
    options = ChromeOptions()
    options.binary_location = found[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(found[1]))
    driver.set_page_load_timeout(PAGE_PATIENCE_S)
    driver.set_script_timeout(PAGE_PATIENCE_S)
    return driver


def resize(driver: Chrome, width: int, height: int, scale: float = 1.0) -> None:
    """Give pages a window of that size; a real window can't be as narrow as a phone."""
    size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def complaints(driver: Chrome) -> list[str]:
    """What the browser's console has said since it was last asked, but for answers that a test provokes."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["source"] != "network"]
