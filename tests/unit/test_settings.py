"""Settings: validated once, secrets masked, and each mistake named in one sentence."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxy_sync.connectivity import Expectation
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.settings import GATEWAY_FILE, KEYS_FILE, Settings, load_settings
from fluxy_sync.vault import new_key

SECRET = "s3cret-value"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith("FLUXY_SYNC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXY_SYNC_DATA_DIR", str(tmp_path / "data"))


def test_everything_has_a_default() -> None:
    """Nothing set: the embedded store, one namespace, fsync on each write."""
    found = load_settings()
    assert found.embedded
    assert (found.namespace, found.durability, found.queue_name) == ("fluxy", "always", "fluxy.sync")
    assert (found.connect_timeout_s, found.read_timeout_s, found.total_timeout_s) == (5, 25, 30)
    assert (found.max_pending, found.max_bytes, found.max_body_bytes) == (0, 0, 1024 * 1024)


def test_each_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name with the prefix; lists by commas or spaces."""
    for name, value in {
        "REDIS_URL": "redis://:pw@store:6379/0",
        "UPSTREAM": "https://api.example.com/base/",
        "ALLOWED_ORIGINS": "https://a.example.com, http://B.example.com:8080",
        "IMPORTS": "one.tasks two.tasks",
        "NAMESPACE": "kiosk-7",
        "PROBE_INTERVAL_S": "2.5",
        "ACCEPT_UNSEALED": "1",
    }.items():
        monkeypatch.setenv(f"FLUXY_SYNC_{name}", value)
    found = load_settings()
    assert found.store_url == found.broker.url == "redis://:pw@store:6379/0"
    assert found.upstream_url == "https://api.example.com/base"
    assert found.allowed_origins == ("https://a.example.com:443", "http://b.example.com:8080")
    assert found.imports == ("one.tasks", "two.tasks")
    assert (found.namespace, found.probe_interval_s, found.accept_unsealed) == ("kiosk-7", 2.5, True)


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an empty variable is an unset one."""
    monkeypatch.setenv("FLUXY_SYNC_NAMESPACE", "from-environment")
    monkeypatch.setenv("FLUXY_SYNC_UPSTREAM", "")
    assert load_settings(namespace="given").namespace == "given"
    assert load_settings().upstream is None


def test_a_broker_of_its_own_is_taken_as_it_is() -> None:
    """Whatever kombu speaks."""
    found = Settings(redis_url="redis://store", broker_url="amqp://guest@rabbit//")
    assert (found.broker.url, found.results.url, found.store_url) == (
        "amqp://guest@rabbit//",
        "redis://store",
        "redis://store",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://store"),
        ("REDIS_URL", "store:6379"),
        ("UPSTREAM", "api.example.com"),
        ("UPSTREAM", "ftp://api.example.com"),
        ("UPSTREAM", "https://user:pw@api.example.com"),
        ("UPSTREAM", "https://api.example.com/?a=1"),
        ("UPSTREAM", "https://api.example.com:99999"),
        ("ALLOWED_ORIGINS", "https://a.example.com, nonsense"),
        ("PROBE_URL", "tcp://host"),
        ("PROBE_URL", "nonsense"),
        ("NAMESPACE", "a b"),
        ("NAMESPACE", "{a}"),
        ("NAMESPACE", "x" * 65),
        ("NODE", "a@b"),
        ("MAX_PENDING", "-1"),
        ("MAX_PENDING", "many"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_BODY_BYTES", str(65 * 1024 * 1024)),
        ("DURABILITY", "sometimes"),
        ("CONNECT_TIMEOUT_S", "0"),
        ("READ_TIMEOUT_S", "-1"),
        ("PROBE_INTERVAL_S", "0"),
        ("WORKER_CONCURRENCY", "0"),
        ("DASHBOARD_PORT", "65536"),
        ("DASHBOARD_URL", "gateway:5555"),
        ("DASHBOARD_URL", "unix:///run/dashboard.sock"),
        ("DASHBOARD_URL", "http://gateway:5555/?page=1"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """One sentence with the variable's name, on one line."""
    monkeypatch.setenv(f"FLUXY_SYNC_{name}", value)
    with pytest.raises(ConfigError, match=f"^FLUXY_SYNC_{name}: ") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("name", ["CONNECT_TIMEOUT_S", "READ_TIMEOUT_S", "TOTAL_TIMEOUT_S", "PROBE_INTERVAL_S"])
