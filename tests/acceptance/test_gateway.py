"""What ``up`` does, seen from outside: real processes, a real store, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from fluxy_sync.errors import ConfigError
from fluxy_sync.gateway import (
    celery_commands,
    child_environment,
    dashboard_of,
    flower_command,
    gateway_record,
    keep_keys,
    ready_notice,
)
from fluxy_sync.host.files import make_private_dir
from fluxy_sync.settings import Settings, load_settings
from fluxy_sync.vault import new_key

SCRIPT = Path(__file__).with_name("gateway_of_stand_ins.py")
ALL_GONE_S = 10.0
UPSTREAM = "https://upstream.example"


def wait_until(holds: Callable[[], object], timeout: float = 20.0) -> None:
    """Poll until ``holds()``; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


class Up:
    """A running gateway, and what it said and started."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.data_dir = home / "data"
        self._seen: list[psutil.Process] = []
        self._notes, self._output = home / "notes", home / "output"
        self._output.write_text("")
        self._notes.write_text("")
        ours = {"FLUXY_SYNC_DATA_DIR": str(self.data_dir), "FLUXY_SYNC_UPSTREAM": UPSTREAM}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLUXY_SYNC_")}
        with self._output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPT],
                env={**inherited, **ours, "NOTES": str(self._notes), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def notes(self) -> list[str]:
        return self._notes.read_text().splitlines()

    def wait_ready(self) -> "Up":
        wait_until(lambda: "fluxy-sync is up" in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        self._seen = self.family()
        return self

    def pids_of(self, name: str) -> list[int]:
        """The pids under which a stand-in has run, in order."""
        return [int(line.split()[2]) for line in self.notes if line.startswith(f"{name} started")]

    @property
    def store_pid(self) -> int:
        return int((self.data_dir / "store.lock").read_text())

    @property
    def guard_pid(self) -> int:
        return int((self.data_dir / "guard.lock").read_text())

    def family(self) -> list[psutil.Process]:
        """The gateway's children."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def leave_nothing(self) -> None:
        """End the gateway, and kill what a failed test left of it."""
        if self.process.poll() is None:
            self.end()
        for process in self._seen:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Gateways on this test's directory, ended with it."""
    started: list[Up] = []

    def start(**environment: str) -> Up:
        started.append(Up(tmp_path, **environment))
        return started[-1]

    yield start
    for gateway in started:
        gateway.leave_nothing()


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_gone(processes: list[psutil.Process], timeout: float) -> None:
    wait_until(lambda: all(is_gone(process) for process in processes), timeout)


def answers(url: str) -> bool:
    """Whether the store is there."""
    client = Redis.from_url(url)
    with closing(client), suppress(RedisError):
        return bool(client.ping())
    return False


def test_a_producer_on_the_machine_needs_no_setting(up: Callable[..., Up]) -> None:
    """While a gateway runs, producers find its store, keys and upstream; afterwards they find nothing."""
    gateway = up(FLUXY_SYNC_NAMESPACE="shop").wait_ready()
    found = load_settings(data_dir=gateway.data_dir)
    assert answers(found.store_url)
    assert (found.namespace, found.upstream, len(found.key_texts)) == ("shop", UPSTREAM, 1)
    assert found.max_bytes > 0
    for private in ("gateway.json", "keys"):
        assert (gateway.data_dir / private).stat().st_mode & 0o777 == 0o600
    assert gateway.end() == 0
    assert load_settings(data_dir=gateway.data_dir).embedded


def test_it_ends_in_order(up: Callable[..., Up]) -> None:
    """SIGTERM ends beat, then the worker, then the store, and leaves no process."""
    gateway = up().wait_ready()
    family = gateway.family()
    assert len(family) == 4  # the store, the guard, the worker and beat
    assert gateway.end() == 0
    assert gateway.notes[-2:] == ["beat ended, store there", "worker ended, store there"]
    assert all(is_gone(process) for process in family)


def test_a_terminals_interrupt_ends_in_order_too(up: Callable[..., Up]) -> None:
    """Ctrl-C reaches the whole group of the terminal: the order stays ours."""
    gateway = up().wait_ready()
    os.killpg(gateway.process.pid, signal.SIGINT)
    assert gateway.process.wait(30) == 0
    assert gateway.notes[-2:] == ["beat ended, store there", "worker ended, store there"]


