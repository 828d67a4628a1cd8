"""The closed forms against reference figures, against each other in their limits, and against brute force."""

import inspect
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg

from sim import theory
from sim.theory import (
    adjacent_inversion_poisson,
    amplification,
    attempts_mean,
    dispatcher_bcmp,
    duplicates,
    exponential_tail,
    feedback_mmc,
    fifo_hol,
    fifo_tier_random_delay,
    fluid_drain,
    jitter_total,
    lognormal_tail,
    md1_queue_wait_cdf,
    md1_queue_wait_quantile,
    metastable,
    mg1,
    mmc,
    mmck,
    ordering_exp_latency,
    ordering_poisson,
    outage_attempt_rate,
    outage_ctmc,
    pair_inversion,
    pair_inversion_inf,
    polling,
    retrial_mg1,
    retrial_mm1,
    retrial_mmc,
    retry_budget_load,
    schedule_iid,
    single_outage,
    sync_spike,
    thin_payload_miss,
)

Row = dict[str, Any]
STORED_DIGITS = 6e-11  # the reference figures are rounded to ten decimals

rates = st.floats(0.01, 100.0)
loads = st.floats(0.01, 0.95)
probabilities = st.floats(0.0, 0.95)
gap_lists = st.lists(st.floats(0.0, 1e4), max_size=6)
few = settings(deadline=None, max_examples=25)


# ---- reference figures in ../shared -----------------------------------------------------------------------


