"""What is known of the queue, and the signals that show it."""

import operator
from collections.abc import Callable
from datetime import datetime

import msgspec

from fluxy_sync.live_source import Reading, SourceName
from fluxy_sync.status import Status


class Picture(msgspec.Struct):
    """What is known: the newest reading, and whether it can still be trusted."""

    status: Status | None = None
    source: SourceName | None = None
    namespace: str = ""
    boot: str = ""
    began: float = 0.0
    read_at: datetime | None = None  # when it was last known to be true

    def take(self, reading: Reading, now: datetime) -> bool:
        """Show a reading; False where an older one came late."""
        if self._is_older(reading):
            return False
        self.boot = reading.boot or self.boot
        self.source, self.namespace, self.began = reading.source, reading.namespace, reading.began
        self.status = reading.status
        if self.read_at is None or not (reading.status and reading.status.stale):
            self.read_at = now
        return True

    def _is_older(self, reading: Reading) -> bool:
        if self.status is None or reading.status is None:
            return False
        if reading.boot:
            return reading.boot == self.boot and reading.status.rev < self.status.rev
        return reading.began < self.began

    def doubt(self) -> None:
        """What is shown may not be true any more."""
        if self.status is not None:
            self.status = msgspec.structs.replace(self.status, stale=True)

    def aged(self, now: float) -> Status | None:
        """The status as of now (monotonic): what it says about time goes on while it can be trusted."""
        if self.status is None or self.status.stale:
            return self.status
        passed_s, oldest_s = max(0.0, now - self.began), self.status.oldest_age_s
        return msgspec.structs.replace(
            self.status,
            oldest_age_s=None if oldest_s is None else oldest_s + passed_s,
            opens_in_s=max(0.0, self.status.opens_in_s - passed_s),
        )


class Signals:
    """reaktiv's signals, one for each live value; None: nothing is known yet. Loaded when they are first used."""

    def __init__(self) -> None:
        from reaktiv import Signal

        self.pending: Signal[int | None] = Signal(None, equal=operator.eq)
        self.is_syncing: Signal[bool | None] = Signal(None, equal=operator.eq)
        self.status: Signal[Status | None] = Signal(None, equal=operator.eq)
        self.closed: Signal[bool] = Signal(False)

    def show(self, status: Status, known: Callable[[], None]) -> None:
        """Set them all, and call ``known``; then effects run, each once."""
        from reaktiv import batch, untracked

        with untracked(), batch():  # whoever reads a live value for the first time may be an effect himself
            self.pending.set(status.pending)
            self.is_syncing.set(status.is_syncing)
            # Time that passes is no change.
            self.status.set(msgspec.structs.replace(status, oldest_age_s=None, opens_in_s=0.0))
            known()

    @property
    def are_watched(self) -> bool:
        """Whether effects hang on them. (reaktiv keeps them as a list of its own; a test holds that.)"""
        every = (self.pending, self.is_syncing, self.status, self.closed)
        return any(signal._targets is not None for signal in every)
