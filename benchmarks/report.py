"""The results as Markdown: the table with must and aim, then every row in full."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from benchmarks.targets import TARGETS, Target

Results = dict[str, Any]
REFERENCES = ("peer", "baseline")
TITLES = {
    "success": "Success, no current span",
    "success_in_span": "Success inside a recording span (events for non-success only)",
    "span_event": "Success with one span event per call",
    "async_success": "Async success",
    "rejected": "Rejected",
    "failing": "Failing",
    "subscriber": "One inline subscriber of every call",
    "multiprocess": "Success in prometheus_client's multiprocess mode",
    "ingredients": "The ingredients",
}


def reference(timings: list[dict[str, Any]], figure: str) -> dict[str, Any] | None:
    """The fastest peer's bare call of a row."""
    bare = [timing for timing in timings if timing["group"] in REFERENCES]
    return min(bare, key=lambda timing: timing[figure]) if bare else None


def ratio(target: Target, results: Results, figure: str = "median") -> float | None:
    """What the row reached, None if it was not measured."""
    found = results.get(target.row)
    if not found:
        return None
    if target.row == "memory":
        return float(found[target.subject])
    if target.row == "import":
        times = found["milliseconds"]
        return float(times["breakerscope"] / times["circuitbreaker"])
    if target.row == "scrape":
        part = ", ms" if figure == "median" else ", minimum, ms"
        return float(found["thousand"]["ours" + part] / found["thousand"]["children" + part])
    own = next(timing for timing in found if timing["name"] == target.subject)
    if target.row == "threads":
        figure = "median" if figure == "median" else "best"
        fastest = max(t[figure] for t in found if t["group"] == "peer")
        return float(own[figure] / fastest)
    other = reference(found, figure)
    return None if other is None else float(own[figure] / other[figure])


def verdict(target: Target, reached: float | None) -> str:
    """Pass or miss, in words."""
    if reached is None:
        return "not there yet"

    def meets(bound: float) -> bool:
        return reached >= bound if target.more else reached <= bound

    if meets(target.aim):
        return "pass, aim met"
    return "pass, aim missed" if meets(target.must) else "**miss**"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(head)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def summary(results: Results) -> str:
    """The table of issue 4."""
    lines = []
    for target in TARGETS:
        reached = ratio(target, results)
        lines.append(
            (
                target.words,
                _number(target.must),
                _number(target.aim),
                f"**{_number(reached)}**",
                _number(ratio(target, results, "minimum")),
                verdict(target, reached),
            )
        )
    head = ("row", "must", "aim", "ratio of medians", "of minima", "verdict")
    return _table(head, lines)


def _row(timings: list[dict[str, Any]]) -> str:
    by_median, by_minimum = reference(timings, "median"), reference(timings, "minimum")

    def over(timing: dict[str, Any], other: dict[str, Any] | None, figure: str) -> str:
        return "-" if other is None else f"{timing[figure] / other[figure]:.2f}"

    return _table(
        ("subject", "kind", "ratio of medians", "of minima", "median, ns", "minimum, ns"),
        (
            (
                f"**{t['name']}**" if t["group"] == "ours" else t["name"],
                {"ours": "**ours**", "peer": "bare"}.get(t["group"], t["group"]),
                over(t, by_median, "median"),
                over(t, by_minimum, "minimum"),
                f"{t['median']:,.0f}",
                f"{t['minimum']:,.0f}",
            )
            for t in timings
        ),
    )


def _threads(timings: list[dict[str, Any]]) -> str:
    fastest = max(t["median"] for t in timings if t["group"] == "peer")
    return _table(
        ("subject", "ratio to the fastest peer", "thousand calls a second", "best round"),
        (
            (t["name"], f"{t['median'] / fastest:.2f}", f"{t['median']:,.0f}", f"{t['best']:,.0f}")
            for t in timings
        ),
    )


def _mapping(found: dict[str, float], what: str, unit: str) -> str:
    return _table((what, unit), ((name, _number(value)) for name, value in found.items()))


def details(results: Results) -> str:
    """Every row in full."""
    parts = []
    for key, title in TITLES.items():
        if results.get(key):
            parts.append(f"### {title}\n\n{_row(results[key])}")
    if results.get("threads"):
        parts.append(f"### 8 threads on one breaker\n\n{_threads(results['threads'])}")
    if scrape := results.get("scrape"):
        words = "Milliseconds of `generate_latest`, over the number of breakers."
        parts.append(
            "### Scrape\n\n"
            + _mapping(scrape["thousand"], "1,000 breakers", "")
            + f"\n\n{words}\n\n"
            + _mapping(scrape["milliseconds_by_breakers"], "breakers", "ms")
        )
    if memory := results.get("memory"):
        parts.append("### Memory\n\n" + _mapping(memory, "", "bytes per breaker, or as named"))
    if imports := results.get("import"):
        words = ", ".join(imports["loaded"]) or "none"
        parts.append(
            "### Import\n\n"
            + _mapping(imports["milliseconds"], "program", "ms")
            + f"\n\nOf the modules that it must not load, `import breakerscope` loads: {words}."
        )
    if growth := results.get("growth"):
        parts.append(
            "### Growth\n\n"
            + "\n\n".join(_mapping(found, what, "ns per call") for what, found in growth.items())
        )
    if tail := results.get("tail"):
        subjects = {name: found for name, found in tail.items() if isinstance(found, dict)}
        quantiles = list(next(iter(subjects.values())))
        parts.append(
            f"### The tail: {tail['calls']:,} calls each, {tail['scrapes']} scrapes meanwhile\n\n"
            + _table(
                ("microseconds", *quantiles),
                (
                    (name, *(f"{found[at]:,.2f}" for at in quantiles))
                    for name, found in subjects.items()
                ),
            )
        )
    return "\n\n".join(parts)


def machine(results: Results) -> str:
    """Where the figures come from."""
    about = results["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['python']}, {about['cpu']}, {about['cores']} cores, {about['system']};"
        f" {about['mode']} run of {about['date']}, load average at the start {about['load']}."
        f"\nRows that something disturbed even at the third attempt (look at the minima there):"
        f" {', '.join(about['disturbed']) or 'none'}."
        f"\nBeside it: {versions}."
    )


def rendered(text: str, results: Results) -> str:
    """The document with each part between its markers made anew."""
    for name, render in (("machine", machine), ("summary", summary), ("details", details)):
        text = re.sub(
            rf"(<!-- measured: {name} -->\n).*?(\n<!-- end -->)",
            lambda found, render=render: found[1] + render(results) + found[2],  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text
