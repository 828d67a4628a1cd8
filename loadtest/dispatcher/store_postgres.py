"""The store for more than one process: PostgreSQL.

    writer   what must last: events, results, endpoints          group commit, flushed to disk
    claims   what is due, and who has it in memory               group commit, not waited for: claims die with processes
    readers  what people look at, and what is asked every second
    sharing  leases, and what other processes tell

The modules ``store_postgres_*`` hold the parts: ``sql`` every statement, ``session`` connections and transactions,
``sharing`` who owns what, ``intake``, ``results`` and ``shown`` the port's calls.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg

from loadtest.dispatcher import (
    store_postgres_intake as intake,
)
from loadtest.dispatcher import (
    store_postgres_results as results_,
)
from loadtest.dispatcher import (
    store_postgres_shown as shown,
)
from loadtest.dispatcher import (
    store_postgres_sql as sql,
)
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
from loadtest.dispatcher.store import Changes, StoreError, StoreUnavailableError
from loadtest.dispatcher.store_postgres_session import NO_LOCKS, Locks, Server, Session, Transaction
from loadtest.dispatcher.store_postgres_sharing import Sharing
from sim.policy import FOREVER, WAITING

T = TypeVar("T")

_AT_ONCE = 5_000
"""Deliveries that one transaction settles where all of an endpoint's are: others wait no longer than for these."""
_WALK_INDEXES = "set enable_seqscan = off; set enable_bitmapscan = off"
"""What is due is found by its index, however little the server's statistics know of a table that grew just now."""
_PAUSE_S = 0.5
_TRACE_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2)


