"""What TLS connections trust and show: files that the settings name, checked once."""

import ssl
from pathlib import Path

import msgspec

from fluxy_sync.errors import ConfigError
from fluxy_sync.settings import ENV_PREFIX, Settings


class Tls(msgspec.Struct, frozen=True):
    """What TLS connections trust (a file of CA certificates, or True: the public ones), and what they show.

    ``strict``: certificates must follow RFC 5280 to the letter; None for Python's default, which is so from 3.13 on.
    """

    trusted: str | bool = True
    shown: tuple[str, str] | str | None = None
    strict: bool | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Tls":
        """What the settings say, with the client certificate.

        Raises:
            ConfigError: a file can't be read, or isn't what it should be; the variable is named.
        """
        ca, cert, key = settings.ca_bundle, settings.client_cert, settings.client_key
        for name, path in (("CA_BUNDLE", ca), ("CLIENT_CERT", cert), ("CLIENT_KEY", key)):
            if path is not None:
                _check_readable(name, path)
        if ca is not None:
            _check_ca(ca)
        if cert is not None:
            _check_certificate(cert, key)
        shown = None if cert is None else str(cert) if key is None else (str(cert), str(key))
        return cls(True if ca is None else str(ca), shown, settings.tls_strict)

    @property
    def anonymous(self) -> "Tls":
        """The same without the client certificate."""
        return Tls(self.trusted, strict=self.strict)


def _check_readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{ENV_PREFIX}{name}: {path} can't be read ({error.strerror})") from error


def _check_ca(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError(f"{ENV_PREFIX}CA_BUNDLE: {path} holds no certificates in PEM form") from error


def _check_certificate(cert: Path, key: Path | None) -> None:
    name, where = ("CLIENT_CERT", cert) if key is None else ("CLIENT_KEY", key)
    try:
        # With an empty password: OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"{ENV_PREFIX}{name}: {where} holds no key without a password that fits the certificate in {cert}"
        ) from error
