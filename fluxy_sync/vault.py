"""Sealing: AES-256-GCM with a key ring, so that nobody reads an operation on its way."""

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fluxy_sync.errors import ConfigError, CorruptRecord, UnknownKey

KEY_BYTES = 32
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


class Vault:
    """A ring of AES-256-GCM keys: the first one seals, all of them open.

    A sealed value is ``key id (4) | nonce (12) | ciphertext and tag``.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ConfigError(
                "no encryption key is set; make one with 'fluxy-sync keys new' and put it into FLUXY_SYNC_KEYS "
                "(or its file's path into FLUXY_SYNC_KEYS_FILE)"
            )
        self._ring = {key_id_of(key): AESGCM(key) for key in keys}
        if len(self._ring) != len(set(keys)):
            raise ConfigError("two keys in FLUXY_SYNC_KEYS have the same id; replace one of them")
        self._key_id = key_id_of(keys[0])
        self._sealer = self._ring[self._key_id]

    @classmethod
    def from_text(cls, keys: Iterable[str]) -> "Vault":
        """Build the ring from base64url keys, the sealing key first."""
        return cls([parse_key(key) for key in keys])

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the ring's keys in hex, the sealing key's first."""
        return tuple(key_id.hex() for key_id in self._ring)

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt ``plaintext``; ``context`` is bound to it and must be given again to open it."""
        nonce = os.urandom(NONCE_BYTES)
        return self._key_id + nonce + self._sealer.encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt what ``seal`` made.

        Raises:
            UnknownKey: its key isn't in the ring.
            CorruptRecord: it was changed, or its context differs.
        """
        if len(sealed) < OVERHEAD_BYTES:
            raise CorruptRecord("the record is too short to be a sealed one")
        key_id = sealed[:KEY_ID_BYTES]
        key = self._ring.get(key_id)
        if key is None:
            raise UnknownKey(key_id.hex())
        nonce = sealed[KEY_ID_BYTES : KEY_ID_BYTES + NONCE_BYTES]
        try:
            return key.decrypt(nonce, sealed[KEY_ID_BYTES + NONCE_BYTES :], context)
        except InvalidTag as error:
            raise CorruptRecord("the record was changed after it was sealed") from error
