"""A user's task that kills the process that runs it."""

import os
import signal
import sys

from fluxy_sync import SyncTask
from fluxy_sync.app import default_app


@default_app().task(name="user.poison", base=SyncTask, lane="poison")
def poison() -> None:
    """As a fault in a C extension would."""
    print("poison runs", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
