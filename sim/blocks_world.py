"""The blocks of the world outside the sender: producers and what they emit, receivers and how they fail."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from sim.blocks import (
    SPAN,
    SPEED,
    Block,
    Distribution,
    OtherForms,
    RandomDuration,
    absent,
    described,
    fail,
    known_words,
    read_at,
    shorthand,
    wrong,
)
from sim.fields import (
    DURATION_SCHEMA,
    RATE_SCHEMA,
    Duration,
    Flag,
    Nanoseconds,
    PositiveDuration,
    PositiveRate,
    Rate,
    Share,
    Size,
    format_duration,
    number,
    parse_duration,
    parse_number,
    parse_whole,
    whole,
)

STATUS = whole(100, 599)

# --------------------------------------------------------------------------- arrivals


class Bursts(Block):
    """Two alternating states with Poisson arrivals at their rates; exponential stays make it an MMPP."""

    on: PositiveRate
    """Events per second, minute, hour or day while on."""
    off: Rate = 0.0
    """Events while off. Default 0/s."""
    on_for: Annotated[RandomDuration, SPAN]
    """How long it stays on, each time."""
    off_for: Annotated[RandomDuration, SPAN]
    """How long it stays off, each time."""

    @model_validator(mode="after")
    def _in_steady_state(self) -> Bursts:
        for key in ("on_for", "off_for"):
            require_mean(key, getattr(self, key))
        if self.on_for.constant == self.off_for.constant == 0:
            raise fail("on_for", self.on_for.constant, "must be above 0s, or off_for must")
        return self


class Daily(Block):
    """Poisson arrivals whose rate repeats: one rate for each equal part of the period (24 rates: hours)."""

    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    """One rate for each equal part of the period; 24 rates are those of the hours."""
    period: Annotated[PositiveDuration, SPAN] = Nanoseconds(86_400_000_000_000)
    """After how long the rates repeat. Default 1d."""

    @model_validator(mode="after")
    def _some(self) -> Daily:
        if sum(self.rates) <= 0:
            raise fail("rates", "0/s", "must have a rate above 0/s")
        return self


class Ramp(Block):
    """Poisson arrivals whose rate grows or falls in a straight line, then stays."""

    start: Annotated[Rate, Field(alias="from")]
    """The rate at the start."""
    end: Annotated[Rate, Field(alias="to")]
    """The rate at the end of the ramp, and after it."""
    over: Annotated[PositiveDuration, SPAN]
    """How long the ramp is."""

    @model_validator(mode="after")
    def _some(self) -> Ramp:
        if self.start + self.end <= 0:
            raise fail("to", "0/s", "must not be 0/s where from is 0/s too")
        return self


def _read_file_name(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("must be the path of a CSV file")
    return value


FileName = Annotated[str, AfterValidator(_read_file_name)]


class ReplayArrivals(Block):
    """Recorded arrivals: a CSV file (.gz too) whose columns are named here; times are Unix seconds or ISO."""

    file: FileName
    """Path of a CSV file (.gz too) from the scenario's folder: a header, commas, rows in order of time. The first
    row comes at 0s; rows after the horizon are left out.
    """
    time: str
    """The column with the time: Unix seconds or ISO."""
    key: str | None = None
    """The column with the ordering key. Default: keys are drawn as keys says."""
    type: str | None = None
    """The column with the event type. Default: types are drawn as events says."""


class Arrivals(Block):
    """When events happen: one of the keys."""

    one_of = ("constant", "poisson", "bursts", "daily", "ramp", "at", "replay")
    constant: PositiveRate | None = None
    """Evenly spaced events at this rate, the first at 0s."""
    poisson: PositiveRate | None = None
    """Independent events at this rate."""
    bursts: Bursts | None = None
    """Independent events at a rate that switches on and off, such as {on: 50/s, on_for: 1m, off_for: 10m}."""
    daily: Annotated[
        Daily | None,
        OtherForms(({"type": "array", "items": RATE_SCHEMA, "minItems": 1},)),
        BeforeValidator(lambda value: {"rates": value} if isinstance(value, list | tuple) else value),
    ] = None
    """Independent events at rates that repeat every day: a list of rates, or {rates, period}."""
    ramp: Ramp | None = None
    """Independent events at a rate that grows or falls in a straight line, such as {from: 1/s, to: 9/s, over: 1h}."""
    at: Annotated[tuple[Duration, ...] | None, SPAN] = None
    """Events at these times, in ascending order."""
    replay: ReplayArrivals | None = None
    """Recorded events from a CSV file, such as {file: orders.csv, time: created_at}."""

    @model_validator(mode="after")
    def _ascending(self) -> Arrivals:
        if self.at is not None and (not self.at or list(self.at) != sorted(self.at)):
            raise fail("at", self.at, "must be times in ascending order, at least one")
        return self


# --------------------------------------------------------------------------- producers

MOST_IN_BATCH = 10_000


class PoissonCount(Block):
    """A random number of events, Poisson with this mean."""

    poisson: Annotated[float, *number(high=500)]
    """The mean number of events."""


def _read_count(value: object) -> object:
    if isinstance(value, PoissonCount):
        return value
    if isinstance(value, dict) and set(value) == {"poisson"}:
        mean = read_at("poisson", lambda given: parse_number(given, 0, 500, None), value["poisson"])
        return PoissonCount(poisson=mean)
    try:
        return parse_whole(value, 0, MOST_IN_BATCH)
    except ValueError as error:
        raise ValueError(f"{error}, or a random one: {{poisson: 2}}") from None


BatchCount = Annotated[
    PoissonCount | int,
    PlainValidator(_read_count),
    PlainSerializer(lambda count: count if isinstance(count, int) else {"poisson": count.poisson}),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MOST_IN_BATCH},
                {
                    "type": "object",
                    "properties": {
                        "poisson": described(
                            {"type": "number", "minimum": 0, "maximum": 500}, "The mean number of events."
                        )
                    },
                    "required": ["poisson"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Keys(Block):
    """Ordering keys: how many, and how skewed (``zipf`` 0: all alike)."""

    count: Annotated[int, *whole(1, 10_000_000)] = 1000
    """How many ordering keys there are. Default 1000."""
    zipf: Annotated[float, *number(high=10)] = 0.0
    """How skewed they are: key n is drawn in proportion to 1 / n**zipf. Default 0: all alike."""


class Objects(Block):
    """The life of the object that an event is about, counted from the event."""

    deleted_after: Annotated[RandomDuration | None, SPAN] = None
    """How long after its event the object is deleted. Default: never."""
    updated_every: Annotated[RandomDuration | None, SPAN] = None
    """How long between two updates of the object, so that a message may be stale. Default: never updated."""


Weight = Annotated[float, *number()]
EventType = Annotated[str, Field(min_length=1)]


class Producer(Block):
    """A system whose state changes; it emits events of some types, each with an ordering key."""

    arrivals: Arrivals
    """When events happen, such as {poisson: 50/s}. Required."""
    events: Annotated[dict[EventType, Weight], Field(min_length=1)] | None = None
    """Event types and their weights, such as {order.paid: 9, order.refunded: 1}; one is drawn for each event.
    Default: one type, event.
    """
    batch: Annotated[dict[EventType, BatchCount], Field(min_length=1)] | None = None
    """Event types and how many of each every change emits at once, with one key, such as {order.changed: 1,
    ticket.changed: {poisson: 2}}; instead of events.
    """
    keys: Keys = Keys()
    """The ordering keys: an event belongs to one of them, such as a shop or an order. Default: 1000, all alike."""
    objects: Objects | None = None
    """The life of the object behind an event, which counts where the queue holds ids or messages are thin.
    Default: it lives on unchanged.
    """
    body: Size = 1000
    """Size of a message body. Default 1kB."""

    @model_validator(mode="after")
    def _mix(self) -> Producer:
        if self.events is not None and self.batch is not None:
            raise fail("batch", self.batch, "excludes events: a change emits either one event or a batch")
        if self.events is not None and not sum(self.events.values()) > 0:
            raise fail("events", self.events, "has weights that sum to nothing; give one of them a weight")
        if self.batch is not None and not any(
            count.poisson > 0 if isinstance(count, PoissonCount) else count > 0
            for count in self.batch.values()
        ):
            raise fail("batch", self.batch, "emits no event; give one of them a count")
        replay = self.arrivals.replay
        if replay is not None and replay.type is not None and (self.events or self.batch):
            key = "events" if self.events else "batch"
            raise fail(key, getattr(self, key), "excludes arrivals.replay.type: the file names the types")
        if replay is not None and replay.key is not None and self.keys != Keys():
            raise fail("keys", self.keys, "excludes arrivals.replay.key: the file names the keys")
        return self


# --------------------------------------------------------------------------- faults


class ErrorFault(Block):
    """Answered with an error status, not processed; occupies a server for its latency."""

    probability: Share
    """The share of requests that meet it."""
    status: Annotated[int, *STATUS] = 500
    """The status answered. Default 500."""
    latency: RandomDuration | None = None
    """How long the error takes. Default: the receiver's latency."""
    retry_after: Annotated[Duration | None, SPAN] = None
    """The Retry-After that the answer asks for. Default: none."""


