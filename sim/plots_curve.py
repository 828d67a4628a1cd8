"""Curves with error bands: a figure against what was varied, goodput against load, and the answer of a plan.

A frame has a row for each point and the columns ``x`` (what was varied), ``mean``, ``low`` and ``high`` (the
ends of its interval; NaN: none); with a column ``series`` each name in it is a curve of its own, and with a column
``written`` the values of ``x`` are labelled as it has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import Problem, ScenarioError
from sim.plots_style import (
    FAR_APART,
    LINES,
    MARKERS,
    TEXT,
    axes,
    dress,
    figure_axis,
    figure_label,
    legend,
    say,
    spread,
    time_ticks,
    written_ticks,
)
from sim.shown import shown, unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("x", "mean", "low", "high")
DECADES_APART = 100.0
"""Ratio of the largest to the least mean above 0 from which an axis is logarithmic although it has to show a 0."""
_HATCHES = ("///", "\\\\\\", "...", "xxx", "|||", "---")


def curve(
    frame: pd.DataFrame, ax: Axes | None = None, *, metric: str, x_label: str, title: str | None = None
) -> Axes:
    """A figure of runs against what was varied, with its interval as a band.

    Raises:
        ScenarioError: a column is missing.
    """
    ax = axes(ax)
    dress(ax, title or f"{metric} by {x_label}", x_label, figure_label(metric))
    parts = list(_series(frame))
    _scales(ax, frame, metric)
    if "written" in frame.columns and len(frame):
        written_ticks(ax.xaxis, dict(zip(frame["x"].tolist(), frame["written"].tolist(), strict=True)))
    for number, (name, part) in enumerate(parts):
        look = LINES[number % len(LINES)]
        if part["low"].notna().any():
            ax.fill_between(
                part["x"], part["low"], part["high"],
                facecolor="0.9", edgecolor="0.6", hatch=_HATCHES[number % len(_HATCHES)], linewidth=0.5, zorder=1,
                label="interval of the mean" if len(parts) == 1 else None,
            )  # fmt: skip
        ax.plot(
            part["x"], part["mean"], marker=MARKERS[number % len(MARKERS)], markersize=6, zorder=3,
            label=name or "mean", **look,
        )  # fmt: skip
    if not len(frame):
        say(ax, "no point was tried")
    legend(ax, loc="best")
    return ax


def goodput_by_load(frame: pd.DataFrame, ax: Axes | None = None, capacity_per_s: float | None = None) -> Axes:
    """First processings per second against the deliveries per second that are asked for (``x``).

    Below its limits a system does what it is asked for, on the diagonal; where the curve falls below it, or
    even falls, retries and late answers eat the rest. ``capacity_per_s`` draws what receivers can do.

    Raises:
        ScenarioError: a column is missing.
    """
    ax = curve(
        frame,
        ax,
        metric="goodput_per_s",
        x_label="offered load, deliveries/s",
        title="Goodput by offered load",
    )
    ax.set_ylabel("goodput, first processings/s", fontsize=TEXT)
    if not len(frame):
        return ax
    ax.set_xscale("linear")
    ax.set_yscale("linear")
    most = float(np.nanmax(frame["x"]))
    ax.set_xlim(0, most * 1.05)
    tops = [float(np.nanmax(frame[column])) for column in ("mean", "high") if frame[column].notna().any()]
    ax.set_ylim(0, max([most, capacity_per_s or 0.0, *tops]) * 1.08)
    ax.plot(
        [0, most], [0, most], color="0.5", linewidth=1.2, linestyle=(0, (1, 2)), zorder=2, label="all of it"
    )
    if capacity_per_s is not None:
        ax.axhline(capacity_per_s, color="black", linewidth=1.2, linestyle="-.", label="capacity", zorder=2)
    legend(ax, loc="best")
    return ax


def plan_curve(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    leaf: str,
    metric: str,
    limit: float | None = None,
    at_most: bool = True,
    answer: float | None = None,
    series: str | None = None,
) -> Axes:
    """The curve behind the answer of a plan: a figure against the varied leaf, its SLO, and the setting chosen.

    ``limit`` is what the SLO allows, at most or (``at_most`` False) at least; ``answer`` is the value of the leaf
    that was chosen, None if there is none, and ``series`` the curve that it is on, if there are several.

    Raises:
        ScenarioError: a column is missing.
    """
    floor = _floor(frame)
    means = frame["mean"].dropna().tolist()
    if floor is not None:
        frame = frame.assign(**{column: frame[column].clip(lower=floor) for column in COLUMNS[1:]})
    ax = curve(frame, ax, metric=metric, x_label=leaf, title=f"{metric} by {leaf}")
    if floor is not None:
        spread(ax, "y", [*means, 0.0], metric)
        ax.set_ylim(bottom=floor / 1.5)
    if limit is not None:
        sign = "≤" if at_most else "≥"
        label = f"SLO: {sign} {shown(metric, limit)}"
        ax.axhline(limit, color="black", linewidth=1.4, linestyle=(0, (6, 3)), label=label, zorder=2)
        low, high = ax.get_ylim()
        low, high = min(low, limit * 0.9), max(high, limit * 1.1)
        ax.set_ylim(low, high)
        missed = (limit, high) if at_most else (low, limit)
        ax.axhspan(
            *missed, facecolor="none", edgecolor="0.8", hatch="..", linewidth=0, zorder=0.5, label="misses it"
        )
    if answer is not None:
        ax.axvline(answer, color="black", linewidth=1.2, linestyle="-.", zorder=2)
        chosen = frame[frame["x"] == answer]
        if series is not None:
            chosen = chosen[chosen["series"] == series]
        ax.plot(
            [answer] * len(chosen), chosen["mean"], "*", color="black", markersize=18, markeredgecolor="white",
            zorder=4, label=f"answer: {answer:,.6g}",
        )  # fmt: skip
    elif limit is not None and len(frame):
        ax.plot([], [], " ", label="no setting tried meets it")
    legend(ax, loc="best")
    return ax


def _floor(frame: pd.DataFrame) -> float | None:
    """Where 0 is drawn if means lie decades apart although some value is 0; None: no place of its own is needed."""
    means: Any = frame["mean"].to_numpy(dtype=float)
    positive = means[means > 0]
    reaches_zero = bool((frame[["mean", "low"]] <= 0).to_numpy().any())
    if not reaches_zero or not len(positive) or positive.max() < DECADES_APART * positive.min():
        return None
    return float(positive.min()) / 10


def _series(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The curves of a frame by name, each sorted by ``x``."""
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        rule = f"lacks the columns {', '.join(missing)}; a curve needs {', '.join(COLUMNS)}"
        raise ScenarioError([Problem("frame", None, rule)])
    if "series" not in frame.columns:
        yield "", frame.sort_values("x")
        return
    for name, part in frame.groupby("series", sort=False, observed=True):
        yield str(name), part.sort_values("x")


def _scales(ax: Axes, frame: pd.DataFrame, metric: str) -> None:
    """A logarithmic axis where values are above 0 and far apart."""
    figure_axis(ax.yaxis, metric)
    for which in ("x", "y"):
        columns: Any = frame[["x"] if which == "x" else ["mean", "low", "high"]].to_numpy(dtype=float)
        values = columns[np.isfinite(columns)]
        if len(values) and values.min() > 0 and values.max() / values.min() >= FAR_APART:
            getattr(ax, f"set_{which}scale")("log")
            if which == "y":
                low, high = values.min() / 1.5, values.max() * 1.5
                ax.set_ylim(low, high)
                if unit(metric) == "s":
                    time_ticks(ax.yaxis, low, high)
                else:
                    figure_axis(ax.yaxis, metric)
