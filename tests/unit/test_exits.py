"""Each error of the library has the exit code that the contract names."""

import pytest

from fluxy_sync import errors
from fluxy_sync.cli.exits import CommandFailed, NotConfirmed, exit_code_of

CONTRACT = {
    "FluxySyncError": 1,
    "QueueFull": 1,
    "Unreachable": 1,
    "SealError": 1,
    "CorruptRecord": 1,
    "ConfigError": 2,
    "InvalidOperation": 2,
    "OperationTooLarge": 2,
    "ResultNotKept": 1,
    "ResultTimeout": 1,
    "StorageUnavailable": 3,
    "AcceptanceUnknown": 3,
}
NEED_MORE = {"DeliveryFailed", "OperationFailed", "UnknownKey"}  # their constructors take a reason or a key's id


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_each_error_has_its_exit_code(name: str) -> None:
    """0 done, 1 it failed, 2 wrong usage, 3 the store is unreachable."""
    assert exit_code_of(getattr(errors, name)("x")) == CONTRACT[name]


def test_no_error_is_forgotten() -> None:
    """A new class of error must be given its exit code here."""
    known = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert known == CONTRACT.keys() | NEED_MORE
    for error in (errors.UnknownKey("k"), errors.DeliveryFailed("500"), errors.OperationFailed("x", "id", "500")):
        assert exit_code_of(error) == 1


def test_what_commands_refuse_by_themselves_has_its_exit_code() -> None:
    """No such operation: it failed. Nobody to confirm what can't be undone: wrong usage."""
    assert (exit_code_of(CommandFailed("x")), exit_code_of(NotConfirmed("x"))) == (1, 2)
