"""What all blocks of a scenario file share: strict mappings, short forms, and random durations.

The blocks themselves: ``blocks_world`` (producers and receivers), ``blocks_policy`` (policies and schedules),
``blocks_dispatcher`` (endpoints and the dispatcher). Each is an immutable pydantic model and an unknown key is an
error. A field marked ``SPAN`` is a time that ``Scenario.compressed`` divides; latencies and timeouts are not.
Short forms (``5s`` for ``{delay: 5s}``, ``full`` for ``{kind: full}``) are read, and written back, by the same
model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    WrapSerializer,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from sim.errors import EMPTY, explained, nearest, told
from sim.fields import (
    DURATION_SCHEMA,
    Duration,
    Nanoseconds,
    PositiveDuration,
    format_duration,
    format_share,
    number,
    parse_duration,
    parse_share,
    whole,
)

Schema = dict[str, Any]


class _Span:
    """Marks a time that belongs to the schedule of a scenario, not to one request."""


SPAN = _Span()
SPEED = _Span()
"""Marks the speed of a replay, which compressing a scenario multiplies."""


# --------------------------------------------------------------------------- errors of a block


def fail(key: str, value: object, rule: str) -> PydanticCustomError:
    """An error about ``key`` of the block being read, as where two of its fields must agree."""
    found = EMPTY if value is None else _written(value)
    return PydanticCustomError("rule", "{rule}", {"key": key, "value": found, "rule": rule})


def wrong(rule: str) -> PydanticCustomError:
    """An error about the value being read as a whole."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _written(value: object) -> object:
    """The value as the file has it: times with their unit."""
    if isinstance(value, Nanoseconds):
        return format_duration(value)
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_written(item) for item in value]
    return value


def read_at(key: object, read: Callable[[object], Any], value: object) -> Any:
    """The value as read; an error names ``key`` below the value being read."""
    try:
        return read(value)
    except ValueError as error:
        raise fail(str(key), value, str(error)) from None


def read_here(read: Callable[[object], Any], value: object) -> Any:
    """The value as read; an error is about the value itself and not about the key it is a short form of."""
    try:
        return read(value)
    except ValueError as error:
        raise wrong(str(error)) from None


# --------------------------------------------------------------------------- blocks


class Block(BaseModel):
    """A strict, immutable mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    one_of: ClassVar[tuple[str, ...]] = ()
    """Keys of which exactly one must be given."""
    forms: ClassVar[str] = ""
    """How the block may be written, if not only as a mapping: what is said of anything else."""

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, BaseModel):
            return handler(data)
        if not isinstance(data, dict):
            forms = cls.forms or f"must be a mapping with some of the keys {', '.join(cls._keys())}"
            key, colon, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
            unspaced = colon and key in cls._keys() and rest[:1].strip()
            raise wrong(forms + (f"; {key}: has no space after the colon" if unspaced else ""))
        known = cls._keys()
        unknown = [key for key in data if key not in known]
        if not unknown:
            return handler(data)
        problems = [_unknown_key(key, data[key], known) for key in unknown]
        meant = {nearest(key, known) for key in unknown}
        try:
            handler({key: value for key, value in data.items() if key in known})
        except ValidationError as error:
            for detail in told(error.errors(include_url=False)):
                where = detail["loc"]
                # what the misspelt key was to give is missing, too; that goes without saying
                if where and not (detail["type"] == "missing" and nearest(where[0], known) in meant):
                    rule = PydanticCustomError(
                        "rule", "{rule}", {**(detail.get("ctx") or {}), "rule": explained(detail)}
                    )
                    problems.append(InitErrorDetails(type=rule, loc=where, input=detail["input"]))
        raise ValidationError.from_exception_data(cls.__name__, problems)

    @classmethod
    def _keys(cls) -> list[str]:
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.one_of:
            given = [key for key in self.one_of if getattr(self, key) is not None]
            if len(given) != 1:
                found = " and ".join(given) or "none of them"
                raise wrong(f"must have exactly one of {', '.join(self.one_of)}; it has {found}")
        return self


def _unknown_key(key: object, value: object, known: list[str]) -> InitErrorDetails:
    meant = str(key).partition(":")[0]
    if value is None and meant != key and meant in known:
        slip = fail(str(key), value, f"is no key; write a space after the colon of {meant}:")
        return InitErrorDetails(type=slip, loc=(), input=value)
    rule = f"is not a key here{nearest(key, known)} (known: {', '.join(known)})"
    return InitErrorDetails(type=fail(str(key), value, rule), loc=(), input=value)


@dataclass(frozen=True, eq=False)
class OtherForms:
    """Other ways to write a field, for its JSON schema: any of these, or what the field's type says."""

    schemas: tuple[Schema, ...]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        """The schemas joined."""
        return {"anyOf": [*self.schemas, handler(core_schema)]}


