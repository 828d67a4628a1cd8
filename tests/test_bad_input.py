# ruff: noqa: E501
"""What is wrong with a scenario is said in plain words: where, what was found, the rule, and what to do."""

from __future__ import annotations

import contextlib
import copy
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import sim
from sim import presets, yamlio
from sim.errors import LONGEST_SHOWN, Problem, ScenarioError
from sim.scenario import load
from tests.strategies import scenarios
from tests.worlds import WORLD, world

INTERNAL = re.compile(
    r"pydantic|Input should|valid (string|integer|number|dictionary|tuple)|validation error|constrained|function-"
    r"|\[key\]|\{\{|\bNone\b|\bTrue\b|\bFalse\b|Traceback|Nanoseconds|\bctx\b"
)
"""What would betray the machinery: no message may hold it."""


def problems(mapping: Any, *overrides: str) -> list[str]:
    """What is said about a scenario that does not load."""
    with pytest.raises(ScenarioError) as caught:
        load(mapping, overrides)
    texts = [str(problem) for problem in caught.value.problems]
    assert texts
    assert all(not INTERNAL.search(text) for text in texts), texts
    assert all("\n" not in text for text in texts), texts
    return texts


def wrong(path: str, value: Any) -> list[str]:
    """What is said about one leaf of the smallest world."""
    return problems(world(path, value))


