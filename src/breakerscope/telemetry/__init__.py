"""Adapters from the event stream and the counters to logs, metrics and traces, one file each."""
