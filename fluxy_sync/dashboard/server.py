"""Flower, extended by subclassing: our handlers, the poller, and a life that begins and ends in order."""

import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import flower.urls
import prometheus_client
from flower.app import Flower, rewrite_handler
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import url

from fluxy_sync.dashboard import actions, api, pages, stream
from fluxy_sync.dashboard.board import Board
from fluxy_sync.dashboard.metrics import SyncMetrics
from fluxy_sync.dashboard.monitor import Mute, events_of
from fluxy_sync.dashboard.options import Entry, current_options, read_options
from fluxy_sync.dashboard.poller import Poller, Reading
from fluxy_sync.dashboard.shield import INDICATOR, Shield
from fluxy_sync.errors import ConfigError
from fluxy_sync.gateway import DASHBOARD_USER
from fluxy_sync.journal import Inventory, Journal, Store, connect
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

READERS = 4
STORE_PATIENCE_S = 2.0  # a person waits for these answers
STALE_CHECK_MS = 500
LAST_EVENTS_S = 0.1
OPEN_FILES = 4_096
BACKLOG = 512  # after a restart all listeners come back in the same second
MAX_BODY_BYTES = 1024 * 1024

HANDLERS = [
    url(r"/sync", pages.SyncPage, name="sync"),
    url(r"/sync/", pages.SyncPage),
    url(rf"/sync/({INDICATOR})", pages.Files, {"path": pages.STATIC}, name="sync_indicator"),
    url(r"/sync/static/(.*)", pages.Files, {"path": pages.STATIC}, name="sync_static"),
    url(r"/api/sync", api.Sync, name="api_sync"),
    url(r"/api/sync/events", stream.Events, name="api_sync_events"),
    url(r"/api/sync/lanes", api.Lanes),
    url(r"/api/sync/dead", api.Dead),
    url(r"/api/sync/history", api.History),
    url(r"/api/sync/openapi\.json", api.OpenApi),
    url(r"/api/sync/pause", actions.Pause),
    url(r"/api/sync/resume", actions.Resume),
    url(r"/api/sync/dead/replay", actions.ReplayDead),
    url(r"/api/sync/dead/drop", actions.DropDead),
    url(r"/api/task/revoke/(.+)", actions.Revoke),
    url(r"/api/task/(?:apply|async-apply|send-task|abort|timeout|rate-limit|result)/(.+)", pages.NoKeys),
    url(r"/worker/(.+)", pages.NoWorker),
]


