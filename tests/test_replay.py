"""Recorded worlds: real outages and real arrivals, held against arithmetic on the files themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sim
from sim.errors import ScenarioError

pytestmark = pytest.mark.shared

DAY_S = 86_400.0
LEFT_OUT_S = 27.6 * 3600
"""The end of each history in which no event may happen: the longest schedule would look beyond it."""
GAPS_S = {
    "once": [0.0],
    "thrice": [0.0, 3600.0, 86_400.0],
    "eight": [0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0],
}
"""Schedules: gaps before each attempt; attempts take no time."""
SHARES = {
    "FoodCoopX/upptime": {"once": "1.97", "thrice": "0.445", "eight": "0.429"},
    "DHBern/upptime_digitaleditions": {"once": "0.306", "thrice": "0.099", "eight": "0.097"},
}
"""Share of events lost in per cent, as the sources of the data state it."""


@dataclass(frozen=True)
class History:
    """The observed life of the endpoints of one source; times in s from its first check."""

    origin_s: int
    end_s: float
    windows: dict[str, tuple[float, float]]
    """First and last check of each endpoint observed for a day or more."""
    outages: dict[str, Any]
    """Start and end of each outage, two columns, of each endpoint that had one, in order of appearance."""


@cache
def history(shared: Path, source: str) -> History:
    """Read one source's checks and outages."""
    checks = pd.read_csv(shared / "data/receivers/upptime_checks.csv.gz")
    checks = checks[checks["source"] == source]
    at = pd.to_datetime(checks["timestamp"], utc=True).dt.as_unit("s").astype("int64")
    origin = int(at.min())
    seen = (at - origin).groupby(checks["endpoint"]).agg(["min", "max"])
    seen = seen[seen["max"] - seen["min"] >= DAY_S]
    outages = pd.read_csv(shared / "data/receivers/upptime_outages.csv.gz")
    outages = outages[outages["source"] == source]
    return History(
        origin,
        float(at.max() - origin),
        {name: (float(row["min"]), float(row["max"])) for name, row in seen.iterrows()},
        {
            name: own[["down_start", "down_end"]].to_numpy(dtype=float) - origin
            for name, own in outages.groupby("endpoint", sort=False)
        },
    )


def down(outages: Any, at: Any) -> Any:
    """Whether times fall into outages [start, end), which may overlap."""
    begun = np.searchsorted(np.sort(outages[:, 0]), at, side="right")
    over = np.searchsorted(np.sort(outages[:, 1]), at, side="right")
    return begun > over


def exact_lost_s(outages: Any, gaps_s: list[float], low: float, high: float) -> float:
    """Length of the arrival times in [low, high) at which every attempt meets an outage."""
    attempts = np.cumsum(gaps_s)
    edges = np.concatenate([outages.ravel() - after for after in attempts])
    edges = np.unique(np.clip(np.concatenate((edges, [low, high])), low, high))
    middles = (edges[1:] + edges[:-1]) / 2
    lost = np.logical_and.reduce([down(outages, middles + after) for after in attempts])
    return float((edges[1:] - edges[:-1])[lost].sum())


def arrival_windows(past: History) -> dict[str, tuple[float, float]]:
    """When events may happen: the observed time of each endpoint without its end."""
    ends = {name: (first, last - LEFT_OUT_S) for name, (first, last) in past.windows.items()}
    return {name: window for name, window in ends.items() if window[1] > window[0]}


def exact_share(past: History, gaps_s: list[float]) -> float:
    """Share of events lost, arrivals being uniform over the observed time of all endpoints together."""
    windows = arrival_windows(past)
    lost = sum(
        exact_lost_s(past.outages[name], gaps_s, low, high)
        for name, (low, high) in windows.items()
        if name in past.outages
    )
    return lost / sum(high - low for low, high in windows.values())


@pytest.mark.parametrize("source", SHARES)
def test_interval_arithmetic_gives_the_published_loss_shares(shared: Path, source: str) -> None:
    """Intersecting shifted outages gives the shares that the sources of the data state."""
    past = history(shared, source)
    found = {name: 100 * exact_share(past, gaps) for name, gaps in GAPS_S.items()}
    decimals = {name: len(text.partition(".")[2]) for name, text in SHARES[source].items()}
    assert {name: f"{found[name]:.{decimals[name]}f}" for name in found} == SHARES[source]


def replay_outages(shared: Path, source: str, events: int) -> sim.Result:
    """Events spread over the history; each goes to one endpoint, once under every schedule."""
    past = history(shared, source)
    count = len(past.outages)
    file = {
        "file": str(shared / "data/receivers/upptime_outages.csv.gz"),
        "start": "down_start",
        "end": "down_end",
        "endpoint": "endpoint",
        "where": {"source": source},
        "origin": float(past.origin_s),
    }
    return sim.run(
        {
            "name": "replayed-outages",
            "seed": 5,
            "horizon": f"{past.end_s:.0f}s",
            "producers": {
                "events": {"arrivals": {"poisson": f"{events / past.end_s!r}/s"}, "keys": {"count": count}}
            },
            "endpoints": {
                name: {"count": count, "route": "by_key", "policy": name, "receiver": "recorded"}
                for name in GAPS_S
            },
            "policies": {
                name: {"schedule": [f"{gap:.0f}s" for gap in gaps]} for name, gaps in GAPS_S.items()
            },
            "receivers": {"recorded": {"latency": "0s", "faults": [{"outage": {"replay": file}}]}},
        }
    )


