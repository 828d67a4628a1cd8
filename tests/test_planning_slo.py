"""Service level objectives: how they are read, what is refused, and what it takes to meet one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import sim
from sim import planning_slo
from sim.errors import ScenarioError
from tests.tiny import world

READ = [
    (
        "delivery_latency_s_p99<=30",
        "delivery_latency_s_p99",
        True,
        30.0,
    ),  # a bare number is in the figure's unit
    ("delivery_latency_s_p99 <= 1m30s", "delivery_latency_s_p99", True, 90.0),
    ("within_share{30s}>=99%", "within_share{30s}", False, 0.99),
    ("within_share{45m} ≥ 0.5", "within_share{45m}", False, 0.5),
    ("lost_share<=0.01%", "lost_share", True, 1e-4),
    ("goodput_per_s>=300/m", "goodput_per_s", False, 5.0),
    ("backlog_bytes_max<=2MB", "backlog_bytes_max", True, 2e6),
    ("egress_bytes_per_s<=2MB/s", "egress_bytes_per_s", True, 2e6),
    ("backlog_max<=1e4", "backlog_max", True, 1e4),
    ("attempts_per_delivery<=1.5", "attempts_per_delivery", True, 1.5),
    ("worker_utilization<=80%", "worker_utilization", True, 0.8),
]


@pytest.mark.parametrize(("text", "metric", "at_most", "limit"), READ)
def test_an_objective_is_read_in_the_unit_of_its_figure(
    text: str, metric: str, at_most: bool, limit: float
) -> None:
    """Durations, shares, rates, sizes and numbers."""
    (slo,) = planning_slo.read(text)
    assert (slo.metric, slo.at_most, slo.limit) == (metric, at_most, pytest.approx(limit))


def test_every_figure_can_have_an_objective() -> None:
    """Of each figure that a run has, an objective with a number is read; no others are known."""
    names = set(planning_slo.known_metrics())
    made = set(sim.run(world()).metrics)
    assert {name for name in names ^ made if not name.startswith("within_share{")} == set()
    for name in names | made:
        assert planning_slo.read(f"{name}<=1")[0].metric == name


REFUSED = {
    "latency_p99<=3": "did you mean delivery_latency_s_p99 or",
    "delivery_latency_s<=3": "did you mean delivery_latency_s_p99 or",
    "zzz<=3": "hooklab figures lists them",
    "lost_share<=5": "has the value 5, which must lie between 0% and 100%",
    "drain_s<=-3": "must not be negative",
    "within_share{soon}>=1%": "has soon in braces, which must be a duration",
    "late_share<=nan": "must be a share",
    "backlog_max<=inf": "must be a number of at least 0",
    "lost_share=1%": "must be METRIC<=VALUE or METRIC>=VALUE",
    "lost_share<1%": "must be METRIC<=VALUE or METRIC>=VALUE",
    "1<=lost_share<=2": "must be METRIC<=VALUE or METRIC>=VALUE",
    "": "must be METRIC<=VALUE or METRIC>=VALUE",
}


@pytest.mark.parametrize(("text", "rule"), REFUSED.items())
def test_what_is_no_objective_is_told_with_what_to_do(text: str, rule: str) -> None:
    """The message has the text as given and the rule."""
    with pytest.raises(ScenarioError) as caught:
        planning_slo.read([text])
    assert rule in str(caught.value)
    assert str(caught.value).startswith("slo")


def test_an_unknown_figure_is_told_the_three_nearest() -> None:
    """All of them exist."""
    with pytest.raises(ScenarioError) as caught:
        planning_slo.read("delivery_latency_s_p95<=3")
    near = str(caught.value).partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert len(near) == 3
    assert set(near) <= set(planning_slo.known_metrics())


CONTRADICTIONS = [
    ("lost_share<=1%", "lost_share>=2%"),
    ("within_share{1m}<=50%", "within_share{30s}>=99%"),  # what arrives within 30 s arrives within a minute
    ("within_share{1m}<=50%", "within_share{60s}>=51%"),  # the same time, written otherwise
    ("processed_share<=50%", "within_share{30s}>=99%"),
    ("delivery_latency_s_p99<=5", "delivery_latency_s_p50>=10"),
]


@pytest.mark.parametrize("pair", CONTRADICTIONS)
def test_objectives_that_cannot_both_be_met_are_refused(pair: tuple[str, str]) -> None:
    """In either order."""
    for texts in (pair, pair[::-1]):
        with pytest.raises(ScenarioError, match="no setting meets both"):
            planning_slo.read(texts)


COMPATIBLE = [
    ("lost_share<=2%", "lost_share>=1%"),
    ("lost_share<=2%", "lost_share>=2%"),
    ("within_share{30s}<=50%", "within_share{1m}>=99%"),
    ("delivery_latency_s_p50<=5", "delivery_latency_s_p99>=10"),
    ("delivery_latency_s_p50<=5", "settle_time_s_p50>=10"),
    ("delivery_latency_s_p99<=5", "delivery_latency_s_mean>=10"),  # a mean may lie above any quantile
]


@pytest.mark.parametrize("pair", COMPATIBLE)
def test_objectives_that_can_both_be_met_are_not_refused(pair: tuple[str, str]) -> None:
    """In either order."""
    assert len(planning_slo.read(pair)) == 2
    assert len(planning_slo.read(pair[::-1])) == 2


def test_nothing_to_meet_is_refused() -> None:
    """An empty list would be met by everything."""
    with pytest.raises(ScenarioError, match="nothing to meet"):
        planning_slo.read([])


# --------------------------------------------------------------------------- judging


def slo(text: str) -> planning_slo.Slo:
    """One objective."""
    return planning_slo.read(text)[0]


def test_the_bound_is_the_one_sided_limit_of_the_mean() -> None:
    """By an independent implementation, on the side of the objective."""
    values = np.random.default_rng(1).exponential(3.0, 15)
    upper = planning_slo.judge(slo("drain_s<=5"), values, 0.9).bound
    lower = planning_slo.judge(slo("drain_s>=1"), values, 0.9).bound
    assert upper == pytest.approx(
        stats.ttest_1samp(values, 0, alternative="less").confidence_interval(0.9).high
    )
    assert lower == pytest.approx(
        stats.ttest_1samp(values, 0, alternative="greater").confidence_interval(0.9).low
    )


def test_a_mean_within_the_objective_is_not_enough() -> None:
    """The limit counts: few runs that scatter do not show it."""
    verdict = planning_slo.judge(slo("drain_s<=10"), [1.0, 18.0], 0.95)
    assert (verdict.mean, verdict.met, verdict.runs_met) == (9.5, False, 1)
    assert verdict.headroom < 0


def test_a_figure_that_does_not_exist_is_not_met() -> None:
    """A run that never drained counts against the setting, however fast the others were."""
    verdict = planning_slo.judge(slo("drain_s<=10"), [1.0, 1.0, math.nan], 0.95)
    assert (verdict.met, verdict.missing, verdict.headroom) == (False, 1, -math.inf)
    assert "does not exist in 1 of 3 runs" in planning_slo.shown_verdict(verdict)
    assert verdict.to_json()["headroom"] is None


HEADROOM = [
    ("drain_s<=10", [4.0, 4.0], 0.6),  # 6 of 10 s are left
    ("drain_s<=10", [15.0, 15.0], -0.5),
    ("within_share{30s}>=99%", [0.995, 0.995], 0.5),  # half of the 1 % that may be missed
    ("goodput_per_s>=10", [15.0, 15.0], 0.5),
    ("lost_share<=0%", [0.0, 0.0], 0.0),
    ("lost_share<=0%", [0.01, 0.01], -100.0),  # in units of what matters of a share, 0.01 %
]


@pytest.mark.parametrize(("text", "values", "headroom"), HEADROOM)
def test_headroom_is_the_part_of_what_is_allowed_that_is_left(
    text: str, values: list[float], headroom: float
) -> None:
    """For figures that do not scatter it is plain arithmetic."""
    verdict = planning_slo.judge(slo(text), values, 0.95)
    assert verdict.headroom == pytest.approx(headroom)
    assert verdict.met == (headroom >= 0)


def test_a_setting_that_misses_passes_as_seldom_as_stated() -> None:
    """With a true mean at the very limit, 5 % of 4,000 judgements are wrong, within four standard errors."""
    random = np.random.default_rng(2)
    repeats = 4000
    wrong = sum(
        planning_slo.judge(slo("drain_s<=10"), random.normal(10.0, 2.0, 12), 0.95).met for _ in range(repeats)
    )
    assert abs(wrong / repeats - 0.05) < 4 * math.sqrt(0.05 * 0.95 / repeats)
