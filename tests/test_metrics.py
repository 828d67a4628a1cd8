"""Every figure against a plain loop over the rows, on one run of every sort of trouble, and at the edges."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sim
from sim import jit
from sim.metrics import metrics, metrics_by, of_deliveries
from sim.order import count_inversions

LOST = ("dead", "expired", "dropped", "vanished")


def world(**changes: Any) -> dict[str, Any]:
    """A world with retries, duplicates, disorder, outages, polling, dedupe, a warm-up and an open end."""
    mapping = {
        "seed": 4,
        "horizon": "90s",
        "warmup": "10s",
        "drain": "1s",
        "producers": {
            "p": {
                "arrivals": {"poisson": "4/s"},
                "events": {"order": 3, "ticket": 1},
                "keys": {"count": 6, "zipf": 1.0},
                "body": "2kB",
                "objects": {"updated_every": "3s"},
            },
            "q": {"arrivals": {"poisson": "1/s"}, "keys": {"count": 3}},
        },
        "endpoints": {
            "e": {"count": 2, "policy": "m", "receiver": "r"},
            "g": {"policy": "m", "receiver": "guarded", "producers": ["p"], "max_in_flight": 12},
            "f": {"receiver": "guarded", "producers": ["q"], "mode": {"poll": {"every": "700ms"}}},
        },
        "policies": {
            "m": {
                "schedule": ["0s", {"delay": "4s", "times": 3}],
                "timeout": "1s",
                "jitter": "full",
                "max_age": "8s",
            }
        },
        "receivers": {
            "r": {
                "latency": {"lognormal": {"median": "300ms", "p99": "5s"}},
                "faults": [
                    {"error": {"probability": 0.15}},
                    {"lost_answer": {"probability": 0.1}},
                    {"outage": {"windows": [["30s", "34s"], ["50s", "53s"]]}},
                ],
                "dedupe": {"window": "3s"},
            },
            "guarded": {"latency": {"exponential": {"mean": "600ms"}}, "stale_guard": True},
        },
        "dispatcher": {"workers": [["0s", 30], ["40s", 16]], "overhead": "10ms"},
    }
    return mapping | changes


@pytest.fixture(scope="module")
def result() -> sim.Result:
    """A run of the world."""
    return sim.run(world())


@pytest.fixture(scope="module")
def deliveries(result: sim.Result) -> list[Any]:
    """Rows of the deliveries created from the warm-up to the horizon."""
    return [row for row in result.deliveries.itertuples() if 10 <= row.created_s < 90]


@pytest.fixture(scope="module")
def attempts(result: sim.Result) -> dict[str, list[Any]]:
    """Rows of all attempts by delivery."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in result.attempts.itertuples():
        found[row.delivery_id].append(row)
    return found


def missing(value: float) -> bool:
    """Whether a time has not come."""
    return math.isnan(value)


def close(value: float) -> Any:
    """Equal but for the order of summation."""
    return pytest.approx(value, rel=1e-9)


# --------------------------------------------------------------------------- figures about deliveries


def test_world_has_every_sort_of_trouble(result: sim.Result, deliveries: list[Any]) -> None:
    """The figures below are all about something: none of them is nothing or everything."""
    figures = result.metrics
    for name in (
        "delivered_share", "lost_share", "unsettled_share", "expired_share", "processed_share", "false_loss_share",
        "duplicate_share", "late_share", "stale_dropped_share", "stale_share", "empty_poll_share",
        "worker_utilization",
    ):  # fmt: skip
        assert 0 < figures[name] < 1, name
    assert figures["effect_duplicates_per_delivery"] < figures["duplicates_per_delivery"]
    assert len(deliveries) > 900


