"""Real time as int nanoseconds since 1970 that never goes back.

A process reads the wall clock once, when it starts, and from then on only the monotonic clock: when somebody sets
the clock, waits stay as long as they should be. Processes of one test on one machine share the anchor through
``HOOKLAB_CLOCK_ANCHOR``, so that a time of one can be compared with a time of another to the nanosecond.
"""

from __future__ import annotations

import os
import time

ANCHOR_VARIABLE = "HOOKLAB_CLOCK_ANCHOR"
FARTHEST_START = 366 * 86_400 * 1_000_000_000
"""A start further away from now is a mistake of units, ns."""


def anchor() -> int:
    """Wall clock less monotonic clock, ns: the environment's, or what this moment gives."""
    return int(os.environ.get(ANCHOR_VARIABLE) or time.time_ns() - time.monotonic_ns())


ANCHOR = anchor()


def now() -> int:
    """Nanoseconds since 1970 by the anchored clock."""
    return ANCHOR + time.monotonic_ns()


def is_far(start: int) -> bool:
    """Whether a start is so far from now that it must be a mistake."""
    return abs(start - now()) > FARTHEST_START


def drift() -> int:
    """How far the wall clock has moved away from this one, ns: somebody set it, or the network corrects it."""
    return time.time_ns() - now()
