"""The three dashboards: which panel stands where. The variables and links are the same on all.

The number of a panel is part of links from alerts and documents, so it is written down and never
given again. New panels take the next free one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from breakerscope import catalogue
from breakerscope.mixin import panels, style
from breakerscope.mixin.config import MixinConfig
from breakerscope.mixin.queries import Queries
from breakerscope.mixin.sdk import Builder, dashboard, models

WIDTH = 24


@dataclass(frozen=True, slots=True)
class Place:
    """A panel, by its number for all time, and its size on a grid of 24 columns."""

    number: int
    panel: Callable[[Queries], Builder[models.Panel]]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one title. They flow from left to right, and down where a line is full."""

    number: int
    title: str
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    file: str
    title: str
    description: str
    rows: Sequence[Row]
    one_breaker: bool = False
    marks: bool = False
    """Whether changes of state are marked on all panels."""


OVERVIEW = Board(
    file="overview.json",
    title="Overview",
    description="All breakers on one screen: which dependency fails, since when, and how many calls"
    " were refused.",
    marks=True,
    rows=(
        Row(
            1,
            "Now",
            (
                Place(2, panels.breakers_not_closed, 5, 4),
                Place(3, panels.calls_refused, 5, 4),
                Place(4, panels.share_refused_now, 5, 4),
                Place(5, panels.calls_now, 5, 4),
                Place(6, panels.processes_reporting, 4, 4),
                Place(7, panels.worst_breakers, 17, 8),
                Place(8, panels.firing_alerts, 7, 8),
            ),
        ),
        Row(
            9,
            "How it went",
            (
                Place(10, panels.states_of_breakers, 24, 9),
                Place(11, panels.calls_by_outcome, 12, 8),
                Place(12, panels.share_refused, 12, 8),
                Place(13, panels.failures_against_threshold, 12, 8),
                Place(14, panels.slowness_against_threshold, 12, 8),
                Place(15, panels.most_refused, 12, 8),
                Place(16, panels.would_be_refused, 12, 8),
            ),
        ),
    ),
)

BREAKER = Board(
    file="breaker.json",
    title="One breaker",
    description="One breaker in all its processes: what it did, why, and what its calls were like.",
    marks=True,
    one_breaker=True,
    rows=(
        Row(
            1,
            "Now",
            (
                Place(2, panels.state_now, 4, 4),
                Place(3, panels.not_closed_for, 4, 4),
                Place(4, panels.calls_refused, 4, 4),
                Place(5, panels.share_refused_now, 4, 4),
                Place(6, panels.calls_in_flight_now, 4, 4),
                Place(7, panels.different_policies, 4, 4),
                Place(8, panels.states_of_processes, 24, 6),
            ),
        ),
        Row(
            9,
            "Why",
            (
                Place(10, panels.failure_share, 12, 8),
                Place(11, panels.slow_share, 12, 8),
                Place(12, panels.calls_by_outcome, 12, 8),
                Place(13, panels.transitions_by_cause, 12, 8),
                Place(14, panels.time_in_states, 12, 8),
                Place(15, panels.open_wait, 12, 8),
            ),
        ),
        Row(
            16,
            "Calls",
            (
                Place(17, panels.durations, 12, 9),
                Place(18, panels.duration_heatmap, 12, 9),
                Place(19, panels.calls_in_flight, 8, 8),
                Place(20, panels.slow_calls, 8, 8),
                Place(21, panels.fallbacks_used, 8, 8),
            ),
        ),
        Row(
            22,
            "Details",
            (
                Place(23, panels.last_changes, 12, 8),
                Place(24, panels.policies_and_versions, 12, 8),
            ),
        ),
    ),
)

TELEMETRY = Board(
    file="telemetry.json",
    title="Telemetry health",
    description="Whether the other dashboards can be believed: what arrives, how fresh it is, and"
    " what was lost.",
    rows=(
        Row(
            1,
            "Now",
            (
                Place(2, panels.processes_reporting, 4, 4),
                Place(3, panels.breakers_known, 4, 4),
                Place(4, panels.series_stored, 4, 4),
                Place(5, panels.oldest_scrape, 4, 4),
                Place(6, panels.events_lost, 4, 4),
                Place(7, panels.errors_of_listeners, 4, 4),
            ),
        ),
        Row(
            8,
            "What arrives",
            (
                Place(9, panels.processes_over_time, 12, 8),
                Place(10, panels.age_of_scrapes, 12, 8),
                Place(11, panels.series_by_metric, 12, 8),
                Place(12, panels.versions_in_use, 12, 8),
            ),
        ),
        Row(
            13,
            "What is lost",
            (
                Place(14, panels.dropped_by_listener, 8, 8),
                Place(15, panels.errors_by_listener, 8, 8),
                Place(16, panels.calls_without_duration, 8, 8),
            ),
        ),
    ),
)

