"""The judge: was all that was accepted delivered, in each lane's order, and unchanged? A pure decision."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple


class Accepted(NamedTuple):
    """An operation that the journal accepted. Its JSON body carries ``{"lane": lane, "n": seq}``."""

    id: str
    lane: str
    seq: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge found: two counts, and the ids and keys of broken promises.

    Attributes:
        delivered: accepted operations that were answered 2xx at least once.
        lost: accepted, and never answered 2xx.
        reordered: first answered 2xx after a later operation of their lane.
        early: sent before an earlier operation of their lane had been delivered.
        repeats: requests whose key had been seen before (a retry is one; allowed).
        changed: keys that came again with another method, path or body.
        garbled: ids whose body carries another lane or number than the accepted one.
        unknown: keys that nobody queued; "" stands for a request without a key.
    """

    delivered: int = 0
    lost: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    repeats: int = 0
    changed: tuple[str, ...] = ()
    garbled: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """The broken promises by name; empty when all held."""
        names = ("lost", "reordered", "early", "changed", "garbled", "unknown")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def ok(self) -> bool:
        """Whether every promise held."""
        return not self.faults

    def __str__(self) -> str:
        told = [f"{self.delivered} delivered", f"{self.repeats} repeated"]
        told += [
            f"{len(ids)} {name} ({', '.join(ids[:3])}{', ...' if ids[3:] else ''})" for name, ids in self.faults.items()
        ]
        return ", ".join(told)


def judge(
    accepted: Iterable[tuple[str, str, int]],
    received: Iterable[dict[str, Any]],
    undecided: Collection[str] = (),
) -> Verdict:
    """Judge what an upstream received by what was accepted.

    Args:
        accepted: (id, lane, seq) of each accepted operation; within a lane, seq rises in accepted order.
        received: the upstream's records in order of arrival.
        undecided: ids that may or may not arrive, at any place: dead letters, cancelled operations, those
            whose acceptance is unknown.
    """
    known = {operation[0]: Accepted(*operation) for operation in accepted}
    requests = list(received)
    sent = _first_places(requests, known, delivered_only=False)
    delivered = _first_places(requests, known, delivered_only=True)
    due = {id: operation for id, operation in known.items() if id not in undecided}
    lanes = _lanes(due.values())
    return Verdict(
        delivered=len(delivered),
        lost=tuple(id for id in due if id not in delivered),
        reordered=tuple(id for lane in lanes for id in _overtaken(lane, delivered, delivered)),
        early=tuple(id for lane in lanes for id in _overtaken(lane, sent, delivered)),
        repeats=len(requests) - len({request["key"] for request in requests}),
        changed=_changed(requests),
        garbled=_garbled(requests, known),
        unknown=_unknown(requests, {*known, *undecided}),
    )


def operation_id(key: str | None) -> str:
    """The operation's id in a key: ``<id>``, or ``<id>.<generation>`` once its body was changed."""
    id, dot, generation = (key or "").rpartition(".")
    return id if dot and generation.isdigit() else key or ""


def was_delivered(request: dict[str, Any]) -> bool:
    """Whether a request was answered 2xx, at once or when it was released."""
    statuses = (request["status"], request.get("released"))
    return any(isinstance(status, int) and 200 <= status < 300 for status in statuses)


def _first_places(
    requests: Sequence[dict[str, Any]], known: Collection[str], *, delivered_only: bool
) -> dict[str, int]:
    """Where each known operation arrived first, respectively was first answered 2xx."""
    places: dict[str, int] = {}
    for place, request in enumerate(requests):
        id = operation_id(request["key"])
        if id in known and (was_delivered(request) or not delivered_only):
            places.setdefault(id, place)
    return places


def _lanes(operations: Iterable[Accepted]) -> list[list[str]]:
    """The ids of each lane in accepted order."""
    lanes: dict[str, list[Accepted]] = defaultdict(list)
    for operation in operations:
        lanes[operation.lane].append(operation)
    return [[operation.id for operation in sorted(lane, key=lambda o: o.seq)] for lane in lanes.values()]


def _overtaken(lane: list[str], places: dict[str, int], delivered: dict[str, int]) -> Iterable[str]:
    """Those whose place comes before the delivery of a predecessor (for deliveries: the overtakers)."""
    latest = -1
    for id in lane:
        if id in places and places[id] < latest:
            yield id
        latest = max(latest, delivered.get(id, -1))


def _changed(requests: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    forms: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for request in requests:
        forms[request["key"] or ""].add((request["method"], request["path"], request["body"]))
    return tuple(key for key, seen in forms.items() if key and len(seen) > 1)


def _garbled(requests: Iterable[dict[str, Any]], known: dict[str, Accepted]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for request in requests:
        operation = known.get(operation_id(request["key"]))
        if operation is not None and _carried(request["body"]) != (operation.lane, operation.seq):
            found[operation.id] = None
    return tuple(found)


def _carried(body: str) -> tuple[Any, Any]:
    """The lane and number that a body carries."""
    try:
        content = json.loads(body)
    except ValueError:
        return None, None
    return (content.get("lane"), content.get("n")) if isinstance(content, dict) else (None, None)


def _unknown(requests: Iterable[dict[str, Any]], known: Collection[str]) -> tuple[str, ...]:
    keys = (request["key"] or "" for request in requests)
    return tuple(dict.fromkeys(key for key in keys if operation_id(key) not in known))