def shared_folder() -> Path:
    """The folder of reference data beside the repository; skips without it, or fails where CI=true."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        message = "the reference data in ../shared is missing"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


def reference_rows() -> list[Row]:
    """All rows of the reference results."""
    rows: list[Row] = json.loads((shared_folder() / "oracles" / "open.json").read_text(encoding="utf-8"))
    return rows


def service_cv(service: Row) -> float:
    """Coefficient of variation of a reference service distribution."""
    kind = service["dist"]
    return float({"det": 0.0, "erlang": service.get("k", 1) ** -0.5, "lognormal": service.get("cv")}[kind])


def of_mmc(p: Row) -> Row:
    """M/M/c."""
    queue = mmc(p["lam"], p["mu"], p["c"])
    quantiles = {f"wq_p{percent}": queue.queue_wait_s_quantile(percent / 100) for percent in (50, 90, 95, 99)}
    return quantiles | {
        "p_wait": queue.wait_probability,
        "wq": queue.queue_wait_s_mean,
        "w": queue.sojourn_s_mean,
        "lq": queue.queue_length_mean,
        "l": queue.in_system_mean,
        "util": queue.utilization,
        "p_sojourn_gt_t": queue.sojourn_tail(p["t"]),
    }


def of_mmck(p: Row) -> Row:
    """M/M/c/K."""
    queue = mmck(p["lam"], p["mu"], p["c"], p["K"])
    return {
        "p_loss": queue.loss_probability,
        "lq": queue.queue_length_mean,
        "wq_accepted": queue.queue_wait_s_mean,
        "l": queue.in_system_mean,
        "p_wait_accepted": queue.wait_probability,
        "goodput": queue.goodput_per_s,
    }


def of_mg1(p: Row) -> Row:
    """M/G/1."""
    queue = mg1(p["lam"], p["service"]["mean"], service_cv(p["service"]))
    return {
        "p_wait": queue.wait_probability,
        "wq": queue.queue_wait_s_mean,
        "w": queue.sojourn_s_mean,
        "lq": queue.queue_length_mean,
    }


def of_md1(p: Row) -> Row:
    """M/D/1 with its quantiles."""
    means = of_mg1({"lam": p["lam"], "service": {"dist": "det", "mean": p["D"]}})
    shares = {f"wq_p{n}": md1_queue_wait_quantile(p["lam"], p["D"], n / 100) for n in (50, 90, 95, 99)}
    return means | shares


def of_feedback_mmc(p: Row) -> Row:
    """Immediate feedback."""
    queue = feedback_mmc(p["lam"], p["mu"], p["c"], p["q"], p.get("max_attempts"))
    return {
        "lam_eff": queue.attempt_rate_per_s,
        "rho": queue.utilization,
        "lam_max": queue.arrival_rate_per_s_max,
        "l": queue.in_system_mean,
        "p_wait": queue.wait_probability,
        "wq_attempt": queue.queue_wait_s_mean,
        "t_total": queue.settle_time_s_mean,
    }


def of_dispatcher_bcmp(p: Row) -> Row:
    """Workers and orbit."""
    queue = dispatcher_bcmp(p["lam"], p["mu"], p["c"], p["q"], p["delays"])
    return {
        "lam_eff": queue.attempt_rate_per_s,
        "util": queue.utilization,
        "p_wait": queue.wait_probability,
        "wq_attempt": queue.queue_wait_s_mean,
        "l_queue": queue.in_system_mean,
        "orbit_mean": queue.orbit_mean,
        "orbit_var": queue.orbit_variance,
        "t_total": queue.settle_time_s_mean,
        "p_lost": queue.lost_share,
    }


def of_retrial(queue: theory.RetrialQueue) -> Row:
    """The three retrial queues under their reference names."""
    return {
        "p_busy": queue.blocking_probability,
        "p_block": queue.blocking_probability,
        "busy": queue.busy_mean,
        "orbit": queue.orbit_mean,
        "orbit_time": queue.orbit_time_s_mean,
        "attempts": queue.attempts_per_delivery,
        "p_empty": queue.empty_probability,
    }


def of_schedule_iid(p: Row) -> Row:
    """Independent attempts."""
    outcome = schedule_iid(p["q"], p["delays"], p.get("a_fail", 0.0), p.get("a_ok", 0.0))
    shares = {f"cdf_{t:g}": outcome.within_share(t) for t in p["probs_at"]}
    percents = {f"p{n:g}_delivered": outcome.delivery_latency_s_quantile(n / 100) for n in (50, 90, 99, 99.9)}
    return (
        {key.replace("1e+05", "100000"): value for key, value in shares.items()}
        | percents
        | {
            "p_lost": outcome.lost_share,
            "attempts": outcome.attempts_per_delivery,
            "mean_delivered": outcome.delivery_latency_s_mean,
            "sd_delivered": outcome.delivery_latency_s_sd,
        }
    )


def of_duplicates(p: Row) -> Row:
    """Late processing."""
    latency = p["latency"]
    if latency["dist"] == "exp":
        late = exponential_tail(p["timeout"], latency["mean"])
    else:
        late = lognormal_tail(p["timeout"], latency["median"], latency["sigma"])
    window = p.get("dedupe_ttl", 0.0)
    result = duplicates(late, p["max_attempts"], p.get("f", 0.0), p.get("delays", ()), p["timeout"], window)
    return {
        "p_timeout": late,
        "attempts": result.attempts_per_delivery,
        "processed": result.processed_per_delivery,
        "duplicates": result.duplicates_per_delivery,
        "p_any_duplicate": result.duplicate_share,
        "p_sender_gives_up": result.given_up_share,
        "p_false_loss": result.false_loss_share,
        "p_never_processed": result.never_processed_share,
        "dups_past_dedupe": result.effect_duplicates_per_delivery,
    }


def of_outage_ctmc(p: Row) -> Row:
    """Random outages."""
    result = outage_ctmc(
        p["mean_up"],
        p["mean_down"],
        p["delays"],
        p.get("jitter", "none"),
        p.get("f_up", 0.0),
        p.get("f_down", 1.0),
    )
    return {
        "p_lost": result.lost_share,
        "attempts": result.attempts_per_delivery,
        "p_first_ok": result.first_attempt_share,
        "availability": result.availability,
        "mean_delivered": result.delivery_latency_s_mean,
    }


def of_single_outage(p: Row) -> Row:
    """One outage."""
    result = single_outage(p["D"], p["delays"])
    return {
        "p_lost": result.lost_share,
        "attempts": result.attempts_per_delivery,
        "mean_latency_delivered": result.delivery_latency_s_mean,
    }


def of_pair_inversion(p: Row) -> Row:
    """Two events on one schedule."""
    result = pair_inversion(p["q"], p["delays"], p["delta"])
    return {
        "p_inverted": result.inverted_probability,
        "p_inverted_given_both": result.inverted_given_both_probability,
        "p_gap": result.gap_probability,
    }


def of_ordering_poisson(p: Row) -> Row:
    """Poisson events on one schedule."""
    result = ordering_poisson(p["q"], p["delays"], p["lam"])
    return {
        "late_fraction": result.late_share,
        "inversions_per_event": result.inversions_per_event,
        "p_lost": result.lost_share,
    }


def of_ordering_exp_latency(p: Row) -> Row:
    """Poisson events with exponential latency."""
    result = ordering_exp_latency(p["lam"], p["nu"], p["delta"])
    return {
        "p_pair": result.pair_probability,
        "p_adjacent": result.adjacent_probability,
        "inversions_per_event": result.inversions_per_event,
        "late_fraction": result.late_share,
    }


def of_jitter_total(p: Row) -> Row:
    """Sum of gaps."""
    kind = "decorrelated" if p["kind"] == "decorr" else p["kind"]
    result = jitter_total(kind, p["base"], p["k"], p.get("cap"))
    return {"mean": result.total_s_mean, "sd": result.total_s_sd, "last_mean": result.last_gap_s_mean}


def of_fluid_drain(p: Row) -> Row:
    """Backlog of one outage."""
    result = fluid_drain(p["lam"], p["mu"], p["c"], p["D"])
    return {
        "drain": result.drain_s,
        "peak": result.backlog_max,
        "area": result.backlog_area_s,
        "mean_delay_affected": result.affected_delay_s_mean,
    }


def of_sync_spike(p: Row) -> Row:
    """Fullest bin."""
    result = sync_spike(p["N"], p["d"], p["w"])
    return {
        "peak_none": result.peak_without_jitter,
        "mean_bin": result.bin_mean,
        "sd_bin": result.bin_sd,
        "peak_full_mean": result.peak_mean,
        "peak_full_median": result.peak_median,
        "peak_full_p95": result.peak_p95,
        "ratio": result.peak_ratio,
    }


def of_retry_budget_load(p: Row) -> Row:
    """Budgeted load."""
    result = retry_budget_load(p["f"], p["max_retries"], p["deposit"])
    return {
        "load": result.load,
        "success": result.success_share,
        "limited": float(result.limited),
        "load_no_budget": result.load_without_budget,
    }


def of_metastable_prediction(p: Row) -> Row:
    """Collapsed state."""
    result = metastable(p["lam"], p["mu"], p["max_attempts"], p["timeout"])
    return {
        "offered_collapsed": result.collapsed_load_per_s,
        "vulnerable": float(result.vulnerable),
        "growth": result.backlog_growth_per_s,
        "drain_rate_with_budget": result.drain_rate_with_budget_per_s,
    }


def of_polling(p: Row) -> Row:
    """Polling."""
    result = polling(p["lam"], p["P"])
    return {
        "mean_staleness": result.staleness_s_mean,
        "p95_staleness": result.staleness_s_p95,
        "req_rate": result.polls_per_s,
        "empty": result.empty_poll_share,
        "batch": result.batch_mean,
        "stale_time": result.stale_time_share,
        "requests_per_event": result.polls_per_event,
    }


def of_fifo_hol(p: Row) -> Row:
    """Strict order."""
    result = fifo_hol(p["lam"], p["q"], p["delays"], p["a_fail"], p["a_ok"])
    return {
        "es": result.service_s_mean,
        "rho": result.utilization,
        "lam_max": result.arrival_rate_per_s_max,
        "wq": result.queue_wait_s_mean,
        "t_total": result.settle_time_s_mean,
        "p_wait": result.wait_probability,
    }


def of_fifo_tier_random_delay(p: Row) -> Row:
    """Random gaps in a FIFO tier."""
    result = fifo_tier_random_delay(p["lam"], p["a"], p["b"])
    return {
        "mean": result.tier_wait_s_mean,
        "extra": result.head_of_line_wait_s_mean,
        "median": result.tier_wait_s_median,
    }


def of_thin_payload_miss(p: Row) -> Row:
    """Deleted and changed objects."""
    result = thin_payload_miss(p["q"], p["delays"], p["delete_rate"], p["update_rate"])
    return {"p_missing": result.missing_share, "p_newer": result.newer_share}


CLOSED_FORMS: dict[str, Callable[[Row], Row]] = {
    "adjacent_inversion_poisson": lambda p: {
        "p_inverted": adjacent_inversion_poisson(p["q"], p["d"], p["lam"])
    },
    "amplification": lambda p: {"calls": amplification(p["attempts"], p["layers"])},
    "dispatcher_bcmp": of_dispatcher_bcmp,
    "duplicates": of_duplicates,
    "feedback_mmc": of_feedback_mmc,
    "fifo_hol": of_fifo_hol,
    "fifo_tier_random_delay": of_fifo_tier_random_delay,
    "fluid_drain": of_fluid_drain,
    "jitter_total": of_jitter_total,
    "md1": of_md1,
    "metastable_prediction": of_metastable_prediction,
    "mg1": of_mg1,
    "mmc": of_mmc,
    "mmck": of_mmck,
    "ordering_exp_latency": of_ordering_exp_latency,
    "ordering_poisson": of_ordering_poisson,
    "outage_attempt_rate": lambda p: {
        f"rate_{t:g}": outage_attempt_rate(t, p["lam"], p["D"], p["delays"]) for t in p["times"]
    },
    "outage_ctmc": of_outage_ctmc,
    "pair_inversion": of_pair_inversion,
    "pair_inversion_inf": lambda p: {"p_inverted": pair_inversion_inf(p["q"], p["d"], p["delta"])},
    "polling": of_polling,
    "retrial_mg1": lambda p: of_retrial(
        retrial_mg1(p["lam"], p["service"]["mean"], service_cv(p["service"]), p["theta"])
    ),
    "retrial_mm1": lambda p: of_retrial(retrial_mm1(p["lam"], p["mu"], p["theta"])),
    "retrial_mmc": lambda p: of_retrial(retrial_mmc(p["lam"], p["mu"], p["c"], p["theta"])),
    "retry_budget_load": of_retry_budget_load,
    "schedule_iid": of_schedule_iid,
    "single_outage": of_single_outage,
    "sync_spike": of_sync_spike,
    "thin_payload_miss": of_thin_payload_miss,
}
SIMULATED = "metastable (check.metastable reference simulation)"
CONTENTION = "AWS OCC contention"  # a published simulator without a closed form


@pytest.mark.shared
@pytest.mark.parametrize("oracle", sorted(CLOSED_FORMS))
def test_closed_form_gives_reference_figures(oracle: str) -> None:
    """Every figure is met within its formula tolerance, 1e-6 where none is given, and the stored ten decimals."""
    rows = [row for row in reference_rows() if row["oracle"] == oracle]
    assert rows
    wrong = []
    for row in rows:
        figures = CLOSED_FORMS[oracle](row["params"])
        for key, expected in row["expected"].items():
            tolerance = expected.get("rtol_formula", 1e-6)
            if figures[key] != pytest.approx(expected["value"], rel=tolerance, abs=STORED_DIGITS):
                wrong.append(f"{row['id']} {key}: {figures[key]!r}, reference {expected['value']!r}")
    assert wrong == []


@pytest.mark.shared
def test_every_reference_row_has_a_closed_form_or_a_reason() -> None:
    """Rows without a closed form are the two simulated kinds, and no others."""
    others = {row["oracle"] for row in reference_rows() if row["oracle"] not in CLOSED_FORMS}
    assert {SIMULATED} == {name for name in others if not name.startswith(CONTENTION)}


@pytest.mark.shared
def test_metastable_prediction_meets_the_simulated_rows() -> None:
    """The prediction tells collapse from recovery, with the simulated load and goodput in one run's tolerance."""
    wrong = []
    for row in reference_rows():
        p, expected = row["params"], row["expected"]
        if row["oracle"] != SIMULATED or 0 < expected["recovered"]["value"] < expected["recovered"]["of"]:
            continue  # a pause as long as the timeout: chance decides, and no prediction is made
        retried = p["policy"] in ("immediate", "backoff")  # a budget stops all retries when nothing succeeds
        result = metastable(
            p["lam"],
            p["mu"],
            p["max_attempts"] if retried else 1,
            p["timeout"],
            p["pause"],
            p.get("queue_limit", math.inf),
        )
        collapsed = result.collapse_expected
        load, goodput = (result.collapsed_load_per_s, 0.0) if collapsed else (p["lam"], p["lam"])
        checks = {
            "recovered": (expected["recovered"]["value"] == 0) == collapsed,
            "offered": abs(load - expected["offered_last60"]["value"])
            <= expected["offered_last60"]["tol_single_run"],
            "goodput": abs(goodput - expected["goodput_last60"]["value"])
            <= expected["goodput_last60"]["tol_single_run"],
        }
        if not retried:
            drain = fluid_drain(p["lam"], p["mu"], 1, p["pause"]).drain_s
            recovery = expected["recovery_s"]
            checks["recovery"] = abs(drain - recovery["value"]) <= recovery["tol_single_run"]
        wrong += [f"{row['id']} {name}" for name, ok in checks.items() if not ok]
    assert wrong == []


