"""The scalars of a scenario file: durations, rates, shares, sizes, codes and numbers, read and written back.

Durations are int nanoseconds inside (``Nanoseconds``), rates floats per second, shares floats in 0..1,
sizes int bytes. Writing back chooses the largest unit that is exact, so that a round trip loses nothing.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from sim.errors import nearest, shown
from sim.policy import LONGEST

UNITS_NS = {
    "w": 604_800_000_000_000,
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_WRITTEN_UNITS = ("d", "h", "m", "s", "ms", "us", "ns")
# No more digits than anybody writes: a number of millions of digits would take minutes to read.
_NUMBER = r"(\d{1,30}(?:\.\d{1,30})?)"
_POWER = r"(?:[eE][-+]?\d{1,3})?"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|us|ns|[wdhms]))+", re.ASCII)
_PART = re.compile(rf"{_NUMBER}(ms|us|ns|[wdhms])", re.ASCII)
_RATE = re.compile(rf"({_NUMBER}{_POWER})\s*/\s*(\w+)", re.ASCII)
_RATE_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SHARE = re.compile(rf"({_NUMBER}{_POWER})\s*(%?)", re.ASCII)
_SIZE = re.compile(rf"{_NUMBER}\s*([kKMG]?B)", re.ASCII)
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
LARGEST_SIZE = 10**12
"""The largest message body, 1 TB in bytes: sums of them stay exact."""


class Nanoseconds(int):
    """A duration; a class of its own, so that compressing a scenario can tell it from a count."""

    __slots__ = ()


def _number(value: object) -> int | float | None:
    """The value as a number of Python's own (numpy's are understood too); None if it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


# --------------------------------------------------------------------------- durations


def parse_duration(value: object) -> Nanoseconds:
    """Read ``250ms``, ``24h``, ``1h30m`` or a bare 0.

    Raises:
        ValueError: no unit, an unknown unit, negative, or longer than 36 years.
    """
    number = _number(value)
    if isinstance(value, Nanoseconds):
        total = Fraction(value)
    elif number is not None:
        if number == 0:
            return Nanoseconds(0)
        if number < 0:
            raise ValueError("must not be negative; write a duration such as 5s")
        wanted = "must be a duration such as 250ms, 30s, 15m or 24h"
        raise ValueError(_unitless(number, wanted, "s", "ms", "h"))
    elif not isinstance(value, str):
        raise ValueError("must be a duration such as 250ms, 30s, 15m or 24h")
    else:
        text = value.strip().replace("µs", "us")
        if text == "0":
            return Nanoseconds(0)
        if re.match(r"-\s*\d", text):
            raise ValueError("must not be negative; write a duration such as 5s")
        if not _DURATION.fullmatch(text):
            raise ValueError(
                "must be a duration: a number and ns, us, ms, s, m, h, d or w (250ms, 24h, 1h30m)"
            )
        total = sum((Fraction(count) * UNITS_NS[unit] for count, unit in _PART.findall(text)), Fraction())
    if total > LONGEST:
        raise ValueError("is longer than 36 years, the longest time that a run can count")
    return Nanoseconds(round(total))


def _unitless(value: float, otherwise: str, *units: str) -> str:
    """What to say of a number without a unit: how to write it, if it is one that can be written."""
    text = shown(value)
    if not re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text):
        return otherwise
    *most, last = (f"{text}{unit}" for unit in units)
    return f"has no unit; write {', '.join(most)} or {last}"


def format_duration(ns: int) -> str:
    """Write a duration exactly, in the largest unit that divides it."""
    if ns == 0:
        return "0s"
    unit = next(unit for unit in _WRITTEN_UNITS if ns % UNITS_NS[unit] == 0)
    return f"{ns // UNITS_NS[unit]}{unit}"


# --------------------------------------------------------------------------- rates, shares, sizes, codes


