"""What the commands of experiments print for people: figures with intervals, differences, winners, points of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from sim import tables
from sim.experiment_results import ANY_LOSS, TRADE_OFF
from sim.intervals import Interval
from sim.shown import MISSING, shown, shown_share, unit

if TYPE_CHECKING:
    from sim.experiment_results import Comparison, Experiment, Replicated, Sweep, WarmUp

FIGURES = {
    "lost": "lost_share",
    "runs with a loss": ANY_LOSS,
    "latency p50": "delivery_latency_s_p50",
    "latency p90": "delivery_latency_s_p90",
    "latency p99": "delivery_latency_s_p99",
    "within 30 s": "within_share{30s}",
    "within 1 h": "within_share{1h}",
    "unsettled": "unsettled_share",
    "duplicates per delivery": "duplicates_per_delivery",
    "late": "late_share",
    "attempts per delivery": "attempts_per_delivery",
    "peak attempts/s": "attempts_per_s_max",
    "backlog max": "backlog_max",
    "worker utilisation": "worker_utilization",
    "drain after the last outage": "drain_s",
}
"""The figures of the tables: what they are called there, and their names."""
OF_POINTS = {
    "lost": "lost_share",
    "p50": "delivery_latency_s_p50",
    "p99": "delivery_latency_s_p99",
    "attempts": "attempts_per_delivery",
    "duplicates": "duplicates_per_delivery",
    "late": "late_share",
    "backlog max": "backlog_max",
    "utilisation": "worker_utilization",
}
"""The columns of the table of a sweep."""
MOST_SHOWN = 60
"""Points of a grid that are printed; the rest is in the files."""


def of_replication(found: Replicated) -> list[RenderableType]:
    """Warnings, a header, and the figures with their intervals."""
    rows = [
        [label, *_cells(found.interval(name), name, found.replications), name]
        for label, name in FIGURES.items()
        if found.interval(name).n
    ]
    single = found.replications == 1
    heads = ["figure", "value"] if single else ["figure", "mean", _interval_head(found), "in runs"]
    rows = [[row[0], row[1], row[-1]] for row in rows] if single else rows
    return [*_lead(found), Text(""), *table([*heads, "name"], rows)]


def of_comparison(found: Comparison) -> list[RenderableType]:
    """Warnings, a header, figures and differences by variant, who wins, and the trade-off."""
    pairs = found.differences[found.differences["against"] == found.baseline].set_index(["metric", "variant"])
    rows = []
    for label, name in FIGURES.items():
        if not any(found.interval(variant, name).n for variant in found.variants):
            continue
        for variant in found.variants:
            cells = _cells(found.interval(variant, name), name, found.replications)[:2]
            pair = pairs.loc[(name, variant)] if (name, variant) in pairs.index else None
            rows.append([label, variant, *cells, *apart(pair, name, 1 - found.confidence)])
            label = ""
    heads = ["figure", "variant", "mean", _interval_head(found), f"difference to {found.baseline}", "p"]
    parts = [*_lead(found), Text(""), *table(heads, rows)]
    parts += [Text(""), Text("who wins (all pairs, Holm)", "bold"), *_winners(found)]
    parts += [Text(""), Text("trade-off", "bold"), *_trade_off(found)]
    return parts


def of_sweep(found: Sweep) -> list[RenderableType]:
    """Warnings, a header, and a row per point."""
    paths = list(found.axes)
    means = found.table.set_index([*paths, "metric"]).sort_index() if len(found.table) else None
    names = {
        label: name
        for label, name in OF_POINTS.items()
        if found.table.loc[found.table["metric"] == name, "n"].any()
    }
    written = {path: dict(zip(found.axes[path], found.texts[path], strict=True)) for path in paths}
    rows = []
    for point in found.points[:MOST_SHOWN]:
        cells = [written[path][point[path]] for path in paths]
        for name in names.values():
            key = (*point.values(), name)
            if means is None or key not in means.index:
                cells.append(MISSING)
                continue
            mean, low, high = (float(means.loc[key][column]) for column in ("mean", "low", "high"))
            # where the interval is cut off at what can be, the other side is the wider one
            cells.append(_with_half_width(name, mean, max(high - mean, mean - low)))
        rows.append(cells)
    parts = [*_lead(found), Text(""), *table([*paths, *names], rows)]
    if len(found.points) > MOST_SHOWN:
        parts.append(
            Text(f"… and {len(found.points) - MOST_SHOWN:,} more points: --out DIR or --json has them")
        )
    return parts


# --------------------------------------------------------------------------- parts


def _lead(found: Experiment) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(f"warning: {text}", "yellow") for text in found.warnings]
    parts.append(Text(found.scenario, "bold"))
    made = (
        "1 replication: no intervals" if found.replications == 1 else f"{found.replications:,} replications"
    )
    parts.append(Text(f"seed {found.seed}, {made}, {len(found.runs):,} runs"))
    if found.warmup is not None:
        parts.append(Text(_warmup(found.warmup)))
    return parts


def _warmup(check: WarmUp) -> str:
    if not check.checked:
        return "warmup not checked: that takes two replications with a latency"
    came = (
        "latency is steady after it" if check.settled else "latency is not steady after it, see the warning"
    )
    return f"warmup checked: {came} ({check.method})"


def _interval_head(found: Experiment) -> str:
    return f"{found.confidence * 100:g} % interval"


def _cells(interval: Interval, name: str, replications: int) -> list[str]:
    """Mean, interval, and in how many replications the figure exists if not in all."""
    mean, low, high, n = interval
    between = MISSING if math.isnan(low) else f"{_shown(name, low)} – {_shown(name, high)}"
    return [_shown(name, mean), between, f"{n:,} of {replications:,}" if n < replications else "all"]


def apart(pair: Any, name: str, doubt: float) -> list[str]:
    """The difference to the baseline with its interval, and Holm's p; marked where it is shown to be one."""
    if pair is None or not pair["n"]:
        return ["", ""]
    mean, low, high, p = (float(pair[key]) for key in ("mean", "low", "high", "p_holm"))
    if low == high:
        return ["none" if mean == 0 else f"{_signed(name, mean)} in every run", ""]
    mark = " *" if p < doubt else ""
    return [f"{_signed(name, mean)} ({_signed(name, low)} … {_signed(name, high)}){mark}", _shown_p(p)]


