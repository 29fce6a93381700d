"""A wall clock of its own for some processes, moved while they run; by a small library that is preloaded into them."""

import mmap
import os
import shlex
import struct
import subprocess
import sys
import time
from pathlib import Path

from fluxy_sync.embedded import EmbeddedStore, find_server
from tests.chaos.stage import Stage
from tests.chaos.trial import LeftOut, Run, need

SOURCE = Path(__file__).with_name("wall_clock.c")
TEN_YEARS_S = 10 * 365.25 * 86_400


def build(folder: Path) -> Path:
    """Compile the library.

    Raises:
        LeftOut: there is no compiler, or nothing can be preloaded.
    """
    if sys.platform != "linux":
        raise LeftOut("libraries are preloaded by Linux's loader: run it there")
    library, compiler = folder / "wall_clock.so", need("gcc", "gcc")
    if not Path("/usr/include/dlfcn.h").exists():
        raise LeftOut("it needs the C library's headers: install the Debian package libc6-dev")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class WallClock:
    """A wall clock that is ``ahead_s`` of the real one. Clocks since the boot stay as they are, as on a real machine.

    Args:
        file: where the processes read what it says, at each look.
    """

    def __init__(self, library: Path, file: Path, ahead_s: float = 0.0) -> None:
        file.write_bytes(bytes(8))
        with file.open("r+b") as shared:
            self._shared = mmap.mmap(shared.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(file)}  # of a process that goes by it
        self.set(ahead_s)

    def set(self, ahead_s: float) -> None:
        """Let it jump."""
        self.ahead_s = ahead_s
        self._shared[:] = struct.pack("=q", round(ahead_s * 1e9))


def since_1970() -> float:
    """How far a clock is ahead that began with 1970 a minute ago, as after a boot without a battery: negative."""
    return 60.0 - time.time()


class ClockedStage(Stage):
    """A stage whose store goes by one wall clock, and whose other processes go by another.

    Args:
        ahead_s: of both, in the beginning.
    """

    def __init__(self, run: Run, ahead_s: float = 0.0, **settings: str) -> None:
        super().__init__(run, **settings)
        library = build(self.folder)
        self.store_clock = WallClock(library, self.folder / "store-clock", ahead_s)
        self.clock = WallClock(library, self.folder / "clock", ahead_s)
        server = find_server()
        wrapper = self.folder / "store-server"
        preloaded = shlex.join(f"{name}={value}" for name, value in self.store_clock.environment.items())
        wrapper.write_text(f'#!/bin/sh\nexec env {preloaded} {shlex.quote(str(server.path))} "$@"\n')
        wrapper.chmod(0o700)
        self.store = EmbeddedStore(self.store.data_dir, server=server._replace(path=wrapper))

    @property
    def clocks(self) -> tuple[WallClock, WallClock]:
        """The store's, and all others'."""
        return self.store_clock, self.clock

    def start(self, *roles: str, **environment: str) -> None:
        """Start roles of the gateway by their clock."""
        self.gateway.start(*roles, **self.clock.environment, **environment)

    def start_producer(self, name: str) -> None:
        os.environ.update(self.clock.environment)
        try:
            super().start_producer(name)
        finally:
            for key in self.clock.environment:
                del os.environ[key]

    def check_clocks(self, run: Run) -> None:
        """A trial of clocks that the processes don't go by would prove nothing."""
        told: list[int] = self.sync.engine.journal.store.command("TIME")
        run.check(abs(int(told[0]) - time.time() - self.store_clock.ahead_s) < 5, "the store doesn't go by its clock")
        asked = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))"
        order, environment = [sys.executable, "-S", "-c", asked], {**os.environ, **self.clock.environment}
        wall, boot = subprocess.run(order, env=environment, capture_output=True, check=True).stdout.split()
        run.check(abs(float(wall) - time.time() - self.clock.ahead_s) < 5, "a process doesn't go by its clock")
        run.check(abs(float(boot) - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5, "the boot's clock jumps, too")
