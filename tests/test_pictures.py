"""Pictures of policies and curves: what they show, files, and that they can be read without colour."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import sim
from sim import plots, presets
from sim.errors import ScenarioError

TRADES = pd.DataFrame(
    {
        "policy": ["never loses", "fast", "worse than fast", "no duplicates $<b>"],
        "lost_share": [0.0, 0.02, 0.03, 0.01],
        "delivery_latency_s_p99": [3600.0, 2.0, 2.0, 60.0],
        "duplicates_per_delivery": [0.1, 0.01, 0.01, 0.0],
        "attempts_per_delivery": [1.5, 1.1, 1.1, 1.0],
    }
)
CURVE = pd.DataFrame(
    {
        "x": [8, 2, 4, 6],
        "mean": [1.0, 40.0, 9.0, 3.0],
        "low": [0.8, 30.0, 8.0, 2.5],
        "high": [1.2, 50.0, 10.0, 3.5],
    }
)
PLAN = {"leaf": "dispatcher.workers", "metric": "delivery_latency_s_p99"}


def legend(ax: Axes) -> list[str]:
    """The texts of a legend."""
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def check_readable(figure: Any) -> None:
    """No text is small, and nothing needs colour: every line and face is grey."""
    plots.png(figure)
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip()]
    assert min(float(text.get_fontsize()) for text in texts) >= 11
    for ax in figure.axes:
        for line in ax.lines:
            assert len(set(to_rgb(line.get_color()))) == 1, line
        for area in ax.collections:
            assert all(len(set(colour[:3])) == 1 for colour in area.get_facecolor())


# --------------------------------------------------------------------------- timelines


def marks(ax: Axes, row: int) -> list[float]:
    """Where the attempts of a row are drawn."""
    own = [line for line in ax.lines if line.get_marker() == "|" and line.get_ydata()[0] == row]
    return [float(at) for at in own[0].get_xdata()]


def test_all_presets_stand_on_one_page() -> None:
    """Every bundled policy has a row with its name, its number of attempts and its marks, in readable letters."""
    ax = plots.timelines()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(name.removesuffix(" *") for name in names) == sorted(presets.names("policies"))
    assert all(marks(ax, row) for row in range(len(names)))
    width, height = ax.figure.get_size_inches()
    assert height / width < 1.6  # a sheet of paper is 1.41
    check_readable(ax.figure)


def test_a_timeline_has_a_mark_at_each_attempt() -> None:
    """Marks stand at the sums of gaps, the first at the edge, and the text says how many and how long."""
    ax = plots.timelines(["timepad"])
    first, *rest = marks(ax, 0)
    assert rest == [3600.0, 90_000.0]
    assert first < 10
    assert ax.get_xticklabels()[0].get_text() == "at once"
    assert [text.get_text() for text in ax.texts] == ["3 in 25 h"]
    assert "nobody documents" not in ax.get_xlabel()


def test_undocumented_gaps_are_marked() -> None:
    """A policy whose gaps nobody documents has a star, and the axis says what it means."""
    ax = plots.timelines(["shopify-like"])
    assert ax.get_yticklabels()[0].get_text() == "shopify-like *"
    assert "nobody documents these gaps" in ax.get_xlabel()


def test_policies_of_a_scenario_can_be_drawn() -> None:
    """Blocks by name are drawn as bundled ones are; without an end an arrow goes on, and max_age cuts."""
    block = sim.load(
        {
            "horizon": "1h",
            "drain": "1h",
            "producers": {"p": {"arrivals": {"poisson": "1/s"}}},
            "endpoints": {
                "e": {"policy": "endless", "receiver": "r"},
                "f": {"policy": "old", "receiver": "r"},
                "g": {"policy": "again", "receiver": "r"},
            },
            "policies": {
                "endless": {"schedule": ["0s", {"delay": "1m", "times": "forever"}]},
                "old": {"schedule": ["0s", {"delay": "10s", "times": 9}], "max_age": "35s"},
                "again": {"schedule": [{"delay": "0s", "times": "forever"}], "max_attempts": 3},
            },
            "receivers": {"r": {"latency": "0s"}},
        }
    ).policies
    ax = plots.timelines(block)
    assert [text.get_text() for text in ax.texts] == ["∞ attempts", "4 in 30 s", "3 in 0 s"]
    assert marks(ax, 1)[1:] == [10.0, 20.0, 30.0]
    assert [line.get_marker() for line in ax.lines].count(">") == 1
    check_readable(ax.figure)


def test_no_policy_is_a_picture_too() -> None:
    """An empty choice says so; an unknown name is an error that names the nearest."""
    assert [text.get_text() for text in plots.timelines([]).texts] == ["no policy to draw"]
    with pytest.raises(ScenarioError, match="did you mean svix"):
        plots.timelines(["svixx"])


# --------------------------------------------------------------------------- trade-offs


def test_the_front_holds_who_is_beaten_by_nobody() -> None:
    """A policy as good in everything and better in something takes another off the front; equals both stay."""
    assert plots.pareto(TRADES).tolist() == [True, True, False, True]
    twice = pd.concat([TRADES, TRADES[1:2]], ignore_index=True)
    assert plots.pareto(twice).tolist() == [True, True, False, True, True]
    missing = TRADES.assign(
        delivery_latency_s_p99=[np.nan, 2.0, 2.0, 60.0], lost_share=[1.0, 0.02, 0.03, 0.01]
    )
    assert plots.pareto(missing).tolist() == [False, True, False, True]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 4), min_size=1, max_size=8))
def test_the_front_is_that_of_its_definition(rows: list[tuple[float, ...]]) -> None:
    """Row by row: on the front unless another is nowhere worse and somewhere better."""
    frame = pd.DataFrame(rows, columns=TRADES.columns[1:])
    expected = [
        not any(all(b <= a for a, b in zip(row, other, strict=True)) and other != row for other in rows)
        for row in rows
    ]
    assert plots.pareto(frame).tolist() == expected


def test_a_trade_off_names_every_policy_and_marks_the_front() -> None:
    """Filled marks are the front; the list has duplicates and load; a policy's name is not read as mathematics."""
    ax = plots.trade_off(TRADES)
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, False, True, False]
    assert legend(ax)[3] == "4  no duplicates $<b>: 0 duplicates a delivery, load ×1"
    assert ax.get_xscale() == "log"
    assert points[0].get_markersize() > points[3].get_markersize()
    assert ax.get_ylabel() == "lost_share (%)"
    check_readable(ax.figure)


