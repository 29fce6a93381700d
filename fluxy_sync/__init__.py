"""fluxy-sync: a durable, offline-first sync engine for edge gateways."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxy_sync.app import create_app, install
    from fluxy_sync.client import FluxySync, QueuedOperation
    from fluxy_sync.errors import (
        AcceptanceUnknown,
        ConfigError,
        FluxySyncError,
        InvalidOperation,
        OperationFailed,
        OperationTooLarge,
        QueueFull,
        ResultNotKept,
        ResultTimeout,
        StorageUnavailable,
        Unreachable,
    )
    from fluxy_sync.http_task import HttpTask
    from fluxy_sync.journal import DeadLetter
    from fluxy_sync.result import KeptAnswer
    from fluxy_sync.retry import RetryPolicy
    from fluxy_sync.tasks import SyncTask

    sync_op: SyncTask

__version__ = "0.1.0"

# Each name's home: importing the package loads none of them.
_HOMES = {
    "AcceptanceUnknown": "errors",
    "ConfigError": "errors",
    "FluxySync": "client",
    "DeadLetter": "journal",
    "FluxySyncError": "errors",
    "HttpTask": "http_task",
    "InvalidOperation": "errors",
    "KeptAnswer": "result",
    "OperationFailed": "errors",
    "OperationTooLarge": "errors",
    "QueueFull": "errors",
    "QueuedOperation": "client",
    "ResultNotKept": "errors",
    "ResultTimeout": "errors",
    "RetryPolicy": "retry",
    "StorageUnavailable": "errors",
    "SyncTask": "tasks",
    "Unreachable": "errors",
    "create_app": "app",
    "install": "app",
}

__all__ = [
    "AcceptanceUnknown",
    "ConfigError",
    "DeadLetter",
    "FluxySync",
    "FluxySyncError",
    "HttpTask",
    "InvalidOperation",
    "KeptAnswer",
    "OperationFailed",
    "OperationTooLarge",
    "QueueFull",
    "QueuedOperation",
    "ResultNotKept",
    "ResultTimeout",
    "RetryPolicy",
    "StorageUnavailable",
    "SyncTask",
    "Unreachable",
    "create_app",
    "install",
    "sync_op",
]


def __getattr__(name: str) -> Any:
    if name == "sync_op":
        app = importlib.import_module("fluxy_sync.app").default_app()
        return app.tasks["fluxy_sync.sync_op"]
    if name in _HOMES:
        return getattr(importlib.import_module(f"fluxy_sync.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
