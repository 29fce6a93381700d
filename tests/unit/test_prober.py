"""Probes don't wait for each other, and the newest counts."""

import threading
from typing import Any

import pytest

from fluxy_sync.connectivity import PROBES_AT_ONCE, Prober, ProbeResult
from tests.conftest import wait_until

UP, DOWN = ProbeResult(True, True, "200"), ProbeResult(False, False, "connect-timeout")


class Asked:
    """Probes that are answered on cue, and what was judged."""

    def __init__(self) -> None:
        self.waiting: list[tuple[threading.Event, list[ProbeResult | None]]] = []
        self.judged: list[ProbeResult] = []
        self.prober = Prober(self._ask, self.judged.append)

    def _ask(self) -> ProbeResult | None:
        answered, result = threading.Event(), []  # type: ignore[var-annotated]
        self.waiting.append((answered, result))
        answered.wait(20)
        return result[0]  # type: ignore[no-any-return]

    def begin(self, count: int) -> None:
        """Begin probes one after another."""
        for _ in range(count):
            already = len(self.waiting)
            self.prober.probe()
            wait_until(lambda already=already: len(self.waiting) > already)

    def answer(self, number: int, result: ProbeResult | None) -> None:
        answered, place = self.waiting[number]
        place.append(result)
        answered.set()


@pytest.fixture
def asked() -> Any:
    asked = Asked()
    yield asked
    for number in range(len(asked.waiting)):
        asked.answer(number, None)


def test_a_probe_doesn_t_wait_for_earlier_ones(asked: Asked) -> None:
    """One that was sent into a dead link lasts for seconds; the next one may find it alive."""
    asked.begin(3)
    asked.answer(2, UP)
    wait_until(lambda: asked.judged)
    assert asked.judged == [UP]


def test_what_an_earlier_probe_finds_afterwards_is_of_no_interest(asked: Asked) -> None:
    """Its link was another one: it must not close the gate again."""
    asked.begin(3)
    asked.answer(1, UP)
    wait_until(lambda: asked.judged)
    asked.answer(0, DOWN)
    asked.answer(2, DOWN)
    wait_until(lambda: not asked.prober.is_busy)
    assert asked.judged == [UP, DOWN]


def test_a_probe_that_wasn_t_made_judges_nothing(asked: Asked) -> None:
    """Another process has probed just now."""
    asked.begin(1)
    asked.answer(0, None)
    wait_until(lambda: not asked.prober.is_busy)
    assert asked.judged == []


def test_probes_that_hang_are_bounded(asked: Asked) -> None:
    """Whatever the connect timeout is."""
    asked.begin(PROBES_AT_ONCE)
    asked.prober.probe()
    assert len(asked.waiting) == PROBES_AT_ONCE
