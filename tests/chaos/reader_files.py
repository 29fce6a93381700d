"""Cases of what is read from files: those of the data directory, secrets, and what the kernel tells."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxy_sync import guard
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.gateway import keep_keys, kept_secret
from fluxy_sync.host.locks import LockFile
from fluxy_sync.incarnation import Incarnation, is_running
from fluxy_sync.journal.clock import host
from fluxy_sync.memory import memory_limit
from fluxy_sync.repair import repairs
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.chaos.garbage import ABSENT, STEERING
from tests.chaos.gateway_that_repeats import LAST_LINE
from tests.chaos.reader_bench import NOTHING, Bench, environment_of
from tests.chaos.scene import PATIENCE_S
from tests.chaos.trial import wait_until
from tests.conftest import ROOT

Case = Callable[[Bench], None]


def put(path: Path, kind: str, data: bytes) -> None:
    """A file with that content, or none; readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind != ABSENT:
        path.write_bytes(data)
        path.chmod(0o600)


def fresh(bench: Bench, name: str) -> Path:
    """An empty directory of our own."""
    folder = bench.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    return folder


# --- what producers and the command line read


def gateway_json(bench: Bench) -> None:
    """Producers go on with it, or say which file can't be read."""
    folder = fresh(bench, "told")
    right = b'{"redis_url": "unix://:x@/nowhere/store.sock", "namespace": "chaos", "upstream": "http://127.0.0.1:1"}'
    odd = (
        b'{"redis_url": 7}',
        b'{"redis_url": "\\u001b[2J"}',
        b'{"namespace": ["x"]}',
        b'{"keys_file": "/etc/passwd"}',
    )
    values = [*bench.garbage.values(right, most=8), *(("odd values", data) for data in (*odd, right + b"x", STEERING))]
    for kind, data in values:
        put(folder / "gateway.json", kind, data)
        offline(
            bench,
            folder,
            f"{kind} in gateway.json: {data[:100]!r}",
            "status",
            "keys ls",
            "queue POST /x",
            "doctor --json",
        )


def offline(bench: Bench, folder: Path, what: str, *commands: str) -> None:
    """Commands that have a data directory and nothing else."""
    settings = dict.fromkeys(bench.settings, "") | {"FLUXY_SYNC_DATA_DIR": str(folder)}
    for command in commands if bench.run.full else (bench.run.chance.choice(commands), commands[0]):
        bench.command(command, what, **settings)


def keys(bench: Bench) -> None:
    """A ring that can't be read is said to be that; no command ends otherwise, and none shows it."""
    folder = fresh(bench, "ring")
    for kind, data in bench.garbage.values(new_key().encode(), most=8):
        put(folder / "keys", kind, data)
        put(folder / "gateway.json", "", b'{"redis_url": "unix://:x@/nowhere/store.sock", "namespace": "chaos"}')
        what = f"{kind} in keys: {data[:60]!r}"
        offline(bench, folder, what, "keys ls", "queue POST /x", "status")
        bench.only_ours(what, lambda: keep_keys(Settings(data_dir=folder)))


def secret_files(bench: Bench) -> None:
    """A secret's file, and one of certificates, at the start and while it is read again."""
    folder = fresh(bench, "secrets")
    for kind, data in bench.garbage.values(b"a-secret", most=6):
        what = f"{kind} in a secret's file: {data[:60]!r}"
        put(folder / "secret", kind, data)
        for name in ("KEYS", "AUTH_BEARER", "REDIS_URL", "AUTH_BASIC"):
            given = {f"FLUXY_SYNC_{name}": None, f"FLUXY_SYNC_{name}_FILE": str(folder / "secret")}
            bench.command("status", what, **given)
        given = {"FLUXY_SYNC_CA_BUNDLE": str(folder / "secret"), "FLUXY_SYNC_UPSTREAM": "https://127.0.0.1:1"}
        bench.command("queue POST /x", what, **given, FLUXY_SYNC_REDIS_URL="redis://127.0.0.1:1")
        if bench.run.full:
            bench.command("doctor --json", what, **given)


# --- what `up` reads


def store_files(bench: Bench) -> None:
    """The store starts with what they say, or the error is ours."""
    for kind, data in bench.garbage.values(b"A" * 43, most=6):
        folder = fresh(bench, "store-files")
        for name in ("store.password", "store.boot", "store.conf"):
            put(folder / name, kind, data)
        what = f"{kind} in store.password and its neighbours: {data[:60]!r}"
        bench.only_ours(what, lambda folder=folder: start_and_end(folder))


def start_and_end(folder: Path) -> None:
    store = EmbeddedStore(folder, ballast_bytes=0)
    try:
        store.start()
        store.wait_ready(20)
    finally:
        store.stop()