# ---- figures of our own -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (lambda: mmc(8, 1, 10).wait_probability, 0.4091801508),  # Erlang C, ten servers at 80 %
        (lambda: mmc(8, 1, 10).queue_wait_s_quantile(0.99), 1.8557852163),  # its tail is exponential
        (lambda: mmc(8, 1, 10).sojourn_tail(2.0), 0.183217399),  # wait and service together
        (lambda: mmck(6, 1, 8, 8).loss_probability, 0.1218757837),  # Erlang B
        (lambda: mg1(0.7, 1, 0).queue_wait_s_mean, 7 / 6),  # constant service waits half of M/M/1
        (lambda: md1_queue_wait_quantile(0.8, 1, 0.99), 10.3558867922),  # Crommelin, far in the tail
        (lambda: feedback_mmc(0.5, 1, 1, 0.3).settle_time_s_mean, 5.0),  # retried until success
        # queue and orbit
        (lambda: dispatcher_bcmp(20, 4, 8, 0.25, [5, 30, 120]).settle_time_s_mean, 5.4602836009),
        (lambda: retrial_mmc(3, 1, 4, 0.5).orbit_mean, 5.6074759217),  # solved numerically
        # not the inversions, 0.0892
        (lambda: ordering_poisson(0.1, [60, 600], 1 / 120).late_share, 0.0416144316),
        (lambda: sync_spike(1000, 60, 1).peak_mean, 26.8453663853),  # against 1000 without jitter
        # a gap holds up all
        (lambda: fifo_hol(0.15, 0.2, [10, 20, 40], 1, 0.5).queue_wait_s_mean, 17.6019824628),
        # jitter in a FIFO
        (lambda: fifo_tier_random_delay(0.1, 30, 90).head_of_line_wait_s_mean, 9.2415157024),
        (lambda: thin_payload_miss(0.1, [60, 600, 3600, 86400], 1 / 7200, 0).missing_share, 0.0020271568),
        # three times the last gap at most
        (lambda: jitter_total("decorrelated", 1, 4).total_s_sd, 13.0649419568),
        (lambda: outage_ctmc(600, 60, [10, 20, 40, 80], "full").lost_share, 0.0297906937),  # mean of e^{QG}
        (lambda: retry_budget_load(0.5, 3, 0.1).load, 1 / 0.95),  # against 1.875 without a budget
    ],
)
def test_known_figure(got: Callable[[], float], expected: float) -> None:
    """A few reference figures, copied, so that the forms are held to something without the shared folder."""
    assert got() == pytest.approx(expected, rel=1e-9, abs=STORED_DIGITS)


# ---- limits and identities --------------------------------------------------------------------------------


@given(rates, loads)
def test_mmc_with_one_server_is_mm1(service_rate: float, load: float) -> None:
    """M/M/1: P(wait) = ρ, mean wait ρ/(μ−λ), and an exponential sojourn of rate μ−λ."""
    queue = mmc(load * service_rate, service_rate, 1)
    spare = service_rate * (1 - load)
    assert queue.wait_probability == pytest.approx(load)
    assert queue.queue_wait_s_mean == pytest.approx(load / spare)
    assert queue.sojourn_tail(1 / spare) == pytest.approx(math.exp(-1))


