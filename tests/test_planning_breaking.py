"""Breaking points and what breaks first: against arithmetic where there is no luck, else against fluids."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from sim import model, planning_breaking, planning_load, planning_world, workload
from sim.errors import ScenarioError

CLOCKWORK: dict[str, Any] = {
    "name": "clockwork",
    "horizon": "100s",
    "drain": "10m",
    "producers": {"p": {"arrivals": {"constant": "1/s"}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s"], "timeout": "1000s"}},
    "receivers": {
        "r": {
            "latency": "500ms",
            "servers": 1,
            "faults": [{"outage": {"windows": [["20s", "30s"]], "how": "pause"}}],
        }
    },
}
"""An event a second, half a second of work for each, and no luck. An outage lets requests queue up."""


def clockwork(**changes: Any) -> dict[str, Any]:
    """The clockwork with sections replaced."""
    return {**copy.deepcopy(CLOCKWORK), **changes}


# --------------------------------------------------------------------------- outages


def test_the_longest_outage_is_that_of_arithmetic() -> None:
    """At twice the rate of arrivals a backlog of d seconds takes d seconds more: from 20 s, 2 d must end by 100 s."""
    found = planning_breaking.breaking_point(CLOCKWORK, "outage=30s..50s/21", replications=2)
    assert found.start_s == 20.0
    assert found.recovers is not None
    assert found.fails is not None
    last, first = (int(text.removesuffix("s")) for text in (found.recovers, found.fails))
    assert first - last == 1  # no luck: no size from which only some recover
    assert abs(last - 40) <= 1  # a service more or less
    drains = found.tried.set_index("size")["drain_s"]
    assert drains[30.0] == pytest.approx(30.0, abs=1.0)


def test_a_longer_horizon_lets_it_recover_from_more() -> None:
    """Recovery counts until the horizon only: after it nothing new comes, and anything drains."""
    found = planning_breaking.breaking_point(
        CLOCKWORK, "outage=30s..50s/21", replications=2, overrides=["horizon=140s"]
    )
    assert (found.recovers, found.fails) == ("50s", None)
    assert found.to_json()["fails"] is None


def test_a_storm_is_a_breaking_point() -> None:
    """The bundled storm does not recover from its 10 s pause; with a retry budget it does, and from more."""
    storm = planning_breaking.breaking_point("metastable-storm", "outage=250ms..8s/6log", replications=5)
    calm = planning_breaking.breaking_point(
        "metastable-storm",
        "outage=250ms..8s/6log",
        replications=5,
        overrides=["policies.impatient.budget.ratio=0.1"],
    )
    assert (storm.recovers, storm.fails) == ("1s", "2s")
    assert (calm.recovers, calm.fails) == ("8s", None)
    assert storm.sure_share == pytest.approx(0.05 ** (1 / 5))


# --------------------------------------------------------------------------- more arrives, or errs


def test_a_backlog_that_grows_by_itself_is_told() -> None:
    """Half of all attempts fail and wait for a day: what waits grows over the hour, with or without an episode."""
    world = clockwork(
        horizon="1h",
        drain="49h",
        producers={"p": {"arrivals": {"poisson": "1/s"}}},
        policies={"m": {"schedule": ["0s", "24h"], "timeout": "5s"}},
        receivers={"r": {"latency": "100ms", "faults": [{"error": {"probability": "50%"}}]}},
    )
    found = planning_breaking.breaking_point(world, "outage=1s,10s", replications=3)
    assert (found.recovers, found.fails) == (None, "1s")
    assert any("even where nothing happens, only 0 of 3 runs" in text for text in found.warnings)
    calm = planning_breaking.breaking_point(CLOCKWORK, "outage=1s,10s", replications=3)
    assert not any("even where nothing happens" in text for text in calm.warnings)


def test_the_highest_surge_is_that_of_a_fluid() -> None:
    """With kλ for a time L, (kλ − μ)L wait, and go at μ − λ. The edges enclose the k that just fits."""
    arrivals, service, lasts = 50.0, 100.0, 10.0
    world = clockwork(
        producers={"p": {"arrivals": {"poisson": f"{arrivals}/s"}}},
        receivers={"r": {"latency": {"exponential": {"mean": f"{1000 / service}ms"}}, "servers": 1}},
    )
    found = planning_breaking.breaking_point(world, "rate=1..10.0/19", during="10s", replications=4)
    assert (found.start_s, found.during_s) == (30.0, lasts)
    left_s = 100.0 - found.start_s - lasts
    fits = (left_s * (service - arrivals) / lasts + service) / arrivals
    assert found.recovers is not None
    assert found.fails is not None
    # a backlog of kλL deliveries scatters by its root: a step of 0.5 is more than ten of those
    assert fits - 1.0 <= float(found.recovers) <= fits <= float(found.fails) <= fits + 1.0


def test_a_surge_multiplies_what_arrives_and_keeps_the_rest() -> None:
    """In the window there are three times the events of its neighbours, to endpoints that name their producers, too."""
    world = clockwork(
        producers={"p": {"arrivals": {"poisson": "100/s"}}}, receivers={"r": {"latency": "1ms"}}
    )
    world["endpoints"]["e"]["producers"] = ["p"]
    base = sim.load(world)
    episode = planning_world.episode_of(base, 10 * 10**9)
    surged = planning_world.with_surge(base, episode, 3.0)
    created = sim.run(surged).deliveries["created_s"]
    inside = ((created >= 30) & (created < 40)).sum()
    before = ((created >= 20) & (created < 30)).sum()
    assert abs(inside / 3000 - 1) < 5 / math.sqrt(3000)
    assert abs(before / 1000 - 1) < 5 / math.sqrt(1000)
    plain = sim.run(base).deliveries
    assert (plain["producer"] == "p").sum() == (sim.run(surged).deliveries["producer"] == "p").sum()


def test_errors_happen_while_the_episode_lasts() -> None:
    """Of the attempts in the window this share fails, before and after it none."""
    base = sim.load(
        clockwork(producers={"p": {"arrivals": {"poisson": "100/s"}}}, receivers={"r": {"latency": "1ms"}})
    )
    errs = planning_world.with_errors(base, planning_world.episode_of(base, None), 0.4)
    attempts = sim.run(errs).attempts
    inside = (attempts["started_s"] >= 25.0) & (attempts["started_s"] < 35.0)
    failed = attempts["outcome"] == "rejected"
    count = int(inside.sum())
    assert abs(failed[inside].mean() - 0.4) < 5 * math.sqrt(0.24 / count)
    assert not failed[~inside].any()


def test_outages_of_the_scenario_itself_are_left_out() -> None:
    """The episode is the only one, in the way of the scenario's own, and other faults stay."""
    world = clockwork()
    world["receivers"]["r"]["faults"] += [
        {"error": {"probability": "1%"}},
        {"outage": {"up": "1h", "down": "1m"}},
    ]
    base = sim.load(world)
    found = planning_world.with_outage(base, planning_world.episode_of(base, None), 5 * 10**9)
    faults = found.receivers["r"].faults
    assert [fault.outage is not None for fault in faults] == [True, False]
    assert faults[0].outage is not None
    assert faults[0].outage.how.pause
    assert planning_world.episode_end_s(found) == 25.0


