"""The axis of time on the page of a delivery."""

from __future__ import annotations

import itertools

import pytest

from loadtest.dispatcher.panel_timeline import LEFT, RIGHT, TICK_ROOM, position, ticks, timeline
from loadtest.dispatcher.records import Attempt, Delivery
from sim.policy import SECOND


def delivery(*log: Attempt, due: int = 0, settled: int = -1) -> Delivery:
    """A delivery created at 1,000 s."""
    return Delivery(
        number=1, id="a:b", event_id="a", endpoint="b", type="t", key="", seq=-1, created=1_000 * SECOND, state=0,
        cause=0, attempts=len(log), due=due, delivered=-1, settled=settled, held=False, log=log,
    )  # fmt: skip


def attempt(number: int, start_s: float, took_s: float = 0.1, outcome: int = 1) -> Attempt:
    """An attempt so long after the creation."""
    start = 1_000 * SECOND + int(start_s * SECOND)
    return Attempt(number, number, start, start, start + int(took_s * SECOND), outcome, 500, 0)


def test_time_runs_from_left_to_right() -> None:
    """Later is further right, the creation is at the left end and the last thing at the right one."""
    for whole in (SECOND // 1000, SECOND, 86_400 * SECOND):
        places = [position(whole * n // 50, whole) for n in range(51)]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (LEFT, RIGHT)


@pytest.mark.parametrize("whole_s", [0.001, 0.7, 10, 61, 86_400, 40 * 86_400])
def test_written_times_have_room(whole_s: float) -> None:
    """From milliseconds to months there are at least two, and none runs into the next."""
    written = ticks(int(whole_s * SECOND))
    assert len(written) >= 2
    assert all(b.at - a.at >= TICK_ROOM for a, b in itertools.pairwise(written))


def test_attempts_are_drawn_with_what_they_are() -> None:
    """A mark for each, told in words; the next one where it is due; nothing due once it is settled."""
    drawn = timeline(delivery(attempt(1, 0), attempt(2, 60), due=1_900 * SECOND), 1_100 * SECOND)
    assert [mark.told for mark in drawn.marks] == [f"attempt {n}: rejected, status 500" for n in (1, 2)]
    assert drawn.marks[0].left < drawn.marks[1].left < (drawn.due or 0) == RIGHT
    assert "2 attempts" in drawn.told
    assert timeline(delivery(attempt(1, 0, outcome=0), settled=1_001 * SECOND), 0).due is None


def test_a_delivery_of_many_attempts_is_drawn_all_the_same() -> None:
    """The latest ones, with labels that do not touch."""
    drawn = timeline(delivery(*(attempt(n, n) for n in range(1, 2_001)), settled=4_000 * SECOND), 0)
    assert len(drawn.marks) == 200
    labelled = [mark.left for mark in drawn.marks if mark.label]
    assert all(b - a >= 15 for a, b in itertools.pairwise(labelled))


def test_a_delivery_without_attempts_is_drawn() -> None:
    """An axis with nothing but what is due, even due now."""
    drawn = timeline(delivery(due=1_000 * SECOND), 1_000 * SECOND)
    assert (drawn.marks, drawn.due) == ((), LEFT)
    assert "No attempt yet" in drawn.told
