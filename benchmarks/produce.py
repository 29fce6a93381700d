"""A producer process: queues operations one call at a time and prints how long that took.

``python -m benchmarks.produce SHAPE OPERATIONS LANES`` prints ``{"timed": operations, "seconds": seconds}``.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 20
BODY_BYTES = 60
CHUNK = 500
PATH = "/api/posts"

Queue = Callable[[int], object]


def body(n: int) -> dict[str, Any]:
    """A body of 60 bytes as JSON."""
    bare = len(json.dumps({"n": n, "text": ""}))
    return {"n": n, "text": "x" * (BODY_BYTES - bare)}


def by_plain_celery(_lanes: int) -> Queue:
    """One Celery message for each operation."""
    from benchmarks.plain_celery import post

    return lambda n: post.delay(PATH, body(n))


def by_delay(_lanes: int) -> Queue:
    """Our task, called like any Celery task: all on the default lane."""
    from fluxy_sync import sync_op

    return lambda n: sync_op.delay("POST", PATH, body=body(n))


def by_queue(lanes: int) -> Queue:
    """Our client, round robin over the lanes."""
    from fluxy_sync import FluxySync

    sync = FluxySync()
    return lambda n: sync.queue("POST", PATH, body=body(n), lane=f"lane-{n % lanes}")


def queue_many(operations: int, lanes: int) -> None:
    """Our client in chunks: only fills the journal, it isn't timed against anything."""
    from fluxy_sync import FluxySync

    sync = FluxySync()
    for start in range(0, operations, CHUNK):
        numbers = range(start, min(start + CHUNK, operations))
        sync.queue_many(
            [{"method": "POST", "path": PATH, "body": body(n), "lane": f"lane-{n % lanes}"} for n in numbers]
        )


SHAPES = {"plain": by_plain_celery, "delay": by_delay, "queue": by_queue}


def produce(shape: str, operations: int, lanes: int) -> dict[str, float]:
    """Queue all operations; the first few warm up the connection and aren't timed."""
    if shape == "many":
        queue_many(operations, lanes)
        return {"timed": 0, "seconds": 0.0}
    queue = SHAPES[shape](lanes)
    warm_up = min(WARM_UP, operations // 2)
    for n in range(warm_up):
        queue(n)
    began = time.perf_counter()
    for n in range(warm_up, operations):
        queue(n)
    return {"timed": operations - warm_up, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    print(json.dumps(produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
