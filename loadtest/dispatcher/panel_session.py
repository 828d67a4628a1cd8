"""Who is logged in at the panel, and which forms are its own.

A browser cannot send a bearer token with a link or an event stream, so the token is exchanged for a cookie. Its value
is a random id; what is kept here, in the memory of this process, is only its digest. So logging out ends a session
for good, a restart ends all of them, and a leak of the memory's dump gives no id away.

A form is taken only from a page of this very origin: browsers send ``Origin`` with every POST, and it must name the
host and the port that the request was sent to. ``SameSite=Strict`` alone would not do, as all ports of a machine are
one site. No token in each form is needed beside that, and pages can be cached by nobody.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from loadtest import clock
from loadtest.dispatcher.answers import RefusedError
from sim.policy import SECOND

COOKIE = "hooklab_session"
LASTS_S = 12 * 3600
"""From the login to its end, whatever is done meanwhile."""
MOST_SESSIONS = 100
"""A login beyond these ends the oldest session."""
MOST_NOTICES = 100
_PORTS = {"http": 80, "https": 443}


class Sessions:
    """The sessions of one process.

    Args:
        token: what a login must know; empty: nobody needs to log in.
        path: where the cookie is sent to.
        now: ns since 1970.
    """

    def __init__(self, token: str, path: str, now: Callable[[], int] = clock.now) -> None:
        self.required = bool(token)
        """Whether a login is needed at all."""
        self._token = token.encode()
        self._path = path
        self._now = now
        self._ends: dict[bytes, int] = {}
        """When sessions end by the digests of their ids, oldest first."""

    def right(self, token: str) -> bool:
        """Whether somebody knows the token; takes the same time however much of it is right."""
        return self.required and hmac.compare_digest(token.encode(), self._token)

    def begin(self, request: Request, response: Response) -> None:
        """Give the browser a new session; the one that it had ends."""
        self._forget(request)
        while len(self._ends) >= MOST_SESSIONS:
            del self._ends[next(iter(self._ends))]
        id_ = secrets.token_urlsafe(32)
        self._ends[_digest(id_)] = self._now() + LASTS_S * SECOND
        response.set_cookie(
            COOKIE,
            id_,
            max_age=LASTS_S,
            path=self._path,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def end(self, request: Request, response: Response) -> None:
        """End the session of a request, if it has one."""
        self._forget(request)
        response.delete_cookie(COOKIE, path=self._path, httponly=True, samesite="strict")

    def _forget(self, request: Request) -> None:
        self._ends.pop(_digest(request.cookies.get(COOKIE, "")), None)

    def allows(self, request: Request) -> bool:
        """Whether a request may see the panel now."""
        return not self.required or self._ends.get(_digest(request.cookies.get(COOKIE, "")), 0) > self._now()

    def __len__(self) -> int:
        return len(self._ends)


def _digest(id_: str) -> bytes:
    """What an id is looked up by: how long that takes says nothing about ids that are there."""
    return hashlib.sha256(id_.encode()).digest()


class Notices:
    """What is told once after a form has done its work, such as a new secret. Each is kept for one page.

    The page after a form is a page of its own, so that loading it again repeats nothing.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, str]] = {}

    def keep(self, text: str, secret: str = "") -> str:
        """Keep a notice, and give the name under which it is taken."""
        while len(self._kept) >= MOST_NOTICES:
            del self._kept[next(iter(self._kept))]
        name = secrets.token_urlsafe(16)
        self._kept[name] = text, secret
        return name

    def take(self, name: str) -> tuple[str, str]:
        """Text and secret of a notice, which is gone then; empty if it was gone before."""
        return self._kept.pop(name, ("", ""))


def require_own_page(request: Request) -> None:
    """Refuse a form that was not sent by a page of this origin.

    Raises:
        RefusedError: 403.
    """
    headers = request.headers
    own = _site(f"{request.url.scheme}://{headers.get('host', '')}")
    sender = _site(headers.get("origin", ""))
    # behind a proxy that speaks TLS the scheme differs, and with it the port that is not written
    same = sender is not None and own is not None and _same(sender, own)
    if not same or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise RefusedError(403, "forms are taken only from pages of this panel: open it and try again there")


def require_own_fetch(request: Request) -> None:
    """Refuse what a page of another origin has asked for: it could not read it, but it would hold a stream open.

    Raises:
        RefusedError: 403.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RefusedError(403, "this is only for pages of this panel")


def _site(address: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and written port of an address; None: it is none."""
    try:
        parts = urlsplit(address)
        return (parts.scheme, parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


def _same(sender: tuple[str, str, int | None], own: tuple[str, str, int | None]) -> bool:
    scheme, host, port = sender
    _, own_host, own_port = own
    default = _PORTS.get(scheme)
    return default is not None and host == own_host and (port or default) == (own_port or default)


def safe_path(given: str, root: str) -> str:
    """A path of the panel to go on to; whatever else is given leads to its first page."""
    inside = given == root or given.startswith((f"{root}/", f"{root}?"))
    plain = given.isascii() and given.isprintable() and "\\" not in given
    return given if inside and plain else root
