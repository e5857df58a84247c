"""The recording and alerting rules, as values. Like the queries, they spell no name of their own.

"Tripped" is open or half-open: the probes of a long outage would otherwise begin each `for` anew.
States by hand are not tripped; they have an alert of their own. In prometheus_client's multiprocess
mode the gauge of a state counts workers, so it is summed and compared with 0, never with 1.

Nothing here pages but two alerts: a dependency is down for most instances, or users are refused.
Both ask for refused calls, so a policy in shadow mode, which refuses none, cannot page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from breakerscope import catalogue
from breakerscope.catalogue import Label, Metric
from breakerscope.core.events import Outcome, State
from breakerscope.mixin import dashboards, panels
from breakerscope.mixin.alert_settings import Burn, seconds, span_of
from breakerscope.mixin.config import MixinConfig
from breakerscope.mixin.dashboards import Board
from breakerscope.mixin.queries import Queries, equal, one_of
from breakerscope.mixin.sdk import Builder, models
from breakerscope.telemetry.series import with_prefix

TRIPPED = (State.OPEN, State.HALF_OPEN)
BY_HAND = (State.FORCED_OPEN, State.DISABLED)


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alerting rule. `labels` are those which its series have, `stem` names its runbook."""

    stem: str
    severity: str
    expression: str
    wait: str = "0s"
    keep: str = "0s"
    labels: Sequence[str]
    summary: str
    description: str
    board: Board
    panel: Callable[[Queries], Builder[models.Panel]]


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other."""

    name: str
    rules: Sequence[Record | Alert]


def groups(config: MixinConfig) -> Sequence[Group]:
    """All rules. Groups are evaluated at different moments, so a page stands in the group of what
    it reads: it would come a whole interval later.
    """
    rules = Rules(config)
    return (
        Group("breakerscope.pages", [*rules.records(), *rules.pages()]),
        Group("breakerscope.breakers", rules.breakers()),
        Group("breakerscope.telemetry", rules.telemetry()),
    )


class Rules:
    """The rules for one configuration."""

    def __init__(self, config: MixinConfig) -> None:
        self.config = config
        self.settings = config.alerts
        self.breaker = catalogue.BREAKER.name
        self.by_breaker = (config.job_label, self.breaker)
        self.by_process = (config.job_label, config.instance_label, self.breaker)

    # -- the parts ---------------------------------------------------------------------------------

    def _select(self, metric: Metric, *matchers: tuple[Label, str, str]) -> str:
        parts = [self.config.selector] if self.config.selector else []
        parts += [f'{label.name}{operator}"{value}"' for label, operator, value in matchers]
        name = with_prefix(self.config.metric_prefix, metric.name)
        return f"{name}{{{', '.join(parts)}}}" if parts else name

    def _recorded(self, by: Sequence[str], subject: str, what: str) -> str:
        """A name as Prometheus advises: level, metric, operation."""
        return f"{'_'.join(by)}:{with_prefix(self.config.metric_prefix, subject)}:{what}"

    def _rate_of(self, by: Sequence[str], subject: str) -> str:
        what = f"rate{self.settings.rate_window}"
        return self._recorded(by, f"circuit_breaker_{subject}", what)

    def _refused_share(self, window: str) -> str:
        what = f"ratio_rate{window}"
        return self._recorded(self.by_breaker, "circuit_breaker_rejected", what)

    @cached_property
    def _tripped_share(self) -> str:
        return self._recorded(self.by_breaker, "circuit_breaker_tripped", "ratio")

    @cached_property
    def _refusing_share(self) -> str:
        return self._recorded(self.by_breaker, "circuit_breaker_refusing", "ratio")

    @cached_property
    def _calls(self) -> str:
        return self._rate_of(self.by_breaker, "calls")

    @cached_property
    def _refused(self) -> str:
        return self._rate_of(self.by_breaker, "rejected")

    def _in(self, by: Sequence[str], *states: State) -> str:
        return _sum(by, self._select(catalogue.STATE_NOW, one_of(catalogue.STATE, states)))

    def _process_in(self, *states: State) -> str:
        return self._in(self.by_process, *states)

    @cached_property
    def _age(self) -> str:
        """The seconds in the present state, as of the last scrape."""
        entered = self._select(catalogue.STATE_ENTERED)
        return f"{_by('max', self.by_process)} (timestamp({entered}) - {entered})"

    def _and(self, by: Sequence[str], condition: str) -> str:
        return f"\nand on ({', '.join(by)}) {condition}"

    @cached_property
    def _process_is_refused(self) -> str:
        """Users feel it. An idle breaker may stay open: it needs a call to try again."""
        refused = self._rate_of(self.by_process, "rejected")
        return self._and(self.by_process, f"{refused} > 0")

    @cached_property
    def _with_traffic(self) -> str:
        return self._and(self.by_breaker, f"{self._calls} > {self.settings.min_call_rate:g}")

    # -- recording ---------------------------------------------------------------------------------

    def records(self) -> Sequence[Record]:
        """What the alerts read. Long windows are made of the short rates: three days of every
        process' own counters would be too many samples to read each time.
        """
        window = self.settings.rate_window
        all_calls = self._select(catalogue.CALLS)
        refused = self._select(catalogue.CALLS, equal(catalogue.OUTCOME, Outcome.REJECTED))
        by_process = {
            self._rate_of(self.by_process, subject): _sum(self.by_process, f"rate({of}[{window}])")
            for subject, of in (("calls", all_calls), ("rejected", refused))
        }
        by_breaker = {
            name: _sum(self.by_breaker, of)
            for name, of in zip((self._calls, self._refused), by_process, strict=True)
        }
        burns = (*self.settings.page_burns, *self.settings.ticket_burns)
        windows = {window, *(each for burn in burns for each in (burn.short, burn.long))}
        shares = {
            self._refused_share(each): f"{self._refused} / {self._calls}"
            if each == window
            else f"sum_over_time({self._refused}[{each}])\n/ sum_over_time({self._calls}[{each}])"
            for each in sorted(windows, key=seconds)
        }
        of_process = self._rate_of(self.by_process, "rejected")
        count = _by("count", self.by_breaker)
        states = {
            self._tripped_share: f"{self._in(self.by_breaker, *TRIPPED)}"
            f"\n/ {_sum(self.by_breaker, self._select(catalogue.STATE_NOW))}",
            self._refusing_share: f"{count} ({of_process} > 0)\n/ {count} ({of_process})",
        }
        return [
            Record(name, expression)
            for part in (by_process, by_breaker, shares, states)
            for name, expression in part.items()
        ]

    # -- pages -------------------------------------------------------------------------------------

    def _is_down_for_all(self) -> str:
        return f"{self._tripped_share} > {self.settings.fleet_share:g}{self._with_traffic}"

    def _burning(self, burn: Burn, *, page: bool) -> str:
        """Both windows burn, with enough calls, and the first minutes of a new breaker do not stand
        for a whole window: it was there in the earlier half of it.
        """
        too_much = f"{burn.factor:g} * {self.settings.budget:g}"
        length = seconds(burn.long)
        half = span_of(length // 2)
        parts = [
            f"{self._refused_share(burn.long)} > {too_much}",
            f"{self._refused_share(burn.short)} > {too_much}",
            f"avg_over_time({self._calls}[{burn.long}]) * {length} > {self.settings.min_calls}",
            f"last_over_time({self._calls}[{half}] offset {half})",
        ]
        if page:
            parts.append(f"{self._refusing_share} > {self.settings.burn_share:g}")
        return "(\n  " + "\n  and ".join(parts) + "\n)"

    def pages(self) -> Sequence[Alert]:
        """What wakes somebody, and the slow form of it."""
        settings = self.settings
        who = self._who(self.by_breaker)
        refused_now = "{{ $value | humanizePercentage }}"
        return (
            Alert(
                stem="TrippedFleetWide",
                severity=settings.page_severity,
                expression=f"{self._is_down_for_all()}"
                f"{self._and(self.by_breaker, f'{self._refused} > 0')}",
                wait=settings.fleet_for,
                keep=settings.fleet_keep,
                labels=self.by_breaker,
                summary="A dependency is down for most instances, and calls to it are refused.",
                description=f"{who} is open or half-open in {refused_now} of its instances.",
                board=dashboards.BREAKER,
                panel=panels.states_of_processes,
            ),
            Alert(
                stem="RejectionBudgetBurn",
                severity=settings.page_severity,
                expression="\nor\n".join(
                    self._burning(burn, page=True) for burn in settings.page_burns
                ),
                wait=settings.burn_page_for,
                labels=self.by_breaker,
                summary="So many calls are refused that the error budget will soon be gone.",
                description=f"{who} refused {refused_now} of its calls. The objective allows"
                f" {_percent(settings.budget)}.",
                board=dashboards.BREAKER,
                panel=panels.share_refused_now,
            ),
            Alert(
                stem="RejectionBudgetBurnSlow",
                severity=settings.ticket_severity,
                expression="\nor\n".join(
                    self._burning(burn, page=False) for burn in settings.ticket_burns
                ),
                wait=settings.burn_ticket_for,
                labels=self.by_breaker,
                summary="Calls are refused slowly but steadily, more than the objective allows.",
                description=f"{who} refused {refused_now} of its calls over days. The objective"
                f" allows {_percent(settings.budget)}.",
                board=dashboards.BREAKER,
                panel=panels.share_refused_now,
            ),
        )

    # -- breakers ----------------------------------------------------------------------------------

    def breakers(self) -> Sequence[Alert]:
        """What can wait for the morning, or only explains."""
        return (
            self._tripped(),
            self._stuck_open(),
            self._stuck_half_open(),
            self._flapping(),
            self._near_threshold(),
            self._slow_calls(),
            self._should_have_opened(),
            self._forced_state(self.settings.info_severity, self.settings.forced_after),
            self._forced_state(self.settings.ticket_severity, self.settings.forced_ticket_after),
            self._config_drift(),
        )

    def _tripped(self) -> Alert:
        by = ", ".join(self.by_breaker)
        return Alert(
            stem="Tripped",
            severity=self.settings.ticket_severity,
            expression=f"{self._process_in(*TRIPPED)} > 0{self._process_is_refused}"
            f"\nunless on ({by}) ({self._is_down_for_all()})",
            wait=self.settings.tripped_for,
            keep=self.settings.tripped_keep,
            labels=self.by_process,
            summary="A breaker does not close again, in few instances or with little traffic.",
            description=f"{self._who(self.by_process)} has not been closed for"
            f" {self.settings.tripped_for}, and it refuses calls.",
            board=dashboards.BREAKER,
            panel=panels.states_of_processes,
        )

    def _stuck_open(self) -> Alert:
        wait = f"{_by('max', self.by_process)} ({self._select(catalogue.OPEN_WAIT)})"
        factor = self.settings.stuck_open_waits
        least = seconds(self.settings.stuck_open_after)
        return Alert(
            stem="StuckOpen",
            severity=self.settings.ticket_severity,
            expression=f"{self._age} > clamp_min({factor:g} * {wait}, {least})"
            f"{self._and(self.by_process, f'{self._process_in(State.OPEN)} > 0')}"
            f"{self._process_is_refused}",
            wait=self.settings.stuck_open_for,
            labels=self.by_process,
            summary="An open breaker refuses calls and does not let a probe through.",
            description=f"{self._who(self.by_process)} has been open for"
            " {{ $value | humanizeDuration }}"
            f", more than {factor:g} times the wait after which it should try.",
            board=dashboards.BREAKER,
            panel=panels.open_wait,
        )

    def _stuck_half_open(self) -> Alert:
        least = seconds(self.settings.stuck_half_open_after)
        return Alert(
            stem="StuckHalfOpen",
            severity=self.settings.ticket_severity,
            expression=f"{self._age} > {least}"
            f"{self._and(self.by_process, f'{self._process_in(State.HALF_OPEN)} > 0')}"
            f"{self._process_is_refused}",
            wait=self.settings.stuck_half_open_for,
            labels=self.by_process,
            summary="A half-open breaker refuses calls and its probes do not end.",
            description=f"{self._who(self.by_process)} has been half-open for"
            " {{ $value | humanizeDuration }}.",
            board=dashboards.BREAKER,
            panel=panels.calls_in_flight,
        )

    def _flapping(self) -> Alert:
        opened = self._select(
            catalogue.TRANSITIONS,
            equal(catalogue.FROM_STATE, State.CLOSED),
            equal(catalogue.TO_STATE, State.OPEN),
        )
        window = self.settings.flap_window
        return Alert(
            stem="Flapping",
            severity=self.settings.ticket_severity,
            expression=f"{_sum(self.by_process, f'increase({opened}[{window}])')}"
            f" > {self.settings.flaps}",
            keep=self.settings.flap_keep,
            labels=self.by_process,
            summary="A breaker opens and closes again and again.",
            description=f"{self._who(self.by_process)} opened"
            ' {{ $value | printf "%.0f" }} times within'
            f" {window}.",
            board=dashboards.BREAKER,
            panel=panels.transitions_by_cause,
        )

    def _nearness(self, ratio: Metric, threshold: Metric) -> str:
        """How much of its threshold a ratio has reached, where the breaker is closed."""
        nearness = f"{self._select(ratio)} / {self._select(threshold)}"
        closed = f"{self._process_in(State.CLOSED)} > 0"
        condition = f"and on ({', '.join(self.by_process)}) {closed}"
        return f"{_by('max', self.by_breaker)} (\n  {nearness}\n  {condition}\n)"

    def _near_threshold(self) -> Alert:
        nearness = self._nearness(catalogue.FAILURE_RATIO, catalogue.FAILURE_RATIO_THRESHOLD)
        return Alert(
            stem="NearThreshold",
            severity=self.settings.info_severity,
            expression=f"{nearness} > {self.config.near_threshold:g}{self._with_traffic}",
            wait=self.settings.near_for,
            labels=self.by_breaker,
            summary="A breaker is about to open: many calls fail.",
            description=f"The failures of {self._who(self.by_breaker)} have reached"
            " {{ $value | humanizePercentage }} of the threshold that opens it.",
            board=dashboards.BREAKER,
            panel=panels.failure_share,
        )

    def _slow_calls(self) -> Alert:
        nearness = self._nearness(catalogue.SLOW_CALL_RATIO, catalogue.SLOW_CALL_RATIO_THRESHOLD)
        return Alert(
            stem="SlowCalls",
            severity=self.settings.ticket_severity,
            expression=f"{nearness} > {self.config.near_threshold:g}{self._with_traffic}",
            wait=self.settings.slow_for,
            labels=self.by_breaker,
            summary="A dependency is so slow that its breaker is about to open.",
            description=f"The slow calls of {self._who(self.by_breaker)} have reached"
            " {{ $value | humanizePercentage }} of the threshold that opens it.",
            board=dashboards.BREAKER,
            panel=panels.slow_share,
        )

    def _should_have_opened(self) -> Alert:
        """All workers are closed: where one of several is open, the ratio may be its own."""
        ratio, threshold = catalogue.FAILURE_RATIO, catalogue.FAILURE_RATIO_THRESHOLD
        nearness = f"{self._select(ratio)} / {self._select(threshold)}"
        states = _sum(self.by_process, self._select(catalogue.STATE_NOW))
        closed = f"{self._process_in(State.CLOSED)} / {states}"
        calls = self._rate_of(self.by_process, "calls")
        return Alert(
            stem="ShouldHaveOpened",
            severity=self.settings.ticket_severity,
            expression=f"{_by('max', self.by_process)} ({nearness}) > 1"
            f"{self._and(self.by_process, f'{calls} > {self.settings.min_call_rate:g}')}"
            f"{self._and(self.by_process, f'{closed} == 1')}",
            wait=self.settings.should_have_opened_for,
            labels=self.by_process,
            summary="A breaker stays closed although more calls fail than its threshold allows.",
            description=f"{self._who(self.by_process)} is closed with failures at"
            " {{ $value | humanizePercentage }} of its threshold.",
            board=dashboards.BREAKER,
            panel=panels.failure_share,
        )

    def _forced_state(self, severity: str, after: str) -> Alert:
        forced = f"{self._process_in(*BY_HAND)} > 0"
        age = (
            f"{_by('max', self.by_breaker)} (\n  {self._age}"
            f"\n  and on ({', '.join(self.by_process)}) {forced}\n)"
        )
        return Alert(
            stem="ForcedState",
            severity=severity,
            expression=f"{age} > {seconds(after)}",
            labels=self.by_breaker,
            summary="A breaker was opened or switched off by hand, and is so still.",
            description=f"{self._who(self.by_breaker)} has been forced open or disabled for"
            " {{ $value | humanizeDuration }}.",
            board=dashboards.BREAKER,
            panel=panels.state_now,
        )

    def _config_drift(self) -> Alert:
        policies = _by("count", (*self.by_breaker, catalogue.POLICY_HASH.name))
        return Alert(
            stem="ConfigDrift",
            severity=self.settings.info_severity,
            expression=f"{_by('count', self.by_breaker)} (\n  {policies}"
            f" ({self._select(catalogue.INFO)})\n) > 1",
            wait=self.settings.drift_for,
            labels=self.by_breaker,
            summary="The instances of one breaker run different policies.",
            description=f"{self._who(self.by_breaker)} runs"
            f" {{{{ $value }}}} different policies for {self.settings.drift_for} already.",
            board=dashboards.BREAKER,
            panel=panels.policies_and_versions,
        )

    # -- telemetry ---------------------------------------------------------------------------------

    def telemetry(self) -> Sequence[Alert]:
        """Whether all of the above can be believed."""
        job = self.config.job_label
        info = self._select(catalogue.INFO)
        look = self.settings.absent_lookback
        up = f"up{{{self.config.selector}}}" if self.config.selector else "up"
        dropped = self._select(catalogue.EVENTS_DROPPED)
        window = self.settings.dropped_window
        by_listener = (job, catalogue.LISTENER.name)
        return (
            Alert(
                stem="TelemetryAbsent",
                severity=self.settings.ticket_severity,
                expression=f"group by ({job}) (present_over_time({info}[{look}]))"
                f"\nunless on ({job}) group by ({job}) ({info})"
                f"\nand on ({job}) max by ({job}) ({up}) == 1",
                wait=self.settings.absent_for,
                labels=(job,),
                summary="A service runs, but the metrics of its breakers are gone.",
                description=f"{{{{ $labels.{job} }}}} is scraped without an error and has shown no"
                f" breaker for {self.settings.absent_for}. Within {look} it had some.",
                board=dashboards.TELEMETRY,
                panel=panels.processes_over_time,
            ),
            Alert(
                stem="EventsDropped",
                severity=self.settings.ticket_severity,
                expression=f"{_sum(by_listener, f'increase({dropped}[{window}])')} > 0",
                wait=self.settings.dropped_for,
                labels=by_listener,
                summary="A listener does not get all events: logs or exports have gaps.",
                description=f"The listener {{{{ $labels.{catalogue.LISTENER.name} }}}} of"
                f" {{{{ $labels.{job} }}}} missed"
                ' {{ $value | printf "%.0f" }} events within'
                f" {window}.",
                board=dashboards.TELEMETRY,
                panel=panels.dropped_by_listener,
            ),
        )

    def _who(self, labels: Sequence[str]) -> str:
        """The breaker in words, with the labels that the alert has."""
        instance = self.config.instance_label
        name = (
            f"Breaker {{{{ $labels.{self.breaker} }}}} of {{{{ $labels.{self.config.job_label} }}}}"
        )
        return f"{name} on {{{{ $labels.{instance} }}}}" if instance in labels else name


def _by(operation: str, labels: Sequence[str]) -> str:
    return f"{operation} by ({', '.join(labels)})"


def _sum(labels: Sequence[str], of: str) -> str:
    return f"{_by('sum', labels)} ({of})"


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
