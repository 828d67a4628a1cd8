"""What the HTTP API is sent and what it answers: models, from which the OpenAPI document is made too."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from sim.blocks import Block, absent, wrong
from sim.blocks_dispatcher import Mode
from sim.fields import RATE_SCHEMA, PositiveDuration, parse_number, parse_rate, whole

LONGEST_NAME = 200
LARGEST = 2**63 - 1
MOST_LISTED = 1_000
LONGEST_WAIT_S = 30

ID_RULE = (
    f"must be at most {LONGEST_NAME} printable characters without /, and a : only as in name:number, "
    "such as shop:17"
)
_NUMBERED = re.compile(r"[^:]+:(0|[1-9][0-9]{0,17})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2200, 1, 1, tzinfo=UTC)

# --------------------------------------------------------------------------- scalars


def _check_id(text: str) -> str:
    if not text.isprintable() or "/" in text or text in (".", ".."):
        raise ValueError(ID_RULE)
    if ":" in text and not _NUMBERED.fullmatch(text):
        raise ValueError(ID_RULE)
    return text


def _check_endpoint_id(text: str) -> str:
    if text.isascii() and text.isdecimal():
        raise ValueError(
            "must not be a number alone: a delivery's id, event:endpoint, could be read in two ways"
        )
    return _check_id(text)


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable characters")
    return text


def _parse_time(value: object) -> int:
    """A time in ns since 1970."""
    if not isinstance(value, str):
        raise ValueError("must be a time as RFC 3339 has it, such as 2026-01-31T12:00:00Z")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a time as RFC 3339 has it, such as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise ValueError("has no time zone; end it with Z or an offset such as +03:00")
    if not _EPOCH + timedelta(days=1) <= time <= _LAST:
        raise ValueError("must lie between 1970 and 2200")
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def _parse_limit(value: object) -> float:
    rule = "must be a rate such as 50/s, or a number per second"
    if isinstance(value, str):
        rate = parse_rate(value)
    else:
        try:
            rate = parse_number(value, 0, 1e9, None)
        except ValueError as error:
            raise ValueError(f"{error}; it {rule}") from None
    if rate <= 0:
        raise wrong("must be above 0/s; leave it out for no limit")
    return rate


_PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f]*$"
_PART = r"[^:/\u0000-\u001f\u007f-\u009f]+"
# What the document says of texts; Python's ``isprintable`` is a little stricter, and its rules make better errors.
_TEXT_PATTERN = Field(json_schema_extra={"pattern": _PRINTABLE})
_ID_PATTERN = Field(json_schema_extra={"pattern": f"^{_PART}(:(0|[1-9][0-9]{{0,17}}))?$"})
_NONEMPTY = StringConstraints(min_length=1, max_length=LONGEST_NAME)

Name = Annotated[str, _NONEMPTY, AfterValidator(_check_printable), _TEXT_PATTERN]
Text = Annotated[
    str, StringConstraints(max_length=LONGEST_NAME), AfterValidator(_check_printable), _TEXT_PATTERN
]
EventId = Annotated[str, _NONEMPTY, AfterValidator(_check_id), _ID_PATTERN]
EndpointId = Annotated[str, _NONEMPTY, AfterValidator(_check_endpoint_id), _ID_PATTERN]
Time = Annotated[int, PlainValidator(_parse_time), WithJsonSchema({"type": "string", "format": "date-time"})]
RateLimit = Annotated[
    float,
    PlainValidator(_parse_limit),
    WithJsonSchema({"anyOf": [RATE_SCHEMA, {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9}]}),
]
PolicyGiven = Annotated[
    str | dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}],
            "description": "A policy by name, or a policy block of the scenario format (hooklab schema).",
        }
    ),
]

# --------------------------------------------------------------------------- events


class _Posted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class PostedObject(_Posted):
    """The object that an event tells of; its data are fetched when an attempt starts."""

    type: Name
    id: EventId


class PostedEvent(_Posted):
    """A fact that subscribers are told of."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["data"]},
                {"required": ["object"], "properties": {"object": {"type": "object"}}},
            ]
        }
    )
    type: Name
    """Its type, such as ``receipt.created``; registered at first use."""
    key: Text
    """Ordering key; may be empty."""
    data: Any = None
    """Any JSON. Required unless ``object`` is given."""
    id: EventId | None = None
    """Chosen by the producer, so that it can post again safely. Default: a new one."""
    seq: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    """Number within its key."""
    occurred_at: Time | None = None
    """When it happened. Default: now."""
    object: PostedObject | None = None
    """An object under ``/objects``, instead of data."""


class EventAnswer(BaseModel):
    """An event that is stored."""

    id: str


class Replay(Block):
    """Which events to send once more."""

    since: Time
    """The first moment."""
    until: Time
    """The moment before which it ends."""


class PollQuery(Block):
    """What a polling endpoint asks for."""

    endpoint: Annotated[str, Field(min_length=1)]
    """Its id."""
    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    """The cursor of the last event that it has."""
    limit: Annotated[int, Field(ge=1, le=MOST_LISTED)] = 100
    wait: Annotated[float, Field(ge=0, le=LONGEST_WAIT_S)] = 0.0
    """Seconds to wait for an event if there is none."""


# --------------------------------------------------------------------------- endpoints


