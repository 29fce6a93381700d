"""Files of the data directory that hold something else than we wrote: an error of ours, or no harm."""

from pathlib import Path

import pytest

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import ConfigError
from fluxy_sync.gateway import DASHBOARD_PASSWORD_FILE, keep_keys, kept_secret
from fluxy_sync.settings import KEYS_FILE, Settings

NO_TEXT = b"\xff\xfe\x80"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def test_a_secret_that_is_no_text_is_refused(folder: Path) -> None:
    """A ring, or a password, that was damaged is named with its file, and stays as it is."""
    put(folder / KEYS_FILE, NO_TEXT)
    with pytest.raises(ConfigError, match=r"keys isn't text in UTF-8"):
        keep_keys(Settings(data_dir=folder))
    put(folder / DASHBOARD_PASSWORD_FILE, NO_TEXT)
    with pytest.raises(ConfigError, match=r"dashboard.password isn't text in UTF-8"):
        kept_secret(folder / DASHBOARD_PASSWORD_FILE)
    assert (folder / KEYS_FILE).read_bytes() == NO_TEXT


@pytest.mark.parametrize("password", [b"a[b", b"a b", b"a\nport 7777", b"a/b@c", NO_TEXT, b"x" * 4096])
def test_a_password_that_no_address_carries_is_refused(folder: Path, password: bytes) -> None:
    """It would end in another address, or in another line of the server's configuration."""
    put(folder / "store.password", password)
    with pytest.raises(ConfigError, match=r"the password in .*store.password can't be used"):
        EmbeddedStore(folder, ballast_bytes=0)


@pytest.mark.parametrize("named", [NO_TEXT, b"\0", b"/etc", b"x" * 5000, b"../store", b"."])
def test_a_note_of_a_repair_that_never_was_costs_a_recount(folder: Path, named: bytes) -> None:
    """What a damaged note names is no copy of ours: nothing is deleted for it, and the store starts."""
    with EmbeddedStore(folder, ballast_bytes=0):
        pass
    files = sorted(path.name for path in (folder / "store" / "appendonlydir").iterdir())
    put(folder / "recount", named)
    with EmbeddedStore(folder, ballast_bytes=0):
        assert not (folder / "recount").exists()
    assert sorted(path.name for path in (folder / "store" / "appendonlydir").iterdir()) == files
