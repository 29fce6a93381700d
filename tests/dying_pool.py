"""A user's module, for FLUXY_SYNC_IMPORTS, with which no process of a pool lives to see its first task."""

import os
from typing import Any

from celery.signals import worker_process_init


@worker_process_init.connect
def die(**_: Any) -> None:
    os._exit(1)