@given(rates, loads)
def test_mg1_with_exponential_service_is_mm1(service_rate: float, load: float) -> None:
    """Pollaczek–Khinchine with cv 1 gives the M/M/1 wait."""
    arrivals = load * service_rate
    assert mg1(arrivals, 1 / service_rate, 1).queue_wait_s_mean == pytest.approx(
        mmc(arrivals, service_rate, 1).queue_wait_s_mean
    )


@given(rates, loads, st.integers(1, 60))
def test_mmc_obeys_littles_law_and_its_own_tail(service_rate: float, load: float, servers: int) -> None:
    """L = λW and L − L_q = λ/μ; the integral of the wait's tail is its mean, and quantiles invert the tail."""
    arrivals = load * servers * service_rate
    queue = mmc(arrivals, service_rate, servers)
    assert queue.in_system_mean == pytest.approx(arrivals * queue.sojourn_s_mean)
    assert queue.in_system_mean - queue.queue_length_mean == pytest.approx(arrivals / service_rate)
    spare = servers * service_rate - arrivals
    assert queue.queue_wait_tail(0) / spare == pytest.approx(queue.queue_wait_s_mean)
    high = 1 - max(1e-9, queue.wait_probability / 10)
    assert queue.queue_wait_tail(queue.queue_wait_s_quantile(high)) == pytest.approx(
        min(1 - high, queue.wait_probability), rel=1e-6
    )


def test_sojourn_tail_is_a_number_far_out() -> None:
    """A time many services long has a tail as small as its exponent says, where e^{μt} is no number any more."""
    assert mmc(0.9, 1, 1).sojourn_tail(2000) == pytest.approx(math.exp(-200), rel=1e-9)
    assert mmc(9, 1, 10).sojourn_tail(2000) == 0.0
    assert mmc(0.5, 1, 3).sojourn_tail(300) == pytest.approx(math.exp(-300), rel=0.2)


def test_sojourn_tail_is_continuous_where_its_formula_divides_by_zero() -> None:
    """At λ/μ = c−1 the limit is used, and it joins its neighbours."""
    at, near = mmc(3, 1, 4).sojourn_tail(2), mmc(3 + 1e-7, 1, 4).sojourn_tail(2)
    assert at == pytest.approx(near, rel=1e-5)


@given(st.floats(0.05, 0.9), st.integers(1, 8))
def test_mmck_with_many_places_is_mmc(load: float, servers: int) -> None:
    """Without loss the queues agree, and with any loss arrivals split into goodput and loss."""
    full, lossy = mmc(load * servers, 1, servers), mmck(load * servers, 1, servers, 1000)
    assert lossy.queue_wait_s_mean == pytest.approx(full.queue_wait_s_mean, rel=1e-6)
    assert lossy.wait_probability == pytest.approx(full.wait_probability, rel=1e-6)
    small = mmck(3 * load * servers, 1, servers, servers + 2)
    assert small.goodput_per_s == pytest.approx(3 * load * servers * (1 - small.loss_probability))


def test_large_loss_system_does_not_overflow() -> None:
    """A thousand servers are summed in logarithms and lose what Erlang's recursion says."""
    blocked = 1.0
    for busy in range(1, 1001):
        blocked = 950 * blocked / (busy + 950 * blocked)
    assert mmck(950, 1, 1000, 1000).loss_probability == pytest.approx(blocked, rel=1e-9)


@given(st.floats(0.05, 0.9), st.floats(0.0, 8.0))
def test_md1_distribution_is_crommelins_sum(load: float, duration: float) -> None:
    """The positive series equals the alternating one where that one can still be computed."""
    terms = ((load * (k - duration)) ** k / math.factorial(k) for k in range(math.floor(duration) + 1))
    alternating = (1 - load) * math.fsum(
        term * math.exp(load * (duration - k)) for k, term in enumerate(terms)
    )
    assert md1_queue_wait_cdf(load, 1, duration) == pytest.approx(alternating, abs=1e-9)


@few
@given(st.floats(0.1, 0.95), rates)
def test_md1_distribution_has_the_pollaczek_khinchine_mean(load: float, service_rate: float) -> None:
    """The integral of its tail, far out and at any scale of time, is the mean wait."""
    arrivals, service = load * service_rate, 1 / service_rate
    # Gauss-Legendre on each service time, where the distribution is smooth
    nodes, weights = np.polynomial.legendre.leggauss(8)
    reach = math.ceil(40 / (1 - load)) + 10
    tail = [
        weight / 2 * service * (1 - md1_queue_wait_cdf(arrivals, service, (k + (node + 1) / 2) * service))
        for k in range(min(reach, 60))
        for node, weight in zip(nodes, weights, strict=True)
    ]
    mean = mg1(arrivals, service, 0).queue_wait_s_mean
    if load <= 0.7:  # then sixty service times hold all of it
        assert math.fsum(tail) == pytest.approx(mean, rel=1e-6)
    assert math.fsum(tail) <= mean * (1 + 1e-9)


@given(st.floats(0.1, 0.97), st.floats(0.01, 0.9999))
def test_md1_quantile_inverts_the_distribution(load: float, probability: float) -> None:
    """P(wait ≤ quantile) is the probability, or the share that does not wait at all."""
    reached = md1_queue_wait_cdf(load, 1, md1_queue_wait_quantile(load, 1, probability))
    assert reached == pytest.approx(max(probability, 1 - load), rel=1e-9)


@given(probabilities, st.integers(1, 8), loads)
def test_feedback_is_a_dispatcher_without_gaps(failure: float, attempts: int, load: float) -> None:
    """Zero gaps leave no orbit, and both forms agree in every field."""
    arrivals = load * 3 / attempts_mean(failure, attempts)
    looped = feedback_mmc(arrivals, 1, 3, failure, attempts)
    assert looped == dispatcher_bcmp(arrivals, 1, 3, failure, [0.0] * (attempts - 1))
    assert looped.orbit_mean == 0


@given(probabilities, gap_lists, loads)
def test_dispatcher_obeys_littles_law(failure: float, gaps: list[float], load: float) -> None:
    """Deliveries in workers, queue and orbit = λ × settle time."""
    arrivals = load * 4 / attempts_mean(failure, len(gaps) + 1)
    queue = dispatcher_bcmp(arrivals, 1, 4, failure, gaps)
    assert queue.in_system_mean + queue.orbit_mean == pytest.approx(arrivals * queue.settle_time_s_mean)


