"""The board: what it last heard, and whether that can be compared with what it told before."""

from fluxy_sync.dashboard.board import Board
from tests.unit.test_metrics import reading


def test_a_store_that_went_back_is_another_boot() -> None:
    """A restored or wiped store counts from an earlier rev: who compares revs must not wait until it catches up."""
    board = Board("fluxy")
    first = board.boot
    for rev in (42, 42, 43):
        board.put(reading(rev=rev))
    board.put(None)
    assert board.boot == first
    board.put(reading(rev=7))
    second = board.boot
    assert second != first
    board.put(reading(rev=8))
    assert (board.boot, board.record()["rev"]) == (second, 8)
