"""Experiments: seeds, intervals, common random numbers, who wins, grids, and what users are warned of."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sim
from sim import experiment, experiment_results, intervals
from sim.errors import ScenarioError
from sim.experiment_session import replication_seed

WORLD: dict[str, Any] = {
    "name": "calm",
    "seed": 5,
    "horizon": "5m",
    "drain": "1h",
    "producers": {"p": {"arrivals": {"poisson": "5/s"}, "keys": {"count": 20}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {
        "m": {"schedule": ["0s", "1s", "10s"], "timeout": "1s"},
        "patient": {"schedule": ["0s", "1s", "10s", "60s"], "timeout": "1500ms"},
    },
    "receivers": {
        "r": {
            "latency": {"lognormal": {"median": "200ms", "p99": "2s"}},
            "faults": [{"error": {"probability": "10%"}}],
        }
    },
}
"""Unlimited servers and workers: nothing waits for anything."""


def world(**changes: Any) -> dict[str, Any]:
    """The calm world with sections replaced."""
    return {**copy.deepcopy(WORLD), **changes}


# --------------------------------------------------------------------------- seeds


def test_replication_one_is_the_run_itself_and_seeds_are_scattered() -> None:
    """Seeds fit into 53 bits, and experiments with neighbouring seeds share none."""
    assert replication_seed(2**64 - 1, 1) == 2**64 - 1
    seeds = [replication_seed(seed, r) for seed in range(20) for r in range(2, 200)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**53
    assert replication_seed(7, 2) == replication_seed(7, 2)


def test_the_seeds_of_replications_never_change() -> None:
    """What was published can be repeated with a later version."""
    assert [replication_seed(7, r) for r in (1, 2, 3)] == [7, 698713608198837, 5847450056652661]


def test_a_row_of_runs_is_what_run_gives_with_its_seed() -> None:
    """Every single run of an experiment can be looked at by itself."""
    found = experiment.replicate(WORLD, replications=3)
    for row in found.runs.to_dict("records"):
        metrics = sim.run(WORLD, seed=row["seed"]).metrics
        assert {name: float(value).hex() for name, value in metrics.items()} == {
            name: float(row[name]).hex() for name in metrics
        }
    assert found.runs["replication"].tolist() == [1, 2, 3]
    assert found.runs["seed"].tolist()[0] == 5


# --------------------------------------------------------------------------- replicate


def test_the_table_is_students_t_over_the_runs() -> None:
    """By an independent implementation, for a mean, a share and a quantile."""
    found = experiment.replicate(WORLD, replications=12, seed=1)
    for name in ("attempts_per_delivery", "lost_share", "delivery_latency_s_p99"):
        ends = stats.ttest_1samp(found.runs[name], 0).confidence_interval(0.95)
        own = found.interval(name)
        assert (own.low, own.high, own.n) == (pytest.approx(ends.low), pytest.approx(ends.high), 12)


def test_intervals_end_where_a_figure_does() -> None:
    """No loss is below 0 and no share above 1, though a t-interval of a few runs may be."""
    found = experiment.replicate(WORLD, replications=4, seed=0, overrides=["horizon=1m"])
    raw = intervals.mean_interval(found.runs["lost_share"].to_numpy())
    own, other = found.interval("lost_share"), found.interval("delivered_share")
    assert raw.low < 0 == own.low < own.mean < own.high == raw.high
    assert other.high == 1.0


def test_losses_have_an_exact_interval_over_runs_with_any() -> None:
    """Of the runs, not of the deliveries; no loss in ten runs does not mean never."""
    none = experiment.replicate(world(receivers={"r": {"latency": "10ms"}}), replications=10)
    assert none.interval("any_loss_share") == intervals.proportion_interval(0, 10)
    some = experiment.replicate(WORLD, replications=10)
    lossy = int((some.runs["lost_share"] > 0).sum())
    assert some.interval("any_loss_share") == intervals.proportion_interval(lossy, 10)


def test_a_single_replication_has_no_intervals() -> None:
    """One run is an anecdote, and says so."""
    found = experiment.replicate(WORLD, replications=1)
    assert found.table[["low", "high"]].isna().all(axis=None)


def test_replications_go_on_until_the_precision_is_reached() -> None:
    """Each named figure in the end has a half-width of at most 2 % of its mean, and it took more than ten."""
    names = ("attempts_per_delivery", "delivery_latency_s_mean")
    found = experiment.replicate(WORLD, precision="2%", precise=names)
    assert intervals.LEAST_REPLICATIONS < found.replications < 1000
    for name in names:
        own = found.interval(name)
        assert (own.high - own.low) / 2 <= 0.02 * own.mean
    assert not any("precision" in text for text in found.warnings)


def test_a_precision_that_is_not_reached_is_told() -> None:
    """With the figure and what to do; the cap holds."""
    found = experiment.replicate(
        WORLD, precision=0.0001, precise=["delivery_latency_s_mean"], replications=15
    )
    assert found.replications == 15
    assert "is not reached for delivery_latency_s_mean; allow more" in found.warnings[-1]


def test_a_loss_next_to_nothing_is_precise_by_its_floor() -> None:
    """Two per cent of a share near 0 would take runs without end."""
    rare = world(
        policies={"m": {"schedule": ["0s", "1s", "2s", "3s"], "timeout": "10s"}},
        receivers={"r": {"latency": "10ms", "faults": [{"error": {"probability": "12%"}}]}},
    )
    found = experiment.replicate(rare, precision="2%", precise=["lost_share"], replications=1000)
    own = found.interval("lost_share")
    assert own.mean > 0
    assert 0.02 * own.mean < (own.high - own.low) / 2 <= 1e-4


# --------------------------------------------------------------------------- warnings


def test_a_run_that_ends_too_early_is_told() -> None:
    """Latency quantiles leave out what has not settled."""
    found = experiment.replicate(world(drain="0s"), replications=3)
    assert any("unsettled_share is up to" in text and "raise drain" in text for text in found.warnings)


QUEUE = {
    **WORLD,
    "kind": "steady",
    "horizon": "3m",
    "producers": {"p": {"arrivals": {"poisson": "9/s"}}},
    "policies": {"m": {"schedule": ["0s"], "timeout": "1h"}},
    "receivers": {"r": {"latency": {"exponential": {"mean": "100ms"}}, "servers": 1}},
}
"""A server that is busy nine tenths of its time and starts empty."""


def test_a_warm_up_that_is_too_short_is_told_with_a_longer_one() -> None:
    """An M/M/1 at 90 % forgets its empty start in half a minute or so."""
    short = experiment.replicate({**QUEUE, "warmup": "1s"}, replications=100)
    told = next(text for text in short.warnings if "not steady" in text)
    assert "latency is not steady after the warmup of 1 s" in told
    assert "raise warmup to that at least" in told
    assert short.warmup == experiment_results.WarmUp(checked=True, settled=False)
    long = experiment.replicate({**QUEUE, "warmup": "80s"}, replications=100)
    assert not any("not steady" in text for text in long.warnings)
    assert long.warmup == experiment_results.WarmUp(checked=True, settled=True)


def test_a_closed_form_that_asks_for_a_longer_warm_up_is_told() -> None:
    """The bound beside a run, where the statistical check has not enough to see."""
    short = experiment.replicate({**QUEUE, "warmup": "80s"}, replications=2)
    assert any("a warmup of at least" in text and "has 80 s" in text for text in short.warnings)
    enough = experiment.replicate({**QUEUE, "warmup": "10m", "horizon": "12m"}, replications=2)
    assert not any("a warmup of at least" in text for text in enough.warnings)


def test_a_queue_that_grows_for_ever_is_told_to_have_no_steady_state() -> None:
    """More arrives than can be served: no warm-up helps."""
    found = experiment.replicate(
        {**QUEUE, "warmup": "60s", "producers": {"p": {"arrivals": {"poisson": "12/s"}}}}, replications=10
    )
    assert any("it drifts over the whole horizon" in text for text in found.warnings)


def test_a_terminating_scenario_needs_no_warm_up() -> None:
    """The same start, meant to be one."""
    found = experiment.replicate({**QUEUE, "kind": "terminating"}, replications=20)
    assert not found.warnings
    assert found.warmup is None


# --------------------------------------------------------------------------- compare


@pytest.fixture(scope="module")
def calm() -> experiment.Comparison:
    """Two policies under the same luck in a world where nothing waits."""
    return experiment.compare(WORLD, policies=["m", "patient"], replications=20)


def test_a_policy_that_is_compared_is_not_called_unused(calm: experiment.Comparison) -> None:
    """Though no endpoint of the file names it."""
    assert not calm.warnings
    assert experiment.replicate(WORLD, replications=1).warnings


@pytest.mark.parametrize("metric", ["attempts_per_delivery", "delivery_latency_s_p50"])
def test_common_luck_makes_differences_steadier(calm: experiment.Comparison, metric: str) -> None:
    """By five times and more: with luck of their own, a ratio of F(38, 19) is as much once in 3,000 times."""
    assert stats.f(38, 19).sf(5) < 1 / 3000
    rows = calm.differences[calm.differences["metric"] == metric]
    assert rows["variance_ratio"].item() > 5


def test_differences_are_paired(calm: experiment.Comparison) -> None:
    """By an independent implementation, from the runs."""
    runs = calm.runs.pivot(index="replication", columns="variant", values="attempts_per_delivery")
    found = stats.ttest_rel(runs["patient"], runs["m"])
    row = calm.differences[calm.differences["metric"] == "attempts_per_delivery"].iloc[0]
    assert (row["variant"], row["against"]) == ("patient", "m")
    assert row["p"] == pytest.approx(found.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(found.confidence_interval(0.95)))


def test_both_policies_meet_the_same_events(calm: experiment.Comparison) -> None:
    """Seeds and the number of events agree, replication by replication."""
    for column in ("seed", "events"):
        values = calm.runs.pivot(index="replication", columns="variant", values=column)
        assert (values["m"] == values["patient"]).all()


def test_a_collapsed_receiver_is_told_to_gain_nothing() -> None:
    """A retry storm in one variant: the warning says that pairing brought nothing, and why."""
    found = experiment.compare(
        "metastable-storm", variants={"budget": "policies.impatient.budget.ratio=0.1"}, replications=10
    )
    (told,) = [text for text in found.warnings if "common random numbers brought nothing" in text]
    assert "for budget against unchanged" in told
    assert "retries are a load of their own (attempts per delivery: unchanged 2.3" in told


def test_who_wins_follows_from_the_corrected_differences() -> None:
    """The best is clear where Holm finds it apart from every other; else those it ties with are named."""
    found = experiment.compare(
        WORLD,
        variants={
            "faster": "policies.m.schedule=[0s, 100ms, 10s]",
            "same": "policies.m.schedule=[0s, 1s, 10001ms]",
        },
        replications=10,
    )
    winners = found.winners.set_index("metric")
    assert winners["clear"].any()
    assert "lost_share" not in winners.index  # the same luck loses the same
    for metric, row in winners.iterrows():
        pairs = found.differences[found.differences["metric"] == metric]
        assert len(pairs) == 3
        mine = pairs[(pairs["variant"] == row["winner"]) | (pairs["against"] == row["winner"])]
        assert row["clear"] == bool((mine["p_holm"] < 0.05).all())
        assert row["clear"] == (row["tied_with"] == "")
        means = found.table[found.table["metric"] == metric].set_index("variant")["mean"]
        best = means.max() if experiment_results.JUDGED[str(metric)] > 0 else means.min()
        assert means[row["winner"]] == best


def test_figures_that_nobody_is_ranked_by_are_held_against_the_baseline_only() -> None:
    """Three variants: three pairs of a judged figure, two of another."""
    found = experiment.compare(
        WORLD,
        variants=["policies.m.timeout=2s", "policies.m.timeout=3s"],
        replications=2,
        baseline="policies.m.timeout=3s",
    )
    counts = found.differences["metric"].value_counts()
    assert counts["lost_share"] == 3
    assert counts["events"] == 2
    against = found.differences[found.differences["metric"] == "events"]["against"]
    assert set(against) == {"policies.m.timeout=3s"}


def test_the_pareto_front_has_who_is_not_beaten_in_everything() -> None:
    """Worked out by hand for four variants, one of which delivers nothing and so has no latency."""
    rows = {
        "a": (0.1, 5.0, 0.0, 1.0),
        "b": (0.1, 6.0, 0.0, 1.0),
        "c": (0.0, 9.0, 0.0, 2.0),
        "d": (1.0, math.nan, 0.0, 1.0),
    }
    table = pd.DataFrame(
        [
            (variant, metric, mean)
            for variant, means in rows.items()
            for metric, mean in zip(experiment_results.TRADE_OFF, means, strict=True)
        ],
        columns=["variant", "metric", "mean"],
    )
    found = experiment_results.pareto_of(table, list(rows))
    assert dict(zip(found["variant"], found["front"], strict=True)) == {
        "a": True,
        "b": False,
        "c": True,
        "d": False,
    }


def test_policies_replace_those_of_groups_that_are_sent_to() -> None:
    """A polling group stays as it is, and the user is told."""
    mixed = world(
        endpoints={
            "e": {"policy": "m", "receiver": "r"},
            "q": {"mode": {"poll": {"every": "10s"}}, "receiver": "r"},
        }
    )
    found = experiment.compare(mixed, policies=["m", "timepad"], replications=2)
    assert found.warnings[0] == "endpoints.q: polls, so the compared policies make no difference to it"
    assert found.variants == ("m", "timepad")
    alone = world(endpoints={"q": {"mode": {"poll": {"every": "10s"}}, "receiver": "r"}})
    with pytest.raises(ScenarioError, match="every endpoint group polls"):
        experiment.compare(alone, policies=["m", "timepad"])


def test_a_whole_scenario_can_be_a_variant(tmp_path: Path) -> None:
    """From a file, under the seed and the overrides of the comparison."""
    path = tmp_path / "other.yaml"
    path.write_text(
        sim.load(world(seed=99)).with_overrides(["policies.m.timeout=3s"]).to_yaml(), encoding="utf-8"
    )
    found = experiment.compare(WORLD, variants=[str(path)], replications=2, overrides=["horizon=1m"])
    direct = experiment.compare(
        WORLD, variants=["policies.m.timeout=3s"], replications=2, overrides=["horizon=1m"]
    )
    own, other = (
        one.runs[one.runs["variant"] != "unchanged"].drop(columns="variant") for one in (found, direct)
    )
    pd.testing.assert_frame_equal(own, other, check_exact=True)


# --------------------------------------------------------------------------- sweep


def test_a_sweep_is_a_grid_of_replications() -> None:
    """Tidy tables: a column per leaf, in numbers, and the seeds of the replications at every point."""
    found = experiment.sweep(
        WORLD, vary=["policies.m.timeout=1s,2s", "endpoints.e.count=1..2"], replications=3
    )
    assert list(found.axes) == ["policies.m.timeout", "endpoints.e.count"]
    assert len(found.runs) == 12
    assert found.runs["policies.m.timeout"].unique().tolist() == [1.0, 2.0]
    assert found.runs.groupby("replication")["seed"].nunique().eq(1).all()
    row = found.table[
        (found.table["policies.m.timeout"] == 2) & (found.table["endpoints.e.count"] == 1)
    ].set_index("metric")
    alone = experiment.replicate(WORLD, replications=3, overrides=["policies.m.timeout=2s"])
    assert row.loc["delivery_latency_s_p99", "mean"] == alone.interval("delivery_latency_s_p99").mean
    wide = found.wide(["lost_share", "delivery_latency_s_p50"])
    assert wide.shape == (4, 4)


@pytest.mark.parametrize("place", [{"jobs": 2}, {"dask": True}], ids=["processes", "dask"])
def test_a_sweep_is_the_same_to_the_bit_wherever_it_runs(place: dict[str, Any]) -> None:
    """Runs and tables, from two processes and from a cluster of two workers."""
    arguments: dict[str, Any] = {"vary": "policies.m.timeout=1s..2s/3", "replications": 2}
    expected = experiment.sweep(WORLD, **arguments)
    if "dask" in place:
        distributed = pytest.importorskip("distributed")
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            found = experiment.sweep(WORLD, **arguments, dask=cluster.scheduler_address)
    else:
        found = experiment.sweep(WORLD, **arguments, **place)
    pd.testing.assert_frame_equal(found.runs, expected.runs, check_exact=True)
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)


def test_a_point_that_breaks_is_named_and_the_rest_is_there() -> None:
    """A retry without a gap against a receiver that fails in no time stands still; the other points do not."""
    still = world(
        receivers={"r": {"latency": "0s", "faults": [{"error": {"probability": 1, "latency": "0s"}}]}}
    )
    found = experiment.sweep(
        still,
        vary="policies.m.schedule=[0s, {delay: 1s, times: 3}],[0s, {delay: 0s, times: forever}]",
        replications=2,
    )
    assert found.failed["replication"].tolist() == [1, 2]
    assert found.failed["point"].str.contains("times: forever").all()
    assert found.failed["reason"].str.contains("retries without a gap").all()
    assert len(found.runs) == 2
    assert found.to_json()["points"][1]["metrics"] is None
    nothing = experiment.sweep(
        still, vary="policies.m.schedule=[0s, {delay: 0s, times: forever}]", replications=1
    )
    assert (len(nothing.failed), len(nothing.runs), len(nothing.table)) == (1, 0, 0)
    assert nothing.to_json()["points"][0]["metrics"] is None
    with pytest.raises(ScenarioError, match=r"replication 1, seed 5: .*retries without a gap"):
        experiment.replicate(
            still, overrides=["policies.m.schedule=[0s, {delay: 0s, times: forever}]"], replications=2
        )


def test_points_are_checked_before_any_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong last point does not cost the time of those before it."""
    monkeypatch.setattr("sim.execution.simulate", None)
    with pytest.raises(ScenarioError, match=r"dispatcher\.workers=0: dispatcher\.workers is 0"):
        experiment.sweep(WORLD, vary="dispatcher.workers=4,2,0")


