"""The house style: colours, mappings, thresholds, legends and links, the same on every panel.

The colours are those of Okabe and Ito, made to differ for every kind of colour vision. A state or
an outcome has the same colour everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from breakerscope.catalogue import Attribute
from breakerscope.core.events import Outcome, State
from breakerscope.mixin.config import MixinConfig
from breakerscope.mixin.queries import SEVERITY
from breakerscope.mixin.sdk import (
    common,
    common_models,
    dashboard,
    models,
    prometheus,
    prometheus_models,
)

GREEN, BLUE, SKY = "#009E73", "#0072B2", "#56B4E9"
YELLOW, ORANGE, VERMILION, PURPLE = "#F0E442", "#E69F00", "#D55E00", "#CC79A7"
GREY = "#8E8E8E"

STATES: Mapping[State, tuple[str, str]] = {
    State.CLOSED: ("closed", GREEN),
    State.DISABLED: ("disabled", SKY),
    State.HALF_OPEN: ("half-open", ORANGE),
    State.OPEN: ("open", VERMILION),
    State.FORCED_OPEN: ("forced open", PURPLE),
}
OUTCOMES: Mapping[Outcome, str] = {
    Outcome.SUCCESS: GREEN,
    Outcome.FAILURE: VERMILION,
    Outcome.REJECTED: PURPLE,
    Outcome.IGNORED: SKY,
    Outcome.CANCELLED: GREY,
}

PROMETHEUS = "prometheus_datasource"
JAEGER = "jaeger_datasource"
CARRIED = "&".join(f"${{{name}:queryparam}}" for name in (PROMETHEUS, JAEGER, "job", "instance"))


def prometheus_source() -> common_models.DataSourceRef:
    """The Prometheus that is chosen on the dashboard."""
    return common_models.DataSourceRef(type_val="prometheus", uid=f"${{{PROMETHEUS}}}")


# -- queries ---------------------------------------------------------------------------------------


def over_time(expression: str, legend: str = "", *, ref: str = "A") -> prometheus.Dataquery:
    """A query for a line."""
    return (
        prometheus.Dataquery()
        .ref_id(ref)
        .datasource(prometheus_source())
        .editor_mode(prometheus_models.QueryEditorMode.CODE)
        .expr(expression)
        .legend_format(legend)
        .range()
    )


def at_once(expression: str, legend: str = "", *, ref: str = "A") -> prometheus.Dataquery:
    """A query for a number."""
    return over_time(expression, legend, ref=ref).instant()


def as_rows(query: prometheus.Dataquery) -> prometheus.Dataquery:
    """The answer as a table."""
    return query.format(prometheus_models.PromQueryFormat.TABLE)


# -- how values look -------------------------------------------------------------------------------


def state_mappings() -> list[models.ValueMapping]:
    """The number of a state as its name and colour."""
    return [
        models.ValueMap(
            {
                str(SEVERITY[state]): models.ValueMappingResult(
                    text=text, color=colour, index=SEVERITY[state]
                )
                for state, (text, colour) in STATES.items()
            }
        )
    ]


def state_names() -> list[models.ValueMapping]:
    """The label value of a state as its name and colour."""
    return [
        models.ValueMap(
            {
                state.value: models.ValueMappingResult(text=text, color=colour, index=at)
                for at, (state, (text, colour)) in enumerate(STATES.items())
            }
        )
    ]


def steps(base: str, *above: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """A colour from the start, and another from each value on."""
    found = [models.Threshold(value=None, color=base)]
    found += [models.Threshold(value=value, color=colour) for value, colour in above]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def by_threshold() -> dashboard.FieldColor:
    """The colour says which threshold is reached."""
    return dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)


def by_name() -> dashboard.FieldColor:
    """Each series has its own colour, which depends on nothing but its place."""
    return dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC)


def fixed(colour: str) -> list[models.DynamicConfigValue]:
    """One series has this colour."""
    return [
        models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
    ]


def legend() -> common.VizLegendOptions:
    """Names in a line below the panel."""
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .placement(common_models.LegendPlacement.BOTTOM)
        .display_mode(common_models.LegendDisplayMode.LIST)
    )


def legend_by_size() -> common.VizLegendOptions:
    """Many names beside the panel, those that matter on top."""
    return (
        legend()
        .placement(common_models.LegendPlacement.RIGHT)
        .display_mode(common_models.LegendDisplayMode.TABLE)
        .calcs(["max"])
        .sort_by("Max")
        .sort_desc(True)
    )


def tooltip() -> common.VizTooltipOptions:
    """All series at that moment, the greatest first."""
    return (
        common.VizTooltipOptions()
        .mode(common_models.TooltipDisplayMode.MULTI)
        .sort(common_models.SortOrder.DESCENDING)
    )


def last() -> common.ReduceDataOptions:
    """The last value."""
    return common.ReduceDataOptions().calcs(["lastNotNull"])


# -- where to go next ------------------------------------------------------------------------------


def to_dashboard(title: str, uid: str, *, more: str = "") -> dashboard.DashboardLink:
    """To another dashboard: same time, same data sources, same job and instance."""
    url = f"/d/{uid}?${{__url_time_range}}&{CARRIED}{more}"
    return dashboard.DashboardLink(title).url(url)


def to_breaker(config: MixinConfig, name: str) -> dashboard.DashboardLink:
    """To the dashboard of one breaker, whose name is in that variable."""
    return to_dashboard(
        "Open this breaker", config.breaker_uid, more=f"&var-breaker=${{{name}:percentencode}}"
    )


def with_breaker(title: str, uid: str) -> dashboard.DashboardLink:
    """To another dashboard with the same breakers as here."""
    return to_dashboard(title, uid, more="&${breaker:queryparam}")


def to_traces() -> dashboard.DashboardLink:
    """To the traces of this breaker in Jaeger."""
    marks = {"jaeger": f"${{{JAEGER}}}", "breaker": "${breaker:percentencode}"}
    search = {
        "refId": "A",
        "datasource": {"type": "jaeger", "uid": marks["jaeger"]},
        "queryType": "search",
        "tags": f'{Attribute.NAME.value}="{marks["breaker"]}"',
    }
    pane = {
        "datasource": marks["jaeger"],
        "queries": [search],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # The variables stay as they are: Grafana fills them in.
    panes = quote(json.dumps({"traces": pane}, separators=(",", ":")), safe="${}:")
    return (
        dashboard.DashboardLink("Traces of this breaker in Jaeger")
        .url(f"/explore?schemaVersion=1&panes={panes}")
        .target_blank(True)
    )


def renamed(
    names: Mapping[str, str], *, hidden: Sequence[str] = ()
) -> models.DataTransformerConfig:
    """Columns in this order, under these names, without the hidden ones."""
    return models.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": dict.fromkeys(hidden, True),
            "indexByName": {name: at for at, name in enumerate(names)},
            "renameByName": {name: text for name, text in names.items() if name != text},
        },
    )
