"""The headers that protect whoever is signed in, on each answer of the dashboard, Flower's own among them."""

from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.web import OutputTransform

INDICATOR = "indicator.js"
SHIELD = {
    # In a frame of another site, one click on what looks like something else would revoke an operation.
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser would hide the origin from the check of each POST
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STORED_BY_NOBODY = "no-store"


class Shield(OutputTransform):
    """Adds them to whatever a handler answers, errors and redirects as well; what it has set itself stays."""

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self._is_indicator = request.path.endswith(f"/{INDICATOR}")

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in SHIELD.items():
            headers.setdefault(name, value)
        if self._is_indicator and status_code in (200, 304):
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # an application's page may load it from here
        if "Last-Modified" not in headers:  # a file has it; all others tell what only the person signed in may know
            headers.setdefault("Cache-Control", STORED_BY_NOBODY)
        return status_code, headers, chunk
