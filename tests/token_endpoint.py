"""An OAuth2 token endpoint beside an upstream that takes its tokens, and the processes of a gateway that use them."""

import itertools
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fluxy_sync.credentials import credentials_of
from fluxy_sync.delivery import Delivery, Flight, Request, boottime
from fluxy_sync.journal import Store, connect
from fluxy_sync.journal.keys import Keys
from fluxy_sync.operation import Outcome, Verdict
from fluxy_sync.settings import Settings
from fluxy_sync.tls import Tls
from fluxy_sync.token_place import SharedPlace, audience_of
from fluxy_sync.vault import Vault, new_key
from tests.http_server import HttpServer, Said, Seen, said_json

MARKER = "marker-of-a-token"
DELIVERED = Outcome(Verdict.DELIVERED, "201", 201)
UNAUTHORIZED = Outcome(Verdict.UNAUTHORIZED, "401", 401)
UNREACHABLE = Outcome(Verdict.UNAUTHORIZED, "token-unreachable")
REFUSED = Outcome(Verdict.UNAUTHORIZED, "token-refused")


class Endpoint:
    """Gives numbered tokens; the upstream beside it takes those in ``valid`` (None: all)."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.answer: Said | None = None
        self.lifetime: Any = 3600
        self.valid: set[str] | None = None
        self.holds = threading.Event()
        self.holds.set()
        self.server = HttpServer(self._give)
        self.upstream = HttpServer(self._take)

    def _give(self, _: Seen) -> Said:
        self.holds.wait(9)
        token = f"{MARKER}-{next(self.numbers)}"
        return self.answer or said_json(access_token=token, token_type="Bearer", expires_in=self.lifetime)

    def _take(self, seen: Seen) -> Said:
        token = str(seen.authorization).removeprefix(f"Bearer {MARKER}-")
        return Said(201 if self.valid is None or token in self.valid else 401)

    @property
    def fetches(self) -> int:
        return len(self.server.seen)

    @property
    def tokens(self) -> list[str]:
        """The numbers of the tokens that the upstream saw."""
        return [str(seen.authorization).removeprefix(f"Bearer {MARKER}-") for seen in self.upstream.seen]

    def __enter__(self) -> Self:
        self.server.__enter__()
        self.upstream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.holds.set()
        self.server.__exit__(kind, error, trace)
        self.upstream.__exit__(kind, error, trace)


class Fleet:
    """Makes deliveries as the processes of one namespace have them: each with connections of its own."""

    def __init__(self, endpoint: Endpoint, store_url: str, namespace: str, folder: Path) -> None:
        self.settings: dict[str, Any] = {
            "upstream": endpoint.upstream.url,
            "namespace": namespace,
            "data_dir": folder,
            "auth_oauth2_token_url": f"{endpoint.server.url}/token",
            "auth_oauth2_client_id": "gateway",
            "auth_oauth2_client_secret": "secret",
            "connect_timeout_s": 1,
        }
        self.vault = Vault.from_text([new_key()])
        self._url = store_url
        self._open: list[Store | Delivery] = []
        self._keys = Keys(namespace)
        self._own = Store(connect(store_url))

    def place(self, url: str = "", vault: Vault | None = None, **changes: Any) -> SharedPlace:
        """Where a process finds the shared token."""
        store = Store(connect(url or self._url))
        self._open.append(store)
        audience = audience_of(Settings(**self.settings | changes))
        return SharedPlace(self._keys.namespace, audience, lambda: store, lambda: vault or self.vault)

    def process(self, url: str = "", vault: Vault | None = None, **changes: Any) -> Delivery:
        given = Settings(**self.settings | changes)
        delivery = Delivery(given, credentials_of(given, Tls.of(given), self.place(url, vault, **changes)))
        self._open.append(delivery)
        return delivery

    def forget_the_fetch(self) -> None:
        """As if the last one were some seconds ago."""
        self._own.command("DEL", self._keys.auth_lock)

    def close(self) -> None:
        for one in (*self._open, self._own):
            one.close()


def send(delivery: Delivery, lasts_s: float = 9.0) -> Outcome:
    request = Request("POST", f"{delivery.upstream}/api", {"Content-Length": "1"}, b"x")
    return delivery.send(request, Flight(boottime() + 60, boottime() + lasts_s)).outcome


def together(*deliveries: Delivery, lasts_s: float = 9.0) -> list[Outcome]:
    """Send over all of them at the same time, each from a thread of its own."""
    found: list[Outcome] = []
    threads = [threading.Thread(target=lambda d=d: found.append(send(d, lasts_s))) for d in deliveries]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found
