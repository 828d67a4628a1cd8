"""The blocks of a scenario file: producers, endpoints, policies, receivers, the dispatcher.

Each block is a strict, immutable pydantic model: an unknown key is an error. A field marked ``SPAN`` is a
time that ``Scenario.compressed`` divides; latencies and timeouts are not. Shorthand (``5s`` for
``{delay: 5s}``, ``full`` for ``{kind: full}``) is read here and written back by the same model.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WrapSerializer, model_validator
from pydantic_core import PydanticCustomError

from sim.fields import (
    Duration,
    Nanoseconds,
    PositiveDuration,
    PositiveRate,
    PositiveShare,
    Rate,
    Share,
    Size,
    parse_codes,
    parse_duration,
)


class _Span:
    """Marks a time that belongs to the schedule of a scenario, not to one request."""


SPAN = _Span()
SPEED = _Span()
"""Marks the speed of a replay, which compressing a scenario multiplies."""


def fail(key: str, value: object, rule: str) -> PydanticCustomError:
    """An error about ``key`` of the block being read, raised where two fields must agree."""
    return PydanticCustomError("rule", "{rule}", {"key": key, "value": value, "rule": rule})


class Block(BaseModel):
    """A strict, immutable mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    one_of: ClassVar[tuple[str, ...]] = ()
    """Keys of which exactly one must be given."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, BaseModel):
            return data
        if not isinstance(data, dict):
            raise PydanticCustomError(
                "rule", "must be a mapping with some of the keys {known}", {"known": ", ".join(cls._keys())}
            )
        known = cls._keys()
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise fail(str(key), data[key], f"is not a key here{hint} (known: {', '.join(known)})")
        return data

    @classmethod
    def _keys(cls) -> list[str]:
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="after")
    def _exactly_one(self) -> Block:
        if self.one_of:
            given = [key for key in self.one_of if getattr(self, key) is not None]
            if len(given) != 1:
                found = " and ".join(given) or "none of them"
                raise PydanticCustomError(
                    "rule",
                    "must have exactly one of {keys}; it has {found}",
                    {"keys": ", ".join(self.one_of), "found": found},
                )
        return self


def shorthand(read: Callable[[Any], Any], write: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Validators for a block with a short form: ``read`` expands it, ``write`` shortens a dump."""
    return (
        BeforeValidator(lambda value: value if isinstance(value, BaseModel) else read(value)),
        WrapSerializer(lambda model, dump: write(dump(model))),
    )


# --------------------------------------------------------------------------- distributions


class Exponential(Block):
    """Memoryless, by its mean."""

    mean: PositiveDuration


class Lognormal(Block):
    """By median and 99th percentile, by mean and coefficient of variation, or by median and sigma."""

    median: PositiveDuration | None = None
    p99: PositiveDuration | None = None
    mean: PositiveDuration | None = None
    cv: Annotated[float, Field(gt=0)] | None = None
    sigma: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _pair(self) -> Lognormal:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None}
        if given not in ({"median", "p99"}, {"mean", "cv"}, {"median", "sigma"}):
            raise PydanticCustomError("rule", "must have median and p99, or mean and cv, or median and sigma")
        if self.median is not None and self.p99 is not None and self.p99 <= self.median:
            raise fail("p99", self.p99, "must be above the median")
        return self


class Erlang(Block):
    """Sum of equal exponential stages; ``mean`` is that of the sum."""

    mean: PositiveDuration
    stages: Annotated[int, Field(ge=1, le=1000)] = 2


class Hyperexponential(Block):
    """Two exponential branches with balanced means, by mean and coefficient of variation (above 1)."""

    mean: PositiveDuration
    cv: Annotated[float, Field(gt=1)]


class Pareto(Block):
    """Heavy tail above a minimum; the mean is finite for a shape above 1."""

    minimum: PositiveDuration
    shape: Annotated[float, Field(gt=0)]


