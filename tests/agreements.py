"""Synthetic real runs: simulated traces changed in known ways, as a load test would hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

import sim
from sim import model
from sim.scenario import Scenario, load
from sim.trace import Trace

CALM: Mapping[str, Any] = {
    "name": "calm",
    "seed": 3,
    "horizon": "40s",
    "drain": "60s",
    "producers": {"p": {"arrivals": {"poisson": "15/s"}, "keys": {"count": 20}}},
    "endpoints": {"e": {"count": 2, "policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "1s", "5s"], "timeout": "1s"}},
    "receivers": {
        "r": {
            "latency": {"lognormal": {"median": "100ms", "p99": "1s"}},
            "faults": [{"error": {"probability": "20%"}}, {"lost_answer": {"probability": "2%"}}],
        }
    },
}
"""No timing decides a fate here."""
BUSY: Mapping[str, Any] = {
    "name": "busy",
    "seed": 1,
    "horizon": "100s",
    "drain": "100s",
    "producers": {"p": {"arrivals": {"poisson": "31/s"}, "keys": {"count": 10}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "2s", "10s"], "timeout": "30s"}},
    "receivers": {
        "r": {
            "latency": {"exponential": {"mean": "50ms"}},
            "servers": 2,
            "faults": [{"error": {"probability": "3%"}}],
        }
    },
}
"""A receiver at 80 % of what it can do, retries included."""


def simulated(scenario: Scenario, seed: int | None = None) -> Trace:
    """A simulated run."""
    return sim.run(scenario, seed=seed, engine="simpy").trace


def built(scenario: Scenario) -> model.Model:
    """The model of a scenario."""
    return model.build(scenario)


def as_real(scenario: Scenario, *overrides: str, seed: int | None = None) -> Trace:
    """A run of a changed scenario that says to be a real one of the scenario as it is."""
    trace = simulated(load(scenario, overrides), seed)
    about = {"engine": "real", "scenario": scenario.to_yaml(), "seed": scenario.seed}
    return replace(trace, meta=trace.meta | about)


def with_attempts(trace: Trace, attempts: pd.DataFrame) -> Trace:
    """The trace with other attempts."""
    return replace(trace, attempts=attempts.reset_index(drop=True))


def without(trace: Trace, column: str, value: str) -> Trace:
    """The trace without the rows of an event or a delivery."""
    return replace(
        trace,
        attempts=trace.attempts[trace.attempts[column] != value].reset_index(drop=True),
        deliveries=trace.deliveries[trace.deliveries[column] != value].reset_index(drop=True),
    )
