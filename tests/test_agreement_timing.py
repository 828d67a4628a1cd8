"""Which keys of the scenario format let fates depend on timing: each is classified, and the classes are true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

import sim
from loadtest.agreement_cases import CASES
from loadtest.agreement_fates import fates
from loadtest.agreement_timing import DELAYS, RULES, SETTLED, timing_reasons
from sim.blocks import Block
from sim.scenario import Scenario, load

RICH: Mapping[str, Any] = {
    "seed": 5,
    "horizon": "30s",
    "drain": "10m",
    "producers": {"p": {"arrivals": {"poisson": "12/s"}, "events": {"a": 1, "b": 1}, "keys": {"count": 5}}},
    "endpoints": {"e": {"count": 2, "policy": "m", "receiver": "r"}},
    "policies": {
        "m": {
            "schedule": ["0s", "100ms", "1s", "5s"],
            "jitter": "decorrelated",
            "timeout": "800ms",
            "verdicts": {"410": "drop"},
        }
    },
    "receivers": {
        "r": {
            "latency": {"lognormal": {"median": "200ms", "p99": "2s"}},
            "faults": [
                {"error": {"probability": "25%", "status": 503, "retry_after": "2s", "latency": "20ms"}},
                {"error": {"probability": "4%", "status": 410}},
                {"lost_answer": {"probability": "5%"}},
            ],
        }
    },
}
"""Every way to fail that no timing decides."""


def rich(*overrides: str) -> Scenario:
    """That world, changed."""
    return load(RICH, overrides)


def fates_of(scenario: Scenario) -> Any:
    """What becomes of its deliveries."""
    return fates(sim.run(scenario, engine="simpy").trace)


def blocks(kind: type[Block] = Block) -> Iterator[type[Block]]:
    """All blocks of the scenario format."""
    for block in kind.__subclasses__():
        if block.__module__.startswith("sim."):
            yield block
        yield from blocks(block)


def named(tables: Iterable[Mapping[str, str]]) -> list[str]:
    """``Block.key`` of all that tables name."""
    return [f"{block}.{key}" for table in tables for block, keys in table.items() for key in keys.split()]


def test_every_key_of_the_format_is_classified_once() -> None:
    """A new key makes this fail until somebody has thought about what timing does to it."""
    there = {f"{block.__name__}.{key}" for block in blocks() for key in block.model_fields}
    classified = Counter(named([SETTLED, DELAYS, *RULES.values()]))
    assert there == set(classified)
    assert [key for key, count in classified.items() if count > 1] == []


# --------------------------------------------------------------------------- the classes are true

MOVED = {
    "overhead": ("dispatcher.overhead=37ms",),
    "few workers": ("dispatcher.workers=6",),
    "workers that come and go": ("dispatcher.workers=[[0s, 12], [10s, 4], [20s, 9]]",),
    "lanes": ("dispatcher.lanes={first: 5, retries: 4}",),
    "tiers": ("dispatcher.discipline=per_tier", "dispatcher.workers=7"),
    "order of keys": ("dispatcher.ordering=key",),
    "order of endpoints": ("dispatcher.ordering=endpoint",),
    "slots": ("endpoints.e.max_in_flight=5",),
    "rate": ("endpoints.e.rate_limit=20/s",),
    "breaker": ("policies.m.breaker={failures: 40%, window: 5s, min_requests: 5, open: 1s}",),
    "Retry-After": ("policies.m.retry_after=honour",),
    "an endpoint at rest": ("policies.m.retry_after={honour: true, scope: endpoint}",),
    "thin messages": ("dispatcher.message=thin",),
    "a receiver that remembers": ("receivers.r.dedupe={window: 1m}", "receivers.r.stale_guard=true"),
}


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    """The fates of the rich world as it is."""
    return fates_of(rich())


@pytest.mark.parametrize("overrides", MOVED.values(), ids=MOVED)
def test_what_only_delays_changes_no_fate(overrides: tuple[str, ...], undisturbed: Any) -> None:
    """Attempts are moved by a lot, and every delivery still has the same attempts, outcomes and state."""
    scenario = rich(*overrides)
    trace = sim.run(scenario, engine="simpy").trace
    assert timing_reasons(scenario, trace) == ()
    assert fates(trace) == undisturbed


def test_the_rich_world_fails_in_every_way(undisturbed: Any) -> None:
    """Or else equal fates would say little."""
    outcomes = Counter(outcome for fate in undisturbed.values() for _, outcome in fate.attempts)
    states = Counter(fate.state for fate in undisturbed.values())
    assert {"delivered", "rejected", "timed_out", "gone"} <= {name for name, n in outcomes.items() if n >= 10}
    assert min(states[state] for state in ("delivered", "dead", "dropped")) >= 2


REASONS = {
    "servers": (("receivers.r.servers=5",), "receivers.r.servers"),
    "a full backlog": (
        ("receivers.r.servers=4", "receivers.r.answers=on_arrival", "receivers.r.backlog={size: 3}"),
        "receivers.r.servers",
    ),
    "an outage": (("receivers.r.faults=[{outage: {windows: [[5s, 15s]]}}]",), "receivers.r.faults.0.outage"),
    "a pause": (
        ("receivers.r.faults=[{outage: {windows: [[5s, 15s]], how: pause}}]",),
        "receivers.r.faults.0.outage",
    ),
    "drawn outages": (
        ("receivers.r.faults=[{outage: {up: {exponential: {mean: 4s}}, down: 1s, how: hang}}]",),
        "receivers.r.faults.0.outage",
    ),
    "an age": (("policies.m.max_age=1s",), "policies.m.max_age"),
    "an age from the first attempt": (
        ("policies.m.max_age=1s", "policies.m.max_age_from=first_attempt"),
        "policies.m.max_age",
    ),
    "a budget": (("policies.m.budget={ratio: 0.1, capacity: 3}",), "policies.m.budget"),
    "disabling": (("policies.m.disable={consecutive: 4}",), "policies.m.disable"),
    "a verdict that disables": (("policies.m.verdicts={410: disable}",), "policies.m.verdicts"),
    "ids of objects that vanish": (
        ("dispatcher.queue_holds=id", "producers.p.objects.deleted_after={exponential: {mean: 2s}}"),
        "producers.p.objects.deleted_after",
    ),
    "no drain": (("drain=0s",), "drain"),
}


@pytest.mark.parametrize(("overrides", "path"), REASONS.values(), ids=REASONS)
def test_a_reason_is_named_and_is_one(overrides: tuple[str, ...], path: str) -> None:
    """It is found at its path, and a sender that is slower by 37 ms an attempt does change some fates."""
    scenario = rich(*overrides)
    assert [reason.partition(":")[0] for reason in timing_reasons(scenario)] == [path]
    assert fates_of(scenario) != fates_of(scenario.with_overrides(["dispatcher.overhead=37ms"]))


NO_REASON = {
    "as it is": (),
    "a queue behind an answer": ("receivers.r.servers=4", "receivers.r.answers=on_arrival"),
    "a pause of work that was answered": (
        "receivers.r.answers=on_arrival",
        "receivers.r.faults=[{outage: {windows: [[5s, 15s]], how: pause}}]",
    ),
    "an outage without an end": ("receivers.r.faults=[{outage: {windows: [[0s, 10d]]}}]",),
    "a verdict about what is never answered": ("policies.m.verdicts={418: disable}",),
    "objects that vanish, bodies in the queue": ("producers.p.objects.deleted_after=1s",),
}


@pytest.mark.parametrize("overrides", NO_REASON.values(), ids=NO_REASON)
def test_what_is_no_reason_changes_no_fate(overrides: tuple[str, ...]) -> None:
    """What looks like a reason and is none is told from one, and rightly so."""
    scenario = rich(*overrides)
    assert timing_reasons(scenario) == ()
    assert fates_of(scenario) == fates_of(scenario.with_overrides(["dispatcher.overhead=37ms"]))


def test_only_what_is_pushed_to_counts() -> None:
    """A receiver that polls, or that nobody names, and a policy that nobody follows are no reasons."""
    unused = ["receivers.other={latency: 1s, servers: 1}", "policies.other={schedule: [0s], max_age: 1s}"]
    polling = "endpoints.poller={receiver: other, mode: {poll: {every: 2s}}}"
    scenario = rich(*unused, polling)
    assert timing_reasons(scenario) == ()
    assert timing_reasons(rich(*unused, "endpoints.e.receiver={r: 90%, other: 10%}")) != ()


def test_a_run_that_ends_too_early_is_a_reason() -> None:
    """It is known from the trace: deliveries that are unsettled, or settled in the last second."""
    scenario = rich()
    settled = float(sim.run(scenario, engine="simpy").trace.deliveries["settled_s"].max())
    ends = {
        settled - 30 - 0.01: "before 1 deliver",
        settled - 30 + 0.5: "less than 1 s",
        settled - 30 + 2: "",
    }
    for drain, words in ends.items():
        shorter = rich(f"drain={drain * 1000:.0f}ms")
        reasons = timing_reasons(shorter, sim.run(shorter, engine="simpy").trace)
        assert len(reasons) == bool(words)
        assert all(reason.startswith("drain: ") and words in reason for reason in reasons)


# --------------------------------------------------------------------------- cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.scenario)
def test_a_case_is_fit_to_run_for_real(case: Any) -> None:
    """It takes 20 to 60 s, has enough to compare, and asks of two cores no more than 300 attempts a second."""
    trace = sim.run(case.load(), stream=False).trace
    assert 20 <= trace.meta["ended_s"] <= 60
    assert len(trace.deliveries) >= 300
    assert trace.metrics["attempts_per_s_max"] <= 300


def test_cases_cover_both_ways_to_compare() -> None:
    """At least ten scenarios, three of them without a reason, and all kinds of reasons among the others."""
    found = {case.scenario: timing_reasons(case.load()) for case in CASES}
    assert len(found) == len(CASES) >= 10
    assert sum(not reasons for reasons in found.values()) >= 3
    kinds = {reason.partition(":")[0].rpartition(".")[2] for reasons in found.values() for reason in reasons}
    assert {"servers", "outage", "deleted_after"} <= kinds
