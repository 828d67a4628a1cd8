"""Whether the dispatcher lives and works, and its figures."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher.answers import JSON, RefusedError, answer
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.metrics_page import CONTENT_TYPE
from loadtest.dispatcher.store import StoreError


async def get_metrics(api: Api, request: Request) -> Response:
    """Figures for Prometheus; without the backlog while the store does not answer."""
    try:
        backlog, totals = await api.store.backlog(), await api.store.totals()
    except StoreError:
        backlog, totals = {}, {}
    page = api.metrics.page(backlog, totals, api.running.counts(), clock.now())
    return Response(page, headers={"content-type": CONTENT_TYPE})


async def get_healthz(api: Api, request: Request) -> Response:
    """Whether the process answers."""
    return answer({"status": "alive"})


async def get_readyz(api: Api, request: Request) -> Response:
    """Whether events can be stored and sent now."""
    if not api.ready:
        raise RefusedError(503, "the dispatcher is starting or stopping")
    await api.store.check()
    return answer({"status": "ready"})


async def get_openapi(api: Api, request: Request) -> Response:
    """The document that describes the API."""
    return Response(api.document, media_type=JSON)