def test_shares_are_shares_of_the_deliveries_in_the_window(
    result: sim.Result, deliveries: list[Any], attempts: dict[str, list[Any]]
) -> None:
    """Numerators count deliveries created in [warm-up, horizon), and so do all denominators."""
    processings = late_processings(result)
    tests: dict[str, Callable[[Any], float]] = {
        "delivered_share": lambda row: row.state == "delivered",
        "lost_share": lambda row: row.state in LOST,
        "unsettled_share": lambda row: row.state in ("waiting", "in_flight"),
        "expired_share": lambda row: row.state == "expired",
        "processed_share": lambda row: not missing(row.first_processed_s),
        "false_loss_share": lambda row: row.state in LOST and not missing(row.first_processed_s),
        "within_share{30s}": lambda row: row.first_processed_s - row.created_s <= 30,
        "within_share{1s}": lambda row: row.first_processed_s - row.created_s <= 1,
        "within_share{1500ms}": lambda row: row.first_processed_s - row.created_s <= 1.5,
        "attempts_per_delivery": lambda row: len(attempts[row.delivery_id]),
        "duplicates_per_delivery": lambda row: row.duplicates,
        "duplicate_share": lambda row: row.duplicates > 0,
        "late_share": lambda row: row.late,
        "stale_dropped_share": lambda row: (
            row.endpoint.partition(":")[0] in "gf" and processings[row.delivery_id][:1] == [True]
        ),
        "newer_share": lambda row: row.newer,
        "stale_share": lambda row: row.stale,
    }
    figures = result.metrics
    for name, test in tests.items():
        assert figures[name] == sum(map(test, deliveries)) / len(deliveries), name
    assert figures["deliveries"] == len(deliveries)
    assert figures["events"] == len({row.event_id for row in deliveries})
    assert figures["attempts"] == sum(len(attempts[row.delivery_id]) for row in deliveries)


def late_processings(result: sim.Result) -> dict[str, list[bool]]:
    """For each delivery, in order of time, whether a later seq of its key had been processed before."""
    known = {row.delivery_id: (i, row) for i, row in enumerate(result.deliveries.itertuples())}
    rows = sorted(
        (row.processed_s, known[row.delivery_id][0], row.attempt_number, row.delivery_id)
        for row in result.attempts.itertuples()
        if not missing(row.processed_s)
    )
    highest: dict[Any, int] = defaultdict(int)
    found: dict[str, list[bool]] = defaultdict(list)
    for _, _, _, name in rows:
        row = known[name][1]
        stream = row.endpoint, row.key
        found[name].append(row.seq < highest[stream])
        highest[stream] = max(highest[stream], row.seq)
    return found


def test_quantiles_are_the_least_value_that_so_many_do_not_exceed(
    result: sim.Result, deliveries: list[Any], attempts: dict[str, list[Any]]
) -> None:
    """Latency to the first processing, time to the final state, wait from due to start; means beside them."""
    values = {
        "delivery_latency_s": [
            row.first_processed_s - row.created_s for row in deliveries if not missing(row.first_processed_s)
        ],
        "settle_time_s": [row.settled_s - row.created_s for row in deliveries if not missing(row.settled_s)],
        "queue_wait_s": [a.started_s - a.due_s for row in deliveries for a in attempts[row.delivery_id]],
    }
    for name, unsorted in values.items():
        ordered = sorted(unsorted)
        assert result.metrics[f"{name}_mean"] == close(sum(ordered) / len(ordered))
        for which, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            enough = next(
                value
                for value in ordered
                if bisect.bisect_right(ordered, value) >= share * len(ordered) - 1e-9
            )
            assert result.metrics[f"{name}_{which}"] == round(enough, 9), (name, which)


def test_effects_are_what_a_receiver_with_a_memory_repeats(
    result: sim.Result, deliveries: list[Any], attempts: dict[str, list[Any]]
) -> None:
    """Within the window after the last processing that counted a repeat has no effect, nor has a stale one."""
    processings = late_processings(result)
    repeats = 0
    for row in deliveries:
        window = 3.0 if row.endpoint.startswith("e:") else 0.0
        guarded = row.endpoint.partition(":")[0] in "gf"
        forgets = -math.inf
        effects = 0
        times = sorted(a.processed_s for a in attempts[row.delivery_id] if not missing(a.processed_s))
        for at, late in zip(times, processings[row.delivery_id], strict=True):
            if at >= forgets and not (late and guarded):
                effects += 1
                forgets = at + window
        repeats += max(effects - 1, 0)
    assert result.metrics["effect_duplicates_per_delivery"] == repeats / len(deliveries)


def test_inversions_count_pairs_processed_in_the_wrong_order(
    result: sim.Result, deliveries: list[Any]
) -> None:
    """Every pair of one key at one endpoint whose later seq was processed first is counted once."""
    streams: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for row in deliveries:
        if not missing(row.first_processed_s):
            streams[row.endpoint, row.key].append((row.first_processed_s, row.seq))
    pairs = sum(
        one[0] > other[0]
        for stream in streams.values()
        for i, one in enumerate(stream)
        for other in stream[i + 1 :]
    )
    assert pairs > 100
    assert result.metrics["inversions_per_event"] == pairs / len(deliveries)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 65, 300])
