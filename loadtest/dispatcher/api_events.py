"""Intake, and what polling endpoints fetch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher.answers import (
    RefusedError,
    answer,
    compact,
    invalid,
    missing,
    parse,
    read_body,
    read_query,
    unusable,
)
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.api_models import PollQuery, PostedEvent
from loadtest.dispatcher.message import delivery_id, rfc3339
from loadtest.dispatcher.records import ENABLED, POLL, Attempt, Endpoint, NewEvent, Result, Waiting
from sim import policy
from sim.errors import Problem

FULL_RETRY_AFTER_S = 1
LOOK_AGAIN_S = 1.0
"""How often a waiting poll asks the store by itself: another process may have taken an event in."""

_EVENT = TypeAdapter(PostedEvent)
_EVENTS = TypeAdapter(list[PostedEvent])
_FIELDS = tuple(PostedEvent.model_fields)


async def post_events(api: Api, request: Request) -> Response:
    """Store events with their deliveries; answered once they are durable."""
    body = await read_body(request, api.settings.most_body)
    if not api.running.room():
        headers = {"retry-after": str(FULL_RETRY_AFTER_S)}
        raise RefusedError(429, "too many deliveries wait; post it again later", headers=headers)
    values = parse(body)
    events = read_events(api, values)
    try:
        rows = [await new_event(api, posted, place) for place, posted in enumerate(events)]
        accepted = await api.store.add(rows)
    except Exception:
        api.metrics.refused.inc(len(events))
        raise
    take_in(api, rows, accepted)
    ids = [{"id": row.id} for row in rows]
    return answer(ids if isinstance(values, list) else ids[0], 202)


def read_events(api: Api, values: Any) -> list[PostedEvent]:
    """What was posted: one event or a list."""
    try:
        if not isinstance(values, list):
            return [_EVENT.validate_python(values)]
        if not 1 <= len(values) <= api.settings.most_events:
            rule = f"must have from 1 to {api.settings.most_events:,} events; it has {len(values):,}"
            raise unusable([Problem("", None, f"the list {rule}")])
        return _EVENTS.validate_python(values)
    except ValidationError as error:
        raise invalid(error, _FIELDS) from None


async def new_event(api: Api, posted: PostedEvent, place: int = 0) -> NewEvent:
    """A posted event as it is stored, with its fan-out."""
    has_data = "data" in posted.model_fields_set
    if has_data == (posted.object is not None):
        rule = "excludes object; remove one of them" if has_data else "is required unless object is given"
        raise unusable([Problem("data", None, rule)])
    data = compact(posted.data) if has_data else b""
    if len(data) > api.settings.most_data:
        rule = f"its data have {len(data):,} bytes; at most {api.settings.most_data:,} are allowed"
        raise RefusedError(413, f"event {place + 1}: {rule}")
    told = (posted.object.type, posted.object.id) if posted.object is not None else ("", "")
    now = clock.now()
    content = compact(
        [posted.type, posted.key, posted.seq, posted.occurred_at, *told, posted.data], canonical=True
    )
    event_id = posted.id or str(uuid.uuid4())
    if has_data and api.settings.holds_id:
        told = (posted.type, event_id)
    endpoints = api.subscriptions.remembered(posted.type)
    if endpoints is None:
        endpoints = await api.subscriptions.of(posted.type)
    fan_out = api.running.fan_out
    return NewEvent(
        event_id,
        hashlib.blake2b(content, digest_size=16).digest(),
        posted.type,
        posted.key,
        -1 if posted.seq is None else posted.seq,
        now if posted.occurred_at is None else posted.occurred_at,
        now,
        data,
        *told,
        tuple([fan_out(event_id, posted.key, endpoint, now) for endpoint in endpoints]),
    )


def take_in(api: Api, rows: Sequence[NewEvent], accepted: Sequence[Any]) -> None:
    """Hand stored events to the scheduler and to those who wait for them."""
    api.running.accept(rows, accepted)
    fresh = sum(done.fresh for done in accepted)
    api.metrics.accepted(fresh, len(rows) - fresh, sum(len(done.deliveries) for done in accepted))
    if api.arrivals.waiting:
        for row in rows:
            for delivery in row.deliveries:
                api.arrivals.tell(delivery.endpoint)


async def get_event(api: Api, request: Request) -> Response:
    """One event with the ids of its deliveries."""
    name = request.path_params["id"]
    event = await api.store.event(name)
    if event is None:
        raise missing("event", name)
    told = {"type": event.object_type, "id": event.object_id} if event.object_id else None
    return answer(
        {
            "id": event.id,
            "type": event.type,
            "key": event.key,
            "seq": None if event.seq < 0 else event.seq,
            "occurred_at": rfc3339(event.occurred),
            "created_at": rfc3339(event.created),
            "data": orjson.Fragment(event.data) if event.data else None,
            "object": told,
            "deliveries": event.deliveries,
        }
    )


# --------------------------------------------------------------------------- polling


async def poll_events(api: Api, request: Request) -> Response:
    """What waits for a polling endpoint after a cursor; what is returned counts as delivered."""
    query = read_query(request, PollQuery)
    endpoint = (await api.subscriptions.endpoints()).by_id.get(query.endpoint)
    if endpoint is None:
        raise missing("endpoint", query.endpoint)
    if endpoint.mode != POLL:
        raise RefusedError(
            409, f"endpoint {endpoint.id} is pushed to; change its mode to poll, or wait for its URL"
        )
    if endpoint.status != ENABLED:
        raise RefusedError(409, f"endpoint {endpoint.id} is {endpoint.status}; resume it first")
    rows = await _wait_for(api, endpoint, query)
    events = await _hand_over(api, endpoint, rows)
    return answer({"events": events, "next": rows[-1].number if rows else query.after})


async def _wait_for(api: Api, endpoint: Endpoint, query: PollQuery) -> list[Waiting]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + query.wait
    with api.arrivals.watch(endpoint.number) as arrived:
        while True:
            arrived.clear()
            rows = await api.store.poll(endpoint.number, query.after, query.limit)
            left = deadline - loop.time()
            if rows or left <= 0 or not api.ready:
                return rows
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), min(left, LOOK_AGAIN_S))


async def _hand_over(api: Api, endpoint: Endpoint, rows: Sequence[Waiting]) -> list[dict[str, Any]]:
    """Write down that deliveries were fetched, and give them as they are shown."""
    found = []
    for row in rows:
        data: bytes | None = row.data
        if row.object_id:
            data = await api.store.object(row.object_type, row.object_id)
        found.append((row, data))
    now = clock.now()
    released = await api.store.record([_result(row, data is not None, now) for row, data in found])
    await api.running.poke(released)
    return [
        {
            "cursor": row.number,
            "id": row.event_id,
            "delivery_id": delivery_id(row.event_id, endpoint.id),
            "type": row.type,
            "key": row.key,
            "seq": None if row.seq < 0 else row.seq,
            "occurred_at": rfc3339(row.occurred),
            "created_at": rfc3339(row.created),
            "data": orjson.Fragment(data),
        }
        for row, data in found
        if data is not None
    ]


def _result(row: Waiting, there: bool, now: int) -> Result:
    if not there:
        return Result(
            row.number, row.endpoint, row.attempts, policy.VANISHED, policy.BY_OBJECT,
            row.due, row.gap, row.born, now, None,
        )  # fmt: skip
    number = row.attempts + 1
    attempt = Attempt(number, 0, row.due, now, now, policy.DELIVERED, 200, policy.FOR_POLL)
    return Result(
        row.number, row.endpoint, number, policy.STATE_DELIVERED, 0,
        row.due, row.gap, row.born, now, attempt,
    )  # fmt: skip
