"""One gateway on a store of its own, with its upstream and its producers: for one trial, and ended whatever happens."""

import os
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import redis

from fluxy_sync import FluxySync, StorageUnavailable
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Snapshot
from fluxy_sync.vault import new_key
from tests.chaos.ledger import MARKER, Ledger, counts_by_hand, files_with
from tests.chaos.trial import Broken, Run, wait_until
from tests.conftest import ROOT, Gateway
from tests.referee import Verdict
from tests.upstream import Upstream

DRAIN_S = 120.0


class Stage:
    """A store, an upstream and a gateway's processes; nothing runs before it is started.

    Args:
        run: its folder holds everything.
        settings: of the gateway, without prefix, e.g. ``MAX_PENDING="100"``.

    Attributes:
        store: started by entering the stage.
        upstream: started and scripted by the trial; its record is what is judged.
        gateway: ``gateway.start("worker:one", "beat")``.
        sync: a producer and operator in the trial's own process.
    """

    def __init__(self, run: Run, **settings: str) -> None:
        self._run = run
        self._ends = ExitStack()
        self.folder = run.folder
        self.store = EmbeddedStore(self.folder / "store")
        self.upstream = Upstream(self.folder / "upstream.jsonl")
        self.stop_file = self.folder / "producers-stop"
        self.producers: dict[str, subprocess.Popen[bytes]] = {}
        self._orders: dict[str, list[str]] = {}
        ring = self.folder / "ring"
        ring.write_text(new_key())
        ring.chmod(0o600)
        given = {
            "REDIS_URL": self.store.url,
            "KEYS_FILE": str(ring),
            "UPSTREAM": self.upstream.url,
            "NAMESPACE": "chaos",
            "DATA_DIR": str(self.folder / "data"),
        }
        self.gateway = Gateway(given | settings, self.folder)
        self._sync: FluxySync | None = None

    @property
    def sync(self) -> FluxySync:
        """Made when it is first asked for."""
        if self._sync is None:
            self._sync = FluxySync(self.gateway.settings())
        return self._sync

    @property
    def namespace(self) -> str:
        """The gateway's."""
        return self.gateway.environment["FLUXY_SYNC_NAMESPACE"]

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.callback(self._close)
            self.store.start()
            self.store.wait_ready()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.close()

    def _close(self) -> None:
        for process in self.producers.values():
            process.kill()
            process.wait()
        self.gateway.close()
        self.upstream.kill()
        if self._sync is not None:
            self._sync.live.close()
            self._sync.engine.journal.store.close()
        if self.store.process is not None:
            self.store.process.kill()
            self.store.process.wait()

    # --- producers

    def produce(
        self,
        name: str,
        lanes: Collection[str],
        every_s: float = 0.02,
        count: int = 0,
        expires_s: float = 0.0,
        cap_s: float = 0.0,
        deadline: datetime | None = None,
    ) -> None:
        """Start a producer with lanes of its own; without a count it goes on until ``end_producers``.

        Every tenth of its operations expires after ``expires_s``, and another tenth at ``deadline``, if these are
        given; ``cap_s`` is the longest pause between two tries, where it isn't the default one.
        """
        self._orders[name] = [
            sys.executable, "-m", "tests.chaos.producer", "--name", name, "--lanes", ",".join(lanes),
            "--record", str(self.record_of(name)), "--until", str(self.stop_file),
            "--every", str(every_s), "--count", str(count), "--expires", str(expires_s),
            "--cap", str(cap_s), *(["--deadline", deadline.isoformat()] if deadline else []),
        ]  # fmt: skip
        self.start_producer(name)

    def start_producer(self, name: str) -> None:
        """Start it (again); it goes on behind what it asked for last."""
        environment = {**os.environ, **self.gateway.environment}
        with (self.folder / f"producer-{name}.log").open("ab") as log:
            self.producers[name] = subprocess.Popen(self._orders[name], env=environment, stderr=log, cwd=ROOT)

    def record_of(self, name: str) -> Path:
        """What a producer notes."""
        return self.folder / f"accepted-{name}.jsonl"

    def end_producers(self, timeout: float = 60.0) -> None:
        """Let all of them finish what they are at."""
        self.stop_file.touch()
        for name, process in self.producers.items():
            if process.wait(timeout) != 0:
                raise Broken(f"the producer {name} ended with {process.returncode}")

    @property
    def ledger(self) -> Ledger:
        """What they noted until now, and whoever else keeps such a record."""
        return Ledger(sorted(self.folder.glob(self.record_of("*").name)))

    # --- the end

    def snapshot(self) -> Snapshot | None:
        """The journal's; None while the store is away."""
        try:
            return self.sync.engine.journal.snapshot()
        except StorageUnavailable:
            return None

    def drain(self, timeout: float = DRAIN_S) -> None:
        """Wait until nothing is pending."""
        wait_until(lambda: (s := self.snapshot()) is not None and s.pending == 0, timeout, "everything to drain")

    def judge(self, undecided: Collection[str] = ()) -> Verdict:
        """Judge what arrived, count the store by hand, and look for plaintext. Figures go to the run.

        Dead letters are undecided by themselves: that they have a reason is checked.
        """
        ledger, requests = self.ledger, self.upstream.requests()
        letters = list(self.sync.dead_letters())
        self._run.check(all(letter.reason for letter in letters), "a dead letter without a reason")
        verdict = ledger.judge(requests, {*undecided, *(letter.id for letter in letters)})
        self._run.figure("accepted", len(ledger.accepted))
        self._run.figure("lost", len(verdict.lost), at_most=0)
        self._run.figure("reordered", len({*verdict.reordered, *verdict.early}), at_most=0)
        self._run.figure("repeats", verdict.repeats)
        self._run.figure("repeats with another key or body", len({*verdict.changed, *verdict.garbled}), at_most=0)
        self._run.figure("requests that nobody queued", len(verdict.unknown), at_most=0)
        self._run.check(verdict.ok, str(verdict))
        self.check_counts()
        self.check_secrecy()
        return verdict

    def check_counts(self) -> None:
        """The counters equal what the records say, counted by hand."""
        with redis.Redis.from_url(self.store.url) as client:
            found = counts_by_hand(client, self.namespace)
        snapshot: Any = self.snapshot()
        told = {name: getattr(snapshot, name) for name in found}
        self._run.check(told == found, f"the counters say {told}, the records {found}")

    def check_secrecy(self) -> None:
        """No file of the store and of the gateway, and no log, holds what was in the bodies."""
        own = {self.upstream.record}
        found = files_with(MARKER, self.folder, own)
        self._run.check(not found, f"plaintext in {', '.join(map(str, found))}")

    def restart_store(self) -> None:
        """Kill the store and start it again at once."""
        assert self.store.process is not None
        self.store.process.kill()
        self.store.process.wait()
        self.store.start()
        self.store.wait_ready()


def settle_down(seconds: float, until: "subprocess.Popen[bytes] | None" = None) -> None:
    """Let a fault last for so long; or until a process has ended."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and (until is None or until.poll() is None):
        time.sleep(min(0.05, max(0.0, ends - time.monotonic())))
