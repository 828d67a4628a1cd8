"""What ``--vary`` says: a leaf of a scenario and the values that it takes in turn.

``PATH=V1,V2,…`` lists values as ``--set`` takes them; a comma inside brackets or quotes belongs to its value.
``PATH=A..B`` counts from one whole number to another. ``PATH=A..B/N`` takes N values, evenly spaced, both ends
included; ``PATH=A..B/Nlog`` spaces them by equal factors. There A and B are numbers, or durations, rates, shares
or sizes with their units; values between whole numbers are rounded to whole ones, others to four digits or
as many as tell them apart.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim import yamlio
from sim.errors import Problem, ScenarioError, path_of, shown
from sim.fields import (
    UNITS_NS,
    Nanoseconds,
    format_duration,
    format_rate,
    format_share,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)
from sim.scenario_override import split

MOST_POINTS = 10_000
"""Points of a grid: more of them are a slip of the keyboard."""
_NO_RANGE = re.compile(r"""[\[{"']|\.\./""")
"""Marks a list of structures, texts or paths, in which two points are no range."""
_RANGE = re.compile(r"\s*([^\s,]+?)\s*\.\.\s*([^\s,]+?)(?:\s*/\s*(\d{1,6})\s*(log)?)?\s*", re.DOTALL)
_WHOLE = re.compile(r"[-+]?\d{1,15}")
_DECIMAL = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,2})?")
_DIGITS = 4
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


@dataclass(frozen=True)
class Axis:
    """A leaf and the values it takes, as texts of ``--set``."""

    path: str
    texts: tuple[str, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        """The values for a column of a table: numbers where all are numbers or of one unit, else texts.

        Durations are in s, rates per s, shares between 0 and 1, sizes in bytes.
        """
        plain = [yamlio.parse(text, self.path) for text in self.texts]
        if all(isinstance(value, bool) for value in plain):
            return tuple(plain)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in plain):
            return tuple(plain if all(isinstance(value, int) for value in plain) else map(float, plain))
        for read in (_seconds, parse_rate, parse_share, parse_size):
            try:
                return tuple(read(value) for value in plain)
            except ValueError:
                continue
        return tuple(text.strip() for text in self.texts)


def _seconds(value: object) -> float:
    return parse_duration(value) / 1e9


def axis(text: str) -> Axis:
    """Read one ``PATH=…`` text.

    Raises:
        ScenarioError: it is not of that form, a range is empty, or a value stands twice.
    """
    if not isinstance(text, str) or "=" not in text:
        raise ScenarioError(
            [Problem("vary", text, "must be PATH=V1,V2,… or PATH=A..B, such as dispatcher.workers=4..16")]
        )
    try:
        keys, given = split(text)
    except ScenarioError as error:
        raise ScenarioError(str(error).replace("--set", "--vary", 1)) from None
    path = path_of(keys)
    if path == "seed":
        raise _refused("seed", given, "is what replications vary; use --replications N")
    return _axis(path, given, _listed(path, given))


def _axis(path: str, given: object, texts: Sequence[str]) -> Axis:
    """A leaf and its values, none of them twice."""
    known: dict[Any, str] = {}
    for value, written in zip(Axis(path, tuple(texts)).values, texts, strict=True):
        key = repr(value)
        if key in known:
            same = (
                f"{known[key]} and {written} are the same"
                if known[key] != written
                else f"{written} stands twice"
            )
            raise _refused(path, given, f"has a value twice: {same}")
        known[key] = written
    return Axis(path, tuple(texts))


def axes(vary: str | Iterable[str] | Mapping[str, Sequence[Any]]) -> tuple[Axis, ...]:
    """Read several; their grid has every combination. A mapping has lists of values by path.

    Raises:
        ScenarioError: there is none, one is wrong, two vary one leaf, or the grid is too large.
    """
    if isinstance(vary, Mapping):
        found = tuple(_of_values(path, values) for path, values in vary.items())
    else:
        found = tuple(axis(text) for text in ([vary] if isinstance(vary, str) else vary))
    if not found:
        raise ScenarioError(
            "nothing is varied; give --vary PATH=V1,V2,… or PATH=A..B, such as dispatcher.workers=4..16"
        )
    for one, other in itertools.combinations(found, 2):
        if one.path == other.path:
            raise ScenarioError(f"--vary {one.path} stands twice; give all its values in one")
    if (size := math.prod(len(one.texts) for one in found)) > MOST_POINTS:
        raise ScenarioError(
            f"the grid has {size:,} points; it may have {MOST_POINTS:,}: vary less, or in wider steps"
        )
    return found


def _of_values(path: str, values: object) -> Axis:
    """A leaf and its values as Python has them; a text is what ``--vary`` has after the path."""
    if not isinstance(path, str) or "=" in path:
        raise ScenarioError([Problem("vary", path, "must be the path of a leaf, such as dispatcher.workers")])
    if isinstance(values, str):
        return axis(f"{path}={values}")
    if not isinstance(values, Iterable) or isinstance(values, Mapping):
        raise _refused(path, values, "must be a list of values")
    listed = list(values)
    if not listed:
        raise _refused(path, None, "has no value; give a list of them")
    return _axis(axis(f"{path}=0").path, listed, [_written(path, value) for value in listed])


def _written(path: str, value: object) -> str:
    """A value as a text of ``--set``."""
    if isinstance(value, str):
        return value
    plain = value.item() if hasattr(value, "item") else value  # a number of numpy
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise _refused(path, str(value), "must be a value that a scenario file can have") from None