class Uniform(Block):
    """Every value between two."""

    low: Duration
    high: PositiveDuration

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.high <= self.low:
            raise fail("high", self.high, "must be above low")
        return self


def _quantiles(value: object) -> dict[float, Nanoseconds]:
    from sim.fields import parse_share

    if isinstance(value, list) and len(value) > 1:
        value = {i / (len(value) - 1): entry for i, entry in enumerate(value)}
    if not isinstance(value, dict) or not value:
        raise ValueError("must map shares to durations, such as {50%: 120ms, 99%: 2s}")
    points = sorted((parse_share(share), parse_duration(at)) for share, at in value.items())
    if any(later[1] < earlier[1] for earlier, later in itertools.pairwise(points)):
        raise ValueError("must not fall as the share grows")
    return dict(points)


class Empirical(Block):
    """Measured quantiles, joined by straight lines; flat before the first and after the last."""

    quantiles: Annotated[
        dict[Share, Duration],
        BeforeValidator(_quantiles),
        Field(json_schema_extra={"description": "share: duration"}),
    ]


class Distribution(Block):
    """A random duration: one of the keys. A plain duration is a constant."""

    one_of = (
        "constant",
        "exponential",
        "lognormal",
        "erlang",
        "hyperexponential",
        "pareto",
        "uniform",
        "empirical",
    )
    constant: Duration | None = None
    exponential: Exponential | None = None
    lognormal: Lognormal | None = None
    erlang: Erlang | None = None
    hyperexponential: Hyperexponential | None = None
    pareto: Pareto | None = None
    uniform: Uniform | None = None
    empirical: Empirical | None = None


def _read_distribution(value: object) -> object:
    return {"constant": value} if isinstance(value, str | int | float) else value


RandomDuration = Annotated[
    Distribution, *shorthand(_read_distribution, lambda dump: dump.get("constant", dump))
]


# --------------------------------------------------------------------------- producers


class Bursts(Block):
    """Two alternating states with Poisson arrivals at their rates; exponential stays make it an MMPP."""

    on: PositiveRate
    off: Rate = 0.0
    on_for: Annotated[RandomDuration, SPAN]
    off_for: Annotated[RandomDuration, SPAN]


class Daily(Block):
    """Poisson arrivals whose rate repeats: one rate for each equal part of the period (24 rates: hours)."""

    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    period: Annotated[PositiveDuration, SPAN] = Nanoseconds(86_400_000_000_000)

    @model_validator(mode="after")
    def _some(self) -> Daily:
        if sum(self.rates) <= 0:
            raise fail("rates", [0.0], "must have a rate above 0/s")
        return self


class Ramp(Block):
    """Poisson arrivals whose rate grows or falls in a straight line, then stays."""

    start: Annotated[Rate, Field(alias="from")]
    end: Annotated[Rate, Field(alias="to")]
    over: Annotated[PositiveDuration, SPAN]

    @model_validator(mode="after")
    def _some(self) -> Ramp:
        if self.start + self.end <= 0:
            raise fail("to", "0/s", "must not be 0/s where from is 0/s too")
        return self


class ReplayArrivals(Block):
    """Recorded arrivals: a CSV file (.gz too) whose columns are named here; times are Unix seconds or ISO."""

    file: str
    time: str
    key: str | None = None
    type: str | None = None


class Arrivals(Block):
    """When events happen: one of the keys."""

    one_of = ("constant", "poisson", "bursts", "daily", "ramp", "at", "replay")
    constant: PositiveRate | None = None
    poisson: PositiveRate | None = None
    bursts: Bursts | None = None
    daily: Annotated[
        Daily | None,
        BeforeValidator(lambda value: {"rates": value} if isinstance(value, list) else value),
    ] = None
    ramp: Ramp | None = None
    at: Annotated[tuple[Duration, ...] | None, SPAN] = None
    replay: ReplayArrivals | None = None

    @model_validator(mode="after")
    def _ascending(self) -> Arrivals:
        if self.at is not None and (not self.at or list(self.at) != sorted(self.at)):
            raise fail("at", [*map(int, self.at)], "must be times in ascending order, at least one")
        return self


