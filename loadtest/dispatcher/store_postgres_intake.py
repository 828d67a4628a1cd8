"""Endpoints, types, events and their deliveries as they go into PostgreSQL."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import psycopg

from loadtest.dispatcher import store_postgres_sql as sql
from loadtest.dispatcher.masks import mask
from loadtest.dispatcher.records import Accepted, Endpoint, NewDelivery, NewEvent
from loadtest.dispatcher.store import ConflictError, StoreError
from loadtest.dispatcher.store_postgres_session import Locks, Transaction
from loadtest.dispatcher.store_postgres_sharing import Sharing
from sim.blocks_dispatcher import is_plain
from sim.policy import WAITING

_EVENT_COLUMNS = (
    "id",
    "digest",
    "type",
    "key",
    "seq",
    "occurred",
    "created",
    "data",
    "object_type",
    "object_id",
)


def slot(endpoint: int, stream: str | None) -> int | None:
    """The lock under which deliveries of a stream come and are settled; None where there is no order."""
    if stream is None:
        return None
    return zlib.crc32(f"{endpoint}:{stream}".encode()) % sql.SLOTS


def locks(deliveries: Iterable[NewDelivery]) -> Locks:
    """What must be held while these deliveries are added."""
    given = list(deliveries)
    slots = {slot(new.endpoint, new.stream) for new in given}
    return Locks(
        slots=[s for s in slots if s is not None],
        targets=list({new.endpoint for new in given}),
        lets_wait=bool(given),
    )


# ----------------------------------------------------------------- types and endpoints


async def types(part: Transaction) -> list[str]:
    """All event types by position."""
    return [name for (name,) in await part.rows(sql.TYPES)]


async def register(part: Transaction, names: Sequence[str]) -> list[str]:
    """Add types that are new, to the masks too."""
    await part.rows(sql.LOCK, {"key": sql.MASK_LOCK})
    known = await types(part)
    new = [name for name in dict.fromkeys(names) if name not in set(known)]
    if not new:
        return known
    first = len(known)
    await part.rows(sql.ADD_TYPES, {"names": new, "bits": list(range(first, first + len(new)))})
    endpoints = await part.rows(sql.PATTERNS)
    masks = [mask(patterns, new, before, first) for _, patterns, before in endpoints]
    await part.rows(sql.SET_MASKS, {"numbers": [number for number, _, _ in endpoints], "masks": masks})
    return known + new


async def put_endpoint(part: Transaction, endpoint: Endpoint) -> Endpoint:
    """Insert or replace an endpoint."""
    known = await register(part, [pattern for pattern in endpoint.types if is_plain(pattern)])
    values = asdict(endpoint) | {"types": list(endpoint.types), "mask": mask(endpoint.types, known)}
    statement = sql.REPLACE_ENDPOINT if endpoint.number else sql.INSERT_ENDPOINT
    try:
        found = await part.rows(statement, values)
    except psycopg.errors.UniqueViolation:
        raise ConflictError(f"endpoint {endpoint.id!r} is there already; choose another id") from None
    if not found:
        raise StoreError(f"endpoint {endpoint.id!r} (number {endpoint.number}) was removed; create it anew")
    part.endpoints_changed = True
    return Endpoint(**asdict(endpoint) | {"number": found[0][0]})


async def remove_endpoint(part: Transaction, number: int) -> None:
    """Hide an endpoint, and free its id."""
    if await part.rows(sql.REMOVE_ENDPOINT, {"number": number}):
        part.endpoints_changed = True


# ----------------------------------------------------------------- events


async def add(part: Transaction, events: Sequence[NewEvent], sharing: Sharing) -> list[Accepted]:
    """Store events with their fan-out; those that are there already stay as they are."""
    _require_once(events)
    columns: dict[str, Any] = {name: [getattr(event, name) for event in events] for name in _EVENT_COLUMNS}
    carried = [bool(event.object_id) for event in events]
    columns["data"] = [b"" if c else event.data for c, event in zip(carried, events, strict=True)]
    columns["lonely"] = [not event.deliveries for event in events]
    numbers: dict[str, int] = dict(await part.rows(sql.ADD_EVENTS, columns))
    known = await _known(part, events, numbers) if len(numbers) < len(events) else {}
    fresh = [event for event in events if event.id in numbers]
    rows = [
        (numbers[event.id], event.type, event.created, new) for event in fresh for new in event.deliveries
    ]
    for event in fresh:
        if event.data and event.object_id:
            values = {
                "type": event.object_type,
                "id": event.object_id,
                "data": event.data,
                "at": event.created,
            }
            await part.rows(sql.PUT_OBJECT, values)
    held, stored = await _insert(part, rows, sharing)
    accepted, place = [], 0
    for event in events:
        if event.id in known:
            accepted.append(Accepted(known[event.id], False, (), ()))
            continue
        number, until = numbers[event.id], place + len(event.deliveries)
        own = tuple(stored[number, new.endpoint] for new in event.deliveries)
        accepted.append(Accepted(number, True, own, tuple(held[place:until])))
        place = until
    return accepted


def _require_once(events: Sequence[NewEvent]) -> None:
    seen: set[str] = set()
    for event in events:
        if event.id in seen:
            raise ConflictError(f"event {event.id!r} is twice in the list; send it once")
        seen.add(event.id)


async def _known(part: Transaction, events: Sequence[NewEvent], new: dict[str, int]) -> dict[str, int]:
    """Numbers of the events that were there before; their content must be the same."""
    there = [event for event in events if event.id not in new]
    found = {
        name: (number, bytes(digest))
        for name, number, digest in await part.rows(sql.KNOWN_EVENTS, {"ids": [event.id for event in there]})
    }
    for event in there:
        if event.id not in found:
            raise ConflictError(f"event {event.id!r} was deleted at this moment; send it again")
        if found[event.id][1] != event.digest:
            raise ConflictError(
                f"event {event.id!r} is there with other content; give this one an id of its own"
            )
    return {name: number for name, (number, _) in found.items()}


async def _insert(
    part: Transaction, rows: list[tuple[int, str, int, NewDelivery]], sharing: Sharing
) -> tuple[list[bool], dict[tuple[int, int], int]]:
    """Insert (event, type, created, delivery); which are held, and the number by (event, endpoint)."""
    if not rows:
        return [], {}
    held = await _held(part, [new for *_, new in rows])
    mine = [
        sharing.process if new.state == WAITING and not waits and sharing.owns(new.endpoint) else None
        for (*_, new), waits in zip(rows, held, strict=True)
    ]
    values: dict[str, Any] = {
        name: [getattr(new, name) for *_, new in rows]
        for name in ("endpoint", "stream", "state", "cause", "due")
    }
    values |= {
        "event": [event for event, *_ in rows],
        "type": [type_ for _, type_, _, _ in rows],
        "gap": [0] * len(rows),  # jitter that looks back sees nothing before the first retry
        "created": [created for _, _, created, _ in rows],
        "slot": [slot(new.endpoint, new.stream) for *_, new in rows],
        "held": held,
        "claimed_by": mine,
    }
    try:
        found = await part.rows(sql.ADD_DELIVERIES, values)
    except psycopg.errors.UniqueViolation as error:
        raise ConflictError("an event has two deliveries to one endpoint; give each endpoint one") from error
    stored = {(event, endpoint): number for event, endpoint, number, _ in found}
    over = {number for _, _, number, state in found if state != WAITING}
    if over:
        await log(part, [(number, None) for number in sorted(over)])
    for _, _, _, state in found:
        part.count(state, 0)
    for place, (event, *_, new) in enumerate(rows):
        if new.state != WAITING:
            continue
        if stored[event, new.endpoint] in over:  # its endpoint has been removed
            held[place] = True
        elif not held[place] and mine[place] is None:
            part.tell(new.endpoint, new.due)
    return held, stored


async def _held(part: Transaction, deliveries: Sequence[NewDelivery]) -> list[bool]:
    """Which of these have a predecessor that is not settled, in the store or before them in the list."""
    streams = {(new.endpoint, new.stream) for new in deliveries if new.stream is not None}
    if not streams:
        return [False] * len(deliveries)
    pairs = list(streams)
    values = {"endpoints": [endpoint for endpoint, _ in pairs], "streams": [stream for _, stream in pairs]}
    busy: set[tuple[int, str | None]] = {(e, s) for e, s in await part.rows(sql.BLOCKED, values)}
    held = []
    for new in deliveries:
        stream = (new.endpoint, new.stream)
        waits = new.stream is not None and new.state == WAITING
        held.append(waits and stream in busy)
        if waits:
            busy.add(stream)
    return held


async def add_deliveries(
    part: Transaction,
    event_id: str,
    deliveries: Sequence[NewDelivery],
    created: int,
    sharing: Sharing,
    tell: Callable[[int, int], None],
) -> list[int]:
    """More deliveries of a stored event. ``tell`` hears of what this process is to send."""
    found = await part.rows(sql.FAN_OUT, {"id": event_id})
    if not found:
        raise StoreError(f"there is no event {event_id!r}; list events to see which are kept")
    ((event, type_),) = found
    there = {
        number
        for (number,) in await part.rows(
            sql.FANNED_OUT, {"event": event, "endpoints": [new.endpoint for new in deliveries]}
        )
    }
    rows = {new.endpoint: (event, type_, created, new) for new in deliveries if new.endpoint not in there}
    held, stored = await _insert(part, list(rows.values()), sharing)
    for (*_, new), waits in zip(rows.values(), held, strict=True):
        if new.state == WAITING and not waits and sharing.owns(new.endpoint):
            tell(new.endpoint, new.due)
    return [stored[event, endpoint] for endpoint in rows]


# ----------------------------------------------------------------- log


async def log(part: Transaction, entries: Sequence[tuple[int, Any]]) -> None:
    """Log (delivery, attempt); an attempt of None: settled without one. Of a resend see ``records.logged_resend``."""
    nothing = (None,) * len(sql.ATTEMPT_FIELDS)
    columns = zip(*((number, *(attempt or nothing)) for number, attempt in entries), strict=True)
    values: dict[str, Any] = dict(zip(("delivery", *sql.ATTEMPT_FIELDS), map(list, columns), strict=True))
    await part.rows(sql.ADD_LOG, values | {"offset": part.position(len(entries))})
