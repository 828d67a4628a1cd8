"""Recorded receivers: what the first half of a history says of the second, whatever came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import calibrate_outages, catalogue, fit, holdout
from sim.calibrate_outages import History

pytestmark = pytest.mark.shared

POLICY = "timepad"
OFFSETS_S = np.cumsum([0.0, 3600.0, 86_400.0])
"""Attempts of the policy after the event, if none takes any time."""
WORLDS = {"worlds": 20, "events": 20_000}
EVENTS = 20_000
"""Of the replay, for each endpoint."""
SOURCES = ("FoodCoopX/upptime", "DHBern/upptime_digitaleditions")
REAL = {"FoodCoopX/upptime": "0.631", "DHBern/upptime_digitaleditions": "0.000"}
"""Share of events that the policy lost in the second half, per cent."""
INSIDE = {"FoodCoopX/upptime": False, "DHBern/upptime_digitaleditions": True}
"""Whether the interval of the prediction held it: FoodCoopX had more than twice the outages of its first half."""


def down(outages: Any, at: Any) -> Any:
    """Whether times fall into outages, which do not overlap."""
    return np.searchsorted(outages.ravel(), at, side="right") % 2 == 1


def lost_share(history: History) -> float:
    """Share of the times at which every attempt meets an outage, of those whose attempts are all watched."""
    lost = watched = 0.0
    for period in history.values():
        low, high = period.start_s, period.end_s - float(OFFSETS_S[-1])
        if high <= low:
            continue
        changes = (period.outages.ravel() - OFFSETS_S[:, None]).ravel()
        edges = np.unique(np.clip(np.append(changes, [low, high]), low, high))
        middles = (edges[1:] + edges[:-1]) / 2
        hit = np.logical_and.reduce([down(period.outages, middles + after) for after in OFFSETS_S])
        lost += float(np.diff(edges)[hit].sum())
        watched += high - low
    return lost / watched


@pytest.mark.parametrize("source", SOURCES)
def test_the_first_half_predicts_the_second_as_well_as_it_can(shared: Path, source: str) -> None:
    """Prediction, interval and what really came; the replay in the simulator agrees with the intersection."""
    assert catalogue.entry(POLICY).horizon_s == OFFSETS_S[-1]
    first, second = holdout.halves(shared / "data/receivers/upptime_checks.csv.gz", source)
    days = first.horizon_s / holdout.DAY_S
    (predicted,) = holdout.predict(first, [POLICY], days, **WORLDS).itertuples()
    (replayed,) = holdout.replay(second, [POLICY], events=EVENTS).itertuples()
    real = lost_share(second)
    assert f"{real:.3%}".removesuffix("%") == REAL[source]
    # endpoints that are down together are as good as one: EVENTS is what the mean is of, half of it at the least
    assert replayed.real == pytest.approx(real, abs=4 * (max(real, 1e-6) / (EVENTS / 2)) ** 0.5)
    assert predicted.low <= predicted.mean <= predicted.high
    assert (predicted.low <= real <= predicted.high) == INSIDE[source]
    assert any("down together" in text for text in first.warnings)


@pytest.mark.parametrize("source", SOURCES)
def test_a_fitted_history_is_down_as_much_as_it_was(shared: Path, source: str) -> None:
    """Up and down times of the whole history, fitted, give the share of time that endpoints were down."""
    fitted = fit(shared / "data/receivers/upptime_checks.csv.gz", where={"source": source})
    up, down = (d.mean_s for d in fitted.durations if d.what.startswith("outage"))
    assert down / (up + down) == pytest.approx(calibrate_outages.share_down(fitted.history), rel=0.1)