class LostAnswer(Block):
    """Processed, but the answer never reaches the sender."""

    probability: Share
    """The share of requests that are processed without the sender learning of it."""


def _read_moment(value: object) -> object:
    if value is None or isinstance(value, str):
        return value
    try:
        return parse_number(value, -1e10, 1e10, None)
    except ValueError:
        raise ValueError("must be Unix seconds or an ISO time such as 2026-01-01T00:00:00Z") from None


class ReplayOutages(Block):
    """Recorded outages: a CSV file (.gz too) with a start and an end column, Unix seconds or ISO times.

    Member i of the endpoint plays the i-th endpoint named in the file, in order of first appearance.
    ``where`` keeps the rows with these column values. Time 0 of the run is ``origin`` (default: the earliest
    start in the file); ``speed`` plays the file faster.
    """

    file: FileName
    """Path of a CSV file (.gz too) from the scenario's folder: a header and a row for each outage, with commas."""
    start: str
    """The column with the start: Unix seconds or ISO."""
    end: str
    """The column with the end: Unix seconds or ISO."""
    endpoint: str | None = None
    """The column that names who was out; member i plays the i-th name. Default: all members play all rows."""
    where: dict[str, str] = {}
    """Column and value: only rows that have it are played. Default: all rows."""
    origin: Annotated[
        str | float | None,
        PlainValidator(_read_moment),
        WithJsonSchema({"type": ["string", "number", "null"], "description": "Unix seconds or an ISO time."}),
    ] = None
    """The time in the file that is time 0 of the run: Unix seconds or ISO. Default: the earliest start."""
    speed: Annotated[float, *number(low=1e-6, high=1e12), SPEED] = 1.0
    """How many times faster the file is played. Default 1."""