@pytest.mark.parametrize("source", SHARES)
def test_replayed_outages_lose_what_the_arithmetic_says(shared: Path, source: str) -> None:
    """Every delivery is lost exactly if all its attempts fall into outages; the shares are the published ones."""
    past = history(shared, source)
    deliveries = replay_outages(shared, source, events=9_000).deliveries
    created = deliveries["created_s"].to_numpy()
    group, _, member = deliveries["endpoint"].astype(str).str.partition(":").to_numpy().T
    names = np.array(list(past.outages))[member.astype(int)]
    lost = (deliveries["state"] == "dead").to_numpy()

    foreseen = np.zeros(len(deliveries), dtype=bool)
    for name, outages in past.outages.items():
        for schedule, gaps in GAPS_S.items():
            own = (names == name) & (group == schedule)
            attempts = [down(outages, created[own] + after) for after in np.cumsum(gaps)]
            foreseen[own] = np.logical_and.reduce(attempts)
    assert np.array_equal(foreseen, lost)

    windows = arrival_windows(past)
    low, high = (np.array([windows.get(name, (0.0, 0.0))[side] for name in names]) for side in (0, 1))
    inside = (created >= low) & (created < high)
    # endpoints without an outage lose nothing, and have a part in the observed time
    lengths = {name: high - low for name, (low, high) in windows.items()}
    part = sum(length for name, length in lengths.items() if name in past.outages) / sum(lengths.values())
    for schedule, stated in SHARES[source].items():
        own = inside & (group == schedule)
        share = lost[own].mean() * part
        exact = float(stated) / 100
        assert abs(share - exact) <= 4 * np.sqrt(exact / part / own.sum()) * part


def test_a_longer_schedule_loses_no_more(shared: Path) -> None:
    """The same events under three schedules: what eight attempts lose is lost with one attempt too."""
    deliveries = replay_outages(shared, "FoodCoopX/upptime", events=3_000).deliveries
    lost = deliveries.assign(
        lost=deliveries["state"] == "dead", policy=deliveries["endpoint"].astype(str).str.partition(":")[0]
    ).pivot(index="event_id", columns="policy", values="lost")
    assert lost["once"].sum() > lost["eight"].sum() > 0
    assert not (lost["eight"] & ~lost["once"]).any()
    assert not (lost["thrice"] & ~lost["once"]).any()


# --------------------------------------------------------------------------- recorded arrivals


def replay_arrivals(replay: dict[str, str], horizon: str, **blocks: Any) -> sim.Result:
    """Replay recorded arrivals to one endpoint; ``blocks`` replaces parts of the scenario."""
    return sim.run(
        {
            "name": "replayed-arrivals",
            "seed": 3,
            "horizon": horizon,
            "producers": {"recorded": {"arrivals": {"replay": replay}}},
            "endpoints": {"shop": {"policy": "policy", "receiver": "shop"}},
            "policies": {"policy": {"schedule": ["0s"]}},
            "receivers": {"shop": {"latency": "0s"}},
        }
        | blocks
    )


def nasa(shared: Path) -> tuple[dict[str, str], pd.DataFrame]:
    """The web server trace: what a scenario says of it, and its table."""
    path = shared / "data/events/nasa_http_1995-08-01.csv.gz"
    return {"file": str(path), "time": "time", "key": "path_id"}, pd.read_csv(path)


def test_web_server_trace_keeps_ties_and_key_skew(shared: Path) -> None:
    """Half a day of requests: every row is an event, at its second, with its key and its place in the key."""
    replay, table = nasa(shared)
    replay["type"] = "method"
    deliveries = replay_arrivals(replay, "13h").deliveries
    assert len(deliveries) == len(table) == 30_969
    assert np.array_equal(deliveries["created_s"], table["time"] - table["time"].iloc[0])
    assert np.array_equal(deliveries["key"], "recorded/" + table["path_id"].astype(str))
    assert np.array_equal(deliveries["type"].astype(str), table["method"].astype(str))
    assert np.array_equal(deliveries["seq"], table.groupby("path_id").cumcount() + 1)
    ties = (np.diff(deliveries["created_s"]) == 0).mean()
    share = deliveries["key"].value_counts(normalize=True)
    assert (round(ties, 2), len(share), round(share.head(10).sum(), 2)) == (0.41, 2088, 0.44)


