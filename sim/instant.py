"""What comes first at one instant, and what a clock must offer to those who decide who may start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

# Kinds of moment, in the order in which they happen at one instant. Receivers need none: they know the future
# of a request when it arrives. Dispatch is last but for the
# end of the run: it runs when nothing else is left, starts all it can, and what
# that causes at the same instant runs before it is asked again.
WORKERS, ATTEMPT, ENDPOINT, DUE, EVENT, DISPATCH, END = 1, 2, 3, 4, 5, 6, 7


class Clock(Protocol):
    """Time in ns, simulated or real."""

    @property
    def now(self) -> int:
        """The current time, ns; it stands still within one instant."""

    def call(self, time: int, kind: int, number: int, function: Callable[[Any], None]) -> None:
        """Call a function at a moment of this kind and id; what it is given means nothing."""