def _winners(found: Comparison) -> list[RenderableType]:
    if found.winners.empty:
        return [Text("no figure differs")]
    rows = [
        [row["metric"], row["winner"], "clearly" if row["clear"] else f"not clear of {row['tied_with']}"]
        for row in found.winners.to_dict("records")
    ]
    return table(["figure", "best", ""], rows, right=())


def _trade_off(found: Comparison) -> list[RenderableType]:
    rows = [
        [row["variant"], *(_shown(name, row[name]) for name in TRADE_OFF), "●" if row["front"] else ""]
        for row in found.pareto.to_dict("records")
    ]
    note = Text("● on the Pareto front: nobody is as good in all four and better in one (by means)", "dim")
    heads = ["variant", "lost", "latency p99", "duplicates per delivery", "attempts per delivery", "front"]
    return [*table(heads, rows), note]


def _with_half_width(name: str, mean: float, half: float) -> str:
    if math.isnan(half) or half == 0:
        return _shown(name, mean)
    return f"{_shown(name, mean)} ± {_shown(name, half)}"


def _shown(name: str, value: float) -> str:
    """A figure; the ends of intervals may be negative."""
    if name == ANY_LOSS:
        return shown_share(value)
    return f"−{shown(name, -value)}" if value < 0 else shown(name, value)


def _signed(name: str, value: float) -> str:
    """A difference; that of shares is in percentage points."""
    if name == ANY_LOSS or unit(name) == "share":
        return f"{'+' if value > 0 else ''}{_shown(name, value).replace('%', 'points')}"
    return f"+{_shown(name, value)}" if value > 0 else _shown(name, value)


def _shown_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] | None = None
) -> list[RenderableType]:
    """A table, or each row on lines of its own where it has no room."""
    rows = [list(row) for row in rows]
    table = tables.blank_table(heads)
    numeric = range(1, len(heads)) if right is None else right
    for at in numeric:
        if not heads[at].startswith(("variant", "name")):
            table.columns[at].justify = "right"
    for row in rows:
        table.add_row(*row)
    if tables.fits(table):
        return [table]
    parts: list[RenderableType] = []
    above = ""
    for row in rows:
        above = row[0] or above
        parts += [Text(above, "bold")]
        parts.append(
            tables.indented(tables.packed((h, c) for h, c in zip(heads[1:], row[1:], strict=True) if c))
        )
    return parts
