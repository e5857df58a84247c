"""What can differ from one installation to the next: one frozen value, read from TOML, checked.

It takes the place of jsonnet. Every key has a default; a file names only what is different.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_type_hints

from breakerscope import catalogue
from breakerscope.mixin.alert_settings import AlertSettings
from breakerscope.telemetry.errors import TelemetryError
from breakerscope.telemetry.settings import MetricsSettings

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_UID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
_SPAN = re.compile(r"[1-9][0-9]*[smhdw]")
_URL = re.compile(r"https?://[^\s/]+(/\S*)?")


class MixinError(Exception):
    """Something about the configuration or the output is wrong. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixinConfig:
    """See `docs/dashboards.md`. Raises MixinError, naming all problems at once."""

    selector: str = ""
    """More matchers for every query, as in PromQL: `cluster="eu", team=~"shop|pay"`."""
    metric_prefix: str = ""
    """What `setup_telemetry(prefix=...)` puts before the names of the metrics."""
    job_label: str = "job"
    """The label that tells services apart."""
    instance_label: str = "instance"
    """The label that tells the processes of a service apart."""
    prometheus_datasource: str = ""
    """A regular expression: which Prometheus data sources can be chosen. Empty: all."""
    jaeger_datasource: str = ""
    """The same for Jaeger."""
    overview_uid: str = "breakerscope-overview"
    breaker_uid: str = "breakerscope-breaker"
    telemetry_uid: str = "breakerscope-telemetry"
    title_prefix: str = "Circuit breakers"
    tags: tuple[str, ...] = ("circuit-breaker", "breakerscope")
    time_range: str = "1h"
    """How far back a dashboard looks when it is opened."""
    refresh: str = "30s"
    """How often a dashboard asks again. Empty: never by itself."""
    scrape_interval: str = "15s"
    """How often Prometheus scrapes, at most: the marks on the panels are as exact as that."""
    rejected_share_warning: float = 0.01
    """From this share of refused calls on a number is yellow: 0 to 1."""
    rejected_share_critical: float = 0.05
    """The same for red."""
    near_threshold: float = 0.8
    """From this part of its threshold on, a ratio is called near it: 0 to 1."""
    stale_after: float = 120.0
    """Metrics older than this many seconds are called stale."""
    top: int = 10
    """How many breakers a list of the worst has."""
    runbook_base_url: str = ""
    """Where the runbooks are: a link on every dashboard. Empty: no link."""
    alerts: AlertSettings = field(default_factory=AlertSettings)
    """The table `[alerts]`."""

    def __post_init__(self) -> None:
        """Check everything."""
        problems = [problem for check in _CHECKS for problem in check(self)]
        if problems:
            raise MixinError("; ".join(problems))

    @property
    def uids(self) -> tuple[str, str, str]:
        """The uids of the dashboards."""
        return (self.overview_uid, self.breaker_uid, self.telemetry_uid)


def load(path: Path) -> MixinConfig:
    """Read a TOML file. Raises MixinError with one line: the file, the key, and what is allowed."""
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise MixinError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MixinError(f"{path}: not TOML: {error}") from error
    problems: list[str] = []
    found.pop("breakers", None)  # the policies, which `configure` reads
    alerts = found.pop("alerts", {})
    if not isinstance(alerts, dict):
        problems.append(f"alerts = {alerts!r}: allowed is a table, [alerts]")
        alerts = {}
    values = _values_of(MixinConfig, found, problems)
    of_alerts = _values_of(AlertSettings, cast("dict[str, object]", alerts), problems, "alerts.")
    if problems:
        raise MixinError(f"{path}: {'; '.join(problems)}")
    try:
        return MixinConfig(**values, alerts=AlertSettings(**of_alerts))
    except MixinError as error:
        raise MixinError(f"{path}: {error}") from error


