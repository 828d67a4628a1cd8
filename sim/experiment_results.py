"""What experiments come to: frozen results with tidy tables, judged from the figures of independent replications.

``runs`` has a row per run with every figure, ``table`` a row per figure (and variant or point) with mean, interval and
the number of replications it exists in. The mean of a quantile is that of the quantiles of single runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sim import intervals
from sim.shown import shown, shown_duration, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANY_LOSS = "any_loss_share"
"""The share of replications in which anything was lost, with its exact interval; a row of every ``table``."""
JUDGED = {
    "lost_share": -1,
    "delivery_latency_s_p50": -1,
    "delivery_latency_s_p99": -1,
    "within_share{30s}": 1,
    "within_share{1h}": 1,
    "duplicates_per_delivery": -1,
    "late_share": -1,
    "attempts_per_delivery": -1,
    "attempts_per_s_max": -1,
    "backlog_max": -1,
    "drain_s": -1,
}
"""The figures by which variants are ranked; 1: more is better, -1: less is. Latency is that of the deliveries that
were processed, so a variant that loses the slow ones looks fast; ``within_share`` counts what is lost, too."""
TRADE_OFF = ("lost_share", "delivery_latency_s_p99", "duplicates_per_delivery", "attempts_per_delivery")
"""Loss, latency, duplicates and load of receivers: less of each is better, and none is had for nothing."""
PAIRING = ("attempts_per_delivery", "delivery_latency_s_p90", "delivery_latency_s_p99", "lost_share")
"""Figures at which it shows whether common luck makes differences steadier."""
PAIRING_HELPS = 2.0
"""Variance ratio from which it does: with ten replications, chance alone seldom makes as much."""
GEWEKE = "Geweke's comparison of the first tenth with the last half"
"""How a warm-up is checked; see ``intervals.settled``."""
MANY_ATTEMPTS = 1.5
"""Attempts per delivery from which retries are a load of their own."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What came of the check that the ``steady`` scenarios of an experiment are steady after their warm-up."""

    checked: bool
    """False: for one at least, fewer than two replications have a latency to judge by."""
    settled: bool | None
    """Whether no trend shows in any of them; None: not checked. Where one does, a warning tells it."""
    method: str = GEWEKE

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {"method": self.method, "checked": self.checked, "settled": self.settled}


@dataclass(frozen=True, repr=False, kw_only=True)
class Experiment:
    """What all experiments have."""

    scenario: str
    seed: int
    replications: int
    confidence: float
    warnings: tuple[str, ...]
    runs: pd.DataFrame
    """One row per run: what it is of, replication (from 1), seed, and every figure."""
    table: pd.DataFrame
    """One row per figure: what it is of, metric, mean, low, high, n."""
    warmup: WarmUp | None = None
    """Whether the warm-up was checked, and what came of it; None: nothing is ``steady``."""

    def to_json(self) -> dict[str, Any]:
        """The experiment as plain values; a figure that does not exist is None."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "replications": self.replications,
            "confidence": self.confidence,
            "warnings": list(self.warnings),
            "warmup": None if self.warmup is None else self.warmup.to_json(),
        }

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} of {self.scenario}, seed {self.seed}, {len(self.runs):,} runs: .table, .runs>"

    def _repr_html_(self) -> str:
        html: str = self.table.to_html(index=False)
        return html


@dataclass(frozen=True, repr=False, kw_only=True)
class Replicated(Experiment):
    """One scenario, replicated."""

    def interval(self, metric: str) -> intervals.Interval:
        """Mean and interval of a figure.

        Raises:
            KeyError: there is none of this name.
        """
        return _interval(self.table, metric)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab replicate --json`` prints; a figure that does not exist is None."""
        return {**super().to_json(), "metrics": _figures(self.table)}


