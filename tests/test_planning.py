"""Plans: the search by itself, the answers of formulas, costs, and what is told where nothing meets."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim import planning, planning_cost, theory
from sim.errors import ScenarioError
from sim.experiment_session import replication_seed

QUEUE: dict[str, Any] = {
    "name": "queue",
    "seed": 11,
    "kind": "steady",
    "horizon": "200s",
    "warmup": "20s",
    "producers": {"p": {"arrivals": {"poisson": "8/s"}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s"], "timeout": "1000s"}},
    "receivers": {"r": {"latency": {"exponential": {"mean": "1s"}}}},
    "dispatcher": {"workers": 10},
}
"""M/M/c: Poisson deliveries, exponential attempts, one queue for all workers, no retries."""


def queue(**changes: Any) -> dict[str, Any]:
    """The queue with sections replaced."""
    return {**copy.deepcopy(QUEUE), **changes}


def bare(count: int = 3, **changes: Any) -> sim.planning_results.Plan:  # type: ignore[name-defined]
    """A small plan of it."""
    options = {"slo": "queue_wait_s_mean<=1s", "vary": "dispatcher.workers=6..14", **changes}
    return planning.plan(QUEUE, replications=count, **options)


# --------------------------------------------------------------------------- the search by itself


@given(st.integers(1, 3000), st.data())
def test_the_search_finds_the_threshold_of_any_range(size: int, data: Any) -> None:
    """Where all after one that meets meet too, the first is found, with few looks."""
    threshold = data.draw(st.integers(0, size))
    looked: set[int] = set()

    def judge(chosen: Collection[int]) -> dict[int, bool]:
        looked.update(chosen)
        return {at: at >= threshold for at in chosen}

    found = planning.smallest(size, judge)
    assert found == (None if threshold == size else threshold)
    assert len(looked) <= planning.FIRST_LOOK + math.log2(size) + 3


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_an_answer_always_meets_and_its_neighbours_were_looked_at(meets: list[bool]) -> None:
    """Whatever the figures do along the range: the answer meets, the two below it do not."""
    looked: dict[int, bool] = {}

    def judge(chosen: Collection[int]) -> dict[int, bool]:
        looked.update({at: meets[at] for at in chosen})
        return {at: meets[at] for at in chosen}

    found = planning.smallest(len(meets), judge)
    if found is None:
        assert not any(looked.values())
        return
    assert meets[found]
    assert all(looked[at] is False for at in (found - 2, found - 1) if at >= 0)
    assert found + 1 in looked or found + 1 == len(meets)


# --------------------------------------------------------------------------- the answers of formulas

MARGIN = 1.3
"""The rule by which settings are chosen: the objective lies half-way (by factors) between what the formula says of the
answer and of one worker fewer, and at least this factor from both. Intervals of the runs below are narrower: see
``test_intervals_are_narrower_than_the_margin``."""

Formula = Callable[[int], float]


def mmc(metric: str, arrivals: float) -> Formula:
    """A figure of M/M/c by its workers, at attempts of a second; infinite where there is no steady state."""

    def value(workers: int) -> float:
        if arrivals >= workers:
            return math.inf
        found = theory.mmc(arrivals, 1.0, workers)
        return found.queue_wait_s_mean if metric == "queue_wait_s_mean" else found.queue_wait_s_quantile(0.99)

    return value


def bcmp(metric: str, arrivals: float, failing: float, gaps_s: list[float]) -> Formula:
    """A figure of workers with retries after gaps, by their number; infinite where there is no steady state."""

    def value(workers: int) -> float:
        try:
            found = theory.dispatcher_bcmp(arrivals, 1.0, workers, failing, gaps_s)
        except ValueError:
            return math.inf
        return float(getattr(found, metric))

    return value


def half_way(formula: Formula, workers: int) -> float:
    """An objective that the formula says needs so many workers."""
    here, fewer = formula(workers), formula(workers - 1)
    limit = math.sqrt(here * fewer) if math.isfinite(fewer) else here * 2
    assert here * MARGIN <= limit <= fewer / MARGIN
    return limit


MMC = [
    ("queue_wait_s_mean", 2.0, 4),
    ("queue_wait_s_mean", 4.0, 6),
    ("queue_wait_s_mean", 8.0, 10),
    ("queue_wait_s_mean", 12.0, 15),
    ("queue_wait_s_p99", 2.0, 4),
    ("queue_wait_s_p99", 4.0, 6),
    ("queue_wait_s_p99", 8.0, 10),
]
BCMP = [
    ("queue_wait_s_mean", 3.0, 0.3, [5.0, 10.0], 6),
    ("queue_wait_s_mean", 5.0, 0.2, [2.0, 20.0, 20.0], 9),
    ("queue_wait_s_mean", 8.0, 0.1, [10.0], 11),
    ("queue_wait_s_mean", 2.0, 0.5, [1.0, 1.0, 5.0], 6),
    ("queue_wait_s_mean", 6.0, 0.4, [3.0], 11),
]


def planned(metric: str, formula: Formula, workers: int, **changes: Any) -> Any:
    """The plan whose answer the formula says is ``workers``, over a range around it."""
    limit = half_way(formula, workers)
    lowest, highest = max(workers - 4, 1), workers + 8
    expected = next(count for count in range(lowest, highest + 1) if formula(count) <= limit)
    assert expected == workers
    return planning.plan(
        queue(**changes),
        slo=f"{metric}<={limit:.9g}",
        vary=f"dispatcher.workers={lowest}..{highest}",
    )


def with_retries(arrivals: float, failing: float, gaps_s: list[float]) -> dict[str, Any]:
    """Sections of the queue in which attempts fail and come back; one in e³⁰ takes longer than the timeout."""
    return {
        "producers": {"p": {"arrivals": {"poisson": f"{arrivals}/s"}}},
        "policies": {"m": {"schedule": ["0s", *(f"{gap}s" for gap in gaps_s)], "timeout": "30s"}},
        "receivers": {
            "r": {
                "latency": {"exponential": {"mean": "1s"}},
                "faults": [{"error": {"probability": failing}}],
            }
        },
    }


@pytest.mark.long
@pytest.mark.parametrize(("metric", "arrivals", "workers"), MMC)
def test_a_plan_finds_the_workers_of_erlangs_formula(metric: str, arrivals: float, workers: int) -> None:
    """M/M/c, by the mean wait and by its 99 % quantile: 20 runs of 2,000 s each."""
    found = planned(
        metric,
        mmc(metric, arrivals),
        workers,
        producers={"p": {"arrivals": {"poisson": f"{arrivals}/s"}}},
        horizon="2200s",
        warmup="200s",
    )
    assert found.answer.leaves == {"dispatcher.workers": workers}


@pytest.mark.long
@pytest.mark.parametrize(("metric", "arrivals", "failing", "gaps_s", "workers"), BCMP)
def test_a_plan_finds_the_workers_of_the_product_form(
    metric: str, arrivals: float, failing: float, gaps_s: list[float], workers: int
) -> None:
    """Workers that serve first attempts and retries alike, with gaps in between: 20 runs of 2,000 s each."""
    found = planned(
        metric,
        bcmp(metric, arrivals, failing, gaps_s),
        workers,
        **with_retries(arrivals, failing, gaps_s),
        horizon="2200s",
        warmup="200s",
    )
    assert found.answer.leaves == {"dispatcher.workers": workers}
    (row,) = [row for row in found.theory if row.form.metric == metric]
    assert row.form.formula == "dispatcher_bcmp"
    assert row.simulated == pytest.approx(row.form.value, rel=MARGIN - 1)


def test_a_small_plan_finds_the_formulas_answer_and_shows_it_beside() -> None:
    """One setting with 20 shorter runs: one worker fewer has three times the wait."""
    formula = mmc("queue_wait_s_mean", 8.0)
    limit = half_way(formula, 10)
    found = planning.plan(
        queue(horizon="500s", warmup="50s"),
        slo=f"queue_wait_s_mean<={limit:.6g}",
        vary="dispatcher.workers=8..13",
    )
    assert found.answer is not None
    assert found.answer.leaves == {"dispatcher.workers": 10}
    (row,) = [row for row in found.theory if row.form.metric == "queue_wait_s_mean"]
    assert row.form.value == pytest.approx(formula(10))
    (tried,) = [setting for setting in found.tried if setting.leaves == found.answer.leaves]
    assert row.simulated == pytest.approx(tried.verdicts[0].mean)


def test_intervals_are_narrower_than_the_margin() -> None:
    """An M/M/10 at 80 %, the widest of them, with runs a quarter as long: the limit is within the margin."""
    found = planning.plan(
        queue(horizon="500s", warmup="50s"), slo="queue_wait_s_mean<=10s", vary="dispatcher.workers=10"
    )
    (setting,) = found.tried
    assert setting.verdicts[0].bound <= MARGIN * setting.verdicts[0].mean


# --------------------------------------------------------------------------- what a plan says


def test_the_answer_is_judged_by_runs_that_the_search_had_not_seen() -> None:
    """Of the answer there are twice as many runs; its verdict is that of the second half."""
    found = bare()
    assert found.answer is not None
    own = found.runs[found.runs["dispatcher.workers"] == found.answer.values["dispatcher.workers"]]
    assert own["replication"].tolist() == [1, 2, 3, 4, 5, 6]
    assert own["seed"].tolist() == [replication_seed(11, r) for r in range(1, 7)]
    assert found.answer.verdicts[0].mean == pytest.approx(own["queue_wait_s_mean"].iloc[3:].mean())
    others = found.runs[found.runs["dispatcher.workers"] != found.answer.values["dispatcher.workers"]]
    assert set(others["replication"]) == {1, 2, 3}


def test_a_setting_that_fails_its_second_look_is_passed_over() -> None:
    """An objective that the first runs of a setting just meet and its second do not: the next one is the answer."""
    wait = planning.planning_slo.read("queue_wait_s_mean<=1s")[0]
    for seed in range(10):
        waits = sim.replicate(QUEUE, replications=6, seed=seed, overrides=["dispatcher.workers=10"]).runs[
            "queue_wait_s_mean"
        ]
        first, second = (
            planning.planning_slo.judge(wait, half, 0.95).bound for half in (waits[:3], waits[3:])
        )
        if first < second:  # its luck runs out
            break
    limit = (first + second) / 2
    found = bare(vary="dispatcher.workers=9,10,14", slo=f"queue_wait_s_mean<={limit:.9g}", seed=seed)
    assert found.answer is not None
    assert found.answer.values == {"dispatcher.workers": 14}
    assert any("dispatcher.workers=10 met every objective in the 3 runs" in text for text in found.warnings)


def test_the_binding_objective_is_the_one_that_one_worker_fewer_misses() -> None:
    """Not the one with the least headroom: no number of workers changes what is lost."""
    found = planning.plan(
        queue(**with_retries(8.0, 0.1, [10.0])),
        slo=["lost_share<=1.1%", "queue_wait_s_mean<=1s", "attempts_per_delivery<=5"],
        vary="dispatcher.workers=8..20",
        replications=40,
    )
    assert found.answer is not None
    assert found.before is not None
    assert found.before.values["dispatcher.workers"] == found.answer.values["dispatcher.workers"] - 1
    assert found.answer.worst.slo.metric == "lost_share"
    assert found.binding is not None
    assert found.binding.metric == "queue_wait_s_mean"
    assert [row["expr"] for row in found.to_json()["slo"] if row["binding"]] == ["queue_wait_s_mean<=1s"]


def test_nothing_that_meets_tells_what_came_closest_and_by_how_much() -> None:
    """The answer is null, the verdicts are those of the closest."""
    found = bare(slo=["queue_wait_s_mean<=1us", "lost_share<=1%"], vary="dispatcher.workers=6,8,10")
    told = found.to_json()
    assert told["answer"] is None
    assert told["closest"] == {"dispatcher.workers": 10}
    wait, lost = told["slo"]
    assert (wait["met"], wait["binding"], lost["met"], lost["binding"]) == (False, True, True, False)
    assert wait["headroom"] == pytest.approx(
        (wait["limit"] - wait["bound"]) / 1e-3
    )  # 1 ms is what matters of a time
    assert len(told["tried"]) == 3


def test_the_json_is_plain_and_keeps_the_contract() -> None:
    """Answer by leaf as a scenario has it, a verdict for each objective, every setting tried."""
    found = bare(vary="policies.m.timeout=10s,1000s", slo="queue_wait_s_mean<=30s")
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["answer"] == {"policies.m.timeout": "10s"}
    assert {"expr", "mean", "bound", "headroom", "met", "runs_met", "runs", "binding"} <= set(told["slo"][0])
    assert told["tried"][0]["values"] == {"policies.m.timeout": "10s"}
    assert found.warnings[-1].startswith("policies.m.timeout=10s is the first of the range")


def test_figures_that_get_worse_along_the_range_are_told() -> None:
    """More workers than a receiver bears let it work for nothing: 4 do, 40 do not."""
    world = {
        **queue(kind="terminating", warmup="0s", horizon="120s"),
        "policies": {"m": {"schedule": ["0s", "1s", "5s"], "timeout": "1s"}},
        "receivers": {"r": {"latency": {"exponential": {"mean": "200ms"}}, "servers": 2}},
    }
    found = planning.plan(world, slo="lost_share<=2%", vary="dispatcher.workers=4,40", replications=5)
    assert found.answer is not None
    assert found.answer.values == {"dispatcher.workers": 4}
    assert any("do not get easier along the range: dispatcher.workers=40" in text for text in found.warnings)


def test_no_loss_in_a_few_runs_is_not_taken_for_none() -> None:
    """A share that is the same in every run has no spread; how many other runs there may be is told exactly."""
    found = bare(vary="dispatcher.workers=12", slo=["lost_share<=1%", "queue_wait_s_mean<=9s"])
    assert found.answer is not None
    assert [text for text in found.warnings if "in all 3 runs" in text] == [
        "lost_share is 0 % in all 3 runs: of all runs, up to 63.2 % may have another (95 % confidence)"
    ]
    assert pytest.approx(0.632, abs=5e-4) == 1 - 0.05 ** (1 / 3)


def test_a_plan_is_the_same_however_often_it_is_interrupted(tmp_path: Path) -> None:
    """What has finished is taken from the folder; the figures are the same to the last bit."""
    plain = bare()
    out = tmp_path / "plan"
    bare(vary="dispatcher.workers=6..9", out=out)
    kept = len((out / "points.jsonl").read_text(encoding="utf-8").splitlines())
    again = bare(out=out)
    assert again.to_json() == plain.to_json()
    made = (out / "points.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(made) == len({json.loads(line)["key"] for line in made}) > kept
    assert json.loads((out / "experiment.json").read_text(encoding="utf-8"))["kind"] == "plan"
    assert json.loads((out / "result.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(plain.to_json())
    )
    assert {path.name for path in out.iterdir()} == {
        *(".hooklab", "curve.parquet", "curve.png", "experiment.json", "points.jsonl", "result.json"),
        *("runs.parquet", "scenario.yaml"),
    }


@pytest.mark.long
def test_worker_processes_change_nothing() -> None:
    """The same plan to the last bit in this process and in two others."""
    assert bare(jobs=2).to_json() == bare(jobs=1).to_json()


# --------------------------------------------------------------------------- costs


def test_the_cost_is_that_of_a_million_deliveries() -> None:
    """By hand: worker hours, bytes sent, and a month of room for the highest backlog."""
    prices = {"worker_hour": 0.36, "gb_egress": 0.09, "gb_stored": 0.02}
    scenario = sim.load(queue())
    means = {"deliveries": 1800.0, "egress_bytes_per_s": 5000.0, "backlog_bytes_max": 3e9}
    per_s = 10 * 0.36 / 3600 + 5e-6 * 0.09 + 3 * 0.02 / (30 * 86400)
    assert planning_cost.per_million(prices, scenario, means) == pytest.approx(per_s / 10 * 1e6)


WORKERS = [
    ({"workers": 7}, 7.0),
    ({"lanes": {"first": 4, "retries": 3}}, 7.0),
    ({"workers": [["0s", 4], ["110s", 8]]}, 6.0),  # of the 180 s after the warm-up, 90 with either
    ({"workers": 3, "discipline": "per_tier"}, 6.0),  # two tiers
    ({"workers": [3, 1], "discipline": "per_tier"}, 4.0),
    ({"workers": "unlimited"}, math.inf),
]


@pytest.mark.parametrize(("dispatcher", "count"), WORKERS)
def test_workers_are_counted_as_they_stand_ready(dispatcher: dict[str, Any], count: float) -> None:
    """Lanes together, over time as their mean, of every tier."""
    policies = {"m": {"schedule": ["0s", "1s"], "timeout": "5s"}}
    assert planning_cost.workers_mean(sim.load(queue(dispatcher=dispatcher, policies=policies))) == count


def test_the_cheapest_is_taken_from_the_whole_grid() -> None:
    """Every point is run; the cheapest that meets is the answer, and costs rise with what is paid for."""
    found = bare(
        vary=["dispatcher.workers=9,11,13", "policies.m.timeout=500s,1000s"],
        slo="queue_wait_s_mean<=1s",
        cost={"worker_hour": 1.0},
    )
    assert len(found.tried) == found.size == 6
    assert found.answer is not None
    affordable = [setting for setting in found.tried if setting.met]
    assert found.answer.cost == min(setting.cost for setting in affordable)
    for setting in found.tried:
        own = found.runs[
            (found.runs["dispatcher.workers"] == setting.values["dispatcher.workers"])
            & (found.runs["policies.m.timeout"] == setting.values["policies.m.timeout"])
        ]
        hours = setting.values["dispatcher.workers"] * 180 / 3600
        assert setting.cost == pytest.approx(hours / own["deliveries"].iloc[:3].mean() * 1e6)


# --------------------------------------------------------------------------- bad input

BAD = {
    "an unknown figure": ({"slo": "latency<=3"}, "names no figure"),
    "objectives that contradict": ({"slo": ["drain_s<=1", "drain_s>=2"]}, "no setting meets both"),
    "no objective": ({"slo": []}, "nothing to meet"),
    "nothing varied": ({"vary": []}, "nothing is varied"),
    "an unknown leaf": ({"vary": "dispatcher.wokers=1..3"}, "workers"),
    "a value that cannot be": ({"vary": "dispatcher.workers=0..3"}, "dispatcher.workers is 0"),
    "an empty range": ({"vary": "dispatcher.workers=9..3"}, "is empty"),
    "several leaves without prices": (
        {"vary": ["dispatcher.workers=1..3", "policies.m.timeout=1s,2s"]},
        "Give prices",
    ),
    "an unknown price": ({"cost": "worker_hours=1"}, "did you mean worker_hour?"),
    "a price that is none": ({"cost": "worker_hour=cheap"}, "must be a price of at least 0"),
    "a negative price": ({"cost": {"worker_hour": -1}}, "must be a price of at least 0"),
    "a price twice": ({"cost": ["gb_egress=1", "gb_egress=2"]}, "stands twice"),
    "a price without a value": ({"cost": "worker_hour"}, "must be NAME=PRICE"),
    "a price of any number of workers": (
        {"vary": "dispatcher.workers=3,unlimited", "cost": "worker_hour=1"},
        "dispatcher.workers=unlimited",
    ),
    "no confidence": ({"confidence": "40%"}, "must be above 50%"),
    "too much confidence": ({"confidence": 95}, "between 0% and 100%; write 95%"),
    "one replication": ({"count": 1}, "one run has no interval"),
}


@pytest.mark.parametrize(("changes", "rule"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told_before_anything_is_run(changes: dict[str, Any], rule: str, tmp_path: Path) -> None:
    """No folder is made."""
    with pytest.raises(ScenarioError) as caught:
        bare(out=tmp_path / "plan", **changes)
    assert rule in str(caught.value)
    assert not (tmp_path / "plan").exists()
