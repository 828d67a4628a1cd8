"""The panel: pages for people, served by the dispatcher under ``/panel``.

Here stand its routes and its door. Pages are made on the server and work without the script, which only brings live
figures. What a form does is done by the functions of the API. A session opens the panel, never the API; a bearer
token opens the API, never the panel.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from loadtest.dispatcher import panel_deliveries, panel_endpoints
from loadtest.dispatcher.answers import RefusedError
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.panel_forms import read_form
from loadtest.dispatcher.panel_pages import FILES, ROOT, Panel, file, overview, parts
from loadtest.dispatcher.panel_session import require_own_fetch, require_own_page, safe_path
from loadtest.dispatcher.store import ConflictError, StoreError
from loadtest.page_headers import HEADERS

log = logging.getLogger(__name__)

MOST_LOGIN = 4_096
"""Bytes of the form of a login."""
KEEP = "private, max-age=31536000, immutable"
"""For files, whose address changes with their content."""

Handler = Callable[[Panel, Request], Awaitable[Response | ASGIApp]]


# --------------------------------------------------------------------------- pages of its own


async def show_overview(panel: Panel, request: Request) -> Response:
    """How the dispatcher is now."""
    return panel.page(request, "overview", **overview(await panel.live.reading()))


async def watch(panel: Panel, request: Request) -> ASGIApp:
    """The overview's figures as they change."""
    require_own_fetch(request)
    stream = panel.live.stream(parts, lambda: panel.sessions.allows(request))
    stream.headers |= HEADERS
    return stream


async def show_file(panel: Panel, request: Request) -> Response:
    """The style sheet, the script, or the icon."""
    name = request.scope["path"].rpartition("/")[2]
    return Response(file(name), headers={"cache-control": KEEP}, media_type=FILES[name])


async def show_login(panel: Panel, request: Request) -> Response:
    """The form that asks for the token."""
    onward = safe_path(request.query_params.get("next", ""), ROOT)
    if panel.sessions.allows(request):
        return panel.go(onward)
    return panel.page(request, "login", onward=onward, wrong=False)


async def login(panel: Panel, request: Request) -> Response:
    """Exchange the token for a session."""
    form = await read_form(request, MOST_LOGIN)
    onward = safe_path(form.one("next"), ROOT)
    if not panel.sessions.required:
        return panel.go(onward)
    if not panel.sessions.right(form.one("token")):
        return panel.page(request, "login", 403, onward=onward, wrong=True)
    response = panel.go(onward)
    panel.sessions.begin(request, response)
    return response


async def logout(panel: Panel, request: Request) -> Response:
    """End the session."""
    response = panel.go(f"{ROOT}/login")
    panel.sessions.end(request, response)
    return response


async def show_nothing(panel: Panel, request: Request) -> Response:
    """No such page."""
    raise RefusedError(404, f"there is no page {request.scope['path']}")


# --------------------------------------------------------------------------- the door

OPEN = (show_login, login, show_file)
"""What needs no session."""


class Gate:
    """One path of the panel: checks who asks, calls the handler of the method, makes pages of what goes wrong."""

    def __init__(self, panel: Panel, handlers: Mapping[str, Handler]) -> None:
        self._panel = panel
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except RefusedError as refused:
            response = self._panel.refused(request, refused)
        except ConflictError as error:
            response = self._panel.refused(request, RefusedError(409, str(error)))
        except StoreError as error:
            log.warning("%s %s: %s", scope["method"], scope["path"], error)
            told = RefusedError(503, "the store does not answer now; try again later")
            response = self._panel.refused(request, told)
        if isinstance(response, Response):
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response | ASGIApp:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._handlers.get(method)
        if handler is None:
            allow = ", ".join(sorted(self._handlers))
            raise RefusedError(405, f"{method} is not allowed here; {allow} is", headers={"allow": allow})
        if method == "POST":
            require_own_page(request)
        if handler not in OPEN and not self._panel.sessions.allows(request):
            return self._to_login(request, method)
        return await handler(self._panel, request)

    def _to_login(self, request: Request, method: str) -> Response:
        path = request.scope["path"]
        if path == f"{ROOT}/live":  # a stream cannot follow to a form
            raise RefusedError(401, "the session has ended; log in again")
        query = request.scope["query_string"].decode("latin-1")
        onward = f"{quote(path)}{'?' if query else ''}{query}" if method == "GET" else ""
        return RedirectResponse(f"{ROOT}/login?{urlencode({'next': onward})}", 303)


PAGES: dict[str, dict[str, Handler]] = {
    "": {"GET": show_overview},
    "/live": {"GET": watch},
    "/login": {"GET": show_login, "POST": login},
    "/logout": {"POST": logout},
    "/endpoints": {"GET": panel_endpoints.show_endpoints, "POST": panel_endpoints.create},
    "/new-endpoint": {"GET": panel_endpoints.show_new},
    "/endpoints/{id}": {"GET": panel_endpoints.show_endpoint, "POST": panel_endpoints.change},
    "/endpoints/{id}/edit": {"GET": panel_endpoints.show_edit},
    "/endpoints/{id}/pause": {"POST": panel_endpoints.pause},
    "/endpoints/{id}/resume": {"POST": panel_endpoints.resume},
    "/endpoints/{id}/rotate-secret": {"POST": panel_endpoints.rotate},
    "/endpoints/{id}/test": {"POST": panel_endpoints.send_test},
    "/endpoints/{id}/delete": {"GET": panel_endpoints.show_delete, "POST": panel_endpoints.delete},
    "/endpoints/{id}/replay": {"GET": panel_endpoints.show_replay, "POST": panel_endpoints.replay},
    "/deliveries": {"GET": panel_deliveries.show_deliveries},
    "/deliveries/{id}": {"GET": panel_deliveries.show_delivery},
    "/deliveries/{id}/resend": {"POST": panel_deliveries.resend},
    "/deliveries/{id}/cancel": {"POST": panel_deliveries.cancel},
    "/dead": {"GET": panel_deliveries.show_dead},
    "/dead/resend": {"POST": panel_deliveries.resend_many},
    **{f"/{name}": {"GET": show_file} for name in FILES},
    "/{rest:path}": {"GET": show_nothing},
}
"""The one table of its pages: from it come the routing and the methods of each."""


def routes(api: Api) -> list[BaseRoute]:
    """The routes of the panel of a dispatcher, and the way to it from ``/``."""
    panel = Panel(api)
    found: list[BaseRoute] = [Route("/", show_the_way)]
    return found + [Route(f"{ROOT}{path}", Gate(panel, handlers)) for path, handlers in PAGES.items()]


async def show_the_way(request: Request) -> Response:
    """Browsers that ask for ``/`` are led to the panel."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(ROOT, 303)
    return RefusedError(404, "there is nothing at /; GET /openapi.json lists what there is").response()
