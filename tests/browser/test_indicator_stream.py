"""How the indicator treats its stream: a test's own, where a real dashboard can't be made to do that on cue."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.browser.application import Application, read
from tests.conftest import wait_until

MANY = 40
QUIET_PINGS = 60  # three times as long as a hasty page waits for a word
LISTEN = """
window.told = [];
addEventListener("fluxy-sync-change", (event) => told.push([event.target.id, event.detail.pending]));
"""
SPOKEN = """
const spoken = document.getElementById("one").shadowRoot.querySelector(".spoken");
window.heard = [];
new MutationObserver(() => heard.push(spoken.textContent)).observe(spoken, {childList: true, characterData: true});
"""


@pytest.fixture
def application() -> Iterator[Application]:
    with Application(indicators=2) as running:
        yield running


def text(browser: Chrome, name: str = "one") -> str:
    return str(read(browser, name)["text"])


def wait_for(browser: Chrome, words: str, name: str = "one") -> None:
    wait_until(lambda: text(browser, name) == words, what=f"{words!r} instead of {text(browser, name)!r}")


def test_two_indicators_share_one_stream(browser: Chrome, application: Application) -> None:
    """Both show the same; the stream ends with the last of them, and begins again with the next."""
    application.say(pending=3)
    browser.get(application.url)
    for name in ("one", "two"):
        wait_for(browser, "3 pending updates", name)
    assert (application.open_streams, application.opened) == (1, 1)
    browser.execute_script("document.getElementById('two').remove()")
    application.say(pending=2, rev=2)
    wait_for(browser, "2 pending updates")
    assert application.open_streams == 1
    browser.execute_script("window.kept = document.getElementById('one'); kept.remove()")
    wait_until(lambda: application.open_streams == 0, what="the stream to end")
    browser.execute_script("document.body.append(window.kept)")
    wait_until(lambda: application.open_streams == 1, what="the stream to begin again")
    wait_for(browser, "2 pending updates")


def test_an_older_record_is_passed_over(browser: Chrome, application: Application) -> None:
    """A lower rev of the same boot is old news; that of another boot is not."""
    application.say(pending=5, rev=7)
    browser.get(application.url)
    wait_for(browser, "5 pending updates")
    browser.execute_script(LISTEN)
    application.say(pending=9, rev=6)
    application.say(pending=4, rev=8)
    wait_for(browser, "4 pending updates")
    application.say(pending=1, rev=2, boot="two")
    wait_for(browser, "1 pending updates")
    told = browser.execute_script("return told")
    assert [pending for name, pending in told if name == "one"] == [4, 1]


def test_an_older_record_that_stands_is_believed(hasty: Chrome, application: Application) -> None:
    """A store that was restored counts from earlier: the number doesn't freeze for ever."""
    application.say(pending=5, rev=7)
    hasty.get(application.url)
    wait_for(hasty, "5 pending updates")
    application.say(pending=2, rev=3)
    wait_for(hasty, "2 pending updates")


def test_a_refused_stream_is_tried_again(browser: Chrome, application: Application) -> None:
    """An answer that isn't the stream makes EventSource give up; here the status is unknown until it comes back."""
    application.say(pending=3)
    application.refusing = True
    browser.get(application.url)
    wait_for(browser, "Sync status unknown")
    application.refusing = False
    wait_for(browser, "3 pending updates")


def test_what_is_not_known_is_never_a_number(browser: Chrome, application: Application) -> None:
    """Where the dashboard has read nothing yet, or no longer can, no number is shown."""
    application.say(pending=None, is_syncing=None, gate=None, rev=None, stale=True)
    browser.get(application.url)
    wait_for(browser, "Sync status unknown")
    application.say(pending=3)
    wait_for(browser, "3 pending updates")
    application.say(pending=3, stale=True)
    wait_for(browser, "Sync status unknown")


def test_a_quiet_queue_is_not_a_silent_dashboard(hasty: Chrome, application: Application) -> None:
    """Where nothing changes only pings come: they are enough to go on trusting the number, on the same stream."""
    application.say(pending=3)
    hasty.get(application.url)
    wait_for(hasty, "3 pending updates")
    hasty.execute_script(LISTEN)
    began = application.pings
    wait_until(lambda: application.pings > began + QUIET_PINGS, what="a long quiet")
    assert (application.opened, hasty.execute_script("return told")) == (1, [])


def test_nobody_looks(hasty: Chrome, application: Application) -> None:
    """A page that stays hidden gives its stream back, and takes it up when it is looked at again."""
    application.say(pending=3)
    hasty.get(application.url)
    wait_for(hasty, "3 pending updates")
    hidden = hasty.current_window_handle
    hasty.switch_to.new_window("tab")
    wait_until(lambda: application.open_streams == 0, what="the stream to end")
    application.say(pending=4, rev=2)
    hasty.close()
    hasty.switch_to.window(hidden)
    wait_for(hasty, "4 pending updates")


def test_an_application_hears_of_each_change(browser: Chrome, application: Application) -> None:
    """`fluxy-sync-change` carries the record, which the property `record` holds as well."""
    application.say(pending=1)
    browser.get(application.url)
    wait_for(browser, "1 pending updates")
    browser.execute_script(LISTEN)
    application.say(pending=2, rev=2)
    wait_for(browser, "2 pending updates")
    wait_until(lambda: browser.execute_script("return told.length") == 2, what="both to tell")
    assert sorted(browser.execute_script("return told")) == [["one", 2], ["two", 2]]
    assert read(browser)["record"]["pending"] == 2


def test_other_words(browser: Chrome, application: Application) -> None:
    """Each label can be replaced, in another language too; they are only ever text."""
    label = 'label-pending="Noch {n} &lt;b&gt;offen&lt;/b&gt;" label-offline="Keine Verbindung" src='
    application.page = application.page.replace("src=", label)
    application.say(pending=1234)
    browser.get(application.url)
    wait_for(browser, "Noch 1,234 <b>offen</b>")
    application.say(pending=2, rev=2, gate="offline")
    wait_for(browser, "Keine Verbindung, Noch 2 <b>offen</b>")
    browser.execute_script("document.getElementById('one').setAttribute('label-offline', 'Offline')")
    wait_for(browser, "Offline, Noch 2 <b>offen</b>")


def test_a_screen_reader_hears_states_and_not_each_tick(browser: Chrome, application: Application) -> None:
    """A counter that runs is spoken now and then; a new state at once."""
    application.say(pending=MANY)
    browser.get(application.url)
    wait_for(browser, f"{MANY} pending updates")
    browser.execute_script(SPOKEN)
    for left in range(MANY - 1, 0, -1):
        application.say(pending=left, rev=1 + MANY - left)
    wait_for(browser, "1 pending updates")
    assert browser.execute_script("return heard") == []
    application.say(rev=MANY + 1)
    wait_until(lambda: browser.execute_script("return heard") == ["All synced"], what="the new state to be spoken")


@pytest.mark.parametrize(("wish", "animation"), [("no-preference", "turn"), ("reduce", "none")])
def test_the_spinner_respects_who_wants_less_motion(
    browser: Chrome, application: Application, wish: str, animation: str
) -> None:
    """It turns, unless the person at the screen asked for reduced motion; the words are there either way."""
    feature = {"features": [{"name": "prefers-reduced-motion", "value": wish}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    application.say(pending=3, is_syncing=True)
    browser.get(application.url)
    wait_for(browser, "Syncing 3 items...")
    assert read(browser)["animation"] == animation
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
