"""Server certificates, right and wrong, each in a PEM file with its key."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.http_server import usage


class Issuer:
    """An authority of one's own; ``bundle`` is what a gateway trusts."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.bundle = folder / f"{name}.pem"
        own = self._build(self._name, self._key.public_key(), is_authority=True)
        self.bundle.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, to_days: float = 1, *, is_authority: bool = False
    ) -> x509.CertificateBuilder:
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        times = builder.not_valid_before(now - 9 * day).not_valid_after(now + to_days * day)
        return (
            times.add_extension(authority, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(usage(is_authority=is_authority), critical=True)
        )

    def issue(self, name: str, host: str = "127.0.0.1", to_days: float = 1) -> str:
        """The path of a certificate for an address, valid until in so many days, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        builder = self._build(_name(name), key.public_key(), to_days).add_extension(address, critical=False)
        path = self._folder / f"{name}.both.pem"
        path.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(path)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificates(folder: Path) -> tuple[Path, str, dict[str, str]]:
    """What to trust, the right certificate, and wrong ones by what is wrong with them."""
    issuer, stranger = Issuer(folder), Issuer(folder, "stranger")
    wrong = {
        "expired": issuer.issue("expired", to_days=-1),
        "another host's": issuer.issue("elsewhere", host="192.0.2.1"),
        "another authority's": stranger.issue("strange"),
        "self-signed": Issuer(folder, "self").issue("self"),
    }
    return issuer.bundle, issuer.issue("right"), wrong
