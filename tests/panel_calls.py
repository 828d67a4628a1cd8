"""What tests of the panel share: forms as a browser sends them, pages as one reads them, and sessions."""

from __future__ import annotations

from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

from loadtest.dispatcher.panel_pages import ROOT
from sim.policy import SECOND
from tests.api_calls import Caller, Reply

TOKEN = "a-long-enough-token"
OWN = "http://localhost:8080"
FORM = {"content-type": "application/x-www-form-urlencoded", "origin": OWN}
EVIL = "<script>alert(1)</script>&\"'><img src=x onerror=alert(2)>{{1111*1111}}"


async def post(call: Caller, path: str, *, cookie: str = "", **fields: Any) -> Reply:
    """Send a form as a page of the panel would."""
    body = urlencode(fields, doseq=True).encode()
    return await call("POST", f"{ROOT}{path}", body=body, headers={**FORM, "cookie": cookie})


async def page(call: Caller, path: str = "", cookie: str = "") -> str:
    """A page that is there."""
    reply = await call("GET", f"{ROOT}{path}", headers={"cookie": cookie})
    assert reply.status == 200, (path, reply)
    return reply.body.decode()


async def told(call: Caller, reply: Reply) -> str:
    """The page that a form leads to."""
    assert reply.status == 303, (reply.status, text_of(reply.body.decode()))
    where = reply.headers["location"]
    assert where.startswith(ROOT), where
    return await page(call, where.removeprefix(ROOT))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(html: str) -> _Reader:
    """The tags and words of a page."""
    reader = _Reader()
    reader.feed(html)
    return reader


def text_of(html: str) -> str:
    """The words of a page with single spaces."""
    return " ".join("".join(read(html).words).split())


def form_of(html: str) -> dict[str, Any]:
    """What a browser would send of the form of a page, but for lists."""
    found: dict[str, Any] = {}
    for tag, given in read(html).tags:
        if tag != "input" or not given.get("name"):
            continue
        ticked = given.get("type") != "checkbox" or "checked" in given
        if ticked:
            found.setdefault(str(given["name"]), []).append(given.get("value") or "")
    return found


def cookie_of(reply: Reply) -> tuple[str, dict[str, str]]:
    """``name=value`` of the session's cookie, and its attributes."""
    (morsel,) = SimpleCookie(reply.headers["set-cookie"]).values()
    attributes = {name: str(value) for name, value in morsel.items() if value}
    return f"{morsel.key}={morsel.value}", attributes


async def logged_in(call: Caller) -> str:
    """The cookie of a new session."""
    reply = await post(call, "/login", token=TOKEN)
    assert (reply.status, reply.headers["location"]) == (303, ROOT)
    return cookie_of(reply)[0]


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND

    def __call__(self) -> int:
        """Ns since 1970."""
        return self.now
