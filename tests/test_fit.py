"""Fitting: what a simulated world was made of is found again, and intervals hold it as often as they say."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sim
from sim import calibrate_arrivals, calibrate_durations, calibrate_outages, calibrate_sender, dice, model
from sim.calibrate_durations import GUARD, fit_duration
from sim.calibrate_families import FAMILIES, sample, uniforms
from sim.calibrate_outages import Period

SURE = 1e-4
"""Chance that a test of a right program fails, on each side."""
LATENCIES: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "lognormal": ({"median": "120ms", "sigma": 1.0}, {"median": 0.12, "sigma": 1.0}),
    "exponential": ({"mean": "300ms"}, {"mean": 0.3}),
    "erlang": ({"mean": "400ms", "stages": 4}, {"mean": 0.4}),
    "hyperexponential": ({"mean": "300ms", "cv": 2.5}, {"mean": 0.3, "cv": 2.5}),
    "pareto": ({"minimum": "100ms", "shape": 1.5}, {"minimum": 0.1, "shape": 1.5}),
}
SENDERS = ["started_s", "finished_s", "outcome", "status", "endpoint", "created_s", "event_id", "key"]
"""Columns that any sender's log has."""


def worlds(latency: str, count: int, seed: int) -> sim.Result:
    """Many worlds of one kind in one run: each has its producer, its endpoint and its own luck."""
    block = {latency: LATENCIES[latency][0]}
    return sim.run(
        {
            "seed": seed,
            "horizon": "1000s",
            "drain": "100s",
            "producers": {
                f"p{i}": {
                    "arrivals": {"poisson": "0.8/s"},
                    "events": {"paid": 3, "refunded": 1},
                    "keys": {"count": 20, "zipf": 0.8},
                }
                for i in range(count)
            },
            "endpoints": {
                f"e{i}": {"policy": "m", "receiver": "r", "producers": [f"p{i}"]} for i in range(count)
            },
            "policies": {"m": {"schedule": ["0s", "1s", "10s"], "timeout": "1s"}},
            "receivers": {
                "r": {
                    "latency": block,
                    "faults": [{"error": {"probability": 0.05}}, {"lost_answer": {"probability": 0.03}}],
                }
            },
        }
    )


def of_each(result: sim.Result, senders: bool) -> list[sim.FitResult]:
    """The fit of every world, from its whole trace or from what a sender sees; each is a log of its own."""
    tables = [
        dict(list(table.groupby(table["endpoint"].astype(str), sort=False)))
        for table in (result.attempts, result.deliveries)
    ]
    return [
        sim.fit(own[SENDERS] if senders else replace(result.trace, attempts=own, deliveries=tables[1][name]))
        for name, own in tables[0].items()
    ]


def covered(fits: list[sim.FitResult], truth: dict[str, float]) -> dict[str, tuple[int, int]]:
    """For each number: how many intervals hold it, of how many fits that have it."""
    found = {}
    for name, value in truth.items():
        rows = [
            fit.table.set_index("parameter").loc[name] for fit in fits if name in set(fit.table["parameter"])
        ]
        found[name] = (
            sum(row["low"] <= value * (1 + 1e-9) and value <= row["high"] * (1 + 1e-9) for row in rows),
            len(rows),
        )
    return found


def assert_nominal(found: dict[str, tuple[int, int]]) -> None:
    """As many intervals hold the truth as 95 % of them do by the binomial distribution."""
    for name, (hits, count) in found.items():
        low, high = stats.binom.ppf((SURE, 1 - SURE), count, 0.95)
        assert low <= hits <= high, (name, hits, count, low, high)