def test_a_figure_of_zero_has_a_place_on_a_logarithmic_axis() -> None:
    """What loses nothing stands at the low end of a logarithmic axis, at a tick that says 0."""
    frame = TRADES.assign(lost_share=[0.0, 0.0001, 0.1, 0.01])
    ax = plots.trade_off(frame)
    assert ax.get_yscale() == "log"
    assert ax.get_yticklabels()[0].get_text() == "0"
    assert ax.lines[0].get_ydata()[0] == ax.get_yticks()[0] > 0


def test_panels_show_all_four_figures() -> None:
    """One panel for each figure, one row for each policy, names on the front in bold."""
    figure = plots.trade_off_panels(TRADES)
    assert [ax.get_xlabel().split()[0] for ax in figure.axes] == list(TRADES.columns[1:])
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == TRADES["policy"].tolist()
    assert [label.get_fontweight() for label in labels] == ["bold", "bold", "normal", "bold"]
    check_readable(figure)


def test_a_frame_without_its_columns_is_refused() -> None:
    """The error names the columns that are missing."""
    with pytest.raises(ScenarioError, match="lacks the columns policy, attempts_per_delivery"):
        plots.trade_off(TRADES[["lost_share", "delivery_latency_s_p99", "duplicates_per_delivery"]])
    with pytest.raises(ScenarioError, match="lacks the columns low, high"):
        plots.curve(CURVE[["x", "mean"]], metric="lost_share", x_label="workers")


POOR = {
    "one policy": TRADES[:1],
    "nothing delivered": TRADES.assign(delivery_latency_s_p99=np.nan),
    "nothing lost": TRADES.assign(lost_share=0.0),
    "no time at all": TRADES.assign(delivery_latency_s_p99=0.0, duplicates_per_delivery=0.0),
    "a figure missing": TRADES.assign(duplicates_per_delivery=[np.nan, 0.1, 0.2, np.nan]),
    "no policy": TRADES[:0],
}


