"""Pictures of policies: when each makes its attempts, and what it trades for what.

A frame of results has a row for each policy: the column ``policy``, and figures of runs by their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import Problem, ScenarioError
from sim.experiment_results import TRADE_OFF, on_front
from sim.plots_style import (
    SIZE,
    TEXT,
    TITLE,
    Picture,
    axes,
    dress,
    figure_label,
    legend,
    say,
    spread,
    time_ticks,
)
from sim.policy import FOREVER
from sim.shown import ENDLESS, shown, shown_duration

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.blocks_policy import PolicyBlock

ROW_IN = 0.27
"""Height of a policy in a picture of timelines, inches."""
FEW = 12
"""Policies that fit into a picture of the usual width."""
MOST_MARKS = 200
"""Attempts of one run of equal gaps that are drawn; of more, some."""

Runs = Sequence[tuple[int, int]]


# --------------------------------------------------------------------------- timelines


def timelines(
    policies: Iterable[str] | Mapping[str, PolicyBlock] | None = None, ax: Axes | None = None
) -> Axes:
    """When the attempts of each policy come due if every one fails at once, jitter aside, on a logarithmic axis.

    Policies are names of bundled ones (default: all, the shortest first) or blocks by name, as in
    ``Scenario.policies``. A name with a star has gaps that nobody documents.

    Raises:
        ScenarioError: there is no bundled policy of a name.
    """
    rows = _rows(policies)
    ax = axes(ax, (13.0 if len(rows) > FEW else SIZE[0], 1.6 + ROW_IN * max(len(rows), 3)))
    x_label = "time since the event, logarithmic"
    if any(name.endswith("*") for name in rows):
        x_label += "   (* nobody documents these gaps)"
    dress(ax, "Attempts of a delivery that always fails", x_label, "")
    if not rows:
        say(ax, "no policy to draw")
        return ax
    positive = [gap / 1e9 for runs in rows.values() for gap, _ in runs if gap > 0]
    low = min([*positive, 10.0])
    high = max([_until_s(runs) for runs in rows.values()] + [low * 100])
    at_once, last = low / 3, high * 1.5
    offsets = {name: _offsets_s(runs, last) for name, runs in rows.items()}
    ax.set_xscale("log")
    ax.set_xlim(at_once / 1.6, last * 1.2)
    time_ticks(ax.xaxis, low, high)
    ticks = list(ax.xaxis.get_majorticklocs())
    labels = [text.get_text() for text in ax.xaxis.get_ticklabels()]
    ax.set_xticks([at_once, *ticks], ["at once", *labels])
    for row, (name, at) in enumerate(offsets.items()):
        endless = rows[name][-1][1] >= FOREVER
        drawn = np.maximum(at, at_once)
        ax.plot([drawn[0], last if endless else drawn[-1]], [row, row], color="0.6", linewidth=1.0, zorder=2)
        ax.plot(
            drawn, np.full(len(drawn), row), "|", color="black", markersize=10, markeredgewidth=1.6, zorder=3
        )
        if endless:
            ax.plot([last], [row], ">", color="black", markersize=6, zorder=3)
        ax.text(
            1.01, row, _told(rows[name]), transform=ax.get_yaxis_transform(), va="center", fontsize=TEXT,
            parse_math=False,
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), list(rows))
    for label in ax.yaxis.get_ticklabels():
        label.set_parse_math(False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    return ax


def _rows(policies: Iterable[str] | Mapping[str, PolicyBlock] | None) -> dict[str, Runs]:
    """Label and runs of equal gaps of each policy, in the order to draw."""
    from sim import catalogue

    if isinstance(policies, Mapping):
        return {name: catalogue.runs_of(block) for name, block in policies.items()}
    chosen = catalogue.entries() if policies is None else [catalogue.entry(name) for name in policies]
    if policies is None:
        chosen.sort(key=lambda entry: (math.inf if entry.horizon_s is None else entry.horizon_s, entry.name))
    return {f"{entry.name} *" if entry.undocumented else entry.name: entry.runs for entry in chosen}


def _until_s(runs: Runs) -> float:
    """When the last attempt comes due, s; of a schedule without an end, some of its last gaps are enough."""
    return sum(gap / 1e9 * (30 if times >= FOREVER else times) for gap, times in runs)


def _offsets_s(runs: Runs, until_s: float) -> Any:
    """When attempts come due up to then, s; of many at equal gaps, some that fill a logarithmic axis."""
    found: list[Any] = []
    before = 0.0
    for gap, times in runs:
        fitting = times if gap == 0 else min(times, math.ceil(max(until_s - before, 0.0) / gap * 1e9))
        steps = np.arange(1, min(fitting, MOST_MARKS) + 1, dtype=float)
        if fitting > MOST_MARKS and gap > 0:
            steps = np.unique(np.round(np.geomspace(1, fitting, MOST_MARKS)))
        found.append(before + gap / 1e9 * steps)
        before += gap / 1e9 * fitting
    at = np.concatenate(found) if found else np.zeros(1)
    return at[at <= until_s]


def _told(runs: Runs) -> str:
    """How many attempts, and until when."""
    if not runs:
        return "no attempt"
    if runs[-1][1] >= FOREVER:
        return f"{ENDLESS} attempts"
    count = sum(times for _, times in runs)
    until = shown_duration(sum(gap * times for gap, times in runs) / 1e9)
    return f"{count:,} in {until}" if count > 1 else "1 attempt"


# --------------------------------------------------------------------------- trade-offs


def pareto(frame: pd.DataFrame, columns: Sequence[str] = TRADE_OFF) -> pd.Series:
    """Which rows no other row beats: none is as good in every column and better in one. NaN counts as worst."""
    return on_front(frame[list(columns)])


def trade_off(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    loss: str = TRADE_OFF[0],
    latency: str = TRADE_OFF[1],
    duplicates: str = TRADE_OFF[2],
    load: str = TRADE_OFF[3],
) -> Axes:
    """Loss against latency, a number for each policy; the list beside it has duplicates and receiver load.

    A larger mark is more load. Filled marks are on the Pareto front: no other policy is as good in all four and
    better in one.

    Raises:
        ScenarioError: a column is missing.
    """
    columns = [loss, latency, duplicates, load]
    _require(frame, columns)
    ax = axes(ax, (13.0, 6.5))
    dress(
        ax,
        "What policies trade: filled marks are on the Pareto front",
        figure_label(latency),
        figure_label(loss),
    )
    drawn = frame[frame[[loss, latency]].notna().all(axis=1)].reset_index(drop=True)
    if not len(drawn):
        say(ax, "no policy delivered anything")
        return ax
    best = pareto(drawn, columns)
    x = spread(ax, "x", drawn[latency].tolist(), latency)
    y = spread(ax, "y", drawn[loss].tolist(), loss)
    sizes = 8 + 14 * np.sqrt(_from_zero_to_one(drawn[load]))
    for row in range(len(drawn)):
        text = (
            f"{row + 1}  {drawn['policy'][row]}: {shown(duplicates, drawn[duplicates][row])} duplicates a delivery, "
            f"load ×{shown(load, drawn[load][row])}"
        )
        ax.plot(
            [x[row]], [y[row]], "o", color="black", markersize=sizes[row], markeredgewidth=1.4,
            markerfacecolor="0.25" if best[row] else "white", label=text, zorder=3,
        )  # fmt: skip
        ax.annotate(
            str(row + 1), (x[row], y[row]), textcoords="offset points", fontsize=TEXT, zorder=4,
            xytext=_place(row, sizes[row]), ha="center", va="center",
        )  # fmt: skip
    front = [row for row in np.argsort(x, kind="stable") if best[row]]
    ax.plot(
        [x[row] for row in front],
        [y[row] for row in front],
        color="0.5",
        linewidth=1.0,
        linestyle=":",
        zorder=2,
    )
    ax.margins(0.12)
    legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0, markerscale=0.6)
    return ax


def trade_off_panels(frame: pd.DataFrame, columns: Sequence[str] = TRADE_OFF) -> Figure:
    """A row of points for each policy in four panels side by side; filled points are on the Pareto front.

    Raises:
        ScenarioError: a column is missing.
    """
    _require(frame, columns)
    figure = Picture(figsize=(14, 1.8 + 0.34 * max(len(frame), 3)), layout="constrained")
    panels: Any = figure.subplots(1, len(columns), sharey=True)
    ordered = frame.reset_index(drop=True)
    best = pareto(ordered, columns)
    places = np.arange(len(ordered))
    for ax, column in zip(panels, columns, strict=True):
        dress(ax, "", figure_label(column), "")
        values = ordered[column].to_numpy(dtype=float)
        known = ~np.isnan(values)
        x = np.array(spread(ax, "x", values[known].tolist(), column) if known.any() else [])
        for chosen, fill in ((best.to_numpy()[known], "black"), (~best.to_numpy()[known], "white")):
            if chosen.any():  # the layout stumbles over an unclipped line of no points
                ax.plot(
                    x[chosen],
                    places[known][chosen],
                    "o",
                    color=fill,
                    markeredgecolor="black",
                    markersize=9,
                    markeredgewidth=1.4,
                    zorder=3,
                    clip_on=False,
                )
        ax.margins(x=0.12)
    panels[0].set_yticks(places, ordered["policy"].astype(str))
    for label, front in zip(panels[0].yaxis.get_ticklabels(), best, strict=True):
        label.set_parse_math(False)
        label.set_fontweight("bold" if front else "normal")
    panels[0].set_ylim(len(ordered) - 0.4, -0.6)
    figure.suptitle("What policies trade: filled points are on the Pareto front", fontsize=TITLE)
    return figure


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in ("policy", *columns) if name not in frame.columns]
    if missing:
        raise ScenarioError([Problem("frame", None, f"lacks the columns {', '.join(missing)}")])


def _from_zero_to_one(values: Any) -> Any:
    """Values on a scale from the least to the largest."""
    plain = values.to_numpy(dtype=float)
    spread = np.nanmax(plain) - np.nanmin(plain)
    return np.nan_to_num((plain - np.nanmin(plain)) / spread) if spread > 0 else np.zeros(len(plain))


def _place(row: int, size: float) -> tuple[float, float]:
    """Where the number of a mark stands, points from its middle: around it in turn, so that neighbours differ."""
    angle = math.pi / 4 + row * math.pi / 2
    return (size / 2 + 9) * math.cos(angle), (size / 2 + 9) * math.sin(angle)
