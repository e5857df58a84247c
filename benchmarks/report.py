"""The results as Markdown: the tables with must and aim, then every row in full.

`python -m benchmarks.report` renders docs/performance.md from the last full run of each Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.targets import AGAINST_RESILIX, TARGETS, Target

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCUMENT = HERE.parent / "docs" / "performance.md"

Results = dict[str, Any]
REFERENCES = ("circuitbreaker", "resilix")
"""The peers that every subject of a row is compared with."""
TITLES = {
    "success": "Success, no current span",
    "success_in_span": "Success inside a recording span (events for non-success only)",
    "span_event": "Success with one span event per call",
    "async_success": "Async success",
    "rejected": "Rejected",
    "failing": "Failing",
    "subscriber": "One inline subscriber of every call",
    "subscriber_beside": "One inline subscriber while another thread delivers",
    "multiprocess": "Success in prometheus_client's multiprocess mode",
    "ingredients": "The ingredients",
}


def ratio(target: Target, results: Results, figure: str = "median") -> float | None:
    """What the row reached, None if it was not measured or not beside this reference."""
    found = results.get(target.row)
    if not found:
        return None
    figures = _figures(target.row, found, figure)
    own = figures[target.subject]
    if target.reference is None:
        return own
    other = figures.get(target.reference)
    return None if other is None else own / other


def _figures(row: str, found: Any, figure: str) -> dict[str, float]:
    """The figure of each subject of a row; "median" or "minimum", where the row has both."""
    if row == "memory":
        return dict(found)
    if row == "import":
        return dict(found["milliseconds"])
    if row == "scrape":
        part = ", ms" if figure == "median" else ", minimum, ms"
        return {name: found["thousand"][name + part] for name in ("ours", "children")}
    if row == "threads" and figure == "minimum":
        figure = "best"
    return {timing["name"]: timing[figure] for timing in found}


def verdict(target: Target, reached: float | None) -> str:
    """Pass or miss, in words."""
    if reached is None:
        return "not measured"

    def meets(bound: float) -> bool:
        return reached >= bound if target.more else reached <= bound

    if not meets(target.must):
        return "**miss**"
    if target.aim is None:
        return "pass"
    return "pass, aim met" if meets(target.aim) else "pass, aim missed"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(head)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def summary(results: Results) -> str:
    """The table of issue 4, and the one beside resilix."""
    return (
        f"Against circuitbreaker, or what the row names:\n\n{_targets(TARGETS, results)}\n\n"
        f"Against resilix, bare:\n\n{_targets(AGAINST_RESILIX, results)}"
    )


def _targets(targets: Iterable[Target], results: Results) -> str:
    lines = []
    for target in targets:
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


def _references(timings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [t for t in timings if t["name"] in REFERENCES or t["group"] == "baseline"]


def _row(timings: list[dict[str, Any]]) -> str:
    references = _references(timings)
    heads = [
        f"to {t['name']}" if t["name"] in REFERENCES else "to the baseline" for t in references
    ]
    ratios = [cell for head in heads for cell in (head, "of minima")]
    return _table(
        ("subject", "kind", *ratios, "median, ns", "minimum, ns"),
        (
            (
                f"**{t['name']}**" if t["group"] == "ours" else t["name"],
                {"ours": "**ours**", "peer": "bare"}.get(t["group"], t["group"]),
                *(
                    f"{t[figure] / other[figure]:.2f}"
                    for other in references
                    for figure in ("median", "minimum")
                ),
                f"{t['median']:,.0f}",
                f"{t['minimum']:,.0f}",
            )
            for t in timings
        ),
    )


def _threads(timings: list[dict[str, Any]]) -> str:
    references = _references(timings)
    ratios = [f"to {other['name']}" for other in references]
    return _table(
        ("subject", *ratios, "thousand calls a second", "best round"),
        (
            (
                t["name"],
                *(f"{t['median'] / other['median']:.2f}" for other in references),
                f"{t['median']:,.0f}",
                f"{t['best']:,.0f}",
            )
            for t in timings
        ),
    )


def _mapping(found: dict[str, float], what: str, unit: str) -> str:
    return _table((what, unit), ((name, _number(value)) for name, value in found.items()))


def details(results: Results, level: str = "###") -> str:
    """Every row in full, under headings of this level."""
    parts = []
    for key, title in TITLES.items():
        if results.get(key):
            parts.append(f"{level} {title}\n\n{_row(results[key])}")
    if results.get("threads"):
        parts.append(f"{level} 8 threads on one breaker\n\n{_threads(results['threads'])}")
    if scrape := results.get("scrape"):
        words = "Milliseconds of `generate_latest`, over the number of breakers."
        parts.append(
            f"{level} Scrape\n\n"
            + _mapping(scrape["thousand"], "1,000 breakers", "")
            + f"\n\n{words}\n\n"
            + _mapping(scrape["milliseconds_by_breakers"], "breakers", "ms")
        )
    if memory := results.get("memory"):
        parts.append(f"{level} Memory\n\n" + _mapping(memory, "", "bytes per breaker, or as named"))
    if imports := results.get("import"):
        words = ", ".join(imports["loaded"]) or "none"
        parts.append(
            f"{level} Import\n\n"
            + _mapping(imports["milliseconds"], "program", "ms")
            + f"\n\nOf the modules that it must not load, `import breakerscope` loads: {words}."
        )
    if growth := results.get("growth"):
        parts.append(
            f"{level} Growth\n\n"
            + "\n\n".join(_mapping(found, what, "ns per call") for what, found in growth.items())
        )
    if tail := results.get("tail"):
        subjects = {name: found for name, found in tail.items() if isinstance(found, dict)}
        quantiles = list(next(iter(subjects.values())))
        how = f"{tail['calls']:,} calls each, {tail['scrapes']} scrapes meanwhile"
        parts.append(
            f"{level} The tail: {how}\n\n"
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


def latest() -> list[Results]:
    """The last full run of each Python that there was one of, by version."""

    def version(path: Path) -> list[int]:
        return [int(part) for part in path.stem.removeprefix("latest-").split(".")]

    paths = sorted(RESULTS.glob("latest-*.json"), key=version)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def rendered(text: str, runs: list[Results]) -> str:
    """The document with each part between its markers made anew, from a run of each Python."""
    pythons = [(run["about"]["python"].rpartition(".")[0], run) for run in runs]
    parts = {
        "machine": [machine(run) for run in runs],
        "summary": [f"### {python}\n\n{summary(run)}" for python, run in pythons],
        "details": [f"### All rows, {python}\n\n{details(run, '####')}" for python, run in pythons],
    }
    for name, found in parts.items():
        begin, end = f"<!-- measured: {name} -->\n", "\n<!-- end -->"
        before, rest = text.split(begin)
        _, after = rest.split(end, 1)
        text = before + begin + "\n\n".join(found) + end + after
    return text


def render_document() -> None:
    """Write docs/performance.md with what `latest` knows."""
    before = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(rendered(before, latest()), encoding="utf-8")


if __name__ == "__main__":
    render_document()