class PostgresStore:
    """Implements ``store.Store``; see there for what each method promises.

    ``dsn`` is what libpq takes; ``process_name`` is shown in the table of processes.
    """

    def __init__(self, dsn: str, *, process_name: str | None = None) -> None:
        self._server = Server(dsn)
        self._name = process_name or f"{socket.gethostname()}:{os.getpid()}"
        self._sharing = Sharing(self._server, self._name, self._settled)
        self._changes: Changes
        self._writer: Session
        self._claims: Session
        self._readers: tuple[Session, Session]
        self._open = False

    # ----------------------------------------------------------------- life

    async def open(self, changes: Changes) -> None:
        """Connect, migrate, take part in the sharing."""
        self._changes = changes
        await self._migrate()
        await self._sharing.open(changes)

        def session(settings: str) -> Session:
            return Session(self._server, settings=settings, process=lambda: self._sharing.process)

        self._writer = session("")
        self._claims = session(f"set synchronous_commit = off; {_WALK_INDEXES}")
        self._readers = (session(_WALK_INDEXES), session(_WALK_INDEXES))
        self._open = True

    async def close(self) -> None:
        """Finish, give up ownership, disconnect."""
        if not self._open:
            return
        self._open = False
        await asyncio.gather(*(one.close() for one in (self._writer, self._claims, *self._readers)))
        await self._sharing.close()

    async def check(self) -> None:
        """Write to a row of one's own."""

        async def touch(part: Transaction) -> None:
            await part.rows(sql.CHECK, {"me": self._sharing.process})

        await self._write(touch)

    def owns(self, endpoint: int) -> bool:
        """By memory, as long as the lease lasts."""
        return self._sharing.owns(endpoint)

    async def _migrate(self) -> None:
        connection = await self._server.connect()
        try:
            await _bring_up_to_date(connection)
        except psycopg.Error as error:
            raise self._server.translated(error) from error
        finally:
            await connection.close()

    async def _settled(self) -> None:
        """Wait for all that was begun before."""

        async def nothing(_: Transaction) -> None:
            return None

        await asyncio.gather(self._writer.run(nothing), self._claims.run(nothing))

    async def _write(self, work: Callable[[Transaction], Awaitable[T]], locks: Locks = NO_LOCKS) -> T:
        self._require_open()
        return await self._writer.run(work, locks)

    async def _claim(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        self._require_open()
        return await self._claims.run(work)

    async def _read(self, work: Callable[[Transaction], Awaitable[T]], *, quick: bool = True) -> T:
        self._require_open()
        return await self._readers[not quick].run(work)

    def _require_open(self) -> None:
        if not self._open:
            raise StoreUnavailableError("the store is not open")

    # ----------------------------------------------------------------- types and endpoints

    async def types(self) -> list[str]:
        """All event types."""
        return await self._read(intake.types)

    async def register(self, types: Sequence[str]) -> list[str]:
        """Add event types."""
        return await self._write(lambda part: intake.register(part, types))

    async def endpoints(self) -> list[Endpoint]:
        """All endpoints."""
        return await self._read(shown.endpoints)

    async def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Insert or replace an endpoint."""
        return await self._write(lambda part: intake.put_endpoint(part, endpoint))

    async def save_health(self, health: dict[int, str]) -> None:
        """Replace what is remembered of endpoints."""
        values = {"numbers": list(health), "healths": list(health.values())}
        await self._write(lambda part: part.rows(sql.SAVE_HEALTH, values))

    async def remove_endpoint(self, number: int) -> None:
        """Remove an endpoint."""
        await self._write(lambda part: intake.remove_endpoint(part, number), Locks(removes=True))

    async def subscribers(self, type: str) -> list[int] | None:  # noqa: A002
        """Endpoints that want this type; one row without an endpoint says that nobody does."""
        found = await self._read(lambda part: part.rows(sql.SUBSCRIBERS, {"type": type}))
        return [number for (number,) in found if number is not None] if found else None

    async def generation(self) -> int:
        """What each change raises, whichever process makes it."""
        [(number,)] = await self._read(lambda part: part.rows(sql.GENERATION))
        return int(number)

    # ----------------------------------------------------------------- intake

    async def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """Store events."""
        locks = intake.locks(new for event in events for new in event.deliveries)
        return await self._write(lambda part: intake.add(part, events, self._sharing), locks)

    async def add_deliveries(
        self, event_id: str, deliveries: Sequence[NewDelivery], created: int
    ) -> list[int]:
        """Store more deliveries of an event."""
        waiting: list[tuple[int, int]] = []

        async def work(part: Transaction) -> list[int]:
            waiting.clear()
            return await intake.add_deliveries(
                part, event_id, deliveries, created, self._sharing, lambda *told: waiting.append(told)
            )

        added = await self._write(work, intake.locks(deliveries))
        for endpoint, due in waiting:
            self._changes.due_changed(endpoint, due)
        return added

    # ----------------------------------------------------------------- what is due

    async def due(self, endpoint: int, until: int, room: int, loaded: set[int]) -> tuple[list[Waiting], int]:
        """Claim what is due."""
        if not self.owns(endpoint):
            return [], FOREVER
        found = await self._claim(
            lambda part: results_.due(part, endpoint, until, room, loaded, self._sharing.process)
        )
        if self.owns(endpoint):
            return found
        await self.release(endpoint, loaded)  # ownership went while the claim was made
        return [], FOREVER

    async def tier(
        self, attempts: int, endpoints: Sequence[int], room: int, loaded: set[int]
    ) -> list[Waiting]:
        """Claim what waits for one attempt number."""
        mine = [number for number in endpoints if self.owns(number)]
        found = await self._claim(
            lambda part: results_.tier(part, attempts, mine, room, loaded, self._sharing.process)
        )
        for lost in {waiting.endpoint for waiting in found if not self.owns(waiting.endpoint)}:
            await self.release(lost, loaded)
        return [waiting for waiting in found if self.owns(waiting.endpoint)]

    async def release(self, endpoint: int, in_flight: set[int]) -> None:
        """Give back what is claimed; tries until the server has heard it, or the claims have lapsed."""
        values: dict[str, Any] = {"endpoint": endpoint, "in_flight": list(in_flight)}
        values["me"] = self._sharing.process

        async def work(part: Transaction) -> None:
            for (when,) in await part.rows(sql.RELEASE, values):
                part.tell(endpoint, when)

        while self._open and values["me"] == self._sharing.process:
            try:
                return await self._claim(work)
            except StoreUnavailableError:
                await asyncio.sleep(_PAUSE_S)
        return None

    async def next_due(self) -> dict[int, int]:
        """When each owned endpoint has something to do."""
        shards, process = self._sharing.shards, self._sharing.process
        return await self._read(lambda part: results_.next_due(part, shards, process))

    async def hint(self, delivery: int, attempts: int) -> int | None:
        """Take a broker's word that a delivery is due."""
        return await self._claim(lambda part: results_.hint(part, delivery, attempts, self._sharing))

    # ----------------------------------------------------------------- results

    async def record(self, results: Sequence[Result]) -> list[Released]:
        """Store what attempts brought; this ends their claims."""
        locks = Locks(deliveries=[result.delivery for result in results])
        return await self._write(lambda part: results_.record(part, results, self._sharing), locks)

    async def settle_waiting(
        self, endpoint: int, state: int, cause: int, at: int, in_flight: set[int]
    ) -> int:
        """Settle all that waits for an endpoint, some thousands per transaction."""
        values: dict[str, Any] = {"endpoint": endpoint, "state": state, "cause": cause, "at": at}
        values |= {"in_flight": list(in_flight), "below": FOREVER, "limit": _AT_ONCE}
        count = 0
        while True:
            settled = await self._write(
                lambda part: results_.settle_waiting(part, values), Locks(endpoints=[endpoint])
            )
            count += len(settled)
            if len(settled) < _AT_ONCE:
                return count
            values["below"] = min(settled)

    async def orphans(self) -> list[int]:
        """Removed endpoints for which something waits."""
        return [number for (number,) in await self._read(lambda part: part.rows(sql.ORPHANS))]

    async def cancel(self, delivery: int, state: int, cause: int, at: int) -> bool:
        """Settle one waiting delivery."""
        released = await self._write(
            lambda part: results_.cancel(part, delivery, state, cause, at, self._sharing),
            Locks(deliveries=[delivery]),
        )
        for endpoint, due in released or []:
            if self.owns(endpoint):
                self._changes.due_changed(endpoint, due)
        return released is not None

    async def resend(self, deliveries: Sequence[int], due: int) -> list[Released]:
        """Let settled deliveries wait again."""
        locks = Locks(deliveries=list(deliveries), lets_wait=True)
        return await self._write(lambda part: results_.resend(part, deliveries, due, self._sharing), locks)

    # ----------------------------------------------------------------- what is shown

    async def event(self, event_id: str) -> Event | None:
        """One event."""
        return await self._read(lambda part: shown.event(part, event_id))

    async def events_between(self, since: int, until: int, after: int, limit: int) -> list[Event]:
        """Events by creation."""
        return await self._read(
            lambda part: shown.events_between(part, since, until, after, limit), quick=False
        )

    async def delivery(self, delivery_id: str) -> Delivery | None:
        """One delivery with its log."""
        return await self._read(lambda part: shown.delivery(part, delivery_id))

    async def deliveries(self, chosen: Filter) -> list[Delivery]:
        """Deliveries, new ones first."""
        return await self._read(lambda part: shown.deliveries(part, chosen), quick=False)

    async def poll(self, endpoint: int, after: int, limit: int) -> list[Waiting]:
        """What an endpoint that polls has not seen."""
        return await self._read(lambda part: shown.poll(part, endpoint, after, limit))

    async def trace(self, after: int, limit: int) -> list[TraceRow]:
        """What happened after a cursor; waits a little for transactions that hold it back."""
        for pause in _TRACE_PAUSES_S:
            found = await self._read(lambda part: shown.trace(part, after, limit))
            [(more,)] = await self._read(lambda part: part.rows(sql.LOGGED_AFTER, {"after": after}))
            if found or not more:
                return found
            await asyncio.sleep(pause)
        return await self._read(lambda part: shown.trace(part, after, limit))

    async def backlog(self) -> dict[int, int]:
        """Waiting deliveries by the number of their next attempt."""
        return {tier: count for state, tier, count in await self._read(_totals) if state == WAITING}

    async def totals(self) -> dict[int, int]:
        """Deliveries by state."""
        found: Counter[int] = Counter()
        for state, _, count in await self._read(_totals):
            found[state] += count
        return dict(found)

    # ----------------------------------------------------------------- objects and retention

    async def put_object(self, type: str, id: str, data: bytes, at: int) -> None:  # noqa: A002
        """Store an object."""
        values = {"type": type, "id": id, "data": data, "at": at}
        await self._write(lambda part: part.rows(sql.PUT_OBJECT, values))

    async def object(self, type: str, id: str) -> bytes | None:  # noqa: A002
        """An object's data."""
        found = await self._read(lambda part: part.rows(sql.OBJECT, {"type": type, "id": id}))
        return bytes(found[0][0]) if found else None

    async def delete_object(self, type: str, id: str) -> bool:  # noqa: A002
        """Delete an object."""
        found = await self._write(lambda part: part.rows(sql.DELETE_OBJECT, {"type": type, "id": id}))
        return bool(found)

    async def prune(self, before: int, limit: int) -> int:
        """Delete what was settled long ago."""
        return await self._write(lambda part: results_.prune(part, before, limit))


async def _totals(part: Transaction) -> list[Any]:
    return await part.rows(sql.TOTALS)


async def _bring_up_to_date(connection: psycopg.AsyncConnection[Any]) -> None:
    """Run the migrations that this database lacks; other processes that start at the same time wait."""

    async def value(statement: str, **values: Any) -> Any:
        row = await (await connection.execute(statement, values or None)).fetchone()
        return row and row[0]

    async with connection.transaction():
        await value(sql.LOCK, key=sql.MIGRATION_LOCK)
        if (encoding := await value(sql.ENCODING)) != "UTF8":
            raise StoreError(f"the database keeps text in {encoding}; create one with encoding UTF8")
        if not await value(sql.HAS_SCHEMA, schema=sql.SCHEMA):
            await connection.execute(sql.CREATE_SCHEMA)
        await connection.execute(sql.CREATE_VERSION)
        version = await value(sql.VERSION)
        if version > len(sql.MIGRATIONS):
            raise StoreError(
                f"the database is of version {version}, made by a newer hooklab than this "
                f"(version {len(sql.MIGRATIONS)}); upgrade hooklab, or choose another database"
            )
        for migration in sql.MIGRATIONS[version:]:
            await connection.execute(migration)
        await value(sql.SET_VERSION + " returning number", number=len(sql.MIGRATIONS))
