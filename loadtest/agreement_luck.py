"""Whether a run differs from simulated ones by more than these differ from each other: a Monte Carlo test.

Where timing decides fates, a run is one draw of many. Its deliveries share queues and outages, so tests over them
(of quantiles, of proportions, Kolmogorov and Smirnov's) take far too little for luck. Runs are independent of each
other, so runs are compared: the run in question joins N simulated ones, every run is measured by how far it lies from
all the others, in the figure in which it lies farthest; and the run in question disagrees where it lies farther than
every simulated one. If it is drawn as they are, each of the N + 1 is the farthest with the same chance, so a false
alarm has the chance 1 / (N + 1) at most, over all figures together, whatever their distributions and however they
depend on each other. Source: Barnard, in the discussion of Bartlett, *The spectral analysis of point processes*,
J. R. Stat. Soc. B 25 (1963); the largest deviation over figures: Westfall and Young, *Resampling-based multiple
testing* (1993).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sim.experiment_session import replication_seed
from sim.fields import Nanoseconds, format_duration
from sim.model import Model
from sim.result import run
from sim.scenario import Scenario
from sim.trace import Trace

Floats = np.ndarray[Any, np.dtype[np.float64]]

RUNS = 19
"""Simulated runs if nothing else is said: a false alarm in 20 at most."""
LEAST_OVERHEAD_S = 0.001
"""The least spread of overheads among runs with the same luck, s: timers of an event loop are good to 1 ms."""
DISTANCE = "delivery_latency_s_distance"
"""The largest difference of a run's latency distribution to that of all other runs (Kolmogorov and Smirnov's)."""


class Luck(NamedTuple):
    """How far a run lies from simulated ones."""

    deviations: Mapping[str, float]
    """By figure, how far the run lies from the others: in their standard deviations and allowances."""
    farthest: float
    """The largest deviation of any simulated run, over all figures."""
    distances: tuple[float, float]
    """``DISTANCE`` of the first simulated run and of the run itself."""
    runs: int
    """Simulated runs."""

    def allows(self, name: str) -> bool:
        """Whether a figure deviates no more than a simulated run does somewhere; False for unknown ones."""
        return self.deviations.get(name, np.inf) <= self.farthest


def judge(run_: Trace, simulated: Sequence[Trace], allowed: Mapping[str, float]) -> Luck:
    """Hold a run against simulated ones in these figures and in ``DISTANCE``.

    ``allowed``: by figure, the difference that nobody minds, above 0; it keeps a figure that hardly ever varies from
    making much of nothing. Figures that a run does not have are left out.
    """
    runs = [*simulated, run_]
    names = [name for name in allowed if name != DISTANCE]
    values = np.array([[trace.metrics[name] for name in names] for trace in runs])
    known = ~np.isnan(values).any(axis=0)
    far = distances([latencies(trace) for trace in runs])
    names = [name for name, kept in zip(names, known, strict=True) if kept] + [DISTANCE]
    table = np.column_stack((values[:, known], far))
    found = deviations(table, np.array([allowed[name] for name in names]))
    return Luck(
        deviations=dict(zip(names, found[-1].tolist(), strict=True)),
        farthest=float(found[:-1].max()),
        distances=(float(far[0]), float(far[-1])),
        runs=len(simulated),
    )


def deviations(values: Floats, allowed: Floats) -> Floats:
    """For every run (row) and figure (column) its distance from the mean of the others, in their spread.

    The spread is the standard deviation of the others plus what is allowed. All runs are treated alike, which is
    what the test rests on.
    """
    found = np.empty_like(values)
    for row in range(len(values)):
        others = np.delete(values, row, axis=0)
        spread = others.std(axis=0, ddof=1) + allowed
        found[row] = np.abs(values[row] - others.mean(axis=0)) / spread
    return found


def distances(samples: Sequence[Floats]) -> Floats:
    """For each sample its largest difference to the distribution of all others together; 1 where one is empty."""
    found = np.ones(len(samples))
    whole = np.sort(np.concatenate(samples))
    below = [np.searchsorted(np.sort(own), whole, side="right") for own in samples]
    together = np.sum(below, axis=0)
    for row, own in enumerate(samples):
        rest = len(whole) - len(own)
        if len(own) and rest:
            found[row] = float(np.abs(below[row] / len(own) - (together - below[row]) / rest).max())
        elif not len(whole):
            found[row] = 0.0
    return found


def latencies(trace: Trace) -> Floats:
    """From creation to first processing of the deliveries of the window of figures, s."""
    made, meta = trace.deliveries, trace.meta
    inside = made[(made["created_s"] >= meta["warmup_s"]) & (made["created_s"] < meta["horizon_s"])]
    found: Floats = (inside["first_processed_s"] - inside["created_s"]).dropna().to_numpy(dtype=float)
    return found


# --------------------------------------------------------------------------- simulated runs


def same_luck(model: Model, overhead_s: float, count: int = RUNS) -> list[Trace]:
    """Runs with the very luck of the model and a sender a little slower each time: what timing alone does.

    Their overheads spread evenly up to twice the one given (at least ``LEAST_OVERHEAD_S``) above the scenario's own.
    """
    own = int(model.scenario.dispatcher.overhead)
    most = 2e9 * max(overhead_s, LEAST_OVERHEAD_S)
    return [
        run(delayed(model.scenario, own + round(most * (n + 1) / count)), seed=model.seed, stream=False).trace
        for n in range(count)
    ]


def other_luck(model: Model, count: int = RUNS) -> list[Trace]:
    """Runs with other seeds: what luck does."""
    return [
        run(model.scenario, seed=replication_seed(model.seed, n + 2), stream=False).trace
        for n in range(count)
    ]


def delayed(scenario: Scenario, overhead_ns: int) -> Scenario:
    """The scenario with another overhead of its dispatcher."""
    return scenario.with_overrides([f"dispatcher.overhead={format_duration(Nanoseconds(overhead_ns))}"])
