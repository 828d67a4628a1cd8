"""The pages of endpoints, and what can be done with them: each does it by calling what the API calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher import api_deliveries, api_endpoints
from loadtest.dispatcher.answers import RefusedError, validated
from loadtest.dispatcher.api_models import (
    DeliveriesQuery,
    EndpointBody,
    EndpointPatch,
    Replay,
    RotateSecret,
)
from loadtest.dispatcher.message import SIGNATURES
from loadtest.dispatcher.panel_forms import (
    Form,
    Values,
    blank_values,
    endpoint_given,
    endpoint_values,
    offered,
    problems_of,
    read_form,
    sent_values,
)
from loadtest.dispatcher.panel_pages import ROOT, Panel, moment, policy_text
from loadtest.dispatcher.records import DISABLED, ENABLED, PAUSED, Endpoint
from sim import presets
from sim.policy import SECOND

ON_A_PAGE = 50
RECENT = 10
STATUSES = (ENABLED, PAUSED, DISABLED)
ORDERINGS = ("none", "key", "endpoint")


def path_of(id_: str, *more: str) -> str:
    """Where an endpoint is shown."""
    return "/".join([f"{ROOT}/endpoints", quote(id_, safe=""), *more])


async def show_endpoints(panel: Panel, request: Request) -> Response:
    """A page of the list, in the order in which they were made."""
    query = request.query_params
    status, find = query.get("status", ""), query.get("find", "")
    after = int(query["after"]) if query.get("after", "").isdecimal() else 0
    known = (await panel.api.subscriptions.endpoints()).by_number
    chosen = [
        known[number]
        for number in sorted(known)
        if status in ("", known[number].status) and (find in known[number].id or find in known[number].url)
    ]
    shown = [each for each in chosen if each.number > after][:ON_A_PAGE]
    more = bool(shown) and shown[-1].number < chosen[-1].number
    return panel.page(
        request, "endpoints", endpoints=shown, total=len(chosen), status=status, find=find, statuses=STATUSES,
        after=after, following=shown[-1].number if more else None,
    )  # fmt: skip


async def show_endpoint(panel: Panel, request: Request) -> Response:
    """One endpoint with its newest deliveries."""
    api = panel.api
    endpoint = await api_endpoints.find(api, request.path_params["id"])
    newest, _ = await api_deliveries.listed(api, DeliveriesQuery(endpoint=endpoint.id, limit=RECENT))
    return panel.page(
        request,
        "endpoint",
        endpoint=endpoint,
        given=api_endpoints.shown(endpoint),
        policy=policy_text(endpoint),
        deliveries=[api_deliveries.shown(api, each) for each in newest],
    )


# --------------------------------------------------------------------------- creating and changing


async def show_new(panel: Panel, request: Request) -> Response:
    """The form of a new endpoint."""
    return await _form(panel, request, None, blank_values(panel.api.settings.ordering))


async def create(panel: Panel, request: Request) -> Response:
    """Register an endpoint; its secret is shown on the next page, and never again."""
    form = await read_form(request, panel.api.settings.most_body)
    try:
        body = validated(endpoint_given(form, new=True), EndpointBody)
        endpoint = await api_endpoints.create(panel.api, body)
    except RefusedError as refused:
        return await _form(panel, request, None, sent_values(form), refused)
    return panel.go(path_of(endpoint.id), "The endpoint has been created.", endpoint.secret)


async def show_edit(panel: Panel, request: Request) -> Response:
    """The form of an endpoint that is there."""
    endpoint = await api_endpoints.find(panel.api, request.path_params["id"])
    values = endpoint_values(endpoint, offered(await panel.api.store.types()))
    return await _form(panel, request, endpoint, values)


async def change(panel: Panel, request: Request) -> Response:
    """Change an endpoint, from the next due time on."""
    name = request.path_params["id"]
    endpoint = await api_endpoints.find(panel.api, name)
    form = await read_form(request, panel.api.settings.most_body)
    try:
        await api_endpoints.change(panel.api, name, validated(endpoint_given(form, new=False), EndpointPatch))
    except RefusedError as refused:
        return await _form(panel, request, endpoint, sent_values(form), refused)
    return panel.go(path_of(name), "The endpoint has been changed; it applies from the next due time.")


async def _form(
    panel: Panel,
    request: Request,
    endpoint: Endpoint | None,
    values: Values,
    refused: RefusedError | None = None,
) -> Response:
    types = await panel.api.store.types()
    boxes = offered(types)
    problems = problems_of(refused) if refused else {}
    return panel.page(
        request, "endpoint_form", refused.status if refused else 200, endpoint=endpoint, values=values,
        problems=problems, types=boxes, more_types=len(types) - len(boxes),
        policies=[*panel.api.settings.policies], presets=presets.names("policies"), signatures=SIGNATURES,
        orderings=ORDERINGS,
    )  # fmt: skip


# --------------------------------------------------------------------------- what can be done


async def pause(panel: Panel, request: Request) -> Response:
    """Send nothing more until it is resumed."""
    return await _done(panel, request, api_endpoints.pause, "Paused: what comes meanwhile waits.")


async def resume(panel: Panel, request: Request) -> Response:
    """Send again, whether it was paused or disabled."""
    return await _done(panel, request, api_endpoints.resume, "Resumed: what waits is sent.")


async def _done(panel: Panel, request: Request, work: Callable[..., Awaitable[Any]], told: str) -> Response:
    name = request.path_params["id"]
    await work(panel.api, name)
    return panel.go(path_of(name), told)


async def rotate(panel: Panel, request: Request) -> Response:
    """A new secret, which the next page shows once; the old one signs too for a while."""
    name = request.path_params["id"]
    endpoint = await api_endpoints.rotate(panel.api, name, RotateSecret())
    until = moment(endpoint.old_secret_until)
    return panel.go(
        path_of(name),
        f"The secret has been rotated; messages carry both signatures until {until} UTC.",
        endpoint.secret,
    )


async def send_test(panel: Panel, request: Request) -> Response:
    """Send an event to this endpoint only, and go where it can be watched."""
    _, name = await api_endpoints.send_test(panel.api, request.path_params["id"])
    return panel.go(
        f"{ROOT}/deliveries/{quote(name, safe='')}", "A test event is on its way; load the page again."
    )


async def show_delete(panel: Panel, request: Request) -> Response:
    """Whether one is sure."""
    endpoint = await api_endpoints.find(panel.api, request.path_params["id"])
    return panel.page(request, "endpoint_delete", endpoint=endpoint)


async def delete(panel: Panel, request: Request) -> Response:
    """Remove an endpoint and drop what waits for it."""
    name = request.path_params["id"]
    await api_endpoints.remove(panel.api, name)
    return panel.go(f"{ROOT}/endpoints", f"Endpoint {name} has been deleted.")


# --------------------------------------------------------------------------- replaying


async def show_replay(panel: Panel, request: Request) -> Response:
    """The form of a replay: the last hour, unless something else is written."""
    endpoint = await api_endpoints.find(panel.api, request.path_params["id"])
    now = clock.now()
    values = {
        name: moment(time).replace(" ", "T")
        for name, time in (("since", now - 3600 * SECOND), ("until", now + SECOND))
    }
    return panel.page(request, "replay", endpoint=endpoint, values=values, problems={})


async def replay(panel: Panel, request: Request) -> Response:
    """Send the events of a time range once more."""
    endpoint = await api_endpoints.find(panel.api, request.path_params["id"])
    form = await read_form(request, panel.api.settings.most_body)
    try:
        span = validated({name: _utc(form, name) for name in ("since", "until")}, Replay)
        added, resent = await api_endpoints.replay(panel.api, endpoint.id, span)
    except RefusedError as refused:
        values = {name: form.one(name) for name in ("since", "until")}
        return panel.page(
            request, "replay", refused.status, endpoint=endpoint, values=values, problems=problems_of(refused)
        )
    told = f"Replayed: {added:,} that it never got, {resent:,} that were settled. What waits anyway was left alone."
    return panel.go(path_of(endpoint.id), told)


def _utc(form: Form, name: str) -> str:
    """A time of a form, which has no time zone and means UTC."""
    text = form.one(name)
    return f"{text}Z" if text else text