def assert_recovered(latency: str, count: int, seed: int, senders: bool) -> None:
    """The family is found but for the errors of its choice, and then the intervals are nominal."""
    fits = of_each(worlds(latency, count, seed), senders)
    assert len(fits) == count
    chosen = Counter(fit.durations[0].family for fit in fits)
    # the guard refuses a true family once in a hundred; the criterion is given as often again, twice
    assert chosen[latency] >= stats.binom.ppf(SURE, count, 1 - 3 * GUARD), chosen
    kept = [fit for fit in fits if fit.durations[0].family == latency]
    truth = {f"receiver.latency.{latency}.{name}": value for name, value in LATENCIES[latency][1].items()}
    truth |= {"receiver.error 500.probability": 0.05, "producer.poisson": 0.8, "producer.keys.zipf": 0.8}
    truth |= {"receiver.lost_answer.probability": 0.03}
    truth |= {} if senders else {"producer.events.paid": 0.75}
    assert_nominal(covered(kept, truth))
    assert all(fit.table.set_index("parameter").loc["producer.keys.count", "value"] == 20 for fit in fits)


@pytest.mark.parametrize("latency", ["lognormal", "erlang"])
def test_a_trace_gives_back_what_made_it(latency: str) -> None:
    """Latency, error share, lost answers, rate, types and keys of simulated logs lie in their intervals."""
    assert_recovered(latency, 8, seed=1, senders=False)


def test_a_senders_log_gives_back_what_made_it() -> None:
    """Timeouts cut the latency off, and those that its tail does not account for are lost answers."""
    assert_recovered("lognormal", 8, seed=2, senders=True)


@pytest.mark.long
@pytest.mark.parametrize("latency", list(LATENCIES))
def test_intervals_of_traces_are_nominal(latency: str) -> None:
    """The same with many worlds, for every family."""
    assert_recovered(latency, 200, seed=5, senders=False)


@pytest.mark.long
@pytest.mark.parametrize("latency", ["lognormal"])
def test_intervals_of_senders_logs_are_nominal(latency: str) -> None:
    """The same with many worlds, from what senders see."""
    assert_recovered(latency, 200, seed=6, senders=True)


# --------------------------------------------------------------------------- durations


def drawn(family: str, count: int, seed: int) -> Any:
    """Durations of a family of ``LATENCIES`` from the simulator's own dice, s."""
    scenario = sim.load(
        {
            "horizon": "1s",
            "producers": {"p": {"arrivals": {"constant": "1/s"}}},
            "endpoints": {"e": {"policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s"]}},
            "receivers": {"r": {"latency": {family: LATENCIES[family][0]}}},
        }
    )
    shape = model.lower_distribution(scenario.receivers["r"].latency)
    return np.array([dice.sample(shape, seed, dice.Stream.LATENCY, i, 0, 1, 0) for i in range(count)]) / 1e9


@pytest.mark.parametrize("family", list(FAMILIES))
def test_excess_is_the_integral_of_survival(family: str) -> None:
    """E[max(X - x, 0)] of every family is what its survival adds up to beyond x, and all of it is the mean."""
    theta = {"exponential": [0.3], "pareto": [0.1, 1.2]}.get(family, [0.2, 0.4])
    chosen = FAMILIES[family]
    grid = np.concatenate(([0.0], np.geomspace(1e-4, 1e6, 200_001)))
    survival = np.exp(chosen.log_survival(np.maximum(grid, 1e-300), theta))
    integral = np.trapezoid(survival, grid)
    assert integral == pytest.approx(chosen.mean(theta), rel=1e-3)
    beyond = grid >= 2.0
    assert np.trapezoid(survival[beyond], grid[beyond]) == pytest.approx(
        float(chosen.excess(np.array([grid[beyond][0]]), theta)[0]), rel=1e-3
    )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_density_is_the_slope_of_survival(family: str) -> None:
    """What lies between two times by the survival is what the density says there."""
    theta = {"exponential": [0.3], "pareto": [0.1, 1.2]}.get(family, [0.2, 0.4])
    chosen = FAMILIES[family]
    at = np.linspace(1.2, 5, 50)
    step = 1e-5
    slope = np.exp(chosen.log_survival(at - step, theta)) - np.exp(chosen.log_survival(at + step, theta))
    assert np.exp(chosen.log_density(at, theta)) == pytest.approx(slope / (2 * step), rel=1e-5)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_draws_follow_the_survival(family: str) -> None:
    """The draws of the bootstrap are of the family that they test: Kolmogorov-Smirnov with known parameters."""
    theta = {"exponential": [0.3], "pareto": [0.1, 1.2]}.get(family, [0.2, 0.4])
    chosen = FAMILIES[family]
    luck = uniforms(f"test {family}", 20_000).reshape(2, -1)
    values = chosen.draw(luck[0], luck[1], theta)
    test = stats.kstest(values, lambda x: 1 - np.exp(chosen.log_survival(x, theta)))
    assert test.pvalue > SURE


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_simulators_own_durations_are_recognised(family: str) -> None:
    """A sample of a family is fitted as that family."""
    assert fit_duration(sample(drawn(family, 1500, seed=4)), "x").family == family


