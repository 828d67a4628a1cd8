"""What breaks first: the same scenario under several times its load, and which resource gives way.

A resource is *broken* where its figure, the mean over replications, reaches its limit:

- **workers**: ``worker_utilization`` reaches ``BUSY``; beyond it the wait for a worker grows faster than the load;
- **receiver**: ``receiver_queue_max`` reaches what receivers can serve within the sender's timeout, or their backlog:
  what waits longer is given up and sent again while the receiver still works on it. The queues of all receivers are
  taken together, so that one that breaks among many that do not is noticed late;
- **storage**: ``backlog_bytes_max`` reaches the room given; where none is given: more than ``BEHIND`` of the deliveries
  of the horizon are delivered only after its end, so the backlog grows as long as the load lasts;
- **order**: ``late_share`` reaches ``LATE``.

Which is first at a load is decided by the load at which each of the broken breaks, and where that is the same, by what
follows from what: a receiver that breaks keeps workers waiting, busy workers let the backlog grow, and what waits long
is overtaken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sim import dice, experiment_results, intervals, model, planning_world
from sim.errors import Problem, ScenarioError
from sim.execution import Progress
from sim.experiment import Source, how_many, seeded
from sim.experiment_results import Experiment
from sim.experiment_session import Variant, session
from sim.fields import parse_size
from sim.planning_results import figure_of
from sim.policy import attempt_timeout
from sim.scenario import Scenario, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "load"
"""Of its folder."""
LOADS = (1.0, 2.0, 5.0, 10.0)
REPLICATIONS = 10
MOST_TIMES = 1000.0
BUSY = 0.95
BEHIND = 0.05
LATE = 0.01
RECEIVER, WORKERS, STORAGE, ORDER = RESOURCES = ("receiver", "workers", "storage", "order")
"""Causes before what follows from them."""


@dataclass(frozen=True, kw_only=True)
class Strain:
    """A resource under a load."""

    load: float
    resource: str
    figure: str
    """The figure of a run that tells of it, or ``behind_share``."""
    value: float
    limit: float
    """Infinite where the scenario gives it none."""

    @property
    def strain(self) -> float:
        """The part of its limit that is used; NaN where there is no figure, such as the use of unlimited workers."""
        return self.value / self.limit

    @property
    def broken(self) -> bool:
        """Whether the limit is reached."""
        return self.strain >= 1


@dataclass(frozen=True, repr=False, kw_only=True)
class Stress(Experiment):
    """A scenario under several loads."""

    loads: tuple[float, ...]
    strains: tuple[Strain, ...]

    def first_broken(self, load: float) -> str | None:
        """Of the resources that are broken at a load, the one that breaks at the lowest; None if all hold."""
        since: dict[str, float] = {}
        for strain in self.strains:
            if strain.broken:
                since.setdefault(strain.resource, strain.load)
        broken = [strain.resource for strain in self.strains if strain.load == load and strain.broken]
        return min(broken, key=lambda name: (since[name], RESOURCES.index(name)), default=None)

    @property
    def breaks(self) -> tuple[float, str] | None:
        """The first of the loads at which something breaks, and what; None if nothing does."""
        return next(((load, name) for load in self.loads if (name := self.first_broken(load))), None)

    @property
    def tried(self) -> pd.DataFrame:
        """One row per load and resource: load, resource, figure, value, limit, strain, broken."""
        names = ("load", "resource", "figure", "value", "limit", "strain", "broken")
        return pd.DataFrame([{name: getattr(strain, name) for name in names} for strain in self.strains])

    def plot(self, ax: Axes | None = None) -> Axes:
        """How much of its limit each resource uses, by load."""
        from sim.plots_plan import strain_curve

        return strain_curve(self, ax)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab plan --load --json`` prints; a number that does not exist is None."""
        return {
            **super().to_json(),
            "breaks": None if self.breaks is None else {"load": self.breaks[0], "resource": self.breaks[1]},
            "first": {f"{load:g}": self.first_broken(load) for load in self.loads},
            "tried": experiment_results.records(self.tried),
        }


