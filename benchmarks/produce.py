"""A producer process: queues operations, one call at a time or in chunks, and prints how long that took.

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


def queue_many(operations: int, lanes: int) -> dict[str, float]:
    """Our client in chunks: one durable write for each; the first chunk warms up and isn't timed."""
    from fluxy_sync import FluxySync

    sync = FluxySync()
    began = time.perf_counter()
    for start in range(0, operations, CHUNK):
        if start == CHUNK:
            began = time.perf_counter()
        numbers = range(start, min(start + CHUNK, operations))
        sync.queue_many(
            [{"method": "POST", "path": PATH, "body": body(n), "lane": f"lane-{n % lanes}"} for n in numbers]
        )
    return {"timed": max(operations - CHUNK, 1), "seconds": time.perf_counter() - began}


SHAPES = {"plain": by_plain_celery, "delay": by_delay, "queue": by_queue}


def produce(shape: str, operations: int, lanes: int) -> dict[str, float]:
    """Queue all operations; the first few warm up the connection and aren't timed."""
    if shape == "many":
        return queue_many(operations, lanes)
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