def test_cutting_off_changes_no_estimate_by_more_than_it_hides() -> None:
    """An exponential mean from durations cut off at half of it is total time over ends, as the formula says."""
    values = drawn("exponential", 2000, seed=9)
    ended = values <= 0.15
    cut = sample(np.minimum(values, 0.15), ended, np.full(len(values), 0.15))
    fit = fit_duration(cut, "x", form="exponential")
    assert fit.parameters[0].value == pytest.approx(np.minimum(values, 0.15).sum() / ended.sum(), rel=1e-9)
    assert fit.parameters[0].low < 0.3 < fit.parameters[0].high


def test_kaplan_meier_by_hand() -> None:
    """Five durations, of which two were cut off: the textbook products."""
    times, after = calibrate_durations.kaplan_meier(sample([1, 2, 2, 3, 4], [True, True, False, True, False]))
    assert times.tolist() == [1, 2, 3]
    assert after == pytest.approx([4 / 5, 4 / 5 * 3 / 4, 4 / 5 * 3 / 4 * 1 / 2])


def test_what_no_family_fits_becomes_quantiles_with_the_same_mean() -> None:
    """Two lumps are refused by the test, and measured quantiles keep mean and median."""
    values = np.concatenate((drawn("erlang", 600, seed=1), 5 + drawn("erlang", 600, seed=2)))
    fit = fit_duration(sample(values), "latency")
    assert fit.family == "quantiles"
    assert fit.goodness[0].p_value < GUARD
    assert fit.mean_s == pytest.approx(values.mean(), rel=0.01)
    assert any("no family fits" in text for text in fit.warnings)


def test_quantiles_cut_off_keep_the_mean_asked_for() -> None:
    """Beyond what was seen the tail is made so that the mean is that of the time watched."""
    values = np.concatenate((drawn("erlang", 300, seed=1), 50 + 100 * drawn("erlang", 300, seed=2)))
    whole = sample(np.minimum(values, 90.0), values <= 90.0, np.full(600, 90.0))
    fit = fit_duration(whole, "up", mean_s=60.0, form="quantiles")
    assert fit.mean_s == pytest.approx(60.0, rel=0.01)


def test_equal_durations_are_a_constant() -> None:
    """No spread, no family."""
    fit = fit_duration(sample([0.25] * 60), "latency")
    assert (fit.family, fit.block) == ("constant", "250ms")


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_constant_is_known_to_half_a_step(value: float) -> None:
    """The interval is that of rounding, never below nothing; durations of 0 tell no step."""
    (parameter,) = fit_duration(sample([value] * 60), "latency").parameters
    assert (parameter.low, parameter.high) == ((0.0, 0.0) if value == 0 else pytest.approx((0.245, 0.255)))


def test_too_few_durations_are_exponential_and_said_so() -> None:
    """Fewer than fifty do not choose a family."""
    fit = fit_duration(sample(drawn("erlang", 49, seed=3)), "latency")
    assert fit.family == "exponential"
    assert "too few to choose a family" in fit.warnings[0]


