"""Measured durations beside the fitted ones: share that lasts longer, both axes logarithmic.

A tail is what costs deliveries, and a logarithmic share shows it. Measured values are grey steps, the fit is a
dashed black line, so that both can be told apart in black and white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, NullLocator

from sim.calibrate_durations import Fit, kaplan_meier
from sim.plots_style import Picture, dress, legend, time_ticks
from sim.shown import shown_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.calibrate import FitResult

POINTS = 400


def picture(result: FitResult) -> Picture:
    """All fitted durations of a result, one panel each."""
    count = max(len(result.durations), 1)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Picture(figsize=(6.2 * columns, 4.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(result.durations) :]:
        ax.set_axis_off()
    for ax, fit in zip(axes, result.durations, strict=False):
        draw(fit, ax)
    return figure


def draw(fit: Fit, ax: Axes) -> None:
    """One fitted duration: measured (Kaplan-Meier), fitted, and where durations were cut off."""
    taken = fit.sample.where(~fit.sample.residual)
    if not taken.ended.any():
        taken = fit.sample
    times, after = kaplan_meier(taken)
    lowest = max(float(times[0]), 1e-7)
    highest = max(float(taken.values.max()), lowest * 10)
    dress(ax, f"{fit.what}: {fit.family}", "time, logarithmic", "share that lasts longer")
    ax.set_xscale("log")
    ax.set_yscale("log")
    at = np.maximum(np.concatenate(([lowest / 1.5], times)), lowest / 1.5)
    share = np.concatenate(([1.0], after))
    floor = 0.3 / len(taken.values)
    ax.step(
        at, np.maximum(share, floor / 10), where="post", color="0.55", linewidth=2.6, label=_measured(fit)
    )
    grid = np.geomspace(lowest / 1.5, highest * 1.5, POINTS)
    fitted = fit.survival(grid)
    if fitted is not None:
        ax.plot(
            grid,
            np.maximum(fitted, floor / 10),
            color="black",
            linewidth=1.5,
            linestyle=(0, (4, 2)),
            label=fit.family,
        )
    elif fit.family == "quantiles":
        at_points, left = [at for _, at in fit.points[1:-1]], [1 - share for share, _ in fit.points[1:-1]]
        ax.plot(at_points, left, ".", color="black", markersize=6, label="quantiles given")
    cut = taken.values[~taken.ended]
    if len(cut):
        heights = np.interp(cut, at, share)
        ax.plot(cut[:200], heights[:200], "|", color="black", markersize=9, label=f"cut off ({len(cut):,})")
    ax.set_xlim(lowest / 1.5, highest * 1.5)
    ax.set_ylim(floor, 1.6)
    time_ticks(ax.xaxis, lowest / 1.5, highest * 1.5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown_share(value)))
    ax.yaxis.set_minor_locator(NullLocator())
    legend(ax, loc="lower left")


def _measured(fit: Fit) -> str:
    p_value = f", p = {fit.goodness[0].p_value:.2g}" if fit.goodness else ""
    return f"measured, {fit.sample.complete:,}{p_value}"
