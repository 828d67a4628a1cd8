"""Whether a real run of a scenario agrees with its simulation: what is compared, and the verdict.

Both sides draw the same luck at the same addresses. So where nothing in a scenario depends on timing
(``agreement_timing``), every delivery must have the same fate on both sides (``agreement_fates``) and figures must lie
within tolerances (``agreement_figures``). Where something does, the real run is held against simulated runs that
differ from each other by a sender a little slower each time (``agreement_luck``).

A run that broke its own rules (a process died, events are missing, the generator could not keep up) is invalid: it
says nothing about agreement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from loadtest.agreement_fates import Difference, Fates, compare_fates
from loadtest.agreement_figures import Compared, Sides, Tolerances, allowances, compare_figures
from loadtest.agreement_luck import Luck, delayed, judge, latencies, same_luck
from loadtest.agreement_timing import timing_reasons
from sim.calibrate_sender import overhead
from sim.model import Model
from sim.result import run
from sim.scenario import Scenario
from sim.trace import Trace

__all__ = [
    "Agreement",
    "Compared",
    "Difference",
    "Evidence",
    "Fates",
    "Tolerances",
    "compare",
    "timing_reasons",
    "with_overhead",
]

ALPHA = 0.01
"""Level at which Kolmogorov and Smirnov's test is said to tell two distributions apart."""
MOST_LISTED = 20
"""Deliveries that JSON lists of each kind."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What else speaks for or against agreement; it decides nothing.

    ``ks_p`` takes deliveries for independent of each other. In a queue, or in an outage, neighbours share their fate,
    so it is far too ready to tell two runs apart there; the figure ``delivery_latency_s_distance`` has no such flaw.
    """

    ks_distance: float
    ks_p: float
    ks_alpha: float
    slower_s_p50: float
    """How much longer deliveries took to be processed for real, of those processed on both sides: the median, s."""
    slower_s_p99: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A verdict and all that it rests on."""

    scenario: str
    seed: int
    timing_reasons: tuple[str, ...]
    invalid: tuple[str, ...]
    fates: Fates | None
    """None where timing decides fates."""
    luck: Luck | None
    """None where it does not."""
    figures: tuple[Compared, ...]
    evidence: Evidence
    sides: Sides = field(repr=False)

    @property
    def valid(self) -> bool:
        """Whether the real run was a fair one."""
        return not self.invalid

    @property
    def exact(self) -> bool:
        """Whether fates had to be equal one by one."""
        return self.fates is not None

    @property
    def agree(self) -> bool:
        """Whether the run is valid, fates are equal where they must be, and all figures are near enough."""
        fates_ok = self.fates is None or self.fates.ok
        return self.valid and fates_ok and all(row.ok for row in self.figures)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab agree --json`` prints; a figure that does not exist is None."""
        return {
            "agree": self.agree,
            "valid": self.valid,
            "scenario": self.scenario,
            "seed": self.seed,
            "compared": "fates" if self.exact else "distributions",
            "timing_reasons": list(self.timing_reasons),
            "invalid": list(self.invalid),
            "fates": None if self.fates is None else _fates_json(self.fates),
            "simulated_runs": None if self.luck is None else self.luck.runs,
            "metrics": {
                row.name: {
                    "sim": _number(row.sim),
                    "real": _number(row.real),
                    "ok": row.ok,
                    "sim_with_overhead": _number(row.slowed),
                    "difference": _number(row.difference),
                    "rule": row.rule,
                }
                for row in self.figures
            },
            "evidence": {name: _number(value) for name, value in vars(self.evidence).items()},
        }


# --------------------------------------------------------------------------- comparing


