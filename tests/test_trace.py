"""The tables of a run: columns, types and order, what is judged at the receiver, samples, and files."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import sim
from sim import engine_simpy, metrics, model, trace
from tests.tiny import world

TEXT, NUMBER, TIME, LABEL, FLAG = "str", "int64", "float64", "category", "bool"

ATTEMPTS = {
    "delivery_id": TEXT,
    "event_id": TEXT,
    "endpoint": LABEL,
    "key": TEXT,
    "seq": NUMBER,
    "attempt_number": NUMBER,
    "tier": NUMBER,
    "created_s": TIME,
    "due_s": TIME,
    "started_s": TIME,
    "finished_s": TIME,
    "outcome": LABEL,
    "status": NUMBER,
    "processed_s": TIME,
    "wait_cause": LABEL,
    "served_s": TIME,
}
DELIVERIES = {
    "delivery_id": TEXT,
    "event_id": TEXT,
    "producer": LABEL,
    "endpoint": LABEL,
    "type": LABEL,
    "key": TEXT,
    "seq": NUMBER,
    "created_s": TIME,
    "state": LABEL,
    "attempts": NUMBER,
    "first_processed_s": TIME,
    "delivered_s": TIME,
    "duplicates": NUMBER,
    "late": FLAG,
    "settled_s": TIME,
    "due_s": TIME,
    "cause": LABEL,
    "newer": FLAG,
    "stale": FLAG,
}
POLLS = {"endpoint": LABEL, "polled_s": TIME, "returned": NUMBER}


def mixed(**changes: Any) -> dict[str, Any]:
    """A world with retries, duplicates, losses, disorder, polling and an open end."""
    mapping = {
        "seed": 5,
        "horizon": "60s",
        "drain": "2s",
        "producers": {
            "p": {
                "arrivals": {"poisson": "4/s"},
                "batch": {"order": 1, "ticket": {"poisson": 0.5}},
                "keys": {"count": 8, "zipf": 1.0},
            },
            "q": {"arrivals": {"poisson": "1/s"}},
        },
        "endpoints": {
            "e": {"count": 2, "policy": "m", "receiver": "r"},
            "f": {"receiver": "r", "producers": ["q"], "mode": {"poll": {"every": "7s"}}},
        },
        "policies": {
            "m": {
                "schedule": ["0s", {"delay": "3s", "times": 2}],
                "timeout": "1s",
                "jitter": "full",
                "max_age": "6s",
            }
        },
        "receivers": {
            "r": {
                "latency": {"lognormal": {"median": "300ms", "p99": "5s"}},
                "faults": [{"error": {"probability": 0.2}}, {"lost_answer": {"probability": 0.05}}],
            }
        },
        "dispatcher": {"workers": 9},
    }
    return mapping | changes


@pytest.fixture(scope="module")
def result() -> sim.Result:
    """A run of the mixed world."""
    return sim.run(mixed())


def types(frame: pd.DataFrame) -> dict[str, str]:
    """Column → dtype, in order."""
    return {str(name): str(kind) for name, kind in frame.dtypes.items()}


# --------------------------------------------------------------------------- shape


@pytest.mark.parametrize(
    "mapping",
    [
        mixed(),
        world(),
        # no delivery at all: nobody is asked for the types that are emitted
        world("0s", producers={"p": {"arrivals": {"poisson": "0.000001/s"}}}),
    ],
)
def test_tables_have_the_documented_columns(mapping: dict[str, Any]) -> None:
    """Names, order and types of the columns do not depend on what happened, not even on whether anything did."""
    run = sim.run(mapping)
    assert types(run.attempts) == ATTEMPTS
    assert types(run.deliveries) == DELIVERIES
    assert types(run.polls) == POLLS
    assert list(run.samples.columns[:2]) == ["t_s", "backlog"]
    assert list(run.samples.columns[-5:]) == [
        "in_flight",
        "receiver_queue",
        "attempts_per_s",
        "goodput_per_s",
        "delivered_per_s",
    ]


def test_labels_are_the_documented_ones(result: sim.Result) -> None:
    """Categories list every outcome, state and cause, used or not, in a fixed order."""
    assert list(result.attempts["outcome"].cat.categories) == [
        "delivered",
        "rejected",
        "timed_out",
        "refused",
        "gone",
    ]
    assert list(result.deliveries["state"].cat.categories) == [
        "waiting",
        "in_flight",
        "delivered",
        "dead",
        "expired",
        "dropped",
        "vanished",
    ]
    assert set(result.attempts["wait_cause"].cat.categories) >= {"", "worker", "poll", "order", "slot"}
    assert list(result.deliveries["endpoint"].cat.categories) == ["e:0", "e:1", "f:0"]
    assert list(result.deliveries["type"].cat.categories) == ["order", "ticket", "event"]


def test_attempts_are_sorted_by_start_then_creation_then_number(result: sim.Result) -> None:
    """Rows come in the order in which they happened; ties by delivery, oldest first, then by attempt."""
    position = pd.Index(result.deliveries["delivery_id"]).get_indexer(result.attempts["delivery_id"])
    order = list(zip(result.attempts["started_s"], position, result.attempts["attempt_number"], strict=True))
    assert order == sorted(order)
    assert result.deliveries["created_s"].is_monotonic_increasing
    assert result.deliveries["delivery_id"].is_unique
    polls = list(zip(result.polls["polled_s"], result.polls["endpoint"].astype(str), strict=True))
    assert polls == sorted(polls)


def test_ids_tell_producer_index_and_endpoint(result: sim.Result) -> None:
    """An id is made of producer, index and endpoint, a key of producer and key; seq counts within the key."""
    indexes: dict[str, int] = defaultdict(int)
    seqs: dict[str, int] = defaultdict(int)
    for row in result.deliveries.itertuples():
        assert row.delivery_id == f"{row.event_id}:{row.endpoint}"
        assert row.key.startswith(f"{row.producer}/")
        if row.endpoint == "e:0":  # it gets every event
            assert row.event_id == f"{row.producer}:{indexes[row.producer]}"
            indexes[row.producer] += 1
            seqs[row.key] += 1
            assert row.seq == seqs[row.key]
    assert set(indexes) == {"p", "q"}


# --------------------------------------------------------------------------- what must add up


def test_every_delivery_is_in_one_state_and_its_attempts_are_rows(result: sim.Result) -> None:
    """Created = the sum of all states; a delivery's attempts are numbered 1, 2, … and never overlap."""
    counts = result.deliveries["state"].value_counts()
    assert counts.sum() == len(result.deliveries)
    assert (counts[["delivered", "dead", "expired", "waiting"]] > 0).all()
    by_delivery = dict(iter(result.attempts.groupby("delivery_id")))
    for row in result.deliveries.itertuples():
        own = by_delivery.get(row.delivery_id, result.attempts[:0])
        assert own["attempt_number"].tolist() == list(range(1, row.attempts + 1))
        assert (own["due_s"] >= row.created_s).all()
        assert (own["started_s"] >= own["due_s"]).all()
        assert not (own["finished_s"].to_numpy()[:-1] > own["due_s"].to_numpy()[1:]).any()
        outcomes = own["outcome"].astype(object).tolist()
        assert all(outcome != "delivered" for outcome in outcomes[:-1])
        assert (row.state == "delivered") == (outcomes[-1:] == ["delivered"])
        assert (row.state in ("waiting", "in_flight")) == np.isnan(row.settled_s)
        assert np.isnan(row.due_s) == (row.state != "waiting")
        assert np.isnan(row.delivered_s) == (row.state != "delivered")
        if row.state == "delivered":
            assert row.delivered_s == row.settled_s == own["finished_s"].iloc[-1]
        assert own["finished_s"].isna().sum() == (row.state == "in_flight")


