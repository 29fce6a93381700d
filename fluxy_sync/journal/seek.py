"""Looking for operations of which only the ids are known: all of them together, in one pass through the lanes."""

import math
import time
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from fluxy_sync.journal.journal import Journal, read_id
from fluxy_sync.journal.record import pack_id

LANES_IN_A_CALL = 100


def seek(
    journal: Journal, ids: Collection[str], lanes: Iterable[str], *, give_up_at: float = math.inf
) -> Iterator[tuple[str, str]]:
    """Look through lanes for operations that wait or are being sent: gives the id and the lane of each.

    It costs one look at each record of those lanes, however many ids there are; it ends once all are found.

    Args:
        give_up_at: by the monotonic clock.

    Raises:
        StorageUnavailable: the store can't be reached or refuses.
        TimeoutError: it gave up.
    """
    left = {pack_id(one): one for one in ids}
    rest = iter(lanes)
    while left and (some := list(islice(rest, LANES_IN_A_CALL))):
        look_from = -1
        while some and left:
            if time.monotonic() > give_up_at:
                raise TimeoutError("not all lanes were looked through")
            done, look_from, *found = journal.run("seek", look_from, *left, lanes=some)
            for packed, number in zip(found[::2], found[1::2], strict=True):
                yield left.pop(packed, read_id(packed)), some[number - 1]
            some = some[done:]
