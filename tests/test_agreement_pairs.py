"""Where a difference comes from: deliveries paired, parts that add up, pictures of them, and real runs in notebooks."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest

from loadtest import agreement_pairs_shown as shown
from loadtest import cli_real, notebook
from loadtest.agreement import Agreement, compare
from loadtest.agreement_pairs import PARTS, differences, lags, longer, overhead_s, pairs
from loadtest.agreement_shown import figures, verdict
from sim.errors import ScenarioError
from sim.scenario import load
from sim.trace import Trace
from tests.agreements import BUSY, CALM, as_real, built, simulated, without
from tests.test_pictures import check_readable, legend

LATE_S = 0.02
WORK_S = 0.004


def later(trace: Trace, start_s: float, finish_s: float) -> Trace:
    """The trace with each attempt started, taken up, processed and finished so much later, and all dues as they are."""
    attempts = trace.attempts.copy()
    attempts["started_s"] += start_s
    for column in ("served_s", "processed_s", "finished_s"):
        attempts[column] += start_s + finish_s
    deliveries = trace.deliveries.copy()
    deliveries["first_processed_s"] += start_s + finish_s
    return replace(trace, attempts=attempts, deliveries=deliveries)


@pytest.fixture(scope="module")
def calm() -> Trace:
    """A run with errors, timeouts and retries, in which no timing decides a fate."""
    return simulated(load(CALM))


@pytest.fixture(scope="module")
def found() -> Agreement:
    """A comparison whose real run is one with 4 ms of work per attempt."""
    scenario = load(CALM)
    return compare(simulated(scenario), as_real(scenario, "dispatcher.overhead=4ms"), built(scenario))


def test_a_run_differs_from_itself_by_nothing(calm: Trace) -> None:
    """All processed deliveries pair off, and no part took longer."""
    frame = pairs(calm, calm)
    assert len(frame) == calm.deliveries["first_processed_s"].notna().sum()
    assert (frame[["difference_s", *PARTS]] == 0).all(axis=None)
    assert (frame["wait_s"] == 0).all()


@pytest.mark.parametrize("mapping", [CALM, BUSY], ids=["calm", "busy"])
def test_parts_add_up_to_the_difference_of_latencies(mapping: Any) -> None:
    """With retries, timeouts and queues at receivers: what a delivery took longer is the sum of its parts."""
    scenario = load(mapping)
    one, other = simulated(scenario), as_real(scenario, "dispatcher.overhead=4ms")
    frame = pairs(one, other).set_index("delivery_id")
    latency = [
        (trace.deliveries["first_processed_s"] - trace.deliveries["created_s"]).set_axis(
            trace.deliveries["delivery_id"]
        )
        for trace in (one, other)
    ]
    expected = (latency[1] - latency[0]).loc[frame.index]
    assert frame["attempt_number"].max() > 1
    assert len(frame) > 0.9 * expected.notna().sum()
    np.testing.assert_allclose(frame["difference_s"], expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(frame[list(PARTS)].sum(axis=1), frame["difference_s"], rtol=0, atol=1e-12)


def test_a_delay_is_found_where_it_was_made(calm: Trace) -> None:
    """Started late, taken up later still: each in its part, for each attempt, and taken back before the next due."""
    other = later(calm, LATE_S, WORK_S)
    frame = pairs(calm, other)
    for part, each_s in (("start_s", LATE_S), ("way_s", WORK_S), ("gap_s", 0.0)):
        attempts = frame["attempt_number"] - (1 if part == "gap_s" else 0)
        back = (LATE_S + WORK_S) * (frame["attempt_number"] - 1) if part == "gap_s" else 0
        np.testing.assert_allclose(frame[part], each_s * attempts - back, atol=1e-9)
    np.testing.assert_allclose(frame["difference_s"], LATE_S + WORK_S, atol=1e-9)
    assert (frame["receiver_s"].abs() < 1e-9).all()
    assert (frame["intake_s"] == 0).all()


def test_each_attempt_adds_its_overhead(calm: Trace, found: Agreement) -> None:
    """A sender that works 4 ms before each attempt is 4 ms later at the first, 8 ms at the second, 12 at the third."""
    frame = lags(calm, found.sides.real)
    late = frame[list(PARTS)].sum(axis=1).groupby(frame["attempt_number"]).agg(["min", "max"])
    assert late.index.tolist() == [1, 2, 3]
    for number, (low, high) in late.iterrows():
        # after a timeout, that much of the work fell into it
        assert WORK_S - 1e-9 <= low <= high <= WORK_S * float(str(number)) + 1e-9


def test_deliveries_with_another_fate_are_no_pair(calm: Trace) -> None:
    """One that was given up on one side, one that is missing, and one that failed once more are left out."""
    whole = pairs(calm, calm)
    gone, changed = whole["delivery_id"].iloc[[0, 1]]
    other = without(calm, "delivery_id", gone)
    deliveries = other.deliveries.copy()
    deliveries["state"] = deliveries["state"].astype(object)
    deliveries.loc[deliveries["delivery_id"] == changed, "state"] = "dead"
    frame = pairs(calm, replace(other, deliveries=deliveries))
    assert set(whole["delivery_id"]) - set(frame["delivery_id"]) == {gone, changed}


def test_what_is_measured_is_told(found: Agreement) -> None:
    """The overhead of the slowed simulation, and differences without and with it."""
    assert overhead_s(found) == pytest.approx(WORK_S, abs=1e-9)
    column = differences({"calm": found})["calm"]
    assert column["verdict"] == "agree"
    assert column["overhead, as measured"] == "4 ms"
    assert column["longer than simulated, median"] == "+4 ms"
    assert column["longer than simulated, with overhead, median"] == "+0 s"
    assert longer(-0.25) == "−250 ms"
    assert longer(math.nan) == "–"


def test_figures_are_a_frame_to_be_read(found: Agreement) -> None:
    """Each figure has its row, with the verdict that decides."""
    frame = figures(found)
    assert frame.index.tolist() == [row.name for row in found.figures]
    assert set(frame["verdict"]) == {"ok"}
    assert frame.at["delivery_latency_s_p50", "difference"] == "+4 ms"
    assert verdict(found).startswith("agree; ")
    assert "0 differ, 0 excused" in verdict(found)
    assert verdict(replace(found, invalid=("a process died",))) == "invalid: a process died"


# --------------------------------------------------------------------------- pictures


def test_distributions_are_drawn(found: Agreement) -> None:
    """A curve for each comparison; half of the deliveries took no longer than the median."""
    ax = shown.distribution(shown.against(found), "title")
    assert legend(ax) == ["than simulated", "than simulated, with overhead"]
    line = ax.lines[0]
    at, share = (np.asarray(values) for values in line.get_data())
    middle = float(pairs(found.sides.sim, found.sides.real)["difference_s"].median())
    assert share[at <= middle].max() >= 0.5
    check_readable(ax.figure)


def test_bars_hold_the_parts(calm: Trace) -> None:
    """For each attempt number the parts lie on each other: 24 ms at all, of which 4 ms on the way."""
    ax = shown.by_attempt(lags(calm, later(calm, LATE_S, WORK_S)), "title")
    tops = np.max([[bar.get_y() + bar.get_height() for bar in bars] for bars in ax.containers], axis=0)
    assert tops[0] == pytest.approx(24.0)
    assert legend(ax)[:2] == [PARTS["start_s"], PARTS["way_s"]]
    assert [label.get_text().split()[0] for label in ax.get_xticklabels()] == ["1", "2", "3"]
    check_readable(ax.figure)


def test_time_is_divided_into_pieces_with_medians(found: Agreement) -> None:
    """Each median lies between the least and the largest difference, in order of time."""
    frame = pairs(found.sides.sim, found.sides.real)
    at, middle = shown.medians(frame)
    assert at == sorted(at)
    assert len(at) > shown.PIECES / 2
    assert frame["difference_s"].min() <= min(middle) <= max(middle) <= frame["difference_s"].max()
    ax = shown.over_time(shown.against(found), "title")
    assert legend(ax)[-2:] == ["median, than simulated", "median, than simulated, with overhead"]
    check_readable(ax.figure)


def test_parts_have_a_row_each_and_comparisons_a_panel(found: Agreement) -> None:
    """Points are medians of the parts."""
    figure = shown.parts({"one": found, "two": found})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    points = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert list(points.get_xdata())[2] == pytest.approx(WORK_S, abs=1e-9)
    check_readable(figure)


def test_no_pairs_are_a_picture_too(calm: Trace, found: Agreement) -> None:
    """Panels say that there is nothing to draw."""
    nothing = pairs(calm, calm)[:0]
    none = lags(calm, calm)[:0]
    axes = [
        shown.distribution({"a": nothing}, "t"),
        shown.by_attempt(none, "t"),
        shown.over_time({"a": nothing}, "t"),
    ]
    assert all("the same" in ax.texts[0].get_text() for ax in axes)
    empty = replace(calm, attempts=calm.attempts[:0])
    sides = found.sides._replace(real=empty)
    assert shown.parts({"a": replace(found, sides=sides)}).axes[0].texts[0].get_text() == "no pairs"
    assert isinstance(differences({"a": replace(found, sides=sides)}), pd.DataFrame)


# --------------------------------------------------------------------------- real runs


def test_an_unknown_case_is_refused_by_its_name() -> None:
    """The nearest is named."""
    with pytest.raises(ScenarioError, match="did you mean timepad"):
        notebook.agree("timepat")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Locust a real run is refused with what to install."""
    monkeypatch.setattr(cli_real, "find_spec", lambda name: None if name == "locust" else find_spec(name))
    with pytest.raises(ScenarioError, match=r"needs locust: pip install 'hooklab\[loadtest\]'"):
        notebook.agree("timepad")


def test_one_run_may_stand_for_all(monkeypatch: pytest.MonkeyPatch, found: Agreement) -> None:
    """Each name is run, in order; with ``only`` that one, once."""
    made: list[tuple[str, float]] = []
    monkeypatch.setattr(notebook, "agree", lambda name, faster: made.append((name, faster)) or found)
    assert len(notebook.agreements(["timepad", "dreamkas", "timepad"], faster=2.0)) == 3
    assert made == [("timepad", 2.0), ("dreamkas", 2.0), ("timepad", 2.0)]
    made.clear()
    assert len(notebook.agreements(["timepad", "dreamkas"], only="fifo-endpoint")) == 2
    assert made == [("fifo-endpoint", 1.0)]