def test_durations_are_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Nothing waits for ever."""
    monkeypatch.setenv(f"FLUXY_SYNC_{name}", value)
    with pytest.raises(ConfigError, match=f"FLUXY_SYNC_{name}"):
        load_settings()


def test_deadlines_must_fit_each_other() -> None:
    """The total can't be shorter than connecting."""
    with pytest.raises(ConfigError, match="FLUXY_SYNC_TOTAL_TIMEOUT_S must not be shorter"):
        load_settings(total_timeout_s=1, connect_timeout_s=2)


def test_an_upstream_that_is_not_set_is_named_when_it_is_needed() -> None:
    """A producer needs none."""
    with pytest.raises(ConfigError, match="FLUXY_SYNC_UPSTREAM isn't set"):
        _ = load_settings().upstream_url


def test_no_store_is_named_when_it_is_needed() -> None:
    """With the two ways to get one."""
    with pytest.raises(StorageUnavailable, match=r"fluxy-sync up.*FLUXY_SYNC_REDIS_URL"):
        _ = load_settings().store_url


@pytest.mark.parametrize(
    "values",
    [
        {"redis_url": f"redis://:{SECRET}@store"},
        {"broker_url": f"amqp://u:{SECRET}@store"},
        {"keys": SECRET},
        {"auth_bearer": SECRET},
        {"dashboard_url": f"http://ops:{SECRET}@gateway:5555/"},
    ],
)
def test_secrets_are_masked(values: dict[str, Any]) -> None:
    """In repr, str and JSON."""
    found = Settings(**values)
    assert SECRET not in repr(found) + str(found) + found.model_dump_json()


@pytest.mark.parametrize("url", [f"http://:{SECRET}@store", f"nonsense-{SECRET}"])
def test_a_wrong_secret_is_not_shown(url: str) -> None:
    """The sentence says what is wrong, never the value."""
    with pytest.raises(ConfigError, match="FLUXY_SYNC_REDIS_URL") as caught:
        load_settings(redis_url=url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [f"http://ops:{SECRET}/x@gateway", f"http://o:1/{SECRET}@b", f"http://[{SECRET}/"])
def test_a_password_of_the_dashboard_is_not_shown(url: str) -> None:
    """One that isn't quoted as a URL wants it would go to another host: the sentence says how to write it."""
    with pytest.raises(ConfigError, match=r"FLUXY_SYNC_DASHBOARD_URL: use http://user:password@host") as caught:
        load_settings(dashboard_url=url)
    assert SECRET not in str(caught.value)


SHOWN_URLS = ["UPSTREAM", "ALLOWED_ORIGINS", "PROBE_URL", "AUTH_OAUTH2_TOKEN_URL"]
WITH_CREDENTIALS = [
    f"https://:{SECRET}@api.example.com", f"https://user:{SECRET}@api.example.com", f"https://{SECRET}@api.example.com",
    f"https://{SECRET}:@api.example.com", "https://@api.example.com", "https://:@api.example.com",
    f"https://user:{SECRET}%40api.example.com", f"https://user%3A{SECRET}%40api.example.com/x",
    f"https://user:{SECRET}@api.example.com@other.example.com", f"https://user:1/{SECRET}@api.example.com",
    f"https://user:{SECRET}/x@api.example.com", f"https://user:{SECRET}#x@api.example.com",
    f"https://user:{SECRET}?x@api.example.com", f"https:\\\\user:{SECRET}@api.example.com",
    f"https://user:{SECRET}\\@api.example.com", f"HTTPS://user:{SECRET}@API.example.com:443/v1",
    f"https://[{SECRET}", f"https://{SECRET}\u2100.example.com",
]  # fmt: skip