class PoissonCount(Block):
    """A random number of events, Poisson with this mean."""

    poisson: Annotated[float, Field(ge=0, le=500)]


BatchCount = Annotated[
    PoissonCount | Annotated[int, Field(ge=0, le=10_000)], Field(union_mode="left_to_right")
]


class Keys(Block):
    """Ordering keys: how many, and how skewed (``zipf`` 0: all alike)."""

    count: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    zipf: Annotated[float, Field(ge=0, le=10)] = 0.0


class Objects(Block):
    """The life of the object that an event is about, counted from the event."""

    deleted_after: Annotated[RandomDuration | None, SPAN] = None
    updated_every: Annotated[RandomDuration | None, SPAN] = None


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Producer(Block):
    """A system whose state changes; it emits events of some types, each with an ordering key."""

    arrivals: Arrivals
    events: dict[str, Weight] | None = None
    batch: dict[str, BatchCount] | None = None
    keys: Keys = Keys()
    objects: Objects | None = None
    body: Size = 1000

    @model_validator(mode="after")
    def _mix(self) -> Producer:
        if self.events is not None and self.batch is not None:
            raise fail("batch", self.batch, "excludes events: a change emits either one event or a batch")
        if self.events is not None and not sum(self.events.values()) > 0:
            raise fail("events", self.events, "has weights that sum to nothing; give one of them a weight")
        if self.batch is not None and not any(
            isinstance(count, PoissonCount) or count > 0 for count in self.batch.values()
        ):
            raise fail("batch", self.batch, "emits no event; give one of them a count")
        replay = self.arrivals.replay
        if replay is not None and replay.type is not None and (self.events or self.batch):
            raise fail("events", self.events, "excludes arrivals.replay.type: the file names the types")
        return self


# --------------------------------------------------------------------------- endpoints


class Poll(Block):
    """The endpoint fetches what waits for it, every so often."""

    every: Annotated[PositiveDuration, SPAN]


class Mode(Block):
    """How events reach the endpoint: pushed, unless it polls."""

    poll: Poll


class Endpoint(Block):
    """A group of receiver URLs that share subscription, policy and receiver; each member has its own luck."""

    count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    route: Literal["all", "by_key"] = "all"
    producers: tuple[str, ...] | None = None
    subscribes: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    policy: str | None = None
    receiver: str | dict[str, Share]
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    rate_limit: PositiveRate | None = None
    mode: Annotated[Mode | None, BeforeValidator(lambda value: None if value == "push" else value)] = None

    @model_validator(mode="after")
    def _complete(self) -> Endpoint:
        if self.policy is None and self.mode is None:
            raise fail("policy", None, "is required: name a policy of this file or a bundled one")
        if isinstance(self.receiver, dict) and not sum(self.receiver.values()) > 0:
            raise fail("receiver", self.receiver, "has shares that sum to nothing")
        return self


# --------------------------------------------------------------------------- policies

Times = Annotated[int, Field(ge=1, le=10**12)] | Literal["forever"]


class ExponentialGaps(Block):
    """Gaps ``base · factor**k``, no longer than ``cap``."""

    base: PositiveDuration
    factor: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    cap: PositiveDuration | None = None
    times: Times

    @model_validator(mode="after")
    def _bounded(self) -> ExponentialGaps:
        if self.times != "forever" and self.times > 100_000 and self.cap is None:
            raise fail("times", self.times, "must be at most 100000 without a cap")
        return self


class ArithmeticGaps(Block):
    """Gaps ``start, start + step, …``."""

    start: Duration
    step: Duration
    times: Annotated[int, Field(ge=1, le=100_000)]


