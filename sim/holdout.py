"""A fit held against what came after it: losses predicted from one part of a log, and those of the part held back.

The interval of a prediction holds the luck of outages to come and what a short log leaves open: in each of many
worlds the endpoints of the log are drawn again with replacement, their outages fitted anew, and the world run once.
It does not hold that the future may differ from the past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim import calibrate_outages, catalogue
from sim.calibrate import NAME, FitResult, fit
from sim.calibrate_families import uniforms
from sim.calibrate_outages import History, Period
from sim.errors import Problem, ScenarioError
from sim.experiment import sweep
from sim.result import run

DAY_S = 86_400.0
SPREAD = (0.025, 0.975)
"""Quantiles of the worlds that an interval reaches to."""


def predict(
    fitted: FitResult, policies: Sequence[str], days: float, worlds: int = 40, events: int = 20_000
) -> pd.DataFrame:
    """The share of deliveries that each bundled policy will lose in so many days, from a fit.

    A row for each policy: policy, mean, low, high (95 % of ``worlds``); ``events``: of each world.

    Raises:
        ScenarioError: the fit has no outages, or too few to be drawn again.
    """
    lost = []
    for world in range(worlds):
        scenario = fitted.scenario(policies[0]) | {
            "horizon": f"{days * DAY_S:.0f}s",
            "producers": {
                NAME: {"arrivals": {"poisson": f"{events / days / DAY_S!r}/s"}, "keys": {"count": 5000}}
            },
            "receivers": {NAME: {**fitted.receiver, "faults": _drawn_again(fitted, world)}},
            "dispatcher": {"workers": "unlimited"},
        }
        scenario["endpoints"][NAME]["route"] = "by_key"
        made = sweep(scenario, vary={f"endpoints.{NAME}.policy": list(policies)}, replications=1, seed=world)
        lost.append(made.runs["lost_share"].to_numpy())
    low, high = np.quantile(lost, SPREAD, axis=0)
    return pd.DataFrame({"policy": list(policies), "mean": np.mean(lost, axis=0), "low": low, "high": high})


def _drawn_again(fitted: FitResult, world: int) -> list[dict[str, Any]]:
    """The faults of the fit, its outage fitted anew to endpoints drawn with replacement."""
    names = list(fitted.history)
    chosen = (uniforms(f"endpoints {world}", len(names)) * len(names)).astype(int).tolist()
    again = {str(place): fitted.history[names[one]] for place, one in enumerate(chosen)}
    forms: Any = tuple(made.family for made in fitted.durations if made.what.startswith("outage"))
    found, why = calibrate_outages.fit_outages(again, "refuse", forms=forms or (None, None))
    if found is None:
        rule = "; ".join(why) or "the log shows no outage"
        raise ScenarioError([Problem("fit", None, f"has no outages to draw again: {rule}")])
    faults = [fault for fault in fitted.receiver.get("faults", []) if "outage" not in fault]
    return [found.fault, *faults]


def replay(history: History, policies: Sequence[str], events: int = 2_000) -> pd.DataFrame:
    """The share of deliveries that each bundled policy loses when the outages of a history are replayed.

    Every endpoint gets ``events`` events, of which those count whose whole schedule was watched: attempts may all be
    made before its watch ends. Endpoints watched for less are left out. A row for each policy: policy, real.

    Raises:
        ScenarioError: no endpoint was watched for as long as the longest of the schedules.
    """
    reaches = [catalogue.entry(policy).horizon_s for policy in policies]
    reach_s = max(np.inf if reach is None else reach for reach in reaches)
    watched = {f"e{number}": period for number, period in enumerate(history.values())}
    watched = {name: period for name, period in watched.items() if period.end_s - period.start_s > reach_s}
    if not watched:
        raise ScenarioError(
            [Problem("history", None, "has no endpoint watched for as long as the schedules last")]
        )
    rows = []
    for policy in policies:
        deliveries = run(_replaying(watched, policy, events)).deliveries
        names = deliveries["endpoint"].astype(str).str.partition(":")[0]
        starts = names.map({name: period.start_s for name, period in watched.items()})
        ends = names.map({name: period.end_s - reach_s for name, period in watched.items()})
        inside = (deliveries["created_s"] >= starts) & (deliveries["created_s"] < ends)
        rows.append((policy, float((deliveries["state"][inside] != "delivered").mean())))
    return pd.DataFrame(rows, columns=["policy", "real"])


def _replaying(watched: Mapping[str, Period], policy: str, events: int) -> dict[str, Any]:
    """A scenario in which each endpoint is down when it was; those never down have one outage after the end."""
    until_s = max(period.end_s for period in watched.values())
    faults = {
        name: [[f"{start:.3f}s", f"{end:.3f}s"] for start, end in period.outages.tolist() if end > start]
        for name, period in watched.items()
    }
    never = [[f"{until_s * 2:.0f}s", f"{until_s * 2 + 1:.0f}s"]]
    return {
        "name": "replay",
        "seed": 1,
        "horizon": f"{until_s:.0f}s",
        "producers": {"events": {"arrivals": {"poisson": f"{events / until_s!r}/s"}}},
        "endpoints": {name: {"policy": policy, "receiver": name} for name in watched},
        "receivers": {
            name: {"latency": "0s", "faults": [{"outage": {"windows": windows or never}}]}
            for name, windows in faults.items()
        },
        "dispatcher": {"workers": "unlimited"},
    }


def halves(checks: str | Path, source: str) -> tuple[FitResult, dict[str, Period]]:
    """A recorded history cut in the middle: the fit of its first half, and the outages of the second.

    ``checks``: a log of checks with a column ``source``, of which the rows with this value are taken. Times of the
    second half begin at 0.
    """
    where = {"source": source}
    whole = fit(checks, where=where)
    origin_s = _origin_s(checks, source)
    end_s = max(period.end_s for period in whole.history.values())
    first = fit(checks, where=where, observed=(None, origin_s + end_s / 2))
    later = calibrate_outages.between(whole.history, end_s / 2, end_s)
    return first, {
        name: Period(period.start_s - end_s / 2, period.end_s - end_s / 2, period.outages - end_s / 2)
        for name, period in later.items()
    }


def _origin_s(checks: str | Path, source: str) -> float:
    from sim import calibrate_log

    return calibrate_log.read(checks, where={"source": source}).origin_s
