"""Claims are renewed for as long as what they are for is under way."""

import threading
import time

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.faults import place_of
from fluxy_sync.flight import Flight, boottime
from fluxy_sync.journal import Journal
from fluxy_sync.journal.journal import CLAIM_S, CLOCK_MARGIN_S
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)


class Keeper:
    """A thread of each process that holds claims: renews them while their operations run, and ends what takes too long.

    It ends with its process, and stands still with it: then the claims come due by themselves.
    """

    LOOK_S = 0.5
    RENEW_BELOW_S = (CLAIM_S - CLOCK_MARGIN_S) * 0.6

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._flights: dict[Flight, tuple[str, int]] = {}
        self._owed: set[tuple[str, int]] = set()
        self._busy = threading.Event()
        threading.Thread(target=self._run, name="fluxy-keeper", daemon=True).start()

    def add(self, flight: Flight, lane: str, fence: int) -> None:
        """Renew that claim until the flight's deadline; what still waits for the upstream then is woken."""
        self._flights[flight] = (lane, fence)
        self._busy.set()

    def remove(self, flight: Flight) -> None:
        """It is over."""
        del self._flights[flight]

    def owe(self, lane: str, fence: int) -> None:
        """Give a claim up as soon as the store can be reached: its holder is done with it, and lives."""
        self._owed.add((lane, fence))
        self._busy.set()

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(self.LOOK_S)
            # In this order: what is added after the look sets it again.
            self._busy.clear()
            flights, owed = list(self._flights.items()), list(self._owed)
            if flights or owed:
                self._busy.set()
            for flight, (lane, fence) in flights:
                self._guarded(self._look_after, flight, lane, fence)
            for lane, fence in owed:
                self._guarded(self._give_up, lane, fence)

    def _guarded(self, duty: object, *arguments: object) -> None:
        """Whatever goes wrong with one claim, the others are still looked after."""
        try:
            duty(*arguments)  # type: ignore[operator]
        except StorageUnavailable as error:
            logger.warning("A claim was neither renewed nor given up: %s", error)
        except Exception as error:  # noqa: BLE001 -- of ours, or a library's: without this thread each long run loses its claim
            logger.error("A claim could not be looked after: %s", place_of(error))

    def _look_after(self, flight: Flight, lane: str, fence: int) -> None:
        now = boottime()
        if now >= flight.deadline:
            flight.abort()
        elif flight.holds_claim and flight.claim_ends - now < self.RENEW_BELOW_S:
            flight.holds_claim = self._journal.renew(lane, fence)
            if flight.holds_claim:
                flight.claim_ends = now + CLAIM_S - CLOCK_MARGIN_S
            else:
                logger.warning("The claim on lane %s was lost while its operation runs: somebody else has it.", lane)

    def _give_up(self, lane: str, fence: int) -> None:
        self._journal.release(lane, fence)
        self._owed.discard((lane, fence))