def test_a_second_interrupt_doesnt_wait_for_the_worker(up: Callable[..., Up]) -> None:
    """Whoever asks twice doesn't wait for a worker that doesn't end; the store still ends properly."""
    gateway = up(STUBBORN="worker").wait_ready()
    gateway.process.send_signal(signal.SIGINT)
    wait_until(lambda: "beat ended, store there" in gateway.notes)
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.process.wait(10) == 0
    assert "bye bye" in (gateway.data_dir / "log" / "store.log").read_text()


def test_what_dies_is_started_again(up: Callable[..., Up]) -> None:
    """A killed worker, store and guard are each replaced; the others go on."""
    gateway = up().wait_ready()
    url, store, guard = (
        load_settings(data_dir=gateway.data_dir).store_url,
        gateway.store_pid,
        gateway.guard_pid,
    )
    os.kill(gateway.pids_of("worker")[0], signal.SIGKILL)
    wait_until(lambda: len(gateway.pids_of("worker")) == 2)
    os.kill(guard, signal.SIGKILL)
    os.kill(store, signal.SIGKILL)
    wait_until(lambda: gateway.store_pid != store and gateway.guard_pid != guard)
    wait_until(lambda: answers(url))
    assert len(gateway.pids_of("beat")) == 1
    assert "worker ended (SIGKILL)" in gateway.output
    assert gateway.end() == 0


def test_nothing_outlives_a_killed_gateway(up: Callable[..., Up]) -> None:
    """After kill -9 all is gone within 10 s, even a worker that ignores SIGTERM, and the store ends last."""
    gateway = up(STUBBORN="worker").wait_ready()
    family = gateway.family()
    gateway.end(signal.SIGKILL)
    wait_gone(family, ALL_GONE_S)
    assert "beat ended, store there" in gateway.notes
    assert "bye bye" in (gateway.data_dir / "log" / "store.log").read_text()


def test_a_new_gateway_follows_a_killed_one(up: Callable[..., Up]) -> None:
    """A start right after kill -9 waits for what is left, then comes up on the same data and key."""
    first = up(STUBBORN="worker").wait_ready()
    key = (first.data_dir / "keys").read_text()
    client = Redis.from_url(load_settings(data_dir=first.data_dir).store_url)
    client.set("kept", "1")
    client.close()
    family = first.family()
    first.end(signal.SIGKILL)
    second = up().wait_ready()
    assert all(is_gone(process) for process in family)
    client = Redis.from_url(load_settings(data_dir=second.data_dir).store_url)
    assert client.get("kept") == b"1"
    client.close()
    assert (second.data_dir / "keys").read_text() == key
    assert second.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent's life")
def test_a_killed_guard_leaves_no_worker(up: Callable[..., Up]) -> None:
    """Even if gateway and guard die together, worker and beat end, and the next start ends the store."""
    first = up().wait_ready()
    family, store = first.family(), first.store_pid
    first.process.send_signal(signal.SIGSTOP)  # so that it can't replace its guard
    os.kill(first.guard_pid, signal.SIGKILL)
    first.end(signal.SIGKILL)
    wait_gone([process for process in family if process.pid != store], ALL_GONE_S)
    second = up().wait_ready()
    assert not psutil.pid_exists(store) or is_gone(psutil.Process(store))
    assert second.end() == 0


def test_a_directory_has_one_gateway(up: Callable[..., Up]) -> None:
    """A second start on the same data is refused in one sentence that names the first, which goes on."""
    first = up().wait_ready()
    second = up()
    assert second.process.wait(20) == 1
    assert f"ConfigError: a gateway (pid {first.process.pid}) already runs" in second.output
    assert answers(load_settings(data_dir=first.data_dir).store_url)
    assert first.end() == 0


