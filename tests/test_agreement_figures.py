"""The statistics behind a verdict: the level of the Monte Carlo test, distances, paired differences, tolerances."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from loadtest.agreement_figures import Tolerances, allowances, backlog_floor, paired
from loadtest.agreement_luck import DISTANCE, delayed, deviations, distances, judge, other_luck, same_luck
from sim.scenario import load
from sim.trace import Trace
from tests.agreements import BUSY, CALM, built, simulated

RUNS = 20
REPEATS = 2000


def heavy(generator: np.random.Generator) -> Any:
    """Runs (rows) of figures that depend on each other and have tails without a variance."""
    common = generator.standard_cauchy((RUNS, 1))
    return np.column_stack((common, common + generator.normal(size=(RUNS, 3)), np.exp(common.clip(-9, 9))))


def test_no_more_false_alarms_than_one_in_as_many_runs() -> None:
    """Whatever the distributions and their dependence, the run in question is the farthest as often as any other.

    More false alarms than the bound have a chance of 1 in 1,000, and so have fewer than the lower one: the level is
    not only kept, it is met.
    """
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(REPEATS):
        found = deviations(heavy(generator), np.full(5, 1e-9)).max(axis=1)
        alarms += found[-1] > found[:-1].max()
    low, high = stats.binom.ppf([0.001, 0.999], REPEATS, 1 / RUNS)
    assert low <= alarms <= high


def test_a_run_that_lies_apart_is_found() -> None:
    """Five standard deviations in one figure of five are found in nearly every repeat."""
    generator = np.random.default_rng(8)
    found = 0
    for _ in range(200):
        values = generator.normal(size=(RUNS, 5))
        values[-1, 3] += 8.0
        far = deviations(values, np.full(5, 1e-9)).max(axis=1)
        found += far[-1] > far[:-1].max()
    assert found >= 190


def test_deviations_are_counted_from_the_others() -> None:
    """By hand: 6 lies 4 from the mean of 1 and 3, whose standard deviation is √2; 1 more is allowed."""
    found = deviations(np.array([[1.0], [3.0], [6.0]]), np.array([1.0]))
    assert found[2, 0] == pytest.approx(4 / (math.sqrt(2) + 1))


def test_a_figure_that_never_varies_makes_no_alarm_of_an_allowed_difference() -> None:
    """Zero lost in all runs but one, and one delivery lost there: less than what is allowed is not infinitely far."""
    values = np.zeros((RUNS, 1))
    values[4, 0] = 0.0002
    found = deviations(values, np.array([0.001]))
    assert found.max() == found[4, 0] < 1


def test_distances_are_those_of_kolmogorov_and_smirnov() -> None:
    """Each sample against all others together, as scipy works it out, ties included."""
    generator = np.random.default_rng(9)
    samples = [np.round(generator.exponential(scale, size), 1) for scale, size in ((1, 50), (2, 80), (1, 31))]
    for position, found in enumerate(distances(samples)):
        rest = np.concatenate([own for i, own in enumerate(samples) if i != position])
        assert found == pytest.approx(stats.ks_2samp(samples[position], rest).statistic)


def test_an_empty_sample_is_as_far_as_can_be() -> None:
    """Unless all are empty: then there is no difference."""
    some, none = np.array([1.0, 2.0]), np.array([])
    assert distances([some, some, none])[2] == 1.0
    assert distances([none, none]).tolist() == [0.0, 0.0]


# --------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def short() -> Any:
    """A short busy scenario: its model and a run."""
    scenario = load(BUSY, ["horizon=20s", "drain=60s"])
    return built(scenario), simulated(scenario)


def test_runs_of_the_same_luck_meet_the_same_events(short: Any) -> None:
    """And each has a sender a little slower than the one before, up to twice the overhead."""
    model, run = short
    more = same_luck(model, 0.004, 4)
    assert [trace.meta["overhead_s"] for trace in more] == [0.002, 0.004, 0.006, 0.008]
    for trace in more:
        pd.testing.assert_series_equal(trace.deliveries["created_s"], run.deliveries["created_s"])


def test_runs_of_other_luck_have_seeds_of_their_own(short: Any) -> None:
    """None of them is the model's, and none stands twice."""
    model, _ = short
    seeds = [trace.meta["seed"] for trace in other_luck(model, 5)]
    assert len({*seeds, model.seed}) == 6


