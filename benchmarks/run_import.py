"""The time of a whole process that only imports, and what it has loaded. Prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from time import perf_counter

FORBIDDEN = ("opentelemetry.sdk", "prometheus_client", "structlog", "asyncio")
PROGRAMS = {
    "nothing": "pass",
    "circuitbreaker": "import circuitbreaker",
    "resilix": "import resilix",
    "breakerscope": "import breakerscope",
}


ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""What pip installs is compiled; so is ours, once the first import has done it."""


def loaded() -> list[str]:
    """Which of the forbidden modules `import breakerscope` loads."""
    program = "import sys, breakerscope; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    modules = set(done.stdout.split())
    return [name for name in FORBIDDEN if name in modules]


def main() -> None:
    """`python -m benchmarks.run_import ROUNDS`"""
    rounds = int(sys.argv[1])
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    names = list(PROGRAMS)
    for turn in range(rounds):
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            start = perf_counter()
            subprocess.run([sys.executable, "-c", PROGRAMS[name]], check=True, env=ENVIRONMENT)
            times[name].append(perf_counter() - start)
    medians = {name: statistics.median(each) * 1e3 for name, each in times.items()}
    print(json.dumps({"milliseconds": medians, "loaded": loaded()}))


if __name__ == "__main__":
    main()
