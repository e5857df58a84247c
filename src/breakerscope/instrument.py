"""What an application calls: make breakers, find them, and hear of their events."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ContextDecorator
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, overload

from breakerscope.breaker import CircuitBreaker, Options
from breakerscope.configuration import Configuration
from breakerscope.core.classification import (
    EVERY_EXCEPTION_FAILS,
    Classifier,
    ExceptionRule,
    HintRule,
    OpenForRule,
    ResultRule,
)
from breakerscope.core.counters import DEFAULT_BUCKETS, checked_buckets
from breakerscope.core.events import EventType
from breakerscope.core.policy import Policy
from breakerscope.core.reading import WatchedBreaker
from breakerscope.event_bus import Subscription, default_bus
from breakerscope.names import checked_name, nearest
from breakerscope.per_key import DEFAULT_LIMIT, BreakersPer
from breakerscope.registry import check_same, default_registry
from breakerscope.setup import check_labels, set_up_once
from breakerscope.subscription_options import DEFAULT_QUEUE_SIZE, SubscribeFilter, SubscribeOptions
from breakerscope.telemetry.settings import checked_labels

if TYPE_CHECKING:
    from os import PathLike

    from breakerscope.telemetry.jsonl import JsonLines


Time = float | timedelta | str
"""Seconds, or text with a unit: "500ms", "30s", "5m", "1h"."""


class BreakerOptions(TypedDict, total=False):
    """The options of `instrumented_breaker` and `breakers_per`, all by keyword.

    All fields of `Policy` and of `Classifier`, where `open_for` is a time or a function; `buckets`,
    the upper bounds of the duration histogram in seconds; `labels`, values for the labels that
    `setup_telemetry` named; and `replace`: whether to make a new breaker in place of one that
    exists.
    """

    failure_rate: float | None
    min_calls: int
    window: int | timedelta | str
    consecutive_failures: int | None
    failure_count: int | None
    slow_call: Time | None
    slow_call_rate: float | None
    open_for: Time | OpenForRule
    backoff: float
    open_for_max: Time | None
    jitter: float
    probes: int
    probe_successes: int | None
    probe_failure_rate: float | None
    probe_when_due: bool
    probe_lease: Time
    ramp_up: Time
    shadow: bool
    failures: ExceptionRule | None
    ignore: ExceptionRule | None
    failure_if: ResultRule | None
    retry_after_from: HintRule | None
    buckets: Sequence[float]
    labels: Mapping[str, str]
    replace: bool


CLASSIFIER_OPTIONS = ("failures", "ignore", "failure_if", "retry_after_from")


def instrumented_breaker(name: str, **options: Unpack[BreakerOptions]) -> CircuitBreaker:
    """The breaker with this name, made at the first call, with all its telemetry switched on.

    The same name gives the same breaker. With no options, an existing breaker is returned as it is;
    with other options than the code gave before, ContradictionError shows both, unless `replace` is
    true: then a new breaker takes its place. For the options see `Policy`
    (rules, in seconds and ratios from 0 to 1) and `Classifier` (what is a failure); `buckets` are
    the upper bounds of the duration histogram in seconds; `labels` are values for the labels that
    `setup_telemetry` named, in the metrics of this breaker. Raises PolicyError, ClassifierError,
    BucketsError, LabelError or BreakerNameError for what cannot be, and TypeError for an unknown
    option.

    Options set by `configure` or in the environment (`BREAKERSCOPE_PAYMENT_API_OPEN_FOR=30`) go
    before these; ConfigError says what is wrong with them. A breaker that exists follows a change
    of them when it is asked for with options; one that cannot be is logged and changes nothing.

    Unless `setup_telemetry` was called before, this calls it with its defaults. Thread-safe.
    """
    return _instrumented(name, cast("dict[str, Any]", options))


def breaker_in_request(name: str, **options: Unpack[BreakerOptions]) -> CircuitBreaker:
    """As `instrumented_breaker`, for a breaker that a request makes: what operators have set and
    cannot be is logged, and raises nothing.
    """
    return _instrumented(name, cast("dict[str, Any]", options), in_request=True)


def _instrumented(
    name: str, options: dict[str, Any], *, in_request: bool = False
) -> CircuitBreaker:
    set_up_once()
    known = isinstance(name, str) and not options
    if known and (existing := default_registry.get(name)) is not None:
        return existing
    checked_name(name)
    request = Request(name, dict(options))
    existing = default_registry.get(name)
    if existing is None or options.get("replace"):
        made = request.breaker(in_request=in_request)
        if existing is not None:
            default_registry.remove(name)
        return default_registry.add(made)
    request.check_same(existing)
    _configuration.follow(existing)
    return existing


class Request:
    """What the code asks for. Raises for what cannot be."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        for option in options:
            if option not in BreakerOptions.__annotations__:
                raise TypeError(_unknown(option))
        options.pop("replace", None)
        self.name = name
        self.buckets = checked_buckets(options.pop("buckets", DEFAULT_BUCKETS))
        self.labels = checked_labels(options.pop("labels", {}))
        check_labels(name, self.labels)
        rules = {key: options.pop(key) for key in CLASSIFIER_OPTIONS if key in options}
        if callable(options.get("open_for")):
            rules["open_for"] = options.pop("open_for")
        self.classifier = Classifier(**rules) if rules else EVERY_EXCEPTION_FAILS
        self.policy = Policy(**options)
        self._options = options

    def breaker(self, *, in_request: bool) -> CircuitBreaker:
        """A new one. Raises ConfigError for what operators have set, unless in a request."""
        policy, requested = _configuration.policy_of(
            self.name, self._options, self.policy, in_request=in_request
        )
        breaker = CircuitBreaker(
            self.name,
            policy,
            classifier=self.classifier,
            buckets=self.buckets,
            labels=self.labels,
        )
        breaker._follow(requested)
        return breaker

    def check_same(self, existing: CircuitBreaker) -> None:
        """Raises ContradictionError if the code asked for something else before."""
        check_same(existing, self)