def described(schema: Schema, text: str) -> Schema:
    """A schema with what it is for."""
    return {**schema, "description": text}


def shorthand(
    read: Callable[[Any], Any], write: Callable[[Any], Any] | None = None, *schemas: Schema
) -> tuple[Any, ...]:
    """Marks of a block with short forms: ``read`` expands one, ``write`` shortens a dump."""
    marks: list[Any] = [
        OtherForms(schemas),
        BeforeValidator(lambda value: value if isinstance(value, BaseModel) else read(value)),
    ]
    if write is not None:
        marks.append(WrapSerializer(lambda block, dump: write(dump(block))))
    return tuple(marks)


def absent(*words: object) -> tuple[Any, ...]:
    """Marks of an optional block which these words say is not there."""

    def read(value: object) -> object:
        return None if isinstance(value, str | bool) and value in words else value

    return OtherForms(({"enum": list(words)},)), BeforeValidator(read)


def known_words(words: tuple[str, ...], rule: str) -> Callable[[str], str]:
    """A reader of one of some words, with the nearest one in the error."""

    def read(value: str) -> str:
        if value not in words:
            raise wrong(rule + nearest(value, words))
        return value

    return read


# --------------------------------------------------------------------------- random durations


class Exponential(Block):
    """Memoryless, by its mean."""

    mean: PositiveDuration
    """The mean, above 0s."""


class Lognormal(Block):
    """By median and 99th percentile, by mean and coefficient of variation, or by median and sigma."""

    median: PositiveDuration | None = None
    """Half of the draws lie below it; goes with p99 or with sigma."""
    p99: PositiveDuration | None = None
    """99 of 100 draws lie below it; goes with median."""
    mean: PositiveDuration | None = None
    """The mean; goes with cv."""
    cv: Annotated[float, *number(above=0, high=1e6)] | None = None
    """Standard deviation over mean, above 0; goes with mean."""
    sigma: Annotated[float, *number(high=30)] | None = None
    """Standard deviation of the logarithm; goes with median."""

    @model_validator(mode="after")
    def _pair(self) -> Lognormal:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None}
        if given not in ({"median", "p99"}, {"mean", "cv"}, {"median", "sigma"}):
            raise wrong("must have median and p99, or mean and cv, or median and sigma")
        if self.median is not None and self.p99 is not None and self.p99 <= self.median:
            raise fail("p99", self.p99, "must be above the median")
        return self


class Erlang(Block):
    """Sum of equal exponential stages; ``mean`` is that of the sum."""

    mean: PositiveDuration
    """The mean of the sum, above 0s."""
    stages: Annotated[int, *whole(1, 1000)] = 2
    """How many stages are added up; more of them, less spread. Default 2."""


class Hyperexponential(Block):
    """Two exponential branches with balanced means, by mean and coefficient of variation (above 1)."""

    mean: PositiveDuration
    """The mean, above 0s."""
    cv: Annotated[float, *number(above=1, high=1e6)]
    """Standard deviation over mean, above 1."""