@pytest.mark.parametrize("name", SHOWN_URLS)
@pytest.mark.parametrize("url", WITH_CREDENTIALS, ids=ascii)
def test_a_url_that_is_shown_holds_no_credentials(name: str, url: str) -> None:
    """Whatever the form, an empty user as well: it is refused, and the sentence repeats nothing of it."""
    with pytest.raises(ConfigError, match=f"^FLUXY_SYNC_{name}: ") as caught:
        load_settings(**{name.lower(): url})
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", [f"tcp://user:{SECRET}@h:1", f"tcp://:{SECRET}@h:1", "tcp://@h:1", f"tcp://h:1/{SECRET}"]
)
def test_a_probe_by_tcp_holds_no_credentials(url: str) -> None:
    """A host and a port, and nothing else."""
    with pytest.raises(ConfigError, match=r"^FLUXY_SYNC_PROBE_URL: use tcp://host:port") as caught:
        load_settings(probe_url=url)
    assert SECRET not in str(caught.value)


def test_urls_without_credentials_stay_as_they_are() -> None:
    """Paths, ports, and IPv6."""
    assert load_settings(upstream="https://[::1]:8443/v1/%40me/").upstream == "https://[::1]:8443/v1/%40me"
    assert load_settings(probe_url="tcp://[::1]:22").probe_url == "tcp://[::1]:22"
    assert load_settings(probe_url="https://a.example.com/health?deep=1").probe_url is not None


@pytest.mark.parametrize("query", [f"password={SECRET}", f"db=1&password={SECRET}", f"username={SECRET}"])
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_stores_password_stands_where_it_is_masked(scheme: str, query: str) -> None:
    """Not in the query, which logs and Flower's pages show."""
    with pytest.raises(ConfigError, match=f"FLUXY_SYNC_REDIS_URL: use {scheme}://:password@host") as caught:
        load_settings(redis_url=f"{scheme}://store/0?{query}")
    assert SECRET not in str(caught.value)


UNCHECKED = [
    "ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs=CERT_OPTIONAL",
    "ssl_cert_reqs=ssl.CERT_NONE", "ssl_cert_reqs=0", "ssl_cert_reqs=1", "ssl_cert_reqs=", "ssl_cert_reqs=None",
    "SSL_CERT_REQS=none", "ssl%5Fcert%5Freqs=n%6Fne", "a=b&ssl_cert_reqs=none", "ssl_check_hostname=false",
    "ssl_check_hostname=False", "ssl_check_hostname=0", "ssl_check_hostname=no", "ssl_check_hostname=",
    "cert_reqs=none",
    "ssl_cert_reqs=required&ssl_cert_reqs=none", "ssl_ca_certs=/ca.pem&ssl_check_hostname=false",
]  # fmt: skip


@pytest.mark.parametrize("query", UNCHECKED)
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", f"rediss://:{SECRET}@store:6380/0"), ("REDIS_URL", f"sentinel://:{SECRET}@a:1,b:2/service/0"),
        ("BROKER_URL", f"rediss://:{SECRET}@store:6380/0"), ("BROKER_URL", f"amqps://u:{SECRET}@store//"),
        ("BROKER_URL", f"amqps://u:{SECRET}@a//;amqps://u:{SECRET}@b//"), ("BROKER_URL", f"pyamqp://u:{SECRET}@a//"),
    ],
)  # fmt: skip
def test_certificates_are_always_checked(name: str, url: str, query: str) -> None:
    """What would turn that off is refused, in redis-py's words and in kombu's; the sentence says what to do instead."""
    with pytest.raises(ConfigError, match=f"^FLUXY_SYNC_{name}: .*ssl_ca_certs=PATH") as caught:
        load_settings(**{name.lower(): f"{url}?{query}"})
    assert SECRET not in str(caught.value)


def test_what_checks_certificates_is_taken() -> None:
    """An authority of one's own, and what is the default anyway."""
    for query in (
        "ssl_ca_certs=/ca.pem",
        "ssl_cert_reqs=required",
        "ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=true",
    ):
        assert load_settings(redis_url=f"rediss://:pw@store/0?{query}").redis_url is not None


# --- files


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As container secrets do; the space around it doesn't count."""
    keys = [new_key(), new_key()]
    (tmp_path / "keys").write_text(f"{keys[0]}\n{keys[1]}\n")
    monkeypatch.setenv("FLUXY_SYNC_KEYS_FILE", str(tmp_path / "keys"))
    assert load_settings().key_texts == tuple(keys)
    assert load_settings(keys=f"{keys[1]},{keys[0]}").key_texts == (keys[1], keys[0])