def test_a_worker_that_cant_run_ends_the_start(up: Callable[..., Up]) -> None:
    """A worker that never came up and says that it is misconfigured ends the start, with its reason."""
    gateway = up(MISCONFIGURED="worker")
    assert gateway.process.wait(20) == 1
    assert "ConfigError: worker can't run like this: what is wrong stands here" in gateway.output
    assert not (gateway.data_dir / "gateway.json").exists()


def test_no_upstream_is_refused(tmp_path: Path, up: Callable[..., Up]) -> None:
    """Without an upstream nothing is started."""
    gateway = up(FLUXY_SYNC_UPSTREAM="")
    assert gateway.process.wait(20) == 1
    assert "FLUXY_SYNC_UPSTREAM isn't set" in gateway.output


def test_no_secret_is_on_a_command_line_or_in_the_output(up: Callable[..., Up]) -> None:
    """The store's password and the keys are in files and environments only."""
    gateway = up().wait_ready()
    found = load_settings(data_dir=gateway.data_dir)
    secrets = [*found.key_texts, (gateway.data_dir / "store.password").read_text()]
    shown = gateway.output + " ".join(part for process in gateway.family() for part in process.cmdline())
    assert not [secret for secret in secrets if secret in shown]
    assert "with 1 key" in gateway.notes[0]
    assert gateway.end() == 0


def live_settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(redis_url="redis://:pw@store:6379/0", upstream=UPSTREAM, data_dir=tmp_path, **values)


def test_children_get_every_setting_that_is_set(tmp_path: Path) -> None:
    """Settings, however they were given, reach the children by their environment and read the same there."""
    settings = live_settings(
        tmp_path, namespace="shop", node="n1", imports=("a", "b"), accept_unsealed=True, max_bytes=7
    )
    base = {
        "PATH": "/bin",
        "FLUXY_SYNC_NAMESPACE": "stale",
        "FLUXY_SYNC_MAX_PENDING": "3",
        "FLUXY_SYNC_X": "y",
    }
    environment = child_environment(settings, base)
    assert environment == {
        "PATH": "/bin",
        "FLUXY_SYNC_X": "y",
        "FLUXY_SYNC_REDIS_URL": "redis://:pw@store:6379/0",
        "FLUXY_SYNC_UPSTREAM": UPSTREAM,
        "FLUXY_SYNC_DATA_DIR": str(tmp_path),
        "FLUXY_SYNC_NAMESPACE": "shop",
        "FLUXY_SYNC_NODE": "n1",
        "FLUXY_SYNC_IMPORTS": "a,b",
        "FLUXY_SYNC_ACCEPT_UNSEALED": "1",
        "FLUXY_SYNC_MAX_BYTES": "7",
        "FLUXY_SYNC_KEYS_FILE": str(tmp_path / "keys"),
    }


def test_a_secret_from_a_file_stays_in_its_file(tmp_path: Path) -> None:
    """A secret that was given as a file is passed on as that file, not copied into an environment."""
    settings = live_settings(tmp_path, keys=new_key(), auth_bearer="token")
    base = {"FLUXY_SYNC_KEYS_FILE": "/k", "FLUXY_SYNC_AUTH_BEARER_FILE": "/t"}
    environment = child_environment(settings, base)
    assert {name: environment[name] for name in base} == base
    assert not {"FLUXY_SYNC_KEYS", "FLUXY_SYNC_AUTH_BEARER"} & environment.keys()


def test_what_producers_are_told_are_settings(tmp_path: Path) -> None:
    """The gateway's file holds settings by their names, no keys and no credentials."""
    record = json.loads(json.dumps(gateway_record(live_settings(tmp_path, keys=new_key(), max_body_bytes=9))))
    assert record == {
        "redis_url": "redis://:pw@store:6379/0",
        "namespace": "fluxy",
        "upstream": UPSTREAM,
        "allowed_origins": [],
        "max_bytes": 0,
        "max_body_bytes": 9,
    }


def test_keys_are_made_once_and_never_replaced(tmp_path: Path) -> None:
    """A first start makes a key; a lost key file of a store that has data is refused, not replaced."""
    settings = Settings(data_dir=make_private_dir(tmp_path / "data"))
    keep_keys(settings)
    made = (settings.data_dir / "keys").read_text()
    keep_keys(settings)
    assert (settings.data_dir / "keys").read_text() == made
    (settings.data_dir / "store" / "appendonlydir").mkdir(parents=True)
    (settings.data_dir / "keys").unlink()
    with pytest.raises(ConfigError, match="put it back"):
        keep_keys(settings)
    keep_keys(settings.model_copy(update={"keys": load_settings(keys=made).keys}))


