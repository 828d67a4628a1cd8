"""The dispatcher's HTTP API over its real store and scheduler."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from loadtest.dispatcher.api import Settings
from loadtest.dispatcher.api_routes import OPERATIONS
from loadtest.dispatcher.policies import resolve
from loadtest.dispatcher.store import StoreUnavailableError
from sim import presets
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.blocks_policy import PolicyBlock
from tests.api_calls import SECOND, URL, dispatcher, run

TOKEN = "a-long-enough-token"


# --------------------------------------------------------------------------- intake


def test_an_event_is_stored_fanned_out_and_delivered(tmp_path: Path) -> None:
    """A posted event reaches the subscribed endpoint, and the delivery shows its attempt."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint("shop:0", types=["receipt.*"])
            await call.endpoint("other", types=["shift.*"])
            reply = await call.event("till:0", seq=4, occurred_at="2026-01-31T12:00:00.5+03:00")
            assert (reply.status, reply.value) == (202, {"id": "till:0"})
            shown = await call.delivery_is("till:0:shop:0", "delivered")
            assert shown["attempts"] == 1
            (attempt,) = shown["log"]
            assert (attempt["outcome"], attempt["status"], attempt["answer"]) == ("delivered", 200, "seen")
            (sent,) = call.sender.sent
            assert sent.url == URL
            assert json.loads(sent.body)["data"] == {"a": 1}
            event = (await call("GET", "/events/till:0")).value
            assert event["deliveries"] == ["till:0:shop:0"]
            assert event["seq"] == 4
            assert event["occurred_at"] == "2026-01-31T09:00:00.500000Z"

    run(work())


def test_posting_again_changes_nothing_and_other_content_is_a_conflict(tmp_path: Path) -> None:
    """The same id and content twice gives the same answer and one delivery; other content gives 409."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            first = await call.event(data={"a": 1, "b": [2]})
            again = await call.event(data={"b": [2], "a": 1})
            assert (first.status, first.body) == (again.status, again.body)
            listed = (await call("GET", "/deliveries")).value["deliveries"]
            assert [each["id"] for each in listed] == ["till:0:shop:0"]
            for other in ({"data": 2}, {"key": "other"}, {"seq": 1}, {"type": "other"}):
                assert (await call.event(**other)).status == 409

    run(work())


def test_a_list_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    """One bad event of a list keeps all of it out; a good list answers in its order."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            good = [{"type": "t", "key": "", "data": n, "id": f"e:{n}"} for n in range(3)]
            reply = await call("POST", "/events", [*good, {**good[0], "id": "a:b:c"}])
            assert reply.status == 422
            assert reply.value["problems"][0]["field"] == "3.id"
            assert (await call("GET", "/events/e:0")).status == 404
            twice = await call("POST", "/events", [*good, {**good[0], "data": 9}])
            assert twice.status == 409
            assert (await call("GET", "/events/e:1")).status == 404
            reply = await call("POST", "/events", good)
            assert (reply.status, reply.value) == (202, [{"id": f"e:{n}"} for n in range(3)])

    run(work())


