"""The dashboard as a process of a test's gateway, and how a person signs in to it."""

from urllib.parse import urlsplit

from tests.conftest import Gateway
from tests.upstream import free_port

USER, PASSWORD = "ann", "a-password"
ROLE = "flower"
READY = "the dashboard is at"


class Dashboard:
    """One dashboard on a port that it keeps over restarts."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.port = free_port()
        self.options: dict[str, str] = {"FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}"}

    def start(self, **options: str) -> None:
        """Start it, with more FLOWER_* options if given; they last."""
        self.options |= options
        self.gateway.start(ROLE, wait=False, FLOWER_PORT=str(self.port), **self.options)
        self.gateway.wait_for(ROLE, READY)

    def stop(self) -> None:
        self.gateway.stop(ROLE)
        self.gateway.log_path(ROLE).unlink()

    @property
    def pid(self) -> int:
        return self.gateway.processes[ROLE].pid

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str = "/sync") -> str:
        """An address with which a person signs in by basic authentication."""
        parts = urlsplit(self.origin)
        return f"{parts.scheme}://{USER}:{PASSWORD}@{parts.netloc}{path}"