BAD_LEAVES = [
    # (path, value, what is said)
    # an unknown key, with the nearest right one
    ("horizn", "1h", "horizn is 1h; is not a key here; did you mean horizon? (known: name, question,"),
    ("endpoints/e/polcy", "m", "endpoints.e.polcy is m; is not a key here; did you mean policy?"),
    ("receivers/r/latency", {"lognorml": {"median": "1s", "p99": "2s"}}, "receivers.r.latency.lognorml is {median: 1s, p99: 2s}; is not a key here; did you mean lognormal?"),
    ("dispatcher/zzz", 1, "dispatcher.zzz is 1; is not a key here (known: workers, discipline,"),
    # no unit, a wrong unit, a wrong sign
    ("horizon", 24, "horizon is 24; has no unit; write 24s, 24ms or 24h"),
    ("horizon", "24 hours", "horizon is 24 hours; must be a duration: a number and ns, us, ms, s, m, h, d or w (250ms, 24h, 1h30m)"),
    ("horizon", "5/s", "horizon is 5/s; must be a duration"),
    ("horizon", "-5s", "horizon is -5s; must not be negative; write a duration such as 5s"),
    ("horizon", -5, "horizon is -5; must not be negative"),
    ("horizon", 0, "horizon is 0; must be above 0s"),
    ("horizon", "1000000w", "horizon is 1000000w; is longer than 36 years"),
    ("horizon", float("nan"), "horizon is nan; must be a duration"),
    ("horizon", float("inf"), "horizon is inf; must be a duration"),
    ("horizon", True, "horizon is true; must be a duration"),
    ("horizon", None, "horizon is empty; must be a duration"),
    ("horizon", ["1h"], "horizon is [1h]; must be a duration"),
    ("horizon", "9" * 5000 + "s", "must be a duration"),
    ("producers/p/arrivals", {"poisson": 5}, "producers.p.arrivals.poisson is 5; has no unit; write 5/s, 5/m or 5/h"),
    ("producers/p/arrivals", {"poisson": "5"}, "producers.p.arrivals.poisson is 5; must be a rate"),
    ("producers/p/arrivals", {"poisson": "5/y"}, "producers.p.arrivals.poisson is 5/y; must be a rate: a number and /s, /m, /h or /d (50/s, 300/h)"),
    ("producers/p/arrivals", {"poisson": "-5/s"}, "producers.p.arrivals.poisson is -5/s; must not be negative"),
    ("producers/p/arrivals", {"poisson": "0/s"}, "producers.p.arrivals.poisson is 0/s; must be above 0/s"),
    ("producers/p/arrivals", {"poisson": "1e999999999/s"}, "must be a rate"),
    ("producers/p/arrivals", {"poisson": "1e10/s"}, "is above one a nanosecond"),
    ("producers/p/body", "2 kilos", "producers.p.body is 2 kilos; must be a size such as 512B or 2kB"),
    ("producers/p/body", -1, "producers.p.body is -1; must be a size"),
    ("producers/p/body", "1000001MB", "must be at most 1000GB"),
    # numbers
    ("seed", "5", "seed is 5; must be a whole number, without quotes"),
    ("seed", -1, "seed is -1; must be at least 0"),
    ("seed", 2**64, "seed is 18446744073709551616; must be at most 18446744073709551615"),
    ("seed", 1.5, "seed is 1.5; must be a whole number"),
    ("seed", float("nan"), "seed is nan; must be a whole number"),
    ("seed", True, "seed is true; must be a whole number"),
    ("endpoints/e/count", 0, "endpoints.e.count is 0; must be at least 1"),
    ("endpoints/e/count", "many", "endpoints.e.count is many; must be a whole number"),
    ("endpoints/e/max_in_flight", 0, "endpoints.e.max_in_flight is 0; must be at least 1"),
    ("producers/p/keys", {"zipf": float("inf")}, "producers.p.keys.zipf is inf; must be a finite number"),
    ("producers/p/keys", {"zipf": "1.1"}, "producers.p.keys.zipf is 1.1; must be a number, without quotes"),
    ("producers/p/keys", {"zipf": 10**400}, "must be at most 10"),
    ("policies/m/budget", {"ratio": float("nan")}, "policies.m.budget.ratio is nan; must be a finite number"),
    # shares
    ("receivers/r/faults", [{"error": {"probability": 5}}], "receivers.r.faults.0.error.probability is 5; must lie between 0% and 100%; write 5%"),
    ("receivers/r/faults", [{"error": {"probability": "101%"}}], "is 101%; must lie between 0% and 100%"),
    ("receivers/r/faults", [{"error": {"probability": "-1%"}}], "is -1%; must lie between 0% and 100%"),
    ("receivers/r/faults", [{"error": {"probability": "often"}}], "is often; must be a share such as 2% or 0.02"),
    ("policies/m/breaker", {"failures": "0%"}, "policies.m.breaker.failures is 0%; must be above 0%"),
    # words
    ("kind", "stedy", "kind is stedy; must be terminating or steady; did you mean steady?"),
    ("endpoints/e/route", "by_keys", "endpoints.e.route is by_keys; must be all or by_key; did you mean by_key?"),
    ("policies/m/jitter", "ful", "policies.m.jitter is ful; must be none, full, equal, decorrelated, exponential, {plus_minus: 20%}, {additive: 5s} or {decorrelated: {base: 1s, cap: 1m}}; did you mean full?"),
    ("policies/m/jitter", "plus_minus", "policies.m.jitter is plus_minus; must be none, full,"),
    ("policies/m/jitter", {"plus_minus": "150%"}, "policies.m.jitter.plus_minus is 150%; must lie between 0% and 100%"),
    ("policies/m/jitter", {"additive": 5}, "policies.m.jitter.additive is 5; has no unit; write 5s, 5ms or 5h"),
    ("policies/m/jitter", {"ful": "1s"}, "policies.m.jitter is {ful: 1s}; must be none, full,"),
    ("policies/m/jitter", {"decorrelated": {"base": "1m", "cap": "1s"}}, "policies.m.jitter.cap is 1s; must not be below base (1m)"),
    ("policies/m/retry_after", "honor", "policies.m.retry_after is honor; must be ignore, honour, {clamp: [1, 2]} (multiples of the gap) or {clamp: [1s, 24h]}; did you mean honour?"),
    ("policies/m/retry_after", {"clamp": [2, 1]}, "policies.m.retry_after.clamp is [2, 1]; must be two numbers (multiples of the gap) or two durations, in ascending order"),
    ("policies/m/retry_after", {"clamp": [1, "soon"]}, "policies.m.retry_after.clamp.0 is 1; has no unit"),
    ("policies/m/retry_after", {"scope": "endpoint"}, "policies.m.retry_after.scope is endpoint; goes with honour: true or with clamp"),
    ("policies/m/retry_after", {"honour": True, "clamp": [1, 2]}, "policies.m.retry_after.honour is true; excludes clamp"),
    ("receivers/r/dedupe", "on", "receivers.r.dedupe is on; must be off, or a mapping such as {window: 24h}"),
    ("receivers/r/backlog", 100, "receivers.r.backlog is 100; must be unlimited, or a mapping such as {size: 100, beyond: 503}"),
    ("receivers/r/backlog", {"size": 1, "beyond": "hangs"}, "receivers.r.backlog.beyond is hangs; must be a whole number, or hang; did you mean hang?"),
    ("receivers/r/backlog", {"size": 1, "beyond": 99}, "receivers.r.backlog.beyond is 99; must be at least 100, or hang"),
    ("receivers/r/servers", 0, "receivers.r.servers is 0; must be at least 1, or unlimited"),
    ("receivers/r/stale_guard", "maybe", "receivers.r.stale_guard is maybe; must be true or false"),
    ("receivers/r/faults", [{"outage": {"windows": [["2h", "3h"]], "how": "explode"}}], "receivers.r.faults.0.outage.how is explode; must be refuse, hang, pause, {status: 503} or {error: {probability: 50%}}"),
    ("receivers/r/faults", [{"outage": {"windows": [["2h", "3h"]], "how": {"refuse": False}}}], "receivers.r.faults.0.outage.how.refuse is false; must be true, or better: write the word alone"),
    ("receivers/r/faults", [{"outage": {"windows": [["2h", "3h"]], "scope": "together"}}], "must be each or all together; did you mean all together?"),
    ("endpoints/e/mode", "pull", "endpoints.e.mode is pull; must be push, or a mapping such as {poll: {every: 60s}}"),
    # a key and its value in one word
    ("producers/p/arrivals", "poisson:5/s", "producers.p.arrivals is poisson:5/s; must be a mapping with some of the keys constant, poisson, bursts, daily, ramp, at, replay; poisson: has no space after the colon"),
    ("dispatcher", {"workers:8": None}, "dispatcher.workers:8 is empty; is no key; write a space after the colon of workers:"),
    # types
    ("producers", ["p"], "producers is [p]; must be a mapping (name: value)"),
    ("producers", {}, "producers is {}; must have at least one entry"),
    ("endpoints/e", "r", "endpoints.e is r; must be a mapping with some of the keys count, route, producers,"),
    ("endpoints/e/subscribes", "*", "endpoints.e.subscribes is *; must be a list, such as [a, b]"),
    ("endpoints/e/subscribes", [], "endpoints.e.subscribes is []; must have at least one entry"),
    ("endpoints/e/subscribes", [5], "endpoints.e.subscribes.0 is 5; must be text; put it in quotes if it is meant"),
    ("endpoints/e/receiver", ["r"], "endpoints.e.receiver is [r]; must name a receiver, or map receivers to shares"),
    ("endpoints/e/receiver", {"r": 95}, "endpoints.e.receiver.r is 95; must lie between 0% and 100%; write 95%"),
    ("policies/m/schedule", "0s", "policies.m.schedule is 0s; must be a list, such as [a, b]"),
    ("policies/m/schedule", [], "policies.m.schedule is []; must have at least one entry"),
    ("policies/m/schedule", ["0s", 60], "policies.m.schedule.1 is 60; has no unit; write 60s, 60ms or 60h"),
    ("policies/m/schedule", ["0s", None], "policies.m.schedule.1 is empty; must be a gap such as 5s,"),
    ("policies/m/schedule", ["0s", {"delay": "1s", "times": "forevr"}], "policies.m.schedule.1.times is forevr; must be a whole number, or forever; did you mean forever?"),
    ("policies/m/verdicts", {"410": "disabled"}, "policies.m.verdicts.410 is disabled; must be success, retry, drop or disable; did you mean disable?"),
    ("policies/m/verdicts", {"timout": "drop"}, "policies.m.verdicts.timout is drop; stands at a key that must be an HTTP status such as 410, a class such as 4xx, or a range such as 100-299, or timeout, refused, redirect; did you mean timeout?"),
    ("policies/m/verdicts", ["410", "drop"], "policies.m.verdicts.0 is 410; must be one rule, such as {410: disable}"),
    ("policies/m/verdicts", {410: "drop", "410": "retry"}, "policies.m.verdicts.410 is retry; stands twice"),
    ("policies/m/success", ["2yy"], "policies.m.success.0 is 2yy; must be an HTTP status such as 410"),
    ("policies/m/success", [], "policies.m.success is []; must name a status that means success, such as 2xx or [200]"),
    ("receivers/r/latency", None, "receivers.r.latency is empty; must be a duration such as 120ms, or a random one such as"),
    ("receivers/r/latency", 5, "receivers.r.latency is 5; has no unit; write 5s, 5ms or 5h"),
    ("receivers/r/faults", {"error": {"probability": "1%"}}, "receivers.r.faults is {error: {probability: 1%}}; must be a list"),
    ("dispatcher/workers", "many", "dispatcher.workers is many; must be a whole number of at least 1, unlimited, a list of [from, n] (shared)"),
    ("dispatcher/workers", "unlimitd", "for each tier (per_tier); did you mean unlimited?"),
    ("dispatcher/workers", 0, "dispatcher.workers is 0; must be a whole number of at least 1,"),
    ("dispatcher/workers", [["1h", 4]], "dispatcher.workers.0 is [1h, 4]; must start at 0s"),
    ("dispatcher/workers", [["0s", 4], ["0s", 8]], "dispatcher.workers.1 is [0s, 8]; must start later than the one before it"),
    ("dispatcher/workers", [["0s", -1]], "dispatcher.workers.0 is -1; must be at least 0"),
    ("name", 2026, "name is 2026; must be text; put it in quotes if it is meant"),
    ("producers/p/events", {404: 1}, "producers.p.events is 404; must be text to be a key here; put it in quotes"),
    # sums, pairs and orders
    ("producers/p/events", {"a": 0, "b": 0}, "producers.p.events is {a: 0.0, b: 0.0}; has weights that sum to nothing; give one of them a weight"),
    ("producers/p/events", {"a": -1}, "producers.p.events.a is -1; must be at least 0"),
    ("producers/p/batch", {"a": 0}, "producers.p.batch is {a: 0}; emits no event; give one of them a count"),
    ("producers/p/batch", {"a": {"poisson": -1}}, "producers.p.batch.a.poisson is -1; must be at least 0"),
    ("producers/p/batch", {"a": "two"}, "producers.p.batch.a is two; must be a whole number, or a random one: {poisson: 2}"),
    ("producers/p/arrivals", {}, "producers.p.arrivals is {}; must have exactly one of constant, poisson, bursts, daily, ramp, at, replay; it has none of them"),
    ("producers/p/arrivals", {"poisson": "1/s", "constant": "1/s"}, "must have exactly one of constant, poisson, bursts, daily, ramp, at, replay; it has constant and poisson"),
    ("producers/p/arrivals", {"at": ["2s", "1s"]}, "producers.p.arrivals.at is [2s, 1s]; must be times in ascending order, at least one"),
    ("producers/p/arrivals", {"daily": ["0/s"]}, "producers.p.arrivals.daily.rates is 0/s; must have a rate above 0/s"),
    ("producers/p/arrivals", {"ramp": {"from": "0/s", "to": "0/s", "over": "1h"}}, "producers.p.arrivals.ramp.to is 0/s; must not be 0/s where from is 0/s too"),
    ("producers/p/arrivals", {"bursts": {"on": "1/s", "on_for": "0s", "off_for": "0s"}}, "producers.p.arrivals.bursts.on_for is 0s; must be above 0s, or off_for must"),
    ("producers/p/arrivals", {"bursts": {"on": "1/s", "on_for": "1ns", "off_for": "1ns"}}, "makes a cycle of 2e-09 s on average, more than 5,000,000 of them in the run"),
    ("endpoints/e/receiver", {"r": "0%"}, "endpoints.e.receiver is {r: 0%}; has shares that sum to nothing"),
    ("receivers/r/latency", {"lognormal": {"median": "1s"}}, "receivers.r.latency.lognormal is {median: 1s}; must have median and p99, or mean and cv, or median and sigma"),
    ("receivers/r/latency", {"lognormal": {"median": "2s", "p99": "1s"}}, "receivers.r.latency.lognormal.p99 is 1s; must be above the median"),
    ("receivers/r/latency", {"uniform": {"low": "2s", "high": "1s"}}, "receivers.r.latency.uniform.high is 1s; must be above low"),
    ("receivers/r/latency", {"hyperexponential": {"mean": "1s", "cv": 1}}, "receivers.r.latency.hyperexponential.cv is 1; must be above 1"),
    ("receivers/r/latency", {"empirical": {"quantiles": {"50%": "2s", "90%": "1s"}}}, "must not fall as the share grows"),
    ("receivers/r/latency", {"empirical": {"quantiles": {"50%": "2s", 0.5: "3s"}}}, "receivers.r.latency.empirical.quantiles.\"0.5\" is 3s; stands twice"),
    ("receivers/r/faults", [{"outage": {"windows": [["3h", "2h"]]}}], "receivers.r.faults.0.outage.windows.0 is [3h, 2h]; must end after it starts, and start after the one before it ends"),
    ("receivers/r/faults", [{"outage": {"windows": [["1h", "3h"], ["2h", "4h"]]}}], "receivers.r.faults.0.outage.windows.1 is [2h, 4h]; must end after it starts"),
    ("receivers/r/faults", [{"outage": {"windows": ["2h"]}}], "receivers.r.faults.0.outage.windows.0 is 2h; must be two times [start, end), such as [2h, 3h]"),
    ("receivers/r/faults", [{"outage": {"up": "1h"}}], "receivers.r.faults.0.outage is {up: 1h}; must have up and down, or windows, or replay"),
    ("receivers/r/faults", [{"outage": {"up": {"pareto": {"minimum": "1s", "shape": 1}}, "down": "1s"}}], "receivers.r.faults.0.outage.up is pareto of shape 1; has no mean"),
    ("receivers/r/faults", [{}], "receivers.r.faults.0 is {}; must have exactly one of error, lost_answer, outage; it has none of them"),
    ("policies/m/disable", {"rest": "hold"}, "must have exactly one of failing_for, consecutive, share; it has none of them"),
    # schedules
    ("policies/m/schedule", [{"delay": "1s", "times": "forever"}, "1h"], "policies.m.schedule is forever; goes on forever, so nothing can follow; it is entry 1 of 2"),
    ("policies/m/schedule", [{"exponential": {"base": "1s", "times": 2, "factor": 0}}], "policies.m.schedule.0.exponential.factor is 0; must be above 0"),
    ("policies/m/schedule", [{"exponential": {"base": "1s", "times": "forever", "factor": 0.5}}], "must be at least 1 with times: forever, or the gaps vanish"),
    ("policies/m/schedule", [{"exponential": {"base": "1s", "cap": "1h", "times": "forever", "factor": 1.0000001}}], "needs more than 100000 different gaps"),
    ("policies/m/schedule", [{"power": {"exponent": 2, "from": 5, "to": 3}}], "policies.m.schedule.0.power.to is 3; must not be below from (5)"),
    ("policies/m/schedule", [{"arithmetic": {"start": "1s", "step": "100d", "times": 1000}}], "makes gaps longer than 36 years"),
    ("policies/m/schedule", [{"times": 3, "fit": {"retries": 3, "horizon": "1h"}}], "policies.m.schedule.0.times is 3; goes with delay, or inside the segment"),
    # between blocks
    ("endpoints/e/policy", "nope", "endpoints.e.policy is nope; is not in policies of this file, nor bundled"),
    ("endpoints/e/policy", "dreamkass", "did you mean dreamkas? (hooklab policies lists the bundled ones)"),
    ("endpoints/e/policy", None, "endpoints.e.policy is empty; must name a policy of this file or a bundled one"),
    ("endpoints/e/receiver", "s", "endpoints.e.receiver is s; is not in receivers of this file, nor bundled"),
    ("endpoints/e/receiver", "helthy", "did you mean healthy? (hooklab receivers lists the bundled ones)"),
    ("endpoints/e/producers", ["q"], "endpoints.e.producers is q; is not a producer of this scenario (known: p)"),
    ("endpoints/e/subscribes", ["event", "order.*"], "endpoints.e.subscribes is order.*; matches no event type of its producers (they emit event)"),
    ("policies/m/preset", "dreamkass", "policies.m.preset is dreamkass; is not a bundled policy; did you mean dreamkas? (hooklab policies lists them)"),
    ("policies/m/preset", ["dreamkas"], "policies.m.preset is [dreamkas]; is not a bundled policy"),
    ("warmup", "1h", "warmup is 1h; must be below the horizon (1h)"),
    ("producers/a:b", {"arrivals": {"poisson": "1/s"}}, "producers.a:b must be a name of letters, digits, '.', '_' and '-' (it becomes part of ids)"),
    ("dispatcher", {"discipline": "per_tier"}, "dispatcher.workers is unlimited; must be a number, or a list with one for each tier, under discipline: per_tier"),
    ("dispatcher", {"discipline": "per_tier", "workers": [["0s", 1]]}, "dispatcher.workers is [[0s, 1]]; must be a number,"),
    ("dispatcher", {"workers": [1, 2]}, "dispatcher.workers is [1, 2]; is a number for each tier: that needs discipline: per_tier"),
    ("dispatcher", {"discipline": "per_tier", "workers": 2, "lanes": {"first": 1, "retries": 1}}, "dispatcher.lanes is {first: 1, retries: 1}; goes with discipline: shared"),
    ("dispatcher", {"workers": 5, "lanes": {"first": 1, "retries": 1}}, "dispatcher.workers is 5; must be 2, the workers of both lanes together, or be left out"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), BAD_LEAVES, ids=[said for _, _, said in BAD_LEAVES])