@pytest.mark.parametrize(
    ("change", "field", "word"),
    [
        ({"id": "a/b"}, "id", "without /"),
        ({"id": "a:b"}, "id", "name:number"),
        ({"id": "a:01"}, "id", "name:number"),
        ({"id": "x" * 201}, "id", "200"),
        ({"id": "a\nb"}, "id", "printable"),
        ({"type": ""}, "type", "empty"),
        ({"type": None}, "type", "text"),
        ({"key": 5}, "key", "text"),
        ({"seq": -1}, "seq", "0"),
        ({"seq": "1"}, "seq", "integer"),
        ({"occurred_at": "yesterday"}, "occurred_at", "RFC 3339"),
        ({"occurred_at": "2026-01-31T12:00:00"}, "occurred_at", "time zone"),
        ({"occurred_at": "1066-01-31T12:00:00Z"}, "occurred_at", "1970"),
        ({"object": {"type": "t", "id": "1"}}, "data", "object"),
        ({"sequence": 1}, "sequence", "not a field"),
    ],
)
def test_what_is_wrong_with_an_event_is_told(
    tmp_path: Path, change: dict[str, Any], field: str, word: str
) -> None:
    """Every broken rule of an event answers 422 with its field and the rule."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            reply = await call.event(**change)
            assert reply.status == 422, reply.body
            (problem,) = reply.value["problems"]
            assert problem["field"] == field
            assert word in problem["rule"]

    run(work())


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "empty"),
        (b'{"type": "t",', 400, "line 1"),
        (b'{"type": "t", "key": "", "data": NaN}', 400, "no JSON"),
        (b'"\xff"', 400, "no JSON"),
        (b"[" * 5000, 400, "no JSON"),
        (b"[]", 422, "from 1 to 10"),
        (b"[" + b",".join([b"{}"] * 11) + b"]", 422, "11"),
        (b"5", 422, "must be"),
        (b'{"type": "t", "key": "", "data": "%s"}' % (b"x" * 300), 413, "bytes"),
        (b" " * 3000, 413, "larger"),
    ],
)
def test_bodies_that_cannot_be_used(tmp_path: Path, body: bytes, status: int, word: str) -> None:
    """Bad JSON, empty and long lists, and bodies beyond the limits are refused with the reason."""

    async def work() -> None:
        limits = Settings(most_body=2_900 if body.startswith(b" ") else 6_000, most_data=200, most_events=10)
        async with dispatcher(tmp_path, limits) as call:
            reply = await call("POST", "/events", body=body, headers={"content-type": "application/json"})
            assert reply.status == status, reply.body
            assert word in reply.value["error"]

    run(work())


def test_an_undeclared_body_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    """A chunked body is refused after the part that goes beyond the limit, and no more of it is asked for."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(most_body=1_000)) as call:
            asked = 0

            async def receive() -> dict[str, Any]:
                nonlocal asked
                asked += 1
                return {"type": "http.request", "body": b" " * 400, "more_body": asked < 100}

            statuses: list[int] = []

            async def send(message: Any) -> None:
                statuses.append(message.get("status", 0))

            headers = [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"transfer-encoding", b"chunked"),
            ]
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/events",
                "query_string": b"",
                "headers": headers,
            }
            await call.app(scope, receive, send)
            assert statuses[0] == 413
            assert asked == 3

    run(work())


def test_json_is_kept_to_the_last_digit(tmp_path: Path) -> None:
    """Whole numbers beyond 64 bits and letters of any script come back as they were posted."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            data = {"n": 2**100, "s": "чек №5", "f": 0.1, "none": None}
            assert (await call.event(data=data)).status == 202
            assert (await call("GET", "/events/till:0")).value["data"] == data

    run(work())


def test_a_full_dispatcher_says_when_to_come_back(tmp_path: Path) -> None:
    """Beyond the most that may wait, intake answers 429 with Retry-After."""

    async def work() -> None:
        async with dispatcher(tmp_path, most_stored=1) as call:
            call.sender.go.clear()
            await call.endpoint()
            assert (await call.event("e:0")).status == 202
            reply = await call.event("e:1")
            assert reply.status == 429
            assert int(reply.headers["retry-after"]) >= 1

    run(work())


def test_a_store_that_is_away_answers_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store does not answer, intake and readiness say so, and the process still lives."""

    async def away(*_: Any) -> None:
        raise StoreUnavailableError("the disk is full")

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            assert (await call("GET", "/readyz")).status == 200
            with monkeypatch.context() as patch:
                patch.setattr(call.api.store, "add", away)
                patch.setattr(call.api.store, "check", away)
                assert (await call.event()).status == 503
                assert (await call("GET", "/readyz")).status == 503
                assert (await call("GET", "/healthz")).status == 200
            assert (await call.event()).status == 202

    run(work())


