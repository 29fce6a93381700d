"""Who the audit log names."""

import os
import pwd

import pytest

from fluxy_sync.maintenance import who_am_i
from tests.other_users import ANN, needs_root, python, run_as

TELL = python("from fluxy_sync.maintenance import who_am_i; print(who_am_i('cli'))")


def test_the_environment_doesnt_say_who(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is the password database's, with the uid beside it, whatever LOGNAME and USER say."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    monkeypatch.delenv("SUDO_UID", raising=False)
    uid = os.geteuid()
    assert who_am_i("cli").startswith(f"{pwd.getpwuid(uid).pw_name} (uid {uid})@")
    assert who_am_i("cli").endswith(" (cli)")


@needs_root
def test_sudo_is_noted_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside root it helps to know who it was; it never stands for the user, and nothing but a number is taken."""
    monkeypatch.setenv("SUDO_UID", "1000")
    assert who_am_i("cli").startswith("root (uid 0, SUDO_UID says 1000)@")
    for said in ("1000) ann", "-1", "1\n2", "\u0661"):
        monkeypatch.setenv("SUDO_UID", said)
        assert who_am_i("cli").startswith("root (uid 0)@")


@needs_root
def test_a_user_without_a_name_has_a_number() -> None:
    """As in a container; SUDO_UID is nothing that an ordinary user may say."""
    environment = {**os.environ, "LOGNAME": "root", "SUDO_UID": "0"}
    assert run_as(ANN, TELL, environment).stdout.startswith(f"unknown (uid {ANN})@")


@needs_root
def test_another_real_uid_is_named() -> None:
    """Where a program runs with another user's rights, both stand there."""
    code = "import os; os.setresuid({0}, 0, 0); from fluxy_sync.maintenance import who_am_i; print(who_am_i('cli'))"
    environment = {name: value for name, value in os.environ.items() if name != "SUDO_UID"}
    done = run_as(0, python(code.format(ANN)), environment)
    assert done.stdout.startswith(f"root (uid 0, real uid {ANN})@"), done.stderr
