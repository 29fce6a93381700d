"""An upstream with moods: it answers, fails, refuses, stalls, resets, answers and drops, lies, and goes away."""

import random
import threading
from collections.abc import Sequence

from tests.chaos.background import Background
from tests.upstream import Upstream
from tests.upstream_server import Action

TOO_LONG: Action = {"status": 201, "headers": {"content-length": "500"}, "body": "that was all", "ending": "close"}
TOO_SHORT: Action = {"status": 201, "headers": {"content-length": "2"}, "body": "{} and what nobody announced"}
ANSWERS: tuple[Action, ...] = (
    503, 500, 408, 422, "drop", "reset", "answer_then_drop", "accept_then_drop", TOO_LONG, TOO_SHORT,
    {"status": 409, "headers": {"Retry-After": "1"}}, {"status": 429, "headers": {"Retry-After": "1"}},
)  # fmt: skip
USUAL: Action = {"status": 201, "delay_s": 0.02}  # so that many a fault comes in mid-request


class Moods(Background):
    """Changes by chance, now and then. ``turn``: whoever holds it has the upstream for himself."""

    def __init__(self, upstream: Upstream, lanes: Sequence[str], chance: random.Random) -> None:
        super().__init__("moods", 0.25)
        self.turn = threading.Lock()
        self._upstream, self._lanes, self._chance = upstream, lanes, chance
        self._moods = (self._answer, self._answer, self._answer, self._answer, self._stall, self._fail, self._go_away)

    def step(self) -> None:
        mood = self._chance.choice(self._moods)
        lane, seconds = self._chance.choice(self._lanes), self._chance.uniform(0.3, 1.5)
        answers = [self._chance.choice(ANSWERS) for _ in range(self._chance.randint(1, 3))]
        with self.turn:
            mood(lane, seconds, answers)

    def _answer(self, lane: str, _seconds: float, answers: list[Action]) -> None:
        self._upstream.script(f"/{lane}", answers)

    def _stall(self, lane: str, seconds: float, answers: list[Action]) -> None:
        self._upstream.script(f"/{lane}", ["stall"])
        self.over.wait(seconds)
        self._upstream.release(answers[0] if isinstance(answers[0], int) else 201)

    def _fail(self, _lane: str, seconds: float, _answers: list[Action]) -> None:
        self._upstream.default(503)
        self.over.wait(seconds)
        self._upstream.default(USUAL)

    def _go_away(self, _lane: str, seconds: float, _answers: list[Action]) -> None:
        self._upstream.stop()
        self.over.wait(seconds)
        self._upstream.start()

    def finish(self) -> None:
        """End, with an upstream that takes everything."""
        super().finish()
        for lane in self._lanes:
            self._upstream.script(f"/{lane}", [])
        self._upstream.default(201)
        self._upstream.start()
        self._upstream.release(201)
