"""The demo's judge must not be kinder than the promises are."""

import dataclasses

import pytest

from fluxy_sync.cli.demo.judge import Judgement, count_strangers, judge_lane, judge_lanes
from fluxy_sync.cli.demo.upstream import Arrival

KEYS = ("a", "b", "c")


def arrive(*keys: str, lane: str = "l", digest: str = "d") -> list[Arrival]:
    """Arrivals whose numbers are the keys' places in the queue."""
    return [Arrival(key, lane, KEYS.index(key) + 1 if key in KEYS else 9, digest, 0.0) for key in keys]


def test_all_in_order_holds() -> None:
    """Each once, in the order of the queue."""
    judged = judge_lane("l", KEYS, arrive("a", "b", "c"))
    assert judged.holds
    assert (judged.accepted, judged.arrived, judged.lost, judged.repeats) == (3, 3, 0, 0)


def test_a_repeat_before_the_next_one_holds() -> None:
    """An operation may arrive again as long as the next one hasn't been sent."""
    judged = judge_lane("l", KEYS, arrive("a", "b", "b", "b", "c"))
    assert (judged.holds, judged.repeats) == (True, 2)


@pytest.mark.parametrize(
    "arrived", [("b", "a", "c"), ("a", "c", "b"), ("a", "b", "a", "c"), ("a", "b", "c", "b")], ids="".join
)
def test_any_other_order_is_broken(arrived: tuple[str, ...]) -> None:
    """A later one that comes first, or an earlier one that comes again later, breaks the order."""
    judged = judge_lane("l", KEYS, arrive(*arrived))
    assert not judged.in_order
    assert not judged.holds


def test_a_lost_one_is_lost_even_if_the_rest_is_in_order() -> None:
    """A gap isn't disorder, but it is a loss."""
    judged = judge_lane("l", KEYS, arrive("a", "c"))
    assert (judged.lost, judged.in_order, judged.holds) == (1, True, False)


def test_a_repeat_that_carries_something_else_doesnt_hold() -> None:
    """The same key must carry the same request, byte for byte."""
    judged = judge_lane("l", KEYS, [*arrive("a"), *arrive("a", digest="other"), *arrive("b", "c")])
    assert (judged.altered, judged.holds) == (1, False)


def test_an_unknown_key_is_a_stranger_and_no_order() -> None:
    """A request under a key that nobody was given is told, on its lane or on none."""
    arrivals = [*arrive(*KEYS), *arrive("x"), *arrive("a", lane="other")]
    assert count_strangers({"l": KEYS}, arrivals) == 2
    assert not judge_lanes({"l": KEYS}, arrivals)[0].in_order


def test_nothing_queued_proves_nothing() -> None:
    """A judgement without lanes doesn't hold."""
    assert not Judgement((), 0, 0, 0, 0, readable_on_disk=False).holds


@pytest.mark.parametrize(
    "change",
    [{"strangers": 1}, {"pending": 1}, {"dead": 1}, {"delivered_total": 2}, {"readable_on_disk": True}],
    ids=lambda change: next(iter(change)),
)
def test_the_whole_holds_only_if_each_part_does(change: dict[str, int]) -> None:
    """The journal's counts, strangers and text on disk each count as much as the lanes."""
    good = Judgement(judge_lanes({"l": KEYS}, arrive(*KEYS)), 0, 0, 0, 3, readable_on_disk=False)
    assert good.holds
    assert not dataclasses.replace(good, **change).holds
