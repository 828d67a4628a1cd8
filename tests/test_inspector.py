"""The inspector of ``hooklab receive``: what arrived, one request with what explains it, and switches for faults."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

import sim
from loadtest import collect, trace_rows
from loadtest.inspector import PAGE
from loadtest.inspector_memory import MARKS, MOST_BODY, Memory, Seen
from loadtest.inspector_pages import MOST_PRETTY, pretty, text_of
from loadtest.receiver import Service
from loadtest.receiver_switch import HANG, REFUSE, SLOWER, STATUS, Switch, read_switch
from loadtest.receiver_world import Request
from sim import model, receiver
from sim.errors import ScenarioError
from sim.policy import CONNECTION_REFUSED, NO_ANSWER, SECOND
from sim.receiver import NEVER, Answer
from tests import tiny
from tests.test_receive import ROOT, SECRET, Client, post, records, serving, until, url_of, within

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'>{{1111*1111}}"
QUICK = tiny.world(receivers=tiny.receiver("0s"))


async def ask(
    service: Service, target: str, method: str = "GET", body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of the control port's answer."""
    async with Client(service.description()["control"]) as client:
        host = {"host": headers.pop("host")} if "host" in headers else {}
        lines = [f"{method} {target} HTTP/1.1", f"content-length: {len(body)}"]
        said = {"host": urlsplit(service.description()["control"]).netloc, **host}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines += [f"{name}: {value}" for name, value in said.items() if value]
        client.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        status, told, text = await client.answer()
        return status, told, text.decode()


async def switch(service: Service, name: str = "e:0", **form: str) -> int:
    """Send the form of an endpoint's fault, as its page does; the status of the answer."""
    origin = service.description()["control"]
    status, told, _ = await ask(
        service,
        f"/faults/{quote(name)}",
        "POST",
        urlencode(form).encode(),
        origin=origin,
        content_type="application/x-www-form-urlencoded",
    )
    assert (told.get("location") == f"/faults/{quote(name, safe='')}") == (status == 303)
    return status


async def listed(service: Service, query: str = "") -> list[dict[str, Any]]:
    """What ``GET /requests.json`` tells."""
    status, _, text = await ask(service, f"/requests.json{query}")
    assert status == 200, text
    found: list[dict[str, Any]] = json.loads(text)["requests"]
    return found


def numbers(html: str, table: str = "") -> list[int]:
    """Numbers of the requests in the rows of a page, or of the table with an id."""
    part = html.partition(f'id="{table}"')[2].partition("</table>")[0] if table else html
    return [int(number) for number in re.findall(r'data-number="(\d+)"', part)]


