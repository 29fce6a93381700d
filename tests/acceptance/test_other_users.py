"""A gateway among other users of its machine: root, strangers, and what else runs as its own user."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import redis

from fluxy_sync.embedded import EmbeddedStore, free_port
from fluxy_sync.vault import new_key
from tests.conftest import ROOT, wait_until
from tests.other_users import ANN, MALLORY, as_user, give, needs_root, python, run_as
from tests.upstream import Upstream

pytestmark = needs_root
COMMAND = (sys.executable, "-m", "fluxy_sync")


class Place(NamedTuple):
    """A home and a data directory of the gateway's user, and the environment of what runs there."""

    home: Path
    data: Path
    environment: dict[str, str]


def made(path: Path) -> Path:
    """A directory of the gateway's user."""
    path.mkdir(mode=0o700)
    return give(path, ANN)


@pytest.fixture
def place(tmp_path: Path, upstream: Upstream) -> Place:
    home = made(tmp_path / "home")
    data = made(home / "data")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLUXY_SYNC_", "FLOWER_"))}
    ours = {"FLUXY_SYNC_DATA_DIR": str(data), "FLUXY_SYNC_UPSTREAM": upstream.url, "FLUXY_SYNC_DASHBOARD_PORT": "0"}
    return Place(home, data, {**kept, **ours, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"})


@contextmanager
def up(place: Place, log: Path) -> Iterator[psutil.Process]:
    """``fluxy-sync up`` as the gateway's user, up and running."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            as_user(ANN, [*COMMAND, "up"]), env=place.environment, stdout=output, stderr=output, cwd=ROOT
        )
    try:
        wait_until(lambda: "fluxy-sync is up" in log.read_text() or process.poll() is not None, 40)
        assert process.poll() is None, log.read_text()
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def state_of(folder: Path) -> list[tuple[str, int, int, int, str]]:
    """All that is in a directory: names, owners, modes, times and texts."""
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        text = path.read_text() if stat.S_ISREG(info.st_mode) else ""
        found.append((str(path), info.st_uid, info.st_mode, info.st_mtime_ns, text))
    return found


ROLE = (sys.executable, "-m", "fluxy_sync.app")
STORE = {"FLUXY_SYNC_REDIS_URL": "redis://:pw@127.0.0.1:1/0", "FLUXY_SYNC_KEYS": new_key()}
PRODUCE = python("from fluxy_sync import FluxySync; FluxySync().queue('POST', '/x')")


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ((*COMMAND, "up"), {}),
        ((*COMMAND, "up", "--no-dashboard"), STORE),
        ((*COMMAND, "flower"), STORE),
        ((*COMMAND, "flower"), {}),
        ((*COMMAND, "keys", "rotate"), {}),
        ((*COMMAND, "status"), {}),
        ((*COMMAND, "queue", "POST", "/x"), {}),
        ((*ROLE, "worker"), STORE),
        ((*ROLE, "worker"), {}),
    ],
)
def test_root_is_refused_in_a_users_data_directory(
    command: tuple[str, ...], settings: dict[str, str], place: Place, tmp_path: Path
) -> None:
    """One sentence says whose it is and how to run as that user; nothing there is touched, and no planted link is
    written through."""
    target = tmp_path / "passwd"
    target.write_text("root")
    for name in ("gateway.lock", "guard.lock", "store.lock", "dashboard.password", "store.conf"):
        (place.data / name).symlink_to(target)
    give(place.data / "gateway.lock", ANN)
    (place.data / "gateway.json").write_text('{"redis_url": "redis://127.0.0.1:1/0"}')
    (place.data / "keys").write_text(new_key())
    give(place.data / "gateway.json", ANN)
    give(place.data / "keys", ANN)
    before = state_of(place.home)
    done = subprocess.run(
        command, env={**place.environment, **settings}, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert f"belongs to uid {ANN}" in done.stderr
    assert f"sudo -u '#{ANN}' fluxy-sync" in done.stderr
    assert "Traceback" not in done.stderr
    assert target.read_text() == "root"
    assert state_of(place.home) == before


def test_root_isnt_refused_in_a_shared_directory_by_closing_it(place: Place, tmp_path: Path) -> None:
    """A directory such as /tmp stays everybody's."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    environment = {**place.environment, "FLUXY_SYNC_DATA_DIR": str(shared)}
    done = subprocess.run([*COMMAND, "up"], env=environment, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode != 0
    assert "a directory of your own inside it" in done.stderr
    assert (stat.S_IMODE(shared.stat().st_mode), list(shared.iterdir())) == (0o1777, [])


def test_a_stranger_is_no_gateway(place: Place) -> None:
    """A producer doesn't take another user's word for where the store is, and says whose word that was."""
    place.data.chmod(0o755)
    place.home.chmod(0o755)
    give(place.home, 0)
    (place.data / "gateway.json").write_text('{"redis_url": "redis://:pw@127.0.0.1:1/0"}')
    (place.data / "gateway.json").chmod(0o644)
    give(place.data / "gateway.json", ANN)
    done = run_as(MALLORY, PRODUCE, place.environment, cwd=ROOT)
    assert f"belongs to uid {ANN}" in done.stderr


class Secrets(NamedTuple):
    """What nobody may see, by the variable that gives it, and what the gateway made itself."""

    given: dict[str, str]
    texts: list[str]


@pytest.fixture(params=["a store elsewhere", "an embedded store"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secrets]:
    given = {
        "FLUXY_SYNC_KEYS": new_key(),
        "FLUXY_SYNC_AUTH_BEARER": "bearer-that-is-secret",
        "FLOWER_BASIC_AUTH": "ann:login-that-is-secret",
        "FLOWER_COOKIE_SECRET": "cookie-that-is-secret",
        "fluxy_sync_dashboard_url": "http://ann:login-that-is-secret@127.0.0.1:1",
    }
    texts = [given["FLUXY_SYNC_KEYS"], "bearer-that-is", "login-that-is", "cookie-that-is"]
    if request.param == "an embedded store":
        yield Secrets(given, texts)
        return
    with EmbeddedStore(tmp_path / "elsewhere") as store, redis.Redis.from_url(store.url) as client:
        password, port = redis.connection.parse_url(store.url)["password"], free_port()
        client.config_set("bind", "127.0.0.1")
        client.config_set("port", port)
        urls = {f"FLUXY_SYNC_{n}_URL": f"redis://:{password}@127.0.0.1:{port}/0" for n in ("REDIS", "BROKER")}
        yield Secrets({**given, **urls}, [*texts, password])


def test_no_process_shows_a_secret(place: Place, secrets: Secrets, upstream: Upstream, tmp_path: Path) -> None:
    """Secrets are in no environment and on no command line of a gateway's processes, and what else runs as its user
    can't look into those that hold them; all of it works as a user without any rights, after a kill as well."""
    upstream.start()
    place.environment.update(secrets.given)
    with up(place, tmp_path / "up.log") as gateway:
        queue_as_ann(place, secrets, "/one")
        wait_until(lambda: "/one" in paths(upstream), 20)
        assert {headers_of(upstream, "/one")["authorization"]} == {"Bearer bearer-that-is-secret"}
        texts = [*secrets.texts]
        with suppress(FileNotFoundError):
            texts.append((place.data / "store.password").read_text())
        look_at(gateway, texts)
        worker = next(child for child in gateway.children() if is_role(child, "worker"))
        worker.kill()
        wait_until(lambda: (tmp_path / "up.log").read_text().count(" ready.") == 2, 30)
        queue_as_ann(place, secrets, "/two")
        wait_until(lambda: "/two" in paths(upstream), 20)
        look_at(gateway, texts)
    assert not [text for text in texts if text in (tmp_path / "up.log").read_text()]


def queue_as_ann(place: Place, secrets: Secrets, path: str) -> None:
    code = f"from fluxy_sync import FluxySync; FluxySync().queue('POST', '{path}')"
    done = run_as(ANN, python(code), {**place.environment, **secrets.given}, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def paths(upstream: Upstream) -> list[str]:
    return [request["path"] for request in upstream.requests()]


def headers_of(upstream: Upstream, path: str) -> dict[str, str]:
    found = next(request for request in upstream.requests() if request["path"] == path)
    return {name.lower(): value for name, value in found["headers"].items()}


def is_role(process: psutil.Process, role: str) -> bool:
    return process.cmdline()[-1] == role


def look_at(gateway: psutil.Process, texts: list[str]) -> None:
    """Look as root, who sees all, and as the gateway's own user, who sees what holds no secret and nothing else."""
    readable = []
    for process in [gateway, *gateway.children(recursive=True)]:
        for name in ("environ", "cmdline"):
            shown = Path(f"/proc/{process.pid}/{name}").read_bytes().decode(errors="replace")
            assert not [text for text in texts if text in shown], (process.cmdline(), name)
        looked = run_as(ANN, ["cat", f"/proc/{process.pid}/environ"], {})
        if looked.returncode == 0:
            readable.append(Path(process.cmdline()[0]).name if "guard.py" not in str(process.cmdline()) else "guard")
    stores = [name for name in readable if name != "guard"]
    assert "guard" in readable  # it can be looked into, and holds nothing
    assert all("valkey" in name or "redis" in name for name in stores), readable


def test_a_cleaned_socket_comes_back(place: Place, upstream: Upstream, tmp_path: Path) -> None:
    """Whoever cleans the temporary directory takes the socket away: the store is started again, and all goes on."""
    upstream.start()
    far = made(place.home / ("x" * 120))
    short = Path("/tmp", f"t{os.getpid()}")
    made(short)
    place.environment.pop("XDG_RUNTIME_DIR", None)
    place.environment.update(FLUXY_SYNC_DATA_DIR=str(far), TMPDIR=str(short))
    sockets = short / f"fluxy-sync-{ANN}"
    try:
        with up(place, tmp_path / "up.log"):
            (socket,) = sockets.iterdir()
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            socket.unlink()
            sockets.rmdir()
            wait_until(socket.exists, 30)
            queue_as_ann(place, Secrets({}, []), "/after")
            wait_until(lambda: "/after" in paths(upstream), 30)
        assert "was removed while it was in use" in (tmp_path / "up.log").read_text()
    finally:
        subprocess.run(["rm", "-r", short], check=True)
