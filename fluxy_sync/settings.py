"""The only reader of the environment: every FLUXY_SYNC_* variable enters here, once, validated."""

import json
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs, unquote, urlsplit

import platformdirs
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fluxy_sync.addresses import CeleryAddress, celery_address, refuse_unchecked_tls
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.host.files import NotText, read_private, read_secret
from fluxy_sync.host.handover import taken_over
from fluxy_sync.host.sockets import check_socket
from fluxy_sync.operation import origin_of

ENV_PREFIX = "FLUXY_SYNC_"
GATEWAY_FILE = "gateway.json"  # written by `up`: how producers on this machine find its store
KEYS_FILE = "keys"  # written by `up` on its first start
DEFAULT_MAX_BODY_BYTES = 1024 * 1024
LARGEST_BODY_BYTES = 64 * 1024 * 1024
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_STORE_FORMS = {
    "redis": "use redis://:password@host:6379/0",
    "rediss": "use rediss://:password@host:6379/0",
    "unix": "use unix://:password@/path/to/socket",
    "sentinel": "use sentinel://:password@host:26379,host:26379/service/0; the password is the store's",
}
_SECRETS = {
    "auth_bearer": (re.compile(r"[!-~]+"), "use one token of printable ASCII characters without spaces"),
    "auth_basic": (re.compile(r"[^:\x00-\x1f\x7f]*:[^\x00-\x1f\x7f]*"), "use user:password on one line"),
    "auth_oauth2_client_secret": (re.compile(r"[^\x00-\x1f\x7f]+"), "use text on one line"),
}
_AUTH_KINDS = ("auth_bearer", "auth_basic", "auth_oauth2_token_url", "auth_requests")
_OAUTH2_NEEDS = ("auth_oauth2_token_url", "auth_oauth2_client_id", "auth_oauth2_client_secret")
_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[\w.-]+):0*([1-9]\d{0,4})/?")
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Durability = Literal["always", "everysec", "waitaof"]
OnFull = Literal["reject", "drop_oldest"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
OnDead = Literal["go_on", "halt"]


def default_data_dir() -> Path:
    """The user's state directory, as platformdirs finds it."""
    return Path(platformdirs.user_state_dir("fluxy-sync"))


class SecretFiles(PydanticBaseSettingsSource):
    """``FLUXY_SYNC_<NAME>_FILE`` names a file that holds the value of ``FLUXY_SYNC_<NAME>``."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{ENV_PREFIX}{field_name.upper()}"
        path = os.environ.get(f"{variable}_FILE")
        if path is None:
            return None, field_name, False
        if variable in os.environ:
            raise ConfigError(f"both {variable} and {variable}_FILE are set; unset one of them")
        try:
            return read_secret(Path(path)).strip(), field_name, False
        except ConfigError as error:
            raise ConfigError(f"{variable}_FILE: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{variable}_FILE: {path} can't be read ({reason})") from error

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class TakenOver(PydanticBaseSettingsSource):
    """What the gateway that started this process has handed to it, so that no environment holds it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return taken_over().get(_variable(field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        handed = taken_over()
        return {name: handed[_variable(name)] for name in self.settings_cls.model_fields if _variable(name) in handed}


class Settings(BaseSettings):
    """All settings, validated. Durations are seconds, sizes bytes. Secrets are masked in ``repr``."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may be a secret
    )

    redis_url: SecretStr | None = None
    broker_url: SecretStr | None = None
    upstream: str | None = None
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    probe_url: str | None = None
    probe_expect: str | None = None
    probe_interval_s: float = Field(default=15.0, gt=0, allow_inf_nan=False)
    keys: SecretStr | None = None
    keys_file: Path | None = None
    namespace: str = "fluxy"
    node: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9_.-]{1,200}$")
    worker_concurrency: int = Field(default=2, ge=1, le=1024)
    task_events: bool = True
    log_level: LogLevel = "INFO"
    imports: Annotated[tuple[str, ...], NoDecode] = ()
    max_pending: int = Field(default=0, ge=0)
    max_lane_pending: int = Field(default=0, ge=0)
    max_bytes: int = Field(default=0, ge=0)
    on_full: OnFull = "reject"
    max_body_bytes: int = Field(default=DEFAULT_MAX_BODY_BYTES, ge=1, le=LARGEST_BODY_BYTES)
    durability: Durability = "always"
    store_vouched: bool = False
    accept_unsealed: bool = False
    expires_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    on_dead: OnDead = "go_on"
    once_window_s: float = Field(default=86_400.0, ge=0, allow_inf_nan=False)
    result_ttl_s: float = Field(default=86_400.0, ge=1, allow_inf_nan=False)
    result_headers: Annotated[tuple[str, ...], NoDecode] = ("content-type", "etag", "last-modified", "location")
    auth_bearer: SecretStr | None = None
    auth_basic: SecretStr | None = None
    auth_oauth2_token_url: str | None = None
    auth_oauth2_client_id: str | None = None
    auth_oauth2_client_secret: SecretStr | None = None
    auth_oauth2_scope: str | None = None
    auth_requests: str | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    ca_bundle: Path | None = None
    tls_strict: bool | None = None
    connect_timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    read_timeout_s: float = Field(default=25.0, gt=0, allow_inf_nan=False)
    total_timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    data_dir: Path = Field(default_factory=default_data_dir)
    dashboard_port: int = Field(default=5555, ge=0, le=65535)
    dashboard_url: SecretStr | None = None

    _given: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._given = frozenset(values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, TakenOver(settings_cls), env_settings, SecretFiles(settings_cls)

    @field_validator("allowed_origins", "imports", "result_headers", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, value: str) -> str:
        if not _NAMESPACE.fullmatch(value):
            raise ValueError("use 1 to 64 letters, digits, '.', '_' or '-'")
        return value

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _check_store_url(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is None:
            return None
        refuse_unchecked_tls(value.get_secret_value())
        scheme = value.get_secret_value().partition("://")[0]
        if scheme not in _STORE_FORMS and info.field_name == "redis_url":
            raise ValueError("use redis://, rediss://, sentinel:// or unix://")
        if scheme in _STORE_FORMS:
            try:
                celery_address(value.get_secret_value())
            except ValueError:  # its text may hold a piece of the password
                raise ValueError(_STORE_FORMS[scheme]) from None
            if {"password", "username"} & set(parse_qs(value.get_secret_value().partition("?")[2])):
                raise ValueError(_STORE_FORMS[scheme])  # it would be shown: nobody looks for a password there
            if scheme == "unix" and "?" in value.get_secret_value():
                # kombu and redis-py read different names there; this form both read alike.
                raise ValueError("use unix://:password@/path/to/socket, without a query")
        return value

    @field_validator("upstream")
    @classmethod
    def _check_upstream(cls, value: str | None) -> str | None:
        if value is None:
            return None
        _shown_origin(value)
        if "?" in value or "#" in value:
            raise ValueError("a base URL has no query and no fragment")
        return value.rstrip("/")

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_shown_origin(url) for url in value)

    @field_validator("probe_url")
    @classmethod
    def _check_probe_url(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("tcp://"):
            if not _TCP.fullmatch(value):
                raise ValueError("use tcp://host:port")
        elif value is not None:
            _shown_origin(value)
        return value

    @field_validator("dashboard_url")
    @classmethod
    def _check_dashboard_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value().rstrip("/")
        try:
            parts = urlsplit(url)
            origin_of(parts)
            is_fine = not (parts.query or parts.fragment or "@" in parts.path)
        except ValueError:  # its text may hold a piece of the password
            is_fine = False
        if not is_fine:
            raise ValueError("use http://user:password@host:port, with / ? # in a password written as %2F %3F %23")
        return SecretStr(url)

    @field_validator(*_SECRETS)
    @classmethod
    def _check_secret(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is not None:
            form, sentence = _SECRETS[info.field_name]
            if not form.fullmatch(value.get_secret_value()):
                raise ValueError(sentence)
        return value

    @field_validator("auth_oauth2_token_url")
    @classmethod
    def _check_token_url(cls, value: str | None) -> str | None:
        if value is not None:
            _shown_origin(value)
            if "#" in value:
                raise ValueError("use a URL without a fragment")
        return value

    @field_validator("auth_requests")
    @classmethod
    def _check_import_path(cls, value: str | None) -> str | None:
        if value is not None and not _IMPORT_PATH.fullmatch(value):
            raise ValueError("use module:attribute, e.g. mygateway.auth:SignedRequests")
        return value

    @model_validator(mode="after")
    def _check_credentials(self) -> "Settings":
        kinds = [name for name in _AUTH_KINDS if getattr(self, name) is not None]
        if len(kinds) > 1:
            raise ValueError(f"{_variable(kinds[0])} and {_variable(kinds[1])} are both set; unset one of them")
        if any(getattr(self, name) is not None for name in (*_OAUTH2_NEEDS, "auth_oauth2_scope")):
            missing = [_variable(name) for name in _OAUTH2_NEEDS if getattr(self, name) is None]
            if missing:
                raise ValueError(f"FLUXY_SYNC_AUTH_OAUTH2_* is set without {missing[0]}; set it too")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("FLUXY_SYNC_CLIENT_KEY is set without FLUXY_SYNC_CLIENT_CERT; set it too")
        return self

    @model_validator(mode="after")
    def _check_deadlines(self) -> "Settings":
        if self.total_timeout_s < self.connect_timeout_s:
            raise ValueError("FLUXY_SYNC_TOTAL_TIMEOUT_S must not be shorter than FLUXY_SYNC_CONNECT_TIMEOUT_S")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the embedded store under ``data_dir`` is used."""
        return self.redis_url is None

    @property
    def runtime_dir(self) -> Path:
        """Where this machine's workers keep their lock files."""
        return self.data_dir / "run" / self.namespace

    @property
    def queue_name(self) -> str:
        """The Celery queue in which wake tokens wait."""
        return f"{self.namespace}.sync"

    @property
    def store_url(self) -> str:
        """The store's URL, its password included: never log it.

        Raises:
            StorageUnavailable: the embedded store isn't running.
        """
        if self.redis_url is None:
            raise StorageUnavailable(
                f"no store is running under {self.data_dir}: start one with 'fluxy-sync up', "
                "or set FLUXY_SYNC_REDIS_URL"
            )
        return self.redis_url.get_secret_value()

    @property
    def broker(self) -> CeleryAddress:
        """The broker for Celery: the store, unless another is set. Never log its URL."""
        return celery_address(self.broker_url.get_secret_value() if self.broker_url else self.store_url)

    @property
    def results(self) -> CeleryAddress:
        """The store for Celery's results. Never log its URL."""
        return celery_address(self.store_url)

    @property
    def key_texts(self) -> tuple[str, ...]:
        """The ring's keys as base64url text, the sealing key first; empty if none is set."""
        if self.keys is not None:
            return split_keys(self.keys.get_secret_value())
        return read_keys(self.keys_file) if self.keys_file else ()

    def read_again(self, name: str) -> SecretStr | None:
        """What a secret's file holds now; None where the secret was given itself, or its file holds none."""
        path = os.environ.get(f"{_variable(name)}_FILE")
        if path is None or name in self._given:
            return None
        try:
            text = read_secret(Path(path)).strip()
        except (OSError, UnicodeDecodeError, ConfigError):
            return None  # it is just being replaced: what was read before stays, and the next refusal looks again
        return SecretStr(text) if _SECRETS[name][0].fullmatch(text) else None

    @property
    def upstream_url(self) -> str:
        """The upstream's base URL, without a slash at its end.

        Raises:
            ConfigError: it isn't set.
        """
        if self.upstream is None:
            raise ConfigError(
                "FLUXY_SYNC_UPSTREAM isn't set; set it to the server's base URL, e.g. https://api.example.com"
            )
        return self.upstream


def _shown_origin(url: str) -> str:
    """The origin of a URL that is shown, logged and sent, and so may hold no credentials.

    Raises:
        ValueError: it does, or isn't an absolute http or https URL; the text repeats nothing of it.
    """
    address = url.partition("?")[0].partition("#")[0]
    try:
        host = urlsplit(url).netloc
        origin = origin_of(url)
    except ValueError:  # its text may hold a piece of a password
        raise ValueError("an absolute http:// or https:// URL is needed, e.g. https://api.example.com") from None
    # An unquoted / in a password moves the rest of it into the path, where it would be shown.
    if "@" in address or "%40" in host or "\\" in address:
        raise ValueError(
            "it is shown and logged, so it has no user and no password: credentials belong into FLUXY_SYNC_AUTH_*; "
            "write an @ in a path as %40"
        )
    return origin


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}{name.upper()}"


SECRET_VARIABLES = frozenset(
    _variable(name)
    for name, field in Settings.model_fields.items()
    if SecretStr in (field.annotation, *get_args(field.annotation))
)
"""Those whose values are passwords, keys, or URLs that may hold one."""


def split_keys(text: str) -> tuple[str, ...]:
    """A ring as text, the sealing key first: separated by commas, spaces or line ends."""
    return tuple(text.replace(",", " ").split())


def read_keys(path: Path) -> tuple[str, ...]:
    """The ring in a file.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return split_keys(read_secret(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file {path} can't be read; run as the gateway's user") from error


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; without FLUXY_SYNC_REDIS_URL, what `up` left under the data directory fills the gaps.

    Raises:
        ConfigError: a value is missing or wrong; the message names the variable.
    """
    settings = read_environment(**overrides)
    if settings.redis_url is not None:
        return settings
    found = _gateway_of(settings.data_dir)
    if settings.keys is not None:
        found.pop("keys_file", None)  # the ring that was given isn't that file's
    return read_environment(**{k: v for k, v in found.items() if k not in settings.model_fields_set}, **overrides)


def read_environment(**values: Any) -> Settings:
    """Read the environment alone, as a gateway does when it starts: what an earlier one left isn't looked at.

    Raises:
        ConfigError: a value is wrong; the message names the variable.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"][:1]).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{ENV_PREFIX}{name}: {reason}" if name else reason) from None


def _gateway_of(data_dir: Path) -> dict[str, Any]:
    """What a gateway under ``data_dir`` told: its store, namespace and upstream, and its keys.

    Raises:
        ConfigError: it can't be read, or somebody else than us and root could have written it.
    """
    path = data_dir / GATEWAY_FILE
    try:
        found = json.loads(read_private(path, "{}"))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except PermissionError as error:
        raise ConfigError(f"{path} can't be read; run as the gateway's user") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read; start the gateway again with 'fluxy-sync up'") from error
    _check_socket_of(found.get("redis_url"))
    path = data_dir / KEYS_FILE
    try:
        if keys := read_private(path, "").strip():
            found |= {"keys": keys, "keys_file": path}
    except (OSError, NotText) as error:
        raise ConfigError(f"{path} can't be read; run as the gateway's user") from error
    return found


def _check_socket_of(url: object) -> None:
    """A password goes to the store's socket next: look once who could have put that there."""
    if isinstance(url, str) and url.startswith("unix://"):
        check_socket(Path(unquote(urlsplit(url).path)))