def words(html: str) -> str:
    """The text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


# --------------------------------------------------------------------------- what arrived


def test_it_is_there_only_if_wanted() -> None:
    """Without ``--inspect`` there is no page, no switch, and nothing is kept."""

    async def work() -> None:
        async with serving(QUICK) as service:
            assert (await post(url_of(service)))[0] == 200
            assert service.inspector is None
            for target in ("/", "/requests/1", "/requests.json", "/faults"):
                assert (await ask(service, target))[0] == 404
            assert await switch(service, fault=HANG) == 404
            assert (await post(url_of(service), attempt=2))[0] == 200

    within(work())


def test_what_arrived_is_listed_newest_first_in_pages_and_by_filters() -> None:
    """Every request once, by endpoint, by mark, and page by page."""
    world = tiny.world(endpoints=tiny.endpoint(count=2), receivers=tiny.receiver("0s"))

    async def work() -> None:
        async with serving(world, inspect=True) as service:
            first, second = (endpoint.url for endpoint in service.endpoints)
            async with Client(first) as client:
                for index in range(PAGE):
                    client.ask(f"p:{index}:e:0", webhook_key="k", webhook_seq=str(index))
                    await client.answer()
            await post(second, "p:0:e:1")
            await post(first, "p:3:e:0", attempt=2, webhook_key="k", webhook_seq="3")
            _, _, html = await ask(service, "/")
            assert numbers(html) == list(range(PAGE + 2, 2, -1))
            older = re.search(r'href="(/\?before=\d+)"', html)
            assert older is not None
            assert numbers((await ask(service, older[1]))[2]) == [2, 1]
            assert numbers((await ask(service, "/?endpoint=e%3A1"))[2]) == [PAGE + 1]
            assert numbers((await ask(service, "/?mark=duplicate"))[2]) == [PAGE + 2]
            assert numbers((await ask(service, "/?mark=late&endpoint=e%3A1"))[2]) == []
            (row,) = await listed(service, "?mark=duplicate")
            assert {name: row[name] for name in ("endpoint", "delivery_id", "attempt_number", "key", "seq")} == {
                "endpoint": "e:0", "delivery_id": "p:3:e:0", "attempt_number": 2, "key": "k", "seq": 3,
            }  # fmt: skip
            assert row["status"] == 200
            assert row["marks"] == ["duplicate", "late", "signature unchecked"]
            assert [one["number"] for one in await listed(service, f"?after={PAGE}")] == [PAGE + 1, PAGE + 2]
            for query in ("mark=odd", "before=x", "before=-1"):
                assert (await ask(service, f"/?{query}"))[0] == 400

    within(work())


def test_a_request_is_shown_with_what_explains_it() -> None:
    """A duplicate names its first processing, a late event the one that overtook it; both lists are in order."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            url = url_of(service)
            for index, attempt in ((1, 1), (2, 1), (0, 1), (1, 2)):
                await post(url, f"p:{index}:e:0", attempt, webhook_key="till", webhook_seq=str(index))
            await post(url, "p:9:e:0", webhook_key="other", webhook_seq="1")
            _, _, late = await ask(service, "/requests/3")
            assert "late : a later event of its key had been processed before: number 2, by #2 at" in words(
                late
            )
            assert numbers(late, "of-key") == [1, 2, 3, 4]
            assert numbers(late, "of-delivery") == [3]
            _, _, again = await ask(service, "/requests/4")
            assert "duplicate : its delivery had been processed before, by #1 at" in words(again)
            assert numbers(again, "of-delivery") == [1, 4]
            assert re.search(r'aria-current="true" data-number="4"', again)
            assert numbers((await ask(service, "/requests/5"))[2], "of-key") == [5]
            for missing in ("6", "0", "x", "9" * 30):
                assert (await ask(service, f"/requests/{missing}"))[0] == 404

    within(work())


def test_headers_and_body_are_shown_and_stay_text() -> None:
    """All headers come back; JSON is made readable; what is evil is escaped, in bodies, headers, keys and ids."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            url = url_of(service)
            body = json.dumps({"text": EVIL, "more": [1, {"ä": None}]}).encode()
            await post(url, EVIL, body=body, webhook_key=EVIL, x_own=EVIL)
            await post(url, "p:1:e:0", body=b"{not json")
            await post(url, "p:2:e:0", body=b"[" * 50_000)
            await post(url, "p:3:e:0", body=b"\xff\xfe")
            await post(url, "p:4:e:0", body=b'"\\ud800"')
            html = (await ask(service, "/requests/1"))[2]
            assert EVIL in unescape(html)
            assert f"x-own: {EVIL}" in unescape(html)
            assert '"more": [\n    1,\n    {\n      "ä": null' in unescape(html)
            for page in (html, (await ask(service, "/"))[2], (await ask(service, "/?mark=late"))[2]):
                assert "<img src=x" not in page
                assert "<script>alert" not in page
                assert "1234321" not in page
            async with Client(url) as client:
                client.send("POST", client.parts.path, headers={"x-twice": "one", "X-Twice": "two"})
                assert (await client.answer())[0] == 400
            assert "x-twice: one, two\n" in (await ask(service, "/requests/6"))[2]
            assert "{not json" in (await ask(service, "/requests/2"))[2]
            for number in (3, 4, 5):
                assert (await ask(service, f"/requests/{number}"))[0] == 200
            assert "\\xff\\xfe" in (await ask(service, "/requests/4"))[2]

    within(work())


def test_only_the_beginning_of_a_long_body_is_kept() -> None:
    """64 KiB of it, and the page says so."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            await post(url_of(service), body=b"a" * MOST_BODY + b"BEYOND")
            assert service.inspector is not None
            seen = service.inspector.memory.get(1)
            assert seen is not None
            assert (len(seen.body), seen.body_bytes) == (MOST_BODY, MOST_BODY + 6)
            html = (await ask(service, "/requests/1"))[2]
            assert "BEYOND" not in html
            assert f"The first {MOST_BODY:,} of {MOST_BODY + 6:,} bytes." in words(html)

    within(work())