def test_duplicates_and_lateness_are_judged_at_the_receiver(result: sim.Result) -> None:
    """A plain loop over processings, in order of time, finds the same first ones, repeats and late ones."""
    known = {row.delivery_id: row for row in result.deliveries.itertuples()}
    position = {name: i for i, name in enumerate(known)}
    processings = [
        (row.processed_s, position[row.delivery_id], row.attempt_number, row.delivery_id)
        for row in result.attempts.itertuples()
        if not np.isnan(row.processed_s)
    ]
    first: dict[str, float] = {}
    repeats: dict[str, int] = defaultdict(int)
    highest: dict[tuple[str, str], int] = defaultdict(int)
    late = set()
    for at, _, _, name in sorted(processings):
        row = known[name]
        repeats[name] += name in first
        first.setdefault(name, at)
        stream = (str(row.endpoint), row.key)
        if row.seq < highest[stream]:
            late.add(name)
        highest[stream] = max(highest[stream], row.seq)
    assert len(late) > 20
    assert sum(repeats.values()) > 20
    for name, row in known.items():
        assert row.first_processed_s == first.get(name) or (
            np.isnan(row.first_processed_s) and name not in first
        )
        assert row.duplicates == repeats[name]
        assert row.late == (name in late)


def test_conservation_is_asserted_with_its_numbers() -> None:
    """A run that lost an attempt on the way is refused, not reported."""
    built = model.build(sim.load(world("0s", "1s")))
    columns = engine_simpy.run(built)
    columns.attempts = columns.attempts[:-1]
    with pytest.raises(AssertionError, match=r"attempts of deliveries and rows of attempts differ.* 2, 1"):
        trace.build(built, columns, "simpy")


