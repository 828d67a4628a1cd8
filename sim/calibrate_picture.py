"""Measured durations beside the fitted ones: share that lasts longer, both axes logarithmic.

A tail is what costs deliveries, and a logarithmic share shows it. Measured values are grey steps, the fit is a
dashed black line, so that both can be told apart in black and white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from sim.calibrate_durations import Fit, kaplan_meier
from sim.plots_style import TEXT, TITLE, Picture
from sim.shown import shown_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.calibrate import FitResult

POINTS = 400
TICKS = {
    1e-6: "1 μs",
    1e-5: "10 μs",
    1e-4: "100 μs",
    1e-3: "1 ms",
    1e-2: "10 ms",
    0.1: "100 ms",
    1.0: "1 s",
    10.0: "10 s",
    60.0: "1 min",
    600.0: "10 min",
    3600.0: "1 h",
    36_000.0: "10 h",
    259_200.0: "3 d",
    2_592_000.0: "30 d",
    25_920_000.0: "300 d",
    259_200_000.0: "3,000 d",
}
"""Where the axis of time is labelled, s."""


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
    ax.set_title(f"{fit.what}: {fit.family}", fontsize=TITLE, loc="left")
    ax.set_xlabel("time, logarithmic", fontsize=TEXT)
    ax.set_ylabel("share that lasts longer", fontsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color="0.85", linewidth=0.6)
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
    ticks = [tick for tick in TICKS if lowest / 1.5 <= tick <= highest * 1.5]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([TICKS[tick] for tick in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown_share(value)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize=TEXT)
    ax.legend(loc="lower left", fontsize=TEXT, framealpha=0.9, edgecolor="0.7")


def _measured(fit: Fit) -> str:
    p_value = f", p = {fit.goodness[0].p_value:.2g}" if fit.goodness else ""
    return f"measured, {fit.sample.complete:,}{p_value}"
