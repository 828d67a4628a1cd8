"""The HTTP API: what each path does. What it is given is read in ``schemas``, what it gives is made in ``shown``."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest import clock
from loadtest.dispatcher import message, shown
from loadtest.dispatcher.guard import Guard
from loadtest.dispatcher.intake import Intake
from loadtest.dispatcher.observed import Observed
from loadtest.dispatcher.records import (
    DISABLED,
    ENABLED,
    PAUSED,
    POLL,
    PUSH,
    Attempt,
    Endpoint,
    Filter,
    NewDelivery,
    Result,
)
from loadtest.dispatcher.scheduler import Scheduler
from loadtest.dispatcher.schemas import (
    EndpointChange,
    IncomingEvent,
    NewEndpoint,
    Refused,
    Replay,
    read,
    read_events,
    read_every,
    read_policy,
    read_rate,
)
from loadtest.dispatcher.store import ConflictError, Store, StoreError, StoreUnavailableError
from loadtest.dispatcher.subscriptions import Subscriptions
from sim import policy
from sim.blocks_policy import PolicyBlock
from sim.errors import Problem, ScenarioError
from sim.policy import SECOND

MOST_BODY = 4 * 1024 * 1024
"""Bytes of one request."""
MOST_LISTED = 1_000
OLD_SECRET_FOR = 24 * 3600 * SECOND
"""How long an old secret goes on signing beside its successor, ns."""
LONGEST_WAIT_S = 30.0
TEST_TYPE = "hooklab.test"
DEFAULT_POLICY = "standard-webhooks"


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status, headers, "application/json")


async def body_of(request: Request, most: int = MOST_BODY) -> bytes:
    """The body of a request, never more than ``most`` bytes of it.

    Raises:
        HTTPException: 413.
    """
    whole = b""
    async for chunk in request.stream():
        whole = whole + chunk if whole else chunk
        if len(whole) > most:
            raise HTTPException(413, f"the body must be at most {most:,} bytes")
    return whole


class Api:
    """All paths, over the parts they work with."""

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        subscriptions: Subscriptions,
        intake: Intake,
        guard: Guard,
        observed: Observed,
        policies: dict[str, PolicyBlock],
        ordering: str,
    ) -> None:
        self.store = store
        self.scheduler = scheduler
        self.subscriptions = subscriptions
        self.intake = intake
        self.guard = guard
        self.observed = observed
        self.policies = policies
        self.ordering = ordering
        self.arrived = asyncio.Event()
        """Set, and made anew, whenever events have been accepted: long polls wait for it."""

    def routes(self) -> list[Route]:
        """Every path with its method."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("POST", "/events", self.post_events),
            ("GET", "/events", self.poll_events),
            ("GET", "/events/{id}", self.get_event),
            ("POST", "/endpoints", self.post_endpoint),
            ("GET", "/endpoints", self.get_endpoints),
            ("GET", "/endpoints/{id}", self.get_endpoint),
            ("PATCH", "/endpoints/{id}", self.patch_endpoint),
            ("DELETE", "/endpoints/{id}", self.delete_endpoint),
            ("POST", "/endpoints/{id}/pause", self.pause),
            ("POST", "/endpoints/{id}/resume", self.resume),
            ("POST", "/endpoints/{id}/rotate-secret", self.rotate_secret),
            ("POST", "/endpoints/{id}/test", self.send_test),
            ("POST", "/endpoints/{id}/replay", self.replay),
            ("GET", "/deliveries", self.get_deliveries),
            ("GET", "/deliveries/{id}", self.get_delivery),
            ("POST", "/deliveries/{id}/resend", self.resend),
            ("POST", "/deliveries/{id}/cancel", self.cancel),
            ("PUT", "/objects/{type}/{id}", self.put_object),
            ("GET", "/objects/{type}/{id}", self.get_object),
            ("DELETE", "/objects/{type}/{id}", self.delete_object),
            ("GET", "/trace", self.get_trace),
            ("GET", "/metrics", self.get_metrics),
            ("GET", "/healthz", self.healthy),
            ("GET", "/readyz", self.ready),
        ]
        return [Route(path, handler, methods=[method]) for method, path, handler in table]

    # ----------------------------------------------------------------- events

    async def post_events(self, request: Request) -> Response:
        """Accept one event or a list; 202 once they are durable."""
        incoming = read_events(await body_of(request))
        if not self.scheduler.room():
            raise HTTPException(
                429, "too many deliveries wait already; come back later", {"retry-after": "5"}
            )
        several = isinstance(incoming, list)
        events, _ = await self.intake.accept(incoming if isinstance(incoming, list) else [incoming])
        self.observed.accepted.inc(len(events))
        self.arrived.set()
        self.arrived = asyncio.Event()
        ids = [{"id": event.id} for event in events]
        return answer(ids if several else ids[0], 202)

    async def get_event(self, request: Request) -> Response:
        """One event."""
        found = await self.store.event(request.path_params["id"])
        if found is None:
            raise HTTPException(404, "no such event")
        return answer(shown.event(found))

    async def poll_events(self, request: Request) -> Response:
        """What waits for a polling endpoint after a cursor; what is returned counts as delivered."""
        endpoint = await self.endpoint(request.query_params.get("endpoint", ""))
        if endpoint.mode != POLL:
            raise HTTPException(
                409, f"endpoint {endpoint.id} is pushed to; polling is for those with mode poll"
            )
        after, limit = number_of(request, "after", 0, 2**62), number_of(request, "limit", 100, MOST_LISTED)
        wait = min(number_of(request, "wait", 0, 3600), LONGEST_WAIT_S)
        rows = await self.store.poll(endpoint.number, after, limit)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not rows and (left := until - loop.time()) > 0:
            try:
                await asyncio.wait_for(self.arrived.wait(), left)
            except TimeoutError:
                break
            rows = await self.store.poll(endpoint.number, after, limit)
        now = clock.now()
        results = [
            Result(
                row.number, endpoint.number, 1, policy.STATE_DELIVERED, 0, row.due, 0, row.born, now,
                Attempt(1, 0, row.due, now, now, policy.DELIVERED, 200, policy.FOR_POLL),
            )
            for row in rows
            if row.attempts == 0
        ]  # fmt: skip
        if results:
            await self.store.record(results)
        listed = [
            {
                "cursor": row.number,
                "delivery_id": message.delivery_id(row.event_id, endpoint.id),
                "id": row.event_id,
                "type": row.type,
                "key": row.key,
                "seq": None if row.seq < 0 else row.seq,
                "occurred_at": shown.moment(row.occurred),
                "created_at": shown.moment(row.created),
                "data": orjson.Fragment(row.data or b"null"),
            }
            for row in rows
        ]
        return answer({"events": listed, "next": rows[-1].number if rows else after})

    # ----------------------------------------------------------------- endpoints

    async def endpoint(self, name: str) -> Endpoint:
        """The endpoint of a request; raises ``HTTPException`` 404."""
        found = await self.subscriptions.endpoint(name)
        if found is None:
            raise HTTPException(404, f"no endpoint {name[:100]!r}")
        return found

    def fields(self, given: EndpointChange) -> dict[str, Any]:
        """What a request sets, as fields of the row; raises ``Refused``."""
        set_: dict[str, Any] = {}
        named = given.model_fields_set
        if "policy" in named and given.policy is not None:
            name, block = read_policy(given.policy, self.policies)
            set_ |= {"policy_name": name, "policy": block.model_dump_json(exclude_none=True)}
        if "mode" in named and given.mode is not None:
            every = 0.0 if given.mode == "push" else read_every(given.mode.poll.every)
            set_ |= {"mode": PUSH if given.mode == "push" else POLL, "poll_every": every}
        if "rate_limit" in named:
            set_["rate_limit"] = read_rate(given.rate_limit)
        if "max_in_flight" in named:
            set_["max_in_flight"] = given.max_in_flight or 0
        if "types" in named and given.types is not None:
            set_["types"] = tuple(given.types)
        for name in ("url", "secret", "signature", "hook_fields", "ordering", "description"):
            if name in named and getattr(given, name) is not None:
                set_[name] = getattr(given, name)
        return set_

    def check(self, endpoint: Endpoint) -> None:
        """Refuse an endpoint that could not be sent to; raises ``Refused``."""
        problems: list[Problem] = []
        try:
            message.check_secret(endpoint.secret, endpoint.signature)
        except ScenarioError as error:
            problems.extend(error.problems)
        try:
            if endpoint.mode == PUSH:
                self.guard.check_url(endpoint.url)
        except ScenarioError as error:
            problems.extend(error.problems)
        if problems:
            raise Refused(problems)

    async def keep(self, endpoint: Endpoint) -> Endpoint:
        """Store an endpoint; caches and scheduler follow before the request is answered."""
        kept = await self.store.put_endpoint(endpoint)
        self.subscriptions.forget()
        await self.scheduler.refresh()
        return kept

    async def post_endpoint(self, request: Request) -> Response:
        """Create an endpoint; the answer shows its secret, once."""
        given = read(NewEndpoint, await body_of(request))
        now = clock.now()
        name, block = "", ""
        if given.policy is None:
            chosen, default = read_policy(DEFAULT_POLICY, self.policies)
            name, block = chosen, default.model_dump_json(exclude_none=True)
        start = Endpoint(
            id=given.id or uuid.uuid4().hex,
            url="",
            types=(),
            policy=block,
            policy_name=name,
            secret=message.new_secret(),
            ordering=self.ordering,
            created=now,
            changed=now,
        )
        made = dataclasses.replace(start, **self.fields(given))
        if made.mode == PUSH and not made.url:
            raise Refused([Problem("url", None, "is required, unless mode is poll")])
        self.check(made)
        if await self.subscriptions.endpoint(made.id) is not None:
            raise HTTPException(409, f"there is an endpoint {made.id} already; PATCH changes it")
        return answer(shown.endpoint(await self.keep(made), secret=True), 201)

    async def get_endpoints(self, request: Request) -> Response:
        """All endpoints."""
        await self.subscriptions.load()
        return answer([shown.endpoint(one) for one in self.subscriptions.by_number.values()])

    async def get_endpoint(self, request: Request) -> Response:
        """One endpoint."""
        return answer(shown.endpoint(await self.endpoint(request.path_params["id"])))

    async def patch_endpoint(self, request: Request) -> Response:
        """Change an endpoint, from the next due time on."""
        given = read(EndpointChange, await body_of(request))
        old = await self.endpoint(request.path_params["id"])
        changed = dataclasses.replace(old, **self.fields(given), changed=clock.now())
        self.check(changed)
        return answer(shown.endpoint(await self.keep(changed)))

    async def delete_endpoint(self, request: Request) -> Response:
        """Remove an endpoint and drop what waits for it."""
        endpoint = await self.endpoint(request.path_params["id"])
        await self.keep(
            dataclasses.replace(endpoint, status=PAUSED, reason="being removed", changed=clock.now())
        )
        await self.scheduler.drop(endpoint.number, policy.DROPPED, policy.BY_DISABLING)
        await self.store.remove_endpoint(endpoint.number)
        self.subscriptions.forget()
        await self.scheduler.refresh()
        return Response(status_code=204)

    async def status(self, request: Request, status: str, reason: str) -> Response:
        """Pause or resume."""
        endpoint = await self.endpoint(request.path_params["id"])
        health = "" if status == ENABLED else endpoint.health
        changed = dataclasses.replace(
            endpoint, status=status, reason=reason, changed=clock.now(), health=health
        )
        return answer(shown.endpoint(await self.keep(changed)))

    async def pause(self, request: Request) -> Response:
        """Send nothing until it is resumed; everything is kept."""
        endpoint = await self.endpoint(request.path_params["id"])
        if endpoint.status == DISABLED:
            raise HTTPException(409, "it is disabled already")
        return await self.status(request, PAUSED, "paused by an operator")

    async def resume(self, request: Request) -> Response:
        """Send again: after a pause, or after it was disabled."""
        return await self.status(request, ENABLED, "")

    async def rotate_secret(self, request: Request) -> Response:
        """A new secret, shown once; the old one signs beside it for a day."""
        old = await self.endpoint(request.path_params["id"])
        now = clock.now()
        changed = dataclasses.replace(
            old,
            secret=message.new_secret(),
            old_secret=old.secret,
            old_secret_until=now + OLD_SECRET_FOR,
            changed=now,
        )
        return answer(shown.endpoint(await self.keep(changed), secret=True))

    async def send_test(self, request: Request) -> Response:
        """Send a test event to this endpoint alone."""
        endpoint = await self.endpoint(request.path_params["id"])
        event = IncomingEvent(type=TEST_TYPE, data={"test": True, "endpoint": endpoint.id})
        events, _ = await self.intake.accept([event], only=endpoint)
        name = message.delivery_id(events[0].id, endpoint.id)
        return answer({"id": events[0].id, "delivery_id": name}, 202)

    async def replay(self, request: Request) -> Response:
        """Send all events of a time range to this endpoint once more."""
        given = read(Replay, await body_of(request))
        if given.until <= given.since:
            raise Refused([Problem("until", given.until, "must be later than since")])
        endpoint = await self.endpoint(request.path_params["id"])
        await self.subscriptions.load()
        count, after = 0, 0
        while events := await self.store.events_between(given.since, given.until, after, 500):
            after = events[-1].number
            now = clock.now()
            again = []
            for event in events:
                name = message.delivery_id(event.id, endpoint.id)
                if name in event.deliveries:
                    found = await self.store.delivery(name)
                    again += [found.number] if found is not None and found.settled >= 0 else []
                elif endpoint in await self.subscriptions.of(event.type):
                    new = self.scheduler.fan_out(event.id, event.key, endpoint, now)
                    added = await self.store.add_deliveries(
                        event.id, [NewDelivery(endpoint.number, now, new.stream)], now
                    )
                    count += len(added)
                    self.scheduler.due_changed(endpoint.number, now)
            released = await self.store.resend(again, now)
            count += len(again)
            await self.scheduler.poke(released)
        return answer({"deliveries": count}, 202)

    # ----------------------------------------------------------------- deliveries

    async def get_deliveries(self, request: Request) -> Response:
        """Deliveries, new ones first."""
        query = request.query_params
        states = tuple(policy.STATES.index(word) for word in query.getlist("state") if word in policy.STATES)
        unknown = [word for word in query.getlist("state") if word not in policy.STATES]
        if unknown:
            raise Refused([Problem("state", unknown[0], f"must be one of {', '.join(policy.STATES)}")])
        chosen = Filter(
            states=states,
            endpoint=query.get("endpoint", ""),
            type=query.get("type", ""),
            after=number_of(request, "after", 0, 2**62),
            limit=max(number_of(request, "limit", 100, MOST_LISTED), 1),
        )
        found = await self.store.deliveries(chosen)
        return answer([shown.delivery(one, self.scheduler.in_flight(one.number)) for one in found])

    async def get_delivery(self, request: Request) -> Response:
        """One delivery with its attempts."""
        found = await self.store.delivery(request.path_params["id"])
        if found is None:
            raise HTTPException(404, "no such delivery")
        return answer(shown.delivery(found, self.scheduler.in_flight(found.number), log=True))

    async def resend(self, request: Request) -> Response:
        """Let a settled delivery be attempted once more."""
        found = await self.store.delivery(request.path_params["id"])
        if found is None:
            raise HTTPException(404, "no such delivery")
        if found.settled < 0:
            raise HTTPException(409, "it is not settled: it will be attempted anyway")
        await self.scheduler.poke(await self.store.resend([found.number], clock.now()))
        return answer({"id": found.id}, 202)

    async def cancel(self, request: Request) -> Response:
        """Drop a waiting delivery."""
        found = await self.store.delivery(request.path_params["id"])
        if found is None:
            raise HTTPException(404, "no such delivery")
        if not await self.store.cancel(found.number, policy.DROPPED, policy.BY_VERDICT, clock.now()):
            raise HTTPException(409, f"it is settled: {policy.STATES[found.state]}")
        endpoint = await self.subscriptions.endpoint(found.endpoint)
        if endpoint is not None:
            self.scheduler.forget(endpoint.number, found.number)
        return answer({"id": found.id})

    # ----------------------------------------------------------------- objects, trace, operation

    async def put_object(self, request: Request) -> Response:
        """Store an object's newest version."""
        try:
            data = orjson.dumps(orjson.loads(await body_of(request)))
        except orjson.JSONDecodeError as error:
            raise HTTPException(400, f"the body must be JSON: {error}") from None
        await self.store.put_object(request.path_params["type"], request.path_params["id"], data, clock.now())
        return Response(status_code=204)

    async def get_object(self, request: Request) -> Response:
        """An object as it is now."""
        found = await self.store.object(request.path_params["type"], request.path_params["id"])
        if found is None:
            raise HTTPException(404, "no such object")
        return Response(found, media_type="application/json")

    async def delete_object(self, request: Request) -> Response:
        """Delete an object."""
        if not await self.store.delete_object(request.path_params["type"], request.path_params["id"]):
            raise HTTPException(404, "no such object")
        return Response(status_code=204)

    async def get_trace(self, request: Request) -> Response:
        """What happened after a cursor, one JSON object a line."""
        after, limit = number_of(request, "after", 0, 2**62), number_of(request, "limit", 10_000, 50_000)
        rows = await self.store.trace(after, max(limit, 1))
        lines = b"".join(map(shown.trace_lines, rows))
        return Response(
            lines,
            headers={"x-cursor": str(rows[-1].cursor if rows else after)},
            media_type="application/x-ndjson",
        )

    async def get_metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        await self.observed.look(self.store, self.scheduler)
        return Response(generate_latest(self.observed.registry), media_type=CONTENT_TYPE_LATEST)

    async def healthy(self, request: Request) -> Response:
        """The process is alive."""
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """It can accept and send."""
        try:
            await self.store.check()
        except StoreError as error:
            return answer({"status": "store unavailable", "error": str(error)}, 503)
        return answer({"status": "ok"})