def test_signatures_are_marked() -> None:
    """Right, wrong, or unchecked where no secret is known; one that was refused for it is shown as answered 401."""
    now = datetime.now(UTC)
    signed = {
        "webhook_timestamp": str(int(now.timestamp())),
        "webhook_signature": Webhook(SECRET).sign("p:0:e:0", now, "{}"),
    }

    async def work() -> None:
        world = tiny.world(endpoints=tiny.endpoint(count=2), receivers=tiny.receiver("0s"))
        options = {"secrets": {"e:0": Webhook(SECRET)}, "check_signatures": True, "inspect": True}
        async with serving(world, **options) as service:
            await post(service.endpoints[0].url, **signed)
            await post(service.endpoints[0].url, body=b"[]", attempt=2, **signed)
            await post(service.endpoints[1].url, "p:0:e:1", **signed)
            told = [(row["status"], row["marks"]) for row in await listed(service)]
            assert told == [
                (200, ["signature right"]),
                (401, ["signature wrong"]),
                (200, ["signature unchecked"]),
            ]

    within(work())


def test_what_is_not_answered_is_marked() -> None:
    """A hang, a refusal, one under way, one that is no webhook, and one before the start."""
    faults = [tiny.outage("0s", "50s", "hang")]

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.receiver("0s", *faults)), inspect=True) as service:
            async with Client(url_of(service)) as client:
                client.ask()
                await until(lambda: service.log.count)
            assert (await post(url_of(service), ""))[0] == 400
            assert [row["marks"] for row in await listed(service)] == [
                ["never answered", "signature unchecked"],
                ["no webhook"],
            ]
        async with serving(
            tiny.world(receivers=tiny.receiver("0s", tiny.outage("0s", "50s"))), inspect=True
        ) as service:
            endpoint = service.endpoints[0]
            request = Request("p:0:e:0", 1)
            exchange: Any = type("Gone", (), {"method": b"POST", "target": b"/", "headers": {}, "text": b""})
            assert service.inspector is not None
            service.inspector.arrived(endpoint.world, exchange, request, 5)
            assert endpoint.world.receive(5, request).code == CONNECTION_REFUSED
            (row,) = await listed(service)
            assert row["marks"] == ["refused", "signature unchecked"]
        async with serving(tiny.world(receivers=tiny.receiver("60s")), inspect=True, start=None) as service:
            assert (await post(url_of(service)))[0] == 503
            assert (await ask(service, "/requests/1"))[0] == 200
            assert (await ask(service, "/start", "POST"))[0] == 200
            async with Client(url_of(service)) as client:
                client.ask()
                await until(lambda: service.inspector and service.inspector.memory.count == 2)
            early, late = await listed(service)
            assert (early["status"], early["marks"]) == (503, ["before the start"])
            assert (late["status"], late["marks"]) == (None, ["under way", "signature unchecked"])
            assert "not yet" in words((await ask(service, "/requests/2"))[2])

    within(work())


# --------------------------------------------------------------------------- what is remembered


