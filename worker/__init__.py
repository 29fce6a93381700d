"""The Celery app that a gateway's container runs: ``celery -A worker worker``, or ``python -m worker``."""

from fluxy_sync.app import app

__all__ = ["app"]
