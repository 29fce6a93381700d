"""An HTTP or HTTPS server in a thread, its certificates, and what arrived at it with which certificate."""

import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Seen(NamedTuple):
    """One request. ``certificate`` is the common name that the client showed."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    certificate: str | None

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


class Said(NamedTuple):
    """One answer."""

    status: int = 201
    headers: Mapping[str, str] = {}
    body: bytes = b""


def said_json(status: int = 200, **fields: Any) -> Said:
    return Said(status, {"Content-Type": "application/json"}, json.dumps(fields).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body, _common_name(self.connection))
        self.server.seen.append(seen)
        said = self.server.answer(seen)
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def log_message(self, *_arguments: Any) -> None:
        """Quietly."""


def _common_name(connection: socket.socket) -> str | None:
    shown = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    names = [value for part in (shown or {}).get("subject", ()) for key, value in part if key == "commonName"]  # type: ignore[union-attr]
    return str(names[0]) if names else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def __init__(self, answer: Callable[[Seen], Said]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.seen: list[Seen] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is not None:  # the handshake is left to the connection's thread
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A handshake that failed, or a client that went away: what the tests look at is the client's side."""


class HttpServer:
    """Answers each request by a function of what was seen."""

    def __init__(self, answer: Callable[[Seen], Said] = lambda _: Said(), tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(answer)
        self._server.tls = tls
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def seen(self) -> list[Seen]:
        return self._server.seen

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def usage(*, is_authority: bool) -> x509.KeyUsage:
    """What a key may be used for, as RFC 5280 asks: an authority's signs certificates, the others' handshakes."""
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """A certificate authority of one's own; its files lie in a folder.

    ``lacks``: 'key-identifier' or 'key-usage', as many home-made ones do.
    """

    def __init__(self, folder: Path, name: str = "authority", lacks: str = "") -> None:
        self._folder, self._lacks = folder, lacks
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.bundle = folder / f"{name}.pem"
        certificate = self._build(self._name, self._key.public_key(), is_authority=True)
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _build(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        if self._lacks != "key-identifier":
            builder = builder.add_extension(authority, critical=False)
        if self._lacks != "key-usage":
            builder = builder.add_extension(usage(is_authority=is_authority), critical=True)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, password: bytes | None = None) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(subject, key.public_key(), is_authority=False)
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
        return paths

    def serving(self, clients: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
        """TLS for a server with a certificate of this authority; clients' are asked for, or demanded."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server"))
        context.verify_mode = clients
        context.load_verify_locations(self.bundle)
        return context
