"""Each answer of the dashboard is protected, Flower's own as well: nobody frames it, and no other site acts there."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flower.urls import handlers

from fluxy_sync.dashboard.server import HANDLERS
from fluxy_sync.dashboard.shield import INDICATOR, SHIELD
from tests.dashboard import LOGIN, Dashboard

OTHER_SITES = [
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
]
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
AUTHS = (None, LOGIN, ("ann", "wrong"))
CODES = {200, 204, 400, 401, 403, 404, 405, 415}


def routes() -> Iterator[str]:
    """An address for each rule of the application: Flower's and ours."""
    for rule in [*handlers, *HANDLERS]:
        pattern = (rule.regex.pattern if hasattr(rule, "regex") else str(rule[0])).rstrip("$").replace("\\", "")
        for form, one in (("/?", ""), ("(.+)", "x"), ("(.*)", "x"), (f"({INDICATOR})", INDICATOR), (".*", "/none")):
            pattern = pattern.replace(form, one)
        yield re.sub(r"\(\?:([\w-]+)[^)]*\)", r"\1", pattern)
    yield from ("/static/js/flower.js", "/static/none.js", "/sync/static/sync.js", "/%00", "//elsewhere")


def ask(shown: Dashboard, method: str, path: str, **options: Any) -> requests.Response:
    with requests.request(
        method, shown.url + path, timeout=20, allow_redirects=False, stream=True, **options
    ) as answer:
        return answer


@pytest.mark.parametrize("method", METHODS)
def test_every_answer_is_protected(shown: Dashboard, method: str) -> None:
    """All rules, with all methods, signed in or not: pages, errors, files, metrics, the stream of events."""
    seen = set()
    for path in routes():
        for auth in AUTHS:
            answer = ask(shown, method, path, auth=auth)
            seen.add(answer.status_code)
            where = (method, path, auth, answer.status_code)
            assert answer.status_code in CODES, where
            for name in SHIELD:
                assert answer.headers.get(name), (where, name)
            assert answer.headers["X-Frame-Options"] == "DENY", where
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], where
            assert answer.headers.get("Cache-Control") == "no-store" or "Last-Modified" in answer.headers, where
    assert seen == {405} if method == "TRACE" else len(seen) > 1


def test_a_redirect_and_a_file_that_is_known_are_protected(dashboard: Dashboard) -> None:
    """The way to the login of OAuth, and an answer 304."""
    dashboard.start(
        FLOWER_BASIC_AUTH="", FLOWER_AUTH="ann@example.com",
        FLOWER_AUTH_PROVIDER="flower.views.auth.GoogleAuth2LoginHandler",
        FLOWER_OAUTH2_KEY="k", FLOWER_OAUTH2_SECRET="s", FLOWER_OAUTH2_REDIRECT_URI="http://127.0.0.1/login",
    )  # fmt: skip
    page, login = (dashboard.get(path, auth=None) for path in ("/workers", "/login"))
    file = dashboard.get("/static/js/flower.js", auth=None)
    known = dashboard.get("/static/js/flower.js", auth=None, headers={"If-None-Match": file.headers["Etag"]})
    assert [one.status_code for one in (page, login, known)] == [302, 302, 304]
    for answer in (page, login, known):
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_the_indicator_may_be_loaded_by_an_application(shown: Dashboard) -> None:
    """It alone is for pages of others; the record that it shows isn't."""
    assert shown.get("/sync/indicator.js", auth=None).headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    for path in ("/api/sync", "/sync/static/sync.js", "/workers", "/static/js/flower.js", "/no/indicator.js"):
        assert shown.get(path).headers["Cross-Origin-Resource-Policy"] == "same-origin", path


@pytest.mark.parametrize("headers", OTHER_SITES, ids=str)
def test_other_sites_post_nothing(shown: Dashboard, headers: dict[str, str]) -> None:
    """No rule at all takes a POST that a page of another origin made with the person's own sign-in."""
    for path in routes():
        answer = shown.post(path, headers=headers)
        assert answer.status_code in (403, 404, 405), path