def locks(bench: Bench) -> None:
    """Whatever a lock's file says: it is said without steering, and the lock counts."""
    folder = fresh(bench, "locks")
    for kind, data in bench.garbage.values(b"12345\n", most=8):
        what = f"{kind} in a lock's file: {data[:60]!r}"
        for name in ("gateway.lock", "store.lock"):
            path = folder / name
            put(path, "", data)
            with path.open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                lock = LockFile(path)
                bench.run.check(not lock.acquire(), f"a lock was had twice after {what}")
                bench.only_ours(what, lambda lock=lock: lock.holder)
                command = {"FLUXY_SYNC_DATA_DIR": str(folder), "FLUXY_SYNC_REDIS_URL": None}
                if name == "gateway.lock":
                    code = bench.command("up", what, **command)
                    bench.run.check(code == 2, f"up ended with {code} after {what}")


def incarnations(bench: Bench) -> None:
    """Files of workers that never were: what they name is given up, and nothing else."""
    folder = fresh(bench, "run")
    for kind, data in bench.garbage.values(b"x", most=6):
        name = data.replace(b"/", b"").replace(b"\0", b"")[:100] or b"empty"
        put(Path(str(folder)) / f"{name.decode('utf-8', 'surrogateescape')}.worker", "", data)
        put(folder / "one.node", "", data)
        what = f"{kind} in run/: {name[:60]!r}"
        one = bench.only_ours(what, lambda: Incarnation(folder, "one"))
        bench.run.check(one is not NOTHING and is_running(folder, "two") is False, f"no worker may start after {what}")
        dead = one.dead_ones()
        for incarnation in dead:
            bench.only_ours(what, lambda one=incarnation: bench.here.sync.engine.journal.reclaim(one))
            one.forget(incarnation)
        one.close()
    bench.still_works("garbage in run/")


def login(bench: Bench) -> None:
    """A password that can't be read is said to be that, or made anew."""
    folder = fresh(bench, "login")
    for kind, data in bench.garbage.values(b"password", most=6):
        for name in ("dashboard.password", "dashboard.cookie"):
            put(folder / name, kind, data)
            what = f"{kind} in {name}: {data[:60]!r}"
            bench.only_ours(what, lambda path=folder / name: kept_secret(path))


def append_only(bench: Bench) -> None:
    """Damaged files are repaired, or the error is ours; a copy of them is kept."""
    folder = fresh(bench, "aof")
    start_and_end(folder)
    for n in range(bench.run.scale(5, 60)):
        files = sorted((folder / "store" / "appendonlydir").iterdir())
        path = files[n % len(files)]
        kind, data = bench.garbage.one(path.read_bytes())
        put(path, kind, data)
        what = f"{kind} in {path.name}: {data[:60]!r}"
        bench.only_ours(what, lambda: start_and_end(folder))
    found = bench.only_ours("repairs", lambda: repairs(folder))
    bench.run.check(found is not NOTHING, "the repairs can't be read")
    offline(bench, folder, "repairs", "doctor --json", "doctor")


def repair_notes(bench: Bench) -> None:
    """Notes of repairs, and of one that was cut off: shown as text, and counted anew."""
    folder = fresh(bench, "repairs")
    start_and_end(folder)
    right = b'{"at": "2026-01-01T00:00:00Z", "line": "x", "found": []}\n'
    for kind, data in bench.garbage.values(right, most=4):
        put(folder / "repairs.jsonl", kind, data)
        put(folder / "recount", kind, data[:4000])
        put(folder / "damaged" / "x" / "noise", "", data)
        what = f"{kind} in repairs.jsonl and recount: {data[:60]!r}"
        bench.only_ours(what, lambda: repairs(folder))
        bench.only_ours(what, lambda: start_and_end(folder))
        offline(bench, folder, what, "doctor")


def store_log(bench: Bench) -> None:
    """What the server is said to have logged as it ended: `up` tells it, on one line, and starts it again."""
    with gateway_that_repeats(bench, b"a line") as (folder, output):
        for kind, data in (bench.garbage.one(b"a line\n") for _ in range(bench.run.scale(2, 6))):
            with (folder / "log" / "store.log").open("ab") as log:
                log.write(b"\n" + data + b"\n" + STEERING + b"\n")
            pid = wait_until(lambda: store_of(folder), PATIENCE_S, "the store to run")
            os.kill(pid, signal.SIGKILL)
            what = f"{kind} in the store's log: {data[:60]!r}"
            wait_until(lambda was=pid: store_of(folder) not in (0, was), PATIENCE_S, f"a new store after {what}")
            bench.clean(output(), what)


def store_of(folder: Path) -> int:
    """The pid of the server that runs there; 0 for none, or where it is just being started."""
    text = (folder / "store.lock").read_text().strip()
    command = Path(f"/proc/{text}/cmdline")
    return int(text) if text.isdecimal() and command.exists() and b"-server" in command.read_bytes() else 0


