"""What goes on beside a trial's own thread: it ends when it is told to, and what fails there fails the trial."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

END_S = 60.0


class Background(threading.Thread, ABC):
    """Does one step after another, ``every_s`` seconds apart, until it is finished."""

    def __init__(self, name: str, every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.over = threading.Event()
        self._every_s = every_s
        self._error: BaseException | None = None

    @abstractmethod
    def step(self) -> None:
        """Do it once."""

    def run(self) -> None:
        try:
            while not self.over.wait(self._every_s):
                self.step()
        except BaseException as error:  # noqa: BLE001 -- raised by finish(), in the trial's own thread
            self._error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()

    def finish(self) -> None:
        """End it; raises what failed in it."""
        self.over.set()
        self.join(END_S)
        if self._error is not None:
            raise self._error
        if self.is_alive():
            raise RuntimeError(f"{self.name} doesn't end")


class Timed:
    """Faults that last, one of each part at a time: each is mended when its time is over, or when another begins."""

    def __init__(self) -> None:
        self._mends: dict[str, tuple[float, Callable[[], object]]] = {}

    def begin(self, part: str, seconds: float, mend: Callable[[], object]) -> None:
        """Note how and when a fault that has just begun is mended."""
        self.end(part)
        self._mends[part] = time.monotonic() + seconds, mend

    def __contains__(self, part: str) -> bool:
        return part in self._mends

    def end(self, part: str) -> None:
        """Mend it now."""
        if part in self._mends:
            _, mend = self._mends.pop(part)
            mend()

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and mend what is over."""
        ends = time.monotonic() + seconds
        while (now := time.monotonic()) < ends:
            for part in [part for part, (at, _) in self._mends.items() if at <= now]:
                self.end(part)
            time.sleep(max(0.0, min(0.02, ends - now)))

    def end_all(self) -> None:
        """Mend everything."""
        for part in list(self._mends):
            self.end(part)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What the trial's own process has to tell goes to a file, where plaintext is looked for, too."""
    with closing(logging.FileHandler(path)) as handler:
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
