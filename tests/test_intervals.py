"""Intervals over replications: how often they cover, how Holm decides, when a precision is reached, what is steady."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import sim
from sim import execution, experiment_store, intervals
from sim.scenario import load

REPEATS = 4000
"""Of a coverage test. The share that covers then has a standard deviation of √(0.95 × 0.05 / 4000) = 0.34 %, so a
true 95 % lands between 93.3 % and 96.7 % but once in two million times; asked are 93 % to 97 %."""
LOW, HIGH = 0.93, 0.97
N = 20


def coverage(samples: np.ndarray, truth: float) -> float:
    """The share of rows whose interval holds the truth."""
    found = [intervals.mean_interval(row) for row in samples]
    return sum(one.low <= truth <= one.high for one in found) / len(found)


def exponential_order_statistic(n: int, k: int, mean: float) -> float:
    """Expectation of the k-th smallest of n exponential times: mean × Σ 1/i for i from n - k + 1 to n (Rényi 1953)."""
    return mean * sum(1 / i for i in range(n - k + 1, n + 1))


@pytest.mark.parametrize("deliveries", [50, 1000])
def test_intervals_of_means_cover_as_often_as_they_say(deliveries: int) -> None:
    """The mean latency of so many exponential ones has a gamma distribution, drawn here as it is."""
    rng = np.random.default_rng(1)
    means = rng.gamma(deliveries, 0.1 / deliveries, size=(REPEATS, N))
    assert LOW <= coverage(means, 0.1) <= HIGH


@pytest.mark.parametrize(("quantile", "deliveries"), [(0.5, 200), (0.9, 200), (0.99, 2000)])
def test_intervals_of_quantiles_cover_as_often_as_they_say(quantile: float, deliveries: int) -> None:
    """A quantile of a run is an order statistic, whose expectation is known; it is drawn through a beta variable."""
    rng = np.random.default_rng(2)
    k = math.ceil(quantile * deliveries)
    uniform = rng.beta(k, deliveries - k + 1, size=(REPEATS, N))
    truth = exponential_order_statistic(deliveries, k, 0.1)
    assert LOW <= coverage(-0.1 * np.log1p(-uniform), truth) <= HIGH


def test_intervals_of_loss_shares_cover_as_often_as_they_say() -> None:
    """Each of 5,000 deliveries is lost if all three attempts fail, with probability 0.2³."""
    rng = np.random.default_rng(3)
    shares = rng.binomial(5000, 0.2**3, size=(REPEATS, N)) / 5000
    assert LOW <= coverage(shares, 0.2**3) <= HIGH


def test_stopping_at_a_precision_keeps_the_coverage() -> None:
    """Replications go on until the half-width is 5 % of the mean; the interval they stop with still covers."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(REPEATS):
        values = rng.gamma(40, 0.1 / 40, size=400)
        n = intervals.LEAST_REPLICATIONS
        while (needed := intervals.replications_needed(intervals.mean_interval(values[:n]), 0.05, 0.0)) > n:
            n = min(needed, len(values))
        found = intervals.mean_interval(values[:n])
        assert (found.high - found.low) / 2 <= 0.05 * found.mean
        covered += found.low <= 0.1 <= found.high
    assert LOW <= covered / REPEATS <= HIGH


@pytest.mark.parametrize("n", [10, 20, 100])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.35, 0.5])
def test_the_exact_interval_of_losses_covers_at_least_as_often_as_it_says(n: int, share: float) -> None:
    """The probabilities of all counts whose interval holds the share are added up: no repeats, no tolerance."""
    held = [k for k in range(n + 1) if (i := intervals.proportion_interval(k, n)).low <= share <= i.high]
    assert stats.binom.pmf(held, n, share).sum() >= 0.95


def test_the_exact_interval_is_that_of_scipy() -> None:
    """An independent implementation gives the same ends."""
    for count, n in [(0, 20), (3, 20), (20, 20), (1, 1000)]:
        ends = stats.binomtest(count, n).proportion_ci(0.95, "exact")
        own = intervals.proportion_interval(count, n)
        assert (own.low, own.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_a_t_interval_is_that_of_scipy() -> None:
    """An independent implementation gives the same ends, at another confidence, too."""
    values = [1.0, 4.0, 2.0, 8.0]
    for confidence in (0.8, 0.95):
        ends = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        own = intervals.mean_interval(values, confidence)
        assert (own.low, own.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_one_replication_has_no_interval_and_none_has_nothing() -> None:
    """A single run prints none; a figure that never exists has no mean."""
    assert intervals.mean_interval([5.0])[0] == 5.0
    assert math.isnan(intervals.mean_interval([5.0]).low)
    assert intervals.mean_interval([math.nan, math.nan])[3] == 0
    assert intervals.mean_interval([1.0, math.nan, 3.0])[0::3] == (2.0, 2)


def test_equal_replications_have_no_width_whatever_rounding_does() -> None:
    """The mean of twenty times 0.1 is 0.1."""
    assert intervals.mean_interval([0.1] * 20) == (0.1, 0.1, 0.1, 20)


# --------------------------------------------------------------------------- differences


def test_holm_corrects_as_in_its_textbook_example() -> None:
    """0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02: each is as high as those before it."""
    corrected, shares = intervals.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert shares == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])


