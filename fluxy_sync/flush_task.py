"""The flush as Celery's task: no time limit of the app, its configuration or its command line holds for it.

A limit would end an exchange whose answer is on its way, or the process that carries it. Each exchange has a deadline
of its own.
"""

from typing import Any

from celery import Task
from celery.worker.request import Request

NO_LIMIT = 0.0


def without_limits(job: Any) -> Any:
    """Take the time limits off a job that was given to a pool, which falls back on its own where a task has none."""
    # Pools without limits give no such job. Where there is one, it looks at them once the job was accepted.
    for name in ("_soft_timeout", "_timeout"):
        if hasattr(job, name):
            setattr(job, name, NO_LIMIT)
    return job


class FlushRequest(Request):  # type: ignore[misc]
    """A wake token as the worker's parent has it."""

    _job: Any = None

    @property
    def _apply_result(self) -> Any:
        return self._job

    @_apply_result.setter
    def _apply_result(self, job: Any) -> None:
        self._job = job
        if job is not None:
            without_limits(job())


class FlushTask(Task):  # type: ignore[misc]
    """The base of ``fluxy_sync.flush``."""

    abstract = True
    Request = f"{__name__}:FlushRequest"

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Celery has just taken over what the app's configuration and annotations say of all tasks."""
        cls.time_limit = cls.soft_time_limit = NO_LIMIT