class PowerGaps(Block):
    """Gaps ``n**exponent`` units; with ``offsets`` they are counted from the first attempt."""

    exponent: Annotated[float, Field(gt=0, le=20)]
    start: Annotated[int, Field(ge=0, alias="from")] = 1
    end: Annotated[int, Field(ge=1, alias="to")]
    unit: PositiveDuration = Nanoseconds(1_000_000_000)
    offsets: bool = False


class FitGaps(Block):
    """So many geometric gaps, each ``factor`` times the one before, that fill the horizon exactly."""

    retries: Annotated[int, Field(ge=1, le=100_000)]
    horizon: PositiveDuration
    factor: Annotated[float, Field(gt=0, le=1000)] = 2.0


class Segment(Block):
    """An entry of a schedule: a gap, a repeated gap, or a family of gaps."""

    one_of = ("delay", "exponential", "arithmetic", "power", "fit")
    delay: Duration | None = None
    times: Times | None = None
    exponential: ExponentialGaps | None = None
    arithmetic: ArithmeticGaps | None = None
    power: PowerGaps | None = None
    fit: FitGaps | None = None

    @model_validator(mode="after")
    def _times(self) -> Segment:
        if self.times is not None and self.delay is None:
            raise fail("times", self.times, "goes with delay, or inside the segment")
        return self


def _read_segment(value: object) -> object:
    return {"delay": value} if isinstance(value, str | int | float) else value


def _write_segment(dump: dict[str, Any]) -> object:
    return dump["delay"] if set(dump) == {"delay"} else dump


ScheduleEntry = Annotated[Segment, *shorthand(_read_segment, _write_segment)]

JitterKind = Literal["none", "full", "equal", "decorrelated", "exponential", "plus_minus", "additive"]


class Jitter(Block):
    """Randomness added to every gap, after the schedule's cap.

    full, equal, exponential and plus_minus spread around the capped gap, additive adds up to ``up_to`` to it;
    decorrelated draws from ``base`` to three times the last gap and is itself cut at ``cap`` (default: the
    first retry's gap, and the cap of the schedule if it names one).
    """

    kind: JitterKind = "none"
    share: PositiveShare | None = None
    up_to: Annotated[PositiveDuration | None, SPAN] = None
    base: Annotated[PositiveDuration | None, SPAN] = None
    cap: Annotated[PositiveDuration | None, SPAN] = None

    @model_validator(mode="after")
    def _parameters(self) -> Jitter:
        wanted = {"plus_minus": {"share"}, "additive": {"up_to"}}.get(self.kind, set())
        allowed = {"base", "cap"} if self.kind == "decorrelated" else wanted
        given = {key for key in ("share", "up_to", "base", "cap") if getattr(self, key) is not None}
        if not wanted <= given <= allowed:
            raise PydanticCustomError(
                "rule",
                "must be none, full, equal, decorrelated, exponential, "
                "{{plus_minus: 20%}}, {{additive: 5s}} or {{decorrelated: {{base: 1s, cap: 1m}}}}",
            )
        return self


def _read_jitter(value: object) -> object:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and len(value) == 1:
        ((kind, amount),) = value.items()
        if kind == "plus_minus":
            return {"kind": kind, "share": amount}
        if kind == "additive":
            return {"kind": kind, "up_to": amount}
        if kind == "decorrelated" and isinstance(amount, dict):
            return {"kind": kind, **amount}
    return value


def _write_jitter(dump: dict[str, Any]) -> object:
    kind = dump.get("kind", "none")
    if kind == "plus_minus":
        return {kind: dump["share"]}
    if kind == "additive":
        return {kind: dump["up_to"]}
    rest = {key: value for key, value in dump.items() if key != "kind"}
    return {kind: rest} if rest else kind


