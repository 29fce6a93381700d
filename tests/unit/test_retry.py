"""The retry policy: each pause lies in [d/2, d], d grows to its cap, and the retries end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.retry import RetryPolicy

policies = st.builds(
    lambda retries, base, factor, more: RetryPolicy(retries, base, factor, base * more),
    st.integers(0, 2000),
    st.floats(0.001, 1e4),
    st.floats(1, 100),
    st.floats(1, 1e4),
)


def lowest(low: float, high: float) -> float:
    return low


def highest(low: float, high: float) -> float:
    return high


@given(policies, st.integers(0, 3000))
def test_each_pause_lies_between_half_its_bound_and_its_bound(policy: RetryPolicy, retries: int) -> None:
    """Whatever the dice say; after the last retry there is no pause but an end."""
    d = policy.bound(retries)
    pauses = [policy.pause(retries, uniform) for uniform in (lowest, highest)]
    if retries >= policy.max_retries:
        assert pauses == [None, None]
    else:
        assert all(pause is not None and d / 2 <= pause <= d for pause in pauses)
        random_pause = policy.pause(retries)
        assert random_pause is not None
        assert d / 2 <= random_pause <= d


@given(policies, st.integers(0, 3000))
def test_bounds_grow_up_to_the_cap(policy: RetryPolicy, retries: int) -> None:
    """Never smaller than before, never beyond the cap, finite for any count."""
    assert policy.base_s == policy.bound(0)
    assert policy.bound(retries) <= policy.bound(retries + 1) <= policy.cap_s
    assert math.isfinite(policy.bound(10**6))


def test_the_default_doubles_from_one_second_to_a_quarter_of_an_hour() -> None:
    """1, 2, 4 ... 512, 900, 900 ..."""
    policy = RetryPolicy()
    assert [policy.bound(n) for n in range(12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert policy.pause(0, lowest) == 0.5


def test_the_default_outlasts_a_weekend() -> None:
    """A server that refuses from Friday evening to Monday morning leaves nothing in the dead letters."""
    policy = RetryPolicy()
    shortest = sum(policy.pause(n, lowest) or 0 for n in range(policy.max_retries))
    longest = sum(policy.pause(n, highest) or 0 for n in range(policy.max_retries))
    assert shortest > 2 * 86_400
    assert 3 * 86_400 < longest < 5 * 86_400


def test_no_retries_is_a_policy() -> None:
    """One try and no more."""
    assert RetryPolicy(max_retries=0).pause(0) is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"base_s": 0.0}, "base_s"),
        ({"base_s": -1.0}, "base_s"),
        ({"base_s": 10.0, "cap_s": 9.0}, "cap_s"),
        ({"cap_s": math.inf}, "cap_s"),
        ({"base_s": math.nan}, "base_s"),
        ({"factor": 0.5}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"factor": math.nan}, "factor"),
    ],
)
def test_a_policy_out_of_range_is_refused(values: dict[str, float], named: str) -> None:
    """The sentence names the value."""
    with pytest.raises(ValueError, match=named):
        RetryPolicy(**values)  # type: ignore[arg-type]