def seen(number: int, body: bytes = b"", *, delivery: str = "p:0:e:0", seq: int = -1) -> Seen:
    """A request with the key ``k``."""
    said = Request(delivery, number, "k", seq)
    return Seen(
        number=number, endpoint="e:0", arrived=number, said=said, line="POST /", headers=(), body=body,
        body_bytes=len(body),
    )  # fmt: skip


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(json.dumps).map(str.encode)
    | st.sampled_from(
        [b"[" * 9_000 + b"]" * 9_000, b'"\\udfff"', b"1" * 5_000, b"1e999", b"[" * 900 + b"]" * 900]
    )
)
def test_any_body_can_be_shown(body: bytes) -> None:
    """It is made readable without a change of meaning, or shown as it came; either way it can be sent."""
    text_of(body).encode()
    told = pretty(seen(1, body))
    if told is not None:
        told.encode()
        assert len(told) <= MOST_PRETTY
        assert json.loads(told) == json.loads(body) or "NaN" in told


def test_memory_is_bounded_by_number_and_bytes() -> None:
    """The oldest go first; what had not ended leaves nothing behind; the sum of bytes is that of what is kept."""
    memory = Memory(most=3, most_bytes=100)
    for number in range(1, 6):
        memory.add(seen(number))
    assert [one.number for one in memory.latest(9, lambda _: True)] == [5, 4, 3]
    assert len(memory._open) == 3
    memory.add(seen(6, b"x" * 60))
    memory.add(seen(7, b"x" * 60))
    assert [one.number for one in memory.latest(9, lambda _: True)] == [7]
    assert (memory.bytes, len(memory._open), memory.count) == (60, 1, 7)
    memory.add(seen(8, b"x" * 500))
    assert [one.number for one in memory.latest(9, lambda _: True)] == [8]
    memory.end({"endpoint": "e:0", "delivery_id": "p:0:e:0", "attempt_number": 1, "arrived_ns": 1})
    assert memory.get(8) is not None
    assert memory.get(1) is None


def test_an_event_is_overtaken_by_one_that_arrived_later() -> None:
    """What made it late was processed before, whenever it arrived, and is of its own producer."""
    memory = Memory()
    ends = {1: 100, 2: 50, 3: 200, 4: 60}
    for number, producer, seq in ((1, "p", 1), (2, "p", 2), (3, "p", 3), (4, "other", 9)):
        one = seen(number, delivery=f"{producer}:{number}:e:0", seq=seq)
        memory.add(one)
        one.record = {
            "status": 200,
            "answered_ns": ends[number],
            "processed_ns": ends[number],
        } | dict.fromkeys(("duplicate", "late", "stale"), False)
    first, second, third = (memory.get(number) for number in (1, 2, 3))
    assert first
    assert second
    assert third
    assert memory.overtaker(first) is second
    assert memory.overtaker(third) is None
    assert memory.original(first) is None


# --------------------------------------------------------------------------- switches


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        (Switch(kind=STATUS, status=500), Answer(500, 7, NEVER, NEVER, -1)),
        (Switch(kind=STATUS, status=204), Answer(204, 7, 7, 7, -1)),
        (Switch(kind=SLOWER, delay=100), Answer(200, 110, 8, 10, -1)),  # the work ends when it would have
        (Switch(kind=HANG), Answer(NO_ANSWER, NEVER, NEVER, NEVER, -1)),
        (Switch(kind=REFUSE), Answer(CONNECTION_REFUSED, 7, NEVER, NEVER, -1)),
    ],
    ids=str,
)
def test_a_switch_wraps_the_decision(switch: Switch, expected: Answer) -> None:
    """Only a slower answer asks the scenario: the others leave its books as they were."""
    asked = []

    def as_scenario() -> Answer:
        asked.append(1)
        return Answer(receiver.OK, 10, 8, 10, -1)

    assert switch.answer(7, as_scenario) == expected
    assert bool(asked) == (switch.kind == SLOWER)
    assert switch.refuses(True) == (switch.kind in (SLOWER, REFUSE))
    assert switch.refuses(False) == (switch.kind == REFUSE)


