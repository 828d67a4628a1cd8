"""One attempt is one HTTP request, whatever the receiver does; each end of it has its code."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from loadtest.dispatcher import resolver
from loadtest.dispatcher.guard import DEFAULT_PORTS, Guard
from loadtest.dispatcher.request import Answer, OutgoingRequest
from loadtest.dispatcher.sender import CurlSender
from loadtest.dispatcher.transfer import ENDED, MOST_KEPT, MOST_READ, retry_after
from sim.errors import ScenarioError
from sim.policy import CONNECTION_REFUSED, LONGEST, NO_ANSWER, SECOND
from tests.receivers import OK, Receiver, Request, authority, certificate

LOCAL = Guard(["127.0.0.0/8", "::1/128"])
LONG_MS = 30_000
"""A deadline that no healthy test reaches."""


def run(test: Coroutine[Any, Any, None], loop: Any = uvloop) -> None:
    """Run a test in an event loop; one that hangs fails."""
    loop.run(asyncio.wait_for(test, 60))


@contextlib.asynccontextmanager
async def sending(guard: Guard = LOCAL, **options: Any) -> AsyncIterator[CurlSender]:
    """A sender that may use the loopback."""
    sender = CurlSender(guard, **options)
    try:
        yield sender
    finally:
        await sender.close()


def request(
    url: str, *headers: str, body: bytes = b"{}", connect_ms: int = LONG_MS, total_ms: int = LONG_MS
) -> OutgoingRequest:
    """An attempt's request."""
    return OutgoingRequest(url, ["content-type: application/json", *headers], body, connect_ms, total_ms)


