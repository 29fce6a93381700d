"""The social example by clicking, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.browser import chromium
from tests.browser.social_page import SocialPage
from tests.conftest import wait_until
from tests.social import Social

MAX_PENDING = 3
WIDTH = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def running(chrome: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Social]:
    folder = tmp_path_factory.mktemp("social")
    with Social(folder, "--max-pending", str(MAX_PENDING), "--answer-after", "0.7") as social:
        yield social


@pytest.fixture
def page(browser: Chrome, running: Social) -> Iterator[SocialPage]:
    """Its page, without posts, its server up."""
    yield SocialPage(browser, running).open()
    complaints = chromium.complaints(browser)
    running.clean()
    assert complaints == []


def test_a_post_written_offline_becomes_the_servers_post(page: SocialPage) -> None:
    """It shows at once and is counted; a reload changes nothing; with the server back it is sent, and gets its id."""
    page.turn("down")
    page.mark()
    page.write("from the ferry")
    (post,) = page.wait_states("sending")["posts"]
    assert post["content"] == "from the ferry"
    assert post["id"] in post["text"]
    page.wait_for(sync="offline", indicator="Offline, 1 pending updates", draft="", said="Post queued for sync.")
    assert page.is_marked

    page.driver.refresh()
    page.wait_for(indicator="Offline, 1 pending updates")
    assert [each["id"] for each in page.read()["posts"]] == [post["id"]]

    page.mark()
    page.turn("up")
    page.wait_for(sync="syncing", indicator="Syncing 1 items...")
    (delivered,) = page.wait_states("delivered")["posts"]
    page.wait_for(sync="synced")
    (kept,) = [row for row in page.social.at_upstream() if row[1] == post["id"]]
    assert delivered["serverId"] == kept[0]
    assert f"#{kept[0]}" in delivered["text"]
    assert post["id"] not in delivered["text"]
    assert page.is_marked


def test_a_full_queue_rolls_the_post_back(page: SocialPage) -> None:
    """A message says so, the list is as before, and what was typed is still in the form."""
    page.turn("down")
    for n in range(MAX_PENDING):
        page.write(f"waits {n}")
    page.write("one too many")
    shown = page.wait_states(*["sending"] * MAX_PENDING)
    assert "too many posts wait" in shown["error"]
    assert shown["draft"] == "one too many"
    assert "one too many" not in [post["content"] for post in shown["posts"]]
    page.wait_for(indicator=f"Offline, {MAX_PENDING} pending updates")


def test_a_refused_post_is_edited_in_peace_and_sent_again(page: SocialPage) -> None:
    """What somebody types survives that the list changes around it; the new text is delivered."""
    page.write("spam")
    page.wait_states("refused")
    field = page.find("#posts textarea")
    field.clear()
    field.send_keys("a better ")
    page.social.post("meanwhile")
    page.wait_states("refused", "delivered")
    field.send_keys("text")
    page.find("#posts .primary").click()
    shown = page.wait_states("delivered", "delivered")
    assert [post["content"] for post in shown["posts"]] == ["meanwhile", "a better text"]
    assert page.social.at_upstream()[-1][2] == "a better text"


def test_a_refused_post_is_discarded(page: SocialPage) -> None:
    """By its other button; it is gone from the page without a reload."""
    page.write("spam")
    page.wait_states("refused")
    page.mark()
    page.find("#posts button").click()
    page.wait_states()
    assert page.is_marked


def test_what_cannot_be_sent_stays_in_the_form(page: SocialPage) -> None:
    """While the application itself is away, too; when it is back, the same click posts it."""
    page.social.kill("social")
    page.write("still here")
    shown = page.read()
    if shown["error"]:  # else it was back already
        assert "can't be reached" in shown["error"]
        assert shown["draft"] == "still here"
        wait_until(page.social.answers, 20)
        page.find("#composer button").click()
    page.wait_states("delivered")


def test_it_works_without_script(page: SocialPage) -> None:
    """The same forms, by reloading."""
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.driver.get(page.social.url)
        page.find("#content").send_keys("plain")
        page.find("#composer button").click()
        wait_until(lambda: page.social.page().states == ["delivered"], 20)
        page.driver.get(page.social.url)
        assert page.find("#posts > li").get_attribute("data-state") == "delivered"
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        page.open()


def test_it_fits_a_phone(page: SocialPage) -> None:
    """At 320 pixels nothing reaches over the edge, whatever people write."""
    chromium.resize(page.driver, 320, 640)
    page.turn("down")
    page.write("x" * 200)
    page.wait_states("sending")
    page.wait_for(sync="offline")
    assert page.driver.execute_script(WIDTH) == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_readable_in_both_themes(page: SocialPage, theme: str) -> None:
    """Each of its texts has the contrast that WCAG asks for (4.5 to 1), in every state."""
    page.prefer(theme)
    try:
        page.social.post("ham")
        page.social.post("spam")
        page.wait_states("delivered", "refused")
        page.turn("down")
        for n in range(MAX_PENDING + 1):
            page.write(f"waits {n}")
        page.wait_for(sync="offline")
        assert page.read()["error"]
        script = (Path(__file__).parent / "contrast.js").read_text().replace("#sync *", "body *")
        assert page.driver.execute_script(script) == []
    finally:
        page.prefer("")
