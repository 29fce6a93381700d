"""What our JSON handlers share: signed-in users only, errors as one sentence, nothing slow on the event loop."""

import base64
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from flower.api import BaseApiHandler
from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler

from fluxy_sync.errors import ConfigError, InvalidOperation, StorageUnavailable

T = TypeVar("T")

SENTENCES = {
    400: "the request can't be read",
    401: "sign in first",
    403: "that isn't allowed here",
    404: "there is nothing here",
    405: "that method isn't for this address",
    500: "it failed; the dashboard's log says why",
    503: "the store can't be read",
}
METHODS = ("GET", "POST")


class Refusal(HTTPError):
    """An answer that isn't a success, with its sentence. It is no event for the log."""

    def __init__(self, status_code: int, sentence: str) -> None:
        super().__init__(status_code)
        self.sentence = sentence


class SignIn(BaseHandler):
    """Flower's sign-in, mended: its comparison fails for a password that isn't ASCII (Flower 2.2)."""

    def get_current_user(self) -> Any:
        try:
            return super().get_current_user()
        except TypeError:
            raise HTTPError(401) from None


class SyncHandler(SignIn, BaseApiHandler):
    """Nobody gets further than ``prepare`` without having signed in, whatever the method."""

    parameters: frozenset[str] = frozenset()  # of its query

    def prepare(self) -> None:
        options = self.application.options
        if not (options.basic_auth or options.auth) or not self.current_user:
            raise HTTPError(401)  # under OAuth, too: a program has no use for a redirect to a login page
        if self.request.query_arguments.keys() - self.parameters:
            raise Refusal(400, f"the query takes {' and '.join(sorted(self.parameters)) or 'nothing'}")

    @property
    def user_name(self) -> str:
        """Who signed in."""
        if isinstance(self.current_user, str):
            return self.current_user
        credentials = self.request.headers["Authorization"].split()[1]
        return base64.b64decode(credentials).decode().partition(":")[0]

    options = RequestHandler._unimplemented_method  # Flower answers all OPTIONS, for APIs that it opens to other sites

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what blocks in a thread, and give what it returned.

        Raises:
            Refusal: 503 where the store can't be reached, 400 where what was asked for can't be done.
        """
        application = self.application
        call = functools.partial(function, *arguments)
        try:
            result: T = await application.io_loop.run_in_executor(application.readers, call)
        except (StorageUnavailable, ConfigError) as error:
            raise Refusal(503, str(error)) from error
        except InvalidOperation as error:
            raise Refusal(400, str(error)) from error
        return result

    def whole_number(self, name: str, default: int, least: int, most: int) -> int:
        """A number of the query.

        Raises:
            Refusal: 400, it is none, or out of its bounds.
        """
        text = self.get_query_argument(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise Refusal(400, f"{name} is a whole number from {least} to {most}")
        return int(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        sentence = error.sentence if isinstance(error, Refusal) else None
        if isinstance(error, HTTPError):
            sentence = sentence or error.get_message()
        if status_code == 401 and self.application.options.basic_auth:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        if status_code == 405:
            self.set_header("Allow", ", ".join(name for name in METHODS if self._has(name)))
        self.finish({"error": sentence or SENTENCES.get(status_code, "it failed")})

    def _has(self, method: str) -> bool:
        return getattr(type(self), method.lower()) is not RequestHandler._unimplemented_method