@pytest.mark.parametrize(
    "answer", [Answer(NO_ANSWER, NEVER, 1, 2, -1), Answer(CONNECTION_REFUSED, 7, NEVER, NEVER, -1)]
)
def test_what_is_not_answered_is_not_answered_later(answer: Answer) -> None:
    """A slower answer needs an answer."""
    assert Switch(kind=SLOWER, delay=9).answer(7, lambda: answer) == answer


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (("",), "fault"),
        (("explode",), "fault"),
        ((STATUS, "199"), "status"),
        ((STATUS, "600"), "status"),
        ((STATUS, "5e2"), "status"),
        ((STATUS, ""), "status"),
        ((SLOWER, "", ""), "delay"),
        ((SLOWER, "", "0s"), "delay"),
        ((SLOWER, "", "25h"), "delay"),
        ((SLOWER, "", "-5s"), "delay"),
    ],
)
def test_a_wrong_form_names_its_field(form: tuple[str, ...], field: str) -> None:
    """Each problem is told by its field."""
    with pytest.raises(ScenarioError) as caught:
        read_switch(*form)
    assert [problem.path for problem in caught.value.problems] == [field]


def test_faults_are_switched_while_requests_come() -> None:
    """Status, slower, hang, refused, and back: each is met, told on every page, logged, and counted in /healthz."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            url = url_of(service)
            assert "Switched by hand" not in (await ask(service, "/"))[2]
            assert await switch(service, fault=STATUS, status="503") == 303
            assert (await post(url, "p:0:e:0"))[0] == 503
            for target in ("/", "/requests/1", "/faults", "/faults/e%3A0", "/requests/99"):
                text = words((await ask(service, target))[2])
                assert "Switched by hand: figures no longer those of the scenario." in text, target
                assert "e:0 : answer always 503" in text, target
            assert await switch(service, fault=SLOWER, delay="40ms") == 303
            assert (await post(url, "p:1:e:0"))[0] == 200
            slow = (await listed(service))[-1]
            assert slow["answered_ns"] - slow["arrived_ns"] == SECOND // 25
            assert slow["processed_ns"] == slow["arrived_ns"]
            assert await switch(service, fault=HANG) == 303
            async with Client(url) as client:
                client.ask("p:2:e:0")
                await until(
                    lambda: [line for line in records(service) if line.get("delivery_id") == "p:2:e:0"]
                )
            assert await switch(service, fault=REFUSE) == 303
            with pytest.raises(ConnectionRefusedError):
                await post(url, "p:3:e:0")
            assert await switch(service, fault="scenario") == 303
            assert (await post(url, "p:4:e:0"))[0] == 200
            text = words((await ask(service, "/"))[2])
            assert "All is as the scenario says again" in text
            assert json.loads((await ask(service, "/healthz"))[2])["switches"] == 5
            assert [row["marks"][-1] == "switched by hand" for row in await listed(service)] == [
                True, True, True, False,
            ]  # fmt: skip
            switched = [line for line in records(service) if line["kind"] == "switch"]
            assert [line["to"] for line in switched] == [
                "answer always 503", "answer slower by 40ms", "hang", "refuse connections", "scenario",
            ]  # fmt: skip
            assert {line["endpoint"] for line in switched} == {"e:0"}
            times = [line["switched_ns"] for line in switched]
            assert times == sorted(times)

    within(work())


def test_a_switch_outlasts_the_outages_of_the_scenario() -> None:
    """A port that was switched to answer listens through a refusing outage, and closes when it is switched back."""
    outages = [tiny.outage("0s", "100s")]

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.receiver("0s", *outages)), inspect=True) as service:
            with pytest.raises(ConnectionRefusedError):
                await post(url_of(service))
            assert await switch(service, fault=STATUS, status="200") == 303
            assert (await post(url_of(service)))[0] == 200
            service.endpoints[0].follow_outages()  # as at the outage's own beginning
            assert (await post(url_of(service), attempt=2))[0] == 200
            assert await switch(service, fault="scenario") == 303
            with pytest.raises(ConnectionRefusedError):
                await post(url_of(service))

    within(work())


def test_switching_before_the_start_holds_from_the_start_on() -> None:
    """Until T0 the port listens and answers 503; the log has no time for the switch."""

    async def work() -> None:
        async with serving(QUICK, inspect=True, start=None) as service:
            assert await switch(service, fault=REFUSE) == 303
            assert (await post(url_of(service)))[0] == 503
            assert (await ask(service, "/start", "POST"))[0] == 200
            with pytest.raises(ConnectionRefusedError):
                await post(url_of(service))
            assert [line["switched_ns"] for line in records(service)] == [None]

    within(work())


def test_a_load_test_whose_faults_were_switched_is_told_of_it() -> None:
    """The log is read past the switch, also at the beginning of a page, and the run has a problem."""
    line = {"n": 1, "kind": "switch", "endpoint": "e:0", "switched_ns": 5, "to": "hang"}
    table = trace_rows.receiver_rows([json.dumps(line).encode()])
    problems: list[str] = []
    built = model.build(sim.load(tiny.world()))
    requests = collect._of_receivers(collect.expected_of(built), table, problems)
    assert [len(column) for column in requests.values()] == [0] * len(requests)
    assert problems == ["faults were switched by hand 1 times: receivers were not those of the scenario"]


def test_a_wrong_form_is_shown_again_and_switches_nothing() -> None:
    """With what was written, and what is wrong with it."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            origin = service.description()["control"]
            body = urlencode({"fault": STATUS, "status": EVIL}).encode()
            kind = "application/x-www-form-urlencoded"
            status, _, html = await ask(
                service, "/faults/e%3A0", "POST", body, origin=origin, content_type=kind
            )
            assert status == 400
            assert EVIL in unescape(html)
            assert "<script>alert" not in html
            assert 'id="status-wrong"' in html
            assert service.switches == 0
            assert await switch(service, name="none:0", fault=HANG) == 404
            assert (await ask(service, "/faults/none%3A0"))[0] == 404

    within(work())


