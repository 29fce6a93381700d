"""A user's tasks that run for long, for FLUXY_SYNC_IMPORTS. They note when they begin and end, and in which process."""

import os
import time
from pathlib import Path

from fluxy_sync import SyncTask
from fluxy_sync.app import default_app

app = default_app()


def note(line: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{line} {os.getpid()}\n")


@app.task(name="long.run", base=SyncTask)
def run(name: str, seconds: float) -> None:
    """Takes its time."""
    note(f"begun {name}")
    time.sleep(seconds)
    note(f"ended {name}")


@app.task(name="long.limited", base=SyncTask, deadline_s=2.0)
def limited(name: str, seconds: float) -> None:
    """Keeps its lane for two seconds only."""
    run.run(name, seconds)
