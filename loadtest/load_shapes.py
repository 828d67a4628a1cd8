"""Shapes of load over a test: ramp, spike and soak, as factors of a scenario's mean rates.

A shape is another scenario, so that it is simulated like any other; Locust's closed loop follows it by its users.
"""

from __future__ import annotations

from sim import model
from sim.errors import Problem, ScenarioError, nearest, path_of
from sim.fields import format_duration
from sim.scenario import Scenario
from sim.workload import mean_rate_per_s

PARTS = 20
FACTORS: dict[str, tuple[float, ...]] = {
    "ramp": tuple(0.1 + 1.9 * part / (PARTS - 1) for part in range(PARTS)),
    "spike": tuple(5.0 if part in (9, 10) else 1.0 for part in range(PARTS)),
    "soak": (0.5,) * PARTS,
}
"""For each equal part of the horizon, the factor of the mean rate: from a tenth to twice; five times in the middle
tenth; half, for long runs."""


def require(name: str) -> None:
    """Refuse a shape that is none."""
    if name not in FACTORS:
        rule = f"must be {', '.join(FACTORS)}{nearest(name, FACTORS)}"
        raise ScenarioError([Problem("shape", name, rule)])


def factor(name: str, share: float) -> float:
    """The factor at a share of the horizon; the last one holds from its end on."""
    return FACTORS[name][min(int(share * PARTS), PARTS - 1)]


def shaped(scenario: Scenario, name: str) -> Scenario:
    """The scenario with Poisson arrivals of its own mean rates in this shape.

    Raises:
        ScenarioError: the shape is none.
    """
    require(name)
    built = model.build(scenario)
    period = format_duration(built.horizon)
    changes = []
    for producer, source in zip(built.producers, built.sources, strict=True):
        mean = mean_rate_per_s(source.process, built.horizon)
        rates = ", ".join(f"{mean * each!r}/s" for each in FACTORS[name])
        path = path_of(["producers", producer, "arrivals"])
        changes.append(f"{path}={{daily: {{rates: [{rates}], period: {period}}}}}")
    return scenario.with_overrides(changes)