@given(rates, loads)
def test_fast_retrials_are_a_queue(service_rate: float, load: float) -> None:
    """As θ → ∞ the retrial orbit of one server becomes the M/M/1 queue."""
    arrivals = load * service_rate
    orbit = retrial_mm1(arrivals, service_rate, 1e9 * service_rate).orbit_mean
    assert orbit == pytest.approx(mmc(arrivals, service_rate, 1).queue_length_mean, rel=1e-6)


@few
@given(st.floats(0.05, 0.85), st.floats(0.1, 10.0))
def test_retrial_chain_with_one_server_is_the_closed_form(load: float, retries: float) -> None:
    """The numerical solution for c = 1 meets Falin and Templeton's formulas."""
    numerical, closed = retrial_mmc(load, 1, 1, retries), retrial_mm1(load, 1, retries)
    assert numerical.orbit_mean == pytest.approx(closed.orbit_mean, rel=1e-8)
    assert numerical.empty_probability == pytest.approx(closed.empty_probability, rel=1e-8)
    assert numerical.blocking_probability == pytest.approx(closed.blocking_probability, rel=1e-8)


@few
@given(st.floats(0.05, 0.85), st.integers(1, 30))
def test_retrial_chain_with_fast_retrials_is_mmc(load: float, servers: int) -> None:
    """As θ → ∞ refused arrivals wait as in M/M/c; at any θ the mean number busy is λ/μ."""
    fast, slow = retrial_mmc(load * servers, 1, servers, 1e7), retrial_mmc(load * servers, 1, servers, 0.5)
    queue = mmc(load * servers, 1, servers)
    assert fast.orbit_mean == pytest.approx(queue.queue_length_mean, rel=1e-4)
    assert slow.busy_mean == pytest.approx(load * servers, rel=1e-9)
    assert slow.orbit_mean >= queue.queue_length_mean


def test_retrial_chain_is_stable_for_many_servers() -> None:
    """Sixty servers and slow retrials, where rounding would grow from level to level, keep the balance."""
    queue = retrial_mmc(57, 1, 60, 0.05)
    assert queue.busy_mean == pytest.approx(57, rel=1e-12)
    assert queue.orbit_time_s_mean == pytest.approx(queue.orbit_mean / 57)


@given(probabilities, gap_lists)
def test_schedule_conserves_deliveries(failure: float, gaps: list[float]) -> None:
    """Delivered and lost add up to one; the share within any time never exceeds the delivered."""
    outcome = schedule_iid(failure, gaps)
    assert math.fsum(outcome.probabilities) + outcome.lost_share == pytest.approx(1)
    assert outcome.within_share(sum(gaps) + 1) == pytest.approx(1 - outcome.lost_share)
    assert outcome.delivery_latency_s_quantile(1) <= sum(gaps) * (1 + 1e-9)


@given(gap_lists, st.floats(0.0, 0.9), st.floats(0.001, 0.05))
def test_loss_and_attempts_grow_with_the_failure_probability(
    gaps: list[float], failure: float, more: float
) -> None:
    """Worse receivers lose more and cost more attempts."""
    low, high = schedule_iid(failure, gaps), schedule_iid(failure + more, gaps)
    assert high.lost_share > low.lost_share
    assert high.attempts_per_delivery >= low.attempts_per_delivery


def test_schedule_without_gaps_is_one_attempt() -> None:
    """No gaps: one attempt, lost with probability q, delivered after a_ok; with q = 1 there is no latency."""
    outcome = schedule_iid(0.25, [], 5.0, 0.5)
    assert (outcome.lost_share, outcome.attempts_per_delivery) == (0.25, 1.0)
    assert (outcome.delivery_latency_s_mean, outcome.delivery_latency_s_sd) == (0.5, 0.0)
    assert math.isnan(schedule_iid(1.0, [60.0]).delivery_latency_s_mean)


# ---- jitter, outages and spikes ---------------------------------------------------------------------------


@given(st.floats(0.1, 10.0), st.integers(1, 8))
def test_decorrelated_jitter_with_a_cap_out_of_reach_is_uncapped(base: float, gaps: int) -> None:
    """The numerical method for capped draws meets the recursion for uncapped ones."""
    closed, numerical = (jitter_total("decorrelated", base, gaps, cap) for cap in (None, base * 3.0**gaps))
    assert numerical.total_s_mean == pytest.approx(closed.total_s_mean, rel=1e-9)
    assert numerical.total_s_sd == pytest.approx(closed.total_s_sd, rel=1e-9)
    assert numerical.last_gap_s_mean == pytest.approx(closed.last_gap_s_mean, rel=1e-9)


@given(st.floats(1.001, 40.0))
def test_capped_decorrelated_jitter_of_two_gaps_is_its_double_integral(cap: float) -> None:
    """Mean of two gaps from base 1, integrated by hand: E min(cap, U(1,3)) and then E min(cap, U(1, 3g))."""
    first = integrate.quad(lambda g: min(cap, g) / 2, 1, 3, points=[min(cap, 2.999)])[0]

    def second(gap: float) -> float:
        top = min(3 * gap, cap)
        return ((top**2 - 1) / 2 + (3 * gap - top) * cap) / (3 * gap - 1)

    points = sorted({min(cap, 2.999), min(max(cap / 3, 1.001), 2.999)})
    then = integrate.quad(lambda g: second(min(cap, g)) / 2, 1, 3, points=points, limit=200)[0]
    assert jitter_total("decorrelated", 1, 2, cap).total_s_mean == pytest.approx(first + then, rel=1e-7)


def test_decorrelated_jitter_capped_at_its_base_is_constant() -> None:
    """A cap equal to the base leaves nothing to draw."""
    total = jitter_total("decorrelated", 2.0, 5, 2.0)
    assert (total.total_s_mean, total.total_s_sd, total.last_gap_s_mean) == (10.0, 0.0, 2.0)


@given(st.floats(0.1, 10.0), st.integers(1, 10), st.floats(10.0, 100.0))
def test_jitter_kinds_are_ordered(base: float, gaps: int, cap: float) -> None:
    """Full jitter halves the mean, equal takes a quarter off, and each spreads more than the one before."""
    none, equal, full, exponential = (
        jitter_total(kind, base, gaps, cap) for kind in ("none", "equal", "full", "exponential")
    )
    assert full.total_s_mean == pytest.approx(none.total_s_mean / 2)
    assert equal.total_s_mean == pytest.approx(none.total_s_mean * 0.75)
    assert exponential.total_s_mean == pytest.approx(none.total_s_mean)
    assert 0 == none.total_s_sd < equal.total_s_sd < full.total_s_sd < exponential.total_s_sd


