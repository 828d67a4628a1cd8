"""Closed forms beside a run: where one says that it applies, simulation agrees; where it does not, it says why.

Agreement is judged over replications: Student's t with so small an error probability that none of the
comparisons here fails by chance. Where fewer than ``RARE`` cases are expected in all, their number is judged
as a Poisson count. Seeds and sizes are fixed; a row that fails is a finding.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

import sim
from sim import beside, model, presets, tables
from sim.beside import ClosedForm, closed_forms
from tests.strategies import SMALL, scenarios
from tests.worlds import world

REPLICATIONS = 20
ERROR = 1e-7
"""Probability that a right figure is taken for wrong."""
RARE = 30.0

UNSURE: dict[str, Any] = {
    "name": "unsure",
    "horizon": "1000s",
    "drain": "1000s",
    "producers": {"p": {"arrivals": {"poisson": "2/s"}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "10s", "1m"], "timeout": "30s"}},
    "receivers": {
        "r": {
            "latency": {"uniform": {"low": "0s", "high": "1s"}},
            "faults": [{"error": {"probability": 0.3}}],
        }
    },
}
"""Attempts fail by chance."""
WORKERS: dict[str, Any] = {
    **UNSURE,
    "horizon": "2100s",
    "warmup": "500s",
    "receivers": {
        "r": {"latency": {"exponential": {"mean": "1s"}}, "faults": [{"error": {"probability": 0.2}}]}
    },
    "dispatcher": {"workers": 4},
}
"""Attempts wait for workers."""
LONE: dict[str, Any] = {
    **UNSURE,
    "horizon": "2100s",
    "warmup": "500s",
    "receivers": {"r": {"latency": {"uniform": {"low": "0s", "high": "600ms"}}}},
    "dispatcher": {"workers": 1},
}
"""One worker, and nothing fails."""
SERVERS: dict[str, Any] = {
    **UNSURE,
    "horizon": "2100s",
    "warmup": "500s",
    "receivers": {"r": {"latency": {"exponential": {"mean": "1s"}}, "servers": 3}},
}
"""Requests wait for a receiver's servers."""
AWAY: dict[str, Any] = {
    **UNSURE,
    "horizon": "20000s",
    "producers": {"p": {"arrivals": {"poisson": "0.1/s"}}},
    "receivers": {
        "r": {
            "latency": "0s",
            "faults": [
                {"outage": {"up": {"exponential": {"mean": "5m"}}, "down": {"exponential": {"mean": "1m"}}}},
                {"error": {"probability": 0.05}},
            ],
        }
    },
}
"""The receiver is down now and then."""
PAUSE: dict[str, Any] = {
    **SERVERS,
    "warmup": "0s",
    "producers": {"p": {"arrivals": {"poisson": "20/s"}}},
    "policies": {"m": {"schedule": ["0s"], "timeout": "1h"}},
    "receivers": {
        "r": {
            "latency": {"exponential": {"mean": "100ms"}},
            "servers": 4,
            "faults": [{"outage": {"windows": [["500s", "600s"]], "how": "pause"}}],
        }
    },
}
"""One endpoint stands still for a while."""
STORM: dict[str, Any] = {
    **UNSURE,
    "horizon": "200s",
    "producers": {"p": {"arrivals": {"poisson": "70/s"}}},
    "policies": {"m": {"schedule": ["0s", "0s", "0s"], "timeout": "1s"}},
    "receivers": {
        "r": {
            "latency": {"exponential": {"mean": "10ms"}},
            "servers": 1,
            "faults": [{"outage": {"windows": [["60s", "70s"]], "how": "pause"}}],
        }
    },
}
"""A pause that retries can make last for ever."""


def changed(mapping: dict[str, Any], path: str = "", value: Any = None) -> dict[str, Any]:
    """A copy with one leaf set; ``path`` is separated by slashes, and a number is a place in a list."""
    result = copy.deepcopy(mapping)
    node: Any = result
    *way, last = path.split("/")
    for key in way:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    if path:
        node[last] = value
    return result


