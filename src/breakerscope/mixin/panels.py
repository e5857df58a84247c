"""The panels: one function each, named after what it shows.

A description says what the panel shows, and then what to do about it.
"""

from __future__ import annotations

from breakerscope import catalogue
from breakerscope.catalogue import Metric
from breakerscope.core.events import Outcome
from breakerscope.mixin.queries import Queries
from breakerscope.mixin.sdk import (
    Builder,
    bargauge,
    common,
    common_models,
    dashboard,
    heatmap,
    heatmap_models,
    models,
    prometheus_models,
    stat,
    statetimeline,
    table,
    timeseries,
)
from breakerscope.mixin.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    OUTCOMES,
    PURPLE,
    STATES,
    VERMILION,
    as_rows,
    at_once,
    by_name,
    by_threshold,
    fixed,
    last,
    legend,
    legend_by_size,
    over_time,
    prometheus_source,
    renamed,
    state_mappings,
    state_names,
    steps,
    to_breaker,
    to_traces,
    tooltip,
)

Panel = Builder[models.Panel]

CALLS_PER_SECOND = "reqps"
SECONDS = "s"
SHARE = "percentunit"
COUNT = "short"
PER_SECOND = "cps"
PER_MINUTE = "cpm"
POINT_IN_TIME = "dateTimeAsIso"


# -- what is the same for all panels of a kind ----------------------------------------------------


def _number(
    title: str, description: str, query: str, unit: str, *, mode: str = "value"
) -> stat.Panel:
    colour = common_models.BigValueColorMode(mode)
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(prometheus_source())
        .with_target(at_once(query))
        .unit(unit)
        .reduce_options(last())
        .color_scheme(by_threshold())
        .color_mode(colour)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .thresholds(steps(GREEN))
    )


def _lines(title: str, description: str, unit: str) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(prometheus_source())
        .unit(unit)
        .min(0)
        .line_width(2)
        .fill_opacity(8)
        .show_points(common_models.VisibilityMode.NEVER)
        .color_scheme(by_name())
        .legend(legend())
        .tooltip(tooltip())
    )


def _stacked(panel: timeseries.Panel) -> timeseries.Panel:
    stacking = common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A")
    return panel.stacking(stacking).fill_opacity(60).line_width(1)


def _bars(panel: timeseries.Panel) -> timeseries.Panel:
    return _stacked(panel).draw_style(common_models.GraphDrawStyle.BARS).fill_opacity(80)


def _with_limits(panel: timeseries.Panel, *above: tuple[float, str]) -> timeseries.Panel:
    style = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
    return panel.thresholds(steps("transparent", *above)).thresholds_style(style)


def _rows(title: str, description: str, unit: str) -> table.Panel:
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(prometheus_source())
        .unit(unit)
        .color_scheme(by_threshold())
        .thresholds(steps("text"))
        .cell_height(common_models.TableCellHeight.SM)
    )


def _timeline(title: str, description: str) -> statetimeline.Panel:
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(prometheus_source())
        .unit(COUNT)
        .mappings(state_mappings())
        .color_scheme(by_threshold())
        .thresholds(steps(GREY))
        .merge_values(True)
        .show_value(common_models.VisibilityMode.AUTO)
        .row_height(0.85)
        .fill_opacity(85)
        .line_width(0)
        .legend(legend())
        .tooltip(tooltip())
    )


def _downwards(column: str) -> common.TableSortByFieldState:
    return common.TableSortByFieldState().display_name(column).desc(True)


def _coloured_cell(properties: list[models.DynamicConfigValue]) -> list[models.DynamicConfigValue]:
    cell = {"type": "color-background", "mode": "basic"}
    return [models.DynamicConfigValue(id_val="custom.cellOptions", value=cell), *properties]


def _coloured_text(limits: dashboard.ThresholdsConfig) -> list[models.DynamicConfigValue]:
    cell = {"type": "color-text"}
    return [
        models.DynamicConfigValue(id_val="custom.cellOptions", value=cell),
        models.DynamicConfigValue(id_val="thresholds", value=limits.build()),
    ]


def _refused_limits(q: Queries) -> dashboard.ThresholdsConfig:
    return steps(
        GREEN,
        (q.config.rejected_share_warning, ORANGE),
        (q.config.rejected_share_critical, VERMILION),
    )


