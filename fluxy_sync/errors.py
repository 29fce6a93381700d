"""One tree of errors. Each message says what happened, what was kept, and what to do."""

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING_ACCEPTED = "nothing was accepted"


class FluxySyncError(Exception):
    """The root of every error that this library raises."""


class ConfigError(FluxySyncError):
    """A setting is missing or wrong; nothing was started."""


class InvalidOperation(FluxySyncError, ValueError):
    """The operation can't be sent as it stands; nothing was accepted."""


class OperationTooLarge(InvalidOperation):
    """The operation is larger than the gateway accepts; nothing was accepted."""


class QueueFull(FluxySyncError):
    """The journal is at its quota; nothing was accepted, and what it holds is kept."""


class StorageUnavailable(FluxySyncError):
    """The store is down, read-only or full. A call that was to queue something has accepted nothing."""


class AcceptanceUnknown(StorageUnavailable):
    """The store went away before it answered: the operations may or may not have been accepted.

    Queue them again with the same ids (``operation_ids``): the journal recognises those that it has.
    """

    def __init__(self, message: str, operation_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.operation_ids = operation_ids


@contextlib.contextmanager
def not_accepted() -> "Iterator[None]":
    """Around what accepts operations: where the store is away, the error says that nothing was accepted."""
    try:
        yield
    except AcceptanceUnknown:
        raise
    except StorageUnavailable as error:
        if NOTHING_ACCEPTED in str(error):
            raise
        raise StorageUnavailable(f"{error}; {NOTHING_ACCEPTED}") from error


class Unreachable(FluxySyncError):
    """There is no connection to the upstream: the link is at fault, not the operation.

    A SyncTask that speaks something else than HTTP raises this when its own connection can't be made.
    """


class DeliveryFailed(FluxySyncError):
    """An operation was answered with a failure. ``reason`` is a status or a fixed code, never a payload."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResultNotKept(FluxySyncError):
    """Nothing was kept of the operation's answer: queue it with ``keep_result=True``."""


class ResultTimeout(FluxySyncError, TimeoutError):
    """The operation has no result yet; it is kept, and goes on."""


class OperationFailed(FluxySyncError):
    """The operation whose result was waited for was not delivered. ``reason`` is a status or a fixed code."""

    def __init__(self, message: str, operation_id: str, reason: str) -> None:
        super().__init__(message)
        self.operation_id = operation_id
        self.reason = reason


class SealError(FluxySyncError):
    """A sealed record can't be opened."""


class UnknownKey(SealError):
    """The record was sealed with a key that isn't in the ring; ``key_id`` names it."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"the key {key_id} isn't in the ring; the record is kept: add that key to FLUXY_SYNC_KEYS")
        self.key_id = key_id


class CorruptRecord(SealError):
    """The record was changed, or belongs to another id, lane or namespace."""
