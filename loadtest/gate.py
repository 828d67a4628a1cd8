"""Gates: what a load test must show, checked before it runs and judged after. How they are written: ``gate_syntax``.

``read`` texts, ``check`` them against the scenario before anything is started, ``judge`` them by a trace. Figures are
those of ``sim.metrics``. Figures of a window are those that a run would have whose warm-up ended and whose horizon lay
at its sides: deliveries created in it, and rates and backlog over it.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtest.gate_syntax import FIELD, Figure, Gate, is_request_figure, read
from loadtest.gate_words import missing, told
from sim.blocks_dispatcher import matches
from sim.errors import Problem, ScenarioError, nearest
from sim.fields import format_duration

if TYPE_CHECKING:
    from loadtest.gate_baseline import Baseline
    from sim.scenario import Scenario
    from sim.streamed import Streamed
    from sim.trace import Trace

__all__ = ["Gate", "Judged", "check", "judge", "needs", "read", "value_of"]

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_SHOWN_NAMES = 8
"""Known names that a message about an unknown one gives."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A gate and what became of it."""

    expr: str
    figure: str
    """What was judged, without the comparison."""
    value: float
    """NaN: the figure does not exist; the gate has failed."""
    limit: float
    """In the unit of the figure; NaN: there is none, as what it starts from does not exist."""
    tolerance: float
    """How far from the limit is near enough; 0 but for ``±``."""
    ok: bool
    by: str
    """In words: what it is, what it must be, and by how much it misses that."""

    def to_json(self) -> dict[str, Any]:
        """As ``hooklab loadtest --json`` prints it; a number that does not exist is None."""
        return {
            "expr": self.expr,
            "figure": self.figure,
            "value": None if math.isnan(self.value) else self.value,
            "limit": None if math.isnan(self.limit) else self.limit,
            "tolerance": self.tolerance,
            "ok": self.ok,
            "by": self.by,
        }


def needs(gates: Iterable[Gate], base: str) -> bool:
    """Whether any gate starts from ``baseline`` or ``sim``: then there must be one to judge by."""
    return any(gate.limit.base == base for gate in gates)


# --------------------------------------------------------------------------- before the run


def check(gates: Sequence[Gate], scenario: Scenario, baseline: Baseline | None = None) -> None:
    """Refuse what could not be judged after a run of this scenario.

    Raises:
        ScenarioError: a gate names an endpoint group or event type that the scenario lacks, or a window outside of
            its figures; or it needs a baseline, and there is none, of another scenario, or without this figure.
    """
    types = list(dict.fromkeys(kind for name in scenario.producers for kind in scenario.event_types(name)))
    span = int(scenario.warmup), int(scenario.horizon)
    _refuse(gates, list(scenario.endpoints), types, span)
    _require_baseline(gates, baseline, scenario.name)


def _refuse(
    gates: Iterable[Gate], groups: Sequence[str], types: Sequence[str] | None, span: tuple[int, int]
) -> None:
    problems = [
        Problem(FIELD, str(gate), rule) for gate in gates for rule in _wrong(gate.figure, groups, types, span)
    ]
    if problems:
        raise ScenarioError(problems)


def _wrong(
    figure: Figure, groups: Sequence[str], types: Sequence[str] | None, span: tuple[int, int]
) -> Iterable[str]:
    if figure.endpoint is not None and figure.endpoint not in groups:
        yield f"names no endpoint group of the scenario{_among(figure.endpoint, groups)}"
    if figure.event_type is not None and types is not None and not _types_of(figure.event_type, types):
        yield f"matches no event type of the scenario{_among(figure.event_type, types)}"
    start, end = figure.start_ns, figure.end_ns
    if figure.has_window and not (
        span[0] <= (span[0] if start is None else start) < (span[1] if end is None else end) <= span[1]
    ):
        sides = " to ".join(map(format_duration, span))
        yield f"has a window that does not lie within the time of which figures are: {sides} (warmup to horizon)"


def _among(name: str, known: Sequence[str]) -> str:
    more = ", …" if len(known) > _SHOWN_NAMES else ""
    return f"{nearest(name, known)} (known: {', '.join(known[:_SHOWN_NAMES])}{more})"


def _types_of(pattern: str, types: Iterable[str]) -> set[str]:
    """The event types that are meant: the one of this very name, else those that match."""
    known = list(types)
    return {pattern} if pattern in known else {kind for kind in known if matches([pattern], kind)}


def _require_baseline(gates: Iterable[Gate], baseline: Baseline | None, scenario: str) -> None:
    for gate in gates:
        if gate.limit.base != "baseline":
            continue
        if baseline is None:
            raise ScenarioError([Problem(FIELD, str(gate), "needs a baseline: the JSON of an earlier run")])
        if baseline.scenario not in (None, scenario):
            rule = f"is of the scenario {baseline.scenario}, not of {scenario}; choose another baseline"
            raise ScenarioError(rule, baseline.source)
        baseline.figure(str(gate.figure))


# --------------------------------------------------------------------------- after it