def _unit(unit: str, decimals: int | None = None) -> list[models.DynamicConfigValue]:
    found = [models.DynamicConfigValue(id_val="unit", value=unit)]
    if decimals is not None:
        found.append(models.DynamicConfigValue(id_val="decimals", value=decimals))
    return found


def _mapped(mappings: list[models.ValueMapping]) -> list[models.DynamicConfigValue]:
    return [models.DynamicConfigValue(id_val="mappings", value=mappings)]


def _breaker_of(q: Queries) -> str:
    return f"{{{{{q.breaker}}}}} ({{{{{q.job}}}}})"


def _process_of(q: Queries) -> str:
    return f"{{{{{q.instance}}}}}"


def _label(name: str) -> str:
    return f"{{{{{name}}}}}"


def _open_series(q: Queries) -> dashboard.DashboardLink:
    return to_breaker(q.config, f"__field.labels.{q.breaker}")


# -- overview --------------------------------------------------------------------------------------


def breakers_not_closed(q: Queries) -> Panel:
    """How many breakers are not closed."""
    return _number(
        "Breakers not closed",
        "Breakers that are not closed in at least one process: open, half-open, forced open or"
        " disabled. If this is not 0: the table below names them, the worst first.",
        q.breakers_not_closed(),
        COUNT,
        mode="background",
    ).thresholds(steps(GREEN, (1, VERMILION)))


def calls_refused(q: Queries) -> Panel:
    """How many calls were refused in the time range."""
    return (
        _number(
            "Calls refused",
            "Calls that were refused in the chosen time range. Each of them is a user who got an"
            " error or a fallback. Is it still growing? Then decide: fallback, less load, roll"
            " back, or call the owner of the dependency.",
            q.rejected(),
            COUNT,
        )
        .decimals(0)
        .thresholds(steps(GREEN, (1, VERMILION)))
    )


def share_refused_now(q: Queries) -> Panel:
    """The share of calls refused at the end of the time range."""
    return (
        _number(
            "Refused now",
            "The share of the calls that is refused at the end of the time range. Near 100 %: a"
            " dependency is down for everybody. Less, but not 0: one dependency of many, or some"
            " of the processes only.",
            q.rejected_share(),
            SHARE,
        )
        .decimals(1)
        .no_value("no calls")
        .thresholds(_refused_limits(q))
    )


def calls_now(q: Queries) -> Panel:
    """Calls per second at the end of the time range."""
    return _number(
        "Calls per second",
        "Calls that asked a breaker, per second, at the end of the time range. If it is far below"
        " the usual: nobody asks, so a green screen proves nothing. Look at the load first.",
        q.calls_per_second(),
        CALLS_PER_SECOND,
    ).thresholds(steps("text"))


def processes_reporting(q: Queries) -> Panel:
    """How many processes report."""
    return _number(
        "Processes reporting",
        "Processes whose metrics arrive. If some are missing, all other numbers here miss them"
        " too: see the dashboard about telemetry.",
        q.processes(),
        COUNT,
    ).thresholds(steps("text"))


def firing_alerts(q: Queries) -> Panel:
    """The alerts that fire."""
    options: dict[str, object] = {
        "viewMode": "list",
        "groupMode": "default",
        "groupBy": [],
        "maxItems": 20,
        "sortOrder": 3,
        "dashboardAlerts": False,
        "alertName": "",
        "alertInstanceLabelFilter": f'{{{q.job}=~"$job"}}',
        "datasource": "",
        "stateFilter": {
            "firing": True,
            "pending": True,
            "noData": False,
            "normal": False,
            "error": True,
        },
        "folder": "",
        "showInstances": True,
    }
    return (
        dashboard.Panel()
        .type("alertlist")
        .title("Alerts")
        .description(
            "Alerts of these jobs that fire or are about to. Each one leads to its runbook. Nothing"
            " here although breakers are open: are the rules loaded?"
        )
        .options(options)
    )


