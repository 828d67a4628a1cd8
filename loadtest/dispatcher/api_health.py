"""Whether the dispatcher lives and works, its figures, and when a scenario begins."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher.answers import JSON, RefusedError, answer, read_query, unusable
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.api_models import StartQuery
from loadtest.dispatcher.metrics_page import CONTENT_TYPE
from loadtest.dispatcher.store import StoreError
from sim.errors import Problem


async def get_metrics(api: Api, request: Request) -> Response:
    """Figures for Prometheus; without the backlog while the store does not answer."""
    try:
        backlog, totals = await api.store.backlog(), await api.store.totals()
    except StoreError:
        backlog, totals = {}, {}
    page = api.metrics.page(backlog, totals, api.running.counts(), clock.now())
    return Response(page, headers={"content-type": CONTENT_TYPE})


async def get_healthz(api: Api, request: Request) -> Response:
    """Whether the process answers, and the T0 that it was told."""
    return answer({"status": "alive", "start_ns": api.start})


async def post_start(api: Api, request: Request) -> Response:
    """Begin the scenario's time, at once or ``at`` ns since 1970: workers that change over time count from there.

    Until then they count from the start of the process.
    """
    at = read_query(request, StartQuery).at
    start = clock.now() if at is None else at
    if clock.is_far(start):
        rule = "must be nanoseconds since 1970, within a year of now"
        raise unusable([Problem("at", start, rule)])
    if api.start is not None:
        raise RefusedError(409, f"the scenario starts or has started at {api.start}")
    api.start = start
    api.running.count_from(start)
    return answer({"start_ns": start})


async def get_readyz(api: Api, request: Request) -> Response:
    """Whether events can be stored and sent now."""
    if not api.ready:
        raise RefusedError(503, "the dispatcher is starting or stopping")
    await api.store.check()
    return answer({"status": "ready"})


async def get_openapi(api: Api, request: Request) -> Response:
    """The document that describes the API."""
    return Response(api.document, media_type=JSON)
