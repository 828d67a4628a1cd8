"""``hooklab receive`` over sockets: the scenario's receivers as a real service."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from standardwebhooks import Webhook

import sim
from loadtest import clock
from loadtest.receiver import Options, Service
from loadtest.receiver_http import Exchange, reply_with
from loadtest.receiver_port import Port
from sim import dice, model, receiver
from sim.policy import SECOND
from tests import tiny

PATIENCE_S = 20
"""Nothing here takes so long, however busy the machine is."""
SHORT_S = 0.3
"""How long a test waits to see that nothing comes."""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROOT = Path(__file__).resolve().parent.parent


# --------------------------------------------------------------------------- a service and its client


@asynccontextmanager
async def serving(scenario: dict[str, Any], **options: Any) -> AsyncIterator[Service]:
    """A running service; its time begins now."""
    options.setdefault("start", clock.now())
    service = Service(model.build(sim.load(scenario)), Options(**options))
    service.open()
    running = asyncio.ensure_future(service.run())
    try:
        yield service
    finally:
        service.stop()
        await asyncio.wait_for(running, PATIENCE_S)


def within(work: Awaitable[None]) -> None:
    """Run a test's coroutine, for so long at most."""

    async def bounded() -> None:
        await asyncio.wait_for(work, PATIENCE_S)

    asyncio.run(bounded())


