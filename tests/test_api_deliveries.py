"""Deliveries, the trace and polling through the dispatcher's HTTP API."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tests.api_calls import dispatcher, run

POLLING = {"url": None, "policy": None, "mode": {"poll": {"every": "60s"}}}


# --------------------------------------------------------------------------- deliveries and trace


def test_deliveries_are_cancelled_and_resent(tmp_path: Path) -> None:
    """A waiting delivery can be cancelled once, a settled one resent, and its attempts go on counting."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint(policy={"schedule": ["0s", "1h"]})
            call.sender.code = 500
            await call.event("e:0")

            async def failed() -> bool:
                shown = (await call("GET", "/deliveries/e:0:shop:0")).value
                return bool(shown["attempts"] == 1 and shown["state"] == "waiting")

            await call.until(failed)
            assert (await call("POST", "/deliveries/e:0:shop:0/resend")).status == 409
            cancelled = await call("POST", "/deliveries/e:0:shop:0/cancel")
            assert (cancelled.status, cancelled.value["state"]) == (200, "dropped")
            assert cancelled.value["cause"] == "cancelled"
            told = [json.loads(line) for line in (await call("GET", "/trace")).body.splitlines()]
            assert [row["cause"] for row in told if row["kind"] == "delivery"] == ["cancelled"]
            assert (await call("POST", "/deliveries/e:0:shop:0/cancel")).status == 409
            call.sender.code = 200
            assert (await call("POST", "/deliveries/e:0:shop:0/resend")).status == 202
            shown = await call.delivery_is("e:0:shop:0", "delivered")
            assert [attempt["attempt_number"] for attempt in shown["log"]] == [1, 2]
            told = [json.loads(line) for line in (await call("GET", "/trace")).body.splitlines()]
            kinds = [(row["kind"], row["delivery_id"]) for row in told]
            assert kinds.count(("resend", "e:0:shop:0")) == 1
            assert (
                kinds.index(("resend", "e:0:shop:0")) < len(kinds) - 2
            )  # the attempt and the end come later
            call.sender.go.clear()
            await call.event("e:1")
            await call.delivery_is("e:1:shop:0", "in_flight")
            assert (await call("POST", "/deliveries/e:1:shop:0/cancel")).status == 409
            call.sender.go.set()
            await call.delivery_is("e:1:shop:0", "delivered")

    run(work())


def test_a_delivery_that_waits_for_a_slot_is_cancelled_for_good(tmp_path: Path) -> None:
    """A delivery that is loaded already, and would be next, is not sent once it has been cancelled."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            call.sender.go.clear()
            await call.endpoint(max_in_flight=1)
            await call.event("e:0")
            await call.delivery_is("e:0:shop:0", "in_flight")
            await call.event("e:1")
            assert (await call("POST", "/deliveries/e:1:shop:0/cancel")).status == 200
            await call.event("e:2")
            call.sender.go.set()
            await call.delivery_is("e:2:shop:0", "delivered")
            sent = [json.loads(each.body)["id"] for each in call.sender.sent]
            assert sent == ["e:0", "e:2"]

    run(work())


def test_deliveries_are_listed_in_pages(tmp_path: Path) -> None:
    """The list goes from new to old, page after page, and can be narrowed."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            for n in range(5):
                await call.event(f"e:{n}", type=("a", "b")[n % 2])
                await call.delivery_is(f"e:{n}:shop:0", "delivered")
            found, after = [], 0
            while after is not None:
                page = (await call("GET", f"/deliveries?limit=2&after={after}")).value
                found += [each["event_id"] for each in page["deliveries"]]
                after = page["next"]
            assert found == [f"e:{n}" for n in reversed(range(5))]
            only = (await call("GET", "/deliveries?type=b&state=delivered,dead&endpoint=shop:0")).value
            assert [each["event_id"] for each in only["deliveries"]] == ["e:3", "e:1"]
            wrong = await call("GET", "/deliveries?state=delivred")
            assert "did you mean delivered" in wrong.value["problems"][0]["rule"]
            assert (await call("GET", "/deliveries?limit=0")).status == 422
            assert (await call("GET", "/deliveries?limit=1&limit=2")).status == 422

    run(work())