def test_worker_and_beat_learn_all_from_their_environment(tmp_path: Path) -> None:
    """The commands name a role and nothing else: what they need is in their environment."""
    commands = celery_commands(live_settings(tmp_path), {"A": "B"})
    assert [command.argv[1:] for command in commands] == [
        ("-m", "fluxy_sync.app", "worker"),
        ("-m", "fluxy_sync.app", "beat"),
    ]
    assert {command.env["A"] for command in commands} == {"B"}


def test_each_process_gets_its_own_secrets_alone(tmp_path: Path) -> None:
    """Beat signs nothing in, the dashboard opens nothing, and nobody else needs the dashboard's password."""
    base = {
        "FLOWER_BASIC_AUTH": "me:mine",
        "FLUXY_SYNC_KEYS": "k",
        "FLUXY_SYNC_REDIS_URL": "redis://:pw@store",
        "FLUXY_SYNC_BROKER_URL": "redis://:pw@broker",
        "FLUXY_SYNC_AUTH_BASIC": "a:b",
        "FLUXY_SYNC_AUTH_OAUTH2_CLIENT_SECRET": "s",
        "FLUXY_SYNC_DASHBOARD_URL": "http://me:mine@host",
        "FLUXY_SYNC_NAMESPACE": "shop",
    }
    settings = live_settings(tmp_path)
    commands = [*celery_commands(settings, base), flower_command(dashboard_of(settings, base))]
    stores = {"FLUXY_SYNC_REDIS_URL", "FLUXY_SYNC_BROKER_URL"}
    assert {command.name: command.secrets.keys() for command in commands} == {
        "worker": base.keys() - {"FLOWER_BASIC_AUTH", "FLUXY_SYNC_NAMESPACE"},
        "beat": {*stores, "FLUXY_SYNC_KEYS"},
        "dashboard": {*stores, "FLOWER_BASIC_AUTH", "FLOWER_ADDRESS", "FLOWER_PORT"},
    }
    assert all(command.env == {"FLUXY_SYNC_NAMESPACE": "shop"} for command in commands)


def test_the_dashboard_is_private_by_default(tmp_path: Path) -> None:
    """Flower gets the loopback address and a password that stays; only a terminal is shown the password."""
    settings = live_settings(tmp_path, dashboard_port=4711)
    dashboard = dashboard_of(settings, {})
    assert (dashboard.url, dashboard.environment["FLOWER_ADDRESS"]) == ("http://127.0.0.1:4711", "127.0.0.1")
    assert dashboard.environment["FLOWER_BASIC_AUTH"] == f"fluxy:{dashboard.password}"
    assert dashboard == dashboard_of(settings, {})
    assert dashboard.password is not None
    assert dashboard.password in ready_notice(settings, dashboard, to_a_person=True)
    assert dashboard.password not in ready_notice(settings, dashboard, to_a_person=False)


def test_a_users_own_flower_settings_win(tmp_path: Path) -> None:
    """FLOWER_* in the environment are kept, and a password of the user's own isn't shown."""
    base = {"FLOWER_PORT": "1", "FLOWER_ADDRESS": "0.0.0.0", "FLOWER_BASIC_AUTH": "me:mine"}
    dashboard = dashboard_of(live_settings(tmp_path), base)
    assert (dashboard.environment, dashboard.password) == (base, None)
    assert "mine" not in ready_notice(live_settings(tmp_path), dashboard, to_a_person=True)


def test_an_open_flower_api_is_refused(tmp_path: Path) -> None:
    """FLOWER_UNAUTHENTICATED_API would let any website start tasks here."""
    with pytest.raises(ConfigError, match="FLOWER_UNAUTHENTICATED_API"):
        dashboard_of(live_settings(tmp_path), {"FLOWER_UNAUTHENTICATED_API": "1"})
