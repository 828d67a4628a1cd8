"""A comparison of a real run with its simulation as people see it: a table for the terminal, and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from rich.console import RenderableType
from rich.text import Text

from loadtest.agreement_fates import Difference, Fate
from loadtest.agreement_figures import OF_FATES, OF_ORDER
from loadtest.agreement_luck import DISTANCE, latencies
from sim import series
from sim.plots_style import LINES, TITLE, Picture, dress, legend, say, thinned, time_ticks
from sim.shown import MISSING, shown, shown_duration, shown_share
from sim.tables import blank_table, indented

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from loadtest.agreement import Agreement
    from sim.trace import Trace

SIDES = ("simulated", "simulated, with overhead", "real")
MOST_LISTED = 8
"""Deliveries and reasons that the table lists of each kind."""
_MOST_TIERS = 8
"""Attempt numbers with a bar of their own; later ones are counted together."""
_POINTS = 300
_LEAST_S = 1e-3
"""Where an axis of latencies begins at the latest: what took no time is drawn there, s."""
_ABOVE: Mapping[str, Any] = {"loc": "upper center", "ncols": 2}
_BARS: tuple[dict[str, Any], ...] = (
    {"facecolor": "white", "edgecolor": "black", "hatch": "////", "linewidth": 1.0},
    {"facecolor": "0.8", "edgecolor": "black", "linewidth": 1.0},
    {"facecolor": "0.25", "edgecolor": "black", "linewidth": 1.0},
)
_LOOKS = (LINES[0], LINES[2], {"color": "0.72", "linewidth": 5.5})
"""Of the simulation, of that with overhead, and of the real run: wide, so that it is seen below the others."""


# --------------------------------------------------------------------------- table


def table(found: Agreement) -> list[RenderableType]:
    """The verdict, what it rests on, all figures of both sides, and what to know of them."""
    parts: list[RenderableType] = [
        Text.assemble((found.scenario, "bold"), f", seed {found.seed}: ", _verdict(found))
    ]
    parts += [indented(Text(f"invalid: {reason}", "red")) for reason in found.invalid]
    parts += _compared(found)
    parts += [Text(""), _figures(found), Text("")]
    return [*parts, *_notes(found)]


def _verdict(found: Agreement) -> tuple[str, str]:
    if not found.valid:
        return "the real run is invalid, and says nothing", "bold red"
    return ("simulated and real agree", "bold green") if found.agree else ("they do not agree", "bold red")


def _compared(found: Agreement) -> list[RenderableType]:
    """How the two were compared and why so, and deliveries whose fates differ."""
    if found.fates is None:
        reasons = found.timing_reasons[:MOST_LISTED]
        more = len(found.timing_reasons) - len(reasons)
        return [
            Text("timing decides what becomes of deliveries, so distributions are compared:"),
            *(indented(reason) for reason in reasons),
            *([indented(f"… and {more:,} more")] if more else []),
        ]
    fates = found.fates
    parts: list[RenderableType] = [
        Text(
            f"no timing decides what becomes of a delivery, so all {fates.deliveries:,} are compared one by one: "
            f"{len(fates.different):,} differ, {len(fates.excused):,} more are excused"
        )
    ]
    if fates.excused:
        note = f"excused: an answer so near its timeout that milliseconds decide (at most {fates.most_excused:.0%})"
        parts.append(indented(note))
    for word, listed in (("differs", fates.different), ("excused", fates.excused)):
        parts += [indented(_told(word, one)) for one in listed[:MOST_LISTED]]
        if len(listed) > MOST_LISTED:
            parts.append(indented(f"… and {len(listed) - MOST_LISTED:,} more"))
    return parts


def _told(word: str, one: Difference) -> str:
    return f"{word}: {one.delivery_id}: simulated {_fate(one.sim)}; real {_fate(one.real)}"


def _fate(fate: Fate) -> str:
    made = ", ".join(f"{number} {outcome}" for number, outcome in fate.attempts)
    return f"{fate.state} ({made or 'no attempt'})"


def _figures(found: Agreement) -> RenderableType:
    grid = blank_table(["figure", "sim", "with overhead", "real", "difference", "", "rule"])
    for column in grid.columns[1:5]:
        column.justify = "right"
        column.no_wrap = True
    for name, *cells, mark, rule in figures(found).reset_index().itertuples(index=False):
        grid.add_row(name, *cells, Text(mark, "" if mark == "ok" else "bold red"), Text(rule, "dim"))
    return grid


def figures(found: Agreement) -> pd.DataFrame:
    """All figures of both sides to be read, by name, with their verdict and its rule (luck left out)."""
    rows = {
        row.name: (
            *(_shown(row.name, value) for value in (row.sim, row.slowed, row.real)),
            _shown_difference(row.name, row.difference),
            "ok" if row.ok else "no",
            row.rule.partition(", or ")[0],
        )
        for row in found.figures
    }
    columns = [*SIDES, "difference", "verdict", "rule"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("figure")


def verdict(found: Agreement) -> str:
    """In a sentence: what was compared, and whether it agrees."""
    if not found.valid:
        return f"invalid: {'; '.join(found.invalid)}"
    missed = [row.name for row in found.figures if not row.ok]
    told = "agree" if found.agree else f"differ in {', '.join(missed) or 'fates'}"
    if found.fates is None:
        return f"{told}; timing decides fates, so distributions are compared"
    fates = found.fates
    return (
        f"{told}; {fates.deliveries:,} fates compared one by one: {len(fates.different):,} differ, "
        f"{len(fates.excused):,} excused"
    )


def _shown(name: str, value: float) -> str:
    return shown_share(value) if name == DISTANCE and not math.isnan(value) else shown(name, value)


def _shown_difference(name: str, value: float) -> str:
    if math.isnan(value):
        return MISSING
    if abs(value) < 1e-9:  # a nanosecond, or what subtraction leaves behind
        return "0"
    text = _shown(name, abs(value))
    return f"{'+' if value > 0 else '−'}{text.replace('%', 'points')}"


def _notes(found: Agreement) -> list[RenderableType]:
    """What a rule left unsaid, and evidence that decides nothing."""
    lines = []
    if found.luck is not None:
        lines.append(
            f"or no farther off than one of {found.luck.runs} simulated runs is from the others: by chance, one run "
            f"in {found.luck.runs + 1} would fail"
        )
    elif any(row.name in OF_ORDER for row in found.figures):
        lines.append(
            "or, of late_share: by delivery the difference may be 0 (an interval, clustered by key, holds it)"
        )
    seen = found.evidence
    if not math.isnan(seen.slower_s_p50):
        lines.append(
            f"a delivery took {_signed(seen.slower_s_p50)} for real (median; 99th percentile "
            f"{_signed(seen.slower_s_p99)})"
        )
    if not math.isnan(seen.ks_p):
        apart = (
            "tells the latencies apart" if seen.ks_p < seen.ks_alpha else "does not tell the latencies apart"
        )
        lines.append(
            f"Kolmogorov-Smirnov {apart} (p {seen.ks_p:.2g}, level {seen.ks_alpha:g}); it takes deliveries for "
            "independent, which those of a queue are not, so it decides nothing"
        )
    return [Text(line, "dim") for line in lines]


def _signed(seconds: float) -> str:
    return f"{shown_duration(abs(seconds))} {'longer' if seconds >= 0 else 'less'}"


# --------------------------------------------------------------------------- picture


def picture(found: Agreement) -> Figure:
    """Latency distributions, backlog over time, attempts by number, and shares: both sides in each panel."""
    figure = Picture(figsize=(13, 9), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    sides = dict(zip(SIDES, found.sides, strict=True))
    latency_panel(sides, first)
    backlog_panel(sides, second)
    attempts_panel(sides, third)
    shares_panel(sides, fourth)
    compared = "fate by fate" if found.exact else "as distributions"
    title = f"{found.scenario}, seed {found.seed}: {_verdict(found)[0]} (compared {compared})"
    figure.suptitle(title, fontsize=TITLE + 1, parse_math=False)
    return figure


def latency_panel(sides: Mapping[str, Trace], ax: Axes) -> None:
    """The share of processed deliveries that took no longer, a curve for each side."""
    dress(ax, "Latency: creation to first processing", "time, logarithmic", "share of processed deliveries")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(0, 1.02)
    samples = {name: np.sort(latencies(trace)) for name, trace in sides.items()}
    known = [own for own in samples.values() if len(own)]
    if not known:
        say(ax, "no delivery was processed")
        return
    low = max(min(float(own[0]) for own in known), _LEAST_S)
    high = max(max(float(own[-1]) for own in known), 10 * low)

    def draw(name: str, look: Mapping[str, Any]) -> None:
        own = samples[name]
        if len(own):
            at, share = thinned(np.maximum(own, low), np.arange(1, len(own) + 1) / len(own))
            ax.step(np.append(at, high * 1.3), np.append(share, 1.0), where="post", label=name, **look)

    _each(sides, draw)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.3, high * 1.3)
    time_ticks(ax.xaxis, low / 1.3, high * 1.3)
    _legend(ax, loc="best")


def backlog_panel(sides: Mapping[str, Trace], ax: Axes) -> None:
    """Deliveries that wait for an attempt, those whose retry is not yet due included: means over short pieces."""
    dress(ax, "Backlog: deliveries waiting", "time since the start, s", "deliveries")
    waiting = {name: series.waits(trace) for name, trace in sides.items()}
    until = max(_busy_until(trace, waiting[name]) for name, trace in sides.items())
    edges = np.linspace(0.0, until, _POINTS + 1)
    highest = max(float(trace.metrics["backlog_max"]) for trace in sides.values())

    def draw(name: str, look: Mapping[str, Any]) -> None:
        own = waiting[name]
        ends = _held_until(edges, own.entered) - _held_until(edges, own.left[np.isfinite(own.left)])
        levels = np.diff(ends) / (until / _POINTS)
        ax.plot((edges[1:] + edges[:-1]) / 2, levels, label=name, **look)

    _each(sides, draw)
    horizon = float(next(iter(sides.values())).meta["horizon_s"])
    if until > 1.02 * horizon:
        ax.axvline(horizon, color="black", linewidth=1.2, linestyle="-.", label="producers stop")
    ax.set_xlim(0, until)
    ax.set_ylim(0, max(ax.get_ylim()[1], 1.0) * 1.25)  # room for the legend
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if highest == 0:
        say(ax, "nothing waited at any time")
    _legend(ax, **_ABOVE)


def attempts_panel(sides: Mapping[str, Trace], ax: Axes) -> None:
    """How many first, second, … attempts were made; 0 stands for what polls brought."""
    counts = {name: _by_number(trace) for name, trace in sides.items()}
    numbers = sorted({number for own in counts.values() for number in own})
    labels = [f"{n} or later" if n == _MOST_TIERS else "polled" if n == 0 else str(n) for n in numbers]
    dress(ax, "Attempts by number", "attempt", "attempts, logarithmic")
    if not numbers:
        say(ax, "no attempt was made")
        return
    _bars(ax, labels, {name: [own.get(n, 0) for n in numbers] for name, own in counts.items()}, "{:,}".format)
    ax.set_yscale("log")
    ax.set_ylim(0.7, 60 * max(max(own.values(), default=1) for own in counts.values()))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}" if value >= 1 else ""))


def shares_panel(sides: Mapping[str, Trace], ax: Axes) -> None:
    """What became of deliveries, in per cent; shares that are 0 everywhere are left out."""
    names = [
        name
        for name in (*OF_FATES, *OF_ORDER, "false_loss_share")
        if name.endswith("_share") and any(trace.metrics[name] > 0 for trace in sides.values())
    ]
    dress(ax, "Shares of deliveries", "", "share of deliveries")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: shown_share(share) if share <= 1 else ""))
    if not names:
        say(ax, "there was no delivery")
        return
    labels = [
        name.removesuffix("_share").replace("_", " ").replace("duplicate", "duplicates") for name in names
    ]
    figures = {name: [trace.metrics[share] for share in names] for name, trace in sides.items()}
    _bars(ax, labels, figures, shown_share)
    ax.set_ylim(0, 1.55 * max(value for own in figures.values() for value in own))


# --------------------------------------------------------------------------- parts of panels


def _each(sides: Mapping[str, Trace], draw: Callable[[str, Mapping[str, Any]], None]) -> None:
    """Draw the sides, the last one, which is the widest, below the others."""
    for name, look in reversed(list(zip(sides, _LOOKS, strict=True))):
        draw(name, look)


def _legend(ax: Axes, **place: Any) -> None:
    """A legend in the order of the sides, whatever was drawn first."""
    handles, labels = ax.get_legend_handles_labels()
    order = {name: position for position, name in enumerate(SIDES)}
    pairs = sorted(zip(labels, handles, strict=True), key=lambda pair: order.get(pair[0], len(order)))
    legend(ax, handles=[handle for _, handle in pairs], labels=[label for label, _ in pairs], **place)


def _bars(
    ax: Axes, labels: list[str], heights: Mapping[str, list[Any]], written: Callable[[Any], str]
) -> None:
    """Groups of bars, a bar for each side; what the first and the last of them say is written above them."""
    places = np.arange(len(labels))
    width = 0.8 / len(heights)
    for position, ((name, values), look) in enumerate(zip(heights.items(), _BARS, strict=True)):
        at = places + (position - (len(heights) - 1) / 2) * width
        drawn = ax.bar(at, values, width, label=name, **look)
        if name != SIDES[1]:
            texts = [written(value) for value in values]
            ax.bar_label(drawn, texts, padding=3, fontsize=11, rotation=90 if len(labels) > 2 else 0)
    ax.set_xticks(places, labels)
    ax.grid(visible=False, axis="x")
    _legend(ax, **_ABOVE)


def _by_number(trace: Trace) -> dict[int, int]:
    numbers = np.where(trace.attempts["tier"] > 0, trace.attempts["attempt_number"], 0)
    values, counts = np.unique(np.minimum(numbers, _MOST_TIERS), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _busy_until(trace: Trace, waiting: series.Waits) -> float:
    """The end of the horizon, or later as long as some of what waited most still waits, s."""
    times, levels = series.steps(waiting.entered, waiting.left)
    busy = np.flatnonzero(levels > 0.02 * levels.max(initial=0))
    last = float(times[min(busy[-1] + 1, len(times) - 1)]) if len(busy) else 0.0
    return min(max(float(trace.meta["horizon_s"]), last), float(trace.meta["end_s"]))


def _held_until(points: Any, since: Any) -> Any:
    """For each point, the time passed until then since each moment before it, summed."""
    ordered = np.sort(since)
    count = np.searchsorted(ordered, points, side="right")
    return points * count - np.concatenate(([0.0], np.cumsum(ordered)))[count]
