"""One gateway under examination: each fact asked for once, and what earlier checks found."""

import json
import time
from collections.abc import Callable

from fluxy_sync.connectivity import Probe, ProbeResult
from fluxy_sync.engine import Engine
from fluxy_sync.errors import ConfigError
from fluxy_sync.expiry import http_date
from fluxy_sync.host.files import read_private
from fluxy_sync.journal import Journal, Snapshot, Store, connect
from fluxy_sync.settings import GATEWAY_FILE, Settings

Broker = Callable[[], int]
Ping = Callable[[], list[str]]


class Patient:
    """One gateway under examination, and what earlier checks found."""

    def __init__(self, engine: Engine, broker: Broker | None, ping: Ping | None) -> None:
        self.engine, self.broker, self.ping = engine, broker, ping
        self.store_fails = "the store can't be used"  # until check_store finds that it can; then empty
        self.broker_fails = ""
        self.info: dict[str, str] = {}  # empty where an ACL hides it
        self.config: dict[str, str] | None = None  # None where an ACL hides it
        self.probed: Probed | None = None
        self._store: Store | None = None
        self._snapshot: Snapshot | None = None

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    @property
    def store(self) -> Store:
        """A connection of our own: the engine's refuses a store that keeps too little, and here that is a finding."""
        if self._store is None:
            self._store = Store(connect(self.settings.store_url))
        return self._store

    @property
    def journal(self) -> Journal:
        return Journal(self.store, self.settings.namespace)

    @property
    def snapshot(self) -> Snapshot:
        """The counts when they were first asked for."""
        if self._snapshot is None:
            self._snapshot = self.journal.snapshot()
        return self._snapshot

    @property
    def store_now(self) -> float:
        """The store's clock: seconds since 1970."""
        seconds, micros = self.store.command("TIME")
        return int(seconds) + int(micros) / 1e6

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store.client.close()


class Probed:
    """A probe of the upstream: what it found, how long it took, and the time by the upstream's own clock."""

    def __init__(self, probe: Probe) -> None:
        started, self.at = time.monotonic(), time.time()
        self.result: ProbeResult = probe.ask()
        self.took_s = time.monotonic() - started
        # A portal's clock says nothing; a Date is cut to whole seconds (RFC 9110, 6.6.1), and came half-way.
        sent = http_date(self.result.date) if self.result.reason != "captive-portal" else None
        self.upstream_ahead_s = None if sent is None else sent.timestamp() + 0.5 - (self.at + self.took_s / 2)


def is_of_gateway(settings: Settings) -> bool:
    """Whether the store is that of the gateway on this machine."""
    try:
        found = json.loads(read_private(settings.data_dir / GATEWAY_FILE))
        return bool(found["redis_url"] == settings.store_url)
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return False