def number_of(request: Request, name: str, default: int, most: int) -> int:
    """A whole number of the query; raises ``Refused``."""
    text = request.query_params.get(name)
    if text is None:
        return min(default, most)
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refused([Problem(name, text, "must be a whole number of at least 0")])
    return min(int(text), most)


async def on_refused(_request: Request, error: Exception) -> Response:
    """422 with every problem: where, what, which rule (400 where it is no JSON at all)."""
    assert isinstance(error, Refused)
    broken = any("Invalid JSON" in one.rule for one in error.problems)
    listed = [{"field": one.path, "error": str(one)} for one in error.problems]
    return answer({"error": str(error.problems[0]), "problems": listed}, 400 if broken else 422)


async def on_http(_request: Request, error: Exception) -> Response:
    """A refusal of our own, or of the framework."""
    assert isinstance(error, HTTPException)
    return answer({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def on_conflict(_request: Request, error: Exception) -> Response:
    """409."""
    return answer({"error": str(error)}, 409)


async def on_unavailable(_request: Request, error: Exception) -> Response:
    """503: the same request may succeed later."""
    return answer({"error": str(error)}, 503, {"retry-after": "1"})


HANDLERS = {
    Refused: on_refused,
    HTTPException: on_http,
    ConflictError: on_conflict,
    StoreUnavailableError: on_unavailable,
}
