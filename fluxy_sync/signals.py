"""Signals that fire in the worker when an operation was settled: Celery's own kind, connected in the same way.

Receivers get, beside ``sender`` (the task; None where it isn't known): ``operation_id``, ``lane``, ``reason`` (a status
or a fixed code), ``status`` (None where nobody answered), ``attempt`` (from 1), ``age_s`` (since it was accepted, in
journal time), ``took_s`` (the try itself). Never a payload. What a full queue drops dies in the producer: no signal.
"""

from celery.utils.dispatch import Signal

_ARGUMENTS = {"operation_id", "lane", "reason", "status", "attempt", "age_s", "took_s"}

operation_delivered = Signal(name="operation_delivered", providing_args=_ARGUMENTS)
operation_retried = Signal(name="operation_retried", providing_args=_ARGUMENTS | {"retry_in_s"})
operation_dead = Signal(name="operation_dead", providing_args=_ARGUMENTS)
