"""Kill and stop a gateway's processes and its producers; and start again what died, as a supervisor would."""

import random
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psutil

from fluxy_sync.journal.journal import CLAIM_S
from tests.chaos.background import Background, Timed
from tests.chaos.stage import Stage
from tests.conftest import Gateway

LOOK_S = 0.05
Roles = Mapping[str, Mapping[str, str]]
"""What runs, 'worker:NAME', 'beat' or 'flower' (the dashboard), with what its environment has besides."""


class Restarter(Background):
    """Starts again whatever died. ``ended``: what ended without having been killed, with its exit code."""

    def __init__(self, gateway: Gateway, roles: Roles) -> None:
        super().__init__("restarter", LOOK_S)
        self.ended: list[str] = []
        self.workers = [role for role in roles if role.startswith("worker")]
        self._gateway, self._roles = gateway, roles
        self._lock = threading.Lock()

    def step(self) -> None:
        for role in self._roles:
            with self._lock:
                self._look_after(role)

    def _look_after(self, role: str) -> None:
        process = self._gateway.processes.get(role)
        if process is not None and process.poll() is None:
            return
        if process is not None:
            self.ended.append(f"{role} ({process.returncode})")
        self._gateway.start(role, wait=False, **self._roles[role])

    def kill(self, role: str) -> None:
        """SIGKILL to a role's parent; its pool ends by itself."""
        with self._lock:
            if role in self._gateway.processes:
                self._gateway.kill(role)

    def parent(self, role: str) -> psutil.Process | None:
        """A role's process, if it lives now."""
        with self._lock, suppress(psutil.NoSuchProcess):
            process = self._gateway.processes.get(role)
            return psutil.Process(process.pid) if process is not None else None
        return None


class ProcessFaults:
    """SIGKILL and SIGSTOP, each to a victim chosen by chance."""

    def __init__(self, restarter: Restarter, timed: Timed) -> None:
        self._restarter, self._timed = restarter, timed

    def kill_worker(self, chance: random.Random) -> None:
        """A worker's parent; one that is stopped for long is left to it."""
        role = chance.choice(self._restarter.workers)
        if role not in self._timed:
            self._restarter.kill(role)

    def kill_child(self, chance: random.Random) -> None:
        """A process of a pool."""
        role = chance.choice(self._restarter.workers)
        if pool := _pool(self._restarter.parent(role)):
            each([chance.choice(pool)], "kill")

    def kill_beat(self, _chance: random.Random) -> None:
        self._restarter.kill("beat")

    def kill_dashboard(self, _chance: random.Random) -> None:
        self._restarter.kill("flower")

    def stop_worker(self, chance: random.Random) -> None:
        """SIGSTOP for a moment, to the parent, its pool or all of them; then SIGCONT."""
        self._stop(chance, chance.uniform(0.2, 3.0))

    def stop_worker_past_its_claim(self, chance: random.Random) -> None:
        """SIGSTOP for longer than a claim lasts; then SIGCONT."""
        self._stop(chance, CLAIM_S + chance.uniform(1.0, 3.0))

    def _stop(self, chance: random.Random, seconds: float) -> None:
        role, whom = chance.choice(self._restarter.workers), chance.choice(("parent", "pool", "all"))
        parent = self._restarter.parent(role)
        if role in self._timed or parent is None:
            return
        pool = _pool(parent)
        stopped = {"parent": [parent], "pool": pool, "all": [parent, *pool]}[whom]
        each(stopped, "suspend")
        self._timed.begin(role, seconds, lambda: each(stopped, "resume"))


class ProducerFaults:
    """SIGKILL to producers."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def kill_producer(self, chance: random.Random) -> None:
        """One of them, mostly in mid-call; it starts again behind what it asked for last."""
        name = chance.choice(sorted(self._stage.producers))
        process = self._stage.producers[name]
        process.kill()
        process.wait()
        self._stage.start_producer(name)


def _pool(parent: psutil.Process | None) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return parent.children() if parent is not None else []
    return []


def each(processes: Iterable[psutil.Process], what: str) -> None:
    """Do something to each that still lives: ``kill``, ``suspend``, ``resume``."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # psutil knows one by its start, too: nobody else is meant
            getattr(process, what)()


def lives(process: psutil.Process) -> bool:
    """Whether it runs; a zombie doesn't, however long its new parent leaves it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
