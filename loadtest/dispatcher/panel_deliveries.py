"""The pages of deliveries: the list, what was given up, and one with its attempts."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher import api_deliveries
from loadtest.dispatcher.answers import RefusedError, validated
from loadtest.dispatcher.api_models import DeliveriesQuery
from loadtest.dispatcher.panel_forms import offered, read_form
from loadtest.dispatcher.panel_pages import (
    ROOT,
    SHOWN_ANSWER,
    SHOWN_ENDED,
    Message,
    Panel,
    message_of,
)
from loadtest.dispatcher.panel_timeline import HEIGHT, LEFT, RIGHT, WIDTH, timeline
from loadtest.dispatcher.records import Delivery
from loadtest.dispatcher.store import ConflictError
from sim import policy
from sim.policy import END_CAUSES, LOST, OUTCOMES, STATES, WAIT_CAUSES

ON_A_PAGE = 40
FILTERS = tuple(each for each in STATES if each != STATES[policy.IN_FLIGHT])
"""States that a store finds; one that is in flight waits there."""
FIELDS = ("state", "endpoint", "type", "after")


def path_of(id_: str) -> str:
    """Where a delivery is shown."""
    return f"{ROOT}/deliveries/{quote(id_, safe='')}"


async def show_deliveries(panel: Panel, request: Request) -> Response:
    """A page of the list, new ones first."""
    return await _list(panel, request, "deliveries", FILTERS, "")


async def show_dead(panel: Panel, request: Request) -> Response:
    """A page of what was given up, new ones first."""
    return await _list(panel, request, "dead", LOST, ",".join(LOST))


async def _list(panel: Panel, request: Request, name: str, states: tuple[str, ...], default: str) -> Response:
    chosen = {field: request.query_params.get(field, "") for field in FIELDS}
    if chosen["state"] and chosen["state"] not in states:
        chosen["state"] = ""
    query = {field: text for field, text in chosen.items() if text} | {"limit": ON_A_PAGE}
    if default and not chosen["state"]:
        query["state"] = default
    found, following = await api_deliveries.listed(panel.api, validated(query, DeliveriesQuery))
    return panel.page(
        request, "deliveries", name=name, chosen=chosen, states=states, following=following,
        types=offered(await panel.api.store.types()),
        deliveries=[api_deliveries.shown(panel.api, each) for each in found],
    )  # fmt: skip


async def resend_many(panel: Panel, request: Request) -> Response:
    """Resend all that were ticked, one after the other."""
    form = await read_form(request, panel.api.settings.most_body)
    sent, refusals = 0, []
    for name in form.many("id")[:ON_A_PAGE]:
        try:
            await api_deliveries.resend(panel.api, name)
            sent += 1
        except (RefusedError, ConflictError) as error:
            refusals.append(str(error))
    told = f"{sent:,} of {sent + len(refusals):,} ticked deliveries wait once more."
    return panel.go(f"{ROOT}/dead", f"{told} {refusals[0]}." if refusals else told)


# --------------------------------------------------------------------------- one


async def show_delivery(panel: Panel, request: Request) -> Response:
    """One delivery: its attempts, what is sent, and what came back."""
    api = panel.api
    delivery = await api_deliveries.find(api, request.path_params["id"])
    attempts = [
        {
            "row": each,
            "outcome": OUTCOMES[each.outcome],
            "wait": WAIT_CAUSES[each.wait_cause],
            "answer": each.answer.decode(errors="replace")[:SHOWN_ANSWER],
        }
        for each in reversed(delivery.log[-SHOWN_ENDED:])
    ]
    return panel.page(
        request, "delivery", delivery=api_deliveries.shown(api, delivery), row=delivery, attempts=attempts,
        earlier=max(len(delivery.log) - SHOWN_ENDED, 0), cause=END_CAUSES[delivery.cause],
        drawn=timeline(delivery, clock.now()), message=await _message(panel, delivery),
        size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT},
    )  # fmt: skip


async def _message(panel: Panel, delivery: Delivery) -> Message | str:
    """What is sent, or why that cannot be told."""
    api = panel.api
    endpoint = (await api.subscriptions.endpoints()).by_id.get(delivery.endpoint)
    event = await api.store.event(delivery.event_id)
    if endpoint is None or event is None:
        return "Its endpoint has been removed, and with it what a message would look like."
    data: bytes | None = event.data
    if event.object_id:
        data = await api.store.object(event.object_type, event.object_id)
    if not data:
        return f"The object {event.object_type}/{event.object_id} is gone; there is nothing to send."
    return message_of(api, delivery, event, data, endpoint)


async def resend(panel: Panel, request: Request) -> Response:
    """Let a settled delivery wait once more."""
    delivery = await api_deliveries.resend(panel.api, request.path_params["id"])
    return panel.go(path_of(delivery.id), "It waits once more, due now; load the page again to follow it.")


async def cancel(panel: Panel, request: Request) -> Response:
    """Drop a delivery that waits."""
    delivery = await api_deliveries.cancel(panel.api, request.path_params["id"])
    return panel.go(path_of(delivery.id), "It has been cancelled: no further attempt is made.")
