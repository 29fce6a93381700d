"""How long to wait before an operation is tried again: a pure decision."""

import random
from collections.abc import Callable

import msgspec

DEFAULT_MAX_RETRIES = 400
DEFAULT_BASE_S = 1.0
DEFAULT_FACTOR = 2.0
DEFAULT_CAP_S = 900.0
WAKE_UP_ALLOWANCE = 0.95


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True):
    """Exponential backoff with equal jitter: pause n lies in [d/2, d], d = min(cap_s, base_s * factor ** n).

    Args:
        max_retries: tries after the first one, before the operation becomes a dead letter.
        base_s: upper bound of the first pause, in seconds.
        factor: growth of the bound from one pause to the next.
        cap_s: the largest bound, in seconds.

    Raises:
        ValueError: a value is out of its range.

    Source: "equal jitter" as in the AWS Architecture Blog, Exponential Backoff And Jitter (2015).
    The default keeps trying for about three days: a weekend's outage leaves nothing in the dead letters.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    base_s: float = DEFAULT_BASE_S
    factor: float = DEFAULT_FACTOR
    cap_s: float = DEFAULT_CAP_S

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, not {self.max_retries}")
        if not 0 < self.base_s <= self.cap_s < float("inf"):
            raise ValueError(f"0 < base_s <= cap_s must hold, not base_s={self.base_s}, cap_s={self.cap_s}")
        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"factor must be 1 or more, not {self.factor}")

    def bound(self, retries: int) -> float:
        """The bound d, in seconds, of the pause after ``retries`` earlier retries."""
        try:
            return min(self.cap_s, self.base_s * self.factor**retries)
        except OverflowError:
            return self.cap_s

    def pause(self, retries: int, uniform: Callable[[float, float], float] = random.uniform) -> float | None:
        """Seconds to wait before the next try, or None when the retries are spent.

        Args:
            retries: retries already made: 0 after the first failure.
            uniform: the source of randomness, ``uniform(low, high)``.
        """
        if retries >= self.max_retries:
            return None
        d = self.bound(retries)
        # Waking a worker takes a moment: the pause that the upstream sees stays within d, too.
        return uniform(d / 2, d * WAKE_UP_ALLOWANCE)
