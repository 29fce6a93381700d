"""Files of our own: whose they are is looked at, links aren't followed, and what isn't ours stays as it is."""

import ast
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fluxy_sync
from fluxy_sync.errors import ConfigError
from fluxy_sync.host import files
from fluxy_sync.host.locks import LockFile
from fluxy_sync.settings import load_settings, read_keys
from tests.other_users import ANN, MALLORY, give, needs_root

ROOM = Path(fluxy_sync.__file__).parent


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that everybody may enter: pytest's own lets nobody else in, which makes much harmless."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of ours."""
    return files.make_private_dir(tmp_path / "data")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory to which everybody may write."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o777)
    return path


# --- directories


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_made_is_its_owners_alone(umask: int, tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    before = os.umask(umask)
    try:
        place = files.make_private_dir(tmp_path / "a" / "data")
        files.write_private(place / "text", "x")
        files.open_to_append(place / "log").close()
        files.create(place / "new").close()
        assert LockFile(place / "lock").acquire()
    finally:
        os.umask(before)
    assert mode_of(place) == 0o700
    assert {mode_of(path) for path in place.iterdir()} == {0o600}
    assert not mode_of(place.parent) & 0o022


def test_a_directory_of_ours_is_closed(tmp_path: Path) -> None:
    """A directory that the user made with the usual mode becomes 0700."""
    (tmp_path / "data").mkdir(mode=0o755)
    files.make_private_dir(tmp_path / "data")
    assert mode_of(tmp_path / "data") == 0o700


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o1700])
def test_a_shared_directory_stays_as_it_is(mode: int, shared: Path) -> None:
    """One like /tmp isn't taken from everybody else: it is refused, with what to do."""
    shared.chmod(mode)
    with pytest.raises(ConfigError, match="a directory of your own inside it"):
        files.make_private_dir(shared)
    assert mode_of(shared) == mode


@needs_root
def test_a_directory_of_somebody_else_stays_as_it_is(tmp_path: Path) -> None:
    """Root takes no user's directory, and says whose it is and how to run as that user."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    give(data, MALLORY)
    with pytest.raises(ConfigError, match=rf"belongs to \w+ \(uid {MALLORY}\).*sudo -u"):
        files.make_private_dir(data)
    with pytest.raises(ConfigError, match="belongs to"):
        files.write_private(data / "text", "x")
    with pytest.raises(ConfigError, match="belongs to"):
        files.create(data / "text")
    assert (mode_of(data), list(data.iterdir())) == (0o755, [])


@needs_root
def test_no_directory_on_the_way_belongs_to_somebody_else(tmp_path: Path) -> None:
    """A user who owns a directory above ours could put another one in its place."""
    (tmp_path / "home").mkdir()
    give(tmp_path / "home", ANN)
    with pytest.raises(ConfigError, match=f"home belongs to uid {ANN}"):
        files.make_private_dir(tmp_path / "home" / "data")
    assert list((tmp_path / "home").iterdir()) == []


def test_nobody_may_rename_what_is_on_the_way(shared: Path) -> None:
    """Nor could others who may write to it; the error names the directory and the command that helps."""
    (shared / "data").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"chmod go-w {shared}'"):
        files.make_private_dir(shared / "data")
    with pytest.raises(ConfigError, match=f"chmod go-w {shared}'"):
        load_settings(data_dir=files_in_it(shared / "data"))
    shared.chmod(0o1777)  # with the sticky bit, they can't
    files.make_private_dir(shared / "data")


def files_in_it(folder: Path) -> Path:
    (folder / "gateway.json").write_text('{"redis_url": "redis://planted:6379/0"}')
    return folder


@needs_root
def test_a_link_counts_as_its_owners_word(tmp_path: Path) -> None:
    """A data directory may be reached by a link of one's own, and never by somebody else's."""
    real = tmp_path / "real"
    real.mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("real/../real")
    files.make_private_dir(tmp_path / "link")
    assert mode_of(real) == 0o700
    real.chmod(0o755)
    give(tmp_path / "link", MALLORY)
    with pytest.raises(ConfigError, match=r"symbolic link of .* isn't followed"):
        files.make_private_dir(tmp_path / "link")
    assert mode_of(real) == 0o755


def test_links_that_go_round_end(tmp_path: Path) -> None:
    """Links to each other are an error, and no endless walk."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="can't be used"):
        files.make_private_dir(tmp_path / "a" / "data")


# --- files


def read(path: Path) -> object:
    return files.read_private(path)


def append(path: Path) -> object:
    return files.open_to_append(path)