def test_a_bad_leaf_is_told_with_its_rule(path: str, value: Any, said: str) -> None:
    """One slip gives one problem, which names the path, the value as a file has it, and the rule."""
    texts = wrong(path, value)
    assert len(texts) == 1, texts
    assert said in texts[0]


@pytest.mark.parametrize("section", ["horizon", "producers", "endpoints"])
def test_what_is_missing_is_required(section: str) -> None:
    """A section without a default is asked for."""
    mapping = world()
    del mapping[section]
    assert f"{section} is required" in problems(mapping)


def test_a_policy_needs_a_schedule_or_a_preset() -> None:
    """A policy without a schedule is told what it lacks."""
    assert wrong("policies/m", {"timeout": "5s"}) == [
        "policies.m.schedule is required, unless preset names a bundled policy"
    ]


def test_an_endless_schedule_needs_an_end() -> None:
    """A policy that goes on forever needs a drain, a ``max_age`` or ``max_attempts``, unless nobody uses it."""
    mapping = world("policies/m/schedule", ["0s", {"delay": "1h", "times": "forever"}])
    del mapping["drain"]
    (text,) = problems(mapping)
    assert text.startswith(
        "drain is required: policy m goes on forever; give drain, or limit it by max_age or"
    )
    for limit in ({"max_age": "3d"}, {"max_attempts": 9}):
        load({**mapping, "policies": {"m": {**mapping["policies"]["m"], **limit}}})
    load({**mapping, "endpoints": {"e": {"policy": "timepad", "receiver": "r"}}})


