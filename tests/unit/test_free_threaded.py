"""The core under an interpreter without its global lock, where one is found."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = """
import sys, threading
assert not sys._is_gil_enabled()
from breakerscope import CircuitBreakerOpenError, Outcome
from breakerscope.breaker import CircuitBreaker
from breakerscope.core.policy import Policy

THREADS, CALLS = 8, 20_000
breaker = CircuitBreaker("threads", Policy(consecutive_failures=3, open_for=0.001))
tallies = [dict.fromkeys(Outcome, 0) for _ in range(THREADS)]

@breaker
def protected(at):
    if at % 20 < 3:
        raise ValueError

def work(tally):
    for at in range(CALLS):
        try:
            protected(at)
        except CircuitBreakerOpenError:
            tally[Outcome.REJECTED] += 1
        except ValueError:
            tally[Outcome.FAILURE] += 1
        else:
            tally[Outcome.SUCCESS] += 1

done = threading.Event()

def scrape():
    while not done.is_set():
        breaker.read()

threads = [threading.Thread(target=work, args=(tally,)) for tally in tallies]
scraper = threading.Thread(target=scrape)
for thread in (scraper, *threads):
    thread.start()
for thread in threads:
    thread.join()
done.set()
scraper.join()
reading = breaker.read()
asked = {outcome: sum(tally[outcome] for tally in tallies) for outcome in Outcome}
assert dict(reading.calls) == asked, (reading.calls, asked)
assert sum(asked.values()) == THREADS * CALLS
assert reading.in_flight == 0, reading.in_flight
"""

FOUND = next(filter(None, map(shutil.which, ("python3.14t", "python3.13t"))), None)


@pytest.mark.skipif(FOUND is None, reason="no free-threaded interpreter on the path")
def test_threads_without_a_global_lock_lose_nothing() -> None:
    assert FOUND is not None
    sources = Path(__file__).parents[2] / "src"
    subprocess.run(
        [FOUND, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(sources)},
        check=True,
        timeout=120,
    )