class RetryAfter(Block):
    """What the sender makes of a Retry-After header: nothing, at least that long, or within limits."""

    honour: bool = False
    clamp: tuple[float, float] | tuple[Duration, Duration] | None = None
    scope: Literal["event", "endpoint"] = "event"

    @model_validator(mode="after")
    def _limits(self) -> RetryAfter:
        if self.clamp is not None and not 0 <= self.clamp[0] <= self.clamp[1]:
            raise fail("clamp", list(self.clamp), "must be two numbers or durations in ascending order")
        return self


def _read_retry_after(value: object) -> object:
    if value == "ignore":
        return {}
    if value == "honour":
        return {"honour": True}
    if isinstance(value, str):
        raise PydanticCustomError(
            "rule", "must be ignore, honour, {{clamp: [1, 2]}} (multiples of the gap) or {{clamp: [1s, 24h]}}"
        )
    return value


def _write_retry_after(dump: dict[str, Any]) -> object:
    if not dump:
        return "ignore"
    return "honour" if dump == {"honour": True} else dump


class BudgetRule(Block):
    """Retry budget of one endpoint: a token bucket; a retry takes one token when it is decided."""

    ratio: Annotated[float, Field(ge=0, le=1000)] = 0.1
    min_per_s: Annotated[float, Field(ge=0)] = 0.0
    capacity: Annotated[float, Field(ge=1)] = 50.0


class Breaker(Block):
    """Circuit breaker of one endpoint: opens on a share of failures, then lets one probe through."""

    failures: PositiveShare
    window: Annotated[PositiveDuration, SPAN] = Nanoseconds(300_000_000_000)
    min_requests: Annotated[int, Field(ge=1)] = 10
    open: Annotated[PositiveDuration, SPAN] = Nanoseconds(30_000_000_000)


class Disable(Block):
    """When an endpoint is switched off, and what becomes of what waits for it."""

    one_of = ("failing_for", "consecutive", "share")
    failing_for: Annotated[PositiveDuration | None, SPAN] = None
    consecutive: Annotated[int, Field(ge=1)] | None = None
    share: PositiveShare | None = None
    window: Annotated[PositiveDuration, SPAN] = Nanoseconds(3_600_000_000_000)
    min_requests: Annotated[int, Field(ge=1)] = 10
    rest: Literal["drop", "hold"] = "drop"