def test_a_value_and_its_file_contradict_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody guesses which one was meant."""
    monkeypatch.setenv("FLUXY_SYNC_KEYS", new_key())
    monkeypatch.setenv("FLUXY_SYNC_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(ConfigError, match="both FLUXY_SYNC_KEYS and FLUXY_SYNC_KEYS_FILE"):
        load_settings()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None) -> None:
    """Missing, or not text: the variable and the path are named."""
    path = tmp_path / "bearer"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("FLUXY_SYNC_AUTH_BEARER_FILE", str(path))
    with pytest.raises(ConfigError, match=r"FLUXY_SYNC_AUTH_BEARER_FILE.*can't be read"):
        load_settings()


def gateway(tmp_path: Path, **told: Any) -> Path:
    """What a gateway leaves for the producers on its machine."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / GATEWAY_FILE).write_text(json.dumps(told))
    (folder / KEYS_FILE).write_text(new_key() + "\n")
    return folder


def test_a_gateway_on_this_machine_fills_the_gaps(tmp_path: Path) -> None:
    """Its store, namespace, upstream and keys, where the producer set none."""
    folder = gateway(tmp_path, redis_url="redis://:pw@127.0.0.1:1/0", namespace="kiosk", upstream="http://up.example")
    found = load_settings()
    assert (found.store_url, found.namespace) == ("redis://:pw@127.0.0.1:1/0", "kiosk")
    assert found.key_texts == ((folder / KEYS_FILE).read_text().strip(),)


def test_what_is_set_comes_before_the_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By argument or variable; a store that is set means another gateway: nothing of this one is taken."""
    gateway(tmp_path, redis_url="redis://:pw@127.0.0.1:1/0", namespace="kiosk")
    monkeypatch.setenv("FLUXY_SYNC_NAMESPACE", "mine")
    assert load_settings().namespace == "mine"
    assert load_settings(namespace="given").namespace == "given"
    elsewhere = load_settings(redis_url="redis://elsewhere")
    assert (elsewhere.store_url, elsewhere.key_texts) == ("redis://elsewhere", ())


def test_a_damaged_gateway_file_is_named(tmp_path: Path) -> None:
    """With what to do."""
    folder = gateway(tmp_path)
    (folder / GATEWAY_FILE).write_text("{")
    with pytest.raises(ConfigError, match=f"{GATEWAY_FILE} can't be read.*fluxy-sync up"):
        load_settings()


@given(st.text(max_size=70))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_namespace_is_a_key_prefix_or_refused(name: str) -> None:
    """Nothing that breaks the hash tag, a queue's name or a path."""
    try:
        found = load_settings(namespace=name)
    except ConfigError:
        return
    assert 1 <= len(name) <= 64
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert found.queue_name == f"{name}.sync"


# --- what a probe expects


@pytest.mark.parametrize(
    ("text", "accepted", "refused"),
    [
        (None, (404, {}, b""), (500, {}, b"")),
        ("status=204", (204, {}, b""), (200, {}, b"")),
        ("header=X-Up: yes", (500, {"X-Up": " yes "}, b""), (200, {"X-Up": "no"}, b"")),
        ("header=X-Empty:", (200, {}, b""), (200, {"X-Empty": "x"}, b"")),
        ("body=ready", (200, {}, b"is ready."), (200, {}, b"login")),
    ],
)
def test_probe_expectations(text: str | None, accepted: Any, refused: Any) -> None:
    """A status, a header or a text in the body; by default any status below 500."""
    expectation = Expectation.parse(text)
    assert expectation.accepts(*accepted)
    assert not expectation.accepts(*refused)


@pytest.mark.parametrize(
    "text", ["", "204", "status=", "status=2xx", "header=", "header=: x", "header=X", "body=", "x=y"]
)
def test_a_wrong_expectation_is_refused(text: str) -> None:
    """The sentence shows the three forms."""
    with pytest.raises(ConfigError, match="FLUXY_SYNC_PROBE_EXPECT: use status=204"):
        Expectation.parse(text)
