"""Who may call: the host's name, the token, and what a page of another site must not do. Plain ASGI.

A dispatcher without a token that listens on loopback can still be reached from a browser of the same machine. So it
answers to its own names only (a foreign name may point at 127.0.0.1), and takes no changes from foreign pages: a
body must be declared as JSON, which such a page cannot do unasked, and an ``Origin`` must be one of its own.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from loadtest.dispatcher.answers import JSON, RefusedError

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """Lets a request through, or answers it with 400, 401, 403, 415 or 421.

    Args:
        app: what is protected.
        token: the bearer token; empty: none is asked for.
        hosts: names by which it may be called, without ports.
        open_paths: paths that anybody may ask for.
        own_door: a path that, with all below it, is asked only for the right host here: it lets people in itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        hosts: Iterable[str],
        open_paths: Iterable[str],
        own_door: str,
    ) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else b""
        self._hosts = frozenset(name.lower() for name in hosts)
        self._open = frozenset(open_paths)
        self._own_door = own_door
        self._right_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await refused.response()(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in (b"host", b"authorization") and name in headers:
                return RefusedError(400, f"{name.decode()} stands twice")
            headers[name] = value
        host = headers.get(b"host", b"")
        if host not in self._right_hosts and (refused := self._wrong_host(host)):
            return refused
        if scope["path"] == self._own_door or scope["path"].startswith(f"{self._own_door}/"):
            return None
        if self._expected and not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            error = "the bearer token is missing or wrong; send Authorization: Bearer and $HOOKLAB_TOKEN"
            return RefusedError(401, error, headers={"www-authenticate": "Bearer"})
        return None if scope["method"] in SAFE else self._foreign(headers)

    def _wrong_host(self, host: bytes) -> RefusedError | None:
        if not host:
            return RefusedError(400, "the header Host is missing")
        name = _host_name(host.decode("latin-1"))
        if name not in self._hosts:
            return RefusedError(
                421, f"this dispatcher is not called {name or 'so'}; hooklab serve --host allows names"
            )
        if len(self._right_hosts) < 100:
            self._right_hosts.add(host)
        return None

    def _foreign(self, headers: dict[bytes, bytes]) -> RefusedError | None:
        origin = headers.get(b"origin")
        if origin is not None and _origin_name(origin.decode("latin-1")) not in self._hosts:
            return RefusedError(403, "changes from pages of another site are refused")
        has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        kind = headers.get(b"content-type", b"").decode("latin-1")
        if (has_body or kind) and kind.partition(";")[0].strip().lower() != JSON:
            return RefusedError(415, f"content-type is {kind or 'missing'}; it must be {JSON}")
        return None


def _origin_name(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; empty if it is none."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        return name.lower() if bracket and (not port or port[:1] == ":") else ""
    return host.partition(":")[0].lower()
