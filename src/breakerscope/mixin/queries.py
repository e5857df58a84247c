"""PromQL, built from the catalogue: no query spells the name of a metric or of one of our labels.

A selector takes the filters of the dashboard's variables along. Each function is one question, and
its name says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from breakerscope import catalogue
from breakerscope.catalogue import Label, Metric
from breakerscope.core.events import Cause, Outcome, State
from breakerscope.mixin.config import MixinConfig
from breakerscope.telemetry.series import with_prefix

RATE = "$__rate_interval"
RANGE = "$__range"
STEP = "$__interval"

BREAKER_VARIABLE = "${breaker:regex}"
"""In a raw string, so that a quote in a name cannot end it. Grafana escapes the rest itself."""

SEVERITY: dict[State, int] = {
    State.CLOSED: 0,
    State.DISABLED: 1,
    State.HALF_OPEN: 2,
    State.OPEN: 3,
    State.FORCED_OPEN: 4,
}
"""The states as numbers: of many, the greatest is the one to look at."""

BY_HAND = (Cause.FORCE_OPEN, Cause.DISABLE, Cause.RESET, Cause.RELEASE, Cause.ADOPT)


def series_of(metric: Metric, prefix: str = "") -> tuple[str, ...]:
    """The names under which Prometheus stores a metric."""
    name = with_prefix(prefix, metric.name)
    if metric.kind is catalogue.Kind.HISTOGRAM:
        return tuple(name + suffix for suffix in ("_bucket", "_count", "_sum"))
    return (name,)


def equal(label: Label, value: str) -> tuple[Label, str, str]:
    """A matcher."""
    return (label, "=", value)


def differs(label: Label, value: str) -> tuple[Label, str, str]:
    """A matcher."""
    return (label, "!=", value)


def one_of(label: Label, values: Iterable[str]) -> tuple[Label, str, str]:
    """A matcher."""
    return (label, "=~", "|".join(values))


class Queries:
    """The queries of the dashboards for one configuration."""

    def __init__(self, config: MixinConfig) -> None:
        self.config = config
        self.job = config.job_label
        self.instance = config.instance_label
        self.breaker = catalogue.BREAKER.name

    # -- the parts ---------------------------------------------------------------------------------

    def select(self, metric: Metric, *matchers: tuple[Label, str, str], suffix: str = "") -> str:
        """The series of a metric that the variables of the dashboard choose."""
        for label, _, _ in matchers:
            if label not in metric.labels:
                raise ValueError(f"{metric.name} has no label {label.name}")
        parts = [self._chosen()]
        if catalogue.BREAKER in metric.labels:
            parts.append(f"{self.breaker}=~`{BREAKER_VARIABLE}`")
        parts += [f'{label.name}{operator}"{value}"' for label, operator, value in matchers]
        return f"{self._name(metric)}{suffix}{{{', '.join(parts)}}}"

    def _name(self, metric: Metric) -> str:
        return with_prefix(self.config.metric_prefix, metric.name)

    def _chosen(self) -> str:
        variables = f'{self.job}=~"$job", {self.instance}=~"$instance"'
        return f"{self.config.selector}, {variables}" if self.config.selector else variables

    def _rate(self, selector: str) -> str:
        return f"rate({selector}[{RATE}])"

    def _calls(self, *matchers: tuple[Label, str, str]) -> str:
        return self.select(catalogue.CALLS, *matchers)

    def _refused(self) -> str:
        return self._calls(equal(catalogue.OUTCOME, Outcome.REJECTED))

    def _state(self, state: State) -> str:
        return self.select(catalogue.STATE_NOW, equal(catalogue.STATE, state))

    @property
    def by_breaker(self) -> str:
        """For `sum by`: one value for each breaker of each service."""
        return f"{self.job}, {self.breaker}"

    @property
    def by_instance(self) -> str:
        """For `sum by`: one value for each process."""
        return f"{self.job}, {self.instance}"

    # -- the variables -----------------------------------------------------------------------------

    def jobs(self) -> str:
        """The services that have breakers."""
        of = f"{{{self.config.selector}}}" if self.config.selector else ""
        return f"label_values({self._name(catalogue.INFO)}{of}, {self.job})"

    def instances(self) -> str:
        """Their processes."""
        parts = [self.config.selector] if self.config.selector else []
        of = ", ".join([*parts, f'{self.job}=~"$job"'])
        return f"label_values({self._name(catalogue.INFO)}{{{of}}}, {self.instance})"

    def breakers(self) -> str:
        """Their breakers."""
        return f"label_values({self._name(catalogue.INFO)}{{{self._chosen()}}}, {self.breaker})"

    # -- states ------------------------------------------------------------------------------------
    #
    # The series of a state is 1 or 0, but with several workers behind one address it says how many
    # of them are in it. So nothing is added up before it is made 1 or 0.

    def worst_state(self, by: str) -> str:
        """The most severe state as a number, see SEVERITY. A short one is not lost between two
        points: each stands for the whole step.
        """
        return self._most_severe(by, lambda state: f"max_over_time({state}[{STEP}]) or {state}")

    def state_now(self, by: str) -> str:
        """The most severe state at this moment as a number."""
        return self._most_severe(by, str)

    def _most_severe(self, by: str, over: Callable[[str], str]) -> str:
        parts = [
            f"{SEVERITY[state]} * (({over(self._state(state))}) > bool 0)"
            for state in sorted(SEVERITY, key=SEVERITY.__getitem__)[1:]
        ]
        return f"max by ({by}) ({' or '.join(parts)})"

    def _not_closed(self) -> str:
        """1 for each breaker of each process that is not closed, 0 for the others."""
        others = self.select(catalogue.STATE_NOW, differs(catalogue.STATE, State.CLOSED))
        return f"max by ({self.by_instance}, {self.breaker}) ({others} > bool 0)"

    def breakers_not_closed(self) -> str:
        """How many breakers are not closed in at least one process."""
        return f"sum(max by ({self.by_breaker}) ({self._not_closed()}))"

    def instances_not_closed(self, by: str) -> str:
        """In how many processes a breaker is not closed."""
        return f"sum by ({by}) ({self._not_closed()})"

    def _last_closed(self) -> str:
        """The unix time at which each breaker was last seen closed; the first time it was seen at
        all, if it never was.
        """
        window = f"[{RANGE}:{STEP}]"
        return (
            f"max_over_time(timestamp({self._not_closed()} == 0){window})"
            f" or min_over_time(timestamp({self._not_closed()}){window})"
        )

    def not_closed_since(self) -> str:
        """When a breaker that is not closed now was last closed, in unix milliseconds."""
        return (
            f"1000 * min by ({self.by_breaker})"
            f" (({self._last_closed()}) and {self._not_closed()} == 1)"
        )

    def not_closed_for(self) -> str:
        """The seconds since a breaker was last closed: 0 for a closed one."""
        return f"max((time() - ({self._last_closed()})) * {self._not_closed()})"

    def state_entered(self) -> str:
        """When each process entered its present state, in unix milliseconds, with the state."""
        labels = f"{self.by_instance}, {self.breaker}"
        return (
            f"1000 * {self.select(catalogue.STATE_ENTERED)} * on ({labels})"
            f" group_right () (({self.select(catalogue.STATE_NOW)} > bool 0) == 1)"
        )

    def share_of_time(self) -> str:
        """The share of time spent in each state, over all processes."""
        state = catalogue.STATE.name
        rate = self._rate(self.select(catalogue.STATE_SECONDS))
        return f"sum by ({state}) ({rate}) / ignoring ({state}) group_left () sum({rate})"

    def transitions_by_cause(self) -> str:
        """Changes of state per minute, by their cause."""
        rate = self._rate(self.select(catalogue.TRANSITIONS))
        return f"60 * sum by ({catalogue.CAUSE.name}) ({rate})"

    def _changed(self, *matchers: tuple[Label, str, str]) -> str:
        changes = self.select(catalogue.TRANSITIONS, *matchers)
        by = f"{self.by_breaker}, {catalogue.CAUSE.name}"
        return f"sum by ({by}) (increase({changes}[{RATE}])) > 0"

    def opened(self) -> str:
        """Where a closed breaker opened by itself."""
        return self._changed(
            equal(catalogue.FROM_STATE, State.CLOSED), equal(catalogue.TO_STATE, State.OPEN)
        )

    def closed_again(self) -> str:
        """Where a breaker closed by itself."""
        return self._changed(
            equal(catalogue.TO_STATE, State.CLOSED),
            equal(catalogue.CAUSE, Cause.PROBES_SUCCEEDED),
        )

    def changed_by_hand(self) -> str:
        """Where somebody changed the state."""
        return self._changed(one_of(catalogue.CAUSE, BY_HAND))

    # -- calls -------------------------------------------------------------------------------------

    def calls_by_outcome(self) -> str:
        """Calls per second, by how they ended."""
        return f"sum by ({catalogue.OUTCOME.name}) ({self._rate(self._calls())})"

    def calls_per_second(self) -> str:
        """Calls per second, all together."""
        return f"sum({self._rate(self._calls())})"

    def rejected(self, by: str = "") -> str:
        """Refused calls in the time range of the dashboard."""
        grouped = f"by ({by}) " if by else ""
        return f"sum {grouped}(increase({self._refused()}[{RANGE}]))"

    def most_rejected(self) -> str:
        """The breakers with the most refused calls."""
        return f"topk({self.config.top}, {self.rejected(self.by_breaker)})"

    def rejected_share(self, by: str = "") -> str:
        """The share of calls that were refused."""
        grouped = f"by ({by}) " if by else ""
        refused = f"sum {grouped}({self._rate(self._refused())})"
        return f"{refused} / sum {grouped}({self._rate(self._calls())})"

    def in_flight(self) -> str:
        """Calls that were admitted and have not ended, in each process."""
        return f"sum by ({self.by_instance}) ({self.select(catalogue.IN_FLIGHT)})"

    def in_flight_now(self) -> str:
        """The same, all together."""
        return f"sum({self.select(catalogue.IN_FLIGHT)})"

    def slow_calls(self) -> str:
        """Slow calls per second."""
        return f"sum by ({self.by_instance}) ({self._rate(self.select(catalogue.SLOW_CALLS))})"

    def fallbacks(self) -> str:
        """Fallbacks per second, by what they stood in for."""
        rate = self._rate(self.select(catalogue.FALLBACKS))
        return f"sum by ({catalogue.FALLBACK_OUTCOME.name}) ({rate})"

    def would_reject(self) -> str:
        """Calls per second that a policy in shadow mode would have refused."""
        return f"sum by ({self.by_breaker}) ({self._rate(self.select(catalogue.WOULD_REJECT))})"

    def duration_quantile(self, quantile: float) -> str:
        """The time below which this share of the calls lies, in seconds."""
        return f"histogram_quantile({quantile:g}, {self.duration_buckets()})"

    def duration_buckets(self) -> str:
        """Calls per second in each bucket of durations."""
        buckets = self.select(catalogue.CALL_DURATION, suffix="_bucket")
        return f"sum by (le) ({self._rate(buckets)})"

    # -- policies ----------------------------------------------------------------------------------

    def nearness(self, ratio: Metric, threshold: Metric) -> str:
        """How much of its threshold a ratio has reached: 1 opens the breaker."""
        return f"max by ({self.by_breaker}) ({self.select(ratio)} / {self.select(threshold)})"

    def worst(self, metric: Metric, by: str) -> str:
        """The greatest value of a gauge."""
        return f"max by ({by}) ({self.select(metric)})"

    def lowest(self, metric: Metric) -> str:
        """The smallest value of a gauge."""
        return f"min({self.select(metric)})"

    def policies(self) -> str:
        """How many different policies the processes run."""
        policy = catalogue.POLICY_HASH.name
        return f"count(count by ({policy}) ({self.select(catalogue.INFO)}))"

    def processes_by_policy(self) -> str:
        """How many processes run which policy and version."""
        labels = f"{catalogue.POLICY_HASH.name}, {catalogue.VERSION.name}"
        return f"count by ({labels}) ({self.select(catalogue.INFO)})"

    # -- the telemetry itself ----------------------------------------------------------------------

    def processes(self) -> str:
        """How many processes report."""
        return f"count(count by ({self.by_instance}) ({self.select(catalogue.INFO)}))"

    def processes_by_job(self) -> str:
        """How many processes of each service report."""
        of_one = f"count by ({self.by_instance}) ({self.select(catalogue.INFO)})"
        return f"count by ({self.job}) ({of_one})"

    def processes_by_version(self) -> str:
        """How many processes run which version of the library."""
        version = catalogue.VERSION.name
        of_one = f"count by ({self.by_instance}, {version}) ({self.select(catalogue.INFO)})"
        return f"count by ({self.job}, {version}) ({of_one})"

    def breakers_known(self) -> str:
        """How many breakers there are."""
        return f"count(count by ({self.by_breaker}) ({self.select(catalogue.INFO)}))"

    def age(self, by: str) -> str:
        """The seconds since the last scrape."""
        return f"max by ({by}) (time() - timestamp({self.select(catalogue.INFO)}))"

    def oldest(self) -> str:
        """The seconds since the last scrape of the process that waits longest."""
        return f"max(time() - timestamp({self.select(catalogue.INFO)}))"

    def _all_series(self) -> str:
        prefix = self.config.metric_prefix
        names = "|".join(name for each in catalogue.METRICS for name in series_of(each, prefix))
        return f'{{{self._chosen()}, __name__=~"{names}"}}'

    def series(self) -> str:
        """How many series the library brings."""
        return f"count({self._all_series()})"

    def series_by_name(self) -> str:
        """How many series each metric has, the most first."""
        return f"topk({self.config.top}, count by (__name__) ({self._all_series()}))"

    def lost(self, metric: Metric) -> str:
        """Events lost, or errors, per second: by listener."""
        by = f"{self.by_instance}, {catalogue.LISTENER.name}"
        return f"sum by ({by}) ({self._rate(self.select(metric))})"

    def lost_in_range(self, metric: Metric) -> str:
        """Events lost, or errors, in the time range of the dashboard."""
        return f"sum(increase({self.select(metric)}[{RANGE}]))"

    def calls_without_duration(self) -> str:
        """Settled calls that the histogram does not know: 0, or something is wrong."""
        settled = self._calls(differs(catalogue.OUTCOME, Outcome.REJECTED))
        observed = self.select(catalogue.CALL_DURATION, suffix="_count")
        by = self.by_instance
        return f"sum by ({by}) ({self._rate(settled)}) - sum by ({by}) ({self._rate(observed)})"
