"""One case for each place that docs/SECURITY-MODEL.md lists as read though it isn't sealed, by its name there."""

from tests.chaos.reader_broker import BROKER
from tests.chaos.reader_files import FILES
from tests.chaos.reader_network import NETWORK
from tests.chaos.reader_store import STORE, Case

CASES: dict[str, Case] = {**STORE, **BROKER, **FILES, **NETWORK}