# --------------------------------------------------------------------------- objects


def test_an_object_is_fetched_when_its_attempt_starts(tmp_path: Path) -> None:
    """An event that tells of an object carries what the object is at its attempt; without it, it vanishes."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            assert (await call("PUT", "/objects/order/7", {"v": 2})).status == 204
            assert (await call("GET", "/objects/order/7")).value == {"v": 2}
            event = {"type": "order.changed", "key": "7", "object": {"type": "order", "id": "7"}}
            assert (await call("POST", "/events", {**event, "id": "o:1"})).status == 202
            await call.delivery_is("o:1:shop:0", "delivered")
            assert json.loads(call.sender.sent[0].body)["data"] == {"v": 2}
            assert (await call("DELETE", "/objects/order/7")).status == 204
            assert (await call("DELETE", "/objects/order/7")).status == 404
            assert (await call("POST", "/events", {**event, "id": "o:2"})).status == 202
            assert (await call.delivery_is("o:2:shop:0", "vanished"))["cause"] == "object"

    run(work())


# --------------------------------------------------------------------------- endpoints


def test_a_secret_is_shown_once(tmp_path: Path) -> None:
    """The secret comes with the creation and with a rotation, and in no other answer."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            made = await call.endpoint()
            assert made["secret"].startswith("whsec_")
            assert "secret" not in (await call("GET", "/endpoints/shop:0")).value
            assert "secret" not in (await call("GET", "/endpoints")).value["endpoints"][0]
            rotated = (await call("POST", "/endpoints/shop:0/rotate-secret", {"overlap": "1h"})).value
            assert rotated["secret"] != made["secret"]
            assert rotated["old_secret_until"] > rotated["changed_at"]
            await call.event()
            await call.delivery_is("till:0:shop:0", "delivered")
            (line,) = [line for line in call.sender.sent[0].headers if line.startswith("webhook-signature")]
            assert len(line.split()) == 3  # the name and two signatures

    run(work())


