"""How events and their deliveries go into the embedded store. Runs in the writer's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from loadtest.dispatcher.records import Accepted, NewDelivery, NewEvent
from loadtest.dispatcher.store import ConflictError, StoreError
from loadtest.dispatcher.store_sqlite_endpoints import put_object
from loadtest.dispatcher.store_sqlite_ledger import Ledger, NotTogetherError
from sim.policy import BY_DISABLING, DROPPED, STATE_DELIVERED, WAITING

INSERT_EVENT = """
INSERT INTO events (number, id, digest, type, key, seq, occurred, created, data, object_type, object_id, lonely)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_DELIVERY = """
INSERT INTO deliveries
    (number, event, endpoint, stream, held, state, cause, due, ready_at, gap, born, entered, created,
     delivered, settled, type)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_SETTLEMENT = "INSERT INTO log (cursor, delivery) VALUES (?, ?)"
NO_GAP = 0
"""Jitter that looks back sees nothing before the first retry, as in the simulation."""
IS_BUSY = "SELECT 1 FROM deliveries WHERE endpoint = ? AND stream = ? AND settled IS NULL LIMIT 1"
KNOWN = "SELECT number, digest, type FROM events WHERE id = ?"
OF_EVENT = "SELECT endpoint FROM deliveries WHERE event = ?"


class Batch:
    """Deliveries that are about to be inserted, with their numbers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rows: list[tuple[object, ...]] = []
        self._settlements: list[tuple[int, int]] = []
        self._busy: set[tuple[int, str]] = set()
        self.objects: list[tuple[str, str, bytes, int]] = []
        """New versions of objects that come with their events."""

    def take(
        self,
        event: int,
        type: str,  # noqa: A002  the word of the domain
        deliveries: Sequence[NewDelivery],
        created: int,
    ) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """The numbers of an event's deliveries, and which of them are held."""
        ledger = self._ledger
        number = first = ledger.delivery + 1
        held = []
        totals = ledger.effects.totals
        for endpoint, due, stream, state, cause in deliveries:
            ready_at: int | None = due
            settled = delivered = None
            holds = gone = False
            if endpoint in ledger.removed and state == WAITING and ledger.is_removed(endpoint):
                state, cause, gone = DROPPED, BY_DISABLING, True
            if state != WAITING:
                ready_at, settled = None, created
                delivered = created if state == STATE_DELIVERED else None
                ledger.cursor += 1
                self._settlements.append((ledger.cursor, number))
                totals[state, 0] += 1
            else:
                totals[WAITING, 1] += 1
                if stream is not None:
                    holds = self._is_busy(endpoint, stream)
                    ready_at = None if holds else due
            held.append(holds or gone)
            row = (number, event, endpoint, stream, holds, state, cause, due, ready_at, NO_GAP)
            self._rows.append((*row, created, created, created, delivered, settled, type))
            number += 1
        ledger.delivery = number - 1
        return tuple(range(first, number)), tuple(held)

    def _is_busy(self, endpoint: int, stream: str) -> bool:
        """Whether something of this stream is not settled; from now on, something is."""
        busy = (endpoint, stream) in self._busy or bool(
            self._ledger.execute(IS_BUSY, (endpoint, stream)).fetchall()
        )
        self._busy.add((endpoint, stream))
        self._ledger.ordered.add(endpoint)
        return busy

    def insert(self) -> None:
        """Insert what was taken."""
        if self._rows:
            self._ledger.executemany(INSERT_DELIVERY, self._rows)
        if self._settlements:
            self._ledger.executemany(INSERT_SETTLEMENT, self._settlements)
        for row in self.objects:
            put_object(self._ledger, row)


def add(ledger: Ledger, events: Sequence[NewEvent]) -> list[Accepted]:
    """``Store.add`` for one caller: looks each event up first."""
    accepted = []
    ids: set[str] = set()
    batch = Batch(ledger)
    rows = []
    for event in events:
        if event.id in ids:
            raise ConflictError(f"event {event.id!r} is twice in the list; send it once")
        ids.add(event.id)
        known = ledger.execute(KNOWN, (event.id,)).fetchone()
        if known is None:
            row, answer = taken(ledger, batch, event)
            rows.append(row)
        elif known[1] == event.digest:
            answer = Accepted(known[0], False, (), ())
        else:
            raise ConflictError(f"event {event.id!r} is there already with other content; give it another id")
        accepted.append(answer)
    ledger.executemany(INSERT_EVENT, rows)
    batch.insert()
    return accepted


def add_together(ledger: Ledger, calls: Sequence[Sequence[NewEvent]]) -> list[list[Accepted]]:
    """``Store.add`` for many callers, if all their events are new."""
    batch = Batch(ledger)
    rows = []
    answers = []
    for events in calls:
        accepted = []
        for event in events:
            row, answer = taken(ledger, batch, event)
            rows.append(row)
            accepted.append(answer)
        answers.append(accepted)
    try:
        ledger.executemany(INSERT_EVENT, rows)
    except sqlite3.IntegrityError as error:
        raise NotTogetherError from error
    batch.insert()
    return answers


def taken(ledger: Ledger, batch: Batch, event: NewEvent) -> tuple[tuple[object, ...], Accepted]:
    """The row of a new event, and what its caller is told."""
    ledger.event = number = ledger.event + 1
    numbers, held = batch.take(number, event.type, event.deliveries, event.created)
    if event.data and event.object_id:
        batch.objects.append((event.object_type, event.object_id, event.data, event.created))
        event = event._replace(data=b"")
    return (number, *event[:10], not numbers), Accepted(number, True, numbers, held)


def add_deliveries(ledger: Ledger, call: tuple[str, Sequence[NewDelivery], int]) -> list[int]:
    """``Store.add_deliveries``."""
    event_id, deliveries, created = call
    known = ledger.execute(KNOWN, (event_id,)).fetchone()
    if known is None:
        raise StoreError(f"there is no event {event_id!r}")
    event, _digest, type_ = known
    there = {endpoint for (endpoint,) in ledger.execute(OF_EVENT, (event,))}
    fresh = []
    for delivery in deliveries:
        if delivery.endpoint not in there:
            fresh.append(delivery)
            there.add(delivery.endpoint)
    if not fresh:
        return []
    batch = Batch(ledger)
    numbers, _held = batch.take(event, type_, fresh, created)
    batch.insert()
    ledger.execute("UPDATE events SET lonely = 0 WHERE number = ?", (event,))
    return list(numbers)
