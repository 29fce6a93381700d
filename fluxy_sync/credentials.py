"""The gateway's credentials: added when sending, to the upstream alone, and never stored with an operation."""

import base64
import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import requests
from pydantic import SecretStr
from requests.auth import AuthBase
from requests.cookies import RequestsCookieJar
from requests.utils import check_header_validity

from fluxy_sync.access_token import PAUSE_S, AccessToken, TokenEndpoint
from fluxy_sync.errors import ConfigError
from fluxy_sync.flight import NETWORK_ERRORS, CredentialsError, Flight, boottime
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import origin_of
from fluxy_sync.settings import ENV_PREFIX, Settings
from fluxy_sync.tls import Tls
from fluxy_sync.token_place import Place

logger = get_logger(__name__)

FAILED = "credentials-failed"


class Credentials(ABC):
    """What makes a request the gateway's. Safe to share between threads.

    Each state of it is a generation: a request that was refused tells the one that it carried, so that of many that
    were refused together only the first refreshes.
    """

    @abstractmethod
    def add_to(self, prepared: requests.PreparedRequest, flight: Flight) -> str:
        """Add them; returns their generation.

        Raises:
            CredentialsError: they could not be got.
        """

    @abstractmethod
    def refresh(self, used: str, flight: Flight) -> bool:
        """The upstream refused that generation; returns whether there is another one to try.

        Raises:
            CredentialsError: another one could not be got.
        """

    def close(self) -> None:  # noqa: B027 -- most have nothing to close
        """Close connections of its own."""


class Header(Credentials):
    """A fixed Authorization header. Where its secret lies in a file, a refusal has it read again: it may be rotated."""

    def __init__(self, settings: Settings, name: str, secret: SecretStr, form: Callable[[str], str]) -> None:
        self._settings, self._name, self._form = settings, name, form
        self._lock = threading.Lock()
        self._state = (0, self._formed(secret))

    def _formed(self, secret: SecretStr) -> SecretStr:
        return SecretStr(self._form(secret.get_secret_value()))

    def add_to(self, prepared: requests.PreparedRequest, flight: Flight) -> str:
        generation, value = self._state
        prepared.headers["Authorization"] = value.get_secret_value()
        return str(generation)

    def refresh(self, used: str, flight: Flight) -> bool:
        with self._lock:
            generation, value = self._state
            if str(generation) != used:
                return True
            secret = self._settings.read_again(self._name)
            again = value if secret is None else self._formed(secret)
            self._state = (generation + (again != value), again)
            return again != value


def bearer(token: str) -> str:
    """RFC 6750, section 2.1."""
    return f"Bearer {token}"


def basic(login: str) -> str:
    """``user:password`` (RFC 7617)."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


class OAuth2(Credentials):
    """An access token by client credentials, shared by all processes."""

    def __init__(self, token: AccessToken) -> None:
        self._token = token

    def add_to(self, prepared: requests.PreparedRequest, flight: Flight) -> str:
        token = self._token.get(flight)
        prepared.headers["Authorization"] = bearer(token.access_token)
        return token.generation

    def refresh(self, used: str, flight: Flight) -> bool:
        self._token.replace(used, flight)
        return True

    def close(self) -> None:
        self._token.close()


class UserAuth(Credentials):
    """A user's ``requests.auth.AuthBase``, by its import path.

    It may change the request and ask for its answers (``register_hook``, as digest does). What it raises is never
    shown.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._make, auth = self._load()
        self._state = (0, auth)
        self._lock = threading.Lock()
        self._refreshed_at = float("-inf")

    def _load(self) -> tuple[Callable[[], AuthBase] | None, AuthBase]:
        """How to make another one (None: it was given as an instance), and the first."""
        module, _, name = self._path.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything
            raise self._wrong(f"{self._path} can't be loaded ({type(error).__name__})") from error
        if isinstance(found, AuthBase):
            return None, found
        try:
            auth = found()
        except Exception as error:  # noqa: BLE001 -- a user's code; its text may hold a secret
            raise self._wrong(f"{self._path} can't be made ({type(error).__name__})") from None
        if not isinstance(auth, AuthBase):
            raise self._wrong(f"{self._path} gives no requests.auth.AuthBase")
        return found, auth

    @staticmethod
    def _wrong(reason: str) -> ConfigError:
        return ConfigError(f"{ENV_PREFIX}AUTH_REQUESTS: {reason}")

    def add_to(self, prepared: requests.PreparedRequest, flight: Flight) -> str:
        generation, auth = self._state
        prepared._cookies = RequestsCookieJar()  # type: ignore[attr-defined]  # as in a session: auths copy requests
        url, body = prepared.url, prepared.body
        self._call(lambda: prepared.__dict__.update(auth(prepared).__dict__))
        self._call(lambda: self._check(prepared, url))
        if prepared.body is not body:
            prepared.prepare_content_length(prepared.body)
        hooks = prepared.hooks.get("response") or []
        prepared.hooks["response"] = [self._guarded(hook) for hook in hooks]
        return str(generation)

    def _call(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 -- a user's code
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> CredentialsError:
        """Without the error's text: it may hold a secret."""
        logger.warning("%sAUTH_REQUESTS: %s raised %s.", ENV_PREFIX, self._path, type(error).__name__)
        return CredentialsError(FAILED)

    @staticmethod
    def _check(prepared: requests.PreparedRequest, url: str | None) -> None:
        """What would fail later, with the header's value in the error's text; and that it goes where it should."""
        for header in prepared.headers.items():
            check_header_validity(header)
        if origin_of(str(prepared.url)) != origin_of(str(url)):
            raise ValueError("the request would go to another origin")

    def _guarded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(response: requests.Response, **options: Any) -> Any:
            try:
                return hook(response, **options)
            except NETWORK_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 -- a user's code
                raise self._failed(error) from None

        return call

    def refresh(self, used: str, flight: Flight) -> bool:
        if not self._lock.acquire(timeout=flight.left_s):
            return False
        try:
            generation, auth = self._state
            if str(generation) != used:
                return True
            if boottime() - self._refreshed_at < PAUSE_S:
                return False
            self._refreshed_at = boottime()
            renewed = self._call(lambda: self._renewed(auth))
            if renewed is not None:
                self._state = (generation + 1, renewed)
            return renewed is not None
        finally:
            self._lock.release()

    def _renewed(self, auth: AuthBase) -> AuthBase | None:
        refresh = getattr(auth, "refresh", None)
        if callable(refresh):
            return None if refresh() is False else auth
        return self._make() if self._make is not None else None


def credentials_of(settings: Settings, tls: Tls, shared: Place | None = None) -> Credentials | None:
    """The credentials that are set, if any.

    Args:
        tls: for the token endpoint.
        shared: where an OAuth2 token is kept for all processes; None keeps it in this one.

    Raises:
        ConfigError: an AuthBase can't be loaded.
    """
    if settings.auth_bearer is not None:
        return Header(settings, "auth_bearer", settings.auth_bearer, bearer)
    if settings.auth_basic is not None:
        return Header(settings, "auth_basic", settings.auth_basic, basic)
    if settings.auth_oauth2_token_url is not None:
        return OAuth2(AccessToken(TokenEndpoint(settings, tls), shared))
    if settings.auth_requests is not None:
        return UserAuth(settings.auth_requests)
    return None
