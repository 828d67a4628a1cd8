"""What a policy decides over a run, whose luck is whose, how a run ends, and what a user may plug in.

Like the semantics these tests ask ``run`` for the trace of a mapping, so that one body serves every engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd
import pytest

import sim
from tests.tiny import failing, policy, rows, world

ENGINES = ["simpy", "compiled"]
Run = Callable[..., sim.Result]


@pytest.fixture(params=ENGINES)
def run(request: pytest.FixtureRequest) -> Run:
    """An engine as a function of a scenario."""
    return partial(sim.run, engine=request.param)


@pytest.fixture
def simpy_run() -> Run:
    """The engine that can call a user's own receivers."""
    return partial(sim.run, engine="simpy")


def starts(result: sim.Result) -> list[tuple[Any, ...]]:
    """(delivery, attempt, due, started, cause of the wait) of every attempt."""
    return rows(result.attempts, "delivery_id", "attempt_number", "due_s", "started_s", "wait_cause")


def states(result: sim.Result) -> list[tuple[Any, ...]]:
    """(delivery, state, attempts, settled) of every delivery."""
    return rows(result.deliveries, "delivery_id", "state", "attempts", "settled_s")


# --------------------------------------------------------------------------- verdicts, ages, Retry-After


@pytest.mark.parametrize(
    ("status", "more", "outcome", "state", "attempts"),
    [
        (404, {}, "rejected", "dead", 2),  # what no rule names is retried
        (404, {"verdicts": {"404": "drop"}}, "rejected", "dropped", 1),
        (404, {"verdicts": {"4xx": "success"}}, "delivered", "delivered", 1),
        (404, {"verdicts": {"404": "retry", "4xx": "drop"}}, "rejected", "dead", 2),  # the first match
        (410, {"verdicts": {"410": "disable"}}, "gone", "dropped", 1),
        (410, {}, "gone", "dead", 2),
        (301, {"verdicts": {"redirect": "drop"}}, "rejected", "dropped", 1),
        (200, {"success": [201]}, "rejected", "dead", 2),
        (202, {"success": ["2xx"]}, "delivered", "delivered", 1),
    ],
)
def test_verdict_table_decides_by_first_match(
    run: Run, status: int, more: dict[str, Any], outcome: str, state: str, attempts: int
) -> None:
    """A status is a success, a reason to retry, to drop, or to disable, as the policy says."""
    result = run(
        world(policies=policy("0s", "1s", **more), receivers=failing("0s", "9s", {"status": status}))
    )
    assert rows(result.attempts, "outcome", "status") == [(outcome, status)] * attempts
    assert rows(result.deliveries, "state", "attempts") == [(state, attempts)]


def test_timeout_and_refusal_have_rules_of_their_own(run: Run) -> None:
    """``timeout: drop`` and ``refused: drop`` end a delivery at its first such attempt."""
    result = run(
        world(
            policies=policy("0s", "1s", verdicts={"timeout": "drop"}), receivers=failing("0s", "9s", "hang")
        )
    )
    assert states(result) == [("p:0", "dropped", 1, 5.0)]
    result = run(
        world(policies=policy("0s", "1s", verdicts={"refused": "drop"}), receivers=failing("0s", "9s"))
    )
    assert states(result) == [("p:0", "dropped", 1, 0.0)]


