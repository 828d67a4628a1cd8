"""Real time for ``sim.dispatch``: moments are called by the event loop, many by one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from loadtest import clock
from sim import instant

Moment = tuple[int, int, int, int, Callable[[Any], None]]


class RealClock:
    """The clock of a running dispatcher. Moments come late by what the loop needs, never early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.moments: list[Moment] = []
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = 0
        self.made = 0
        self.stopped = False

    @property
    def now(self) -> int:
        """Nanoseconds since 1970."""
        return clock.now()

    def call(self, time: int, kind: int, number: int, function: Callable[[Any], None]) -> None:
        """Call a function at a moment, or as soon as the loop comes to it if that has passed."""
        if kind == instant.DISPATCH:  # at once, but after all that is going on in this turn of the loop
            self.loop.call_soon(self._dispatch, function)
            return
        self.made += 1
        heappush(self.moments, (time, kind, number, self.made, function))
        if self.timer is None or time < self.timer_at:
            self._arm()

    def stop(self) -> None:
        """Nothing is called any more."""
        self.stopped = True
        if self.timer is not None:
            self.timer.cancel()

    def _dispatch(self, function: Callable[[Any], None]) -> None:
        if not self.stopped:
            function(None)

    def _arm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None
        if self.moments and not self.stopped:
            self.timer_at = self.moments[0][0]
            wait = max(self.timer_at - clock.now(), 0) / 1e9
            self.timer = self.loop.call_later(wait, self._run)

    def _run(self) -> None:
        self.timer = None
        while self.moments and self.moments[0][0] <= clock.now() and not self.stopped:
            heappop(self.moments)[4](None)
        self._arm()
