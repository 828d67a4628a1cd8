"""Stores of the dispatcher for tests: where each kind keeps its data, and rows to put into them.

A test that takes the fixture ``home`` runs once for each kind of store; see ``services`` for the servers it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtest.dispatcher.records import Attempt, Endpoint, NewDelivery, NewEvent, Released, Result, TraceRow
from loadtest.dispatcher.store import Store, StoreError
from sim.policy import REJECTED, SECOND, STATE_DELIVERED, WAITING
from tests.services import postgres_database

START = 1_700_000_000 * SECOND
KINDS = ("sqlite", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres")))
"""Tests of one server take turns: several at once would want more connections than it has."""


@dataclass
class Heard:
    """What a store has announced."""

    endpoints: int = 0
    due: list[Released] = field(default_factory=list)
    owned: int = 0
    errors: list[StoreError] = field(default_factory=list)

    def endpoints_changed(self) -> None:
        """Count it."""
        self.endpoints += 1

    def due_changed(self, endpoint: int, due: int) -> None:
        """Keep it."""
        self.due.append(Released(endpoint, due))

    def owned_changed(self) -> None:
        """Count it."""
        self.owned += 1

    def failed(self, error: StoreError) -> None:
        """Keep it."""
        self.errors.append(error)


@dataclass(frozen=True)
class Home:
    """A place where a store finds its data again after a restart."""

    kind: str
    make: Callable[[], Store]
    """A store that is not open yet, over the same data each time."""
    leave: Callable[[], None] = lambda: None
    """Give the place back before the test ends."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Store, Heard]]:
        """An open store, closed in the end."""
        store, heard = self.make(), Heard()
        await store.open(heard)
        try:
            yield store, heard
        finally:
            await store.close()

    def run(self, body: Callable[[Store, Heard], Awaitable[Any]]) -> Any:
        """Run a test's body with an open store in a loop of its own; what it returns."""

        async def main() -> Any:
            async with self.opened() as (store, heard):
                return await asyncio.wait_for(body(store, heard), 120)

        return asyncio.run(main())


def postgres_homes() -> Iterator[Callable[[], Home]]:
    """Homes in databases of their own, given back in the end."""
    from loadtest.dispatcher.store_postgres import PostgresStore

    with contextlib.ExitStack() as databases:

        def home() -> Home:
            held = databases.enter_context(contextlib.ExitStack())
            address = held.enter_context(postgres_database())
            return Home("postgres", lambda: PostgresStore(address), held.close)

        yield home


def sqlite_homes(folder: Path) -> Iterator[Callable[[], Home]]:
    """Homes in files of their own."""
    from loadtest.dispatcher.store_sqlite import SqliteStore

    def home() -> Home:
        path = folder / f"{uuid.uuid4().hex}.db"
        return Home("sqlite", lambda: SqliteStore(path))

    yield home


@pytest.fixture(params=KINDS)
def homes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Home]]:
    """Makes empty homes of one kind of store."""
    if request.param == "postgres":
        yield from postgres_homes()
    else:
        yield from sqlite_homes(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def home(homes: Callable[[], Home]) -> Home:
    """An empty home."""
    return homes()


# --------------------------------------------------------------------------- rows


def endpoint(id_: str = "shop", *types: str, **fields: Any) -> Endpoint:
    """An endpoint that takes all types, or those named."""
    values = {
        "url": "http://127.0.0.1/hook",
        "policy": "{}",
        "secret": "whsec_x",
        "created": START,
        "changed": START,
    }
    return Endpoint(id=id_, types=types or ("*",), **{**values, **fields})


def event(id_: str, *deliveries: NewDelivery, created: int = START, **fields: Any) -> NewEvent:
    """An event with its fan-out."""
    values = {
        "digest": id_.encode().ljust(32),
        "type": "order.paid",
        "key": "k",
        "seq": 1,
        "occurred": created,
    }
    values |= {"data": b'{"sum": 1}', "object_type": "", "object_id": ""}
    return NewEvent(id=id_, created=created, deliveries=deliveries, **{**values, **fields})


def attempt(number: int, at: int, outcome: int = REJECTED) -> Attempt:
    """An attempt that was answered at once."""
    return Attempt(number, number, at, at, at + 1, outcome, 500, 0, b"no", "")


def delivered(delivery: int, to: int, attempts: int = 1, at: int = START + SECOND) -> Result:
    """What a successful attempt brings."""
    ended = attempt(attempts, at, 0)._replace(status=200, answer=b"ok")
    return Result(delivery, to, attempts, STATE_DELIVERED, 0, at, 0, START, at, ended)


def failed(
    delivery: int, to: int, attempts: int = 1, *, due: int, at: int = START + SECOND, hinted: bool = False
) -> Result:
    """What an attempt brings that is to be repeated."""
    return Result(delivery, to, attempts, WAITING, 0, due, 7, START, at, attempt(attempts, at), hinted)


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what a store announces when it gets round to it."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def traced(store: Store, count: int, after: int = 0, seconds: float = 20) -> list[TraceRow]:
    """The trace after a cursor once it has come to so many rows; it has no more.

    A store may hold rows back for as long as transactions are open that could still write before them.
    """
    rows: list[TraceRow] = []
    async with asyncio.timeout(seconds):
        while len(rows) < count:
            rows += await store.trace(rows[-1].cursor if rows else after, 2000)
    assert await store.trace(rows[-1].cursor, 9) == []
    assert len(rows) == count
    return rows


async def one(store: Store, id_: str, *deliveries: NewDelivery, **fields: Any) -> Sequence[int]:
    """Store one event; the numbers of its deliveries."""
    (accepted,) = await store.add([event(id_, *deliveries, **fields)])
    assert accepted.fresh
    return accepted.deliveries