def test_an_interval_leaves_out_zero_exactly_where_holm_finds_a_difference() -> None:
    """In families of random differences, small and large."""
    rng = np.random.default_rng(5)
    decided = set()
    for _ in range(300):
        base = rng.normal(size=N)
        family = [(base + rng.normal(rng.choice([0, 0.5, 1]), 1, N), base) for _ in range(4)]
        for found in intervals.differences(family):
            assert (found.p_holm < 0.05) == (not found.low <= 0 <= found.high)
            decided.add(found.p_holm < 0.05)
    assert decided == {True, False}


def test_holm_seldom_finds_what_is_not_there() -> None:
    """Six differences of nothing: at most 5 % of families find one; uncorrected, nearly a quarter would.

    The bound is 5 % and four standard deviations of 2,000 repeats, √(0.05 × 0.95 / 2000) = 0.49 %.
    """
    rng = np.random.default_rng(6)
    alarms = plain = 0
    for _ in range(2000):
        found = intervals.differences([(rng.normal(size=N), rng.normal(size=N)) for _ in range(6)])
        alarms += any(one.p_holm < 0.05 for one in found)
        plain += any(one.p < 0.05 for one in found)
    assert alarms / 2000 < 0.05 + 4 * 0.0049 < plain / 2000


def test_pairs_of_which_one_figure_is_missing_are_left_out() -> None:
    """What does not exist in one replication of one variant has no difference there, and no part in a family."""
    own, other = [1.0, math.nan, 3.0, 4.0], [0.5, 2.0, math.nan, 3.0]
    found, nothing = intervals.differences([(own, other), ([math.nan] * 4, other)])
    assert (found.mean, found.n) == (0.75, 2)
    assert found.p == found.p_holm
    assert nothing.n == 0
    assert math.isnan(nothing.p_holm)


def test_the_variance_ratio_says_what_pairing_brought() -> None:
    """Equal noise in both vanishes from the difference; noise of their own stays."""
    rng = np.random.default_rng(7)
    noise = rng.normal(size=N)
    shared, apart = intervals.differences([(noise + 1, noise), (noise, rng.normal(size=N))])
    assert shared.variance_ratio > 1e20
    assert apart.variance_ratio == pytest.approx(1, rel=0.9)


# --------------------------------------------------------------------------- precision


def test_what_is_precise_enough_asks_for_no_more() -> None:
    """Relative to the mean, or below the floor where the mean is next to nothing."""
    interval = intervals.Interval(10.0, 9.9, 10.1, 12)
    assert intervals.replications_needed(interval, 0.01, 0.0) == 12
    assert intervals.replications_needed(interval, 0.005, 0.0) == 24  # four times, but at most twice as many
    assert intervals.replications_needed(interval, 0.009, 0.0) == 15  # 12 × (0.1 / 0.09)² = 14.8
    assert intervals.replications_needed(intervals.Interval(0.0, -1e-5, 1e-5, 12), 0.02, 1e-4) == 12
    assert intervals.replications_needed(intervals.mean_interval([math.nan]), 0.02, 0.0) == 0


# --------------------------------------------------------------------------- warm-up


def noise(rng: np.random.Generator, replications: int = N, pieces: int = 100) -> np.ndarray:
    """Series with a memory, as latencies have."""
    white = rng.normal(size=(replications, pieces + 50))
    return np.array([[0.7 ** np.arange(50) @ row[i : i + 50] for i in range(pieces)] for row in white])


def test_a_steady_series_is_seldom_called_unsteady() -> None:
    """The rate of false alarms is the one it says, 1 %; of 1,000 series at most 1 % and four deviations (0.31 %)."""
    rng = np.random.default_rng(8)
    white = rng.normal(size=(1000, N, 120))
    kernel = 0.7 ** np.arange(20)
    series = np.apply_along_axis(lambda row: np.convolve(row, kernel, "valid"), 2, white)
    alarms = sum(not intervals.settled(one) for one in series)
    assert alarms / 1000 <= 0.01 + 4 * 0.0031


