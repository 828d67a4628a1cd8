"""The panel over HTTP: who gets in, what forms do, what pages hold, and the streams of live figures."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from starlette.requests import Request
from starlette.responses import Response

from loadtest.dispatcher import panel_live
from loadtest.dispatcher.api import Settings
from loadtest.dispatcher.panel import OPEN, PAGES
from loadtest.dispatcher.panel_live import Live
from loadtest.dispatcher.panel_pages import FILES, ROOT, parts
from loadtest.dispatcher.panel_session import COOKIE, LASTS_S, MOST_SESSIONS, Notices, Sessions, safe_path
from loadtest.dispatcher.panel_timeline import LEFT, RIGHT, TICK_ROOM, position, ticks, timeline
from loadtest.dispatcher.records import Attempt, Delivery
from loadtest.dispatcher.store import StoreUnavailableError
from loadtest.page_headers import HEADERS
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.policy import SECOND
from tests.api_calls import URL, Caller, Reply, dispatcher, run
from tests.dispatchers import dispatcher as process

TOKEN = "a-long-enough-token"
OWN = "http://localhost:8080"
FORM = {"content-type": "application/x-www-form-urlencoded", "origin": OWN}
EVIL = "<script>alert(1)</script>&\"'><img src=x onerror=alert(2)>{{1111*1111}}"
LARGEST_PAGE = 100_000
POSTS = [path.replace("{id}", "shop:0") for path, handlers in PAGES.items() if "POST" in handlers]
GETS = ["", "/login", "/endpoints", "/endpoints?status=disabled", "/new-endpoint", "/endpoints/shop:0"]
GETS += [f"/endpoints/shop:0/{page}" for page in ("edit", "delete", "replay")]
GETS += ["/deliveries", "/deliveries/till:0:shop:0", "/dead", "/nowhere", *(f"/{name}" for name in FILES)]


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


# --------------------------------------------------------------------------- every page


def test_every_page_is_small_keeps_to_itself_and_says_so(tmp_path: Path) -> None:
    """The headers that keep others out stand on every answer; nothing refers to another place, and nothing runs."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint(types=["*"])
            await call.event()
            await call.delivery_is("till:0:shop:0", "delivered")
            for path in GETS:
                reply = await call("GET", f"{ROOT}{path}")
                for name, value in HEADERS.items():
                    if name != "cache-control" or path.lstrip("/") not in FILES:
                        assert reply.headers[name] == value, (path, name)
                assert len(reply.body) < LARGEST_PAGE
                if not reply.headers.get("content-type", "").startswith("text/html"):
                    continue
                tags = read(reply.body.decode()).tags
                for _tag, given in tags:
                    assert not any(name.startswith("on") or name == "style" for name in given), (path, given)
                    for link in (given.get("href"), given.get("src"), given.get("action")):
                        assert link is None or link.startswith((ROOT, "#")), (path, link)
                assert [given for tag, given in tags if tag == "script" and "src" not in given] == []
                assert [tag for tag, _ in tags].count("h1") == 1, path

    run(work())


