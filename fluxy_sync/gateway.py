"""What ``fluxy-sync up`` starts and supervises: the store, a worker, beat and the dashboard."""

import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from pydantic import SecretStr

from fluxy_sync.embedded import EmbeddedStore, Fsync, free_port
from fluxy_sync.errors import ConfigError
from fluxy_sync.host.files import exists, make_private_dir, read_private, remove, write_private
from fluxy_sync.host.locks import LockFile
from fluxy_sync.host.output import LineWriter
from fluxy_sync.incarnation import is_running
from fluxy_sync.journal import default_max_bytes
from fluxy_sync.settings import ENV_PREFIX, GATEWAY_FILE, KEYS_FILE, SECRET_VARIABLES, Settings, split_keys
from fluxy_sync.supervisor import DEFAULT_GRACE_S, STORE_RANK, Child, Command, Supervisor
from fluxy_sync.vault import Vault, new_key

APP = "fluxy_sync.app"
WORKER_GRACE_S = 35.0  # an operation's total deadline, and some
READY_POLL_S = 0.02
ORPHAN_POLL_S = 0.1
DISK_POLL_S = 1.0
LOOK_S = 5.0
DASHBOARD_USER = "fluxy"
DASHBOARD_PASSWORD_FILE = "dashboard.password"  # noqa: S105 - a file's name
LOOPBACK = "127.0.0.1"
NOT_FOR_THE_DASHBOARD = tuple(f"{ENV_PREFIX}{name}" for name in ("KEYS", "AUTH_", "CLIENT_", "DASHBOARD_URL"))
FOR_THE_DASHBOARD = "FLOWER_"  # a password, a cookie's secret, an OAuth client's
NOT_FOR_BEAT = (f"{ENV_PREFIX}AUTH_", f"{ENV_PREFIX}DASHBOARD_URL")  # a probe needs no credentials
TOLD_TO_PRODUCERS = ("redis_url", "broker_url", "namespace", "upstream", "allowed_origins", "max_bytes")
LIMITS_TOLD_IF_SET = ("max_pending", "max_body_bytes", "durability")
ALWAYS_PASSED_ON = frozenset({"redis_url", "namespace", "node", "data_dir"})

Environment = Mapping[str, str]
Commands = Callable[[Settings, Environment], Sequence[Command]]


class Dashboard(NamedTuple):
    """Where the dashboard is, and who may see it; no password if the user's FLOWER_* rule that."""

    url: str
    password: str | None
    environment: Environment


