"""A producer service as a process of its own: queues operations, and notes each one that was accepted.

``python -m tests.producer --name p1 --count 250 --lanes a,b --record accepted.jsonl``; settings come from the
environment. The body of each operation is ``{"lane": ..., "n": ...}``; n grows per producer and lane.
"""

import argparse
import json
import os
import time
from pathlib import Path

from fluxy_sync import AcceptanceUnknown, FluxySync, QueueFull, StorageUnavailable
from fluxy_sync.operation import new_operation_id

LONGEST_S = 240.0  # whatever happens to the test that started it


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--lanes", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--expires", type=float, help="of every tenth operation, seconds")
    options = parser.parse_args()
    sync, lanes = FluxySync(), options.lanes.split(",")
    ends = time.monotonic() + LONGEST_S
    with options.record.open("a") as record:
        for n in range(options.count):
            if time.monotonic() > ends:
                raise SystemExit("the producer ran out of time")
            lane = lanes[n % len(lanes)]
            expires = options.expires if n % 10 == 9 else None
            accepted = queue_until_accepted(sync, lane, n, ends, expires)
            # The order of acceptance is what the journal must keep: noted only after it was accepted.
            record.write(json.dumps({"id": accepted, "lane": lane, "n": n}) + "\n")
            record.flush()
            os.fsync(record.fileno())
            if options.every:
                time.sleep(options.every)


def queue_until_accepted(sync: FluxySync, lane: str, n: int, ends: float, expires: float | None) -> str:
    """Queue one operation, again with the same id where its acceptance is unknown, as an application would."""
    operation_id, body = new_operation_id(), {"lane": lane, "n": n}
    while time.monotonic() < ends:
        try:
            return sync.queue("POST", f"/{lane}", body=body, lane=lane, id=operation_id, expires=expires).id
        except (AcceptanceUnknown, StorageUnavailable, QueueFull):
            time.sleep(0.05)
    raise SystemExit("the producer ran out of time")


if __name__ == "__main__":
    main()