def test_milliseconds_do_not_refuse_a_true_family() -> None:
    """Durations of 10 ms rounded to 1 ms are compared on that grid."""
    values = np.round(drawn("exponential", 2000, seed=8) / 30, 3)
    fit = fit_duration(sample(values), "latency")
    assert fit.goodness[0].p_value > GUARD
    assert fit.family == "exponential"


# --------------------------------------------------------------------------- outages


def history(seed: int, endpoints: int = 25, days: int = 30) -> dict[str, Period]:
    """Outages that the simulator draws, cut off at the end: up exponential 3 d, down lognormal."""
    end = days * 86_400.0
    outage = {"up": {"exponential": {"mean": "3d"}}, "down": {"lognormal": {"median": "20m", "sigma": 1.2}}}
    scenario = sim.load(
        {
            "seed": seed,
            "horizon": f"{days}d",
            "drain": "0s",
            "producers": {"p": {"arrivals": {"constant": "1/d"}}},
            "endpoints": {"e": {"count": endpoints, "policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s"]}},
            "receivers": {"r": {"latency": "0s", "faults": [{"outage": outage}]}},
        }
    )
    return {
        m.name: Period(
            0.0, end, np.minimum(np.array([m.outages.start, m.outages.end]).T.reshape(-1, 2) / 1e9, end)
        )
        for m in model.build(scenario).members
    }


def test_periods_are_taken_apart_by_hand() -> None:
    """Up until 10, down until 15, up until the end at 40: the first is residual and the last cut off."""
    ups, downs = calibrate_outages.durations({"e": Period(0.0, 40.0, np.array([[10.0, 15.0]]))})
    assert ups.values.tolist() == [10, 25]
    assert ups.ended.tolist() == [True, False]
    assert ups.residual.tolist() == [True, False]
    assert ups.limits.tolist() == [40, 25]
    assert (downs.values.tolist(), downs.ended.tolist(), downs.limits.tolist()) == ([5], [True], [30])


def test_an_outage_that_is_under_way_at_both_ends() -> None:
    """One that had begun is residual, one that goes on is cut off, and one that does both is both."""
    ups, downs = calibrate_outages.durations({"e": Period(5.0, 40.0, np.array([[5.0, 10.0], [30.0, 40.0]]))})
    assert (downs.values.tolist(), downs.ended.tolist(), downs.residual.tolist()) == (
        [5, 10],
        [True, False],
        [True, False],
    )
    assert (ups.values.tolist(), ups.ended.tolist(), ups.residual.tolist()) == ([20], [True], [False])
    ups, downs = calibrate_outages.durations({"e": Period(0.0, 9.0, np.array([[0.0, 9.0]]))})
    assert (downs.values.tolist(), downs.ended.tolist(), downs.residual.tolist()) == ([9], [False], [True])
    assert not len(ups.values)


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.long)])
def test_outage_intervals_are_nominal(count: int) -> None:
    """Up and down times of simulated histories lie in their intervals, and nothing in the middle is cut away."""
    truth = {"mean": 3 * 86_400.0, "median": 1200.0, "sigma": 1.2}
    hits: Counter[str] = Counter()
    for seed in range(count):
        fitted, _ = calibrate_outages.fit_outages(history(seed), "refuse", forms=("exponential", "lognormal"))
        assert fitted is not None
        for parameter in (*fitted.up.parameters, *fitted.down.parameters):
            hits[parameter.name] += parameter.low <= truth[parameter.name] <= parameter.high
    assert_nominal({name: (hits[name], count) for name in truth})


