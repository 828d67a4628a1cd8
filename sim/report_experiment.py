"""Pages of experiments for ``hooklab report``: replications, comparisons, sweeps, plans, breaking points and loads.

Their folders say in ``experiment.json`` what they hold, and in ``result.json`` what came of it, as ``--json`` prints
it. Tables hold what the commands print; pictures are drawn from the tables anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import yamlio
from sim.errors import ScenarioError
from sim.planning import spread
from sim.report import (
    Code,
    Head,
    Image,
    Page,
    Section,
    Table,
    image,
    read_json,
    read_table,
    repeating_section,
)
from sim.report import theory_section as theory
from sim.shown import MEANINGS, MISSING, entry_of, shown, shown_duration, shown_share

if TYPE_CHECKING:
    import pandas as pd

Result = Mapping[str, Any]
RESULT = "result.json"
JUDGED_IN_SWEEPS = ("lost_share", "delivery_latency_s_p99", "attempts_per_delivery", "backlog_max")
"""The figures of a sweep that are drawn, where it has one leaf of numbers."""
MOST_ROWS = 1_000
"""Rows that a table of a page has at most."""


def page(folder: Path, meta: Mapping[str, Any]) -> Page:
    """The page of a folder of an experiment, of whatever kind."""
    if not (folder / RESULT).is_file():
        rule = (
            f"holds an experiment ({meta['kind']}) that has not finished; the command that began it, with the same "
            "--out, continues"
        )
        raise ScenarioError(rule, str(folder))
    result = read_json(folder / RESULT)
    scenario = (folder / "scenario.yaml").read_text(encoding="utf-8")
    kind = str(meta["kind"])
    facts = [
        f"A {kind}: seed {result['seed']}, {int(result['replications']):,} replications with luck of their own; "
        f"intervals are of {float(result['confidence']) * 100:g} %."
    ]
    note = (
        "The command that wrote this folder, with the same --out, takes finished runs from it; every run is repeated "
        "by hooklab run scenario.yaml with a seed of the table runs."
    )
    command = f"hooklab run scenario.yaml --seed {int(result['seed'])}"
    question = yamlio.parse(scenario, "scenario.yaml").get("question")
    return Page(
        title=f"{result['scenario']}: {kind}",
        question=None if question is None else str(question),
        facts=facts,
        warnings=[str(text) for text in result["warnings"]],
        sections=[
            *_SECTIONS[kind](folder, result),
            repeating_section(command, note, [Code(title="scenario.yaml", text=scenario, folded=True)]),
        ],
    )


# --------------------------------------------------------------------------- replications, comparisons, sweeps


def _replication(_: Path, result: Result) -> list[Section]:
    heads = (Head(text="figure"), *_numbers("mean", "from", "to"), Head(text="what it means"))
    rows = [
        (name, *(_shown(name, row[key]) for key in ("mean", "low", "high")), MEANINGS[entry_of(name)])
        for name, row in result["metrics"].items()
        if row["mean"] is not None and _is_figure(name)
    ]
    return [
        Section(
            name="figures",
            heading="Figures",
            tables=[Table(caption="Means and intervals", heads=heads, rows=rows)],
        )
    ]


def _comparison(folder: Path, result: Result) -> list[Section]:
    from sim.plots_policy import trade_off_panels

    names = list(result["variants"])
    metrics = {name: variant["metrics"] for name, variant in result["variants"].items()}
    first = metrics[names[0]]
    rows = [
        (metric, *(_between(metric, metrics[name][metric]) for name in names))
        for metric in first
        if _is_figure(metric) and any(metrics[name][metric]["mean"] is not None for name in names)
    ]
    winners = [
        (row["metric"], row["winner"], "clearly" if row["clear"] else f"not clear of {row['tied_with']}")
        for row in result["winners"]
    ]
    front = read_table(folder, "pareto")
    picture = image(
        trade_off_panels(front.rename(columns={"variant": "policy"})),
        f"Loss, latency, duplicates and load of {', '.join(names)}; on the Pareto front: "
        f"{', '.join(front[front['front']]['variant'])}.",
        "Less is better everywhere.",
    )
    heads = (Head(text="figure"), Head(text="best"), Head(text="how clearly (all pairs, Holm)"))
    return [
        Section(
            name="winners",
            heading="Who wins",
            tables=[Table(caption="The best by figure", heads=heads, rows=winners)],
        ),
        Section(name="pictures", heading="Trade-off", pictures=[picture]),
        Section(
            name="figures",
            heading="Figures",
            tables=[
                Table(
                    caption="Means with intervals", heads=(Head(text="figure"), *_numbers(*names)), rows=rows
                ),
                _differences(result),
            ],
        ),
    ]


def _differences(result: Result) -> Table:
    """What the variants differ by from the baseline, in the figures that variants are judged by."""
    from sim.tables_experiment import apart

    baseline = result["baseline"]
    judged = {row["metric"] for row in result["winners"]}
    doubt = 1 - float(result["confidence"])
    rows = [
        (row["metric"], row["variant"], *apart(row, row["metric"], doubt))
        for row in result["differences"]
        if row["against"] == baseline and row["metric"] in judged and row["low"] is not None
    ]
    heads = (Head(text="figure"), Head(text="variant"), *_numbers(f"difference to {baseline}", "p (Holm)"))
    return Table(caption="Differences under the same luck; * where one is shown", heads=heads, rows=rows)


def _sweep(folder: Path, result: Result) -> list[Section]:
    texts = {
        leaf: dict(zip(result["vary"][leaf], given, strict=True)) for leaf, given in result["texts"].items()
    }
    rows = [
        (
            *(texts[leaf][value] for leaf, value in point["values"].items()),
            *(_between(name, (point["metrics"] or {}).get(name)) for name in JUDGED_IN_SWEEPS),
        )
        for point in result["points"][:MOST_ROWS]
    ]
    left = len(result["points"]) - len(rows)
    section = Section(
        name="points",
        heading="Points",
        paragraphs=[f"The first {len(rows):,} points; result.json has {left:,} more."] if left else [],
        tables=[
            Table(
                caption="Means with intervals",
                heads=(*(Head(text=leaf) for leaf in texts), *_numbers(*JUDGED_IN_SWEEPS)),
                rows=rows,
            )
        ],
    )
    sections = [section, *_unfinished(result["failed"])]
    pictures = _sweep_pictures(read_table(folder, "table"), texts)
    return [
        *sections,
        *([Section(name="pictures", heading="Pictures", pictures=pictures)] if pictures else []),
    ]


def _unfinished(failed: Sequence[Result]) -> list[Section]:
    """The runs of a sweep that have no outcome, if there are some."""
    if not failed:
        return []
    heads = (Head(text="point"), *_numbers("replication", "seed"), Head(text="reason"))
    rows = [
        (row["point"], str(row["replication"]), str(row["seed"]), row["reason"]) for row in failed[:MOST_ROWS]
    ]
    table = Table(caption="They are in no mean", heads=heads, rows=rows)
    return [Section(name="unfinished", heading="Runs that could not be finished", tables=[table])]


def _sweep_pictures(table: pd.DataFrame, texts: Mapping[str, Mapping[Any, str]]) -> list[Image]:
    """A curve for each figure over the first leaf, if that has numbers; the others' values are curves of their own."""
    from sim.plots_curve import curve
    from sim.plots_style import LINES

    leaf, *others = texts
    if table.empty or table[leaf].dtype.kind not in "iuf":
        return []
    drawn = table.assign(x=table[leaf], written=table[leaf].map(texts[leaf]))
    left_out = ""
    if others:
        named = [f"{path}=" + table[path].map(texts[path]) for path in others]
        drawn["series"] = functools.reduce(lambda all_, one: all_ + ", " + one, named)
        names = list(dict.fromkeys(drawn["series"]))
        kept = [names[at] for at in spread(len(names), len(LINES))]
        drawn = drawn[drawn["series"].isin(kept)]
        if len(names) > len(kept):
            left_out = f" Drawn are {len(kept)} of {len(names):,} curves."
    pictures = []
    for metric in JUDGED_IN_SWEEPS:
        frame = drawn[(drawn["metric"] == metric) & drawn["mean"].notna()]
        if frame.empty:
            continue
        pictures.append(
            image(
                curve(frame, metric=metric, x_label=leaf).figure,  # type: ignore[arg-type]
                f"{metric} by {leaf}: from {_shown(metric, frame['mean'].min())} to "
                f"{_shown(metric, frame['mean'].max())}.{left_out}",
                f"{MEANINGS[entry_of(metric)]}.{left_out}" if left_out else MEANINGS[entry_of(metric)],
            )
        )
    return pictures


