"""What is shown of the embedded store: events, deliveries, logs and the trace."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from loadtest.dispatcher.records import Attempt, Delivery, Event, Filter, TraceRow
from sim.policy import FOREVER, STATE_DELIVERED, WAITING

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
    """``Store.deliveries``: one walk for each state with an index of its own, and the newest of all."""
    values = {
        "endpoint": chosen.endpoint,
        "type": chosen.type,
        "after": chosen.after or FOREVER,
        "limit": chosen.limit,
    }
    rows: list[tuple[Any, ...]] = []
    for index, condition in walks(chosen.states, bool(chosen.endpoint)):
        # The number is what the indexes hold; a removed endpoint and its successor may share the id.
        mine = (
            "AND d.endpoint IN (SELECT number FROM endpoints WHERE id = :endpoint)" if chosen.endpoint else ""
        )
        walk = f"FROM deliveries AS d {index}"
        which = f"{condition} AND d.number < :after {mine}"
        if chosen.type:
            query = f"SELECT {DELIVERY} {walk} {JOINED} WHERE {which} AND e.type = :type"
        else:
            # The newest first, and the joins for them alone: the walk may meet a whole backlog.
            newest = f"SELECT d.number {walk} WHERE {which} ORDER BY d.number DESC LIMIT :limit"
            query = f"SELECT {DELIVERY} FROM deliveries AS d {JOINED} WHERE d.number IN ({newest})"
        rows += connection.execute(f"{query} ORDER BY d.number DESC LIMIT :limit", values)
    rows.sort(reverse=True)
    return [delivery_of(row) for row in rows[: chosen.limit]]


def walks(states: Sequence[int], of_endpoint: bool) -> list[tuple[str, str]]:
    """How to find deliveries of these states: (index, condition) each."""
    if not states:
        return [("", "1")]
    found = []
    for state in sorted(set(states)):
        if state == WAITING:
            held = "d.settled IS NULL AND d.stream IS NOT NULL AND d.held = 1"
            found.append(("INDEXED BY deliveries_ready", "d.ready_at IS NOT NULL"))
            found.append(("INDEXED BY deliveries_stream", held))
        elif state > STATE_DELIVERED and not of_endpoint:
            found.append(("INDEXED BY deliveries_lost", f"d.state > 2 AND d.state = {int(state)}"))
        else:
            found.append(("", f"d.state = {int(state)}"))
    return found


def trace(connection: sqlite3.Connection, after: int, limit: int) -> list[TraceRow]:
    """``Store.trace``: a walk along the log."""
    found = []
    for row in connection.execute(TRACE, (after, limit)):
        cursor, *attempt = row[DELIVERY_COLUMNS:]
        happened = None if attempt[0] is None else Attempt._make(attempt)
        found.append(TraceRow(cursor, delivery_of(row[:DELIVERY_COLUMNS]), happened))
    return found


def stored_object(connection: sqlite3.Connection, type_: str, id_: str) -> bytes | None:
    """``Store.object``."""
    query = "SELECT data FROM objects WHERE type = ? AND id = ?"
    row = connection.execute(query, (type_, id_)).fetchone()
    return None if row is None else bytes(row[0])
