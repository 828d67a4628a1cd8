"""The table and the picture of a comparison: what they say, and that they say it legibly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from loadtest.agreement import Agreement, compare
from loadtest.agreement_luck import latencies
from loadtest.agreement_shown import MOST_LISTED, SIDES, picture, table
from sim import series, tables
from sim.scenario import load
from tests.agreements import BUSY, CALM, as_real, built, simulated
from tests.test_pictures import check_readable


def compared(mapping: Any, *overrides: str, **more: Any) -> Agreement:
    """A scenario against a changed run of it."""
    scenario = load(mapping)
    return compare(simulated(scenario), as_real(scenario, *overrides), built(scenario), **more)


@pytest.fixture(scope="module")
def exact() -> Agreement:
    """A comparison fate by fate, with some that are excused and some that differ."""
    return compared(CALM, "policies.m.timeout=1120ms")


@pytest.fixture(scope="module")
def spread() -> Agreement:
    """A comparison of distributions."""
    return compared({**BUSY, "horizon": "20s", "drain": "60s"}, "dispatcher.overhead=4ms")


def text_of(found: Agreement, capsys: pytest.CaptureFixture[str]) -> str:
    """The table as a pipe gets it."""
    tables.write(table(found))
    return capsys.readouterr().out


def test_the_table_lists_every_figure_and_who_differs(
    exact: Agreement, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each figure has a line with its verdict; deliveries are listed with both fates, many of them in part."""
    text = text_of(exact, capsys)
    assert "they do not agree" in text.splitlines()[0]
    for row in exact.figures:
        (line,) = (line for line in text.splitlines() if line.startswith(f"{row.name} "))
        assert f"  {'ok' if row.ok else 'no'}  " in line
    assert exact.fates is not None
    assert exact.fates.different
    assert exact.fates.excused
    for word, listed in (("differs", exact.fates.different), ("excused", exact.fates.excused)):
        assert text.count(f"  {word}: p:") == min(len(listed), MOST_LISTED)
    one = exact.fates.different[0]
    assert f"differs: {one.delivery_id}: simulated {one.sim.state} (" in text


def test_the_table_says_why_distributions_are_compared(
    spread: Agreement, capsys: pytest.CaptureFixture[str]
) -> None:
    """All reasons, how often chance fails a run, and that Kolmogorov and Smirnov decide nothing."""
    text = text_of(spread, capsys)
    assert "simulated and real agree" in text.splitlines()[0]
    assert all(reason in text for reason in spread.timing_reasons)
    assert "one run in 21" in text
    assert "decides nothing" in text


def test_an_invalid_run_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line says it, the next ones why."""
    text = text_of(compared({**CALM, "horizon": "5s"}, invalid=("2 processes died",)), capsys)
    assert "invalid" in text.splitlines()[0]
    assert "2 processes died" in text.splitlines()[1]


def panels(figure: Figure) -> dict[str, Any]:
    """The axes of a picture by their titles."""
    return {ax.get_title(loc="left").partition(":")[0]: ax for ax in figure.axes}


def lines(ax: Any) -> dict[str, Any]:
    """The lines of a panel by their labels."""
    return {line.get_label(): line for line in ax.lines}


@pytest.mark.parametrize("which", ["exact", "spread"])
def test_the_picture_can_be_read(which: str, request: pytest.FixtureRequest) -> None:
    """Large letters, no colour, and both sides named in every panel."""
    figure = picture(request.getfixturevalue(which))
    check_readable(figure)
    assert len(figure.axes) == 4
    for ax in figure.axes:
        legend = ax.get_legend()
        assert [text.get_text() for text in legend.get_texts()][:3] == list(SIDES)


def test_the_latency_panel_draws_both_distributions(spread: Agreement) -> None:
    """Each curve is that of its side: half of its deliveries took no longer than its median."""
    drawn = lines(panels(picture(spread))["Latency"])
    for name, trace in zip(SIDES, spread.sides, strict=True):
        at, share = (np.asarray(values) for values in drawn[name].get_data())
        median = float(np.median(latencies(trace)))
        below = share[at <= median].max()
        assert below == pytest.approx(0.5, abs=2 / len(latencies(trace)) + 1 / 1500)


def test_the_backlog_panel_holds_all_waiting(exact: Agreement) -> None:
    """The area below each line is the time that deliveries of that side have waited until the end of the picture."""
    ax = panels(picture(exact))["Backlog"]
    until = ax.get_xlim()[1]
    for name, trace in zip(SIDES, exact.sides, strict=True):
        at, levels = (np.asarray(values) for values in lines(ax)[name].get_data())
        waits = series.waits(trace)
        width = at[1] - at[0]
        assert float(levels.sum() * width) == pytest.approx(series.held(waits.entered, waits.left, 0, until))


def test_bars_count_attempts_by_number(exact: Agreement) -> None:
    """Three sides, three attempt numbers: each bar is as high as its count."""
    ax = panels(picture(exact))["Attempts by number"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3"]
    for bars, trace in zip(ax.containers, exact.sides, strict=True):
        counts = trace.attempts["attempt_number"].value_counts().sort_index()
        assert [bar.get_height() for bar in bars] == counts.tolist()


def test_a_run_of_nothing_is_drawn_without_an_error() -> None:
    """No delivery processed, none waiting: panels say so."""
    nothing = {
        **CALM,
        "horizon": "1s",
        "producers": {"p": {"arrivals": {"at": ["0s"]}}},
        "policies": {"m": {"schedule": ["0s"]}},
        "receivers": {"r": {"latency": "1ms", "faults": [{"error": {"probability": "100%"}}]}},
    }
    figure = picture(compared(nothing))
    check_readable(figure)
    said = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "no delivery was processed" in said
    assert "nothing waited at any time" in said