@pytest.mark.parametrize("frame", POOR.values(), ids=POOR.keys())
def test_no_comparison_is_too_poor_to_be_drawn(frame: pd.DataFrame) -> None:
    """A picture of little is a picture, without a warning."""
    for figure in (plots.trade_off(frame).figure, plots.trade_off_panels(frame)):
        assert plots.png(figure).startswith(b"\x89PNG")


# --------------------------------------------------------------------------- curves


def test_a_curve_has_a_band_and_is_sorted() -> None:
    """Points are joined in order of x whatever the order of rows; the interval is a hatched band."""
    ax = plots.curve(CURVE, metric="delivery_latency_s_p99", x_label="workers")
    (line,) = ax.lines
    assert list(line.get_xdata()) == [2, 4, 6, 8]
    assert list(line.get_ydata()) == [40.0, 9.0, 3.0, 1.0]
    (band,) = ax.collections
    assert band.get_hatch()
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("workers", "delivery_latency_s_p99 (time)")
    assert legend(ax) == ["interval of the mean", "mean"]
    check_readable(ax.figure)


def test_a_plan_shows_a_zero_beside_what_lies_decades_above() -> None:
    """Means from 1 ms to 20 s: logarithmic, with a place and a label for 0; up to 1:50 it stays even."""
    means = [20.0, 3.0, 0.001, 0.0]
    frame = pd.DataFrame({"x": [40, 45, 50, 55], "mean": means, "low": [-1.0, 2.0, 0.0, 0.0], "high": means})
    ax = plots.plan_curve(frame, limit=0.1, answer=55.0, **PLAN)
    assert ax.get_yscale() == "log"
    assert ax.get_yticklabels()[0].get_text() == "0"
    zero = ax.get_yticks()[0]
    (curve,) = [line for line in ax.lines if line.get_label() == "mean"]
    assert list(curve.get_ydata()) == [20.0, 3.0, 0.001, zero]
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert list(star.get_ydata()) == [zero]
    assert ax.get_ylim()[0] < zero < 0.001
    assert ax.get_ylim()[1] > 20
    check_readable(ax.figure)
    even = plots.plan_curve(frame.assign(mean=[20.0, 3.0, 0.4, 0.0], high=[20.0, 3.0, 0.4, 0.0]), **PLAN)
    assert even.get_yscale() == "linear"


def test_several_series_can_be_told_apart() -> None:
    """Each series has its name, its line style and its marker."""
    frame = pd.concat([CURVE.assign(series=name) for name in ("a", "b", "c")])
    ax = plots.curve(frame, metric="lost_share", x_label="workers")
    assert legend(ax) == ["a", "b", "c"]
    assert len({(str(line.get_linestyle()), line.get_color(), line.get_marker()) for line in ax.lines}) == 3
    assert len({line.get_marker() for line in ax.lines}) == 3
    check_readable(ax.figure)


