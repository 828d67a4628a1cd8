"""Pictures with a row for each policy or variant: schedules and what they come to, points with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from sim.plots_labels import name_points
from sim.plots_policy import ROW_IN, timelines
from sim.plots_style import LINES, TEXT, TITLE, Picture, axes, dress, legend, say, spread, time_ticks
from sim.shown import shown_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.trace import Trace

NOTED = 6
"""Rows between two faint lines that guide the eye across a page."""


def by_reach(names: Sequence[str]) -> list[str]:
    """Names of bundled policies, those with the shortest reach first, as ``plots.timelines`` has them."""
    from sim import catalogue

    found = [catalogue.entry(name) for name in names]
    found.sort(key=lambda entry: (math.inf if entry.horizon_s is None else entry.horizon_s, entry.name))
    return [entry.name for entry in found]


def policy_page(frame: pd.DataFrame, by: str, labels: Mapping[str, str], title: str) -> Figure:
    """A page with a row for each policy: when it tries, and beside it figures with their intervals.

    ``frame`` is the table of an experiment, ``by`` its column with the policies; ``labels``: the figures to show, and
    what they are called.
    """
    names = by_reach(list(frame[by].drop_duplicates()))
    height = 2.0 + ROW_IN * max(len(names), 3)
    figure = Picture(figsize=(19, height), layout="constrained")
    first, *panels = figure.subplots(
        1, 1 + len(labels), sharey=True, width_ratios=[2.4, *[1.0] * len(labels)]
    )
    timelines(names, first)
    for panel, (metric, label) in zip(panels, labels.items(), strict=True):
        dots(frame, metric, by, names, panel)
        panel.set_xlabel(label, fontsize=TEXT)
        panel.tick_params(labelleft=False)
    for panel in (first, *panels):
        for row in range(NOTED, len(names), NOTED):
            panel.axhline(row - 0.5, color="0.8", linewidth=0.8, zorder=0)
    first.set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(title, fontsize=TITLE + 1, parse_math=False)
    return figure


def variants(frame: pd.DataFrame, by: str, labels: Mapping[str, str], title: str) -> Figure:
    """Figures of variants side by side: a panel for each figure, a row for each variant, points with intervals."""
    names = list(frame[by].drop_duplicates())
    figure = Picture(figsize=(14, 1.9 + 0.42 * max(len(names), 3)), layout="constrained")
    panels: Any = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
    for panel, (metric, label) in zip(panels, labels.items(), strict=True):
        dots(frame, metric, by, names, panel)
        panel.set_xlabel(label, fontsize=TEXT)
    panels[0].set_yticks(range(len(names)), [str(name) for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(title, fontsize=TITLE, parse_math=False)
    return figure


def dots(frame: pd.DataFrame, metric: str, by: str, names: Sequence[Any], ax: Axes) -> None:
    """A point and its interval for each name, from top to bottom; a logarithmic axis where they are far apart."""
    own = frame[frame["metric"] == metric].set_index(by).loc[list(names)]
    known = own["mean"].notna().to_numpy()
    rows = np.arange(len(names))[known]
    low, mean, high = (own[column].to_numpy(dtype=float)[known] for column in ("low", "mean", "high"))
    dress(ax, "", metric, "")
    ax.grid(visible=False, axis="y")
    drawn = np.array(spread(ax, "x", mean.tolist(), metric)) if len(mean) else mean
    floor = drawn.min(initial=math.inf)  # where an interval that reaches 0 ends on a logarithmic axis
    ends: Any = [np.where(np.isnan(end), drawn, np.maximum(end, floor)) for end in (low, high)]
    ax.hlines(rows, *ends, color="0.5", linewidth=2.2, zorder=2)
    ax.plot(
        drawn, rows, "o", color="black", markerfacecolor="white", markeredgewidth=1.5, markersize=6, zorder=3
    )
    if ax.get_xscale() == "linear" and len(mean):
        _from(ax, float(np.nanmin(ends[0])), float(np.nanmax(ends[1])))


def _from(ax: Axes, low: float, high: float) -> None:
    """Ends of an even axis: from 0, unless all lies far from it; of nothing but zeros, with one label."""
    if high == 0:
        ax.set_xlim(-0.05, 1)
        ax.set_xticks([0])
    elif low > high / 2:
        ax.set_xlim(low - (high - low) * 0.2 - high * 1e-3, high + (high - low) * 0.2 + high * 1e-3)
    else:
        ax.set_xlim(0, high * 1.1)


def reaches(frame: pd.DataFrame, by: str, notes: Sequence[str] = ()) -> pd.DataFrame:
    """How far bundled policies reach and what they lose: policy, reach_s, mean, note; those without an end left out.

    ``frame`` is the table of an experiment, ``by`` its column with the policies; ``notes``: those to be named.
    """
    from sim import catalogue

    lost = frame[frame["metric"] == "lost_share"].set_index(by)["mean"]
    rows = [
        (name, catalogue.entry(str(name)).horizon_s, share, name if name in notes else "")
        for name, share in lost.items()
    ]
    found = pd.DataFrame(rows, columns=["policy", "reach_s", "mean", "note"])
    return found[found["reach_s"].notna()].reset_index(drop=True)


def reach(frame: pd.DataFrame, least: Callable[[float], float], ax: Axes | None = None) -> Axes:
    """Loss by reach: policies as points, and what no schedule can do better than as a line.

    ``frame`` is that of ``reaches``; ``least`` gives the least loss by reach in s. On the logarithmic axes what has no
    reach, or no loss, stands at the edge.
    """
    ax = axes(ax, (12.0, 6.2))
    dress(ax, "Loss by reach", "reach: from the event to the last attempt", "lost share of deliveries")
    ax.set_xscale("log")
    ax.set_yscale("log")
    left, right = 1.0, max(float(frame["reach_s"].max()), 10.0) * 12
    grid = np.geomspace(left, right, 200)
    ax.plot(grid, [least(at) for at in grid], label="outages that outlast the reach", **LINES[0])
    lost = frame["mean"].to_numpy(dtype=float)
    floor = lost[lost > 0].min(initial=1.0) / 3
    x, y = np.maximum(frame["reach_s"].to_numpy(dtype=float), left), np.maximum(lost, floor)
    ax.plot(
        x, y, "o", color="black", markerfacecolor="white", markeredgewidth=1.5, markersize=7, label="a policy"
    )
    ax.set_xlim(left / 1.6, right)
    ax.set_ylim(floor / 1.5, 1.5)
    time_ticks(ax.xaxis, left, right)
    ax.set_xticks([left, *ax.get_xticks()[1:]], ["≤ 1 s", *(t.get_text() for t in ax.get_xticklabels()[1:])])
    powers = [10.0**power for power in range(math.ceil(math.log10(floor * 1.5)), 1)]
    ax.set_yticks([floor, *powers], ["0", *(shown_share(power) for power in powers)])
    ax.yaxis.set_minor_locator(NullLocator())
    legend(ax, loc="upper right")
    named = [row for row in np.argsort(x, kind="stable") if frame["note"].iloc[row]]
    others = [*zip(x, y, strict=True), *((at, least(at)) for at in grid)]
    name_points(ax, [(x[row], y[row]) for row in named], [frame["note"].iloc[row] for row in named], others)
    return ax


def held_out(frame: pd.DataFrame, title: str, ax: Axes | None = None) -> Axes:
    """Predicted losses with their intervals, and what came true as crosses: policy, mean, low, high, real."""
    ax = axes(ax, (12.0, 1.9 + 0.5 * max(len(frame), 3)))
    dress(ax, title, "lost share of deliveries", "")
    ax.grid(visible=False, axis="y")
    columns = ["mean", "low", "high", "real"]
    values = frame[columns].to_numpy(dtype=float)
    drawn = np.array(spread(ax, "x", values.ravel().tolist(), "lost_share")).reshape(values.shape)
    rows = np.arange(len(frame))
    ax.hlines(rows, drawn[:, 1], drawn[:, 2], color="0.5", linewidth=2.4, label="95 % of worlds", zorder=2)
    ax.plot(
        drawn[:, 0], rows, "o", color="black", markerfacecolor="white", markeredgewidth=1.5, markersize=8,
        label="predicted, mean", zorder=3,
    )  # fmt: skip
    ax.plot(drawn[:, 3], rows, "X", color="black", markersize=9, label="came true", zorder=4)
    ax.set_yticks(rows, frame["policy"].astype(str))
    ax.set_ylim(len(frame) - 0.4, -0.6)
    legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0)
    return ax


def held_out_panels(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Frames of ``held_out`` side by side, each under its name; without any, a sentence that says so."""
    figure = Picture(figsize=(15, 4.6 if frames else 1.2), layout="constrained")
    panels: Any = figure.subplots(1, max(len(frames), 1), squeeze=False)[0]
    if not frames:
        panels[0].set_axis_off()
        say(panels[0], "no recordings beside this checkout")
    for number, (panel, (name, frame)) in enumerate(zip(panels, frames.items(), strict=False)):
        held_out(frame, name, panel)
        panel.get_legend().remove()
        if number == 0:
            legend(panel, loc="best")
    return figure