def test_every_field_has_a_label_and_every_table_a_caption(tmp_path: Path) -> None:
    """What cannot be seen is said: of fields, tables, their columns and the language."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            await call.event()
            await call.delivery_is("till:0:shop:0", "delivered")
            for path in (
                "/endpoints",
                "/new-endpoint",
                "/endpoints/shop:0/replay",
                "/deliveries/till:0:shop:0",
            ):
                html = await page(call, path)
                tags = read(html).tags
                labels = {given.get("for") for tag, given in tags if tag == "label"}
                for tag, given in tags:
                    if tag in ("select", "textarea") or (
                        tag == "input" and given.get("type") not in ("checkbox", "hidden")
                    ):
                        assert given["id"] in labels, (path, given)
                    if tag == "th":
                        assert given["scope"] in ("col", "row")
                    assert tag != "html" or given["lang"] == "en"
                assert html.count("<table") == html.count("<caption")
                assert 'class="skip" href="#main"' in html

    run(work())


def test_the_root_leads_browsers_to_the_panel(tmp_path: Path) -> None:
    """Who asks for HTML is led on; who does not is told that there is nothing."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            reply = await call("GET", "/", headers={"accept": "text/html,*/*"})
            assert (reply.status, reply.headers["location"]) == (303, ROOT)
            assert (await call("GET", "/")).status == 404

    run(work())


def test_the_largest_pages_stay_small(tmp_path: Path) -> None:
    """The longest names, addresses and answers, and many of each, do not make a page that a phone cannot load."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            call.sender.code = 500
            names = [f"{'n' * 195}:{number}" for number in range(100, 160)]
            for name in names:
                await call.endpoint(
                    name,
                    url=f"https://shop.example.com/{'p' * 1900}",
                    types=[f"{'t' * 190}.{i}" for i in range(50)] + ["*"],
                    policy={"schedule": ["0s"] * (150 if name == names[0] else 1), "timeout": "1s"},
                    description="d" * 1000,
                )
            await call.api.store.register([f"{'t' * 190}.{i}" for i in range(500)])
            event = f"{'e' * 195}:1"
            await call.event(event, type="u" * 200, key="k" * 200, data="x" * 200_000)
            one = quote(f"{event}:{names[0]}", safe="")
            await call.delivery_is(one, "dead")
            paths = ["", "/endpoints", "/deliveries", "/dead", "/new-endpoint", f"/deliveries/{one}"]
            paths += [f"/endpoints/{quote(names[0])}{page}" for page in ("", "/edit")]
            for path in paths:
                assert len(await page(call, path)) < LARGEST_PAGE, path

    run(work())


def test_what_pages_load_is_kept_by_its_content(tmp_path: Path) -> None:
    """Every file in the folder is either a template or listed, and is told its kind."""
    there = {each.name for each in (resources.files("loadtest.dispatcher") / "panel").iterdir()}
    assert {name for name in there if not name.endswith(".html.j2")} == set(FILES)

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            login = await page(call, "/login")
            for name, kind in FILES.items():
                reply = await call("GET", f"{ROOT}/{name}")
                assert reply.headers["content-type"].startswith(kind)
                assert "immutable" in reply.headers["cache-control"]
            assert re.search(rf"{ROOT}/style\.css\?v=[0-9a-f]{{12}}", login)

    run(work())


# --------------------------------------------------------------------------- who gets in


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


def test_a_token_is_exchanged_for_a_session_that_logging_out_ends(tmp_path: Path) -> None:
    """Without a session every page leads to the login; the cookie is out of reach of scripts and other sites."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            reply = await call("GET", f"{ROOT}/deliveries?state=dead&type=a%26b")
            assert reply.status == 303
            onward = f"{ROOT}/login?next=%2Fpanel%2Fdeliveries%3Fstate%3Ddead%26type%3Da%2526b"
            assert reply.headers["location"] == onward
            wrong = await post(call, "/login", token=TOKEN[:-1])
            assert (wrong.status, "set-cookie" in wrong.headers) == (403, False)
            assert TOKEN[:-1] not in wrong.body.decode()
            reply = await post(call, "/login", token=TOKEN, next="/panel/deliveries?state=dead&type=a%26b")
            assert reply.headers["location"] == "/panel/deliveries?state=dead&type=a%26b"
            cookie, given = cookie_of(reply)
            assert given["samesite"].lower() == "strict"
            assert given["httponly"] == "True"
            assert (given["path"], given["max-age"]) == (ROOT, str(LASTS_S))
            assert "Log out" in await page(call, "", cookie)
            reply = await post(call, "/logout", cookie=cookie)
            assert reply.headers["location"] == f"{ROOT}/login"
            assert cookie_of(reply)[1]["max-age"] == "0"
            assert (await call("GET", ROOT, headers={"cookie": cookie})).status == 303

    run(work())


def test_a_session_opens_the_panel_only_and_a_bearer_token_the_api_only(tmp_path: Path) -> None:
    """The API cannot be used by a page that a browser is tricked into, as the cookie is nothing to it."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            cookie, bearer = await logged_in(call), f"Bearer {TOKEN}"
            assert (await call("GET", "/deliveries", headers={"cookie": cookie})).status == 401
            assert (await call("GET", "/deliveries", headers={"authorization": bearer})).status == 200
            assert (await call("GET", f"{ROOT}/deliveries", headers={"authorization": bearer})).status == 303
            assert (await call("GET", f"{ROOT}x", headers={"cookie": cookie})).status == 401

    run(work())


def test_every_path_but_the_login_and_its_files_needs_a_session(tmp_path: Path) -> None:
    """From the table of pages, so that a new one cannot be forgotten."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            for path, handlers in PAGES.items():
                for method, handler in handlers.items():
                    if handler in OPEN:
                        continue
                    target = ROOT + path.replace("{id}", "shop:0").replace("{rest:path}", "nowhere")
                    reply = await call(method, target, headers=FORM if method == "POST" else None)
                    assert reply.status == (401 if path == "/live" else 303), (method, path)
                    if path != "/live":
                        assert reply.headers["location"].startswith(f"{ROOT}/login?"), path

    run(work())


def test_without_a_token_nobody_logs_in(tmp_path: Path) -> None:
    """On loopback without a token the login only leads on, and there is nothing to log out of."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            reply = await call("GET", f"{ROOT}/login")
            assert (reply.status, reply.headers["location"]) == (303, ROOT)
            reply = await post(call, "/login", token="")
            assert (reply.status, "set-cookie" in reply.headers) == (303, False)
            assert "Log out" not in await page(call)

    run(work())


FOREIGN = [
    {"origin": ""},  # browsers always send one with a POST
    {"origin": "null"},
    {"origin": "http://evil.example"},
    {"origin": "http://localhost"},  # another port is another origin, though the same site
    {"origin": "http://localhost:8081"},
    {"origin": "http://127.0.0.1:8080"},
    {"origin": "http://localhost:8080@evil.example"},
    {"origin": "http://[localhost:8080"},
    {"origin": "ftp://localhost:8080"},
    {"origin": OWN, "sec-fetch-site": "cross-site"},
    {"origin": OWN, "sec-fetch-site": "same-site"},
]


def test_forms_are_taken_from_pages_of_this_origin_only(tmp_path: Path) -> None:
    """Every form refuses every other sender, logged in or not, and nothing has happened then."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            cookie = await logged_in(call)
            for path in POSTS:
                for headers in FOREIGN:
                    sent = {**FORM, "cookie": cookie, **headers}
                    reply = await call("POST", f"{ROOT}{path}", body=f"token={TOKEN}".encode(), headers=sent)
                    assert reply.status == 403, (path, headers)
                    assert "set-cookie" not in reply.headers
            await page(call, "/endpoints", cookie)

    run(work())


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("LOCALHOST:8080", "http://localhost:8080"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost"),  # behind a proxy that speaks TLS
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_own_page_is_known_however_its_address_is_written(tmp_path: Path, host: str, origin: str) -> None:
    """The default port may be left out, and letters may be of either case."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            headers = {**FORM, "host": host, "origin": origin, "sec-fetch-site": "same-origin"}
            body = f"token={TOKEN}".encode()
            assert (await call("POST", f"{ROOT}/login", body=body, headers=headers)).status == 303

    run(work())


def test_a_foreign_host_and_other_bodies_are_refused(tmp_path: Path) -> None:
    """A name that only points here gets nothing, and a form is a form."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            for path in ("", "/login", "/live", "/style.css"):
                reply = await call("GET", f"{ROOT}{path}", headers={"host": "evil.example"})
                assert reply.status == 421, path
            for kind in ("application/json", "multipart/form-data", "text/plain"):
                headers = {**FORM, "content-type": kind}
                assert (await call("POST", f"{ROOT}/endpoints", body=b"{}", headers=headers)).status == 415, (
                    kind
                )
            assert (await call("POST", f"{ROOT}/login", body=b"x" * 5_000, headers=FORM)).status == 413
            many = b"&".join(b"a=1" for _ in range(2_001))
            assert (await call("POST", f"{ROOT}/endpoints", body=many, headers=FORM)).status == 400
            assert (await call("PUT", f"{ROOT}/endpoints")).headers["allow"] == "GET, POST"

    run(work())


@pytest.mark.parametrize(
    "given",
    [
        "", "//evil.example", "https://evil.example/panel", "/panel.evil.example", "/\\evil.example",
        "/panel\\@evil.example", "/panel/\r\nset-cookie: a=b", "/events", "/panelx", "panel", "javascript:alert(1)",
        "/panel/é",
    ],
)  # fmt: skip
def test_a_login_leads_nowhere_else(given: str) -> None:
    """Whatever is not a page of the panel becomes its first page."""
    assert safe_path(given, ROOT) == ROOT


@pytest.mark.parametrize(
    "given", ["/panel", "/panel?a=1", "/panel/deliveries?state=dead", "/panel/endpoints/a%3Cb"]
)
def test_a_login_leads_back_to_where_one_was(given: str) -> None:
    """Pages of the panel with their filters."""
    assert safe_path(given, ROOT) == given


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND

    def __call__(self) -> int:
        """Ns since 1970."""
        return self.now


def of(cookie: str = "", scheme: str = "http") -> Request:
    """A request with a cookie."""
    headers = [(b"host", b"localhost"), (b"cookie", cookie.encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": scheme, "headers": headers}
    return Request({**scope, "query_string": b"", "server": ("localhost", 80)})


def begun(sessions: Sessions, request: Request) -> str:
    """The cookie of a new session."""
    response = Response()
    sessions.begin(request, response)
    return response.headers["set-cookie"].partition(";")[0]


def test_sessions_end_by_themselves_and_are_bounded() -> None:
    """After half a day, when a browser logs in again, and the oldest when there are too many."""
    clock = Clock()
    sessions = Sessions(TOKEN, ROOT, clock)
    first = begun(sessions, of())
    clock.now += LASTS_S * SECOND - 1
    assert sessions.allows(of(first))
    clock.now += 1
    assert not sessions.allows(of(first))
    second = begun(sessions, of(first))
    third = begun(sessions, of(second))
    assert [sessions.allows(of(cookie)) for cookie in (first, second, third)] == [False, False, True]
    others = [begun(sessions, of()) for _ in range(MOST_SESSIONS)]
    assert len(sessions) == MOST_SESSIONS
    assert len(set(others)) == MOST_SESSIONS
    assert not sessions.allows(of(third))
    assert sessions.allows(of(others[0]))


def test_a_session_cannot_be_made_up_and_its_id_is_not_kept() -> None:
    """No cookie, an empty one and others open nothing; what is in memory does not open anything either."""
    sessions = Sessions(TOKEN, ROOT)
    cookie = begun(sessions, of())
    id_ = cookie.partition("=")[2]
    assert len(id_) >= 43
    assert id_ not in str(vars(sessions))
    for other in ("", f"{COOKIE}=", f"{COOKIE}={id_[:-1]}", f"{COOKIE}={TOKEN}", f"other={id_}"):
        assert not sessions.allows(of(other)), other


def test_over_tls_the_cookie_stays_there() -> None:
    """``Secure`` exactly where the request came by https."""
    for scheme in ("http", "https"):
        response = Response()
        Sessions(TOKEN, ROOT).begin(of(scheme=scheme), response)
        assert ("secure" in response.headers["set-cookie"].lower()) == (scheme == "https")


def test_a_notice_is_told_once_and_few_are_kept() -> None:
    """A second look finds nothing, and what nobody fetches makes room for others."""
    notices = Notices()
    name = notices.keep("done", "whsec_x")
    assert notices.take(name) == ("done", "whsec_x")
    assert notices.take(name) == ("", "")
    old = notices.keep("old")
    for number in range(100):
        notices.keep(str(number))
    assert notices.take(old) == ("", "")


# --------------------------------------------------------------------------- endpoints


def secret_in(html: str) -> str:
    """The secret that a page shows; empty: none."""
    found = re.search(r'id="secret">([^<]*)<', html)
    return found[1] if found else ""


GIVEN: dict[str, Any] = {
    "id": "shop:0", "url": URL, "mode": "push", "every": "", "types": ["receipt.created"], "patterns": "shift.*\r\n",
    "policy": "dreamkas", "signature": "standard", "max_in_flight": "7", "rate_limit": "50/s", "ordering": "key",
    "description": "The first\r\nshop", "secret": "",
}  # fmt: skip


def test_a_form_makes_what_the_api_makes(tmp_path: Path) -> None:
    """The same fields by form and by JSON give the same endpoint, and the secret is shown on one page."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            reply = await post(call, "/endpoints", **GIVEN)
            html = await told(call, reply)
            assert secret_in(html).startswith("whsec_")
            again = await call("GET", reply.headers["location"])
            assert (again.status, secret_in(again.body.decode())) == (200, "")
            await call.endpoint(
                "shop:1", types=["receipt.created", "shift.*"], policy="dreamkas", max_in_flight=7,
                rate_limit="50/s", ordering="key", description="The first\nshop",
            )  # fmt: skip
            first, second = (await call("GET", "/endpoints")).value["endpoints"]
            for one in (first, second):
                del one["id"], one["created_at"], one["changed_at"]
            assert first == second

    run(work())


def test_a_polling_endpoint_and_its_own_secret(tmp_path: Path) -> None:
    """What polls has no URL and needs no policy; a secret that is given is the one that is shown."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            secret = "whsec_" + "QUJD" * 10
            given = {**GIVEN, "url": "", "mode": "poll", "every": "30s", "policy": "", "secret": secret}
            assert secret_in(await told(call, await post(call, "/endpoints", **given))) == secret
            made = (await call("GET", "/endpoints/shop:0")).value
            assert (made["url"], made["mode"]) == (None, {"poll": {"every": "30s"}})

    run(work())


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("url", "ftp://x", "http"),
        ("url", "http://10.0.0.1/", "public"),
        ("url", "", "required"),
        ("policy", "drimkas", "dreamkas"),
        ("policy", "", "required"),
        ("id", "a/b", "printable"),
        ("max_in_flight", "many", "number"),
        ("rate_limit", EVIL, "rate"),
        ("secret", "short", "whsec_"),
        ("signature", "sha1", "standard"),
    ],
)
def test_a_wrong_field_is_told_beside_it_and_all_is_kept(
    tmp_path: Path, field: str, value: str, word: str
) -> None:
    """The form comes back with what was written, and the field says what is wrong with it."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            reply = await post(call, "/endpoints", **{**GIVEN, field: value, "description": EVIL})
            assert reply.status == 422
            html = reply.body.decode()
            described = re.search(rf'id="{field}-wrong">([^<]*)<', html)
            assert described is not None
            assert word in described[1]
            marked = [given for _, given in read(html).tags if given.get("aria-invalid")]
            assert [given["name"] for given in marked] == [field]
            assert EVIL in "".join(read(html).words)
            assert form_of(html)["max_in_flight"] == [value if field == "max_in_flight" else "7"]
            assert "short" not in html
            assert (await call("GET", "/endpoints")).value["endpoints"] == []

    run(work())


def test_no_types_at_all_are_told(tmp_path: Path) -> None:
    """Neither a tick nor a pattern."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            reply = await post(call, "/endpoints", **{**GIVEN, "types": [], "patterns": "\r\n"})
            assert (reply.status, 'id="patterns-wrong"' in reply.body.decode()) == (422, True)

    run(work())


def test_editing_shows_what_is_and_changes_what_is_changed(tmp_path: Path) -> None:
    """Registered types are ticked, other patterns are written, and an own policy is kept unless one is chosen."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            own = {"schedule": ["0s", "17s"], "timeout": "3s"}
            await call.endpoint(types=["receipt.created", "shift.*"], policy=own, max_in_flight=3)
            await call.event(type="order.paid")
            await call.event("till:1", type="receipt.created")
            html = await page(call, "/endpoints/shop:0/edit")
            boxes = [given for tag, given in read(html).tags if given.get("name") == "types"]
            assert {given["value"]: "checked" in given for given in boxes} == {
                "order.paid": False,
                "receipt.created": True,
            }
            assert re.search(r"<textarea[^>]*>shift\.\*</textarea>", html)
            given = {**GIVEN, "types": ["order.paid"], "patterns": "", "policy": "", "rate_limit": ""}
            await told(call, await post(call, "/endpoints/shop:0", **given))
            now = (await call("GET", "/endpoints/shop:0")).value
            assert (now["types"], now["max_in_flight"], now["rate_limit"]) == (["order.paid"], 7, None)
            assert now["policy"]["schedule"] == ["0s", "17s"]
            await told(call, await post(call, "/endpoints/shop:0", **{**given, "policy": "timepad"}))
            assert (await call("GET", "/endpoints/shop:0")).value["policy"] == "timepad"
            assert (await post(call, "/endpoints/shop:0", **{**given, "url": "ftp://x"})).status == 422
            assert (await post(call, "/endpoints/other", **given)).status == 404

    run(work())


def test_what_an_operator_does_with_an_endpoint(tmp_path: Path) -> None:
    """Pause, resume, rotate, test and delete do what the same words of the API do."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            old = (await call.endpoint())["secret"]
            assert "Paused" in text_of(await told(call, await post(call, "/endpoints/shop:0/pause")))
            assert (await call("GET", "/endpoints/shop:0")).value["status"] == "paused"
            await post(call, "/endpoints/shop:0/resume")
            assert (await call("GET", "/endpoints/shop:0")).value["status"] == "enabled"
            rotated = secret_in(await told(call, await post(call, "/endpoints/shop:0/rotate-secret")))
            assert rotated.startswith("whsec_")
            assert rotated != old
            assert (await call("GET", "/endpoints/shop:0")).value["old_secret_until"] is not None
            html = await told(call, await post(call, "/endpoints/shop:0/test"))
            assert "hooklab.test" in text_of(html)
            assert "Delete it" in await page(call, "/endpoints/shop:0/delete")
            assert (await call("GET", "/endpoints/shop:0")).status == 200
            assert "has been deleted" in text_of(
                await told(call, await post(call, "/endpoints/shop:0/delete"))
            )
            assert (await call("GET", "/endpoints/shop:0")).status == 404

    run(work())


def test_a_replay_sends_what_was_created_in_its_range(tmp_path: Path) -> None:
    """Times of the form are UTC; a wrong range is told beside its field."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            await call.event()
            await call.delivery_is("till:0:shop:0", "delivered")
            fields = form_of(await page(call, "/endpoints/shop:0/replay"))
            html = await told(call, await post(call, "/endpoints/shop:0/replay", **fields))
            assert "0 that it never got, 1 that were settled" in text_of(html)
            early = {"since": "2020-01-01T00:00", "until": "2020-01-02T00:00:00"}
            html = await told(call, await post(call, "/endpoints/shop:0/replay", **early))
            assert "0 that it never got, 0 that were settled" in text_of(html)
            for wrong, field in (
                ({"since": "2020-01-02T00:00", "until": "2020-01-01T00:00"}, "until"),
                ({"since": "soon", "until": "2020-01-01T00:00"}, "since"),
                ({"since": "", "until": "2020-01-01T00:00"}, "since"),
            ):
                reply = await post(call, "/endpoints/shop:0/replay", **wrong)
                assert (reply.status, f'id="{field}-wrong"' in reply.body.decode()) == (422, True), wrong

    run(work())


def test_the_list_of_endpoints_is_filtered_and_paged(tmp_path: Path) -> None:
    """By status, by a part of id or URL, fifty a page; disabled ones with their reason."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            for number in range(60):
                await call.endpoint(f"shop:{number}")
            await call("POST", "/endpoints/shop:7/pause")
            first = await page(call, "/endpoints")
            assert "60 endpoints" in text_of(first)
            following = re.search(r'href="([^"]*after=[^"]*)"', first)
            assert following is not None
            shown = re.findall(r"/endpoints/shop%3A(\d+)", first)
            rest = re.findall(r"/endpoints/shop%3A(\d+)", await page(call, following[1].removeprefix(ROOT)))
            assert [int(number) for number in shown + rest] == list(range(60))
            assert re.findall(r"/endpoints/shop%3A(\d+)", await page(call, "/endpoints?status=paused")) == [
                "7"
            ]
            assert "1 endpoint" in text_of(await page(call, "/endpoints?find=shop:33"))
            assert "No endpoint fits" in text_of(await page(call, "/endpoints?find=nobody&after=x"))

    run(work())


# --------------------------------------------------------------------------- deliveries


def listed(html: str) -> list[str]:
    """Ids of the deliveries of a page."""
    return [name.replace("%3A", ":") for name in re.findall(r'row"><a[^>]*/deliveries/([^"]+)"', html)]


def test_deliveries_are_filtered_and_paged(tmp_path: Path) -> None:
    """By state, endpoint and type; the link to older ones keeps the filter."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint("shop:0", types=["receipt.created"])
            await call.endpoint("shop:1")
            await call("POST", "/endpoints/shop:1/pause")
            for number in range(60):
                await call.event(f"till:{number}", type=("receipt.created", "a&b")[number % 2])
            await call.delivery_is("till:58:shop:0", "delivered")
            first = await page(call, "/deliveries?endpoint=shop:1&state=waiting")
            assert listed(first) == [f"till:{number}:shop:1" for number in range(59, 19, -1)]
            older = re.search(r'href="([^"]*after=[^"]*)"', first)
            assert older is not None
            rest = await page(call, older[1].replace("&amp;", "&").removeprefix(ROOT))
            assert listed(rest) == [f"till:{number}:shop:1" for number in range(19, -1, -1)]
            assert listed(await page(call, "/deliveries?type=a%26b&endpoint=shop:0")) == []
            assert len(listed(await page(call, "/deliveries?type=a%26b"))) == 30
            assert len(listed(await page(call, "/deliveries?state=lost"))) == 40
            assert (await call("GET", f"{ROOT}/deliveries?after=x")).status == 422

    run(work())


def test_what_is_sent_and_what_came_back_is_shown(tmp_path: Path) -> None:
    """The message on the page is the very one that was sent, but for its signature."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            secret = (await call.endpoint())["secret"]
            await call.event(data={"html": EVIL}, seq=3)
            await call.delivery_is("till:0:shop:0", "delivered")
            html = await page(call, "/deliveries/till:0:shop:0")
            words = "".join(read(html).words)
            (sent,) = call.sender.sent
            assert sent.body.decode() in words
            for line in sent.headers:
                if not line.startswith("webhook-signature"):
                    assert line in words
            assert "webhook-signature" not in words
            assert secret not in html
            assert "seen" in words
            assert "Resend" in words

    run(work())


def test_a_thin_message_is_shown_thin(tmp_path: Path) -> None:
    """Without the data that are not sent."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(message="thin"), Rules(message="thin")) as call:
            await call.endpoint()
            await call.event(data={"hidden": "treasure"})
            await call.delivery_is("till:0:shop:0", "delivered")
            words = "".join(read(await page(call, "/deliveries/till:0:shop:0")).words)
            assert call.sender.sent[0].body.decode() in words
            assert "treasure" not in words

    run(work())


def test_a_delivery_is_cancelled_and_resent(tmp_path: Path) -> None:
    """What the API does, and a second time it is told why not."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            await call("POST", "/endpoints/shop:0/pause")
            await call.event()
            assert "cancelled" in text_of(
                await told(call, await post(call, "/deliveries/till:0:shop:0/cancel"))
            )
            assert (await call("GET", "/deliveries/till:0:shop:0")).value["state"] == "dropped"
            again = await post(call, "/deliveries/till:0:shop:0/cancel")
            assert (again.status, "settled already" in again.body.decode()) == (409, True)
            assert listed(await page(call, "/dead")) == ["till:0:shop:0"]
            await call("POST", "/endpoints/shop:0/resume")
            await told(call, await post(call, "/deliveries/till:0:shop:0/resend"))
            await call.delivery_is("till:0:shop:0", "delivered")
            assert listed(await page(call, "/dead")) == []

    run(work())


def test_dead_letters_are_resent_together(tmp_path: Path) -> None:
    """Those that were ticked, and of one that cannot be it is told why."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            call.sender.code = 500
            await call.endpoint(policy={"schedule": ["0s"], "timeout": "1s"})
            for number in range(3):
                await call.event(f"till:{number}")
            for number in range(3):
                await call.delivery_is(f"till:{number}:shop:0", "dead")
            call.sender.code = 200
            reply = await post(call, "/dead/resend", id=["till:0:shop:0", "till:2:shop:0", "no:1:such"])
            assert "2 of 3" in text_of(await told(call, reply))
            await call.delivery_is("till:0:shop:0", "delivered")
            await call.delivery_is("till:2:shop:0", "delivered")
            assert listed(await page(call, "/dead")) == ["till:1:shop:0"]

    run(work())


def test_a_removed_endpoint_leaves_its_deliveries_to_be_seen(tmp_path: Path) -> None:
    """Without the message that nobody can make any more."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            await call.event()
            await call.delivery_is("till:0:shop:0", "delivered")
            await call("DELETE", "/endpoints/shop:0")
            assert "has been removed" in text_of(await page(call, "/deliveries/till:0:shop:0"))
            assert (await post(call, "/deliveries/till:0:shop:0/resend")).status == 409

    run(work())


def test_evil_texts_stay_text(tmp_path: Path) -> None:
    """Names, types, keys, descriptions, reasons, filters and paths: no tag and no attribute comes of them."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            name = EVIL.replace("/", "|")
            target = quote(name, safe="")
            await call.endpoint(name, types=[EVIL, "*"], description=EVIL)
            await call.endpoint("plain")
            await call.event(EVIL.replace("/", "|"), type=EVIL, key=EVIL, data=EVIL)
            paths = [
                "/endpoints",
                f"/endpoints/{target}",
                f"/endpoints/{target}/edit",
                f"/endpoints/{target}/delete",
            ]
            paths += ["", "/deliveries", f"/deliveries/{target}%3A{target}", f"/deliveries/{target}%3Aplain"]
            paths += [f"/endpoints?{urlencode({'find': EVIL})}", f"/deliveries?{urlencode({'type': EVIL})}"]
            paths += [f"/endpoints/{target}x", f"/{target}", f"/login?{urlencode({'next': EVIL})}"]
            for path in paths:
                reply = await call("GET", f"{ROOT}{path}")
                assert reply.status in (200, 303, 404), path
                for tag, given in read(reply.body.decode()).tags:
                    assert tag != "script" or given["src"].startswith(f"{ROOT}/live.js"), path  # type: ignore[union-attr]
                    assert tag != "img" or given["src"].startswith(f"{ROOT}/icon.svg"), path  # type: ignore[union-attr]
                    assert "onerror" not in given, path
                assert b"1234321" not in reply.body, path

    run(work())


def test_a_store_that_does_not_answer_is_told_on_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 as a page where it is needed; the overview comes all the same and says it."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:

            async def away(*_: object) -> None:
                raise StoreUnavailableError("gone fishing")

            monkeypatch.setattr(call.api.store, "deliveries", away)
            monkeypatch.setattr(call.api.store, "backlog", away)
            reply = await call("GET", f"{ROOT}/deliveries")
            assert (reply.status, "<h1>Not now</h1>" in reply.body.decode()) == (503, True)
            assert "gone fishing" not in reply.body.decode()
            assert "The store does not answer now" in text_of(await page(call))

    run(work())


# --------------------------------------------------------------------------- live figures


class Watcher:
    """Somebody who watches ``/panel/live`` as a browser does."""

    def __init__(self, call: Caller, headers: dict[str, str] | None = None) -> None:
        lines = {"host": "localhost:8080", **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": f"{ROOT}/live", "raw_path": b"", "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
            "headers": [(name.encode(), text.encode()) for name, text in lines.items()],
            "server": ("127.0.0.1", 8080),
        }  # fmt: skip
        self.told: list[dict[str, Any]] = []
        self.leaving = asyncio.Event()
        self.came = asyncio.Event()
        self.task = asyncio.create_task(call.app(scope, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> dict[str, Any]:
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.told.append(message)
        self.came.set()

    @property
    def status(self) -> int:
        """How it was answered."""
        return int(self.told[0]["status"])

    @property
    def texts(self) -> list[str]:
        """What the stream said, a text for each message."""
        return [message["body"].decode() for message in self.told[1:] if message["body"]]

    async def until(self, count: int) -> None:
        """Wait until so many messages have come, the head included."""
        while len(self.told) < count:
            self.came.clear()
            await self.came.wait()

    async def leave(self) -> None:
        """Go away."""
        self.leaving.set()
        await self.task


@contextlib.asynccontextmanager
async def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval_s: float, settings: Settings | None = None
) -> AsyncIterator[tuple[Caller, Live]]:
    """A dispatcher whose live figures come at another pace, and what makes them."""
    made: list[Live] = []
    original = Live.__init__

    def paced(self: Live, api: Any) -> None:
        original(self, api, interval_s, 3)
        made.append(self)

    monkeypatch.setattr(Live, "__init__", paced)
    async with dispatcher(tmp_path, settings) as call:
        yield call, made[0]


def test_a_stream_tells_what_has_changed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First all parts, then those that are different, as the page has them."""

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 0.05) as (call, live):
            await call.endpoint()
            await call("POST", "/endpoints/shop:0/pause")
            watcher = Watcher(call)
            await watcher.until(2)
            assert watcher.status == 200
            headers = dict(watcher.told[0]["headers"])
            assert headers[b"content-type"] == b"text/event-stream"
            assert headers[b"cache-control"] == b"no-store"
            first = json.loads(watcher.texts[0].partition("data: ")[2])
            assert set(first) == {"figures", "tiers", "ends", "disabled", "said"}
            assert "Nothing waits" in first["tiers"]
            await call.event()
            while not any("Deliveries that wait" in text for text in watcher.texts):
                await watcher.until(len(watcher.told) + 1)
            assert all("disabled" not in json.loads(t.partition("data: ")[2]) for t in watcher.texts[1:])
            await watcher.leave()
            assert live.streams == 0

    run(work())


def test_the_store_is_asked_once_for_all_watchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three streams and ten loads of the page within one interval make one reading."""

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 3600.0) as (call, _):
            asked = []
            backlog = call.api.store.backlog

            async def counted() -> dict[int, int]:
                asked.append(1)
                await asyncio.sleep(0.01)
                return await backlog()

            monkeypatch.setattr(call.api.store, "backlog", counted)
            watchers = [Watcher(call) for _ in range(3)]
            for watcher in watchers:
                await watcher.until(2)
            await asyncio.gather(*(page(call) for _ in range(10)))
            assert len(asked) == 1
            for watcher in watchers:
                await watcher.leave()

    run(work())


def test_nobody_watches_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last one has gone, no reading is made any more."""

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 0.01) as (call, live):
            readings = []
            read_once = live._read

            async def counted() -> Any:
                readings.append(1)
                return await read_once()

            monkeypatch.setattr(live, "_read", counted)
            watcher = Watcher(call)
            await watcher.until(2)
            await watcher.leave()
            before = len(readings)
            await asyncio.sleep(0.1)
            assert len(readings) == before

    run(work())