def test_a_schedule_beyond_counting_needs_a_drain() -> None:
    """A hundred doublings end in thousands of years: the default drain would not do."""
    mapping = world("policies/m/schedule", [{"exponential": {"base": "1s", "times": 100}}])
    del mapping["drain"]
    (text,) = problems(mapping)
    assert text.startswith("drain is required: policy m goes on for longer than a run can count (36 years)")


def test_a_run_beyond_counting_is_refused() -> None:
    """Horizon and drain together may last no longer than 36 years."""
    assert problems(world("drain", "13343d") | {"horizon": "365d"}) == [
        "horizon is 365d; must end, with a drain of 13343d, within 36 years"
    ]


def test_outages_too_short_to_count_are_refused_when_loading() -> None:
    """Microsecond outages over hours are told before a run starts."""
    (text,) = wrong("receivers/r/faults", [{"outage": {"up": "1us", "down": "1us"}}])
    assert text.startswith(
        "receivers.r.faults.0.outage.up makes a cycle of 2e-06 s on average, more than 5,000,000"
    )


def test_all_problems_are_told_at_once() -> None:
    """Unknown keys, wrong values and missing keys of different blocks come in one error, a line each."""
    mapping = world("horizon", 24)
    mapping["endpoints"]["e"] |= {"count": 0, "rout": "all"}
    mapping["policies"]["m"] |= {"timeout": "soon", "jitter": {"kind": "full", "share": "5%", "sharp": 1}}
    mapping["receivers"]["r"] = {"server": 3}
    mapping["dispatcher"] = {"wrokers": 3, "ordering": "keys"}
    with pytest.raises(ScenarioError) as caught:
        load(mapping)
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {
        "horizon",
        "endpoints.e.count",
        "endpoints.e.rout",
        "policies.m.timeout",
        "policies.m.jitter.sharp",
        "receivers.r.server",
        "receivers.r.latency",
        "dispatcher.wrokers",
        "dispatcher.ordering",
    }
    assert str(caught.value).count("\n") == len(paths) - 1