def overlapping(ax: Axes) -> list[str]:
    """Labels of the axis across that touch the one to their left."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    low, high = sorted(ax.get_xlim())
    shown = [
        label.label1
        for label in ax.xaxis.get_major_ticks()
        if low <= label.get_loc() <= high and label.label1.get_text()
    ]
    boxes = sorted(((label.get_window_extent(), label.get_text()) for label in shown), key=lambda b: b[0].x0)
    return [after[1] for before, after in itertools.pairwise(boxes) if after[0].x0 <= before[0].x1]


@pytest.mark.parametrize("values", [range(1, 13), range(1, 200), [1, 2, 3, 1000], range(50_000, 50_040)])
def test_values_that_were_tried_are_labelled_as_they_were_written(values: Any) -> None:
    """On a scale of either kind, with their units, as many as have room; the first always has."""
    frame = pd.DataFrame(
        {"x": [float(value) for value in values], "mean": 1.0, "low": np.nan, "high": np.nan}
    )
    frame["written"] = [f"{value}ms" for value in values]
    ax = plots.curve(frame, metric="attempts_per_delivery", x_label="policies.m.timeout")
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels[0] == f"{values[0]}ms"
    assert len(labels) >= 3
    assert set(labels) <= set(frame["written"])
    assert overlapping(ax) == []


def test_labels_of_narrow_panels_have_room() -> None:
    """Latencies from a second to days in a quarter of a picture."""
    spread_out = TRADES.assign(delivery_latency_s_p99=[0.8, 90_000.0, 7.0, 20_000.0])
    figure = plots.trade_off_panels(spread_out)
    assert [overlapping(ax) for ax in figure.axes] == [[]] * 4


def test_goodput_stands_beside_what_is_asked_for() -> None:
    """The diagonal is all of it, the capacity is a line, and both axes start at 0 and have their units."""
    frame = pd.DataFrame({"x": [10.0, 50.0, 90.0], "mean": [10.0, 50.0, 30.0], "low": np.nan, "high": np.nan})
    ax = plots.goodput_by_load(frame, capacity_per_s=60.0)
    assert legend(ax) == ["mean", "all of it", "capacity"]
    assert (ax.get_xlim()[0], ax.get_ylim()[0]) == (0, 0)
    assert ax.get_ylim()[1] > 90
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "offered load, deliveries/s",
        "goodput, first processings/s",
    )
    assert not ax.collections
    check_readable(ax.figure)


def test_a_plan_shows_its_limit_and_its_answer() -> None:
    """The SLO is a line with what misses it hatched, and the answer a star on the curve."""
    ax = plots.plan_curve(CURVE, limit=5.0, answer=6, **PLAN)  # type: ignore[arg-type]
    assert legend(ax) == ["interval of the mean", "mean", "SLO: ≤ 5 s", "misses it", "answer: 6"]
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([6], [3.0])
    check_readable(ax.figure)


def test_a_plan_without_an_answer_says_so() -> None:
    """Where nothing meets the SLO, its line is on the picture all the same."""
    for limit, at_most in ((0.1, True), (1000.0, False)):
        ax = plots.plan_curve(CURVE, limit=limit, at_most=at_most, **PLAN)  # type: ignore[arg-type]
        assert "no setting tried meets it" in legend(ax)
        low, high = ax.get_ylim()
        assert low < limit < high


EMPTY = CURVE[:0]
POOR_CURVES = {
    "one point": CURVE[:1],
    "nothing": EMPTY,
    "all zero": CURVE.assign(mean=0.0, low=0.0, high=0.0),
    "no figure": CURVE.assign(mean=np.nan, low=np.nan, high=np.nan),
    "negative": CURVE.assign(x=[-1, 0, 1, 2]),
}


@pytest.mark.parametrize("frame", POOR_CURVES.values(), ids=POOR_CURVES.keys())
def test_no_curve_is_too_poor_to_be_drawn(frame: pd.DataFrame) -> None:
    """Few, no or odd points are a picture, without a warning."""
    for ax in (
        plots.curve(frame, metric="lost_share", x_label="x"),
        plots.plan_curve(frame, limit=1.0, answer=2, **PLAN),  # type: ignore[arg-type]
        plots.goodput_by_load(frame),
    ):
        assert plots.png(ax.figure).startswith(b"\x89PNG")  # type: ignore[arg-type]


# --------------------------------------------------------------------------- files


def test_pictures_become_files(tmp_path: Path) -> None:
    """The ending decides; an SVG is XML with outlines for letters, the same bytes each time; others are refused."""
    figure = plots.timelines(["svix"]).figure
    plots.save(figure, tmp_path / "a.svg")  # type: ignore[arg-type]
    plots.save(figure, tmp_path / "a.PNG")  # type: ignore[arg-type]
    svg = (tmp_path / "a.svg").read_bytes()
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert b"<text" not in svg
    assert plots.svg(plots.timelines(["svix"]).figure) == svg  # type: ignore[arg-type]
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ScenarioError, match=r"a\.pdf must end in \.svg or \.png"):
        plots.save(figure, tmp_path / "a.pdf")  # type: ignore[arg-type]


def test_all_pictures_draw_on_given_axes() -> None:
    """A notebook puts pictures side by side."""
    figure = Figure(figsize=(20, 20))
    panels = figure.subplots(2, 2).ravel()
    assert plots.timelines(["svix"], panels[0]) is panels[0]
    assert plots.trade_off(TRADES, panels[1]) is panels[1]
    assert plots.goodput_by_load(CURVE, panels[2]) is panels[2]
    assert plots.plan_curve(CURVE, panels[3], limit=5.0, answer=6, **PLAN) is panels[3]  # type: ignore[arg-type]
    plots.png(figure)


def test_every_name_of_the_pictures_is_there() -> None:
    """What ``sim.plots`` exports is sorted and exists."""
    assert list(plots.__all__) == sorted(plots.__all__)
    assert all(hasattr(plots, name) for name in plots.__all__)
