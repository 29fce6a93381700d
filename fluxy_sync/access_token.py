"""An OAuth2 access token by client credentials (RFC 6749, section 4.4): one process fetches it, all use it."""

import base64
import contextlib
import re
import secrets
import threading
import time
from urllib.parse import quote_plus

import requests
from oauthlib.oauth2 import BackendApplicationClient

from fluxy_sync.certificates import fault_of
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.flight import (
    NETWORK_ERRORS,
    CredentialsError,
    Flight,
    GuardedAdapter,
    boottime,
    flying,
    read_body,
)
from fluxy_sync.logs import get_logger
from fluxy_sync.settings import Settings
from fluxy_sync.tls import Tls
from fluxy_sync.token_place import (
    FAILED,
    FETCHED,
    NAME_CHARACTERS,
    REFUSED,
    TURN_S,
    UNREACHABLE,
    Held,
    Place,
    PrivatePlace,
    Token,
)

logger = get_logger(__name__)

FETCH_TIMEOUT_S = 10.0
PAUSE_S = 5.0  # nobody fetches again within this of a fetch that failed, or whose token the upstream refused
LOOK_S = 0.05
DEFAULT_LIFETIME_S = 3600.0  # where the endpoint names none (RFC 6749, section 5.1: RECOMMENDED)
LONGEST_LIFETIME_S = 30 * 86_400.0
MARGIN = 0.1  # of its lifetime, at most MARGIN_S: no token is used so shortly before it ends
MARGIN_S = 30.0
SHARING_ERRORS = (StorageUnavailable, ConfigError)  # no store, or no key to seal with
_TOKEN = re.compile(r"[!-~]+")  # RFC 6749, appendix A.12, without the space: it must fit into a header


class TokenEndpoint:
    """Asks for tokens. What is sent and what is answered is oauthlib's; how it is sent is ours."""

    def __init__(self, settings: Settings, tls: Tls) -> None:
        assert settings.auth_oauth2_token_url is not None
        assert settings.auth_oauth2_client_id is not None
        self._settings = settings
        self._url = settings.auth_oauth2_token_url
        self._client_id = settings.auth_oauth2_client_id
        self._adapter = GuardedAdapter(tls, settings.connect_timeout_s, settings.read_timeout_s)

    def fetch(self, flight: Flight) -> Token:
        """Ask once, within the flight's deadline.

        Raises:
            CredentialsError: the endpoint can't be reached, or gives no token.
        """
        limits = Flight(float("inf"), min(flight.deadline, boottime() + FETCH_TIMEOUT_S))
        try:
            with flying(limits):
                response = self._adapter.send(self._request())
                body = read_body(response)
        except NETWORK_ERRORS as error:
            # Not `from error`: it holds the request, and that the secret.
            raise self._failed(UNREACHABLE, fault_of(error) or type(error).__name__) from None
        if response.status_code >= 500 or response.status_code == 429 or 300 <= response.status_code < 400:
            raise self._failed(UNREACHABLE, str(response.status_code))
        return self._read(body, response.status_code)

    @staticmethod
    def _failed(reason: str, detail: str) -> CredentialsError:
        logger.warning("No access token could be got (%s, %s).", reason, detail)
        return CredentialsError(reason)

    def _request(self) -> requests.PreparedRequest:
        scope = self._settings.auth_oauth2_scope
        body = BackendApplicationClient(self._client_id).prepare_request_body(scope=scope)
        headers = {
            "Authorization": f"Basic {self._login()}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "fluxy-sync",
        }
        return requests.Request("POST", self._url, headers=headers, data=body).prepare()

    def _login(self) -> str:
        """Id and secret, each form-encoded first (RFC 6749, section 2.3.1). A secret in a file is read each time."""
        name = "auth_oauth2_client_secret"
        secret = self._settings.read_again(name) or self._settings.auth_oauth2_client_secret
        assert secret is not None
        return base64.b64encode(
            f"{quote_plus(self._client_id)}:{quote_plus(secret.get_secret_value())}".encode()
        ).decode()

    def _read(self, body: bytes, status: int) -> Token:
        try:
            # Without the scope: a server may grant another one, and says so (RFC 6749, section 3.3).
            answer = BackendApplicationClient(self._client_id).parse_request_body_response(body.decode())
            token = answer["access_token"]
            usable_s = _usable_s(float(answer.get("expires_in") or 0) or DEFAULT_LIFETIME_S)
            is_bearer = str(answer.get("token_type", "bearer")).lower().startswith("bearer")
        except Exception as error:  # noqa: BLE001 -- whatever a server sends there, it is no token
            raise self._failed(REFUSED, f"{status} {type(error).__name__}") from None
        if not is_bearer or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise self._failed(REFUSED, f"{status} not a bearer token")
        return Token(_name(), token, usable_s)

    def close(self) -> None:
        self._adapter.close()


