"""From what a dispatcher and receivers recorded to the trace that a simulation gives.

Nothing is judged here: the records become the integers that an engine records (``sim.trace.Columns``), and
``sim.trace.build`` makes the tables of them. Three things are as follows.

An event is created at its intended time, T0 and its time in the scenario: a load generator that comes late is seen as
latency, and cannot hide.

A request without a stored result is an attempt too: a crash repeats an attempt with its number, and the receiver may
have processed both. Such a row has no outcome and status 0; it starts when the request arrived and ends with the
receiver's answer, at the latest when the delivery went on without it. At the end of the run it is in flight.

A delivery that neither is settled nor in flight waits; what for is known only from ``unsettled``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loadtest import pairing, trace_rows
from loadtest.expected import UNKNOWN, Expected, expected_of
from sim import meta, policy, trace
from sim.dispatch import NOT_YET
from sim.errors import ScenarioError
from sim.model import Model
from sim.receiver import NEVER
from sim.trace import NO_OUTCOME, Columns, Ints, Trace

Table = dict[str, Ints]
CANCELLED = policy.END_CAUSES[policy.BY_CANCELLING]
NAMED = 5
"""Deliveries that a problem names."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a real run comes to."""

    trace: Trace
    problems: tuple[str, ...]
    """What does not fit together, in words; empty: all that was sent was logged, and nothing else."""
    missing: int
    """Events of the scenario that were never accepted; they are not in the trace."""


def collect(
    model: Model,
    dispatcher_rows: Any,
    receiver_rows: Any,
    *,
    start_ns: int,
    ended_ns: int,
    posted: Collection[str] | None = None,
    unsettled: Mapping[str, Mapping[str, Any]] | None = None,
) -> Collected:
    """The trace of a real run of a scenario.

    Args:
        model: the scenario.
        dispatcher_rows: all of ``GET /trace``, see ``trace_rows.dispatcher_rows``.
        receiver_rows: all receivers' logs, see ``trace_rows.receiver_rows``.
        start_ns: T0, ns since 1970.
        ended_ns: when the run was over, ns since 1970.
        posted: ids of the events that were answered 202; None: all of the scenario. What the dispatcher tells of was
            accepted, whatever became of the answer.
        unsettled: deliveries as ``GET /deliveries?state=waiting,in_flight`` shows them, by id.
    """
    expected = expected_of(model)
    problems: list[str] = []
    attempts, settled = _of_dispatcher(expected, dispatcher_rows, start_ns, problems)
    requests = _of_receivers(expected, receiver_rows, problems)
    attempts = _with_requests(expected, attempts, requests, settled, ended_ns - start_ns, problems)
    rows = _deliveries(expected, attempts, settled, unsettled or {}, start_ns)
    problems.extend(_odd_times(expected, attempts, rows, ended_ns - start_ns))
    accepted = _accepted(expected, posted, rows)
    missing = int((~accepted).sum())
    if missing:
        problems.append(f"{missing:,} events of the scenario were never accepted; the trace is without them")
    ended = min(ended_ns - start_ns, model.end)
    attempts = _until(ended, attempts, rows)
    columns = _columns(expected, accepted, rows, attempts)
    whole = replace(columns, polls=_polls(model, receiver_rows, ended, problems), ended=ended)
    return Collected(trace=trace.build(model, whole, meta.REAL), problems=tuple(problems), missing=missing)


# --------------------------------------------------------------------------- the dispatcher's side