BOARDS = (OVERVIEW, BREAKER, TELEMETRY)


def build(board: Board, config: MixinConfig) -> models.Dashboard:
    """The dashboard for this configuration, as Grafana's classic schema."""
    queries = Queries(config)
    uids = dict(zip(BOARDS, config.uids, strict=True))
    builder = (
        dashboard.Dashboard(f"{config.title_prefix} / {board.title}")
        .uid(uids[board])
        .description(board.description)
        .tags(list(config.tags))
        .readonly()
        .time(f"now-{config.time_range}", "now")
        .refresh(config.refresh)
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables(_variables(queries, one_breaker=board.one_breaker))
        .links(_links(board, uids, config))
    )
    if board.marks:
        builder.annotations(_annotations(queries))
    built = builder.build()
    onward = OVERVIEW if board is not OVERVIEW else BREAKER
    built.panels = _placed(board, queries, (onward.title, uids[onward]))
    return built


def _placed(
    board: Board, queries: Queries, onward: tuple[str, str]
) -> list[models.Panel | models.RowPanel]:
    found: list[models.Panel | models.RowPanel] = []
    top = 0
    for row in board.rows:
        at = models.GridPos(h=1, w=WIDTH, x=0, y=top)
        found.append(models.RowPanel(title=row.title, id_val=row.number, grid_pos=at))
        top, left, tallest = top + 1, 0, 0
        for place in row.places:
            if left + place.width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            panel = place.panel(queries).build()
            panel.links = panel.links or [style.with_breaker(*onward).build()]
            panel.id_val = place.number
            panel.grid_pos = models.GridPos(h=place.height, w=place.width, x=left, y=top)
            found.append(panel)
            left, tallest = left + place.width, max(tallest, place.height)
        top += tallest
    return found


def _variables(queries: Queries, *, one_breaker: bool) -> list[Builder[models.VariableModel]]:
    config = queries.config
    chosen = [
        ("job", "Job", queries.jobs()),
        ("instance", "Instance", queries.instances()),
        ("breaker", "Breaker", queries.breakers()),
    ]
    found: list[Builder[models.VariableModel]] = [
        dashboard.DatasourceVariable(style.PROMETHEUS)
        .label("Prometheus data source")
        .type("prometheus")
        .regex(_as_regex(config.prometheus_datasource)),
        dashboard.DatasourceVariable(style.JAEGER)
        .label("Jaeger data source")
        .type("jaeger")
        .regex(_as_regex(config.jaeger_datasource)),
    ]
    for name, label, query in chosen:
        variable = (
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(style.prometheus_source())
            .query({"query": query, "refId": f"variable-{name}"})
            .definition(query)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
        )
        if not (one_breaker and name == "breaker"):
            everything = models.VariableOption(text="All", value="$__all", selected=True)
            variable.multi(True).include_all(True).all_value(".+").current(everything)
        found.append(variable)
    return found


def _as_regex(pattern: str) -> str:
    return f"/{pattern}/" if pattern else ""


def _links(
    board: Board, uids: dict[Board, str], config: MixinConfig
) -> list[Builder[models.DashboardLink]]:
    found: list[Builder[models.DashboardLink]] = [
        dashboard.DashboardLink(other.title)
        .type(models.DashboardLinkType.LINK)
        .icon("dashboard")
        .tooltip(other.description)
        .url(f"/d/{uids[other]}")
        .include_vars(True)
        .keep_time(True)
        for other in BOARDS
        if other is not board
    ]
    if config.runbook_base_url:
        found.append(
            dashboard.DashboardLink("Runbooks")
            .type(models.DashboardLinkType.LINK)
            .icon("doc")
            .tooltip("What to do when an alert fires.")
            .url(config.runbook_base_url)
            .target_blank(True)
        )
    return found


def _annotations(queries: Queries) -> list[Builder[models.AnnotationQuery]]:
    cause = catalogue.CAUSE.name
    text = f"{{{{{queries.job}}}}}: {{{{{cause}}}}}"
    return [
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(style.prometheus_source())
        .enable(True)
        .icon_color(colour)
        .expr(query)
        .step(queries.config.scrape_interval)
        .title_format(f"{{{{{queries.breaker}}}}} {what}")
        .text_format(text)
        .tag_keys(f"{queries.breaker},{cause}")
        for name, what, colour, query in (
            ("Opened", "opened", style.VERMILION, queries.opened()),
            ("Closed again", "closed again", style.GREEN, queries.closed_again()),
            ("By hand", "was changed by hand", style.PURPLE, queries.changed_by_hand()),
        )
    ]
