"""What a trial is: faults for one promise, with figures and bounds; and what it is given to work with."""

import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Broken(Exception):
    """A promise was broken; the text is the evidence."""


class LeftOut(Exception):
    """This machine can't run the trial; the text says what is missing, and how to get it."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One thing that was measured or counted."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is within its bounds."""
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def bound(self) -> str:
        """The bounds as text; empty where there are none."""
        parts = [f">= {self.at_least:g}"] if self.at_least is not None else []
        parts += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        return ", ".join(parts)

    def __str__(self) -> str:
        shown = f"{self.value:,.0f}" if float(self.value).is_integer() else f"{self.value:,.3g}"
        return f"{self.name}: {shown}{self.unit and ' ' + self.unit}{self.bound and f' ({self.bound})'}"


class Run:
    """One run of one trial.

    Attributes:
        seed: what all that is random comes from.
        chance: a generator of the seed and the trial's name: a trial alone does what it did among all.
        full: whether it may take its time.
        folder: a place of its own, which is kept if a promise breaks.
    """

    def __init__(self, name: str, seed: int, full: bool, folder: Path, tell: Callable[[str], object]) -> None:
        self.name, self.seed, self.full, self.folder = name, seed, full, folder
        self.chance = random.Random(f"{seed} {name}")
        self.figures: list[Figure] = []
        self._tell = tell

    def scale(self, short: T, full: T) -> T:
        """The one of the two that fits the run."""
        return full if self.full else short

    def note(self, text: str) -> None:
        """Say something while it runs, e.g. how far it is."""
        self._tell(text)

    def figure(
        self, name: str, value: float, unit: str = "", *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Note a figure; one that is out of its bounds breaks the trial in the end."""
        found = Figure(name, value, unit, at_most, at_least)
        self.figures.append(found)
        self._tell(str(found))

    def percentile(self, name: str, values: Sequence[float], share: float, unit: str, at_most: float) -> None:
        """Note a percentile (nearest rank) of what was measured, with the number of values.

        Of a few values none is the 95th percentile: there the second longest is held against the bound.
        """
        self.check(bool(values), f"{name}: nothing was measured")
        of_all = f"p{share * 100:.0f} of {len(values)}"
        rank = min(len(values) - 1, int(len(values) * share))
        if 1 < len(values) < 1.0 / (1.0 - share or 1.0):
            of_all, rank = f"the second longest of {len(values)}", len(values) - 2
        self.figure(f"{name}, {of_all}", sorted(values)[rank], unit, at_most=at_most)

    def check(self, held: Any, evidence: str) -> None:
        """Raise Broken unless it held."""
        if not held:
            raise Broken(evidence)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial: its name, what it promises (the first line of its docstring), and what runs it."""

    name: str
    promise: str
    run: Callable[[Run], None]
    short: bool  # whether it is part of the short run


TRIALS: dict[str, Trial] = {}


def trial(*, short: bool = True) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register a function as a trial under its own name. Its docstring is the promise."""

    def register(run: Callable[[Run], None]) -> Callable[[Run], None]:
        name = run.__name__.replace("_", "-")
        promise = " ".join((run.__doc__ or "").strip().partition("\n\n")[0].split())
        TRIALS[name] = Trial(name, promise, run, short)
        return run

    return register


def need(program: str, package: str) -> str:
    """The path of a program.

    Raises:
        LeftOut: it isn't installed.
    """
    found = shutil.which(program)
    if found is None:
        raise LeftOut(f"it needs {program}: install the Debian package {package}")
    return found


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """Look until the condition holds, and return what it gave.

    Raises:
        Broken: it didn't within ``timeout`` seconds.
    """
    ends = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > ends:
            raise Broken(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)
