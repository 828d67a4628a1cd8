"""How a gate is written: ``delivery_latency_s_p99[endpoint=slow, 30s..60s] <= baseline*1.1``.

A gate is FIGURE OPERATOR LIMIT.

- FIGURE is a figure of a run (``hooklab figures``) or of the load generator (``shown.REQUEST_MEANINGS``), of the
  deliveries that brackets choose: ``endpoint=GROUP``, ``type=PATTERN`` as subscriptions have it, and a window
  ``30s..60s`` of their creation, of which one side may be left out; several are joined by commas. A value with commas,
  brackets, quotes or blanks at its ends stands in double quotes, as in JSON.
- OPERATOR is one of ``< <= > >= == !=``; ``≤ ≥ ≠`` are read as well.
- LIMIT is a number in the unit of the figure, or a duration, share, rate or size as a scenario has them (``2s``,
  ``250ms``, ``1%``, ``50/s``, ``2kB``). Or it starts from the same figure of an earlier run (``baseline``) or of the
  simulation of this scenario (``sim``): alone, ``*1.1``, ``+5%``, ``-10%``, ``+250ms``; and after ``==`` or ``!=``
  also ``±10%`` (or ``+-10%``): at most so far away. Per cent after a sign are always per cent of the base, for a share
  too; to give it percentage points, write a plain number: ``lost_share<=baseline+0.01``.

Blanks may stand anywhere between the parts. A gate written back (``str``) reads as the same gate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from sim.errors import Problem, ScenarioError, nearest
from sim.fields import format_duration, parse_duration
from sim.planning_slo import READERS, known_metrics
from sim.shown import REQUEST_MEANINGS, named, unit

FIELD = "gate"
EXAMPLE = "delivery_latency_s_p99<2s"
LONGEST = 1000
"""Characters of a gate; nobody writes more."""
LARGEST = 10.0**15
"""The largest limit: beyond it whole numbers are no longer told apart."""
REQUEST_FIGURES = tuple(name for entry in REQUEST_MEANINGS for name in named(entry))
"""What the load generator measures, name by name."""

Operator = Literal["<", "<=", ">", ">=", "==", "!="]
Base = Literal["", "baseline", "sim"]
_OPERATORS: dict[str, Operator] = {
    "<": "<",
    "<=": "<=",
    "≤": "<=",
    ">": ">",
    ">=": ">=",
    "≥": ">=",
    "==": "==",
    "!=": "!=",
    "≠": "!=",
}
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_GATE = re.compile(
    rf"\s*(?P<metric>[^\s\[\]{{}}<>=!≤≥≠]+(?:\s*\{{[^{{}}]*\}})?)\s*"
    rf"(?:\[(?P<scope>(?:[^\]\"]|{_QUOTED})*)\]\s*)?"
    r"(?P<operator><=|>=|==|!=|[<>≤≥≠])(?P<limit>[^<>=!≤≥≠]*)",
    re.DOTALL,
)
_PART = re.compile(
    rf"\s*(?:(?P<key>[^=,\"]*?)\s*=\s*(?P<value>{_QUOTED}|[^,\"]*?)|(?P<window>[^=,\"]*?))\s*(?P<end>,|\Z)",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^\s,\[\]\"]+(?: +[^\s,\[\]\"]+)*")
"""A value that needs no quotes."""
_RELATIVE = re.compile(r"(?P<base>[^\W\d_]+)\s*(?:(?P<sign>\*|\+-|±|\+|-|−)(?P<amount>.*))?", re.DOTALL)
_PER_CENT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)%", re.ASCII)
_WITHIN = re.compile(r"within_share\s*\{\s*([^{}]*?)\s*\}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure, and of which deliveries."""

    metric: str
    endpoint: str | None = None
    """An endpoint group; None: all."""
    event_type: str | None = None
    """An event type, or a pattern of them; None: all."""
    start_ns: int | None = None
    end_ns: int | None = None
    """The deliveries created in [start, end) of the run; None: as far as the figures of the run go."""

    @property
    def has_window(self) -> bool:
        """Whether only the deliveries of some time are meant."""
        return self.start_ns is not None or self.end_ns is not None

    @property
    def is_scoped(self) -> bool:
        """Whether only some deliveries are meant."""
        return self.has_window or self.endpoint is not None or self.event_type is not None

    def __str__(self) -> str:
        parts = [
            f"{key}={_written(value)}"
            for key, value in (("endpoint", self.endpoint), ("type", self.event_type))
            if value is not None
        ]
        if self.has_window:
            sides = ("" if ns is None else format_duration(ns) for ns in (self.start_ns, self.end_ns))
            parts.append("..".join(sides))
        return f"{self.metric}[{','.join(parts)}]" if parts else self.metric


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a figure is compared with: ``base * factor + offset``, and how far from it is near enough."""

    text: str
    """As it was given, without blanks."""
    base: Base = ""
    factor: Fraction = Fraction(0)
    offset: Fraction = Fraction(0)
    near_share: Fraction = Fraction(0)
    """How far from the base is near enough, as a share of it."""
    near: Fraction = Fraction(0)
    """The same, in the unit of the figure."""

    @property
    def has_tolerance(self) -> bool:
        """Whether what lies near the base is meant, on both sides."""
        return bool(self.near or self.near_share)

    def of(self, base: float) -> tuple[float, float]:
        """The limit and the tolerance, in the unit of the figure; ``base`` does not count where there is none."""
        # 110 % of a decimal is a decimal: floats would miss it in their last bit
        known = Fraction(repr(base)) if self.base else Fraction(0)
        return float(known * self.factor + self.offset), float(known * self.near_share + self.near)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a load test must show: a figure, a comparison and a limit."""

    figure: Figure
    operator: Operator
    limit: Limit

    def __str__(self) -> str:
        return f"{self.figure}{self.operator}{self.limit.text}"