def test_streams_are_bounded_and_places_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than there is room for is told to come later; a place that was left can be taken."""

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 0.05) as (call, live):
            watchers = [Watcher(call) for _ in range(3)]
            for watcher in watchers:
                await watcher.until(2)
            late = Watcher(call)
            await late.task
            assert late.status == 503
            assert dict(late.told[0]["headers"])[b"retry-after"] == b"10"
            await watchers.pop().leave()
            watchers.append(Watcher(call))
            await watchers[-1].until(2)
            assert watchers[-1].status == 200
            watchers[0].task.cancel()
            await asyncio.gather(watchers[0].task, return_exceptions=True)
            assert live.streams == 2
            for watcher in watchers[1:]:
                await watcher.leave()

    run(work())


def test_a_quiet_stream_says_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment, which browsers pass over."""
    monkeypatch.setattr(panel_live, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr("loadtest.dispatcher.panel.parts", lambda _: {"said": "always the same"})

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 0.01) as (call, _):
            watcher = Watcher(call)
            await watcher.until(4)
            assert watcher.texts[1:3] == [": still here\n\n"] * 2
            await watcher.leave()

    run(work())


def test_a_stream_ends_with_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging out elsewhere in the browser ends what still runs."""

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 0.02, Settings(token=TOKEN)) as (call, _):
            refused = Watcher(call)
            await refused.task
            assert refused.status == 401
            cookie = await logged_in(call)
            watcher = Watcher(call, {"cookie": cookie})
            await watcher.until(2)
            await post(call, "/logout", cookie=cookie)
            await watcher.task
            assert watcher.told[-1]["more_body"] is False

    run(work())


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_hold_no_streams_open(tmp_path: Path, site: str) -> None:
    """They could not read them, but there are few."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            watcher = Watcher(call, {"sec-fetch-site": site})
            await watcher.task
            assert watcher.status == 403

    run(work())


