"""The scalars of a scenario file: durations, rates, shares, sizes and codes, read and written back.

Durations are int nanoseconds inside (``Nanoseconds``), rates floats per second, shares floats in 0..1,
sizes int bytes. Writing back chooses the largest unit that is exact, so that a round trip loses nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

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
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|ns|[wdhms]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|[wdhms])")
_RATE = re.compile(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*/\s*(\w+)")
_RATE_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]?B)")
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


class Nanoseconds(int):
    """A duration; a class of its own, so that compressing a scenario can tell it from a count."""

    __slots__ = ()


def parse_duration(value: object) -> Nanoseconds:
    """Read ``250ms``, ``24h``, ``1h30m`` or a bare 0.

    Raises:
        ValueError: no unit, an unknown unit, negative, or longer than 36 years.
    """
    if isinstance(value, Nanoseconds):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a duration such as 250ms, 30s, 15m or 24h")
    if not isinstance(value, str):
        if value == 0:
            return Nanoseconds(0)
        if value < 0:
            raise ValueError("must not be negative; write a duration such as 5s")
        raise ValueError(f"has no unit; write {value}s, {value}ms or {value}h")
    text = value.strip().replace("µs", "us")
    if text == "0":
        return Nanoseconds(0)
    if text.startswith("-"):
        raise ValueError("must not be negative; write a duration such as 5s")
    if not _DURATION.fullmatch(text):
        raise ValueError("must be a duration: a number and ns, us, ms, s, m, h, d or w (250ms, 24h, 1h30m)")
    total = sum(Fraction(number) * UNITS_NS[unit] for number, unit in _PART.findall(text))
    if total > LONGEST:
        raise ValueError("is longer than 36 years, the longest time that a run can count")
    return Nanoseconds(round(total))


def format_duration(ns: int) -> str:
    """Write a duration exactly, in the largest unit that divides it."""
    if ns == 0:
        return "0s"
    unit = next(unit for unit in _WRITTEN_UNITS if ns % UNITS_NS[unit] == 0)
    return f"{ns // UNITS_NS[unit]}{unit}"


def parse_rate(value: object) -> float:
    """Read ``50/s``, ``5/m``, ``300/h`` or ``1000/d`` as a rate per second.

    Raises:
        ValueError: no unit, or not a rate.
    """
    if isinstance(value, bool):
        raise ValueError("must be a rate such as 50/s")
    if isinstance(value, int | float):
        raise ValueError(f"has no unit; write {value}/s, {value}/m or {value}/h")
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _RATE_UNITS:
        raise ValueError("must be a rate: a number and /s, /m, /h or /d (50/s, 300/h)")
    rate = float(Fraction(match[1]) / _RATE_UNITS[match[2]])
    if rate > 1e9:
        raise ValueError("is above one a nanosecond, the finest time that a run can tell")
    return rate


def parse_positive_rate(value: object) -> float:
    """A rate above zero."""
    rate = parse_rate(value)
    if rate <= 0:
        raise ValueError("must be above 0/s")
    return rate


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
    text: Any = value.strip() if isinstance(value, str) else value
    try:
        if isinstance(text, bool):
            raise TypeError
        share = (
            float(Fraction(text[:-1]) / 100) if isinstance(text, str) and text.endswith("%") else float(text)
        )
    except (TypeError, ValueError, ZeroDivisionError):
        raise ValueError("must be a share such as 2% or 0.02") from None
    if not 0 <= share <= 1:
        raise ValueError("must lie between 0% and 100%")
    return share


def format_share(share: float) -> str:
    """Write a share as a percentage that reads back as the same float."""
    percent = f"{share * 100:.10g}"
    return f"{percent}%" if float(Fraction(percent) / 100) == share else repr(share)


def parse_size(value: object) -> int:
    """Read ``2kB`` or ``512B`` (or a bare number of bytes) as bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a size such as 512B or 2kB")
    return round(Fraction(match[1]) * _SIZE_UNITS[match[2]])


def parse_codes(value: object) -> tuple[int, int]:
    """Read a status ``410``, a class ``4xx`` or a range ``100-299`` as (lowest, highest)."""
    text = str(value).strip().lower()
    if match := re.fullmatch(r"([1-5])xx", text):
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    if match := re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", text):
        low, high = int(match[1]), int(match[2] or match[1])
        if low <= high:
            return low, high
    raise ValueError("must be an HTTP status such as 410, a class such as 4xx, or a range such as 100-299")


def _schema(pattern: str, description: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": ["string", "number"],
            "pattern": pattern,
            "description": description,
            "examples": list(examples),
        }
    )


def _positive(parse: Any, what: str) -> Any:
    def check(value: object) -> Any:
        number = parse(value)
        if number <= 0:
            raise ValueError(f"must be above {what}")
        return number

    return check


_DURATION_SCHEMA = _schema(
    r"^(\d+(\.\d+)?(ms|us|ns|[wdhms]))+$|^0$", "A duration.", "250ms", "30s", "15m", "24h"
)
_RATE_SCHEMA = _schema(r"^\d+(\.\d+)?\s*/\s*(s|m|min|h|d)$", "A rate.", "50/s", "300/h")
_SHARE_SCHEMA = _schema(r"^\d+(\.\d+)?%?$", "A share between 0% and 100%.", "2%")
_write_duration = PlainSerializer(format_duration, return_type=str)

Duration = Annotated[Nanoseconds, PlainValidator(parse_duration), _write_duration, _DURATION_SCHEMA]
PositiveDuration = Annotated[
    Nanoseconds, PlainValidator(_positive(parse_duration, "0s")), _write_duration, _DURATION_SCHEMA
]
Rate = Annotated[
    float, PlainValidator(parse_rate), PlainSerializer(format_rate, return_type=str), _RATE_SCHEMA
]
PositiveRate = Annotated[
    float, PlainValidator(parse_positive_rate), PlainSerializer(format_rate, return_type=str), _RATE_SCHEMA
]
Share = Annotated[
    float, PlainValidator(parse_share), PlainSerializer(format_share, return_type=str), _SHARE_SCHEMA
]
PositiveShare = Annotated[
    float,
    PlainValidator(_positive(parse_share, "0%")),
    PlainSerializer(format_share, return_type=str),
    _SHARE_SCHEMA,
]
Size = Annotated[
    int, PlainValidator(parse_size), _schema(r"^\d+(\.\d+)?\s*[kKMG]?B$", "A size.", "512B", "2kB")
]