OF_OTHERS: Mapping[str, str] = {
    "fail_max": "consecutive_failures",
    "failure_threshold": "consecutive_failures",
    "reset_timeout": "open_for",
    "recovery_timeout": "open_for",
    "timeout_duration": "open_for",
    "success_threshold": "probe_successes",
    "exclude": "ignore",
    "expected_exception": "failures",
}
"""How pybreaker, aiobreaker and circuitbreaker call these options."""


def _unknown(option: str) -> str:
    allowed = BreakerOptions.__annotations__
    near = OF_OTHERS.get(option) or nearest(option, allowed)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown option {option!r}: {hint}Allowed are {', '.join(allowed)}"


def breakers_per(
    prefix: str, *, limit: int = DEFAULT_LIMIT, **options: Unpack[BreakerOptions]
) -> BreakersPer:
    """One breaker for each key (host, tenant, model), all with these options, at most `limit`.

    `per_host = breakers_per("search"); per_host("api.example.com")` is the breaker named
    "search:api.example.com". When there are more keys than `limit`, the one that was not asked for
    longest is forgotten, with its series. What operators have set and cannot be is logged when the
    first such breaker is made, which then goes by the code alone. A key may be any text, also from
    outside: what cannot be in a name is escaped, see `BreakersPer`. Raises LimitError and what
    `instrumented_breaker` does.
    """
    Request(checked_name(prefix, "prefix"), dict(options))
    return BreakersPer(
        prefix,
        lambda name: breaker_in_request(name, **options),
        default_registry,
        limit,
    )


def configure(source: Mapping[str, Any] | str | PathLike[str]) -> None:
    """Set policies from a mapping or a TOML file, for present and future breakers.

    What is set here goes before the options in the code, and the environment goes before both; see
    `breakerscope.config`. A key of the table is the name of a breaker or a pattern ("host:*"). A
    breaker that exists goes on with the new policy as by `update`, which is told as a
    `PolicyChanged` event. A second call replaces the first. A name that no breaker has after a
    minute is logged. Raises ConfigError for what cannot be, and then changes nothing. Thread-safe.
    """
    _configuration.configure(source)


_configuration = Configuration(default_registry)


def get_breaker(name: str) -> CircuitBreaker | None:
    """The breaker with this name, or None if nobody has made it. Thread-safe."""
    return default_registry.get(name)


