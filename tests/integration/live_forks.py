"""Forks again and again while live values change: ``python live_forks.py STORE_URL NAMESPACE KEY CHILDREN``."""

import os
import sys
import threading
import time
import warnings

from reaktiv import Effect

from fluxy_sync import FluxySync
from fluxy_sync.settings import Settings

LONGEST_S = 5.0


def child(sync: FluxySync) -> int:
    """Read live values, with an effect of its own; the exit code tells whether that went well."""
    seen: list[int] = []
    before = threading.active_count()
    effect = Effect(lambda: seen.append(sync.pending_count.value))
    sync.close()
    effect.dispose()
    return 0 if (before, seen[0] > 0, threading.active_count()) == (1, True, 1) else 9


def wait_for(pid: int) -> int:
    """A child's exit code; one that hangs is killed."""
    ends = time.monotonic() + LONGEST_S
    while time.monotonic() < ends:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    return -os.waitpid(pid, 0)[1]


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later: a fork while threads run
    url, namespace, key, children = sys.argv[1:]
    sync = FluxySync(Settings(redis_url=url, namespace=namespace, keys=key))
    sync.queue("POST", "/a")
    seen: list[int] = []
    kept = [Effect(lambda: seen.append(sync.pending_count.value)) for _ in range(20)]
    ended = threading.Event()

    def produce() -> None:
        other = FluxySync(Settings(redis_url=url, namespace=namespace, keys=key))
        while not ended.wait(0.005):
            other.queue("POST", "/a", lane=None)

    producer = threading.Thread(target=produce)
    producer.start()
    for _ in range(int(children)):
        pid = os.fork()
        if pid == 0:
            sys.exit(child(sync))
        if code := wait_for(pid):
            sys.exit(f"a child ended with {code}")
    before = len(seen)
    ends = time.monotonic() + LONGEST_S
    while len(seen) == before and time.monotonic() < ends:
        time.sleep(0.01)
    ended.set()
    producer.join()
    if len(seen) == before:
        sys.exit("the parent sees nothing any more")
    for effect in kept:
        effect.dispose()
    print(f"{children} children read it, the parent goes on")


if __name__ == "__main__":
    main()