# --------------------------------------------------------------------------- plans


def _plan(folder: Path, result: Result) -> list[Section]:
    answer, closest = result["answer"], result["closest"]
    told = _leaves(answer or closest or {})
    priced = bool(result["prices"])
    lead = (
        f"{'Cheapest' if priced else 'Smallest'} that meets every objective: {told}."
        if answer
        else f"No setting tried meets every objective; closest: {told}."
    )
    claim = (
        f"Met means: the one-sided {float(result['confidence']) * 100:g} % limit of the mean of a figure over "
        "independent runs lies within the objective; of the answer, in runs that the search had not seen."
    )
    rows = [
        (
            row["expr"],
            _shown(row["metric"], row["mean"]),
            _shown(row["metric"], row["bound"]),
            MISSING if row["headroom"] is None else f"{row['headroom'] * 100:,.1f} %",
            "yes" if row["met"] else "no",
            "yes" if row["binding"] else "",
        )
        for row in result["slo"]
    ]
    heads = (
        Head(text="objective"),
        *_numbers("mean", "limit", "headroom"),
        Head(text="met"),
        Head(text="binding"),
    )
    tried_heads = (
        Head(text="setting"),
        *_numbers(*(row["expr"] for row in result["slo"])),
        Head(text="meets"),
    )
    tried = [
        (
            _leaves(setting["values"]),
            *(_shown(row["metric"], row["bound"]) for row in setting["slo"]),
            "yes" if setting["met"] else "no",
            *(
                [MISSING if setting["cost_per_million"] is None else f"{setting['cost_per_million']:,.4g}"]
                if priced
                else []
            ),
        )
        for setting in result["tried"]
    ]
    if priced:
        tried_heads = (*tried_heads, Head(text="cost per million deliveries", number=True))
    sections = [
        Section(
            name="answer",
            heading="Answer",
            paragraphs=[lead, claim],
            tables=[Table(caption="Objectives", heads=heads, rows=rows)],
            pictures=[_stored(folder, f"The figure of the binding objective by setting. {lead}")],
        ),
        Section(
            name="tried",
            heading="What was tried",
            tables=[Table(caption="Limits of the figures", heads=tried_heads, rows=tried)],
        ),
    ]
    return [*sections, *([theory(result["theory"])] if result["theory"] else [])]