def test_a_delayed_scenario_is_the_same_otherwise() -> None:
    """Only the overhead changes, to the nanosecond."""
    scenario = load(CALM)
    slower = delayed(scenario, 1_234_567)
    assert slower.dispatcher.overhead == 1_234_567
    assert slower.with_overrides(["dispatcher.overhead=0s"]) == scenario


def test_of_any_runs_at_most_one_is_farther_than_all_others(short: Any) -> None:
    """Each in turn against the rest, with the same allowances: the rule of the test, on traces."""
    model, run = short
    runs = [run, *other_luck(model, 9)]
    limits = {name: limit for name, (limit, _) in allowances(run, Tolerances()).items()}
    alarms = 0
    for position, own in enumerate(runs):
        luck = judge(own, runs[:position] + runs[position + 1 :], limits)
        alarms += not all(luck.allows(name) for name in luck.deviations)
    assert alarms <= 1


def test_a_figure_that_nobody_knows_is_not_allowed(short: Any) -> None:
    """Luck says nothing about figures that it has not seen, such as one that a run does not have."""
    model, run = short
    luck = judge(run, other_luck(model, 2), {"drain_s": 1.0, "lost_share": 0.001, DISTANCE: 0.05})
    assert set(luck.deviations) == {"lost_share", DISTANCE}
    assert not luck.allows("drain_s")


# --------------------------------------------------------------------------- paired differences


def late(trace: Trace, rows: Any) -> Trace:
    """The trace with exactly these deliveries late."""
    return replace(trace, deliveries=trace.deliveries.assign(late=rows))


def test_a_paired_difference_counts_keys_and_not_deliveries() -> None:
    """Twenty deliveries of one key that are late together widen the interval as one observation does."""
    run = simulated(load(CALM))
    never = np.zeros(len(run.deliveries), dtype=bool)
    names = run.deliveries["endpoint"].astype(str) + run.deliveries["key"].astype(str)
    one_key = (names == names.iloc[0]).to_numpy()
    count = int(one_key.sum())
    assert count >= 20
    spread = never.copy()
    spread[np.flatnonzero(~names.duplicated())[:count]] = True  # as many, each of a key of its own
    together = paired(late(run, never), late(run, one_key), "late", 0.99)
    apart = paired(late(run, never), late(run, spread), "late", 0.99)
    assert together.mean == pytest.approx(count / len(run.deliveries))
    assert together.low < 0 < together.high  # one key may always be a coincidence
    assert spread.sum() == count
    assert apart.low > 0
    assert together.n == apart.n == names.nunique()


def test_equal_runs_have_no_difference_and_opposite_ones_cancel() -> None:
    """The same deliveries late on both sides count as nothing; so do as many in either direction."""
    run = simulated(load(CALM))
    generator = np.random.default_rng(1)
    rows = generator.random(len(run.deliveries)) < 0.1
    same = paired(late(run, rows), late(run, rows), "late", 0.99)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    swapped = paired(late(run, rows), late(run, np.roll(rows, 1)), "late", 0.99)
    assert swapped.low < 0 < swapped.high


def test_a_single_key_gives_no_interval() -> None:
    """One observation has no spread."""
    run = simulated(load(CALM, ["producers.p.keys.count=1", "endpoints.e.count=1", "horizon=5s"]))
    found = paired(run, run, "late", 0.99)
    assert math.isnan(found.low)
    assert found.n == 1


# --------------------------------------------------------------------------- tolerances


def test_tolerances_are_a_share_or_a_floor_whichever_is_more() -> None:
    """10 % of a median of 100 ms are 10 ms; of one of 10 ms they are less than the 5 ms that a machine adds."""
    for median, limit in (("100ms", 0.010), ("10ms", 0.005)):
        scenario = load(CALM, [f"receivers.r={{latency: {median}}}"])
        limits = allowances(simulated(scenario), Tolerances())
        assert limits["delivery_latency_s_p50"][0] == pytest.approx(limit, rel=1e-6)


def test_the_least_backlog_is_what_comes_due_within_a_short_wait() -> None:
    """Seven deliveries are born of an event, and events come 200 ms apart: those of one, two and three."""
    scenario = load(
        CALM,
        [
            "producers.p.arrivals={at: [0s, 10s, 10.2s, 10.4s, 10.6s, 10.8s]}",
            "endpoints.e.count=7",
            "receivers.r={latency: 100ms}",
        ],
    )
    run = simulated(scenario)
    assert [backlog_floor(run, wait) for wait in (0.0, 0.05, 0.3, 0.5)] == [7, 7, 14, 21]