@pytest.mark.parametrize(
    ("schedule", "more", "expected"),
    [
        (["0s", "6s", "6s"], {"max_age": "10s"}, ("expired", 2, 6.0)),  # 12 s would be too late: known at 6 s
        (["0s", "6s", "6s"], {"max_age": "12s"}, ("dead", 3, 12.0)),  # due at exactly the age is not later
        (["5s", "6s", "6s"], {"max_age": "10s"}, ("expired", 1, 5.0)),
        (["5s", "6s", "6s"], {"max_age": "10s", "max_age_from": "first_attempt"}, ("expired", 2, 11.0)),
        (["5s"], {"max_age": "4s"}, ("expired", 0, 0.0)),  # even the first attempt would come too late
        (["5s"], {"max_age": "4s", "max_age_from": "first_attempt"}, ("dead", 1, 5.0)),
        ([{"delay": "1s", "times": 9}], {"max_attempts": 3}, ("dead", 3, 3.0)),
    ],
)
def test_age_and_number_of_attempts_are_limited(
    run: Run, schedule: list[Any], more: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """Expiry is decided when a due time is computed: later than born + max_age is too old, at once."""
    result = run(world(policies=policy(*schedule, **more), receivers=failing("0s", "99s")))
    assert states(result) == [("p:0", *expected)]


def test_waiting_for_a_worker_does_not_expire(run: Run) -> None:
    """An attempt that came due in time is made however long it had to wait for its worker."""
    result = run(
        world(
            "0s",
            "0s",
            policies=policy("0s", max_age="1s"),
            receivers={"r": {"latency": "4s"}},
            dispatcher={"workers": 1},
        )
    )
    assert states(result) == [("p:0", "delivered", 1, 4.0), ("p:1", "delivered", 1, 8.0)]


@pytest.mark.parametrize(
    ("retry_after", "asked", "due"),
    [
        ("ignore", "30s", 10.0),
        ("honour", "30s", 30.0),
        ("honour", "3s", 10.0),  # never earlier than the schedule
        ({"clamp": [1, 2]}, "30s", 20.0),  # at most twice the gap
        ({"clamp": [1, 2]}, "3s", 10.0),
        ({"clamp": [0.5, 2]}, "3s", 5.0),
        ({"clamp": ["1s", "25s"]}, "30s", 25.0),
        ({"clamp": ["1s", "25s"]}, "3s", 3.0),
        ("honour", None, 10.0),
    ],
)
def test_retry_after_is_ignored_honoured_or_clamped(
    run: Run, retry_after: Any, asked: Any, due: float
) -> None:
    """What the receiver asks for moves the next due time as the policy allows."""
    error = {"probability": 1.0, "status": 503, "latency": "0s"} | ({"retry_after": asked} if asked else {})
    result = run(
        world(
            policies=policy("0s", "10s", retry_after=retry_after),
            receivers=failing("0s", "1s", {"error": error}),
        )
    )
    assert starts(result) == [("p:0", 1, 0.0, 0.0, ""), ("p:0", 2, due, due, "")]


def test_retry_after_of_scope_endpoint_rests_the_endpoint(run: Run) -> None:
    """Other deliveries to that endpoint wait as long; their due times stay, and their neighbours' endpoint works."""
    error = {"probability": 1.0, "status": 429, "latency": "0s", "retry_after": "30s"}
    result = run(
        world(
            "0s",
            "5s",
            policies=policy("0s", "10s", retry_after={"honour": True, "scope": "endpoint"}),
            receivers=failing("0s", "1s", {"error": error}) | {"up": {"latency": "0s"}},
            endpoints={"e": {"policy": "m", "receiver": "r"}, "f": {"policy": "m", "receiver": "up"}},
        )
    )
    assert [row for row in starts(result) if ":f:" not in row[0]] == [
        ("p:0", 1, 0.0, 0.0, ""),
        ("p:0", 2, 30.0, 30.0, ""),
        ("p:1", 1, 5.0, 30.0, "retry_after"),
    ]
    assert ("p:1:f:0", 1, 5.0, 5.0, "") in starts(result)


# --------------------------------------------------------------------------- breaker


def test_breaker_opens_probes_reopens_and_closes(run: Run) -> None:
    """Two refusals open it for 10 s; one probe fails and reopens it; the next succeeds and lets all through."""
    breaker = {"failures": 1.0, "window": "10s", "min_requests": 2, "open": "10s"}
    result = run(
        world(
            "0s",
            "1s",
            "2s",
            "3s",
            "4s",
            policies=policy("0s", "200s", breaker=breaker),
            receivers=failing("0s", "15s", latency="2s"),
        )
    )
    assert starts(result) == [
        ("p:0", 1, 0.0, 0.0, ""),
        ("p:1", 1, 1.0, 1.0, ""),  # refused: open until 11 s
        ("p:2", 1, 2.0, 11.0, "breaker"),  # the probe, refused: open until 21 s
        ("p:3", 1, 3.0, 21.0, "breaker"),  # the second probe, answered at 23 s
        ("p:4", 1, 4.0, 23.0, "breaker"),  # had to wait for the probe
        ("p:0", 2, 200.0, 200.0, ""),
        ("p:1", 2, 201.0, 201.0, ""),
        ("p:2", 2, 211.0, 211.0, ""),
    ]


def test_open_breaker_holds_no_worker(run: Run) -> None:
    """With one worker a blocked endpoint leaves it to another one."""
    breaker = {"failures": 1.0, "window": "10s", "min_requests": 1, "open": "50s"}
    result = run(
        world(
            "0s",
            "1s",
            policies=policy("0s", breaker=breaker),
            receivers=failing("0s", "9s") | {"up": {"latency": "1s"}},
            endpoints={"e": {"policy": "m", "receiver": "r"}, "f": {"policy": "m", "receiver": "up"}},
            dispatcher={"workers": 1},
        )
    )
    assert starts(result) == [
        ("p:0", 1, 0.0, 0.0, ""),
        ("p:0:f:0", 1, 0.0, 0.0, ""),
        ("p:1:f:0", 1, 1.0, 1.0, ""),
        ("p:1", 1, 1.0, 50.0, "breaker"),
    ]


def test_failures_that_started_before_the_breaker_opened_are_old_news(run: Run) -> None:
    """A timeout that ends while the breaker is open neither keeps it open nor counts as its probe."""
    breaker = {"failures": 1.0, "window": "100s", "min_requests": 1, "open": "3s"}
    faults = [
        {"outage": {"windows": [["0s", "1s"]], "how": "hang"}},
        {"outage": {"windows": [["1s", "3s"]], "how": "refuse"}},
    ]
    result = run(
        world(
            "0s",
            "2s",  # refused: open until 5 s, when the first times out too
            "3s",
            policies=policy("0s", breaker=breaker),
            receivers={"r": {"latency": "1s", "faults": faults}},
        )
    )
    assert starts(result)[2] == ("p:2", 1, 3.0, 5.0, "breaker")
    assert rows(result.attempts, "outcome") == [("timed_out",), ("refused",), ("delivered",)]


def test_breaker_forgets_what_has_left_its_window(run: Run) -> None:
    """Two failures 20 s apart never meet in a window of 10 s."""
    breaker = {"failures": 1.0, "window": "10s", "min_requests": 2, "open": "1000s"}
    result = run(
        world("0s", "20s", "40s", policies=policy("0s", breaker=breaker), receivers=failing("0s", "90s"))
    )
    assert {row[4] for row in starts(result)} == {""}
    assert len(result.attempts) == 3


# --------------------------------------------------------------------------- disabling


def test_disabled_endpoint_drops_what_waits_and_what_is_new(run: Run) -> None:
    """The second failure in a row disables it: what waits and what comes is dropped; in flight finishes."""
    result = run(
        world(
            "0s",
            "1s",
            "2s",
            "3s",
            policies=policy("0s", "50s", disable={"consecutive": 2}),
            receivers=failing("1s", "9s", latency="4s"),
        )
    )
    assert states(result) == [
        ("p:0", "delivered", 1, 4.0),  # in flight when the endpoint was disabled
        ("p:1", "dropped", 1, 2.0),  # waited for its retry
        ("p:2", "dropped", 1, 2.0),  # its failure was the second
        ("p:3", "dropped", 0, 3.0),  # too late for an attempt
    ]


def test_failure_in_flight_at_a_disabled_endpoint_is_dropped(run: Run) -> None:
    """An attempt under way ends as it ends; if it fails, no retry follows."""
    faults = [
        {"outage": {"windows": [["0s", "1s"]], "how": "hang"}},
        {"outage": {"windows": [["1s", "9s"]], "how": {"status": 410}}},
    ]
    result = run(
        world(
            "0s",
            "1s",
            policies=policy("0s", "50s", verdicts={"410": "disable"}),
            receivers={"r": {"latency": "1s", "faults": faults}},
        )
    )
    assert states(result) == [("p:0", "dropped", 1, 5.0), ("p:1", "dropped", 1, 2.0)]
    assert rows(result.attempts, "outcome") == [("timed_out",), ("gone",)]


def test_disabled_endpoint_may_hold_what_waits(run: Run) -> None:
    """``rest: hold`` keeps deliveries waiting to the end of the run, with their due times."""
    result = run(
        world(
            "0s",
            "1s",
            "2s",
            policies=policy("0s", "50s", disable={"consecutive": 2, "rest": "hold"}),
            receivers=failing("0s", "9s"),
        )
    )
    assert rows(result.deliveries, "delivery_id", "state", "attempts", "settled_s", "due_s") == [
        ("p:0", "waiting", 1, None, 50.0),
        ("p:1", "waiting", 1, None, 51.0),
        ("p:2", "waiting", 0, None, 2.0),
    ]
    assert result.metrics["unsettled_share"] == 1.0


@pytest.mark.parametrize(
    ("rule", "attempts", "settled"),
    [
        ({"failing_for": "5s"}, 3, 6.0),  # failing since 0 s; the failure at 6 s is the first after 5 s
        ({"failing_for": "6s"}, 3, 6.0),
        ({"failing_for": "7s"}, 4, 9.0),
        ({"consecutive": 2}, 2, 3.0),
        ({"share": 0.5, "window": "100s", "min_requests": 3}, 3, 6.0),
    ],
)
def test_endpoint_is_disabled_by_its_rule(
    run: Run, rule: dict[str, Any], attempts: int, settled: float
) -> None:
    """By how long it has failed, how often in a row, or in what share of a window."""
    result = run(
        world(
            policies=policy("0s", {"delay": "3s", "times": 9}, disable=rule), receivers=failing("0s", "99s")
        )
    )
    assert states(result) == [("p:0", "dropped", attempts, settled)]


def test_disabling_one_endpoint_leaves_its_neighbour(run: Run) -> None:
    """Health belongs to an endpoint, not to its policy."""
    result = run(
        world(
            "0s",
            "20s",
            policies=policy("0s", disable={"consecutive": 1}),
            receivers=failing("0s", "9s") | {"up": {"latency": "0s"}},
            endpoints={"e": {"policy": "m", "receiver": "r"}, "f": {"policy": "m", "receiver": "up"}},
        )
    )
    assert rows(result.deliveries, "delivery_id", "state") == [
        ("p:0", "dropped"),
        ("p:0:f:0", "delivered"),
        ("p:1", "dropped"),
        ("p:1:f:0", "delivered"),
    ]


# --------------------------------------------------------------------------- retry budget


def test_retry_budget_of_fifty_lets_fifty_retries_through(run: Run) -> None:
    """Sixty failures at once: the bucket starts full with 50; ten deliveries die with their budget."""
    result = run(
        world(
            *["0s"] * 60,
            policies=policy("0s", "20s", "20s", budget={"ratio": 0.0}),
            receivers=failing("0s", "9s"),
        )
    )
    assert rows(result.deliveries, "state", "attempts") == [("delivered", 2)] * 50 + [("dead", 1)] * 10


def test_success_earns_a_share_of_a_retry(run: Run) -> None:
    """With half a token per success, two successes pay for one retry."""
    result = run(
        world(
            *["0s", "1s", "10s", "20s", "21s"],
            policies=policy("0s", "50s", budget={"ratio": 0.5, "capacity": 1}),
            receivers={
                "r": {
                    "latency": "0s",
                    "faults": [{"outage": {"windows": [["0s", "2s"], ["20s", "22s"]], "how": "refuse"}}],
                }
            },
        )
    )
    assert rows(result.deliveries, "state", "attempts") == [
        ("delivered", 2),  # took the only token
        ("dead", 1),
        ("delivered", 1),  # earned half of one
        ("dead", 1),
        ("dead", 1),
    ]
    times = ["0s", "5s", "6s", "20s", "21s"]
    changed = world(*times, policies=policy("0s", "50s", budget={"ratio": 0.5, "capacity": 1}))
    changed["receivers"] = {
        "r": {
            "latency": "0s",
            "faults": [{"outage": {"windows": [["0s", "2s"], ["20s", "22s"]], "how": "refuse"}}],
        }
    }
    assert rows(run(changed).deliveries, "state", "attempts")[3:] == [("delivered", 2), ("dead", 1)]


def test_time_fills_the_retry_budget(run: Run) -> None:
    """0.1 tokens per second: after the only token is gone, the next retry can be paid 10 s later."""
    result = run(
        world(
            *["0s", "9900ms", "10s", "11s"],
            policies=policy("0s", "50s", budget={"ratio": 0.0, "min_per_s": 0.1, "capacity": 1}),
            receivers=failing("0s", "20s"),
        )
    )
    assert rows(result.deliveries, "state") == [("delivered",), ("dead",), ("delivered",), ("dead",)]


# --------------------------------------------------------------------------- 9: the end of a run


def test_run_ends_when_the_drain_has_passed(run: Run) -> None:
    """What is open then is waiting or in flight, and stays without an end; the receiver finishes its queue."""
    result = run(
        world(
            "0s",
            "1s",
            "2s",
            horizon="3s",
            drain="2s",
            policies={"m": {"schedule": ["0s", "100s"], "timeout": "60s"}},
            receivers={
                "r": {
                    "latency": "7s",
                    "servers": 1,
                    "faults": [{"outage": {"windows": [["0s", "1s"]], "how": "refuse"}}],
                }
            },
        )
    )
    assert rows(result.deliveries, "state", "attempts", "settled_s", "due_s", "first_processed_s") == [
        ("waiting", 1, None, 100.0, None),
        ("in_flight", 1, None, None, 8.0),
        ("in_flight", 1, None, None, 15.0),
    ]
    assert rows(result.attempts, "finished_s", "outcome", "status", "processed_s") == [
        (0.0, "refused", 0, None),
        (None, None, 0, 8.0),
        (None, None, 0, 15.0),
    ]
    assert result.trace.meta["ended_s"] == 5.0


def test_what_happens_at_the_end_of_the_drain_still_happens(run: Run) -> None:
    """An answer at the very end of the run is in; one a nanosecond later is not."""
    for latency, state in (("5s", "delivered"), ("5000000001ns", "in_flight")):
        result = run(
            world(
                horizon="3s",
                drain="2s",
                policies={"m": {"schedule": ["0s"], "timeout": "60s"}},
                receivers={"r": {"latency": latency}},
            )
        )
        assert rows(result.deliveries, "state") == [(state,)]


def test_run_may_end_before_a_worker_has_sent_anything(run: Run) -> None:
    """A worker busy with its own overhead at the end of the run is an attempt in flight."""
    result = run(world(horizon="1s", drain="0s", dispatcher={"overhead": "2s"}))
    assert rows(result.deliveries, "state", "attempts") == [("in_flight", 1)]
    assert rows(result.attempts, "finished_s", "outcome", "processed_s") == [(None, None, None)]


def test_waiting_for_a_worker_at_the_end_is_waiting(run: Run) -> None:
    """A due delivery that never got a worker keeps its due time and has no attempt."""
    result = run(world("0s", "1s", dispatcher={"workers": [["0s", 0]]}))
    assert rows(result.deliveries, "state", "attempts", "due_s") == [("waiting", 0, 0.0), ("waiting", 0, 1.0)]
    assert result.attempts.empty


def test_run_that_is_settled_ends_at_the_horizon(run: Run) -> None:
    """Nothing is left to do after the last event: the drain is not waited for."""
    assert run(world()).trace.meta["ended_s"] == 100.0


def test_default_drain_is_the_longest_schedule_and_an_hour(run: Run) -> None:
    """Without a drain the last retry of a schedule still happens."""
    mapping = world(policies=policy("0s", "2h", "3h"), receivers=failing("0s", "4h"))
    del mapping["drain"]
    result = run(mapping)
    assert rows(result.deliveries, "state", "attempts") == [("delivered", 3)]
    assert result.scenario.drain_ns == 6 * 3600 * 10**9


# --------------------------------------------------------------------------- 5: whose luck is whose


def busy(**changes: Any) -> dict[str, Any]:
    """A world with luck of every sort: arrivals, keys, types, latencies, faults, outages, jitter."""
    mapping = {
        "seed": 11,
        "horizon": "120s",
        "drain": "400s",
        "producers": {
            "p": {
                "arrivals": {"poisson": "3/s"},
                "events": {"a": 2, "b": 1},
                "keys": {"count": 20, "zipf": 1.0},
            }
        },
        "endpoints": {"e": {"count": 3, "policy": "m", "receiver": {"r": "70%", "s": "30%"}}},
        "policies": {
            "m": {"schedule": ["0s", {"delay": "5s", "times": 4}], "timeout": "1s", "jitter": "full"},
            "n": {"schedule": ["0s", "1s", "1s"], "timeout": "700ms"},
        },
        "receivers": {
            "r": {
                "latency": {"lognormal": {"median": "200ms", "p99": "2s"}},
                "faults": [
                    {"error": {"probability": 0.1, "latency": {"exponential": {"mean": "50ms"}}}},
                    {
                        "outage": {
                            "up": {"exponential": {"mean": "60s"}},
                            "down": {"exponential": {"mean": "10s"}},
                        }
                    },
                ],
            },
            "s": {"latency": {"exponential": {"mean": "300ms"}}, "servers": 2, "backlog": {"size": 3}},
        },
        "dispatcher": {"workers": 8},
    }
    return mapping | changes


def unlimited(**changes: Any) -> dict[str, Any]:
    """The busy world with a receiver whose answers do not depend on who else asks."""
    mapping = busy(**changes)
    mapping["endpoints"] = mapping["endpoints"] | {"e": {"count": 3, "policy": "m", "receiver": "r"}}
    return mapping


def frames(result: sim.Result) -> tuple[pd.DataFrame, ...]:
    """All tables of a result."""
    return result.attempts, result.deliveries, result.samples, result.polls


def assert_same(left: sim.Result, right: sim.Result) -> None:
    """Both results hold equal tables."""
    for one, other in zip(frames(left), frames(right), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_same_seed_gives_the_same_tables(run: Run) -> None:
    """A run is repeated to the last bit by its scenario and seed, and by no other seed."""
    first = run(busy())
    assert_same(first, run(busy()))
    assert_same(first, run(busy(seed=12), seed=11))
    assert not run(busy(seed=12)).attempts.equals(first.attempts)
    assert len(first.deliveries) > 800
    assert first.metrics["attempts_per_delivery"] > 1.1


def of(result: sim.Result, endpoint: str = "e:", producer: str = "p") -> pd.DataFrame:
    """Attempts of one endpoint group and one producer, names as text."""
    attempts = result.attempts.astype({"endpoint": str, "wait_cause": str, "outcome": str})
    chosen = attempts["endpoint"].str.startswith(endpoint) & attempts["event_id"].str.startswith(producer)
    return attempts[chosen].reset_index(drop=True)


def test_adding_an_endpoint_or_a_producer_changes_nobody_elses_luck(run: Run) -> None:
    """With workers to spare the others' attempts stay the same to the last bit."""
    base = unlimited(dispatcher={"workers": "unlimited"})
    alone = run(base)
    more_endpoints = base["endpoints"] | {"aaa": {"count": 2, "policy": "n", "receiver": "s"}}
    pd.testing.assert_frame_equal(of(run(base | {"endpoints": more_endpoints})), of(alone))
    first_producer = {"o": {"arrivals": {"poisson": "1/s"}}} | base["producers"]
    pd.testing.assert_frame_equal(of(run(base | {"producers": first_producer})), of(alone))


def luck(result: sim.Result) -> pd.DataFrame:
    """What the receiver made of each attempt: its working time and whether it processed, by address."""
    attempts = result.attempts.set_index(["delivery_id", "attempt_number"])
    work = attempts["processed_s"] - attempts["served_s"]
    return pd.DataFrame({"work": work.round(9), "processed": attempts["processed_s"].notna()})


def test_policies_meet_the_same_world(run: Run) -> None:
    """Attempt n of a delivery takes as long and fails as it would under any other policy (outages aside)."""
    base = unlimited(dispatcher={"workers": "unlimited"})
    base["receivers"]["r"]["faults"] = base["receivers"]["r"]["faults"][:1]
    other = base | {"endpoints": {"e": {"count": 3, "policy": "n", "receiver": "r"}}}
    left, right = luck(run(base)), luck(run(other))
    both = left.index.intersection(right.index)
    assert len(both) > 900
    assert len(both) < len(left)
    pd.testing.assert_frame_equal(left.loc[both], right.loc[both])


def test_racing_processes_change_nobodys_luck(run: Run) -> None:
    """With two workers instead of many the order of everything changes, and no draw does."""
    base = unlimited(dispatcher={"workers": "unlimited"}, horizon="60s")
    base["receivers"]["r"]["faults"] = base["receivers"]["r"]["faults"][:1]
    free = run(base)
    scarce = run(base | {"dispatcher": {"workers": 3}})
    assert (scarce.attempts["wait_cause"] == "worker").mean() > 0.3
    pd.testing.assert_frame_equal(luck(scarce).sort_index(), luck(free).sort_index())


def test_outages_come_at_the_same_times_under_any_policy(run: Run) -> None:
    """A receiver's outages belong to it: who calls how often changes nothing about them."""
    base = unlimited(dispatcher={"workers": "unlimited"})
    other = base | {"endpoints": {"e": {"count": 3, "policy": "n", "receiver": "r"}}}
    for member in ("e:0", "e:1", "e:2"):
        left, right = of(run(base), member), of(run(other), member)
        down = left.loc[left["outcome"] == "refused", "started_s"]
        up = right.loc[right["outcome"] == "delivered", "started_s"]
        assert len(down) > 0
        # no success of one policy lies between two refusals of the other that are closer than any up time seen
        refused = sorted(down)
        close = [(a, b) for a, b in itertools.pairwise(refused) if b - a < 0.5]
        assert not any(((up > a) & (up < b)).any() for a, b in close)


# --------------------------------------------------------------------------- compressed scenarios


def test_compressed_scenario_runs_its_schedule_faster(run: Run) -> None:
    """Sixty times faster: a minute is a second; latency, timeout and servers stay."""
    slow = world(
        "0s",
        "30m",
        horizon="1h",
        policies=policy("0s", "1m", "10m", max_age="8h"),
        receivers=failing("0s", "5m", latency="500ms"),
    )
    result = run(sim.load(slow).compressed(60))
    assert rows(result.attempts, "delivery_id", "due_s", "started_s", "finished_s", "outcome") == [
        ("p:0", 0.0, 0.0, 0.0, "refused"),
        ("p:0", 1.0, 1.0, 1.0, "refused"),
        ("p:0", 11.0, 11.0, 11.5, "delivered"),
        ("p:1", 30.0, 30.0, 30.5, "delivered"),
    ]
    assert result.trace.meta["horizon_s"] == 60.0
    assert run(sim.load(slow)).attempts["started_s"].tolist() == [0.0, 60.0, 660.0, 1800.0]


# --------------------------------------------------------------------------- what a user plugs in


class Alternating:
    """A receiver of a user's own: every second request is refused by status 500, and it remembers them all."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.seen: list[sim.Request] = []

    def receive(self, request: sim.Request) -> sim.Reply:
        """Answer by turns 500 and 200, each after half a second."""
        self.seen.append(request)
        return sim.Reply(status=500 if len(self.seen) % 2 else 200, after_s=0.5)


def test_own_receiver_answers_in_place_of_the_file(simpy_run: Run) -> None:
    """It is asked in order of time with the words of the trace, and its replies are what happens."""
    own = Alternating()
    result = simpy_run(world("0s", "10s"), receivers={"r": own})
    assert rows(result.attempts, "started_s", "finished_s", "outcome", "processed_s") == [
        (0.0, 0.5, "rejected", None),
        (1.5, 2.0, "delivered", 2.0),
        (10.0, 10.5, "rejected", None),
        (11.5, 12.0, "delivered", 12.0),
    ]
    assert own.seen[3] == sim.Request(
        time_s=11.5,
        delivery_id="p:1:e:0",
        endpoint="e:0",
        event_type="event",
        key=0,
        seq=2,
        attempt_number=2,
    )


def test_own_receiver_needs_the_simpy_engine() -> None:
    """The compiled engine refuses a Python object by name, and auto takes the engine that can call it."""
    with pytest.raises(sim.ScenarioError, match="cannot do receivers given as Python objects"):
        sim.run(world(), engine="compiled", receivers={"r": Alternating()})
    assert sim.run(world(), receivers={"r": Alternating()}).engine == "simpy"


def test_own_receiver_class_makes_one_for_each_member(simpy_run: Run) -> None:
    """A class or function is called with every member's name; a group's name picks its members only."""
    made: list[Alternating] = []

    def make(name: str) -> Alternating:
        made.append(Alternating(name))
        return made[-1]

    endpoints = {
        "e": {"policy": "m", "receiver": "r", "count": 2},
        "f": {"policy": "m", "receiver": "r"},
    }
    result = simpy_run(world(endpoints=endpoints), receivers={"e": make})
    assert [own.name for own in made] == ["e:0", "e:1"]
    assert [len(own.seen) for own in made] == [2, 2]
    assert result.deliveries.set_index("endpoint")["attempts"].to_dict() == {"e:0": 2, "e:1": 2, "f:0": 1}
    assert simpy_run(world(endpoints=endpoints), receivers={"r": Alternating}).deliveries[
        "attempts"
    ].tolist() == [
        2,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("reply", "outcome", "processed"),
    [
        (sim.Reply(status=None), "timed_out", None),
        (sim.Reply(status=None, processed_after_s=3.0), "timed_out", 3.0),
        (sim.Reply(status=200, after_s=6.0), "timed_out", 6.0),
        (sim.Reply(status=200, after_s=1.0, processed_after_s=9.0), "delivered", 9.0),
        (sim.Reply(status=200, processed_after_s=float("inf")), "delivered", None),
        (sim.Reply(status=500, processed_after_s=2.0), "rejected", 2.0),
    ],
)
def test_own_reply_says_when_and_whether_it_processed(
    simpy_run: Run, reply: sim.Reply, outcome: str, processed: float | None
) -> None:
    """Answering and processing are told apart, as with receivers of the file."""

    class Fixed:
        def receive(self, request: sim.Request) -> sim.Reply:
            return reply

    result = simpy_run(world(policies=policy("0s")), receivers={"r": Fixed()})
    assert rows(result.attempts, "outcome", "processed_s") == [(outcome, processed)]


def test_own_receiver_may_ask_for_time(simpy_run: Run) -> None:
    """A reply's Retry-After is honoured like any other."""

    class Busy:
        def receive(self, request: sim.Request) -> sim.Reply:
            return sim.Reply(status=503 if request.attempt_number == 1 else 200, retry_after_s=20.0)

    result = simpy_run(world(policies=policy("0s", "1s", retry_after="honour")), receivers={"r": Busy()})
    assert [row[2] for row in starts(result)] == [0.0, 20.0]


@pytest.mark.parametrize("reply", [{"after_s": -1.0}, {"status": 42}, {"processed_after_s": -0.1}])
def test_own_reply_that_cannot_be_is_refused(simpy_run: Run, reply: dict[str, Any]) -> None:
    """A negative time or a status that is none is the user's mistake, told as such."""

    class Wrong:
        def receive(self, request: sim.Request) -> sim.Reply:
            return sim.Reply(**reply)

    with pytest.raises(sim.ScenarioError, match="a receiver gave"):
        simpy_run(world(), receivers={"r": Wrong()})


def test_own_arrivals_replace_those_of_the_file(run: Run) -> None:
    """Times in seconds, with types and keys or without; an endless iterable is read to the horizon."""

    def every_30_s() -> Iterator[float]:
        return itertools.count(10.0, 30.0)

    result = run(world(), arrivals={"p": every_30_s()})
    assert rows(result.deliveries, "created_s", "type", "seq") == [
        (10.0, "event", 1),
        (40.0, "event", 2),
        (70.0, "event", 3),
    ]
    own = [(1.0, "paid", "alice"), (2.0, "paid", "bob"), (2.0, "sent", "alice"), (999.0, "late", "bob")]
    result = run(world(), arrivals={"p": own})
    assert rows(result.deliveries, "created_s", "type", "key", "seq") == [
        (1.0, "paid", "p/alice", 1),
        (2.0, "paid", "p/bob", 1),
        (2.0, "sent", "p/alice", 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"receivers": {"nobody": Alternating()}}, "nobody"),
        ({"arrivals": {"nobody": [1.0]}}, "nobody"),
        ({"arrivals": {"p": [2.0, 1.0]}}, "ascending"),
        ({"arrivals": {"p": [-1.0]}}, "ascending"),
        ({"arrivals": {"p": [1.0, (2.0, "paid")]}}, "all have a type"),
        ({"engine": "steam"}, "must be one of"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    """A wrong name, order or seed raises the error of a wrong scenario."""
    with pytest.raises(sim.ScenarioError, match=message):
        sim.run(world(), **arguments)


def test_progress_is_told_as_a_share_of_the_horizon(run: Run) -> None:
    """A long run reports now and then, never above 1 and never backwards."""
    told: list[float] = []
    run(busy(), progress=told.append)
    assert told
    assert told == sorted(told)
    assert 0 < told[0] <= told[-1] <= 1


# --------------------------------------------------------------------------- standing still


def test_schedule_under_which_time_stands_still_is_refused(run: Run) -> None:
    """No gap and an error in 0 s for ever: the run stops with the policy, the endpoint and the cures named."""
    mapping = world(
        policies=policy({"delay": "0s", "times": "forever"}),
        receivers={"r": {"latency": "0s", "faults": [{"error": {"probability": 1.0}}]}},
    )
    with pytest.raises(sim.ScenarioError, match=r"policies\.m\.schedule .*e:0 .*10,000 attempts .*at 0 s"):
        run(mapping)


def test_many_immediate_retries_are_no_standstill(run: Run) -> None:
    """A thousand retries of no gap are a legal schedule with an end."""
    result = run(world(policies=policy({"delay": "0s", "times": 1000}), receivers=failing("0s", "1s")))
    assert states(result) == [("p:0", "dead", 1000, 0.0)]
