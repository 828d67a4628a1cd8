"""Figures side by side: which ones are held against each other, and how far they may be apart.

Without timing reasons the rules are the tolerances alone, and shares that follow from fates may differ by excused
deliveries only. With reasons, a figure out of its tolerance still agrees if simulated runs lie as far apart
(``agreement_luck``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from loadtest.agreement_fates import Difference, Fates
from loadtest.agreement_luck import DISTANCE, Luck
from sim.intervals import Interval
from sim.trace import Trace

LATENCIES = ("delivery_latency_s_p50", "delivery_latency_s_p99")
WAITS = ("queue_wait_s_mean", "queue_wait_s_p99")
RATES = ("attempts_per_s", "goodput_per_s")
OF_FATES = (
    "delivered_share",
    "lost_share",
    "expired_share",
    "unsettled_share",
    "duplicate_share",
    "attempts_per_delivery",
)
"""Figures that follow from the fates of deliveries."""
OF_ORDER = ("late_share",)
"""Figures that depend on which of two deliveries is processed first."""


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far real figures may lie from simulated ones: a share of the simulated one, or so much.

    5 ms are what a machine adds that the simulation leaves out: timers are good to 1 ms, events and results are
    committed in groups of a few, and an attempt takes the sender a part of one.
    """

    latency_share: float = 0.10
    latency_s: float = 0.005
    wait_share: float = 0.15
    wait_s: float = 0.005
    backlog_share: float = 0.15
    rate_share: float = 0.05
    points: float = 0.001
    """Of shares, and of attempts per delivery: a delivery in a thousand. Never less than two deliveries."""
    order_share: float = 0.10
    distance: float = 0.05
    """Between distributions of latency: of all deliveries, so many took longer on one side."""
    confidence: float = 0.99
    """Of the interval of a paired difference."""


class Compared(NamedTuple):
    """A figure on both sides."""

    name: str
    sim: float
    slowed: float
    """Simulated with the overhead that was measured; for comparison, it decides nothing."""
    real: float
    ok: bool
    rule: str
    difference: float
    """real - sim."""


class Sides(NamedTuple):
    """The runs to compare."""

    sim: Trace
    slowed: Trace
    real: Trace


def compare_figures(
    sides: Sides, tolerances: Tolerances, fates: Fates | None, luck: Luck | None
) -> tuple[Compared, ...]:
    """All figures, judged: by ``fates`` where no timing matters, else with the help of ``luck``."""
    limits = allowances(sides.sim, tolerances)
    rows = []
    for name, (limit, rule) in limits.items():
        if name == DISTANCE:
            continue
        if fates is not None and name in OF_FATES:
            limit, rule = _by_fates(sides, fates, name)
        ok = _within(sides.sim.metrics[name], sides.real.metrics[name], limit)
        if fates is not None and name in OF_ORDER:
            interval = paired(sides.sim, sides.real, "late", tolerances.confidence)
            ok = ok or interval.low <= 0 <= interval.high
            rule += f", or the paired difference may be 0 ({tolerances.confidence:.0%} interval, clustered by key)"
        rows.append(_row(sides, name, ok, rule, luck))
    if luck is not None:
        limit, rule = limits[DISTANCE]
        sim, real = luck.distances
        ok = real <= limit or luck.allows(DISTANCE)
        rows.append(Compared(DISTANCE, sim, math.nan, real, ok, _with_luck(rule, luck), real - sim))
    return tuple(rows)


