"""What a delivery, a receiver and a dispatcher do: small worlds whose traces are worked out by hand.

One body for every engine: a test asks ``run`` for the trace of a mapping and knows nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import pytest

import sim
from tests.tiny import endpoint, outage, policy, producer, receiver, rows, world

ENGINES = ["simpy", "compiled"]
Run = Callable[..., sim.Result]

# Nobody waits for a receiver like this one longer than it takes to refuse.
REFUSES_UNTIL_10 = {"latency": "1s", "faults": [{"outage": {"windows": [["0s", "10s"]], "how": "refuse"}}]}


@pytest.fixture(params=ENGINES)
def run(request: pytest.FixtureRequest) -> Run:
    """An engine as a function of a scenario."""
    return partial(sim.run, engine=request.param)


def timing(result: sim.Result) -> list[tuple[Any, ...]]:
    """(delivery, attempt, due, started, finished, outcome) of every attempt."""
    columns = ("delivery_id", "attempt_number", "due_s", "started_s", "finished_s", "outcome")
    return rows(result.attempts, *columns)


def starts(result: sim.Result) -> list[tuple[Any, ...]]:
    """(delivery, due, started, cause of the wait) of every attempt."""
    return rows(result.attempts, "delivery_id", "due_s", "started_s", "wait_cause")


def states(result: sim.Result) -> list[tuple[Any, ...]]:
    """(delivery, state, attempts, settled) of every delivery."""
    return rows(result.deliveries, "delivery_id", "state", "attempts", "settled_s")


# --------------------------------------------------------------------------- 1, 2: an attempt and its gaps


def test_gap_runs_from_the_end_of_the_failed_attempt(run: Run) -> None:
    """Attempt k + 1 is due a gap after attempt k has ended, not after it started."""
    result = run(
        world(
            policies=policy("0s", "1s", "2s"),
            receivers=receiver("300ms", {"error": {"probability": 1.0, "status": 502}}),
        )
    )
    assert timing(result) == [
        ("p:0", 1, 0.0, 0.0, 0.3, "rejected"),
        ("p:0", 2, 1.3, 1.3, 1.6, "rejected"),
        ("p:0", 3, 3.6, 3.6, 3.9, "rejected"),
    ]
    assert rows(result.attempts, "status", "tier") == [(502, 1), (502, 2), (502, 3)]
    assert states(result) == [("p:0", "dead", 3, 3.9)]


def test_first_entry_of_a_schedule_is_a_gap_from_the_event(run: Run) -> None:
    """A first entry of 2 s makes attempt 1 due 2 s after the event; waiting for it has no cause."""
    result = run(world("1s", policies=policy("2s", "1s")))
    assert starts(result) == [("p:0", 3.0, 3.0, "")]


@pytest.mark.parametrize(
    ("latency", "faults", "second_start", "cause"),
    [
        ("2s", [], 2.0, "worker"),  # until the answer
        ("60s", [], 5.0, "worker"),  # until the timeout, though the receiver is still at it
        ("2s", [outage("0s", "9s", "hang")], 5.0, "worker"),  # nothing at all comes back
        ("2s", [outage("0s", "9s", "refuse")], 0.0, ""),  # a refusal takes no time
        ("2s", [outage("0s", "9s", {"status": 503})], 2.0, "worker"),  # an error takes the latency
    ],
)
def test_attempt_holds_its_worker_until_answer_refusal_or_timeout(
    run: Run, latency: str, faults: list[Any], second_start: float, cause: str
) -> None:
    """With one worker the second delivery starts when the first attempt has ended for the sender."""
    result = run(
        world(
            "0s",
            "0s",
            policies=policy("0s"),
            receivers=receiver(latency, *faults),
            dispatcher={"workers": 1},
        )
    )
    assert starts(result) == [("p:0", 0.0, 0.0, ""), ("p:1", 0.0, second_start, cause)]


@pytest.mark.parametrize(
    ("timeout", "outcome", "state"), [("2s", "delivered", "delivered"), ("1999999999ns", "timed_out", "dead")]
)
def test_answer_at_the_instant_of_the_timeout_counts(
    run: Run, timeout: str, outcome: str, state: str
) -> None:
    """An answer after exactly the timeout is an answer; a nanosecond less patience and it is a timeout."""
    result = run(world(policies=policy("0s", timeout=timeout), receivers=receiver("2s")))
    assert rows(result.attempts, "outcome", "processed_s") == [(outcome, 2.0)]
    assert rows(result.deliveries, "state", "first_processed_s") == [(state, 2.0)]


def test_first_attempt_may_have_a_timeout_of_its_own(run: Run) -> None:
    """``first_timeout`` replaces the timeout of attempt 1 only; ``total_budget`` caps every attempt."""
    slow = receiver("60s")
    result = run(world(policies=policy("0s", "1s", first_timeout="2s"), receivers=slow))
    assert rows(result.attempts, "started_s", "finished_s") == [(0.0, 2.0), (3.0, 8.0)]
    result = run(world(policies=policy("0s", "1s", first_timeout="2s", total_budget="1s"), receivers=slow))
    assert rows(result.attempts, "started_s", "finished_s") == [(0.0, 1.0), (2.0, 3.0)]


def test_abandoned_request_burns_capacity_and_becomes_a_duplicate(run: Run) -> None:
    """A receiver does not know that the sender gave up: it serves every request, and new ones wait behind."""
    result = run(
        world(
            "0s",
            "4s",
            policies=policy("0s", "1s", timeout="2s"),
            receivers=receiver("3s", servers=1),
        )
    )
    columns = ("delivery_id", "attempt_number", "started_s", "finished_s", "served_s", "processed_s")
    assert rows(result.attempts, *columns) == [
        ("p:0", 1, 0.0, 2.0, 0.0, 3.0),
        ("p:0", 2, 3.0, 5.0, 3.0, 6.0),
        ("p:1", 1, 4.0, 6.0, 6.0, 9.0),
        ("p:1", 2, 7.0, 9.0, 9.0, 12.0),  # answered 3 s after the sender went
    ]
    assert states(result) == [("p:0", "dead", 2, 5.0), ("p:1", "dead", 2, 9.0)]
    assert rows(result.deliveries, "first_processed_s", "duplicates") == [(3.0, 1), (9.0, 1)]
    assert result.metrics["false_loss_share"] == 1.0


# --------------------------------------------------------------------------- 3: receivers


def test_servers_take_requests_first_come_first_served(run: Run) -> None:
    """Two servers of 2 s each: the third and fourth request wait for them, in order of arrival."""
    result = run(world("0s", "0s", "500ms", "1s", receivers=receiver("2s", servers=2)))
    assert rows(result.attempts, "started_s", "served_s", "processed_s", "finished_s") == [
        (0.0, 0.0, 2.0, 2.0),
        (0.0, 0.0, 2.0, 2.0),
        (0.5, 2.0, 4.0, 4.0),
        (1.0, 2.0, 4.0, 4.0),
    ]


def test_full_backlog_answers_503_at_once_and_asks_for_time(run: Run) -> None:
    """Beyond its backlog a receiver answers in 0 s with Retry-After and does not process."""
    receivers = receiver("2s", servers=1, backlog={"size": 1, "beyond": 503, "retry_after": "7s"})
    result = run(
        world("0s", "0s", "0s", policies=policy("0s", "1s", retry_after="honour"), receivers=receivers)
    )
    assert timing(result) == [
        ("p:0", 1, 0.0, 0.0, 2.0, "delivered"),
        ("p:1", 1, 0.0, 0.0, 4.0, "delivered"),
        ("p:2", 1, 0.0, 0.0, 0.0, "rejected"),
        ("p:2", 2, 7.0, 7.0, 9.0, "delivered"),
    ]
    assert rows(result.attempts, "status", "processed_s")[2] == (503, None)


def test_full_backlog_may_leave_callers_hanging(run: Run) -> None:
    """``beyond: hang`` accepts what it will never answer: a timeout, and no processing."""
    receivers = receiver("2s", servers=1, backlog={"size": 0, "beyond": "hang"})
    result = run(world("0s", "1s", policies=policy("0s"), receivers=receivers))
    assert rows(result.attempts, "finished_s", "outcome", "processed_s") == [
        (2.0, "delivered", 2.0),
        (6.0, "timed_out", None),
    ]


def test_place_in_the_backlog_is_free_the_instant_its_request_is_taken_up(run: Run) -> None:
    """A request that arrives when a server takes up the only waiting one finds room."""
    receivers = receiver("2s", servers=1, backlog={"size": 1})
    result = run(world("0s", "1s", "1999999999ns", "2s", policies=policy("0s"), receivers=receivers))
    assert rows(result.attempts, "status", "served_s") == [(200, 0.0), (200, 2.0), (503, None), (200, 4.0)]


@pytest.mark.parametrize(
    ("how", "first", "second"),
    [
        ("refuse", (1.0, "refused", 0, None), (3.0, "delivered", 200, 3.0)),
        ("hang", (6.0, "timed_out", 0, None), (3.0, "delivered", 200, 3.0)),  # and holds no server
        ("pause", (3.0, "delivered", 200, 3.0), (4.0, "delivered", 200, 4.0)),  # both wait for the server
        ({"status": 503}, (2.0, "rejected", 503, None), (3.0, "delivered", 200, 3.0)),
        (
            {"error": {"probability": 1.0, "status": 500, "latency": "3s"}},
            (4.0, "rejected", 500, None),
            (5.0, "delivered", 200, 5.0),  # the error holds the server
        ),
        ({"error": {"probability": 0.0}}, (2.0, "delivered", 200, 2.0), (3.0, "delivered", 200, 3.0)),
    ],
)
def test_outage_shows_itself_as_written(
    run: Run, how: Any, first: tuple[Any, ...], second: tuple[Any, ...]
) -> None:
    """An outage over [1 s, 2 s): what meets the request at its start, and that at its very end none is met."""
    result = run(
        world("1s", "2s", policies=policy("0s"), receivers=receiver("1s", outage("1s", "2s", how), servers=1))
    )
    columns = ("finished_s", "outcome", "status", "processed_s")
    assert rows(result.attempts, *columns) == [first, second]


def test_pause_lets_work_in_hand_go_on(run: Run) -> None:
    """A pause delays starts: what was taken up before it ends as planned."""
    result = run(world("0s", "1s", receivers=receiver("2s", outage("1s", "4s", "pause"))))
    assert rows(result.attempts, "served_s", "processed_s") == [(0.0, 2.0), (4.0, 6.0)]


def test_first_matching_fault_decides(run: Run) -> None:
    """An outage above an error hides it; below it never shows."""
    always = {"error": {"probability": 1.0, "status": 418}}
    hang = outage("0s", "9s", "hang")
    for faults, expected in (([always, hang], "rejected"), ([hang, always], "timed_out")):
        result = run(world(policies=policy("0s"), receivers=receiver("1s", *faults)))
        assert rows(result.attempts, "outcome") == [(expected,)]


def test_lost_answer_is_processed_and_looks_like_a_timeout(run: Run) -> None:
    """The sender times out though the work is done; its retry makes a duplicate."""
    result = run(world(receivers=receiver("1s", {"lost_answer": {"probability": 1.0}})))
    assert rows(result.attempts, "started_s", "finished_s", "outcome", "processed_s") == [
        (0.0, 5.0, "timed_out", 1.0),
        (6.0, 11.0, "timed_out", 7.0),
    ]
    assert rows(result.deliveries, "state", "first_processed_s", "duplicates") == [("dead", 1.0, 1)]


def test_error_occupies_a_server_and_is_not_processed(run: Run) -> None:
    """An error answered after 3 s of its own keeps the only server for 3 s."""
    fault = {"error": {"probability": 1.0, "latency": "3s"}}
    result = run(world("0s", "1s", policies=policy("0s"), receivers=receiver("1s", fault, servers=1)))
    assert rows(result.attempts, "served_s", "finished_s", "processed_s") == [
        (0.0, 3.0, None),
        (3.0, 6.0, None),
    ]


def test_receiver_that_answers_on_arrival_works_later(run: Run) -> None:
    """The answer comes in 0 s, the processing when a server has got round to it; a full backlog still refuses."""
    receivers = receiver("10s", servers=1, answers="on_arrival", backlog={"size": 1})
    result = run(world("0s", "1s", "2s", policies=policy("0s"), receivers=receivers))
    assert rows(result.attempts, "finished_s", "status", "processed_s") == [
        (0.0, 200, 10.0),
        (1.0, 200, 20.0),
        (2.0, 503, None),
    ]
    assert rows(result.deliveries, "delivered_s", "first_processed_s") == [
        (0.0, 10.0),
        (1.0, 20.0),
        (None, None),
    ]


# --------------------------------------------------------------------------- 4: order within an instant


def test_dispatch_comes_last_and_goes_by_due_then_id(run: Run) -> None:
    """At 2 s one worker falls free, a retry and a new event come due, and what was due before goes first."""
    result = run(
        world(
            "0s",
            "1s",
            "2s",
            policies=policy("0s", "0s"),
            receivers=receiver("2s", outage("0s", "1s", {"status": 500})),
            dispatcher={"workers": 1},
        )
    )
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("p:1", 1.0, 2.0, "worker"),
        ("p:0", 2.0, 4.0, "worker"),  # due with p:2, but the older delivery
        ("p:2", 2.0, 6.0, "worker"),
    ]


def test_end_of_an_attempt_comes_before_new_events(run: Run) -> None:
    """A slot that is given back at the instant of an event is free for it: no wait, no cause."""
    result = run(world("0s", "1s", endpoints=endpoint(max_in_flight=1)))
    assert starts(result) == [("p:0", 0.0, 0.0, ""), ("p:1", 1.0, 1.0, "")]


def test_instant_goes_on_until_nothing_is_left_to_start(run: Run) -> None:
    """Refusals and retries of no gap all happen at one instant, one worker or many."""
    for workers in (1, 3):
        result = run(
            world(
                "0s",
                "0s",
                policies=policy("0s", "0s", "0s"),
                receivers={"r": REFUSES_UNTIL_10},
                dispatcher={"workers": workers},
            )
        )
        assert timing(result) == [
            (f"p:{event}", attempt, 0.0, 0.0, 0.0, "refused") for event in (0, 1) for attempt in (1, 2, 3)
        ]
        assert set(rows(result.attempts, "wait_cause")) == {("",)}


def test_events_of_one_instant_come_in_the_order_of_producers(run: Run) -> None:
    """At one instant the producer named first in the file emits first, and its delivery is served first."""
    producers = {"z": producer("1s"), "a": producer("1s")}
    result = run(world(producers=producers, receivers=receiver("1s", servers=1)))
    assert rows(result.attempts, "delivery_id", "served_s") == [("z:0", 1.0), ("a:0", 2.0)]


def test_what_started_together_arrives_in_order_of_due_then_id(run: Run) -> None:
    """Two deliveries are released at one instant: the one due earlier is first in the receiver's queue."""
    result = run(
        world(
            "0s",
            "2s",
            "3s",
            policies=policy("0s", "2s", timeout="60s"),
            receivers=receiver("4s", outage("0s", "1s", "refuse"), servers=1),
            dispatcher={"workers": [["0s", 1], ["1s", 0], ["5s", 9]]},
        )
    )
    assert rows(result.attempts, "delivery_id", "due_s", "started_s", "served_s") == [
        ("p:0", 0.0, 0.0, None),
        ("p:0", 2.0, 5.0, 5.0),
        ("p:1", 2.0, 5.0, 9.0),
        ("p:2", 3.0, 5.0, 13.0),
    ]


