"""Gates in words: what a figure is, what it must be, by how much it misses that, or why it does not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.gate_syntax import Figure, Gate, is_request_figure
from sim.shown import shown, unit

_NOT_OF_DELIVERIES = ("worker_utilization", "empty_poll_share")
"""Shares of something else."""
_TIMES = 10.0
"""Multiple of the limit from which per cent say less than how many times it is."""


def told(
    gate: Gate, value: float, base: float, limits: tuple[float, float], ok: bool, deliveries: float
) -> str:
    """What a figure is and must be; ``limits``: the limit and its tolerance; ``deliveries``: those it is a share of."""
    metric = gate.figure.metric
    limit, tolerance = limits
    is_shown, limit_shown = _both(metric, value, limit)
    must = f"{gate.operator} {limit_shown}"
    if gate.limit.has_tolerance:
        must = f"within {_distance(metric, tolerance)} of {limit_shown}"
        must = must if gate.operator == "==" else f"not {must}"
    if gate.limit.base:
        must += f" ({gate.limit.text}, and {gate.limit.base} is {shown(metric, base)})"
    what = f"{gate.figure} is {is_shown}{_count(metric, value, deliveries)}; it must be {must}"
    return what if ok else f"{what}: {_miss(gate, value, limit, tolerance)}"


def missing(figure: Figure, counts: Mapping[str, float], meta: Mapping[str, Any]) -> str:
    """Why a figure does not exist; ``counts``: the figures that do, of the same deliveries."""
    return f"{figure} does not exist: {_cause(figure.metric, counts, meta)}"


def _cause(metric: str, counts: Mapping[str, float], meta: Mapping[str, Any]) -> str:
    if is_request_figure(metric):
        return "the load generator made no request"
    if metric == "drain_s":
        if meta["last_outage_s"] is None:
            return "no outage ended in the run"
        return "what waited never came down to what it had been before the outage"
    if metric == "worker_utilization" and meta["workers"] is None:
        return "workers are unlimited"
    if metric == "empty_poll_share":
        return "nothing was polled"
    if not counts["deliveries"]:
        return "no such delivery was created"
    if metric.startswith("delivery_latency_s"):
        return "nothing was processed"
    if metric.startswith("settle_time_s"):
        return "nothing was settled"
    if metric.startswith("queue_wait_s"):
        return "nothing was attempted"
    return "no time had passed"


def _both(metric: str, value: float, limit: float) -> tuple[str, str]:
    """A figure and its limit, with as many digits as tell them apart."""
    texts = shown(metric, value), shown(metric, limit)
    if value == limit or texts[0] != texts[1]:
        return texts
    words = {"ratio": "", "count": ""}
    scale, own = (100, "%") if unit(metric) == "share" else (1, words.get(unit(metric), unit(metric)))
    return f"{float(value) * scale!r} {own}".rstrip(), f"{limit * scale!r} {own}".rstrip()


def _count(metric: str, value: float, deliveries: float) -> str:
    if unit(metric) != "share" or metric in _NOT_OF_DELIVERIES or not deliveries:
        return ""
    return (
        f" ({shown('deliveries', round(value * deliveries))} of {shown('deliveries', deliveries)} deliveries)"
    )


def _miss(gate: Gate, value: float, limit: float, tolerance: float) -> str:
    """By how much a figure misses its limit."""
    metric = gate.figure.metric
    if gate.operator == "!=":
        return "that is what it is" if not gate.limit.has_tolerance else "it is so near"
    if value == limit:
        return f"the limit itself is not {gate.operator}"
    edge, side = (limit + tolerance, "much") if value > limit else (limit - tolerance, "little")
    if unit(metric) != "share" and edge > 0 and value / edge > _TIMES:
        return f"{value / edge:,.0f} times the limit"
    return f"{_excess(metric, value, edge)} too {side}"


def _excess(metric: str, value: float, limit: float) -> str:
    away = abs(value - limit)
    if unit(metric) == "share" or limit <= 0:
        return _distance(metric, away)
    return f"{float(f'{100 * away / limit:.3g}'):g} %"


def _distance(metric: str, away: float) -> str:
    """A difference of two values of a figure; of shares, in percentage points."""
    return f"{float(f'{100 * away:.3g}'):g} points" if unit(metric) == "share" else shown(metric, away)
