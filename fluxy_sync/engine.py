"""What one process needs to accept and deliver operations, made from the settings when it is first used."""

import os
import threading
from collections.abc import Callable, Sequence

from fluxy_sync.delivery import Delivery
from fluxy_sync.errors import CorruptRecord
from fluxy_sync.journal import (
    Journal,
    NewRecord,
    Store,
    StoredRecord,
    check_durability,
    connect,
    default_max_bytes,
    maxmemory_of,
)
from fluxy_sync.journal.record import FORMAT, seal_context
from fluxy_sync.operation import Operation, check_size, origin_of
from fluxy_sync.settings import Settings
from fluxy_sync.vault import Vault

ENVELOPE_BYTES = 64 * 1024  # beyond MAX_BODY_BYTES: headers, links and names


class Engine:
    """Settings, vault, journal and delivery of one namespace. Connections are made once in each process.

    Args:
        settings: as loaded; where they name no store, ``reload`` is asked again at each use, so that a producer may
            start before its gateway.
        reload: reads the settings anew.
        on_store: called once a store is named after all.
    """

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings] | None = None,
        on_store: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._on_store = on_store
        self._lock = threading.Lock()
        self._origins: tuple[Settings, tuple[str, ...]] | None = None
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._vault: Vault | None = None
        self._journal: Journal | None = None
        self._delivery: Delivery | None = None

    def _enter_process(self) -> None:
        # After a fork nothing of the parent's connections may be used; its locks may be held for ever.
        if self._pid != os.getpid():
            self._lock = threading.Lock()
            self._forget()

    @property
    def settings(self) -> Settings:
        """The settings; read again while they name no store."""
        if self._settings.redis_url is None and self._reload is not None:
            self._settings = self._reload()
            if self._settings.redis_url is not None and self._on_store is not None:
                self._on_store()
        return self._settings

    @property
    def vault(self) -> Vault:
        """The key ring.

        Raises:
            StorageUnavailable: no gateway has made a key yet.
            ConfigError: no key is set.
        """
        if self._vault is None:
            settings = self.settings
            if settings.embedded and not settings.key_texts:
                _ = settings.store_url
            self._vault = Vault.from_text(settings.key_texts)
        return self._vault

    @property
    def journal(self) -> Journal:
        """The journal, its store's durability checked once.

        Raises:
            StorageUnavailable: the store can't be reached.
            ConfigError: the store doesn't keep what DURABILITY asks for.
        """
        self._enter_process()
        if self._journal is None:
            with self._lock:
                if self._journal is None:
                    self._journal = self.open_journal()
        return self._journal

    def open_journal(self) -> Journal:
        """A journal with connections of its own."""
        settings = self.settings
        store = Store(connect(settings.store_url))
        check_durability(store, settings.durability)
        return Journal(
            store,
            settings.namespace,
            max_pending=settings.max_pending,
            max_bytes=settings.max_bytes or default_max_bytes(maxmemory_of(store)),
            waitaof=settings.durability == "waitaof",
        )

    @property
    def delivery(self) -> Delivery:
        """The way to the upstream."""
        self._enter_process()
        if self._delivery is None:
            self._delivery = Delivery(self.settings)
        return self._delivery

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins that an operation may address by an absolute URL."""
        settings = self.settings
        if self._origins is None or self._origins[0] is not settings:
            own = (origin_of(settings.upstream),) if settings.upstream else ()
            self._origins = (settings, own + settings.allowed_origins)
        return self._origins[1]

    def seal(
        self, operation: Operation, lane: str, operation_id: str, *, countdown_s: float = 0.0, expires_s: float = 0.0
    ) -> NewRecord:
        """Seal an operation for its place in the journal."""
        return NewRecord(operation_id, lane, self.seal_bytes(operation, lane, operation_id), countdown_s, expires_s)

    def seal_bytes(self, operation: Operation, lane: str, operation_id: str) -> bytes:
        """The sealed part of an operation's record."""
        plaintext = operation.encode()
        limit = self.settings.max_body_bytes + ENVELOPE_BYTES
        if len(plaintext) > limit:
            check_size(len(plaintext), limit)
        return self.vault.seal(plaintext, seal_context(self._settings.namespace, lane, operation_id))

    def open(self, stored: StoredRecord, lane: str) -> Operation:
        """Open a record.

        Raises:
            UnknownKey, CorruptRecord: it can't be opened.
        """
        if stored.format != FORMAT:
            raise CorruptRecord(f"the record has format {stored.format}; this version reads format {FORMAT}")
        context = seal_context(self._settings.namespace, lane, stored.id)
        return Operation.decode(self.vault.open(stored.sealed, context))

    def seal_detail(self, text: bytes, lane: str, operation_id: str) -> bytes:
        """Seal what goes beside a dead letter: the first bytes of an answer, or an error's text."""
        if not text:
            return b""
        context = seal_context(self._settings.namespace, lane, operation_id) + b"detail"
        return self.vault.seal(text, context)

    def accept(self, records: Sequence[NewRecord]) -> bool:
        """Append records; True where a wake token should be published."""
        return self.journal.append(records)
