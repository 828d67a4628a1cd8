"""The deliveries of the panel: their list, one of them, and what an operator does with them."""

from __future__ import annotations

import re
from pathlib import Path

from loadtest.dispatcher.api import Settings
from loadtest.dispatcher.panel_pages import ROOT
from sim.blocks_dispatcher import Dispatcher as Rules
from tests.api_calls import dispatcher, run
from tests.panel_calls import EVIL, page, post, read, text_of, told


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
