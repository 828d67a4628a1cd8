"""The endpoints of the panel: forms that make and change them, what an operator does with one, and their list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from loadtest.dispatcher.panel_pages import ROOT
from tests.api_calls import URL, dispatcher, run
from tests.panel_calls import EVIL, form_of, page, post, read, text_of, told


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
