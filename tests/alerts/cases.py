"""The rule tests: each alert fires at least once and keeps quiet at least twice, on purpose.

Values lie a quarter above or a fifth below a threshold, and no time is asked at the edge of a
window: whether that belongs to it differs between Prometheus 2.42 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tests.alerts.promtool import Case, Firing

BREAKER = {"job": "shop", "breaker": "pay & go"}
PROCESS = {"job": "shop", "instance": "a:1", "breaker": "pay & go"}
GRAFANA = "http://localhost:3000/d"
ONE_BREAKER = f"{GRAFANA}/breakerscope-breaker?var-job=shop&var-breaker=pay+%26+go"
ONE_PROCESS = (
    f"{GRAFANA}/breakerscope-breaker?var-job=shop&var-instance=a%3A1&var-breaker=pay+%26+go"
)
TELEMETRY = f"{GRAFANA}/breakerscope-telemetry?var-job=shop"
WHO = "Breaker pay & go of shop"
WHERE = f"{WHO} on a:1"


def labelled(name: str, labels: Mapping[str, str], **more: str) -> str:
    """A series as Prometheus writes it."""
    pairs = ", ".join(f'{key}="{value}"' for key, value in {**labels, **more}.items())
    return f"{name}{{{pairs}}}"


def recorded(what: str) -> str:
    """What the recording rules have made of a breaker."""
    return labelled(f"job_breaker:circuit_breaker_{what}", BREAKER)


def recorded_of_process(what: str) -> str:
    return labelled(f"job_instance_breaker:circuit_breaker_{what}", PROCESS)


def state(name: str, **more: str) -> str:
    return labelled("circuit_breaker_state", {**PROCESS, **more}, state=name)


def gauge(name: str, **more: str) -> str:
    return labelled(f"circuit_breaker_{name}", {**PROCESS, **more})


def fires(
    labels: Mapping[str, str],
    severity: str,
    runbook: str,
    board: str,
    panel: int,
    summary: str,
    description: str,
) -> Sequence[Firing]:
    """The one alert that fires, with everything it says."""
    return [
        Firing(
            {**labels, "severity": severity},
            {
                "summary": summary,
                "description": description,
                "runbook_url": f"docs/runbooks/{runbook}.md",
                "dashboard_url": board,
                "panel_url": f"{board}&viewPanel={panel}",
            },
        )
    ]


NOBODY: Sequence[Firing] = []

# -- a dependency is down --------------------------------------------------------------------------


def _fleet(share: str) -> Sequence[Firing]:
    return fires(
        BREAKER, "critical", "TrippedFleetWide", ONE_BREAKER, 8,
        "A dependency is down for most instances, and calls to it are refused.",
        f"{WHO} is open or half-open in {share} of its instances.",
    )  # fmt: skip


def fleet(name: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    series = {"tripped": "0x9 0.625x60", "calls": "0.125x80", "refused": "0.02x80"} | other
    return Case(
        name,
        "CircuitBreakerTrippedFleetWide",
        {
            recorded("tripped:ratio"): series["tripped"],
            recorded("calls:rate5m"): series["calls"],
            recorded("rejected:rate5m"): series["refused"],
        },
        fired,
    )


FLEET = (
    fleet("most are down", {"11m": NOBODY, "13m": _fleet("62.5%"), "60m": _fleet("62.5%")}),
    fleet(
        "most were down",
        {"19m": _fleet("62.5%"), "24m": _fleet("62.5%"), "29m": NOBODY},
        tripped="0x9 0.625x10 0x40",
    ),
    fleet("two of five", {"40m": NOBODY}, tripped="0x9 0.4x60"),
    fleet("hardly a call", {"40m": NOBODY}, calls="0.08x80"),
    fleet("shadow mode refuses nothing", {"40m": NOBODY}, refused="0x80"),
)

# -- users are refused -----------------------------------------------------------------------------


def _burn(share: str, *, slow: bool = False) -> Sequence[Firing]:
    if slow:
        return fires(
            BREAKER, "warning", "RejectionBudgetBurnSlow", ONE_BREAKER, 5,
            "Calls are refused slowly but steadily, more than the objective allows.",
            f"{WHO} refused {share} of its calls over days. The objective allows 0.1%.",
        )  # fmt: skip
    return fires(
        BREAKER, "critical", "RejectionBudgetBurn", ONE_BREAKER, 5,
        "So many calls are refused that the error budget will soon be gone.",
        f"{WHO} refused {share} of its calls. The objective allows 0.1%.",
    )  # fmt: skip


def burn(name: str, windows: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    """The budget burns from minute 90 or 390, or from hour 30 or 80 on."""
    long, short = windows.split()
    quiet, burning, calls, interval = {
        "1h": ("0x89", "0.018x80", "0.035x180", "1m"),
        "6h": ("0x77", "0.0075x20", "0.0058x100", "5m"),
        "1d": ("0x119", "0.00375x20", "0.00145x140", "15m"),
        "3d": ("0x79", "0.00125x9", "0.00049x90", "1h"),
    }[long]
    slow = long in {"1d", "3d"}
    series = {
        "long": f"{quiet} {burning}",
        "short": f"{quiet} {burning}",
        "calls": calls,
        "refusing": "0.3125x480",
    } | other
    return Case(
        f"{windows}: {name}",
        "CircuitBreakerRejectionBudgetBurn" + "Slow" * slow,
        {
            recorded(f"rejected:ratio_rate{long}"): series["long"],
            recorded(f"rejected:ratio_rate{short}"): series["short"],
            recorded("calls:rate5m"): series["calls"],
            **({} if slow else {recorded("refusing:ratio"): series["refusing"]}),
        },
        fired,
        interval=interval,
    )


LENGTH = {"1h": 3600, "6h": 21600, "1d": 86400, "3d": 259200}
RATIO = {"1h": "0.018", "6h": "0.0075", "1d": "0.00375", "3d": "0.00125"}
SHARE = {"1h": "1.8%", "6h": "0.75%", "1d": "0.375%", "3d": "0.125%"}


def windows_of(windows: str) -> Iterator[Case]:
    """How far back a burning budget looks, asked after two of its long windows."""
    long = windows.split(maxsplit=1)[0]
    steps, seconds = 40, LENGTH[long]
    fired = _burn(SHARE[long], slow=long in {"1d", "3d"})

    def calls(*parts: tuple[float, float | None]) -> str:
        """How many windows long, and how many calls in a whole window there would be."""
        return " ".join(
            f"_x{round(part * steps) - 1}"
            if count is None
            else f"{count / seconds:.9f}x{round(part * steps) - 1}"
            for part, count in parts
        )

    for name, expected, volume in (
        ("the calls were before it", NOBODY, calls((0.85, 1000), (1.3, 80))),
        ("most calls came early", fired, calls((1.05, 40), (0.2, 1000), (1, 40))),
        ("was away", NOBODY, calls((0.9, 200), (0.7, None), (0.6, 200))),
        ("was there early, then away", fired, calls((1.1, 200), (0.5, None), (0.6, 200))),
    ):
        burning = f"{RATIO[long]}x{3 * steps}"
        at = {f"{2 * seconds}s": expected}
        case = burn(name, windows, at, long=burning, short=burning, calls=volume)
        yield replace(case, interval=f"{seconds // steps}s")


BURN = (
    burn("burns", "1h 5m", {"91m": NOBODY, "93m": _burn("1.8%"), "150m": _burn("1.8%")}),
    burn("is over", "1h 5m", {"150m": NOBODY}, short="0x89 0.018x20 0.0115x80"),
    burn("too short", "1h 5m", {"150m": NOBODY}, long="0.0115x180"),
    burn("few calls", "1h 5m", {"150m": NOBODY}, calls="0.022x180"),
    burn("one of five", "1h 5m", {"150m": NOBODY}, refusing="0.2x180"),
    burn(
        "a new breaker",
        "1h 5m",
        {"100m": NOBODY, "115m": NOBODY, "140m": _burn("1.8%")},
        calls="_x89 0.05x90",
    ),
    burn("burns", "6h 30m", {"390m": NOBODY, "395m": _burn("0.75%"), "450m": _burn("0.75%")}),
    burn("is over", "6h 30m", {"450m": NOBODY}, short="0x77 0.0075x2 0.0048x20"),
    burn("too short", "6h 30m", {"450m": NOBODY}, long="0.0048x100"),
    burn("few calls", "6h 30m", {"450m": NOBODY}, calls="0.0037x100"),
    burn("one of five", "6h 30m", {"450m": NOBODY}, refusing="0.2x100"),
    burn("a new breaker", "6h 30m", {"450m": NOBODY}, calls="_x77 0.05x20"),
    *windows_of("1h 5m"),
    *windows_of("6h 30m"),
)
BURN_SLOW = (
    burn("burns", "1d 2h", {"30h": NOBODY, "1815m": _burn("0.375%", slow=True)}),
    burn("is over", "1d 2h", {"32h": NOBODY}, short="0x119 0.00375x2 0.0024x20"),
    burn("too short", "1d 2h", {"32h": NOBODY}, long="0.0024x140"),
    burn("few calls", "1d 2h", {"32h": NOBODY}, calls="0.00092x140"),
    burn("a new breaker", "1d 2h", {"32h": NOBODY}, calls="_x119 0.05x20"),
    burn("burns", "3d 6h", {"80h": NOBODY, "81h": _burn("0.125%", slow=True)}),
    burn("is over", "3d 6h", {"82h": NOBODY}, short="0x79 0.00125x0 0.0008x9"),
    burn("too short", "3d 6h", {"82h": NOBODY}, long="0.0008x90"),
    burn("few calls", "3d 6h", {"82h": NOBODY}, calls="0.0003x90"),
    burn("a new breaker", "3d 6h", {"82h": NOBODY}, calls="_x79 0.05x9"),
    *windows_of("1d 2h"),
    *windows_of("3d 6h"),
)

# -- single instances ------------------------------------------------------------------------------

_TRIPPED = fires(
    PROCESS, "warning", "Tripped", ONE_PROCESS, 8,
    "A breaker does not close again, in few instances or with little traffic.",
    f"{WHERE} has not been closed for 10m, and it refuses calls.",
)  # fmt: skip


def tripped(name: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    cycle = " ".join(["1x2 0x0"] * 20)
    probes = " ".join(["0x2 1x0"] * 20)
    series = {
        "closed": "1x9 0x80",
        "open": f"0x9 {cycle}",
        "half_open": f"0x9 {probes}",
        "refused": "0.01x90",
        "share": "0.2x90",
        "calls": "0.5x90",
    } | other
    return Case(
        name,
        "CircuitBreakerTripped",
        {
            **{state(each): series[each] for each in ("closed", "open", "half_open")},
            recorded_of_process("rejected:rate5m"): series["refused"],
            recorded("tripped:ratio"): series["share"],
            recorded("calls:rate5m"): series["calls"],
        },
        fired,
    )


TRIPPED = (
    tripped("one, with probes", {"15m": NOBODY, "22m": _TRIPPED, "60m": _TRIPPED}),
    tripped(
        "was open",
        {"30m": _TRIPPED, "33m": _TRIPPED, "38m": NOBODY},
        open="0x9 1x20 0x60",
        half_open="0x90",
    ),
    tripped("workers of one host", {"22m": _TRIPPED}, open="0x9 2x80", half_open="0x90"),
    tripped("two of five", {"40m": _TRIPPED}, share="0.4x90"),
    tripped("all, hardly a call", {"40m": _TRIPPED}, share="1x90", calls="0.08x90"),
    tripped("all are down", {"40m": NOBODY}, share="0.625x90", calls="0.125x90"),
    tripped("closed", {"40m": NOBODY}, open="0x90", half_open="0x90"),
    tripped("nobody asks", {"40m": NOBODY}, refused="0x90"),
)


def _stuck_open(age: str) -> Sequence[Firing]:
    return fires(
        PROCESS, "warning", "StuckOpen", ONE_PROCESS, 15,
        "An open breaker refuses calls and does not let a probe through.",
        f"{WHERE} has been open for {age}, more than 3 times the wait after which it should try.",
    )  # fmt: skip


def stuck_open(name: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    series = {"wait": "400x60", "open": "1x60", "refused": "0.1x60", "interval": "1m"} | other
    return Case(
        name,
        "CircuitBreakerStuckOpen",
        {
            gauge("state_entered_timestamp_seconds"): "0x60",
            gauge("open_wait_seconds"): series["wait"],
            state("open"): series["open"],
            state("half_open"): "1x60",
            recorded_of_process("rejected:rate5m"): series["refused"],
        },
        fired,
        interval=series["interval"],
    )


STUCK_OPEN = (
    stuck_open("long", {"18m": NOBODY, "27m": NOBODY, "29m": _stuck_open("29m 0s")}),
    stuck_open(
        "a short wait",
        {"465s": NOBODY, "480s": NOBODY, "510s": _stuck_open("8m 30s")},
        wait="1x60",
        interval="15s",
    ),
    stuck_open("half-open", {"40m": NOBODY}, open="0x60"),
    stuck_open("nobody asks", {"40m": NOBODY}, refused="0x60"),
    # The rate forgets after five minutes, and what is recorded is a minute old.
    stuck_open(
        "nobody asks since", {"6m": NOBODY, "9m": NOBODY}, refused="0.1x6 0x60", wait="1x60"
    ),
)


def _stuck_half_open(age: str) -> Sequence[Firing]:
    return fires(
        PROCESS, "warning", "StuckHalfOpen", ONE_PROCESS, 19,
        "A half-open breaker refuses calls and its probes do not end.",
        f"{WHERE} has been half-open for {age}.",
    )  # fmt: skip


def stuck_half_open(name: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    series = {"half_open": "1x60", "refused": "0.1x60"} | other
    return Case(
        name,
        "CircuitBreakerStuckHalfOpen",
        {
            gauge("state_entered_timestamp_seconds"): "0x60",
            state("open"): "1x60",
            state("half_open"): series["half_open"],
            recorded_of_process("rejected:rate5m"): series["refused"],
        },
        fired,
    )


STUCK_HALF_OPEN = (
    stuck_half_open("long", {"10m": NOBODY, "12m": _stuck_half_open("12m 0s")}),
    stuck_half_open("open", {"40m": NOBODY}, half_open="0x60"),
    stuck_half_open("nobody asks", {"40m": NOBODY}, refused="0x60"),
)

_FLAPPING = fires(
    PROCESS, "warning", "Flapping", ONE_PROCESS, 13,
    "A breaker opens and closes again and again.",
    f"{WHERE} opened 5 times within 30m.",
)  # fmt: skip


def flapping(name: str, fired: Mapping[str, Sequence[Firing]], **counts: str) -> Case:
    changes = {"closed open": "0x99", "half_open open": "0x99", "closed half_open": "0x99"}
    changes |= {key.replace("__", " "): value for key, value in counts.items()}
    return Case(
        name,
        "CircuitBreakerFlapping",
        {
            labelled(
                "circuit_breaker_transitions_total",
                PROCESS,
                from_state=key.split()[0],
                to_state=key.split()[1],
                cause="failure_rate",
            ): value
            for key, value in changes.items()
        },
        fired,
        every="50s",
    )


FLAPPING = (
    flapping(
        "five times",
        {"1150s": NOBODY, "35m": _FLAPPING, "60m": _FLAPPING, "72m": NOBODY},
        closed__open="0x19 5x99",
    ),
    flapping("three times", {"35m": NOBODY}, closed__open="0x19 3x99"),
    flapping("one outage, many probes", {"35m": NOBODY}, half_open__open="0+1x99"),
    flapping("other changes from closed", {"35m": NOBODY}, closed__half_open="0+1x99"),
    flapping("a restart", {"35m": NOBODY}, closed__open="40x19 0x99"),
)

# -- before it opens, and where it does not --------------------------------------------------------


def _near(share: str) -> Sequence[Firing]:
    return fires(
        BREAKER, "info", "NearThreshold", ONE_BREAKER, 10,
        "A breaker is about to open: many calls fail.",
        f"The failures of {WHO} have reached {share} of the threshold that opens it.",
    )  # fmt: skip


def _slow(share: str) -> Sequence[Firing]:
    return fires(
        BREAKER, "warning", "SlowCalls", ONE_BREAKER, 11,
        "A dependency is so slow that its breaker is about to open.",
        f"The slow calls of {WHO} have reached {share} of the threshold that opens it.",
    )  # fmt: skip


def near(name: str, alert: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    series = {"ratio": "0.1x9 0.45x60", "closed": "3x80", "calls": "0.125x80"} | other
    of = "slow_call_ratio" if alert == "SlowCalls" else "failure_ratio"
    return Case(
        name,
        f"CircuitBreaker{alert}",
        {
            gauge(of): series["ratio"],
            gauge(f"{of}_threshold"): "0.5x80",
            state("closed"): series["closed"],
            state("open"): "1x80",
            # Another process, that is fine.
            gauge(of, instance="b:1"): "0.01x80",
            gauge(f"{of}_threshold", instance="b:1"): "0.5x80",
            state("closed", instance="b:1"): "1x80",
            recorded("calls:rate5m"): series["calls"],
        },
        fired,
    )


NEAR = (
    near("near", "NearThreshold", {"13m": NOBODY, "17m": _near("90%"), "60m": _near("90%")}),
    near("far", "NearThreshold", {"40m": NOBODY}, ratio="0.35x80"),
    near("not closed", "NearThreshold", {"40m": NOBODY}, closed="0x80"),
    near("hardly a call", "NearThreshold", {"40m": NOBODY}, calls="0.08x80"),
)
SLOW = (
    near("slow", "SlowCalls", {"15m": NOBODY, "22m": _slow("90%"), "60m": _slow("90%")}),
    near("quick", "SlowCalls", {"40m": NOBODY}, ratio="0.35x80"),
    near("not closed", "SlowCalls", {"40m": NOBODY}, closed="0x80"),
    near("hardly a call", "SlowCalls", {"40m": NOBODY}, calls="0.08x80"),
)

_SHOULD = fires(
    PROCESS, "warning", "ShouldHaveOpened", ONE_PROCESS, 10,
    "A breaker stays closed although more calls fail than its threshold allows.",
    f"{WHERE} is closed with failures at 125% of its threshold.",
)  # fmt: skip


def should(name: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    series = {"ratio": "0.1x9 0.625x60", "closed": "4x80", "open": "0x80", "calls": "0.125x80"}
    series |= other
    return Case(
        name,
        "CircuitBreakerShouldHaveOpened",
        {
            gauge("failure_ratio"): series["ratio"],
            gauge("failure_ratio_threshold"): "0.5x80",
            state("closed"): series["closed"],
            state("open"): series["open"],
            recorded_of_process("calls:rate5m"): series["calls"],
        },
        fired,
    )


SHOULD = (
    should("stays closed", {"13m": NOBODY, "17m": _SHOULD, "60m": _SHOULD}),
    should("below", {"40m": NOBODY}, ratio="0.4x80"),
    should("one of four workers is open", {"40m": NOBODY}, open="1x80", closed="3x80"),
    should("no worker uses it", {"40m": NOBODY}, closed="0x80"),
    should("hardly a call", {"40m": NOBODY}, calls="0.08x80"),
)

# -- people, rollouts, telemetry -------------------------------------------------------------------


def _forced(age: str, *severities: str) -> Sequence[Firing]:
    return [
        firing
        for severity in severities
        for firing in fires(
            BREAKER, severity, "ForcedState", ONE_BREAKER, 2,
            "A breaker was opened or switched off by hand, and is so still.",
            f"{WHO} has been forced open or disabled for {age}.",
        )
    ]  # fmt: skip


def forced(name: str, fired: Mapping[str, Sequence[Firing]], **states: str) -> Case:
    series = {"forced_open": "0x400", "disabled": "0x400", "open": "0x400"} | states
    return Case(
        name,
        "CircuitBreakerForcedState",
        {
            gauge("state_entered_timestamp_seconds"): "0x400",
            **{state(each): values for each, values in series.items()},
        },
        fired,
        interval="5m",
    )


FORCED = (
    forced(
        "open by hand",
        {
            "50m": NOBODY,
            "75m": _forced("1h 15m 0s", "info"),
            "20h": _forced("20h 0m 0s", "info"),
            "30h": _forced("1d 6h 0m 0s", "info", "warning"),
        },
        forced_open="1x400",
    ),
    forced("off by hand", {"75m": _forced("1h 15m 0s", "info")}, disabled="2x400"),
    forced("open by itself", {"30h": NOBODY}, open="1x400"),
    forced("nothing", {"30h": NOBODY}),
)

_DRIFT = fires(
    BREAKER, "info", "ConfigDrift", ONE_BREAKER, 24,
    "The instances of one breaker run different policies.",
    f"{WHO} runs 2 different policies for 30m already.",
)  # fmt: skip


def info(policy: str, **more: str) -> str:
    return labelled(
        "circuit_breaker_info", {**PROCESS, **more}, policy_hash=policy, version="0.1.0"
    )


def drift(name: str, fired: Mapping[str, Sequence[Firing]], series: Mapping[str, str]) -> Case:
    return Case(name, "CircuitBreakerConfigDrift", series, fired)


DRIFT = (
    drift(
        "two policies",
        {"30m": NOBODY, "45m": _DRIFT},
        {info("aaaa"): "1x80", info("bbbb", instance="b:1"): "_x9 1x80"},
    ),
    drift(
        "one policy",
        {"60m": NOBODY},
        {info("aaaa"): "1x80", info("aaaa", instance="b:1"): "1x80"},
    ),
    drift(
        "two breakers",
        {"60m": NOBODY},
        {info("aaaa"): "1x80", info("bbbb", breaker="other"): "1x80"},
    ),
    drift(
        "a rollout",
        {"20m": NOBODY, "60m": NOBODY},
        {info("aaaa"): "1x25 stale", info("bbbb", instance="b:1"): "_x9 1x80"},
    ),
)

_ABSENT = fires(
    {"job": "shop"}, "warning", "TelemetryAbsent", TELEMETRY, 9,
    "A service runs, but the metrics of its breakers are gone.",
    "shop is scraped without an error and has shown no breaker for 10m. Within 1d it had some.",
)  # fmt: skip


def absent(name: str, fired: Mapping[str, Sequence[Firing]], **other: str) -> Case:
    series = {"a": "1x10 stale", "b": "1x10 stale", "up_a": "1x80", "up_b": "0x80"}
    series |= {"interval": "1m"} | other
    return Case(
        name,
        "CircuitBreakerTelemetryAbsent",
        {
            info("aaaa"): series["a"],
            info("aaaa", instance="b:1"): series["b"],
            labelled("up", {"job": "shop", "instance": "a:1"}): series["up_a"],
            labelled("up", {"job": "shop", "instance": "b:1"}): series["up_b"],
        },
        fired,
        interval=series["interval"],
    )


ABSENT = (
    absent("gone", {"15m": NOBODY, "25m": _ABSENT, "60m": _ABSENT}),
    absent("forgotten after a day", {"23h": _ABSENT, "40h": NOBODY}, interval="30m"),
    absent("one has them", {"40m": NOBODY}, b="1x80"),
    absent("the service is down", {"40m": NOBODY}, up_a="0x80"),
    absent("the service is gone", {"40m": NOBODY}, up_a="1x10 stale", up_b="1x10 stale"),
)

_DROPPED = fires(
    {"job": "shop", "listener": "otlp"}, "warning", "EventsDropped", f"{TELEMETRY}", 14,
    "A listener does not get all events: logs or exports have gaps.",
    "The listener otlp of shop missed 5370 events within 10m.",
)  # fmt: skip


def dropped(name: str, fired: Mapping[str, Sequence[Firing]], values: str) -> Case:
    series = labelled(
        "circuit_breaker_events_dropped_total",
        {"job": "shop", "instance": "a:1"},
        listener="otlp",
    )
    return Case(name, "CircuitBreakerEventsDropped", {series: values}, fired, every="50s")


DROPPED = (
    dropped(
        "lost all the time", {"850s": NOBODY, "1000s": _DROPPED, "1850s": NOBODY}, "0x10 5000x60"
    ),
    dropped("nothing lost", {"850s": NOBODY, "1250s": NOBODY}, "0x90"),
    dropped("a restart", {"1250s": NOBODY}, "500x10 0x60"),
)

CASES: tuple[Case, ...] = (
    *FLEET, *BURN, *BURN_SLOW, *TRIPPED, *STUCK_OPEN, *STUCK_HALF_OPEN, *FLAPPING, *NEAR, *SLOW,
    *SHOULD, *FORCED, *DRIFT, *ABSENT, *DROPPED,
)  # fmt: skip

# -- recording rules -------------------------------------------------------------------------------


def _processes() -> Mapping[str, str]:
    """Three processes with 2 calls per second each; two of them refuse one of four. In the last
    minutes there is no call.
    """
    found: dict[str, str] = {}
    for instance, refused in (("a:1", 30), ("b:1", 30), ("c:1", 0)):
        for outcome, step in (("success", 120 - refused), ("rejected", refused)):
            name = labelled(
                "circuit_breaker_calls_total", {**PROCESS, "instance": instance}, outcome=outcome
            )
            found[name] = f"0+{step}x18 {18 * step}x12"
    states = {"a:1": ("open", 1), "b:1": ("half_open", 1), "c:1": ("closed", 4)}
    for instance, (now, count) in states.items():
        for each in ("closed", "open", "half_open", "forced_open", "disabled"):
            found[state(each, instance=instance)] = f"{count if each == now else 0}x30"
    # Another one, open by hand, that nobody calls.
    found[state("forced_open", instance="d:1", breaker="other")] = "1x30"
    found[state("open", instance="d:1", breaker="other")] = "0x30"
    return found


def _recording() -> Case:
    name = "job_breaker:circuit_breaker_{}{{breaker='pay & go'}}"
    expected = {
        "calls:rate5m": 3.0,
        "rejected:rate5m": 0.5,
        **{f"rejected:ratio_rate{w}": 1 / 6 for w in ("5m", "30m", "1h", "2h", "6h", "1d", "3d")},
        "tripped:ratio": 2 / 6,
        "refusing:ratio": 2 / 3,
    }
    values: dict[str, tuple[str, Mapping[str, float]]] = {
        f"round({name.format(what)}, 0.000001)": (
            "1250s",
            {labelled("", BREAKER): round(value, 6)},
        )
        for what, value in expected.items()
    }
    for what, by_instance in (
        ("calls:rate5m", {"a:1": 1.0, "b:1": 1.0, "c:1": 1.0}),
        ("rejected:rate5m", {"a:1": 0.25, "b:1": 0.25, "c:1": 0.0}),
    ):
        query = f"round(job_instance_breaker:circuit_breaker_{what}, 0.000001)"
        values[query] = (
            "1250s",
            {
                labelled("", {**PROCESS, "instance": instance}): value
                for instance, value in by_instance.items()
            },
        )
    values["job_breaker:circuit_breaker_tripped:ratio{breaker='other'}"] = (
        "1250s",
        {labelled("job_breaker:circuit_breaker_tripped:ratio", {**BREAKER, "breaker": "other"}): 0},
    )
    return Case("what is recorded", "", _processes(), {}, every="50s", values=values)


def _long_windows() -> Case:
    """After three days there are more refusals, for ten minutes: the less, the longer a window."""
    samples = {"30m": 6, "1h": 12, "2h": 24, "6h": 72, "1d": 288, "3d": 864}
    return Case(
        "long windows",
        "",
        {recorded("calls:rate5m"): "2x1000", recorded("rejected:rate5m"): "0.5x899 1x1 0.5x90"},
        {},
        interval="5m",
        every="1690s",
        values={
            f"round({recorded(f'rejected:ratio_rate{window}')}, 0.000001)": (
                f"{160 * 1690}s",
                {labelled("", BREAKER): round((2 + 0.5 * (count - 2)) / (2 * count), 6)},
            )
            for window, count in samples.items()
        },
    )


RECORDING = (_recording(), _long_windows())