# --------------------------------------------------------------------------- events and who gets them


def test_batch_is_several_events_of_one_key_at_one_instant(run: Run) -> None:
    """One change emits two orders and a ticket: same time and key, consecutive seq, none of them late."""
    producers = {"p": producer("1s", "3s", batch={"order": 2, "ticket": 1})}
    result = run(world(producers=producers))
    assert rows(result.deliveries, "event_id", "type", "key", "seq", "created_s", "late") == [
        ("p:0", "order", "p/0", 1, 1.0, False),
        ("p:1", "order", "p/0", 2, 1.0, False),
        ("p:2", "ticket", "p/0", 3, 1.0, False),
        ("p:3", "order", "p/0", 4, 3.0, False),
        ("p:4", "order", "p/0", 5, 3.0, False),
        ("p:5", "ticket", "p/0", 6, 3.0, False),
    ]


def test_event_goes_to_every_endpoint_that_subscribes(run: Run) -> None:
    """Masks of types and lists of producers decide who gets an event; a group's members all do."""
    result = run(
        world(
            producers={
                "p": producer("0s", batch={"order.paid": 1, "user.new": 1}),
                "q": producer("1s", events={"order.paid": 1}),
            },
            endpoints={
                "all": {"policy": "m", "receiver": "r"},
                "orders": {"policy": "m", "receiver": "r", "subscribes": ["order.*"], "count": 2},
                "own": {"policy": "m", "receiver": "r", "producers": ["q"]},
            },
        )
    )
    assert rows(result.deliveries, "delivery_id") == [
        ("p:0:all:0",),
        ("p:0:orders:0",),
        ("p:0:orders:1",),
        ("p:1:all:0",),
        ("q:0:all:0",),
        ("q:0:orders:0",),
        ("q:0:orders:1",),
        ("q:0:own:0",),
    ]
    assert result.metrics["events"] == 3