def judge(
    gates: Sequence[Gate],
    made: Trace | Streamed,
    *,
    requests: Mapping[str, float] | None = None,
    baseline: Baseline | None = None,
    prediction: Trace | Streamed | None = None,
) -> list[Judged]:
    """Judge gates by what a run has left, in their order.

    ``requests`` has the figures of the load generator by name; ``prediction`` is the simulation of the same scenario.

    Raises:
        ScenarioError: as ``check``; a figure of the load generator is not there; a figure of some deliveries is asked
            of a streamed run; or a gate needs a prediction and there is none.
    """
    groups = list(made.meta["endpoints"])
    span = round(made.meta["warmup_s"] * 1e9), round(made.meta["horizon_s"] * 1e9)
    _refuse(gates, groups, None, span)  # a type that did not occur is not known from the run
    _require_baseline(gates, baseline, made.meta["name"])
    own = _Figures(made, requests or {})
    other = None if prediction is None else _Figures(prediction, {})
    return [_judged(gate, own, _base_of(gate, baseline, other)) for gate in gates]


def value_of(figure: Figure, made: Trace | Streamed, requests: Mapping[str, float] | None = None) -> float:
    """A figure of a run; NaN if it does not exist.

    Raises:
        ScenarioError: it is one of the load generator and not among ``requests``, or the run keeps no tables for it.
    """
    return _Figures(made, requests or {}).value(figure)


def _base_of(gate: Gate, baseline: Baseline | None, prediction: _Figures | None) -> float:
    """What the limit starts from; NaN if the simulation lacks it, 0 if it starts from nothing."""
    if gate.limit.base == "baseline":
        assert baseline is not None, "required before"
        return baseline.figure(str(gate.figure))
    if gate.limit.base == "sim":
        if is_request_figure(gate.figure.metric):
            rule = f"compares {gate.figure.metric} with the simulation, which has no load generator"
            raise ScenarioError([Problem(FIELD, str(gate), rule)])
        if prediction is None:
            raise ScenarioError(
                [Problem(FIELD, str(gate), "needs a simulation to compare with; there is none")]
            )
        return prediction.value(gate.figure)
    return 0.0


def _judged(gate: Gate, own: _Figures, base: float) -> Judged:
    figure = gate.figure
    value = own.value(figure)
    reason = ""
    limit = tolerance = math.nan
    if math.isnan(base):
        reason = f"the simulation has no {figure}, so there is nothing to compare with"
    else:
        limit, tolerance = gate.limit.of(base)
    if math.isnan(value):
        counts, meta = own.counts(figure)
        reason = missing(figure, counts, meta)
    ok = not reason and _holds(gate, value, limit, tolerance)
    deliveries = own.counts(figure)[0]["deliveries"] if not reason else 0.0
    return Judged(
        expr=str(gate),
        figure=str(figure),
        value=value,
        limit=limit,
        tolerance=0.0 if math.isnan(tolerance) else tolerance,
        ok=ok,
        by=reason or told(gate, value, base, (limit, tolerance), ok, deliveries),
    )


def _holds(gate: Gate, value: float, limit: float, tolerance: float) -> bool:
    if gate.limit.has_tolerance:
        # 1.1 lies within 10 % of 1: floats would have it a little off
        away = abs(Fraction(repr(value)) - Fraction(repr(limit)))
        return (away <= Fraction(repr(tolerance))) == (gate.operator == "==")
    return _COMPARED[gate.operator](value, limit)


def _labels(column: Any) -> tuple[list[str], Any]:
    """The values of a column of labels, and for each row the position of its own."""
    category = column.astype("category").cat
    return [str(label) for label in category.categories], category.codes.to_numpy()


class _Figures:
    """The figures of a run, of all its deliveries or of some; each part is worked out once."""

    def __init__(self, made: Trace | Streamed, requests: Mapping[str, float]) -> None:
        self.made = made
        self.requests = requests
        self._part = functools.cache(self._cut)

    def value(self, figure: Figure) -> float:
        if is_request_figure(figure.metric):
            if figure.metric not in self.requests:
                rule = f"{figure.metric} is measured by the load generator; this run has none"
                raise ScenarioError([Problem(FIELD, None, rule)])
            return float(self.requests[figure.metric])
        return float(self.part(figure).metrics[figure.metric])

    def counts(self, figure: Figure) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        part = self.part(figure)
        return part.metrics, part.meta

    def part(self, figure: Figure) -> Trace | Streamed:
        if not figure.is_scoped:
            return self.made
        return self._part(figure.endpoint, figure.event_type, figure.start_ns, figure.end_ns)

    def _cut(self, group: str | None, pattern: str | None, start: int | None, end: int | None) -> Trace:
        from sim.metrics import part_of
        from sim.trace import Trace

        whole = self.made
        if not isinstance(whole, Trace):
            raise ScenarioError(
                "a streamed run keeps no tables, so no gate can choose among its deliveries; run it with stream=False"
            )
        mask = np.ones(len(whole.deliveries), dtype=bool)
        if group is not None:
            names, codes = _labels(whole.deliveries["endpoint"])
            mask &= np.array([name.rpartition(":")[0] == group for name in names], dtype=bool)[codes]
        if pattern is not None:
            names, codes = _labels(whole.deliveries["type"])
            wanted = _types_of(pattern, names)
            mask &= np.array([name in wanted for name in names], dtype=bool)[codes]
        sides = {"warmup_s": start, "horizon_s": end}
        meta = whole.meta | {name: ns / 1e9 for name, ns in sides.items() if ns is not None}
        cut = Trace(whole.attempts, whole.deliveries, whole.polls, meta)
        vars(cut)["delivery_rows"] = (
            whole.delivery_rows
        )  # found again by text it takes longer than all the rest
        return part_of(cut, mask, group)
