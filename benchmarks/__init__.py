"""This product beside plain Celery, in one run on one machine: ``python -m benchmarks``."""
