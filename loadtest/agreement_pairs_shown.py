"""Pictures of where real deliveries lose time against simulated ones: ``agreement_pairs`` drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter

from loadtest.agreement_pairs import PARTS, longer, pairs
from loadtest.agreement_shown import SIDES
from sim.plots_style import LINES, TEXT, Picture, axes, dress, legend, say, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from loadtest.agreement import Agreement

EVEN_S = 0.01
"""Up to here an axis of differences is even, beyond it logarithmic, s."""
_TICKS = (0.01, 0.1, 1.0, 10.0, 100.0)
FEWEST = 5
"""Deliveries that a mean or a median is drawn of."""
PIECES = 40
"""Of time, each with a median of its own."""
UNSEEN_MS = 0.05
"""What is less on average is left out of bars, ms."""
_BARS: tuple[dict[str, Any], ...] = (
    {"facecolor": "white"},
    {"facecolor": "white", "hatch": "////"},
    {"facecolor": "0.8"},
    {"facecolor": "0.25"},
    {"facecolor": "white", "hatch": "xxxx"},
)
LONGER = "how much longer it took for real"


def distribution(frames: Mapping[str, pd.DataFrame], title: str, ax: Axes | None = None) -> Axes:
    """The share of deliveries that took no more longer than so much, a curve for each frame of ``pairs``."""
    ax = axes(ax)
    dress(ax, title, LONGER, "share of deliveries")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(0, 1.02)
    known = {name: np.sort(frame["difference_s"].to_numpy()) for name, frame in frames.items() if len(frame)}
    if not known:
        say(ax, "no delivery went the same way on both sides")
        return ax
    for look, (name, own) in zip(LINES, known.items(), strict=False):
        at, share = thinned(own, np.arange(1, len(own) + 1) / len(own))
        ax.step(at, share, where="post", label=name, **look)
    ends = np.concatenate(list(known.values()))
    _even_then_log(ax, "x", float(ends.min()), float(ends.max()))
    ax.axvline(0.0, color="black", linewidth=0.8)
    legend(ax, loc="best")
    return ax


def by_attempt(frame: pd.DataFrame, title: str, ax: Axes | None = None) -> Axes:
    """By how much later attempts reach their receivers, mean by number, each bar divided into its ``PARTS``.

    ``frame`` is that of ``lags``.
    """
    ax = axes(ax)
    dress(ax, title, "attempt", "how much later the receiver took it up, mean, ms")
    counts = frame.groupby("attempt_number").size()
    counts = counts[counts >= FEWEST]
    if counts.empty:
        say(ax, "too few deliveries have the same fate on both sides")
        return ax
    means = frame.groupby("attempt_number")[list(PARTS)].mean().loc[counts.index] * 1000
    places = np.arange(len(means))
    above, below = np.zeros(len(means)), np.zeros(len(means))
    for (part, label), look in zip(PARTS.items(), _BARS, strict=True):
        own = means[part].to_numpy()
        if np.abs(own).max() < UNSEEN_MS:
            continue
        base = np.where(own >= 0, above, below)
        ax.bar(places, own, 0.6, base, label=label, edgecolor="black", linewidth=1.0, **look)
        above, below = above + np.maximum(own, 0), below + np.minimum(own, 0)
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set_xticks(places, [f"{number}\n({count:,} times)" for number, count in counts.items()])
    ax.grid(visible=False, axis="x")
    ax.set_ylim(top=max(above.max(), 1.0) * 1.55)
    legend(ax, loc="upper left")
    return ax


def over_time(frames: Mapping[str, pd.DataFrame], title: str, ax: Axes | None = None) -> Axes:
    """Differences by when deliveries were created: those of the first frame as points, medians of all as lines.

    Points of deliveries that waited at the sender on the first side are darker.
    """
    ax = axes(ax)
    dress(ax, title, "creation of the delivery, s since the start", LONGER)
    known = {name: frame for name, frame in frames.items() if len(frame) >= FEWEST}
    if not known:
        say(ax, "too few deliveries went the same way on both sides")
        return ax
    first = next(iter(known.values()))
    waited = first["wait_s"] > 0
    for own, colour, label in ((~waited, "0.8", "no wait when simulated"), (waited, "0.55", "waited")):
        if own.any():
            part = first[own]
            ax.plot(
                part["created_s"],
                part["difference_s"],
                ".",
                color=colour,
                markersize=5,
                zorder=1,
                label=label,
            )
    seen = list(first["difference_s"].quantile([0.005, 0.995]))
    for look, mark, (name, frame) in zip((LINES[0], LINES[1]), "os", known.items(), strict=False):
        at, middle = medians(frame)
        seen += middle
        ax.plot(
            at, middle, marker=mark, markerfacecolor="white", markeredgewidth=1.4, markersize=5, zorder=3,
            label=f"median, {name}", **look,
        )  # fmt: skip
    _even_then_log(ax, "y", min(seen), 12 * max(seen))  # room for the legend
    ax.axhline(0.0, color="black", linewidth=0.8)
    legend(ax, loc="upper left", ncols=2)
    return ax


def medians(frame: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Mean creation and median difference, s, of pieces of time of equal length; those with few are left out."""
    edges = np.linspace(frame["created_s"].min(), frame["created_s"].max(), PIECES + 1)[1:-1]
    pieces = frame.groupby(np.searchsorted(edges, frame["created_s"], side="right"))
    kept = pieces.size() >= FEWEST
    at, middle = pieces["created_s"].mean()[kept], pieces["difference_s"].median()[kept]
    return at.tolist(), middle.tolist()


