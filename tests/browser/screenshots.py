"""Makes the pictures of /sync in docs/images: ``make screenshots``, or ``python -m tests.browser.screenshots``."""

import base64
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from selenium.webdriver import Chrome

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.vault import new_key
from tests.browser import chromium
from tests.browser.board import Dashboard
from tests.browser.lively import keep_delivering, make_lively
from tests.browser.page import SyncPage
from tests.conftest import ROOT, Gateway, wait_until
from tests.stuck import claim

IMAGES = ROOT / "docs" / "images"
COLOURS = 256  # a third of the bytes, and no difference to the eye
UPSTREAM = "http://127.0.0.1:9"
HEIGHT = 900
CLOSE_BELOW = 24  # pixels under the last card
_BOTTOM = "return Math.round(document.getElementById(arguments[0]).getBoundingClientRect().bottom + scrollY)"


class Picture(NamedTuple):
    """What one shows: ``offline_s`` is since when the link is down, 0 for up; ``until`` is its last element."""

    name: str
    theme: str
    width: int
    offline_s: int
    until: str


PICTURES = (
    Picture("sync-light", "light", 1240, 0, "dead-rows"),
    Picture("sync-dark", "dark", 1240, 250, "dead-rows"),
    Picture("sync-phone", "light", 360, 0, "lanes-rows"),
)


def main() -> None:
    """Make them all."""
    if chromium.installed() is None:
        sys.exit(chromium.MISSING)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, closing_browser(Path(folder) / "profile") as driver:
        for picture in PICTURES:
            take(driver, picture, Path(folder) / picture.name)


@contextmanager
def closing_browser(profile: Path) -> Iterator[Chrome]:
    """A browser that is ended afterwards."""
    driver = chromium.start(profile)
    try:
        yield driver
    finally:
        driver.quit()


def take(driver: Chrome, picture: Picture, folder: Path) -> None:
    """One picture, of a gateway of its own."""
    folder.mkdir()
    with EmbeddedStore(folder / "store") as store:
        store.wait_ready()
        settings = {"REDIS_URL": store.url, "KEYS": new_key(), "UPSTREAM": UPSTREAM, "DATA_DIR": str(folder / "data")}
        with closing(Gateway(settings, folder)) as gateway:
            sync = FluxySync(gateway.settings())
            make_lively(sync, picture.offline_s)
            chromium.resize(driver, picture.width, HEIGHT)
            page = open_page(driver, Dashboard(gateway), picture.theme)
            if picture.offline_s:
                close_gate(sync, picture.offline_s)
                wait_until(lambda: page.read()["gate"] == "Offline", what="the gate")
            else:
                show_traffic(page, sync)
            shoot(driver, picture)


def open_page(driver: Chrome, dashboard: Dashboard, theme: str) -> SyncPage:
    """The page in its theme, with all lists."""
    dashboard.start()
    page = SyncPage(driver, dashboard).open()
    driver.execute_script("localStorage.setItem('flower-theme', arguments[0])", theme)
    page.reload()
    wait_until(lambda: page.read()["lanes"] and page.read()["dead"], what="the lists")
    return page


def close_gate(sync: FluxySync, seconds: int) -> None:
    """As if the link had gone so long ago."""
    journal = sync.engine.journal
    journal.close_gate("offline", "dns")
    since_ms = round((time.time() - seconds) * 1000)
    journal.store.command("HSET", f"{journal.keys.prefix}gate", "offline", f"{since_ms} dns")


def show_traffic(page: SyncPage, sync: FluxySync) -> None:
    """Let the totals grow for a while, and one lane be sent."""
    ends = threading.Event()
    thread = threading.Thread(target=keep_delivering, args=(sync.engine.journal, ends))
    thread.start()
    try:
        wait_until(lambda: float(page.value("rate")) > 2, 30, "a rate")
    finally:
        ends.set()
        thread.join()
    claim(sync, "user:42")
    page.wait_for(syncing="1")
    wait_until(lambda: (page.lane("user:42") or {}).get("state") == "syncing", what="the lane to be syncing")


def shoot(driver: Chrome, picture: Picture) -> None:
    """Write what the whole page shows, down to the last element that is wanted."""
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    height = int(driver.execute_script(_BOTTOM, picture.until)) + CLOSE_BELOW
    chromium.resize(driver, picture.width, height)
    clip = {"x": 0, "y": 0, "width": picture.width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
    path = IMAGES / f"{picture.name}.png"
    with Image.open(BytesIO(base64.b64decode(shot["data"]))) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