class Gateway:
    """One machine's gateway on ``settings.data_dir``; the settings must not come from another gateway's file.

    Args:
        dashboard: None for: if Flower is installed.
        commands: replaces the worker and beat.
        environment: what the processes get beside the settings; this process's own if it isn't given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        dashboard: bool | None = None,
        output: TextIO | None = None,
        commands: Commands | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
        self._output = output or sys.stderr
        self._lines: LineWriter | None = None
        self._commands = commands or celery_commands
        self._wants_dashboard = has_flower() if dashboard is None else dashboard
        self._environment = dict(os.environ if environment is None else environment)
        self._store: EmbeddedStore | None = None

    def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP; 0 after a clean end.

        Raises:
            ConfigError: a setting is wrong, another gateway runs here, or the worker can't run like this.
            StorageUnavailable: the embedded store doesn't start.
        """
        self._check()
        data_dir = make_private_dir(self.settings.data_dir)
        with _sole(LockFile(data_dir / "gateway.lock")):
            keep_keys(self.settings)
            self._lines = LineWriter(self._output)
            try:
                with Supervisor(self._say, LockFile(data_dir / "guard.lock")) as supervisor:
                    self._bring_up(supervisor)
                    self._go_on(supervisor)
            finally:
                remove(data_dir / GATEWAY_FILE)
                self._lines.close()
        return 0

    def _check(self) -> None:
        if self.settings.probe_url is None:
            _ = self.settings.upstream_url
        if self._wants_dashboard:
            require_flower()

    def _bring_up(self, supervisor: Supervisor) -> None:
        live = self._start_store(supervisor)
        if live is None:
            return
        self._tell_producers(supervisor, live)
        environment = child_environment(live, self._environment)
        children = [Child.of(command) for command in self._commands(live, environment)]
        dashboard = dashboard_of(live, environment) if self._wants_dashboard else None
        if dashboard is not None:
            supervisor.add(Child.of(flower_command(dashboard)))
        self._wait_for_orphan(supervisor, live)
        for child in children:
            supervisor.add(child)
        if supervisor.wait_up(children):
            self._say(ready_notice(live, dashboard, to_a_person=self._output.isatty()))

    def _go_on(self, supervisor: Supervisor) -> None:
        """Keep all of it alive until a signal asks for the end.

        After a full disk, look whether there is room again; where the store's socket isn't in the data directory,
        whether it is still there.
        """
        looked_at = time.monotonic()
        while not supervisor.stop_asked:
            store = self._store
            supervisor.pump(LOOK_S if store is not None and (store.short_of_disk or store.is_away) else None)
            if store is not None:
                store.refill_ballast()
            if store is not None and store.is_away and time.monotonic() - looked_at >= LOOK_S:
                looked_at = time.monotonic()
                self._see_to_socket(store)

    def _see_to_socket(self, store: EmbeddedStore) -> None:
        if store.lost_its_socket:
            self._say(f"{'gateway':<9} | {store.socket} was removed while it was in use: the store is started again")
            store.ask_to_end()

    def _start_store(self, supervisor: Supervisor) -> Settings | None:
        """The settings with the store's address; None if a signal came before the store was ready."""
        if not self.settings.embedded:
            return self.settings
        fsync: Fsync = "everysec" if self.settings.durability == "everysec" else "always"
        store = EmbeddedStore(
            self.settings.data_dir, appendfsync=fsync, say=lambda line: self._say(f"{'gateway':<9} | {line}")
        )
        self._store = store
        store.end_orphan()
        supervisor.add(Child("store", store.start, rank=STORE_RANK, last_words=store.last_words))
        while not store.is_ready():
            supervisor.pump(READY_POLL_S)
            if supervisor.stop_asked:
                return None
        max_bytes = self.settings.max_bytes or default_max_bytes(store.maxmemory)
        return self.settings.model_copy(update={"redis_url": SecretStr(store.url), "max_bytes": max_bytes})

    def _tell_producers(self, supervisor: Supervisor, live: Settings) -> None:
        """Write what they need to know; on a full disk, where a killed gateway's file won't do, once there is room."""
        path, text, said = live.data_dir / GATEWAY_FILE, json.dumps(gateway_record(live)), False
        while not _holds(path, text) and not supervisor.stop_asked:
            try:
                write_private(path, text)
            except OSError as error:
                if not said:
                    self._say(f"{'gateway':<9} | {path} can't be written ({error.strerror}); it is tried again")
                said = True
                supervisor.pump(DISK_POLL_S)

    def _wait_for_orphan(self, supervisor: Supervisor, live: Settings) -> None:
        """Let a worker finish that has outlived its supervisor and their guard: it was told to end as they died."""
        if is_running(live.runtime_dir, live.node):
            self._say(f"{'gateway':<9} | the worker of an earlier gateway finishes what it sends; it is waited for")
        deadline = time.monotonic() + WORKER_GRACE_S
        while is_running(live.runtime_dir, live.node) and time.monotonic() < deadline and not supervisor.stop_asked:
            supervisor.pump(ORPHAN_POLL_S)

    def _say(self, line: str) -> None:
        if self._lines is not None:
            self._lines.say(line)


def _holds(path: Path, text: str) -> bool:
    return read_private(path, "", errors="replace") == text


@contextmanager
def _sole(lock: LockFile) -> Iterator[None]:
    """Hold the lock of a data directory.

    Raises:
        ConfigError: another gateway holds it.
    """
    if not lock.acquire():
        raise ConfigError(f"a gateway (pid {lock.holder}) already runs on {lock.path.parent}; stop it first")
    try:
        yield
    finally:
        lock.release()


def keep_keys(settings: Settings) -> None:
    """Make a key file on the first start, unless the keys are set; check the keys that there are.

    Raises:
        ConfigError: a key can't be read, or the key file of a store that has data is gone.
    """
    path = settings.data_dir / KEYS_FILE
    if settings.keys is None and not exists(path):
        if exists(settings.data_dir / "store" / "appendonlydir"):
            raise ConfigError(
                f"{path} is gone, and the store here was sealed with it; put it back, or set FLUXY_SYNC_KEYS"
            )
        write_private(path, new_key() + "\n")
    texts = settings.key_texts or split_keys(read_private(path))
    Vault.from_text(texts)