def rows(mapping: dict[str, Any], title: str) -> list[ClosedForm]:
    """The rows of one form for a scenario."""
    return [row for row in closed_forms(sim.load(mapping)) if row.title == title]


def replicated(scenario: Any, replications: int = REPLICATIONS) -> list[Any]:
    """The metrics of runs that differ in nothing but luck, and those by endpoint group."""
    found = []
    for seed in range(replications):
        result = sim.run(scenario, seed=seed, engine="compiled")
        by_group = (
            result.metrics_by("endpoint").to_dict("index") if len(result.scenario.endpoints) > 1 else {}
        )
        assert result.metrics["unsettled_share"] == 0
        found.append((result.metrics, by_group))
    return found


def disagreements(forms: list[ClosedForm], runs: list[Any]) -> Iterator[str]:
    """Figures whose mean over the runs is not what the closed form says."""
    quantile = float(stats.t.ppf(1 - ERROR / 2, len(runs) - 1))
    for form in forms:
        if form.kind not in ("exact", "long_run"):
            continue
        assert form.value is not None
        own = [metrics if form.group is None else by_group[form.group] for metrics, by_group in runs]
        values = np.array([metrics[form.metric] for metrics in own])
        deliveries = sum(metrics["deliveries"] for metrics in own)
        cases = {"attempts_per_delivery": form.value - 1, "duplicates_per_delivery": form.value}
        share = form.value if form.metric.endswith("_share") else cases.get(form.metric, math.inf)
        if share * deliveries < RARE:
            found = (values.mean() - form.value + share) * deliveries
            low, high = stats.poisson.interval(1 - ERROR, share * deliveries)
            if not low <= round(found) <= max(high, 0):
                yield f"{form.metric}: {found:.0f} of {deliveries:.0f} is not {share:.6g}"
        elif abs(values.mean() - form.value) > quantile * values.std(ddof=1) / math.sqrt(len(runs)) + 1e-9:
            yield f"{form.title}, {form.metric}: {values.mean():.6g} ± {values.std():.2g} is not {form.value:.6g}"


# --------------------------------------------------------------------------- where it applies, it is right