def test_a_stream_ends_though_the_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who leaves nor the end of the dispatcher waits for an answer that may never come."""

    async def work() -> None:
        async with watched(tmp_path, monkeypatch, 0.01) as (call, live):
            hanging = asyncio.Event()

            async def hang() -> None:
                hanging.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(call.api.store, "backlog", hang)
            first, second = Watcher(call), Watcher(call)
            await hanging.wait()
            await first.leave()
            call.api.end_waiting()
            await second.task
            assert live.streams == 0

    run(work())


def test_rates_are_means_of_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts over the time between two readings; unknown before there are two, forgotten after a long pause."""
    clock = Clock()
    monkeypatch.setattr("loadtest.dispatcher.panel_live.clock.now", clock)

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            live = Live(call.api, 1.0)
            assert (await live.reading()).per_s is None
            for outcome in ("delivered", "rejected", "delivered", "timed_out"):
                call.api.metrics.attempted(outcome, 0.1)
            clock.now += 2 * SECOND
            reading = await live.reading()
            assert reading.per_s == {"events": 0.0, "attempts": 2.0, "failed": 1.0}
            assert reading.history == (2.0,)
            clock.now += 3600 * SECOND
            assert (await live.reading()).per_s is None
            assert "–" in parts(await live.reading())["figures"]

    run(work())