def test_python_takes_policies_and_leaves_as_the_command_line_does() -> None:
    """A text with commas, and a mapping from leaves to values."""
    named = experiment.compare(WORLD, policies="m, patient", replications=2)
    pd.testing.assert_frame_equal(
        named.runs, experiment.compare(WORLD, policies=["m", "patient"], replications=2).runs
    )
    assert named.warnings == experiment.compare(WORLD, policies=["m", "patient"], replications=2).warnings
    swept = experiment.sweep(WORLD, vary={"endpoints.e.count": [1, 2]}, replications=1)
    told = experiment.sweep(WORLD, vary="endpoints.e.count=1,2", replications=1)
    pd.testing.assert_frame_equal(swept.runs, told.runs)


def test_the_picture_of_a_comparison_names_its_confidence(calm: experiment.Comparison) -> None:
    """And not one of its own."""
    wide = dataclasses.replace(calm, confidence=0.9)
    assert "bars: 90 % intervals" in wide.plot().get_suptitle()


# --------------------------------------------------------------------------- bad input

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("replicate", {"replications": 0}, "replications is 0; must be at least 1"),
    ("replicate", {"replications": 2.5}, "must be a whole number"),
    ("replicate", {"precision": "2%", "replications": 5}, "must be at least 10 to judge a precision by"),
    ("replicate", {"precision": "0%"}, "must be above 0%"),
    ("replicate", {"precision": "2"}, "must lie between 0% and 100%"),
    (
        "replicate",
        {"precision": "2%", "precise": ["lost"]},
        "precise is lost; must be a figure of a run; did you mean lost_share",
    ),
    ("replicate", {"figures": ["delivery_latency_p99"]}, "did you mean delivery_latency_s"),
    ("replicate", {"seed": -1}, "seed is -1; must be at least 0"),
    ("replicate", {"table_format": "xls"}, "format is xls; must be parquet or csv"),
    ("compare", {}, "nothing to compare"),
    ("compare", {"policies": ["m"]}, "there is only m to compare"),
    ("compare", {"policies": ["m", "m"]}, "m stands twice"),
    ("compare", {"policies": ["m", "timepod"]}, "did you mean timepad?"),
    ("compare", {"policies": ["m", "patient"], "replications": 1}, "must be at least 2"),
    ("compare", {"policies": ["m", "patient"], "baseline": "patent"}, "did you mean patient?"),
    ("compare", {"variants": ["policies.m.timeout=1s"]}, "are the same scenario"),
    ("compare", {"variants": ["policies.m.timeot=1s"]}, "did you mean timeout?"),
    ("compare", {"variants": ["nowhere.yaml"]}, "there is no such file"),
    ("compare", {"policies": "m,,patient"}, "has an empty name between commas"),
    ("sweep", {"vary": []}, "nothing is varied"),
    (
        "sweep",
        {"vary": "horizon=1m,2m", "overrides": "horizon=3m"},
        "--set horizon is undone by --vary horizon",
    ),
    ("sweep", {"vary": "policies.m.timeot=1s,2s"}, "did you mean timeout?"),
    ("sweep", {"vary": "policies.n.timeout=1s,2s"}, "--vary policies.n.timeout: n is not in policies"),
    ("sweep", {"vary": "dispatcher.workers=4,x"}, "dispatcher.workers is x"),
    ("sweep", {"vary": "name=a,b"}, "are the same scenario"),
]


@pytest.mark.parametrize(("what", "arguments", "rule"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_before_anything_runs(
    what: str, arguments: dict[str, Any], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the argument, the value, the rule and the nearest right word."""
    monkeypatch.setattr("sim.execution.simulate", None)
    with pytest.raises(ScenarioError) as refused:
        getattr(experiment, what)(WORLD, **arguments)
    assert rule in str(refused.value)


def test_results_are_plain_json_with_null_for_what_does_not_exist() -> None:
    """No NaN and no infinity, of all three."""
    import json

    for found in (
        experiment.replicate(WORLD, replications=2),
        experiment.compare(WORLD, policies=["m", "patient"], replications=2),
        experiment.sweep(WORLD, vary="endpoints.e.count=1,2", replications=1),
    ):
        told = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert told["scenario"] == "calm"
        assert np.isnan(found.runs["drain_s"]).all()