def test_problems_between_blocks_are_told_at_once() -> None:
    """References that lead nowhere are all told, and name the file."""
    mapping = world("warmup", "2h")
    mapping["endpoints"]["e"] |= {"policy": "x", "receiver": {"y": "50%", "z": "50%"}, "subscribes": ["no"]}
    with pytest.raises(ScenarioError) as caught:
        load(mapping)
    assert [problem.path for problem in caught.value.problems] == [
        "warmup",
        "endpoints.e.policy",
        "endpoints.e.receiver",
        "endpoints.e.receiver",
        "endpoints.e.subscribes",
    ]


def test_the_misspelt_key_is_not_told_as_missing_too() -> None:
    """Where the nearest right key is required, the typo alone is told."""
    mapping = world()
    mapping["horizn"] = mapping.pop("horizon")
    (text,) = problems(mapping)
    assert text.startswith("horizn is 1h; is not a key here; did you mean horizon?")


def test_a_key_with_dots_is_quoted_in_a_path() -> None:
    """A path can be pasted behind ``--set``."""
    (text,) = wrong("producers/p/events", {"order.paid": -1})
    assert text == 'producers.p.events."order.paid" is -1; must be at least 0'


def test_a_value_is_shown_on_one_line_and_not_too_long() -> None:
    """Long texts are cut, line ends and nothing are shown as such, numbers beyond writing are described."""
    cases = {
        "x" * 500: "x" * (LONGEST_SHOWN - 1) + "…",
        "a\nb": r"'a\nb'",
        "": "''",
        " 5s": "' 5s'",
        True: "true",
        16**9000: "a number of thousands of digits",
        b"x": "a bytes",
    }
    for value, shown in cases.items():
        assert str(Problem("seed", value, "must not be so")) == f"seed is {shown}; must not be so"
    nested: list[Any] = []
    nested.append(nested)
    assert "…" in str(Problem("seed", nested, "must end"))
    assert str(Problem("seed", {"a": [1, "b", None]}, "no")) == "seed is {a: [1, b, ]}; no"
    assert str(Problem("", None, "must be a mapping")) == "must be a mapping"


