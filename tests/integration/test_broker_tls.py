"""A broker that is asked over TLS shows a certificate of its own name: ``amqps://`` as well."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest

from fluxy_sync.app import create_app
from fluxy_sync.settings import Settings
from tests.chaos.certificates import certificates


class Server:
    """Shows a certificate to whoever connects, and hangs up: AMQP isn't spoken here."""

    def __init__(self, certificate: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.trusted = threading.Event()  # a client went through with its handshake, and sent something
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                self._show(self._socket.accept()[0])

    def _show(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as secured:
            if secured.recv(8):
                self.trusted.set()

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    authority, right, wrong = certificates(tmp_path_factory.mktemp("certificates"))
    return authority, {"right": right, **wrong}


@pytest.mark.parametrize("which", ["right", "another host's", "expired", "another authority's", "self-signed"])
def test_an_amqps_broker_is_known_by_its_certificate(shown: tuple[Path, dict[str, str]], which: str) -> None:
    """Nothing is sent to one whose certificate is another host's, too old, or of an authority that isn't trusted."""
    server = Server(shown[1][which])
    url = f"amqps://u:secret@127.0.0.1:{server.port}//?ssl_ca_certs={shown[0]}"
    app = create_app(Settings(redis_url="redis://127.0.0.1:1/0", broker_url=url, upstream="http://127.0.0.1:9"))
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- the right one hangs up
        app.connection(connect_timeout=5).connect()
    server.end()
    assert server.trusted.is_set() is (which == "right")
    assert isinstance(caught.value, ssl.SSLCertVerificationError) is (which != "right")
