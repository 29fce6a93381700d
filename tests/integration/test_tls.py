"""TLS: a private authority, and a client certificate for the upstream alone."""

import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync.connectivity import Probe, ProbeResult
from fluxy_sync.delivery import Delivery, Flight, Request, boottime
from fluxy_sync.doctor.upstream import judge_upstream
from fluxy_sync.journal import Store, check_durability, connect
from fluxy_sync.journal.store import NotSent
from fluxy_sync.operation import Outcome, Verdict
from fluxy_sync.settings import Settings
from fluxy_sync.words import reason_text
from tests.http_server import Authority, HttpServer, Said, Seen, said_json

TLS = Outcome(Verdict.UNREACHABLE, "tls")
UNTRUSTED = Outcome(Verdict.UNREACHABLE, "tls:self-signed-certificate-in-certificate-chain")
DELIVERED = Outcome(Verdict.DELIVERED, "201", 201)

Send = Callable[..., Outcome]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def certificate(authority: Authority) -> dict[str, Path]:
    """The settings of a client certificate."""
    cert, key = authority.issue("gateway")
    return {"client_cert": cert, "client_key": key}


@pytest.fixture
def send() -> Iterator[Send]:
    made: list[Delivery] = []

    def send(upstream: str, url: str = "", **settings: Any) -> Outcome:
        made.append(Delivery(Settings(upstream=upstream, **settings)))
        request = Request("POST", url or f"{upstream}/api", {"Content-Length": "1"}, b"x")
        return made[-1].send(request, Flight(boottime() + 9, boottime() + 9)).outcome

    yield send
    for delivery in made:
        delivery.close()


def test_a_private_authority_is_trusted(authority: Authority, send: Send) -> None:
    """Where CA_BUNDLE names it; else nothing reaches the server."""
    with HttpServer(tls=authority.serving()) as server:
        assert send(server.url) == UNTRUSTED
        assert server.seen == []
        assert send(server.url, ca_bundle=authority.bundle) == DELIVERED


def test_another_authority_is_not_trusted(authority: Authority, tmp_path: Path, send: Send) -> None:
    """Not one that only has the same kind of name."""
    other = Authority(tmp_path, "other")
    with HttpServer(tls=authority.serving()) as server:
        assert send(server.url, ca_bundle=other.bundle) == UNTRUSTED
        assert server.seen == []


def test_a_client_certificate_is_shown(authority: Authority, certificate: dict[str, Path], send: Send) -> None:
    """As a certificate and its key, or as one file with both."""
    both = certificate["client_cert"].with_name("both.pem")
    both.write_bytes(certificate["client_cert"].read_bytes() + certificate["client_key"].read_bytes())
    with HttpServer(tls=authority.serving(ssl.CERT_REQUIRED)) as server:
        assert send(server.url, ca_bundle=authority.bundle, **certificate) == DELIVERED
        assert send(server.url, ca_bundle=authority.bundle, client_cert=both) == DELIVERED
        assert [seen.certificate for seen in server.seen] == ["gateway", "gateway"]


def test_without_the_certificate_that_a_server_demands_nothing_is_taken(
    authority: Authority, tmp_path: Path, send: Send
) -> None:
    """None, or one of another authority: the link, as nothing of the operation is at fault."""
    cert, key = Authority(tmp_path, "other").issue("stranger")
    with HttpServer(tls=authority.serving(ssl.CERT_REQUIRED)) as server:
        for _ in range(10):  # the server's alert comes while the request is being written
            assert send(server.url, ca_bundle=authority.bundle) == TLS
            assert send(server.url, ca_bundle=authority.bundle, client_cert=cert, client_key=key) == TLS
        assert server.seen == []


def test_a_foreign_origin_sees_no_client_certificate(
    authority: Authority, certificate: dict[str, Path], send: Send
) -> None:
    """But the private authority holds for it as well."""
    with HttpServer(tls=authority.serving(ssl.CERT_OPTIONAL)) as foreign:
        settings = {"ca_bundle": authority.bundle, "allowed_origins": foreign.url, **certificate}
        assert send("https://127.0.0.1:1", f"{foreign.url}/api", **settings) == DELIVERED
        assert send(foreign.url, **settings) == DELIVERED
        assert [seen.certificate for seen in foreign.seen] == [None, "gateway"]


def test_a_file_that_is_gone_is_no_answer_of_the_upstreams(authority: Authority, certificate: dict[str, Path]) -> None:
    """Nothing was sent, so no retry is counted; when it is back, deliveries go on."""
    with HttpServer(tls=authority.serving(ssl.CERT_REQUIRED)) as server:
        delivery = Delivery(Settings(upstream=server.url, ca_bundle=authority.bundle, **certificate))
        request = Request("POST", f"{server.url}/api", {"Content-Length": "1"}, b"x")
        for path in (authority.bundle, *certificate.values()):
            content = path.read_bytes()
            path.unlink()
            assert delivery.send(request, Flight(boottime() + 9, boottime() + 9)).outcome == TLS
            path.write_bytes(content)
        assert delivery.send(request, Flight(boottime() + 9, boottime() + 9)).outcome == DELIVERED
        delivery.close()


