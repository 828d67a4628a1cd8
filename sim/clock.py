"""A SimPy environment in which everything at one instant has its place: (time, kind, id).

SimPy breaks ties in time by priority, then by age. Here every visible moment is a ``Moment`` whose priority
holds kind and id. SimPy's own wake-ups (a started process, a triggered event) have the priorities 0 and 1:
they come before any moment of the instant, in the order in which they were caused. A delivery never has two
moments ahead of it, so that its attempt number need not take part.

Time is int nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

import simpy
from simpy.events import EventPriority


class Moment(simpy.Event):
    """A point in time at which a process goes on, or a function is called: an event triggered from the start."""

    _ok = True
    _value = None

    def __init__(self, clock: Clock) -> None:
        self.env = clock
        self.callbacks = []


class Clock(simpy.Environment):
    """The simulated time of a run, in ns."""

    _now: int

    def __init__(self) -> None:
        super().__init__(initial_time=0)

    @property
    def now(self) -> int:
        """The current time, ns."""
        return self._now

    def at(self, time: int, kind: int, number: int) -> Moment:
        """A moment to wait for: ``yield clock.at(…)``."""
        moment = Moment(self)
        # what Environment.schedule does, with the time itself instead of a delay
        heappush(self._queue, (time, EventPriority((kind << 56) + number), next(self._eid), moment))
        return moment

    def call(self, time: int, kind: int, number: int, function: Callable[[simpy.Event], None]) -> None:
        """Call a function at a moment; it is given the moment."""
        self.at(time, kind, number).callbacks = [function]
