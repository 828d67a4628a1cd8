"""The records of the compiled engine: what it knows of a run, its endpoints and its worker pools.

They mirror what ``dispatch`` and ``engine_simpy`` keep in objects. Every field is an int64 unless it says
otherwise; times are ns; ``NONE`` stands for no slot, tier or time.
"""

from __future__ import annotations

import numpy as np

from sim import dice, policy

FOREVER = policy.FOREVER

# Why the loop returns.
DONE, PAUSED, STANDSTILL, STOPPED = range(4)
NEED_EVENTS, NEED_SLOTS, NEED_ROWS, NEED_WAKES, NEED_STREAMS, NEED_WORKS, NEED_TRACKS = range(4, 11)


def integers(names: str) -> list[tuple[str, str]]:
    """Fields of a record, all int64."""
    return [(name, "i8") for name in names.split()]


RUN = np.dtype(
    integers(
        "now next_number open producing free_slot free_slots slots_used ends dues wakes events_out attempts_out "
        "polls_out looking held_due streams_used step wanted culprit pending dispatching"
    )
)
"""What changes over a run; one record."""

SETTINGS = np.dtype(
    integers(
        "horizon end seed overhead per_tier ordering holds_id keys tracing most_tiers standstill most_open"
    )
)
"""What does not; one record."""
NO_ORDER, BY_KEY = 0, 1  # by endpoint otherwise

MEMBER = np.dtype(
    integers("policy receiver most_in_flight rate poll word watched free free_end starts starts_end ring")
)
"""What is fixed about an endpoint; ``free`` … are where its receiver's books lie."""

_WINDOW = [("bucket", "i8"), ("failures", "i8", (policy.RING,)), ("attempts", "i8", (policy.RING,))]
CONDITION = np.dtype(
    [
        *integers("in_flight free_again rested_until disabled wake_at mail mail_end parked"),
        *integers("breaker opened_until failing_since consecutive budget_at"),
        ("tokens", "f8"),
        ("breaker_window", _WINDOW),
        ("disable_window", _WINDOW),
    ]
)
"""What changes about an endpoint."""

POOL = np.dtype(integers("free head tail heap looks next_looking used"))
"""A worker pool and what waits for it: a lane, or a tier under ``per_tier``."""

CURSOR = np.dtype(integers("position length time index done types keys"))
"""Where a producer is in its chunk of events; ``types``, ``keys``: where its own types and keys begin."""

RING = np.dtype(integers("head tail"))
PARKED = np.dtype(integers("root"))
FAN = np.dtype(integers("first count by_key"))
STEP = np.dtype(integers("at change"))
"""A change of the number of workers."""

RINGS = 32
"""Rings of due times for each policy: one for each attempt number; the last serves the rest too."""
STEPS_PER_PAUSE = 1 << 20
OBJECT_DELETED, JITTER = int(dice.Stream.OBJECT_DELETED), int(dice.Stream.JITTER)
TIME, TYPE, KEY, SEQ = range(4)