# --- certificates by the letter of RFC 5280


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("key-identifier", "missing authority key identifier"),
        ("key-usage", "ca cert does not include key usage extension"),
    ],
)
def test_a_home_made_authority(
    lacks: str, words: str, tmp_path: Path, send: Send, caplog: pytest.LogCaptureFixture
) -> None:
    """Strictly, it is refused, and the reason says why; TLS_STRICT=0 takes it; else Python's default holds."""
    sloppy = Authority(tmp_path, lacks=lacks)
    reason = f"tls:{words.replace(' ', '-')}"
    with HttpServer(tls=sloppy.serving()) as server:
        settings: dict[str, Any] = {"ca_bundle": sloppy.bundle}
        assert send(server.url, tls_strict=True, **settings) == Outcome(Verdict.UNREACHABLE, reason)
        assert probe(upstream=server.url, tls_strict=True, **settings) == (False, reason)
        assert server.seen == []
        assert send(server.url, tls_strict=False, **settings) == DELIVERED
        by_python = send(server.url, **settings)
        assert by_python == (Outcome(Verdict.UNREACHABLE, reason) if sys.version_info >= (3, 13) else DELIVERED)
    assert reason_text(reason) == f"the TLS handshake failed: {words}"


@pytest.mark.parametrize("strict", [True, False])
def test_strict_or_not_a_certificate_is_checked(
    strict: bool, authority: Authority, certificate: dict[str, Path], tmp_path: Path, send: Send
) -> None:
    """Whose it is, and for which name; and a right one is taken, with the client's own."""
    other = Authority(tmp_path, "other")
    with HttpServer(tls=authority.serving(ssl.CERT_REQUIRED)) as server:
        assert send(server.url, ca_bundle=authority.bundle, tls_strict=strict, **certificate) == DELIVERED
        assert send(server.url, ca_bundle=other.bundle, tls_strict=strict) == UNTRUSTED
        elsewhere = server.url.replace("127.0.0.1", "127.0.0.2")
        mismatch = Outcome(Verdict.UNREACHABLE, "tls:ip-address-mismatch")
        server_is_elsewhere = elsewhere.replace("127.0.0.2", "localhost")
        found = send(server_is_elsewhere, ca_bundle=authority.bundle, tls_strict=strict)
        assert found in (mismatch, Outcome(Verdict.UNREACHABLE, "tls:hostname-mismatch"))


def test_the_doctor_says_what_is_wrong_with_a_certificate() -> None:
    """And what can be done about it."""
    result = ProbeResult(False, False, "tls:missing-authority-key-identifier")
    check = judge_upstream("https://a", result, 0.1, "FLUXY_SYNC_UPSTREAM")
    assert "missing authority key identifier" in check.found
    assert "FLUXY_SYNC_TLS_STRICT=0" in check.advice


def test_a_stores_certificate_that_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    """The sentence is about the certificate: whoever asks "is it running?" looks in the wrong place."""
    other = Authority(tmp_path, "other")
    with HttpServer(tls=authority.serving()) as server:
        url = f"{server.url.replace('https', 'rediss')}/0?ssl_ca_certs={other.bundle}"
        store = Store(connect(url))
        with pytest.raises(NotSent, match=r"certificate isn't accepted \(.*certificate.*ssl_ca_certs") as caught:
            store.command("PING")
        assert "running" not in str(caught.value)
        with pytest.raises(NotSent, match="certificate isn't accepted"):
            check_durability(store, "always")
        store.close()


# --- the probe and the token endpoint


def probe(**settings: Any) -> tuple[bool, str]:
    asked = Probe(Settings(**settings))
    result = asked.ask()
    asked.close()
    return result.online, result.reason


def test_a_probe_has_the_same_tls_and_no_credentials(authority: Authority, certificate: dict[str, Path]) -> None:
    """Else a gateway with a private authority would always be offline; a probe shows no secret."""
    with HttpServer(tls=authority.serving(ssl.CERT_REQUIRED)) as server:
        assert probe(upstream=server.url) == (False, UNTRUSTED.reason)
        assert probe(upstream=server.url, ca_bundle=authority.bundle) == (False, "tls")
        secret = {"auth_bearer": "secret", "ca_bundle": authority.bundle}
        assert probe(upstream=server.url, **secret, **certificate) == (True, "201")
        (seen,) = server.seen
    assert (seen.method, seen.certificate, seen.authorization) == ("HEAD", "gateway", None)


def test_a_probe_of_another_server_shows_no_certificate(authority: Authority, certificate: dict[str, Path]) -> None:
    """PROBE_URL may lead anywhere."""
    with HttpServer(tls=authority.serving(ssl.CERT_OPTIONAL)) as other:
        settings = {
            "upstream": "https://127.0.0.1:1",
            "probe_url": f"{other.url}/health",
            "ca_bundle": authority.bundle,
        }
        assert probe(**settings, **certificate) == (True, "201")
        assert [seen.certificate for seen in other.seen] == [None]


def test_the_token_endpoint_has_the_same_tls(authority: Authority, certificate: dict[str, Path], send: Send) -> None:
    """The private authority, and the client certificate (RFC 8705)."""

    def give_token(_: Seen) -> Said:
        return said_json(access_token="t", token_type="Bearer", expires_in=60)

    with (
        HttpServer(give_token, authority.serving(ssl.CERT_REQUIRED)) as endpoint,
        HttpServer(tls=authority.serving()) as server,
    ):
        settings: dict[str, Any] = {
            "auth_oauth2_token_url": f"{endpoint.url}/token",
            "auth_oauth2_client_id": "id",
            "auth_oauth2_client_secret": "secret",
            "ca_bundle": authority.bundle,
        }
        assert send(server.url, **settings) == Outcome(Verdict.UNAUTHORIZED, "token-unreachable")
        assert (endpoint.seen, server.seen) == ([], [])
        assert send(server.url, **settings, **certificate) == DELIVERED
        assert [seen.certificate for seen in endpoint.seen] == ["gateway"]
        assert [seen.authorization for seen in server.seen] == ["Bearer t"]
