"""Results as they are read: a value counts only where somebody with a key sealed it, for that very operation.

Whoever can write to the result backend can write any result there. In our own app everything in it is sealed, and says
inside whose it is. In an app of a user's a SyncTask's value is sealed by itself; what stands beside it (state,
children, traceback) is good for showing only.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import redis
from celery import Celery, states
from celery.backends.base import COMPRESSED_PAYLOAD_MAGIC, DisabledBackend
from celery.exceptions import BackendError, SecurityError, TaskRevokedError
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError

from fluxy_sync.errors import CorruptRecord, DeliveryFailed, SealError, not_accepted
from fluxy_sync.sealing import REDACTED, is_sealed, open_value, result_serializer_name

LONGEST_REASON = 200
UNREADABLE = (
    ArithmeticError, ContentDisallowed, DecodeError, LookupError, RecursionError, SecurityError, TypeError, ValueError,
)  # fmt: skip
"""What Celery raises for a result that isn't as it should be."""
BACKEND_AWAY = (BackendError, OperationalError, OSError, redis.RedisError)
"""What a result backend raises that can't be reached, or refuses."""


def not_its_result(operation_id: str, why: str) -> CorruptRecord:
    """What is said of a result that isn't believed."""
    return CorruptRecord(
        f"what is kept as the result of {operation_id} {why}: it is not used, and says nothing of the operation; see "
        "'fluxy-sync show' and the upstream for what became of it"
    )


@contextlib.contextmanager
def readable(operation_id: str) -> Iterator[None]:
    """Say in our words that a result can't be read."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error.__cause__, SealError):
            raise error.__cause__ from error
        raise not_its_result(operation_id, f"can't be read ({type(error).__name__})") from error


def seals_results(app: Any) -> bool:
    """Whether all that the app keeps is sealed, and not only a SyncTask's values."""
    name: str = result_serializer_name(app.fluxy_engine.settings.namespace)
    return bool(app.conf.result_serializer == name)


class SealedApp(Celery):
    """The app that is our own: all that it sends is sealed, and each result is believed for its own task alone.

    Before a gateway has run here it has neither a broker nor a key: then it sends nothing.
    """

    @functools.wraps(Celery.send_task)
    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        was = self.conf.task_serializer
        with not_accepted():
            _ = self.fluxy_engine.settings.store_url  # a gateway may just have come up
        if options.get("serializer") == was:
            options["serializer"] = self.conf.task_serializer
        # The serializer hides a message's body; this hides the copies that Celery puts into its headers.
        return super().send_task(name, *args, **{"argsrepr": REDACTED, "kwargsrepr": REDACTED} | options)

    def producer_or_acquire(self, producer: Any = None) -> Any:
        if producer is None:
            self._expect_broker()
        return super().producer_or_acquire(producer)

    def connection_or_acquire(self, connection: Any = None, *args: Any, **options: Any) -> Any:
        if connection is None:
            self._expect_broker()
        return super().connection_or_acquire(connection, *args, **options)

    def _expect_broker(self) -> None:
        """What is sent without one would be gone, and nobody told.

        Raises:
            StorageUnavailable: no gateway has run here yet.
        """
        if not self.conf.task_always_eager:
            _ = self.fluxy_engine.settings.store_url

    @property
    def backend(self) -> Any:
        backend = super().backend
        if isinstance(backend, DisabledBackend) and self.conf.result_backend:
            # It was asked for before a gateway ran, and Celery keeps it for the thread.
            self._backend = backend = self._get_backend()
        if seals_results(self) and not hasattr(backend, "fluxy_reads"):
            backend.fluxy_reads = backend.get_task_meta, backend.decode
            backend.get_task_meta = functools.partial(_meta_of, *backend.fluxy_reads[:1])
            backend.decode = functools.partial(_decoded, *backend.fluxy_reads[1:])
        return backend


def _meta_of(original: Any, task_id: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    with readable(task_id):
        meta: dict[str, Any] = original(task_id, *args, **kwargs)
        if meta["status"] != states.PENDING and meta.get("task_id") != task_id:
            raise not_its_result(task_id, "is that of another operation")
        return meta


def _decoded(original: Any, payload: Any) -> Any:
    # A few bytes could ask for all memory; ours are never compressed.
    if isinstance(payload, (bytes, bytearray)) and payload.startswith(COMPRESSED_PAYLOAD_MAGIC):
        raise ValueError("a sealed result is never compressed")
    return original(payload)


class _Opening:
    """For any task of a user's app: a sealed value is opened; others are as Celery has them."""

    def _set_cache(self: Any, meta: dict[str, Any]) -> Any:
        if is_sealed(meta.get("result")):
            meta = meta | {"result": open_value(meta["result"], self.id)}
        return super()._set_cache(meta)  # type: ignore[misc]


class _Strict:
    """For a SyncTask: no value that isn't sealed, and that of no other operation."""

    def _get_task_meta(self: Any) -> Any:
        with readable(self.id):
            return super()._get_task_meta()  # type: ignore[misc]

    def _set_cache(self: Any, meta: dict[str, Any]) -> Any:
        with readable(self.id):
            return super()._set_cache(_checked(self.app, self.id, meta))  # type: ignore[misc]


def _checked(app: Any, operation_id: str, meta: dict[str, Any]) -> dict[str, Any]:
    if meta.get("task_id") != operation_id:
        raise not_its_result(operation_id, "is that of another operation")
    if seals_results(app):
        return meta
    if meta["status"] == states.SUCCESS:
        return meta | {"result": _opened(meta.get("result"), operation_id)}
    # An exception is made anew of what stands there, of whatever class it names.
    return meta | {"result": _shown(meta.get("result"))}


def _opened(value: Any, operation_id: str) -> Any:
    if not is_sealed(value):
        raise not_its_result(operation_id, "was not sealed by this gateway")
    return open_value(value, operation_id)


def _shown(failure: Any) -> Any:
    if isinstance(failure, TaskRevokedError):
        return failure
    reason = getattr(failure, "reason", "") if isinstance(failure, DeliveryFailed) else ""
    known = isinstance(reason, str) and 0 < len(reason) <= LONGEST_REASON and reason.isascii() and reason.isprintable()
    return DeliveryFailed(reason if known else "unknown")


@functools.cache
def _with(kind: Any, base: Any) -> Any:
    return type(base.__name__, (kind, base), {"__doc__": base.__doc__, "__module__": base.__module__})


def of_sync_task(base: Any) -> Any:
    """The class of a SyncTask's results, made of the app's own."""
    return _with(_Strict, base)


def of_any_task(base: Any) -> Any:
    """The class of results in a user's app, made of the one that is there."""
    return _with(_Opening, base)