def _read_success(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _check_success(value: tuple[Any, ...]) -> tuple[str, ...]:
    for code in value:
        parse_codes(code)
    return tuple(str(code) for code in value)


Success = Annotated[
    tuple[str | int, ...],
    Field(min_length=1),
    BeforeValidator(_check_success),  # pydantic runs the last one first
    BeforeValidator(_read_success),
    WrapSerializer(lambda value, _: value[0] if len(value) == 1 else list(value)),
]

VERDICT_WORDS = ("timeout", "refused", "redirect")
VerdictAction = Literal["success", "retry", "drop", "disable"]


def _check_verdicts(value: object) -> object:
    if isinstance(value, list):  # a list of one-key mappings reads as well
        value = {key: action for rule in value if isinstance(rule, dict) for key, action in rule.items()}
    if not isinstance(value, dict):
        raise ValueError("must map codes to actions, such as {410: disable, 4xx: drop}")
    for key in value:
        if key not in VERDICT_WORDS:
            try:
                parse_codes(key)
            except ValueError as error:
                raise ValueError(
                    f"has the rule {key!r}, which {error}, or timeout, refused, redirect"
                ) from None
    return {str(key): action for key, action in value.items()}


class PolicyBlock(Block):
    """How deliveries are retried, when they are given up, and how an endpoint's failures are answered."""

    preset: str | None = None
    schedule: Annotated[tuple[ScheduleEntry, ...], Field(min_length=1), SPAN]
    jitter: Annotated[Jitter, *shorthand(_read_jitter, _write_jitter)] = Jitter()
    timeout: PositiveDuration = Nanoseconds(30_000_000_000)
    connect_timeout: PositiveDuration | None = None
    first_timeout: PositiveDuration | None = None
    total_budget: PositiveDuration | None = None
    success: Success = ("2xx",)
    verdicts: Annotated[dict[str, VerdictAction], BeforeValidator(_check_verdicts)] = {}
    retry_after: Annotated[RetryAfter, *shorthand(_read_retry_after, _write_retry_after)] = RetryAfter()
    max_age: Annotated[PositiveDuration | None, SPAN] = None
    max_age_from: Literal["event", "first_attempt"] = "event"
    max_attempts: Annotated[int, Field(ge=1)] | None = None
    budget: BudgetRule | None = None
    breaker: Breaker | None = None
    disable: Disable | None = None

    @model_validator(mode="after")
    def _ends(self) -> PolicyBlock:
        for i, entry in enumerate(self.schedule[:-1]):
            times = entry.exponential.times if entry.exponential else entry.times
            if times == "forever":
                raise fail(
                    "schedule", f"entry {i + 1} of {len(self.schedule)}", "goes on forever; must be last"
                )
        return self


# --------------------------------------------------------------------------- receivers


class ErrorFault(Block):
    """Answered with an error status, not processed; occupies a server for its latency."""

    probability: Share
    status: Annotated[int, Field(ge=100, le=599)] = 500
    latency: RandomDuration | None = None
    retry_after: Annotated[Duration | None, SPAN] = None


class LostAnswer(Block):
    """Processed, but the answer never reaches the sender."""

    probability: Share


class ReplayOutages(Block):
    """Recorded outages: a CSV file (.gz too) with a start and an end column, Unix seconds or ISO times.

    Member i of the endpoint plays the i-th endpoint named in the file, in order of first appearance.
    ``where`` keeps the rows with these column values. Time 0 of the run is ``origin`` (default: the earliest
    start in the file); ``speed`` plays the file faster.
    """

    file: str
    start: str
    end: str
    endpoint: str | None = None
    where: dict[str, str] = {}
    origin: str | float | None = None
    speed: Annotated[float, Field(gt=0), SPEED] = 1.0


class OutageHow(Block):
    """What a caller meets during an outage."""

    one_of = ("refuse", "hang", "pause", "status", "error")
    refuse: bool | None = None
    hang: bool | None = None
    pause: bool | None = None
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    error: ErrorFault | None = None


def _read_how(value: object) -> object:
    return {value: True} if value in ("refuse", "hang", "pause") else value


def _write_how(dump: dict[str, Any]) -> object:
    word = next(iter(dump))
    return word if dump[word] is True else dump


class Outage(Block):
    """Times at which the receiver does not work: drawn (up and down), given, or replayed."""

    up: Annotated[RandomDuration | None, SPAN] = None
    down: Annotated[RandomDuration | None, SPAN] = None
    windows: Annotated[tuple[tuple[Duration, Duration], ...] | None, SPAN] = None
    replay: ReplayOutages | None = None
    how: Annotated[OutageHow, *shorthand(_read_how, _write_how)] = OutageHow(refuse=True)
    scope: Literal["each", "all together"] = "each"

    @model_validator(mode="after")
    def _source(self) -> Outage:
        drawn = self.up is not None and self.down is not None
        if (self.up is None) != (self.down is None) or drawn + bool(self.windows) + bool(self.replay) != 1:
            raise PydanticCustomError("rule", "must have up and down, or windows, or replay")
        for which in ("up", "down"):
            length = getattr(self, which)
            if length is not None and length.pareto is not None and length.pareto.shape <= 1:
                raise fail(
                    which, length.pareto.shape, "has no mean (pareto shape at most 1), so no steady state"
                )
        last = -1
        for start, end in self.windows or ():
            if end <= start or start < last:
                raise fail(
                    "windows", [int(start), int(end)], "must be [start, end) in order, not overlapping"
                )
            last = end
        return self


class Fault(Block):
    """One way to fail; the first fault in the list that applies to a request decides it."""

    one_of = ("error", "lost_answer", "outage")
    error: ErrorFault | None = None
    lost_answer: LostAnswer | None = None
    outage: Outage | None = None


class Backlog(Block):
    """How many requests may wait for a server, and what those beyond meet."""

    size: Annotated[int, Field(ge=0, le=100_000_000)]
    beyond: Annotated[int, Field(ge=100, le=599)] | Literal["hang"] = 503
    retry_after: Annotated[Duration | None, SPAN] = None


class Dedupe(Block):
    """The receiver forgets a delivery this long after processing it; until then a repeat has no effect."""

    window: Annotated[PositiveDuration, SPAN]


class ReceiverBlock(Block):
    """Who answers: latency, capacity, faults, and what it makes of repeats and late events."""

    latency: RandomDuration
    servers: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["unlimited"] = "unlimited"
    backlog: Annotated[
        Backlog | None, BeforeValidator(lambda value: None if value == "unlimited" else value)
    ] = None
    answers: Literal["after_processing", "on_arrival"] = "after_processing"
    faults: tuple[Fault, ...] = ()
    dedupe: Annotated[
        Dedupe | None, BeforeValidator(lambda value: None if value in ("off", False) else value)
    ] = None
    stale_guard: bool = False


# --------------------------------------------------------------------------- the dispatcher


def _check_workers(value: object) -> object:
    good = value == "unlimited" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(entry, int) and entry >= 1 for entry in value):
            return tuple(value)
        if all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in value):
            steps = tuple((parse_duration(start), count) for start, count in value)
            times = [start for start, _ in steps]
            counts = [count for _, count in steps]
            if (
                times[0] == 0
                and times == sorted(set(times))
                and all(isinstance(count, int) and count >= 0 for count in counts)
            ):
                return steps
            raise ValueError(
                "must be [from, n] pairs in ascending order, the first from 0s, n a whole number"
            )
    if not good:
        raise ValueError(
            "must be a whole number of at least 1, unlimited, a list of [from, n] (shared) or a list with "
            "a number for each tier (per_tier)"
        )
    return value