# --------------------------------------------------------------------------- overrides

BAD_OVERRIDES = [
    ("horizon", "--set horizon must be PATH=VALUE, such as policies.mine.timeout=3s"),
    ("=5", "must be PATH=VALUE"),
    ("", "must be PATH=VALUE"),
    (".seed=5", "must be PATH=VALUE"),
    ("policies..timeout=5s", "must be PATH=VALUE"),
    ('policies."m.timeout=5s', "must be PATH=VALUE"),
    ("horizon=[", "line 1, column 2: while parsing a flow node"),
    ("horizon=[1", "a comma or ] is missing: the [ of line 1, column 1 is still open"),
    ("horizon=5", "horizon is 5; has no unit"),
    ("horizn=5h", "horizn is 5h; is not a key here; did you mean horizon?"),
    ("policies.m.schedule.2=5m", "--set policies.m.schedule.2: '2' must be a position from 0 to 1"),
    ("policies.m.schedule.last=5m", "'last' must be a position from 0 to 1"),
    ("policies.m.schedule.-1=5m", "'-1' must be a position from 0 to 1"),
    (
        "policies.m.schedule.0.delay=5m",
        "--set policies.m.schedule.0.delay: there is nothing below policies.m.schedule.0",
    ),
    (
        "receivers.r.faults.0.error.probability=5%",
        "receivers.r.faults is {0: {error: {probability: 5%}}}; must be a list",
    ),
    # a path through a name that is not there
    (
        "policies.mm.timeout=3s",
        "--set policies.mm.timeout: mm is not in policies of this scenario, nor bundled; did you mean m? (known: m); a new one is set as a whole: policies.mm={timeout: …}",
    ),
    ("policies.timepd.timeout=30s", "did you mean timepad?"),
    ("receivers.rr.latency=5s", "rr is not in receivers of this scenario, nor bundled; did you mean r?"),
    (
        "endpoints.ee.policy=svix",
        "--set endpoints.ee.policy: ee is not in endpoints of this scenario; did you mean e?",
    ),
    ("producers.pp.body=5kB", "pp is not in producers of this scenario; did you mean p?"),
    # a name, where a block is meant
    (
        "endpoints.e.policy.timeout=30s",
        "--set endpoints.e.policy.timeout: a policy is a name here; set policies.m.timeout",
    ),
    ("endpoints.e.receiver.latency=30s", "a receiver is a name here; set receivers.r.latency"),
    (
        "receivers.r.faults[0].error.probability=5%",
        "a position in a list is a key like any other; write faults.0 for faults[0]",
    ),
]


@pytest.mark.parametrize(("text", "said"), BAD_OVERRIDES, ids=[text for text, _ in BAD_OVERRIDES])
def test_a_bad_override_is_told(text: str, said: str) -> None:
    """An override that is none, leads nowhere or sets nonsense is the user's mistake, and says what it should be."""
    assert any(said in line for line in problems(WORLD, text))
    with pytest.raises(ScenarioError):
        load(WORLD).with_overrides([text])