@pytest.mark.parametrize(
    ("change", "field", "word"),
    [
        ({"url": "ftp://shop.example.com"}, "url", "http"),
        ({"url": "http://127.0.0.1/hook"}, "url", "public"),
        ({"url": None}, "url", "required"),
        ({"policy": "dreamkass"}, "policy", "did you mean dreamkas"),
        ({"policy": None}, "policy", "required"),
        ({"policy": {"schedule": ["0s", "5 parsecs"]}}, "policy.schedule.1", "duration"),
        ({"policy": {"preset": "dreamcas"}}, "policy.preset", "did you mean dreamkas"),
        ({"types": []}, "types", "at least one"),
        ({"rate_limit": "50"}, "rate_limit", "50/s"),
        ({"rate_limit": 0}, "rate_limit", "above"),
        ({"max_in_flight": 0}, "max_in_flight", "at least 1"),
        ({"ordering": "keys"}, "ordering", "did you mean key"),
        ({"signature": "hub", "secret": "short"}, "secret", "phrase"),
        ({"secret": "plain"}, "secret", "whsec_"),
        ({"id": "a:b"}, "id", "name:number"),
        ({"id": "17"}, "id", "number alone"),
        ({"mode": {"poll": {"every": "60s"}}}, "url", "must be empty"),
        ({"polcy": "dreamkas"}, "polcy", "did you mean policy"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_told(
    tmp_path: Path, change: dict[str, Any], field: str, word: str
) -> None:
    """Every broken rule of an endpoint answers 422 with its field, and names the nearest right word."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            body = {"id": "shop:0", "url": URL, "types": ["*"], "policy": "dreamkas"} | change
            reply = await call("POST", "/endpoints", {k: v for k, v in body.items() if v is not None})
            assert reply.status == 422, reply.body
            assert [p["field"] for p in reply.value["problems"]] == [field]
            assert word in reply.value["problems"][0]["rule"]
            assert (await call("GET", "/endpoints")).value == {"endpoints": [], "next": None}

    run(work())


@pytest.mark.parametrize("name", presets.names("policies"))
def test_a_policy_is_stored_as_it_is(name: str) -> None:
    """A bundled policy, by name or as a preset with a leaf changed to its default, is read back as it was."""
    block, chosen = resolve(name, {})
    meant = PolicyBlock.model_validate(presets.read("policies", name)["policy"])
    assert (PolicyBlock.model_validate_json(block), chosen) == (meant, name)
    changed, chosen = resolve({"preset": name, "jitter": "none", "timeout": "30s"}, {})
    read = PolicyBlock.model_validate_json(changed)
    assert (read.jitter.kind, read.timeout, chosen) == ("none", 30 * SECOND, "")
    assert read.schedule == meant.schedule
    assert resolve(json.loads(changed), {}) == (changed, "")


def test_endpoints_are_listed_in_pages(tmp_path: Path) -> None:
    """The list goes on after ``next`` in the order of making, ends with null, and misses none for one removed."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            for n in range(5):
                await call.endpoint(f"shop:{n}")
            found, after, pages = [], 0, 0
            while after is not None:
                page = (await call("GET", f"/endpoints?limit=2&after={after}")).value
                found += [each["id"] for each in page["endpoints"]]
                after, pages = page["next"], pages + 1
                if pages == 1:
                    await call("DELETE", "/endpoints/shop:1")
            assert (found, pages) == ([f"shop:{n}" for n in range(5)], 3)
            whole = (await call("GET", "/endpoints?limit=4")).value
            assert ([each["id"] for each in whole["endpoints"]], whole["next"]) == (
                ["shop:0", "shop:2", "shop:3", "shop:4"],
                None,
            )
            assert (await call("GET", "/endpoints?limit=0")).status == 422
            assert (await call("GET", "/endpoints?page=2")).status == 422

    run(work())


def test_an_endpoint_is_changed_in_part(tmp_path: Path) -> None:
    """PATCH replaces what it names, and an id that is taken answers 409."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            made = await call.endpoint(rate_limit=5, description="till")
            assert made["rate_limit"] == "5/s"
            change = {"types": ["shift.*"], "max_in_flight": 3, "policy": {"schedule": ["0s", "7s"]}}
            changed = (await call("PATCH", "/endpoints/shop:0", change)).value
            assert changed["types"] == ["shift.*"]
            assert changed["max_in_flight"] == 3
            assert changed["policy"] == {"schedule": ["0s", "7s"]}
            assert (changed["rate_limit"], changed["description"]) == ("5/s", "till")
            assert (await call("GET", "/endpoints/shop:0")).value == changed
            assert (await call.event()).status == 202
            assert (await call("GET", "/events/till:0")).value["deliveries"] == []
            again = await call(
                "POST", "/endpoints", {"id": "shop:0", "url": URL, "types": ["*"], "policy": "dreamkas"}
            )
            assert again.status == 409
            assert (await call("PATCH", "/endpoints/nobody", {})).status == 404

    run(work())


def test_a_paused_endpoint_keeps_what_comes_and_a_removed_one_drops_it(tmp_path: Path) -> None:
    """Pausing holds deliveries, resuming sends them, deleting drops what waits."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            paused = (await call("POST", "/endpoints/shop:0/pause")).value
            assert paused["status"] == "paused"
            await call.event("e:0")
            assert (await call("GET", "/deliveries/e:0:shop:0")).value["state"] == "waiting"
            assert (await call("POST", "/endpoints/shop:0/resume")).value["status"] == "enabled"
            await call.delivery_is("e:0:shop:0", "delivered")
            await call("POST", "/endpoints/shop:0/pause")
            await call.event("e:1")
            assert (await call("DELETE", "/endpoints/shop:0")).status == 204
            dropped = await call.delivery_is("e:1:shop:0", "dropped")
            assert dropped["cause"] == "disabled"
            assert len(call.sender.sent) == 1
            await call.event("e:2")
            assert (await call("GET", "/events/e:2")).value["deliveries"] == []
            assert (await call("GET", "/endpoints/shop:0")).status == 404

    run(work())


def test_a_test_event_goes_to_its_endpoint_only(tmp_path: Path) -> None:
    """The test reaches one endpoint, whatever it subscribes to, and no other."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint("shop:0", types=["receipt.*"])
            await call.endpoint("shop:1")
            reply = await call("POST", "/endpoints/shop:0/test")
            assert reply.status == 202
            shown = await call.delivery_is(reply.value["delivery_id"], "delivered")
            assert (shown["type"], shown["endpoint"]) == ("hooklab.test", "shop:0")
            assert len((await call("GET", "/deliveries")).value["deliveries"]) == 1

    run(work())


def test_a_replay_adds_what_is_missing_and_resends_what_is_settled(tmp_path: Path) -> None:
    """An endpoint made after an event gets it by a replay; one that had it gets it once more."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint("shop:0")
            await call.event("e:0")
            await call.delivery_is("e:0:shop:0", "delivered")
            await call.endpoint("shop:1", types=["receipt.*"])
            await call.event("e:1", type="shift.closed")
            span = {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}
            reply = await call("POST", "/endpoints/shop:1/replay", span)
            assert (reply.status, reply.value) == (202, {"added": 1, "resent": 0})
            await call.delivery_is("e:0:shop:1", "delivered")
            await call.delivery_is("e:1:shop:0", "delivered")
            reply = await call("POST", "/endpoints/shop:0/replay", span)
            assert reply.value == {"added": 0, "resent": 2}
            shown = await call.delivery_is("e:0:shop:0", "delivered")

            async def twice() -> bool:
                return bool((await call("GET", "/deliveries/e:0:shop:0")).value["attempts"] == 2)

            await call.until(twice)
            assert shown["id"] == "e:0:shop:0"
            backwards = {"since": span["until"], "until": span["since"]}
            assert (await call("POST", "/endpoints/shop:0/replay", backwards)).status == 422

    run(work())


# --------------------------------------------------------------------------- who may call


def test_without_the_token_nothing_but_the_probes_answers(tmp_path: Path) -> None:
    """Every operation asks for the token, and no part of it is enough."""

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(token=TOKEN)) as call:
            for operation in OPERATIONS:
                path = re.sub(r"{\w+}", "x", operation.path)
                is_open = operation.path in ("/healthz", "/readyz")
                for wrong in ("", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer "):
                    reply = await call(operation.method, path, headers={"authorization": wrong})
                    assert (reply.status == 401) != is_open, (operation, reply)
            right = {"authorization": f"Bearer {TOKEN}"}
            assert (await call("GET", "/endpoints", headers=right)).status == 200
            assert (await call("GET", "/metrics", headers=right)).status == 200

    run(work())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:99", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST:1", 200),
        ("hooks.example.com", 200),
        ("evil.example.com", 421),
        ("localhost.evil.example.com", 421),
        ("[::1", 421),
        ("", 400),
    ],
)
def test_only_its_own_names_are_answered(tmp_path: Path, host: str, status: int) -> None:
    """A foreign name that leads here (DNS rebinding) is refused, with or without a port."""

    async def work() -> None:
        allowed = Settings().hosts | {"hooks.example.com"}
        async with dispatcher(tmp_path, Settings(hosts=allowed)) as call:
            assert (await call("GET", "/endpoints", headers={"host": host})).status == status

    run(work())