def _of_dispatcher(expected: Expected, table: Any, start_ns: int, problems: list[str]) -> tuple[Table, Table]:
    """Attempts and settlements with their deliveries as rows; times ns since T0."""
    rows = expected.delivery_rows(table["delivery_id"])
    _tell_foreign(table, rows, "lines of the dispatcher", problems)
    kind = table["kind"]
    is_attempt = (rows >= 0) & pc.fill_null(pc.equal(kind, trace_rows.ATTEMPT), False).to_numpy()
    is_end = (rows >= 0) & pc.fill_null(pc.equal(kind, trace_rows.DELIVERY), False).to_numpy()
    made, over = table.filter(pa.array(is_attempt)), table.filter(pa.array(is_end))
    attempts = {
        "delivery": rows[is_attempt],
        "attempt_number": _ints(made, "attempt_number"),
        "tier": _ints(made, "tier"),
        "due": _ints(made, "due_ns") - start_ns,
        "started": _ints(made, "started_ns") - start_ns,
        "finished": _ints(made, "finished_ns") - start_ns,
        "outcome": _codes(made, "outcome", policy.OUTCOMES),
        "status": _ints(made, "status"),
        "cause": _codes(made, "wait_cause", policy.WAIT_CAUSES),
    }
    of = rows[is_end]
    delivered = _ints(over, "delivered_ns", NOT_YET)
    settled = {
        "delivery": of,
        "state": _codes(over, "state", policy.STATES),
        "cause": _codes(over, "cause", policy.END_CAUSES),
        "attempts": _ints(over, "attempts"),
        "settled": _ints(over, "settled_ns") - start_ns,
        "delivered": np.where(delivered == NOT_YET, NOT_YET, delivered - start_ns),
    }
    problems.extend(_by_hand(table))
    last = np.unique(of[::-1], return_index=True)[1]  # one that was sent again is settled again
    settled = {name: column[::-1][last] for name, column in settled.items()}
    counted = np.bincount(attempts["delivery"], minlength=len(expected.event))
    wrong = np.flatnonzero(counted[settled["delivery"]] != settled["attempts"])
    if len(wrong):
        problems.append(
            f"{len(wrong):,} deliveries have other numbers of attempts than the trace has lines for: was it read "
            "from its beginning?"
        )
    return attempts, settled


def _by_hand(table: Any) -> Iterator[str]:
    """Deliveries that somebody sent again or cancelled: what follows is none of the scenario's doing."""
    for column, value, done in (("kind", trace_rows.RESEND, "resent"), ("cause", CANCELLED, "cancelled")):
        names = pc.unique(table.filter(pc.equal(table[column], value))["delivery_id"]).to_pylist()
        if names:
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            told = ", ".join(names[:NAMED]) + more
            yield f"{len(names):,} deliveries were {done} by hand in mid-run: {told}"


def _tell_foreign(table: Any, rows: Ints, what: str, problems: list[str]) -> None:
    foreign = np.flatnonzero(rows == UNKNOWN)
    if len(foreign):
        first = table["delivery_id"][int(foreign[0])].as_py()
        problems.append(
            f"{len(foreign):,} {what} are of deliveries that the scenario does not make, such as {first}"
        )


def _ints(table: Any, name: str, missing: int = 0) -> Ints:
    column: Ints = pc.fill_null(table[name], missing).to_numpy()
    return column


def _codes(table: Any, name: str, words: tuple[str, ...]) -> Ints:
    """Positions in a list of words, which a dispatcher of the same version keeps to."""
    codes = pc.index_in(table[name], value_set=pa.array(words, pa.string()))
    if codes.null_count:
        unknown = table[name].filter(pc.is_null(codes))[0].as_py()
        raise ScenarioError(f"the dispatcher's trace has the {name} {unknown}; it is of another version")
    column: Ints = codes.to_numpy().astype(np.int64)
    return column


# --------------------------------------------------------------------------- the receivers' side


def _of_receivers(expected: Expected, table: Any, problems: list[str]) -> Table:
    """Requests that arrived, with their deliveries as rows; times ns since T0."""
    switched = pc.sum(pc.equal(table["kind"], trace_rows.SWITCH)).as_py() or 0
    if switched:
        problems.append(
            f"faults were switched by hand {switched:,} times: receivers were not those of the scenario"
        )
    requests = table.filter(pc.equal(table["kind"], trace_rows.REQUEST))
    rows = expected.delivery_rows(requests["delivery_id"])
    _tell_foreign(requests, rows, "requests to receivers", problems)
    own = rows >= 0
    return {
        "delivery": rows[own],
        "attempt_number": _ints(requests, "attempt_number")[own],
        "arrived": _ints(requests, "arrived_ns")[own],
        "answered": _ints(requests, "answered_ns", NEVER)[own],
        "served": _ints(requests, "served_ns", NEVER)[own],
        "processed": _ints(requests, "processed_ns", NEVER)[own],
    }


