"""Who gets an event: a cache of the store's endpoints and of what types they subscribe to.

Empty answers are kept too. The store tells of changes (``clear``); what was being looked up meanwhile is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from loadtest.dispatcher.records import Endpoint
from loadtest.dispatcher.store import Store

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

    def clear(self) -> None:
        """Forget everything: endpoints, types or subscriptions have changed."""
        self._age += 1
        self._endpoints = None
        self._by_type = {}

    def remembered(self, type_: str) -> tuple[Endpoint, ...] | None:
        """The endpoints that get events of a type; None: the store must be asked (``of``)."""
        return self._by_type.get(type_)

    async def of(self, type_: str) -> tuple[Endpoint, ...]:
        """The endpoints that get events of a type, in order of number; a new type is registered."""
        while True:
            found = self._by_type.get(type_)
            if found is not None:
                return found
            if type_ not in await self._store.types():
                await self._store.register([type_])
            age = self._age
            numbers = await self._store.subscribers(type_)
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
        """All endpoints."""
        while True:
            if self._endpoints is not None:
                return self._endpoints
            age = self._age
            rows = await self._store.endpoints()
            if age == self._age:
                self._endpoints = Known({row.number: row for row in rows}, {row.id: row for row in rows})
