"""The blocks of a delivery policy: schedule, jitter, verdicts, Retry-After, budget, breaker, disabling.

A schedule becomes runs ``(gap_ns, times)`` here, by the rules of ``sim.policy``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from sim import policy
from sim.blocks import SPAN, Block, Schema, described, fail, known_words, read_at, read_here, shorthand, wrong
from sim.errors import nearest
from sim.fields import (
    CODES_SCHEMA,
    DURATION_SCHEMA,
    SHARE_SCHEMA,
    Duration,
    Flag,
    Nanoseconds,
    PositiveDuration,
    PositiveShare,
    format_duration,
    number,
    parse_codes,
    parse_duration,
    parse_number,
    parse_share,
    positive,
    whole,
)
from sim.policy import FOREVER, LONGEST

MOST_GAPS = 100_000
"""Different gaps that one entry of a schedule may list."""

# --------------------------------------------------------------------------- schedules

Times = Annotated[int | Literal["forever"], *whole(1, 10**12, "forever")]
GapCount = Annotated[int, *whole(1, MOST_GAPS)]


class ExponentialGaps(Block):
    """Gaps ``base · factor**k``, no longer than ``cap``."""

    base: PositiveDuration
    """The first gap."""
    factor: Annotated[float, *number(above=0, high=1e6)] = 2.0
    """How many times longer each gap is than the one before. Default 2."""
    cap: PositiveDuration | None = None
    """No gap is longer than this. Default: no cap."""
    times: Times
    """How many gaps, or forever."""

    @model_validator(mode="after")
    def _listable(self) -> ExponentialGaps:
        if self.times == "forever" and self.factor < 1:
            raise fail("factor", self.factor, "must be at least 1 with times: forever, or the gaps vanish")
        times = math.inf if self.times == "forever" else self.times
        if min(times, self._steps()) > MOST_GAPS:
            rule = f"needs more than {MOST_GAPS} different gaps; give a cap, a larger factor, or fewer times"
            raise fail("times", self.times, rule)
        return self

    def _steps(self) -> float:
        """How many gaps differ before they stop growing (or shrinking to nothing)."""
        if self.factor == 1:
            return 1
        room = (self.cap or LONGEST) / self.base if self.factor > 1 else 2.0 * self.base
        return math.log(max(room, 1.0)) / abs(math.log(self.factor))


class ArithmeticGaps(Block):
    """Gaps ``start, start + step, …``."""

    start: Duration
    """The first gap."""
    step: Duration
    """How much longer each gap is than the one before."""
    times: GapCount
    """How many gaps."""

    @model_validator(mode="after")
    def _bounded(self) -> ArithmeticGaps:
        if self.start + self.step * (self.times - 1) > LONGEST:
            raise fail("times", self.times, "makes gaps longer than 36 years; give a smaller step or fewer")
        return self


class PowerGaps(Block):
    """Gaps ``n**exponent`` units; with ``offsets`` they are counted from the first attempt."""

    exponent: Annotated[float, *number(above=0, high=20)]
    """The power that n is raised to."""
    start: Annotated[int, *whole(0, MOST_GAPS), Field(alias="from")] = 1
    """The first n. Default 1."""
    end: Annotated[int, *whole(1, MOST_GAPS), Field(alias="to")]
    """The last n."""
    unit: PositiveDuration = Nanoseconds(1_000_000_000)
    """What the power is multiplied by. Default 1s."""
    offsets: Flag = False
    """Whether the times are counted from the first attempt and not from the attempt before. Default false."""

    @model_validator(mode="after")
    def _some(self) -> PowerGaps:
        if self.end < self.start:
            raise fail("to", self.end, f"must not be below from ({self.start})")
        return self


class FitGaps(Block):
    """So many geometric gaps, each ``factor`` times the one before, that fill the horizon exactly."""

    retries: GapCount
    """How many gaps."""
    horizon: PositiveDuration
    """What the gaps add up to."""
    factor: Annotated[float, *number(above=0, high=1000)] = 2.0
    """How many times longer each gap is than the one before. Default 2."""


class Segment(Block):
    """An entry of a schedule: a gap, a repeated gap, or a family of gaps."""

    one_of = ("delay", "exponential", "arithmetic", "power", "fit")
    forms = "must be a gap such as 5s, {delay: 5s, times: 3} or a family such as {exponential: {base: 5s, times: 9}}"
    delay: Duration | None = None
    """A gap, such as 5s; alone it may be written without the key."""
    times: Times | None = None
    """How often delay is repeated, or forever. Default 1; the families have a times of their own."""
    exponential: ExponentialGaps | None = None
    """Gaps that grow by a factor, such as {base: 5s, factor: 2, cap: 1h, times: 9}."""
    arithmetic: ArithmeticGaps | None = None
    """Gaps that grow by a step, such as {start: 0s, step: 30s, times: 5}."""
    power: PowerGaps | None = None
    """Gaps that grow by a power of n, such as {exponent: 4, to: 20}."""
    fit: FitGaps | None = None
    """Growing gaps that fill a time exactly, such as {retries: 9, horizon: 24h}."""

    @model_validator(mode="after")
    def _times(self) -> Segment:
        if self.times is not None and self.delay is None:
            raise fail("times", self.times, "goes with delay, or inside the segment")
        return self

    @property
    def endless(self) -> bool:
        """Whether nothing can follow."""
        return (self.exponential.times if self.exponential is not None else self.times) == "forever"

    def runs(self) -> list[tuple[int, int]]:
        """The entry as runs ``(gap_ns, times)``."""
        if self.exponential is not None:
            e = self.exponential
            times = None if e.times == "forever" else e.times
            return policy.exponential_runs(e.base, e.factor, e.cap, times)
        if self.arithmetic is not None:
            a = self.arithmetic
            return policy.arithmetic_runs(a.start, a.step, a.times)
        if self.power is not None:
            p = self.power
            return policy.power_runs(p.exponent, p.start, p.end, p.unit, p.offsets)
        if self.fit is not None:
            f = self.fit
            return policy.fit_runs(f.retries, f.horizon, f.factor)
        assert self.delay is not None
        return [(int(self.delay), FOREVER if self.times == "forever" else self.times or 1)]


def _read_segment(value: object) -> object:
    return {"delay": read_here(parse_duration, value)} if isinstance(value, str | int | float) else value


def _write_segment(dump: dict[str, Any]) -> object:
    return dump["delay"] if set(dump) == {"delay"} else dump


ScheduleEntry = Annotated[Segment, *shorthand(_read_segment, _write_segment, DURATION_SCHEMA)]

# --------------------------------------------------------------------------- jitter and Retry-After

JITTER_FORMS = (
    "must be none, full, equal, decorrelated, exponential, {plus_minus: 20%}, {additive: 5s} "
    "or {decorrelated: {base: 1s, cap: 1m}}"
)
BARE_JITTERS = ("none", "full", "equal", "decorrelated", "exponential")


class Jitter(Block):
    """Randomness added to every gap, after the schedule's cap.

    full, equal, exponential and plus_minus spread around the capped gap, additive adds up to ``up_to`` to it;
    decorrelated draws from ``base`` to three times the last gap and is itself cut at ``cap`` (default: the
    first retry's gap, and the cap of the schedule if it names one).
    """

    forms = JITTER_FORMS
    kind: Literal["none", "full", "equal", "decorrelated", "exponential", "plus_minus", "additive"] = "none"
    """none (default): the gap itself; full: from 0s to the gap; equal: from half the gap to the gap; exponential:
    exponential with the gap as its mean; decorrelated: from base to three times the last gap; plus_minus: by a
    share either way; additive: up to up_to more.
    """
    share: PositiveShare | None = None
    """Of plus_minus: the share of the gap by which it is made longer or shorter at most."""
    up_to: Annotated[PositiveDuration | None, SPAN] = None
    """Of additive: how much is added to the gap at most."""
    base: Annotated[PositiveDuration | None, SPAN] = None
    """Of decorrelated: the shortest gap. Default: the gap before the first retry."""
    cap: Annotated[PositiveDuration | None, SPAN] = None
    """Of decorrelated: the longest gap. Default: the cap of the schedule if it names one, else none."""

    @model_validator(mode="after")
    def _parameters(self) -> Jitter:
        wanted = {"plus_minus": {"share"}, "additive": {"up_to"}}.get(self.kind, set())
        allowed = {"base", "cap"} if self.kind == "decorrelated" else wanted
        given = {key for key in ("share", "up_to", "base", "cap") if getattr(self, key) is not None}
        if not wanted <= given <= allowed:
            raise wrong(JITTER_FORMS)
        if self.base is not None and self.cap is not None and self.cap < self.base:
            raise fail("cap", self.cap, f"must not be below base ({format_duration(self.base)})")
        return self


def _read_jitter(value: object) -> object:
    if isinstance(value, str):
        return {"kind": known_words(BARE_JITTERS, JITTER_FORMS)(value)}
    if isinstance(value, dict) and len(value) == 1:
        ((kind, amount),) = value.items()
        if kind == "plus_minus":
            return {"kind": kind, "share": read_at(kind, positive(parse_share, "0%"), amount)}
        if kind == "additive":
            return {"kind": kind, "up_to": read_at(kind, positive(parse_duration, "0s"), amount)}
        if kind == "decorrelated" and isinstance(amount, dict) and "kind" not in amount:
            return {"kind": kind, **amount}
        if kind != "kind":
            raise wrong(JITTER_FORMS + nearest(kind, (*BARE_JITTERS, "plus_minus", "additive")))
    return value


def _write_jitter(dump: dict[str, Any]) -> object:
    kind = dump.get("kind", "none")
    if kind == "plus_minus":
        return {kind: dump["share"]}
    if kind == "additive":
        return {kind: dump["up_to"]}
    rest = {key: value for key, value in dump.items() if key != "kind" and value is not None}
    return {kind: rest} if rest else kind


def _only(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "minProperties": 1, "additionalProperties": False}


_JITTER_SCHEMAS = (
    {"enum": list(BARE_JITTERS)},
    _only(plus_minus=described(SHARE_SCHEMA, "By how much of the gap it is made longer or shorter at most.")),
    _only(additive=described(DURATION_SCHEMA, "How much is added to the gap at most.")),
    _only(
        decorrelated=described(
            _only(
                base=described(DURATION_SCHEMA, "The shortest gap. Default: the gap before the first retry."),
                cap=described(DURATION_SCHEMA, "The longest gap. Default: the cap of the schedule, or none."),
            ),
            "From base to three times the last gap, and no longer than cap.",
        )
    ),
)


def _read_clamp(value: object) -> object:
    if value is None:
        return None
    rule = (
        "must be two numbers (multiples of the gap) or two durations, in ascending order: [1, 2] or [1s, 24h]"
    )
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise wrong(rule)
    if any(isinstance(limit, str | Nanoseconds) for limit in value):
        limits = tuple(read_at(i, parse_duration, limit) for i, limit in enumerate(value))
    else:
        limits = tuple(
            read_at(i, lambda given: parse_number(given, 0, 1e6, None), limit)
            for i, limit in enumerate(value)
        )
    if limits[0] > limits[1]:
        raise wrong(rule)
    return limits


def _write_clamp(clamp: tuple[Any, ...] | None) -> object:
    return clamp and [format_duration(at) if isinstance(at, Nanoseconds) else at for at in clamp]


class RetryAfter(Block):
    """What the sender makes of a Retry-After header: nothing, at least that long, or within limits."""

    forms = "must be ignore, honour, {clamp: [1, 2]} (multiples of the gap) or {clamp: [1s, 24h]}"
    honour: Flag = False
    """Whether a retry comes no earlier than the receiver asked for; the gap stays where it is longer. Default
    false.
    """
    clamp: Annotated[
        tuple[float, float] | tuple[Nanoseconds, Nanoseconds] | None,
        PlainValidator(_read_clamp),
        PlainSerializer(_write_clamp),
        WithJsonSchema(
            {
                "type": ["array", "null"],
                "minItems": 2,
                "maxItems": 2,
                "items": {"anyOf": [{"type": "number", "minimum": 0}, DURATION_SCHEMA]},
            }
        ),
        SPAN,
    ] = None
    """Limits for what the receiver asked for, [least, most], as multiples of the gap ([1, 2]) or as durations
    ([1s, 24h]). Default: not given.
    """
    scope: Literal["event", "endpoint"] = "event"
    """event (default): the delivery that was answered so waits; endpoint: all deliveries to the endpoint wait."""

    @model_validator(mode="after")
    def _one(self) -> RetryAfter:
        if self.honour and self.clamp is not None:
            raise fail("honour", self.honour, "excludes clamp; remove one of them")
        if self.scope == "endpoint" and not self.honour and self.clamp is None:
            raise fail("scope", self.scope, "goes with honour: true or with clamp")
        return self


def _read_retry_after(value: object) -> object:
    if isinstance(value, str):
        word = known_words(("ignore", "honour"), RetryAfter.forms)(value)
        return {"honour": word == "honour"}
    return value


def _write_retry_after(dump: dict[str, Any]) -> object:
    given = {key: value for key, value in dump.items() if value not in (None, False, "event")}
    if not given:
        return "ignore"
    return "honour" if given == {"honour": True} else given


# --------------------------------------------------------------------------- verdicts


def _read_success(value: object) -> tuple[str | int, ...]:
    codes = value if isinstance(value, list | tuple) else [value]
    if not codes:
        raise wrong("must name a status that means success, such as 2xx or [200]")
    for position, code in enumerate(codes):
        if isinstance(value, list | tuple):
            read_at(position, parse_codes, code)
        else:
            read_here(parse_codes, code)
    texts = [str(code).strip().lower() for code in codes]
    return tuple(int(text) if text.isdecimal() else text for text in texts)


Success = Annotated[
    tuple[str | int, ...],
    PlainValidator(_read_success),
    PlainSerializer(lambda codes: codes[0] if len(codes) == 1 else list(codes)),
    WithJsonSchema({"anyOf": [CODES_SCHEMA, {"type": "array", "minItems": 1, "items": CODES_SCHEMA}]}),
]

VERDICT_WORDS = ("timeout", "refused", "redirect")
VerdictAction = Literal["success", "retry", "drop", "disable"]
ACTION_WORDS = tuple(policy.ACTIONS)


def _rules(value: object) -> Iterator[tuple[object, object]]:
    """The rules of a verdict table, written as a mapping or as a list of mappings with one key."""
    if isinstance(value, dict):
        yield from value.items()
        return
    if not isinstance(value, list | tuple):
        raise wrong("must map codes to actions, such as {410: disable, 4xx: drop}")
    for position, rule in enumerate(value):
        if not isinstance(rule, dict) or len(rule) != 1:
            raise fail(str(position), rule, "must be one rule, such as {410: disable}")
        yield from rule.items()


def _read_verdicts(value: object) -> dict[str, str]:
    table: dict[str, str] = {}
    for key, action in _rules(value):
        name = str(key).strip().lower()
        if name not in VERDICT_WORDS:
            try:
                parse_codes(key)
            except ValueError as error:
                rule = f"stands at a key that {error}, or timeout, refused, redirect{nearest(key, VERDICT_WORDS)}"
                raise fail(str(key), action, rule) from None
        if name in table:
            raise fail(str(key), action, "stands twice; only the first would count, so remove one")
        if not isinstance(action, str) or action not in ACTION_WORDS:
            raise fail(
                str(key),
                action,
                f"must be {', '.join(ACTION_WORDS[:-1])} or disable{nearest(action, ACTION_WORDS)}",
            )
        table[name] = action
    return table


_ACTIONS_SCHEMA = {"enum": list(ACTION_WORDS)}
_VERDICT_TABLE = {
    "type": "object",
    "propertyNames": {
        "pattern": r"^(timeout|refused|redirect|[1-5][xX][xX]|[1-5]\d\d(-[1-5]\d\d)?)$",
    },
    "additionalProperties": _ACTIONS_SCHEMA,
    "description": "Status, class, range, timeout, refused or redirect: what to do. The first match counts.",
}
Verdicts = Annotated[
    dict[str, VerdictAction],
    PlainValidator(_read_verdicts),
    PlainSerializer(lambda table: {int(k) if k.isdecimal() else k: v for k, v in table.items()}),
    WithJsonSchema(
        {"anyOf": [_VERDICT_TABLE, {"type": "array", "items": {**_VERDICT_TABLE, "maxProperties": 1}}]}
    ),
]

# --------------------------------------------------------------------------- rules about an endpoint


class BudgetRule(Block):
    """Retry budget of one endpoint: a token bucket; a retry takes one token when it is decided."""

    ratio: Annotated[float, *number(high=1000)] = 0.1
    """Tokens that a success brings: 0.1 allows one retry for ten successes. Default 0.1."""
    min_per_s: Annotated[float, *number(high=1e9)] = 0.0
    """Tokens that time brings, per second. Default 0."""
    capacity: Annotated[float, *number(low=1)] = 50.0
    """Tokens held at most; the bucket starts full. Default 50."""


class Breaker(Block):
    """Circuit breaker of one endpoint: opens on a share of failures, then lets one probe through."""

    failures: PositiveShare
    """The share of failed attempts in the window at which it opens."""
    window: Annotated[PositiveDuration, SPAN] = Nanoseconds(300_000_000_000)
    """How far back attempts are counted. Default 5m."""
    min_requests: Annotated[int, *whole(1, 10**9)] = 10
    """Attempts in the window below which it does not open. Default 10."""
    open: Annotated[PositiveDuration, SPAN] = Nanoseconds(30_000_000_000)
    """How long nothing is sent before a probe. Default 30s."""


class Disable(Block):
    """When an endpoint is switched off, and what becomes of what waits for it."""

    one_of = ("failing_for", "consecutive", "share")
    failing_for: Annotated[PositiveDuration | None, SPAN] = None
    """Switched off after failing for this long without a success."""
    consecutive: Annotated[int, *whole(1, 10**12)] | None = None
    """Switched off after so many failed attempts in a row."""
    share: PositiveShare | None = None
    """Switched off when this share of attempts in the window fails."""
    window: Annotated[PositiveDuration, SPAN] = Nanoseconds(3_600_000_000_000)
    """Of share: how far back attempts are counted. Default 1h."""
    min_requests: Annotated[int, *whole(1, 10**9)] = 10
    """Of share: attempts in the window below which nothing is switched off. Default 10."""
    rest: Literal["drop", "hold"] = "drop"
    """What becomes of deliveries to the endpoint, waiting and new: drop (default) or hold (they wait until the
    end).
    """


# --------------------------------------------------------------------------- policies


def _preset_or_schedule(schema: Schema) -> None:
    """A bundled policy brings its schedule along."""
    schema["required"] = [key for key in schema.get("required", []) if key != "schedule"]
    schema["anyOf"] = [{"required": ["schedule"]}, {"required": ["preset"]}]


class PolicyBlock(Block):
    """How deliveries are retried, when they are given up, and how an endpoint's failures are answered."""

    model_config = ConfigDict(json_schema_extra=_preset_or_schedule)
    preset: str | None = None
    """A bundled policy (hooklab policies) to start from; what else stands here replaces its leaves."""
    schedule: Annotated[tuple[ScheduleEntry, ...], Field(min_length=1), SPAN]
    """Gaps: entry n is the wait before attempt n, the first counted from the event, the others from the end of
    the attempt before. Entries may be families of gaps. Required unless preset is given.
    """
    jitter: Annotated[Jitter, *shorthand(_read_jitter, _write_jitter, *_JITTER_SCHEMAS)] = Jitter()
    """Randomness of the gaps: none (default), full, equal, decorrelated, exponential, {plus_minus: 20%} or
    {additive: 5s}.
    """
    timeout: PositiveDuration = Nanoseconds(30_000_000_000)
    """How long an attempt waits for its answer. Default 30s."""
    connect_timeout: PositiveDuration | None = None
    """How long an attempt waits for a connection. Default: as long as timeout. Simulated connections take no time."""
    first_timeout: PositiveDuration | None = None
    """Replaces timeout for the first attempt. Default: timeout."""
    total_budget: PositiveDuration | None = None
    """The longest time that an attempt may take, connecting included. Default: no limit beside timeout."""
    success: Success = ("2xx",)
    """Statuses that mean delivered: a class, a status or a list of them. Default 2xx."""
    verdicts: Verdicts = {}
    """What follows from an answer: a status, class or range, timeout, refused or redirect, and success, retry,
    drop or disable. The first match counts; default: retry what is no success.
    """
    retry_after: Annotated[
        RetryAfter, *shorthand(_read_retry_after, _write_retry_after, {"enum": ["ignore", "honour"]})
    ] = RetryAfter()
    """What is made of a Retry-After header: ignore (default), honour, or {clamp: [1, 2]}."""
    max_age: Annotated[PositiveDuration | None, SPAN] = None
    """A delivery whose next attempt would come due later than this after its event has expired. Default: no limit."""
    max_age_from: Literal["event", "first_attempt"] = "event"
    """What max_age is counted from: event (default) or first_attempt."""
    max_attempts: Annotated[int, *whole(1, 10**12)] | None = None
    """Attempts after which a delivery is dead. Default: as many as the schedule has."""
    budget: BudgetRule | None = None
    """A retry budget of each endpoint, such as {ratio: 0.1}; a retry without a token makes the delivery dead.
    Default: none.
    """
    breaker: Breaker | None = None
    """A circuit breaker of each endpoint, such as {failures: 70%}. Default: none."""
    disable: Disable | None = None
    """When an endpoint is switched off for good, such as {failing_for: 120h}. Default: never."""

    @model_validator(mode="after")
    def _ends(self) -> PolicyBlock:
        for position, entry in enumerate(self.schedule[:-1]):
            if entry.endless:
                rule = f"goes on forever, so nothing can follow; it is entry {position + 1} of {len(self.schedule)}"
                raise fail("schedule", "forever", rule)
        return self


def schedule_runs(block: PolicyBlock) -> list[tuple[int, int]]:
    """The whole schedule as runs ``(gap_ns, times)``, cut at ``max_attempts``."""
    left = block.max_attempts or FOREVER
    runs = []
    for segment in block.schedule:
        for gap, times in segment.runs():
            if left > 0:
                runs.append((gap, min(times, left)))
                left = FOREVER if left == FOREVER else left - min(times, left)
    return runs


def schedule_length(block: PolicyBlock) -> int:
    """From the event to the last attempt, jitter and attempts aside, ns; ``FOREVER`` if there is no end."""
    limit = FOREVER if block.max_age is None else int(block.max_age)
    runs = schedule_runs(block)
    if any(times >= FOREVER for _, times in runs):
        return limit
    return min(limit, sum(gap * times for gap, times in runs))