def allowances(simulated: Trace, tolerances: Tolerances) -> dict[str, tuple[float, str]]:
    """By figure, how far a real one may lie from this simulated one, and that in words."""
    figures = simulated.metrics
    found: dict[str, tuple[float, str]] = {}

    def put(name: str, share: float, least: float, unit: str) -> None:
        limit = least if math.isnan(figures[name]) else max(share * abs(figures[name]), least)
        found[name] = limit, f"within {share:.0%} or {unit}"

    for name in LATENCIES:
        put(name, tolerances.latency_share, tolerances.latency_s, f"{tolerances.latency_s * 1000:g} ms")
    for name in WAITS:
        put(name, tolerances.wait_share, tolerances.wait_s, f"{tolerances.wait_s * 1000:g} ms")
    more = backlog_floor(simulated, tolerances.wait_s)
    put("backlog_max", tolerances.backlog_share, more, f"{more:,.0f} deliveries")
    window = simulated.meta["horizon_s"] - simulated.meta["warmup_s"]
    for name in RATES:
        put(name, tolerances.rate_share, 2 / window, "2 over the run")
    points = max(tolerances.points, 2 / max(figures["deliveries"], 1))
    for name in OF_FATES:
        put(name, 0.0, points, f"{points * 1000:.3g} in 1,000 deliveries")
        found[name] = points, f"within {points * 1000:.3g} in 1,000 deliveries"
    for name in OF_ORDER:
        put(name, tolerances.order_share, points, f"{points * 1000:.3g} in 1,000 deliveries")
    found[DISTANCE] = tolerances.distance, f"at most {tolerances.distance:.0%} of deliveries"
    return found


def backlog_floor(simulated: Trace, wait_s: float) -> float:
    """The backlog that a machine makes of nothing: all that come due within ``wait_s``, as each may wait so long.

    A simulated sender that is free starts each at its due time; a real one has them one after another.
    """
    due = np.sort(simulated.attempts["due_s"].to_numpy())
    within = np.searchsorted(due, due + wait_s, side="right") - np.arange(len(due))
    return float(within.max(initial=0))


def _within(sim: float, real: float, limit: float) -> bool:
    """Whether two figures are as near as allowed; one that neither side has is the same on both."""
    if math.isnan(sim) or math.isnan(real):
        return math.isnan(sim) and math.isnan(real)
    return abs(real - sim) <= limit + 1e-12  # what subtraction leaves behind


def _row(sides: Sides, name: str, ok: bool, rule: str, luck: Luck | None) -> Compared:
    sim, slowed, real = (trace.metrics[name] for trace in sides)
    if luck is not None:
        ok, rule = ok or luck.allows(name), _with_luck(rule, luck)
    return Compared(name, sim, slowed, real, ok, rule, real - sim)


def _with_luck(rule: str, luck: Luck) -> str:
    return f"{rule}, or no farther off than one of {luck.runs} more simulated runs"


# --------------------------------------------------------------------------- without timing reasons


def _by_fates(sides: Sides, fates: Fates, name: str) -> tuple[float, str]:
    """What excused deliveries may make of a figure, and those that fall on the other side of the window's edges."""
    deliveries = max(sides.sim.metrics["deliveries"], 1.0)
    edge = abs(sides.real.metrics["deliveries"] - sides.sim.metrics["deliveries"])
    count = sum(map(_attempts_apart if name == "attempts_per_delivery" else _one, fates.excused))
    return (count + edge) / deliveries, "equal, but for excused deliveries"


def _one(_: Difference) -> int:
    return 1


def _attempts_apart(difference: Difference) -> int:
    return abs(len(difference.sim.attempts) - len(difference.real.attempts))


def paired(sim: Trace, real: Trace, column: str, confidence: float) -> Interval:
    """The mean difference (real - sim) of a yes or no of the deliveries that both have, with Student's interval.

    Deliveries of one key at one endpoint overtake each other, so each such group counts as one observation: the mean
    is a ratio of sums over groups, and its variance that of the ratio (Cochran, *Sampling Techniques*, 3rd ed.,
    §6.3). NaN bounds with fewer than two groups.
    """
    columns = ["delivery_id", "endpoint", "key", column]
    both = sim.deliveries[columns].merge(real.deliveries[["delivery_id", column]], on="delivery_id")
    if both.empty:
        return Interval(math.nan, math.nan, math.nan, 0)
    apart = both[f"{column}_y"].astype(float) - both[f"{column}_x"].astype(float)
    groups = apart.groupby([both["endpoint"], both["key"]], observed=True).agg(["sum", "count"])
    sums, counts = groups["sum"].to_numpy(), groups["count"].to_numpy()
    mean, many = float(apart.mean()), len(groups)
    if many < 2:
        return Interval(mean, math.nan, math.nan, many)
    spread: Any = np.sqrt(many / (many - 1) * np.sum((sums - mean * counts) ** 2)) / len(both)
    half = float(special.stdtrit(many - 1, (1 + confidence) / 2) * spread)
    return Interval(mean, mean - half, mean + half, many)