def test_route_by_key_gives_each_key_to_one_member(run: Run) -> None:
    """Member = key modulo the size of the group."""
    producers = {"p": {"arrivals": {"constant": "1/s"}, "keys": {"count": 10}}}
    result = run(world(producers=producers, endpoints=endpoint(count=3, route="by_key")))
    assert len(result.deliveries) == 100
    for key, name in rows(result.deliveries, "key", "endpoint"):
        assert name == f"e:{int(key.removeprefix('p/')) % 3}"


def test_receiver_mix_gives_each_member_one_receiver(run: Run) -> None:
    """Of 400 members about a quarter is slow, and a slow one stays slow."""
    result = run(
        world(
            "0s",
            "50s",
            endpoints=endpoint(count=400, receiver={"slow": "25%", "r": "75%"}),
            receivers={"r": {"latency": "1s"}, "slow": {"latency": "2s"}},
        )
    )
    latencies = (result.attempts["finished_s"] - result.attempts["started_s"]).groupby(
        result.attempts["endpoint"], observed=True
    )
    assert (latencies.nunique() == 1).all()
    slow = (latencies.first() == 2.0).mean()
    assert abs(slow - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


# --------------------------------------------------------------------------- what holds a start up


def test_max_in_flight_lets_so_many_run_at_once(run: Run) -> None:
    """With one slot the second waits for the first; waiting for a slot holds no worker."""
    result = run(
        world(
            "0s",
            "0s",
            "0s",
            endpoints=endpoint(max_in_flight=1) | {"f": {"policy": "m", "receiver": "r"}},
            dispatcher={"workers": 4},
        )
    )
    assert [row for row in starts(result) if ":f:" not in row[0]] == [
        ("p:0", 0.0, 0.0, ""),
        ("p:1", 0.0, 1.0, "slot"),
        ("p:2", 0.0, 2.0, "slot"),
    ]
    assert {row[1:] for row in starts(result) if ":f:" in row[0]} == {(0.0, 0.0, "")}


def test_rate_limit_spaces_all_attempts_and_saves_nothing_up(run: Run) -> None:
    """At 2/s attempts start at least 0.5 s apart, retries included; an idle endpoint earns no burst."""
    result = run(
        world(
            "0s",
            "0s",
            "0s",
            "20s",
            "20s",
            policies=policy("0s", "800ms"),
            receivers=receiver("0s", outage("0s", "100ms", "refuse")),
            endpoints=endpoint(rate_limit="2/s"),
        )
    )
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("p:1", 0.0, 0.5, "rate"),
        ("p:2", 0.0, 1.0, "rate"),
        ("p:0", 0.8, 1.5, "rate"),
        ("p:3", 20.0, 20.0, ""),
        ("p:4", 20.0, 20.5, "rate"),
    ]