def test_the_trace_tells_all_in_order_with_nine_decimals(tmp_path: Path) -> None:
    """Every attempt and settlement is one line; a page goes on from the last cursor."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint(policy={"schedule": ["0s", "0s"]})
            call.sender.code = 503
            await call.event("till:0", seq=3)
            await call.delivery_is("till:0:shop:0", "dead")
            lines = (await call("GET", "/trace")).body.splitlines()
            rows = [json.loads(line) for line in lines]
            assert [(row["kind"], row.get("attempt_number")) for row in rows] == [
                ("attempt", 1), ("attempt", 2), ("delivery", None),
            ]  # fmt: skip
            assert rows[0]["outcome"] == "rejected"
            assert rows[0]["status"] == 503
            assert (rows[2]["state"], rows[2]["cause"], rows[2]["producer"]) == ("dead", "attempts", "till")
            assert (rows[2]["seq"], rows[2]["first_processed_s"]) == (3, None)
            assert re.search(rb'"started_s":\d{10}\.\d{9},', lines[0])
            assert rows[0]["finished_s"] <= rows[1]["started_s"]
            rest = (await call("GET", f"/trace?after={rows[0]['cursor']}")).body.splitlines()
            assert rest == lines[1:]
            assert (await call("GET", f"/trace?after={rows[2]['cursor']}")).body == b""

    run(work())


# --------------------------------------------------------------------------- polling


def test_a_polling_endpoint_fetches_what_came(tmp_path: Path) -> None:
    """A poll returns events once per cursor, marks them delivered with tier 0, and is refused for pushed ones."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint("pull", **POLLING)
            await call.endpoint("push")
            for n in range(3):
                await call.event(f"e:{n}", data=n)
            first = (await call("GET", "/events?endpoint=pull&limit=2")).value
            assert [(each["id"], each["data"]) for each in first["events"]] == [("e:0", 0), ("e:1", 1)]
            second = (await call("GET", f"/events?endpoint=pull&after={first['next']}")).value
            assert [each["id"] for each in second["events"]] == ["e:2"]
            last = (await call("GET", f"/events?endpoint=pull&after={second['next']}")).value
            assert last == {"events": [], "next": second["next"]}
            shown = (await call("GET", "/deliveries/e:0:pull")).value
            assert shown["state"] == "delivered"
            assert [(a["tier"], a["status"], a["wait_cause"]) for a in shown["log"]] == [(0, 200, "poll")]
            assert (await call("GET", "/events?endpoint=push")).status == 409
            assert (await call("GET", "/events?endpoint=nobody")).status == 404
            assert (await call("GET", "/events?endpoint=pull&wait=31")).status == 422
            assert (await call("GET", "/events")).status == 422

    run(work())


def test_a_long_poll_ends_when_something_comes_or_the_dispatcher_stops(tmp_path: Path) -> None:
    """A waiting poll returns with the event that comes, and with nothing when the dispatcher is about to end."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint("pull", **POLLING)
            polling = asyncio.create_task(call("GET", "/events?endpoint=pull&wait=30"))
            await call.until(lambda: _true(bool(call.api.arrivals.waiting)))
            await call.event("e:0")
            found = (await asyncio.wait_for(polling, 10)).value
            assert [each["id"] for each in found["events"]] == ["e:0"]
            waiting = asyncio.create_task(call("GET", f"/events?endpoint=pull&wait=30&after={found['next']}"))
            await call.until(lambda: _true(bool(call.api.arrivals.waiting)))
            call.api.end_waiting()
            assert (await asyncio.wait_for(waiting, 10)).value["events"] == []
            assert not call.api.arrivals.waiting
            assert (await call("GET", "/readyz")).status == 503

    async def _true(value: bool) -> bool:
        return value

    run(work())
