"""The embedded store: one SQLite file for one process, with one thread that writes and two that read.

calls that write ──► queue ──► writer: one transaction and one commit for all that waits
due, tier, …     ──► reader for sending          (their connections are read-only: they see what is
pages and lists  ──► reader for what is shown     committed, and never hold up intake)
"""

# ruff: noqa: D102  the port says what its methods do

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from loadtest.dispatcher import store_sqlite_due as waiting
from loadtest.dispatcher import store_sqlite_endpoints as keeping
from loadtest.dispatcher import store_sqlite_intake as intake
from loadtest.dispatcher import store_sqlite_queries as queries
from loadtest.dispatcher import store_sqlite_results as settling
from loadtest.dispatcher.records import (
    Accepted,
    Delivery,
    Endpoint,
    Event,
    Filter,
    NewDelivery,
    NewEvent,
    Released,
    Result,
    TraceRow,
    Waiting,
)
from loadtest.dispatcher.store import Changes, Store, StoreError, StoreUnavailableError
from loadtest.dispatcher.store_sqlite_ledger import Ledger
from loadtest.dispatcher.store_sqlite_schema import BrokenError, open_reader, open_writer, translated
from loadtest.dispatcher.store_sqlite_writer import Work, Writer
from sim.policy import WAITING

Found = TypeVar("Found")
Arguments = ParamSpec("Arguments")

PART = 500
"""Deliveries that are settled or deleted in one go: intake goes on between two parts."""

SYNCHRONOUS = ("FULL", "NORMAL")
TOGETHER: dict[Work, Callable[..., list[Any]]] = {
    intake.add: intake.add_together,
    settling.record: settling.record_together,
}


