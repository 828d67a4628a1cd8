"""The one table of the HTTP API: from it come the routing and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from loadtest.dispatcher import api_deliveries, api_endpoints, api_events, api_health
from loadtest.dispatcher.answers import JSON
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.api_deliveries import NDJSON
from loadtest.dispatcher.api_models import (
    DeliveriesAnswer,
    DeliveriesQuery,
    DeliveryAnswer,
    EndpointAnswer,
    EndpointBody,
    EndpointPatch,
    EndpointsAnswer,
    EndpointsQuery,
    EventAnswer,
    HealthAnswer,
    PolledAnswer,
    PollQuery,
    PostedEvent,
    Replay,
    ReplayAnswer,
    RotateSecret,
    StartAnswer,
    StartQuery,
    StatusAnswer,
    StoredEvent,
    TestAnswer,
    TraceQuery,
)

Handler = Callable[[Api, Request], Awaitable[Response]]

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What anybody may ask: probes of a machine's own watchdog carry no token and call it by its address."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    body: Any = None
    """Model of the request's body; ``Any``-shaped where it may be any JSON."""
    query: type[BaseModel] | None = None
    status: int = 200
    answer: Any = None
    """Type of the answer in JSON; None: there is none."""
    media: str = JSON
    refusals: tuple[int, ...] = ()
    """Statuses of errors beside those that every operation may have."""

    @property
    def name(self) -> str:
        """Its name in the document."""
        return self.handler.__name__

    @property
    def summary(self) -> str:
        """What it does, for people."""
        return " ".join((self.handler.__doc__ or "").split("\n\n")[0].split())


class _AnyJson:
    """Stands for a body of any JSON."""


ANY_JSON = _AnyJson

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="POST", path="/events", handler=api_events.post_events, body=PostedEvent | list[PostedEvent],
        status=202, answer=EventAnswer | list[EventAnswer], refusals=(409, 413, 429),
    ),
    Operation(
        method="GET", path="/events", handler=api_events.poll_events, query=PollQuery, answer=PolledAnswer,
        refusals=(404, 409),
    ),
    Operation(
        method="GET", path="/events/{id}", handler=api_events.get_event, answer=StoredEvent, refusals=(404,)
    ),
    Operation(
        method="POST", path="/endpoints", handler=api_endpoints.post_endpoint, body=EndpointBody, status=201,
        answer=EndpointAnswer, refusals=(409, 413),
    ),
    Operation(
        method="GET", path="/endpoints", handler=api_endpoints.get_endpoints, query=EndpointsQuery,
        answer=EndpointsAnswer,
    ),
    Operation(
        method="GET", path="/endpoints/{id}", handler=api_endpoints.get_endpoint, answer=EndpointAnswer,
        refusals=(404,),
    ),
    Operation(
        method="PATCH", path="/endpoints/{id}", handler=api_endpoints.patch_endpoint, body=EndpointPatch,
        answer=EndpointAnswer, refusals=(404, 413),
    ),
    Operation(
        method="DELETE", path="/endpoints/{id}", handler=api_endpoints.delete_endpoint, status=204,
        refusals=(404,),
    ),
    Operation(
        method="POST", path="/endpoints/{id}/pause", handler=api_endpoints.pause_endpoint,
        answer=EndpointAnswer, refusals=(404,),
    ),
    Operation(
        method="POST", path="/endpoints/{id}/resume", handler=api_endpoints.resume_endpoint,
        answer=EndpointAnswer, refusals=(404,),
    ),
    Operation(
        method="POST", path="/endpoints/{id}/rotate-secret", handler=api_endpoints.rotate_secret,
        body=RotateSecret, answer=EndpointAnswer, refusals=(404, 413),
    ),
    Operation(
        method="POST", path="/endpoints/{id}/test", handler=api_endpoints.check_endpoint, status=202,
        answer=TestAnswer, refusals=(404,),
    ),
    Operation(
        method="POST", path="/endpoints/{id}/replay", handler=api_endpoints.replay_endpoint, body=Replay,
        status=202, answer=ReplayAnswer, refusals=(404, 413),
    ),
    Operation(
        method="GET", path="/deliveries", handler=api_deliveries.get_deliveries, query=DeliveriesQuery,
        answer=DeliveriesAnswer,
    ),
    Operation(
        method="GET", path="/deliveries/{id}", handler=api_deliveries.get_delivery, answer=DeliveryAnswer,
        refusals=(404,),
    ),
    Operation(
        method="POST", path="/deliveries/{id}/resend", handler=api_deliveries.resend_delivery, status=202,
        answer=DeliveryAnswer, refusals=(404, 409),
    ),
    Operation(
        method="POST", path="/deliveries/{id}/cancel", handler=api_deliveries.cancel_delivery,
        answer=DeliveryAnswer, refusals=(404, 409),
    ),
    Operation(
        method="PUT", path="/objects/{type}/{id}", handler=api_deliveries.put_object, body=ANY_JSON, status=204,
        refusals=(413,),
    ),
    Operation(
        method="GET", path="/objects/{type}/{id}", handler=api_deliveries.get_object, answer=ANY_JSON,
        refusals=(404,),
    ),
    Operation(
        method="DELETE", path="/objects/{type}/{id}", handler=api_deliveries.delete_object, status=204,
        refusals=(404,),
    ),
    Operation(
        method="GET", path="/trace", handler=api_deliveries.get_trace, query=TraceQuery, answer=str, media=NDJSON
    ),
    Operation(
        method="GET", path="/metrics", handler=api_health.get_metrics, answer=str, media="text/plain"
    ),
    Operation(
        method="POST", path="/start", handler=api_health.post_start, query=StartQuery, answer=StartAnswer,
        refusals=(409,),
    ),
    Operation(method="GET", path="/healthz", handler=api_health.get_healthz, answer=HealthAnswer),
    Operation(method="GET", path="/readyz", handler=api_health.get_readyz, answer=StatusAnswer),
    Operation(method="GET", path="/openapi.json", handler=api_health.get_openapi, answer=ANY_JSON),
)  # fmt: skip


def by_path() -> Mapping[str, Mapping[str, Operation]]:
    """The operations of each path by method."""
    found: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        found.setdefault(operation.path, {})[operation.method] = operation
    return found
