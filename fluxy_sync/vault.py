"""Sealing: AES-256-GCM with a key ring, so that nobody reads an operation on its way."""

import base64
import binascii
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fluxy_sync.errors import ConfigError, CorruptRecord, UnknownKey
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

KEY_BYTES = 32
REREAD_S = 1.0
KEY_ID_BYTES = 4
NONCE_BYTES = 12  # NIST SP 800-38D, 8.2.2: random, so at most 2**32 records for one key
TAG_BYTES = 16
OVERHEAD_BYTES = KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
_FIELD_BYTES = 2


def new_key() -> str:
    """Return a fresh 256-bit key as base64url text, the form that FLUXY_SYNC_KEYS takes."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def associated_data(*fields: bytes) -> bytes:
    """Join fields so that no two different tuples give the same bytes."""
    return b"".join(len(field).to_bytes(_FIELD_BYTES, "big") + field for field in fields)


def key_id_of(key: bytes) -> bytes:
    """A key's public name: the first bytes of a hash, so that nobody has to number keys."""
    return hashlib.sha256(b"fluxy-sync key id\0" + key).digest()[:KEY_ID_BYTES]


def parse_key(text: str) -> bytes:
    """Read one key from base64url (or plain base64) text.

    Raises:
        ConfigError: it isn't 32 bytes of base64. The message never shows the key.
    """
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            "FLUXY_SYNC_KEYS holds a key that isn't 32 bytes of base64; make one with 'fluxy-sync keys new'"
        )
    return key


class _Ring:
    """The keys at one moment."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ConfigError(
                "no encryption key is set; make one with 'fluxy-sync keys new' and put it into FLUXY_SYNC_KEYS "
                "(or its file's path into FLUXY_SYNC_KEYS_FILE)"
            )
        self.keys = tuple(keys)
        self.by_id = {key_id_of(key): AESGCM(key) for key in keys}
        if len(self.by_id) != len(set(keys)):
            raise ConfigError("two keys in FLUXY_SYNC_KEYS have the same id; replace one of them")
        self.sealing_id = key_id_of(keys[0])
        self.sealer = self.by_id[self.sealing_id]


class Vault:
    """A ring of AES-256-GCM keys: the first one seals, all of them open.

    A sealed value is ``key id (4) | nonce (12) | ciphertext and tag``.

    Args:
        keys: the sealing key first.
        reread: gives the keys anew, so that a ring in a file can change while we run; asked at most once a second.
    """

    def __init__(self, keys: Sequence[bytes], reread: Callable[[], Sequence[bytes]] | None = None) -> None:
        self._ring = _Ring(keys)  # replaced whole, so that other threads see either one
        self._reread = reread
        self._read_at = time.monotonic()

    @classmethod
    def from_text(cls, keys: Iterable[str], reread: Callable[[], Iterable[str]] | None = None) -> "Vault":
        """Build the ring from base64url keys, the sealing key first."""
        again = None if reread is None else (lambda: [parse_key(key) for key in reread()])
        return cls([parse_key(key) for key in keys], again)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the ring's keys in hex, the sealing key's first."""
        return tuple(key_id.hex() for key_id in self._ring.by_id)

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt ``plaintext``; ``context`` is bound to it and must be given again to open it."""
        self.refresh()
        ring, nonce = self._ring, os.urandom(NONCE_BYTES)
        return ring.sealing_id + nonce + ring.sealer.encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt what ``seal`` made.

        Raises:
            UnknownKey: its key isn't in the ring.
            CorruptRecord: it was changed, or its context differs.
        """
        if len(sealed) < OVERHEAD_BYTES:
            raise CorruptRecord("the record is too short to be a sealed one")
        key_id = sealed[:KEY_ID_BYTES]
        if key_id not in self._ring.by_id:
            self.refresh(at_once=True)  # rare: its lane is held for it, if it is missing still
        key = self._ring.by_id.get(key_id)
        if key is None:
            raise self._unknown(sealed, context)
        try:
            return _decrypt(key, sealed, context)
        except InvalidTag as error:
            raise CorruptRecord("the record was changed after it was sealed") from error

    def _unknown(self, sealed: bytes, context: bytes) -> UnknownKey | CorruptRecord:
        """A key that is missing, or a key's id that was damaged: then one of the ring's keys opens the rest."""
        for key in self._ring.by_id.values():
            with contextlib.suppress(InvalidTag):
                _decrypt(key, sealed, context)
                return CorruptRecord("the id of the record's key was changed after it was sealed")
        return UnknownKey(sealed[:KEY_ID_BYTES].hex())

    def sealed_by(self, key_id: str) -> bool:
        """Whether that is the key that seals now."""
        return self._ring.sealing_id.hex() == key_id

    def refresh(self, *, at_once: bool = False) -> None:
        """Read the keys anew, where they come from a file and that wasn't done within a second."""
        now = time.monotonic()
        if self._reread is None or (now - self._read_at < REREAD_S and not at_once):
            return
        self._read_at = now
        try:
            keys = tuple(self._reread())
        except ConfigError as error:
            # A file that is just being written, or damaged: what was read before still opens what is there.
            logger.warning("The keys were not read anew: %s", error)
            return
        if keys and keys != self._ring.keys:
            self._ring = _Ring(keys)


def _decrypt(key: AESGCM, sealed: bytes, context: bytes) -> bytes:
    nonce = sealed[KEY_ID_BYTES : KEY_ID_BYTES + NONCE_BYTES]
    return key.decrypt(nonce, sealed[KEY_ID_BYTES + NONCE_BYTES :], context)
