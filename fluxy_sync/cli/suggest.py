"""What the shell offers on Tab: lanes and dead letters, as the store has them; nothing where it is away."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from fluxy_sync.operation import OWN_LANE_MARK

if TYPE_CHECKING:
    from fluxy_sync.maintenance import Maintenance

PATIENCE_S = 1.0
MOST = 200
LOOKED_AT = 10_000


def lanes(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The lanes that hold operations, and those that are held; the many that operations have of their own on '~'."""
    own = begun.startswith(OWN_LANE_MARK)

    def ask(maintenance: "Maintenance") -> list[str]:
        fitting = (lane for lane in _all_lanes(maintenance) if own or not lane.startswith(OWN_LANE_MARK))
        return sorted(_matching(begun, fitting))

    return _items(ask)


def dead_letters(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The ids of dead letters, the first that died first."""
    return _items(lambda maintenance: list(_matching(begun, (one.id for one in maintenance.dead_letters()))))


def _items(ask: "Callable[[Maintenance], list[str]]") -> list[CompletionItem[str]]:
    from fluxy_sync.cli.access import open_maintenance
    from fluxy_sync.errors import FluxySyncError

    try:
        maintenance = open_maintenance()
    except FluxySyncError:
        return []  # nobody wants an error on the line that he is typing
    return [CompletionItem(value) for value in _within(PATIENCE_S, lambda: ask(maintenance))]


def _within(seconds: float, ask: Callable[[], list[str]]) -> list[str]:
    """What ``ask`` gives, or nothing: in a thread that nobody waits for any longer, as a look-up of a name may hang."""
    from fluxy_sync.errors import FluxySyncError

    found: list[str] = []

    def work() -> None:
        with suppress(FluxySyncError):
            found.extend(ask())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with suppress(KeyboardInterrupt):
        thread.join(seconds)
    return list(found)


def _matching(begun: str, names: Iterable[str]) -> Iterator[str]:
    fitting = (name for name in islice(names, LOOKED_AT) if name.startswith(begun))
    return islice(dict.fromkeys(fitting), MOST)


def _all_lanes(maintenance: "Maintenance") -> Iterator[str]:
    yield from maintenance.lanes()
    yield from (lane for lane, _ in maintenance.inventory.held())
