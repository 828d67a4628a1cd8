"""The picture of a streamed run, which has histograms and no series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sim.plots_style import TEXT, TITLE

if TYPE_CHECKING:
    import pandas as pd


def durations(histograms: pd.DataFrame, title: str) -> Figure:
    """Latency, settling and waiting times: for each duration the share that took longer, on log axes.

    ``histograms`` are those of ``Streamed.histograms``, also as read from a folder.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    drawn = False
    for (name, own), line in zip(histograms.groupby("of", sort=False), ("-", "--", ":"), strict=False):
        longer = 1.0 - own["count"].cumsum() / own["count"].sum()
        shown = own["high_s"] > 0  # a log axis has no room for what took no time
        if not shown.any():
            continue
        some = longer[~shown].min() if not shown.all() else 1.0  # the share that took any time
        at = [own["low_s"][shown].iloc[0], *own["high_s"][shown]]
        label = str(name).removesuffix("_s").replace("_", " ")
        ax.plot(at, [some, *longer[shown]], line, color="black", label=label, drawstyle="steps-post")
        drawn = True
    if drawn:
        ax.set_xscale("log")
        ax.set_yscale("log", nonpositive="clip")  # nothing took longer than the longest
    ax.set_xlabel("duration, s", fontsize=TEXT)
    ax.set_ylabel("share that took longer", fontsize=TEXT)
    ax.set_title(title, fontsize=TITLE)
    if drawn:
        ax.legend(fontsize=TEXT)
    return figure