class Dashboard(Flower):
    """Flower with a gateway's own page, API and metrics.

    Args:
        capp: an app on which ``install`` was called, without keys.
        options: Flower's.
    """

    def __init__(self, capp: Any, options: Any, **kwargs: Any) -> None:
        loader = pages.Templates(str(kwargs["template_path"]))
        io_loop: Any = IOLoop.current()
        # Tornado's timers go by the wall clock: one that leaps back by years would stop them for as long.
        io_loop.time = io_loop.asyncio_loop.time
        events = events_of(capp, options, io_loop)
        kwargs = {"static_handler_class": pages.StaticFiles, "template_loader": loader, **kwargs}
        super().__init__(options, capp, events, io_loop, **kwargs)
        self.add_transform(Shield)
        self.inspector = Mute(self.io_loop, capp, options.inspect_timeout / 1000.0)
        settings = capp.fluxy_engine.settings
        self.board = Board(settings.namespace)
        self.hub = stream.Hub(self.board)
        self.inventory = Inventory(self._open_journal())
        self.readers = ThreadPoolExecutor(READERS, "sync-api")
        self.exit_code = 0
        self._metrics = SyncMetrics(self.board, lambda: events.dropped.total)
        self._poller = Poller(self._open_journal(), self._hear, self._crash)
        self._watch = PeriodicCallback(self.hub.look, STALE_CHECK_MS)
        prefix = options.url_prefix
        self.add_handlers(r".*", [rewrite_handler(one, prefix) for one in HANDLERS] if prefix else HANDLERS)

    def _open_journal(self) -> Journal:
        settings = self.capp.fluxy_engine.settings
        return Journal(Store(connect(settings.store_url, STORE_PATIENCE_S)), settings.namespace)

    def start_http_server(self) -> int | None:
        """Listen; the port, or None on a unix socket. Nobody needs to send much, least of all before he signed in."""
        options = self.options
        server = HTTPServer(self, ssl_options=self.ssl_options, xheaders=options.xheaders, max_body_size=MAX_BODY_BYTES)
        if options.unix_socket:
            server.add_socket(bind_unix_socket(options.unix_socket, mode=0o777, backlog=BACKLOG))
            return None
        sockets = bind_sockets(options.port, address=options.address, backlog=BACKLOG)
        server.add_sockets(sockets)
        return int(sockets[0].getsockname()[1])

    def _hear(self, reading: Reading | None) -> None:
        self.io_loop.add_callback(self._put, reading)

    def _put(self, reading: Reading | None) -> None:
        self.board.put(reading)
        self.hub.look()

    def _crash(self) -> None:
        logger.error("The poller has ended; so does the dashboard, to be started again.")
        self.exit_code = 1
        self.io_loop.add_callback(self.io_loop.stop)

    def start(self) -> None:
        """Serve until a signal."""
        raise_file_limit()
        prometheus_client.REGISTRY.register(self._metrics)
        for number in (signal.SIGINT, signal.SIGTERM):
            self.io_loop.asyncio_loop.add_signal_handler(number, self._end)
        self._poller.start()
        self._watch.start()
        super().start()

    def _end(self) -> None:
        self.hub.close()
        self.io_loop.call_later(LAST_EVENTS_S, self.io_loop.stop)

    def stop(self) -> None:
        """End what was started."""
        self._poller.end()
        self._watch.stop()
        self.readers.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(KeyError):
            prometheus_client.REGISTRY.unregister(self._metrics)
        super().stop()


def raise_file_limit() -> None:
    """Each open stream takes a descriptor; many systems give a process 1,024 unless it asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(app: Any, arguments: Sequence[str]) -> NoReturn:
    """Serve the dashboard until SIGINT or SIGTERM, and end the process.

    Raises:
        ConfigError: an option is wrong, or the port is taken; nothing was started.
    """
    entry = read_options(app.fluxy_engine.settings, arguments)
    options = current_options()
    dashboard = Dashboard(app, options, **flower.urls.settings)
    try:
        port = dashboard.start_http_server()
    except OSError as error:
        raise ConfigError(f"the dashboard can't listen on {place(options)} ({error.strerror})") from error
    say(ready_notice(place(options, port), entry, to_a_person=sys.stderr.isatty()))
    try:
        dashboard.start()
    finally:
        dashboard.stop()
    leave(dashboard.exit_code)


def place(options: Any, port: int | None = None) -> str:
    """Where the page is."""
    if options.unix_socket:
        return str(options.unix_socket)
    scheme = "https" if options.certfile else "http"
    host = options.address or "0.0.0.0"  # noqa: S104 -- Flower's own word for it is ''
    host = f"[{host}]" if ":" in host else host
    prefix = (options.url_prefix or "").strip("/")
    return f"{scheme}://{host}:{port or options.port}/{prefix and prefix + '/'}sync"


def ready_notice(where: str, entry: Entry, *, to_a_person: bool) -> str:
    """The line that tells where the dashboard is; the password goes to a terminal only, never into a log."""
    if entry.password is None:
        return f"the dashboard is at {where}"
    password = entry.password if to_a_person else f"in {entry.kept_in}"
    return f"the dashboard is at {where} (user {DASHBOARD_USER}, password {password})"


def say(line: str) -> None:
    """Tell whoever started us."""
    print(f"fluxy-sync: {line}", file=sys.stderr, flush=True)  # noqa: T201 -- it is no event for a log


def leave(code: int) -> NoReturn:
    """End the process at once: Python would wait for Flower's threads, which may wait for a store that is gone."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
