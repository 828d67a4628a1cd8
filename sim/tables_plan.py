"""What ``hooklab plan`` prints for people: the answer with its headroom, what was tried, and where systems break."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from sim.planning_breaking import NAMES, BreakingPoint
from sim.planning_load import BEHIND, BUSY, LATE, RESOURCES, Strain, Stress
from sim.planning_results import Plan, Setting
from sim.planning_slo import shown_verdict
from sim.shown import MISSING, shown, shown_duration, shown_share
from sim.tables_experiment import table

if TYPE_CHECKING:
    from sim.experiment_results import Experiment


def of(found: Experiment) -> list[RenderableType]:
    """What the command prints of a plan, a breaking point or a stress."""
    if isinstance(found, BreakingPoint):
        return of_breaking_point(found)
    if isinstance(found, Stress):
        return of_stress(found)
    assert isinstance(found, Plan)
    return of_plan(found)


def of_plan(plan: Plan) -> list[RenderableType]:
    """Warnings, the answer, its objectives, closed forms beside it, and the settings tried."""
    parts = [*_lead(plan), Text(""), *(Text(line) for line in answer_lines(plan))]
    shown_setting = plan.answer or plan.closest
    if shown_setting is not None:
        parts += [Text(""), *table(*slo_rows(plan, shown_setting))]
    heads, rows = theory_rows(plan)
    if rows:
        parts += [Text(""), Text("in theory", "bold"), *table(heads, rows, right=(1, 2))]
    return [*parts, Text(""), Text("what was tried", "bold"), *table(*tried_rows(plan))]


def answer_lines(plan: Plan) -> Iterator[str]:
    """The answer in words, and what it claims."""
    sure = f"{plan.confidence * 100:g} %"
    kind = "cheapest" if plan.prices else "smallest"
    if plan.answer is None:
        tried = f"{len(plan.tried):,} of {plan.size:,} tried"
        yield f"no setting tried meets every objective with {sure} confidence ({tried})"
        if plan.closest is not None:
            yield f"closest: {plan.closest.name}"
            yield from (f"  {shown_verdict(verdict)}" for verdict in plan.closest.verdicts if not verdict.met)
        return
    cost = plan.answer.cost
    yield f"{kind}: {plan.answer.name}" + (
        "" if math.isnan(cost) else f", {cost:,.4g} per million deliveries"
    )
    yield (
        f"meets every objective with {sure} confidence, in {plan.replications:,} runs that the search had not seen: "
        f"the one-sided {sure} limit of each mean lies within its objective"
    )
    (binding,) = [verdict for verdict in plan.answer.verdicts if verdict.slo == plan.binding]
    left = f"{_percent(binding.headroom)} of what it allows is left"
    yield f"binding: {binding.slo.text}, {left}" + (
        "" if plan.before is None else f"; {plan.before.name} misses it"
    )


def slo_rows(plan: Plan, setting: Setting) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the objectives of a setting."""
    heads = ["objective", "mean", f"{plan.confidence * 100:g} % limit", "headroom", "met", "runs that met it"]
    rows = []
    for verdict in setting.verdicts:
        metric = verdict.slo.metric
        rows.append(
            [
                verdict.slo.text + (" (binding)" if verdict.slo == plan.binding else ""),
                shown(metric, verdict.mean),
                shown(metric, max(verdict.bound, 0.0)) if not math.isnan(verdict.bound) else MISSING,
                _percent(verdict.headroom),
                "yes" if verdict.met else "no",
                f"{verdict.runs_met:,} of {verdict.runs:,}",
            ]
        )
    return heads, rows


