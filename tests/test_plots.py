"""Pictures: what they show, that they can be read, and that no trace is too poor to be drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import matplotlib.text
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sim
from sim import plots, plots_style
from sim.metrics import metrics

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "horizon": "10m",
    "drain": "20m",
    "producers": {"shop": {"arrivals": {"poisson": "2/s"}}},
    "endpoints": {"shops": {"policy": "mine", "receiver": "good"}},
    "policies": {"mine": {"schedule": ["0s", "10s", "1m", "5m"]}},
    "receivers": {
        "good": {
            "latency": {"exponential": {"mean": "50ms"}},
            "servers": 2,
            "faults": [{"outage": {"windows": [["2m", "4m"]]}}],
        },
    },
}
PANELS = (plots.latency_cdf, plots.backlog, plots.rates, plots.queues)
Panel = Callable[..., Axes]


def scenario(**changes: Any) -> dict[str, Any]:
    """The scenario with top-level keys replaced."""
    return {**copy.deepcopy(SCENARIO), **changes}


@pytest.fixture(scope="module")
def trace() -> sim.Trace:
    """A run with an outage in the middle."""
    return sim.run(SCENARIO).trace


def drawn(panel: Panel, trace: sim.Trace) -> Axes:
    """A panel on axes of its own, drawn once so that whatever is wrong with it shows."""
    figure = Figure()
    ax = figure.subplots()
    panel(trace, ax)
    plots.png(figure)
    return ax


def legend(ax: Axes) -> list[str]:
    """The texts of a legend."""
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def texts(figure: Figure) -> list[matplotlib.text.Text]:
    """All visible texts of a figure that say something."""
    found = figure.findobj(matplotlib.text.Text)
    return [text for text in found if isinstance(text, matplotlib.text.Text) and text.get_text().strip()]


def test_the_overview_has_four_panels_and_says_what_it_shows(trace: sim.Trace) -> None:
    """Scenario, seed and engine head the page, and every axis has a label with its unit."""
    figure = plots.overview(trace)
    assert figure.get_suptitle() == f"tiny, seed 3, {trace.meta['engine']} engine"
    assert len(figure.axes) == 4
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "time, logarithmic",
        *["time since the start, min"] * 3,
    ]
    assert all(ax.get_ylabel() and ax.get_title(loc="left") for ax in figure.axes)


def test_the_overview_can_be_read_from_afar(trace: sim.Trace) -> None:
    """No text is smaller than 11 points."""
    figure = plots.overview(trace)
    plots.png(figure)
    assert min(float(text.get_fontsize()) for text in texts(figure)) >= 11


def test_undocumented_presets_are_named() -> None:
    """A picture whose gaps nobody documents says so by itself."""
    endpoints = {"shops": {"policy": "dreamkas", "receiver": "good"}}
    result = sim.run(scenario(endpoints=endpoints, drain="1h"))
    assert "gaps assumed, nobody documents them: dreamkas" in result.plot().get_suptitle()


def test_a_notebook_shows_the_figure_by_itself(trace: sim.Trace) -> None:
    """The figure renders itself as PNG, without pyplot's registry of figures."""
    picture = plots.overview(trace)
    assert isinstance(picture, plots.Picture)
    assert picture._repr_png_().startswith(b"\x89PNG")


def test_latency_is_marked_at_its_quantiles(trace: sim.Trace) -> None:
    """The curve rises to the whole, and p50 and p99 are those of the metrics."""
    ax = drawn(plots.latency_cdf, trace)
    curve = ax.lines[0]
    assert ax.get_xscale() == "log"
    assert list(curve.get_ydata()) == sorted(curve.get_ydata())
    assert curve.get_ydata()[-1] == 1.0
    figures = metrics(trace)
    assert legend(ax) == [
        f"{name}  {plots.shown_duration(figures[f'delivery_latency_s_{name}'])}" for name in ("p50", "p99")
    ]


def test_a_long_curve_keeps_its_tail(trace: sim.Trace) -> None:
    """Thinning a curve for drawing leaves out none of its last points."""
    at, share = plots_style.thinned(
        trace.deliveries["created_s"].repeat(5).to_numpy(), trace.deliveries.index.repeat(5)
    )
    assert 1500 < len(at) == len(share) <= 2000


def test_backlog_is_stacked_by_attempt_with_hatches(trace: sim.Trace) -> None:
    """Every attempt waited for has an area of its own; neighbours differ in more than colour."""
    ax = drawn(plots.backlog, trace)
    assert [text for text in legend(ax) if text.startswith("attempt")] == [
        "attempt 2",
        "attempt 3",
        "attempt 4",
    ]
    looks = [(area.get_hatch(), tuple(area.get_facecolor()[0])) for area in ax.collections]
    assert len(set(looks)) == len(looks)
    assert len({hatch for hatch, _ in looks}) > 1
    assert all(len(set(colour[:3])) == 1 for _, colour in looks)


def test_many_tiers_are_drawn_as_a_few() -> None:
    """Late attempts share an area, and polled deliveries have their own."""
    endpoints = {
        "shops": {"policy": "mine", "receiver": "good"},
        "pollers": {"receiver": "good", "mode": {"poll": {"every": "1m"}}},
    }
    policies = {"mine": {"schedule": ["1s", {"delay": "5s", "times": 14}]}}
    ax = drawn(plots.backlog, sim.run(scenario(endpoints=endpoints, policies=policies)).trace)
    labels = [text for text in legend(ax) if "attempt" in text or "poll" in text]
    assert labels == ["for a poll", *(f"attempt {n}" for n in range(1, 7)), "attempt 7 and later"]


