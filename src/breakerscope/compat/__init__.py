"""The modules of an older guide under their old names, on the machinery of this package.

A module that was written for them moves over by changing its import lines alone: the modules
`llm_circuit_breaker`, `structured_logging`, `metrics_prometheus` and `otel_integration` are here.
Each replaced name warns once (DeprecationWarning) and says what takes its place; docs/migration.md
has old and new code side by side.
"""
