"""What a sender adds to each attempt, read off a real run: its own work, and how late its timers are.

``hooklab fit`` gives it as the block ``dispatcher: {overhead: …}``, and ``hooklab agree`` simulates with it. A
simulated run has neither: its overhead is that of its scenario.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sim.calibrate_durations import Parameter
from sim.fields import Nanoseconds, format_duration

OVERHEAD, WORK, TIMERS = "dispatcher.overhead", "dispatcher.overhead.work", "dispatcher.overhead.timers"
LEVEL = 0.95
"""Of intervals."""


class Overhead(NamedTuple):
    """The sender's share of each attempt, s; a number that the run does not tell is NaN, of 0 observations."""

    total: Parameter
    """The parts that are known together; one below 0, as of clocks that disagree, counts as 0."""
    work: Parameter
    """From the start of an attempt to the moment at which an idle endpoint takes it up."""
    timers: Parameter
    """By how much the starts of attempts that nothing holds up come after their due times: what timers are good to."""

    @property
    def known(self) -> bool:
        """Whether the run tells anything of it."""
        return self.total.observations > 0

    @property
    def ns(self) -> int:
        """The overhead in ns, whole us: finer is noise; 0 where nothing is known."""
        return round(self.total.value * 1e6) * 1000 if self.known else 0

    @property
    def block(self) -> dict[str, Any]:
        """The dispatcher of a scenario file."""
        return {"overhead": format_duration(Nanoseconds(self.ns))}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What cannot be told, and what speaks against the figures."""
        told = []
        if not self.known:
            told.append("overhead: no attempt shows when it was due or taken up, so none is given")
        elif not self.work.observations:
            told.append(
                "overhead: when receivers took requests up is not known (served_s), so it is the lateness of timers "
                "alone, and the latency includes the sender's work"
            )
        for part in (self.work, self.timers):
            if part.value < 0:
                told.append(
                    f"overhead: {part.name.rpartition('.')[2]} is below 0 ({part.value:.3g} s): clocks differ or went "
                    "back; it counts as 0"
                )
        return tuple(told)


def overhead(attempts: pd.DataFrame) -> Overhead:
    """Measure what the sender adds, by medians.

    ``attempts`` has ``started_s`` and, where known, ``due_s``, ``served_s``, ``processed_s``, ``finished_s``,
    ``endpoint``, ``wait_cause`` and ``tier``. What polls bring (tier 0) takes the sender no attempt.
    """
    if "tier" in attempts:
        attempts = attempts[pd.to_numeric(attempts["tier"]) > 0]
    own, late = _work(attempts), _lateness(attempts)
    # ends of both at half the error each: their sums hold together at the level
    joint = [_median("", values, (1 + LEVEL) / 2) for values in (own, late) if len(values)]
    ends = [sum(max(getattr(part, end), 0.0) for part in joint) for end in ("value", "low", "high")]
    value, low, high = ends if joint else [math.nan] * 3
    count = max((part.observations for part in joint), default=0)
    return Overhead(
        Parameter(OVERHEAD, value, low, high, "s", count),
        _median(WORK, own, LEVEL),
        _median(TIMERS, late, LEVEL),
    )


def _work(attempts: pd.DataFrame) -> Any:
    """From start to being taken up, s, of attempts that found their endpoint idle."""
    if "served_s" not in attempts:
        return np.empty(0)
    frame = attempts.dropna(subset=["served_s"])
    if "endpoint" not in frame:
        frame = frame.assign(endpoint="")
    frame = frame.sort_values(["endpoint", "started_s"], kind="stable")
    ended = (
        frame["processed_s"].fillna(frame["finished_s"]) if "processed_s" in frame else frame["finished_s"]
    )
    until = ended.groupby(frame["endpoint"], observed=True).cummax()
    busy = until.groupby(frame["endpoint"], observed=True).shift() > frame["started_s"]
    return np.round((frame["served_s"] - frame["started_s"])[~busy].to_numpy(dtype=float), 9)


def _lateness(attempts: pd.DataFrame) -> Any:
    """From due to start, s, of attempts that nothing held up."""
    if not {"due_s", "wait_cause"} <= set(attempts):
        return np.empty(0)
    free = attempts[attempts["wait_cause"].astype(str) == ""].dropna(subset=["due_s"])
    return np.round((free["started_s"] - free["due_s"]).to_numpy(dtype=float), 9)


def _median(name: str, values: Any, level: float) -> Parameter:
    """The median with an interval of order statistics."""
    own, count = np.sort(values), len(values)
    if not count:
        return Parameter(name, math.nan, math.nan, math.nan, "s", 0)
    low, high = (int(stats.binom.ppf(p, count, 0.5)) for p in ((1 - level) / 2, (1 + level) / 2))
    return Parameter(
        name, float(np.median(own)), float(own[low]), float(own[min(high, count - 1)]), "s", count
    )
