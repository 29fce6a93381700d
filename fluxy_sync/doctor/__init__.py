"""The doctor: looks at everything that a gateway needs, and says what to do about what is wrong.

Each room holds the checks of one subject: ``check_...`` looks, ``judge_...`` says what that means and is pure.
"""

from collections.abc import Callable, Iterator
from typing import Any

from fluxy_sync.doctor.check import Check, Issue, Report, conclude, of_error, reason_of
from fluxy_sync.doctor.installation import check_settings, check_version
from fluxy_sync.doctor.patient import Broker, Patient, Ping
from fluxy_sync.doctor.processes import check_beat, check_broker, check_keys, check_workers
from fluxy_sync.doctor.queue import check_queue
from fluxy_sync.doctor.records import check_records, check_repairs
from fluxy_sync.doctor.store import check_disk, check_durability, check_fsync, check_server, check_store
from fluxy_sync.doctor.upstream import check_clock, check_gate, check_upstream
from fluxy_sync.engine import Engine
from fluxy_sync.errors import FluxySyncError
from fluxy_sync.tokens import tokens_waiting
from fluxy_sync.words import visible

__all__ = ["Check", "Report", "examine", "examine_app"]

PING_S = 1.0

Look = Callable[[Patient], Check]

# In this order: later checks look at what earlier ones noted. The last field: whether it needs the store.
CHECKS: tuple[tuple[str, Look, bool], ...] = (
    ("settings", check_settings, False),
    ("store", check_store, False),
    ("server", check_server, True),
    ("durability", check_durability, True),
    ("fsync", check_fsync, True),
    ("disk", check_disk, True),
    ("repairs", check_repairs, False),
    ("keys", check_keys, False),
    ("broker", check_broker, False),
    ("beat", check_beat, True),
    ("workers", check_workers, False),
    ("upstream", check_upstream, False),
    ("gate", check_gate, True),
    ("clock", check_clock, False),
    ("queue", check_queue, True),
    ("records", check_records, True),
    ("version", check_version, False),
)


def examine_app(app: Any) -> Iterator[Check]:
    """Look at the gateway of a Celery app on which ``install`` was called; yields each check as it is done."""
    return examine(app.fluxy_engine, broker=lambda: _tokens_waiting(app), ping=lambda: _answering(app))


def _tokens_waiting(app: Any) -> int:
    with app.connection_for_write() as connection:
        return tokens_waiting(connection, app.fluxy_engine.settings.queue_name)


def _answering(app: Any) -> list[str]:
    return [name for reply in app.control.ping(timeout=PING_S) for name in reply]


def examine(engine: Engine, *, broker: Broker | None = None, ping: Ping | None = None) -> Iterator[Check]:
    """Look at a gateway; yields each check as it is done, and raises nothing for what is found.

    Args:
        broker: connects to the broker, and returns how many messages wait in the sync queue.
        ping: returns the names of the workers that answer within a second.
    """
    patient = Patient(engine, broker, ping)
    try:
        for name, look, needs_store in CHECKS:
            check = _look(name, look, patient, needs_store=needs_store)
            yield Check(check.name, check.state, visible(check.found), visible(check.advice))
    finally:
        patient.close()


def _look(name: str, look: Look, patient: Patient, *, needs_store: bool) -> Check:
    if needs_store and patient.store_fails:
        return Check(name, "skipped", f"not looked at: {patient.store_fails}")
    try:
        return look(patient)
    except FluxySyncError as error:
        return of_error(name, error)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the other checks go on; its text may hold a secret
        found = f"this could not be looked at ({reason_of(error)})"
        return conclude(name, "", [Issue("failed", found, "please report it, with the versions below")])
