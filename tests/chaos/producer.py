"""A producer service as a process of its own, which may be killed at any moment, also in mid-call.

``python -m tests.chaos.producer --name p1 --lanes a,b --record p1.jsonl --until stop``; settings come from the
environment. It notes each operation before it asks for it (``asked``) and, on disk, once it is accepted (``accepted``);
started again with the same record, it goes on behind what it asked for last. The body is ``{"lane", "n", "secret"}``.
"""

import argparse
import json
import os
import random
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from fluxy_sync import AcceptanceUnknown, FluxySync, QueueFull, RetryPolicy, StorageUnavailable
from fluxy_sync.operation import new_operation_id
from tests.chaos.ledger import MARKER

AGAIN_S = 0.05
LONGEST_S = 3 * 3600.0  # whatever happens to who started it


class Producer:
    """Queues one operation after another, now and then several at once."""

    def __init__(self, options: argparse.Namespace, record: IO[str]) -> None:
        self._sync = FluxySync()
        self._lanes: list[str] = options.lanes.split(",")
        self._until: Path = options.until
        self._expires: float = options.expires
        self._deadline: datetime | None = options.deadline
        self._policy = RetryPolicy(base_s=min(1.0, options.cap), cap_s=options.cap) if options.cap else None
        self._record = record
        self._chance = random.Random(options.name)
        self._ends = time.monotonic() + LONGEST_S

    def run(self, first: int, count: int, every_s: float) -> None:
        """Queue ``count`` operations (0: until the file is there), numbered from ``first``."""
        n = first
        while not self._over() and (not count or n < count):
            many = self._chance.randint(2, 6) if self._chance.random() < 0.05 else 1
            self._queue([self._operation(n + i) for i in range(many)])
            n += many
            time.sleep(every_s)

    def _over(self) -> bool:
        return time.monotonic() > self._ends or self._until.exists()

    def _operation(self, n: int) -> dict[str, Any]:
        lane = self._chance.choice(self._lanes)
        body = {"lane": lane, "n": n, "secret": MARKER}
        expires: float | datetime | None = self._expires if self._expires and n % 10 == 9 else None
        if self._deadline is not None and n % 10 == 8:
            expires = self._deadline
        operation = {"method": "POST", "path": f"/{lane}", "body": body, "lane": lane, "id": new_operation_id()}
        return operation | {"expires": expires, "policy": self._policy}

    def _queue(self, operations: list[dict[str, Any]]) -> None:
        """Ask until it is known, with the same ids, as an application would."""
        self._note("asked", operations)
        while True:
            try:
                self._sync.queue_many(operations) if operations[1:] else self._sync.queue(**operations[0])
            except (AcceptanceUnknown, StorageUnavailable, QueueFull):
                if self._over():
                    return
                time.sleep(AGAIN_S)
            else:
                self._note("accepted", operations)
                os.fsync(self._record.fileno())
                return

    def _note(self, word: str, operations: list[dict[str, Any]]) -> None:
        for one in operations:
            line = {"is": word, "id": one["id"], "lane": one["lane"], "n": one["body"]["n"], "t": time.time()}
            self._record.write(json.dumps(line) + "\n")
        self._record.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--lanes", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--until", type=Path, required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--every", type=float, default=0.02)
    parser.add_argument("--expires", type=float, default=0.0, help="of every tenth operation, seconds; 0: never")
    parser.add_argument("--deadline", type=datetime.fromisoformat, help="of every tenth operation, a date")
    parser.add_argument("--cap", type=float, default=0.0, help="longest pause between tries; 0: the default policy")
    options = parser.parse_args()
    text = options.record.read_text() if options.record.exists() else ""
    numbers = [json.loads(line)["n"] for line in text.splitlines() if line.endswith("}")]
    with options.record.open("a", encoding="utf-8") as record:
        if text and not text.endswith("\n"):
            record.write("\n")  # killed in the middle of a line
        Producer(options, record).run(max(numbers, default=-1) + 1, options.count, options.every)


if __name__ == "__main__":
    main()
