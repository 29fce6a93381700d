"""A worker's stand-in: it notes its life in a file, and on SIGTERM whether the store was still there."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from redis import Redis

from fluxy_sync.settings import Settings

name, notes = sys.argv[1], Path(os.environ["NOTES"])
settings = Settings()
client = Redis.from_url(settings.store_url)


def note(text: str) -> None:
    with notes.open("a") as file:
        file.write(f"{name} {text}\n")


def end(_number: int, _frame: FrameType | None) -> None:
    note(f"ended, store {'there' if client.ping() else 'gone'}")
    sys.exit(0)


if name == os.environ.get("MISCONFIGURED"):
    print("what is wrong stands here", file=sys.stderr)
    sys.exit(2)
signal.signal(signal.SIGTERM, signal.SIG_IGN if name == os.environ.get("STUBBORN") else end)
note(f"started {os.getpid()} with {len(settings.key_texts)} key")
client.ping()
print(f"{name} ready.", flush=True)
while True:
    signal.pause()