class EndpointPatch(Block):
    """What may be changed about an endpoint; it applies from the next due time."""

    url: Annotated[str, Field(max_length=2000)] = ""
    """Where it is sent to; empty if it polls."""
    types: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)] = ("*",)
    """Patterns of event types, such as ``receipt.*``."""
    policy: PolicyGiven = ""
    """Required unless it polls."""
    signature: Literal["standard", "hub", "none"] = "standard"
    """standard (Standard Webhooks), hub (X-Hub-Signature) or none."""
    hook_fields: bool = False
    """Whether the body carries hook_guid and hook_generated_at."""
    max_in_flight: Annotated[int, *whole(1, 10**9)] | None = None
    """Attempts under way at once. Default: no limit."""
    rate_limit: RateLimit | None = None
    """Attempts that may start, such as 50/s or 50. Default: no limit."""
    ordering: Literal["none", "key", "endpoint"] | None = None
    """Whether a delivery waits for its predecessor of the key, or of the endpoint. Default: the scenario's."""
    mode: Annotated[Mode | None, *absent("push")] = None
    """push (default), or {poll: {every: 60s}}."""
    description: Annotated[str, Field(max_length=1000)] = ""


class EndpointBody(EndpointPatch):
    """A new endpoint."""

    id: EndpointId | None = None
    """Default: a new one."""
    secret: Annotated[str, Field(max_length=300)] | None = None
    """Default: a new one, shown once."""


class RotateSecret(Block):
    """The next secret, and for how long the old one signs beside it."""

    secret: Annotated[str, Field(max_length=300)] | None = None
    """Default: a new one."""
    overlap: PositiveDuration | None = None
    """How long messages carry both signatures. Default 24h."""


class EndpointsQuery(Block):
    """Which endpoints to list, in the order in which they were made."""

    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    """The ``next`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MOST_LISTED)] = 100


class EndpointAnswer(BaseModel):
    """An endpoint as it is."""

    id: str
    url: str | None
    types: list[str]
    policy: Any
    """A name, or the block."""
    signature: str
    hook_fields: bool
    max_in_flight: int | None
    rate_limit: str | None
    ordering: str
    mode: Any
    description: str
    status: Literal["enabled", "paused", "disabled"]
    reason: str
    created_at: str
    changed_at: str
    old_secret_until: str | None
    secret: str | None = None
    """Only where it has just been made."""


class EndpointsAnswer(BaseModel):
    """A page of endpoints."""

    endpoints: list[EndpointAnswer]
    next: int | None
    """null: this was the last page."""


# --------------------------------------------------------------------------- deliveries

StateName = Literal["waiting", "in_flight", "delivered", "dead", "expired", "dropped", "vanished"]


class DeliveriesQuery(Block):
    """Which deliveries to list, new ones first."""

    state: str = ""
    """One state, or several with commas between."""
    endpoint: str = ""
    type: str = ""
    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    """The ``next`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MOST_LISTED)] = 100


class TraceQuery(Block):
    """Which part of the trace."""

    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    """The cursor of the last line that is known."""
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class StartQuery(Block):
    """When the scenario begins."""

    at: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    """ns since 1970; none: now."""


class AttemptAnswer(BaseModel):
    """One attempt."""

    attempt_number: int
    tier: int
    due_at: str
    started_at: str
    finished_at: str
    outcome: Literal["delivered", "rejected", "timed_out", "refused", "gone"]
    status: int | None
    wait_cause: str
    answer: str
    """The first bytes of what came back."""
    error: str


class DeliveryAnswer(BaseModel):
    """One event for one endpoint."""

    id: str
    event_id: str
    endpoint: str
    type: str
    key: str
    seq: int | None
    created_at: str
    state: StateName
    cause: str
    attempts: int
    due_at: str | None
    """When the next attempt is due; null once it is settled."""
    delivered_at: str | None
    settled_at: str | None
    held: bool
    """Whether it waits for a predecessor."""
    log: list[AttemptAnswer] | None = None
    """Its attempts, where one delivery is asked for."""


class Problems(BaseModel):
    """What is wrong with a request."""

    error: str
    problems: list[dict[str, Any]] = []
    """field, value and rule of each."""
    problem_count: int = 0


# --------------------------------------------------------------------------- other answers


class StoredEvent(BaseModel):
    """An event with the ids of its deliveries."""

    id: str
    type: str
    key: str
    seq: int | None
    occurred_at: str
    created_at: str
    data: Any
    """null where its object's store holds it."""
    object: dict[str, str] | None
    deliveries: list[str]


class PolledEvent(BaseModel):
    """An event as a polling endpoint gets it."""

    cursor: int
    id: str
    delivery_id: str
    type: str
    key: str
    seq: int | None
    occurred_at: str
    created_at: str
    data: Any


class PolledAnswer(BaseModel):
    """What waited, and the cursor to ask with next."""

    events: list[PolledEvent]
    next: int


class DeliveriesAnswer(BaseModel):
    """A page of deliveries."""

    deliveries: list[DeliveryAnswer]
    next: int | None
    """null: this was the last page."""


class TestAnswer(BaseModel):
    """A test event."""

    id: str
    delivery_id: str


class ReplayAnswer(BaseModel):
    """How much is sent once more."""

    added: int
    resent: int


class StatusAnswer(BaseModel):
    """How the dispatcher is."""

    status: str


class StartAnswer(BaseModel):
    """When the scenario begins."""

    start_ns: int


class HealthAnswer(StatusAnswer):
    """How the dispatcher is, and when the scenario began; null: nobody has told this process."""

    start_ns: int | None