def test_lanes_keep_first_attempts_and_retries_apart(run: Run) -> None:
    """A retry that holds the only worker of its lane leaves first attempts alone, and other retries waiting."""
    result = run(
        world(
            "0s",
            "0s",
            "3s",
            policies=policy("0s", "1s", timeout="60s"),
            receivers=receiver("10s", outage("0s", "1s", "refuse")),
            dispatcher={"lanes": {"first": 1, "retries": 1}},
        )
    )
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("p:1", 0.0, 0.0, ""),
        ("p:0", 1.0, 1.0, ""),
        ("p:2", 3.0, 3.0, ""),
        ("p:1", 1.0, 11.0, "worker"),
    ]


# Three deliveries wait for the only slot of e. The first of them is a retry whose workers are busy with f.
BUSY_RETRIES = {
    "producers": {"p": producer("0s", "900ms", "2s"), "q": producer("0s")},
    "endpoints": {
        "e": {"policy": "m", "receiver": "r", "max_in_flight": 1, "producers": ["p"]},
        "f": {"policy": "m", "receiver": "slow", "producers": ["q"]},
    },
    "policies": policy("0s", "1s", timeout="60s"),
    "receivers": {
        "r": {"latency": "5s", "faults": [outage("0s", "500ms")]},
        "slow": {"latency": "30s", "faults": [outage("0s", "500ms")]},
    },
}


