"""Where live values are read: the dashboard, or the store itself."""

import threading
import time
from typing import Literal

import msgspec

from fluxy_sync.engine import Engine
from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.event_stream import Dashboard, DashboardUnavailable
from fluxy_sync.journal import Journal, Store, connect
from fluxy_sync.logs import get_logger
from fluxy_sync.status import Status, read_status
from fluxy_sync.tls import Tls

logger = get_logger(__name__)

STORE_TIMEOUT_S = 1.0

SourceName = Literal["dashboard", "store"]


class Reading(msgspec.Struct, frozen=True):
    """What was read, and where. ``boot`` names the dashboard's process; ``status`` is None where that knows nothing."""

    status: Status | None
    source: SourceName
    namespace: str
    began: float  # monotonic: what it shows is not older
    boot: str = ""


class _Origin(msgspec.Struct):
    boot: str
    namespace: str = ""
    pending: int | None = None


def read_record(data: bytes) -> Reading:
    """The dashboard's record as a reading.

    Raises:
        DashboardUnavailable: it is something else.
    """
    now = time.monotonic()
    try:
        origin = msgspec.json.decode(data, type=_Origin)
        status = None if origin.pending is None else msgspec.json.decode(data, type=Status)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DashboardUnavailable("the dashboard's record can't be read; is it of another version?") from error
    return Reading(status, "dashboard", origin.namespace, now, origin.boot)


class StoreSource:
    """The store, on connections of its own that give up soon. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._journal: Journal | None = None

    def read(self) -> Reading:
        """Take a snapshot.

        Raises:
            StorageUnavailable: the store can't be read.
            ConfigError: its address can't be read.
        """
        began = time.monotonic()
        try:
            status = read_status(self.reach())
        except msgspec.ValidationError as error:
            raise StorageUnavailable(
                "the store's counts can't be read; were they written by another version?"
            ) from error
        return Reading(status, "store", self._engine.settings.namespace, began)

    def reach(self) -> Journal:
        """The journal; raises ConfigError where the store's address can't be read."""
        with self._lock:
            if self._journal is None:
                settings = self._engine.settings
                store = Store(connect(settings.store_url, STORE_TIMEOUT_S))
                self._journal = Journal(store, settings.namespace)
            return self._journal

    def close(self) -> None:
        """Give its connections up; the next reading makes new ones."""
        with self._lock:
            journal, self._journal = self._journal, None
        if journal is not None:
            journal.store.close()


class Sources:
    """The dashboard, where one is named, and the store."""

    def __init__(self, engine: Engine) -> None:
        settings = engine.settings
        self._engine = engine
        self._shown = ""
        self.store = StoreSource(engine)
        self.dashboard: Dashboard | None = None
        if settings.dashboard_url is not None:
            url = settings.dashboard_url.get_secret_value()
            self.dashboard = Dashboard(url, Tls.of(settings) if url.startswith("https:") else Tls())

    def read(self) -> Reading:
        """Read once: the dashboard, or else the store.

        Raises:
            StorageUnavailable: neither can be read.
            ConfigError: the store's address can't be read.
        """
        if self.dashboard is None:
            return self.store.read()
        try:
            reading = self.from_record(self.dashboard.record())
            if reading.status is not None:
                return reading
            reason = "the dashboard can't read its store"
        except DashboardUnavailable as error:
            reason = str(error)
        try:
            return self.from_store()
        except StorageUnavailable as error:
            raise StorageUnavailable(f"{reason}; {error}") from error

    def from_record(self, data: bytes) -> Reading:
        """The dashboard's record; raises as ``read_record`` does."""
        reading = read_record(data)
        if reading.namespace and reading.namespace != self._shown:
            self._shown, own = reading.namespace, self._own
            if self._shown != own:
                logger.warning("The dashboard shows namespace %s; FLUXY_SYNC_NAMESPACE is %s here.", self._shown, own)
        return reading

    @property
    def _own(self) -> str:
        return self._engine.settings.namespace

    def from_store(self) -> Reading:
        """The store's snapshot, where that is of the queue that the dashboard shows; raises as ``StoreSource.read``."""
        if self._shown not in ("", self._own):
            raise StorageUnavailable(
                f"the dashboard showed namespace {self._shown}: set FLUXY_SYNC_NAMESPACE to it to read the store, too"
            )
        return self.store.read()
