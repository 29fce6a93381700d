"""Makes the pictures of the social example in ``docs/images``: python -m tests.browser.social_images"""

import sys
import tempfile
from pathlib import Path

from tests.browser import chromium
from tests.browser.screenshots import HEIGHT, IMAGES, Picture, closing_browser, shoot
from tests.browser.social_page import SocialPage
from tests.conftest import wait_until
from tests.social import Social

PICTURES = (
    Picture("social", "light", 720, 0, "posts"),
    Picture("social-phone", "light", 360, 0, "posts"),
)
DELIVERED = ("Packed the boat. Fog, but no wind.", "First light over the bay. Worth getting up for.")
REFUSED = "Cheap spam, three tins for the price of two"
WAITING = ("Out of range since the lighthouse.", "A seal has been following us for an hour now.")


def play(page: SocialPage) -> None:
    """Some posts in each state, the server being down."""
    for text in DELIVERED:
        page.social.post(text)
    page.social.post(REFUSED)
    page.wait_states("delivered", "delivered", "refused")
    page.turn("down")
    for text in WAITING:
        page.social.post(text)
    page.wait_for(sync="offline", indicator="Offline, 2 pending updates")
    page.driver.refresh()


def take(page: SocialPage, picture: Picture) -> None:
    """One picture, in its theme."""
    page.prefer(picture.theme)
    chromium.resize(page.driver, picture.width, HEIGHT)
    wait_until(lambda: page.read()["sync"] == "offline", what="the indicator")
    shoot(page.driver, picture)


def main() -> None:
    """All of them."""
    if chromium.installed() is None:
        sys.exit(chromium.MISSING)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="social") as folder,
        Social(Path(folder)) as social,
        closing_browser(Path(folder) / "profile") as driver,
    ):
        page = SocialPage(driver, social).open()
        play(page)
        for picture in PICTURES:
            take(page, picture)


if __name__ == "__main__":
    main()
