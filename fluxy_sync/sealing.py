"""What goes through the broker or into a result is sealed, too: a kombu serializer."""

import base64
from typing import Any

from kombu.serialization import register
from kombu.utils.json import dumps, loads

from fluxy_sync.errors import UnknownKey
from fluxy_sync.vault import KEY_ID_BYTES, Vault

CONTENT_TYPE = "application/x-fluxy-sealed"
SERIALIZER = "fluxy-sealed"
REDACTED = "<sealed>"
SEALED_VALUE = "fluxy-sealed:"
_CONTEXT = b"fluxy-sync message"

# kombu's registry is one for the process, and finds a decoder by content type alone.
_vaults: dict[str, Vault] = {}


def serializer_name(namespace: str) -> str:
    """The name under which kombu knows the serializer of a namespace."""
    return f"{SERIALIZER}.{namespace}"


def seal_value(vault: Vault, value: Any) -> str:
    """One value, sealed as text that any serializer takes."""
    return SEALED_VALUE + base64.b64encode(vault.seal(dumps(value).encode(), _CONTEXT)).decode()


def open_value(value: Any) -> Any:
    """The value that ``seal_value`` sealed; any other one as it is."""
    if isinstance(value, str) and value.startswith(SEALED_VALUE):
        return unseal(base64.b64decode(value.removeprefix(SEALED_VALUE)))
    return value


def register_vault(vault: Vault, namespace: str) -> str:
    """Register the serializer for a namespace and return its name. The values are what Celery's JSON takes."""
    name = serializer_name(namespace)
    _vaults[name] = vault

    def encode(value: Any) -> bytes:
        return vault.seal(dumps(value).encode(), _CONTEXT)

    register(name, encode, unseal, content_type=CONTENT_TYPE, content_encoding="binary")
    return name


def unseal(data: bytes | str) -> Any:
    """Open a sealed message or result.

    Raises:
        UnknownKey, CorruptRecord: it can't be opened.
    """
    sealed = data.encode("latin-1") if isinstance(data, str) else bytes(data)
    key_id = sealed[:KEY_ID_BYTES].hex()
    for vault in _vaults.values():
        if key_id not in vault.key_ids:
            vault.refresh(at_once=True)
        if key_id in vault.key_ids:
            return loads(vault.open(sealed, _CONTEXT).decode())
    raise UnknownKey(key_id)


def reseal_value(vault: Vault, data: bytes) -> bytes:
    """A sealed message or result, sealed with the ring's first key.

    Raises:
        UnknownKey, CorruptRecord: it can't be opened.
    """
    return vault.seal(vault.open(data, _CONTEXT), _CONTEXT)
