"""The breaker itself: policy, state machine, counters, admission, the forms of a call, its events.

Imports nothing else of this package. Telemetry, registry and configuration live outside.
"""