def compare(
    simulated: Trace,
    real: Trace,
    model: Model,
    *,
    invalid: Sequence[str] = (),
    slowed: Trace | None = None,
    runs: Sequence[Trace] | None = None,
    tolerances: Tolerances | None = None,
) -> Agreement:
    """Compare a real run of a model with its simulation.

    ``invalid``: why the real run must not be believed, as whoever ran it saw it (``LoadResult.invalid``).
    ``slowed``: the simulation ``with_overhead``; ``runs``: further simulated runs, for where timing decides fates
    (``agreement_luck.same_luck`` or ``other_luck``). Both are simulated here if they are not given.
    """
    tolerances = tolerances or Tolerances()
    slower = with_overhead(model.scenario, real)
    if slowed is None:
        slowed = run(slower, seed=model.seed, stream=False).trace
    sides = Sides(simulated, slowed, real)
    reasons = timing_reasons(model.scenario, simulated)
    fates = luck = None
    if reasons:
        added = (slower.dispatcher.overhead - model.scenario.dispatcher.overhead) / 1e9
        more = same_luck(model, added) if runs is None else runs
        limits = {name: limit for name, (limit, _) in allowances(simulated, tolerances).items()}
        luck = judge(real, [simulated, *more], limits)
    else:
        fates = compare_fates(simulated, real, model)
    return Agreement(
        scenario=model.scenario.name,
        seed=model.seed,
        timing_reasons=reasons,
        invalid=(*_broken(simulated, real, model), *invalid),
        fates=fates,
        luck=luck,
        figures=compare_figures(sides, tolerances, fates, luck),
        evidence=_evidence(simulated, real),
        sides=sides,
    )


def with_overhead(scenario: Scenario, real: Trace) -> Scenario:
    """The scenario with what the sender adds to each attempt in a real run of it, as ``fit`` gives it."""
    return delayed(scenario, overhead(real.attempts).ns)


def _broken(simulated: Trace, real: Trace, model: Model) -> Iterator[str]:
    """What the traces themselves show: another scenario or luck, events that are missing, attempts that stand twice."""
    if real.meta["seed"] != model.seed or simulated.meta["seed"] != model.seed:
        yield f"seeds differ: {simulated.meta['seed']} simulated, {real.meta['seed']} real"
    if real.meta["scenario"] != model.scenario.to_yaml():
        yield "the real run was one of another scenario"
    if simulated.meta["stopped"]:
        yield "the simulation stopped early: its backlog outgrew its limit"
    emitted = set(simulated.deliveries["event_id"])
    arrived = set(real.deliveries["event_id"])
    if missing := sorted(emitted - arrived):
        yield f"{len(missing):,} events are missing from the real run, such as {missing[0]}"
    if foreign := sorted(arrived - emitted):
        yield f"{len(foreign):,} events of the real run are none of the scenario's, such as {foreign[0]}"
    twice = real.attempts.duplicated(["delivery_id", "attempt_number"])
    if twice.any():
        first = real.attempts[twice].iloc[0]
        yield (
            f"{int(twice.sum()):,} attempts stand twice in the real run, such as attempt {first['attempt_number']} of "
            f"{first['delivery_id']}"
        )


def _evidence(simulated: Trace, real: Trace) -> Evidence:
    own, other = latencies(simulated), latencies(real)
    distance, p = math.nan, math.nan
    if len(own) and len(other):
        test = stats.ks_2samp(own, other, method="asymp")
        distance, p = float(test.statistic), float(test.pvalue)
    columns = ["delivery_id", "created_s", "first_processed_s"]
    both = simulated.deliveries[columns].merge(real.deliveries[columns], on="delivery_id")
    slower = (both["first_processed_s_y"] - both["created_s_y"]) - (
        both["first_processed_s_x"] - both["created_s_x"]
    )
    known = slower.dropna().to_numpy()
    median, high = np.quantile(known, (0.5, 0.99)).tolist() if len(known) else (math.nan, math.nan)
    return Evidence(ks_distance=distance, ks_p=p, ks_alpha=ALPHA, slower_s_p50=median, slower_s_p99=high)


# --------------------------------------------------------------------------- JSON


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _fates_json(fates: Fates) -> Mapping[str, Any]:
    def listed(found: Sequence[Difference]) -> list[dict[str, Any]]:
        return [
            {
                "delivery_id": one.delivery_id,
                **{
                    side: {"state": fate.state, "attempts": [list(pair) for pair in fate.attempts]}
                    for side, fate in (("sim", one.sim), ("real", one.real))
                },
            }
            for one in found[:MOST_LISTED]
        ]

    return {
        "ok": fates.ok,
        "deliveries": fates.deliveries,
        "near_timeout": fates.near_timeout,
        "excused_count": len(fates.excused),
        "excused": listed(fates.excused),
        "different_count": len(fates.different),
        "different": listed(fates.different),
    }
