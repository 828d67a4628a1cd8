"""Who gets into the panel: logins, sessions, and whose forms are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from loadtest.dispatcher.api import Settings
from loadtest.dispatcher.panel import OPEN, PAGES
from loadtest.dispatcher.panel_pages import ROOT
from loadtest.dispatcher.panel_session import COOKIE, LASTS_S, MOST_SESSIONS, Notices, Sessions, safe_path
from sim.policy import SECOND
from tests.api_calls import dispatcher, run
from tests.panel_calls import FORM, OWN, TOKEN, Clock, cookie_of, logged_in, page, post

POSTS = [path.replace("{id}", "shop:0") for path, handlers in PAGES.items() if "POST" in handlers]


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
