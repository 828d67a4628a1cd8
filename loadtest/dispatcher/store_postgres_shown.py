"""What people and pollers see of a PostgreSQL store."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from loadtest.dispatcher import store_postgres_sql as sql
from loadtest.dispatcher.records import Attempt, Delivery, Endpoint, Event, Filter, TraceRow, Waiting
from loadtest.dispatcher.store_postgres_session import Row, Transaction
from sim.policy import FOREVER, STATES

_DELIVERY = tuple(field.name for field in fields(Delivery) if field.name != "log")
_EVENT = tuple(field.name for field in fields(Event))
_ALL_STATES = list(range(len(STATES)))


def _delivery(row: Row) -> Delivery:
    return Delivery(**dict(zip(_DELIVERY, row, strict=True)))


def _event(row: Row) -> Event:
    values = dict(zip(_EVENT, row, strict=True))
    return Event(**values | {"deliveries": tuple(values["deliveries"])})


async def endpoints(part: Transaction) -> list[Endpoint]:
    """All endpoints that are not removed."""
    found = [dict(zip(sql.ENDPOINT_FIELDS, row, strict=True)) for row in await part.rows(sql.ENDPOINTS)]
    return [Endpoint(**values | {"types": tuple(values["types"])}) for values in found]


async def event(part: Transaction, event_id: str) -> Event | None:
    """One event."""
    found = await part.rows(sql.EVENT, {"id": event_id})
    return _event(found[0]) if found else None


async def events_between(part: Transaction, since: int, until: int, after: int, limit: int) -> list[Event]:
    """Events by time of creation."""
    values = {"since": since, "until": until, "after": after, "limit": limit}
    return [_event(row) for row in await part.rows(sql.EVENTS_BETWEEN, values)]


async def delivery(part: Transaction, delivery_id: str) -> Delivery | None:
    """One delivery with its log. Its id is an event's and an endpoint's, and both may contain colons."""
    words = delivery_id.split(":")
    splits = [(":".join(words[:n]), ":".join(words[n:])) for n in range(1, len(words))]
    values = {"events": [first for first, _ in splits], "endpoints": [last for _, last in splits]}
    found = await part.rows(sql.DELIVERY, values)
    if not found:
        return None
    shown = _delivery(found[0])
    log = await part.rows(sql.LOG_OF_DELIVERY, {"delivery": shown.number})
    return replace(shown, log=tuple(_attempt(row) for row in log))


async def deliveries(part: Transaction, chosen: Filter) -> list[Delivery]:
    """Deliveries, new ones first."""
    return [_delivery(row) for row in await part.rows(*listing(chosen))]


def listing(chosen: Filter) -> tuple[str, dict[str, Any]]:
    """The statement that lists what is chosen by the index that fits, and its values."""
    states = sorted(set(chosen.states)) or _ALL_STATES
    values: dict[str, Any] = {"states": states, "type": chosen.type, "endpoint": chosen.endpoint}
    values |= {"before": chosen.after or FOREVER, "limit": chosen.limit}
    statement = sql.DELIVERIES
    if chosen.endpoint:
        statement = sql.DELIVERIES_OF_ENDPOINT_AND_TYPE if chosen.type else sql.DELIVERIES_OF_ENDPOINT
    elif chosen.type:
        statement = sql.DELIVERIES_OF_TYPE
    elif chosen.states:
        statement = sql.DELIVERIES_OF_STATES
    return statement, values


async def poll(part: Transaction, endpoint: int, after: int, limit: int) -> list[Waiting]:
    """Deliveries of an endpoint above a number."""
    values = {"endpoint": endpoint, "after": after, "limit": limit, "states": _ALL_STATES}
    return [Waiting(*row) for row in await part.rows(sql.POLL, values)]


async def trace(part: Transaction, after: int, limit: int) -> list[TraceRow]:
    """What was logged after a position."""
    found = await part.rows(sql.TRACE, {"after": after, "limit": limit})
    width = 1 + len(sql.ATTEMPT_FIELDS)
    return [TraceRow.of(row[0], _delivery(row[width:]), row[1:width]) for row in found]


def _attempt(row: Row) -> Attempt:
    return Attempt(*row)
