"""Pictures of simulation beside theory: exact values as a line, runs as points with the intervals of their means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullLocator

from sim.errors import Problem, ScenarioError
from sim.plots_style import LINES, MARKERS, axes, dress, figure_axis, legend, time_ticks, written_ticks
from sim.shown import shown_share, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("x", "mean", "low", "high", "exact")
HIGHEST = 1.6
"""Times the highest value at which a logarithmic axis ends: room for the name of a curve."""


def points(sweep: Any, metric: str, exact: Callable[[Any], float] | None = None) -> pd.DataFrame:
    """The frame for ``beside``: a figure at every point of a sweep over one leaf, and its exact value.

    ``exact``: a function from the value of the leaf to the value that theory gives; None: theory says nothing.
    """
    (leaf,) = sweep.axes
    frame: pd.DataFrame = sweep.table[sweep.table["metric"] == metric].rename(columns={leaf: "x"})
    frame = frame[["x", "mean", "low", "high"]].reset_index(drop=True)
    frame["exact"] = np.nan if exact is None else [exact(value) for value in frame["x"]]
    return frame


def together(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Frames of ``points`` as the named curves of one frame."""
    import pandas as pd

    return pd.concat([frame.assign(series=name) for name, frame in curves.items()], ignore_index=True)


def beside(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str,
    title: str,
    x: str,
    y: str,
    log: str = "",
    x_unit: str = "",
    limit: float | None = None,
    limit_label: str = "",
) -> Axes:
    """Runs (points, intervals) beside theory (lines), from a frame with x, mean, low, high, exact and maybe series.

    ``metric`` says how values are written, ``log`` which axes are logarithmic: ``x``, ``y`` or ``xy``; ``x_unit``: s or
    share, if x is to be written so. ``limit``: a place on the x axis to be marked. Where theory says nothing, points
    are joined.

    Raises:
        ScenarioError: a column is missing.
    """
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise ScenarioError([Problem("frame", None, f"lacks the columns {', '.join(missing)}")])
    ax = axes(ax)
    dress(ax, title, x, y)
    named = "series" in frame.columns
    parts: list[tuple[Any, pd.DataFrame]] = (
        list(frame.groupby("series", sort=False)) if named else [("", frame)]
    )
    for which in log:
        getattr(ax, f"set_{which}scale")("log")
    for number, (name, part) in enumerate(parts):
        _draw(ax, part.sort_values("x"), number, f"{name}: " if named else "")
    _scale(ax, frame, metric, log)
    _write_x(ax, frame, x_unit, "x" in log)
    if limit is not None:
        ax.axvline(limit, color="black", linewidth=1.2, linestyle="-.", label=limit_label, zorder=1)
    legend(ax, loc="best")
    return ax


def _draw(ax: Axes, part: pd.DataFrame, number: int, prefix: str) -> None:
    look = LINES[number % len(LINES)]
    known = part["exact"].notna()
    if known.any():
        ax.plot(part["x"][known], part["exact"][known], zorder=2, label=f"{prefix}exact", **look)
    else:
        ax.plot(part["x"], part["mean"], zorder=2, **look)
    reach = np.abs(part[["low", "high"]].to_numpy(dtype=float).T - part["mean"].to_numpy(dtype=float))
    ax.errorbar(
        part["x"], part["mean"], np.nan_to_num(reach), fmt=MARKERS[number % len(MARKERS)], color=look["color"],
        markerfacecolor="white", markeredgewidth=1.5, markersize=7, capsize=4, zorder=3,
        label=f"{prefix}simulated, 95 %",
    )  # fmt: skip


def _write_x(ax: Axes, frame: pd.DataFrame, x_unit: str, log: bool) -> None:
    low, high = float(frame["x"].min()), float(frame["x"].max())
    if x_unit == "s":
        ax.set_xlim(low / 1.3, high * 1.3)
        time_ticks(ax.xaxis, low / 1.3, high * 1.3)
    elif x_unit == "share":
        values = sorted(set(frame["x"]))
        ax.set_xticks(values, [shown_share(value) for value in values])
    elif log:
        written_ticks(ax.xaxis, {float(value): f"{value:.3g}" for value in frame["x"]})
    ax.xaxis.set_minor_locator(NullLocator())


def _scale(ax: Axes, frame: pd.DataFrame, metric: str, log: str) -> None:
    values = frame[["mean", "low", "high", "exact"]].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if "y" in log and (values > 0).any():
        low, high = values[values > 0].min() / HIGHEST, values.max() * HIGHEST
        ax.set_ylim(low, high)
        if unit(metric) == "s":
            time_ticks(ax.yaxis, low, high)
            return
    elif "y" not in log:
        ax.set_ylim(0, max(values.max(initial=0.0) * 1.15, 1e-9))
    figure_axis(ax.yaxis, metric)
