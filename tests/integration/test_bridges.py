"""Bridged breakers: the oldest version of each library, every panel under a real Prometheus, and
who would be woken up.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from breakerscope import catalogue
from breakerscope.bridges.libraries import LIBRARIES, Library
from breakerscope.event_bus import EventBus
from breakerscope.mixin import MixinConfig, rendered, rendered_alerts
from breakerscope.mixin.queries import series_of
from breakerscope.registry import Registry
from breakerscope.telemetry.metrics import BreakerCollector
from breakerscope.telemetry.settings import MetricsSettings
from tests.alerts.promtool import Json, run
from tests.dashboards.grafana import All, Grafana, Screen
from tests.dashboards.live import ROOT, scraped
from tests.servers.process import wait_until
from tests.unit.bridged import CIRCUIT, KINDS, Kind

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


# -- the oldest versions ---------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_oldest_version_works(library: Library, tmp_path: Path) -> None:
    """All tests of the bridge once more, beside that version."""
    wanted = f"{library.name}=={library.oldest}"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), wanted]
    installed = subprocess.run(install, check=False, capture_output=True, text=True, timeout=200)
    if installed.returncode and not os.environ.get("CI") and "connection" in installed.stderr:
        pytest.skip("PyPI cannot be reached")
    assert installed.returncode == 0, installed.stderr
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*tests, "tests/unit/test_bridges.py", "-k", library.name.removesuffix("-cb")],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "BRIDGED_VERSION": wanted},
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert re.search(r"^\d\d passed", ran.stdout, re.MULTILINE), ran.stdout


# -- panels ----------------------------------------------------------------------------------------

NAMES = {
    library.name: f"{library.name}:{CIRCUIT}" if library.name == "purgatory" else library.name
    for library in LIBRARIES
}


@pytest.fixture(scope="module")
def grafana(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grafana]:
    commands = [["-m", "tests.dashboards.bridged_shop", "{port}"]]
    started = time.time()
    with scraped(commands, tmp_path_factory.mktemp("bridges")) as prometheus:

        def all_have_grown(change: str) -> bool:
            # What was so at the first scrape already is no growth, and so no mark on a panel.
            query = (
                f"sum by (breaker) (increase(circuit_breaker_transitions_total{{{change}}}[1m]))"
            )
            return sum(value > 0 for value in prometheus.query(query).values()) == len(LIBRARIES)

        for change, what in (
            ('from_state="half_open", to_state="closed"', "all have closed again"),
            ('from_state="closed", to_state="open"', "all have opened"),
        ):
            wait_until(partial(all_have_grown, change), what, 60)
        now_open = 'max_over_time(circuit_breaker_state{state="closed"}[2s]) == bool 0'
        wait_until(
            lambda: any(value > 0 for value in prometheus.query(now_open).values()), "open", 30
        )
        end = time.time()
        span = 15.0 * (1 + (end - started) // 15.0)
        yield Grafana(prometheus, Screen(start=end - span, end=end))


def untold_by(library: Library) -> set[str]:
    """The names of the series that this library's breakers have not."""
    return {name for metric in library.untold for name in series_of(metric)}


EMPTY_FOR_A_WHILE = re.compile(r"Since$|By hand")
"""Of an open breaker only, and of changes by hand, which nobody makes here."""


@pytest.mark.parametrize(
    ("library", "board"),
    [
        (library, board)
        for library in (None, *LIBRARIES)
        for board in rendered(MixinConfig())
        # That one is about one breaker.
        if library is not None or board != "breaker.json"
    ],
    ids=lambda each: each if isinstance(each, str) else each.name if each else "all",
)
def test_every_panel_that_can_have_data_has_some(
    grafana: Grafana, board: str, library: Library | None
) -> None:
    dashboard: Json = json.loads(rendered(MixinConfig())[board])
    chosen: Any = All() if library is None else NAMES[library.name]
    choices = grafana.choices(
        dashboard, {"job": All() if library is None else ["demo"], "breaker": chosen}
    )
    untold = set.intersection(*map(untold_by, LIBRARIES)) if library is None else untold_by(library)
    asked = 0
    for answer in grafana.answers(dashboard, choices):
        needs = set(re.findall(r"circuit_breaker_\w+", answer.query))
        if needs & untold:
            # Absent, never a made-up zero.
            assert not any(series.known for series in answer.series) or needs - untold, answer.where
        elif not EMPTY_FOR_A_WHILE.search(answer.where):
            asked += 1
            assert answer.problems == []
    assert asked >= 5