@contextmanager
def gateway_that_repeats(bench: Bench, text: bytes) -> Iterator[tuple[Path, Callable[[], str]]]:
    """A gateway on a store of its own, whose child has written the text; its data, and what it prints."""
    folder = fresh(bench, "up")
    put(folder.parent / "text", "", text)
    printed = bench.folder / "up.log"
    order = [sys.executable, "-m", "tests.chaos.gateway_that_repeats", str(folder.parent / "text")]
    given = {"FLUXY_SYNC_DATA_DIR": str(folder), "FLUXY_SYNC_UPSTREAM": "http://127.0.0.1:1"}
    with printed.open("wb") as log:
        process = subprocess.Popen(order, env=environment_of(given), stdout=log, stderr=log, cwd=ROOT)

    def output() -> str:
        bench.run.check(process.poll() is None, f"the gateway ended: {printed.read_bytes()[-2000:]!r}")
        return printed.read_bytes().decode("utf-8", "replace")

    try:
        wait_until(lambda: LAST_LINE in output(), PATIENCE_S, "its child to have written everything")
        yield folder, output
    finally:
        process.terminate()
        process.wait(30)


PLANTED = ("gateway.json", "keys", "store.password", "gateway.lock", "recount", "dashboard.password", "repairs.jsonl")


def planted(bench: Bench) -> None:
    """Links, pipes, directories and files of others where ours should be: refused, and what they lead to stays."""
    victim = bench.folder / "victim"
    for name in PLANTED:
        for way in bench.run.scale([*bench.run.chance.sample(sorted(WAYS), 2), "a link"], sorted(WAYS)):
            folder = fresh(bench, "planted")
            put(victim, "", new_key().encode())
            before = victim.read_bytes(), victim.stat().st_mode
            WAYS[way](folder / name, victim)
            what = f"{way} in place of {name}"
            offline(bench, folder, what, "status", "keys ls")
            bench.only_ours(what, lambda folder=folder: start_and_end(folder))
            bench.only_ours(what, lambda folder=folder: keep_keys(Settings(data_dir=folder)))
            bench.only_ours(what, lambda path=folder / name: LockFile(path).acquire())
            bench.only_ours(what, lambda path=folder / name: None if path.is_dir() else kept_secret(path))
            bench.run.check(
                (victim.read_bytes(), victim.stat().st_mode) == before, f"a file was changed through {what}"
            )


def others_file(path: Path, _: Path) -> None:
    path.write_bytes(b"of somebody else")
    os.chown(path, 65_534, 65_534)


def open_file(path: Path, _: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0o666)


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, victim: path.symlink_to(victim),
    "a hard link": lambda path, victim: path.hardlink_to(victim),
    "a pipe": lambda path, _: os.mkfifo(path), "a directory": lambda path, _: path.mkdir(),
    "a dangling link": lambda path, _: path.symlink_to("/nowhere/at/all"), "somebody's file": others_file,
    "a file for all to write": open_file,
}  # fmt: skip


# --- what the machine tells


def kernel(bench: Bench) -> None:
    """A control group of odd limits gives a limit that is none of nonsense; a process of an odd name lives."""
    ram = memory_limit(fresh(bench, "no-proc"))
    for kind, data in bench.garbage.values(b"0::/a/b\n", most=8):
        root = fresh(bench, "root")
        what = f"{kind} in /proc and control groups: {data[:60]!r}"
        put(root / "proc/self/cgroup", kind, data)
        bench.run.check(memory_limit(root) == ram, f"a memory limit came of {what}")
        put(root / "proc/self/cgroup", "", b"0::/a/b\n5:memory:/a\n")
        put(root / "sys/fs/cgroup/a/b/memory.max", kind, data)
        put(root / "sys/fs/cgroup/memory/a/memory.limit_in_bytes", kind, data)
        limit = memory_limit(root)
        bench.run.check(0 <= limit <= ram, f"a memory limit of {limit} came of {what}")
    bench.run.check(
        guard._lives(threading.main_thread().native_id or 0), "the guard takes a living process for a dead one"
    )
    bench.run.check(len(host()) == 12, f"journal time's clock is {host()!r}")


def output(bench: Bench) -> None:
    """What a child of `up` writes is shown line by line, and steers no terminal."""
    written = [STEERING, *(data[: 200 * 1024] for _, data in bench.garbage.values(b"a line\n", most=8))]
    with gateway_that_repeats(bench, b"\n".join(written)) as (_, output):
        bench.clean(output(), f"garbage in a child's output: {[data[:60] for data in written]}")


FILES: dict[str, Case] = {
    "gateway.json": gateway_json, "keys": keys, "files of FLUXY_SYNC_*_FILE and certificates": secret_files,
    "store.password, store.boot, store.conf": store_files, "store.lock, gateway.lock, guard.lock": locks,
    "run/*.worker, run/*.node": incarnations, "dashboard.password, dashboard.cookie": login,
    "store/appendonlydir": append_only, "repairs.jsonl, recount, damaged/": repair_notes, "the store's log": store_log,
    "owners, modes and links of files": planted, "/proc and control groups": kernel,
    "output of the gateway's processes, and of the server's --version": output,
}  # fmt: skip
