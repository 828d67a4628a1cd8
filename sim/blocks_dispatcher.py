"""The blocks of the sender: endpoints with their subscriptions, and the dispatcher with its workers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from sim.blocks import SPAN, Block, OtherForms, fail, read_at, wrong
from sim.errors import nearest
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


def matches(patterns: Iterable[str], event_type: str) -> bool:
    """Whether a subscription with these patterns wants an event type; ``*`` stands for anything, case counts."""
    return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)


def is_plain(pattern: str) -> bool:
    """Whether a pattern of a subscription is the one event type that it matches."""
    return not set(pattern) & set("*?[")


class Poll(Block):
    """The endpoint fetches what waits for it, every so often."""

    every: Annotated[PositiveDuration, SPAN]
    """How long between two polls; the first comes at a random time within it."""


class Mode(Block):
    """How events reach the endpoint: pushed, unless it polls."""

    forms = "must be push, or a mapping such as {poll: {every: 60s}}"
    poll: Poll
    """The endpoint asks for what waits instead of being sent to, such as {every: 60s}."""


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
    """How many endpoints the group has, each with its own receiver and its own luck. Default 1."""
    route: Literal["all", "by_key"] = "all"
    """all (default): every member receives every event; by_key: each event goes to the one member that its key
    belongs to. Two groups with by_key each receive all events.
    """
    producers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The producers it listens to, by name. Default: all."""
    subscribes: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """The event types it wants, as patterns such as order.*. Default: all."""
    policy: str | None = None
    """The policy by which it is sent to: a name of policies or a bundled one. Required unless it polls."""
    receiver: Receivers
    """Who answers: a name of receivers or a bundled one; or a mix such as {shop: 95%, dead: 5%}, from which each
    member draws by its own luck, so the shares hold on average.
    """
    max_in_flight: Annotated[int, *whole(1, 10**9)] | None = None
    """Attempts that may be under way to one member at once. Default: no limit."""
    rate_limit: PositiveRate | None = None
    """Attempts that may start to one member, evenly spaced, such as 10/s. Default: no limit."""
    mode: Annotated[
        Mode | None,
        OtherForms(({"const": "push"},)),
        BeforeValidator(lambda value: None if value == "push" else value),
    ] = None
    """push (default), or {poll: {every: 60s}}."""

    @model_validator(mode="after")
    def _complete(self) -> Endpoint:
        if self.policy is None and self.mode is None:
            raise fail("policy", None, "must name a policy of this file or a bundled one")
        return self


# --------------------------------------------------------------------------- the dispatcher

MOST_WORKERS = 10**9
UNLIMITED = 2**62


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
        raise wrong(rule + (nearest(value, ["unlimited"]) if isinstance(value, str) else "")) from None


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
    """Workers that make first attempts."""
    retries: Annotated[int, *whole(1, MOST_WORKERS)]
    """Workers that make retries."""


class Dispatcher(Block):
    """The sender: how many workers, which queue discipline, which order it keeps."""

    workers: Annotated[Workers, SPAN] = "unlimited"
    """Attempts that may be under way at once: a number, unlimited (default), a list of [from, n] over time, or
    under per_tier a list with a number for each tier, of which the last serves all tiers after it.
    """
    discipline: Literal["shared", "per_tier"] = "shared"
    """shared (default): a worker takes any delivery that is due; per_tier: each attempt number has its own queue
    and workers, and a worker holds the head of its queue until it is due.
    """
    ordering: Literal["none", "key", "endpoint"] = "none"
    """none (default), key or endpoint: a delivery is not started before the earlier one of its key, or of its
    endpoint, is final.
    """
    lanes: Lanes | None = None
    """Separate workers for first attempts and for retries, such as {first: 48, retries: 16}; with discipline:
    shared. Default: one pool.
    """
    queue_holds: Literal["body", "id"] = "body"
    """body (default): the message as it was at the event; id: it is fetched when an attempt starts, and is gone
    if its object is deleted.
    """
    message: Literal["full", "thin"] = "full"
    """full (default): with the data; thin: ids only, and the receiver calls back for the data."""
    overhead: Duration = Nanoseconds(0)
    """The sender's own work for each attempt, during which its worker is busy. Default 0s."""

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

    def workers_at(self) -> tuple[tuple[int, int], ...]:
        """Workers of the shared pool over time as (from, number); one step unless the scenario gives more."""
        if self.workers == "unlimited":
            return ((0, UNLIMITED),)
        if isinstance(self.workers, int):
            return ((0, self.workers),)
        return tuple((int(start), int(count)) for start, count in self.workers)  # type: ignore[misc]

    def tier_workers(self, attempt_number: int) -> int:
        """Workers of a tier under ``per_tier``; the last number given serves the tiers after it."""
        if isinstance(self.workers, tuple):
            return int(self.workers[min(attempt_number, len(self.workers)) - 1])  # type: ignore[arg-type]
        assert isinstance(self.workers, int)
        return self.workers
