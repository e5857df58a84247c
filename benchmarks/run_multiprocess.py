"""Success while prometheus_client runs in its multiprocess mode. Prints JSON, or `null`.

Whether breakerscope serves that mode is found out by asking: 1,000 calls have to appear in what
prometheus_client merges from the files of all processes. If they do not within some seconds, there
is no such mode yet.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time


def main() -> None:
    """`python -m benchmarks.run_multiprocess ROUNDS`"""
    with tempfile.TemporaryDirectory() as folder:
        # prometheus_client reads this when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        print(json.dumps(_timings(int(sys.argv[1]))))


def _timings(rounds: int) -> list[dict[str, object]] | None:
    from benchmarks import loops, ours, peers
    from benchmarks.rounds import Subject, measure

    try:
        ours.switch_on()
    except Exception as error:
        print(f"not there yet: {error!r}", file=sys.stderr)
        return None
    form = ours.Form(ours.decorator, "success")
    form.build(loops.empty)(1_000)
    if not _appear(1_000.0):
        return None
    subjects = [
        form.subject("decorator"),
        *(
            Subject(peer.name, "peer", lambda fn, make=peer.make: loops.calls(make(fn)))  # type: ignore[misc]
            for peer in peers.PEERS
        ),
    ]
    subjects[0] = dataclasses.replace(subjects[0], counted=None)
    return [dataclasses.asdict(timing) for timing in measure(subjects, loops.empty, rounds=rounds)]


def _appear(calls: float, seconds: float = 5.0) -> bool:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    from breakerscope import catalogue

    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        merged = [
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == catalogue.CALLS.name and sample.labels.get("outcome") == "success"
        ]
        if sum(merged) == calls:
            return True
        time.sleep(0.1)
    return False


if __name__ == "__main__":
    main()
