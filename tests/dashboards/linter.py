"""The rules of grafana/dashboard-linter, written anew from what it documents and checks.

No rule can be left out. Where the original looks at some kinds of panels only, this looks at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.dashboards.grafana import Json, label_values, panels, query_variables
from tests.dashboards.promql import OWN, RATE_INTERVAL, parse, selectors

UNITS = {"short", "percentunit", "s", "reqps", "cps", "cpm", "dateTimeAsIso"}
"""Those of Grafana's units that we use: a typing error is not among them."""
WITHOUT_QUERIES = {"alertlist"}
WITHOUT_UNITS = {"alertlist"}
SOURCES = {"prometheus": "prometheus_datasource", "jaeger": "jaeger_datasource"}


def lint(dashboard: Json) -> list[str]:
    """What the linter would say, as "rule: what". Nothing is the goal."""
    return [f"{rule.__name__}: {what}" for rule in RULES for what in rule(dashboard)]


def template_datasource(dashboard: Json) -> Iterator[str]:
    sources = [each for each in dashboard["templating"]["list"] if each["type"] == "datasource"]
    if not sources or sources[0]["query"] != "prometheus":
        yield "the first data source is not Prometheus"
    for each in sources:
        kind = each["query"]
        if each["name"] != f"{kind}_datasource":
            yield f"{each['name']} should be {kind}_datasource"
        if each.get("label") != f"{kind.capitalize()} data source":
            yield f"{each['name']} has the label {each.get('label')}"


def _template(dashboard: Json, name: str) -> Iterator[str]:
    found = [each for each in dashboard["templating"]["list"] if each["name"] == name]
    if not found:
        yield f"no variable {name}"
        return
    variable = found[0]
    expected = {
        "type": "query",
        "label": name.capitalize(),
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "datasource": {"type": "prometheus", "uid": "${prometheus_datasource}"},
    }
    for key, value in expected.items():
        if variable.get(key) != value:
            yield f"{name}: {key} is {variable.get(key)!r}, should be {value!r}"


def template_job(dashboard: Json) -> Iterator[str]:
    yield from _template(dashboard, "job")


def template_instance(dashboard: Json) -> Iterator[str]:
    yield from _template(dashboard, "instance")


def template_label_promql(dashboard: Json) -> Iterator[str]:
    for variable in query_variables(dashboard):
        query = variable["query"]["query"]
        try:
            parse(label_values(query)[0])
        except (AssertionError, ValueError) as error:
            yield f"{variable['name']}: {query}: {error}"


def template_on_time_change_reload(dashboard: Json) -> Iterator[str]:
    for variable in query_variables(dashboard):
        if variable["refresh"] != 2:
            yield f"{variable['name']} is not asked again when the time changes"


def panel_datasource(dashboard: Json) -> Iterator[str]:
    allowed = [{"type": kind, "uid": f"${{{name}}}"} for kind, name in SOURCES.items()]
    for panel in panels(dashboard):
        if panel["type"] in WITHOUT_QUERIES:
            continue
        for each in (panel, *panel.get("targets", [])):
            if each.get("datasource") not in allowed:
                yield f"{panel['title']}: {each.get('datasource')}"


def panel_title_description(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        if not panel.get("title") or not panel.get("description"):
            yield f"panel {panel['id']} has no title or no description"


def panel_units(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        if panel["type"] in WITHOUT_UNITS:
            continue
        config = panel["fieldConfig"]
        units = [config["defaults"].get("unit")]
        units += [
            each["value"]
            for override in config["overrides"]
            for each in override["properties"]
            if each["id"] == "unit"
        ]
        for unit in units:
            if unit not in UNITS:
                yield f"{panel['title']}: unit {unit!r}"


def panel_no_targets(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        if panel["type"] not in WITHOUT_QUERIES and not panel.get("targets"):
            yield f"{panel['title']} asks nothing"


def _queries(dashboard: Json) -> Iterator[tuple[str, str]]:
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def target_promql(dashboard: Json) -> Iterator[str]:
    for where, query in _queries(dashboard):
        try:
            parse(query)
        except ValueError as error:
            yield f"{where}: {error}"


def target_rate_interval(dashboard: Json) -> Iterator[str]:
    for where, query in _queries(dashboard):
        for found in selectors(query):
            is_rate = found.function in ("rate", "irate")
            if is_rate and f"{found.window:g}s" != RATE_INTERVAL:
                yield f"{where}: a rate over {found.window:g} s"


def _required_matcher(dashboard: Json, name: str) -> Iterator[str]:
    wanted = (name, "=~", OWN[name])
    for where, query in _queries(dashboard):
        for found in selectors(query):
            if [each for each in found.matchers if each[0] == name] != [wanted]:
                yield f"{where}: {found.selector.name} without {name}"


def target_job(dashboard: Json) -> Iterator[str]:
    yield from _required_matcher(dashboard, "job")


def target_instance(dashboard: Json) -> Iterator[str]:
    yield from _required_matcher(dashboard, "instance")


def target_counter_agg(dashboard: Json) -> Iterator[str]:
    for where, query in _queries(dashboard):
        for found in selectors(query):
            name = found.selector.name or ""
            is_counter = re.search(r"_(total|bucket|count|sum)$", name) is not None
            if is_counter and found.function not in ("rate", "irate", "increase"):
                yield f"{where}: {name} as it stands"


def uneditable_dashboard(dashboard: Json) -> Iterator[str]:
    if dashboard["editable"] is not False:
        yield "it can be edited"


RULES = (
    template_datasource,
    template_job,
    template_instance,
    template_label_promql,
    template_on_time_change_reload,
    panel_datasource,
    panel_title_description,
    panel_units,
    panel_no_targets,
    target_promql,
    target_rate_interval,
    target_job,
    target_instance,
    target_counter_agg,
    uneditable_dashboard,
)
