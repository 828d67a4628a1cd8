"""Pictures of a trace: latency, backlog, rates and queues. Each panel draws on an ``Axes`` it is given.

They are made to be read on a projector and printed in black and white: lines differ in style, areas in hatch.
Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from sim.metrics import LOST
from sim.shown import shown_duration, shown_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.trace import Trace

TEXT = 11
TITLE = 13
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
_LATENCY_TICKS = {
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
    21_600.0: "6 h",
    86_400.0: "1 d",
    864_000.0: "10 d",
    8_640_000.0: "100 d",
    86_400_000.0: "1,000 d",
}
"""Where a logarithmic axis of time is labelled, s."""


class Picture(Figure):
    """A figure that a notebook shows by itself, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes; nobody can do anything about it here
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


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


def latency_cdf(trace: Trace, ax: Axes) -> None:
    """From creation to first processing, as the share of processed deliveries that took no longer."""
    deliveries, meta = trace.deliveries, trace.meta
    created = deliveries["created_s"]
    inside = deliveries[(created >= meta["warmup_s"]) & (created < meta["horizon_s"])]
    latencies = np.sort((inside["first_processed_s"] - inside["created_s"]).dropna().to_numpy())
    _dress(ax, "Latency: creation to first processing", "time, logarithmic", "share of processed deliveries")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(0, 1.02)
    if not len(latencies):
        left_out = _left_out(inside["state"].astype(str))
        _say(ax, "no delivery was processed" + (f"\n{left_out}" if left_out else ""))
        return
    # a logarithm has no zero: what took no time is drawn at the left edge
    lowest = max(float(latencies[0]), 1e-3 if latencies[-1] >= 2e-3 else 1e-7)
    highest = max(float(latencies[-1]), lowest * 10)
    share = np.arange(1, len(latencies) + 1) / len(latencies)
    at, share = _thinned(np.maximum(latencies, lowest), share)
    ax.set_xscale("log")
    ax.set_xlim(lowest / 1.3, highest * 1.6)
    ax.step(np.append(at, highest * 1.6), np.append(share, 1.0), where="post", color="black", linewidth=1.8)
    ticks = [tick for tick in _LATENCY_TICKS if lowest / 1.3 <= tick <= highest * 1.6]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([_LATENCY_TICKS[tick] for tick in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())
    for label, quantile, style, marker in (("p50", 0.5, "--", "o"), ("p99", 0.99, ":", "s")):
        value = float(latencies[int(np.ceil(quantile * len(latencies))) - 1])
        drawn = max(value, lowest)
        ax.plot([drawn, drawn], [0, quantile], color="0.35", linestyle=style, linewidth=1.5)
        text = f"{label}  {shown_duration(value)}"
        ax.plot(drawn, quantile, marker, color="black", markersize=7, label=text, clip_on=False)
    _legend(ax, loc="best", title=_left_out(inside["state"].astype(str)))


def backlog(trace: Trace, ax: Axes) -> None:
    """Deliveries that wait for an attempt, by the number of that attempt, stacked."""
    _dress(ax, "Backlog: deliveries waiting, by attempt", "", "deliveries")
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
        _say(ax, "nothing waited at any sample")
    _finish(trace, ax, 3)


def rates(trace: Trace, ax: Axes) -> None:
    """Attempts and first processings per second."""
    _dress(ax, "Load and goodput", "", "per second")
    wanted = {"attempts": "attempts_per_s", "goodput: first processings": "goodput_per_s"}
    _lines(trace, trace.samples.iloc[1:], ax, wanted)  # a rate looks back: the first row has none


def queues(trace: Trace, ax: Axes) -> None:
    """Attempts in flight, and requests that receivers have accepted but not begun."""
    _dress(ax, "In flight, and queued at receivers", "", "attempts")
    _lines(trace, trace.samples, ax, {"in flight": "in_flight", "in receivers' queues": "receiver_queue"})


# --------------------------------------------------------------------------- parts of panels


def _dress(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize=TITLE, loc="left")
    ax.set_xlabel(x, fontsize=TEXT)
    ax.set_ylabel(y, fontsize=TEXT)
    ax.tick_params(labelsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color="0.85", linewidth=0.6)
    ax.set_axisbelow(True)


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=TITLE)


def _legend(ax: Axes, **place: Any) -> None:
    labels = ax.get_legend_handles_labels()[1]
    if labels:
        legend = ax.legend(fontsize=TEXT, framealpha=0.9, edgecolor="0.7", **place)
        legend.get_title().set_fontsize(TEXT)


def _finish(trace: Trace, ax: Axes, columns: int) -> None:
    """What panels over time have in common: marks, a scale from zero, and a legend above the data."""
    highest = max(ax.get_ylim()[1], 1.0)
    _shade(trace, ax)
    rows = -(-len(ax.get_legend_handles_labels()[1]) // columns)
    ax.set_ylim(0, highest * (1.03 + 0.08 * rows))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    _legend(ax, loc="upper center", ncols=columns)


def _left_out(state: Any) -> str | None:
    """What the curve does not hold: deliveries that got lost, or were unfinished at the end."""
    parts = []
    for name, states in (("lost", LOST), ("unsettled", ("waiting", "in_flight"))):
        found = int(state.isin(states).sum())
        if found:
            parts.append(f"{name} {shown_share(found / len(state))}")
    return ", ".join(parts) or None


def _thinned(at: Any, share: Any) -> tuple[Any, Any]:
    """Some 2,000 points of a long curve: evenly, and all of its last ones, where the tail is."""
    if len(at) <= 2000:
        return at, share
    kept = np.unique(
        np.concatenate((np.linspace(0, len(at) - 1, 1500).astype(int), np.arange(len(at) - 500, len(at))))
    )
    return at[kept], share[kept]


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


def _lines(trace: Trace, samples: Any, ax: Axes, wanted: dict[str, str]) -> None:
    times, columns = _samples(samples, _shown_until(trace), {label: [name] for label, name in wanted.items()})
    _time_axis(trace, ax)
    for (label, levels), look in zip(columns.items(), _LINES, strict=True):
        ax.plot(times, levels, label=label, **look)
    _finish(trace, ax, 2)


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
