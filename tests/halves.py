"""Recorded receivers cut in half: what a scenario fitted to the first half says of the second, and what that gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import sim
import sim.calibrate_log
from sim import calibrate_outages, presets
from sim.calibrate_families import uniforms
from sim.calibrate_outages import Period

SOURCES = ("FoodCoopX/upptime", "DHBern/upptime_digitaleditions")
OFFSETS_S = np.cumsum([0.0, 3600.0, 86_400.0])
"""Attempts of the policy timepad after the event, if none takes any time."""
MANY = 400
"""Endpoints of the world that tells the long-run share."""


class Half(NamedTuple):
    """The share of events that the policy timepad loses in the second half of a history."""

    predicted: float
    """Of the scenario fitted to the first half, in the long run."""
    low: float
    high: float
    """95 % of worlds as large and long as the second half: endpoints of the first half drawn again, fitted, run."""
    real: float
    """By intersecting the outages of the second half, shifted by the attempts."""
    replayed: float
    """By the simulator, which replays them."""
    endpoints: int
    outages: tuple[int, int]
    """In the first half and in the second."""
    fit: sim.FitResult


def down(outages: Any, at: Any) -> Any:
    """Whether times fall into outages, which do not overlap."""
    return np.searchsorted(outages.ravel(), at, side="right") % 2 == 1


def windows(second: dict[str, Period]) -> dict[str, tuple[float, float]]:
    """When events may happen: so early that all their attempts are watched."""
    ends = {name: (p.start_s, p.end_s - float(OFFSETS_S[-1])) for name, p in second.items()}
    return {name: window for name, window in ends.items() if window[1] > window[0]}


def lost_share(second: dict[str, Period]) -> float:
    """Share of the arrival times at which every attempt meets an outage."""
    lost = watched = 0.0
    for name, (low, high) in windows(second).items():
        outages = second[name].outages
        edges = np.unique(
            np.clip(np.append((outages.ravel() - OFFSETS_S[:, None]).ravel(), [low, high]), low, high)
        )
        middles = (edges[1:] + edges[:-1]) / 2
        hit = np.logical_and.reduce([down(outages, middles + after) for after in OFFSETS_S])
        lost += float(np.diff(edges)[hit].sum())
        watched += high - low
    return lost / watched


def policy() -> dict[str, Any]:
    """The policy timepad under a name of its own."""
    assert presets.read("policies", "timepad")["policy"]["timeout"] == "5s"
    return {"preset": "timepad"}


def receiver(fault: dict[str, Any]) -> dict[str, Any]:
    """A receiver that answers at once, but for this outage."""
    return {"latency": "0s", "faults": [fault]}


def world(
    faults: dict[str, Any], counts: dict[str, int], length_s: float, events: int, seed: int
) -> sim.Result:
    """Events spread over the time; each goes to one member of every group."""
    return sim.run(
        {
            "name": "halves",
            "seed": seed,
            "horizon": f"{length_s:.0f}s",
            "producers": {
                "p": {"arrivals": {"poisson": f"{events / length_s!r}/s"}, "keys": {"count": 12_600}}
            },
            "endpoints": {
                name: {"count": counts[name], "route": "by_key", "policy": "timepad", "receiver": name}
                for name in faults
            },
            "policies": {"timepad": policy()},
            "receivers": {name: receiver(fault) for name, fault in faults.items()},
            "dispatcher": {"workers": "unlimited"},
        }
    )


def replayed_share(
    shared: Path, source: str, second: dict[str, Period], origin_s: float, events: int
) -> float:
    """Share lost when the simulator replays the second half, events and windows as in ``lost_share``."""
    names = list(dict.fromkeys(_outage_rows(shared, source)))
    outage = {
        "replay": {
            "file": str(shared / "data/receivers/upptime_outages.csv.gz"),
            "start": "down_start",
            "end": "down_end",
            "endpoint": "endpoint",
            "where": {"source": source},
            "origin": origin_s,
        }
    }
    length = max(p.end_s for p in second.values())
    result = world({"replayed": {"outage": outage}}, {"replayed": len(names)}, length, events, seed=11)
    deliveries = result.deliveries
    member = deliveries["endpoint"].astype(str).str.partition(":")[2].astype(int).to_numpy()
    allowed = windows(second)
    low, high = (np.array([allowed.get(name, (0.0, 0.0))[side] for name in names])[member] for side in (0, 1))
    created = deliveries["created_s"].to_numpy()
    inside = (created >= low) & (created < high)
    lost = (deliveries["state"] == "dead").to_numpy() & inside
    lengths = {name: end - start for name, (start, end) in allowed.items()}
    part = sum(length for name, length in lengths.items() if name in names) / sum(lengths.values())
    return float(lost.sum() / inside.sum() * part)


def _outage_rows(shared: Path, source: str) -> list[str]:
    import pandas as pd

    frame = pd.read_csv(shared / "data/receivers/upptime_outages.csv.gz")
    return [str(name) for name in frame.loc[frame["source"] == source, "endpoint"]]


def predict(shared: Path, source: str, worlds: int = 40, events: int = 20_000) -> Half:
    """Fit the first half, run it, and hold it against the second."""
    path = shared / "data/receivers/upptime_checks.csv.gz"
    log = sim.calibrate_log.read(path, where={"source": source})
    whole, _ = calibrate_outages.of_log(log)
    end = max(p.end_s for p in whole.values())
    middle = end / 2
    fitted = sim.fit(path, where={"source": source}, observed=(None, log.origin_s + middle))
    second = {
        name: Period(p.start_s - middle, p.end_s - middle, p.outages - middle)
        for name, p in calibrate_outages.between(whole, middle, end).items()
    }
    faults = {"fitted": fitted.receiver["faults"][0]}
    forms = tuple(fit.family for fit in fitted.durations if fit.what.startswith("outage"))
    names = list(fitted.history)
    for number in range(worlds):
        drawn = (uniforms(f"endpoints {number}", len(names)) * len(names)).astype(int)
        again = {str(i): fitted.history[names[j]] for i, j in enumerate(drawn.tolist())}
        found, _ = calibrate_outages.fit_outages(again, "refuse", forms=forms)  # type: ignore[arg-type]
        assert found is not None
        faults[f"w{number}"] = found.fault
    counts = {name: len(windows(second)) for name in faults} | {"fitted": MANY}
    result = world(faults, counts, end - middle, events, seed=3)
    shares = result.metrics_by("endpoint")["lost_share"]
    spread = shares.drop("fitted").to_numpy()
    low, high = np.quantile(spread, (0.025, 0.975))
    return Half(
        predicted=float(shares["fitted"]),
        low=float(low),
        high=float(high),
        real=lost_share(second),
        replayed=replayed_share(shared, source, second, log.origin_s + middle, events),
        endpoints=len(windows(second)),
        outages=(
            sum(len(p.outages) for p in fitted.history.values()),
            sum(len(p.outages) for p in second.values()),
        ),
        fit=fitted,
    )
