"""Who may see the dashboard, and who may act: people who have signed in, from the dashboard's own pages."""

import re

import pytest
import requests
from tornado.web import create_signed_value

from fluxy_sync import FluxySync
from fluxy_sync.journal import Journal
from tests.conftest import wait_until
from tests.dashboard import LOGIN, USER, Dashboard
from tests.journal_steps import die

READS = ["/sync", "/api/sync", "/api/sync/events", "/api/sync/lanes", "/api/sync/dead", "/api/sync/history",
         "/api/sync/openapi.json"]  # fmt: skip
ACTIONS = {
    "/api/sync/pause": {},
    "/api/sync/resume": {},
    "/api/sync/dead/replay": {"all": True},
    "/api/sync/dead/drop": {"all": True},
}
OTHER_SITES = [
    {"Origin": "https://elsewhere.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]

OAUTH = {"FLOWER_BASIC_AUTH": "", "FLOWER_AUTH": "ann@example.com", "FLOWER_AUTH_PROVIDER": "x.Y",
         "FLOWER_OAUTH2_KEY": "k", "FLOWER_OAUTH2_SECRET": "s"}  # fmt: skip


def test_signed_out_sees_and_does_nothing(shown: Dashboard, journal: Journal) -> None:
    """Each address answers 401 without any data, and no action happens: without, and with wrong credentials."""
    die(journal, "letter-1", lane="lane-1")
    for auth in (None, (USER, "wrong"), ("", ""), (USER, "sch\u00f6n")):
        encoded = auth and tuple(part.encode() for part in auth)
        for path in READS:
            answer = shown.get(path, auth=encoded)
            assert answer.status_code == 401, path
            assert "Basic" in answer.headers["WWW-Authenticate"]
            assert not re.search("letter-1|lane-1|pending", answer.text), path
        for path, body in ACTIONS.items():
            assert shown.post(path, body, auth=encoded).status_code == 401, path
    assert journal.snapshot().gate == "open"
    assert journal.snapshot().dead == 1


def test_the_methods_that_nobody_needs_are_closed(shown: Dashboard) -> None:
    """Signed out 401, signed in 405 with what is allowed."""
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        signed_out = requests.request(method, shown.url + "/api/sync", timeout=20)
        signed_in = requests.request(method, shown.url + "/api/sync", auth=LOGIN, timeout=20)
        assert (signed_out.status_code, signed_in.status_code) == (401, 405)
        assert signed_in.headers["Allow"] == "GET"


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_other_sites_can_not_act(shown: Dashboard, journal: Journal, headers: dict[str, str]) -> None:
    """A page of another origin that a signed-in person has open is refused."""
    for path, body in ACTIONS.items():
        answer = shown.post(path, body, headers=headers)
        assert answer.status_code == 403
        assert answer.json().keys() == {"error"}
    assert journal.snapshot().gate == "open"


def test_the_dashboards_own_page_can_act(shown: Dashboard, journal: Journal) -> None:
    """With the headers that a browser sends from there."""
    own = {"Origin": shown.origin, "Sec-Fetch-Site": "same-origin"}
    assert shown.post("/api/sync/pause", headers=own).status_code == 200
    assert journal.snapshot().gate == "paused"


def test_what_a_form_can_send_is_refused(shown: Dashboard, journal: Journal) -> None:
    """Only JSON is taken: another site's form can't send that."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = requests.post(
            shown.url + "/api/sync/pause", data="{}", auth=LOGIN, timeout=20, headers={"Content-Type": kind}
        )
        assert answer.status_code in (400, 415), kind
    assert journal.snapshot().gate == "open"


def test_read_only(dashboard: Dashboard, journal: Journal) -> None:
    """In Flower's read-only mode everything is shown and no action is taken."""
    die(journal, "letter")
    dashboard.start("--read_only=true")
    for path, body in ACTIONS.items():
        answer = dashboard.post(path, body)
        assert (answer.status_code, answer.json()) == (403, {"error": "the dashboard is read-only"})
    assert dashboard.record()["dead"] == 1
    assert journal.snapshot().gate == "open"


def test_oauth_asks_programs_and_people_differently(dashboard: Dashboard) -> None:
    """With OAuth an API answers 401 and no redirect; the page leads to the login."""
    dashboard.start(**OAUTH)
    assert [dashboard.get(path, auth=None).status_code for path in READS[1:]] == [401] * len(READS[1:])
    page = dashboard.get("/sync", auth=None)
    assert (page.status_code, page.headers["Location"].partition("?")[0]) == (302, "/login")
    cookie = dashboard.folder / "data" / "dashboard.cookie"
    assert cookie.stat().st_mode & 0o777 == 0o600


def test_people_who_signed_in_by_oauth(dashboard: Dashboard, journal: Journal) -> None:
    """Their cookie outlives a restart; an action needs the page's XSRF token as well, and is noted under their name."""
    dashboard.start(**OAUTH)
    secret = (dashboard.folder / "data" / "dashboard.cookie").read_text()
    dashboard.end()
    dashboard.start(**OAUTH)
    with requests.Session() as ann:
        ann.cookies.set("user", create_signed_value(secret, "user", "ann@example.com").decode())
        assert ann.get(dashboard.url + "/sync", timeout=20).status_code == 200
        assert ann.get(dashboard.url + "/api/sync", timeout=20).json()["pending"] == 0
        pause = dashboard.url + "/api/sync/pause"
        assert ann.post(pause, json={}, timeout=20).status_code == 403
        assert ann.post(pause, json={}, timeout=20, headers={"X-XSRFToken": "guess"}).status_code == 403
        assert journal.snapshot().gate == "open"
        own = {"X-XSRFToken": ann.cookies["_xsrf"]}
        assert ann.post(pause, json={}, timeout=20, headers=own).status_code == 200
    assert journal.snapshot().reason == "by ann@example.com (dashboard)"
    with requests.Session() as bob:
        bob.cookies.set("user", create_signed_value(secret, "user", "bob@example.com").decode())
        assert bob.get(dashboard.url + "/api/sync", timeout=20).status_code == 401


def test_nobody_sends_much(shown: Dashboard) -> None:
    """A body that no action needs isn't read, signed in or not."""
    try:
        answer = shown.post_raw("/api/sync/pause", b" " * 5_000_000)
        assert answer.status_code in (400, 413)
    except requests.ConnectionError:
        pass  # it hung up in the middle of it
    assert shown.record()["gate"] == "open"


def test_static_files_need_no_sign_in(shown: Dashboard) -> None:
    """An application's page can load the indicator; nothing outside its directory can be had."""
    indicator = shown.get("/sync/indicator.js", auth=None)
    assert indicator.status_code == 200
    assert "javascript" in indicator.headers["Content-Type"]
    assert shown.get("/sync/static/indicator.js", auth=None).content == indicator.content
    assert shown.get("/sync/static/../server.py", auth=None).status_code in (403, 404)
    assert shown.get("/sync/static/%2e%2e/server.py", auth=None).status_code in (403, 404)


def test_a_prefix_moves_everything(dashboard: Dashboard, producer: FluxySync) -> None:
    """With Flower's url_prefix all is below it, and the pages link to where things are."""
    dashboard.url += "/gateway"
    dashboard.start("--url_prefix=gateway")
    producer.queue("POST", "/x", body={})
    wait_until(lambda: dashboard.record()["pending"] == 1)
    page = dashboard.get("/sync")
    assert page.status_code == 200
    assert 'href="/gateway/sync"' in page.text
    assert dashboard.get("/sync/indicator.js", auth=None).status_code == 200
    assert dashboard.get("/api/sync/openapi.json").json()["servers"] == [{"url": "/gateway"}]
    assert requests.get(dashboard.origin + "/api/sync", auth=LOGIN, timeout=20).status_code == 404


def test_each_page_of_flower_leads_to_ours(shown: Dashboard) -> None:
    """The navigation bar of every page has the entry; on ours it is the current one."""
    for path in ("/workers", "/tasks", "/broker"):
        assert re.search(r'href="/sync"[^>]*>Sync</a>', shown.get(path).text), path
    page = shown.get("/sync")
    assert re.search(r'nav-link active"\s+href="/sync"\s+aria-current="page"', page.text)
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