def stress(
    scenario: Source,
    loads: Sequence[float] | str = LOADS,
    *,
    storage: int | str | None = None,
    replications: int | None = None,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> Stress:
    """Run a scenario under several times its load and tell what breaks first.

    ``loads``: multiples of all rates of arrivals, as numbers or a text ``1,2,5,10``. ``storage``: room for the
    backlog, such as ``10GB``. ``replications`` of each load (default 10). The rest as in ``planning.plan``.

    Raises:
        ScenarioError: anything wrong with the scenario or an argument, arrivals are recorded, or a run could not be
            finished.
    """
    base = seeded(load(scenario, overrides), seed)
    count, _ = how_many(replications, None, REPLICATIONS)
    multiples = _loads(loads)
    room = _storage(storage)
    points = [
        Variant(f"{times:g}×", {"load": times}, planning_world.with_load(base, times)) for times in multiples
    ]
    with session(
        KIND,
        base,
        points,
        count,
        jobs=jobs,
        dask=dask,
        out=out,
        table_format=table_format,
        progress=progress,
    ) as under_way:
        under_way.run(points, range(1, count + 1))
        under_way.require_finished(points)
        runs = under_way.runs(points)
        table = experiment_results.table_of(runs, ["load"], intervals.CONFIDENCE)
        means = table.pivot(index="load", columns="metric", values="mean")
        found = Stress(
            scenario=base.name,
            seed=base.seed,
            replications=count,
            confidence=intervals.CONFIDENCE,
            warnings=under_way.warnings(points, [0]),
            runs=runs,
            table=table,
            loads=multiples,
            strains=tuple(
                strain
                for point in points
                for strain in strains(
                    point.labels["load"],
                    point.scenario,
                    {str(name): float(value) for name, value in means.loc[point.labels["load"]].items()},
                    room,
                )
            ),
        )
        pictures = {"curve": lambda: figure_of(found.plot())}
        under_way.finish({"runs": runs, "table": table, "tried": found.tried}, found.to_json(), pictures)
        return found


def _loads(given: Sequence[float] | str) -> tuple[float, ...]:
    try:
        parts = given.split(",") if isinstance(given, str) else list(given)
        loads = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        loads = ()
    if not loads or not all(0 < times <= MOST_TIMES for times in loads) or list(loads) != sorted(set(loads)):
        rule = f"must be rising multiples above 0 and up to {MOST_TIMES:,.0f}, such as 1,2,5,10"
        raise ScenarioError([Problem("load", given, rule)])
    return loads


def _storage(given: int | str | None) -> float:
    if given is None:
        return math.inf
    try:
        return float(parse_size(given)) or math.ulp(0.0)
    except ValueError as error:
        raise ScenarioError([Problem("storage", given, str(error))]) from None


# --------------------------------------------------------------------------- limits


def strains(times: float, scenario: Scenario, means: Mapping[str, float], room: float) -> Iterator[Strain]:
    """How much each resource is used, from the means of the figures of a load; ``room``: for the backlog, bytes."""
    yield Strain(
        load=times,
        resource=WORKERS,
        figure="worker_utilization",
        value=means["worker_utilization"],
        limit=BUSY,
    )
    yield Strain(
        load=times,
        resource=RECEIVER,
        figure="receiver_queue_max",
        value=means["receiver_queue_max"],
        limit=receiver_room(scenario),
    )
    if math.isfinite(room):
        stored = means["backlog_bytes_max"]
        yield Strain(load=times, resource=STORAGE, figure="backlog_bytes_max", value=stored, limit=room)
    else:
        behind = behind_share(scenario, means)
        yield Strain(load=times, resource=STORAGE, figure="behind_share", value=behind, limit=BEHIND)
    yield Strain(load=times, resource=ORDER, figure="late_share", value=means["late_share"], limit=LATE)


def receiver_room(scenario: Scenario) -> float:
    """Requests that may wait at all receivers until the last of them is given up before it is served, or turned away.

    Infinite where a receiver serves any number at once, or nothing is pushed.
    """
    built = model.build(scenario, scenario.seed)
    total = 0.0
    for member in built.members:
        if member.policy < 0:
            continue
        receiver = built.receivers[member.receiver]
        if receiver.servers == 0:
            return math.inf
        served_s = dice.mean_s(*receiver.latency)
        timeout_s = attempt_timeout(built.policies[member.policy], 1) / 1e9
        patience = timeout_s * receiver.servers / served_s if served_s > 0 else math.inf
        total += patience if receiver.backlog < 0 else min(patience, max(receiver.backlog, 1))
    return total or math.inf


def behind_share(scenario: Scenario, means: Mapping[str, float]) -> float:
    """The part of the deliveries of the horizon that was delivered, but only after its end."""
    window_s = (scenario.horizon - scenario.warmup) / 1e9
    if not means["deliveries"]:
        return math.nan
    by_then = means["delivered_per_s"] * window_s / means["deliveries"]
    return max(means["delivered_share"] + means["unsettled_share"] - by_then, 0.0)
