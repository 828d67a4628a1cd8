"""Where the difference between a real run and its simulation comes from: the same delivery on both sides.

Luck has addresses, so a delivery of the one run has its twin in the other. Where both have the same fate and are
processed first by the same attempt, both went the same way, and how much longer the one took than the other divides
exactly into the parts of that way (``PARTS``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from loadtest.agreement_fates import fates
from loadtest.agreement_shown import SIDES
from sim import yamlio
from sim.policy import SECOND
from sim.scenario import load
from sim.shown import MISSING, shown_duration, shown_share

if TYPE_CHECKING:
    from loadtest.agreement import Agreement
    from sim.trace import Trace

PARTS: Mapping[str, str] = {
    "intake_s": "from the event to its first due time",
    "start_s": "from due times to starts",
    "way_s": "from starts to when the receiver takes it up",
    "receiver_s": "at the receiver",
    "gap_s": "from failed attempts to the next due times",
}
"""Parts of the way of a delivery, and what they are called."""
_KEYS = ["delivery_id", "attempt_number"]


def pairs(one: Trace, other: Trace) -> pd.DataFrame:
    """A row for each delivery that has the same fate on both sides and is processed first by the same attempt.

    Columns: delivery_id; attempt_number (which processes it first); created_s; wait_s, from due times to starts on
    the first side; difference_s, by how much longer the other side took from creation to first processing; and by how
    much longer in each of ``PARTS``, which add up to it.
    """
    both = _beside(_ways(one), _ways(other))
    same = (
        _equal(one, other, both.index)
        & (both["attempt_number_one"] == both["attempt_number_other"]).to_numpy()
    )
    both = both[same]
    created = one.deliveries.set_index("delivery_id")["created_s"]
    frame = pd.DataFrame(
        {
            "attempt_number": both["attempt_number_one"],
            "created_s": created.reindex(both.index),
            "wait_s": both["start_s_one"],
            "difference_s": 0.0,
            **{part: both[f"{part}_other"] - both[f"{part}_one"] for part in PARTS},
        }
    )
    frame["difference_s"] = frame[list(PARTS)].sum(axis=1)
    return frame.reset_index()


def lags(one: Trace, other: Trace) -> pd.DataFrame:
    """A row for each attempt of the deliveries with the same fate on both sides that a receiver took up.

    Columns: delivery_id, attempt_number; by how much longer the other side took in each of ``PARTS`` until then.
    """
    both = _beside(_arrivals(one), _arrivals(other))
    both = both[_equal(one, other, both.index.get_level_values("delivery_id"))]
    return pd.DataFrame({part: both[f"{part}_other"] - both[f"{part}_one"] for part in PARTS}).reset_index()


def _beside(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    return one.merge(other, left_index=True, right_index=True, suffixes=("_one", "_other"))


def _equal(one: Trace, other: Trace, delivery_ids: Any) -> Any:
    """Marks of those deliveries whose fates are the same."""
    own, theirs = fates(one), fates(other)
    return np.array([own[str(name)] == theirs[str(name)] for name in delivery_ids], dtype=bool)


def _steps(trace: Trace) -> pd.DataFrame:
    """Of each attempt, by delivery_id and attempt_number: ``PARTS``, s, processed_s and taken_s (NaN: never).

    Polls are left out; of attempts repeated after a crash the last is kept. intake_s is that of first attempts, and
    gap_s that before an attempt; both are 0 of others.
    """
    made = trace.attempts.sort_values([*_KEYS, "started_s"], kind="stable")
    made = made[made["tier"] > 0].drop_duplicates(_KEYS, keep="last").set_index(_KEYS)
    before = made.groupby("delivery_id")["finished_s"].shift()
    taken = made["served_s"].fillna(made["started_s"])
    return pd.DataFrame(
        {
            "intake_s": (made["due_s"] - made["created_s"]).where(before.isna(), 0.0),
            "start_s": made["started_s"] - made["due_s"],
            "way_s": taken - made["started_s"],
            "receiver_s": made["finished_s"] - taken,
            "gap_s": (made["due_s"] - before).fillna(0.0),
            "processed_s": made["processed_s"],
            "taken_s": taken.where(made["served_s"].notna()),
        }
    )


def _ways(trace: Trace) -> pd.DataFrame:
    """By delivery_id, ``PARTS`` from creation to first processing, s, and the attempt_number of that."""
    steps = _steps(trace).reset_index()
    earliest = steps.groupby("delivery_id")["processed_s"].transform("min")
    first = steps[steps["processed_s"] == earliest].drop_duplicates("delivery_id")
    steps = steps.merge(first[_KEYS], on="delivery_id", suffixes=("", "_first"))
    steps = steps[steps["attempt_number"] <= steps["attempt_number_first"]].copy()
    final = steps["attempt_number"] == steps["attempt_number_first"]
    steps["receiver_s"] = steps["receiver_s"].where(~final, steps["processed_s"] - steps["taken_s"])
    return steps.groupby("delivery_id").agg({"attempt_number": "max", **dict.fromkeys(PARTS, "sum")})


def _arrivals(trace: Trace) -> pd.DataFrame:
    """By delivery_id and attempt_number, ``PARTS`` from creation to when a receiver took that attempt up, s."""
    steps = _steps(trace)
    whole = steps.groupby("delivery_id")[list(PARTS)].cumsum()
    whole["receiver_s"] -= steps["receiver_s"]  # that of the attempt itself comes later
    return whole[steps["taken_s"].notna()]


# --------------------------------------------------------------------------- to be read


def overhead_s(found: Agreement) -> float:
    """The sender's work per attempt with which the slowed simulation ran, s: as the real run shows it."""
    slowed = load(yamlio.parse(found.sides.slowed.meta["scenario"], "the slowed simulation"))
    return float(slowed.dispatcher.overhead) / SECOND


def differences(found: Mapping[str, Agreement]) -> pd.DataFrame:
    """A column for each comparison: what deliveries took longer for real than in either simulation."""
    return pd.DataFrame({name: _told(one) for name, one in found.items()})


def _told(found: Agreement) -> dict[str, str]:
    sides = found.sides
    own = {name: pairs(side, sides.real) for name, side in zip(SIDES[:2], sides[:2], strict=True)}
    told = {
        "verdict": "invalid" if not found.valid else "agree" if found.agree else "differ",
        "deliveries that went the same way": shown_share(
            len(own[SIDES[0]]) / max(len(sides.sim.deliveries), 1)
        ),
        "overhead, as measured": shown_duration(overhead_s(found)),
    }
    for name, frame in own.items():
        for word, share in (("median", 0.5), ("99th percentile", 0.99)):
            told[f"longer than {name}, {word}"] = longer(float(frame["difference_s"].quantile(share)))
    return told


def longer(seconds: float) -> str:
    """A difference of times with its sign."""
    if pd.isna(seconds):
        return MISSING
    return f"{'+' if seconds >= 0 else '−'}{shown_duration(abs(seconds))}"