@dataclass(frozen=True, repr=False, kw_only=True)
class Comparison(Experiment):
    """Variants of a scenario under the same luck."""

    variants: tuple[str, ...]
    baseline: str
    differences: pd.DataFrame
    """One row per figure and pair: metric, variant, against, mean (variant - against), low, high, n, p, p_holm,
    variance_ratio. All pairs of the figures in ``JUDGED``, corrected by Holm over these; of the others those
    against the baseline."""
    winners: pd.DataFrame
    """One row per figure in ``JUDGED``: metric, winner, clear (it beats every other), tied_with."""
    pareto: pd.DataFrame
    """One row per variant: the means of ``TRADE_OFF``, and front: whether no other is at least as good in all
    of them and better in one."""

    def interval(self, variant: str, metric: str) -> intervals.Interval:
        """Mean and interval of a figure of a variant.

        Raises:
            KeyError: there is none of this name.
        """
        return _interval(self.table[self.table["variant"] == variant], metric)

    def plot(self) -> Figure:
        """The trade-off of the variants: loss, duplicates and load of receivers against latency."""
        from sim.plots_experiment import trade_off

        return trade_off(self)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab compare --json`` prints; a figure that does not exist is None."""
        return {
            **super().to_json(),
            "baseline": self.baseline,
            "variants": {
                name: {"metrics": _figures(self.table[self.table["variant"] == name])}
                for name in self.variants
            },
            "differences": records(self.differences),
            "winners": records(self.winners),
            "pareto": records(self.pareto),
        }


@dataclass(frozen=True, repr=False, kw_only=True)
class Sweep(Experiment):
    """A scenario at every point of a grid. Tables begin with a column per varied leaf."""

    axes: Mapping[str, tuple[Any, ...]]
    """The varied leaves and their values: s, per s, shares, bytes, numbers or texts."""
    texts: Mapping[str, tuple[str, ...]]
    """The same values as a scenario file has them."""
    failed: pd.DataFrame
    """One row per run without an outcome: point, replication, seed, reason."""
    points: tuple[Mapping[str, Any], ...] = field(default=())

    def wide(self, metrics: Sequence[str]) -> pd.DataFrame:
        """One row per point: a column per leaf, and the means of these figures."""
        chosen = self.table[self.table["metric"].isin(metrics)]
        spread = chosen.pivot_table(
            index=list(self.axes), columns="metric", values="mean", sort=False, dropna=False, observed=True
        )
        return spread.reindex(columns=list(metrics)).reset_index().rename_axis(columns=None)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab sweep --json`` prints; a figure that does not exist is None."""
        axes = list(self.axes)
        groups = {} if self.table.empty else dict(list(self.table.groupby(axes, sort=False, dropna=False)))
        return {
            **super().to_json(),
            "vary": {path: list(values) for path, values in self.axes.items()},
            "texts": {path: list(texts) for path, texts in self.texts.items()},
            "points": [
                {"values": dict(point), "metrics": _figures(groups[key]) if key in groups else None}
                for point in self.points
                for key in [tuple(point.values())]
            ],
            "failed": records(self.failed),
        }


# --------------------------------------------------------------------------- tables


def table_of(runs: pd.DataFrame, by: Sequence[str], confidence: float) -> pd.DataFrame:
    """Mean, interval and number of replications of every figure, for each value of the columns ``by``."""
    names = [name for name in runs.columns if name not in (*by, "replication", "seed")]
    groups = [((), runs)] if not by else runs.groupby(list(by), sort=False, dropna=False)
    rows: list[tuple[Any, ...]] = []
    for key, group in groups:
        for name in names:
            values = group[name].to_numpy()
            rows.append((*key, name, *_possible(name, intervals.mean_interval(values, confidence))))
            if name == "lost_share":
                known = values[~np.isnan(values)]
                lossy = intervals.proportion_interval(int((known > 0).sum()), len(known), confidence)
                if len(known) < 2:  # one run says nothing about others
                    lossy = lossy._replace(low=math.nan, high=math.nan)
                rows.append((*key, ANY_LOSS, *lossy))
    return pd.DataFrame(rows, columns=[*by, "metric", "mean", "low", "high", "n"])


def _possible(name: str, interval: intervals.Interval) -> intervals.Interval:
    """The part of an interval that can be: no figure is negative, and no share above 1; NaN stays NaN."""
    highest = 1.0 if unit(name) == "share" else math.inf
    return interval._replace(
        low=float(np.maximum(interval.low, 0.0)), high=float(np.minimum(interval.high, highest))
    )


def differences_of(
    runs: pd.DataFrame, variants: Sequence[str], baseline: str, confidence: float
) -> pd.DataFrame:
    """The paired differences of a comparison; see ``Comparison.differences``."""
    values = {name: runs[runs["variant"] == name].sort_values("replication") for name in variants}
    metrics = [name for name in runs.columns if name not in ("variant", "replication", "seed")]
    rows = []
    for metric in metrics:
        pairs = [
            (own, other)
            for at, other in enumerate([baseline, *(name for name in variants if name != baseline)])
            for own in [name for name in variants if name != baseline][at:]
            if metric in JUDGED or other == baseline
        ]
        arrays = [(values[own][metric].to_numpy(), values[other][metric].to_numpy()) for own, other in pairs]
        found = intervals.differences(arrays, confidence)
        rows += [(metric, *pair, *difference) for pair, difference in zip(pairs, found, strict=True)]
    return pd.DataFrame(rows, columns=["metric", "variant", "against", *intervals.Difference._fields])


