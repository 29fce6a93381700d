"""The harness that tries to lose, double, reorder or read an operation: ``make chaos``, and docs/RELIABILITY.md."""
