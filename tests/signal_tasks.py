"""A user's module in the shipped worker: notes what the signals tell, and has an HTTP task of its own."""

import os
from pathlib import Path
from typing import Any

from fluxy_sync import HttpTask, RetryPolicy
from fluxy_sync.app import default_app
from fluxy_sync.signals import operation_dead, operation_delivered, operation_retried

app = default_app()


def note(kind: str, facts: dict[str, Any]) -> None:
    names = ("operation_id", "lane", "reason", "status", "attempt", "age_s", "took_s")
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(" ".join([kind, *(str(facts[name]) for name in names)]) + "\n")


@operation_delivered.connect(weak=False)
def delivered(**facts: Any) -> None:
    note("delivered", facts)


@operation_retried.connect(weak=False)
def retried(**facts: Any) -> None:
    note("retried", facts)


@operation_dead.connect(weak=False)
def dead(**facts: Any) -> None:
    note("dead", facts)


@app.task(
    name="user.remove",
    base=HttpTask,
    bind=True,
    outcomes={"DELETE 404": "delivered"},
    policy=RetryPolicy(base_s=0.1, cap_s=0.1),
)
def remove(self: HttpTask, method: str, path: str) -> Any:
    """An HTTP task of the user's own."""
    return self.send(method, path)
