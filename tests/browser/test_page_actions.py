"""What a person does on /sync by clicking is done for real, once, and written down under his name."""

import os
import signal

from selenium.webdriver import Chrome

from fluxy_sync import FluxySync
from fluxy_sync.journal import Inventory
from tests.browser.board import USER, Dashboard
from tests.browser.page import SyncPage, open_by_cookie
from tests.conftest import Gateway, wait_until
from tests.stuck import die, queue
from tests.upstream import Upstream


def audited(sync: FluxySync) -> list[tuple[str, str, str]]:
    """Who did what to which, the newest first."""
    return [(note["who"], note["what"], note["which"]) for note in Inventory(sync.engine.journal).notes(10)]


def test_a_dead_letter_is_replayed_by_clicking(
    page: SyncPage, gateway: Gateway, sync: FluxySync, upstream: Upstream
) -> None:
    """One is chosen and replayed: the upstream gets it, the other stays; then all are, after a question."""
    upstream.script("/posts", [422, 422])
    upstream.start()
    gateway.start("worker", "beat")
    first = sync.queue("POST", "/posts", body={"n": 1}, lane="a").id
    wait_until(lambda: sync.status().dead == 1, what="the first to die")
    sync.queue("POST", "/posts", body={"n": 2}, lane="b")
    page.open()
    page.wait_for(dead="2", pending="0")
    page.click(f'#dead-rows input[aria-label*="{first}"]')
    page.click("#dead-replay")
    page.wait_for_toast("1 dead letter put back into the queue.")
    page.wait_for(dead="1", pending="0")
    wait_until(lambda: [one["status"] for one in upstream.requests()] == [422, 422, 201], what="the delivery")
    wait_until(lambda: [letter["lane"] for letter in page.read()["dead"]] == ["b"], what="the list without it")
    page.click("#dead-all")
    page.click("#dead-replay")
    page.answer("yes")
    page.wait_for(dead="0", pending="0")
    wait_until(lambda: len(upstream.requests()) == 4, what="the other delivery")
    wait_until(lambda: not page.find("#dead-toolbar").is_displayed(), what="the toolbar to go")
    assert [what for _, what, _ in audited(sync)] == ["replay", "replay"]
    assert audited(sync)[1] == (f"{USER} (dashboard)", "replay", first)


def test_a_replay_to_the_head_goes_before_what_waits(page: SyncPage, sync: FluxySync) -> None:
    """The end of the lane that was chosen is the one that is used."""
    dead = die(sync, "orders")
    waits = queue(sync, "orders")
    page.open()
    page.click("#dead-rows input")
    page.find('#dead-to option[value="head"]').click()
    page.click("#dead-replay")
    page.wait_for(dead="0", pending="2")
    assert [one.id for one in sync.pending("orders")] == [dead, waits]


def test_nothing_is_dropped_without_a_question(page: SyncPage, sync: FluxySync) -> None:
    """The dialog names how many go; without a yes they stay, by the keyboard too; with one they are gone."""
    kept, dropped = die(sync, "a"), die(sync, "b")
    page.open()
    page.click("#dead-drop")
    page.wait_for_toast("Select dead letters first.")
    page.click(f'#dead-rows input[aria-label*="{dropped}"]')
    for answer in ("no", "\ue00c"):  # Cancel, and the key Escape
        page.click("#dead-drop")
        assert page.find("#confirm-title").text == "Drop 1 dead letter?"
        if answer == "no":
            page.answer(answer)
        else:
            page.driver.switch_to.active_element.send_keys(answer)
        wait_until(lambda: not page.find("#confirm").is_displayed(), what="the dialog to close")
        assert page.driver.execute_script("return document.activeElement.id") == "dead-drop"
    assert [letter.id for letter in sync.dead_letters()] == [kept, dropped]
    page.click("#dead-drop")
    page.answer("yes")
    page.wait_for_toast("1 dead letter dropped.")
    page.wait_for(dead="1")
    assert [letter.id for letter in sync.dead_letters()] == [kept]
    assert audited(sync) == [(f"{USER} (dashboard)", "drop", dropped)]


def test_everything_is_paused_and_resumed_by_clicking(
    page: SyncPage, gateway: Gateway, sync: FluxySync, upstream: Upstream
) -> None:
    """While it is paused nothing is sent; once resumed what waited goes out."""
    upstream.start()
    gateway.start("worker", "beat")
    page.open()
    wait_until(lambda: page.read()["gate"] == "Open", what="the gate to open")
    page.click("#pause-all")
    wait_until(lambda: page.read()["gate"] == "Paused", what="the pause")
    assert page.read()["why"].startswith(f"By {USER} (dashboard).")
    sync.queue("POST", "/posts", body={})
    page.wait_for(pending="1")
    assert upstream.requests() == []
    page.click("#pause-all")
    page.wait_for_toast("Everything goes on.")
    page.wait_for(pending="0")
    assert len(upstream.requests()) == 1
    assert [note[:2] for note in audited(sync)] == [(f"{USER} (dashboard)", "resume"), (f"{USER} (dashboard)", "pause")]


def test_one_lane_is_paused_and_resumed_by_clicking(page: SyncPage, sync: FluxySync) -> None:
    """The button of a lane holds that lane alone, and lets it go on."""
    queue(sync, "mine")
    queue(sync, "other")
    page.open()
    wait_until(lambda: page.lane("mine"), what="the lane")
    page.switch_of("mine").click()
    wait_until(lambda: page.lane("mine")["state"] == "held", what="the lane to be held")  # type: ignore[index]
    assert sync.status().held_for == {"paused": 1}
    assert page.lane("other")["state"] == "pending"  # type: ignore[index]
    page.switch_of("mine").click()
    wait_until(lambda: page.lane("mine")["state"] == "pending", what="the lane to go on")  # type: ignore[index]
    assert [note[1:] for note in audited(sync)] == [("resume", "lane mine"), ("pause", "lane mine")]


def test_an_action_that_fails_says_so(page: SyncPage, sync: FluxySync) -> None:
    """Where the dashboard has gone, a click changes nothing and is answered by a message."""
    queue(sync, "mine")
    page.open()
    wait_until(lambda: page.lane("mine"), what="the lane")
    os.kill(page.dashboard.pid, signal.SIGKILL)
    page.switch_of("mine").click()
    page.wait_for_toast("The dashboard can't be reached.")
    assert sync.status().held == 0


def test_who_signed_in_elsewhere_acts_with_the_xsrf_token(
    browser: Chrome, dashboard: Dashboard, sync: FluxySync
) -> None:
    """With OAuth a cookie signs in, so Flower asks for its XSRF token, and the page sends it."""
    person = "ann@example.com"
    queue(sync, "mine")
    page = open_by_cookie(browser, dashboard, person)
    wait_until(lambda: page.lane("mine"), what="the lane")
    page.switch_of("mine").click()
    page.wait_for_toast("Lane mine is paused.")
    assert audited(sync) == [(f"{person} (dashboard)", "pause", "lane mine")]
    browser.delete_cookie("_xsrf")
    page.switch_of("mine").click()
    page.wait_for_toast("_xsrf")
    assert sync.status().held == 1
