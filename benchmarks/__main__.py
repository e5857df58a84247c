"""All benchmarks: each program in a process of its own, the results into JSON and Markdown.

`python -m benchmarks` is the full run, `--quick` a short one, `--only ROW` one part. Each Python
has results of its own. Only the full run renders docs/performance.md, from those of all Pythons.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.rows import ROWS
from benchmarks.targets import AGAINST_RESILIX, TARGETS

HERE = Path(__file__).resolve().parent
WANTED = (3, 12)
PYTHON = "{}.{}".format(*sys.version_info)
ATTEMPTS = 3
DISTURBED = 1.4

FULL = {
    **{row: ["run_row", row, "400"] for row in ROWS},
    "multiprocess": ["run_multiprocess", "400"],
    "threads": ["run_threads", "40"],
    "scrape": ["run_scrape", "15"],
    "memory": ["run_memory", "10000"],
    "import": ["run_import", "40"],
    "growth": ["run_growth", "15"],
    "tail": ["run_tail", "1000000"],
}
QUICK = {
    **{row: ["run_row", row, "100"] for row in ROWS},
    "multiprocess": ["run_multiprocess", "100"],
    "threads": ["run_threads", "6"],
    "scrape": ["run_scrape", "3"],
    "memory": ["run_memory", "2000"],
    "import": ["run_import", "10"],
}


def run(program: list[str]) -> Any:
    """The JSON that a program of ours printed last."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{program[0]}", *program[1:]],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_quietly(program: list[str]) -> Any:
    """A row again, up to twice, if something disturbed it; the least disturbed one counts."""
    attempts = []
    for _ in range(ATTEMPTS):
        attempts.append(run(program))
        if disturbance(attempts[-1]) < DISTURBED:
            break
    return min(attempts, key=disturbance)


def disturbance(timings: Any) -> float:
    """How far the usual slice is above the best one, at the subject where that is worst."""
    if not isinstance(timings, list) or "minimum" not in timings[0]:
        return 0.0
    return float(max(timing["median"] / timing["minimum"] for timing in timings))


def about(mode: str) -> dict[str, Any]:
    """The machine, the interpreter and the versions."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0] for line in lines if "==" in line]
    names += ["prometheus_client", "opentelemetry-sdk", "structlog"]
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "mode": mode,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "versions": versions,
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def main() -> int:
    """See the top of the file. Returns 1 if a "must" was missed and `--strict` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under two minutes")
    parser.add_argument("--strict", action="store_true", help='fail if a "must" is missed')
    parser.add_argument("--only", action="append", choices=list(FULL), help="only this part")
    options = parser.parse_args()
    mode = "quick" if options.quick else "full"
    if sys.version_info < WANTED:
        print(f"This is Python {platform.python_version()}; the table is meant for 3.12 or newer.")
    programs = QUICK if options.quick else FULL
    if options.only:
        mode = "partial"
        programs = {name: FULL[name] for name in options.only}
    results: dict[str, Any] = {"about": about(mode)}
    disturbed: list[str] = []
    begun = time.monotonic()
    print(f"         {results['about']['python']}", file=sys.stderr, flush=True)
    for name, program in programs.items():
        print(f"{time.monotonic() - begun:6.0f} s  {name}", file=sys.stderr, flush=True)
        results[name] = run_quietly(program)
        if disturbance(results[name]) >= DISTURBED:
            disturbed.append(name)
    results["about"]["disturbed"] = disturbed
    text = f"{report.machine(results)}\n\n{report.summary(results)}\n\n{report.details(results)}\n"
    stem = report.RESULTS / f"{'latest' if mode == 'full' else mode}-{PYTHON}"
    stem.parent.mkdir(exist_ok=True)
    Path(f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    Path(f"{stem}.md").write_text(text, encoding="utf-8")
    print(report.summary(results) if mode != "partial" else report.details(results))
    if mode == "full":
        report.render_document()
    missed = [
        target.key
        for target in (*TARGETS, *AGAINST_RESILIX)
        if report.verdict(target, report.ratio(target, results)) == "**miss**"
    ]
    print(f"\n{time.monotonic() - begun:.0f} s. Missed: {', '.join(missed) or 'nothing'}.")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