def change(path: Path) -> object:
    return files.open_to_change(path)


def lock(path: Path) -> object:
    return LockFile(path).acquire()


WAYS = pytest.mark.parametrize("way", [read, append, change, lock])


@WAYS
def test_a_planted_link_isnt_followed(way: Callable[[Path], object], place: Path, tmp_path: Path) -> None:
    """Whatever is opened: what a link leads to is neither read nor written."""
    target = tmp_path / "passwd"
    target.write_text("root")
    (place / "gateway.lock").symlink_to(target)
    with pytest.raises(ConfigError, match="no plain file of ours"):
        way(place / "gateway.lock")
    assert target.read_text() == "root"


@WAYS
def test_a_planted_pipe_or_directory_isnt_waited_for(way: Callable[[Path], object], place: Path) -> None:
    """What isn't a plain file is an error at once."""
    os.mkfifo(place / "pipe")
    (place / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ConfigError, match="no plain file of ours"):
            way(place / name)


@needs_root
@WAYS
def test_a_file_of_somebody_else_isnt_used(way: Callable[[Path], object], place: Path) -> None:
    """Nor is one that another user managed to put into our directory."""
    (place / "keys").write_text("planted")
    give(place / "keys", MALLORY)
    with pytest.raises(ConfigError, match="belongs to"):
        way(place / "keys")
    assert (place / "keys").read_text() == "planted"


@pytest.mark.parametrize("way", [append, lock])
def test_another_name_of_a_file_isnt_written(way: Callable[[Path], object], place: Path, tmp_path: Path) -> None:
    """A hard link to some other file of ours would change that one."""
    (tmp_path / "other").write_text("kept")
    (place / "lock").hardlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="hard links"):
        way(place / "lock")
    assert (tmp_path / "other").read_text() == "kept"


def test_what_replaces_a_link_leaves_its_target(place: Path, tmp_path: Path) -> None:
    """Writing a file anew, or making it, takes the link away and not what it leads to."""
    (tmp_path / "target").write_text("kept")
    for make in (lambda path: files.write_private(path, "new"), lambda path: files.create(path).close()):
        (place / "name").unlink(missing_ok=True)
        (place / "name").symlink_to(tmp_path / "target")
        make(place / "name")
        assert not (place / "name").is_symlink()
    assert (tmp_path / "target").read_text() == "kept"


def test_a_planted_draft_is_no_way_in(place: Path, tmp_path: Path) -> None:
    """A link by the name of the draft to come isn't written through."""
    (tmp_path / "target").write_text("kept")
    (place / f".keys.{os.getpid()}").symlink_to(tmp_path / "target")
    files.write_private(place / "keys", "new")
    assert (files.read_private(place / "keys"), (tmp_path / "target").read_text()) == ("new", "kept")


def test_a_file_that_others_may_write_isnt_believed(tmp_path: Path) -> None:
    """Where the directory lets others in; where it never did, the file is closed, as an earlier version left it."""
    place = tmp_path / "data"
    place.mkdir(mode=0o755)
    (place / "gateway.json").write_text("{}")
    (place / "gateway.json").chmod(0o666)
    with pytest.raises(ConfigError, match="other users may write to"):
        load_settings(data_dir=place)
    place.chmod(0o700)
    load_settings(data_dir=place)
    assert mode_of(place / "gateway.json") == 0o600


def test_what_nobody_else_reaches_may_have_any_mode(place: Path) -> None:
    """An earlier version made directories by the umask: below a closed one they are safe, and are used and closed."""
    (place / "run").mkdir()
    (place / "run").chmod(0o777)
    files.make_private_dir(place / "run" / "fluxy")
    assert mode_of(place / "run" / "fluxy") == 0o700
    files.make_private_dir(place / "run")
    assert mode_of(place / "run") == 0o700
    place.chmod(0o711)
    (place / "run").chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"):
        files.make_private_dir(place / "run" / "fluxy")


def test_a_copy_needs_no_room_and_leaves_links_alone(place: Path) -> None:
    """A data file is kept by a hard link, over what an attempt that was cut off left there."""
    (place / "aof").write_text("data")
    copies = files.make_private_dir(place / "copies")
    (copies / "aof").symlink_to("nowhere")
    files.keep_copy(place / "aof", copies)
    assert (copies / "aof").samefile(place / "aof")
    files.remove_tree(copies)
    assert files.paths_in(place) == [place / "aof"]


# --- what a gateway told, and secrets that the user keeps elsewhere