@few
@given(
    st.floats(10.0, 1e4),
    st.floats(10.0, 1e4),
    st.lists(st.floats(0.001, 1e4), min_size=1, max_size=3),
    st.sampled_from(["none", "full", "equal", "exponential"]),
)
def test_outage_chain_is_the_matrix_exponential(
    up: float, down: float, gaps: list[float], jitter: str
) -> None:
    """Loss and mean latency from e^{QG} by quadrature over G, with a matrix exponential and no closed form."""
    generator = np.array([[-1 / up, 1 / up], [1 / down, -1 / down]])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    failure = np.array([0.1, 1.0])
    state, age = np.array([up, down]) / (up + down), np.zeros(2)
    delivered = timed = 0.0
    for gap in [*gaps, 0.0]:
        delivered, timed = delivered + state @ (1 - failure), timed + age @ (1 - failure)
        low = {"none": gap, "full": 0.0, "equal": gap / 2, "exponential": 0.0}[jitter]
        # an exponential gap is a uniform one on the scale of its quantiles, x = 1 − e^{−g/d}; x = u⁴-spaced at the end
        shares = (nodes + 1) / 2
        if jitter == "exponential":
            points, mass = -gap * 4 * np.log1p(-shares), weights * 2 * (1 - shares) ** 3
        else:
            points, mass = low + (gap - low) * shares, weights / 2
        moves = [linalg.expm(generator * point) * w for point, w in zip(points, mass, strict=True)]
        move, moved = sum(moves), sum(point * one for point, one in zip(points, moves, strict=True))
        state, age = (state * failure) @ move, (age * failure) @ move + (state * failure) @ moved
    result = outage_ctmc(up, down, gaps, jitter, up_failure_probability=0.1)  # type: ignore[arg-type]
    tolerance = 1e-3 if jitter == "exponential" else 1e-6
    assert 1 - result.lost_share == pytest.approx(delivered, rel=tolerance)
    assert result.delivery_latency_s_mean == pytest.approx(timed / delivered, rel=tolerance, abs=1e-9)


def test_lasting_outages_make_attempts_all_alike() -> None:
    """When up and down last far longer than the schedule, what is lost is what arrives in an outage."""
    result = outage_ctmc(9e12, 1e12, [1.0, 60.0], "full")
    assert result.lost_share == pytest.approx(0.1)
    assert result.attempts_per_delivery == pytest.approx(0.9 + 3 * 0.1)


@given(st.floats(1.0, 1e4), gap_lists)
def test_single_outage_counts_match_a_fine_grid(outage: float, gaps: list[float]) -> None:
    """Walking the schedule from a thousand evenly spread events gives the same shares to the grid's error."""
    start = (np.arange(1000) + 0.5) / 1000 * outage
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    failing = start[:, None] + offsets[None, :] < outage
    result = single_outage(outage, gaps)
    assert result.lost_share == pytest.approx(failing[:, -1].mean(), abs=1e-3)
    assert result.attempts_per_delivery == pytest.approx(
        1 + failing[:, :-1].sum(axis=1).mean(), abs=1e-3 * len(offsets)
    )


@given(gap_lists, st.floats(1.0, 1e4))
def test_attempt_rate_integrates_to_the_attempts_of_the_outage(gaps: list[float], outage: float) -> None:
    """Over all time, attempts beyond the first are those that events of the outage make."""
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    edges = sorted({0.0, *offsets.tolist(), *(outage + np.array([0.0, *gaps])).tolist()})
    extra = math.fsum(
        (high - low) * (outage_attempt_rate((low + high) / 2, 1.0, outage, gaps) - 1)
        for low, high in itertools.pairwise(edges)
    )
    expected = outage * (single_outage(outage, gaps).attempts_per_delivery - 1)
    assert extra == pytest.approx(expected, rel=1e-6, abs=1e-6)


@few
@given(st.integers(1, 7), st.integers(1, 4))
def test_spike_is_the_enumerated_multinomial_maximum(deliveries: int, bins: int) -> None:
    """All ways to put few deliveries into few bins give the same mean, median and 95th percentile."""
    peaks = sorted(
        max(way.count(chosen) for chosen in range(bins))
        for way in itertools.product(range(bins), repeat=deliveries)
    )
    spike = sync_spike(deliveries, float(bins), 1.0)
    assert spike.peak_mean == pytest.approx(sum(peaks) / len(peaks), rel=1e-10)
    assert spike.peak_median == peaks[math.ceil(0.5 * len(peaks)) - 1]
    assert spike.peak_p95 == peaks[math.ceil(0.95 * len(peaks)) - 1]


def test_large_spike_stays_exact() -> None:
    """A hundred thousand retries: above the mean bin by the known order, √(2·mean·ln m), and quickly found."""
    spike = sync_spike(100_000, 60.0, 0.6)
    rough = spike.bin_mean + math.sqrt(2 * spike.bin_mean * math.log(100))
    assert spike.bin_mean < spike.peak_mean < rough
    assert spike.peak_median <= spike.peak_p95


# ---- budgets and collapse ---------------------------------------------------------------------------------


@given(st.floats(0.0, 1.0), st.integers(0, 10), st.floats(0.0, 2.0))
def test_budget_never_adds_load(failure: float, retries: int, ratio: float) -> None:
    """The load lies between 1 and the load without a budget, and a budget of nothing means no retries."""
    result = retry_budget_load(failure, retries, ratio)
    assert result.load * (1 + 1e-12) >= 1
    assert result.load <= result.load_without_budget
    assert retry_budget_load(failure, retries, 0.0).load == 1


def test_collapse_needs_retries_beyond_capacity_and_an_outage_beyond_the_timeout() -> None:
    """Each of the three conditions alone prevents the collapse."""
    assert metastable(70, 100, 3, 1.0, outage_s=10).collapse_expected
    assert not metastable(30, 100, 3, 1.0, outage_s=10).collapse_expected
    assert not metastable(70, 100, 3, 1.0, outage_s=0.5).collapse_expected
    assert not metastable(70, 100, 3, 1.0, outage_s=10, queue_limit=50).collapse_expected


def test_amplification_multiplies_over_layers() -> None:
    """Three layers of four attempts make 64 calls."""
    assert amplification(4, 3) == 64


# ---- order, duplicates, thin messages ---------------------------------------------------------------------


@given(st.floats(0.01, 0.8), st.floats(1.0, 100.0), st.floats(0.0, 500.0))
def test_endless_retries_are_a_long_schedule(failure: float, gap: float, distance: float) -> None:
    """A schedule long enough to lose nothing inverts pairs as endless retries do."""
    distance = (math.floor(distance / gap) + 0.5) * gap  # off the ties, where rounding would decide
    long = pair_inversion(failure, [gap] * 200, distance).inverted_probability
    assert pair_inversion_inf(failure, gap, distance) == pytest.approx(long, rel=1e-9, abs=1e-15)