APPLIES = {
    # scenario, form, figures that it must give
    "chance": (UNSURE, "loss qⁿ", {"lost_share", "attempts_per_delivery"}),
    "latency": (UNSURE, "latency of a schedule", {"delivery_latency_s_mean", "settle_time_s_mean"}),
    "all jittered": (
        changed(changed(UNSURE, "policies/m/jitter", {"additive": "5s"}), "policies/m/schedule", ["3s", "10s", "0s"]),
        "latency of a schedule",
        {"delivery_latency_s_mean", "settle_time_s_mean"},
    ),
    "late answers": (
        changed(UNSURE, "policies/m/timeout", "700ms"),
        "duplicates",
        {"duplicates_per_delivery", "duplicate_share", "false_loss_share"},
    ),
    "lost answers": (
        changed(UNSURE, "receivers/r/faults", [{"lost_answer": {"probability": 0.2}}, {"error": {"probability": 0.1}}]),
        "duplicates",
        {"duplicates_per_delivery", "duplicate_share", "false_loss_share"},
    ),
    "outages": (AWAY, "outage chain", {"lost_share", "attempts_per_delivery", "delivery_latency_s_mean"}),
    "outages, jitter": (
        changed(AWAY, "policies/m/jitter", "full"),
        "outage chain",
        {"lost_share", "attempts_per_delivery", "delivery_latency_s_mean"},
    ),
    "workers": (
        WORKERS,
        "Erlang C, and product form with gaps",
        {
            *("queue_wait_s_mean", "worker_utilization", "attempts_per_s", "backlog_mean"),
            *("orbit_mean", "settle_time_s_mean"),
        },
    ),
    "workers, no failures": (
        changed(WORKERS, "receivers/r/faults", []),
        "Erlang C, and product form with gaps",
        {
            *("queue_wait_s_mean", "worker_utilization", "attempts_per_s", "backlog_mean"),
            *("settle_time_s_mean", "queue_wait_s_p90", "queue_wait_s_p99"),
        },
    ),
    "one worker": (LONE, "Pollaczek–Khinchine", {"queue_wait_s_mean", "worker_utilization", "settle_time_s_mean"}),
    "servers": (SERVERS, "Erlang at the receiver", {"delivery_latency_s_mean", "settle_time_s_mean"}),
    "full backlog": (
        changed(
            changed(changed(SERVERS, "receivers/r/backlog", {"size": 2}), "policies/m/schedule", ["0s"]),
            "policies/m/timeout", "10m",
        ),
        "Erlang at the receiver",
        {"lost_share", "delivery_latency_s_mean"},
    ),
    "a group alone": (
        {
            **UNSURE,
            "endpoints": {
                "e": {"policy": "m", "receiver": "r"},
                "other": {"policy": "m", "receiver": "away"},
            },
            "receivers": {**UNSURE["receivers"], "away": AWAY["receivers"]["r"]},
        },
        "loss qⁿ",
        {"lost_share", "attempts_per_delivery"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("mapping", "title", "figures"), APPLIES.values(), ids=APPLIES.keys())
def test_what_applies_is_what_is_simulated(mapping: dict[str, Any], title: str, figures: set[str]) -> None:
    """Every formula says that it applies to a scenario made for it, and all that apply there are right."""
    forms = closed_forms(sim.load(mapping))
    assert {form.metric for form in forms if form.title == title and form.value is not None} == figures
    runs = replicated(mapping)
    assert list(disagreements(forms, runs)) == []


def test_a_wrong_formula_would_be_noticed() -> None:
    """The comparison fails for values that are off by as much as an assumption that does not hold makes them."""
    runs = replicated(changed(WORKERS, "dispatcher/lanes", {"first": 3, "retries": 1}))
    wrong = list(disagreements(rows(WORKERS, "Erlang C, and product form with gaps"), runs))
    assert any("queue_wait_s_mean" in text for text in wrong)


def generated(number: int) -> dict[str, Any]:
    """A scenario drawn at random from features that formulas care about."""
    luck = random.Random(number)
    latency = luck.choice(
        [
            "200ms",
            {"exponential": {"mean": "300ms"}},
            {"exponential": {"mean": "600ms"}},
            {"erlang": {"mean": "400ms", "stages": 3}},
            {"lognormal": {"mean": "300ms", "cv": 1.5}},
            {"empirical": {"quantiles": {"0%": "10ms", "50%": "200ms", "100%": "900ms"}}},
        ]
    )
    faults: list[Any] = []
    for fault in (
        {"error": {"probability": luck.choice([0.05, 0.3])}},
        {"error": {"probability": 0.2, "status": 503, "latency": "2s"}},
        {"lost_answer": {"probability": 0.1}},
        {"outage": {"up": {"exponential": {"mean": "4m"}}, "down": {"exponential": {"mean": "40s"}}}},
    ):
        if luck.random() < 0.3:
            faults.insert(luck.randint(0, len(faults)), fault)
    rules: dict[str, Any] = {
        "schedule": ["0s", *luck.sample(["0s", "1s", "10s", "45s", "2m"], luck.randint(0, 4))],
        "jitter": luck.choice(
            ["none", "none", "full", "equal", "exponential", {"plus_minus": 0.5}, "decorrelated"]
        ),
        "timeout": luck.choice(["1s", "10s", "1m", "1m"]),
    }
    if luck.random() < 0.1:
        rules["max_age"] = "30s"
    if luck.random() < 0.1:
        rules["budget"] = {"ratio": 0.1}
    receiver: dict[str, Any] = {"latency": latency, "faults": faults}
    if luck.random() < 0.3:
        receiver["servers"] = luck.choice([1, 2, 3])
    if luck.random() < 0.1:
        receiver["backlog"] = {"size": 3}
    arrivals = luck.choice([{"poisson": "2/s"}] * 4 + [{"constant": "2/s"}, {"daily": ["1/s", "3/s"]}])
    endpoint = {
        "policy": "m",
        "receiver": "r",
        "count": luck.choice([1, 1, 3]),
        "route": luck.choice(["all", "by_key"]),
    }
    return {
        "name": f"generated {number}",
        "horizon": "1500s",
        "warmup": luck.choice(["0s", "400s", "600s"]),
        "drain": luck.choice(["100s", "4h"]),
        "producers": {"p": {"arrivals": arrivals}},
        "endpoints": {"e": endpoint},
        "policies": {"m": rules},
        "receivers": {"r": receiver},
        "dispatcher": {"workers": luck.choice(["unlimited", 1, 2, 4]), "ordering": luck.choice(["none"] * 5 + ["key"])},
    }  # fmt: skip


def applicable(number: int) -> dict[str, Any]:
    """The first of a hundred generated scenarios to which a formula with a mean applies."""
    for candidate in range(100 * number, 100 * number + 100):
        mapping = generated(candidate)
        if any(form.kind in ("exact", "long_run") for form in closed_forms(sim.load(mapping))):
            return mapping
    raise AssertionError(f"no formula applies to any of a hundred scenarios from {100 * number} on")


@pytest.mark.parametrize(
    "number", [*range(6), *(pytest.param(number, marks=pytest.mark.long) for number in range(6, 66))]
)
def test_generated_scenarios_agree(number: int) -> None:
    """Whatever the mix of features, a formula that says it applies is right."""
    mapping = applicable(number)
    assert list(disagreements(closed_forms(sim.load(mapping)), replicated(mapping))) == []


def test_bundled_scenarios_agree() -> None:
    """Where a formula applies to a bundled scenario, its runs agree; none exceeds its most attempts."""
    applied = 0
    for name in presets.names("scenarios"):
        forms = closed_forms(sim.load(name))
        (bound,) = [form for form in forms if form.kind == "bound"]
        assert bound.value is not None
        if any(form.kind in ("exact", "long_run") for form in forms):
            applied += 1
            runs = replicated(name, 10)
            assert list(disagreements(forms, runs)) == [], name
            assert all(metrics["attempts_per_delivery"] <= bound.value for metrics, _ in runs)
    assert applied >= 2


def test_a_paused_receiver_drains_as_a_fluid() -> None:
    """Drain time and peak lie within four standard deviations of the random walk around the fluid limit."""
    drain, peak = rows(PAUSE, "drain time")
    assert (drain.metric, peak.metric) == ("drain_s", "receiver_queue_max")
    assert (drain.kind, drain.value, peak.value) == ("limit", 100.0, 2000.0)
    figures = sim.run(PAUSE, engine="compiled").metrics
    spare = 20.0  # capacity minus arrivals, per s
    walk = math.sqrt(20 * 100 + (20 + 40) * 100)  # of what came in the outage, and of the drain
    assert abs(figures["drain_s"] - 100) < (4 * walk + 4) / spare + 4 / spare
    assert abs(figures["receiver_queue_max"] - 2000) < 4 * math.sqrt(2000) + 5


@pytest.mark.parametrize(("attempts", "vulnerable"), [(1, False), (2, True), (3, True)])
def test_the_criterion_tells_who_collapses(attempts: int, vulnerable: bool) -> None:
    """Attempts × arrivals against capacity: who exceeds it is still late long after the pause, others recovered."""
    mapping = changed(STORM, "policies/m/schedule", ["0s"] * attempts)
    (row,) = rows(mapping, "metastability")
    if attempts == 1:
        assert row.value is None
        assert row.why == "there are no retries"
        return
    assert row.value == 70 * attempts
    assert ("for ever" in row.why) == vulnerable
    attempted = sim.run(mapping, engine="compiled").attempts
    late = attempted[attempted["created_s"] > 170]
    assert ((late["outcome"] == "timed_out").mean() > 0.9) == vulnerable


def test_below_capacity_a_pause_is_forgotten() -> None:
    """With so few arrivals that all attempts together fit, the criterion says so and the run recovers."""
    mapping = changed(STORM, "producers/p/arrivals/poisson", "30/s")
    (row,) = rows(mapping, "metastability")
    assert row.value == 90
    assert "it recovers" in row.why
    attempted = sim.run(mapping, engine="compiled").attempts
    assert (attempted[attempted["created_s"] > 170]["outcome"] == "delivered").mean() > 0.99


# --------------------------------------------------------------------------- where it does not, it says why

LOSS, PRODUCT, KHINCHINE = "loss qⁿ", "Erlang C, and product form with gaps", "Pollaczek–Khinchine"
RECEIVER, CHAIN, DRAIN, STABLE = "Erlang at the receiver", "outage chain", "drain time", "metastability"
OUTAGE = {"outage": {"up": {"exponential": {"mean": "5m"}}, "down": {"exponential": {"mean": "1m"}}}}
ERROR_OF_ITS_OWN = [{"error": {"probability": 0.2, "latency": "1s"}}]
BROKEN = [
    # scenario, form, what is changed, what the row says is in the way
    (UNSURE, LOSS, "policies/m/max_age", "50s", "max_age"),
    (UNSURE, LOSS, "policies/m/budget", {"ratio": 0.1}, "budget"),
    (UNSURE, LOSS, "policies/m/breaker", {"failures": 0.5}, "breaker"),
    (UNSURE, LOSS, "policies/m/disable", {"consecutive": 5}, "disable"),
    (UNSURE, LOSS, "policies/m/verdicts", {500: "drop"}, "500 is not retried"),
    (UNSURE, LOSS, "policies/m/verdicts", {"timeout": "drop"}, "a timeout is not retried"),
    (UNSURE, LOSS, "policies/m/success", [201], "200 is no success"),
    (UNSURE, LOSS, "policies/m/first_timeout", "500ms", "timeout of its own"),
    (UNSURE, LOSS, "policies/m/schedule", ["0s", {"delay": "1s", "times": "forever"}], "no end"),
    (UNSURE, LOSS, "policies/m/jitter", "exponential", "drain is shorter"),
    (UNSURE, LOSS, "policies/m/jitter", "decorrelated", "decorrelated"),
    (UNSURE, LOSS, "drain", "1m", "drain is shorter"),
    (UNSURE, LOSS, "receivers/r/faults", [OUTAGE], "outages"),
    (UNSURE, LOSS, "receivers/r/servers", 2, "servers are few"),
    (UNSURE, LOSS, "receivers/r/answers", "on_arrival", "answers before it works"),
    (UNSURE, LOSS, "dispatcher/workers", 1, "busiest time"),
    (UNSURE, LOSS, "dispatcher/ordering", "key", "outlast the run"),
    (UNSURE, LOSS, "dispatcher/overhead", "1ms", "overhead"),
    (UNSURE, LOSS, "endpoints/e/rate_limit", "3/s", "outlast the run"),
    (UNSURE, LOSS, "endpoints/e/mode", {"poll": {"every": "1m"}}, "polls"),
    (UNSURE, LOSS, "endpoints/e/receiver", {"r": 0.5, "healthy": 0.5}, "mix of receivers"),
    (UNSURE, "latency of a schedule", "dispatcher/workers", 100, "wait for workers"),
    (UNSURE, "latency of a schedule", "policies/m/timeout", "900ms", "longer than the timeout"),
    (UNSURE, "duplicates", "drain", "1000s", "without the sender learning"),
    (WORKERS, PRODUCT, "producers/p/arrivals", {"constant": "2/s"}, "not poisson"),
    (WORKERS, PRODUCT, "producers/p/batch", {"a": 2}, "batches"),
    (WORKERS, PRODUCT, "endpoints/e/count", 2, "several deliveries at once"),
    (WORKERS, PRODUCT, "endpoints/e/max_in_flight", 3, "max_in_flight"),
    (WORKERS, PRODUCT, "receivers/r/latency", {"uniform": {"low": "0s", "high": "1s"}}, "not exponential"),
    (WORKERS, PRODUCT, "receivers/r/faults", ERROR_OF_ITS_OWN, "latency of their own"),
    (WORKERS, PRODUCT, "receivers/r/faults", [{"lost_answer": {"probability": 0.1}}], "answers are lost"),
    (WORKERS, PRODUCT, "dispatcher/workers", 2, "no steady state"),
    (WORKERS, PRODUCT, "dispatcher/workers", "unlimited", "unlimited"),
    (WORKERS, PRODUCT, "dispatcher/workers", [["0s", 4], ["10m", 5]], "changes"),
    (WORKERS, PRODUCT, "dispatcher/lanes", {"first": 3, "retries": 1}, "no single pool"),
    (WORKERS, PRODUCT, "dispatcher/discipline", "per_tier", "no single pool"),
    (WORKERS, PRODUCT, "dispatcher/ordering", "endpoint", "predecessors"),
    (WORKERS, PRODUCT, "warmup", "10s", "starts empty"),
    (WORKERS, PRODUCT, "policies/m/timeout", "2s", "longer than the timeout"),
    (WORKERS, PRODUCT, "policies/m/schedule", ["1s", "10s"], "before their first attempt"),
    (LONE, KHINCHINE, "dispatcher/workers", 2, "a formula for one"),
    (LONE, KHINCHINE, "receivers/r/faults", [{"error": {"probability": 0.1}}], "come back"),
    (LONE, KHINCHINE, "receivers/r/latency", {"pareto": {"minimum": "1ms", "shape": 1.9}}, "longer than the timeout"),
    (LONE, KHINCHINE, "receivers/r/latency", {"exponential": {"mean": "400ms"}}, "M/M/c"),
    (LONE, KHINCHINE, "producers/p/arrivals/poisson", "5/s", "no steady state"),
    (SERVERS, RECEIVER, "policies/m/timeout", "2s", "come after the timeout"),
    (SERVERS, RECEIVER, "receivers/r/servers", 2, "no steady state"),
    (SERVERS, RECEIVER, "receivers/r/backlog", {"size": 3}, "comes back"),
    (SERVERS, RECEIVER, "receivers/r/faults", [{"error": {"probability": 0.1}}], "faults"),
    (SERVERS, RECEIVER, "endpoints/e", {"policy": "m", "receiver": "r", "count": 2, "route": "by_key"}, "unevenly"),
    (AWAY, CHAIN, "receivers/r/faults/0/outage/up", "5m", "not exponential"),
    (AWAY, CHAIN, "receivers/r/faults/0/outage/how", "hang", "do not fail at once"),
    (AWAY, CHAIN, "receivers/r/faults/1/error/latency", "1s", "errors take time"),
    (AWAY, CHAIN, "policies/m/jitter", {"plus_minus": 0.1}, "no formula for jitter"),
    (AWAY, CHAIN, "dispatcher/workers", 5, "wait for workers"),
    (PAUSE, DRAIN, "policies/m/timeout", "1m", "exceed its timeout"),
    (PAUSE, DRAIN, "receivers/r/faults/0/outage/how", "refuse", "pauses"),
    (PAUSE, DRAIN, "horizon", "700s", "between warm-up and horizon"),
    (PAUSE, DRAIN, "producers/p/arrivals/poisson", "1/m", "fewer than"),
    (STORM, STABLE, "policies/m/budget", {"ratio": 0.1}, "budget"),
    (STORM, STABLE, "receivers/r/backlog", {"size": 50}, "backlog"),
    (STORM, STABLE, "receivers/r/servers", "unlimited", "unlimited"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mapping", "title", "path", "value", "reason"),
    BROKEN,
    ids=[f"{title}-{path.rpartition('/')[2]}-{number}" for number, (_, title, path, *_) in enumerate(BROKEN)],
)
def test_a_broken_assumption_withdraws_the_formula(
    mapping: dict[str, Any], title: str, path: str, value: Any, reason: str
) -> None:
    """One change that breaks an assumption leaves a row without a value that names it."""
    before = rows(mapping, title)
    assert title == "duplicates" or all(row.value is not None for row in before)
    (row,) = rows(changed(mapping, path, value), title)
    assert (row.value, row.kind) == (None, "none")
    assert reason in row.why


def test_arrivals_of_a_users_own_withdraw_all_formulas() -> None:
    """A model built with arrivals in place of the scenario's is not judged by the scenario's."""
    scenario = sim.load(UNSURE)
    assert closed_forms(model.build(scenario)) == closed_forms(scenario)
    forms = closed_forms(model.build(scenario, arrivals={"p": [0.0, 1.0]}))
    assert {form.why for form in forms if form.kind == "none"} == {"the arrivals are a user's own"}


@settings(max_examples=100, deadline=None)
@given(scenarios(SMALL))
def test_any_scenario_can_be_asked(mapping: dict[str, Any]) -> None:
    """Every scenario gets a row for every formula, with a finite value or a reason."""
    forms = closed_forms(sim.load(mapping))
    assert {form.formula for form in forms} == {
        *("schedule_iid", "duplicates", "outage_ctmc", "dispatcher_bcmp", "mg1", "mmc", "fluid_drain"),
        *("metastable", "amplification"),
    }
    for form in forms:
        assert form.why
        assert (form.value is None) == (form.kind == "none")
        assert form.value is None or math.isfinite(form.value)


# --------------------------------------------------------------------------- beside a run


def test_unsettled_deliveries_withdraw_what_is_said_of_settled_ones() -> None:
    """A formula about deliveries that all have their end is not put beside a run that left some."""
    rows_of_run = beside.beside(sim.run(changed(WORKERS, "drain", "1s"), engine="simpy"))
    own = [row.form for row in rows_of_run if row.form.title == PRODUCT]
    assert {form.value for form in own} == {None}
    assert all("the run ended before" in form.why for form in own)


def test_a_run_has_its_figures_beside_the_closed_forms() -> None:
    """The simulated value is that of the metrics, and what no run has is missing."""
    result = sim.run(STORM, engine="compiled")
    found = {row.form.metric: row for row in beside.beside(result) if row.form.value is not None}
    assert found["attempts_per_delivery"].simulated == result.metrics["attempts_per_delivery"]
    assert found["collapsed_load_per_s"].simulated is None
    assert found["collapsed_load_per_s"].to_json()["value"] == 210.0


def test_the_table_shows_what_applies(capsys: pytest.CaptureFixture[str]) -> None:
    """Value, simulated value and reason stand on one line; what says nothing but the most attempts is left out."""
    result = sim.run(world("receivers/r/faults", [{"error": {"probability": 0.5}}]))
    tables.write(tables.of_run(result))
    line = next(line for line in capsys.readouterr().out.splitlines() if "loss qⁿ" in line)
    assert line.split()[:3] == ["lost_share", "25", "%"]
    assert "2 attempts fail independently of one another (errors 50 %)" in line
    polled = sim.run(world("policies/m/max_age", "1h"))
    tables.write(tables.of_run(polled))
    assert "closed forms" not in capsys.readouterr().out
