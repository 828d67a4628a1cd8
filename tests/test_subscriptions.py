"""The cache of who gets an event, over a store that counts what it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import cast

import pytest

from loadtest.dispatcher.records import Endpoint
from loadtest.dispatcher.store import Store
from loadtest.dispatcher.subscriptions import MOST_STALE_S, Subscriptions
from sim.policy import SECOND


def endpoint(number: int, *patterns: str) -> Endpoint:
    """An endpoint with these patterns."""
    return Endpoint(
        number=number, id=f"e:{number}", url="https://a.example.com", types=patterns, policy="{}", secret="",
        created=0, changed=0,
    )  # fmt: skip


class CountingStore:
    """The part of a store that the cache asks, with a gate to hold an answer back."""

    def __init__(self, *rows: Endpoint) -> None:
        self.rows = list(rows)
        self.known: list[str] = []
        self.asked: Counter[str] = Counter()
        self.changes = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def generation(self) -> int:
        """How often others have changed something."""
        self.asked["generation"] += 1
        return self.changes

    async def types(self) -> list[str]:
        """All that were registered."""
        self.asked["types"] += 1
        return self.known

    async def register(self, types: Sequence[str]) -> list[str]:
        """Add types."""
        self.asked["register"] += 1
        self.known = [*self.known, *types]
        return self.known

    async def endpoints(self) -> list[Endpoint]:
        """All rows."""
        self.asked["endpoints"] += 1
        return list(self.rows)

    async def subscribers(self, name: str) -> list[int] | None:
        """What matches, seen before the gate opens."""
        self.asked["subscribers"] += 1
        found = [row.number for row in self.rows if any(fnmatchcase(name, p) for p in row.types)]
        await self.gate.wait()
        return found if name in self.known else None


def numbers(found: Sequence[Endpoint]) -> list[int]:
    """Numbers of endpoints."""
    return [each.number for each in found]


def test_a_type_is_registered_once_and_then_remembered() -> None:
    """The first event of a type registers it; later ones ask the store nothing."""

    async def work() -> None:
        store = CountingStore(endpoint(1, "receipt.*"), endpoint(2, "*"))
        cache = Subscriptions(cast(Store, store))
        assert cache.remembered("receipt.created") is None
        assert numbers(await cache.of("receipt.created")) == [1, 2]
        asked = dict(store.asked)
        assert numbers(await cache.of("receipt.created")) == [1, 2]
        assert numbers(cache.remembered("receipt.created") or ()) == [1, 2]
        assert dict(store.asked) == asked
        assert store.known == ["receipt.created"]

    asyncio.run(work())


def test_that_nobody_subscribes_is_remembered_too() -> None:
    """An empty answer costs the store one question."""

    async def work() -> None:
        store = CountingStore(endpoint(1, "receipt.*"))
        cache = Subscriptions(cast(Store, store))
        assert await cache.of("noise") == ()
        asked = dict(store.asked)
        assert [await cache.of("noise") for _ in range(3)] == [(), (), ()]
        assert dict(store.asked) == asked

    asyncio.run(work())


def test_a_change_is_seen_by_the_next_event() -> None:
    """After ``clear`` the endpoints and their subscriptions are read again."""

    async def work() -> None:
        store = CountingStore(endpoint(1, "a"))
        cache = Subscriptions(cast(Store, store))
        assert numbers(await cache.of("a")) == [1]
        store.rows.append(endpoint(2, "a"))
        assert numbers(await cache.of("a")) == [1]
        cache.clear()
        assert numbers(await cache.of("a")) == [1, 2]
        assert (await cache.endpoints()).by_id["e:2"].number == 2
        assert store.asked["register"] == 1

    asyncio.run(work())


def test_what_was_looked_up_during_a_change_is_not_kept() -> None:
    """An answer from before a change that comes after it is thrown away, and the store is asked again."""

    async def work() -> None:
        store = CountingStore(endpoint(1, "a"))
        store.known = ["a"]
        cache = Subscriptions(cast(Store, store))
        store.gate.clear()
        looking = asyncio.create_task(cache.of("a"))
        while not store.asked["subscribers"]:
            await asyncio.sleep(0)
        store.rows.append(endpoint(2, "a"))
        cache.clear()
        store.gate.set()
        assert numbers(await looking) == [1, 2]
        assert store.asked["subscribers"] == 2
        assert numbers(cache.remembered("a") or ()) == [1, 2]

    asyncio.run(work())


def test_endpoints_are_read_once_for_all_who_ask_meanwhile() -> None:
    """Events of many new types at once do not read the endpoints once each."""

    async def work() -> None:
        store = CountingStore(endpoint(1, "*"))
        cache = Subscriptions(cast(Store, store))
        found = await asyncio.gather(*(cache.of(f"type{n}") for n in range(50)))
        assert {tuple(numbers(each)) for each in found} == {(1,)}
        assert store.asked["endpoints"] == 1

    asyncio.run(work())


def test_a_change_that_nobody_told_of_is_seen_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to ``MOST_STALE_S`` after the last look an old answer is given, an empty one too; then never again."""
    now = 0
    monkeypatch.setattr("loadtest.dispatcher.subscriptions.clock.now", lambda: now)

    async def work() -> None:
        nonlocal now
        now = 10 * SECOND
        store = CountingStore()
        cache = Subscriptions(cast(Store, store))
        assert await cache.of("a") == ()
        store.rows.append(endpoint(1, "a"))
        store.changes += 1
        now += int(MOST_STALE_S * SECOND) - 1
        assert cache.remembered("a") == ()
        assert (await cache.endpoints()).by_id == {}
        now += 1
        assert cache.remembered("a") is None
        assert numbers(await cache.of("a")) == [1]
        assert list((await cache.endpoints()).by_id) == ["e:1"]
        asked = store.asked["subscribers"]
        now += int(MOST_STALE_S * SECOND)
        found = await asyncio.gather(*(cache.of("a") for _ in range(20)))
        assert [numbers(each) for each in found] == [[1]] * 20
        assert store.asked["subscribers"] == asked
        assert store.asked["generation"] == 3

    asyncio.run(work())


def test_made_up_types_do_not_fill_the_memory() -> None:
    """Beyond its bound the cache forgets the oldest types first."""

    async def work() -> None:
        cache = Subscriptions(cast(Store, CountingStore(endpoint(1, "*"))), most_types=10)
        for n in range(50):
            assert numbers(await cache.of(f"t{n}")) == [1]
        assert [n for n in range(50) if cache.remembered(f"t{n}") is not None] == list(range(40, 50))

    asyncio.run(work())
