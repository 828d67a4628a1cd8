"""The picture of a comparison: what each variant pays for what it gains. Panels draw on an ``Axes`` they are given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sim.experiment_results import TRADE_OFF
from sim.plots_style import TEXT, TITLE, Picture, dress, figure_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.experiment_results import Comparison

LABELS = {
    "lost_share": "lost (share of deliveries)",
    "delivery_latency_s_p99": "latency p99",
    "duplicates_per_delivery": "duplicates per delivery",
    "attempts_per_delivery": "attempts per delivery (load of receivers)",
}
_FAR = 50.0
"""Times the least mean from which an axis is logarithmic."""


def trade_off(comparison: Comparison) -> Figure:
    """Loss, duplicates and load of receivers against latency: a panel each, every variant a point with intervals."""
    across, *others = (TRADE_OFF[1], TRADE_OFF[0], *TRADE_OFF[2:])
    figure = Picture(figsize=(15, 5.5), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(others)), others, strict=True):
        against(comparison, across, name, panel)
    title = f"{comparison.scenario}: {comparison.replications:,} replications, seed {comparison.seed}"
    bars = f"bars: {comparison.confidence * 100:g} % intervals"
    note = f"filled: on the Pareto front of all four; {bars}; less is better everywhere"
    figure.suptitle(f"{title}\n{note}", fontsize=TITLE, parse_math=False)
    return figure


def against(comparison: Comparison, across: str, up: str, ax: Axes) -> None:
    """One figure of ``TRADE_OFF`` against another: a point per variant, filled if it is on the front."""
    dress(ax, "", LABELS[across], LABELS[up])
    front = dict(zip(comparison.pareto["variant"], comparison.pareto["front"], strict=True))
    means = []
    for variant in comparison.variants:
        x, y = comparison.interval(variant, across), comparison.interval(variant, up)
        if math.isnan(x.mean) or math.isnan(y.mean):
            continue  # where nothing was processed there is no latency
        across_by, up_by = [[x.mean - x.low], [x.high - x.mean]], [[y.mean - y.low], [y.high - y.mean]]
        ax.errorbar(x.mean, y.mean, up_by, across_by, fmt="none", ecolor="0.5", capsize=3.0, zorder=1.0)
        filling = "black" if front[variant] else "white"
        ax.plot(x.mean, y.mean, "o", markersize=9, color="black", markerfacecolor=filling)
        ax.annotate(
            variant, (x.mean, y.mean), (7, 7), textcoords="offset points", fontsize=TEXT, parse_math=False
        )
        means.append(x.mean)
    if means and min(means) > 0 and max(means) > _FAR * min(means):
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    figure_axis(ax.xaxis, across)
    figure_axis(ax.yaxis, up)
    ax.margins(0.3, 0.15)  # room for the names
