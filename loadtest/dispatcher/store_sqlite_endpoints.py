"""Endpoints, event types and their masks in the embedded store, objects, and what is deleted in the end.

A type is a bit position; an endpoint's mask lies in words of 63 bits, because SQLite's integers are signed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache

from loadtest.dispatcher.records import Endpoint
from loadtest.dispatcher.store import ConflictError, StoreError
from loadtest.dispatcher.store_sqlite_ledger import Ledger
from sim.blocks_dispatcher import is_plain, matches

WORD_BITS = 63


def types(connection: sqlite3.Connection) -> list[str]:
    """``Store.types``."""
    return [name for (name,) in connection.execute("SELECT name FROM types ORDER BY position")]


def endpoints(connection: sqlite3.Connection) -> list[Endpoint]:
    """``Store.endpoints``."""
    query = "SELECT number, spec, health FROM endpoints WHERE removed = 0 ORDER BY number"
    return [_endpoint(*row) for row in connection.execute(query)]


@lru_cache(maxsize=50_000)  # all are read again after each change of one
def _endpoint(number: int, spec: str, health: str) -> Endpoint:
    fields = json.loads(spec)
    fields["types"] = tuple(fields["types"])
    return Endpoint(**fields, number=number, health=health)


def subscribers(connection: sqlite3.Connection, name: str) -> list[int] | None:
    """``Store.subscribers``."""
    found = connection.execute("SELECT position FROM types WHERE name = ?", (name,)).fetchone()
    if found is None:
        return None
    word, bit = divmod(found[0], WORD_BITS)
    query = "SELECT endpoint FROM masks WHERE word = ? AND bits & ? ORDER BY endpoint"
    return [endpoint for (endpoint,) in connection.execute(query, (word, 1 << bit))]


def register(ledger: Ledger, names: Sequence[str]) -> list[str]:
    """``Store.register``."""
    known = types(ledger.connection)
    fresh = [name for name in dict.fromkeys(names) if name not in set(known)]
    if fresh:
        rows = list(enumerate(fresh, start=len(known)))
        ledger.executemany("INSERT INTO types (position, name) VALUES (?, ?)", rows)
        for endpoint in endpoints(ledger.connection):
            add_to_mask(ledger, endpoint.number, endpoint.types, fresh, len(known))
    return known + fresh


def put_endpoint(ledger: Ledger, endpoint: Endpoint) -> Endpoint:
    """``Store.put_endpoint``."""
    known = register(ledger, [pattern for pattern in endpoint.types if is_plain(pattern)])
    fields = asdict(endpoint)
    number, health = fields.pop("number"), fields.pop("health")
    row = (endpoint.id, json.dumps(fields), health)
    try:
        if number:
            query = "UPDATE endpoints SET id = ?, spec = ?, health = ? WHERE number = ? AND removed = 0"
            if not ledger.execute(query, (*row, number)).rowcount:
                raise StoreError(f"there is no endpoint with number {number}; 0 stores a new one")
        else:
            query = "INSERT INTO endpoints (id, spec, health) VALUES (?, ?, ?)"
            number = ledger.execute(query, row).lastrowid
    except sqlite3.IntegrityError as error:
        raise ConflictError(f"endpoint {endpoint.id!r} is there already; give it another id") from error
    ledger.execute("DELETE FROM masks WHERE endpoint = ?", (number,))
    add_to_mask(ledger, number, endpoint.types, known)
    ledger.effects.endpoints_changed = True
    return replace(endpoint, number=number)


def add_to_mask(
    ledger: Ledger, endpoint: int, patterns: Sequence[str], names: Sequence[str], first: int = 0
) -> None:
    """Store which types, from position ``first`` on, an endpoint's patterns match."""
    words: dict[int, int] = {}
    for position, name in enumerate(names, start=first):
        if matches(patterns, name):
            word, bit = divmod(position, WORD_BITS)
            words[word] = words.get(word, 0) | 1 << bit
    rows = [(word, endpoint, bits) for word, bits in words.items()]
    query = (
        "INSERT INTO masks (word, endpoint, bits) VALUES (?, ?, ?)"
        " ON CONFLICT (word, endpoint) DO UPDATE SET bits = bits | excluded.bits"
    )
    ledger.executemany(query, rows)


def save_health(ledger: Ledger, health: dict[int, str]) -> None:
    """``Store.save_health``."""
    rows = [(text, number) for number, text in health.items()]
    ledger.executemany("UPDATE endpoints SET health = ? WHERE number = ?", rows)


def remove_endpoint(ledger: Ledger, number: int) -> None:
    """``Store.remove_endpoint``; its row stays, for the id in the lists."""
    query = "UPDATE endpoints SET removed = 1, spec = '{}' WHERE number = ? AND removed = 0"
    if ledger.execute(query, (number,)).rowcount:
        ledger.removed.add(number)
        ledger.execute("DELETE FROM masks WHERE endpoint = ?", (number,))
        ledger.effects.endpoints_changed = True


def put_object(ledger: Ledger, row: tuple[str, str, bytes, int]) -> None:
    """``Store.put_object``."""
    ledger.execute("INSERT OR REPLACE INTO objects (type, id, data, updated) VALUES (?, ?, ?, ?)", row)


def delete_object(ledger: Ledger, key: tuple[str, str]) -> bool:
    """``Store.delete_object``."""
    return ledger.execute("DELETE FROM objects WHERE type = ? AND id = ?", key).rowcount > 0


def prune(ledger: Ledger, call: tuple[int, int]) -> int:
    """One part, as large as told, of what ``Store.prune`` deletes."""
    query = "SELECT number, event, state FROM deliveries WHERE settled < ? ORDER BY settled LIMIT ?"
    found = ledger.execute(query, call).fetchall()
    numbers = [(number,) for number, _, _ in found]
    for _, _, state in found:
        ledger.effects.totals[state, 0] -= 1
    ledger.executemany("DELETE FROM log WHERE delivery = ?", numbers)
    ledger.executemany("DELETE FROM deliveries WHERE number = ?", numbers)
    ledger.executemany(
        "DELETE FROM events"
        " WHERE number = ? AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = events.number)",
        [(event,) for event in dict.fromkeys(event for _, event, _ in found)],
    )
    ledger.execute(
        "DELETE FROM events WHERE number IN"
        " (SELECT number FROM events WHERE lonely = 1 AND created < ? LIMIT ?)",
        call,
    )
    ledger.keep_numbers()
    return len(found)


def touch(ledger: Ledger, _call: None) -> None:
    """Write something that changes nothing, to see that it can be written."""
    ledger.keep_numbers()
