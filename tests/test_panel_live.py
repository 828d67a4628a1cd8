"""The live figures of the panel: streams that tell what has changed, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.dispatcher import panel_live
from loadtest.dispatcher.api import Settings
from loadtest.dispatcher.panel_live import Live
from loadtest.dispatcher.panel_pages import ROOT, parts
from sim.policy import SECOND
from tests.api_calls import Caller, dispatcher, run
from tests.dispatchers import dispatcher as process
from tests.panel_calls import TOKEN, Clock, logged_in, page, post


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