def worst_breakers(q: Queries) -> Panel:
    """Each breaker with its state, since when, and how many calls it refused."""
    by = q.by_breaker
    columns = {
        q.breaker: "Breaker",
        "Value #State": "State",
        "Value #Since": "Not closed since",
        "Value #Refused": "Calls refused",
        "Value #Share": "Refused now",
        "Value #Processes": "Processes affected",
        q.job: "Job",
    }
    panel = _rows(
        "Which dependency, since when, how many calls refused",
        "One row for each breaker, the worst on top. The state is the worst one among its"
        " processes. 'Not closed since' is the time of the oldest opening that still lasts, not of"
        " the last try; it cannot lie before the chosen time range. Click on a name for the whole"
        " story.",
        COUNT,
    )
    for ref, query in {
        "State": q.state_now(by),
        "Since": q.not_closed_since(),
        "Refused": q.rejected(by),
        "Share": q.rejected_share(by),
        "Processes": q.instances_not_closed(by),
    }.items():
        panel.with_target(as_rows(at_once(query, ref=ref)))
    return (
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(renamed(columns, hidden=["Time"]))
        .sort_by([_downwards("State"), _downwards("Calls refused")])
        .override_by_name("State", _coloured_cell(_mapped(state_mappings())))
        .override_by_name("Not closed since", _unit(POINT_IN_TIME))
        .override_by_name("Calls refused", _unit(COUNT, 0))
        .override_by_name("Refused now", _coloured_text(_refused_limits(q)) + _unit(SHARE, 1))
        .override_by_name("Processes affected", _unit(COUNT, 0))
        .override_by_name(
            "Breaker",
            [models.DynamicConfigValue("links", [to_breaker(q.config, "__value.raw").build()])],
        )
    )


def states_of_breakers(q: Queries) -> Panel:
    """The state of each breaker over time."""
    return (
        _timeline(
            "State of each breaker",
            "The worst state among the processes of each breaker. Long bars: the dependency is"
            " down. Many short ones: it comes and goes, or the breaker's wait is too short. All"
            " rows at once: something that all of them share, such as the network or DNS. Openings"
            " shorter than one scrape show only under 'Time in each state' of the breaker.",
        )
        .with_target(over_time(q.worst_state(q.by_breaker), _breaker_of(q)))
        .data_links([_open_series(q)])
    )


def calls_by_outcome(q: Queries) -> Panel:
    """Calls per second, by how they ended."""
    panel = _stacked(
        _lines(
            "Calls by outcome",
            "Every call that asked, once. Failures first and refusals after them: the breaker"
            " does its work. Failures without refusals: its threshold is not reached, or it is"
            " disabled. Ignored ones are errors that are not the dependency's fault.",
            CALLS_PER_SECOND,
        )
    ).with_target(over_time(q.calls_by_outcome(), _label(catalogue.OUTCOME.name)))
    for outcome, colour in OUTCOMES.items():
        panel.override_by_name(outcome.value, fixed(colour))
    return panel


def share_refused(q: Queries) -> Panel:
    """The share of refused calls of each breaker over time."""
    return (
        _with_limits(
            _lines(
                "Share of calls refused",
                "How much of what users asked for was refused, for each breaker. Near 100 %: down"
                " for everybody. A steady part: some processes only, compare them on the breaker's"
                " dashboard. Gaps: nobody asked.",
                SHARE,
            ),
            (q.config.rejected_share_critical, VERMILION),
        )
        .max(1)
        .with_target(over_time(q.rejected_share(q.by_breaker), _breaker_of(q)))
        .data_links([_open_series(q)])
    )


def failures_against_threshold(q: Queries) -> Panel:
    """How near each breaker is to opening."""
    return (
        _with_limits(
            _lines(
                "Failures against threshold",
                "The failure ratio as a part of the threshold of its own policy, in the worst"
                " process: at 100 % the breaker opens. A line that lives just below it: the"
                " dependency is sick and nobody is told; look at it now. Gaps: too few calls to"
                " judge, or no such rule.",
                SHARE,
            ),
            (q.config.near_threshold, ORANGE),
            (1, VERMILION),
        )
        .with_target(
            over_time(
                q.nearness(catalogue.FAILURE_RATIO, catalogue.FAILURE_RATIO_THRESHOLD),
                _breaker_of(q),
            )
        )
        .data_links([_open_series(q)])
    )


def slowness_against_threshold(q: Queries) -> Panel:
    """How near each breaker is to opening because of slow calls."""
    return (
        _with_limits(
            _lines(
                "Slow calls against threshold",
                "The share of slow calls as a part of the threshold of its own policy. Slowness"
                " comes before failure: at 100 % the breaker opens. Look for saturation of the"
                " dependency. Only breakers whose policy has such a rule are here.",
                SHARE,
            ),
            (q.config.near_threshold, ORANGE),
            (1, VERMILION),
        )
        .with_target(
            over_time(
                q.nearness(catalogue.SLOW_CALL_RATIO, catalogue.SLOW_CALL_RATIO_THRESHOLD),
                _breaker_of(q),
            )
        )
        .data_links([_open_series(q)])
    )