def gateway_record(live: Settings) -> dict[str, object]:
    """What producers on this machine need to know, by the names of the settings."""
    names = [*TOLD_TO_PRODUCERS, *(name for name in LIMITS_TOLD_IF_SET if name in live.model_fields_set)]
    values = {name: _plain(getattr(live, name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def child_environment(live: Settings, base: Environment) -> dict[str, str]:
    """The environment of the gateway's processes: ``base``, with every setting that is set.

    A secret that came from a file is passed on as that file's path, the gateway's own keys as well.
    """
    variables = {name: ENV_PREFIX + name.upper() for name in type(live).model_fields}
    ours = {*variables.values(), *(f"{variable}_FILE" for variable in variables.values())}
    environment = {name: value for name, value in base.items() if name.upper() not in ours}
    for name in live.model_fields_set | ALWAYS_PASSED_ON:
        variable, value = variables[name], getattr(live, name)
        if name != "redis_url" and f"{variable}_FILE" in base:
            environment[f"{variable}_FILE"] = base[f"{variable}_FILE"]
        elif value is not None:
            environment[variable] = _as_text(value)
    if live.keys is None:
        environment[f"{ENV_PREFIX}KEYS_FILE"] = str(live.data_dir / KEYS_FILE)
    return environment


def _as_text(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, tuple):
        return ",".join(plain)
    return str(int(plain)) if isinstance(plain, bool) else str(plain)


def celery_commands(live: Settings, environment: Environment) -> list[Command]:
    """The worker, and the one beat."""
    serve = (sys.executable, "-m", APP)
    level = () if live.log_level == "INFO" else ("--loglevel", live.log_level)
    for_worker = {name: value for name, value in environment.items() if not name.startswith(FOR_THE_DASHBOARD)}
    for_beat = {name: value for name, value in for_worker.items() if not name.startswith(NOT_FOR_BEAT)}
    return [
        command("worker", (*serve, "worker", *level), for_worker, " ready.", WORKER_GRACE_S),
        command("beat", (*serve, "beat", *level), for_beat, "beat: Starting"),
    ]


def command(
    name: str, argv: Sequence[str], environment: Environment, ready_mark: str = "", grace_s: float = DEFAULT_GRACE_S
) -> Command:
    """A program with these variables, the secrets among them handed over and in nobody's environment."""
    secret = {name: value for name, value in environment.items() if is_secret(name)}
    open_to_all = {name: value for name, value in environment.items() if name not in secret}
    return Command(name, argv, open_to_all, ready_mark, grace_s, secret)


def is_secret(variable: str) -> bool:
    """Whether a variable's value may be a secret: of Flower's, which have a dozen ways to sign in, all are."""
    return variable.upper() in SECRET_VARIABLES or variable.startswith(FOR_THE_DASHBOARD)


def has_flower() -> bool:
    """Whether the dashboard's package is installed."""
    return importlib.util.find_spec("flower") is not None


def require_flower() -> None:
    """Check that the dashboard's package is installed.

    Raises:
        ConfigError: it isn't.
    """
    if not has_flower():
        raise ConfigError("the dashboard needs Flower; install it with: pip install 'fluxy-sync[dashboard]'")


def refuse_open_api(environment: Environment) -> None:
    """Check that nobody may act without signing in.

    Raises:
        ConfigError: FLOWER_UNAUTHENTICATED_API is set, which lets any website start tasks here.
    """
    if environment.get("FLOWER_UNAUTHENTICATED_API", "").lower() not in ("", "0", "false", "f", "no", "n", "off"):
        raise ConfigError("FLOWER_UNAUTHENTICATED_API lets any website start tasks on this gateway; unset it")


def dashboard_of(live: Settings, base: Environment) -> Dashboard:
    """Flower on the loopback interface with a password that is kept in the data directory; FLOWER_* win.

    It gets no keys and no credentials: it has no use for them, and answers the network.

    Raises:
        ConfigError: FLOWER_UNAUTHENTICATED_API is set.
    """
    refuse_open_api(base)
    port = base.get("FLOWER_PORT") or str(dashboard_port(live))
    kept = {name: value for name, value in base.items() if not name.startswith(NOT_FOR_THE_DASHBOARD)}
    given = {name: value for name, value in kept.items() if value or not name.startswith("FLOWER_")}
    environment = {"FLOWER_ADDRESS": LOOPBACK, "FLOWER_PORT": port, **given}
    password = None
    if not (base.get("FLOWER_BASIC_AUTH") or base.get("FLOWER_AUTH")):
        password = kept_secret(live.data_dir / DASHBOARD_PASSWORD_FILE)
        environment["FLOWER_BASIC_AUTH"] = f"{DASHBOARD_USER}:{password}"
    return Dashboard(f"http://{environment['FLOWER_ADDRESS']}:{port}", password, environment)


def dashboard_port(settings: Settings) -> int:
    """The port that was asked for; the usual one, or any free one, if none was."""
    if settings.dashboard_port and "dashboard_port" in settings.model_fields_set:
        return settings.dashboard_port
    return free_port(settings.dashboard_port)


def kept_secret(path: Path) -> str:
    """A secret that is made once and stays, readable by its owner alone."""
    if not exists(path):
        write_private(path, secrets.token_urlsafe(16))
    return read_private(path).strip()


def flower_command(dashboard: Dashboard) -> Command:
    """The dashboard: its address and password come from the environment."""
    return command("dashboard", (sys.executable, "-m", APP, "flower"), dashboard.environment)


def ready_notice(live: Settings, dashboard: Dashboard | None, *, to_a_person: bool) -> str:
    """The line that tells that all is up; the password goes to a terminal only, never into a log."""
    parts = [
        f"fluxy-sync is up: data {live.data_dir}",
        f"namespace {live.namespace}",
        f"upstream {live.upstream}",
    ]
    if dashboard is not None:
        where = live.data_dir / DASHBOARD_PASSWORD_FILE
        password = dashboard.password if to_a_person else f"in {where}"
        login = f" (user {DASHBOARD_USER}, password {password})" if dashboard.password else ""
        parts.append(f"dashboard {dashboard.url}{login}")
    return ", ".join(parts)