def test_a_start_that_fades_is_found_and_its_end_is_named() -> None:
    """Three units too high, fading over ten pieces: unsteady, and the cut lies where the rest shows no trend."""
    series = noise(np.random.default_rng(9)) + 3 * np.exp(-np.arange(100) / 10)
    assert not intervals.settled(series)
    cut = intervals.settled_from(series)
    assert cut is not None
    assert 5 <= cut <= 50
    assert intervals.settled(series[:, cut:])
    assert not intervals.settled(series[:, cut - 1 :])


def test_a_series_that_drifts_all_along_has_no_cut() -> None:
    """No start to leave out makes it steady."""
    series = noise(np.random.default_rng(10)) + np.arange(100) / 10
    assert not intervals.settled(series)
    assert intervals.settled_from(series) is None


def test_pieces_without_deliveries_are_left_out() -> None:
    """A producer that sleeps leaves holes, and no warnings of NumPy."""
    series = noise(np.random.default_rng(11))
    series[:, ::3] = math.nan
    assert intervals.settled(series)
    series[:, :20] = math.nan
    assert intervals.settled(series)


# --------------------------------------------------------------------------- with the engine


def exact_world() -> dict[str, object]:
    """Unlimited servers: latencies are independent, and three attempts in a row fail with probability 0.3³."""
    return {
        "horizon": "1s",
        "drain": "1h",
        "producers": {"p": {"arrivals": {"at": [f"{20 * i}ms" for i in range(50)]}}},
        "endpoints": {"e": {"policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s", "0s", "0s"], "timeout": "1h"}},
        "receivers": {
            "r": {
                "latency": {"exponential": {"mean": "100ms"}},
                "faults": [{"error": {"probability": "30%", "latency": "0s"}}],
            }
        },
    }


def simulated(world: dict[str, object], repeats: int) -> dict[str, np.ndarray]:
    """Figures of ``repeats`` × N independent runs."""
    mapping = experiment_store.sent(load(world))
    jobs = [execution.Job(name="", scenario=mapping, seed=seed, many=True) for seed in range(repeats * N)]
    with execution.workers() as place:
        found = dict(execution.run_all(jobs, place))
    rows = [found[at].figures for at in range(len(jobs))]  # type: ignore[union-attr]
    return {name: np.array([row[name] for row in rows]).reshape(repeats, N) for name in rows[0]}


def hold(figures: dict[str, np.ndarray], low: float, high: float) -> None:
    """Intervals of simulated figures cover closed forms as often as they say."""
    assert low <= coverage(figures["lost_share"], 0.3**3) <= high
    assert low <= coverage(figures["attempts_per_delivery"], 1 + 0.3 + 0.09) <= high


def test_intervals_of_simulated_runs_cover_closed_forms() -> None:
    """Loss qⁿ and attempts 1 + q + q² of 40 × 20 runs; 40 repeats leave 95 % ± 4 × 3.4 %."""
    hold(simulated(exact_world(), 40), 0.95 - 4 * 0.034, 1.0)


@pytest.mark.long
def test_intervals_of_a_thousand_simulated_experiments_cover_closed_forms() -> None:
    """1,000 × 20 runs; √(0.95 × 0.05 / 1000) = 0.69 %, so 93 % to 97 % is 2.9 deviations either way."""
    hold(simulated(exact_world(), 1000), LOW, HIGH)


@pytest.mark.long
def test_intervals_of_a_queue_cover_its_closed_form() -> None:
    """M/M/1 at half load, warmed up: the mean time in system is 1/(μ - λ), in 1,000 × 20 runs."""
    world = {
        "kind": "steady",
        "horizon": "300s",
        "warmup": "60s",
        "drain": "1h",
        "producers": {"p": {"arrivals": {"poisson": "5/s"}}},
        "endpoints": {"e": {"policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s"], "timeout": "1h"}},
        "receivers": {"r": {"latency": {"exponential": {"mean": "100ms"}}, "servers": 1}},
    }
    figures = simulated(world, 1000)
    truth = sim.theory.mmc(arrival_rate_per_s=5, service_rate_per_s=10, servers=1).queue_wait_s_mean + 0.1
    assert LOW <= coverage(figures["delivery_latency_s_mean"], truth) <= HIGH
