"""Ends in one of several ways while live values are watched: ``python live_exit.py STORE_URL NAMESPACE KEY WAY``.

The last line that it prints is when it began to end, on the monotonic clock.
"""

import atexit
import sys
import threading
import time

from reaktiv import Effect

from fluxy_sync import FluxySync
from fluxy_sync.settings import Settings

url, namespace, key, way = sys.argv[1:]
sync = FluxySync(Settings(redis_url=url, namespace=namespace, keys=key))
if way == "atexit":
    atexit.register(lambda: sync.pending_count.value)  # reads when the background thread is gone
effect = Effect(lambda: print("seen", sync.pending_count.value, flush=True))
if way == "thread":
    threading.Thread(target=lambda: time.sleep(0.3)).start()  # the interpreter waits for it first
print("ends", time.monotonic(), flush=True)
if way == "exit":
    sys.exit(3)
if way == "raise":
    raise RuntimeError("on purpose")