def parts(found: Mapping[str, Agreement]) -> Figure:
    """By how much longer each part of the way took: a panel for each comparison, a row for each part.

    Points are medians of the deliveries that went the same way on both sides, lines hold 90 % of them.
    """
    figure = Picture(figsize=(15, 3.8), layout="constrained")
    panels: Any = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    rows = np.arange(len(PARTS))
    low, high = 0.0, 0.0
    for panel, (name, one) in zip(panels, found.items(), strict=True):
        dress(panel, name, "", "")
        panel.grid(visible=False, axis="y")
        own = pairs(one.sides.sim, one.sides.real)[list(PARTS)]
        if own.empty:
            say(panel, "no pairs")
            continue
        ends = [own.quantile(share).to_numpy() for share in (0.05, 0.5, 0.95)]
        panel.hlines(rows, ends[0], ends[2], color="0.5", linewidth=2.4, zorder=2)
        panel.plot(
            ends[1],
            rows,
            "o",
            color="black",
            markerfacecolor="white",
            markeredgewidth=1.5,
            markersize=7,
            zorder=3,
        )
        panel.axvline(0.0, color="black", linewidth=0.8)
        low, high = min(low, float(ends[0].min())), max(high, float(ends[2].max()))
    _even_then_log(panels[0], "x", low, high)
    panels[0].set_yticks(rows, [text.replace(" to ", "\nto ") for text in PARTS.values()])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(f"{LONGER} than simulated: median and 90 % of deliveries", fontsize=TEXT)
    return figure


def against(found: Agreement) -> dict[str, pd.DataFrame]:
    """The pairs of a real run with either simulation, by the name of that."""
    sides = found.sides
    return {
        name: pairs(side, sides.real)
        for name, side in ((f"than {SIDES[0]}", sides.sim), (f"than {SIDES[1]}", sides.slowed))
    }


def _even_then_log(ax: Axes, which: str, low_s: float, high_s: float) -> None:
    """An axis of differences: even around 0, by equal factors beyond ``EVEN_S`` on either side."""
    low, high = min(low_s * 1.2, -EVEN_S / 5), max(high_s * 1.2, EVEN_S * 1.5)
    getattr(ax, f"set_{which}scale")("symlog", linthresh=EVEN_S, linscale=1.0)
    getattr(ax, f"set_{which}lim")(low, high)
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    ticks = [-tick for tick in reversed(_TICKS) if -tick >= low] + [0.0]
    ticks += [tick for tick in _TICKS if tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(["0" if tick == 0 else longer(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())
