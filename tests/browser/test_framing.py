"""No other site can put the dashboard into a frame, under what looks like something harmless, for one click."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from fluxy_sync import FluxySync
from fluxy_sync.app import create_app
from tests.browser.board import Dashboard
from tests.conftest import Gateway, wait_until

REVOKE = "#task-revoke"
FRAMING = "<title>Win!</title><iframe width=900 height=700 src='{}'></iframe>"
FRAMED = "return document.readyState === 'complete' && document.title === 'Win!'"


class Elsewhere(BaseHTTPRequestHandler):
    """Another application's page, on the same host: its path says what it frames."""

    def do_GET(self) -> None:
        body = FRAMING.format(unquote(self.path[1:])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Where such pages are: the browser sends the person's credentials from there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def tell(gateway: Gateway, operation: str) -> None:
    """Tell Flower of an operation that can be revoked."""
    with create_app(gateway.settings()).events.default_dispatcher() as dispatcher:
        dispatcher.send("task-received", uuid=operation, name="fluxy_sync.sync_op")


@pytest.mark.parametrize("path", ["/task/{}", "/sync", "/workers", "/no/such/page"])
def test_no_page_shows_in_a_frame(
    browser: Chrome, dashboard: Dashboard, gateway: Gateway, sync: FluxySync, elsewhere: str, path: str
) -> None:
    """The one who signed in sees its button; framed by another page there is none to click on."""
    operation = sync.queue("POST", "/orders", body={}).id
    dashboard.start()

    def is_shown() -> bool:
        tell(gateway, operation)  # an event that nobody hears yet is lost
        browser.get(dashboard.url(f"/task/{operation}"))
        return bool(browser.find_elements(By.CSS_SELECTOR, REVOKE))

    wait_until(is_shown, what="its page, with the button")
    browser.get(elsewhere + quote(dashboard.origin + path.format(operation), safe=""))
    wait_until(lambda: browser.execute_script(FRAMED))
    browser.switch_to.frame(0)
    assert browser.find_elements(By.CSS_SELECTOR, f"{REVOKE}, .navbar, nav, [data-act]") == []
    assert "Flower" not in browser.page_source
    browser.switch_to.default_content()