Workers = Annotated[
    int | Literal["unlimited"] | tuple[int, ...] | tuple[tuple[Duration, int], ...],
    Field(union_mode="left_to_right"),
]


class Lanes(Block):
    """Separate worker pools for first attempts and for retries."""

    first: Annotated[int, Field(ge=1)]
    retries: Annotated[int, Field(ge=1)]


class Dispatcher(Block):
    """The sender: how many workers, which queue discipline, which order it keeps."""

    workers: Annotated[Workers, BeforeValidator(_check_workers), SPAN] = "unlimited"
    discipline: Literal["shared", "per_tier"] = "shared"
    ordering: Literal["none", "key", "endpoint"] = "none"
    lanes: Lanes | None = None
    queue_holds: Literal["body", "id"] = "body"
    message: Literal["full", "thin"] = "full"
    overhead: Duration = Nanoseconds(0)

    @model_validator(mode="after")
    def _pools(self) -> Dispatcher:
        stepped = isinstance(self.workers, tuple) and isinstance(self.workers[0], tuple)
        tiered = isinstance(self.workers, tuple) and not stepped
        if self.discipline == "per_tier" and (self.workers == "unlimited" or stepped):
            raise fail(
                "workers", self.workers, "must be a number, or a list with one for each tier, under per_tier"
            )
        if self.discipline == "shared" and tiered:
            raise fail("workers", self.workers, "is a number for each tier: that needs discipline: per_tier")
        if self.lanes is not None and self.discipline == "per_tier":
            raise fail("lanes", "given", "goes with discipline: shared")
        if self.lanes is not None and "workers" in self.model_fields_set:
            raise fail(
                "workers", self.workers, "excludes lanes, which have their own workers; remove one of them"
            )
        return self