# --------------------------------------------------------------------------- reading


def read(texts: str | Iterable[str]) -> tuple[Gate, ...]:
    """Read gates; the same one twice is one.

    Raises:
        ScenarioError: one is not of the form, or names no figure (tells the nearest): all such problems at once.
    """
    problems: list[Problem] = []
    gates: list[Gate] = []
    for text in [texts] if isinstance(texts, str) else texts:
        try:
            gates.append(_read_one(text))
        except ValueError as error:
            problems.append(Problem(FIELD, text, str(error)))
    if problems:
        raise ScenarioError(problems)
    return tuple(dict.fromkeys(gates))


def known_figures() -> tuple[str, ...]:
    """Every figure that a gate may name; of ``within_share`` one for many."""
    return (*known_metrics(), *REQUEST_FIGURES)


def _read_one(text: str) -> Gate:
    if not isinstance(text, str):
        raise ValueError(f"must be a text, such as {EXAMPLE}")
    if len(text) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters")
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"must be FIGURE OPERATOR LIMIT, such as {EXAMPLE}{_hint(text)}")
    metric = _metric(match["metric"])
    figure = _figure(metric, match["scope"])
    operator = _OPERATORS[match["operator"]]
    return Gate(figure=figure, operator=operator, limit=_limit(metric, operator, match["limit"].strip()))


def _hint(text: str) -> str:
    """What is probably the matter with a text that is no gate."""
    if re.search(r"=<|=>", text):
        return "; the sign comes first: <= or >="
    outside = re.sub(r"\[.*\]", "", text, flags=re.DOTALL)
    if re.search(r"(?<![=<>!])=(?!=)", outside):
        return "; equal is written =="
    return "" if re.search(r"[<>=≤≥≠]", outside) else "; an operator is one of < <= > >= == !="


def _metric(text: str) -> str:
    if within := _WITHIN.fullmatch(text):
        try:
            if parse_duration(within[1]) <= 0:
                raise ValueError("must be above 0s")
        except ValueError as error:
            raise ValueError(f"has {within[1] or 'nothing'} in braces, which {error}") from None
        return f"within_share{{{within[1]}}}"
    known = known_figures()
    if text not in known:
        if text == "within_share":
            raise ValueError("names no time in which deliveries are processed; write within_share{30s}")
        raise ValueError(
            f"names no figure: {text}{nearest(text, known)} (hooklab figures lists those of deliveries)"
        )
    return text


def is_request_figure(metric: str) -> bool:
    """Whether the load generator measures it, and not the trace."""
    return metric in REQUEST_FIGURES


def _figure(metric: str, scope: str | None) -> Figure:
    if scope is None:
        return Figure(metric=metric)
    if is_request_figure(metric):
        raise ValueError(
            f"is about the whole load generator: {metric} is not told apart by endpoint, type or time"
        )
    found: dict[str, str] = {}
    for key, value in _parts(scope):
        if key in found:
            raise ValueError(f"has two of {key} in brackets; make two gates of it")
        found[key] = value
    start_ns, end_ns = _window(found["window"]) if "window" in found else (None, None)
    if metric == "drain_s" and "window" in found:
        raise ValueError("has a window, but drain_s is counted from the end of the last outage; leave it out")
    return Figure(
        metric=metric,
        endpoint=found.get("endpoint"),
        event_type=found.get("type"),
        start_ns=start_ns,
        end_ns=end_ns,
    )