def test_the_process_ends_at_once_with_pages_that_watch(tmp_path: Path) -> None:
    """SIGTERM ends open streams properly; nothing has to be cut off when their time is over."""
    with process(f"sqlite:{tmp_path}/hooks.db") as served:
        connections = []
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            connection.request("GET", f"{ROOT}/live")
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.readline().startswith(b"retry:")
            connections.append((connection, answer))
        assert served.stop() == 0
        for connection, answer in connections:
            assert b"data: " in answer.read()  # to its proper end: a cut one raises IncompleteRead
            connection.close()
        assert not [line for line in served.lines if "graceful" in line.lower() or "cancel" in line.lower()]


# --------------------------------------------------------------------------- the axis of time


def delivery(*log: Attempt, due: int = 0, settled: int = -1) -> Delivery:
    """A delivery created at 1,000 s."""
    return Delivery(
        number=1, id="a:b", event_id="a", endpoint="b", type="t", key="", seq=-1, created=1_000 * SECOND, state=0,
        cause=0, attempts=len(log), due=due, delivered=-1, settled=settled, held=False, log=log,
    )  # fmt: skip


def attempt(number: int, start_s: float, took_s: float = 0.1, outcome: int = 1) -> Attempt:
    """An attempt so long after the creation."""
    start = 1_000 * SECOND + int(start_s * SECOND)
    return Attempt(number, number, start, start, start + int(took_s * SECOND), outcome, 500, 0)