def test_outages_are_found_in_a_log_of_attempts() -> None:
    """Refusals of a simulated receiver: as many outages as there were, of the same lengths to the gap between tries."""
    scenario = {
        "seed": 3,
        "horizon": "2d",
        "producers": {"p": {"arrivals": {"constant": "1/s"}, "keys": {"count": 1}}},
        "endpoints": {"e": {"policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s"], "timeout": "5s"}},
        "receivers": {
            "r": {
                "latency": "100ms",
                "faults": [
                    {"error": {"probability": 0.02}},
                    {"outage": {"up": {"exponential": {"mean": "2h"}}, "down": "10m"}},
                ],
            }
        },
    }
    member = model.build(sim.load(scenario)).members[0]
    real = np.array(
        [(s / 1e9, e / 1e9) for s, e in zip(member.outages.start, member.outages.end, strict=True)]
    )
    real = real[real[:, 1] < 172_800]
    fit = sim.fit(sim.run(scenario))
    found = next(iter(fit.history.values())).outages
    assert found[: len(real)] == pytest.approx(real, abs=1.0)
    assert fit.receiver["faults"][0]["outage"]["how"] == "refuse"
    table = fit.table.set_index("parameter")
    assert (
        table.loc["receiver.error 500.probability", "low"]
        < 0.02
        < table.loc["receiver.error 500.probability", "high"]
    )


def test_a_chance_run_of_errors_is_no_outage() -> None:
    """A third of all attempts fail independently: the rule asks for longer runs than chance gives."""
    failed = uniforms("errors", 5000) < 1 / 3
    frame = pd.DataFrame(
        {
            "started_s": np.arange(5000.0),
            "finished_s": np.arange(5000.0) + 0.1,
            "status": np.where(failed, 500, 200),
        }
    )
    fit = sim.fit(frame)
    assert "outage" not in str(fit.receiver)
    assert fit.receiver["faults"][0]["error"]["status"] == 500


def test_a_status_outage_is_found_without_refusals() -> None:
    """Forty answers 503 in a row are an outage of that status, and not a share of errors."""
    status = np.full(4000, 200)
    for start in (500, 1200, 1900, 2600, 3300):
        status[start : start + 40] = 503
    at = np.arange(4000.0)
    fit = sim.fit(pd.DataFrame({"started_s": at, "finished_s": at + 0.2, "status": status}))
    (fault,) = fit.receiver["faults"]
    assert fault["outage"]["how"] == {"status": 503}
    assert fit.durations[0].family == "constant"


def test_a_pause_in_traffic_is_no_up_time() -> None:
    """A log of two working days with a night between watches two periods."""
    at = np.concatenate((np.arange(0.0, 36_000, 10), np.arange(86_400.0, 122_400, 10)))
    outcome = np.where((at % 7200) < 600, "refused", "delivered")
    frame = pd.DataFrame({"started_s": at, "finished_s": at + 0.1, "outcome": outcome, "endpoint": "e"})
    periods = sim.fit(frame).history
    assert {(p.start_s, p.end_s) for p in periods.values()} == {(0.0, 35_990.0), (86_400.0, 122_390.0)}


# --------------------------------------------------------------------------- arrivals


def events(arrivals: Any, horizon: str, seed: int = 1, **more: Any) -> sim.Result:
    """A run whose only interest is when events happen."""
    return sim.run(
        {
            "seed": seed,
            "horizon": horizon,
            "drain": "10s",
            "producers": {"p": {"arrivals": arrivals, **({"keys": {"count": 1}} | more)}},
            "endpoints": {"e": {"policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s"]}},
            "receivers": {"r": {"latency": "0s"}},
        }
    )