def most_refused(q: Queries) -> Panel:
    """The breakers that refused the most calls."""
    return (
        bargauge.Panel()
        .title("Most calls refused")
        .description(
            "The breakers that refused the most calls in the chosen time range. Begin with the"
            " first: that is where most users are hurt."
        )
        .datasource(prometheus_source())
        .with_target(at_once(q.most_rejected(), _breaker_of(q)))
        .unit(COUNT)
        .decimals(0)
        .min(0)
        .color_scheme(by_threshold())
        .thresholds(steps(GREEN, (1, VERMILION)))
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .reduce_options(last())
        .data_links([_open_series(q)])
    )


def would_be_refused(q: Queries) -> Panel:
    """What policies in shadow mode would have refused."""
    return (
        _lines(
            "Would be refused (shadow mode)",
            "Calls that a policy in shadow mode would have refused. They were made all the same."
            " If it agrees with the failures of the dependency, the policy can be switched on.",
            CALLS_PER_SECOND,
        )
        .axis_soft_max(1)
        .with_target(over_time(q.would_reject(), _breaker_of(q)))
        .data_links([_open_series(q)])
    )


# -- one breaker -----------------------------------------------------------------------------------


def state_now(q: Queries) -> Panel:
    """The worst state at this moment."""
    return (
        _number(
            "State",
            "The worst state among the processes. Forced open or disabled: somebody did it by hand;"
            " find out who before you undo it.",
            q.state_now(q.job),
            COUNT,
            mode="background",
        )
        .mappings(state_mappings())
        .thresholds(steps(GREY))
    )


def not_closed_for(q: Queries) -> Panel:
    """How long a breaker has not been closed."""
    return _number(
        "Not closed for",
        "The time since every process was last closed, for the one that waits longest; 0 if all"
        " are closed. It cannot be longer than the chosen time range. Much longer than the"
        " wait: tries happen and fail, or nobody asks.",
        q.not_closed_for(),
        SECONDS,
    ).thresholds(steps(GREEN, (1, VERMILION)))


def calls_in_flight_now(q: Queries) -> Panel:
    """Calls that have not ended."""
    return (
        _number(
            "Calls in flight",
            "Calls that were admitted and have not ended. Growing without end: the dependency"
            " hangs and the calls have no timeout. Give them one.",
            q.in_flight_now(),
            COUNT,
        )
        .thresholds(steps("text"))
        .links([to_traces()])
    )


def different_policies(q: Queries) -> Panel:
    """How many different policies the processes run."""
    return _number(
        "Different policies",
        "How many different policies the processes of this breaker run. More than 1: a rollout is"
        " under way, or one process has another configuration. The table below says which.",
        q.policies(),
        COUNT,
    ).thresholds(steps(GREEN, (2, ORANGE)))


def states_of_processes(q: Queries) -> Panel:
    """The state in each process over time."""
    return _timeline(
        "State in each process",
        "All processes at once: the dependency is down. One alone: it is this process, so look at"
        " its network, DNS, connection pool and configuration, and restart or drain it.",
    ).with_target(over_time(q.worst_state(q.by_instance), _process_of(q)))


def _ratio_with_threshold(
    q: Queries, panel: timeseries.Panel, ratio: Metric, threshold: Metric
) -> timeseries.Panel:
    dashes = {"fill": "dash", "dash": [10, 6]}
    line = [
        *fixed(VERMILION),
        models.DynamicConfigValue(id_val="custom.lineStyle", value=dashes),
        models.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    ]
    return (
        panel.with_target(over_time(q.worst(ratio, q.by_instance), _process_of(q)))
        .with_target(over_time(q.lowest(threshold), "threshold", ref="B"))
        .override_by_name("threshold", line)
        .max(1)
    )


