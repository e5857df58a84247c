"""The rules and the routes as YAML. The same configuration always gives the same bytes.

What an alert's links lead to is looked up, never typed: the uid of a dashboard, the number of a
panel and the file of a runbook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from breakerscope.mixin.alertmanager import routes
from breakerscope.mixin.config import MixinConfig, require
from breakerscope.mixin.dashboards import BOARDS, Board
from breakerscope.mixin.rules import Alert, Group, Record, groups

RUNBOOKS = "docs/runbooks"
HEADER = "# Rendered by `breakerscope alerts export`. Change the configuration, not this file.\n"
WIDTH = 4096
"""Texts are not folded: one that was cannot be found."""


def render(config: MixinConfig) -> Mapping[str, str]:
    """The files by name. Raises MixinError without the extra."""
    rules = {"groups": [_group(each, config) for each in groups(config)]}
    operator = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "breakerscope",
            "labels": {"app.kubernetes.io/name": "breakerscope", "role": "alert-rules"},
        },
        "spec": rules,
    }
    return {
        "breakerscope.rules.yml": _yaml(rules),
        "prometheusrule.yaml": _yaml(operator),
        "alertmanager.yml": _yaml(routes(config)),
    }


def _group(group: Group, config: MixinConfig) -> dict[str, Any]:
    return {
        "name": group.name,
        "rules": [
            _record(rule) if isinstance(rule, Record) else _alert(rule, config)
            for rule in group.rules
        ],
    }


def _record(rule: Record) -> dict[str, Any]:
    return {"record": rule.name, "expr": rule.expression}


def _alert(alert: Alert, config: MixinConfig) -> dict[str, Any]:
    spans = {"for": alert.wait, "keep_firing_for": alert.keep}
    return {
        "alert": name_of(alert, config),
        "expr": alert.expression,
        **{key: span for key, span in spans.items() if not span.startswith("0")},
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": runbook_of(alert, config),
            "dashboard_url": dashboard_of(alert, config),
            "panel_url": f"{dashboard_of(alert, config)}&viewPanel={panel_of(alert)}",
        },
    }


def name_of(alert: Alert, config: MixinConfig) -> str:
    """The name of an alert as Prometheus shows it."""
    return config.alerts.name_prefix + alert.stem


def runbook_of(alert: Alert, config: MixinConfig) -> str:
    """Its runbook. Without a base it is the path within this project."""
    return f"{(config.runbook_base_url or RUNBOOKS).rstrip('/')}/{alert.stem}.md"


def dashboard_of(alert: Alert, config: MixinConfig) -> str:
    """Its dashboard, where the labels of the alert are chosen already."""
    uid = dict(zip(BOARDS, config.uids, strict=True))[alert.board]
    variables = {config.job_label: "job", config.instance_label: "instance"}
    chosen = [
        f"var-{variable}={{{{ $labels.{label} | urlquery }}}}"
        for label, variable in (*variables.items(), ("breaker", "breaker"))
        if label in alert.labels
    ]
    return f"{config.alerts.grafana_url.rstrip('/')}/d/{uid}?{'&'.join(chosen)}"


def panel_of(alert: Alert) -> int:
    """The number of the panel that shows what the alert is about."""
    return _number(alert.board, alert.panel)


def _number(board: Board, panel: object) -> int:
    places = [place for row in board.rows for place in row.places]
    return next(place.number for place in places if place.panel is panel)


def _yaml(value: Mapping[str, object]) -> str:
    yaml = require("yaml")

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_representer(str, _text)
    body = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return HEADER + str(body)


def _text(dumper: Any, value: str) -> Any:
    """Several lines as a block."""
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def alerts_of(config: MixinConfig) -> Sequence[Alert]:
    """All alerts, in the order of the file."""
    return [rule for each in groups(config) for rule in each.rules if isinstance(rule, Alert)]
