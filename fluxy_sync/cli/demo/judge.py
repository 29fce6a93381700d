"""What the demo claims, judged by what the upstream saw: pure functions of its record."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from fluxy_sync.cli.demo.upstream import Arrival


@dataclass(frozen=True)
class LaneJudgement:
    """One lane: ``repeats`` are further arrivals of an operation, ``altered`` those that carried something else."""

    lane: str
    accepted: int
    arrived: int
    lost: int
    repeats: int
    altered: int
    in_order: bool

    @property
    def holds(self) -> bool:
        """Whether all promises held on this lane."""
        return self.lost == 0 and self.altered == 0 and self.in_order


@dataclass(frozen=True)
class Judgement:
    """The whole: every lane, what came from nowhere, what the journal still counts, what could be read on disk."""

    lanes: tuple[LaneJudgement, ...]
    strangers: int
    pending: int
    dead: int
    delivered_total: int
    readable_on_disk: bool
    kills: int = 0
    first_arrival_s: float = 0.0

    @property
    def accepted(self) -> int:
        """Operations accepted on all lanes."""
        return sum(lane.accepted for lane in self.lanes)

    @property
    def repeats(self) -> int:
        """Repeats on all lanes."""
        return sum(lane.repeats for lane in self.lanes)

    @property
    def holds(self) -> bool:
        """Whether every promise held."""
        counted = (self.pending, self.dead, self.delivered_total) == (0, 0, self.accepted)
        clean = counted and not self.strangers and not self.readable_on_disk
        return bool(self.lanes) and clean and all(lane.holds for lane in self.lanes)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values."""
        return {"holds": self.holds, "accepted": self.accepted, "repeats": self.repeats, **asdict(self)}


def judge_lane(lane: str, accepted: Sequence[str], arrivals: Sequence[Arrival]) -> LaneJudgement:
    """Judge one lane.

    Args:
        accepted: the operations' keys, in the order in which they were queued; their numbers count from 1.
        arrivals: what arrived on this lane, in order.

    An operation may arrive again, but only before the next one: that one isn't sent before it is settled.
    """
    first: dict[str, str] = {}
    for arrival in arrivals:
        first.setdefault(arrival.key, arrival.digest)
    seen = [key for key, _ in groupby((arrival.key, arrival.number) for arrival in arrivals)]
    wanted = [(key, number) for number, key in enumerate(accepted, 1)]
    return LaneJudgement(
        lane=lane,
        accepted=len(accepted),
        arrived=len(first.keys() & set(accepted)),
        lost=len(set(accepted) - first.keys()),
        repeats=len(arrivals) - len(first),
        altered=sum(arrival.digest != first[arrival.key] for arrival in arrivals),
        in_order=seen == [pair for pair in wanted if pair[0] in first],
    )


def judge_lanes(accepted: Mapping[str, Sequence[str]], arrivals: Sequence[Arrival]) -> tuple[LaneJudgement, ...]:
    """Judge each lane by what arrived on it."""
    return tuple(
        judge_lane(lane, keys, [arrival for arrival in arrivals if arrival.lane == lane])
        for lane, keys in accepted.items()
    )


def count_strangers(accepted: Mapping[str, Sequence[str]], arrivals: Sequence[Arrival]) -> int:
    """Arrivals under a key that nobody was given for that lane."""
    return sum(arrival.key not in accepted.get(arrival.lane, ()) for arrival in arrivals)
