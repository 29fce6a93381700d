"""How a command gets at the queue. What needs no Celery doesn't load it, and starts fast."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxy_sync.client import FluxySync
    from fluxy_sync.engine import Engine
    from fluxy_sync.maintenance import Maintenance

VIA = "cli"


def open_engine() -> "Engine":
    """The engine of the settings; nothing is connected yet."""
    from fluxy_sync.engine import Engine
    from fluxy_sync.settings import load_settings

    return Engine(load_settings())


def who() -> str:
    """The person at the keyboard, for the audit log."""
    from fluxy_sync.maintenance import who_am_i

    return who_am_i(VIA)


def open_maintenance(engine: "Engine | None" = None) -> "Maintenance":
    """Lists and changes that wake nobody."""
    from fluxy_sync.maintenance import Maintenance

    return Maintenance(engine or open_engine(), who())


def open_client() -> "FluxySync":
    """The same with Celery: for what wakes a worker, or marks a result."""
    from fluxy_sync.client import FluxySync

    return FluxySync(via=VIA)


def open_waking(on_step: "Callable[[int], object]" = lambda _: None) -> "Maintenance":
    """Changes that wake a worker; ``on_step`` hears how many operations each step of a long one took."""
    from fluxy_sync.maintenance import Maintenance
    from fluxy_sync.tokens import wake

    app = open_client().app
    return Maintenance(app.fluxy_engine, who(), lambda: wake(app), on_step)
