"""The addresses of stores and brokers, as our own client, kombu and Celery's result backend each want them."""

import ssl
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

DEFAULT_SERVICE = "mymaster"
SENTINEL_PORT = 26379
ASK_TIMEOUT_S = 1.0
AMQPS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
CHECKED, YES = ("required", "2"), ("true", "1", "yes", "on")


class Sentinels(NamedTuple):
    """``sentinel://[:password@]host[:port][,host[:port]]/service[/db]``: the password is the store's."""

    nodes: list[tuple[str, int]]
    service: str
    database: int
    credentials: str  # as in the URL: quoted, and empty where there are none

    @property
    def password(self) -> str | None:
        """The store's."""
        return unquote(self.credentials.partition(":")[2]) or None

    @property
    def username(self) -> str | None:
        """The store's user, where it has one of that name."""
        return unquote(self.credentials.partition(":")[0]) or None


def read_sentinels(url: str) -> Sentinels:
    """Read an address.

    Raises:
        ValueError: it can't be read.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    service = service or parse_qs(parts.query).get("master_name", [DEFAULT_SERVICE])[0]
    return Sentinels([_node(host) for host in hosts.split(",")], service, int(database or 0), credentials)


def _node(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    name = (host if colon else text).strip("[]")
    if not name:
        raise ValueError("a sentinel has no host")
    return name, int(port) if colon else SENTINEL_PORT


def refuse_unchecked_tls(url: str) -> None:
    """Refuse what would let anybody on the way take the server's place, in redis-py's words or in kombu's.

    Raises:
        ValueError: it is in the URL, of which the text repeats nothing.
    """
    for one in url.split(";"):
        for name, value in parse_qsl(one.partition("?")[2], keep_blank_values=True):
            given = value.strip().lower().removeprefix("ssl.").removeprefix("cert_")
            unchecked = name.lower().endswith("cert_reqs") and given not in CHECKED
            if unchecked or (name.lower().endswith("check_hostname") and given not in YES):
                raise ValueError(
                    "certificates are always checked: leave ssl_cert_reqs and ssl_check_hostname out, and name the "
                    "server's authority with ssl_ca_certs=PATH"
                )


class CeleryAddress(NamedTuple):
    """A broker or result backend: its URL, and the transport options that go with it.

    ``tls`` is Celery's ``broker_use_ssl``, where the transport reads nothing of that from its URL.
    """

    url: str
    options: dict[str, Any]
    tls: dict[str, Any] | None = None


def celery_address(url: str) -> CeleryAddress:
    """The same place in kombu's words and in those of Celery's result backends, which are alike.

    Raises:
        ValueError: it can't be read.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return CeleryAddress(f"redis+socket://{rest}", {})
    if scheme == "sentinel":
        return _of_sentinels(read_sentinels(url))
    if scheme == "amqps":
        return _of_amqps(url)
    if scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(urlsplit(url).query):
        # Where nothing is said, kombu checks no certificate, and Celery's backend refuses to work.
        return CeleryAddress(f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required", {})
    return CeleryAddress(url, {})


def _of_amqps(url: str) -> CeleryAddress:
    """With the server's name checked as well, which py-amqp (5.4) leaves out unless it is told."""
    place, _, query = url.partition("?")
    given = parse_qsl(query)
    tls: dict[str, Any] = {name.removeprefix("ssl_"): value for name, value in given if name in AMQPS_FILES}
    tls["cert_reqs"] = ssl.CERT_REQUIRED
    if ";" not in url:  # kombu would look for the first one's name at each of several
        tls["server_hostname"] = None  # the URL's
    left = urlencode([(name, value) for name, value in given if not name.startswith("ssl_")])
    return CeleryAddress(f"{place}?{left}" if left else place, {}, tls)


def _of_sentinels(found: Sentinels) -> CeleryAddress:
    entry = f"{found.credentials}@" if found.credentials else ""
    hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found.nodes)
    url = ";".join(f"sentinel://{entry}{host}/{found.database}" for host in hosts)
    return CeleryAddress(url, {"master_name": found.service, "sentinel_kwargs": _impatient()})


def _impatient() -> dict[str, Any]:
    """How sentinels are asked: by redis-py's defaults, one that is down holds everybody up for seconds."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {"socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
