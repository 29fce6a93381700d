"""How many workers and tasks the dashboard knows by name: forged events bring new ones without an end."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

SILENT_S = 60.0
"""Who said nothing for so long makes room for another, where there is none."""
MOST_PAIRS = 2_000
"""Tasks of all workers together: each is a set of Prometheus' series."""


class Roll:
    """Workers, and the tasks that each of them named.

    One that speaks is never pushed out by others: they are turned away while it is full.
    """

    def __init__(self, most_workers: int, forget: Callable[[set[str]], object], most_pairs: int = MOST_PAIRS) -> None:
        self._most_workers, self._most_pairs, self._forget = most_workers, most_pairs, forget
        self._heard_at: OrderedDict[str, float] = OrderedDict()  # the longest silent first
        self._tasks: dict[str, set[str]] = {}
        self._pairs = 0

    @property
    def tasks(self) -> set[str]:
        """All tasks by name."""
        return set().union(*self._tasks.values())

    def admit(self, worker: str, task: str, now: float) -> bool:
        """Whether there is room for what a worker said; ``task`` is empty where it named none."""
        if worker not in self._heard_at and len(self._heard_at) >= self._most_workers:
            self._drop_silent(now)
            if len(self._heard_at) >= self._most_workers:
                return False
        named = self._tasks.get(worker, frozenset[str]())
        if task not in named and self._pairs >= self._most_pairs:
            self._drop_silent(now, but=worker)
            if self._pairs >= self._most_pairs:
                return False
        self._note(worker, task, now)
        return True

    def _note(self, worker: str, task: str, now: float) -> None:
        self._heard_at[worker] = now
        self._heard_at.move_to_end(worker)
        named = self._tasks.setdefault(worker, set())
        self._pairs += task not in named
        named.add(task)

    def _drop_silent(self, now: float, but: str = "") -> None:
        silent = set(self._silent(now)) - {but}
        for worker in silent:
            del self._heard_at[worker]
            self._pairs -= len(self._tasks.pop(worker))
        if silent:
            self._forget(silent)

    def _silent(self, now: float) -> Iterable[str]:
        for worker, heard_at in self._heard_at.items():
            if now - heard_at < SILENT_S:
                return
            yield worker