def load_over_time(
    traces: Mapping[str, Trace],
    columns: Mapping[str, str],
    until_s: float,
    title: str,
    *,
    limit: float | None = None,
    log: bool = False,
) -> Figure:
    """Rates over time, a strip for each trace on the same axes; ``limit``: what receivers can do, as a line.

    ``columns``: names of columns of ``samples`` (at most two), and what they are called.
    """
    figure = Picture(figsize=(12, 1.4 + 1.5 * len(traces)), layout="constrained")
    panels: Any = figure.subplots(len(traces), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, (name, trace) in zip(panels, traces.items(), strict=True):
        dress(panel, "", "", "")
        panel.set_title(name, fontsize=TEXT, loc="left", parse_math=False)
        samples = trace.samples[trace.samples["t_s"] <= until_s]
        for look, (column, label) in zip((LINES[0], LINES[3]), columns.items(), strict=False):
            panel.plot(samples["t_s"], samples[column], label=label, **look)
        if limit is not None:
            panel.axhline(
                limit, color="black", linewidth=1.2, linestyle="-.", label="what the receiver can do"
            )
        panel.yaxis.set_major_locator(MaxNLocator(nbins=3))
        if log:  # from 0 on: even up to 10, then by equal factors
            panel.set_yscale("symlog", linthresh=10)
            panel.set_yticks([0, 10, 100, 1000], ["0", "10", "100", "1,000"])
            panel.set_ylim(bottom=0)
    panels[0].legend(
        fontsize=TEXT, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, borderaxespad=0.1
    )
    panels[-1].set_xlabel("time since the start, s", fontsize=TEXT)
    figure.supylabel("per second", fontsize=TEXT)
    figure.suptitle(title, fontsize=TITLE, parse_math=False)
    return figure


def contention(ours: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """The contest for one row: calls and time by number of clients, ours as lines, the published ones as crosses.

    Both frames: jitter, clients, time_s_mean, calls_mean.
    """
    figure = Picture(figsize=(14, 5.6), layout="constrained")
    panels: Any = figure.subplots(1, 2)
    for panel, column, label in zip(
        panels,
        ("calls_mean", "time_s_mean"),
        ("calls of all clients", "time until all are done, s"),
        strict=True,
    ):
        dress(panel, "", "clients", label)
        panel.set_xscale("log")
        panel.set_yscale("log")
        ends = []
        for look, (name, part) in zip(LINES, ours.groupby("jitter", sort=False), strict=False):
            panel.plot(part["clients"], part[column], label=name, **look)
            other = published[published["jitter"] == name]
            panel.plot(other["clients"], other[column], "x", color="black", markersize=9, markeredgewidth=1.8)
            ends.append((float(part[column].iloc[-1]), str(name), float(part["clients"].iloc[-1])))
        _apart(panel, ends)
        ticks = sorted(set(ours["clients"]))
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.yaxis.set_minor_locator(NullLocator())
    figure.suptitle("Contention for one row: lines are ours, crosses the published program", fontsize=TITLE)
    return figure


def _apart(ax: Axes, ends: Sequence[tuple[float, str, float]]) -> None:
    """Names at the right ends of curves on a logarithmic axis, moved apart where they would overlap."""
    low, high = (math.log(value) for value in ax.get_ylim())
    step = (high - low) * 0.055
    at = -math.inf
    for value, name, x in sorted(ends):
        at = max(math.log(value), at + step)
        ax.annotate(
            name, (x, math.exp(at)), (9, 0), textcoords="offset points", va="center", fontsize=TEXT,
            annotation_clip=False, parse_math=False,
        )  # fmt: skip