def failure_share(q: Queries) -> Panel:
    """The failure ratio of each process, and the threshold of the policy."""
    return _ratio_with_threshold(
        q,
        _lines(
            "Failure share and threshold",
            "The share of failures in the window of each process, and the threshold of the"
            " policy: where a line meets it, the breaker opens, and the window starts anew. Gaps:"
            " fewer calls than the policy needs to judge. Openings without a crossing have another"
            " cause, see below.",
            SHARE,
        ),
        catalogue.FAILURE_RATIO,
        catalogue.FAILURE_RATIO_THRESHOLD,
    ).links([to_traces()])


def slow_share(q: Queries) -> Panel:
    """The slow-call ratio of each process, and the threshold of the policy."""
    return _ratio_with_threshold(
        q,
        _lines(
            "Slow share and threshold",
            "The share of slow calls in the window of each process, and the threshold of the"
            " policy. No dashed line: the policy has no such rule. Rising: the dependency is"
            " saturated; less load helps more than retries.",
            SHARE,
        ),
        catalogue.SLOW_CALL_RATIO,
        catalogue.SLOW_CALL_RATIO_THRESHOLD,
    ).links([to_traces()])


def durations(q: Queries) -> Panel:
    """Percentiles of the time inside the protected function, with exemplars."""
    panel = _lines(
        "Duration of calls",
        "Time inside the protected function, over all processes; refused calls have none. The"
        " points are single calls: click on one for its trace. p99 far above p50: some calls wait,"
        " look at their traces. A flat top: a timeout.",
        SECONDS,
    ).fill_opacity(0)
    for ref, quantile, colour in (("A", 0.5, GREEN), ("B", 0.9, ORANGE), ("C", 0.99, VERMILION)):
        name = f"p{quantile * 100:g}"
        panel.with_target(
            over_time(q.duration_quantile(quantile), name, ref=ref).exemplar(ref == "C")
        )
        panel.override_by_name(name, fixed(colour))
    return panel.links([to_traces()])


def duration_heatmap(q: Queries) -> Panel:
    """How many calls took how long, with exemplars."""
    colours = (
        heatmap.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("Viridis")
        .steps(64)
        .reverse(False)
        .exponent(0.5)
    )
    query = over_time(q.duration_buckets(), "{{le}}").exemplar(True)
    axis = heatmap.YAxisConfig().unit(SECONDS)
    return (
        heatmap.Panel()
        .title("Durations, all calls")
        .description(
            "How many calls took how long. Two bands: two kinds of calls, or some that wait for a"
            " timeout. The points are single calls: click on one for its trace."
        )
        .datasource(prometheus_source())
        .with_target(query.format(prometheus_models.PromQueryFormat.HEATMAP))
        .calculate(False)
        .color(colours)
        .cell_gap(1)
        .y_axis(axis)
        .unit(CALLS_PER_SECOND)
        .exemplars_color("rgba(255,255,255,0.8)")
        .show_legend()
        .links([to_traces()])
    )


def calls_in_flight(q: Queries) -> Panel:
    """Calls in flight in each process."""
    return (
        _lines(
            "Calls in flight in each process",
            "Calls that were admitted and have not ended. A line that only climbs: calls hang in"
            " that process. Give them a timeout, and restart it.",
            COUNT,
        )
        .with_target(over_time(q.in_flight(), _process_of(q)))
        .links([to_traces()])
    )


def time_in_states(q: Queries) -> Panel:
    """The share of time in each state."""
    state = catalogue.STATE.name
    panel = _stacked(
        _lines(
            "Time in each state",
            "Of the time of all processes, the share in each state. It is counted, not sampled:"
            " an opening shorter than a scrape shows here. A thin steady band of 'open': the"
            " breaker flaps. Is its wait too short, or its threshold too tight?",
            SHARE,
        )
    ).with_target(over_time(q.share_of_time(), _label(state)))
    for each, (_, colour) in STATES.items():
        panel.override_by_name(each.value, fixed(colour))
    return panel.max(1)


def transitions_by_cause(q: Queries) -> Panel:
    """Changes of state, by their cause."""
    return (
        _bars(
            _lines(
                "Changes of state by cause",
                "Why the breaker changed its state. Many 'probe_failed': it tries, and the"
                " dependency is still down. Many pairs of openings and 'probes_succeeded': it"
                " flaps. 'force_open', 'disable' and 'reset' are people.",
                PER_MINUTE,
            )
        )
        .with_target(over_time(q.transitions_by_cause(), _label(catalogue.CAUSE.name)))
        .legend(legend_by_size())
    )


