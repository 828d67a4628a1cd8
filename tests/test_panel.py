"""The pages of the panel over HTTP: what holds of every one of them."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from loadtest.dispatcher.api import Settings
from loadtest.dispatcher.panel_pages import FILES, ROOT
from loadtest.dispatcher.store import StoreUnavailableError
from loadtest.page_headers import HEADERS
from tests.api_calls import dispatcher, run
from tests.panel_calls import EVIL, TOKEN, page, read, text_of

LARGEST_PAGE = 100_000
GETS = ["", "/login", "/endpoints", "/endpoints?status=disabled", "/new-endpoint", "/endpoints/shop:0"]
GETS += [f"/endpoints/shop:0/{page}" for page in ("edit", "delete", "replay")]
GETS += ["/deliveries", "/deliveries/till:0:shop:0", "/dead", "/nowhere", *(f"/{name}" for name in FILES)]


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
