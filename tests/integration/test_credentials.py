"""Credentials on their way: to the upstream, to nobody else, and refreshed once where they are refused."""

import base64
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from requests.auth import AuthBase, HTTPDigestAuth

from fluxy_sync.delivery import ClaimEnded, Delivery, Flight, Reply, Request, boottime
from fluxy_sync.operation import Outcome, Verdict
from fluxy_sync.settings import Settings
from tests.http_server import HttpServer, Said, Seen, said_json
from tests.upstream import free_port

MARKER = "marker-of-a-secret"
UNAUTHORIZED = Outcome(Verdict.UNAUTHORIZED, "401", 401)


class Signed(AuthBase):
    """Signs the body, as a user's scheme would."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Signed {MARKER}"
        request.headers["X-Signature"] = str(len(request.body or b""))
        return request


@pytest.fixture
def endpoint() -> Iterator[HttpServer]:
    """A token endpoint."""
    with HttpServer(lambda _: said_json(access_token=MARKER, token_type="Bearer", expires_in=3600)) as server:
        yield server


@pytest.fixture
def kinds(endpoint: HttpServer) -> Iterator[dict[str, tuple[dict[str, Any], str]]]:
    """The settings of each kind, and the header that it sends."""
    module = sys.modules["gateway_auth"] = ModuleType("gateway_auth")
    module.Signed = Signed  # type: ignore[attr-defined]
    login = base64.b64encode(f"user:{MARKER}".encode()).decode()
    oauth2 = {
        "auth_oauth2_token_url": f"{endpoint.url}/token",
        "auth_oauth2_client_id": "the gateway",
        "auth_oauth2_client_secret": f"{MARKER}/2",
        "auth_oauth2_scope": "write read",
    }
    yield {
        "bearer": ({"auth_bearer": MARKER}, f"Bearer {MARKER}"),
        "basic": ({"auth_basic": f"user:{MARKER}"}, f"Basic {login}"),
        "oauth2": (oauth2, f"Bearer {MARKER}"),
        "requests": ({"auth_requests": "gateway_auth:Signed"}, f"Signed {MARKER}"),
    }
    del sys.modules["gateway_auth"]


ALL_KINDS = ["bearer", "basic", "oauth2", "requests"]
Make = Callable[..., Delivery]


@pytest.fixture
def made() -> Iterator[Make]:
    """Makes deliveries that are closed afterwards."""
    all_made: list[Delivery] = []

    def make(upstream: str, **settings: Any) -> Delivery:
        all_made.append(Delivery(Settings(upstream=upstream, **settings)))
        return all_made[-1]

    yield make
    for delivery in all_made:
        delivery.close()


def send(delivery: Delivery, url: str = "", flight: Flight | None = None, **headers: str) -> Reply:
    url = url or f"{delivery.upstream}/api"
    now = boottime()
    request = Request("POST", url, {"Content-Length": "3"} | headers, b"abc")
    return delivery.send(request, flight or Flight(now + 9, now + 9))


# --- who gets them


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_kind_arrives(kinds: Any, made: Make, kind: str) -> None:
    """At a real server, with the operation's own headers and body as they were."""
    settings, header = kinds[kind]
    with HttpServer() as upstream:
        found = send(made(upstream.url, **settings), **{"X-Own": "1"})
        (seen,) = upstream.seen
    assert found.outcome.verdict is Verdict.DELIVERED
    assert found.took_credentials
    assert (seen.authorization, seen.headers["x-own"], seen.body) == (header, "1", b"abc")
    assert kind != "requests" or seen.headers["x-signature"] == "3"


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_nobody_else_gets_them(kinds: Any, made: Make, endpoint: HttpServer, kind: str) -> None:
    """Not an allowed foreign origin, and not beside an operation's own Authorization; no token is fetched for those."""
    settings, _ = kinds[kind]
    with HttpServer() as upstream, HttpServer() as foreign:
        delivery = made(upstream.url, allowed_origins=foreign.url, **settings)
        send(delivery, f"{foreign.url}/api")
        send(delivery, authorization="Own secret")
        assert [seen.authorization for seen in foreign.seen] == [None]
        assert [seen.authorization for seen in upstream.seen] == ["Own secret"]
        assert MARKER not in repr(foreign.seen + upstream.seen)
        assert endpoint.seen == []


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_refusal_of_other_credentials_is_not_the_gateways(kinds: Any, made: Make, kind: str) -> None:
    """A 401 of a foreign origin, or of an operation's own Authorization: nothing is refreshed or tried again."""
    settings, _ = kinds[kind]
    with HttpServer(lambda _: Said(401)) as upstream, HttpServer(lambda _: Said(401)) as foreign:
        delivery = made(upstream.url, allowed_origins=foreign.url, **settings)
        held = Outcome(Verdict.HOLD, "credentials", 401)
        assert send(delivery, f"{foreign.url}/api").outcome == held
        assert send(delivery, authorization="Own secret").outcome == held
        assert (len(upstream.seen), len(foreign.seen)) == (1, 1)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_they_go_along_with_a_redirect_within_the_origin_only(kinds: Any, made: Make, kind: str) -> None:
    """Another origin, also one that is allowed, isn't even asked."""
    settings, header = kinds[kind]
    with HttpServer() as foreign:

        def answer(seen: Seen) -> Said:
            targets = {"/api": "/moved", "/moved": f"{foreign.url}/away"}
            return Said(307, {"Location": targets[seen.path]})

        with HttpServer(answer) as upstream:
            found = send(made(upstream.url, allowed_origins=foreign.url, **settings)).outcome
            assert (found.verdict, found.reason) == (Verdict.DEAD, "307")
            assert [(seen.path, seen.authorization) for seen in upstream.seen] == [("/api", header), ("/moved", header)]
        assert foreign.seen == []


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_secret_is_logged(kinds: Any, made: Make, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """Not when it is taken, refused, or can't be sent, and not at DEBUG."""
    settings, _ = kinds[kind]
    with caplog.at_level(logging.DEBUG):
        with HttpServer(lambda _: Said(401)) as upstream:
            assert send(made(upstream.url, **settings)).outcome == UNAUTHORIZED
        assert send(made(f"http://127.0.0.1:{free_port()}", **settings)).outcome.reason == "refused"
    login = base64.b64encode(MARKER.encode()).decode()[:12]
    assert MARKER not in caplog.text
    assert login not in caplog.text


def test_a_token_request_says_who_asks_and_for_what(kinds: Any, made: Make, endpoint: HttpServer) -> None:
    """RFC 6749: client credentials, the id and secret form-encoded in a basic login, the scope."""
    with HttpServer() as upstream:
        send(made(upstream.url, **kinds["oauth2"][0]))
    (seen,) = endpoint.seen
    login = base64.b64decode(str(seen.authorization).removeprefix("Basic ")).decode()
    assert login == f"the+gateway:{MARKER}%2F2"
    assert seen.form == {"grant_type": ["client_credentials"], "scope": ["write read"]}
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"


# --- refused


def test_a_rotated_secret_is_picked_up_within_the_flight(
    made: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is read again after the 401, and the same request goes out again at once, with the same key."""
    path = tmp_path / "bearer"
    path.write_text("old")
    monkeypatch.setenv("FLUXY_SYNC_AUTH_BEARER_FILE", str(path))
    with HttpServer(lambda seen: Said(201 if seen.authorization == "Bearer new" else 401)) as upstream:
        delivery = made(upstream.url)
        assert send(delivery).outcome == UNAUTHORIZED
        assert len(upstream.seen) == 1  # the file holds nothing new: it isn't tried again
        path.write_text("new")
        found = send(delivery, **{"Idempotency-Key": '"a"'})
        assert (found.outcome.verdict, found.took_credentials) == (Verdict.DELIVERED, True)
        first, second = upstream.seen[1:]
    assert (first.authorization, second.authorization) == ("Bearer old", "Bearer new")
    assert first._replace(headers={}) == second._replace(headers={})
    assert {k: v for k, v in first.headers.items() if k != "authorization"} == {
        k: v for k, v in second.headers.items() if k != "authorization"
    }


def test_a_second_refusal_stands(made: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One refresh and one more try, not a third."""
    path = tmp_path / "login"
    path.write_text("user:old")
    monkeypatch.setenv("FLUXY_SYNC_AUTH_BASIC_FILE", str(path))
    with HttpServer(lambda _: Said(401, {}, b"who?")) as upstream:
        delivery = made(upstream.url)
        path.write_text("user:new")
        assert send(delivery) == Reply(UNAUTHORIZED, {}, b"who?")
        assert len(upstream.seen) == 2


class EndsAfterTheRefusal(Flight):
    """A claim that ends once the first answer has come."""

    def __init__(self, upstream: HttpServer) -> None:
        super().__init__(boottime() + 9, boottime() + 9)
        self._upstream = upstream

    def check(self) -> None:
        if self._upstream.seen:
            self.claim_ends = boottime() - 1
        super().check()


def test_the_second_try_is_within_the_claim_too(made: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another worker may have the lane by then: nothing more is written."""
    path = tmp_path / "bearer"
    path.write_text("old")
    monkeypatch.setenv("FLUXY_SYNC_AUTH_BEARER_FILE", str(path))
    with HttpServer(lambda _: Said(401)) as upstream:
        delivery = made(upstream.url)
        path.write_text("new")
        with pytest.raises(ClaimEnded):
            send(delivery, flight=EndsAfterTheRefusal(upstream))
        assert len(upstream.seen) == 1


def test_an_auth_may_answer_a_challenge(made: Make, kinds: Any) -> None:
    """Digest (RFC 7616) needs the server's nonce: requests' own class works, through its response hook."""
    module = sys.modules["gateway_auth"]
    module.digest = lambda: HTTPDigestAuth("user", MARKER)  # type: ignore[attr-defined]
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n1", qop="auth", algorithm=SHA-256'}

    def answer(seen: Seen) -> Said:
        given = re.search(r'username="user".*nonce="n1".*response="[0-9a-f]{64}"', seen.authorization or "")
        return Said(201 if given and seen.body == b"abc" else 401, challenge)

    with HttpServer(answer) as upstream:
        delivery = made(upstream.url, auth_requests="gateway_auth:digest")
        assert [send(delivery).outcome.verdict for _ in range(2)] == [Verdict.DELIVERED] * 2
        assert [seen.authorization is None for seen in upstream.seen] == [True, False, False]


def test_a_hook_that_fails_is_the_credentials_fault(made: Make, kinds: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its error's text goes nowhere."""

    class Hooked(AuthBase):
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.register_hook("response", self.look)
            return request

        def look(self, response: requests.Response, **_: Any) -> None:
            raise RuntimeError(MARKER)

    module = sys.modules["gateway_auth"]
    module.Hooked = Hooked  # type: ignore[attr-defined]
    with caplog.at_level(logging.DEBUG), HttpServer() as upstream:
        found = send(made(upstream.url, auth_requests="gateway_auth:Hooked"))
    assert found == Reply(Outcome(Verdict.UNAUTHORIZED, "credentials-failed"))
    assert MARKER not in caplog.text


def test_lanes_refused_together_refresh_once(made: Make, kinds: Any) -> None:
    """Of many threads the first refreshes, the others use what it got."""
    refreshed: list[int] = []
    together = threading.Barrier(4)

    class Rotating(AuthBase):
        token = "old"

        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = self.token
            return request

        def refresh(self) -> None:
            refreshed.append(1)
            self.token = "new"

    def answer(seen: Seen) -> Said:
        if seen.authorization == "old":
            together.wait(5)
        return Said(201 if seen.authorization == "new" else 401)

    module = sys.modules["gateway_auth"]
    module.Rotating = Rotating  # type: ignore[attr-defined]
    verdicts: list[Verdict] = []
    with HttpServer(answer) as upstream:
        delivery = made(upstream.url, auth_requests="gateway_auth:Rotating")
        threads = [threading.Thread(target=lambda: verdicts.append(send(delivery).outcome.verdict)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(9)
    assert verdicts == [Verdict.DELIVERED] * 4
    assert refreshed == [1]