# --------------------------------------------------------------------------- the age of the data


@pytest.mark.parametrize(
    ("dispatcher", "newer", "stale"),
    [
        ({}, False, True),  # the body is as old as the event: updates at 2 s and 4 s are missing
        ({"queue_holds": "id"}, True, True),  # looked up at 3 s: with the first update, without the second
        ({"message": "thin"}, True, False),  # looked up at 5 s: all there
        ({"queue_holds": "id", "message": "thin"}, True, False),
    ],
)
def test_age_of_the_data_follows_from_when_it_is_fetched(
    dispatcher: dict[str, Any], newer: bool, stale: bool
) -> None:
    """An object updated every 2 s, an attempt from 3 s to 5 s: newer than the event, older than the object."""
    run = sim.run(
        world(
            producers={"p": {"arrivals": {"at": ["0s"]}, "objects": {"updated_every": "2s"}}},
            policies={"m": {"schedule": ["3s"], "timeout": "5s"}},
            receivers={"r": {"latency": "2s"}},
            dispatcher=dispatcher,
        )
    )
    assert run.deliveries[["newer", "stale"]].to_numpy().tolist() == [[newer, stale]]


# --------------------------------------------------------------------------- samples


def test_samples_are_taken_last_at_their_instant() -> None:
    """Two workers of the sender, one server of the receiver, three events: every row worked out by hand."""
    run = sim.run(
        world(
            "0s",
            "0s",
            "1s",
            horizon="8s",
            sample_every="1s",
            policies={"m": {"schedule": ["0s", "1s"], "timeout": "3s"}},
            receivers={"r": {"latency": "2s", "servers": 1}},
            dispatcher={"workers": 2},
        )
    )
    # p:0 sent 0, served 0, answered 2. p:1 sent 0, served 2, given up 3, due again 4. p:2 sent 2, served 4, given up
    # 5, due again 6. p:1 again: sent 4, served 6, given up 7: dead. p:2 again: sent 6, served 8, given up 9.
    assert run.samples.columns.tolist() == [
        "t_s",
        "backlog",
        "backlog_tier_1",
        "backlog_tier_2",
        "in_flight",
        "receiver_queue",
        "attempts_per_s",
        "goodput_per_s",
        "delivered_per_s",
    ]
    assert run.samples.to_numpy().tolist() == [
        [0, 0, 0, 0, 2, 1, 2, 0, 0],
        [1, 1, 1, 0, 2, 1, 0, 0, 0],
        [2, 0, 0, 0, 2, 1, 1, 1, 1],
        [3, 1, 0, 1, 1, 1, 0, 0, 0],
        [4, 0, 0, 0, 2, 1, 1, 1, 0],
        [5, 1, 0, 1, 1, 1, 0, 0, 0],
        [6, 0, 0, 0, 2, 1, 1, 1, 0],
        [7, 0, 0, 0, 1, 1, 0, 0, 0],
        [8, 0, 0, 0, 1, 0, 0, 0, 0],
        [9, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_samples_count_what_is_open_at_each_point(result: sim.Result) -> None:
    """Backlog and flights at every point of the grid, counted by plain loops over the rows."""
    ended = result.trace.meta["ended_s"]
    assert result.samples["t_s"].iloc[-1] >= ended
    attempts = {
        name: list(own.itertuples()) for name, own in result.attempts.groupby("delivery_id", sort=False)
    }
    for sample in list(result.samples.itertuples())[::23]:
        at = sample.t_s
        waiting, flying = 0, 0
        for row in result.deliveries.itertuples():
            own = attempts.get(row.delivery_id, [])
            settled = np.inf if np.isnan(row.settled_s) else row.settled_s
            in_flight = any(a.started_s <= at and not a.finished_s <= at for a in own if a.tier > 0)
            flying += in_flight
            waiting += row.created_s <= at < settled and not in_flight
        assert (sample.backlog, sample.in_flight) == (waiting, flying)
    tiers = [name for name in result.samples if name.startswith("backlog_tier_")]
    assert tiers[0] == "backlog_tier_0"
    assert (result.samples[tiers].sum(axis=1) == result.samples["backlog"]).all()


# --------------------------------------------------------------------------- meta and files


def test_meta_repeats_the_run(result: sim.Result) -> None:
    """Scenario, seed and engine stand in meta.json; running them again gives the same tables."""
    meta = json.loads(json.dumps(result.trace.meta))
    from sim import yamlio

    again = sim.run(yamlio.parse(meta["scenario"], "meta"), seed=meta["seed"], engine=meta["engine"])
    assert_frame_equal(again.attempts, result.attempts)
    assert meta["horizon_s"] == 60.0
    assert meta["end_s"] == meta["ended_s"] == 62.0
    assert meta["workers"] == [[0.0, 9.0]]
    assert meta["events"] == result.deliveries["event_id"].nunique()


@pytest.mark.parametrize(
    ("dispatcher", "workers"),
    [
        ({}, None),
        ({"workers": 3}, [[0.0, 3.0]]),
        ({"workers": [["0s", 3], ["5s", 1]]}, [[0.0, 3.0], [5.0, 1.0]]),
        ({"lanes": {"first": 3, "retries": 2}}, [[0.0, 5.0]]),
        ({"discipline": "per_tier", "workers": 3}, [[0.0, 6.0]]),  # two tiers in use
        ({"discipline": "per_tier", "workers": [4, 1, 1, 1]}, [[0.0, 5.0]]),
    ],
)
def test_meta_counts_the_workers(dispatcher: dict[str, Any], workers: Any) -> None:
    """Workers over time, over all lanes, and of the tiers that had an attempt; None: unlimited."""
    run = sim.run(
        world(
            dispatcher=dispatcher,
            receivers={"r": {"latency": "1s", "faults": [{"error": {"probability": 1.0}}]}},
        )
    )
    assert run.trace.meta["workers"] == workers


def test_meta_names_the_outage_that_ended_last() -> None:
    """Outages that begin after the horizon or end after the run do not count."""
    windows = [["1s", "2s"], ["5s", "9s"], ["5000s", "6000s"]]
    faults = [{"outage": {"windows": windows}}]
    run = sim.run(world("6s", receivers={"r": {"latency": "1s", "faults": faults}}))
    assert run.trace.meta["last_outage_s"] == [5.0, 9.0]
    assert sim.run(world()).trace.meta["last_outage_s"] is None


def test_tables_survive_parquet(result: sim.Result, tmp_path: Path) -> None:
    """What was saved is read back equal, types and categories included, and so are its samples."""
    result.trace.save(tmp_path)
    back = trace.read(tmp_path)
    for name in ("attempts", "deliveries", "polls", "samples"):
        assert_frame_equal(getattr(back, name), getattr(result.trace, name), check_exact=True)
    assert back.meta == result.trace.meta
    assert dict(metrics.metrics(back)) == pytest.approx(dict(result.metrics), nan_ok=True, rel=0, abs=0)


def test_tables_survive_csv(result: sim.Result, tmp_path: Path) -> None:
    """CSV keeps every value to the last bit; what is missing is an empty field."""
    result.trace.save(tmp_path, "csv")
    for name in ("attempts", "deliveries", "polls", "samples"):
        frame = getattr(result.trace, name)
        back = pd.read_csv(tmp_path / f"{name}.csv", dtype=str, keep_default_na=False)
        assert list(back.columns) == list(frame.columns)
        for column, kind in types(frame).items():
            read = {TIME: float, NUMBER: int}.get(kind, str)
            expected = [None if pd.isna(value) else value for value in frame[column].astype(object)]
            found = [read(value) if value or kind == TEXT else None for value in back[column]]
            if kind == LABEL:
                expected = [value or None for value in expected]  # no wait has the empty label
            if kind == FLAG:
                expected = [str(value) for value in expected]
            assert found == expected, (name, column)


def test_empty_tables_survive_parquet(tmp_path: Path) -> None:
    """A run in which nothing happened is saved and read like any other."""
    nothing = sim.run(world("0s", producers={"p": {"arrivals": {"poisson": "0.000001/s"}}}))
    assert len(nothing.deliveries) == 0
    nothing.trace.save(tmp_path)
    assert types(trace.read(tmp_path).attempts) == ATTEMPTS