def winners_of(table: pd.DataFrame, differences: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Who is best at what, and whether that is more than luck; see ``Comparison.winners``."""
    rows = []
    for metric, direction in JUDGED.items():
        means = table[(table["metric"] == metric) & table["mean"].notna()].set_index("variant")["mean"]
        if len(means) < 2 or means.min() == means.max():
            continue
        best = str((means * direction).idxmax())
        own = differences[differences["metric"] == metric]
        pairs = own[(own["variant"] == best) | (own["against"] == best)]
        shown_apart = pairs["p_holm"] < 1 - confidence
        others = pairs["variant"].where(pairs["variant"] != best, pairs["against"])
        tied = [str(name) for name in others[~shown_apart] if name in means.index]
        rows.append((metric, best, not tied, ", ".join(tied)))
    return pd.DataFrame(rows, columns=["metric", "winner", "clear", "tied_with"])


def pareto_of(table: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """The trade-off of the variants and who is on its front; see ``Comparison.pareto``."""
    means = table.pivot(index="variant", columns="metric", values="mean").loc[list(variants), list(TRADE_OFF)]
    return means.assign(front=on_front(means)).reset_index().rename_axis(columns=None)


def on_front(costs: pd.DataFrame) -> pd.Series:
    """Which rows no other row beats: none is as good in every column and better in one. NaN counts as worst."""
    values = costs.to_numpy(dtype=float)
    values = np.where(np.isnan(values), np.inf, values)  # the latency of nothing is no latency to have
    no_worse = (values[:, None, :] <= values[None, :, :]).all(axis=2)
    better = (values[:, None, :] < values[None, :, :]).any(axis=2)
    return pd.Series(~(no_worse & better).any(axis=0), index=costs.index)


# --------------------------------------------------------------------------- warnings


def pairing_warnings(differences: pd.DataFrame, table: pd.DataFrame, baseline: str) -> Iterator[str]:
    """Where common luck did not make differences steadier, and why."""
    means = table.pivot(index="variant", columns="metric", values="mean")["attempts_per_delivery"]
    against = differences[(differences["against"] == baseline) & differences["metric"].isin(PAIRING)]
    for variant in against["variant"].unique().tolist():
        enough = against["n"] >= intervals.LEAST_REPLICATIONS  # a variance of fewer is a guess
        own = against[(against["variant"] == variant) & enough & against["variance_ratio"].notna()]
        ratios = dict(zip(own["metric"].tolist(), own["variance_ratio"].tolist(), strict=True))
        if not ratios or max(ratios.values()) >= PAIRING_HELPS:
            continue
        told = ", ".join(f"{name} × {ratio:.2g}" for name, ratio in ratios.items())
        why = _why({name: float(means[name]) for name in (variant, baseline)})
        yield (
            f"common random numbers brought nothing for {variant} against {baseline} (variance of the difference "
            f"with luck of their own ÷ with common luck: {told}): {why}; only more replications narrow these "
            "intervals"
        )


def _why(attempts_per_delivery: Mapping[str, float]) -> str:
    """Why two variants that meet the same events come to figures that do not move together."""
    loads = [f"{name} {load:.3g}" for name, load in attempts_per_delivery.items() if load >= MANY_ATTEMPTS]
    if loads:
        return (
            f"retries are a load of their own (attempts per delivery: {', '.join(loads)}), and where they overload "
            "receivers, when that begins and ends hangs on small differences of timing, not on the luck that is shared"
        )
    return "what they differ in decides about more than the luck that they share"


def unsettled_warning(shares: Sequence[float]) -> Iterator[str]:
    """That runs ended before their deliveries did: ``unsettled_share`` of each."""
    worst = max(shares, default=0.0)
    if worst > 0:
        count = sum(share > 0 for share in shares)
        yield (
            f"unsettled_share is up to {shown('unsettled_share', worst)} (above 0 in {count:,} of {len(shares):,} "
            "runs): these ended before their deliveries did, and latency quantiles leave them out, so they look "
            "too good; raise drain"
        )


def _after_warm_up(pieces: int, horizon_s: float, warmup_s: float) -> int:
    """The first of so many pieces of the horizon after the warm-up."""
    return math.ceil(warmup_s / horizon_s * pieces - 1e-9)


def settled_after(settling: np.ndarray[Any, Any], horizon_s: float, warmup_s: float) -> bool | None:
    """Whether latency over time, a row per replication, shows no trend after the warm-up.

    None: fewer than two rows have a latency.
    """
    if not settling.size or np.isfinite(settling).any(axis=1).sum() < 2:
        return None
    return intervals.settled(settling[:, _after_warm_up(settling.shape[1], horizon_s, warmup_s) :])


def warm_up_warning(settling: np.ndarray[Any, Any], horizon_s: float, warmup_s: float) -> Iterator[str]:
    """That a ``steady`` scenario is not steady after its warm-up: latency over time, a row per replication.

    Of a ``terminating`` one there are no series: it is meant to have a start.
    """
    if settled_after(settling, horizon_s, warmup_s) is not False:
        return
    pieces = settling.shape[1]
    first = _after_warm_up(pieces, horizon_s, warmup_s)
    cut = intervals.settled_from(settling, first)
    lead = (
        f"latency is not steady after the warmup of {shown_duration(warmup_s)} ({GEWEKE}, over "
        f"{len(settling):,} replications)"
    )
    if cut is None:
        yield f"{lead}; it drifts over the whole horizon: lengthen that, or call it kind: terminating"
    else:
        yield f"{lead}; it is from {shown_duration(horizon_s * cut / pieces)} on: raise warmup to that at least"


# --------------------------------------------------------------------------- plain values


def _interval(table: pd.DataFrame, metric: str) -> intervals.Interval:
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise KeyError(f"there is no figure {metric}")
    row = rows.iloc[0]
    return intervals.Interval(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def _figures(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row.pop("metric"): row for row in records(table[["metric", "mean", "low", "high", "n"]])}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as mappings of Python's own values; None for NaN and infinity."""
    columns = {str(name): [_plain(value) for value in table[name].tolist()] for name in table.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