BURSTS = {
    "on": "2/s",
    "off": "0.1/s",
    "on_for": {"exponential": {"mean": "60s"}},
    "off_for": {"exponential": {"mean": "240s"}},
}


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.long)])
def test_bursts_are_given_back(count: int) -> None:
    """Rates and stays of an MMPP lie in their intervals."""
    truth = {"producer.bursts.on": 2.0, "producer.bursts.off": 0.1}
    truth |= {"producer.bursts.on_for": 60.0, "producer.bursts.off_for": 240.0}
    fits = [sim.fit(events({"bursts": BURSTS}, "4000s", seed)) for seed in range(count)]
    assert all("bursts" in fit.producer["arrivals"] for fit in fits if fit.producer)
    assert_nominal(covered(fits, truth))


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.long)])
def test_hours_of_the_day_are_given_back(count: int) -> None:
    """Nights are told from days, and the rates lie in their intervals."""
    rates = [0.002 if hour < 8 else 0.01 for hour in range(24)]
    fits = [sim.fit(events({"daily": [f"{rate}/s" for rate in rates]}, "7d", seed)) for seed in range(count)]
    found = [covered(fits, {f"producer.daily.{hour:02d}h": rate}) for hour, rate in enumerate(rates)]
    hits, total = (sum(next(iter(f.values()))[i] for f in found) for i in (0, 1))
    assert total == 24 * count
    # exact Poisson intervals hold the truth at least as often as they say
    assert hits >= stats.binom.ppf(SURE, total, 0.95)


def test_even_arrivals_are_constant() -> None:
    """No luck, no Poisson."""
    assert sim.fit(events({"constant": "2/s"}, "200s")).producer["arrivals"] == {"constant": "2/s"}  # type: ignore[index]


def test_seconds_do_not_look_like_bursts() -> None:
    """A Poisson log whose times are whole seconds, many of them shared, is still a Poisson log."""
    at = np.floor(np.cumsum(-np.log(uniforms("whole", 5000))) / 0.7)
    fit = sim.fit(pd.DataFrame({"started_s": at, "finished_s": at, "status": 200}))
    assert fit.producer is not None
    assert "poisson" in fit.producer["arrivals"]
    row = fit.table.set_index("parameter").loc["producer.poisson"]
    assert row["low"] < 0.7 < row["high"]


def test_batches_are_given_back() -> None:
    """One change, several events: a fixed count stays fixed, a random one has its mean in the interval."""
    fit = sim.fit(
        events({"poisson": "1/s"}, "2000s", batch={"order": 1, "ticket": {"poisson": 2}}, keys={"count": 50})
    )
    assert fit.producer is not None
    assert fit.producer["batch"]["order"] == 1
    row = fit.table.set_index("parameter").loc["producer.batch.ticket"]
    assert row["low"] < 2 < row["high"]
    rate = fit.table.set_index("parameter").loc["producer.poisson"]
    assert rate["low"] < 1 < rate["high"]


def test_the_likelihood_of_bursts_is_that_of_poisson_where_they_are_none() -> None:
    """With equal rates in both states the MMPP is a Poisson process."""
    gaps = -np.log(uniforms("gaps", 500))
    theta = [math.log(1.5), 0.3, -0.4, 40.0]
    value = calibrate_arrivals._log_likelihood(gaps, theta, silent=False)
    assert value == pytest.approx(500 * math.log(1.5) - 1.5 * gaps.sum(), rel=1e-9)


def test_keys_all_alike_get_no_exponent() -> None:
    """Ranking by counts makes even keys look skewed; the correction takes that out, but for one time in forty."""
    skewed = 0
    for number in range(20):
        counts = stats.poisson.ppf(uniforms(f"even {number}", 100), 20)
        block, _, _ = calibrate_arrivals.fit_keys(counts)
        assert block["count"] == 100
        skewed += "zipf" in block
    assert skewed <= stats.binom.ppf(1 - SURE, 20, 0.025)


def test_unseen_keys_are_counted() -> None:
    """Of 2,000 keys by a Zipf law some have no event; the number there are lies in the interval."""
    shares = np.arange(1, 2001) ** -1.0
    counts = stats.poisson.ppf(uniforms("rare", 2000), 15_000 * shares / shares.sum())
    assert (counts > 0).sum() < 1900
    _, parameters, _ = calibrate_arrivals.fit_keys(counts)
    assert parameters[0].low <= 2000 <= parameters[0].high
    assert parameters[1].low <= 1.0 <= parameters[1].high