@pytest.mark.parametrize(
    "dispatcher",
    [{"lanes": {"first": 5, "retries": 1}}, {"discipline": "per_tier", "workers": [5, 1]}],
)
def test_free_slot_goes_to_whoever_has_a_worker(run: Run, dispatcher: dict[str, Any]) -> None:
    """A slot falls free at 5.9 s: the retry due first has no worker, so the first attempt due next starts."""
    result = run(world(**BUSY_RETRIES, dispatcher=dispatcher))
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("q:0:f:0", 0.0, 0.0, ""),
        ("p:1", 0.9, 0.9, ""),
        ("q:0:f:0", 1.0, 1.0, ""),
        ("p:2", 2.0, 5.9, "slot"),
        ("p:0", 1.0, 31.0, "slot"),
    ]


def test_number_of_workers_may_change_over_time(run: Run) -> None:
    """No worker for 5 s, then two, then none: an attempt under way ends all the same."""
    result = run(
        world(
            "0s",
            "0s",
            "0s",
            policies=policy("0s", timeout="60s"),
            receivers=receiver("10s"),
            dispatcher={"workers": [["0s", 0], ["5s", 2], ["12s", 0], ["20s", 1]]},
        )
    )
    assert timing(result) == [
        ("p:0", 1, 0.0, 5.0, 15.0, "delivered"),
        ("p:1", 1, 0.0, 5.0, 15.0, "delivered"),
        ("p:2", 1, 0.0, 20.0, 30.0, "delivered"),
    ]


# --------------------------------------------------------------------------- ordering


def test_ordering_by_key_waits_for_the_final_state_of_the_predecessor(run: Run) -> None:
    """An event starts when the one before it of its key is final; other keys pass; the due time is kept."""
    result = run(
        world(
            producers={"p": producer("0s", "1s"), "q": producer("1s")},
            policies=policy("0s", "10s"),
            receivers=receiver("1s", outage("0s", "1s")),
            dispatcher={"ordering": "key"},
        )
    )
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("q:0", 1.0, 1.0, ""),
        ("p:0", 10.0, 10.0, ""),
        ("p:1", 1.0, 11.0, "order"),
    ]


def test_ordering_by_endpoint_lets_nothing_pass(run: Run) -> None:
    """Under ``endpoint`` one undelivered event holds back everything for that endpoint, not for another."""
    result = run(
        world(
            producers={"p": producer("0s"), "q": producer("1s")},
            endpoints=endpoint() | {"f": {"policy": "m", "receiver": "up"}},
            policies=policy("0s", "10s"),
            receivers=receiver("1s", outage("0s", "1s")) | {"up": {"latency": "0s"}},
            dispatcher={"ordering": "endpoint"},
        )
    )
    assert [row for row in starts(result) if ":f:" not in row[0]] == [
        ("p:0", 0.0, 0.0, ""),
        ("p:0", 10.0, 10.0, ""),
        ("q:0", 1.0, 11.0, "order"),
    ]
    assert {row[2:] for row in starts(result) if ":f:" in row[0]} == {(0.0, ""), (1.0, "")}


@pytest.mark.parametrize(
    ("changes", "state", "released"),
    [
        ({"policies": policy("0s", "4s")}, "dead", 4.0),
        ({"policies": policy("0s", "4s", "9s", max_age="5s")}, "expired", 4.0),
        ({"policies": policy("0s", "4s", verdicts={"refused": "drop"})}, "dropped", 0.0),
        (
            {
                "producers": {"p": producer("0s", "1s", objects={"deleted_after": "3s"})},
                "policies": policy("0s", "4s"),
                "dispatcher": {"ordering": "key", "queue_holds": "id"},
            },
            "vanished",
            4.0,
        ),
    ],
)
def test_any_final_state_releases_the_successor(
    run: Run, changes: dict[str, Any], state: str, released: float
) -> None:
    """Dead, expired, dropped or vanished: the next event of the key starts at that very instant."""
    base = {"receivers": {"r": REFUSES_UNTIL_10}, "dispatcher": {"ordering": "key"}}
    result = run(world("0s", "1s", **base | changes))
    assert states(result)[0][1] == state
    assert rows(result.deliveries, "settled_s")[0] == (released,)
    later = result.attempts[result.attempts["delivery_id"] == "p:1:e:0"]
    # under queue_holds: id the successor's object is gone too by the time it may start
    expected = [] if state == "vanished" else [(1.0, max(released, 1.0))]
    assert rows(later, "due_s", "started_s")[:1] == expected


# --------------------------------------------------------------------------- 7: a worker for each tier

PER_TIER = {"discipline": "per_tier", "workers": 1}


def test_worker_of_a_tier_holds_its_head_until_it_is_due(run: Run) -> None:
    """With jittered gaps a tier's worker starts deliveries in order of entry: each waits for all before it."""
    result = run(
        world(
            *["0s"] * 40,
            policies=policy("0s", "60s", jitter="full"),
            receivers={"r": {"latency": "0s", "faults": [outage("0s", "1s")]}},
            dispatcher=PER_TIER,
        )
    )
    retries = result.attempts[result.attempts["tier"] == 2].sort_values("delivery_id", key=_index)
    assert len(retries) == 40
    latest = retries["due_s"].cummax()
    assert not retries["due_s"].is_monotonic_increasing
    assert (retries["started_s"] == latest).all()
    late = retries["started_s"] > retries["due_s"]
    assert set(retries["wait_cause"][late]) == {"head_of_line"}
    assert set(retries["wait_cause"][~late]) == {""}


def _index(ids: pd.Series[str]) -> pd.Series[int]:
    return ids.str.split(":").str[1].astype(int)


def test_constant_gaps_make_a_tier_a_queue_without_head_of_line_wait(run: Run) -> None:
    """With equal gaps the head is always due first: nobody waits for an undue one."""
    result = run(
        world(
            "0s",
            "1s",
            "2s",
            policies=policy("0s", "20s"),
            receivers={"r": {"latency": "1s", "faults": [outage("0s", "10s")]}},
            dispatcher=PER_TIER,
        )
    )
    assert {row[3] for row in starts(result)} == {""}


