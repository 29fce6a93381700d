"""The public names: few, all there, and one tree of errors that all say what they are."""

import importlib
import inspect
import subprocess
import sys

import pytest

import fluxy_sync
from fluxy_sync import errors

ERRORS = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


@pytest.mark.parametrize("name", sorted(set(fluxy_sync.__all__) - {"sync_op"}))
def test_each_public_name_can_be_imported(name: str) -> None:
    """From the package itself, and it is documented."""
    value = getattr(fluxy_sync, name)
    assert inspect.getdoc(value)


def test_the_names_are_sorted_and_known_to_type_checkers() -> None:
    """``__all__`` holds each once; the lazy homes hold no other."""
    assert fluxy_sync.__all__ == sorted(set(fluxy_sync.__all__))
    assert set(fluxy_sync._HOMES) == set(fluxy_sync.__all__) - {"sync_op"}


def test_the_package_loads_nothing_before_it_is_used() -> None:
    """A producer that only catches an error pays for no Celery."""
    code = (
        "import sys, fluxy_sync; fluxy_sync.QueueFull; print([m for m in ('celery', 'redis', 'requests') "
        "if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module, the name in it."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fluxy_sync.no_such_name


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_grows_on_the_one_tree(error: type[Exception]) -> None:
    """``except FluxySyncError`` catches them all; each says in a sentence what happened."""
    assert issubclass(error, errors.FluxySyncError)
    assert (error.__doc__ or "").strip().split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize(
    "room",
    ["delivery", "flush", "journal.store", "vault", "settings", "operation", "incarnation", "guard", "host.files"],
)
def test_no_room_has_errors_beside_the_tree(room: str) -> None:
    """What a room raises for itself is of the tree, too."""
    module = importlib.import_module(f"fluxy_sync.{room}")
    own = [v for v in vars(module).values() if inspect.isclass(v) and v.__module__ == module.__name__]
    for value in own:
        if issubclass(value, BaseException):
            assert issubclass(value, errors.FluxySyncError), value


def test_what_a_caller_must_know_is_on_the_error() -> None:
    """The ids of an unknown acceptance, the reason of a failed delivery, the id of a missing key."""
    assert errors.AcceptanceUnknown("text", ("a", "b")).operation_ids == ("a", "b")
    assert errors.DeliveryFailed("503").reason == "503"
    assert errors.UnknownKey("0badcafe").key_id == "0badcafe"


def test_kinds_of_errors() -> None:
    """Bad input is a ValueError; an unknown acceptance is a storage error; too large is invalid."""
    assert issubclass(errors.InvalidOperation, ValueError)
    assert issubclass(errors.OperationTooLarge, errors.InvalidOperation)
    assert issubclass(errors.AcceptanceUnknown, errors.StorageUnavailable)
    assert not issubclass(errors.QueueFull, errors.StorageUnavailable)