def closed_port() -> int:
    """A port of the loopback where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


# --------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("loop", [uvloop, asyncio], ids=["uvloop", "asyncio"])
def test_requests_share_one_kept_connection(loop: Any) -> None:
    """One after another, requests go over the connection that is there, in either event loop."""

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            for number in range(20):
                answer = await sender.send(request(receiver.url(), f"webhook-id: {number}"))
                assert answer == Answer(200, body=b"ok")
            assert [seen.headers["webhook-id"] for seen in receiver.requests] == [str(n) for n in range(20)]
            assert receiver.connections == 1

    run(test(), loop)


def test_the_bytes_arrive_as_they_were_given() -> None:
    """The request is a POST of the body with the given headers, and nothing is added that tells or asks more."""

    async def cookie(seen: Request) -> None:
        await seen.say(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")

    async def test() -> None:
        body = bytes(range(256)) * 8192  # 2 MiB: libcurl would ask first whether it may send so much
        async with Receiver(cookie) as receiver, sending(user_agent="teller/1") as sender:
            for _ in range(2):
                sent = request(receiver.url("/a?b=%20c"), "webhook-key: k", body=body)
                assert (await sender.send(sent)).code == 200
            for seen in receiver.requests:
                assert seen.line == "POST /a?b=%20c HTTP/1.1"
                assert seen.body == body
                assert seen.headers == {
                    "host": f"127.0.0.1:{receiver.port}",
                    "user-agent": "teller/1",
                    "accept": "*/*",
                    "content-type": "application/json",
                    "webhook-key": "k",
                    "content-length": str(len(body)),
                }

    run(test())


def test_a_request_leaves_nothing_for_the_next_one() -> None:
    """A pooled handle takes headers, body, host and answer of each attempt afresh."""

    async def echo(seen: Request) -> None:
        body = seen.headers.get("webhook-key", "none").encode() + seen.body
        retry = b"Retry-After: 7\r\n" if b"first" in seen.body else b""
        await seen.say(b"HTTP/1.1 500 X\r\n%bContent-Length: %d\r\n\r\n%b" % (retry, len(body), body))

    async def test() -> None:
        async with Receiver(echo) as one, Receiver(echo) as other, sending() as sender:
            first = await sender.send(request(one.url(host="localhost"), "webhook-key: k", body=b"first"))
            second = await sender.send(request(other.url(), body=b"2"))
            third = await sender.send(request(one.url(), body=b""))
            gone = await sender.send(request(f"http://127.0.0.1:{closed_port()}/"))
            fourth = await sender.send(request(other.url(host="localhost"), body=b"4"))
            assert first == Answer(500, 7 * SECOND, b"kfirst")
            assert second == Answer(500, body=b"none2")
            assert third == Answer(500, body=b"none")
            assert (gone.code, gone.body, gone.asked) == (CONNECTION_REFUSED, b"", -1)
            assert fourth == Answer(500, body=b"none4")

    run(test())


def test_a_header_that_cannot_be_sent_is_an_answer() -> None:
    """Text beyond ASCII, which the message's own functions never make, is refused rather than raised."""

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            assert (await sender.send(request(receiver.url(), "webhook-key: ä"))).code == CONNECTION_REFUSED
            assert (await sender.send(request(receiver.url()))).code == 200
            assert len(receiver.requests) == 1

    run(test())


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the environment names, the connection goes to the receiver itself."""

    async def test() -> None:
        async with Receiver() as proxy, Receiver() as receiver, sending() as sender:
            for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            assert (await sender.send(request(receiver.url()))).code == 200
            assert (proxy.connections, receiver.connections) == (0, 1)

    run(test())


def test_redirects_are_not_followed() -> None:
    """A redirect is the answer; where it leads is not asked."""

    async def redirect(seen: Request) -> None:
        await seen.say(b"HTTP/1.1 307 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    async def test() -> None:
        async with Receiver(redirect) as receiver, sending() as sender:
            assert (await sender.send(request(receiver.url()))).code == 307
            assert [seen.line for seen in receiver.requests] == ["POST /hook HTTP/1.1"]

    run(test())


def test_thousands_of_attempts_at_once_are_all_answered() -> None:
    """A thousand requests wait for their answers at the same moment, three times over."""
    together, rounds = 1000, 3
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8 * together:
        pytest.skip(f"this user may open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8 * together), hard))

    async def test() -> None:
        arrived = 0
        everybody = asyncio.Event()

        async def hold(seen: Request) -> None:
            nonlocal arrived
            arrived += 1
            if arrived == together:
                everybody.set()
            await everybody.wait()
            await seen.say(OK)

        async with Receiver(hold) as receiver, sending(max_connections=100) as sender:
            for _ in range(rounds):
                arrived = 0
                everybody.clear()
                sends = (sender.send(request(receiver.url(), f"webhook-id: {n}")) for n in range(together))
                answers = await asyncio.gather(*sends)
                assert Counter(answer.code for answer in answers) == {200: together}
            times = Counter(seen.headers["webhook-id"] for seen in receiver.requests)
            assert set(times.values()) == {rounds}

    try:
        run(test())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --------------------------------------------------------------------------- connections that die


@pytest.mark.parametrize("together", [1, 8])
@pytest.mark.parametrize("end", [Request.close, Request.reset], ids=["closed", "reset"])
def test_each_send_is_one_request_though_connections_die(end: Any, together: int) -> None:
    """A kept connection that dies after the request was read is no answer, and the request is not repeated."""
    luck = random.Random(1)
    died: set[str] = set()

    async def sometimes(seen: Request) -> None:
        if luck.random() < 0.5:
            died.add(seen.headers["webhook-id"])
            end(seen)
            raise ConnectionError
        await seen.say(OK)

    async def test() -> None:
        async with Receiver(sometimes) as receiver, sending() as sender:

            async def send(ids: range) -> dict[str, Answer]:
                return {str(n): await sender.send(request(receiver.url(), f"webhook-id: {n}")) for n in ids}

            parts = await asyncio.gather(*(send(range(k, 200, together)) for k in range(together)))
            answers = {name: answer for part in parts for name, answer in part.items()}
            times = Counter(seen.headers["webhook-id"] for seen in receiver.requests)
            assert times == dict.fromkeys(answers, 1)
            assert 50 < len(died) < 150
            codes = {name: answer.code for name, answer in answers.items()}
            assert codes == {name: NO_ANSWER if name in died else 200 for name in answers}
            assert ENDED in {answers[name].error for name in died}  # a repeat was stopped, at least once
            assert all(answers[name].error for name in died)

    run(test())


def test_a_kept_connection_that_ended_meanwhile_is_replaced() -> None:
    """When the receiver has closed an idle connection, the next attempt opens another and is answered."""

    async def last_word(seen: Request) -> None:
        await seen.say(OK)
        seen.close()

    async def test() -> None:
        async with Receiver(last_word) as receiver, sending() as sender:
            for number in range(1, 6):
                assert (await sender.send(request(receiver.url()))).code == 200
                await asyncio.sleep(0.05)
                assert (receiver.connections, len(receiver.requests)) == (number, number)

    run(test())


def test_what_nobody_asked_for_is_no_answer_to_the_next_request() -> None:
    """Bytes that come on an idle connection end it; they do not become a later attempt's answer."""

    async def afterthought(seen: Request) -> None:
        await seen.say(OK)
        await asyncio.sleep(0.02)
        await seen.say(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")

    async def test() -> None:
        async with Receiver(afterthought) as receiver, sending() as sender:
            for _ in range(5):
                assert await sender.send(request(receiver.url())) == Answer(200, body=b"ok")
                await asyncio.sleep(0.1)
            assert len(receiver.requests) == receiver.connections == 5

    run(test())


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", NO_ANSWER),
        (b"HTTP/1.1 2", NO_ANSWER),
        (b"HTTP/1.1 100 Continue\r\n\r\n", NO_ANSWER),  # an interim answer is none
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", NO_ANSWER),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NO_ANSWER),  # no HTTP at all
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 200),
        (b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf", 503),
        (b"HTTP/1.1 404 X\r\nContent-Le", 404),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 410 Gone\r\n\r\n", 410),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200),
    ],
)
@pytest.mark.parametrize("end", [Request.close, Request.reset], ids=["closed", "reset"])
def test_the_status_decides_if_there_is_one(said: bytes, code: int, end: Any) -> None:
    """An answer that ends early counts by its status line; without one, nobody knows."""

    async def speak(seen: Request) -> None:
        await seen.say(said)
        await asyncio.sleep(0.05)
        end(seen)

    async def test() -> None:
        async with Receiver(speak) as receiver, sending() as sender:
            answer = await sender.send(request(receiver.url()))
            assert answer.code == code
            assert len(receiver.requests) == 1
            assert code > 0 or answer.error

    run(test())