def test_tier_is_of_one_policy_and_one_attempt_number(run: Run) -> None:
    """Workers are counted by policy and tier; the last number of a list serves the tiers after it."""
    endpoints = endpoint() | {"f": {"policy": "n", "receiver": "r"}}
    policies = policy("0s", "5s", "5s") | {"n": {"schedule": ["0s", "5s", "5s"], "timeout": "5s"}}
    result = run(
        world(
            "0s",
            "0s",
            endpoints=endpoints,
            policies=policies,
            receivers=receiver("1s", {"error": {"probability": 1.0}}),
            dispatcher={"discipline": "per_tier", "workers": [1, 2]},
        )
    )
    columns = ("delivery_id", "tier", "due_s", "started_s", "wait_cause")
    one_policy = [row for row in rows(result.attempts, *columns) if ":f:" not in row[0]]
    assert one_policy == [
        ("p:0", 1, 0.0, 0.0, ""),
        ("p:1", 1, 0.0, 1.0, "head_of_line"),  # tier 1 has one worker
        ("p:0", 2, 6.0, 6.0, ""),
        ("p:1", 2, 7.0, 7.0, ""),
        ("p:0", 3, 12.0, 12.0, ""),
        ("p:1", 3, 13.0, 13.0, ""),
    ]
    other = [row[1:] for row in rows(result.attempts, *columns) if ":f:" in row[0]]
    assert other == [row[1:] for row in one_policy]


def test_holding_a_head_is_not_utilisation(run: Run) -> None:
    """A worker that holds a delivery for an hour and sends for a second was busy for a second of it."""
    result = run(
        world(
            horizon="4000s",
            policies=policy("0s", "1h"),
            receivers={"r": {"latency": "1s", "faults": [outage("0s", "10s")]}},
            dispatcher=PER_TIER,
        )
    )
    assert starts(result) == [("p:0", 0.0, 0.0, ""), ("p:0", 3600.0, 3600.0, "")]
    assert result.metrics["worker_utilization"] == pytest.approx(1 / (4000 * 2))  # two tiers, a worker each


def test_blocked_head_gives_its_worker_up(run: Run) -> None:
    """A due head whose endpoint has no slot leaves the tier's worker to the next, and comes back before others."""
    result = run(
        world(
            producers={"p": producer("0s", "1s"), "q": producer("1s", "5s")},
            endpoints=endpoint(max_in_flight=1, producers=["p"])
            | {"f": {"policy": "m", "receiver": "quick", "producers": ["q"]}},
            policies=policy("0s", timeout="60s"),
            receivers=receiver("5s") | {"quick": {"latency": "500ms"}},
            dispatcher={"discipline": "per_tier", "workers": 2},
        )
    )
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("q:0:f:0", 1.0, 1.0, ""),  # p:1 is before it in the tier, but blocked
        ("p:1", 1.0, 5.0, "slot"),
        ("q:1:f:0", 5.0, 5.0, ""),
    ]


def test_ordering_holds_under_per_tier_too(run: Run) -> None:
    """A successor gives the worker up until its predecessor is final, and then goes first."""
    result = run(
        world(
            "0s",
            "1s",
            "12s",
            policies=policy("0s", "10s"),
            receivers={"r": {"latency": "2s", "faults": [outage("0s", "1s")]}},
            dispatcher={**PER_TIER, "ordering": "key"},
        )
    )
    assert starts(result) == [
        ("p:0", 0.0, 0.0, ""),
        ("p:0", 10.0, 10.0, ""),
        ("p:1", 1.0, 12.0, "order"),
        ("p:2", 12.0, 14.0, "head_of_line"),  # behind p:1 in its tier
    ]


# --------------------------------------------------------------------------- ids, overhead, thin messages


def test_queued_id_of_a_deleted_object_vanishes_without_an_attempt(run: Run) -> None:
    """With ids in the queue the object is fetched at the start; with bodies its deletion changes nothing."""
    gone = {"p": producer("0s", objects={"deleted_after": "5s"})}
    base = {"producers": gone, "policies": policy("0s", "6s"), "receivers": {"r": REFUSES_UNTIL_10}}
    result = run(world(**base, dispatcher={"queue_holds": "id"}))
    assert timing(result) == [("p:0", 1, 0.0, 0.0, 0.0, "refused")]
    assert states(result) == [("p:0", "vanished", 1, 6.0)]
    assert states(run(world(**base))) == [("p:0", "dead", 2, 6.0)]


def test_vanishing_takes_no_worker_and_no_time(run: Run) -> None:
    """Nine of ten objects are gone when the worker falls free: it goes through them at once to the tenth."""
    result = run(
        world(
            producers={
                "p": producer(*["0s"] * 10, objects={"deleted_after": "1s"}),
                "q": producer("500ms"),
            },
            receivers=receiver("2s"),
            dispatcher={"workers": 1, "queue_holds": "id"},
        )
    )
    assert starts(result) == [("p:0", 0.0, 0.0, ""), ("q:0", 0.5, 2.0, "worker")]
    assert set(states(result)[1:10]) == {(f"p:{i}", "vanished", 0, 2.0) for i in range(1, 10)}