def table(*recovered: int) -> pd.DataFrame:
    """How many of 4 runs recovered from each size, 0, 1 and so on."""
    return pd.DataFrame(
        [{"text": str(at), "recovered": count, "runs": 4} for at, count in enumerate(recovered)]
    )


EDGES = [
    ((4, 4, 2, 0, 0), ("1", "3")),
    ((4, 4, 4), ("2", None)),
    ((0, 0), (None, "0")),
    ((4, 3, 4, 0, 1, 0), ("0", "5")),  # what is not even is given to luck
    ((3, 2), (None, None)),
]


@pytest.mark.parametrize(("recovered", "edges"), EDGES)
def test_the_range_given_to_luck_holds_every_doubt(
    recovered: tuple[int, ...], edges: tuple[str | None, ...]
) -> None:
    """Below it all recovered, above it none did."""
    assert planning_breaking.edges(table(*recovered)) == edges


# --------------------------------------------------------------------------- what breaks first

POOL = {
    "name": "pool",
    "horizon": "200s",
    "producers": {"p": {"arrivals": {"poisson": "8/s"}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "1s"], "timeout": "2s"}},
    "receivers": {"r": {"latency": "500ms"}},
    "dispatcher": {"workers": 6},
}
"""Four of six workers are busy, and receivers can do anything."""
RECEIVER = {"receivers": {"r": {"latency": "100ms", "servers": 1}}, "dispatcher": {"workers": 1000}}
ORDER = {
    "receivers": {"r": {"latency": "10ms", "faults": [{"error": {"probability": "5%"}}]}},
    "dispatcher": {"workers": 1000},
}
FIRST = {
    "workers": ({}, (2.0, "workers")),  # 8 workers' work for 6
    "receiver": (RECEIVER, (2.0, "receiver")),  # 16 requests a second for one that does 10
    "order": (
        ORDER | {"producers": {"p": {"arrivals": {"poisson": "8/s"}, "keys": {"count": 1}}}},
        (1.0, "order"),
    ),
    "nothing": ({"dispatcher": {"workers": 1000}}, None),
}