def tried_rows(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: every setting tried, with the confidence limits of its figures."""
    heads = [*(plan.tried[0].texts if plan.tried else ()), *(slo.text for slo in plan.slos), "meets"]
    heads += ["per million"] if plan.prices else []
    rows = []
    for setting in plan.tried:
        limits = [
            MISSING if math.isnan(verdict.bound) else shown(verdict.slo.metric, max(verdict.bound, 0.0))
            for verdict in setting.verdicts
        ]
        row = [*setting.texts.values(), *limits, "yes" if setting.met else "no"]
        rows.append([*row, f"{setting.cost:,.4g}"] if plan.prices else row)
    return heads, rows


def theory_rows(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: closed forms of the answer beside its means; bounds only of what has an objective."""
    wanted = {slo.metric for slo in plan.slos}
    rows = [
        [
            row.form.metric,
            shown(row.form.metric, row.form.value if row.form.value is not None else math.nan),
            MISSING if row.simulated is None else shown(row.form.metric, row.simulated),
            f"{row.form.title}: {row.form.why}",
        ]
        for row in plan.theory
        if row.form.kind != "bound" or row.form.metric in wanted
    ]
    return ["figure", "in theory", "simulated", "which formula, and why"], rows


def of_breaking_point(found: BreakingPoint) -> list[RenderableType]:
    """Warnings, the range in which recovery hangs on luck, and how many runs recovered from what."""
    lines = [Text(line) for line in breaking_lines(found)]
    return [*_lead(found), Text(""), *lines, Text(""), *table(*breaking_rows(found))]


def breaking_lines(found: BreakingPoint) -> Iterator[str]:
    """The range in words, and what it claims."""
    what = NAMES[found.what]
    begins = f"from {shown_duration(found.start_s)} on"
    lasts = "" if found.during_s is None else f", for {shown_duration(found.during_s)}"
    sure, least = f"{found.confidence * 100:g} %", shown_share(found.sure_share)
    yield f"{what} ({begins}{lasts})"
    if found.recovers is None:
        yield "not even from the smallest size tried did every run recover"
    else:
        yield (
            f"surely recovers up to:  {found.recovers} (all {found.replications:,} runs did: with {sure} confidence at "
            f"least {least} of all runs do)"
        )
    if found.fails is None:
        yield "even from the largest size tried some runs recovered"
    else:
        yield f"surely does not from:   {found.fails} (none of the runs did)"
    yield (
        f"recovers: what waits is back at its mean from before, by the horizon of {shown_duration(found.horizon_s)}; a "
        "longer horizon leaves more time"
    )


def breaking_rows(found: BreakingPoint) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the sizes tried."""
    rows = [
        [
            shown_duration(row["size"]) if found.what == "outage" else row["text"],
            f"{row['recovered']:,} of {row['runs']:,}",
            MISSING if math.isnan(row["drain_s"]) else shown_duration(row["drain_s"]),
        ]
        for row in found.tried.to_dict("records")
    ]
    return [NAMES[found.what], "runs that recovered", "back after (mean)"], rows


def of_stress(found: Stress) -> list[RenderableType]:
    """Warnings, what breaks first, and how much of its limit each resource uses at each load."""
    return [
        *_lead(found), Text(""), *(Text(line) for line in stress_lines(found)), Text(""), *table(*stress_rows(found)),
    ]  # fmt: skip


def stress_lines(found: Stress) -> Iterator[str]:
    """What breaks first in words, and when something counts as broken."""
    if found.breaks is None:
        yield f"nothing breaks up to {found.loads[-1]:g} times the load"
    else:
        yield f"first to break: {found.breaks[1]}, at {found.breaks[0]:g} times the load"
        yield "; ".join(_since(found))
    yield (
        f"broken (!): workers {shown_share(BUSY)} busy; a queue at receivers that takes longer than the timeout, or "
        f"fills their backlog; storage full or, without --storage, {shown_share(BEHIND)} of the deliveries not made "
        f"by the horizon; {shown_share(LATE)} processed out of order"
    )


def _since(found: Stress) -> Iterator[str]:
    """From which load on each resource is broken."""
    for name in RESOURCES:
        loads = [strain.load for strain in found.strains if strain.resource == name and strain.broken]
        yield f"{name} breaks at {loads[0]:g}×" if loads else f"{name} holds"


def stress_rows(found: Stress) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a load each."""
    rows = []
    for load in found.loads:
        strains = {strain.resource: strain for strain in found.strains if strain.load == load}
        cells = [_strained(strains[name]) for name in RESOURCES]
        rows.append([f"{load:g}×", *cells, found.first_broken(load) or "nothing"])
    return ["load", *RESOURCES, "first to break"], rows


def _strained(strain: Strain) -> str:
    if math.isnan(strain.value):
        return "unlimited"
    value = shown(strain.figure, strain.value)
    return f"{value} of {shown(strain.figure, strain.limit) if math.isfinite(strain.limit) else '∞'}" + (
        " !" if strain.broken else ""
    )


def _lead(found: Experiment) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(f"warning: {text}", "yellow") for text in found.warnings]
    parts.append(Text(found.scenario, "bold"))
    parts.append(Text(f"seed {found.seed}, {found.replications:,} replications, {len(found.runs):,} runs"))
    return parts


def _percent(headroom: float) -> str:
    if math.isinf(headroom):
        return MISSING
    return f"{headroom * 100:,.0f} %" if abs(headroom) >= 0.095 else f"{headroom * 100:.1f} %"