def test_a_long_answer_is_cut() -> None:
    """Of ten megabytes a little is read and the first bytes are kept; the status counts."""
    said = 0

    async def talk(seen: Request) -> None:
        nonlocal said
        await seen.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
        for _ in range(1000):
            await seen.say(b"0123456789" * 1000)
            said += 10_000

    async def test() -> None:
        async with Receiver(talk) as receiver, sending() as sender:
            answer = await sender.send(request(receiver.url()))
            assert answer.code == 200
            assert answer.body == (b"0123456789" * 1000)[:MOST_KEPT]
            assert f"{MOST_READ:,} bytes" in answer.error
            receiver.behaviour = Receiver().behaviour
            assert await sender.send(request(receiver.url())) == Answer(200, body=b"ok")
            assert receiver.connections == 2  # the one that was cut is not used again
            assert said < 10_000_000

    run(test())


def test_headers_without_end_are_cut() -> None:
    """A receiver that goes on with headers forever is left; the status counts."""

    async def go_on(seen: Request) -> None:
        await seen.say(b"HTTP/1.1 200 OK\r\n")
        while True:
            await seen.say(b"X-Y: " + b"z" * 1000 + b"\r\n")

    async def test() -> None:
        async with Receiver(go_on) as receiver, sending() as sender:
            answer = await sender.send(request(receiver.url()))
            assert (answer.code, answer.body) == (200, b"")
            assert "header" in answer.error

    run(test())