def _values_of(
    kind: type, found: dict[str, object], problems: list[str], table: str = ""
) -> dict[str, Any]:
    """The arguments for a class of settings. What does not fit becomes a problem."""
    kinds = get_type_hints(kind)
    keys = {each.name: kinds[each.name] for each in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in keys:
            problems.append(f"unknown key {table + key!r}: allowed are {', '.join(keys)}")
        elif (wanted := _fits(value, keys[key])) is not None:
            problems.append(f"{table}{key} = {value!r}: allowed is {wanted}")
        else:
            values[key] = tuple(cast("list[str]", value)) if isinstance(value, list) else value
    return values


def _fits(value: object, kind: object) -> str | None:
    """None if the value is of this kind, else the kind in words."""
    if kind is str:
        return None if isinstance(value, str) else "a text"
    if kind is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number else "a number"
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    return None if all(isinstance(item, str) for item in items) else "a list of texts"


def _check_selector(config: MixinConfig) -> list[str]:
    if not config.selector:
        return []
    wrong = f"selector = {config.selector!r}: "
    own = {config.job_label, config.instance_label, catalogue.BREAKER.name}
    try:
        taken = _labels_of(config.selector)
    except ValueError as error:
        why = str(error).splitlines()[0]
        return [f'{wrong}{why}; allowed are matchers of PromQL, such as cluster="eu", team=~"a|b"']
    return [
        f"{wrong}{name} is chosen on the dashboard; allowed are other labels"
        for name in taken
        if name in own
    ]


def _labels_of(selector: str) -> list[str]:
    """The labels of these matchers. Raises ValueError if they are not matchers and nothing else."""
    promql = require("promql_parser")
    # With one more at the end: a brace or a comment in between would hide it.
    found = promql.parse(f'up{{{selector},end="1"}}')
    matchers = getattr(found, "matchers", None)
    names: list[str] = [] if matchers is None else [each.name for each in matchers.matchers]
    if names[-1:] != ["end"]:
        raise ValueError("not a list of matchers")
    return names[:-1]


def require(module: str) -> Any:
    """A library of the extra. Raises MixinError with the pip command where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MixinError(
            f"dashboards need {module.partition('.')[0]}, which is not installed;"
            " run: pip install 'breakerscope[dashboards]'"
        ) from error


def _check_prefix(config: MixinConfig) -> list[str]:
    try:
        MetricsSettings(prefix=config.metric_prefix)
    except TelemetryError as error:
        return [f"metric_{error}"]
    return []


def _check_labels(config: MixinConfig) -> list[str]:
    problems: list[str] = []
    ours = {label.name for metric in catalogue.METRICS for label in metric.labels}
    for key in ("job_label", "instance_label"):
        name: str = getattr(config, key)
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            problems.append(
                f"{key} = {name!r}: allowed is the name of a label: letters, digits and _"
            )
        elif name in ours:
            problems.append(
                f"{key} = {name!r}: allowed is none of our own labels: {', '.join(sorted(ours))}"
            )
    if config.job_label == config.instance_label:
        problems.append(f"job_label and instance_label are both {config.job_label!r}")
    return problems


def _check_uids(config: MixinConfig) -> list[str]:
    problems = [
        f"uid {uid!r}: allowed are 1 to 40 letters, digits, - and _"
        for uid in config.uids
        if not _UID.fullmatch(uid)
    ]
    twice = [uid for uid, count in Counter(config.uids).items() if count > 1]
    return problems + [f"duplicate uid {uid!r}: each dashboard needs its own" for uid in twice]


def _check_times(config: MixinConfig) -> list[str]:
    allowed = "allowed is a number with s, m, h, d or w, such as 30s"
    problems: list[str] = []
    for key in ("time_range", "scrape_interval"):
        span: str = getattr(config, key)
        if not _SPAN.fullmatch(span):
            problems.append(f"{key} = {span!r}: {allowed}")
    if config.refresh and not _SPAN.fullmatch(config.refresh):
        problems.append(f"refresh = {config.refresh!r}: {allowed}, or nothing")
    return problems


def _check_numbers(config: MixinConfig) -> list[str]:
    problems: list[str] = []
    for key in ("rejected_share_warning", "rejected_share_critical", "near_threshold"):
        share: float = getattr(config, key)
        if not 0 < share < 1:
            problems.append(f"{key} = {share:g}: allowed is a share between 0 and 1")
    if not config.rejected_share_warning < config.rejected_share_critical:
        problems.append("rejected_share_warning must be below rejected_share_critical")
    if not 1 <= config.stale_after <= 86400:
        problems.append(f"stale_after = {config.stale_after:g}: allowed are 1 to 86400 seconds")
    if not 1 <= config.top <= 100:
        problems.append(f"top = {config.top}: allowed are 1 to 100")
    return problems


def _check_alerts(config: MixinConfig) -> list[str]:
    return config.alerts.problems(config.scrape_interval)


def _check_texts(config: MixinConfig) -> list[str]:
    problems: list[str] = []
    if not config.title_prefix.strip():
        problems.append("title_prefix is empty: allowed is any text")
    if config.runbook_base_url and not _URL.fullmatch(config.runbook_base_url):
        problems.append(
            f"runbook_base_url = {config.runbook_base_url!r}: allowed is http:// or https://"
        )
    for key in ("prometheus_datasource", "jaeger_datasource"):
        pattern: str = getattr(config, key)
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"{key} = {pattern!r}: not a regular expression: {error}")
    return problems


_CHECKS = (
    _check_selector,
    _check_prefix,
    _check_labels,
    _check_uids,
    _check_times,
    _check_numbers,
    _check_texts,
    _check_alerts,
)
