"""The repair of a damaged store: what its server refuses to load is mended before the next start, unattended.

``bench`` runs the server for ourselves, ``aof`` and ``manifest`` read its files, ``files`` mends them, ``record`` keeps
what was done, and ``launch`` is what a launcher does with them.
"""

from fluxy_sync.repair.launch import RECOUNT_FILE, Mechanic
from fluxy_sync.repair.record import REPAIRS_FILE, Repair, repairs

__all__ = ["RECOUNT_FILE", "REPAIRS_FILE", "Mechanic", "Repair", "repairs"]