def require_unset(grid: Iterable[Axis], overrides: Iterable[str]) -> None:
    """Refuse what is set and varied: at no point would the value that is set remain.

    Raises:
        ScenarioError: an override is of a varied leaf, or lies below one.
    """
    paths = [path_of(split(text)[0]) for text in overrides]
    for one in grid:
        for path in paths:
            if path == one.path or path.startswith(f"{one.path}."):
                raise ScenarioError(f"--set {path} is undone by --vary {one.path}; leave one of them out")


def points(grid: Sequence[Axis]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every combination, the last axis fastest: the ``path=value`` texts, and the values by path."""
    columns = [list(zip(one.texts, one.values, strict=True)) for one in grid]
    for chosen in itertools.product(*columns):
        texts = tuple(f"{one.path}={text}" for one, (text, _) in zip(grid, chosen, strict=True))
        yield texts, {one.path: value for one, (_, value) in zip(grid, chosen, strict=True)}


def _refused(path: str, given: object, rule: str) -> ScenarioError:
    return ScenarioError([Problem(f"vary {path}", given, rule)])


def _listed(path: str, given: str) -> list[str]:
    """The values of a text after the path."""
    if ".." in given and not _NO_RANGE.search(given):
        match = _RANGE.fullmatch(given)
        if match is None:
            raise _refused(path, given, "must be one range: A..B, A..B/N or A..B/Nlog, such as 1s..60s/7log")
        return _range(path, given, *match.groups())
    texts = [part.strip() for part in _parts(given)]
    if not all(texts):
        what = "has no value" if not any(texts) else "has an empty value between commas"
        raise _refused(path, given, f"{what}; write V1,V2,… or A..B")
    return texts


def _parts(text: str) -> Iterator[str]:
    """The text between commas that stand in no brackets and no quotes."""
    depth, quote, start = 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "," and depth == 0:
            yield text[start:at]
            start = at + 1
        else:
            depth += _BRACKETS.get(letter, 0)
    yield text[start:]


# --------------------------------------------------------------------------- ranges


def _range(path: str, given: str, first: str, last: str, count: str | None, spacing: str | None) -> list[str]:
    if _WHOLE.fullmatch(first) and _WHOLE.fullmatch(last):
        low, high = int(first), int(last)
        _require_rising(path, given, low, high)
        if count is None:
            if high - low >= MOST_POINTS:
                raise _refused(
                    path, given, f"has more than {MOST_POINTS:,} values; write A..B/N for N of them"
                )
            return [str(value) for value in range(low, high + 1)]
        spaced = _spaced(path, given, low, high, int(count), spacing)
        return list(dict.fromkeys(str(round(value)) for value in spaced))
    for read, write in _KINDS:
        try:
            start, end = read(first), read(last)
        except ValueError:
            continue
        if count is None:
            raise _refused(path, given, f"counts whole numbers only; write {first}..{last}/N for N values")
        _require_rising(path, given, start, end)
        spaced = _spaced(path, given, start, end, int(count), spacing)
        inner = [_rounded(value, value - before) for before, value in itertools.pairwise(spaced[:-1])]
        return [first, *map(write, inner), last]
    raise _refused(
        path, given, "must go from A to B of one kind, numbers or with units, such as 1s..60s/7log"
    )


def _require_rising(path: str, given: str, low: float, high: float) -> None:
    if low >= high:
        raise _refused(path, given, "is empty: the first value must be below the last")


def _spaced(path: str, given: str, low: float, high: float, count: int, spacing: str | None) -> list[float]:
    if not 2 <= count <= MOST_POINTS:
        raise _refused(path, given, f"must have between 2 and {MOST_POINTS:,} values, both ends included")
    if spacing is None:
        return [low + (high - low) * i / (count - 1) for i in range(count)]
    if low <= 0:
        raise _refused(path, given, "must begin above 0 to be spaced by equal factors")
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def _rounded(value: float, step: float) -> float:
    """A value to four digits, or to as many as tell it well from its neighbours."""
    digits = max(_DIGITS, math.ceil(math.log10(value / step)) + 2)
    return float(f"{value:.{digits}g}")


def _number(text: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise ValueError("must be a number")
    return float(text)


def _percent(text: str) -> float:
    if not text.endswith("%"):
        raise ValueError("must be a share in per cent")
    return parse_share(text)


def _duration(ns: int) -> str:
    """A duration in the unit that fits: as many whole ones, or, from 1,000 on, with a point where that is exact."""
    whole = format_duration(Nanoseconds(ns))
    if int(whole.rstrip("dhmnsu")) < 1000:
        return whole
    texts = (f"{ns / size:.9g}{unit}" for unit, size in UNITS_NS.items() if unit != "w" and size <= ns)
    return next(text for text in (*texts, whole) if "e" not in text and parse_duration(text) == ns)


def _plain(value: float) -> str:
    return shown(int(value) if value == int(value) else value)


_KINDS: tuple[tuple[Callable[[str], float], Callable[[float], str]], ...] = (
    (_number, _plain),
    (_percent, format_share),
    (parse_rate, format_rate),
    (parse_duration, lambda ns: _duration(round(ns))),
    (parse_size, lambda size: f"{round(size)}B"),
)
"""How the ends of a range are read, and what lies between them written."""