def test_an_encoded_answer_is_kept_as_it_came() -> None:
    """Nothing is decompressed: a small answer cannot become a large one."""

    async def squeezed(seen: Request) -> None:
        await seen.say(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
        )

    async def test() -> None:
        async with Receiver(squeezed) as receiver, sending() as sender:
            assert await sender.send(request(receiver.url())) == Answer(200, body=b"\x1f\x8b\x08\x00")

    run(test())


# --------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize(
    ("start", "drip", "code"),
    [
        (b"", b"", NO_ANSWER),  # never a word
        (b"HTTP", b"", NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b".", 200),
    ],
)
def test_the_deadline_ends_a_slow_answer(start: bytes, drip: bytes, code: int) -> None:
    """However a receiver trickles, the attempt ends at its deadline, with the status if there was one."""
    ended = asyncio.Event()

    async def trickle(seen: Request) -> None:
        await seen.say(start)
        while not ended.is_set():
            await asyncio.sleep(0.02)
            await seen.say(drip)

    async def test() -> None:
        async with Receiver(trickle) as receiver, sending() as sender:
            began = time.monotonic()
            answer = await sender.send(request(receiver.url(), total_ms=300))
            assert time.monotonic() - began >= 0.3
            assert answer.code == code
            assert "timed out" in answer.error
            ended.set()

    run(test())


def test_the_deadline_for_connecting_is_its_own() -> None:
    """A host that takes no connection is given up at the connect deadline: nothing was sent."""

    async def test() -> None:
        with socket.socket() as deaf, contextlib.ExitStack() as waiting:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(3):  # these fill its queue, so that the next one is not let in
                client = waiting.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(deaf.getsockname())
            async with sending() as sender:
                url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
                answer = await sender.send(request(url, connect_ms=200))
                assert answer.code == CONNECTION_REFUSED

    run(test())


def test_a_closed_port_refuses() -> None:
    """Where nobody listens, nothing was sent, and the error says what happened."""

    async def test() -> None:
        async with sending() as sender:
            answer = await sender.send(request(f"http://127.0.0.1:{closed_port()}/"))
            assert answer.code == CONNECTION_REFUSED
            assert "connect" in answer.error

    run(test())


# --------------------------------------------------------------------------- the guard at work