def test_overhead_holds_the_worker_before_every_request(run: Run) -> None:
    """The sender's own 2 s come before the request: a worker needs 3 s for an attempt answered in 1 s."""
    result = run(world("0s", "0s", dispatcher={"workers": 1, "overhead": "2s"}))
    assert rows(result.attempts, "delivery_id", "started_s", "finished_s") == [
        ("p:0", 0.0, 3.0),
        ("p:1", 3.0, 6.0),
    ]
    assert result.attempts["served_s"].tolist() == [2.0, 5.0]
    assert result.metrics["worker_utilization"] == pytest.approx(6 / 100)


def test_timeout_runs_from_the_request_not_from_the_overhead(run: Run) -> None:
    """A timeout of 5 s after 2 s of overhead comes at 7 s."""
    result = run(world(policies=policy("0s"), receivers=receiver("60s"), dispatcher={"overhead": "2s"}))
    assert rows(result.attempts, "started_s", "finished_s") == [(0.0, 7.0)]


def test_thin_messages_make_every_processing_call_back(run: Run) -> None:
    """Thin or full, attempts are the same; only a thin message costs an API call per processing."""
    base = {"receivers": receiver("1s", {"lost_answer": {"probability": 1.0}})}
    full, thin = run(world(**base)), run(world(**base, dispatcher={"message": "thin"}))
    pd.testing.assert_frame_equal(full.attempts, thin.attempts)
    assert full.metrics["api_calls_per_s"] == 0
    assert thin.metrics["api_calls_per_s"] == 2 / 100  # processed twice within the horizon


# --------------------------------------------------------------------------- 8: polling


def test_endpoint_that_polls_takes_all_that_waits_at_its_own_phase(run: Run) -> None:
    """Every 10 s from a phase of its own it takes what has been created before; empty polls are kept."""
    times = ["1s", "2s", "41s"]
    result = run(world(*times, endpoints={"e": {"receiver": "r", "mode": {"poll": {"every": "10s"}}}}))
    polled = result.polls["polled_s"]
    phase = polled[0]
    assert 0 <= phase < 10
    assert polled.tolist() == pytest.approx([phase + 10 * i for i in range(len(polled))])
    assert polled.iloc[-1] >= 41
    expected = [next(at for at in polled if at >= float(created[:-1])) for created in times]
    columns = ("attempt_number", "tier", "due_s", "started_s", "finished_s", "processed_s", "wait_cause")
    assert rows(result.attempts, *columns) == [
        (1, 0, float(created[:-1]), at, at, at, "poll") for created, at in zip(times, expected, strict=True)
    ]
    assert result.polls["returned"].sum() == 3
    assert (result.polls["returned"] == 0).sum() == len(polled) - len(set(expected))
    assert states(result) == [(f"p:{i}", "delivered", 1, at) for i, at in enumerate(expected)]


def test_endpoint_does_not_poll_during_its_outage(run: Run) -> None:
    """What an endpoint missed while it was out comes with its first poll after."""
    result = run(
        world(
            "1s",
            endpoints={"e": {"receiver": "r", "mode": {"poll": {"every": "1s"}}}},
            receivers=receiver("1s", outage("0s", "50s")),
        )
    )
    assert result.polls["polled_s"].min() >= 50
    assert 50 <= result.attempts["started_s"].item() < 51


def test_polling_needs_no_worker(run: Run) -> None:
    """With no worker at all an endpoint that polls still gets its deliveries."""
    result = run(
        world(
            endpoints={"e": {"receiver": "r", "mode": {"poll": {"every": "1s"}}}},
            dispatcher={"workers": [["0s", 0]]},
        )
    )
    assert rows(result.deliveries, "state") == [("delivered",)]


def test_members_of_a_group_poll_at_phases_of_their_own(run: Run) -> None:
    """Phases of 200 members spread evenly over the period."""
    result = run(world(endpoints={"e": {"receiver": "r", "count": 200, "mode": {"poll": {"every": "10s"}}}}))
    phases = result.polls.groupby("endpoint", observed=True)["polled_s"].first().sort_values()
    steps = [(i + 0.5) / 20 for i in range(200)]
    assert max(abs(phase - step) for phase, step in zip(phases, steps, strict=True)) < 10 * 1.63 / 200**0.5


# --------------------------------------------------------------------------- all of it together


def test_worker_of_a_tier_is_never_lost(run: Run) -> None:
    """A head vanishes, its successor is freed and blocked at one instant: the tier keeps its three workers."""
    life = {"empirical": {"quantiles": {"0%": "1s", "50%": "2s", "51%": "5000s", "100%": "5000s"}}}
    mapping = world(
        producers={
            "p": producer("0s", "0s", "0s", keys={"count": 2}, objects={"deleted_after": life}),
            "q": producer("50s", "50s", "50s", keys={"count": 1000}),
        },
        endpoints={
            "e": {"policy": "m", "receiver": "r", "max_in_flight": 1, "producers": ["p"]},
            "f": {"policy": "m", "receiver": "slow", "producers": ["q"]},
        },
        policies=policy("3s", "100s", timeout="60s"),
        receivers=receiver("2s", outage("4s", "9s", {"status": 500})) | {"slow": {"latency": "10s"}},
        dispatcher={"discipline": "per_tier", "workers": 3, "ordering": "key", "queue_holds": "id"},
    )

    def fits(result: sim.Result) -> bool:
        """Whether the keys of p are x, y, x, and only the first object is deleted in time."""
        keys, gone = zip(*rows(result.deliveries, "key", "state")[:3], strict=True)
        vanished = [state == "vanished" for state in gone]
        return keys[0] == keys[2] != keys[1] and vanished == [True, False, False]

    result = next(filter(fits, (run(mapping | {"seed": seed}) for seed in range(300))))
    assert starts(result) == [
        ("p:1", 3.0, 3.0, ""),
        ("p:2", 3.0, 5.0, "slot"),
        *[(f"q:{i}:f:0", 53.0, 53.0, "") for i in range(3)],
        ("p:2", 107.0, 107.0, ""),
    ]


