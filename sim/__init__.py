"""hooklab: a laboratory for webhook delivery.

``sim.run("dreamkas")`` simulates a bundled scenario; ``sim.load`` reads one. Names are imported when they are
first used, so that ``import sim`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.calibrate import FitResult, fit
    from sim.errors import ScenarioError
    from sim.experiment import compare, replicate, sweep
    from sim.planning import plan
    from sim.planning_breaking import breaking_point
    from sim.planning_load import stress
    from sim.result import Result, run
    from sim.scenario import Scenario, load
    from sim.trace import Trace
    from sim.user import Reply, Request

_HOMES = {
    "FitResult": "sim.calibrate",
    "Reply": "sim.user",
    "Request": "sim.user",
    "Result": "sim.result",
    "Scenario": "sim.scenario",
    "ScenarioError": "sim.errors",
    "Trace": "sim.trace",
    "breaking_point": "sim.planning_breaking",
    "compare": "sim.experiment",
    "fit": "sim.calibrate",
    "load": "sim.scenario",
    "plan": "sim.planning",
    "replicate": "sim.experiment",
    "run": "sim.result",
    "stress": "sim.planning_load",
    "sweep": "sim.experiment",
}

__all__ = [
    "FitResult",
    "Reply",
    "Request",
    "Result",
    "Scenario",
    "ScenarioError",
    "Trace",
    "breaking_point",
    "compare",
    "fit",
    "load",
    "plan",
    "replicate",
    "run",
    "stress",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in (
        "beside",
        "contention",
        "holdout",
        "metrics",
        "notebook",
        "plots",
        "theory",
    ):  # modules a notebook reaches for
        return import_module(f"sim.{name}")
    raise AttributeError(f"module 'sim' has no attribute {name!r}")
