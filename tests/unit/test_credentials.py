"""Credentials before anything is sent: what fits together, which files are looked at, and what is never shown."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth

from fluxy_sync.access_token import Token
from fluxy_sync.credentials import Credentials, credentials_of
from fluxy_sync.delivery import Delivery
from fluxy_sync.errors import ConfigError
from fluxy_sync.flight import CredentialsError, Flight, boottime
from fluxy_sync.settings import Settings, load_settings
from fluxy_sync.tls import Tls
from tests.http_server import Authority

SECRET = "s3cret-value"
OAUTH2 = {
    "auth_oauth2_token_url": "https://auth.example/token",
    "auth_oauth2_client_id": "gateway",
    "auth_oauth2_client_secret": SECRET,
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FLUXY_SYNC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FLUXY_SYNC_UPSTREAM", "http://upstream.example")


def carried(credentials: Credentials | None) -> tuple[str, str]:
    """The generation and the Authorization header that a request gets."""
    assert credentials is not None
    prepared = requests.Request("POST", "http://upstream.example/api", data=b"x").prepare()
    generation = credentials.add_to(prepared, flight())
    return generation, prepared.headers["Authorization"]


def flight() -> Flight:
    return Flight(boottime() + 9, boottime() + 9)


# --- settings


@pytest.mark.parametrize(
    ("values", "one", "other"),
    [
        ({"auth_bearer": "t", "auth_basic": "u:p"}, "BEARER", "BASIC"),
        ({"auth_bearer": "t", **OAUTH2}, "BEARER", "OAUTH2_TOKEN_URL"),
        ({"auth_basic": "u:p", "auth_requests": "a:b"}, "BASIC", "REQUESTS"),
        ({"auth_requests": "a:b", **OAUTH2}, "OAUTH2_TOKEN_URL", "REQUESTS"),
    ],
)
def test_only_one_kind_may_be_set(values: dict[str, Any], one: str, other: str) -> None:
    """Both variables are named; nobody guesses which one was meant."""
    with pytest.raises(ConfigError, match=f"^FLUXY_SYNC_AUTH_{one} and FLUXY_SYNC_AUTH_{other} are both set"):
        load_settings(**values)


@pytest.mark.parametrize("missing", list(OAUTH2))
def test_oauth2_needs_all_three(missing: str) -> None:
    """The one that is missing is named, also where only the scope is set."""
    with pytest.raises(ConfigError, match=f"without FLUXY_SYNC_{missing.upper()}; set it too"):
        load_settings(**{name: value for name, value in OAUTH2.items() if name != missing})
    with pytest.raises(ConfigError, match="without FLUXY_SYNC_AUTH_OAUTH2_TOKEN_URL"):
        load_settings(auth_oauth2_scope="write")


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    """Without one it would silently not be used."""
    with pytest.raises(ConfigError, match="FLUXY_SYNC_CLIENT_KEY is set without FLUXY_SYNC_CLIENT_CERT"):
        load_settings(client_key=tmp_path / "key")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auth_bearer", f"{SECRET} two words"),
        ("auth_bearer", f"{SECRET}\r\nX-Other: 1"),
        ("auth_bearer", f"{SECRET}\u20ac"),
        ("auth_basic", SECRET),
        ("auth_basic", f"user:{SECRET}\n"),
        ("auth_oauth2_client_secret", f"{SECRET}\n"),
        ("auth_oauth2_token_url", f"ftp://{SECRET}"),
        ("auth_oauth2_token_url", f"https://user:{SECRET}@auth.example/token"),
        ("auth_requests", f"{SECRET}"),
        ("auth_requests", f"os.system('{SECRET}'):x"),
    ],
)
def test_a_wrong_value_is_named_and_not_shown(name: str, value: str) -> None:
    """What can't stand in a header would else fail when sending, with the secret in the error's text."""
    with pytest.raises(ConfigError, match=f"^FLUXY_SYNC_{name.upper()}: ") as caught:
        load_settings(**(OAUTH2 if "oauth2" in name else {}) | {name: value})
    assert SECRET not in str(caught.value)
    with pytest.raises(ValueError, match=name) as plain:
        Settings(**{name: value})
    assert SECRET not in str(plain.value) + repr(plain.value)


@pytest.mark.parametrize("values", [{"auth_bearer": SECRET}, {"auth_basic": f"u:{SECRET}"}, OAUTH2])
def test_secrets_are_masked(values: dict[str, Any]) -> None:
    """In the settings' repr, and in those of what is made of them."""
    settings = Settings(**values)
    made = credentials_of(settings, Tls())
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json() + repr(made) + repr(vars(made))