def crowded(seed: int) -> dict[str, Any]:
    """A small world full of ties and shortages, drawn at random: whole seconds throughout."""
    chance = random.Random(seed)
    endpoints = {
        name: {
            "policy": "m",
            "receiver": chance.choice(["quick", "slow"]),
            "max_in_flight": chance.choice([1, 2, 9]),
            **({"rate_limit": chance.choice(["1/s", "0.5/s"])} if chance.random() < 0.4 else {}),
        }
        for name in ("e", "f")
    }
    pools = {"lanes": {"first": chance.randint(1, 3), "retries": chance.randint(1, 2)}}
    if chance.random() < 0.6:
        pools = {"workers": chance.randint(1, 5)}
    times = sorted(chance.choices(range(12), k=14))
    return world(
        *[f"{time}s" for time in times],
        seed=seed,
        producers={"p": producer(*[f"{time}s" for time in times], keys={"count": 3})},
        endpoints=endpoints,
        policies=policy("0s", "0s", "1s", "2s", timeout="3s"),
        receivers={
            "quick": {"latency": "1s", "faults": [{"error": {"probability": 0.5, "latency": "0s"}}]},
            "slow": {"latency": "3s", "faults": [{"error": {"probability": 0.3, "latency": "1s"}}]},
        },
        dispatcher={"ordering": chance.choice(["none", "none", "key", "endpoint"]), **pools},
    )


class History:
    """The attempts of a crowded run, and what kept others from starting at any instant."""

    def __init__(self, mapping: dict[str, Any], result: sim.Result) -> None:
        self.rules = mapping["endpoints"]
        self.pools = mapping["dispatcher"].get("lanes") or {"first": mapping["dispatcher"]["workers"]}
        self.ordering = mapping["dispatcher"]["ordering"]
        self.attempts = list(result.attempts.itertuples())
        self.deliveries = list(result.deliveries.itertuples())

    def pool(self, attempt: Any) -> str:
        """The worker pool of an attempt."""
        return "retries" if attempt.attempt_number > 1 and "retries" in self.pools else "first"

    def rule(self, attempt: Any, name: str, default: Any = None) -> Any:
        """A setting of the attempt's endpoint."""
        return self.rules[attempt.endpoint.partition(":")[0]].get(name, default)

    def workers_busy(self, attempt: Any, at: float) -> int:
        """Attempts under way at a time in the pool of this one."""
        pool = self.pool(attempt)
        return sum(a.started_s <= at < a.finished_s and self.pool(a) == pool for a in self.attempts)

    def slots_taken(self, attempt: Any, at: float) -> int:
        """Attempts under way at a time at the endpoint of this one."""
        return sum(a.started_s <= at < a.finished_s and a.endpoint == attempt.endpoint for a in self.attempts)

    def gap(self, attempt: Any) -> float:
        """Least time between two starts at its endpoint; 0: no limit."""
        rate = self.rule(attempt, "rate_limit")
        return 1 / float(rate.removesuffix("/s")) if rate else 0.0

    def started_before(self, attempt: Any) -> list[float]:
        """Starts at its endpoint before this one."""
        position = self.attempts.index(attempt)
        return [a.started_s for a in self.attempts[:position] if a.endpoint == attempt.endpoint]

    def predecessors_settled(self, attempt: Any) -> float:
        """When the last delivery that must be final before this one was."""
        settled = [0.0]
        for row in self.deliveries:
            if row.delivery_id == attempt.delivery_id:
                break
            in_line = self.ordering == "endpoint" or (self.ordering == "key" and row.key == attempt.key)
            if in_line and row.endpoint == attempt.endpoint:
                settled.append(row.settled_s)
        return max(settled)

    def reason_to_wait(self, attempt: Any, at: float) -> bool:
        """Whether something keeps the attempt from starting at a time before it did."""
        return (
            at < self.predecessors_settled(attempt)
            or self.workers_busy(attempt, at) >= self.pools[self.pool(attempt)]
            or self.slots_taken(attempt, at) >= self.rule(attempt, "max_in_flight")
            or any(t <= at < t + self.gap(attempt) for t in self.started_before(attempt))
        )


@pytest.mark.parametrize("seed", range(40))
def test_nobody_starts_too_early_or_waits_without_a_reason(run: Run, seed: int) -> None:
    """No limit is ever broken, and at every instant of a wait one of them is reached."""
    mapping = crowded(seed)
    result = run(mapping)
    assert set(rows(result.deliveries, "state")) <= {("delivered",), ("dead",)}
    history = History(mapping, result)
    finishes = {attempt.finished_s for attempt in history.attempts}
    for attempt in history.attempts:
        due, started, gap = attempt.due_s, attempt.started_s, history.gap(attempt)
        before = history.started_before(attempt)
        assert started >= due
        assert started >= history.predecessors_settled(attempt)
        assert not gap or started - max(before, default=-gap) >= gap
        assert history.workers_busy(attempt, started) <= history.pools[history.pool(attempt)]
        assert history.slots_taken(attempt, started) <= history.rule(attempt, "max_in_flight")
        for at in {due, *finishes, *(t + gap for t in before)}:
            if due <= at < started:
                assert history.reason_to_wait(attempt, at), (mapping, attempt, at)
