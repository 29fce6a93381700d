"""The Celery app that a gateway's container runs: ``celery -A worker worker``, or ``python -m worker``."""

from typing import Any

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    # Made when it is asked for: it needs the keys, and ``python -m worker flower`` has none.
    if name == "app":
        from fluxy_sync.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
