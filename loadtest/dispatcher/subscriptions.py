"""Who gets an event: the cached answer to "which endpoints want this type?", empty answers too.

The store answers by bitmask; here its answers are kept until something changes. With several processes, one that
has not yet heard of a change still gives the old answer: for as long as the store's notice takes.
"""

from __future__ import annotations

from loadtest.dispatcher.records import Endpoint
from loadtest.dispatcher.store import Store

MOST_TYPES = 10_000
"""Types whose answer is kept: made-up types must not fill the memory."""


class Subscriptions:
    """Endpoints by event type, by number and by id."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.known: set[str] = set()
        self.answers: dict[str, tuple[Endpoint, ...]] = {}
        self.by_number: dict[int, Endpoint] = {}
        self.by_id: dict[str, Endpoint] = {}
        self.loaded = False
        self.version = 0

    def forget(self) -> None:
        """Endpoints or types have changed."""
        self.version += 1
        self.loaded = False
        self.answers.clear()

    async def load(self) -> None:
        """Read all endpoints, unless they are known."""
        while not self.loaded:
            version = self.version
            endpoints = await self.store.endpoints()
            known = set(await self.store.types())
            if version == self.version:
                self.by_number = {one.number: one for one in endpoints}
                self.by_id = {one.id: one for one in endpoints}
                self.known = known
                self.loaded = True

    async def of(self, type: str) -> tuple[Endpoint, ...]:  # noqa: A002  the word of the domain
        """The endpoints that want a type, in order of number; a type that is new is registered."""
        found = self.answers.get(type)
        if found is not None:
            return found
        await self.load()
        if type not in self.known:
            self.known = set(await self.store.register([type]))
        version = self.version
        numbers = await self.store.subscribers(type)
        answer = tuple(self.by_number[number] for number in numbers if number in self.by_number)
        if version == self.version and len(self.answers) < MOST_TYPES:
            self.answers[type] = answer
        return answer

    async def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint with that id."""
        await self.load()
        return self.by_id.get(name)
