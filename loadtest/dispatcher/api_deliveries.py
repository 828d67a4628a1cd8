"""Deliveries and the trace, as they are shown; objects that events tell of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher.answers import (
    JSON,
    RefusedError,
    answer,
    compact,
    missing,
    nothing,
    parse,
    read_body,
    read_query,
    unusable,
)
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.api_models import DeliveriesQuery, TraceQuery
from loadtest.dispatcher.message import rfc3339
from loadtest.dispatcher.records import Attempt, Delivery, Filter, TraceRow
from sim import policy
from sim.errors import Problem, nearest
from sim.policy import END_CAUSES, OUTCOMES, SECOND, STATES, WAIT_CAUSES

NDJSON = "application/x-ndjson"
LONGEST_OBJECT_NAME = 200


async def get_deliveries(api: Api, request: Request) -> Response:
    """Deliveries without their attempts, new ones first; ``next`` goes into ``after`` for the next page."""
    found, following = await listed(api, read_query(request, DeliveriesQuery))
    return answer({"deliveries": [shown(api, each) for each in found], "next": following})


async def listed(api: Api, query: DeliveriesQuery) -> tuple[list[Delivery], int | None]:
    """A page of deliveries, and what goes into ``after`` for the next one."""
    states = tuple(_state(name) for name in query.state.split(",")) if query.state else ()
    chosen = Filter(
        states=states, endpoint=query.endpoint, type=query.type, after=query.after, limit=query.limit
    )
    found = await api.store.deliveries(chosen)
    return found, found[-1].number if len(found) == query.limit else None


def _state(name: str) -> int:
    if name not in STATES:
        rule = f"must be {', '.join(STATES[:-1])} or {STATES[-1]}{nearest(name, STATES)}"
        raise unusable([Problem("state", name, rule)])
    return STATES.index(name)


async def get_delivery(api: Api, request: Request) -> Response:
    """One delivery with its attempts."""
    delivery = await find(api, request.path_params["id"])
    return answer(shown(api, delivery) | {"log": [_attempt(each) for each in delivery.log]})


async def resend_delivery(api: Api, request: Request) -> Response:
    """Let a settled delivery wait once more, due now; its attempts go on counting."""
    return answer(shown(api, await resend(api, request.path_params["id"])), 202)


async def resend(api: Api, name: str) -> Delivery:
    """See ``resend_delivery``."""
    delivery = await find(api, name)
    if delivery.settled < 0:
        raise RefusedError(409, f"delivery {delivery.id} waits already; there is nothing to resend")
    await _endpoint_number(api, delivery)
    released = await api.store.resend([delivery.number], clock.now())
    await api.running.poke(released)
    return await find(api, name)


async def cancel_delivery(api: Api, request: Request) -> Response:
    """Drop a delivery that waits."""
    return answer(shown(api, await cancel(api, request.path_params["id"])))


async def cancel(api: Api, name: str) -> Delivery:
    """See ``cancel_delivery``."""
    delivery = await find(api, name)
    number = await _endpoint_number(api, delivery)
    if api.running.in_flight(delivery.number):
        raise RefusedError(
            409, f"an attempt of delivery {delivery.id} is under way; cancel it when that has ended"
        )
    if not await api.store.cancel(delivery.number, policy.DROPPED, policy.BY_CANCELLING, clock.now()):
        raise RefusedError(409, f"delivery {delivery.id} is settled already")
    api.running.forget(number, delivery.number)
    return await find(api, name)


async def find(api: Api, name: str) -> Delivery:
    """A delivery with its attempts."""
    found = await api.store.delivery(name)
    if found is None:
        raise missing("delivery", name)
    return found


async def _endpoint_number(api: Api, delivery: Delivery) -> int:
    endpoint = (await api.subscriptions.endpoints()).by_id.get(delivery.endpoint)
    if endpoint is None:
        raise RefusedError(409, f"endpoint {delivery.endpoint} has been removed")
    return endpoint.number


def shown(api: Api, delivery: Delivery) -> dict[str, Any]:
    """A delivery as it is shown."""
    waits = delivery.settled < 0
    under_way = waits and api.running.in_flight(delivery.number)
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "endpoint": delivery.endpoint,
        "type": delivery.type,
        "key": delivery.key,
        "seq": None if delivery.seq < 0 else delivery.seq,
        "created_at": rfc3339(delivery.created),
        "state": STATES[policy.IN_FLIGHT if under_way else delivery.state],
        "cause": END_CAUSES[delivery.cause] if not waits else "",
        "attempts": delivery.attempts,
        "due_at": rfc3339(delivery.due) if waits else None,
        "delivered_at": None if delivery.delivered < 0 else rfc3339(delivery.delivered),
        "settled_at": None if waits else rfc3339(delivery.settled),
        "held": delivery.held,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt_number": attempt.attempt_number,
        "tier": attempt.tier,
        "due_at": rfc3339(attempt.due),
        "started_at": rfc3339(attempt.started),
        "finished_at": rfc3339(attempt.finished),
        "outcome": OUTCOMES[attempt.outcome],
        "status": attempt.status or None,
        "wait_cause": WAIT_CAUSES[attempt.wait_cause],
        "answer": attempt.answer.decode(errors="replace"),
        "error": attempt.error,
    }


# --------------------------------------------------------------------------- the trace


async def get_trace(api: Api, request: Request) -> Response:
    """What happened after a cursor: a line of JSON for each attempt, each settlement and each resend by hand.

    The columns are those of the simulator's tables; what only a receiver knows is null. An attempt that settles
    its delivery gives two lines with one cursor, and a page ends with a whole cursor.
    """
    query = read_query(request, TraceQuery)
    rows = await api.store.trace(query.after, query.limit)
    lines = [orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for row in rows for line in _lines(row)]
    return Response(b"".join(lines), media_type=NDJSON)


def _lines(row: TraceRow) -> Iterator[dict[str, Any]]:
    delivery, attempt = row.delivery, row.attempt
    common = {
        "cursor": row.cursor,
        "delivery_id": delivery.id,
        "event_id": delivery.event_id,
        "endpoint": delivery.endpoint,
        "key": delivery.key,
        "seq": None if delivery.seq < 0 else delivery.seq,
        "created_s": _seconds(delivery.created),
    }
    if attempt is not None:
        yield {
            "kind": "attempt",
            **common,
            "attempt_number": attempt.attempt_number,
            "tier": attempt.tier,
            "due_s": _seconds(attempt.due),
            "started_s": _seconds(attempt.started),
            "finished_s": _seconds(attempt.finished),
            "outcome": OUTCOMES[attempt.outcome],
            "status": attempt.status,
            "processed_s": None,
            "wait_cause": WAIT_CAUSES[attempt.wait_cause],
        }
    if row.resent >= 0:
        yield {"kind": "resend", **common, "due_s": _seconds(row.resent)}
    elif delivery.settled >= 0 and (attempt is None or attempt.finished == delivery.settled):
        yield {
            "kind": "delivery",
            **common,
            "producer": delivery.event_id.rpartition(":")[0],
            "type": delivery.type,
            "state": STATES[delivery.state],
            "cause": END_CAUSES[delivery.cause],
            "attempts": delivery.attempts,
            "settled_s": _seconds(delivery.settled),
            "first_processed_s": None,
            "delivered_s": None if delivery.delivered < 0 else _seconds(delivery.delivered),
            "duplicates": None,
            "late": None,
        }


def _seconds(time: int) -> orjson.Fragment:
    """A time in ns as a number of seconds with all its nine decimals, which a float has no room for."""
    return orjson.Fragment(f"{time // SECOND}.{time % SECOND:09d}")


# --------------------------------------------------------------------------- objects


async def put_object(api: Api, request: Request) -> Response:
    """Store an object, or its new version."""
    type_, id_ = _object_name(request)
    data = compact(parse(await read_body(request, api.settings.most_body)))
    if len(data) > api.settings.most_data:
        raise RefusedError(
            413, f"the object has {len(data):,} bytes; at most {api.settings.most_data:,} are allowed"
        )
    await api.store.put_object(type_, id_, data, clock.now())
    return nothing()


async def get_object(api: Api, request: Request) -> Response:
    """An object as it is now."""
    type_, id_ = _object_name(request)
    data = await api.store.object(type_, id_)
    if data is None:
        raise missing("object", f"{type_}/{id_}")
    return Response(data, media_type=JSON)


async def delete_object(api: Api, request: Request) -> Response:
    """Delete an object: deliveries that tell of it and have not started vanish."""
    type_, id_ = _object_name(request)
    if not await api.store.delete_object(type_, id_):
        raise missing("object", f"{type_}/{id_}")
    return nothing()


def _object_name(request: Request) -> tuple[str, str]:
    parts = {name: request.path_params[name] for name in ("type", "id")}
    rule = f"must be at most {LONGEST_OBJECT_NAME} printable characters"
    if wrong := [
        Problem(name, text, rule)
        for name, text in parts.items()
        if len(text) > LONGEST_OBJECT_NAME or not text.isprintable()
    ]:
        raise unusable(wrong)
    return parts["type"], parts["id"]
