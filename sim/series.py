"""Time series of a trace: what waited, was in flight, was queued at receivers, and happened, over time.

All of it follows from the rows of a trace, so a load test and both engines get it from the same place. At a
point in time whatever happened at that very instant has happened: a sample is taken last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from sim.trace import Trace

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Waits(NamedTuple):
    """Intervals in which deliveries waited for an attempt: one row each; s; ``left`` inf: still waiting."""

    entered: Floats
    left: Floats
    due: Floats
    tier: Any
    delivery: Any
    """Row in ``deliveries``."""


def waits(trace: Trace) -> Waits:
    """Every wait of the run: before each attempt, and the last one of a delivery that had no further attempt."""
    attempts, deliveries = trace.attempts, trace.deliveries
    row = trace.delivery_rows
    number = attempts["attempt_number"].to_numpy()
    order = np.lexsort((number, row))
    row, number = row[order], number[order]
    finished = attempts["finished_s"].to_numpy()[order]
    created = attempts["created_s"].to_numpy()[order]
    first = np.diff(row, prepend=-1) != 0
    entered = np.where(first, created, np.concatenate(([0.0], finished[:-1])) if len(finished) else finished)
    due = attempts["due_s"].to_numpy()[order]
    tier = attempts["tier"].to_numpy()[order]
    left = attempts["started_s"].to_numpy()[order]

    made = deliveries["attempts"].to_numpy()
    last_finish = np.full(len(deliveries), np.nan)
    last_finish[row] = finished  # rows ascend by attempt: the last one stays
    begun = np.where(made > 0, last_finish, deliveries["created_s"].to_numpy())
    settled = deliveries["settled_s"].to_numpy()
    until = np.where((deliveries["state"] == "waiting").to_numpy(), np.inf, settled)
    more = np.flatnonzero((deliveries["state"] != "in_flight").to_numpy() & (until > begun))
    pending_due = deliveries["due_s"].to_numpy()
    return Waits(
        np.concatenate((entered, begun[more])),
        np.concatenate((left, until[more])),
        np.concatenate((due, np.where(np.isnan(pending_due[more]), begun[more], pending_due[more]))),
        np.concatenate((tier, np.where(_polled(trace)[more], 0, made[more] + 1))),
        np.concatenate((row, more)),
    )


def _polled(trace: Trace) -> Any:
    """Which deliveries are of endpoints that poll."""
    return trace.deliveries["endpoint"].isin(trace.polls["endpoint"].unique().astype(str)).to_numpy()


def count_at(points: Floats, entered: Floats, left: Floats) -> Any:
    """How many of the intervals [entered, left) hold each point."""
    before = np.searchsorted(np.sort(entered), points, side="right")
    return before - np.searchsorted(np.sort(left), points, side="right")


def steps(entered: Floats, left: Floats, weight: Floats | None = None) -> tuple[Floats, Floats]:
    """The sum of weights of the intervals that hold a time, as a step function (times, levels from then on)."""
    weights = np.ones(len(entered)) if weight is None else weight
    gone = np.isfinite(left)
    times = np.concatenate((entered, left[gone]))
    change = np.concatenate((weights, -weights[gone]))
    order = np.argsort(times, kind="stable")
    times, level = times[order], np.cumsum(change[order])
    last = np.flatnonzero(np.diff(times, append=np.inf) > 0)
    return times[last], level[last]


def held(entered: Floats, left: Floats, start: float, end: float) -> float:
    """Total time that the intervals spend in [start, end), s."""
    return float(np.maximum(np.minimum(left, end) - np.maximum(entered, start), 0.0).sum())


def samples(trace: Trace) -> pd.DataFrame:
    """The series on the grid of ``meta["sample_every_s"]``, from 0 to the end of the run.

    Columns: t_s; backlog; backlog_tier_n for n = 0 (polled), 1, …; in_flight; receiver_queue (accepted, not yet
    taken up by a server); attempts_per_s, goodput_per_s (first processings) and delivered_per_s (as the sender
    sees it), all since the row before.
    """
    from sim.trace import MOST_TIERS

    step = trace.meta["sample_every_s"]
    grid = np.arange(0, int(np.ceil(trace.meta["ended_s"] / step - 1e-9)) + 1) * step
    waiting = waits(trace)
    columns: dict[str, Any] = {"t_s": grid, "backlog": count_at(grid, waiting.entered, waiting.left)}
    tier = np.minimum(waiting.tier, MOST_TIERS)
    for n in np.unique(tier).tolist():
        own = tier == n
        columns[f"backlog_tier_{n}"] = count_at(grid, waiting.entered[own], waiting.left[own])
    attempts = trace.attempts
    pushed = attempts["tier"].to_numpy() > 0
    started = attempts["started_s"].to_numpy()
    finished = attempts["finished_s"].fillna(np.inf).to_numpy()
    columns["in_flight"] = count_at(grid, started[pushed], finished[pushed])
    queued = receiver_queue(trace)
    columns["receiver_queue"] = count_at(grid, *queued)
    columns["attempts_per_s"] = _rate(started, grid, step)
    processed = trace.deliveries["first_processed_s"].dropna().to_numpy()
    columns["goodput_per_s"] = _rate(processed, grid, step)
    columns["delivered_per_s"] = _rate(trace.deliveries["delivered_s"].dropna().to_numpy(), grid, step)
    return pd.DataFrame(columns)


def receiver_queue(trace: Trace) -> tuple[Floats, Floats]:
    """Intervals [started, served) in which requests waited in receivers' queues, s."""
    attempts = trace.attempts[(trace.attempts["tier"] > 0) & trace.attempts["served_s"].notna()]
    sent = exact(attempts["started_s"].to_numpy() + trace.meta["overhead_s"])
    return sent, attempts["served_s"].to_numpy()


def exact(seconds: Floats) -> Floats:
    """A sum or difference of times in s as the whole ns that it is: floats miss it in their last bits."""
    return np.round(seconds, 9)


def _rate(times: Floats, grid: Floats, step: float) -> Floats:
    passed = np.searchsorted(np.sort(times), grid, side="right")
    return np.diff(passed, prepend=0) / step