def parse_rate(value: object) -> float:
    """Read ``50/s``, ``5/m``, ``300/h`` or ``1000/d`` as a rate per second.

    Raises:
        ValueError: no unit, negative, or not a rate.
    """
    wanted = "must be a rate: a number and /s, /m, /h or /d (50/s, 300/h)"
    number = _number(value)
    if number is not None:
        raise ValueError(_unitless(number, wanted, "/s", "/m", "/h"))
    text = value.strip() if isinstance(value, str) else ""
    if re.match(r"-\s*\d", text):
        raise ValueError("must not be negative; write a rate such as 50/s")
    match = _RATE.fullmatch(text)
    if match is None or match[3] not in _RATE_UNITS:
        raise ValueError(wanted)
    per_s = Fraction(match[1]) / _RATE_UNITS[match[3]]
    if per_s > 10**9:
        raise ValueError("is above one a nanosecond, the finest time that a run can tell")
    return float(per_s)


def format_rate(per_s: float) -> str:
    """Write a rate so that reading it gives the same float."""
    for unit, seconds in (("s", 1), ("m", 60), ("h", 3600), ("d", 86400)):
        count = per_s * seconds
        if abs(count - round(count)) < 1e-9 * max(count, 1) and round(count) / seconds == per_s:
            return f"{round(count)}/{unit}"
    return f"{per_s!r}/s"


def parse_share(value: object) -> float:
    """Read ``2%`` or ``0.02`` as a share between 0 and 1.

    Raises:
        ValueError: not a number, or outside 0..1.
    """
    number = _number(value)
    if number is not None:
        if not 0 <= number <= 1:
            hint = f"; write {shown(number)}%" if 1 < number <= 100 else ""
            raise ValueError(f"must lie between 0% and 100%{hint}")
        return float(number)
    text = value.strip() if isinstance(value, str) else ""
    match = _SHARE.fullmatch(text.removeprefix("-"))
    if match is None:
        raise ValueError("must be a share such as 2% or 0.02")
    share = Fraction(match[1]) / (100 if match[3] else 1)
    if share > 1 or (share > 0 and text.startswith("-")):
        raise ValueError("must lie between 0% and 100%")
    return float(share)


def format_share(share: float) -> str:
    """Write a share as a percentage that reads back as the same float."""
    percent = f"{share * 100:.10g}"
    return f"{percent}%" if float(Fraction(percent) / 100) == share else repr(share)


def parse_size(value: object) -> int:
    """Read ``2kB`` or ``512B`` (or a bare number of bytes) as bytes.

    Raises:
        ValueError: not a size, negative, or above 1 TB.
    """
    number = _number(value)
    if isinstance(number, int) and number >= 0:
        size = Fraction(number)
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("must be a size such as 512B or 2kB")
        size = Fraction(match[1]) * _SIZE_UNITS[match[2]]
    if size > LARGEST_SIZE:
        raise ValueError("must be at most 1000GB")
    return round(size)


def parse_codes(value: object) -> tuple[int, int]:
    """Read a status ``410``, a class ``4xx`` or a range ``100-299`` as (lowest, highest)."""
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    if match := re.fullmatch(r"([1-5])xx", text):
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    if match := re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", text, re.ASCII):
        low, high = int(match[1]), int(match[2] or match[1])
        if low <= high:
            return low, high
    raise ValueError("must be an HTTP status such as 410, a class such as 4xx, or a range such as 100-299")


# --------------------------------------------------------------------------- numbers and truth values


def parse_whole(value: object, low: int, high: int) -> int:
    """Read a whole number between two.

    Raises:
        ValueError: not a whole number, or outside.
    """
    found = _number(value)
    if found is None or (isinstance(found, float) and not found.is_integer()):
        hint = ", without quotes" if isinstance(value, str) and re.fullmatch(r"[-+]?\d+", value) else ""
        raise ValueError(f"must be a whole number{hint}")
    if not low <= found <= high:
        raise ValueError(f"must be at least {low}" if found < low else f"must be at most {high}")
    return int(found)


def parse_number(value: object, low: float, high: float, above: float | None) -> float:
    """Read a number between two, or above one.

    Raises:
        ValueError: not a number, not finite, or outside.
    """
    found = _number(value)
    if found is None:
        hint = ", without quotes" if isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value) else ""
        raise ValueError(f"must be a number{hint}")
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError("must be a finite number")
    if above is not None and not found > above:
        raise ValueError(f"must be above {above:g}")
    if not low <= found <= high:
        raise ValueError(f"must be at least {low:g}" if found < low else f"must be at most {high:g}")
    return float(found)


def parse_flag(value: object) -> bool:
    """Read ``true`` or ``false``, or one of the words ``on``, ``off``, ``yes``, ``no``.

    Raises:
        ValueError: anything else.
    """
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("must be true or false")


