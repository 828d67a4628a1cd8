"""The blocks of the sender: endpoints with their subscriptions, and the dispatcher with its workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from sim.blocks import SPAN, Block, OtherForms, fail, read_at, wrong
from sim.fields import (
    DURATION_SCHEMA,
    SHARE_SCHEMA,
    Duration,
    Nanoseconds,
    PositiveDuration,
    PositiveRate,
    format_duration,
    format_share,
    parse_duration,
    parse_share,
    parse_whole,
    whole,
)

# --------------------------------------------------------------------------- endpoints


class Poll(Block):
    """The endpoint fetches what waits for it, every so often."""

    every: Annotated[PositiveDuration, SPAN]


class Mode(Block):
    """How events reach the endpoint: pushed, unless it polls."""

    forms = "must be push, or a mapping such as {poll: {every: 60s}}"
    poll: Poll


def _read_receivers(value: object) -> str | dict[str, float]:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, dict) or not value:
        raise wrong("must name a receiver, or map receivers to shares, such as {shop: 95%, dead: 5%}")
    mix = {}
    for name, share in value.items():
        if not isinstance(name, str):
            raise fail(str(name), share, "must be text to be a key here; put it in quotes")
        mix[name] = read_at(name, parse_share, share)
    if not sum(mix.values()) > 0:
        raise wrong("has shares that sum to nothing; give one of them a share")
    return mix


Receivers = Annotated[
    str | dict[str, float],
    PlainValidator(_read_receivers),
    PlainSerializer(
        lambda mix: mix if isinstance(mix, str) else {name: format_share(mix[name]) for name in mix}
    ),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "additionalProperties": SHARE_SCHEMA, "minProperties": 1},
            ]
        }
    ),
]


class Endpoint(Block):
    """A group of receiver URLs that share subscription, policy and receiver; each member has its own luck."""

    count: Annotated[int, *whole(1, 1_000_000)] = 1
    route: Literal["all", "by_key"] = "all"
    producers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    subscribes: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    policy: str | None = None
    receiver: Receivers
    max_in_flight: Annotated[int, *whole(1, 10**9)] | None = None
    rate_limit: PositiveRate | None = None
    mode: Annotated[
        Mode | None,
        OtherForms(({"const": "push"},)),
        BeforeValidator(lambda value: None if value == "push" else value),
    ] = None

    @model_validator(mode="after")
    def _complete(self) -> Endpoint:
        if self.policy is None and self.mode is None:
            raise fail("policy", None, "must name a policy of this file or a bundled one")
        return self


# --------------------------------------------------------------------------- the dispatcher

MOST_WORKERS = 10**9


def _read_workers(value: object) -> object:
    rule = (
        "must be a whole number of at least 1, unlimited, a list of [from, n] (shared) or a list with a number "
        "for each tier (per_tier)"
    )
    if value == "unlimited":
        return value
    if isinstance(value, list | tuple):
        if not value:
            raise wrong(rule)
        if all(isinstance(entry, list | tuple) for entry in value):
            return _read_steps(value)
        return tuple(read_at(i, lambda n: parse_whole(n, 1, MOST_WORKERS), n) for i, n in enumerate(value))
    try:
        return parse_whole(value, 1, MOST_WORKERS)
    except ValueError:
        raise wrong(rule) from None


def _read_steps(value: list[object] | tuple[object, ...]) -> tuple[tuple[Nanoseconds, int], ...]:
    steps: list[tuple[Nanoseconds, int]] = []
    for position, entry in enumerate(value):
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise fail(str(position), entry, "must be [from, n], such as [1h, 8]")
        start = read_at(position, parse_duration, entry[0])
        count = read_at(position, lambda n: parse_whole(n, 0, MOST_WORKERS), entry[1])
        if start <= steps[-1][0] if steps else start != 0:
            wanted = "later than the one before it" if steps else "0s"
            raise fail(
                str(position), entry, f"must start at {wanted}" if not steps else f"must start {wanted}"
            )
        steps.append((start, count))
    return tuple(steps)


def _write_workers(workers: object) -> object:
    if not isinstance(workers, tuple):
        return workers
    return [[format_duration(step[0]), step[1]] if isinstance(step, tuple) else step for step in workers]


Workers = Annotated[
    int | Literal["unlimited"] | tuple[int, ...] | tuple[tuple[Duration, int], ...],
    PlainValidator(_read_workers),
    PlainSerializer(_write_workers),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "unlimited"},
                {"type": "integer", "minimum": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "integer", "minimum": 1},
                    "description": "A number for each tier, with discipline: per_tier.",
                },
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "prefixItems": [DURATION_SCHEMA, {"type": "integer", "minimum": 0}],
                    },
                    "description": "[from, n]: workers over time.",
                },
            ]
        }
    ),
]


class Lanes(Block):
    """Separate worker pools for first attempts and for retries."""

    first: Annotated[int, *whole(1, MOST_WORKERS)]
    retries: Annotated[int, *whole(1, MOST_WORKERS)]


class Dispatcher(Block):
    """The sender: how many workers, which queue discipline, which order it keeps."""

    workers: Annotated[Workers, SPAN] = "unlimited"
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
            rule = "must be a number, or a list with one for each tier, under discipline: per_tier"
            raise fail("workers", self.workers, rule)
        if self.discipline == "shared" and tiered:
            raise fail("workers", self.workers, "is a number for each tier: that needs discipline: per_tier")
        if self.lanes is not None and self.discipline == "per_tier":
            raise fail("lanes", self.lanes, "goes with discipline: shared")
        if self.lanes is not None and self.workers not in (
            "unlimited",
            self.lanes.first + self.lanes.retries,
        ):
            both = self.lanes.first + self.lanes.retries
            rule = f"must be {both}, the workers of both lanes together, or be left out"
            raise fail("workers", self.workers, rule)
        return self
