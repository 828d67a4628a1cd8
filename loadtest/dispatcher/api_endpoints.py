"""Endpoints: what they are, and what can be done with them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher import message
from loadtest.dispatcher.answers import (
    answer,
    missing,
    nothing,
    read_model,
    read_query,
    refusal_of,
    unusable,
)
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.api_events import take_in
from loadtest.dispatcher.api_models import (
    EndpointBody,
    EndpointPatch,
    EndpointsQuery,
    Replay,
    RotateSecret,
)
from loadtest.dispatcher.message import delivery_id, rfc3339
from loadtest.dispatcher.policies import resolve
from loadtest.dispatcher.records import ENABLED, PAUSED, POLL, PUSH, Endpoint, Event, NewEvent, Released
from sim import policy
from sim.blocks_dispatcher import matches
from sim.errors import Problem, ScenarioError
from sim.fields import Nanoseconds, format_duration, format_rate
from sim.policy import SECOND

TEST_TYPE = "hooklab.test"
REPLAYED_AT_ONCE = 500
OVERLAP = 24 * 3600 * SECOND
"""For how long an old secret signs beside its successor if nothing is said, ns."""
POLLING_POLICY = '{"schedule":["0s"]}'
"""Of endpoints that poll and name none: nothing is ever sent to them."""


async def post_endpoint(api: Api, request: Request) -> Response:
    """Register an endpoint. Its secret is shown here and after a rotation, and never again."""
    endpoint = await create(api, await read_model(request, EndpointBody, api.settings.most_body))
    return answer(shown(endpoint) | {"secret": endpoint.secret}, 201)


async def create(api: Api, body: EndpointBody) -> Endpoint:
    """See ``post_endpoint``."""
    now = clock.now()
    blank = Endpoint(
        id=body.id or str(uuid.uuid4()),
        url="",
        types=("*",),
        policy=POLLING_POLICY,
        secret=body.secret or message.new_secret(),
        ordering=api.settings.ordering,
        created=now,
        changed=now,
    )
    return await _put(api, _checked(api, _with(api, blank, body), body))


async def get_endpoints(api: Api, request: Request) -> Response:
    """Endpoints, in the order in which they were made; ``next`` goes into ``after`` for the next page."""
    query = read_query(request, EndpointsQuery)
    known = (await api.subscriptions.endpoints()).by_number
    numbers = sorted(number for number in known if number > query.after)
    page = numbers[: query.limit]
    following = page[-1] if len(page) < len(numbers) else None
    return answer({"endpoints": [shown(known[number]) for number in page], "next": following})


async def get_endpoint(api: Api, request: Request) -> Response:
    """One endpoint."""
    return answer(shown(await find(api, request.path_params["id"])))


async def patch_endpoint(api: Api, request: Request) -> Response:
    """Change what is given; it applies from the next due time."""
    patch = await read_model(request, EndpointPatch, api.settings.most_body)
    return answer(shown(await change(api, request.path_params["id"], patch)))


async def change(api: Api, name: str, patch: EndpointPatch) -> Endpoint:
    """See ``patch_endpoint``."""

    async def patched(endpoint: Endpoint) -> Endpoint:
        return _checked(api, _with(api, endpoint, patch), patch)

    return await _changed(api, name, patched)


async def delete_endpoint(api: Api, request: Request) -> Response:
    """Remove an endpoint and drop what waits for it."""
    await remove(api, request.path_params["id"])
    return nothing()


async def remove(api: Api, name: str) -> None:
    """See ``delete_endpoint``."""
    async with api.changing:
        endpoint = await _fresh(api, name)
        await api.store.remove_endpoint(endpoint.number)
        await _told(api)
        await api.running.drop(endpoint.number, policy.DROPPED, policy.BY_DISABLING)


async def pause_endpoint(api: Api, request: Request) -> Response:
    """Send nothing more until it is resumed; what comes meanwhile waits."""
    return answer(shown(await pause(api, request.path_params["id"])))


async def pause(api: Api, name: str) -> Endpoint:
    """See ``pause_endpoint``."""
    return await _changed(api, name, _status(PAUSED, "paused by request"))


async def resume_endpoint(api: Api, request: Request) -> Response:
    """Send again, whether it was paused or disabled."""
    return answer(shown(await resume(api, request.path_params["id"])))


async def resume(api: Api, name: str) -> Endpoint:
    """See ``resume_endpoint``."""
    return await _changed(api, name, _status(ENABLED, ""))


def _status(status: str, reason: str) -> Callable[[Endpoint], Awaitable[Endpoint]]:
    async def change(endpoint: Endpoint) -> Endpoint:
        return replace(endpoint, status=status, reason=reason)

    return change


async def rotate_secret(api: Api, request: Request) -> Response:
    """Give it a new secret; for a while messages are signed with the old one too."""
    body = await read_model(request, RotateSecret, api.settings.most_body)
    endpoint = await rotate(api, request.path_params["id"], body)
    return answer(shown(endpoint) | {"secret": endpoint.secret})


async def rotate(api: Api, name: str, body: RotateSecret) -> Endpoint:
    """See ``rotate_secret``."""
    secret = body.secret or message.new_secret()

    async def rotated(endpoint: Endpoint) -> Endpoint:
        _check_secret(secret, endpoint.signature)
        until = clock.now() + (OVERLAP if body.overlap is None else int(body.overlap))
        return replace(endpoint, secret=secret, old_secret=endpoint.secret, old_secret_until=until)

    return await _changed(api, name, rotated)


async def check_endpoint(api: Api, request: Request) -> Response:
    """Send an event of type ``hooklab.test`` to this endpoint only."""
    event_id, name = await send_test(api, request.path_params["id"])
    return answer({"id": event_id, "delivery_id": name}, 202)


async def send_test(api: Api, name: str) -> tuple[str, str]:
    """See ``check_endpoint``; the ids of the event and of its delivery."""
    endpoint = await find(api, name)
    now = clock.now()
    event_id = f"test-{uuid.uuid4()}"
    row = NewEvent(
        event_id, b"", TEST_TYPE, "", -1, now, now, b'{"message":"a test by hooklab"}', "", "",
        (api.running.fan_out(event_id, "", endpoint, now),),
    )  # fmt: skip
    take_in(api, [row], await api.store.add([row]))
    return event_id, delivery_id(event_id, endpoint.id)


# --------------------------------------------------------------------------- replaying


async def replay_endpoint(api: Api, request: Request) -> Response:
    """Send the events created in [since, until) once more: those it never got, and those that are settled."""
    span = await read_model(request, Replay, api.settings.most_body)
    added, resent = await replay(api, request.path_params["id"], span)
    return answer({"added": added, "resent": resent}, 202)


async def replay(api: Api, name: str, span: Replay) -> tuple[int, int]:
    """See ``replay_endpoint``; how many deliveries are new, and how many are sent again."""
    if span.until <= span.since:
        raise unusable([Problem("until", None, "must be later than since")])
    endpoint = await find(api, name)
    after, added, resent = 0, 0, 0
    while True:
        events = await api.store.events_between(span.since, span.until, after, REPLAYED_AT_ONCE)
        if not events:
            return added, resent
        after = events[-1].number
        chosen = [e for e in events if matches(endpoint.types, e.type)]
        more, again = await _replay(api, endpoint, chosen)
        added, resent = added + more, resent + again


async def _replay(api: Api, endpoint: Endpoint, events: list[Event]) -> tuple[int, int]:
    added, numbers = 0, []
    for event in events:
        now = clock.now()
        name = delivery_id(event.id, endpoint.id)
        if name not in event.deliveries:
            new = api.running.fan_out(event.id, event.key, endpoint, now)
            added += len(await api.store.add_deliveries(event.id, [new], now))
            if new.state == policy.WAITING:
                await api.running.poke([Released(endpoint.number, new.due)])
        elif (delivery := await api.store.delivery(name)) is not None and delivery.settled >= 0:
            numbers.append(delivery.number)
    released = await api.store.resend(numbers, clock.now()) if numbers else []
    await api.running.poke(released)
    return added, len(numbers)


# --------------------------------------------------------------------------- reading and writing one


async def find(api: Api, name: str) -> Endpoint:
    """An endpoint as it is known here."""
    found = (await api.subscriptions.endpoints()).by_id.get(name)
    if found is None:
        raise missing("endpoint", name)
    return found


async def _fresh(api: Api, name: str) -> Endpoint:
    """As the store has it now: its health must not be written over with an old one."""
    for endpoint in await api.store.endpoints():
        if endpoint.id == name:
            return endpoint
    raise missing("endpoint", name)


async def _changed(api: Api, name: str, change: Callable[[Endpoint], Awaitable[Endpoint]]) -> Endpoint:
    async with api.changing:
        endpoint = await change(await _fresh(api, name))
        return await _put(api, replace(endpoint, changed=clock.now()))


async def _put(api: Api, endpoint: Endpoint) -> Endpoint:
    stored = await api.store.put_endpoint(endpoint)
    await _told(api)
    return stored


async def _told(api: Api) -> None:
    """What has been answered to be so is so: for new events, and for what is sent."""
    api.subscriptions.clear()
    await api.running.refresh()


def _with(api: Api, endpoint: Endpoint, given: EndpointPatch) -> Endpoint:
    """The endpoint with all that was given."""
    plain = ("types", "signature", "hook_fields", "description")
    changes: dict[str, Any] = {name: getattr(given, name) for name in plain if name in given.model_fields_set}
    if "url" in given.model_fields_set:
        changes["url"] = given.url
    if "ordering" in given.model_fields_set:
        changes["ordering"] = given.ordering or api.settings.ordering
    for name in ("max_in_flight", "rate_limit"):
        if name in given.model_fields_set:
            changes[name] = getattr(given, name) or 0
    if "mode" in given.model_fields_set:
        polls = given.mode is not None
        changes["mode"] = POLL if polls else PUSH
        changes["poll_every"] = given.mode.poll.every / SECOND if given.mode is not None else 0.0
    if "policy" in given.model_fields_set:
        try:
            changes["policy"], changes["policy_name"] = resolve(given.policy, api.settings.policies)
        except ScenarioError as error:
            raise refusal_of(error) from None
    return replace(endpoint, **changes)


def _checked(api: Api, endpoint: Endpoint, given: EndpointPatch) -> Endpoint:
    """The endpoint, if all its parts go together."""
    _check_secret(endpoint.secret, endpoint.signature)
    if endpoint.mode == POLL:
        if endpoint.url:
            raise unusable(
                [Problem("url", endpoint.url, "must be empty with mode: poll; nothing is sent there")]
            )
        return endpoint
    if not endpoint.url:
        raise unusable([Problem("url", None, "is required unless mode is {poll: {every: 60s}}")])
    if endpoint.policy == POLLING_POLICY and "policy" not in given.model_fields_set:
        raise unusable([Problem("policy", None, "is required unless mode is {poll: {every: 60s}}")])
    if "url" in given.model_fields_set:
        try:
            api.guard.check_url(endpoint.url)
        except ScenarioError as error:
            raise refusal_of(error) from None
    return endpoint


def _check_secret(secret: str, signature: str) -> None:
    try:
        message.check_secret(secret, signature)
    except ScenarioError as error:
        raise refusal_of(error) from None


def shown(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as it is shown, without its secrets."""
    rests = endpoint.old_secret_until > clock.now()
    every = format_duration(Nanoseconds(round(endpoint.poll_every * SECOND)))
    return {
        "id": endpoint.id,
        "url": endpoint.url or None,
        "types": endpoint.types,
        "policy": endpoint.policy_name or orjson.Fragment(endpoint.policy),
        "signature": endpoint.signature,
        "hook_fields": endpoint.hook_fields,
        "max_in_flight": endpoint.max_in_flight or None,
        "rate_limit": format_rate(endpoint.rate_limit) if endpoint.rate_limit else None,
        "ordering": endpoint.ordering,
        "mode": {"poll": {"every": every}} if endpoint.mode == POLL else "push",
        "description": endpoint.description,
        "status": endpoint.status,
        "reason": endpoint.reason,
        "created_at": rfc3339(endpoint.created),
        "changed_at": rfc3339(endpoint.changed),
        "old_secret_until": rfc3339(endpoint.old_secret_until) if rests else None,
    }