def _polls(model: Model, table: Any, ended: int, problems: list[str]) -> Ints:
    """The polls of the run that were answered, in order; one that failed counts if it had brought something."""
    polls = table.filter(pc.equal(table["kind"], trace_rows.POLL))
    failed = pc.fill_null(polls["failed"], False).to_numpy()
    if failed.any():
        problems.append(f"{int(failed.sum()):,} polls failed")
    names = pa.array([member.name for member in model.members], pa.string())
    member = (
        pc.fill_null(pc.index_in(polls["endpoint"], value_set=names), UNKNOWN).to_numpy().astype(np.int64)
    )
    time, returned = _ints(polls, "polled_ns"), _ints(polls, "returned")
    kept = np.flatnonzero((member >= 0) & (time <= ended) & ~(failed & (returned == 0)))
    kept = kept[np.lexsort((member[kept], time[kept]))]
    return np.column_stack((member[kept], time[kept], returned[kept]))


# --------------------------------------------------------------------------- both together


def _with_requests(
    expected: Expected, attempts: Table, requests: Table, settled: Table, ended: int, problems: list[str]
) -> Table:
    """The attempts with what receivers made of them, and a row for each request without a stored result."""
    polls = np.array([member.poll_every > 0 for member in expected.model.members], dtype=bool)
    of_attempt, left = pairing.pair(attempts, requests, polls[expected.member])
    heard = of_attempt != pairing.NOBODY
    found = {
        name: np.append(requests[name], NEVER)[of_attempt]  # nobody's is the one behind the last
        for name in ("arrived", "served", "processed")
    }
    unheard = int((~heard & (attempts["status"] > 0)).sum())
    if unheard:
        problems.append(
            f"{unheard:,} attempts were answered, and no receiver has logged them: is a receiver's log missing?"
        )
    early = attempts["started"] - np.where(heard, found["arrived"], attempts["started"])
    if (early > 0).any():
        problems.append(
            f"{int((early > 0).sum()):,} requests arrived before they were sent, by up to {early.max() / 1e9:g} s: "
            "the clocks of dispatcher and receivers differ"
        )
    lone = pairing.unstored(
        attempts, {name: column[left] for name, column in requests.items()}, settled, ended
    )
    repeated = int((lone["finished"] != NOT_YET).sum())
    if repeated:
        problems.append(
            f"{repeated:,} requests reached receivers and their results were never stored; they are attempts "
            "without an outcome"
        )
    own = attempts | {name: found[name] for name in ("served", "processed")}
    return {name: np.concatenate((own[name], lone[name])) for name in trace.ATTEMPT_COLUMNS}


def _deliveries(
    expected: Expected,
    attempts: Table,
    settled: Table,
    unsettled: Mapping[str, Mapping[str, Any]],
    start_ns: int,
) -> Table:
    """How every delivery of the scenario stands."""
    count = len(expected.event)
    rows = {
        "event": expected.event,
        "member": expected.member,
        "state": np.full(count, policy.WAITING),
        "attempts": np.bincount(attempts["delivery"], minlength=count),
        **{name: np.full(count, NOT_YET) for name in ("delivered", "settled", "due")},
        "cause": np.zeros(count, dtype=np.int64),
    }
    under_way = attempts["finished"] == NOT_YET
    rows["state"][attempts["delivery"][under_way]] = policy.IN_FLIGHT
    names = list(unsettled)
    places = expected.delivery_rows(pa.array(names, pa.string()))
    for name, row in zip(names, places.tolist(), strict=True):
        shown = unsettled[name]
        if row != UNKNOWN and shown["settled_at"] is None:
            rows["state"][row] = policy.STATES.index(shown["state"])
            rows["due"][row] = _ns(shown["due_at"], start_ns)
    _agree(attempts, rows)
    for name in ("state", "delivered", "settled", "cause"):
        rows[name][settled["delivery"]] = settled[name]
    rows["due"][rows["state"] != policy.WAITING] = NOT_YET
    return rows