# -- alerts ----------------------------------------------------------------------------------------

CALM, OUTAGE, CALLS = 10, 30, 30
"""Minutes before and in the outage, and calls in each."""


def scrapes(kind: Kind, instance: str = "a:1", *, fails: bool = True) -> dict[str, list[float]]:
    """Real series of a bridged breaker, a scrape for each minute; its dependency fails for good."""
    target_labels = {"job": "shop", "instance": instance}
    bus, registry, prometheus = EventBus(), Registry(), CollectorRegistry()
    prometheus.register(BreakerCollector(registry, bus, MetricsSettings()))
    target, down = kind.make(60), False

    def ask() -> None:
        if down:
            raise ConnectionError

    protected = kind.protect(target, ask)
    found: dict[str, list[float]] = {}
    opened_at = 0
    with kind.join(target, bus=bus, registry=registry):
        for minute in range(CALM + OUTAGE):
            down = fails and minute >= CALM
            calls = 0
            # A window of time may hold many calls of the good minutes.
            while calls < CALLS or (down and not opened_at):
                calls += 1
                try:
                    protected()
                except kind.refusal():
                    opened_at = opened_at or minute
                except ConnectionError:
                    pass
            for family in prometheus.collect():
                for sample in family.samples:
                    labels = ", ".join(
                        f"{key}={json.dumps(value)}"
                        for key, value in {**target_labels, **sample.labels}.items()
                    )
                    is_time = sample.name == catalogue.STATE_ENTERED.name
                    # The clock of promtool begins at 0.
                    value = opened_at * 60.0 if is_time else sample.value
                    series = found.setdefault(f"{sample.name}{{{labels}}}", [])
                    series += [float("nan")] * (minute - len(series)) + [value]
    return found


@pytest.mark.parametrize("healthy", [0, 2], ids=["of all instances", "of one of three"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_alerts_of_its_open_state_fire(kind: Kind, healthy: int, tmp_path: Path) -> None:
    rules = yaml.safe_load(rendered_alerts(MixinConfig())["breakerscope.rules.yml"])
    series = scrapes(kind)
    for other in range(healthy):
        series |= scrapes(kind, f"b:{other}", fails=False)
    firing = {"CircuitBreakerStuckOpen"}
    firing |= {"CircuitBreakerTripped" if healthy else "CircuitBreakerTrippedFleetWide"}
    quiet = {
        "CircuitBreakerTripped",
        "CircuitBreakerTrippedFleetWide",
        "CircuitBreakerFlapping",
        "CircuitBreakerConfigDrift",
        "CircuitBreakerTelemetryAbsent",
        "CircuitBreakerForcedState",
    } - firing

    def asked(name: str, minute: int, *, fires: bool) -> Json:
        query = f'count(ALERTS{{alertname="{name}", alertstate="firing"}})'
        samples = [{"labels": "{}", "value": 1}] if fires else []
        return {"expr": query, "eval_time": f"{minute}m", "exp_samples": samples}

    test = {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": " ".join("_" if v != v else f"{v:g}" for v in values)}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            asked(name, minute, fires=name in firing and minute > CALM)
            for name in firing | quiet
            for minute in (CALM - 1, CALM + 20)
        ],
    }
    assert run(tmp_path, {str(kind): (rules, [test])}, "1m") == {}
