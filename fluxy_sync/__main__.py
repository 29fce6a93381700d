"""``python -m fluxy_sync``: the same as the ``fluxy-sync`` command."""

from fluxy_sync.cli import main

main()
