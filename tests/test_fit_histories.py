"""Recorded receivers: what the first half of a history says of the second, whatever came."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import halves

pytestmark = pytest.mark.shared

REAL = {"FoodCoopX/upptime": "0.631", "DHBern/upptime_digitaleditions": "0.000"}
"""Share of events that timepad lost in the second half, per cent."""
INSIDE = {"FoodCoopX/upptime": False, "DHBern/upptime_digitaleditions": True}
"""Whether the interval of the prediction held it: FoodCoopX had more than twice the outages of its first half."""


@pytest.mark.parametrize("source", halves.SOURCES)
def test_the_first_half_predicts_the_second_as_well_as_it_can(shared: Path, source: str) -> None:
    """Prediction, interval and what really came; the replay in the simulator agrees with the intersection."""
    half = halves.predict(shared, source, worlds=20, events=20_000)
    assert f"{half.real:.3%}".removesuffix("%") == REAL[source]
    assert half.replayed == pytest.approx(half.real, abs=4 * (max(half.real, 1e-6) / 10_000) ** 0.5)
    assert half.low <= half.predicted <= half.high
    assert (half.low <= half.real <= half.high) == INSIDE[source]
    assert any("down together" in text for text in half.fit.warnings)


@pytest.mark.parametrize("source", halves.SOURCES)
def test_a_fitted_history_is_down_as_much_as_it_was(shared: Path, source: str) -> None:
    """Up and down times of the whole history, fitted, give the share of time that endpoints were down."""
    from sim import calibrate_outages, fit

    fitted = fit(shared / "data/receivers/upptime_checks.csv.gz", where={"source": source})
    up, down = (d.mean_s for d in fitted.durations if d.what.startswith("outage"))
    assert down / (up + down) == pytest.approx(calibrate_outages.share_down(fitted.history), rel=0.1)