def open_wait(q: Queries) -> Panel:
    """How long an opening lasts before a probe."""
    return _lines(
        "Wait before the next try",
        "How long the last opening waits before it lets a probe through. Stairs up: back-off, the"
        " probes keep failing. If it is long and the dependency is healthy again, `reset()` the"
        " breaker instead of waiting.",
        SECONDS,
    ).with_target(over_time(q.worst(catalogue.OPEN_WAIT, q.by_instance), _process_of(q)))


def slow_calls(q: Queries) -> Panel:
    """Slow calls per second."""
    return (
        _lines(
            "Slow calls",
            "Calls that took at least the slow-call time of the policy, per second. One process"
            " alone: it is that process. All: the dependency.",
            CALLS_PER_SECOND,
        )
        .axis_soft_max(1)
        .with_target(over_time(q.slow_calls(), _process_of(q)))
        .links([to_traces()])
    )


def fallbacks_used(q: Queries) -> Panel:
    """Fallbacks per second, by what they stood in for."""
    label = catalogue.FALLBACK_OUTCOME.name
    return (
        _stacked(
            _lines(
                "Fallbacks used",
                "How often a fallback stood in, for a refused call or for a failed one. Refusals"
                " without fallbacks: users see errors. All 0: this breaker has no fallback.",
                CALLS_PER_SECOND,
            )
        )
        .axis_soft_max(1)
        .with_target(over_time(q.fallbacks(), _label(label)))
        .override_by_name(Outcome.REJECTED.value, fixed(PURPLE))
        .override_by_name(Outcome.FAILURE.value, fixed(VERMILION))
    )


def policies_and_versions(q: Queries) -> Panel:
    """Which policies and versions the processes run."""
    columns = {
        catalogue.POLICY_HASH.name: "Policy",
        catalogue.VERSION.name: "Version",
        "Value": "Processes",
    }
    return (
        _rows(
            "Policies and versions in use",
            "One row: all processes agree. More rows: a rollout is under way, or some process has"
            " another configuration. If it stays so, find that process and compare its settings.",
            COUNT,
        )
        .with_target(as_rows(at_once(q.processes_by_policy())))
        .with_transformation(renamed(columns, hidden=["Time"]))
    )


def last_changes(q: Queries) -> Panel:
    """The last changes of state, with their exact times."""
    state = catalogue.STATE.name
    distinct: dict[str, object] = {
        name: {"aggregations": [], "operation": "groupby"} for name in ("Value", q.instance, state)
    }
    columns = {"Value": "Entered at", q.instance: "Process", state: "State"}
    sort = {"sort": [{"field": "Value", "desc": True}]}
    return (
        _rows(
            "Last changes of state",
            "Which process entered which state, and exactly when: the breaker's own clock, not"
            " the time of the scrape. A state that came and went between two scrapes is missing"
            " here, and counted under 'Changes of state by cause'.",
            COUNT,
        )
        .with_target(as_rows(over_time(q.state_entered())))
        .with_transformation(
            models.DataTransformerConfig(id_val="groupBy", options={"fields": distinct})
        )
        .with_transformation(models.DataTransformerConfig(id_val="sortBy", options=sort))
        .with_transformation(
            models.DataTransformerConfig(id_val="limit", options={"limitField": 50})
        )
        .with_transformation(renamed(columns))
        .override_by_name("Entered at", _unit(POINT_IN_TIME))
        .override_by_name("State", _coloured_cell(_mapped(state_names())))
    )


# -- telemetry health ------------------------------------------------------------------------------


def breakers_known(q: Queries) -> Panel:
    """How many breakers there are."""
    return _number(
        "Breakers",
        "Different breakers of these jobs. Many more than you wrote: somebody puts an id into a"
        " name. Names must be few.",
        q.breakers_known(),
        COUNT,
    ).thresholds(steps("text"))


def series_stored(q: Queries) -> Panel:
    """How many series Prometheus stores for the library."""
    return _number(
        "Series",
        "Series that Prometheus stores for this library. It grows with breakers and processes only."
        " If it grows by itself, names of breakers are made from data.",
        q.series(),
        COUNT,
    ).thresholds(steps("text"))


def oldest_scrape(q: Queries) -> Panel:
    """How old the oldest metrics are."""
    return _number(
        "Oldest scrape",
        "The age of the metrics of the process that waits longest. More than a few scrape"
        " intervals: the process hangs, or Prometheus cannot reach it.",
        q.oldest(),
        SECONDS,
    ).thresholds(steps(GREEN, (q.config.stale_after, VERMILION)))