@overload
def breakers() -> list[CircuitBreaker]: ...
@overload
def breakers(*, bridged: bool) -> list[WatchedBreaker]: ...
def breakers(*, bridged: bool = False) -> list[CircuitBreaker] | list[WatchedBreaker]:
    """All breakers made by `instrumented_breaker` and not removed. A copy; thread-safe.

    `bridged`: those of other libraries as well that are bridged. They can be read, and no more: it
    is their own library that decides.
    """
    return default_registry.shown() if bridged else list(default_registry)


def remove_breaker(name: str) -> CircuitBreaker | None:
    """Forget a breaker, and with it its series in the metrics. Returns it, or None. Thread-safe.

    Who still holds it can go on using it; the next `instrumented_breaker` makes another.
    """
    return default_registry.remove(name)


class isolated(ContextDecorator, AbstractContextManager[None]):  # noqa: N801 - as a function
    """Reject every call of these breakers inside the block: `with isolated("payments", "host:*")`.

    A name may be a pattern; it is for the breakers that exist when the block begins. For the rest
    see `CircuitBreaker.isolated`. Raises LookupError for a name that no breaker has, and then
    isolates none. Thread-safe.
    """

    def __init__(self, *names: str, reason: str | None = None) -> None:
        self._names = names
        self._reason = reason
        self._isolations: list[list[AbstractContextManager[None]]] = []

    def __enter__(self) -> None:
        found: dict[str, CircuitBreaker] = {}
        for name in self._names:
            fitting = [b for b in default_registry if name == b.name or fnmatchcase(b.name, name)]
            if not fitting:
                known = ", ".join(sorted(b.name for b in default_registry)) or "none"
                raise LookupError(f"no breaker is called {name!r}; there are: {known}")
            found |= {breaker.name: breaker for breaker in fitting}
        isolations: list[AbstractContextManager[None]] = []
        self._isolations.append(isolations)
        for breaker in found.values():
            isolation = breaker.isolated(self._reason)
            isolations.append(isolation)
            isolation.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        for isolation in reversed(self._isolations.pop()):
            isolation.__exit__(None, None, None)


def _reduced(breaker: CircuitBreaker) -> tuple[Callable[..., CircuitBreaker], tuple[Any, ...]]:
    """A breaker goes through a pickle by its name."""
    requested = breaker.requested
    return _unpickled, (breaker.name, () if requested is None else requested.code)


def _unpickled(name: str, code: Options) -> CircuitBreaker:
    """The breaker that has this name here. If none has, it is made with the options of the code,
    but for the functions among them.
    """
    existing = default_registry.get(name)
    return instrumented_breaker(name, **cast("Any", dict(code))) if existing is None else existing


copyreg.pickle(CircuitBreaker, _reduced)


def subscribe(
    listener: Callable[[Any], object], /, *types: EventType, **options: Unpack[SubscribeOptions]
) -> Subscription:
    """Call `listener` with each event of these types (none named: all), of all breakers, also
    future ones.

    By default the listener has a bounded queue and a thread of its own and gets the events of each
    breaker in the order of `seq`. See `SubscribeOptions`. Raises SubscriptionError.
    """
    return default_bus.subscribe(listener, *types, **options)


def to_jsonl(
    path: str | os.PathLike[str],
    /,
    *types: EventType,
    max_bytes: int | None = 10_000_000,
    backups: int = 5,
    queue_size: int = DEFAULT_QUEUE_SIZE,
    **options: Unpack[SubscribeFilter],
) -> JsonLines:
    """Append each event of these types (none named: all) to a file, as a line of JSON.

    The lines are those of `event_to_json`, written by a thread of their own. A file that would
    grow to `max_bytes` bytes becomes `path.1`, that one `path.2`, up to `backups` of them; None
    lets it grow. What cannot be written, on a full disk say, is counted in `lost` and in the
    metrics; when there is room again, it goes on. A forked child writes to `name.PID.suffix`. For
    the options see `SubscribeOptions`. Undo it with `close()`, which waits for the last lines.
    Raises OSError if the file cannot be opened, SubscriptionError for impossible options.
    """
    from breakerscope.telemetry.jsonl import JsonLines

    return JsonLines(
        default_bus,
        path,
        *types,
        max_bytes=max_bytes,
        backups=backups,
        queue_size=queue_size,
        **options,
    )