def _parts(scope: str) -> Iterator[tuple[str, str]]:
    """The parts in brackets: what is chosen by, and which."""
    form = "must be endpoint=GROUP, type=PATTERN or a window such as 30s..60s"
    position, more = 0, True
    while more:
        match = _PART.match(scope, position)
        if match is None:
            raise ValueError(f"has {scope.strip()} in brackets, which {form}; a quote ends what it begins")
        position, more = match.end(), match["end"] == ","
        if match["key"] is None:
            if ".." not in match["window"]:
                raise ValueError(f"has {match['window'] or 'nothing'} in brackets, which {form}")
            yield "window", match["window"]
            continue
        key, value = match["key"], _value(match["value"])
        if key not in ("endpoint", "type"):
            raise ValueError(f"has {key}= in brackets{nearest(key, ('endpoint', 'type'))}; each part {form}")
        if not value:
            raise ValueError(f"has {key}= without a name")
        yield key, value


def _value(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise ValueError(f"has {text} in brackets, which is no text in quotes as JSON has it") from None


def _written(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _window(text: str) -> tuple[int | None, int | None]:
    sides: list[int | None] = []
    for side in (part.strip() for part in text.split("..")):
        try:
            sides.append(round(Fraction(repr(READERS["s"](_closed(side)))) * 10**9) if side else None)
        except ValueError as error:
            raise ValueError(f"has {side} in its window, which {error}") from None
    if len(sides) != 2 or sides == [None, None]:
        raise ValueError(f"has the window {text}; write one such as 30s..60s, 30s.. or ..60s")
    start, end = sides
    if end is not None and (start or 0) >= end:
        raise ValueError(f"has the window {text}, which ends before it has begun")
    return start, end


# --------------------------------------------------------------------------- limits


def _closed(text: str) -> str:
    """A number without the blank before its unit, as outputs show it: ``2.31 s``."""
    return re.sub(r"(?<=\d)\s+(?=[a-zA-Zµ%/])", "", text)


def _limit(metric: str, operator: Operator, given: str) -> Limit:
    text = _closed(given)
    match = _RELATIVE.fullmatch(text)
    if match is None:
        value = _amount(metric, text)
        return Limit(text=text, offset=Fraction(repr(value)))
    bases: dict[str, Base] = {"baseline": "baseline", "sim": "sim"}
    if match["base"] not in bases:
        near = nearest(match["base"], bases)
        raise ValueError(
            f"has the limit {given}, which is neither a number, nor starts with baseline or sim{near}"
        )
    base = bases[match["base"]]
    if match["sign"] is None:
        return Limit(text=base, base=base, factor=Fraction(1))
    sign = {"+-": "±", "−": "-"}.get(match["sign"], match["sign"])
    amount = _closed(match["amount"].strip())
    written = f"{base}{sign}{amount}"
    if sign == "*":
        return Limit(text=written, base=base, factor=_factor(amount))
    share = _PER_CENT.fullmatch(amount)
    part = Fraction(share[1]) / 100 if share else Fraction(0)
    rest = Fraction(0) if share else Fraction(repr(_amount(metric, amount)))
    if sign == "±":
        if operator not in ("==", "!="):
            raise ValueError(f"has ± after {operator}; write + or -, or == and ±")
        return Limit(text=written, base=base, factor=Fraction(1), near_share=part, near=rest)
    if sign == "-":
        part, rest = -part, -rest
    return Limit(text=written, base=base, factor=1 + part, offset=rest)


def _factor(text: str) -> Fraction:
    if share := _PER_CENT.fullmatch(text):
        return Fraction(share[1]) / 100
    try:
        return Fraction(repr(READERS["ratio"](text)))
    except ValueError as error:
        raise ValueError(f"has the factor {text or 'empty'}, which {error}") from None


def _amount(metric: str, text: str) -> float:
    """A number in the unit of the figure."""
    if not text:
        raise ValueError(f"has nothing to compare with; write a limit, as in {EXAMPLE}")
    if text.startswith(("-", "−")):
        raise ValueError(f"has the limit {text}, which no figure can be below; limits are at least 0")
    own = unit(metric)
    try:
        share = _PER_CENT.fullmatch(text) if own == "ratio" else None
        value = float(Fraction(share[1]) / 100) if share else READERS[own](text)
        if value > LARGEST:
            raise ValueError("is above 10¹⁵")
    except ValueError as error:
        raise ValueError(f"has the limit {text}, which {error} ({metric} is {_KINDS[own]})") from None
    return value


_KINDS = {
    "s": "a time",
    "share": "a share",
    "1/s": "a rate",
    "B": "a size",
    "B/s": "a size per second",
    "ratio": "a ratio",
    "count": "a count",
}
