"""Live figures of the panel: one reading for all who watch, and the streams (server-sent events) that carry it.

A reading is made when somebody asks and the last one is older than an interval, so the store is asked once in an
interval at most, however many watch, and never when nobody does. Rates come from counters in memory. With several
processes on one database the backlog and the counts by state are those of all; attempts under way, rates and due
times are this process's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from loadtest import clock
from loadtest.dispatcher.answers import RefusedError
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.records import DISABLED, PAUSED, Endpoint
from loadtest.dispatcher.store import StoreError
from sim.policy import SECOND

INTERVAL_S = 1.0
MOST_STREAMS = 32
HEARTBEAT_S = 15.0
"""A stream that has nothing to tell says so after this time, or else a proxy might end it."""
RATES_OVER = 10 * SECOND
"""Rates are means over about this time, ns."""
HISTORY = 60
"""How many rates are remembered for the picture."""
FORGOTTEN_AFTER = 60 * SECOND
"""Counters read longer ago than this say nothing about the rates of now, ns."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the dispatcher is at one moment."""

    at: int
    """ns since 1970."""
    backlog: Mapping[int, int] | None
    """Deliveries that wait for each attempt number; None: the store does not answer."""
    totals: Mapping[int, int] | None
    """Deliveries in each state; None: the store does not answer."""
    in_flight: int
    overdue: int | None
    """For how long the oldest loaded delivery has been due, ns; None: none is overdue."""
    per_s: Mapping[str, float] | None
    """Events, attempts and failed attempts per second; None: not known yet."""
    history: tuple[float, ...]
    """Attempts per second at the last readings, the newest last."""
    paused: int
    disabled: tuple[Endpoint, ...]
    endpoint_count: int


class Live:
    """Readings of one dispatcher, and who watches them."""

    def __init__(self, api: Api, interval_s: float = INTERVAL_S, most_streams: int = MOST_STREAMS) -> None:
        self.interval_s = interval_s
        self.streams = 0
        """How many watch."""
        self._api = api
        self._most_streams = most_streams
        self._last: Reading | None = None
        self._endpoints: tuple[Endpoint, ...] = ()
        """As they were when the store last answered."""
        self._reading = asyncio.Lock()
        self._totals: deque[tuple[int, Mapping[str, float]]] = deque()
        self._history: deque[float] = deque(maxlen=HISTORY)

    async def reading(self) -> Reading:
        """How the dispatcher is; at most one interval old."""
        async with self._reading:
            if self._last is None or clock.now() - self._last.at >= self.interval_s * SECOND:
                self._last = await self._read()
            return self._last

    async def _read(self) -> Reading:
        now = clock.now()
        backlog, totals, endpoints = await self._stored()
        counts = self._api.running.counts()
        oldest = counts.get("oldest_due")
        rates = self._rates(now)
        return Reading(
            at=now,
            backlog=backlog,
            totals=totals,
            in_flight=counts.get("in_flight") or 0,
            overdue=now - oldest if oldest is not None and oldest < now else None,
            per_s=rates,
            history=tuple(self._history),
            paused=sum(each.status == PAUSED for each in endpoints),
            disabled=tuple(each for each in endpoints if each.status == DISABLED),
            endpoint_count=len(endpoints),
        )

    async def _stored(
        self,
    ) -> tuple[Mapping[int, int] | None, Mapping[int, int] | None, tuple[Endpoint, ...]]:
        try:
            backlog, totals = await self._api.store.backlog(), await self._api.store.totals()
            self._endpoints = tuple((await self._api.subscriptions.endpoints()).by_number.values())
        except StoreError:
            return None, None, self._endpoints
        return backlog, totals, self._endpoints

    def _rates(self, now: int) -> Mapping[str, float] | None:
        """Means per second since the oldest counters that still count."""
        totals = self._api.metrics.totals()
        if self._totals and now - self._totals[-1][0] > FORGOTTEN_AFTER:
            self._totals.clear()
            self._history.clear()
        self._totals.append((now, totals))
        while len(self._totals) > 2 and now - self._totals[1][0] >= RATES_OVER:
            self._totals.popleft()
        since, before = self._totals[0]
        if since == now:
            return None
        rates = {name: (totals[name] - before[name]) * SECOND / (now - since) for name in totals}
        self._history.append(rates["attempts"])
        return rates

    # ----------------------------------------------------------------- streams

    def stream(self, told: Callable[[Reading], Mapping[str, str]], still: Callable[[], bool]) -> Stream:
        """A response that goes on telling.

        Args:
            told: what a reading says, by names that the page knows.
            still: whether the one who watches still may.
        """
        return Stream(self, self._api.ending, told, still)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hold one of the places for streams.

        Raises:
            RefusedError: 503, all are taken.
        """
        if self.streams >= self._most_streams:
            error = f"{self._most_streams} pages are watching already; close one"
            raise RefusedError(503, error, headers={"retry-after": "10"})
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


class Stream:
    """Server-sent events until the browser goes, its session ends, or the dispatcher does: an ASGI response."""

    def __init__(
        self,
        live: Live,
        ending: asyncio.Event,
        told: Callable[[Reading], Mapping[str, str]],
        still: Callable[[], bool],
    ) -> None:
        self.headers: dict[str, str] = {"content-type": "text/event-stream"}
        self._live = live
        self._ending = ending
        self._told = told
        self._still = still

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell."""
        try:
            with self._live.watching():
                await self._run(receive, send)
        except RefusedError as refused:
            await refused.response()(scope, receive, send)

    async def _run(self, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        over: tuple[asyncio.Task[Any], ...] = (
            asyncio.create_task(_gone(receive)),
            asyncio.create_task(self._ending.wait()),
        )
        try:
            await self._tell(send, over)
        finally:
            for task in over:
                task.cancel()
            await asyncio.gather(*over, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send, over: Iterable[asyncio.Task[Any]]) -> None:
        said: Mapping[str, str] = {}
        quiet_s = 0.0
        while self._still():
            reading = asyncio.create_task(self._live.reading())
            done, _ = await asyncio.wait({reading, *over}, return_when=asyncio.FIRST_COMPLETED)
            if reading not in done:
                reading.cancel()
                return
            now = self._told(reading.result())
            changed = {name: text for name, text in now.items() if said.get(name) != text}
            said = now
            if changed:
                await _say(send, b"retry: 3000\ndata: %b\n\n" % orjson.dumps(changed))
                quiet_s = 0.0
            elif quiet_s >= HEARTBEAT_S:
                await _say(send, b": still here\n\n")
                quiet_s = 0.0
            done, _ = await asyncio.wait(
                over, timeout=self._live.interval_s, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return
            quiet_s += self._live.interval_s


async def _say(send: Send, text: bytes) -> None:
    await send({"type": "http.response.body", "body": text, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
