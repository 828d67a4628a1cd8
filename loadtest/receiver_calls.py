"""Receivers as clients of the dispatcher: endpoints that poll, and calls back for the data of thin messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import pycurl

from loadtest.receiver_world import Emit, EndpointWorld, Request
from sim.policy import SECOND

PAGE = 1_000
"""Events of one answer to a poll; a poll that brings as many asks on."""
MOST_CONNECTIONS = 8
TIMEOUT_MS = 10_000


@dataclass
class Calls:
    """How often the dispatcher's API was called, and why that failed last."""

    polls: int = 0
    data: int = 0
    failed: int = 0
    last_error: str = ""


class CallError(Exception):
    """A call that brought no answer of use."""


class Api:
    """The dispatcher's API, as far as receivers need it.

    Args:
        url: of the dispatcher, without a path.
        token: sent as a bearer's; empty: none.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.calls = Calls()
        self._url = url.rstrip("/")
        self._headers = [f"Authorization: Bearer {token}"] if token else []
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, MOST_CONNECTIONS)
        self._idle: list[Any] = []

    async def get(self, path: str) -> Any:
        """What the API answers to a GET, decoded.

        Raises:
            CallError: there is no answer, or none of status 200 and JSON.
        """
        curl = self._idle.pop() if self._idle else pycurl.Curl()
        body = bytearray()
        curl.setopt(pycurl.URL, self._url + path)
        curl.setopt(pycurl.HTTPHEADER, self._headers)
        curl.setopt(pycurl.TIMEOUT_MS, TIMEOUT_MS)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.WRITEFUNCTION, body.extend)
        try:
            await self._multi.perform(curl)
            status = curl.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as error:
            raise CallError(str(error.args[-1])) from None
        finally:
            self._idle.append(curl)
        if status != 200:
            raise CallError(f"GET {path} was answered {status}")
        try:
            return json.loads(body)
        except ValueError:
            raise CallError(f"the answer to GET {path} is not JSON") from None

    async def fetch_data(self, delivery_id: str) -> None:
        """Call back for the event of a thin message; a failure is counted and noted."""
        event_id = delivery_id.rsplit(":", 2)[0]
        self.calls.data += 1
        try:
            await self.get(f"/events/{quote(event_id, safe=':')}")
        except CallError as error:
            self.note(error)

    def note(self, error: CallError) -> None:
        """Count a failure."""
        self.calls.failed += 1
        self.calls.last_error = str(error)

    async def close(self) -> None:
        """Abort what is under way."""
        await self._multi.aclose()
        for curl in self._idle:
            curl.close()
        self._idle.clear()


async def poll(api: Api, world: EndpointWorld, now: Callable[[], int], emit: Emit) -> None:
    """Poll for one endpoint until cancelled: at its phase and every so often, never while its receiver is out.

    Args:
        api: whom to ask.
        world: the endpoint.
        now: tells the time, ns since T0.
        emit: takes a record of each poll: when it was due, and how many deliveries it brought.
    """
    cursor = 0
    time = world.poll_phase
    while True:
        behind = now() - time
        if behind >= world.poll_every:  # nobody makes up for polls whose time has passed
            time += behind // world.poll_every * world.poll_every
        while (left := time - now()) > 0:  # a loop's timer may be a millisecond early
            await asyncio.sleep(left / SECOND)
        if world.polls_at(time):
            cursor, returned, failed = await _take_all(api, world, cursor, now)
            record: dict[str, Any] = {"kind": "poll", "endpoint": world.name, "polled_ns": time}
            emit({**record, "returned": returned, "failed": failed})
        time += world.poll_every


async def _take_all(
    api: Api, world: EndpointWorld, cursor: int, now: Callable[[], int]
) -> tuple[int, int, bool]:
    """(new cursor, deliveries returned, whether a call failed) of one poll, page by page."""
    returned = 0
    while True:
        query = urlencode({"endpoint": world.name, "after": cursor, "limit": PAGE})
        api.calls.polls += 1
        try:
            events, cursor = _page(await api.get(f"/events?{query}"), cursor)
        except CallError as error:
            api.note(error)
            return cursor, returned, True
        for event in events:
            request = Request(
                f"{event['id']}:{world.name}", 1, str(event.get("key", "")), event.get("seq", -1)
            )
            world.fetched(now(), request)
        returned += len(events)
        if len(events) < PAGE:
            return cursor, returned, False


def _page(answer: Any, cursor: int) -> tuple[list[dict[str, Any]], int]:
    """Events and the next cursor of ``{"events": [{id, key, seq, …}], "next": cursor}``."""
    try:
        events, after = answer["events"], int(answer.get("next", cursor))
        good = all(isinstance(event["id"], str) and isinstance(event.get("seq", -1), int) for event in events)
    except (TypeError, ValueError, KeyError, AttributeError):
        good = False
    if not good:
        raise CallError("the answer to a poll has no events with an id and a seq")
    return events, after