# --------------------------------------------------------------------------- the rest of a receiver


@cache
def busy() -> sim.Result:
    """A receiver with three servers that queues, with overhead at the sender."""
    return sim.run(
        {
            "seed": 2,
            "horizon": "2000s",
            "producers": {"p": {"arrivals": {"poisson": "2/s"}}},
            "endpoints": {"e": {"policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s", "10s"], "timeout": "60s"}},
            "receivers": {"r": {"latency": {"exponential": {"mean": "1s"}}, "servers": 3}},
            "dispatcher": {"overhead": "7ms"},
        }
    )


def test_servers_and_service_times_are_found_where_the_log_tells() -> None:
    """A trace says when requests were taken up: the queue is not in the latency."""
    fit = sim.fit(busy())
    assert fit.receiver["servers"] == 3
    row = fit.table.set_index("parameter").loc["receiver.latency.exponential.mean"]
    assert row["low"] < 1 < row["high"]


def test_overhead_is_read_off_a_trace() -> None:
    """The sender's own work lies between the start and the arrival at an idle receiver."""
    found = calibrate_sender.overhead(busy().trace.attempts).work
    assert found.value == pytest.approx(0.007)
    assert found.low <= 0.007 <= found.high
    assert found.observations > 100


def test_early_answers_are_found() -> None:
    """A receiver that answers on arrival: its latency is the work that follows."""
    result = sim.run(
        {
            "seed": 2,
            "horizon": "1000s",
            "producers": {"p": {"arrivals": {"poisson": "1/s"}}},
            "endpoints": {"e": {"policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s"], "timeout": "5s"}},
            "receivers": {"r": {"latency": {"exponential": {"mean": "1s"}}, "answers": "on_arrival"}},
        }
    )
    fit = sim.fit(result)
    assert fit.receiver["answers"] == "on_arrival"
    row = fit.table.set_index("parameter").loc["receiver.latency.exponential.mean"]
    assert row["low"] < 1 < row["high"]


def test_errors_with_a_latency_of_their_own_get_one() -> None:
    """Fast errors among slow answers are fitted apart, Retry-After included."""
    count = 2000
    error = uniforms("which", count) < 0.1
    took = np.where(error, 0.01, 1.0) * -np.log(uniforms("long", count))
    at = np.arange(count) * 10.0
    frame = pd.DataFrame(
        {
            "started_s": at,
            "finished_s": at + took,
            "status": np.where(error, 429, 200),
            "retry_after_s": np.where(error, "30", ""),
        }
    )
    fit = sim.fit(frame)
    (fault,) = fit.receiver["faults"]
    assert fault["error"]["retry_after"] == "30s"
    assert fault["error"]["latency"]["exponential"]
    row = fit.table.set_index("parameter").loc["receiver.latency.exponential.mean"]
    assert row["low"] < 1 < row["high"]


def test_the_fitted_scenario_runs_like_the_log() -> None:
    """Fit, run, fit again: shares and latencies agree within what both intervals allow."""
    first = worlds("lognormal", 1, seed=8)
    fit = sim.fit(first)
    again = sim.run(fit.scenario("timepad"), seed=3)
    assert again.metrics["deliveries"] == pytest.approx(
        first.metrics["deliveries"], abs=6 * math.sqrt(2 * 800)
    )
    ours = first.metrics["delivery_latency_s_p50"]
    assert again.metrics["delivery_latency_s_p50"] == pytest.approx(ours, rel=6 * 1.2533 / math.sqrt(400))


def test_the_same_log_gives_the_same_fit() -> None:
    """Nothing in a fit depends on luck."""
    result = worlds("erlang", 1, seed=8)
    assert sim.fit(result).to_json() == sim.fit(result).to_json()