# --------------------------------------------------------------------------- the door


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1"])
def test_other_hosts_are_refused_everywhere(host: str) -> None:
    """A name that somebody else points here opens nothing, the log included, and learns nothing."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            for target in ("/", "/requests/1", "/requests.json", "/log", "/healthz", "/style.css"):
                status, _, text = await ask(service, target, host=host)
                assert status == 421
                assert "e:0" not in text

    within(work())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:5", "LOCALHOST:80"])
def test_names_of_this_machine_are_served(host: str) -> None:
    """On any port: it may be forwarded."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            assert (await ask(service, "/", host=host))[0] == 200

    within(work())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "https://OWN"}, 403),
        ({"origin": "http://OWN", "sec_fetch_site": "same-site"}, 403),
        ({"origin": "http://OWN", "content_type": "text/plain"}, 415),
        ({"origin": "http://OWN", "content_type": "application/x-www-form-urlencoded"}, 303),
    ],
    ids=str,
)
def test_forms_of_other_pages_are_refused(headers: dict[str, str], status: int) -> None:
    """Only a form of a page of this very port switches something."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            own = urlsplit(service.description()["control"]).netloc
            said = {name: value.replace("OWN", own) for name, value in headers.items()}
            assert (await ask(service, "/faults/e%3A0", "POST", b"fault=hang", **said))[0] == status
            assert service.switches == (status == 303)

    within(work())


def test_other_pages_cannot_start_the_scenario() -> None:
    """Programs, which send no Origin, can."""

    async def work() -> None:
        async with serving(QUICK, inspect=True, start=None) as service:
            assert (await ask(service, "/start", "POST", origin="http://evil.example"))[0] == 403
            assert service.start is None
            assert (await ask(service, "/start", "POST"))[0] == 200

    within(work())


def test_a_form_is_bounded() -> None:
    """A large one, or one of many fields, is refused."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            said = {
                "origin": service.description()["control"],
                "content_type": "application/x-www-form-urlencoded",
            }
            for body, status in ((b"a" * 5_000, 413), (b"a=1&" * 50, 400)):
                assert (await ask(service, "/faults/e%3A0", "POST", body, **said))[0] == status

    within(work())