def test_an_override_into_a_section_of_the_wrong_kind_is_told() -> None:
    """Whatever a section is, an override below it ends in a message."""
    for section in ([{"schedule": ["0s"]}], "m", 5, None, [[1]]):
        mapping = world("policies", section)
        for text in ("policies.0.schedule.1=5m", "policies.m.schedule.1=5m", "policies.0.x.y.z=1"):
            with pytest.raises(ScenarioError):
                load(mapping, [text])


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf"), True, "600"])
def test_compressing_by_nonsense_is_refused(factor: Any) -> None:
    """A factor is a number above 0."""
    with pytest.raises(ScenarioError, match="must be a number above 0, such as 600"):
        load(WORLD).compressed(factor)


def test_stretching_beyond_counting_is_refused() -> None:
    """A scenario stretched over more than 36 years says which time became too long."""
    with pytest.raises(ScenarioError, match=r"compress is 1e-09; makes .* longer than 36 years"):
        load(WORLD).compressed(1e-9)


def test_numbers_of_numpy_are_numbers() -> None:
    """A notebook may pass what numpy computed, and a path for a file name."""
    mapping = world("seed", np.int64(7))
    mapping["producers"]["p"]["keys"] = {"count": np.int32(5), "zipf": np.float64(1.1)}
    mapping["endpoints"]["e"]["receiver"] = {"r": np.float64(0.25), "dead": 0.75}
    scenario = load(mapping)
    assert load(yamlio.parse(scenario.to_yaml(), "test")) == scenario
    assert wrong("seed", np.float64(1.5)) == ["seed is 1.5; must be a whole number"]


# --------------------------------------------------------------------------- arguments of a run

BATCHED = world("producers/p/batch", {"a": 2})


class Mute:
    """A receiver that lacks its method."""