@few
@given(st.floats(0.0, 0.8), st.floats(1.0, 100.0), st.floats(0.001, 1.0))
def test_adjacent_inversion_is_the_mean_over_distances(failure: float, gap: float, rate: float) -> None:
    """Summing the pair probability over the steps ⌊Δ/d⌋ of an exponential distance gives the closed form."""
    step = math.exp(-rate * gap)
    total = math.fsum(
        pair_inversion_inf(failure, gap, (m + 0.5) * gap) * step**m * (1 - step) for m in range(400)
    )
    assert adjacent_inversion_poisson(failure, gap, rate) == pytest.approx(total, rel=1e-9, abs=1e-15)


@given(probabilities, gap_lists, rates)
def test_late_events_are_fewer_than_inversions(failure: float, gaps: list[float], rate: float) -> None:
    """A late event has at least one inversion; for rare events the two agree."""
    result = ordering_poisson(failure, gaps, rate)
    assert 0 <= result.late_share <= result.inversions_per_event * (1 + 1e-12)
    rare = ordering_poisson(failure, gaps, 1e-12)
    assert rare.late_share == pytest.approx(rare.inversions_per_event, rel=1e-5, abs=1e-20)


@few
@given(st.floats(0.01, 20.0), st.floats(0.05, 20.0))
def test_late_share_of_exponential_latency_is_its_integral(rate: float, latency_rate: float) -> None:
    """1 − E exp(−λ∫₀ᵀG) by quadrature, beside the series."""

    def not_late(time: float) -> float:
        overtaking = rate * (time + math.expm1(-latency_rate * time) / latency_rate)
        return latency_rate * math.exp(-latency_rate * time - overtaking)

    integral = integrate.quad(not_late, 0, 40 / latency_rate, limit=200)[0]
    result = ordering_exp_latency(rate, latency_rate)
    assert result.late_share == pytest.approx(1 - integral, abs=1e-7)
    assert result.adjacent_probability <= result.late_share <= result.inversions_per_event


@few
@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.9),
    st.lists(st.integers(0, 50), max_size=4),
    st.integers(0, 60),
)
def test_duplicates_match_all_patterns_listed(
    late: float, error: float, gaps: list[int], window: int
) -> None:
    """Listing every pattern of errors, timeouts and successes gives every field."""
    size, timeout = len(gaps) + 1, 5
    totals = dict.fromkeys(("attempts", "processed", "several", "lost", "never", "effects"), 0.0)
    for length in range(1, size + 1):
        for pattern in itertools.product("et", repeat=length - 1):
            for last in "s" if length < size else "set":
                outcomes = [*pattern, last]
                chance = math.prod(
                    {"e": error, "t": (1 - error) * late, "s": (1 - error) * (1 - late)}[o] for o in outcomes
                )
                now, latest, effects = 0, -math.inf, 0
                for outcome, gap in zip(outcomes, [*gaps, 0], strict=False):
                    if outcome != "e" and now - latest > window:
                        latest, effects = now, effects + 1
                    now += gap + timeout * (outcome == "t")
                processed = length - outcomes.count("e")
                totals["attempts"] += chance * length
                totals["processed"] += chance * processed
                totals["several"] += chance * (processed > 1)
                totals["lost"] += chance * (last != "s")
                totals["never"] += chance * (processed == 0)
                totals["effects"] += chance * max(0, effects - 1)
    result = duplicates(late, size, error, gaps, timeout, window)
    assert result.attempts_per_delivery == pytest.approx(totals["attempts"])
    assert result.processed_per_delivery == pytest.approx(totals["processed"])
    assert result.duplicate_share == pytest.approx(totals["several"], abs=1e-12)
    assert result.given_up_share == pytest.approx(totals["lost"], abs=1e-12)
    assert result.never_processed_share == pytest.approx(totals["never"], abs=1e-12)
    assert result.false_loss_share == pytest.approx(totals["lost"] - totals["never"], abs=1e-12)
    if window > 0:
        assert result.effect_duplicates_per_delivery == pytest.approx(totals["effects"], abs=1e-12)
    else:
        assert result.effect_duplicates_per_delivery == result.duplicates_per_delivery


@given(probabilities, gap_lists, st.floats(0.0, 10.0))
def test_objects_vanish_only_when_they_are_deleted(failure: float, gaps: list[float], rate: float) -> None:
    """No deletions, nothing vanishes; all deleted at once, all that is retried after a real gap does."""
    assert thin_payload_miss(failure, gaps, 0.0, 1.0).vanished_share == 0
    result = thin_payload_miss(failure, [1.0, *gaps], rate, rate)
    assert result.missing_share == result.newer_share
    assert 0 <= result.vanished_share <= failure
    assert thin_payload_miss(failure, [1.0, *gaps], 1e6, 0.0).vanished_share == pytest.approx(failure)


@few
@given(st.floats(0.001, 10.0), st.floats(0.0, 100.0), st.floats(0.1, 100.0))
def test_tier_wait_is_the_integral_of_its_tail(rate: float, low: float, width: float) -> None:
    """The mean by quadrature beside the closed form; the median has half of the mass below it."""

    def within(wait: float) -> float:
        return (wait - low) / width * math.exp(-rate * (low + width - wait) ** 2 / (2 * width))

    result = fifo_tier_random_delay(rate, low, low + width)
    points = [low + width - min(width, edge / math.sqrt(rate / width)) for edge in (0.5, 2, 6)]
    inside = integrate.quad(within, low, low + width, points=points, limit=200)[0]
    assert result.tier_wait_s_mean == pytest.approx(low + width - inside, rel=1e-7)
    assert within(result.tier_wait_s_median) == pytest.approx(0.5, rel=1e-6)


@given(rates, st.floats(0.01, 1000.0))
def test_polling_conserves_events(rate: float, every: float) -> None:
    """Batches times the polls that are not empty carry all events."""
    result = polling(rate, every)
    assert result.batch_mean * (1 - result.empty_poll_share) == pytest.approx(rate * every)


def test_strict_order_of_single_attempts_is_mg1() -> None:
    """Without failures the head of line is the attempt alone."""
    assert fifo_hol(0.5, 0.0, [60.0], 5.0, 1.0).queue_wait_s_mean == mg1(0.5, 1.0, 0.0).queue_wait_s_mean


