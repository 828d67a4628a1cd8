"""The application put together: routes, who may call, and the life of the dispatcher.

``build`` is given the parts that differ (a store, a scheduler with its sender); ``serve`` makes these.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from loadtest import clock
from loadtest.dispatcher import panel
from loadtest.dispatcher.access import Access
from loadtest.dispatcher.answers import RefusedError
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.api_routes import OPEN_PATHS, OPERATIONS, Operation, by_path
from loadtest.dispatcher.openapi import document
from loadtest.dispatcher.panel_pages import ROOT
from loadtest.dispatcher.store import ConflictError, StoreError

log = logging.getLogger(__name__)

PRUNE_EVERY_S = 60.0
PRUNED_AT_ONCE = 1_000
STORE_RETRY_AFTER_S = 1


def build(api: Api) -> Starlette:
    """The application of an API; its lifespan opens the store and runs the scheduler."""
    api.document = document(OPERATIONS)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with dispatching(api):
            yield

    application = Starlette(
        routes=[
            *(Route(path, Resource(api, operations)) for path, operations in by_path().items()),
            *panel.routes(api),
        ],
        middleware=[
            Middleware(
                Access,
                token=api.settings.token,
                hosts=api.settings.hosts,
                open_paths={"/", *OPEN_PATHS},
                own_door=ROOT,
            )
        ],
        exception_handlers={HTTPException: _not_routed},
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False
    return application


async def _not_routed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = f"there is nothing at {request.url.path}; GET /openapi.json lists what there is"
    return RefusedError(status, text if status == 404 else str(error)).response()


class Resource:
    """One path: calls the handler of the method, and makes answers of what goes wrong."""

    def __init__(self, api: Api, operations: Mapping[str, Operation]) -> None:
        self._api = api
        self._handlers = {method: operation.handler for method, operation in operations.items()}
        self._allow = ", ".join(sorted(operations))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handler = self._handlers.get(scope["method"])
        try:
            if handler is None:
                error = f"{scope['method']} is not allowed here; {self._allow} is"
                raise RefusedError(405, error, headers={"allow": self._allow})
            response = await handler(self._api, Request(scope, receive))
        except RefusedError as refused:
            response = refused.response()
        except ConflictError as error:
            response = RefusedError(409, str(error)).response()
        except (
            ClientDisconnect
        ):  # in the middle of its body: nothing has been done, and nobody is there to be told
            return
        except StoreError as error:
            log.warning("%s %s: %s", scope["method"], scope["path"], error)
            self._api.running.doubt()
            headers = {"retry-after": str(STORE_RETRY_AFTER_S)}
            told = RefusedError(503, "the store does not answer now; try again later", headers=headers)
            response = told.response()
        await response(scope, receive, send)


@contextlib.asynccontextmanager
async def dispatching(api: Api) -> AsyncIterator[None]:
    """The store is open and the scheduler runs; afterwards both have ended in good order."""
    try:
        await api.store.open(api)
        await api.running.start()
    except StoreError as error:
        api.failure = error
        await api.store.close()
        raise
    api.started = api.ready = True
    pruning = asyncio.create_task(prune(api))
    try:
        yield
    finally:
        api.end_waiting()
        pruning.cancel()
        await asyncio.gather(pruning, return_exceptions=True)
        await api.running.stop(api.settings.stop_within_s)
        await api.store.close()


async def prune(api: Api) -> None:
    """Delete what was settled longer ago than the retention, a little at a time."""
    while api.settings.retention:
        try:
            while (
                await api.store.prune(clock.now() - api.settings.retention, PRUNED_AT_ONCE) >= PRUNED_AT_ONCE
            ):
                await asyncio.sleep(0)
        except StoreError as error:
            log.warning("deleting old deliveries failed: %s", error)
        await asyncio.sleep(PRUNE_EVERY_S)