class SqliteStore(Store):
    """``Store`` in one file. With ``synchronous="NORMAL"`` a power cut, but no crash, may undo the last commits.

    ``endpoints_changed`` is told of this process's own changes too. ``settle_waiting`` and ``prune`` work in parts:
    a crash in the middle leaves the rest as it was.
    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "FULL") -> None:
        if synchronous not in SYNCHRONOUS:
            raise ValueError(f"synchronous is {synchronous!r}; it must be one of {', '.join(SYNCHRONOUS)}")
        self._path = Path(path).absolute()
        self._synchronous = synchronous
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._sending: Reader | None = None
        self._showing: Reader | None = None

    # ----------------------------------------------------------------- life

    async def open(self, changes: Changes) -> None:
        try:
            ledger = await asyncio.to_thread(self._connect)
            self._writer = Writer(ledger, self._path, changes, TOGETHER)
        except BaseException:
            await self.close()
            raise

    def _connect(self) -> Ledger:
        self._lock = locked(self._path)
        self._connection = open_writer(self._path, self._synchronous)
        try:
            self._sending = Reader(self._path, "sqlite-sending")
            self._showing = Reader(self._path, "sqlite-showing")
            return Ledger(self._connection)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()
        for reader in (self._sending, self._showing):
            if reader is not None:
                await asyncio.to_thread(reader.close)
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def check(self) -> None:
        await self._write(keeping.touch, None)
        await self._read(self._sending, keeping.types)

    def owns(self, endpoint: int) -> bool:
        return True

    async def _write(self, work: Callable[[Ledger, Any], Found], argument: Any) -> Found:
        if self._writer is None:
            raise StoreError("the store is not open")
        found: Found = await self._writer.do(work, argument)
        return found

    async def _read(
        self,
        reader: Reader | None,
        query: Callable[Concatenate[sqlite3.Connection, Arguments], Found],
        *arguments: Arguments.args,
        **_named: Arguments.kwargs,
    ) -> Found:
        if self._writer is None or reader is None:
            raise StoreError("the store is not open")
        if self._writer.dead is not None:
            raise self._writer.dead
        try:
            return await reader.do(query, *arguments)
        except sqlite3.Error as error:
            meaning = translated(error, self._path)
            if isinstance(meaning, BrokenError):
                self._writer.fail(meaning)
            raise meaning from error

    # ----------------------------------------------------------------- types and endpoints

    async def types(self) -> list[str]:
        return await self._read(self._showing, keeping.types)

    async def register(self, types: Sequence[str]) -> list[str]:
        return await self._write(keeping.register, tuple(types))

    async def endpoints(self) -> list[Endpoint]:
        return await self._read(self._sending, keeping.endpoints)

    async def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        return await self._write(keeping.put_endpoint, endpoint)

    async def save_health(self, health: dict[int, str]) -> None:
        await self._write(keeping.save_health, dict(health))

    async def remove_endpoint(self, number: int) -> None:
        await self._write(keeping.remove_endpoint, number)

    async def subscribers(self, type: str) -> list[int] | None:  # noqa: A002
        return await self._read(self._sending, keeping.subscribers, type)

    async def generation(self) -> int:
        """Always the same: no other process writes into the file."""
        return 0

    # ----------------------------------------------------------------- intake

    async def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        return await self._write(intake.add, events)

    async def add_deliveries(
        self, event_id: str, deliveries: Sequence[NewDelivery], created: int
    ) -> list[int]:
        return await self._write(intake.add_deliveries, (event_id, deliveries, created))

    # ----------------------------------------------------------------- what is due

    async def due(self, endpoint: int, until: int, room: int, loaded: set[int]) -> tuple[list[Waiting], int]:
        # A copy: what is settled and leaves the set meanwhile may still wait in what the reader sees.
        return await self._read(self._sending, waiting.due, endpoint, until, room, frozenset(loaded))

    async def tier(
        self, attempts: int, endpoints: Sequence[int], room: int, loaded: set[int]
    ) -> list[Waiting]:
        arguments = (attempts, tuple(endpoints), room, frozenset(loaded))
        return await self._read(self._sending, waiting.tier, *arguments)

    async def release(self, endpoint: int, in_flight: set[int]) -> None:
        """Nothing to give back: the one process owns every endpoint."""

    async def next_due(self) -> dict[int, int]:
        return await self._read(self._sending, waiting.next_due)

    async def hint(self, delivery: int, attempts: int) -> int | None:
        return await self._write(settling.hint, (delivery, attempts))

    # ----------------------------------------------------------------- results

    async def record(self, results: Sequence[Result]) -> list[Released]:
        return await self._write(settling.record, results)

    async def settle_waiting(
        self, endpoint: int, state: int, cause: int, at: int, in_flight: set[int]
    ) -> int:
        total = 0
        while True:
            call = (endpoint, state, cause, at, frozenset(in_flight), PART)
            count = await self._write(settling.settle_waiting, call)
            total += count
            if count < PART:
                return total

    async def orphans(self) -> list[int]:
        return await self._read(self._sending, waiting.orphans)

    async def cancel(self, delivery: int, state: int, cause: int, at: int) -> bool:
        return await self._write(settling.cancel, (delivery, state, cause, at))

    async def resend(self, deliveries: Sequence[int], due: int) -> list[Released]:
        return await self._write(settling.resend, (tuple(deliveries), due))

    # ----------------------------------------------------------------- what is shown

    async def event(self, event_id: str) -> Event | None:
        return await self._read(self._showing, queries.event, event_id)

    async def events_between(self, since: int, until: int, after: int, limit: int) -> list[Event]:
        return await self._read(self._showing, queries.events_between, since, until, after, limit)

    async def delivery(self, delivery_id: str) -> Delivery | None:
        return await self._read(self._showing, queries.delivery, delivery_id)

    async def deliveries(self, chosen: Filter) -> list[Delivery]:
        return await self._read(self._showing, queries.deliveries, chosen)

    async def poll(self, endpoint: int, after: int, limit: int) -> list[Waiting]:
        return await self._read(self._sending, waiting.poll, endpoint, after, limit)

    async def trace(self, after: int, limit: int) -> list[TraceRow]:
        return await self._read(self._showing, queries.trace, after, limit)

    async def backlog(self) -> dict[int, int]:
        if self._writer is None:
            raise StoreError("the store is not open")
        totals = sorted(self._writer.totals.items())
        return {tier: count for (state, tier), count in totals if state == WAITING and count}

    async def totals(self) -> dict[int, int]:
        if self._writer is None:
            raise StoreError("the store is not open")
        found: Counter[int] = Counter()
        for (state, _), count in self._writer.totals.items():
            found[state] += count
        return {state: count for state, count in sorted(found.items()) if count}

    # ----------------------------------------------------------------- objects and retention

    async def put_object(self, type: str, id: str, data: bytes, at: int) -> None:  # noqa: A002
        await self._write(keeping.put_object, (type, id, data, at))

    async def object(self, type: str, id: str) -> bytes | None:  # noqa: A002
        return await self._read(self._sending, queries.stored_object, type, id)

    async def delete_object(self, type: str, id: str) -> bool:  # noqa: A002
        return await self._write(keeping.delete_object, (type, id))

    async def prune(self, before: int, limit: int) -> int:
        total = 0
        while True:
            room = min(PART, limit - total)
            count = await self._write(keeping.prune, (before, room))
            total += count
            if count < room or total >= limit:
                return total


class Reader:
    """A read-only connection and the one thread that uses it."""

    def __init__(self, path: Path, name: str) -> None:
        self._connection = open_reader(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def do(self, query: Callable[..., Found], *arguments: Any) -> Found:
        """What the query finds, all of it in one state of the file."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, query, arguments)

    def _run(self, query: Callable[..., Found], arguments: tuple[Any, ...]) -> Found:
        self._connection.execute("BEGIN")
        try:
            return query(self._connection, *arguments)
        finally:
            with contextlib.suppress(sqlite3.OperationalError):  # SQLite has ended it after an error
                self._connection.execute("COMMIT")

    def close(self) -> None:
        """Finish what was asked for."""
        self._thread.shutdown()
        self._connection.close()


def locked(path: Path) -> int:
    """A lock on the file beside it, held until the descriptor is closed or the process dies.

    Raises:
        StoreError: another process holds it.
        StoreUnavailableError: its folder cannot be used.
    """
    beside = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailableError(f"{beside} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"{path} is used by another process; stop it, or give this one its own file"
        ) from error
    return descriptor