def test_web_server_trace_is_conserved_through_a_bad_day(shared: Path) -> None:
    """With errors, an outage, few workers and a short drain, every delivery is still in exactly one state."""
    replay, table = nasa(shared)
    result = replay_arrivals(
        replay,
        "3h",
        drain="5m",
        policies={"policy": {"schedule": ["0s", "1m", "15m", "3h"], "max_age": "2h", "timeout": "2s"}},
        receivers={
            "shop": {
                "latency": {"exponential": {"mean": "500ms"}},
                "servers": 3,
                "backlog": {"size": 20},
                "faults": [
                    {"outage": {"windows": [["1h", "1h30m"], ["2h55m", "3h10m"]]}},
                    {"error": {"probability": 0.05, "status": 500}},
                ],
            }
        },
        dispatcher={"workers": 8, "ordering": "key"},
    )
    elapsed = table["time"] - table["time"].iloc[0]
    deliveries, attempts = result.deliveries, result.attempts
    assert len(deliveries) == (elapsed < 3 * 3600).sum()
    states = deliveries["state"].value_counts()
    assert states.sum() == len(deliveries)
    assert {"delivered", "expired", "waiting"} <= set(states[states > 0].index)
    counted = attempts.groupby("delivery_id").size().reindex(deliveries["delivery_id"], fill_value=0)
    assert np.array_equal(counted, deliveries["attempts"])
    settled = deliveries["settled_s"].notna()
    assert np.array_equal(settled, ~deliveries["state"].isin(["waiting", "in_flight"]))
    assert (attempts["outcome"] == "delivered").sum() == (deliveries["state"] == "delivered").sum()
    # in order of key, only what a given-up attempt left behind at the receiver is processed late
    begun = attempts.sort_values(["key", "started_s", "seq"]).groupby("key")["seq"]
    assert begun.is_monotonic_increasing.all()


def test_inference_trace_is_as_bursty_as_recorded(shared: Path) -> None:
    """Requests to a language model: gaps as in the file, and queues far beyond those of a Poisson stream."""
    path = shared / "data/events/AzureLLMInferenceTrace_code.csv.gz"
    at = pd.to_datetime(pd.read_csv(path)["TIMESTAMP"])
    elapsed = (at - at.iloc[0]).dt.total_seconds().to_numpy()
    work = {"shop": {"latency": {"exponential": {"mean": "1s"}}}}
    recorded = replay_arrivals(
        {"file": str(path), "time": "TIMESTAMP"}, "1h", receivers=work, dispatcher={"workers": 10}
    )
    created = recorded.deliveries["created_s"].to_numpy()
    assert len(created) == 8_819
    assert np.allclose(created, elapsed, rtol=0, atol=1e-6)
    gaps = np.diff(created)
    assert round(gaps.std() / gaps.mean()) == 13
    smooth = replay_arrivals(
        {},
        "1h",
        producers={"recorded": {"arrivals": {"poisson": f"{len(created)}/h"}}},
        receivers=work,
        dispatcher={"workers": 10},
    )
    assert recorded.metrics["backlog_max"] > 10 * smooth.metrics["backlog_max"]
    assert recorded.metrics["delivered_share"] == smooth.metrics["delivered_share"] == 1.0


def test_unsorted_status_updates_are_refused_with_the_row(shared: Path) -> None:
    """A file whose times fall is refused, and the message names the row and what to do."""
    path = shared / "data/events/github_status_components.csv.gz"
    with pytest.raises(
        ScenarioError, match=r"row 3 is earlier than the row before it; sort the file by time"
    ):
        replay_arrivals({"file": str(path), "time": "downtime_start", "key": "component"}, "1600d")


def test_status_updates_keep_their_order_when_asked_to(shared: Path) -> None:
    """Real keyed updates, sorted: without ordering some arrive after their successors, with it none do."""
    table = pd.read_csv(shared / "data/events/github_status_components.csv.gz").dropna(subset="component")
    at = pd.to_datetime(table["downtime_start"], utc=True)
    elapsed = (at - at.min()).dt.total_seconds()
    updates = sorted(zip(elapsed, table["impact"], table["component"], strict=True))
    late = {}
    for ordering in ("none", "key"):
        result = sim.run(
            {
                "name": "status-updates",
                "seed": 2,
                "horizon": "1700d",
                "producers": {"status": {"arrivals": {"at": ["0s"]}, "events": {"minor": 1}}},
                "endpoints": {"page": {"policy": "policy", "receiver": "page"}},
                "policies": {"policy": {"schedule": ["0s", "1h", "24h", "30d"]}},
                "receivers": {
                    "page": {"latency": "100ms", "faults": [{"error": {"probability": 0.3, "status": 500}}]}
                },
                "dispatcher": {"ordering": ordering},
            },
            arrivals={"status": updates},
        )
        deliveries = result.deliveries
        assert len(deliveries) == len(table) == 1092
        assert set(deliveries["key"]) == {f"status/{name}" for name in table["component"].unique()}
        late[ordering] = result.metrics["late_share"]
    assert late["none"] > 0
    assert late["key"] == 0
