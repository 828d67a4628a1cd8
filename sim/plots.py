"""Pictures of a trace: latency, backlog, rates and queues; and all other pictures under one name.

A panel draws on the ``Axes`` it is given, or on those of a new picture, and returns them: ``ax.figure`` shows
itself in a notebook. Pictures of policies are in ``sim.plots_policy``, curves in ``sim.plots_curve``; how they
look is decided in ``sim.plots_style``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter

from sim.plots_beside import beside, points, together
from sim.plots_curve import curve, goodput_by_load, plan_curve
from sim.plots_policy import pareto, timelines, trade_off, trade_off_panels
from sim.plots_rows import (
    contention,
    held_out,
    held_out_panels,
    load_over_time,
    policy_page,
    reach,
    reaches,
    variants,
)
from sim.plots_style import (
    LINES,
    TEXT,
    TITLE,
    Picture,
    axes,
    dress,
    legend,
    png,
    save,
    say,
    side_by_side,
    svg,
    thinned,
    time_ticks,
)
from sim.policy import LOST
from sim.shown import shown_duration, shown_share
from sim.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Picture",
    "backlog",
    "beside",
    "contention",
    "curve",
    "goodput_by_load",
    "held_out",
    "held_out_panels",
    "latency_cdf",
    "latency_tail",
    "load_over_time",
    "overview",
    "pareto",
    "plan_curve",
    "png",
    "points",
    "policy_page",
    "queues",
    "rates",
    "reach",
    "reaches",
    "save",
    "side_by_side",
    "svg",
    "timelines",
    "together",
    "trade_off",
    "trade_off_panels",
    "variants",
]

TIERS = 6
"""Tiers drawn one by one; the later ones are one area."""
POINTS = 240
"""Points of a line at most: each is a mean of neighbouring samples."""
_OUTAGE: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.75", "hatch": "//", "zorder": 0.5}
_GREYS = ("0.15", "0.85", "0.45", "0.95", "0.65", "0.3", "0.75", "0.98")
_HATCHES = ("", "....", "", "xxxx", "\\\\", "||||", "----", "oooo")
_LINES: tuple[dict[str, Any], ...] = (
    {"color": "0.55", "linewidth": 2.2},
    {"color": "black", "linewidth": 1.4, "linestyle": (0, (4, 2))},
)


def overview(trace: Trace) -> Figure:
    """All four panels on one page, headed by scenario, seed and undocumented presets."""
    figure = Picture(figsize=(13, 9), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    latency_cdf(trace, first)
    backlog(trace, second)
    rates(trace, third)
    queues(trace, fourth)
    title = f"{trace.meta['name']}, seed {trace.meta['seed']}, {trace.meta['engine']} engine"
    if trace.meta["undocumented"]:
        title += f"\ngaps assumed, nobody documents them: {', '.join(trace.meta['undocumented'])}"
    figure.suptitle(title, fontsize=TITLE + 1, parse_math=False)
    return figure


# --------------------------------------------------------------------------- panels


def latency_cdf(trace: Trace, ax: Axes | None = None) -> Axes:
    """From creation to first processing, as the share of processed deliveries that took no longer."""
    ax = axes(ax)
    deliveries, meta = trace.deliveries, trace.meta
    created = deliveries["created_s"]
    inside = deliveries[(created >= meta["warmup_s"]) & (created < meta["horizon_s"])]
    latencies = np.sort((inside["first_processed_s"] - inside["created_s"]).dropna().to_numpy())
    dress(ax, "Latency: creation to first processing", "time, logarithmic", "share of processed deliveries")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(0, 1.02)
    if not len(latencies):
        left_out = _left_out(inside["state"].astype(str))
        say(ax, "no delivery was processed" + (f"\n{left_out}" if left_out else ""))
        return ax
    # a logarithm has no zero: what took no time is drawn at the left edge
    lowest = max(float(latencies[0]), 1e-3 if latencies[-1] >= 2e-3 else 1e-7)
    highest = max(float(latencies[-1]), lowest * 10)
    share = np.arange(1, len(latencies) + 1) / len(latencies)
    at, share = thinned(np.maximum(latencies, lowest), share)
    ax.set_xscale("log")
    ax.set_xlim(lowest / 1.3, highest * 1.6)
    ax.step(np.append(at, highest * 1.6), np.append(share, 1.0), where="post", color="black", linewidth=1.8)
    time_ticks(ax.xaxis, lowest / 1.3, highest * 1.6)
    for label, quantile, style, marker in (("p50", 0.5, "--", "o"), ("p99", 0.99, ":", "s")):
        value = float(latencies[int(np.ceil(quantile * len(latencies))) - 1])
        drawn = max(value, lowest)
        ax.plot([drawn, drawn], [0, quantile], color="0.35", linestyle=style, linewidth=1.5)
        text = f"{label}  {shown_duration(value)}"
        ax.plot(drawn, quantile, marker, color="black", markersize=7, label=text, clip_on=False)
    legend(ax, loc="best", title=_left_out(inside["state"].astype(str)))
    return ax


def latency_tail(traces: Trace | Mapping[str, Trace], ax: Axes | None = None) -> Axes:
    """The share of deliveries not yet processed at an age, both logarithmic; lost ones are where it levels off.

    Several traces by name give a curve each, such as those of policies to compare.
    """
    ax = axes(ax)
    named = {"": traces} if isinstance(traces, Trace) else dict(traces)
    dress(
        ax, "Not yet processed, by age", "age of a delivery, logarithmic", "share of deliveries, logarithmic"
    )
    curves = {name: curve for name, trace in named.items() if (curve := _tail(trace)) is not None}
    if not curves:
        say(ax, "no delivery was processed")
        return ax
    lowest = max(min(float(at[1]) for at, _ in curves.values()), 1e-4)
    highest = max(max(float(at[-1]) for at, _ in curves.values()), lowest * 10)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for number, (name, (at, share)) in enumerate(curves.items()):
        at = np.append(np.maximum(at, lowest / 1.3), highest * 1.6)
        share = np.append(share, share[-1])
        shown = share > 0
        ax.step(at[shown], share[shown], where="post", label=name, **LINES[number % len(LINES)])
    ax.set_xlim(lowest / 1.3, highest * 1.6)
    ax.set_ylim(min(float(share[share > 0].min()) for _, share in curves.values()) / 1.5, 1.3)
    time_ticks(ax.xaxis, lowest / 1.3, highest * 1.6)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: shown_share(share)))
    if len(named) > 1:
        legend(ax, loc="best")
    return ax


def _tail(trace: Trace) -> tuple[Any, Any] | None:
    """Ages from 0 s on, and the share of the deliveries not yet processed from each on; None: none was."""
    deliveries, meta = trace.deliveries, trace.meta
    created = deliveries["created_s"]
    inside = deliveries[(created >= meta["warmup_s"]) & (created < meta["horizon_s"])]
    latencies = np.sort((inside["first_processed_s"] - inside["created_s"]).dropna().to_numpy())
    if not len(latencies):
        return None
    left = 1 - np.arange(1, len(latencies) + 1) / len(inside)
    at, share = thinned(latencies, left)
    return np.concatenate(([0.0], at)), np.concatenate(([1.0], share))


def backlog(trace: Trace, ax: Axes | None = None) -> Axes:
    """Deliveries that wait for an attempt, by the number of that attempt, stacked."""
    ax = axes(ax)
    dress(ax, "Backlog: deliveries waiting, by attempt", "", "deliveries")
    times, columns = _samples(trace.samples, _shown_until(trace), _tier_columns(trace))
    areas = [(label, levels) for label, levels in columns.items() if levels.max(initial=0) > 0]
    _time_axis(trace, ax)
    if areas:
        drawn = ax.stackplot(
            times,
            [levels for _, levels in areas],
            labels=[label for label, _ in areas],
            colors=_GREYS,
            edgecolor="black",
            linewidth=0.6,
        )
        for area, hatch in zip(drawn, _HATCHES, strict=False):
            area.set_hatch(hatch)
        ax.plot(times, sum(levels for _, levels in areas), color="black", linewidth=1.0)
    else:
        say(ax, "nothing waited at any sample")
    _finish(trace, ax, 3)
    return ax


def rates(trace: Trace, ax: Axes | None = None) -> Axes:
    """Attempts and first processings per second."""
    ax = axes(ax)
    dress(ax, "Load and goodput", "", "per second")
    wanted = {"attempts": "attempts_per_s", "goodput: first processings": "goodput_per_s"}
    return _lines(trace, trace.samples.iloc[1:], ax, wanted)  # a rate looks back: the first row has none


def queues(trace: Trace, ax: Axes | None = None) -> Axes:
    """Attempts in flight, and requests that receivers have accepted but not begun."""
    ax = axes(ax)
    dress(ax, "In flight, and queued at receivers", "", "attempts")
    return _lines(
        trace, trace.samples, ax, {"in flight": "in_flight", "in receivers' queues": "receiver_queue"}
    )


# --------------------------------------------------------------------------- parts of panels


def _finish(trace: Trace, ax: Axes, columns: int) -> None:
    """What panels over time have in common: marks, a scale from zero, and a legend above the data."""
    highest = max(ax.get_ylim()[1], 1.0)
    _shade(trace, ax)
    rows = -(-len(ax.get_legend_handles_labels()[1]) // columns)
    ax.set_ylim(0, highest * (1.03 + 0.08 * rows))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    legend(ax, loc="upper center", ncols=columns)


def _left_out(state: Any) -> str | None:
    """What the curve does not hold: deliveries that got lost, or were unfinished at the end."""
    parts = []
    for name, states in (("lost", LOST), ("unsettled", ("waiting", "in_flight"))):
        found = int(state.isin(states).sum())
        if found:
            parts.append(f"{name} {shown_share(found / len(state))}")
    return ", ".join(parts) or None


def _tier_columns(trace: Trace) -> dict[str, list[str]]:
    """Names of the areas of a backlog, and the columns of ``samples`` each sums."""
    prefix = "backlog_tier_"
    tiers = sorted(
        int(name.removeprefix(prefix)) for name in trace.samples.columns if name.startswith(prefix)
    )
    areas: dict[str, list[str]] = {}
    for tier in tiers:
        late = tier > TIERS and tiers[-1] > TIERS + 1
        label = "for a poll" if tier == 0 else f"attempt {TIERS + 1} and later" if late else f"attempt {tier}"
        areas.setdefault(label, []).append(f"{prefix}{tier}")
    return areas


def _shown_until(trace: Trace) -> float:
    """Where the axis of time ends, s: past the horizon only as long as something noteworthy waits."""
    samples, meta = trace.samples, trace.meta
    level = (samples["backlog"] + samples["in_flight"]).to_numpy()
    busy = np.flatnonzero(level > 0.01 * level.max(initial=0))
    last = float(samples["t_s"].iloc[busy[-1]]) if len(busy) else 0.0
    horizon = float(meta["horizon_s"])
    return min(max(horizon, last), max(float(meta["ended_s"]), horizon)) * 1.01


def _samples(samples: Any, until: float, wanted: dict[str, list[str]]) -> tuple[Any, dict[str, Any]]:
    """Times until then, and sums of columns; means of neighbours where points are many."""
    samples = samples[samples["t_s"] <= until]
    group = np.arange(len(samples)) // max(-(-len(samples) // POINTS), 1)
    counts = np.bincount(group)

    def means(values: Any) -> Any:
        return np.bincount(group, weights=values.to_numpy(dtype=float)) / counts

    sums = {label: means(samples[columns].sum(axis=1)) for label, columns in wanted.items()}
    return means(samples["t_s"]), sums


def _lines(trace: Trace, samples: Any, ax: Axes, wanted: dict[str, str]) -> Axes:
    times, columns = _samples(samples, _shown_until(trace), {label: [name] for label, name in wanted.items()})
    _time_axis(trace, ax)
    for (label, levels), look in zip(columns.items(), _LINES, strict=True):
        ax.plot(times, levels, label=label, **look)
    _finish(trace, ax, 2)
    return ax


def _time_axis(trace: Trace, ax: Axes) -> None:
    """Time in the unit that fits, with round ticks."""
    until = _shown_until(trace)
    unit, size = next(
        ((name, size) for name, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)) if until >= 3 * size),
        ("s", 1.0),
    )
    ax.set_xlim(0, until)
    steps = {"d": [1, 2, 5, 10], "h": [1, 2, 3, 6, 10], "min": [1, 2, 3, 5, 10], "s": [1, 2, 5, 10]}[unit]
    locator = MaxNLocator(nbins=8, steps=steps)
    ticks = [tick * size for tick in locator.tick_values(0, until / size) if 0 <= tick * size <= until]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds / size:.6g}"))
    ax.set_xlabel(f"time since the start, {unit}", fontsize=TEXT)


def _shade(trace: Trace, ax: Axes) -> None:
    """The last outage, and the end of producing where the picture goes on after it."""
    if trace.meta["last_outage_s"] is not None:
        start, end = trace.meta["last_outage_s"]
        ax.axvspan(start, end, label="last outage", **_OUTAGE)
    horizon = trace.meta["horizon_s"]
    if _shown_until(trace) > horizon * 1.02:
        ax.axvline(horizon, color="black", linewidth=1.2, linestyle="-.", label="producers stop")