def _name() -> str:
    return secrets.token_hex(NAME_CHARACTERS // 2)


def _usable_s(lifetime_s: float) -> float:
    lifetime_s = min(max(lifetime_s, 0.0), LONGEST_LIFETIME_S)
    return lifetime_s - min(MARGIN * lifetime_s, MARGIN_S)


class AccessToken:
    """The token of this process: taken from where all keep it, fetched by whoever comes first.

    Args:
        shared: None keeps it in this process alone.
    """

    def __init__(self, endpoint: TokenEndpoint, shared: Place | None) -> None:
        self._endpoint = endpoint
        self._private = PrivatePlace()
        self._shared = shared or self._private
        self._held: Held | None = None
        self._lock = threading.Lock()

    def get(self, flight: Flight) -> Token:
        """A token that serves; replaced early enough that none ends on its way.

        Raises:
            CredentialsError: there is none to be had within the flight's deadline, or for now.
        """
        held = self._held
        if held is not None and held.is_fresh:
            return held.token
        if held is None or not held.serves:
            return self.replace("", flight)
        try:
            # While somebody fetches the next one, the present one serves.
            return self.replace(held.token.generation, flight, waits=False)
        except CredentialsError:
            return held.token

    def replace(self, used: str, flight: Flight, *, waits: bool = True) -> Token:
        """A token of another generation than ``used``.

        Raises:
            CredentialsError: there is none to be had within the flight's deadline, or for now.
        """
        if not self._lock.acquire(timeout=flight.left_s if waits else 0):
            raise CredentialsError(UNREACHABLE)
        try:
            held = self._held
            if held is None or held.token.generation == used or not held.serves:
                self._held = held = self._get(used, flight, waits=waits)
            return held.token  # another thread may have got it while this one waited
        finally:
            self._lock.release()

    def _get(self, used: str, flight: Flight, *, waits: bool) -> Held:
        try:
            return self._get_from(self._shared, used, flight, waits=waits)
        except SHARING_ERRORS:
            return self._get_from(self._private, used, flight, waits=waits)

    def _get_from(self, place: Place, used: str, flight: Flight, *, waits: bool) -> Held:
        name = _name()
        while True:
            held = place.load()
            if held is not None and held.token.generation != used:
                return held
            turn = place.take_turn(name)
            if turn.startswith(FAILED):
                raise CredentialsError(turn.removeprefix(FAILED))
            if turn == f"{FETCHED}{used}":
                raise CredentialsError(REFUSED)  # a new one was just fetched, and the upstream refuses that too
            if turn == name or (turn.startswith(FETCHED) and place.pass_turn(turn, name, TURN_S)):
                return self._fetch_for_all(place, name, used, flight)
            if not waits or boottime() + LOOK_S >= flight.deadline:
                raise CredentialsError(UNREACHABLE)
            time.sleep(LOOK_S)

    def _fetch_for_all(self, place: Place, name: str, used: str, flight: Flight) -> Held:
        result = ""
        try:
            held = place.load()  # another process may have been first
            if held is None or held.token.generation == used:
                held = self._fetch(place, flight)
            result = f"{FETCHED}{held.token.generation}"
            return held
        except CredentialsError as error:
            result = f"{FAILED}{error.reason}"
            raise
        finally:
            with contextlib.suppress(*SHARING_ERRORS):  # then the turn ends by itself
                place.pass_turn(name, result, PAUSE_S)

    def _fetch(self, place: Place, flight: Flight) -> Held:
        token = self._endpoint.fetch(flight)
        held = Held(token, boottime() + token.lifetime_s)
        with contextlib.suppress(*SHARING_ERRORS):  # then it serves this process alone
            place.save(token)
        return held

    def close(self) -> None:
        self._endpoint.close()
