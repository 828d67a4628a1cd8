"""What waits in the embedded store, found by walks along its indexes: never by a scan of the backlog."""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Iterator, Sequence

from loadtest.dispatcher.records import Waiting
from sim.policy import FOREVER, STATES

READY = """
SELECT ready_at, number FROM deliveries INDEXED BY deliveries_ready
WHERE endpoint = ? AND ready_at IS NOT NULL
ORDER BY ready_at, number
"""
TIER = """
SELECT entered, number FROM deliveries INDEXED BY deliveries_tier
WHERE endpoint = ? AND attempts = ? AND ready_at IS NOT NULL
ORDER BY entered, number
"""
NEXT = """
SELECT number, (
    SELECT ready_at FROM deliveries INDEXED BY deliveries_ready
    WHERE endpoint = endpoints.number AND ready_at IS NOT NULL
    ORDER BY ready_at LIMIT 1
) AS next
FROM endpoints WHERE removed = 0 AND next IS NOT NULL
"""
WAITING = """
SELECT d.number, d.endpoint, d.attempts, d.due, d.gap, d.born, d.created,
    e.id, e.type, e.key, e.seq, e.occurred, e.data, e.object_type, e.object_id, d.released
FROM deliveries AS d JOIN events AS e ON e.number = d.event
"""
ONE = f"{WAITING} WHERE d.number = ?"
ORPHANS = """
SELECT number FROM endpoints WHERE removed = 1 AND EXISTS (
    SELECT 1 FROM deliveries INDEXED BY deliveries_endpoint WHERE endpoint = endpoints.number AND state = 0
)
"""
POLL = """
SELECT number FROM deliveries INDEXED BY deliveries_endpoint
WHERE endpoint = ? AND state = ? AND number > ? ORDER BY number LIMIT ?
"""


def due(
    connection: sqlite3.Connection, endpoint: int, until: int, room: int, loaded: frozenset[int]
) -> tuple[list[Waiting], int]:
    """``Store.due``."""
    numbers: list[int] = []
    following = FOREVER
    for ready_at, number in connection.execute(READY, (endpoint,)):
        if number in loaded:
            continue
        if ready_at > until or len(numbers) >= room:
            following = ready_at
            break
        numbers.append(number)
    rows = rows_of(connection, numbers)
    rows.sort(key=lambda row: (row.due, row.number))  # one whose hint never came is ready later than due
    return rows, following


def tier(
    connection: sqlite3.Connection,
    attempts: int,
    endpoints: Sequence[int],
    room: int,
    loaded: frozenset[int],
) -> list[Waiting]:
    """``Store.tier``."""
    walks: list[Iterator[tuple[int, int]]] = [
        connection.execute(TIER, (endpoint, attempts)) for endpoint in dict.fromkeys(endpoints)
    ]
    numbers: list[int] = []
    for _, number in heapq.merge(*walks):
        if len(numbers) >= room:
            break
        if number not in loaded:
            numbers.append(number)
    return rows_of(connection, numbers)


def rows_of(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Waiting]:
    """Deliveries with all that an attempt needs, in the order of their numbers given."""
    return [Waiting._make(connection.execute(ONE, (number,)).fetchone()) for number in numbers]


def next_due(connection: sqlite3.Connection) -> dict[int, int]:
    """``Store.next_due``."""
    return dict(connection.execute(NEXT).fetchall())


def orphans(connection: sqlite3.Connection) -> list[int]:
    """``Store.orphans``."""
    return [number for (number,) in connection.execute(ORPHANS)]


def poll(connection: sqlite3.Connection, endpoint: int, after: int, limit: int) -> list[Waiting]:
    """``Store.poll``."""
    walks = [connection.execute(POLL, (endpoint, state, after, limit)) for state in range(len(STATES))]
    following = heapq.merge(*walks)
    return rows_of(connection, [number for (number,) in itertools.islice(following, limit)])
