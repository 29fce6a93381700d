"""What the dashboard knows now: the one place that every page, stream and metric reads, so that none of them waits."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from fluxy_sync.dashboard.poller import Reading
from fluxy_sync.status import Status
from fluxy_sync.words import reason_text

STALE_AFTER_S = 3.0  # without a word from the poller: a store that hangs is as good as none
# They change with time alone: whoever shows them counts on by himself.
RUNNING = ("oldest_age_s", "opens_in_s")
FIELDS = tuple(field.name for field in msgspec.structs.fields(Status))

Record = dict[str, Any]


class Board:
    """The last reading, and whether it still holds. Belongs to the event loop's thread."""

    def __init__(self, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.boot = str(uuid.uuid4())
        self.namespace = namespace
        self.reading: Reading | None = None
        self._clock = clock
        self._holds = False
        self._heard_at = clock()

    def put(self, reading: Reading | None) -> None:
        """Note what was read; None for: the store can't be read now."""
        self._heard_at = self._clock()
        self._holds = reading is not None
        if reading and self.reading and reading.status.rev < self.reading.status.rev:
            self.boot = str(uuid.uuid4())  # the store was restored or wiped: what was told before compares no more
        self.reading = reading or self.reading

    @property
    def stale(self) -> bool:
        """Whether the numbers are those of an earlier moment."""
        return not self._holds or self._clock() - self._heard_at > STALE_AFTER_S

    def record(self) -> Record:
        """The record of the moment; where nothing was ever read, its numbers are None."""
        status = dict.fromkeys(FIELDS) if self.reading is None else self.reading.status.to_dict()
        rate = None if self.reading is None else self.reading.delivered_per_s
        reason = None if self.reading is None else reason_text(self.reading.status.reason)
        more = {"boot": self.boot, "namespace": self.namespace, "delivered_per_s": rate, "reason_text": reason}
        return {**status, "stale": self.stale, **more}


def essence(record: Record) -> Record:
    """The record without what runs on by itself: two moments with the same essence tell the same."""
    return {name: value for name, value in record.items() if name not in RUNNING}
