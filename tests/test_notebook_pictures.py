"""Pictures and figures of notebooks: rows, theory beside runs, contention, and forecasts held against what came."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

import sim
from sim import contention, holdout, notebook, plots, theory
from sim.calibrate_outages import Period
from sim.errors import ScenarioError
from sim.plots_labels import name_points
from tests.test_contention import NAMES, table
from tests.test_pictures import check_readable, legend

ROWS = pd.DataFrame(
    [
        ("github", "lost_share", 0.02, 0.01, 0.03, 9),
        ("timepad", "lost_share", 0.001, 0.0, 0.002, 9),
        ("svix", "lost_share", 0.0, 0.0, 0.0, 9),
        ("github", "attempts_per_delivery", 1.0, 1.0, 1.0, 9),
        ("timepad", "attempts_per_delivery", 1.5, 1.4, 1.6, 9),
        ("svix", "attempts_per_delivery", math.nan, math.nan, math.nan, 0),
    ],
    columns=["policy", "metric", "mean", "low", "high", "n"],
)
POINTS = pd.DataFrame(
    {
        "x": [3, 1, 2],
        "mean": [9.0, 1.0, 4.2],
        "low": [8.0, 0.0, 4.0],
        "high": [10.0, 1.5, 4.4],
        "exact": [9, 1, 4],
    }
)
HELD = pd.DataFrame(
    {"policy": ["a", "b"], "mean": [0.01, 0.0], "low": [0.0, 0.0], "high": [0.02, 0.001], "real": [0.03, 0.0]}
)
LABELS = {"lost_share": "lost", "attempts_per_delivery": "attempts"}


def test_a_page_of_policies_has_a_row_for_each_in_the_order_of_reach() -> None:
    """The rows of schedule and figures are the same, a point stands at each mean, and no figure has none."""
    figure = plots.policy_page(ROWS, "policy", LABELS, "title")
    first, lost, attempts = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["github", "timepad", "svix"]
    (points,) = [line for line in lost.lines if line.get_marker() == "o"]
    assert list(points.get_ydata()) == [0, 1, 2]
    assert list(points.get_xdata())[:2] == [0.02, 0.001]
    (points,) = [line for line in attempts.lines if line.get_marker() == "o"]
    assert list(points.get_xdata()) == [1.0, 1.5]
    assert [ax.get_xlabel() for ax in (lost, attempts)] == ["lost", "attempts"]
    check_readable(figure)


def test_variants_stand_in_their_own_order_with_their_intervals() -> None:
    """A row for each variant, from top to bottom; an interval that reaches 0 ends at its place on the axis."""
    figure = plots.variants(ROWS, "policy", {"attempts_per_delivery": "attempts"}, "title")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["github", "timepad", "svix"]
    (bars,) = ax.collections
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[1.0, 1.0], [1.4, 1.6]]
    check_readable(figure)


def test_runs_stand_beside_theory() -> None:
    """The line is exact and the points are runs, both in the order of x; without theory points are joined."""
    look: Any = {"metric": "delivery_latency_s_mean", "title": "t", "x": "workers", "y": "wait"}
    ax = plots.beside(POINTS, **look)
    assert legend(ax) == ["exact", "simulated, 95 %"]
    assert list(ax.lines[0].get_ydata()) == [1, 4, 9]
    check_readable(ax.figure)
    both = plots.together({"first": POINTS, "second": POINTS.assign(exact=np.nan)})
    ax = plots.beside(both, log="xy", limit=2.5, limit_label="limit", **look)
    assert legend(ax) == ["first: exact", "limit", "first: simulated, 95 %", "second: simulated, 95 %"]
    check_readable(ax.figure)
    with pytest.raises(ScenarioError, match="lacks the columns exact"):
        plots.beside(POINTS.drop(columns="exact"), **look)


def test_a_sweep_gives_points_with_their_exact_values() -> None:
    """Each value of the leaf, the mean of its runs, and what theory says at this value."""
    scenario = {
        "name": "tiny", "horizon": "10m",
        "producers": {"p": {"arrivals": {"poisson": "1/s"}}},
        "endpoints": {"e": {"policy": "timepad", "receiver": "r"}},
        "receivers": {"r": {"latency": "0s"}},
    }  # fmt: skip
    made = sim.sweep(scenario, vary="producers.p.arrivals.poisson=1/s,2/s", replications=2)
    frame = plots.points(made, "deliveries", lambda rate: 600 * rate)
    assert frame["x"].tolist() == [1.0, 2.0]
    assert frame["exact"].tolist() == [600, 1200]
    assert (abs(frame["mean"] - frame["exact"]) < 5 * np.sqrt(frame["exact"] / 2)).all()


def test_loss_is_drawn_by_reach() -> None:
    """Each policy with an end has its point, those asked for their name, and what is 0 stands at the edge."""
    frame = plots.reaches(ROWS, "policy", notes=["svix"])
    assert frame["reach_s"].tolist() == [0.0, 90_000.0, 99_305.0]
    ax = plots.reach(frame, lambda at: 0.02 / (1 + at / 3600))
    assert [text.get_text() for text in ax.texts] == ["svix"]
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert 0 < min(points.get_ydata()) < 0.001
    check_readable(ax.figure)


def test_names_lie_on_nothing() -> None:
    """Many close points: no name lies on another, on a point, on the legend, or outside; those moved have a line."""
    ax = plots.beside(POINTS, metric="deliveries", title="t", x="x", y="y")
    ax.legend(loc="upper left", fontsize=11)  # the best place would move with what is written
    places = [(2.5, 2.0), *((1 + row / 50, 5.0 + row / 25) for row in range(12))]
    names = [f"policy-{row}" for row in range(len(places))]
    drawn = name_points(ax, places, names)
    assert [text.get_text() for text in drawn] == names
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in drawn]  # without the line to the point
    legend_box = ax.get_legend().get_window_extent()
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[number + 1 :], legend_box])
        assert not any(box.contains(*ax.transData.transform(place)) for place in places)
        assert ax.bbox.x0 <= box.x0
        assert box.x1 <= ax.bbox.x1
    assert drawn[0].arrow_patch is None
    assert any(text.arrow_patch is not None for text in drawn)
    check_readable(ax.figure)


def test_what_outlasts_a_reach_is_what_one_attempt_at_the_end_cannot_mend() -> None:
    """At reach 0 the share of time away; runs whose attempts leave no gap lose what the formula says."""
    away = {"mean_up_s": 3600.0, "median_down_s": 600.0, "down_sigma": 1.0}
    mean_down = 600 * math.exp(0.5)
    assert theory.outlasting_share(**away, reach_s=0) == pytest.approx(mean_down / (3600 + mean_down))
    made = sim.replicate(
        {
            "name": "reach", "horizon": "100h",
            "producers": {"p": {"arrivals": {"poisson": "60/h"}, "keys": {"count": 500}}},
            "endpoints": {"e": {"count": 100, "route": "by_key", "policy": "dense", "receiver": "r"}},
            "policies": {"dense": {"schedule": ["0s", {"delay": "10s", "times": 120}]}},
            "receivers": {"r": {"latency": "0s", "faults": [{"outage": {
                "up": {"exponential": {"mean": "1h"}},
                "down": {"lognormal": {"median": "10m", "p99": f"{600 * math.exp(2.3263478740408408):.6f}s"}},
            }}]}},
            "dispatcher": {"workers": "unlimited"},
        },
        replications=10,
    )  # fmt: skip
    lost = made.runs["lost_share"]
    # up times below 10 s may hide between two attempts: 10 s of an hour at most
    exact = theory.outlasting_share(**away, reach_s=1200)
    assert abs(lost.mean() - exact) < 4 * lost.std() / math.sqrt(10) + exact * 10 / 3600


def test_load_over_time_has_a_strip_for_each_run() -> None:
    """The same axes for all, named, with the limit as a line."""
    trace = sim.run("metastable-storm", overrides=["horizon=20s"]).trace
    figure = plots.load_over_time(
        {"one": trace, "two": trace}, {"attempts_per_s": "attempts"}, 20, "title", limit=100, log=True
    )
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    assert figure.axes[0].lines[1].get_ydata()[0] == 100
    check_readable(figure)


def test_contention_stands_beside_the_published_figures() -> None:
    """A line for each kind of jitter with its name, and a cross for each published mean."""
    figure = plots.contention(contention.contests(clients=(10, 20), runs=2), contention.published())
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == set(NAMES.values())
        assert sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "x") == 20
    check_readable(figure)


@pytest.mark.shared
def test_the_published_figures_are_those_of_the_reference(shared: Path) -> None:
    """Each mean of time and calls."""
    expected = {
        (row["params"]["clients"], NAMES[row["params"]["backoff"]]): (
            row["expected"]["time"]["value"] / 1000,
            row["expected"]["calls"]["value"],
        )
        for row in table(shared)
    }
    found = {
        (row["clients"], row["jitter"]): (pytest.approx(row["time_s_mean"]), row["calls_mean"])
        for row in json.loads(contention.published().to_json(orient="records"))
    }
    assert expected == found


def test_forecasts_are_drawn_with_what_came_true() -> None:
    """Each policy has its prediction, its interval and a cross; without recordings a sentence says so."""
    figure = plots.held_out_panels({"first": HELD, "second": HELD})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["first", "second"]
    (crosses,) = [line for line in figure.axes[0].lines if line.get_marker() == "X"]
    assert crosses.get_xdata()[0] == 0.03
    check_readable(figure)
    assert [text.get_text() for text in plots.held_out_panels({}).axes[0].texts] == [
        "no recordings beside this checkout"
    ]
    assert notebook.forecasts("x", HELD)["x, a"] == "predicted 1 % (0 % … 2 %), came true 3 %"


def test_a_replay_loses_what_falls_into_all_attempts() -> None:
    """One endpoint, one outage of 60 h in 20 days, none at the other: github loses its share, three days nothing."""
    day = 86_400.0
    history = {
        "a": Period(0.0, 20 * day, np.array([[2 * day, 4.5 * day]])),
        "b": Period(0.0, 20 * day, np.zeros((0, 2))),
        "short": Period(0.0, day, np.zeros((0, 2))),
    }
    found = holdout.replay(history, ["github", "standard-webhooks"], events=20_000).set_index("policy")[
        "real"
    ]
    reach = 20 * day - 272_105.0  # watched until all attempts are made
    share = 2.5 * day / reach / 2
    assert abs(found["github"] - share) < 4 * math.sqrt(share / 34_000)
    assert found["standard-webhooks"] == 0
    with pytest.raises(ScenarioError, match="no endpoint watched"):
        holdout.replay({"short": history["short"]}, ["timepad"])


def test_a_steady_receiver_is_predicted() -> None:
    """The interval of a prediction holds what really came in the part of a steady log that was held back."""
    hidden = {
        "name": "hidden", "seed": 4, "horizon": "40d",
        "producers": {"p": {"arrivals": {"poisson": "80/h"}, "keys": {"count": 500}}},
        "endpoints": {"e": {"count": 20, "route": "by_key", "policy": "timepad", "receiver": "r"}},
        "receivers": {"r": {"latency": {"exponential": {"mean": "1s"}}, "faults": [{"outage": {
            "up": {"exponential": {"mean": "2d"}}, "down": {"exponential": {"mean": "3h"}}}}]}},
        "dispatcher": {"workers": "unlimited"},
    }  # fmt: skip
    fitted = sim.fit(sim.run(hidden, stream=False).attempts, observed=(0, 20 * 86_400))
    (row,) = holdout.predict(fitted, ["github"], days=20, worlds=20, events=10_000).itertuples()
    held = sim.run(hidden, overrides=["warmup=20d", "endpoints.e.policy=github"]).metrics["lost_share"]
    assert row.low < held < row.high
    assert len(notebook.fitted(fitted)) == len(fitted.table)


def test_a_fit_without_outages_cannot_be_drawn_again() -> None:
    """The error says what the fit lacks."""
    fitted = sim.fit(sim.run("hot-key-ordering", overrides=["horizon=30m"], stream=False).attempts)
    with pytest.raises(ScenarioError, match="has no outages to draw again"):
        holdout.predict(fitted, ["timepad"], days=1, worlds=1)


def test_a_table_is_read_with_its_intervals() -> None:
    """A row for each value, a column for each figure, mean and interval as text."""
    found = notebook.table(ROWS, ["lost_share"], "policy")
    assert found.loc["github", "lost_share"] == "2 % (1 % … 3 %)"
    assert list(found.index) == ["github", "timepad", "svix"]


def test_sentences_are_told_by_what_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    """A heading, and a line for each."""
    notebook.told({"first": ["one", "two"]})
    assert capsys.readouterr().out == "first\n- one\n- two\n"