def test_every_answer_carries_its_headers_and_no_page_a_script() -> None:
    """A policy without inline script or style, nosniff, no frame; pages hold only files of their own."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            await post(url_of(service))
            pages = ["/", "/requests/1", "/requests/9", "/faults", "/faults/e%3A0"]
            for target in [*pages, "/requests.json", "/style.css", "/live.js", "/icon.svg"]:
                _, headers, text = await ask(service, target)
                policy = headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["x-frame-options"] == "DENY"
                if target in pages:
                    assert headers["content-type"] == "text/html; charset=utf-8"
                    assert re.findall(r"<script(?! src=\"/live\.js)", text) == []
                    assert re.findall(r" on\w+=|style=|<style", text) == []
                    assert all(link.startswith("/") for link in re.findall(r'(?:src|action)="([^"]*)"', text))

    within(work())


def test_the_command_offers_it(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """In its help; and without the option no template is loaded."""
    code, out, _ = hooklab("receive", "--help")
    assert code == 0
    assert "--inspect" in out
    program = (
        "import sim, sys; from sim import model; from loadtest.receiver import Options, Service; "
        "Service(model.build(sim.load('timepad')), Options()); print('jinja2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout == "False\n"


def test_all_marks_have_a_meaning() -> None:
    """Each mark has a meaning, and its name makes one class."""
    assert all(meaning and "<" not in meaning for meaning in MARKS.values())
    assert len({mark.replace(" ", "-") for mark in MARKS}) == len(MARKS)


def test_the_other_answers_of_the_control_port_stay_as_they_are() -> None:
    """/log, /healthz and /endpoints beside the pages, and what is missing or not allowed."""

    async def work() -> None:
        async with serving(QUICK, inspect=True) as service:
            await post(url_of(service))
            assert json.loads((await ask(service, "/healthz"))[2])["requests"] == 1
            assert json.loads((await ask(service, "/log"))[2])["delivery_id"] == "p:0:e:0"
            assert "e:0" in json.loads((await ask(service, "/endpoints"))[2])["endpoints"]
            assert (await ask(service, "/nothing"))[0] == 404
            assert (await ask(service, "/log", "POST"))[0] == 405

    within(work())


def test_requests_are_complete_when_many_come_at_once() -> None:
    """Two hundred at once on ten connections: each has its own record, whatever order they end in."""
    world = tiny.world(receivers=tiny.receiver({"exponential": {"mean": "10ms"}}))

    async def work() -> None:
        async with serving(world, inspect=True) as service:

            async def send(first: int) -> None:
                async with Client(url_of(service)) as client:
                    for index in range(first, first + 20):
                        client.ask(f"p:{index}:e:0")
                        await client.answer()

            await asyncio.gather(*(send(20 * i) for i in range(10)))
            await until(lambda: service.log.count == 200)
            logged = {line["delivery_id"]: line for line in records(service)}
            rows = await listed(service)
            assert len(rows) == 200
            assert [row["arrived_ns"] for row in rows] == sorted(row["arrived_ns"] for row in rows)
            for row in rows:
                assert row["processed_ns"] == logged[row["delivery_id"]]["processed_ns"]
                assert "under way" not in row["marks"]

    within(work())
