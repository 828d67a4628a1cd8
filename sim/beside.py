"""Closed forms beside a run: which formulas of ``sim.theory`` hold for a scenario, their values, and why.

A formula is applied only where each of its assumptions holds for the scenario; otherwise its row has no value
and says what is in the way. What a row claims is its ``kind``:

- ``exact``: the mean of the figure over all luck, whatever the horizon;
- ``long_run``: the same in the long run, and the run is long enough to have forgotten its empty start;
- ``limit``: what the figure comes close to where much waits; single runs scatter around it;
- ``bound``: no run exceeds it;
- ``criterion``: a figure that no run has, and what follows from it;
- ``none``: the formula does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from sim import beside_world as ask
from sim import theory
from sim.beside_forms import SCHEDULE_FORMS, Form, Refused
from sim.beside_queues import QUEUE_FORMS
from sim.beside_world import Pair
from sim.model import Model
from sim.policy import FOREVER
from sim.scenario import Scenario
from sim.shown import shown_share
from sim.workload import LISTED

if TYPE_CHECKING:
    from sim.result import Result

MOST_REASONS = 3
"""Reasons that a row tells why its formula does not apply."""


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """One figure by one formula; ``value`` is None where the formula does not apply."""

    metric: str
    """Name of the figure of a run, or of the field of ``sim.theory`` that no run has."""
    group: str | None
    """The endpoint group whose figure it is; None: that of the whole run."""
    formula: str
    """Name of the function in ``sim.theory``."""
    title: str
    """What people call it."""
    value: float | None
    kind: str
    """``exact``, ``long_run``, ``limit``, ``bound``, ``criterion`` or ``none``; see the module."""
    why: str
    """Why it applies, or what is in the way."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A closed form and the figure of a run; ``simulated`` is None where the run has no such figure."""

    form: ClosedForm
    simulated: float | None

    def to_json(self) -> dict[str, Any]:
        """As ``hooklab run --json`` prints it."""
        return {**asdict(self.form), "simulated": self.simulated}


def closed_forms(world: Scenario | Model) -> list[ClosedForm]:
    """All formulas for a scenario (or its model), those that apply first; one row for each figure.

    Where endpoint groups differ in policy or receiver, what holds for a group alone is told by group. Nothing is
    simulated. With a model, arrivals that a user has put in place of the scenario's are respected.
    """
    scenario = world.scenario if isinstance(world, Model) else world
    replaced = isinstance(world, Model) and _arrivals_replaced(world)
    pair = ask.pair_of(scenario)
    rows: list[ClosedForm] = []
    for form in (*SCHEDULE_FORMS, *QUEUE_FORMS):
        if replaced:
            rows.append(_without(form, None, ["the arrivals are a user's own"]))
        elif isinstance(pair, Pair):
            rows += _rows_of(form, pair, None)
        elif form.by_group:
            for group in scenario.endpoints:
                own = ask.pair_of(scenario, group)
                rows += (
                    _rows_of(form, own, group) if isinstance(own, Pair) else [_without(form, group, [own])]
                )
        else:
            rows.append(_without(form, None, [pair]))
    rows += _amplification(scenario)
    return sorted(rows, key=lambda row: row.value is None)


def asked_of_warmup(scenario: Scenario) -> list[str]:
    """What formulas that apply but for the empty start of a run say about the warm-up they need."""
    own = [row.why for row in closed_forms(scenario) if row.why.startswith(ask.STARTS_EMPTY)]
    return list(dict.fromkeys(own))


def beside(result: Result) -> list[Beside]:
    """The closed forms of a finished run, each with the run's own figure.

    A formula about deliveries that have settled is withdrawn if some have not. A streamed run has no figures of
    endpoint groups; what holds for a group alone stands there without.
    """
    forms = closed_forms(result.scenario)
    by_group = any(form.group is not None and form.value is not None for form in forms)
    by_name: dict[Any, Any] = {}
    if by_group and not result.streamed:
        by_name = result.metrics_by("endpoint").to_dict("index")
    rows = []
    for form in forms:
        figure = math.nan
        if form.value is not None:
            known: Mapping[str, float] = result.metrics
            if form.group is not None:
                whole = {"unsettled_share": known["unsettled_share"]} if result.streamed else {}
                known = by_name.get(form.group, whole)
            unsettled = known.get("unsettled_share", math.nan)
            if form.kind in ("exact", "long_run") and unsettled > 0:
                why = f"the run ended before {shown_share(unsettled)} of the deliveries did"
                form = replace(form, value=None, kind="none", why=why)
            else:
                figure = known.get(form.metric, math.nan)
        rows.append(Beside(form=form, simulated=None if math.isnan(figure) else float(figure)))
    return sorted(rows, key=lambda row: row.form.value is None)


def _arrivals_replaced(built: Model) -> bool:
    own = built.scenario.producers.values()
    return any(
        source.process.kind == LISTED and producer.arrivals.at is None and producer.arrivals.replay is None
        for source, producer in zip(built.sources, own, strict=True)
    )


def _rows_of(form: Form, pair: Pair, group: str | None) -> list[ClosedForm]:
    """The rows of one formula: its figures, or one that says why there are none."""
    reasons = list(dict.fromkeys(chain.from_iterable(question(pair) for question in form.assumes)))
    if group is not None:
        reasons += ask.own_workers(pair)
    try:
        found = [] if reasons else list(form.values(pair))
    except Refused as refused:
        reasons = [str(refused)]
    if reasons:
        return [_without(form, group, reasons)]
    return [
        ClosedForm(
            metric=metric,
            group=group,
            formula=form.formula,
            title=form.title,
            value=value,
            kind=form.kind,
            why=why,
            source=form.source,
        )
        for metric, value, why in found
    ]


def _without(form: Form, group: str | None, reasons: list[str]) -> ClosedForm:
    """The row of a formula that does not apply."""
    more = len(reasons) - MOST_REASONS
    return ClosedForm(
        metric=form.metric,
        group=group,
        formula=form.formula,
        title=form.title,
        value=None,
        kind="none",
        why="; ".join(reasons[:MOST_REASONS]) + (f"; and {more} more" if more > 0 else ""),
        source=form.source,
    )


def _amplification(scenario: Scenario) -> Iterator[ClosedForm]:
    """The most attempts that any policy in use allows: a bound for whatever happens."""
    most = 0
    for endpoint in scenario.endpoints.values():
        if endpoint.policy is not None and endpoint.mode is None:
            pair = Pair(scenario, endpoint.policy, "")
            most = max(most, pair.attempts)
    endless = most >= FOREVER
    known = 0 < most < FOREVER
    nothing = "schedules without an end allow any number" if endless else "all endpoints poll"
    counted = f"{most:,} attempt{'s' if most > 1 else ''}"
    yield ClosedForm(
        metric="attempts_per_delivery",
        group=None,
        formula="amplification",
        title="amplification",
        value=float(theory.amplification(most, 1)) if known else None,
        kind="bound" if known else "none",
        why=f"if everything fails, each delivery makes {counted}" if known else nothing,
        source="counting",
    )
