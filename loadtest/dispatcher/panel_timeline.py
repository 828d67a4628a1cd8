"""The attempts of a delivery on an axis of time, as numbers that a page draws. Pure functions.

Gaps grow from seconds to days, so the axis is logarithmic: its first part, up to a three-thousandth of the whole, is
nearly even, and behind that every step is a multiple of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from loadtest.dispatcher.records import Delivery
from sim.fields import format_duration
from sim.policy import OUTCOMES, SECOND

WIDTH, HEIGHT = 720, 100
LEFT, RIGHT = 16, 704
"""Where the axis begins and ends, px of the drawing."""
EVEN_PART = 3_000
MOST_MARKS = 200
"""Only the latest attempts are drawn; more could not be told apart."""
LEAST_WIDTH = 3.0
TICK_ROOM = 52.0
LABEL_ROOM = 15.0
TICKS = (
    *(SECOND // 1000 * ms for ms in (1, 10, 100)),
    *(SECOND * s for s in (1, 10, 60, 600, 3600, 6 * 3600)),
    *(SECOND * 86_400 * days for days in (1, 3, 7, 30, 90, 365)),
)


class Mark(NamedTuple):
    """One attempt."""

    left: float
    width: float
    outcome: str
    label: str
    """Its number; empty where there is no room."""
    told: str
    """What it is, in words."""

    @property
    def middle(self) -> float:
        """Where its symbol stands."""
        return round(self.left + self.width / 2, 1)


class Tick(NamedTuple):
    """A time since the creation that is written at the axis."""

    at: float
    text: str


class Timeline(NamedTuple):
    """What is drawn."""

    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    due: float | None
    """Where the next attempt is due; None: there is none."""
    told: str
    """The whole in words."""


def timeline(delivery: Delivery, now: int) -> Timeline:
    """The attempts of a delivery; the axis begins at its creation and ends with what is known of it."""
    log = delivery.log[-MOST_MARKS:]
    waits = delivery.settled < 0
    ends = [delivery.created, *(each.finished for each in log)]
    if waits:
        ends += [delivery.due, now]
    whole = max(max(ends) - delivery.created, SECOND // 1000)

    def place(time: int) -> float:
        return position(time - delivery.created, whole)

    marks: list[Mark] = []
    labelled = -LABEL_ROOM
    for each in log:
        left, right = place(each.started), place(each.finished)
        room = left - labelled >= LABEL_ROOM
        labelled = left if room else labelled
        outcome = OUTCOMES[each.outcome]
        said = f"attempt {each.attempt_number}: {outcome}{f', status {each.status}' if each.status else ''}"
        label = str(each.attempt_number) if room else ""
        marks.append(Mark(left, max(round(right - left, 1), LEAST_WIDTH), outcome, label, said))
    return Timeline(tuple(marks), ticks(whole), place(delivery.due) if waits else None, _told(log, waits))


def position(time: int, whole: int) -> float:
    """Where a time since the creation stands on an axis that ends after ``whole``; both ns."""
    share = math.log1p(EVEN_PART * max(time, 0) / whole) / math.log1p(EVEN_PART)
    return round(LEFT + min(share, 1.0) * (RIGHT - LEFT), 1)


def ticks(whole: int) -> tuple[Tick, ...]:
    """The times that are written, with room between them; the first is the creation."""
    found = [Tick(LEFT, "0")]
    for time in TICKS:
        if time <= whole and (at := position(time, whole)) - found[-1].at >= TICK_ROOM:
            found.append(Tick(at, format_duration(time)))
    return tuple(found)


def _told(log: Sequence[object], waits: bool) -> str:
    count = len(log)
    attempts = "No attempt yet" if not count else "One attempt" if count == 1 else f"{count} attempts"
    return f"{attempts} since the creation, on a logarithmic axis of time" + (
        "; the next one is marked where it is due." if waits else "."
    )
