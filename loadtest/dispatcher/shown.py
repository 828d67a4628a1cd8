"""Rows as the JSON that the API gives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from loadtest.dispatcher.records import POLL, Attempt, Delivery, Endpoint, Event, TraceRow
from sim import policy


def moment(time: int) -> str | None:
    """RFC 3339 in UTC; None for a time that has not come."""
    if time < 0:
        return None
    return (
        datetime.fromtimestamp(time // 1000 / 1e6, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def endpoint(one: Endpoint, secret: bool = False) -> dict[str, Any]:
    """An endpoint; its secret only where it has just been made."""
    told: dict[str, Any] = {
        "id": one.id,
        "url": one.url,
        "types": list(one.types),
        "policy": one.policy_name or orjson.loads(one.policy),
        "signature": one.signature,
        "hook_fields": one.hook_fields,
        "max_in_flight": one.max_in_flight or None,
        "rate_limit": one.rate_limit or None,
        "ordering": one.ordering,
        "mode": {"poll": {"every": f"{one.poll_every:g}s"}} if one.mode == POLL else "push",
        "description": one.description,
        "status": one.status,
        "reason": one.reason or None,
        "created_at": moment(one.created),
        "changed_at": moment(one.changed),
    }
    return told | {"secret": one.secret} if secret else told


def attempt(one: Attempt) -> dict[str, Any]:
    """One attempt of a delivery's log."""
    return {
        "attempt_number": one.attempt_number,
        "tier": one.tier,
        "due_at": moment(one.due),
        "started_at": moment(one.started),
        "finished_at": moment(one.finished),
        "duration_s": (one.finished - one.started) / 1e9,
        "outcome": policy.OUTCOMES[one.outcome],
        "status": one.status or None,
        "wait_cause": policy.WAIT_CAUSES[one.wait_cause],
        "answer": one.answer.decode("utf-8", "replace"),
        "error": one.error,
    }


def delivery(one: Delivery, in_flight: bool, log: bool = False) -> dict[str, Any]:
    """A delivery; with its attempts where ``log`` is set."""
    told: dict[str, Any] = {
        "id": one.id,
        "cursor": one.number,
        "event_id": one.event_id,
        "endpoint": one.endpoint,
        "type": one.type,
        "key": one.key,
        "seq": None if one.seq < 0 else one.seq,
        "created_at": moment(one.created),
        "state": policy.STATES[policy.IN_FLIGHT if in_flight else one.state],
        "cause": policy.END_CAUSES[one.cause] if one.settled >= 0 else "",
        "attempts": one.attempts,
        "due_at": moment(one.due) if one.state == policy.WAITING else None,
        "waits_for_predecessor": one.held,
        "delivered_at": moment(one.delivered),
        "settled_at": moment(one.settled),
    }
    return told | {"log": [attempt(entry) for entry in one.log]} if log else told


def event(one: Event) -> dict[str, Any]:
    """An event with the ids of its deliveries."""
    return {
        "id": one.id,
        "type": one.type,
        "key": one.key,
        "seq": None if one.seq < 0 else one.seq,
        "occurred_at": moment(one.occurred),
        "created_at": moment(one.created),
        "data": orjson.loads(one.data) if one.data else None,
        "object": {"type": one.object_type, "id": one.object_id} if one.object_id else None,
        "deliveries": list(one.deliveries),
    }


def seconds(time: int) -> float | None:
    """Seconds since 1970 (a float: to a quarter of a microsecond); None for a time that has not come."""
    return None if time < 0 else time / 1e9


def trace_lines(row: TraceRow) -> bytes:
    """What happened, as lines of JSON with the columns of the trace's tables."""
    lines = []
    one, tried = row.delivery, row.attempt
    common = {
        "cursor": row.cursor,
        "delivery_id": one.id,
        "event_id": one.event_id,
        "endpoint": one.endpoint,
        "key": one.key,
        "seq": one.seq,
        "created_s": seconds(one.created),
    }
    if tried is not None:
        lines.append(
            {"kind": "attempt"}
            | common
            | {
                "attempt_number": tried.attempt_number,
                "tier": tried.tier,
                "due_s": seconds(tried.due),
                "started_s": seconds(tried.started),
                "finished_s": seconds(tried.finished),
                "outcome": policy.OUTCOMES[tried.outcome],
                "status": tried.status,
                "wait_cause": policy.WAIT_CAUSES[tried.wait_cause],
            }
        )
    if tried is None or (one.settled >= 0 and tried.attempt_number == one.attempts):
        lines.append(
            {"kind": "delivery"}
            | common
            | {
                "producer": one.event_id.rpartition(":")[0],
                "type": one.type,
                "state": policy.STATES[one.state],
                "cause": policy.END_CAUSES[one.cause],
                "attempts": one.attempts,
                "delivered_s": seconds(one.delivered),
                "settled_s": seconds(one.settled),
            }
        )
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)