# ---- nonsense input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mmc(-1, 1, 1), r"arrival_rate_per_s is -1; it must be finite and above 0"),
        (lambda: mmc(1, math.nan, 1), r"service_rate_per_s is nan; it must be finite"),
        (
            lambda: mmc(2, 1, 2),
            r"arrival_rate_per_s is 2; it must be below servers × service_rate_per_s \(2\)",
        ),
        (lambda: mmc(1, 1, 0), r"servers is 0; it must be a whole number of at least 1"),
        (lambda: mmc(1, 1, 1.5), r"servers is 1.5; it must be a whole number"),  # type: ignore[arg-type]
        (
            lambda: mmc(1, 2, 1).queue_wait_s_quantile(1),
            r"probability is 1; it must be at least 0 and below 1",
        ),
        (lambda: mmc(1, 2, 1).sojourn_tail(-1), r"duration_s is -1; it must be finite and at least 0"),
        (lambda: mmck(1, 1, 3, 2), r"places is 2; it must be at least servers \(3\)"),
        (lambda: mg1(1, 1, 0), r"arrival_rate_per_s is 1; it must be below 1 / service_s_mean"),
        (lambda: mg1(0.5, 1, -1), r"service_cv is -1; it must be"),
        (lambda: md1_queue_wait_cdf(1, 2, 1), r"arrival_rate_per_s is 1; it must be below 1 / service_s"),
        (lambda: md1_queue_wait_cdf(0.5, 1, -1), r"duration_s is -1"),
        (lambda: md1_queue_wait_quantile(0.5, 1, 1), r"probability is 1; it must be at least 0 and below 1"),
        (lambda: attempts_mean(1.0, None), r"failure_probability is 1.0; it must be at least 0 and below 1"),
        (lambda: feedback_mmc(0.8, 1, 1, 0.3), r"arrival_rate_per_s is 0.8; it must be below .* \(0.7\)"),
        (lambda: dispatcher_bcmp(0.8, 1, 1, 0.5, [1, 2]), r"arrival_rate_per_s is 0.8; it must be below"),
        (
            lambda: dispatcher_bcmp(0.1, 1, 1, 1.5, []),
            r"failure_probability is 1.5; it must be between 0 and 1",
        ),
        (lambda: retrial_mm1(1, 1, 1), r"arrival_rate_per_s is 1; it must be below"),
        (lambda: retrial_mm1(0.5, 0, 1), r"service_rate_per_s is 0; it must be"),
        (lambda: retrial_mg1(0.5, 1, 0, 0), r"retry_rate_per_s is 0; it must be"),
        (lambda: retrial_mmc(4, 1, 4, 1), r"arrival_rate_per_s is 4; it must be below"),
        (lambda: schedule_iid(-0.1, []), r"failure_probability is -0.1; it must be between 0 and 1"),
        (lambda: schedule_iid(0.1, [1, -2]), r"gaps_s\[1\] is -2; it must be finite and at least 0"),
        (lambda: schedule_iid(0.1, [], -1), r"failed_attempt_s is -1"),
        (lambda: schedule_iid(0.1, [], 0, -1), r"delivered_attempt_s is -1"),
        (lambda: schedule_iid(0.1, []).delivery_latency_s_quantile(2), r"probability is 2"),
        (lambda: jitter_total("half", 1, 1), r"kind is 'half'; it must be one of none, full"),  # type: ignore[arg-type]
        (lambda: jitter_total("full", 0, 1), r"base_s is 0; it must be"),
        (lambda: jitter_total("full", 1, 0), r"gaps is 0; it must be"),
        (lambda: jitter_total("full", 2, 1, 1), r"cap_s is 1; it must be at least base_s \(2\)"),
        (lambda: outage_ctmc(1, 0, []), r"mean_down_s is 0"),
        (lambda: outage_ctmc(1, 1, [1], "half"), r"jitter is 'half'; it must be one of"),  # type: ignore[arg-type]
        (lambda: single_outage(0, [1]), r"outage_s is 0"),
        (lambda: outage_attempt_rate(0, -1, 1, []), r"arrival_rate_per_s is -1"),
        (lambda: fluid_drain(2, 1, 2, 10), r"arrival_rate_per_s is 2; it must be below"),
        (lambda: sync_spike(0, 1, 1), r"deliveries is 0"),
        (lambda: sync_spike(10, 1, 0.3), r"gap_s is 1; it must be a whole multiple of bin_s \(0.3\)"),
        (lambda: amplification(0, 1), r"attempts is 0"),
        (lambda: retry_budget_load(0.5, -1, 0.1), r"max_retries is -1"),
        (lambda: retry_budget_load(0.5, 1, -0.1), r"ratio is -0.1"),
        (lambda: metastable(1, 1, 1, 0), r"timeout_s is 0"),
        (lambda: metastable(1, 1, 1, 1, outage_s=-1), r"outage_s is -1"),
        (
            lambda: pair_inversion(1.0, [], 1),
            r"failure_probability is 1.0; it must be at least 0 and below 1",
        ),
        (lambda: pair_inversion(0.5, [], -1), r"distance_s is -1"),
        (lambda: pair_inversion_inf(0.5, 0, 1), r"gap_s is 0"),
        (lambda: adjacent_inversion_poisson(0.5, 1, 0), r"arrival_rate_per_s is 0"),
        (lambda: ordering_poisson(0.5, [1], 0), r"arrival_rate_per_s is 0"),
        (lambda: ordering_exp_latency(1, 0), r"latency_rate_per_s is 0"),
        (lambda: exponential_tail(-1, 1), r"duration_s is -1"),
        (lambda: lognormal_tail(1, 1, 0), r"sigma is 0"),
        (
            lambda: duplicates(0.1, 3, 0.0, [1.0]),
            r"gaps_s has 1 entries; it must have max_attempts - 1 \(2\)",
        ),
        (lambda: duplicates(0.1, 3, 0.0, [], -1), r"timeout_s is -1"),
        (lambda: thin_payload_miss(0.1, [1], -1, 1), r"delete_rate_per_s is -1"),
        (lambda: polling(1, 0), r"every_s is 0"),
        (lambda: fifo_hol(1, 0.5, [10]), r"arrival_rate_per_s is 1; it must be below"),
        (lambda: fifo_hol(1, 0.5, []), r"delivered_attempt_s is 0.0; some attempt or gap must take time"),
        (lambda: fifo_tier_random_delay(1, 2, 1), r"high_s is 1; it must be at least low_s \(2\)"),
    ],
)
def test_nonsense_is_refused_with_field_value_and_rule(call: Callable[[], object], message: str) -> None:
    """The error names what was given and what would be right."""
    with pytest.raises(ValueError, match=message):
        call()


# ---- the module itself ------------------------------------------------------------------------------------


def test_every_public_name_is_listed_and_sorted() -> None:
    """``__all__`` holds every public function and result that the module defines or passes on."""
    helpers = ("require_", "solve_", "failed_attempts_s", "Floats")
    found = {
        name
        for name, value in vars(theory).items()
        if getattr(value, "__module__", "").startswith("sim.theory") and not name.startswith(("_", *helpers))
    }
    assert theory.__all__ == sorted(theory.__all__)
    assert set(theory.__all__) == found


def test_every_function_states_its_errors_and_its_source() -> None:
    """A closed form without its origin cannot be checked."""
    functions = [
        getattr(theory, name) for name in theory.__all__ if inspect.isfunction(getattr(theory, name))
    ]
    prose = {function.__name__: " ".join((function.__doc__ or "").split()) for function in functions}
    silent = [name for name, text in prose.items() if not ("Source: " in text and "Raises ``Val" in text)]
    assert silent == []
