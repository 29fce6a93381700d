"""The application's pages: rendered here, kept fresh by a few lines of script, usable without any.

    FLUXY_SYNC_DATA_DIR=... SOCIAL_DATABASE=social.sqlite SOCIAL_PORT=8000 python -m examples.social.web

It needs a running gateway, and finds it as every producer does. SOCIAL_SWITCH names the file of the upstream's switch,
if there is one.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

import fluxy_sync
from examples.social.feed import NEVER_QUEUED, NO_ANSWER, Feed, new_local_id
from examples.social.posts import Post, Posts
from examples.social.shield import Shield
from examples.social.switch import Switch
from examples.social.watch import Watch
from fluxy_sync import FluxySync, FluxySyncError, InvalidOperation, QueueFull, StorageUnavailable
from fluxy_sync.words import reason_text, status_text

HERE = Path(__file__).resolve().parent
INDICATOR = Path(fluxy_sync.__file__).parent / "dashboard" / "static" / "indicator.js"
LONGEST_POST = 500  # characters
LARGEST_FORM_BYTES = 16 * 1024
GRACE_S = 2
LOCAL_ID = re.compile(r"temp_[0-9a-f]{12}")
LOCAL = ["127.0.0.1", "localhost"]  # another name for this address would be DNS rebinding
SAID = {
    "queued": "Post queued for sync.",
    "again": "Queued again.",
    "discarded": "Discarded.",
}
REASONS = {
    NO_ANSWER: "It left the queue, and no answer is kept: it may or may not have arrived.",
    NEVER_QUEUED: "It was never queued.",
}
FAILURES: tuple[tuple[type[FluxySyncError], str], ...] = (
    (QueueFull, "too many posts wait already. Your text is still here: try again when some have left."),
    (StorageUnavailable, "the queue can't be reached. Your text is still here: try again in a moment."),
)


class Pages:
    """What a browser may ask for."""

    def __init__(self, feed: Feed, watch: Watch, switch: Switch | None, max_pending: int) -> None:
        self._feed, self._watch, self._switch = feed, watch, switch
        self._max_pending = max_pending
        self._templates = Jinja2Templates(HERE / "templates")
        self._templates.env.filters |= {"clock": clock, "moment": moment, "why": why}

    @property
    def routes(self) -> list[Route | Mount]:
        """All of them."""
        return [
            Route("/", self.page),
            Route("/posts", self.create, methods=["POST"]),
            Route("/posts/{local_id}/replay", self.replay, methods=["POST"]),
            Route("/posts/{local_id}/discard", self.discard, methods=["POST"]),
            Route("/upstream", self.turn, methods=["POST"]),
            Route("/api/sync", self.record),
            Route("/api/sync/events", self.events),
            Route("/sync/indicator.js", self.indicator),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]

    # --- reading

    async def page(self, request: Request) -> Response:
        """The feed."""
        return await self._render(request, said=SAID.get(request.query_params.get("said", ""), ""))

    async def _render(
        self, request: Request, status: int = 200, *, said: str = "", error: str = "", draft: str = "", edited: str = ""
    ) -> Response:
        """The feed, with what was just said, or what went wrong and the text that was to be sent."""
        context = {
            "posts": await run_in_threadpool(self._feed.posts.shown),
            "switch": self._switch,
            "max_pending": self._max_pending,
            "longest_post": LONGEST_POST,
            "new_local_id": new_local_id,
            "said": said, "error": error, "draft": draft, "edited": edited,
        }  # fmt: skip
        page = self._templates.TemplateResponse(request, "page.html", context, status)
        page.headers["Cache-Control"] = "no-store"
        return page

    async def record(self, _request: Request) -> Response:
        """The counters."""
        return JSONResponse(self._watch.record, headers={"Cache-Control": "no-store"})

    async def events(self, _request: Request) -> Response:
        """The counters, live: the same stream as the dashboard's, from the application's own origin."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._watch.stream(), media_type="text/event-stream", headers=headers)

    async def indicator(self, _request: Request) -> Response:
        """The element that shows them: it comes with fluxy-sync."""
        return FileResponse(INDICATOR, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    # --- writing

    async def create(self, request: Request) -> Response:
        """A new post."""
        form = await read_form(request)
        text, local_id = text_of(form), form.get("local_id", "")
        try:
            await run_in_threadpool(
                self._feed.create_post, checked(text), local_id if LOCAL_ID.fullmatch(local_id) else ""
            )
        except FluxySyncError as error:
            return await self._render(request, status_of(error), error=told("Not posted", error), draft=text)
        return back("queued")

    async def replay(self, request: Request) -> Response:
        """A refused post, edited."""
        local_id, text = request.path_params["local_id"], text_of(await read_form(request))
        try:
            await run_in_threadpool(self._feed.send_again, local_id, checked(text))
        except FluxySyncError as error:
            failed = told("Not sent again", error)
            return await self._render(request, status_of(error), error=failed, edited=local_id, draft=text)
        return back("again")

    async def discard(self, request: Request) -> Response:
        """A refused post, forgotten."""
        try:
            await run_in_threadpool(self._feed.discard, request.path_params["local_id"])
        except FluxySyncError as error:
            return await self._render(request, status_of(error), error=told("Not discarded", error))
        return back("discarded")

    async def turn(self, request: Request) -> Response:
        """The upstream's switch."""
        if self._switch is None:
            raise HTTPException(404)
        state = (await read_form(request)).get("state")
        if state not in ("up", "down"):
            raise HTTPException(400, "state is up or down")
        await run_in_threadpool(self._switch.turn, state == "up")
        return back()


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        HTTPException: it is too large.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM_BYTES:
            raise HTTPException(413)
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def text_of(form: dict[str, str]) -> str:
    """A post's text, with one kind of line end."""
    return form.get("content", "").replace("\r\n", "\n")


def checked(text: str) -> str:
    """A text that can be posted.

    Raises:
        InvalidOperation: it is empty or too long.
    """
    text = text.strip()
    if not text:
        raise InvalidOperation("write something first.")
    if len(text) > LONGEST_POST:
        raise InvalidOperation(f"{len(text)} characters are too many; {LONGEST_POST} are possible.")
    return text


def status_of(error: FluxySyncError) -> int:
    """What a browser is told: its own mistake, or ours."""
    return 422 if isinstance(error, InvalidOperation) else 503


def told(what: str, error: FluxySyncError) -> str:
    """What didn't work, and why, to somebody who doesn't run the gateway."""
    return f"{what}: {next((words for kind, words in FAILURES if isinstance(error, kind)), str(error))}"


def back(said: str = "") -> Response:
    """To the feed, by GET: a reload doesn't post again."""
    return RedirectResponse(f"/?said={said}" if said else "/", 303)


def clock(seconds: float) -> str:
    """A time of this day, or a date."""
    then = datetime.fromtimestamp(seconds).astimezone()
    is_today = then.date() == datetime.now().astimezone().date()
    return f"{then:%H:%M}" if is_today else f"{then:%d %b %Y, %H:%M}"


def moment(seconds: float) -> str:
    """A time for machines."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def why(post: Post) -> str:
    """Why a post is refused, in words."""
    if post.reason.isdecimal():
        return f"The server refused it ({status_text(int(post.reason))}). Change it, or let it go."
    return REASONS.get(post.reason) or f"It wasn't sent: {reason_text(post.reason)}."


def create() -> Starlette:
    """The application, as the environment describes it."""
    sync = FluxySync()
    settings = sync.engine.settings
    feed = Feed(Posts(os.environ["SOCIAL_DATABASE"]), sync)
    watch = Watch(sync, feed)
    switch_path = os.environ.get("SOCIAL_SWITCH")
    switch = Switch(Path(switch_path), settings.upstream_url) if switch_path else None

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch.run())
        yield
        await watch.end()
        await watching
        feed.posts.close()

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL), Middleware(Shield)]
    pages = Pages(feed, watch, switch, settings.max_pending)
    app = Starlette(routes=pages.routes, middleware=middleware, lifespan=lifespan)
    app.state.watch = watch
    return app


class Server(uvicorn.Server):
    """Ends the open streams when it is told to end: it waits for all connections."""

    def __init__(self, config: uvicorn.Config, watch: Watch) -> None:
        super().__init__(config)
        self._watch = watch

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it."""
        await self._watch.end()
        await super().shutdown(sockets)


def main() -> None:
    """Serve it on the loopback interface."""
    app = create()
    port = int(os.environ["SOCIAL_PORT"])
    config = uvicorn.Config(app, host="127.0.0.1", port=port, access_log=False, timeout_graceful_shutdown=GRACE_S)
    Server(config, app.state.watch).run()


if __name__ == "__main__":
    main()