def test_inversions_of_an_array_are_counted_by_pairs(size: int) -> None:
    """Merging halves finds what comparing all pairs finds; equal neighbours are in order."""
    values = np.random.default_rng(size).integers(0, max(size // 2, 1), size)
    expected = sum(values[i] > values[j] for i in range(size) for j in range(i + 1, size))
    assert jit.count_inversions(values) == expected == count_inversions(values.tolist(), [0] * size)
    assert jit.count_inversions(np.sort(values)) == 0


# --------------------------------------------------------------------------- figures about the interval


def overlap(start: float, end: float) -> float:
    """How much of [start, end) lies in [warm-up, horizon)."""
    return max(min(end, 90.0) - max(start, 10.0), 0.0)


def waits(result: sim.Result, attempts: dict[str, list[Any]]) -> list[tuple[float, float, float, int, Any]]:
    """(from, until, due, tier, delivery) of every wait: before each attempt, and after the last without one."""
    found = []
    for row in result.deliveries.itertuples():
        since = row.created_s
        for a in attempts[row.delivery_id]:
            found.append((since, a.started_s, a.due_s, a.tier, row))
            since = a.finished_s
        if row.state == "waiting":
            polled = row.endpoint == "f:0"
            found.append((since, math.inf, row.due_s, 0 if polled else row.attempts + 1, row))
    return found


def test_rates_count_what_falls_into_the_interval(result: sim.Result, attempts: dict[str, list[Any]]) -> None:
    """Attempts by their start, goodput by first processing, both between warm-up and horizon."""
    started = [a.started_s for own in attempts.values() for a in own if 10 <= a.started_s < 90]
    first = [at for at in result.deliveries["first_processed_s"] if 10 <= at < 90]
    assert result.metrics["attempts_per_s"] == len(started) / 80
    assert result.metrics["goodput_per_s"] == len(first) / 80
    seconds: dict[int, int] = defaultdict(int)
    for at in started:
        seconds[math.floor(at - 10)] += 1
    assert result.metrics["attempts_per_s_max"] == max(seconds.values())


def test_utilisation_is_the_share_of_the_workers_time(
    result: sim.Result, attempts: dict[str, list[Any]]
) -> None:
    """From the start of the overhead to the end of the attempt, over 30 workers to 40 s and 16 after; no polls."""
    busy = sum(
        overlap(a.started_s, math.inf if missing(a.finished_s) else a.finished_s)
        for own in attempts.values()
        for a in own
        if a.tier > 0
    )
    assert result.metrics["worker_utilization"] == close(busy / (30 * 30 + 50 * 16))


def test_egress_is_a_body_for_every_attempt(result: sim.Result, attempts: dict[str, list[Any]]) -> None:
    """2 kB for each attempt of p, the default 1 kB for each of q, by the start of the attempt."""
    sent = sum(
        2000 if name.startswith("p:") else 1000
        for name, own in attempts.items()
        for a in own
        if 10 <= a.started_s < 90
    )
    assert result.metrics["egress_bytes_per_s"] == close(sent / 80)


def test_thin_messages_send_little_and_are_called_back_for() -> None:
    """200 bytes an attempt, a body for each processing, and as many API calls (and one for each poll)."""
    thin = sim.run(world(dispatcher={"message": "thin"}))
    sent = called = 0
    for a in thin.attempts.itertuples():
        sent += 200 if 10 <= a.started_s < 90 else 0
        if 10 <= a.processed_s < 90:
            called += 1
            sent += 2000 if a.delivery_id.startswith("p:") else 1000
    polled = sum(10 <= at < 90 for at in thin.polls["polled_s"])
    assert thin.metrics["egress_bytes_per_s"] == close(sent / 80)
    assert thin.metrics["api_calls_per_s"] == close((called + polled) / 80)


def test_backlog_is_what_waits(result: sim.Result, attempts: dict[str, list[Any]]) -> None:
    """Its mean from the lengths of the waits, its greatest by looking after every change, in deliveries and bytes."""
    found = waits(result, attempts)
    figures = result.metrics
    mean = sum(overlap(since, until) for since, until, *_ in found) / 80
    assert figures["backlog_mean"] == close(mean)
    most, most_bytes = 0, 0
    for at in [10.0, *(since for since, *_ in found if 10 <= since < 90)]:
        inside = [row for since, until, _, _, row in found if since <= at < until]
        most = max(most, len(inside))
        most_bytes = max(most_bytes, sum(2000 if row.producer == "p" else 1000 for row in inside))
    assert figures["backlog_max"] == most
    assert figures["backlog_bytes_max"] == most_bytes


def test_queued_ids_are_small() -> None:
    """With ids in the queue a waiting delivery takes 64 bytes."""
    figures = sim.run(world(dispatcher={"workers": 9, "queue_holds": "id"})).metrics
    assert figures["backlog_bytes_max"] == 64 * figures["backlog_max"]


def test_orbit_is_what_waits_for_a_retry_that_is_not_due(
    result: sim.Result, attempts: dict[str, list[Any]]
) -> None:
    """From the end of a failed attempt to the due time of the next: no first attempts, no waiting for workers."""
    found = waits(result, attempts)
    orbit = sum(overlap(since, min(until, due)) for since, until, due, tier, _ in found if tier > 1)
    assert result.metrics["orbit_mean"] == close(orbit / 80)


def test_drain_time_runs_from_the_end_of_the_last_outage(
    result: sim.Result, attempts: dict[str, list[Any]]
) -> None:
    """Until the backlog is back at its mean from the warm-up to the start of that outage."""
    assert result.trace.meta["last_outage_s"] == [50.0, 53.0]
    found = waits(result, attempts)
    before = sum(max(min(until, 50) - max(since, 10), 0) for since, until, *_ in found) / 40
    changes = sorted({53.0, *(t for since, until, *_ in found for t in (since, until) if 53 < t < math.inf)})
    back = next(at for at in changes if sum(since <= at < until for since, until, *_ in found) <= before)
    assert result.metrics["drain_s"] == close(back - 53)


def test_empty_polls_are_a_share_of_all_polls(result: sim.Result) -> None:
    """Polls between warm-up and horizon that returned nothing."""
    polls = [row for row in result.polls.itertuples() if 10 <= row.polled_s < 90]
    expected = sum(row.returned == 0 for row in polls) / len(polls)
    assert result.metrics["empty_poll_share"] == expected


# --------------------------------------------------------------------------- edges


def nothing(**changes: Any) -> dict[str, Any]:
    """A world in which no event happens."""
    return {
        "horizon": "10s",
        "producers": {"p": {"arrivals": {"poisson": "0.0000001/s"}}},
        "endpoints": {"e": {"policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s"], "timeout": "5s"}},
        "receivers": {"r": {"latency": "1s"}},
        "dispatcher": {"workers": 2},
    } | changes


def test_figures_of_nothing_are_missing_or_zero() -> None:
    """Without deliveries shares and latencies do not exist; counts, rates and backlog are 0."""
    figures = sim.run(nothing()).metrics
    assert {name for name, value in figures.items() if value == 0} == {
        "events", "deliveries", "attempts", "attempts_per_s", "goodput_per_s", "delivered_per_s",
        "attempts_per_s_max", "backlog_mean", "backlog_max", "backlog_bytes_max", "egress_bytes_per_s",
        "api_calls_per_s", "orbit_mean", "worker_utilization", "receiver_queue_max",
    }  # fmt: skip
    assert all(math.isnan(value) for value in figures.values() if value != 0)
    assert math.isnan(figures["within_share{3s}"])
    assert metrics_by(sim.run(nothing()).trace, "endpoint").empty


def test_figures_when_all_is_lost() -> None:
    """Nothing is processed: everything is lost, nothing falsely, and latency does not exist."""
    figures = sim.run(
        nothing(
            producers={"p": {"arrivals": {"at": ["0s", "1s"]}}},
            receivers={"r": {"latency": "1s", "faults": [{"error": {"probability": 1.0}}]}},
        )
    ).metrics
    assert figures["lost_share"] == 1.0
    assert figures["false_loss_share"] == figures["processed_share"] == figures["within_share{24h}"] == 0.0
    assert figures["inversions_per_event"] == figures["late_share"] == figures["goodput_per_s"] == 0.0
    assert math.isnan(figures["delivery_latency_s_p50"])
    assert figures["settle_time_s_p999"] == 1.0


def test_figures_of_a_first_attempt_that_never_came() -> None:
    """No worker at all: deliveries, but no attempts; the backlog still stands."""
    figures = sim.run(
        nothing(producers={"p": {"arrivals": {"at": ["0s", "5s"]}}}, dispatcher={"workers": [["0s", 0]]})
    ).metrics
    assert figures["unsettled_share"] == 1.0
    assert figures["attempts_per_delivery"] == 0.0
    assert figures["backlog_mean"] == 1.5
    assert figures["backlog_max"] == 2
    assert math.isnan(figures["queue_wait_s_mean"])
    assert math.isnan(figures["worker_utilization"])  # a share of no workers


def test_drain_that_never_comes_is_missing() -> None:
    """A backlog that does not return to its mean before the outage has no drain time; without outage neither."""
    never = nothing(
        producers={"p": {"arrivals": {"constant": "1/s"}}},
        drain="0s",
        receivers={"r": {"latency": "1s", "faults": [{"outage": {"windows": [["5s", "6s"]]}}]}},
        dispatcher={"workers": [["0s", 2], ["5s", 0]]},
        policies={"m": {"schedule": ["0s"], "timeout": "5s"}},
    )
    assert math.isnan(sim.run(never).metrics["drain_s"])
    assert math.isnan(sim.run(nothing()).metrics["drain_s"])


def test_drain_is_zero_where_no_backlog_arose() -> None:
    """An outage that met nobody is drained when it ends."""
    quiet = nothing(
        producers={"p": {"arrivals": {"at": ["0s"]}}},
        receivers={"r": {"latency": "1s", "faults": [{"outage": {"windows": [["5s", "6s"]]}}]}},
    )
    assert sim.run(quiet).metrics["drain_s"] == 0.0


def test_warm_up_is_left_out(result: sim.Result) -> None:
    """A trace with a longer warm-up counts fewer deliveries and the same rows."""
    later = replace(result.trace, meta=result.trace.meta | {"warmup_s": 60.0})
    inside = result.deliveries["created_s"] >= 60
    assert metrics(later)["deliveries"] == (inside & (result.deliveries["created_s"] < 90)).sum()
    assert metrics(later)["deliveries"] < result.metrics["deliveries"] / 2


def test_unknown_figure_is_a_key_error(result: sim.Result) -> None:
    """A wrong name, or a wrong duration within a name, says so."""
    with pytest.raises(KeyError, match="nonsense"):
        result.metrics["nonsense"]
    with pytest.raises(KeyError, match=r"within_share\{5\}.*duration|within_share\{5\}.*unit"):
        result.metrics["within_share{5}"]
    with pytest.raises(ValueError, match="must be endpoint, type or hour"):
        result.metrics_by("moon")


# --------------------------------------------------------------------------- by endpoint, type and hour


@pytest.mark.parametrize("what", ["endpoint", "type", "hour"])
def test_figures_by_group_are_those_of_the_group_alone(result: sim.Result, what: str) -> None:
    """Each row holds what the whole trace would show if there were no other deliveries."""
    table = result.metrics_by(what)
    labels = {
        "endpoint": result.deliveries["endpoint"].astype(str).str.partition(":")[0],
        "type": result.deliveries["type"].astype(str),
        "hour": (result.deliveries["created_s"] // 3600).astype(int),
    }[what]
    assert table.index.tolist() == sorted(set(labels))
    assert table.index.name == what
    assert table["deliveries"].sum() == result.metrics["deliveries"]
    for label, row in table.iterrows():
        own = result.deliveries[labels == label].reset_index(drop=True)
        rest = result.attempts["delivery_id"].isin(own["delivery_id"])
        alone = of_deliveries(
            replace(result.trace, deliveries=own, attempts=result.attempts[rest].reset_index(drop=True)),
            np.array((own["created_s"] >= 10) & (own["created_s"] < 90)),
        )
        assert {name: row[name] for name in alone} == pytest.approx(alone, nan_ok=True)


@pytest.mark.parametrize("what", ["endpoint", "type"])
def test_rates_and_backlog_by_group_add_up(result: sim.Result, what: str) -> None:
    """What the groups do in an interval is what the whole does; polls belong to the group that polls."""
    table = result.metrics_by(what)
    assert set(table.columns) == set(result.metrics)
    for name in ("attempts_per_s", "goodput_per_s", "backlog_mean", "orbit_mean", "egress_bytes_per_s"):
        assert table[name].sum() == close(result.metrics[name]), name
    if what == "endpoint":
        assert table["empty_poll_share"].dropna().to_dict() == {"f": result.metrics["empty_poll_share"]}


def test_rates_by_hour_are_those_of_the_hour() -> None:
    """An hour's rates count what happened in it, whenever it was created."""
    run = sim.run(nothing(horizon="2h", producers={"p": {"arrivals": {"at": ["0s", "3599s", "1h"]}}}))
    assert run.metrics_by("hour")["attempts_per_s"].tolist() == [2 / 3600, 1 / 3600]


def test_hours_are_hours_of_creation() -> None:
    """Deliveries of the second hour are not those of the first."""
    run = sim.run(nothing(horizon="3h", producers={"p": {"arrivals": {"at": ["0s", "3599s", "1h", "2h"]}}}))
    assert run.metrics_by("hour")["deliveries"].to_dict() == {0: 2, 1: 1, 2: 1}