def test_time_runs_from_left_to_right() -> None:
    """Later is further right, the creation is at the left end and the last thing at the right one."""
    for whole in (SECOND // 1000, SECOND, 86_400 * SECOND):
        places = [position(whole * n // 50, whole) for n in range(51)]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (LEFT, RIGHT)


@pytest.mark.parametrize("whole_s", [0.001, 0.7, 10, 61, 86_400, 40 * 86_400])
def test_written_times_have_room(whole_s: float) -> None:
    """From milliseconds to months there are at least two, and none runs into the next."""
    written = ticks(int(whole_s * SECOND))
    assert len(written) >= 2
    assert all(b.at - a.at >= TICK_ROOM for a, b in itertools.pairwise(written))


def test_attempts_are_drawn_with_what_they_are() -> None:
    """A mark for each, told in words; the next one where it is due; nothing due once it is settled."""
    drawn = timeline(delivery(attempt(1, 0), attempt(2, 60), due=1_900 * SECOND), 1_100 * SECOND)
    assert [mark.told for mark in drawn.marks] == [f"attempt {n}: rejected, status 500" for n in (1, 2)]
    assert drawn.marks[0].left < drawn.marks[1].left < (drawn.due or 0) == RIGHT
    assert "2 attempts" in drawn.told
    assert timeline(delivery(attempt(1, 0, outcome=0), settled=1_001 * SECOND), 0).due is None


def test_a_delivery_of_many_attempts_is_drawn_all_the_same() -> None:
    """The latest ones, with labels that do not touch."""
    drawn = timeline(delivery(*(attempt(n, n) for n in range(1, 2_001)), settled=4_000 * SECOND), 0)
    assert len(drawn.marks) == 200
    labelled = [mark.left for mark in drawn.marks if mark.label]
    assert all(b - a >= 15 for a, b in itertools.pairwise(labelled))


def test_a_delivery_without_attempts_is_drawn() -> None:
    """An axis with nothing but what is due, even due now."""
    drawn = timeline(delivery(due=1_000 * SECOND), 1_000 * SECOND)
    assert (drawn.marks, drawn.due) == ((), LEFT)
    assert "No attempt yet" in drawn.told
