"""Verdicts about real runs that differ from their simulation in known ways."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from loadtest.agreement import Agreement, Fates, Tolerances, compare, with_overhead
from loadtest.agreement_fates import ABSENT, NEAR_S, compare_fates, latency_to_timeout
from loadtest.agreement_luck import DISTANCE, RUNS, other_luck, same_luck
from sim.scenario import Scenario, load
from sim.trace import Trace
from tests.agreements import BUSY, CALM, as_real, built, simulated, with_attempts, without

SCENARIO = load(CALM)


@pytest.fixture(scope="module")
def calm() -> Trace:
    """The simulated run of the calm scenario."""
    return simulated(SCENARIO)


def verdict(simulated: Trace, real: Trace, scenario: Scenario = SCENARIO, **more: Any) -> Agreement:
    """The comparison of two runs of a scenario."""
    return compare(simulated, real, built(scenario), **more)


def fates_of(found: Agreement) -> Fates:
    """What became of deliveries, where it was compared one by one."""
    assert found.fates is not None
    return found.fates


def failed(found: Agreement) -> set[str]:
    """Figures that do not agree."""
    return {row.name for row in found.figures if not row.ok}


# --------------------------------------------------------------------------- fate by fate


def test_a_run_a_little_slower_agrees(calm: Trace) -> None:
    """4 ms an attempt are what a machine adds: every fate is the same, and all figures are within tolerance."""
    found = verdict(calm, as_real(SCENARIO, "dispatcher.overhead=4ms"))
    assert found.agree
    assert found.exact
    assert (fates_of(found).different, fates_of(found).excused) == ((), ())
    assert found.evidence.slower_s_p50 == pytest.approx(0.004, abs=1e-6)


def test_a_run_much_slower_keeps_its_fates_and_fails_its_latency(calm: Trace) -> None:
    """40 ms are more than 10 % of the median and less than those of the 99th percentile."""
    found = verdict(calm, as_real(SCENARIO, "dispatcher.overhead=40ms"))
    assert fates_of(found).ok
    assert failed(found) == {"delivery_latency_s_p50"}
    assert not found.agree


def test_a_sender_short_of_workers_fails_its_waits(calm: Trace) -> None:
    """Nothing else is different, and no fate is."""
    found = verdict(calm, as_real(SCENARIO, "dispatcher.workers=8"))
    assert fates_of(found).ok
    assert {"queue_wait_s_mean", "queue_wait_s_p99", "backlog_max"} <= failed(found)
    assert not failed(found) & {"lost_share", "delivered_share", "attempts_per_delivery", "duplicate_share"}


def test_one_outcome_that_is_another_is_found(calm: Trace) -> None:
    """A single attempt of 1,000 says timed_out for rejected: same state, same number of attempts."""
    real = as_real(SCENARIO)
    row = int((real.attempts["outcome"] == "rejected").to_numpy().nonzero()[0][7])
    attempts = real.attempts.copy()
    attempts.loc[row, "outcome"] = "timed_out"
    found = verdict(calm, with_attempts(real, attempts))
    assert [one.delivery_id for one in fates_of(found).different] == [attempts.loc[row, "delivery_id"]]
    assert failed(found) == set()
    assert not found.agree


def test_one_state_that_is_another_is_found(calm: Trace) -> None:
    """The same attempts, and a delivery that says to be lost."""
    real = as_real(SCENARIO)
    row = real.deliveries.index[(real.deliveries["state"] == "delivered").to_numpy()][100]
    real.deliveries.loc[row, "state"] = "dead"
    found = verdict(calm, real)
    assert [(one.sim.state, one.real.state) for one in fates_of(found).different] == [("delivered", "dead")]
    assert "lost_share" in failed(found)


def test_a_real_run_that_does_not_settle_everything_disagrees(calm: Trace) -> None:
    """What hangs in the real run is no reason to compare less closely: the simulation settles everything."""
    real = as_real(SCENARIO, "dispatcher.workers=[[0s, 64], [35s, 0]]")
    found = verdict(calm, real)
    assert found.exact
    assert any(one.real.state == "waiting" for one in fates_of(found).different)
    assert "unsettled_share" in failed(found)


def test_a_delivery_that_was_never_made_is_found(calm: Trace) -> None:
    """Its event is there, and one endpoint of two did not get it: no missing event, another fate."""
    found = verdict(calm, without(as_real(SCENARIO), "delivery_id", "p:17:e:1"))
    assert found.invalid == ()
    assert [(one.delivery_id, one.real.state) for one in fates_of(found).different] == [("p:17:e:1", ABSENT)]


# --------------------------------------------------------------------------- answers near their timeout


def test_answers_near_their_timeout_are_excused(calm: Trace) -> None:
    """With 15 ms more of timeout a few answers come in time; those deliveries are listed, and the runs agree."""
    real = as_real(SCENARIO, "policies.m.timeout=1015ms")
    found = verdict(calm, real)
    fates = fates_of(found)
    assert found.agree
    assert 1 <= len(fates.excused) <= 0.01 * fates.deliveries
    gap = latency_to_timeout(built(SCENARIO))
    for one in fates.excused:
        parted = next(a for a, b in zip(one.sim.attempts, one.real.attempts, strict=False) if a != b)
        assert 0 < gap(one.delivery_id, parted[0]) <= 0.015
    assert fates.near_timeout >= len(fates.excused)


def test_answers_far_from_their_timeout_are_not_excused(calm: Trace) -> None:
    """With 120 ms more, some answers come in time that were more than 50 ms late."""
    found = verdict(calm, as_real(SCENARIO, "policies.m.timeout=1120ms"))
    gap = latency_to_timeout(built(SCENARIO))
    parted = [
        next(a for a, b in zip(one.sim.attempts, one.real.attempts, strict=False) if a != b)
        for one in fates_of(found).different
    ]
    assert parted
    for one, (number, _) in zip(fates_of(found).different, parted, strict=True):
        assert NEAR_S < gap(one.delivery_id, number) <= 0.12
    assert not found.agree


def test_too_many_excuses_are_none() -> None:
    """Where half of all answers lie near the timeout, agreement about the others says too little."""
    scenario = load(CALM, ["receivers.r.latency={uniform: {low: 960ms, high: 1040ms}}"])
    real = as_real(scenario, "policies.m.timeout=1010ms")
    fates = compare_fates(simulated(scenario), real, built(scenario))
    assert fates.different == ()
    assert len(fates.excused) > 0.01 * fates.deliveries
    assert not fates.ok


def test_the_latency_that_is_drawn_is_the_simulated_one(calm: Trace) -> None:
    """Of every processed attempt the distance to the timeout is what the trace shows, and of a lost answer none."""
    gap = latency_to_timeout(built(SCENARIO))
    attempts = calm.attempts[calm.attempts["processed_s"].notna()]
    took = attempts["processed_s"] - attempts["started_s"] - 1.0
    lost = 0
    for delivery_id, number, own in zip(
        attempts["delivery_id"], attempts["attempt_number"], took, strict=True
    ):
        drawn = gap(delivery_id, number)
        lost += drawn == float("inf")
        assert drawn in (float("inf"), pytest.approx(own, abs=1e-8))
    assert 0 < lost < 0.05 * len(attempts)


# --------------------------------------------------------------------------- invalid runs


def test_a_run_that_went_wrong_is_invalid(calm: Trace) -> None:
    """It says nothing, however well its figures agree."""
    found = verdict(calm, as_real(SCENARIO), invalid=("the dispatcher died", "a fair wind"))
    assert found.invalid == ("the dispatcher died", "a fair wind")
    assert (found.valid, found.agree, failed(found)) == (False, False, set())


def test_a_lost_event_makes_a_run_invalid(calm: Trace) -> None:
    """It is named, and so is the number of those that are missing."""
    found = verdict(calm, without(as_real(SCENARIO), "event_id", "p:17"))
    assert found.invalid == ("1 events are missing from the real run, such as p:17",)


def test_an_attempt_that_stands_twice_makes_a_run_invalid(calm: Trace) -> None:
    """Somebody crashed between sending and storing."""
    real = as_real(SCENARIO)
    doubled = with_attempts(real, pd.concat([real.attempts, real.attempts.iloc[[5]]]))
    found = verdict(calm, doubled)
    assert len(found.invalid) == 1
    assert str(real.attempts.iloc[5]["delivery_id"]) in found.invalid[0]


def test_runs_of_different_worlds_are_not_compared(calm: Trace) -> None:
    """Another seed, and another scenario, are said to be so."""
    assert verdict(calm, simulated(SCENARIO, seed=99)).invalid[0].startswith("seeds differ")
    assert "another scenario" in verdict(calm, simulated(load(CALM, ["horizon=39s"]))).invalid[0]


# --------------------------------------------------------------------------- distributions

BUSY_SCENARIO = load(BUSY)


@pytest.fixture(scope="module")
def busy() -> tuple[Trace, list[Trace], list[Trace]]:
    """A simulated run of the busy scenario, more with the same luck, and more with other luck."""
    of = built(BUSY_SCENARIO)
    return simulated(BUSY_SCENARIO), same_luck(of, 0.003), other_luck(of)


def test_runs_of_the_same_luck_agree_where_timing_matters(busy: Any) -> None:
    """3 ms an attempt change some fates, and no figure by more than runs differ among themselves."""
    run, same, _ = busy
    found = verdict(run, as_real(BUSY_SCENARIO, "dispatcher.overhead=3ms"), BUSY_SCENARIO, runs=same)
    assert found.agree
    assert found.fates is None
    assert found.luck is not None
    assert found.luck.runs == RUNS + 1
    assert found.timing_reasons[0].startswith("receivers.r.servers")


def test_independent_runs_agree_at_the_nominal_rate(busy: Any) -> None:
    """Each of 20 runs with luck of its own in turn is the real one; each disagrees with a chance of 1 in 20 at most.

    More disagree than the bound with a chance of 1 in 1,000.
    """
    run, _, other = busy
    runs = [run, *other]
    disagreeing = 0
    for position, real in enumerate(runs):
        rest = runs[:position] + runs[position + 1 :]
        found = verdict(rest[0], real, BUSY_SCENARIO, runs=rest[1:], slowed=rest[0])
        disagreeing += bool(failed(found))
    assert len(runs) == RUNS + 1
    assert disagreeing <= stats.binom.ppf(0.999, len(runs), 1 / len(runs))


@pytest.mark.parametrize("luck", [1, 2], ids=["same luck", "other luck"])
def test_slower_receivers_are_told_apart(busy: Any, luck: int) -> None:
    """A receiver that takes 20 % longer is near all it can do: latency gives it away, whatever the seed."""
    slower = "receivers.r.latency={exponential: {mean: 60ms}}"
    for seed in (None, 11, 12):
        real = as_real(BUSY_SCENARIO, slower, seed=seed)
        found = verdict(busy[0], real, BUSY_SCENARIO, runs=busy[luck], slowed=busy[0])
        assert {"delivery_latency_s_p50", DISTANCE} <= failed(found)
        assert found.evidence.ks_p < found.evidence.ks_alpha
        assert not found.agree


def test_a_sender_that_loses_some_is_told_apart(busy: Any) -> None:
    """Without retries, where the simulation needs some for a few deliveries in a hundred."""
    real = as_real(BUSY_SCENARIO, "policies.m.max_attempts=1")
    found = verdict(busy[0], real, BUSY_SCENARIO, runs=busy[1], slowed=busy[0])
    assert {"lost_share", "delivered_share"} <= failed(found)


def test_further_runs_are_simulated_where_none_are_given() -> None:
    """A caller need not care."""
    scenario = load(BUSY, ["horizon=10s", "drain=30s"])
    found = verdict(simulated(scenario), as_real(scenario, "dispatcher.overhead=2ms"), scenario)
    assert found.luck is not None
    assert found.luck.runs == RUNS + 1


# --------------------------------------------------------------------------- overhead


def test_the_measured_overhead_is_found_again() -> None:
    """A run with 7 ms of work per attempt gives a scenario with so much; timers that are late are added."""
    real = as_real(SCENARIO, "dispatcher.overhead=7ms")
    assert with_overhead(SCENARIO, real).dispatcher.overhead == 7_000_000
    late = with_attempts(
        real,
        real.attempts.assign(
            started_s=real.attempts["started_s"] + 0.002,
            served_s=real.attempts["served_s"] + 0.002,
        ),
    )
    assert with_overhead(SCENARIO, late).dispatcher.overhead == pytest.approx(9_000_000, abs=1)


def test_the_simulation_with_overhead_is_the_slower_run(calm: Trace) -> None:
    """Its column comes close to a real run that is slower, where that of the simulation alone does not."""
    found = verdict(calm, as_real(SCENARIO, "dispatcher.overhead=40ms"))
    row = next(row for row in found.figures if row.name == "delivery_latency_s_p50")
    assert row.slowed == pytest.approx(row.real, abs=1e-6)
    assert row.sim < row.real - 0.03


def test_polls_say_nothing_about_the_overhead() -> None:
    """What polls bring is taken up at once, and there is more of it than of attempts."""
    scenario = load(
        CALM,
        ["endpoints.poller={count: 5, receiver: r, mode: {poll: {every: 1s}}}", "dispatcher.overhead=7ms"],
    )
    assert with_overhead(scenario, as_real(scenario)).dispatcher.overhead == 7_000_000


# --------------------------------------------------------------------------- JSON


def test_json_is_the_contract_and_more(calm: Trace, busy: Any) -> None:
    """agree, and sim, real and ok of every metric; null for what does not exist, and never NaN."""
    real = as_real(SCENARIO, "policies.m.timeout=1015ms")
    exact = json.loads(json.dumps(verdict(calm, real).to_json(), allow_nan=False))
    assert exact["agree"] is True
    assert {"sim", "real", "ok"} <= set(exact["metrics"]["lost_share"])
    assert exact["metrics"]["delivery_latency_s_p99"]["sim"] == calm.metrics["delivery_latency_s_p99"]
    assert exact["fates"]["excused_count"] == len(exact["fates"]["excused"]) >= 1
    assert exact["compared"] == "fates"

    of_busy = verdict(busy[0], as_real(BUSY_SCENARIO), BUSY_SCENARIO, runs=busy[1]).to_json()
    distributions = json.loads(json.dumps(of_busy, allow_nan=False))
    assert (distributions["compared"], distributions["fates"]) == ("distributions", None)
    assert distributions["metrics"][DISTANCE]["sim_with_overhead"] is None
    assert distributions["timing_reasons"]


def test_nothing_processed_is_the_same_on_both_sides() -> None:
    """A scenario in which every attempt fails has no latency, and that is no disagreement."""
    scenario = load(CALM, ["receivers.r.faults=[{error: {probability: 100%}}]", "horizon=5s"])
    found = verdict(simulated(scenario), as_real(scenario, "dispatcher.overhead=1ms"), scenario)
    assert found.agree
    assert found.to_json()["metrics"]["delivery_latency_s_p50"]["sim"] is None


def test_tolerances_are_the_callers() -> None:
    """A run that is 4 ms slower fails where only 1 % or 1 ms are allowed."""
    scenario = load(CALM)
    strict = Tolerances(latency_share=0.01, latency_s=0.001)
    found = verdict(simulated(scenario), as_real(scenario, "dispatcher.overhead=4ms"), tolerances=strict)
    assert failed(found) == {"delivery_latency_s_p50"}
