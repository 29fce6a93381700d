"""What one process needs to accept and deliver operations, made from the settings when it is first used."""

import hmac
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fluxy_sync.credentials import credentials_of
from fluxy_sync.delivery import Delivery
from fluxy_sync.errors import CorruptRecord, not_accepted
from fluxy_sync.journal import (
    Appended,
    Journal,
    NewRecord,
    Quota,
    Store,
    StoredRecord,
    check_durability,
    connect,
    default_max_bytes,
    maxmemory_of,
)
from fluxy_sync.journal.record import FORMAT, ONCE_BYTES, seal_context
from fluxy_sync.journal.store import NotSent
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import Operation, check_size, origin_of
from fluxy_sync.settings import Settings, read_keys
from fluxy_sync.tls import Tls
from fluxy_sync.token_place import SharedPlace, audience_of
from fluxy_sync.vault import Vault, associated_data

logger = get_logger(__name__)

ONCE_SECRET_BYTES = 32
ENVELOPE_BYTES = 64 * 1024  # beyond MAX_BODY_BYTES: headers, links and names


def once_context(namespace: str) -> bytes:
    """What is bound to the sealed secret of once keys."""
    return associated_data(b"once", namespace.encode())


class Engine:
    """Settings, vault, journal and delivery of one namespace. Connections are made once in each process.

    Args:
        settings: as loaded; where they name no store, ``reload`` is asked again at each use, so that a producer may
            start before its gateway; where the store can't be reached as well: the gateway may have moved it.
        reload: reads the settings anew.
        on_store: called once a store is named after all, or another one.
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
        self._once_secret: bytes | None = None

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
            path = settings.keys_file
            self._vault = Vault.from_text(settings.key_texts, None if path is None else lambda: read_keys(path))
        return self._vault

    @property
    def journal(self) -> Journal:
        """The journal, its store's durability checked once.

        Raises:
            StorageUnavailable: the store can't be reached.
            ConfigError: the store doesn't keep what DURABILITY asks for.
        """
        self._enter_process()
        if self._journal is not None and self._journal.store.unreachable:
            self._follow_store()
        journal = self._journal
        if journal is None:
            with self._lock:
                if self._journal is None:
                    self._journal = self._open_or_follow()
                journal = self._journal
        return journal

    def _open_or_follow(self) -> Journal:
        try:
            return self.open_journal()
        except NotSent:
            if not self._read_moved():
                raise
            return self.open_journal()

    def _follow_store(self) -> bool:
        """Take the store's new address, where the gateway came back on another one; False where it didn't."""
        with self._lock:
            old = self._journal
            if not self._read_moved():
                return False
            self._journal = None
        if old is not None:
            old.store.close()
        return True

    def _read_moved(self) -> bool:
        if self._reload is None or self._settings.redis_url is None:
            return False
        found = self._reload()
        if found.redis_url is None or found.redis_url == self._settings.redis_url:
            return False
        logger.info("The gateway's store is at another address now.")
        self._settings, self._once_secret = found, None
        if self._on_store is not None:
            self._on_store()
        return True

    def open_journal(self) -> Journal:
        """A journal with connections of its own."""
        settings = self.settings
        store = Store(connect(settings.store_url))
        check_durability(store, settings.durability, vouched=settings.store_vouched)
        return Journal(
            store,
            settings.namespace,
            Quota(
                settings.max_pending,
                settings.max_bytes or default_max_bytes(maxmemory_of(store, vouched=settings.store_vouched)),
                settings.max_lane_pending,
                settings.on_full == "drop_oldest",
            ),
            once_window_s=settings.once_window_s,
            waitaof=settings.durability == "waitaof",
        )

    @property
    def delivery(self) -> Delivery:
        """The way to the upstream, with the gateway's credentials.

        Raises:
            ConfigError: FLUXY_SYNC_UPSTREAM isn't set, or a file or module of the credentials can't be loaded.
        """
        self._enter_process()
        if self._delivery is None:
            with self._lock:
                if self._delivery is None:
                    settings = self.settings
                    place = SharedPlace(
                        settings.namespace, audience_of(settings), lambda: self.journal.store, lambda: self.vault
                    )
                    self._delivery = Delivery(settings, credentials_of(settings, Tls.of(settings), place))
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
        self, operation: Operation, lane: str, operation_id: str, *, refused: bool = False, **fields: Any
    ) -> NewRecord:
        """Seal an operation for its place in the journal; ``fields`` are NewRecord's others."""
        with not_accepted():
            sealed = self.seal_bytes(operation, lane, operation_id, refused=refused)
        return NewRecord(operation_id, lane, sealed, **fields)

    def once_hash(self, key: str) -> bytes:
        """A once key as the journal sees it: hashed with a secret that only the ring opens (HMAC, RFC 2104).

        The secret is the journal's own, sealed beside it, so that a key stays the same when the ring is rotated.

        Raises:
            UnknownKey, CorruptRecord: the secret can't be opened; nothing was accepted.
        """
        self._enter_process()
        if self._once_secret is None:
            context = once_context(self.settings.namespace)
            with not_accepted():
                store, name = self.journal.store, self.journal.keys.secret
                store.command("SET", name, self.vault.seal(os.urandom(ONCE_SECRET_BYTES), context), "NX")
                self._once_secret = self.vault.open(store.command("GET", name), context)
        return hmac.digest(self._once_secret, key.encode("utf-8", "surrogatepass"), "sha256")[:ONCE_BYTES]

    def seal_bytes(self, operation: Operation, lane: str, operation_id: str, *, refused: bool = False) -> bytes:
        """The sealed part of an operation's record; of one that was ``refused``, no lane opens it."""
        plaintext = operation.encode()
        limit = self.settings.max_body_bytes + ENVELOPE_BYTES
        if len(plaintext) > limit:
            check_size(len(plaintext), limit)
        context = seal_context(self._settings.namespace, lane, operation_id, refused=refused)
        return self.vault.seal(plaintext, context)

    def open(self, stored: StoredRecord, lane: str, *, refused: bool = False) -> Operation:
        """Open a record that was accepted, or one that was ``refused``.

        Raises:
            UnknownKey, CorruptRecord: it can't be opened, or is one of the other kind.
        """
        if stored.format != FORMAT:
            raise CorruptRecord(f"the record has format {stored.format}; this version reads format {FORMAT}")
        context = seal_context(self._settings.namespace, lane, stored.id, refused=refused)
        return Operation.decode(self.vault.open(stored.sealed, context))

    def open_detail(self, sealed: bytes, lane: str, operation_id: str) -> bytes:
        """Open what ``seal_detail`` sealed; empty where there is nothing.

        Raises:
            UnknownKey, CorruptRecord: it can't be opened.
        """
        context = seal_context(self._settings.namespace, lane, operation_id) + b"detail"
        return self.vault.open(sealed, context) if sealed else b""

    def seal_detail(self, text: bytes, lane: str, operation_id: str) -> bytes:
        """Seal what goes beside a dead letter: the first bytes of an answer, or an error's text."""
        if not text:
            return b""
        context = seal_context(self._settings.namespace, lane, operation_id) + b"detail"
        return self.vault.seal(text, context)

    def accept(self, records: Sequence[NewRecord]) -> Appended:
        """Append records; what had to be dropped for them is said in the log."""
        with not_accepted():
            try:
                appended = self.journal.append(records)
            except NotSent:
                if not self._follow_store():
                    raise
                appended = self.journal.append(records)
        if appended.dropped:
            logger.warning(
                "The queue is full: %d of the oldest operations became dead letters for new ones.", appended.dropped
            )
        return appended
