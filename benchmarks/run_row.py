"""One row in a process of its own, so that no row sees the set-up of another. Prints JSON."""

from __future__ import annotations

import dataclasses
import json
import sys

from benchmarks.rounds import measure
from benchmarks.rows import ROWS


def main() -> None:
    """`python -m benchmarks.run_row NAME ROUNDS`"""
    name, rounds = sys.argv[1], int(sys.argv[2])
    row = ROWS[name]()
    for subject in row.subjects:
        row.check(subject)
    timings = measure(row.subjects, row.body, rounds=rounds)
    print(json.dumps([dataclasses.asdict(timing) for timing in timings]))


if __name__ == "__main__":
    main()