class Odd:
    """A receiver whose replies are whatever it was made with."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def receive(self, request: sim.Request) -> Any:
        """Give what is no reply, perhaps."""
        return self.reply


RECEIVER_RULE = "must have a method receive(request) giving a sim.Reply, or make such an object of a name"
BAD_ARGUMENTS = [
    # (scenario, arguments, what is said)
    (WORLD, {"seed": "1"}, "seed is 1; must be a whole number, without quotes"),
    (WORLD, {"seed": -1}, "seed is -1; must be at least 0"),
    (WORLD, {"overrides": "horizn=1h"}, "horizn is 1h; is not a key here; did you mean horizon?"),
    (WORLD, {"overrides": [5]}, "overrides is 5; must be PATH=VALUE texts"),
    (WORLD, {"arrivals": [1, 2]}, "arrivals is [1, 2]; must map producers to times in seconds"),
    (WORLD, {"arrivals": {"q": [1]}}, "arrivals is q; is not a producer of this scenario (p)"),
    (WORLD, {"arrivals": {"p": 5}}, "arrivals.p is 5; must be a list or generator"),
    (WORLD, {"arrivals": {"p": ["a"]}}, "arrivals.p[0] is a; must be times in seconds from 0, in ascending order, or (time, type, key) tuples"),
    (WORLD, {"arrivals": {"p": [1, ()]}}, "arrivals.p[1] is []; must be times"),
    (WORLD, {"arrivals": {"p": [1, 0.5]}}, "arrivals.p[1] is 0.5; must be times"),
    (WORLD, {"arrivals": {"p": [float("nan")]}}, "arrivals.p[0] is nan; must be times"),
    (BATCHED, {"arrivals": {"p": [(1, "a")]}}, "arrivals.p must be times only: producers.p.batch says which types each change emits"),
    (WORLD, {"receivers": {"r": Mute()}}, f"receivers: the one for r {RECEIVER_RULE}; a Mute is neither"),
    (WORLD, {"receivers": {"e": Mute}}, f"receivers: the one for e {RECEIVER_RULE}; a type is neither"),
    (WORLD, {"receivers": {"r": lambda: None}}, f"{RECEIVER_RULE}; it cannot be called with a name: too many positional arguments"),
    (WORLD, {"receivers": {"r": lambda name: None}}, f"{RECEIVER_RULE}; it made None"),
    (WORLD, {"receivers": {"r": Odd("ok")}}, "a receiver's receive gave ok; it must give a sim.Reply"),
    (WORLD, {"receivers": {"r": Odd(None)}}, "a receiver's receive gave empty; it must give a sim.Reply"),
    (WORLD, {"receivers": {"r": Odd(sim.Reply(status="200"))}}, "times must be numbers of seconds, statuses whole numbers"),
    (WORLD, {"receivers": {"r": Odd(sim.Reply(after_s="1s"))}}, "times must be numbers of seconds"),
    (WORLD, {"receivers": {"r": Odd(sim.Reply(retry_after_s=-1))}}, "times must not be negative"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("scenario", "arguments", "said"), BAD_ARGUMENTS, ids=[said[:60] for _, _, said in BAD_ARGUMENTS]
)
def test_a_bad_argument_of_a_run_is_told(scenario: Any, arguments: dict[str, Any], said: str) -> None:
    """What a notebook passes and cannot be meant is refused by its name, with what is wanted."""
    with pytest.raises(ScenarioError) as caught:
        sim.run(scenario, **arguments)
    assert said in str(caught.value)


def test_a_single_override_needs_no_list() -> None:
    """One text is one override, not a list of letters."""
    assert load(WORLD, "horizon=30m") == load(WORLD, ["horizon=30m"])
    assert load(WORLD).with_overrides("horizon=30m").horizon == 1800 * 10**9


def test_types_of_own_arrivals_that_nobody_hears_are_told() -> None:
    """Own arrivals may have any types; those without a subscriber are named."""
    mapping = world("endpoints/e/subscribes", ["event"])
    result = sim.run(mapping, arrivals={"p": [(1, "event"), (2, "evnt")]})
    assert result.warnings == (
        "arrivals.p has events of the type evnt, which no endpoint subscribes to; they are delivered to nobody",
    )
    assert sim.run(mapping, arrivals={"p": [(1, "event")]}).warnings == ()


# --------------------------------------------------------------------------- anything at all

JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 3.5, float("nan"), float("inf"), -float("inf"), 10**400, -(10**30), 1e308, 2.0**70,
    "", "x", "5", "-5s", "5s", "0s", "1000000w", "9" * 5000 + "s", "1e999999999%", "1e999999999/s", "50%", "101%",
    "on", "off", "forever", "unlimited", "a\nb", "\0", "a.b", "ü", "5/s", "0/s", "2xx", b"x", object(), set(), (1, 2),
    [], {}, [None], [[]], [[1]], [1, 2], ["a"], ["1s", "2s"], {"": ""}, {1: 2}, {None: 1}, {True: 1},
    {"a": {"b": {}}}, {"poisson": 2}, {"mean": "1s"}, {"window": "1s"}, {"delay": "1s", "times": "forever"},
]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths below a node."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, item in items for place in ((*path, key), *places(item, (*path, key)))]


def found(node: Any, path: tuple[Any, ...]) -> Any:
    """The node at a path."""
    for key in path:
        node = node[key]
    return node


def mutated(mapping: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """A copy with one to four slips: a key lost or misspelt, a value replaced, swapped or repeated."""
    mapping = copy.deepcopy(mapping)
    for _ in range(dice.choice([1, 1, 2, 4])):
        paths = places(mapping)
        if not paths:
            break
        path, other = dice.choice(paths), dice.choice(paths)
        parent, key = found(mapping, path[:-1]), path[-1]
        slip = dice.choice(["lose", "misspell", "junk", "junk", "negate", "swap", "repeat"])
        if slip == "lose":
            del parent[key]
        elif slip == "misspell" and isinstance(parent, dict):
            text, at = str(key), dice.randrange(len(str(key)) + 1)
            parent[text[:at] + dice.choice(["x", "_", ".", ""]) + text[at + 1 :]] = parent.pop(key)
        elif slip == "negate" and isinstance(parent[key], str):
            parent[key] = "-" + parent[key]
        elif slip == "negate" and isinstance(parent[key], int | float):
            parent[key] = dice.choice([-1, -0.5, 10**12, 10**400])
        elif slip == "swap":
            parent[key] = copy.deepcopy(found(mapping, other))
        elif slip == "repeat" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[key] = dice.choice(JUNK)
    return mapping


def require_plain_refusal(mapping: Any) -> None:
    """The mapping loads, or is refused with a message that reads well; nothing else happens."""
    try:
        load(mapping)
    except ScenarioError as error:
        for problem in error.problems:
            text = str(problem)
            assert problem.rule.strip(), text
            assert "\n" not in text, text
            assert len(problem.rule) < 400, text
            # a value may hold anything, a rule may not
            assert not INTERNAL.search(problem.rule), text


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_a_bundled_scenario_with_slips_is_refused_in_plain_words(name: str) -> None:
    """Forty random slips in each bundled scenario: it loads, or says what is wrong."""
    original = presets.read("scenarios", name)
    dice = random.Random(name)
    for _ in range(40):
        require_plain_refusal(mutated(original, dice))


# The message of a failure says it all: a smaller scenario would take minutes to find.
@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scenarios(), st.integers(0, 2**32))
def test_any_scenario_with_slips_is_refused_in_plain_words(mapping: dict[str, Any], seed: int) -> None:
    """A slip anywhere in any scenario: it loads, or says what is wrong."""
    dice = random.Random(seed)
    for _ in range(5):
        require_plain_refusal(mutated(mapping, dice))


def test_junk_in_every_place_is_refused_in_plain_words() -> None:
    """Junk of several kinds in every place of a scenario that has most constructs."""
    mapping = presets.read("scenarios", "dreamkas")
    for number, path in enumerate(places(mapping)):
        for junk in JUNK[number % 17 :: 17]:
            changed = copy.deepcopy(mapping)
            found(changed, path[:-1])[path[-1]] = junk
            require_plain_refusal(changed)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    """Whatever a file holds, reading it gives a value or says what is wrong with it."""
    with contextlib.suppress(ScenarioError):
        yamlio.parse(text, "test")


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("abms.=\"'[]{}0159-:&*!%@`,# \t\n"), max_size=30))
def test_any_override_is_applied_or_refused(text: str) -> None:
    """Whatever stands behind ``--set``, it is applied or refused."""
    with contextlib.suppress(ScenarioError):
        load(WORLD, [text])


def test_errors_are_value_errors() -> None:
    """A caller who knows nothing of this package catches a ``ValueError``."""
    assert issubclass(sim.ScenarioError, ValueError)