# --------------------------------------------------------------------------- as types of fields


def _text_schema(pattern: str, description: str, *examples: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "description": description, "examples": list(examples)}


DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _text_schema(
            r"^\s*((\d+(\.\d+)?(ms|us|µs|ns|[wdhms]))+|0)\s*$", "A duration.", "250ms", "30s", "15m", "24h"
        ),
        {"const": 0},
    ]
}
RATE_SCHEMA = _text_schema(
    r"^\s*\d+(\.\d+)?([eE][-+]?\d+)?\s*/\s*(s|m|min|h|d)\s*$", "A rate.", "50/s", "300/h"
)
SHARE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _text_schema(r"^\s*\d+(\.\d+)?([eE][-+]?\d+)?\s*%?\s*$", "A share between 0% and 100%.", "2%"),
        {"type": "number", "minimum": 0, "maximum": 1},
    ]
}
SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _text_schema(r"^\s*\d+(\.\d+)?\s*[kKMG]?B\s*$", "A size.", "512B", "2kB"),
        {"type": "integer", "minimum": 0, "maximum": LARGEST_SIZE},
    ]
}
CODES_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _text_schema(r"^\s*([1-5][xX][xX]|[1-5]\d\d(-[1-5]\d\d)?)\s*$", "Statuses.", "2xx", "410", "100-299"),
        {"type": "integer", "minimum": 100, "maximum": 599},
    ]
}


def positive(parse: Callable[[object], Any], what: str) -> Callable[[object], Any]:
    """A reader that refuses nothing at all: ``what`` is how that is written."""

    def check(value: object) -> Any:
        number = parse(value)
        if number <= 0:
            raise ValueError(f"must be above {what}")
        return number

    return check


def whole(low: int, high: int, *words: str) -> tuple[Any, ...]:
    """Marks of a field that is a whole number between two, or one of some words."""

    def check(value: object) -> Any:
        if words and isinstance(value, str) and value in words:
            return value
        try:
            return parse_whole(value, low, high)
        except ValueError as error:
            others = "".join(f", or {word}" for word in words)
            raise ValueError(f"{error}{others}{nearest(value, words)}") from None

    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    if words:
        schema = {"anyOf": [schema, {"enum": list(words)}]}
    return PlainValidator(check), WithJsonSchema(schema)


def number(low: float = 0, high: float = 1e15, above: float | None = None) -> tuple[Any, ...]:
    """Marks of a field that is a finite number between two, or above one."""
    schema: dict[str, Any] = {"type": "number", "minimum": low, "maximum": high}
    if above is not None:
        schema["exclusiveMinimum"] = above
    return PlainValidator(lambda value: parse_number(value, low, high, above)), WithJsonSchema(schema)


def _written(write: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(write, return_type=str)


def one_of_flags(words: Iterable[str] = ("on", "off", "yes", "no")) -> WithJsonSchema:
    """The schema of a truth value, which a YAML file may spell as a word."""
    return WithJsonSchema({"enum": [True, False, *words]})


Flag = Annotated[bool, PlainValidator(parse_flag), one_of_flags()]
Duration = Annotated[
    Nanoseconds, PlainValidator(parse_duration), _written(format_duration), WithJsonSchema(DURATION_SCHEMA)
]
PositiveDuration = Annotated[
    Nanoseconds,
    PlainValidator(positive(parse_duration, "0s")),
    _written(format_duration),
    WithJsonSchema(DURATION_SCHEMA),
]
Rate = Annotated[float, PlainValidator(parse_rate), _written(format_rate), WithJsonSchema(RATE_SCHEMA)]
PositiveRate = Annotated[
    float, PlainValidator(positive(parse_rate, "0/s")), _written(format_rate), WithJsonSchema(RATE_SCHEMA)
]
Share = Annotated[float, PlainValidator(parse_share), _written(format_share), WithJsonSchema(SHARE_SCHEMA)]
PositiveShare = Annotated[
    float, PlainValidator(positive(parse_share, "0%")), _written(format_share), WithJsonSchema(SHARE_SCHEMA)
]
Size = Annotated[int, PlainValidator(parse_size), WithJsonSchema(SIZE_SCHEMA)]
