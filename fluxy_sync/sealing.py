"""What goes through the broker or into a result is sealed, too: a kombu serializer.

Inside what is sealed, a task's message says for which task, id and queue it is: its headers stand there in clear, and
whoever can write to the broker could put others around it.
"""

import base64
import re
import threading
from typing import Any

from celery import signals
from kombu.serialization import register
from kombu.utils.json import dumps, loads

from fluxy_sync.errors import CorruptRecord, SealError, UnknownKey
from fluxy_sync.vault import KEY_ID_BYTES, OVERHEAD_BYTES, Vault, associated_data

CONTENT_TYPE, RESULT_TYPE = "application/x-fluxy-sealed", "application/x-fluxy-sealed-result"
SERIALIZER, RESULT_SERIALIZER = "fluxy-sealed", "fluxy-sealed-result"
REDACTED = "<sealed>"
SEALED_VALUE = "fluxy-sealed:"
PLACE = "fluxy_place"  # in the third part of a task's message, beside Celery's links
_SEALED_IN_JSON = re.compile(rb'"result": ?"fluxy-sealed:([A-Za-z0-9+/=]*)"')
_MESSAGE, _RESULT = b"fluxy-sync message", b"fluxy-sync result"  # neither opens as the other

_publishing = threading.local()  # the message that this thread is about to publish, and its place

# kombu's registry is one for the process, and finds a decoder by content type alone.
_vaults: dict[str, Vault] = {}


def serializer_name(namespace: str) -> str:
    """The name under which kombu knows the serializer of a namespace."""
    return f"{SERIALIZER}.{namespace}"


def result_serializer_name(namespace: str) -> str:
    """The name under which kombu knows the serializer of a namespace's results."""
    return f"{RESULT_SERIALIZER}.{namespace}"


def seal_value(vault: Vault, value: Any, task_id: str) -> str:
    """The result of a task, sealed as text that any serializer takes."""
    return SEALED_VALUE + base64.b64encode(vault.seal(dumps(value).encode(), _result_of(task_id))).decode()


def is_sealed(value: Any) -> bool:
    """Whether it looks like what ``seal_value`` gives."""
    return isinstance(value, str) and value.startswith(SEALED_VALUE)


def open_value(value: str, task_id: str) -> Any:
    """The value that ``seal_value`` sealed.

    Raises:
        UnknownKey, CorruptRecord: it can't be opened, or is the result of another task.
    """
    try:
        sealed = base64.b64decode(value.removeprefix(SEALED_VALUE), validate=True)
    except ValueError as error:  # binascii.Error, or not ASCII
        raise CorruptRecord("the result was changed after it was sealed") from error
    return _open(sealed, _result_of(task_id))


def _result_of(task_id: str) -> bytes:
    return associated_data(_RESULT, task_id.encode("utf-8", "surrogatepass"))


def reseal_value(vault: Vault, meta: bytes, task_id: str) -> bytes:
    """A result in JSON, of which the value alone is sealed, with that sealed by the ring's first key.

    Raises:
        UnknownKey, CorruptRecord: it can't be opened, or is the result of another task.
    """
    found = _SEALED_IN_JSON.search(meta)
    if found is None:
        raise CorruptRecord("the result holds no sealed value")
    try:
        sealed = base64.b64decode(found[1], validate=True)
    except ValueError as error:
        raise CorruptRecord("the result was changed after it was sealed") from error
    if vault.sealed_by(sealed[:KEY_ID_BYTES].hex()):
        return meta
    context = _result_of(task_id)
    anew = base64.b64encode(vault.seal(vault.open(sealed, context), context))
    return meta[: found.start(1)] + anew + meta[found.end(1) :]


def register_vault(vault: Vault, namespace: str) -> str:
    """Register the serializers of a namespace; returns the messages' name. The values are what Celery's JSON takes."""
    name = serializer_name(namespace)
    _vaults[name] = vault

    def encode(value: Any) -> bytes:
        return vault.seal(dumps(_placed(value)).encode(), _MESSAGE)

    def encode_result(value: Any) -> bytes:
        return vault.seal(dumps(value).encode(), _RESULT)

    register(name, encode, unseal, content_type=CONTENT_TYPE, content_encoding="binary")
    of_results = result_serializer_name(namespace)
    register(of_results, encode_result, unseal_result, content_type=RESULT_TYPE, content_encoding="binary")
    return name


@signals.before_task_publish.connect
def _begin(body: Any = None, headers: Any = None, routing_key: Any = None, **_: Any) -> None:
    # By its number: a publish that fails isn't told to anybody, and would keep the whole message.
    _publishing.message = id(body), [headers.get("task"), headers.get("id"), routing_key]


@signals.after_task_publish.connect
def _end(**_: Any) -> None:
    _publishing.message = None, []


def _placed(value: Any) -> Any:
    number, place = getattr(_publishing, "message", (None, []))
    if number != id(value) or not isinstance(value, tuple):
        return value
    args, kwargs, embed = value
    return args, kwargs, {**embed, PLACE: place}


def unseal(data: bytes | str) -> Any:
    """Open a sealed message.

    Raises:
        UnknownKey, CorruptRecord: it can't be opened.
    """
    return _open(data, _MESSAGE)


def unseal_result(data: bytes | str) -> Any:
    """Open a sealed result; raises as ``unseal`` does."""
    return _open(data, _RESULT)


def _open(data: bytes | str, context: bytes) -> Any:
    sealed = data.encode("latin-1") if isinstance(data, str) else bytes(data)
    if len(sealed) < OVERHEAD_BYTES:
        raise CorruptRecord("it is too short to be sealed")
    key_id = sealed[:KEY_ID_BYTES].hex()
    for vault in _vaults.values():
        if key_id not in vault.key_ids:
            vault.refresh(at_once=True)
        if key_id in vault.key_ids:
            return loads(vault.open(sealed, context).decode())
    for vault in _vaults.values():
        vault.open(sealed, context)  # raises, and tells a key that is missing from an id that was changed
    raise UnknownKey(key_id)


def key_of_message(vault: Vault, data: bytes) -> str:
    """The id of the key that sealed a message; empty where that isn't in the ring, or it was changed."""
    try:
        vault.open(data, _MESSAGE)
    except SealError:
        return ""
    return data[:KEY_ID_BYTES].hex()


def missing_key(data: bytes | str) -> str:
    """The id of the key that a sealed message needs and that no ring here has; empty where one has it.

    An id that was changed needs none: one of the keys opens the rest.
    """
    sealed = data.encode("latin-1", "replace") if isinstance(data, str) else bytes(data)
    if len(sealed) < OVERHEAD_BYTES or has_key(sealed[:KEY_ID_BYTES].hex()):
        return ""
    try:
        _open(sealed, _MESSAGE)
    except UnknownKey as error:
        return error.key_id
    except SealError:
        return ""
    return ""


def has_key(key_id: str) -> bool:
    """Whether a ring here has that key; a file is read anew for it, at most once a second."""
    for vault in _vaults.values():
        vault.refresh()
    return any(key_id in vault.key_ids for vault in _vaults.values())


def reseal_result(vault: Vault, data: bytes) -> bytes:
    """A sealed result, sealed with the ring's first key.

    Raises:
        UnknownKey, CorruptRecord: it can't be opened.
    """
    return vault.seal(vault.open(data, _RESULT), _RESULT)
