"""The page, its templates and its files: in Flower's own look, with an entry in Flower's navigation bar."""

from pathlib import Path
from typing import Any

import tornado.web
from tornado.template import Loader, Template
from tornado.web import HTTPError, StaticFileHandler

from fluxy_sync.dashboard.handler import Refusal, SignIn, SyncHandler
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

ROOM = Path(__file__).parent
STATIC = ROOM / "static"
NAVBAR, ENTRY, ENTRIES = "navbar.html", "navbar_entry.html", b'<ul class="app-nav navbar-nav">'
# Names of lanes and codes come from elsewhere: nothing that they could smuggle in runs, and nobody frames the buttons.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Templates(Loader):
    """Our templates first, then Flower's; Flower's navigation bar gets our entry in front."""

    def _create_template(self, name: str) -> Template:
        ours = ROOM / "templates" / name
        path = ours if ours.is_file() else Path(self.root) / name
        text = path.read_bytes()
        return Template(with_entry(text) if name == NAVBAR else text, name=name, loader=self)


def with_entry(navbar: bytes) -> bytes:
    """Flower's navigation bar with our entry; as it is where it isn't the one that we know."""
    if navbar.count(ENTRIES) != 1:
        logger.warning("Flower's navigation bar has changed: it has no entry for /sync.")
        return navbar
    entry = (ROOM / "templates" / ENTRY).read_bytes()
    return navbar.replace(ENTRIES, ENTRIES + b"\n" + entry)


class SyncPage(SignIn):
    """GET /sync."""

    @tornado.web.authenticated
    def get(self) -> None:
        options = self.application.options
        if not (options.basic_auth or options.auth):
            raise HTTPError(401)
        self.set_header("Content-Security-Policy", POLICY)
        self.render("sync.html")


class StaticFiles(StaticFileHandler):
    """Tornado's, which fails for a name that no file can have (Tornado 6.6). Flower's own files go through it, too."""

    def validate_absolute_path(self, root: str, absolute_path: str) -> Any:
        if "\0" in absolute_path:
            raise HTTPError(404)
        return super().validate_absolute_path(root, absolute_path)


class Files(StaticFiles):
    """The page's scripts and styles, and the indicator, which any page of this origin may show."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")  # asked for again each time, answered by 304


class NoKeys(SyncHandler):
    """What Flower would have sent to workers, and results: they take sealed messages alone, and results are sealed."""

    def post(self, *_: Any) -> None:
        raise Refusal(403, "the dashboard has no keys, so workers take nothing from it; use Python or the command line")

    def get(self, *_: Any) -> None:
        raise Refusal(403, "the dashboard has no keys, so it can open no result; use Python")


class NoWorker(SignIn):
    """GET /worker/...: what only the worker itself could tell."""

    @tornado.web.authenticated
    def get(self, name: str) -> None:
        self.set_status(404)
        message = f"The dashboard has no keys, so it can't ask {name}; on the gateway, 'celery inspect stats' can."
        self.render("404.html", message=message)
