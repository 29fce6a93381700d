"""What a page on the loopback interface needs against other pages in the same browser."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def comes_from_elsewhere(method: str, headers: Headers) -> bool:
    """Whether another site's page made the browser send this.

    As Go's ``net/http.CrossOriginProtection`` judges: browsers send Sec-Fetch-Site, older ones Origin, with each POST;
    what has neither isn't a browser.
    """
    if method in SAFE_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


class Shield:
    """Refuses writes from other sites, and sends the headers that make a browser strict."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self._app
        if comes_from_elsewhere(scope["method"], Headers(scope=scope)):
            app = PlainTextResponse("This came from another site.", 403)
        await app(scope, receive, send_strict)
