"""Pictures of plans: the curve behind an answer, the range of a breaking point, and what breaks first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, NullLocator

from sim.plots_curve import curve, plan_curve
from sim.plots_style import TEXT, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.planning_breaking import BreakingPoint
    from sim.planning_load import Stress
    from sim.planning_results import Plan, Setting


def binding_curve(plan: Plan, ax: Axes | None = None) -> Axes:
    """The figure of the binding objective over the first varied leaf; a curve for each value of the others.

    A leaf whose values are no numbers stands as their positions in the list. Without an answer it is the worst
    objective of what came closest.
    """
    shown: Setting | None = plan.answer or plan.closest
    assert shown is not None
    slo = plan.binding
    assert slo is not None
    leaf, *others = shown.values
    known = list(dict.fromkeys(setting.values[leaf] for setting in plan.tried))
    numeric = all(isinstance(value, int | float) for value in known)

    def place(setting: Setting) -> Any:
        return setting.values[leaf] if numeric else known.index(setting.values[leaf]) + 1

    def others_of(setting: Setting) -> str:
        return ", ".join(f"{path}={setting.texts[path]}" for path in others)

    table = plan.table[plan.table["metric"] == slo.metric].set_index(list(shown.values))
    rows = []
    for setting in plan.tried:
        key = tuple(setting.values.values())
        row = table.loc[key if others else key[0]]
        rows.append((place(setting), row["mean"], row["low"], row["high"], others_of(setting)))
    frame = pd.DataFrame(rows, columns=["x", "mean", "low", "high", "series"])
    ax = plan_curve(
        frame if others else frame.drop(columns="series"),
        ax,
        leaf=leaf if numeric else f"{leaf} (place in the list)",
        metric=slo.metric,
        limit=slo.limit,
        at_most=slo.at_most,
        answer=None if plan.answer is None else float(place(plan.answer)),
        series=others_of(plan.answer) if others and plan.answer is not None else None,
    )
    if frame["x"].dtype.kind == "i":
        ax.set_xscale("linear")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def recovery_curve(found: BreakingPoint, ax: Axes | None = None) -> Axes:
    """The share of runs that recover by the size of the episode, with exact intervals."""
    frame = found.tried.rename(columns={"size": "x", "share": "mean", "text": "written"})
    labels = {
        "outage": "length of the outage",
        "rate": "times the usual rate",
        "errors": "share of errors",
    }
    ax = curve(
        frame,
        ax,
        metric="delivered_share",
        x_label=labels[found.what],
        title=f"Runs that recover, by {found.what}",
    )
    ax.set_ylabel("runs that recover", fontsize=TEXT)
    ax.set_yscale("linear")
    ax.set_ylim(-0.03, 1.03)
    return ax


def strain_curve(found: Stress, ax: Axes | None = None) -> Axes:
    """The part of its limit that each resource uses, by load; at 1 it breaks. Those without a limit are left out."""
    tried = found.tried
    known = tried[np.isfinite(tried["strain"]) & np.isfinite(tried["limit"])]
    frame = known.rename(columns={"load": "x", "strain": "mean", "resource": "series"})
    frame = frame.assign(low=np.nan, high=np.nan)
    ax = curve(frame, ax, metric="events", x_label="times the load", title="What breaks first")
    ax.set_ylabel("part of its limit", fontsize=TEXT)
    ax.set_xticks(list(found.loads), [f"{load:g}×" for load in found.loads])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axhline(1.0, color="black", linewidth=1.4, linestyle=(0, (6, 3)), label="breaks", zorder=2)
    legend(ax, loc="best")
    return ax