def test_a_token_is_not_shown() -> None:
    """Nor in the text of whatever holds it."""
    assert SECRET not in repr([Token("g", SECRET, 1.0)]) + str(Token("g", SECRET, 1.0))


# --- TLS files, looked at when a delivery is made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("name", ["CA_BUNDLE", "CLIENT_CERT", "CLIENT_KEY"])
def test_a_file_that_is_not_there_is_named(authority: Authority, tmp_path: Path, name: str) -> None:
    """With its variable, before anything is sent; a folder is no file either."""
    cert, key = authority.issue("gateway")
    files = {"ca_bundle": authority.bundle, "client_cert": cert, "client_key": key}
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ConfigError, match=rf"^FLUXY_SYNC_{name}: .* can't be read"):
            Delivery(load_settings(**files | {name.lower(): wrong}))
    Delivery(load_settings(**files)).close()


def test_a_bundle_without_certificates_is_named(tmp_path: Path) -> None:
    """It would trust nobody."""
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"^FLUXY_SYNC_CA_BUNDLE: .* holds no certificates in PEM form"):
        Delivery(load_settings(ca_bundle=tmp_path / "empty.pem"))


def test_a_key_that_does_not_fit_is_named(authority: Authority) -> None:
    """Another certificate's, or one with a password, which OpenSSL would ask for on the terminal; or none at all."""
    cert, _ = authority.issue("gateway")
    _, other = authority.issue("other")
    locked_cert, locked = authority.issue("locked", password=b"pw")
    for certificate, key in ((cert, other), (locked_cert, locked), (cert, authority.bundle)):
        with pytest.raises(ConfigError, match=r"^FLUXY_SYNC_CLIENT_KEY: .* fits the certificate in"):
            Delivery(load_settings(client_cert=certificate, client_key=key))
    with pytest.raises(ConfigError, match=r"^FLUXY_SYNC_CLIENT_CERT: .* holds no key"):
        Delivery(load_settings(client_cert=cert))


# --- a secret in a file


@pytest.fixture
def secret_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "bearer"
    path.write_text("one\n")
    monkeypatch.setenv("FLUXY_SYNC_AUTH_BEARER_FILE", str(path))
    return path


def test_a_rotated_secret_is_read_when_it_was_refused(secret_file: Path) -> None:
    """Once for all that were refused together; a file that didn't change refreshes nothing."""
    made = credentials_of(load_settings(), Tls())
    assert made is not None
    refused = carried(made)
    assert refused == ("0", "Bearer one")
    assert not made.refresh("0", flight())
    secret_file.write_text("two")
    assert carried(made) == refused  # not before it is refused
    assert made.refresh("0", flight())
    assert made.refresh("0", flight())  # a late one finds that done
    assert carried(made) == ("1", "Bearer two")
    assert not made.refresh("1", flight())


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff", b"two words", b"a\r\nb"])
def test_a_file_that_is_just_being_replaced_changes_nothing(secret_file: Path, content: bytes | None) -> None:
    """Missing, empty or not a token: what was read before stays, until it is whole."""
    made = credentials_of(load_settings(), Tls())
    assert made is not None
    if content is None:
        secret_file.unlink()
    else:
        secret_file.write_bytes(content)
    assert not made.refresh("0", flight())
    assert carried(made) == ("0", "Bearer one")
    secret_file.write_text("two")
    assert made.refresh("0", flight())


def test_a_secret_that_was_given_itself_has_no_file(secret_file: Path) -> None:
    """What a program passes isn't replaced by a variable of its environment."""
    made = credentials_of(load_settings(auth_bearer="mine"), Tls())
    assert made is not None
    assert not made.refresh("0", flight())
    assert carried(made) == ("0", "Bearer mine")


def test_basic_is_sent_in_utf_8() -> None:
    """RFC 7617, section 2.1; the password may hold a colon."""
    assert carried(credentials_of(Settings(auth_basic="user:p:\u00e4"), Tls()))[1] == "Basic dXNlcjpwOsOk"


# --- a user's AuthBase


