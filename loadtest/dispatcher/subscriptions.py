"""Who gets an event: a cache of the store's endpoints and of what types they subscribe to.

Empty answers are kept too. The store tells of changes (``clear``); what was being looked up meanwhile is not kept.
A notice from another process can be lost with its connection, so the store is also asked now and then whether
anything has changed: what is given has been true within the last ``MOST_STALE_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from loadtest import clock
from loadtest.dispatcher.records import Endpoint
from loadtest.dispatcher.store import Store
from sim.policy import SECOND

MOST_STALE_S = 2.0
"""How long after a change that another process made an event may still go by the old subscriptions."""
MOST_TYPES = 10_000
"""Types whose subscribers are remembered: made-up ones must not fill the memory."""


class Known(NamedTuple):
    """All endpoints, in two orders."""

    by_number: Mapping[int, Endpoint]
    by_id: Mapping[str, Endpoint]


class Subscriptions:
    """Endpoints by type, number and id, as the store has them."""

    def __init__(self, store: Store, most_types: int = MOST_TYPES) -> None:
        self._store = store
        self._most_types = most_types
        self._endpoints: Known | None = None
        self._by_type: dict[str, tuple[Endpoint, ...]] = {}
        self._age = 0
        self._generation = -1
        self._true_until = 0
        self._checking = asyncio.Lock()
        self._reading = asyncio.Lock()

    def clear(self) -> None:
        """Forget everything: endpoints have changed."""
        self._age += 1
        self._endpoints = None
        self._by_type = {}

    def remembered(self, type_: str) -> tuple[Endpoint, ...] | None:
        """The endpoints that get events of a type; None: the store must be asked (``of``)."""
        return self._by_type.get(type_) if clock.now() < self._true_until else None

    async def _check(self) -> None:
        """Ask whether anything has changed, unless that has been asked a moment ago."""
        if clock.now() < self._true_until:
            return
        async with self._checking:
            asked = clock.now()
            if asked < self._true_until:  # by another, while this one waited
                return
            generation = await self._store.generation()
            if generation != self._generation:
                self.clear()
            self._generation = generation
            self._true_until = asked + int(MOST_STALE_S * SECOND)

    async def of(self, type_: str) -> tuple[Endpoint, ...]:
        """The endpoints that get events of a type, in order of number; a new type is registered."""
        while True:
            await self._check()
            found = self._by_type.get(type_)
            if found is not None:
                return found
            age = self._age
            numbers = await self._store.subscribers(type_)
            if numbers is None:
                await self._store.register([type_])
                continue
            known = (await self.endpoints()).by_number
            if age == self._age:
                found = tuple(known[number] for number in numbers if number in known)
                self._remember(type_, found)
                return found

    def _remember(self, type_: str, found: tuple[Endpoint, ...]) -> None:
        while len(self._by_type) >= self._most_types:
            del self._by_type[next(iter(self._by_type))]
        self._by_type[type_] = found

    async def endpoints(self) -> Known:
        """All endpoints; whoever asks while they are being read waits for the same answer."""
        while True:
            await self._check()
            async with self._reading:
                if self._endpoints is not None:
                    return self._endpoints
                age = self._age
                rows = await self._store.endpoints()
                if age == self._age:
                    self._endpoints = Known({row.number: row for row in rows}, {row.id: row for row in rows})