@needs_root
def test_a_gateway_of_somebody_else_isnt_believed(tmp_path: Path) -> None:
    """What another user wrote into gateway.json isn't where our operations and the store's password go."""
    give(files_in_it(files.make_private_dir(tmp_path / "data")), MALLORY)
    with pytest.raises(ConfigError, match="belongs to"):
        load_settings(data_dir=tmp_path / "data")
    give(tmp_path / "data", 0)
    give(tmp_path / "data" / "gateway.json", MALLORY)
    with pytest.raises(ConfigError, match=r"gateway.json belongs to"):
        load_settings(data_dir=tmp_path / "data")


@pytest.mark.parametrize("text", ["[]", "7", "null", '"x"', "", "{", "\ud800", "[" * 100_000])
def test_a_gateways_file_that_is_garbage_says_so(text: str, place: Path) -> None:
    """It is a ConfigError with what to do, whatever stands in it."""
    (place / "gateway.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"gateway.json can't be read; start the gateway again"):
        load_settings(data_dir=place)


def test_garbage_for_keys_says_so(place: Path) -> None:
    """So it is with the keys."""
    (place / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="keys can't be read"):
        load_settings(data_dir=place)


@needs_root
@pytest.mark.parametrize("mode", [0o444, 0o640, 0o600])
def test_a_mounted_secret_may_belong_to_anybody(mode: int, tmp_path: Path) -> None:
    """Containers mount secrets by links, with owners of their own, and for a group."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys").write_text("one two")
    (tmp_path / "data" / "keys").chmod(mode)
    give(tmp_path / "data" / "keys", MALLORY)
    (tmp_path / "keys").symlink_to("data/keys")
    assert read_keys(tmp_path / "keys") == ("one", "two")


def test_a_secret_that_everybody_may_write_is_none(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that everybody may replace."""
    for path, mode in ((tmp_path / "bearer", 0o666), (shared / "bearer", 0o600)):
        path.write_text("token")
        path.chmod(mode)
        monkeypatch.setenv("FLUXY_SYNC_AUTH_BEARER_FILE", str(path))
        with pytest.raises(ConfigError, match=r"AUTH_BEARER_FILE: every user may write to .*chmod o-w"):
            load_settings(data_dir=tmp_path)


# --- nothing goes another way

OPENERS = {
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rename", "replace", "mkdir", "makedirs",
    "chmod", "chown", "touch", "symlink_to", "hardlink_to", "rmtree", "rmdir", "truncate", "glob", "rglob", "iterdir",
    "listdir", "scandir", "mkdtemp", "mkstemp", "link", "symlink", "copy", "copy2", "copyfile", "move",
}  # fmt: skip
NOT_OURS = {
    "host": "the helper itself",
    "guard.py": "/proc; it runs without our package",
    "memory.py": "/proc and /sys",
    "journal/clock.py": "/proc",
    "journal/store.py": "the package's scripts",
    "dashboard/pages.py": "the package's templates",
    "tls.py": "the user's certificates",
    "cli/queue.py": "a body that the user names",
    "cli/demo/stage.py": "a temporary home that is made for the demo, and goes with it",
    "repair/bench.py": "a temporary directory for a socket, looked at before it is used",
}
OTHERS_METHODS = {  # of something that is no path
    "copy", "replace", "link", "open", "move", "remove", "truncate",
}  # fmt: skip
OF_FILES = {"os", "shutil", "tempfile", "io"}


def opened_otherwise() -> Iterator[str]:
    for path in sorted(ROOM.rglob("*.py")):
        name = path.relative_to(ROOM).as_posix()
        if name in NOT_OURS or name.startswith("host/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and is_opening(node.func):
                yield f"{name}:{node.lineno}: {ast.unparse(node.func)}"


def is_opening(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id == "open"
    if not isinstance(called, ast.Attribute) or called.attr not in OPENERS:
        return False
    of_module = isinstance(called.value, ast.Name) and called.value.id in OF_FILES
    return of_module or called.attr not in OTHERS_METHODS or is_path(called.value)


def is_path(value: ast.expr) -> bool:
    """Whether it looks like a path: ``a / b``, ``Path(...)``, or by its name."""
    text = ast.unparse(value).lower()
    return isinstance(value, ast.BinOp) or any(word in text for word in ("path", "dir", "_file", "folder"))


def test_no_module_opens_our_files_by_other_means() -> None:
    """Everything on disk goes through one helper, but what isn't ours: the list says why."""
    assert list(opened_otherwise()) == []
    assert all((ROOM / name).exists() for name in NOT_OURS)