class Auth(AuthBase):
    """Counts how often it was made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.number = self.made

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Own {self.number}"
        return request


class Refreshing(Auth):
    def refresh(self) -> None:
        self.number += 100


class Stubborn(Auth):
    def refresh(self) -> bool:
        return False


class Failing(Auth):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        raise RuntimeError(SECRET)

    def refresh(self) -> None:
        raise RuntimeError(SECRET)


class Splitting(Auth):
    """Puts two lines into a header."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"{SECRET}\r\nX: 1"
        return request


class Diverting(Auth):
    """Sends the request elsewhere."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.url = "http://elsewhere.example/"
        return request


def broken_factory() -> AuthBase:
    raise RuntimeError(SECRET)


def not_auth() -> str:
    return SECRET


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module of the user's, whose import path is 'gateway_auth'."""
    found = ModuleType("gateway_auth")
    for kind in (Auth, Refreshing, Stubborn, Failing, Splitting, Diverting):
        kind.made = 0
        setattr(found, kind.__name__, kind)
    found.instance = Auth()  # type: ignore[attr-defined]
    found.factory = lambda: Auth()  # type: ignore[attr-defined]
    found.broken_factory, found.not_auth = broken_factory, not_auth  # type: ignore[attr-defined]
    found.Plain = HTTPBasicAuth  # type: ignore[attr-defined]
    sys.modules["gateway_auth"] = found
    yield found
    del sys.modules["gateway_auth"]


def user_auth(name: str) -> Credentials:
    made = credentials_of(Settings(auth_requests=f"gateway_auth:{name}"), Tls())
    assert made is not None
    return made


@pytest.mark.parametrize("name", ["instance", "Auth", "factory"])
def test_an_auth_may_be_an_instance_a_class_or_a_callable(module: ModuleType, name: str) -> None:
    """Whatever gives a requests.auth.AuthBase without arguments."""
    assert carried(user_auth(name))[1].startswith("Own ")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gateway_auth:missing", r"can't be loaded \(AttributeError\)"),
        ("no_such_module:auth", r"can't be loaded \(ModuleNotFoundError\)"),
        ("gateway_auth:broken_factory", r"can't be made \(RuntimeError\)"),
        ("gateway_auth:Plain", r"can't be made \(TypeError\)"),
        ("gateway_auth:not_auth", "gives no requests.auth.AuthBase"),
    ],
)
def test_an_auth_that_can_not_be_had_is_named(module: ModuleType, path: str, reason: str) -> None:
    """When the delivery is made; what the user's code said isn't shown."""
    with pytest.raises(ConfigError, match=f"^FLUXY_SYNC_AUTH_REQUESTS: {path} {reason}") as caught:
        Delivery(load_settings(auth_requests=path))
    assert SECRET not in "".join(map(repr, (caught.value, caught.value.__cause__)))


@pytest.mark.parametrize("name", ["Failing", "Splitting", "Diverting"])
def test_an_auth_that_fails_sends_nothing(module: ModuleType, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """And its error's text goes nowhere: it may hold the secret."""
    with caplog.at_level(logging.DEBUG), pytest.raises(CredentialsError, match=r"^credentials-failed$") as caught:
        carried(user_auth(name))
    assert caught.value.__suppress_context__
    assert SECRET not in caplog.text + repr(caught.value)
    assert "FLUXY_SYNC_AUTH_REQUESTS: gateway_auth:" in caplog.text


@pytest.mark.parametrize(
    ("name", "refreshed", "carries"),
    [
        ("instance", False, "Own 1"),  # nobody knows how to make another one
        ("Auth", True, "Own 3"),  # the instance was the first
        ("factory", True, "Own 3"),
        ("Refreshing", True, "Own 101"),
        ("Stubborn", False, "Own 1"),
    ],
)
def test_a_refused_auth_is_refreshed(module: ModuleType, name: str, refreshed: bool, carries: str) -> None:
    """By its own refresh(), else by another instance; once for all that were refused together, not again at once."""
    made = user_auth(name)
    generation, _ = carried(made)
    assert made.refresh(generation, flight()) is refreshed
    assert made.refresh(generation, flight()) is refreshed
    generation, header = carried(made)
    assert header == carries
    assert not made.refresh(generation, flight())


def test_a_refresh_that_fails_is_none(module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Its error's text goes nowhere either."""
    with caplog.at_level(logging.DEBUG), pytest.raises(CredentialsError, match=r"^credentials-failed$"):
        user_auth("Failing").refresh("0", flight())
    assert SECRET not in caplog.text