def test_lines_differ_in_style(trace: sim.Trace) -> None:
    """Attempts and goodput, and the two queues, can be told apart without colour."""
    for panel in (plots.rates, plots.queues):
        first, second = drawn(panel, trace).lines[:2]
        assert first.get_linestyle() != second.get_linestyle()
        assert first.get_linewidth() != second.get_linewidth()


def test_the_last_outage_is_shaded_and_the_horizon_marked(trace: sim.Trace) -> None:
    """The outage stands where it was, and a line shows where producers stopped if the axis goes on."""
    ax = drawn(plots.rates, trace)
    (outage,) = ax.patches
    assert outage.get_path().get_extents(outage.get_patch_transform()).intervalx.tolist() == [120.0, 240.0]
    assert "last outage" in legend(ax)
    late = sim.run(
        scenario(receivers={"good": {"latency": "0s", "faults": [{"error": {"probability": "100%"}}]}})
    )
    ax = drawn(plots.backlog, late.trace)
    assert "producers stop" in legend(ax)
    assert 600 < ax.get_xlim()[1] <= 1_800 * 1.01


SPANS = [
    # horizon, unit of the axis
    ("30s", "s"),
    ("20m", "min"),
    ("10h", "h"),
    ("8d", "d"),
]


@pytest.mark.parametrize(("horizon", "unit"), SPANS)
def test_time_has_the_unit_that_fits(horizon: str, unit: str) -> None:
    """Seconds, minutes, hours or days, with round ticks inside the axis."""
    few = {"shop": {"arrivals": {"at": ["1s", "2s"]}}}
    ax = drawn(plots.queues, sim.run(scenario(horizon=horizon, producers=few)).trace)
    assert ax.get_xlabel() == f"time since the start, {unit}"
    ticks = ax.get_xticks()
    assert 3 <= len(ticks) <= 10
    assert ticks[0] == 0
    assert ticks[-1] <= ax.get_xlim()[1]


POOR = {
    "nothing happened": {"producers": {"shop": {"arrivals": {"at": ["1h"]}}}},
    "one delivery": {"producers": {"shop": {"arrivals": {"at": ["1s"]}}}},
    "all lost": {"receivers": {"good": {"latency": "0s", "faults": [{"error": {"probability": "100%"}}]}}},
    "no time at all": {"receivers": {"good": {"latency": "0s"}}},
    "warm-up covers all": {"producers": {"shop": {"arrivals": {"at": ["1s"]}}}, "warmup": "5m"},
    "a name in no font": {"name": "雪 $x^$ <b>"},
}


@pytest.mark.parametrize("changes", POOR.values(), ids=POOR.keys())
def test_no_trace_is_too_poor_to_be_drawn(changes: dict[str, Any]) -> None:
    """A picture of nothing is a picture, without a warning."""
    assert plots.png(sim.run(scenario(**changes)).plot()).startswith(b"\x89PNG")


def test_a_picture_of_nothing_says_so() -> None:
    """Where no curve can be drawn the panel tells why."""
    result = sim.run(scenario(**POOR["all lost"]))
    found = [text.get_text() for text in texts(result.plot())]
    assert "no delivery was processed\nlost 100 %" in found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.__name__)
def test_panels_draw_on_any_axes(trace: sim.Trace, panel: Panel) -> None:
    """A notebook may put a panel wherever it likes, or let it have a picture of its own."""
    ax = drawn(panel, trace)
    assert ax.get_title(loc="left")
    alone = panel(trace)
    assert isinstance(alone.figure, plots.Picture)
    assert alone.get_title(loc="left") == ax.get_title(loc="left")


def test_the_tail_ends_at_what_is_lost() -> None:
    """Of deliveries of which half are lost, the share not yet processed falls to a half and stays there."""
    receivers = {"good": {"latency": "1s", "faults": [{"outage": {"windows": [["5m", "1d"]]}}]}}
    result = sim.run(scenario(receivers=receivers, policies={"mine": {"schedule": ["0s"]}}))
    ax = drawn(plots.latency_tail, result.trace)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    share = ax.lines[0].get_ydata()
    assert share[0] == 1.0
    assert share[-1] == pytest.approx(result.metrics["lost_share"])


def test_tails_of_several_traces_differ_in_style(trace: sim.Trace) -> None:
    """Every trace has its name in the legend and a line of its own style."""
    ax = Figure().subplots()
    assert plots.latency_tail({"one $x": trace, "two": trace}, ax) is ax
    assert legend(ax) == ["one $x", "two"]
    first, second = ax.lines
    assert (first.get_linestyle(), first.get_color()) != (second.get_linestyle(), second.get_color())
    plots.png(ax.figure)


def test_a_tail_of_nothing_says_so() -> None:
    """Where nothing was processed there is no curve."""
    ax = drawn(plots.latency_tail, sim.run(scenario(**POOR["all lost"])).trace)
    assert "no delivery was processed" in [text.get_text() for text in ax.texts]
