"""The picture of a streamed run, which has histograms and no series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sim.plots_style import TEXT, TITLE

if TYPE_CHECKING:
    import pandas as pd


def durations(histograms: pd.DataFrame, title: str) -> Figure:
    """Latency, settling and waiting times: for each duration the share that took at least so long, on log axes.

    ``histograms`` are those of ``Streamed.histograms``, also as read from a folder.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    drawn = False
    for (name, own), line in zip(histograms.groupby("of", sort=False), ("-", "--", ":"), strict=False):
        at_least = own["count"][::-1].cumsum()[::-1] / own["count"].sum()
        shown = own["low_s"] > 0  # a log axis has no room for what took no time
        label = str(name).removesuffix("_s").replace("_", " ")
        ax.plot(
            own["low_s"][shown], at_least[shown], line, color="black", label=label, drawstyle="steps-post"
        )
        drawn = drawn or bool(shown.any())
    if drawn:
        ax.set_xscale("log")
        ax.set_yscale("log")
    ax.set_xlabel("duration, s", fontsize=TEXT)
    ax.set_ylabel("share that took at least so long", fontsize=TEXT)
    ax.set_title(title, fontsize=TITLE)
    if drawn:
        ax.legend(fontsize=TEXT)
    return figure
