"""What every request must pass: the right host, the token, and JSON where something is changed."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = ("/healthz", "/readyz")
"""What is answered without a token: a load balancer has none."""
CHANGING = ("POST", "PUT", "PATCH")


class Protect:
    """Refuses wrong hosts (a page in a browser may send anything to a local port), tokens and content types."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if (refusal := self.refusal(scope, headers)) is not None:
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> JSONResponse | None:
        """The answer to a request that may not pass."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name not in self.hosts:
            return JSONResponse({"error": f"host {host[:100]!r} is not served here; --host names more"}, 421)
        if scope["path"] in OPEN_PATHS:
            return None
        if self.expected is not None:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                error = {"error": "the header Authorization must be Bearer and the token"}
                return JSONResponse(error, 401, {"www-authenticate": "Bearer"})
        has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        if scope["method"] in CHANGING and has_body:
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                return JSONResponse({"error": "the content type must be application/json"}, 415)
        return None
