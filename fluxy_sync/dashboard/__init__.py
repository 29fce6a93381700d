"""The dashboard: Flower, with a gateway's own page, API and metrics. It holds no keys, and shows no payload."""

from collections.abc import Sequence
from typing import Any, NoReturn

from fluxy_sync.gateway import require_flower


def serve(app: Any, arguments: Sequence[str]) -> NoReturn:
    """Serve the dashboard of a Celery app until SIGINT or SIGTERM, with Flower's own options, and end the process.

    Raises:
        ConfigError: Flower isn't installed, or an option is wrong; nothing was started.
    """
    require_flower()
    from fluxy_sync.dashboard.server import run

    run(app, arguments)
