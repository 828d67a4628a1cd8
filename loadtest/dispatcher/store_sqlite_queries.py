"""What is shown of the embedded store: events, deliveries, logs and the trace."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from loadtest.dispatcher.records import Attempt, Delivery, Event, Filter, TraceRow
from sim.policy import FOREVER, STATES

DELIVERY = """
d.number, e.id, p.id, e.type, e.key, e.seq, d.created, d.state, d.cause, d.attempts, d.due,
coalesce(d.delivered, -1), coalesce(d.settled, -1), d.held
"""
DELIVERY_COLUMNS = 14
JOINED = "JOIN events AS e ON e.number = d.event JOIN endpoints AS p ON p.number = d.endpoint"
EVENT = "SELECT number, id, type, key, seq, occurred, created, data, object_type, object_id FROM events"
ATTEMPT = """
l.attempt_number, l.tier, l.due, l.started, l.finished, l.outcome, l.status, l.wait_cause, l.answer, l.error
"""
LISTED = f"SELECT {DELIVERY} FROM deliveries AS d {JOINED} WHERE d.number = ?"
TRACE = f"""
SELECT {DELIVERY}, l.cursor, {ATTEMPT} FROM log AS l JOIN deliveries AS d ON d.number = l.delivery {JOINED}
WHERE l.cursor > ? ORDER BY l.cursor LIMIT ?
"""


def delivery_of(row: tuple[Any, ...]) -> Delivery:
    """A delivery from the columns of ``DELIVERY``."""
    number, event_id, endpoint, type_, key, seq, created, state, cause, attempts, due, *ends = row
    return Delivery(
        number=number,
        id=f"{event_id}:{endpoint}",
        event_id=event_id,
        endpoint=endpoint,
        type=type_,
        key=key,
        seq=seq,
        created=created,
        state=state,
        cause=cause,
        attempts=attempts,
        due=due,
        delivered=ends[0],
        settled=ends[1],
        held=bool(ends[2]),
    )


def event_of(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Event:
    """An event from the columns of ``EVENT``."""
    number, event_id, type_, key, seq, occurred, created, data, object_type, object_id = row
    query = (
        "SELECT p.id FROM deliveries AS d JOIN endpoints AS p ON p.number = d.endpoint"
        " WHERE d.event = ? ORDER BY d.number"
    )
    return Event(
        number=number,
        id=event_id,
        type=type_,
        key=key,
        seq=seq,
        occurred=occurred,
        created=created,
        data=data,
        object_type=object_type,
        object_id=object_id,
        deliveries=tuple(f"{event_id}:{endpoint}" for (endpoint,) in connection.execute(query, (number,))),
    )


def event(connection: sqlite3.Connection, event_id: str) -> Event | None:
    """``Store.event``."""
    row = connection.execute(f"{EVENT} WHERE id = ?", (event_id,)).fetchone()
    return None if row is None else event_of(connection, row)


def events_between(
    connection: sqlite3.Connection, since: int, until: int, after: int, limit: int
) -> list[Event]:
    """``Store.events_between``."""
    query = f"{EVENT} WHERE number > ? AND created >= ? AND created < ? ORDER BY number LIMIT ?"
    return [event_of(connection, row) for row in connection.execute(query, (after, since, until, limit))]


def delivery(connection: sqlite3.Connection, delivery_id: str) -> Delivery | None:
    """``Store.delivery``: both ids may contain colons, so every split is tried."""
    query = (
        f"SELECT {DELIVERY} FROM events AS e JOIN deliveries AS d ON d.event = e.number"
        " JOIN endpoints AS p ON p.number = d.endpoint"
        " WHERE e.id = ? AND p.id = ? ORDER BY d.number DESC"
    )
    parts = delivery_id.split(":")
    for cut in range(1, len(parts)):
        ids = ":".join(parts[:cut]), ":".join(parts[cut:])
        row = connection.execute(query, ids).fetchone()
        if row is not None:
            found = delivery_of(row)
            attempts = connection.execute(
                f"SELECT {ATTEMPT} FROM log AS l WHERE l.delivery = ? AND l.attempt_number IS NOT NULL"
                " ORDER BY l.cursor",
                (found.number,),
            )
            return replace(found, log=tuple(map(Attempt._make, attempts)))
    return None


def deliveries(connection: sqlite3.Connection, chosen: Filter) -> list[Delivery]:
    """``Store.deliveries``: a walk for each endpoint and state that are asked for, and the newest of all."""
    found: list[int] = []
    for query, values in walks(connection, chosen):
        limits = (chosen.after or FOREVER, chosen.limit)
        found += [number for (number,) in connection.execute(query, (*values, *limits))]
    newest = sorted(found, reverse=True)[: chosen.limit]
    return [delivery_of(connection.execute(LISTED, (number,)).fetchone()) for number in newest]


def walks(connection: sqlite3.Connection, chosen: Filter) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """Queries along an index, from new to old, that together find what is chosen; with the values of each.

    Two values are left to be given: the number below which it begins, and the limit.
    """
    plain = "SELECT d.number FROM deliveries AS d"
    rest = "d.number < ? ORDER BY d.number DESC LIMIT ?"
    named: list[tuple[str, list[int | str]]] = []
    if chosen.endpoint:
        # A removed endpoint and its successors may share the id.
        rows = connection.execute("SELECT number FROM endpoints WHERE id = ?", (chosen.endpoint,))
        named.append(("endpoint", [number for (number,) in rows]))
    if chosen.type:
        named.append(("type", [chosen.type]))
    if not named and not chosen.states:
        yield f"{plain} WHERE {rest}", ()
        return
    index = "_".join(["deliveries", *(name for name, _ in named)] if named else ["deliveries", "state"])
    named.append(("state", sorted(set(chosen.states)) or list(range(len(STATES)))))
    which = " AND ".join(f"d.{name} = ?" for name, _ in named)
    for values in itertools.product(*(each for _, each in named)):
        yield f"{plain} INDEXED BY {index} WHERE {which} AND {rest}", values


def trace(connection: sqlite3.Connection, after: int, limit: int) -> list[TraceRow]:
    """``Store.trace``: a walk along the log."""
    found = []
    for row in connection.execute(TRACE, (after, limit)):
        cursor, *attempt = row[DELIVERY_COLUMNS:]
        found.append(TraceRow.of(cursor, delivery_of(row[:DELIVERY_COLUMNS]), attempt))
    return found


def stored_object(connection: sqlite3.Connection, type_: str, id_: str) -> bytes | None:
    """``Store.object``."""
    query = "SELECT data FROM objects WHERE type = ? AND id = ?"
    row = connection.execute(query, (type_, id_)).fetchone()
    return None if row is None else bytes(row[0])
