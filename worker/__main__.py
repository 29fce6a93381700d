"""``python -m worker [worker|beat|flower]``: one role of a gateway, its arguments made from the settings."""

import sys

from fluxy_sync.app import main

main(sys.argv[1:] or ["worker"])