@pytest.mark.parametrize(("changes", "breaks"), FIRST.values(), ids=FIRST.keys())
def test_what_breaks_first_is_what_runs_out(
    changes: dict[str, Any], breaks: tuple[float, str] | None
) -> None:
    """Each of the resources, in a world in which it is the scarce one."""
    found = planning_load.stress({**POOL, **changes}, "1,2", replications=2)
    assert found.breaks == breaks
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["first"]["2"] == (None if breaks is None else breaks[1])


def test_storage_breaks_where_it_is_full() -> None:
    """With room given, the highest backlog is held against it."""
    found = planning_load.stress({**POOL, "dispatcher": {"workers": 4}}, "1,2", storage="1kB", replications=2)
    (first,) = [s for s in found.strains if s.resource == "storage" and s.load == 1.0]
    assert (first.figure, first.limit, first.broken) == ("backlog_bytes_max", 1000.0, True)


def test_the_room_of_a_receiver_is_what_it_serves_within_the_timeout() -> None:
    """Two servers of 100 ms and 2 s of patience: 40 of three endpoints each; or its backlog, if that is less."""
    world = {**POOL, "endpoints": {"e": {"policy": "m", "receiver": "r", "count": 3}}}
    full = {"latency": "100ms", "servers": 2}
    assert planning_load.receiver_room(sim.load({**world, "receivers": {"r": full}})) == 120.0
    small = full | {"backlog": {"size": 7, "beyond": 503}}
    assert planning_load.receiver_room(sim.load({**world, "receivers": {"r": small}})) == 21.0
    assert planning_load.receiver_room(sim.load(world)) == math.inf


ARRIVALS = {
    "constant": {"constant": "3/s"},
    "poisson": {"poisson": "300/h"},
    "bursts": {"bursts": {"on": "50/s", "off": "1/s", "on_for": "1m", "off_for": "5m"}},
    "daily": {"daily": ["1/s", "2/s", "0/s"]},
    "ramp": {"ramp": {"from": "1/s", "to": "5/s", "over": "1m"}},
}


@pytest.mark.parametrize("arrivals", ARRIVALS.values(), ids=ARRIVALS.keys())
@pytest.mark.parametrize("times", [0.5, 1.0, 7.3])
def test_load_multiplies_every_rate(arrivals: dict[str, Any], times: float) -> None:
    """The mean rate over the horizon, whatever the arrivals are like."""
    base = sim.load({**POOL, "producers": {"p": {"arrivals": arrivals}}})

    def rate(scenario: sim.Scenario) -> float:
        built = model.build(scenario, 1)
        return workload.mean_rate_per_s(built.sources[0].process, built.horizon)

    assert rate(planning_world.with_load(base, times)) == pytest.approx(times * rate(base))


# --------------------------------------------------------------------------- bad input

BAD_FIND = {
    "cake": "must be outage, rate or errors",
    "outages": "did you mean outage?",
    "outage=5..9": "must be times above 0s",
    "outage=1s..90s/9": "must be times above 0s and below 80s",
    "outage=0s,5s": "must be times above 0s",
    "outage=9s,5s": "rising",
    "rate=0.5,2": "must be multiples from 1",
    "rate=2s,3s": "must be multiples from 1",
    "errors=10%,150%": "must be shares",
    "errors=": "has no value",
    "errors=5s,6s": "must be shares",
    "rate=9..3": "is empty",
}


@pytest.mark.parametrize(("find", "rule"), BAD_FIND.items())
def test_sizes_that_cannot_be_are_told(find: str, rule: str, tmp_path: Path) -> None:
    """Before anything is run."""
    with pytest.raises(ScenarioError) as caught:
        planning_breaking.breaking_point(CLOCKWORK, find, out=tmp_path / "out")
    assert rule in str(caught.value)
    assert "find" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("during", ["soon", "1us", "60s"])
def test_an_episode_must_fit_the_horizon(during: str) -> None:
    """Neither too short to tell nor too long to recover from."""
    with pytest.raises(ScenarioError, match="during"):
        planning_breaking.breaking_point(CLOCKWORK, "rate", during=during)


@pytest.mark.parametrize("loads", ["", "0,1", "2,1", "1,1", "a", "1,inf", "nan", "1,,2"])
def test_loads_that_cannot_be_are_told(loads: str) -> None:
    """Rising multiples above 0."""
    with pytest.raises(ScenarioError, match="must be rising multiples"):
        planning_load.stress(POOL, loads)


def test_recorded_arrivals_have_no_rate_to_multiply() -> None:
    """Said by the path of the arrivals."""
    world = {**POOL, "producers": {"p": {"arrivals": {"at": ["1s", "2s"]}}}}
    with pytest.raises(ScenarioError, match=r"producers\.p\.arrivals\.at is recorded"):
        planning_load.stress(world)
    with pytest.raises(ScenarioError, match=r"producers\.p\.arrivals\.at is recorded"):
        planning_breaking.breaking_point(world, "rate")
