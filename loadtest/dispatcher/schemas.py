"""What the API is given, and how it tells what is wrong with it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from sim import presets
from sim.blocks_policy import PolicyBlock
from sim.errors import Problem, ScenarioError, nearest, problem, told
from sim.fields import parse_duration, parse_rate

MOST_EVENTS = 1_000
"""Events of one request."""
_ID = re.compile(r"[^\s:/\x00-\x1f\x7f]{1,150}(:\d{1,19})?")
_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Refused(ValueError):  # noqa: N818  what becomes of the input, as a state
    """Input that breaks rules; each problem says where, what and which rule."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def _identifier(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("must be name:number, or up to 150 characters without spaces, slashes and colons")
    return text


def _type(text: str) -> str:
    if not _TYPE.fullmatch(text):
        raise ValueError("must be up to 128 letters, digits, dots, dashes and underscores")
    return text


def _nanoseconds(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**33:
        return round(value * 1e6) * 1000
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be a time of RFC 3339, such as 2026-01-31T12:00:00Z") from None
        if moment.tzinfo is None:
            raise ValueError("must name its time zone, such as …Z")
        return round(moment.timestamp() * 1e6) * 1000
    raise ValueError("must be a time of RFC 3339, such as 2026-01-31T12:00:00Z, or Unix seconds")


Identifier = Annotated[str, AfterValidator(_identifier)]
EventType = Annotated[str, AfterValidator(_type)]
Moment = Annotated[int, BeforeValidator(_nanoseconds)]


class Body(BaseModel):
    """A JSON object; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ObjectName(Body):
    """The object that an event tells of."""

    type: EventType
    id: Identifier


class IncomingEvent(Body):
    """One event."""

    type: EventType
    key: Annotated[str, Field(max_length=200)] = ""
    data: Any = None
    id: Identifier | None = None
    seq: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    occurred_at: Moment | None = None
    object: ObjectName | None = None


class Poll(Body):
    """How often a polling endpoint asks."""

    every: str | float


class PollMode(Body):
    """The endpoint fetches what waits for it."""

    poll: Poll


class EndpointChange(Body):
    """What may be changed about an endpoint."""

    url: Annotated[str, Field(max_length=2000)] | None = None
    types: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]], Field(min_length=1, max_length=100)
        ]
        | None
    ) = None
    policy: str | dict[str, Any] | None = None
    secret: Annotated[str, Field(max_length=500)] | None = None
    signature: Literal["standard", "hub", "none"] | None = None
    hook_fields: bool | None = None
    max_in_flight: Annotated[int, Field(ge=1, le=10**9)] | None = None
    rate_limit: str | Annotated[float, Field(gt=0, le=1e9)] | None = None
    ordering: Literal["none", "key", "endpoint"] | None = None
    mode: Literal["push"] | PollMode | None = None
    description: Annotated[str, Field(max_length=1000)] | None = None


class NewEndpoint(EndpointChange):
    """An endpoint to be."""

    id: Identifier | None = None
    types: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(min_length=1, max_length=100)
    ]


class Replay(Body):
    """A range of time: events created in [since, until) are sent again."""

    since: Moment
    until: Moment


Model = TypeVar("Model", bound=BaseModel)
ONE_EVENT = TypeAdapter(IncomingEvent)
SEVERAL_EVENTS = TypeAdapter(Annotated[list[IncomingEvent], Field(min_length=1, max_length=MOST_EVENTS)])


def read_events(body: bytes) -> list[IncomingEvent] | IncomingEvent:
    """The event or events of a request's body.

    Raises:
        Refused: bad JSON, or what is wrong with which event.
    """
    try:
        if body[:64].lstrip()[:1] == b"[":
            return SEVERAL_EVENTS.validate_json(body)
        return ONE_EVENT.validate_json(body)
    except ValidationError as error:
        raise refused(error) from None


def read(kind: type[Model], body: bytes) -> Model:
    """The body of a request as a model; raises ``Refused``."""
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise refused(error) from None


def refused(error: ValidationError) -> Refused:
    """A validation's errors in our words."""
    return Refused([problem(one) for one in told(error.errors())])


def read_policy(given: str | dict[str, Any], named: dict[str, PolicyBlock]) -> tuple[str, PolicyBlock]:
    """A policy's name (empty for a block) and its block; a name is one of the scenario's or a bundled one.

    Raises:
        Refused: an unknown name (with the nearest), or what is wrong with the block.
    """
    bundled = presets.names("policies")
    if isinstance(given, str):
        if given in named:
            return given, named[given]
        if given not in bundled:
            rule = (
                f"is neither a policy of the scenario nor a bundled one{nearest(given, [*named, *bundled])}"
            )
            raise Refused([Problem("policy", given, rule)])
        return given, PolicyBlock.model_validate(presets.read("policies", given)["policy"])
    block = dict(given)
    preset = block.get("preset")
    if preset is not None:
        if preset not in bundled:
            raise Refused(
                [Problem("policy.preset", preset, f"is not a bundled policy{nearest(preset, bundled)}")]
            )
        block = {**presets.read("policies", preset)["policy"], **block}
    try:
        return "", PolicyBlock.model_validate(block)
    except ValidationError as error:
        problems = [problem(one) for one in told(error.errors())]
        raise Refused(
            [one._replace(path=f"policy.{one.path}" if one.path else "policy") for one in problems]
        ) from None
    except ScenarioError as error:
        raise Refused([Problem("policy", None, str(error))]) from None


def read_rate(value: str | float | None) -> float:
    """Attempts per second; raises ``Refused``."""
    if value is None or isinstance(value, int | float):
        return float(value or 0.0)
    try:
        rate = float(parse_rate(value))
    except ValueError as error:
        raise Refused([Problem("rate_limit", value, str(error))]) from None
    if rate <= 0:
        raise Refused([Problem("rate_limit", value, "must be above zero")])
    return rate


def read_every(value: str | float) -> float:
    """A polling interval in seconds; raises ``Refused``."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return int(parse_duration(value)) / 1e9
    except ValueError as error:
        raise Refused([Problem("mode.poll.every", value, str(error))]) from None