def events_lost(q: Queries) -> Panel:
    """How many events were dropped."""
    return (
        _number(
            "Events dropped",
            "Events that did not reach a listener in the chosen time range. Metrics stay exact;"
            " logs and own listeners have gaps. Give the listener a longer queue, or make it"
            " faster.",
            q.lost_in_range(catalogue.EVENTS_DROPPED),
            COUNT,
        )
        .decimals(0)
        .thresholds(steps(GREEN, (1, ORANGE)))
    )


def errors_of_listeners(q: Queries) -> Panel:
    """How often a listener raised."""
    return (
        _number(
            "Listener errors",
            "How often a listener or a rule of yours raised in the chosen time range. No call was"
            " touched. The log of the process has the error, once a minute.",
            q.lost_in_range(catalogue.LISTENER_ERRORS),
            COUNT,
        )
        .decimals(0)
        .thresholds(steps(GREEN, (1, ORANGE)))
    )


def processes_over_time(q: Queries) -> Panel:
    """How many processes of each job report."""
    return _lines(
        "Processes over time",
        "Processes of each job whose metrics arrive. A step down that nobody planned: crashed, or"
        " no longer scraped.",
        COUNT,
    ).with_target(over_time(q.processes_by_job(), _label(q.job)))


def age_of_scrapes(q: Queries) -> Panel:
    """The age of the metrics of each process."""
    return _with_limits(
        _lines(
            "Age of the metrics",
            "The seconds since the last scrape of each process. Saws are normal. A line that"
            " climbs: this process no longer answers; see whether it lives.",
            SECONDS,
        ),
        (q.config.stale_after, VERMILION),
    ).with_target(over_time(q.age(q.by_instance), _process_of(q)))


def dropped_by_listener(q: Queries) -> Panel:
    """Dropped events per second."""
    name = f"{_label(catalogue.LISTENER.name)} ({_process_of(q)})"
    return (
        _lines(
            "Events dropped by listener",
            "Which listener loses events, per second. Its queue is full, or it causes events"
            " itself. A listener that waits for a network needs a longer queue.",
            PER_SECOND,
        )
        .axis_soft_max(1)
        .with_target(over_time(q.lost(catalogue.EVENTS_DROPPED), name))
    )


def errors_by_listener(q: Queries) -> Panel:
    """Errors of listeners per second."""
    name = f"{_label(catalogue.LISTENER.name)} ({_process_of(q)})"
    return (
        _lines(
            "Errors by listener",
            "Which listener raises, per second. The log of the process has the error, once a"
            " minute.",
            PER_SECOND,
        )
        .axis_soft_max(1)
        .with_target(over_time(q.lost(catalogue.LISTENER_ERRORS), name))
    )


def series_by_metric(q: Queries) -> Panel:
    """The metrics with the most series."""
    return (
        bargauge.Panel()
        .title("Series by metric")
        .description(
            "The metrics with the most series. The buckets of durations always lead. If they are"
            " too many, use fewer buckets, or fewer names."
        )
        .datasource(prometheus_source())
        .with_target(at_once(q.series_by_name(), "{{__name__}}"))
        .unit(COUNT)
        .min(0)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(BLUE))
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .reduce_options(last())
    )


def versions_in_use(q: Queries) -> Panel:
    """Which versions of the library run."""
    columns = {q.job: "Job", catalogue.VERSION.name: "Version", "Value": "Processes"}
    return (
        _rows(
            "Versions in use",
            "Which version of breakerscope how many processes run. Several for one job: a rollout"
            " is under way, or was forgotten.",
            COUNT,
        )
        .with_target(as_rows(at_once(q.processes_by_version())))
        .with_transformation(renamed(columns, hidden=["Time"]))
    )


def calls_without_duration(q: Queries) -> Panel:
    """Settled calls that the histogram does not know."""
    return (
        _lines(
            "Calls without a duration",
            "Calls that ended, less those in the histogram, per second. They are counted apart"
            " and must agree: a line that is not 0 is a fault of the library or of a relabelling."
            " Please report.",
            CALLS_PER_SECOND,
        )
        .axis_soft_max(1)
        .with_target(over_time(q.calls_without_duration(), _process_of(q)))
    )
