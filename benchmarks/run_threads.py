"""8 threads on one breaker: thousand calls a second, all subjects in turn. Prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import threading
from collections.abc import Callable
from time import perf_counter

from benchmarks import loops, ours, peers
from benchmarks.loops import Loop
from benchmarks.rounds import Subject

THREADS = 8
SLICE_SECONDS = 0.15


def rush(loop: Loop, calls: int) -> float:
    """Seconds until 8 threads have made so many calls each."""
    ready = threading.Barrier(THREADS + 1)

    def run() -> None:
        ready.wait()
        loop(calls)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = perf_counter()
    for thread in threads:
        thread.join()
    return perf_counter() - start


def main() -> None:
    """`python -m benchmarks.run_threads ROUNDS`"""
    rounds = int(sys.argv[1])
    ours.switch_on()

    def bare(make: peers.Make) -> Callable[[loops.Body], Loop]:
        return lambda fn: loops.calls(make(fn))

    subjects = [
        Subject("empty function", "floor", loops.calls),
        ours.Form(ours.decorator, "success").subject("decorator"),
        *(Subject(peer.name, "peer", bare(peer.make)) for peer in peers.PEERS),
    ]
    timed = [subject.build(loops.empty) for subject in subjects]
    sizes, made = [], []
    for loop in timed:
        per_call = rush(loop, 200) / 200
        sizes.append(max(int(SLICE_SECONDS / per_call), 50))
        made.append(200 * THREADS)
    rates: list[list[float]] = [[] for _ in subjects]
    for turn in range(rounds):
        for step in range(len(subjects)):
            at = (turn + step) % len(subjects)
            seconds = rush(timed[at], sizes[at])
            made[at] += sizes[at] * THREADS
            rates[at].append(sizes[at] * THREADS / seconds / 1e3)
    for subject, total in zip(subjects, made, strict=True):
        if subject.counted is not None and subject.counted() != total:
            raise AssertionError(f"{subject.name}: {total} calls, counted {subject.counted()}")
    print(
        json.dumps(
            [
                {
                    "name": subject.name,
                    "group": subject.group,
                    "median": statistics.median(each),
                    "best": max(each),
                }
                for subject, each in zip(subjects, rates, strict=True)
            ]
        )
    )


if __name__ == "__main__":
    main()
