"""Both engines give the same trace to the last bit: bundled scenarios, every policy, and generated worlds.

The generated worlds draw from the whole format, with durations of whole seconds so that many things happen at
one instant: constant arrivals and latencies, batches, windows that end when something comes due.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sim
from sim import engine_compiled, engine_simpy, model, presets, trace
from sim.metrics import metrics
from sim.scenario import Scenario
from sim.trace import ATTEMPT_COLUMNS, DELIVERY_COLUMNS, EVENT_COLUMNS, POLL_COLUMNS, Columns
from tests.tiny import receiver, world

TABLES = {
    "events": EVENT_COLUMNS,
    "deliveries": DELIVERY_COLUMNS,
    "attempts": ATTEMPT_COLUMNS,
    "polls": POLL_COLUMNS,
}


def in_order(columns: Columns) -> dict[str, np.ndarray]:
    """The tables of a run, attempts sorted as the trace sorts them."""
    tables = {name: getattr(columns, name) for name in TABLES}
    rows = tables["attempts"]
    tables["attempts"] = rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 4]))]
    return tables


def first_difference(scenario: Scenario, one: Columns, other: Columns) -> str:
    """Where two runs differ first, in words; "" if nowhere."""
    if one.ended != other.ended:
        return f"the runs end at {one.ended} and {other.ended} ns\n{scenario.to_yaml()}"
    left, right = in_order(one), in_order(other)
    for name in ("attempts", "deliveries", "events", "polls"):
        a, b = left[name], right[name]
        shared = min(len(a), len(b))
        differing = np.flatnonzero((a[:shared] != b[:shared]).any(axis=1))
        if len(differing) or len(a) != len(b):
            row = int(differing[0]) if len(differing) else shared
            shown = [
                dict(zip(TABLES[name], t[row].tolist(), strict=True)) if row < len(t) else None
                for t in (a, b)
            ]
            return f"first difference in row {row} of {name}:\n{shown[0]}\n{shown[1]}\n{scenario.to_yaml()}"
    return ""


def run_both(scenario: Scenario) -> tuple[Columns | str, Columns | str]:
    """What each engine records, or the error it gives."""
    built = model.build(scenario)
    results: list[Columns | str] = []
    for engine in (engine_simpy, engine_compiled):
        try:
            results.append(engine.run(built))
        except sim.ScenarioError as error:
            results.append(str(error))
    return results[0], results[1]


def assert_equal(scenario: Scenario) -> None:
    """Both engines give the same tables, or the same error."""
    one, other = run_both(scenario)
    if isinstance(one, str) or isinstance(other, str):
        assert one == other, scenario.to_yaml()
    else:
        assert first_difference(scenario, one, other) == ""


# --------------------------------------------------------------------------- bundled


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_bundled_scenarios_are_equal(name: str) -> None:
    """Tables and figures of a bundled scenario, cut to a quarter of its horizon, do not depend on the engine."""
    scenario = sim.load(name)
    short = scenario.model_copy(update={"horizon": scenario.horizon // 4})
    built = model.build(short)
    one, other = engine_simpy.run(built), engine_compiled.run(built)
    assert first_difference(short, one, other) == ""
    figures = [metrics(trace.build(built, columns, "either")) for columns in (one, other)]
    np.testing.assert_array_equal(list(figures[0].values()), list(figures[1].values()))


@pytest.mark.parametrize("name", presets.names("policies"))
def test_policies_are_equal(name: str) -> None:
    """Every bundled policy meets a receiver that fails in several ways, for a day."""
    assert_equal(
        sim.load(
            {
                "horizon": "6h",
                "drain": "20h",
                "producers": {"p": {"arrivals": {"poisson": "10/h"}, "keys": {"count": 3}}},
                "endpoints": {"e": {"count": 2, "policy": name, "receiver": "r"}},
                "receivers": {
                    "r": {
                        "latency": {"exponential": {"mean": "2s"}},
                        "servers": 1,
                        "faults": [
                            {"error": {"probability": 0.3, "status": 429, "retry_after": "90s"}},
                            {"error": {"probability": 0.2, "status": 404}},
                            {"outage": {"windows": [["1h", "3h"]], "how": "refuse"}},
                            {"outage": {"windows": [["4h", "8h"]], "how": "hang"}},
                        ],
                    }
                },
                "dispatcher": {"workers": 4},
            }
        )
    )


# --------------------------------------------------------------------------- generated


def some(r: random.Random, probability: float, **entries: list[Any]) -> dict[str, Any]:
    """Each entry with this probability, with one of its values."""
    return {key: r.choice(values) for key, values in entries.items() if r.random() < probability}


def a_duration(r: random.Random) -> Any:
    """A latency: often a constant, so that ends coincide."""
    return r.choice(
        [
            "0s", "1s", "2s", "500ms", "3s",
            {"exponential": {"mean": "1s"}},
            {"lognormal": {"median": "500ms", "p99": "5s"}},
            {"erlang": {"mean": "2s", "stages": 3}},
            {"hyperexponential": {"mean": "1s", "cv": 3}},
            {"pareto": {"minimum": "100ms", "shape": 1.5}},
            {"uniform": {"low": "0s", "high": "3s"}},
            {"empirical": {"quantiles": {"0%": "0s", "50%": "1s", "100%": "4s"}}},
        ]
    )  # fmt: skip


def a_producer(r: random.Random) -> dict[str, Any]:
    """A producer of any arrival process, of single events or batches."""
    arrivals = [
        {"constant": "2/s"},
        {"constant": "5/s"},
        {"poisson": "3/s"},
        {"at": ["1s", "1s", "2s", "10s"]},
        {"bursts": {"on": "5/s", "off": "1/s", "on_for": "3s", "off_for": {"exponential": {"mean": "3s"}}}},
        {"daily": {"rates": ["1/s", "0/s", "4/s"], "period": "10s"}},
        {"ramp": {"from": "0/s", "to": "4/s", "over": "20s"}},
    ]
    what: dict[str, Any] = {"events": r.choice([{"a": 1}, {"a": 3, "b": 1}, {"a": 1, "b": 1, "c.d": 2}])}
    if r.random() < 0.3:
        what = {"batch": {"a": r.choice([0, 1, 2]), "b": r.choice([1, {"poisson": 1.5}])}}
    objects = some(r, 0.4, deleted_after=["5s", {"exponential": {"mean": "10s"}}], updated_every=["2s"])
    return {
        "arrivals": r.choice(arrivals),
        "keys": {"count": r.choice([1, 2, 5, 50]), "zipf": r.choice([0, 1.2])},
        "objects": objects,
        **what,
    }


def a_fault(r: random.Random) -> dict[str, Any]:
    """Any fault; outages of whole seconds end when something else happens."""
    error = {
        "probability": r.choice([0.1, 0.5, 1.0]),
        "status": r.choice([500, 410, 404, 429, 503]),
        **some(r, 0.5, latency=[a_duration(r)], retry_after=["0s", "3s", "20s"]),
    }
    how = r.choice(["refuse", "hang", "pause", {"status": r.choice([503, 410, 302])}, {"error": error}])
    stay = ["3s", "5s", {"exponential": {"mean": "6s"}}, {"uniform": {"low": "1s", "high": "9s"}}]
    drawn = {"up": r.choice(stay), "down": r.choice(stay), "scope": r.choice(["each", "all together"])}
    return r.choice(
        [
            {"error": error},
            {"lost_answer": {"probability": 0.3}},
            {"outage": {"windows": [["5s", "8s"], ["15s", "20s"]], "how": how}},
            {"outage": {**drawn, "how": how}},
        ]
    )


def a_receiver(r: random.Random) -> dict[str, Any]:
    """A receiver with any number of servers and up to three faults."""
    backlog = {
        "size": r.choice([0, 1, 4]),
        "beyond": r.choice([503, "hang"]),
        **some(r, 0.5, retry_after=["2s"]),
    }
    return {
        "latency": a_duration(r),
        "faults": [a_fault(r) for _ in range(r.randrange(4))],
        **some(r, 0.5, servers=[1, 2, 3]),
        **some(
            r, 0.3, backlog=[backlog], answers=["on_arrival"], dedupe=[{"window": "5s"}], stale_guard=[True]
        ),
    }


def a_policy(r: random.Random) -> dict[str, Any]:
    """A policy with any schedule, jitter, limit and rule."""
    schedules: list[list[Any]] = [
        ["0s"],
        ["0s", "1s", "2s"],
        ["0s", "0s", "0s"],
        ["1s", "1s"],
        ["0s", {"delay": "1s", "times": 4}],
        ["0s", {"delay": "1s", "times": "forever"}],
        ["0s", {"exponential": {"base": "1s", "factor": 2, "cap": "4s", "times": 5}}],
        ["0s", {"fit": {"retries": 4, "horizon": "10s"}}],
        ["0s", {"power": {"exponent": 2, "to": 4}}],
        ["0s", {"arithmetic": {"start": "1s", "step": "1s", "times": 4}}],
    ]
    jitters = ["full", "equal", "decorrelated", "exponential", {"plus_minus": "20%"}, {"additive": "1s"}]
    verdicts = [
        {410: "disable"},
        {"4xx": "drop"},
        {"timeout": "drop"},
        {"refused": "drop"},
        {"redirect": "success"},
    ]
    asked = [
        "honour",
        {"clamp": [1, 2]},
        {"clamp": ["1s", "3s"]},
        {"honour": True, "scope": "endpoint"},
        {"clamp": [1, 2], "scope": "endpoint"},
    ]
    breaker = {"failures": r.choice(["50%", "100%"]), "window": "10s", "min_requests": 3, "open": "4s"}
    rule = r.choice(
        [{"failing_for": "6s"}, {"consecutive": 4}, {"share": "60%", "window": "10s", "min_requests": 4}]
    )
    budget = {"ratio": r.choice([0, 0.1, 1]), "min_per_s": r.choice([0, 0.1]), "capacity": r.choice([1, 50])}
    return {
        "schedule": r.choice(schedules),
        "timeout": r.choice(["1s", "2s", "5s"]),
        **some(r, 0.5, jitter=jitters, retry_after=asked),
        **some(
            r,
            0.3,
            success=[[200], ["2xx", 404]],
            verdicts=verdicts,
            max_age=["3s", "10s"],
            max_attempts=[2, 3],
        ),
        **some(
            r,
            0.3,
            first_timeout=["500ms"],
            max_age_from=["first_attempt"],
            budget=[budget],
            breaker=[breaker],
        ),
        **some(r, 0.3, disable=[{**rule, "rest": r.choice(["drop", "hold"])}]),
    }


def a_dispatcher(r: random.Random) -> dict[str, Any]:
    """A dispatcher of any discipline, ordering and payload."""
    pools = r.choice(
        [
            {},
            {"workers": r.choice([1, 2, 4])},
            {"workers": [["0s", 1], ["5s", 3], ["12s", 0], ["14s", 2]]},
            {"lanes": {"first": r.choice([1, 2]), "retries": r.choice([1, 2])}},
            {"discipline": "per_tier", "workers": r.choice([1, 2, [2, 1], [3, 1, 1]])},
        ]
    )
    rest = some(r, 0.3, overhead=["100ms", "1s"], queue_holds=["id"], message=["thin"])
    return {**pools, "ordering": r.choice(["none", "none", "key", "endpoint"]), **rest}


def a_world(r: random.Random) -> dict[str, Any]:
    """A whole scenario."""
    receivers = {f"r{i}": a_receiver(r) for i in range(r.choice([1, 2]))}
    policies = {f"m{i}": a_policy(r) for i in range(r.choice([1, 2]))}
    endpoints = {}
    for i in range(r.choice([1, 2, 3])):
        endpoints[f"e{i}"] = {
            "count": r.choice([1, 1, 2, 4]),
            "receiver": r.choice([*receivers, dict.fromkeys(receivers, 0.5)]),
            "policy": r.choice(list(policies)),
            "route": r.choice(["all", "by_key"]),
            **some(r, 0.4, max_in_flight=[1, 2], rate_limit=["1/s", "2/s"]),
            **some(r, 0.15, mode=[{"poll": {"every": "3s"}}]),
            **some(r, 0.2, subscribes=[["a"]]),
        }
    return {
        "horizon": "25s",
        "drain": r.choice(["0s", "5s", "60s"]),
        "seed": r.randrange(5),
        "producers": {f"p{i}": a_producer(r) for i in range(r.choice([1, 1, 2, 3]))},
        "endpoints": endpoints,
        "policies": policies,
        "receivers": receivers,
        "dispatcher": a_dispatcher(r),
    }


def assert_world_equal(r: random.Random) -> None:
    """A generated world, where the compiled engine can run it, is equal."""
    scenario = sim.load(a_world(r))
    if not engine_compiled.refuses(model.build(scenario), own_receivers=False):
        assert_equal(scenario)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_generated_worlds_are_equal(r: random.Random) -> None:
    """Hundreds of worlds over the whole format, full of ties."""
    assert_world_equal(r)


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_many_generated_worlds_are_equal(part: int) -> None:
    """Ten thousand more, from fixed seeds."""
    for seed in range(500 * part, 500 * (part + 1)):
        assert_world_equal(random.Random(seed))


def test_a_run_ends_when_its_last_delivery_vanishes() -> None:
    """Nothing is left when the object of the last delivery is gone as its attempt would start: both end there."""
    scenario = sim.load(
        world(
            "0s", "1s",
            producers={"p": {"arrivals": {"at": ["0s", "1s"]}, "objects": {"deleted_after": "2s"}}},
            receivers=receiver("5s"), dispatcher={"workers": 1, "queue_holds": "id"},
        )
    )  # fmt: skip
    assert_equal(scenario)
    columns = engine_compiled.run(model.build(scenario.model_copy(update={"horizon": 4 * 10**9})))
    assert columns.ended == 5 * 10**9
    streamed = engine_compiled.stream(model.build(scenario.model_copy(update={"horizon": 4 * 10**9})))
    assert streamed.meta["ended_s"] == 5.0


def test_a_difference_is_told_by_its_first_row() -> None:
    """A mismatch report names the table, the row and both versions of it."""
    scenario = sim.load("github-no-retry", ["horizon=1h"])
    columns = engine_simpy.run(model.build(scenario))
    changed = columns.attempts.copy()
    changed[3, ATTEMPT_COLUMNS.index("status")] = 418
    other = Columns(columns.events, columns.deliveries, changed, columns.polls, columns.ended)
    report = first_difference(scenario, columns, other)
    assert report.startswith("first difference in row 3 of attempts:")
    assert "'status': 418" in report
