"""Over plain HTTP a captive portal may take an operation: with PROBE_EXPECT, a page settles none unasked."""

from typing import Any

import pytest

from fluxy_sync.delivery import Delivery, Flight, Request, boottime
from fluxy_sync.operation import Outcome, Verdict
from fluxy_sync.settings import Settings
from tests.http_server import Authority, HttpServer, Said

PORTAL = "captive-portal"
EXPECT = {"probe_expect": "header=X-Upstream: me"}
PAGE = Said(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>")


def outcome_of(said: Said, confirmed: bool, asked: list[int], tls: Any = None, **settings: Any) -> Outcome:
    def confirm() -> bool:
        asked.append(1)
        return confirmed

    with HttpServer(lambda _: said, tls) as server:
        delivery = Delivery(Settings(upstream=server.url, **settings))
        delivery.confirm = confirm
        request = Request("POST", f"{server.url}/api", {"Content-Length": "1"}, b"x")
        found = delivery.send(request, Flight(boottime() + 9, boottime() + 9)).outcome
        delivery.close()
    return found


@pytest.mark.parametrize(
    "said",
    [PAGE, Said(404, PAGE.headers, b"<html>"), Said(302, {"Location": "/login"})],
    ids=["a page", "a page that refuses", "a redirect to itself"],
)
def test_a_page_is_taken_for_a_portal_s_where_the_upstream_isn_t_there(said: Said) -> None:
    """It would be a delivery, or a dead letter: it is sent again once the upstream is back."""
    asked: list[int] = []
    assert outcome_of(said, False, asked, **EXPECT) == Outcome(Verdict.UNREACHABLE, PORTAL, said.status)
    assert outcome_of(said, True, asked, **EXPECT).verdict in (Verdict.DELIVERED, Verdict.DEAD)
    assert len(asked) == 2


@pytest.mark.parametrize("said", [Said(201), Said(200, {"Content-Type": "application/json"}), Said(503, PAGE.headers)])
def test_other_answers_cost_no_probe(said: Said) -> None:
    """Nor does a page that settles nothing."""
    asked: list[int] = []
    assert outcome_of(said, False, asked, **EXPECT).verdict is not Verdict.UNREACHABLE
    assert asked == []


def test_a_page_costs_no_probe_where_that_could_tell_nothing(tmp_path: Any) -> None:
    """Without PROBE_EXPECT any answer is as good as another; over TLS nobody else can answer."""
    asked: list[int] = []
    authority = Authority(tmp_path)
    assert outcome_of(PAGE, False, asked).verdict is Verdict.DELIVERED
    tls = {"ca_bundle": authority.bundle, **EXPECT}
    assert outcome_of(PAGE, False, asked, authority.serving(), **tls).verdict is Verdict.DELIVERED
    assert asked == []