def _until(ended: int, attempts: Table, rows: Table) -> Table:
    """The attempts of the scenario's time; what stood differently at its end stands so in ``rows`` afterwards.

    A run that is over has still to be stopped, and a dispatcher finishes what it has begun.
    """
    begun = attempts["started"] <= ended
    following = {name: attempts[name][~begun] for name in ("delivery", "due", "attempt_number")}
    attempts = {name: column[begun] for name, column in attempts.items()}
    open_ = attempts["finished"] > ended
    for name, nothing in (("finished", NOT_YET), ("outcome", NO_OUTCOME), ("status", 0)):
        attempts[name] = np.where(open_, nothing, attempts[name])
    reopened = rows["settled"] > ended
    reopened[following["delivery"]] = True
    reopened[attempts["delivery"][open_]] = True
    for name, nothing in (("state", policy.WAITING), ("settled", NOT_YET), ("cause", 0)):
        rows[name][reopened] = nothing
    rows["state"][attempts["delivery"][open_]] = policy.IN_FLIGHT
    rows["delivered"][rows["delivered"] > ended] = NOT_YET
    rows["attempts"] = np.bincount(attempts["delivery"], minlength=len(rows["state"]))
    for row, due, number in zip(*(following[name].tolist() for name in following), strict=True):
        if number == rows["attempts"][row] and rows["state"][row] == policy.WAITING:
            rows["due"][row] = due
    return attempts


def _agree(attempts: Table, rows: Table) -> None:
    """An attempt under way was due when its delivery says so; one of a delivery that waits again is over."""
    for place in np.flatnonzero(attempts["finished"] == NOT_YET).tolist():
        row = attempts["delivery"][place]
        if rows["state"][row] == policy.WAITING:
            attempts["finished"][place] = attempts["started"][place]
        elif rows["due"][row] != NOT_YET:
            attempts["due"][place] = rows["due"][row]


def _ns(text: str | None, start_ns: int) -> int:
    """A time of the API as ns since T0, to the microsecond."""
    if text is None:
        return NOT_YET
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1) * 1000 - start_ns


def _accepted(expected: Expected, posted: Collection[str] | None, rows: Table) -> Any:
    """Which events the dispatcher has taken in: those answered 202, and those that anybody tells of."""
    if posted is None:
        return np.ones(len(expected.events), dtype=bool)
    accepted = np.zeros(len(expected.events), dtype=bool)
    known = expected.event_rows(pa.array(list(posted), pa.string()))
    accepted[known[known != UNKNOWN]] = True
    seen = (rows["attempts"] > 0) | (rows["state"] != policy.WAITING) | (rows["due"] != NOT_YET)
    accepted[rows["event"][seen]] = True
    return accepted


def _columns(expected: Expected, accepted: Any, rows: Table, attempts: Table) -> Columns:
    """What an engine would have recorded, of the accepted events."""
    kept = accepted[rows["event"]]
    rows = {name: column[kept] for name, column in rows.items()}
    rows["event"] = (np.cumsum(accepted) - 1)[rows["event"]]
    attempts = attempts | {"delivery": (np.cumsum(kept) - 1)[attempts["delivery"]]}
    return Columns(
        events=expected.events[accepted],
        deliveries=np.column_stack([rows[name] for name in trace.DELIVERY_COLUMNS]),
        attempts=np.column_stack([attempts[name] for name in trace.ATTEMPT_COLUMNS]),
        polls=np.empty((0, len(trace.POLL_COLUMNS)), dtype=np.int64),
        ended=0,
    )


def _odd_times(expected: Expected, attempts: Table, rows: Table, ended: int) -> Iterator[str]:
    """What is wrong with times; they are taken as they are."""
    stored = attempts["outcome"] != NO_OUTCOME
    negative = stored & (np.minimum(attempts["due"], attempts["started"]) < 0)
    if negative.any():
        yield f"{int(negative.sum()):,} attempts were due or started before T0"
    early = attempts["started"] < expected.created[attempts["delivery"]]
    if early.any():
        yield f"{int(early.sum()):,} attempts started before the intended time of their event: is T0 right?"
    late = int((attempts["finished"] > ended).sum()) + int(
        ((rows["settled"] > ended) & (rows["attempts"] == 0)).sum()
    )
    if late:
        yield f"{late:,} attempts or settlements came after the end of the run"