class Client:
    """One connection."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)

    async def __aenter__(self) -> Client:
        assert self.parts.hostname
        self.reader, self.writer = await asyncio.open_connection(self.parts.hostname, self.parts.port)
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def ask(self, delivery: str = "p:0:e:0", attempt: int = 1, body: bytes = b"{}", **more: str) -> None:
        """Send a webhook."""
        headers = {"webhook-id": delivery, "webhook-attempt": str(attempt), **more}
        self.send("POST", self.parts.path, body, headers)

    def send(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Send any request."""
        lines = [f"{method} {target} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body


async def post(url: str, *words: Any, **more: Any) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to one webhook on a connection of its own."""
    async with Client(url) as client:
        client.ask(*words, **more)
        return (await client.answer())[:2]


async def control(service: Service, method: str, target: str) -> tuple[int, bytes]:
    """Status and body of the control port's answer."""
    async with Client(service.description()["control"]) as client:
        client.send(method, target)
        status, _, body = await client.answer()
        return status, body


def records(service: Service) -> list[dict[str, Any]]:
    """What the log holds."""
    return [json.loads(line) for line in service.log.after(0, 10**6).splitlines()]


async def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to become true, and give it."""
    while not (value := condition()):
        await asyncio.sleep(0.01)
    return value


def url_of(service: Service) -> str:
    """Where the first endpoint is."""
    return service.endpoints[0].url


# --------------------------------------------------------------------------- the simulator's luck


@pytest.mark.parametrize(
    "block",
    [
        tiny.receiver("0s", {"error": {"probability": 0.5, "status": 502}}),
        tiny.receiver(
            {"exponential": {"mean": "50ms"}}, {"error": {"probability": 0.3, "retry_after": "1500ms"}}
        ),
        tiny.receiver({"uniform": {"low": "10ms", "high": "90ms"}}, {"lost_answer": {"probability": 0.3}}),
        tiny.receiver("30ms", {"error": {"probability": 0.5, "latency": {"exponential": {"mean": "20ms"}}}}),
        tiny.receiver({"exponential": {"mean": "50ms"}}, answers="on_arrival"),
    ],
    ids=["errors", "latency and errors", "lost answers", "slow errors", "on arrival"],
)
def test_status_and_latency_are_those_of_the_simulator(block: dict[str, Any]) -> None:
    """Each (delivery, attempt) meets the very status and latency that ``sim.receiver`` draws for it, never early."""
    scenario = tiny.world(receivers=block, seed=11)
    asked = [(f"p:{i}:e:0", attempt) for i in range(20) for attempt in (1, 2)]

    async def meet(service: Service, delivery: str, attempt: int) -> tuple[int, dict[str, str], int]:
        before = clock.now()
        try:
            status, headers = await asyncio.wait_for(post(url_of(service), delivery, attempt), 2)
        except TimeoutError:
            return 0, {}, 0
        return status, headers, clock.now() - before

    async def work() -> None:
        async with serving(scenario) as service:
            met = await asyncio.gather(*(meet(service, *words) for words in asked))
            await until(lambda: service.log.count == len(asked))
            logged = {(line["delivery_id"], line["attempt_number"]): line for line in records(service)}
            built, member = service.model, service.model.members[0]
            spec = built.receivers[0]
            for (delivery, attempt), (status, headers, took) in zip(asked, met, strict=True):
                line = logged[delivery, attempt]
                books, address = receiver.new_books(spec), dice.delivery_words(delivery)
                said = receiver.receive(
                    spec, member.outages, *books, line["arrived_ns"], built.seed, *address, attempt
                )
                assert status == line["status"] == max(said.code, 0)
                assert (line["processed_ns"] or receiver.NEVER) == said.processed
                assert (line["answered_ns"] or receiver.NEVER) == said.answered
                if status:
                    assert took >= said.answered - line["arrived_ns"]
                asks = said.retry_after >= 0
                assert headers.get("retry-after") == ("2" if asks else None)  # whole seconds, rounded up

    within(work())


def test_endpoints_have_ports_and_luck_of_their_own() -> None:
    """Two members of a group stand on two ports and answer the same event differently."""
    scenario = tiny.world(
        endpoints=tiny.endpoint(count=2), receivers=tiny.receiver("0s", {"error": {"probability": 0.5}})
    )

    async def work() -> None:
        async with serving(scenario) as service:
            urls = list(service.description()["endpoints"].values())
            assert len({urlsplit(url).port for url in urls}) == 2
            rows = [[(await post(url, f"p:{i}:e:{m}"))[0] for i in range(20)] for m, url in enumerate(urls)]
            assert rows[0] != rows[1]

    within(work())


# --------------------------------------------------------------------------- outages


def test_a_refusing_outage_closes_the_port_and_what_is_open() -> None:
    """Before it a kept connection serves; then it is closed and connecting is refused; afterwards all is well."""

    async def refused(service: Service) -> int:
        count = 0
        while True:
            try:
                status, _ = await post(url_of(service), "p:1:e:0")
            except ConnectionRefusedError:
                count += 1
                await asyncio.sleep(0.02)
            else:
                assert status == 200
                return count

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.failing("2s", "3s", latency="0s"))) as service:
            async with Client(url_of(service)) as client:
                for attempt in (1, 2):  # on one connection
                    client.ask(attempt=attempt)
                    assert (await client.answer())[0] == 200
                assert await client.reader.read() == b""
            assert service.now >= 2 * SECOND
            assert await refused(service) > 0
            assert service.now >= 3 * SECOND

    within(work())


def test_an_answer_that_is_owed_when_the_outage_begins_is_given() -> None:
    """A request of before the outage is answered in it, and its connection closed then."""

    async def work() -> None:
        scenario = tiny.world(receivers=tiny.failing("1s", "100s", latency="1500ms"))
        async with serving(scenario) as service, Client(url_of(service)) as client:
            client.ask()
            assert (await client.answer())[0] == 200
            assert await client.reader.read() == b""

    within(work())


def test_a_request_on_a_connection_of_before_is_closed_without_an_answer() -> None:
    """While the port is still open by a hair, an outage that is on answers nothing and ends the connection."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.failing("50s", "100s"))) as service:
            async with Client(url_of(service)) as client:
                client.ask(attempt=0)
                assert (await client.answer())[0] == 400  # it is connected
                service.start = clock.now() - 60 * SECOND
                client.ask()
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await client.answer()
            assert [(line["status"], line["processed_ns"]) for line in records(service)] == [(0, None)]

    within(work())


def test_a_hanging_outage_accepts_and_never_answers() -> None:
    """The connection stays open and nothing comes; nothing is processed."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.failing("0s", "100s", "hang"))) as service:
            async with Client(url_of(service)) as client:
                client.ask()
                await until(lambda: service.log.count)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.reader.read(1), SHORT_S)
            line = records(service)[0]
            assert (line["answered_ns"], line["processed_ns"]) == (None, None)

    within(work())


def test_a_pause_delays_and_a_status_answers() -> None:
    """What comes in a pause is served when it ends; an outage with a status answers it at once."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.failing("0s", "1s", "pause", latency="0s"))) as service:
            assert (await post(url_of(service)))[0] == 200
            assert service.now >= SECOND
            assert records(service)[0]["served_ns"] == SECOND
        faulty = tiny.failing("0s", "100s", {"status": 418}, latency="0s")
        async with serving(tiny.world(receivers=faulty)) as service:
            assert (await post(url_of(service)))[0] == 418

    within(work())


# --------------------------------------------------------------------------- queues, clients that leave


def test_a_full_backlog_is_told_and_servers_queue() -> None:
    """With one server and room for one, the third request of three is sent away, and the second waits."""
    block = tiny.receiver("200ms", servers=1, backlog={"size": 1, "beyond": 429, "retry_after": "3s"})

    async def work() -> None:
        async with serving(tiny.world(receivers=block)) as service:
            asked = [asyncio.ensure_future(post(url_of(service), f"p:{i}:e:0")) for i in range(3)]
            met = await asyncio.gather(*asked)
            assert sorted(status for status, _ in met) == [200, 200, 429]
            assert [headers["retry-after"] for status, headers in met if status == 429] == ["3"]
            done = [line for line in records(service) if line["status"] == 200]
            assert done[1]["served_ns"] == done[0]["processed_ns"]

    within(work())


def test_work_outlives_its_connection() -> None:
    """A client that leaves at once leaves its request behind: it is processed and keeps the server busy."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.receiver("400ms", servers=1))) as service:
            async with Client(url_of(service)) as client:
                client.ask()
                await client.writer.drain()
                await until(lambda: service.endpoints[0].port.connections)
                await asyncio.sleep(0.05)
            await until(lambda: not service.endpoints[0].port.connections)
            assert service.log.count == 0
            assert (await post(url_of(service), "p:1:e:0"))[0] == 200
            first, second = records(service)
            assert first["delivery_id"] == "p:0:e:0"
            assert second["served_ns"] == first["processed_ns"] > second["arrived_ns"]

    within(work())


def test_pipelined_requests_are_answered_in_order() -> None:
    """Answers come in the order of requests, though later ones are ready first."""
    block = tiny.receiver(
        {"uniform": {"low": "1ms", "high": "80ms"}}, {"error": {"probability": 0.5, "status": 500}}
    )

    async def work() -> None:
        async with serving(tiny.world(receivers=block)) as service:
            async with Client(url_of(service)) as client:
                for i in range(20):
                    client.ask(f"p:{i}:e:0")
                statuses = [(await client.answer())[0] for _ in range(20)]
            logged = {line["delivery_id"]: line["status"] for line in records(service)}
            assert statuses == [logged[f"p:{i}:e:0"] for i in range(20)]
            assert [line["delivery_id"] for line in records(service)] != [f"p:{i}:e:0" for i in range(20)]

    within(work())


# --------------------------------------------------------------------------- bad requests, signatures


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /hooks/e:0 HTTP/1.1\r\nwebhook-attempt: 1\r\ncontent-length: 0\r\n\r\n", 400),  # no id
        (b"POST /hooks/e:0 HTTP/1.1\r\nwebhook-id: a\r\ncontent-length: 0\r\n\r\n", 400),  # no attempt
        (
            b"POST /hooks/e:0 HTTP/1.1\r\nwebhook-id: a\r\nwebhook-attempt: 0\r\ncontent-length: 0\r\n\r\n",
            400,
        ),
        (
            b"POST /hooks/e:0 HTTP/1.1\r\nwebhook-id: a\r\nwebhook-attempt: x\r\ncontent-length: 0\r\n\r\n",
            400,
        ),
        (b"GET /hooks/e:0 HTTP/1.1\r\nhost: a\r\n\r\n", 405),
        (b"POST /hooks/e:1 HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 404),
        (b"POST /hooks/e:0 HTTP/1.1\r\ncontent-length: 1048577\r\n\r\n", 413),
        (b"POST /hooks/e:0 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n100001\r\n" + b"x" * 1048577, 413),
        (b"POST /hooks/e:0 HTTP/1.1\r\nx: " + b"x" * 70000, 431),
    ],
)
def test_a_bad_request_is_told_so(raw: bytes, status: int) -> None:
    """What is no webhook is answered and not logged; the service goes on."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.receiver("0s"))) as service:
            async with Client(url_of(service)) as client:
                client.writer.write(raw)
                assert (await client.answer())[0] == status
            assert (await post(url_of(service)))[0] == 200
            assert service.log.count == 1

    within(work())


def test_a_body_of_a_mebibyte_and_an_id_of_strange_bytes_are_served() -> None:
    """The limit itself is allowed, and an id need not be text."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.receiver("0s"))) as service:
            assert (await post(url_of(service), body=b"x" * 1024 * 1024))[0] == 200
            async with Client(url_of(service)) as client:
                client.writer.write(
                    b"POST /hooks/e%3A0 HTTP/1.1\r\nwebhook-id: \xff\r\nwebhook-attempt: 1\r\ncontent-length: 0\r\n\r\n"
                )
                assert (await client.answer())[0] == 200

    within(work())


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_signature_is_logged_and_refused_if_wanted(check: bool) -> None:
    """A right signature passes; a wrong one is marked, and answered 401 only if they are checked."""
    now = datetime.now(UTC)
    signed = {
        "webhook_timestamp": str(int(now.timestamp())),
        "webhook_signature": Webhook(SECRET).sign("p:0:e:0", now, "{}"),
    }

    async def work() -> None:
        options = {"secrets": {"e:0": Webhook(SECRET)}, "check_signatures": check}
        async with serving(tiny.world(receivers=tiny.receiver("0s")), **options) as service:
            assert (await post(url_of(service), **signed))[0] == 200
            assert (await post(url_of(service), body=b"[]", attempt=2, **signed))[0] == (
                401 if check else 200
            )
            assert (await post(url_of(service), attempt=3))[0] == (401 if check else 200)
            assert [line["signed"] for line in records(service)] == [True, False, False]
            assert [line["effect"] for line in records(service)] == [True, not check, not check]

    within(work())


# --------------------------------------------------------------------------- control, polling


def test_the_scenario_waits_for_its_start() -> None:
    """Before T0 requests are answered 503 and not logged; POST /start begins it, once; GET /log hands lines out."""

    async def work() -> None:
        async with serving(tiny.world(receivers=tiny.receiver("0s")), start=None) as service:
            assert (await post(url_of(service)))[0] == 503
            assert json.loads((await control(service, "GET", "/healthz"))[1])["early"] == 1
            assert (await control(service, "POST", "/start?at=5"))[0] == 400
            status, body = await control(service, "POST", "/start")
            assert (status, json.loads(body)["start_ns"]) == (200, service.start)
            assert (await control(service, "POST", "/start"))[0] == 409
            for attempt in (1, 2, 3):
                assert (await post(url_of(service), attempt=attempt))[0] == 200
            lines = (await control(service, "GET", "/log?after=1&limit=1"))[1].splitlines()
            assert [(json.loads(line)["n"], json.loads(line)["attempt_number"]) for line in lines] == [(2, 2)]
            assert (await control(service, "GET", "/log?after=x"))[0] == 400
            assert (await control(service, "GET", "/nothing"))[0] == 404
            assert (await control(service, "GET", "/start"))[0] == 405

    within(work())


class FakeDispatcher:
    """Answers polls from a list of events, and counts calls for data."""

    def __init__(self, count: int) -> None:
        self.events = [{"id": f"p:{i}", "key": "p/0", "seq": i} for i in range(count)]
        self.asked: list[str] = []
        self.port = Port("127.0.0.1", 0, self.handle)

    def handle(self, exchange: Exchange) -> None:
        """Answer a GET."""
        path, query = exchange.path_and_query()
        self.asked.append(path)
        if path == "/events":
            said = {name: values[0] for name, values in parse_qs(query).items()}
            after = int(said["after"])
            page = self.events[after : after + int(said["limit"])]
            exchange.answer(reply_with(200, json.dumps({"events": page, "next": after + len(page)}).encode()))
        else:
            exchange.answer(reply_with(200, b"{}"))


def test_an_endpoint_polls_all_there_is_but_not_during_outages() -> None:
    """Every poll is at the dice's phase; a full page is followed by the next; none is made while it is out."""
    scenario = tiny.world(
        endpoints={"e": {"mode": {"poll": {"every": "100ms"}}, "receiver": "r"}},
        receivers=tiny.failing("0s", "1s", "refuse"),
    )
    del scenario["policies"]

    async def work() -> None:
        fake = FakeDispatcher(1500)
        fake.port.listen()
        try:
            async with serving(scenario, dispatcher=fake.port.url) as service:
                await until(lambda: service.log.count >= 1502)
                phase = service.model.members[0].poll_phase
        finally:
            fake.port.close()
        polls = [line for line in records(service) if line["kind"] == "poll"]
        assert [poll["returned"] for poll in polls] == [1500] + [0] * (len(polls) - 1)
        assert all(poll["polled_ns"] >= SECOND for poll in polls)
        assert {(poll["polled_ns"] - phase) % (SECOND // 10) for poll in polls} == {0}
        fetched = [line["delivery_id"] for line in records(service) if line["kind"] == "request"]
        assert fetched == [f"p:{i}:e:0" for i in range(1500)]
        assert not service.endpoints

    within(work())


def test_thin_messages_make_receivers_call_back() -> None:
    """What is processed asks the API for its event; what fails does not."""
    scenario = tiny.world(
        receivers=tiny.receiver("0s", {"error": {"probability": 0.5}}), dispatcher={"message": "thin"}
    )

    async def work() -> None:
        fake = FakeDispatcher(0)
        fake.port.listen()
        try:
            async with serving(scenario, dispatcher=fake.port.url) as service:
                good = [
                    f"/events/p:{i}"
                    for i in range(20)
                    if (await post(url_of(service), f"p:{i}:e:0"))[0] == 200
                ]
                assert 0 < len(good) < 20
                await until(lambda: len(fake.asked) == len(good))
                assert sorted(fake.asked) == sorted(good)
                calls = json.loads((await control(service, "GET", "/healthz"))[1])["calls"]
                assert (calls["data"], calls["failed"]) == (len(good), 0)
        finally:
            fake.port.close()

    within(work())


# --------------------------------------------------------------------------- the command


def command(*words: str) -> list[str]:
    """The command as a process of its own."""
    code = "import sys; from loadtest.cli import main; sys.exit(main())"
    return [sys.executable, "-W", "error", "-c", code, *words]


@pytest.mark.parametrize("stopped_by", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_stopped_and_its_log_is_complete(tmp_path: Path, stopped_by: int) -> None:
    """It says where everything is, takes requests, and on a signal ends well; what is under way is logged."""
    scenario, told, log = tmp_path / "s.json", tmp_path / "told.json", tmp_path / "log"
    scenario.write_text(json.dumps(tiny.world(receivers=tiny.receiver("100s"), name="s")))
    words = ["receive", str(scenario), "--json", "--endpoints-file", str(told), "--log", str(log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as run:
        try:
            assert run.stdout is not None
            printed = b""
            while not printed.endswith(b"\n}\n"):
                line = run.stdout.readline()
                assert line, run.communicate()
                printed += line
            said = json.loads(printed)
            assert said == json.loads(told.read_text())
            parts = urlsplit(said["endpoints"]["e:0"])

            async def leave() -> None:
                async with Client(said["endpoints"]["e:0"]) as client:
                    client.ask(attempt=0)
                    assert (await client.answer())[0] == 400
                    client.ask()
                    client.ask(attempt=0)  # behind it: the first has been read when the service ends
                    await client.writer.drain()
                    run_until = Client(said["control"])
                    async with run_until as other:
                        other.send("GET", "/healthz")
                        assert (await other.answer())[0] == 200

            within(leave())
            run.send_signal(stopped_by)
            _, problems = run.communicate(timeout=PATIENCE_S)
        finally:
            run.kill()
    assert run.returncode == 0, problems
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["processed_ns"] - line["arrived_ns"] == 100 * SECOND
    with closing(socket.socket()) as probe:
        assert probe.connect_ex((parts.hostname, parts.port)) != 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-such-scenario"], "no-such-scenario"),
        (["timepad", "--start", "soon"], "--start"),
        (["timepad", "--start", "1700000000"], "nanoseconds"),
        (["timepad", "--ports-from", "70000"], "1 to 65535"),
        (["timepad", "--check-signatures"], "--secrets"),
        (["timepad", "--dispatcher", "localhost"], "must be a URL"),
        (["timepad", "--secrets", "no-such-file"], "cannot be read"),
        (["timepad", "--log", "no-such-folder/log"], "no-such-folder"),
        (["timepad", "--host", "256.0.0.1"], "256.0.0.1"),
    ],
)
def test_bad_input_is_told(hooklab: Callable[..., tuple[int, str, str]], words: list[str], told: str) -> None:
    """What cannot be served is said in a line, with exit code 2."""
    code, out, err = hooklab("receive", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_told(hooklab: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """The message names the port."""
    scenario = tmp_path / "s.json"
    scenario.write_text(json.dumps(tiny.world(name="s")))
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        for option in ("--ports-from", "--control-port"):
            code, out, err = hooklab("receive", str(scenario), option, str(number))
            assert (code, out) == (2, "")
            assert f"port {number} is taken" in err


def test_secrets_must_be_of_the_scenario(
    hooklab: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A secret of an unknown endpoint, or one that is none, is told with its name."""
    scenario, secrets = tmp_path / "s.json", tmp_path / "secrets.json"
    scenario.write_text(json.dumps(tiny.world(name="s")))
    secrets.write_text(json.dumps({"f:0": SECRET, "e:0": 7}))
    code, _, err = hooklab("receive", str(scenario), "--secrets", str(secrets))
    assert code == 2
    assert "f:0 is no endpoint" in err
    assert "e:0 must be a secret" in err


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import loadtest.cli", {"starlette", "uvloop", "httptools", "pycurl", "pandas", "numba", "asyncio"}),
        (
            "import loadtest.receiver, sim; from sim import model; model.build(sim.load('timepad'))",
            {"starlette", "pandas", "numba", "locust", "gevent"},
        ),
    ],
    ids=["help", "service"],
)
def test_nothing_heavy_is_imported(code: str, without: set[str]) -> None:
    """``hooklab --help`` answers at once, and a receiver shares its cores with what it measures."""
    tail = "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert not without & set(done.stdout.split())