def found_at(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let every name have these addresses; the names that are looked up."""
    asked: list[str] = []

    def answer(host: str) -> tuple[str, ...]:
        asked.append(host)
        return addresses

    monkeypatch.setattr(resolver, "system_addresses", answer)
    return asked


@pytest.mark.parametrize("guard", [Guard(), Guard(["127.0.0.0/8"], ["80"])], ids=["network", "port"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "rebound.example"])
def test_what_the_guard_forbids_is_not_connected_to(
    guard: Guard, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that a name really has decides, at the moment of connecting."""
    found_at(monkeypatch, "127.0.0.1")

    async def test() -> None:
        async with Receiver() as receiver, sending(guard) as sender:
            answer = await sender.send(request(receiver.url(host=host)))
            assert answer == Answer(
                CONNECTION_REFUSED, error=f"127.0.0.1 port {receiver.port} may not be sent to"
            )
            assert receiver.connections == 0

    run(test())


def test_only_the_allowed_ones_of_several_addresses_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name has a forbidden and an allowed address, the allowed one is connected to."""
    found_at(monkeypatch, "::1", "127.0.0.2", "127.0.0.1")

    async def test() -> None:
        async with Receiver() as receiver, sending(Guard(["127.0.0.1/32"])) as sender:
            assert await sender.send(request(receiver.url(host="both.example"))) == Answer(200, body=b"ok")

    run(test())


def test_a_kept_connection_is_guarded_again() -> None:
    """A connection made while its address was allowed is not sent on once it is not."""

    class Fickle(Guard):
        open = True

        def allows_port(self, port: int) -> bool:
            return self.open

    async def test() -> None:
        guard = Fickle(["127.0.0.0/8"])
        async with Receiver() as receiver, sending(guard) as sender:
            assert (await sender.send(request(receiver.url()))).code == 200
            guard.open = False
            answer = await sender.send(request(receiver.url()))
            assert answer.code == CONNECTION_REFUSED
            assert "may not be sent to" in answer.error
            assert len(receiver.requests) == 1

    run(test())


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "user@127.0.0.1", "127.0.0.1."]
)
def test_odd_spellings_are_not_sent_to_even_if_they_were_stored(host: str) -> None:
    """A URL that can be read in two ways is refused before libcurl sees it, whatever its address."""

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            assert (await sender.send(request(receiver.url(host=host)))).code == CONNECTION_REFUSED
            assert receiver.connections == 0

    run(test())


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/", "", "x"])
def test_nothing_but_http_is_spoken(url: str) -> None:
    """Other schemes are refused."""

    async def test() -> None:
        async with sending(Guard(["127.0.0.0/8"], [*DEFAULT_PORTS, "1-79"])) as sender:
            assert (await sender.send(request(url))).code == CONNECTION_REFUSED

    run(test())


# --------------------------------------------------------------------------- names


def test_a_name_is_looked_up_once_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts at once share one look-up, and later ones its answer."""
    asked = found_at(monkeypatch, "127.0.0.1")

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            sends = (sender.send(request(receiver.url(host="many.example"))) for _ in range(50))
            assert {answer.code for answer in await asyncio.gather(*sends)} == {200}
            assert (await sender.send(request(receiver.url(host="Many.Example")))).code == 200
            assert asked == ["many.example"]
            assert {seen.headers["host"].partition(":")[0].lower() for seen in receiver.requests} == {
                "many.example"
            }

    run(test())


def test_an_old_answer_is_renewed_beside_the_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its minute an answer is still used, once more, while the name is looked up again."""
    monkeypatch.setattr(resolver, "KEPT_S", 0.0)

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            asked = found_at(monkeypatch, "127.0.0.1")
            assert (await sender.send(request(receiver.url(host="old.example")))).code == 200
            again = found_at(monkeypatch, "10.0.0.1")
            assert (await sender.send(request(receiver.url(host="old.example")))).code == 200
            while not again:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            other = await sender.send(request(f"http://old.example:{closed_port()}/"))
            assert "10.0.0.1" in other.error
            assert asked == ["old.example"]

    run(test())


def test_a_name_without_an_address_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed look-up is told, and the next attempt asks anew."""

    def unknown(host: str) -> tuple[str, ...]:
        raise socket.gaierror(-2, "Name or service not known")

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            monkeypatch.setattr(resolver, "system_addresses", unknown)
            answer = await sender.send(request(receiver.url(host="none.example")))
            assert answer.code == CONNECTION_REFUSED
            assert "not known" in answer.error
            found_at(monkeypatch, "127.0.0.1")
            assert (await sender.send(request(receiver.url(host="none.example")))).code == 200

    run(test())


def test_an_old_answer_is_kept_while_none_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name servers that fail for a while do not cut off a receiver whose address was known."""
    monkeypatch.setattr(resolver, "KEPT_S", 0.0)
    failed: list[str] = []

    def fail(host: str) -> tuple[str, ...]:
        failed.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            found_at(monkeypatch, "127.0.0.1")
            assert (await sender.send(request(receiver.url(host="kept.example")))).code == 200
            monkeypatch.setattr(resolver, "system_addresses", fail)
            for _ in range(5):
                assert (await sender.send(request(receiver.url(host="kept.example")))).code == 200
                await asyncio.sleep(0.02)
            assert failed == ["kept.example"]  # tried again only after a while
            monkeypatch.setattr(resolver, "STALE_S", -1.0)
            found_at(monkeypatch, "127.0.0.1")
            assert (await sender.send(request(receiver.url(host="brief.example")))).code == 200
            monkeypatch.setattr(resolver, "system_addresses", fail)
            assert (await sender.send(request(receiver.url(host="brief.example")))).code == CONNECTION_REFUSED

    run(test())


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names that begin with ``silent`` are looked up until the event is set, or the test is over."""
    end = threading.Event()

    def look_up(host: str) -> tuple[str, ...]:
        if host.startswith("silent"):
            end.wait()
        return ("127.0.0.1",)

    monkeypatch.setattr(resolver, "system_addresses", look_up)
    yield end
    end.set()


def test_silent_names_hold_up_nobody_else(silence: threading.Event) -> None:
    """While a hundred attempts wait for name servers that do not answer, other names are found."""

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            names = [f"silent-{number % 40}.example" for number in range(100)]
            stuck = [asyncio.create_task(sender.send(request(receiver.url(host=name)))) for name in names]
            await asyncio.sleep(0.1)
            assert (await sender.send(request(receiver.url(host="good.example")))).code == 200
            assert not any(task.done() for task in stuck)
            timed_out = await sender.send(request(receiver.url(host=names[0]), connect_ms=100))
            assert timed_out.code == CONNECTION_REFUSED
            assert not silence.is_set()
            silence.set()
            assert {answer.code for answer in await asyncio.gather(*stuck)} == {200}

    run(test())


def test_closing_waits_for_no_name(silence: threading.Event) -> None:
    """Attempts that wait for a silent name server are answered when the sender closes."""

    async def test() -> None:
        sender = CurlSender(LOCAL)
        names = (f"http://silent-{number}.example/" for number in range(40))
        stuck = [asyncio.create_task(sender.send(request(name))) for name in names]
        await asyncio.sleep(0.05)
        await sender.close()
        assert {answer.code for answer in await asyncio.gather(*stuck)} == {CONNECTION_REFUSED}
        assert not silence.is_set()

    run(test())


def test_a_process_ends_while_a_name_is_looked_up() -> None:
    """The end of the program does not wait for the thread that asks."""
    program = """
import asyncio, time
from loadtest.dispatcher import resolver, sender, guard, request
resolver.system_addresses = lambda host: time.sleep(3600)
async def main():
    curl = sender.CurlSender(guard.Guard())
    sending = asyncio.create_task(curl.send(request.OutgoingRequest("http://a.example/", [], b"", 9000, 9000)))
    await asyncio.sleep(0.1)
    await curl.close()
    print((await sending).code)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert (done.stdout, done.stderr) == (f"{CONNECTION_REFUSED}\n", "")


# --------------------------------------------------------------------------- the end of a sender


def test_closing_aborts_what_is_under_way() -> None:
    """An attempt whose request is out ends without an answer; afterwards nothing is sent."""

    async def test() -> None:
        arrived = asyncio.Event()

        async def silent(seen: Request) -> None:
            arrived.set()
            await asyncio.sleep(3600)

        async with Receiver(silent) as receiver:
            sender = CurlSender(LOCAL)
            under_way = asyncio.create_task(sender.send(request(receiver.url())))
            await arrived.wait()
            await sender.close()
            assert (await under_way).code == NO_ANSWER
            assert (await sender.send(request(receiver.url()))).code == CONNECTION_REFUSED
            await sender.close()
            assert len(receiver.requests) == 1

    run(test())


def test_a_cancelled_send_leaves_the_sender_usable() -> None:
    """Who cancels gets the cancellation, and the next attempt is answered."""

    async def test() -> None:
        arrived = asyncio.Event()

        async def first_hangs(seen: Request) -> None:
            if arrived.is_set():
                await seen.say(OK)
            arrived.set()

        async with Receiver(first_hangs) as receiver, sending() as sender:
            under_way = asyncio.create_task(sender.send(request(receiver.url())))
            await arrived.wait()
            under_way.cancel()
            with pytest.raises(asyncio.CancelledError):
                await under_way
            assert await sender.send(request(receiver.url())) == Answer(200, body=b"ok")

    run(test())


# --------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ssl.SSLContext]]:
    """The folder of two authorities, ``own`` and ``other``, and servers' contexts by what is special of them."""
    if not shutil.which("openssl"):
        pytest.skip("the command openssl, which makes certificates, is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("own", "other"):
        authority(folder, name)
    here = "IP:127.0.0.1,DNS:localhost"
    contexts = {
        "good": certificate(folder, "good", "own", here, "-days", "2"),
        "other": certificate(folder, "other-host", "own", "DNS:other.example", "-days", "2"),
    }
    try:
        expired = certificate(folder, "expired", "own", here, "-days", "-1")
    except subprocess.CalledProcessError:  # newer ones want it said otherwise
        dates = ("-not_before", "20200101000000Z", "-not_after", "20200201000000Z")
        expired = certificate(folder, "expired", "own", here, *dates)
    return folder, contexts | {"expired": expired}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_trusted_certificate_is_accepted(
    host: str, certificates: tuple[Path, dict[str, ssl.SSLContext]]
) -> None:
    """With the authority's certificate TLS works, and its connection is kept."""
    folder, contexts = certificates

    async def test() -> None:
        ca_file = str(folder / "own.pem")
        async with Receiver(tls=contexts["good"]) as receiver, sending(ca_file=ca_file) as sender:
            for _ in range(3):
                assert await sender.send(request(receiver.url(host=host))) == Answer(200, body=b"ok")
            assert receiver.connections == 1

    run(test())


@pytest.mark.parametrize(
    ("which", "ca"),
    [("good", "other.pem"), ("good", None), ("expired", "own.pem"), ("other", "own.pem")],
    ids=["another authority", "the system's authorities", "expired", "another host"],
)
def test_a_certificate_that_proves_nothing_is_refused(
    which: str, ca: str | None, certificates: tuple[Path, dict[str, ssl.SSLContext]]
) -> None:
    """A wrong authority, an expired certificate and a wrong host end the attempt before anything was sent."""
    folder, contexts = certificates

    async def test() -> None:
        ca_file = str(folder / ca) if ca else None
        async with Receiver(tls=contexts[which]) as receiver, sending(ca_file=ca_file) as sender:
            answer = await sender.send(request(receiver.url()))
            assert answer.code == CONNECTION_REFUSED
            assert "certificate" in answer.error.lower()
            assert receiver.requests == []

    run(test())


def test_plain_text_where_tls_is_expected_is_refused() -> None:
    """A receiver that does not speak TLS gets no request."""

    async def test() -> None:
        async with Receiver() as receiver, sending() as sender:
            url = receiver.url().replace("http:", "https:")
            assert (await sender.send(request(url, total_ms=2000))).code == CONNECTION_REFUSED
            assert receiver.requests == []

    run(test())


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_certificates_is_told(content: str | None, tmp_path: Path) -> None:
    """A wrong ``ca_file`` is an error when the sender is made rather than in every attempt."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ScenarioError, match=r"ca_file is .*must be a readable file of PEM certificates"):
        CurlSender(LOCAL, ca_file=str(path))


# --------------------------------------------------------------------------- Retry-After


NOW = 1_800_000_000 * SECOND
DATE = format_datetime(datetime.fromtimestamp(NOW // SECOND + 90, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("0", 0),
        ("120", 120 * SECOND),
        ("9" * 5000, LONGEST),
        (DATE, 90 * SECOND),
        (DATE.replace("GMT", "-0000"), 90 * SECOND),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),  # past
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("", -1),
        ("-5", -1),
        ("1.5", -1),
        ("soon", -1),
        ("٣", -1),
        ("Wed, 99 Oct 2015 07:28:00 GMT", -1),
        ("Fri, 31 Dec 99999 23:59:59 GMT", -1),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, asked: int) -> None:
    """What a receiver asks for becomes nanoseconds; what cannot be understood asks for nothing."""
    assert retry_after(value, NOW) == asked


def test_a_receiver_asks_in_any_spelling_of_the_header() -> None:
    """The header's name has no case, and only the final answer's counts."""

    async def ask(seen: Request) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n" if seen.body == b"early" else b""
        late = b"" if early else b"rEtRy-AfTeR:  30 \r\n"
        await seen.say(early + b"HTTP/1.1 503 X\r\n" + late + b"Content-Length: 0\r\n\r\n")

    async def test() -> None:
        async with Receiver(ask) as receiver, sending() as sender:
            assert await sender.send(request(receiver.url())) == Answer(503, 30 * SECOND)
            assert await sender.send(request(receiver.url(), body=b"early")) == Answer(503)

    run(test())