HOW_WORDS = ("refuse", "hang", "pause")


def _chosen(value: object) -> bool:
    if value is not True:
        raise ValueError("must be true, or better: write the word alone, such as how: refuse")
    return True


Chosen = Annotated[bool, PlainValidator(_chosen), WithJsonSchema({"const": True})]


class OutageHow(Block):
    """What a caller meets during an outage."""

    one_of = (*HOW_WORDS, "status", "error")
    forms = "must be refuse, hang, pause, {status: 503} or {error: {probability: 50%}}"
    refuse: Chosen | None = None
    """Connections are refused at once."""
    hang: Chosen | None = None
    """Requests are accepted, and never answered nor processed."""
    pause: Chosen | None = None
    """Requests queue, and are served after the outage."""
    status: Annotated[int, *STATUS] | None = None
    """Requests are answered with this status at once."""
    error: ErrorFault | None = None
    """Requests fail as this error says, with its probability."""


def _read_how(value: object) -> object:
    return {known_words(HOW_WORDS, OutageHow.forms)(value): True} if isinstance(value, str) else value


def _write_how(dump: dict[str, Any]) -> object:
    word = next(iter(dump), "")
    return word if dump.get(word) is True else dump


def _read_windows(value: object) -> tuple[tuple[Nanoseconds, Nanoseconds], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value:
        raise wrong("must be a list of [start, end), such as [[2h, 3h], [26h, 27h]]")
    windows: list[tuple[Nanoseconds, Nanoseconds]] = []
    for position, pair in enumerate(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise fail(str(position), pair, "must be two times [start, end), such as [2h, 3h]")
        start, end = (read_at(position, parse_duration, at) for at in pair)
        if end <= start or (windows and start < windows[-1][1]):
            raise fail(
                str(position), pair, "must end after it starts, and start after the one before it ends"
            )
        windows.append((start, end))
    return tuple(windows)


Windows = Annotated[
    tuple[tuple[Nanoseconds, Nanoseconds], ...] | None,
    PlainValidator(_read_windows),
    PlainSerializer(
        lambda windows: windows and [[format_duration(start), format_duration(end)] for start, end in windows]
    ),
    WithJsonSchema(
        {
            "type": ["array", "null"],
            "minItems": 1,
            "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": DURATION_SCHEMA},
        }
    ),
]


class Outage(Block):
    """Times at which the receiver does not work: drawn (up and down), given, or replayed."""

    up: Annotated[RandomDuration | None, SPAN] = None
    """How long it works between two outages, drawn each time; goes with down."""
    down: Annotated[RandomDuration | None, SPAN] = None
    """How long an outage lasts, drawn each time; goes with up."""
    windows: Annotated[Windows, SPAN] = None
    """The outages as a list of [start, end) from the start of the run, such as [[2h, 3h]]."""
    replay: ReplayOutages | None = None
    """Recorded outages from a CSV file, such as {file: incidents.csv, start: from, end: to}."""
    how: Annotated[OutageHow, *shorthand(_read_how, _write_how, {"enum": list(HOW_WORDS)})] = OutageHow(
        refuse=True
    )
    """What a caller meets: refuse (default), hang, pause, {status: 503} or {error: {probability: 50%}}."""
    scope: Literal["each", "all together"] = "each"
    """each (default): every endpoint has outages of its own; all together: they share them."""

    @model_validator(mode="after")
    def _source(self) -> Outage:
        drawn = self.up is not None and self.down is not None
        if (self.up is None) != (self.down is None) or drawn + bool(self.windows) + bool(self.replay) != 1:
            raise wrong("must have up and down, or windows, or replay")
        for which in ("up", "down"):
            if getattr(self, which) is not None:
                require_mean(which, getattr(self, which))
        return self


def require_mean(key: str, length: Distribution) -> None:
    """Refuse the length of an alternating state that has no mean: it would have no steady state to start in.

    Raises:
        PydanticCustomError: it has no mean.
    """
    if length.pareto is not None and length.pareto.shape <= 1:
        rule = "has no mean (pareto shape at most 1), so no steady state; the shape must be above 1"
        raise fail(key, f"pareto of shape {length.pareto.shape:g}", rule)


class Fault(Block):
    """One way to fail; the first fault in the list that applies to a request decides it."""

    one_of = ("error", "lost_answer", "outage")
    error: ErrorFault | None = None
    """Answered with an error and not processed, such as {probability: 2%, status: 500}."""
    lost_answer: LostAnswer | None = None
    """Processed, but the sender sees a timeout, such as {probability: 0.1%}."""
    outage: Outage | None = None
    """Times at which it does not work, such as {windows: [[2h, 3h]], how: hang}."""


# --------------------------------------------------------------------------- receivers


class Backlog(Block):
    """How many requests may wait for a server, and what those beyond meet."""

    forms = "must be unlimited, or a mapping such as {size: 100, beyond: 503}"
    size: Annotated[int, *whole(0, 100_000_000)]
    """How many requests may wait for a server."""
    beyond: Annotated[int | Literal["hang"], *whole(100, 599, "hang")] = 503
    """What the others meet: a status at once, or hang. Default 503."""
    retry_after: Annotated[Duration | None, SPAN] = None
    """The Retry-After that this answer asks for. Default: none."""


class Dedupe(Block):
    """The receiver forgets a delivery this long after processing it; until then a repeat has no effect."""

    forms = "must be off, or a mapping such as {window: 24h}"
    window: Annotated[PositiveDuration, SPAN]
    """How long a processed delivery is remembered."""


class ReceiverBlock(Block):
    """Who answers: latency, capacity, faults, and what it makes of repeats and late events."""

    latency: RandomDuration
    """How long a server works on a request: a duration, or a random one such as {lognormal: {median: 120ms, p99:
    2s}}. Required.
    """
    servers: Annotated[int | Literal["unlimited"], *whole(1, 1_000_000, "unlimited")] = "unlimited"
    """How many requests each endpoint works on at once; the others queue. Default unlimited."""
    backlog: Annotated[Backlog | None, *absent("unlimited")] = None
    """How many requests may queue, and what those beyond meet, such as {size: 100, beyond: 503}. Default
    unlimited.
    """
    answers: Literal["after_processing", "on_arrival"] = "after_processing"
    """after_processing (default): when the work is done; on_arrival: 200 at once, and the work is done later."""
    faults: tuple[Fault, ...] = ()
    """Ways to fail; the first in the list that applies to a request decides it. Default: none."""
    dedupe: Annotated[Dedupe | None, *absent("off", False)] = None
    """off (default), or how long repeats of a processed delivery have no effect, such as {window: 24h}."""
    stale_guard: Flag = False
    """Whether events older than the newest processed one of their key are ignored. Default false."""