def test_a_page_of_another_site_changes_nothing(tmp_path: Path) -> None:
    """Forms of other pages are refused: a body that is not JSON, and an Origin that is not its own."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint()
            for kind in ("text/plain", "", "application/x-www-form-urlencoded", "application/jsonp"):
                reply = await call("POST", "/events", body=b"{}", headers={"content-type": kind})
                assert reply.status == 415, kind
            for origin in (
                "https://evil.example.com",
                "null",
                "http://[",
                "http://localhost.evil.example.com",
            ):
                reply = await call("POST", "/endpoints/shop:0/pause", headers={"origin": origin})
                assert reply.status == 403, origin
            assert (await call("GET", "/endpoints/shop:0")).value["status"] == "enabled"
            own = await call("POST", "/endpoints/shop:0/pause", headers={"origin": "http://localhost:8080"})
            assert own.status == 200

    run(work())


# --------------------------------------------------------------------------- figures and the document


def test_the_metrics_page_counts_what_happened(tmp_path: Path) -> None:
    """Intake, attempts, their latency and the backlog of each tier stand on the page."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await call.endpoint(policy={"schedule": ["0s", "1h"]})
            call.sender.code = 500
            await call.event("e:0")
            await call.event("e:0")
            await call.event("e:0", data="other")

            async def waits() -> bool:
                page = (await call("GET", "/metrics")).body.decode().splitlines()
                return 'hooklab_backlog{tier="2"} 1.0' in page

            await call.until(waits)
            lines = (await call("GET", "/metrics")).body.decode().splitlines()
            assert 'hooklab_attempts_total{outcome="rejected"} 1.0' in lines
            assert 'hooklab_events_total{result="stored"} 1.0' in lines
            assert 'hooklab_events_total{result="repeated"} 1.0' in lines
            assert 'hooklab_events_total{result="refused"} 1.0' in lines
            assert "hooklab_attempt_latency_seconds_count 1.0" in lines
            assert "hooklab_in_flight 0.0" in lines
            assert 'hooklab_stored_deliveries{state="waiting"} 1.0' in lines

    run(work())