def _breaking_point(folder: Path, result: Result) -> list[Section]:
    recovers = (
        "Not even from the smallest size tried did every run recover"
        if result["recovers"] is None
        else f"Surely recovers up to {result['recovers']} (all runs did: at least {shown_share(result['sure_share'])} "
        "of all runs do)"
    )
    fails = (
        "even from the largest size tried some runs recovered"
        if result["fails"] is None
        else f"surely does not from {result['fails']} on (no run did)"
    )
    lead = f"{recovers}; {fails}. It recovers if, before the horizon, what waits is back at its mean from before."
    rows = [
        (
            row["text"],
            f"{row['recovered']:,} of {row['runs']:,}",
            MISSING if row["drain_s"] is None else shown_duration(row["drain_s"]),
        )
        for row in result["tried"]
    ]
    heads = (Head(text=str(result["find"])), *_numbers("runs that recovered", "back after (mean)"))
    return [
        Section(
            name="range",
            heading="What it recovers from",
            paragraphs=[lead],
            tables=[Table(caption="Sizes tried", heads=heads, rows=rows)],
            pictures=[_stored(folder, f"The share of runs that recover, by size. {lead}")],
        )
    ]


def _load(folder: Path, result: Result) -> list[Section]:
    breaks = result["breaks"]
    lead = (
        "Nothing breaks."
        if breaks is None
        else f"First to break: {breaks['resource']}, at {breaks['load']:g} times the load."
    )
    rows = [
        (
            f"{row['load']:g}×",
            str(row["resource"]),
            f"{row['figure']} {_shown(row['figure'], row['value'])}",
            MISSING if row["limit"] is None else _shown(row["figure"], row["limit"]),
            "yes" if row["broken"] else "",
        )
        for row in result["tried"]
    ]
    heads = (Head(text="load"), Head(text="resource"), *_numbers("figure", "limit"), Head(text="broken"))
    return [
        Section(
            name="loads",
            heading="What breaks first",
            paragraphs=[lead],
            tables=[Table(caption="Resources by load", heads=heads, rows=rows)],
            pictures=[_stored(folder, f"How much of its limit each resource uses, by load. {lead}")],
        )
    ]


_SECTIONS: Mapping[str, Callable[[Path, Result], list[Section]]] = {
    "replication": _replication,
    "comparison": _comparison,
    "sweep": _sweep,
    "plan": _plan,
    "breaking point": _breaking_point,
    "load": _load,
}


# --------------------------------------------------------------------------- parts


def _numbers(*texts: str) -> tuple[Head, ...]:
    return tuple(Head(text=text, number=True) for text in texts)


def _is_figure(name: str) -> bool:
    try:
        entry_of(name)
    except KeyError:
        return False
    return True


def _shown(name: str, value: float | None) -> str:
    """A figure; null is one that does not exist, and the end of an interval may be negative."""
    if value is None or math.isnan(value):
        return MISSING
    return f"−{shown(name, -value)}" if value < 0 else shown(name, value)


def _between(name: str, row: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return MISSING
    mean = _shown(name, row["mean"])
    return (
        mean
        if row["low"] in (None, row["high"])
        else f"{mean} ({_shown(name, row['low'])} – {_shown(name, row['high'])})"
    )


def _leaves(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{leaf}={value}" for leaf, value in values.items())


def _stored(folder: Path, alt: str) -> Image:
    """The picture that the experiment has drawn."""
    import base64

    packed = base64.b64encode((folder / "curve.png").read_bytes()).decode("ascii")
    return Image(address=f"data:image/png;base64,{packed}", alt=alt, caption="")