class Pareto(Block):
    """Heavy tail above a minimum; the mean is finite for a shape above 1."""

    minimum: PositiveDuration
    """The least draw, above 0s."""
    shape: Annotated[float, *number(low=0.01, high=1e6)]
    """The smaller, the heavier the tail; at most 1: no mean."""


class Uniform(Block):
    """Every value between two."""

    low: Duration
    """The least draw."""
    high: PositiveDuration
    """The largest draw, above low."""

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.high <= self.low:
            raise fail("high", self.high, "must be above low")
        return self


def _read_quantiles(value: object) -> dict[float, Nanoseconds]:
    if isinstance(value, list | tuple) and len(value) > 1:
        value = {i / (len(value) - 1): entry for i, entry in enumerate(value)}
    if not isinstance(value, dict) or not value:
        raise wrong("must map shares to durations, such as {50%: 120ms, 99%: 2s}")
    points: dict[float, Nanoseconds] = {}
    for key, entry in value.items():
        share = read_at(key, parse_share, key)
        if share in points:
            raise fail(str(key), entry, "stands twice; remove one of them")
        points[share] = read_at(key, parse_duration, entry)
    ordered = sorted(points.items())
    if any(later < earlier for (_, earlier), (_, later) in itertools.pairwise(ordered)):
        raise wrong("must not fall as the share grows")
    return dict(ordered)


class Empirical(Block):
    """Measured quantiles, joined by straight lines; flat before the first and after the last."""

    quantiles: Annotated[
        dict[float, Nanoseconds],
        PlainValidator(_read_quantiles),
        PlainSerializer(lambda points: {format_share(p): format_duration(at) for p, at in points.items()}),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "object", "additionalProperties": DURATION_SCHEMA, "minProperties": 1},
                    {"type": "array", "items": DURATION_SCHEMA, "minItems": 2},
                ],
                "description": "Share: duration; or durations at equal steps from 0% to 100%.",
            }
        ),
    ]
    """Share and duration, such as {50%: 120ms, 99%: 2s}; or durations at equal steps from 0% to 100%."""


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
    forms = "must be a duration such as 120ms, or a random one such as {lognormal: {median: 120ms, p99: 2s}}"
    constant: Duration | None = None
    """Always this long; the same as the duration alone."""
    exponential: Exponential | None = None
    """Memoryless, such as {mean: 1s}."""
    lognormal: Lognormal | None = None
    """Skewed as most response times are, such as {median: 120ms, p99: 2s}."""
    erlang: Erlang | None = None
    """More regular than exponential, such as {mean: 1s, stages: 4}."""
    hyperexponential: Hyperexponential | None = None
    """More spread than exponential, such as {mean: 1s, cv: 3}."""
    pareto: Pareto | None = None
    """With a heavy tail, such as {minimum: 100ms, shape: 1.5}."""
    uniform: Uniform | None = None
    """Anything between two, such as {low: 1s, high: 3s}."""
    empirical: Empirical | None = None
    """By measured quantiles, such as {quantiles: {50%: 120ms, 99%: 2s}}."""


def _read_distribution(value: object) -> object:
    if isinstance(value, str | int | float):
        return {"constant": read_here(parse_duration, value)}
    if isinstance(value, dict) and set(value) == {"mean", "cv"}:
        return {"lognormal": value}
    return value


RandomDuration = Annotated[
    Distribution,
    *shorthand(
        _read_distribution,
        lambda dump: dump.get("constant", dump),
        DURATION_SCHEMA,
        {
            "type": "object",
            "description": "A lognormal duration.",
            "properties": {
                "mean": described(DURATION_SCHEMA, "The mean, above 0s."),
                "cv": described(
                    {"type": "number", "exclusiveMinimum": 0}, "Standard deviation over mean, above 0."
                ),
            },
            "required": ["mean", "cv"],
            "additionalProperties": False,
        },
    ),
]