def test_unknown_paths_and_methods_are_told_as_json(tmp_path: Path) -> None:
    """404 says where to look, 405 lists what is allowed."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            lost = await call("GET", "/event")
            assert lost.status == 404
            assert "/openapi.json" in lost.value["error"]
            assert (await call("GET", "/events/")).status == 404
            refused = await call("DELETE", "/events")
            assert (refused.status, refused.headers["allow"]) == (405, "GET, POST")

    run(work())


def test_the_document_describes_every_operation_and_its_references_hold(tmp_path: Path) -> None:
    """The OpenAPI document has all operations of the table, and what it refers to is there."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            found = (await call("GET", "/openapi.json")).value
            assert found["openapi"].startswith("3.1")
            listed = {(m.upper(), path) for path, methods in found["paths"].items() for m in methods}
            assert listed == {(operation.method, operation.path) for operation in OPERATIONS}
            referred = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(found)))
            schemas = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
            assert referred
            assert referred <= schemas
            for schema in found["components"]["schemas"].values():
                Draft202012Validator({**schema, "components": found["components"]})

    run(work())


def test_the_scenarios_ordering_is_the_default(tmp_path: Path) -> None:
    """An endpoint that does not say keeps the order of the scenario's dispatcher."""

    async def work() -> None:
        rules = Rules(ordering="key")
        async with dispatcher(tmp_path, Settings(ordering=rules.ordering), rules) as call:
            assert (await call.endpoint())["ordering"] == "key"
            assert (await call.endpoint("own", ordering="none"))["ordering"] == "none"

    run(work())


def test_old_deliveries_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was settled longer ago than the retention goes, with its event."""
    monkeypatch.setattr("loadtest.dispatcher.app.PRUNE_EVERY_S", 0.05)

    async def work() -> None:
        async with dispatcher(tmp_path, Settings(retention=SECOND // 10)) as call:
            await call.endpoint()
            await call.event()

            async def gone() -> bool:
                return (await call("GET", "/events/till:0")).status == 404

            await call.until(gone)
            assert len(call.sender.sent) == 1

    run(work())
