"""Connections to PostgreSQL that outlive its restarts, and transactions that the calls of many tasks share.

A ``Session`` runs what is asked of it in the order of asking. What is there when it becomes free goes into one
transaction, so one flush to the server's disk serves many calls; each has a savepoint and fails alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import conninfo

from loadtest import clock
from loadtest.dispatcher import store_postgres_sql as sql
from loadtest.dispatcher.store import StoreError, StoreUnavailableError
from sim.policy import SECOND, WAITING

T = TypeVar("T")
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]

MOST_SHARING = 50
"""Calls in one transaction: PostgreSQL keeps up to 64 savepoints of a transaction in its fast memory."""
MOST_TOLD = 100
"""Endpoints in one notification, which holds 8,000 bytes; the others are found by the sweep of each second."""
TRIES = 4
"""How often a call runs that the server ended because it and another waited for each other."""
LONGEST_PAUSE = 2 * SECOND

AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction, OSError)
CLASHES = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

_KEEP_ALIVE: dict[str, int | str] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "hooklab",
}
_SETTINGS = (
    f"set search_path to {sql.SCHEMA}; set client_encoding to 'UTF8'; "
    "set idle_in_transaction_session_timeout to '10s'; set jit to off"
)
"""A process that is stopped in the middle of a transaction must not keep its locks from the others. Compiling a
statement costs a hundred times what running these does."""


@dataclass(frozen=True, kw_only=True)
class Locks:
    """Whose order a call depends on: slots themselves, endpoints it adds for, deliveries, endpoints it settles."""

    slots: Sequence[int] = ()
    targets: Sequence[int] = ()
    deliveries: Sequence[int] = ()
    endpoints: Sequence[int] = ()
    lets_wait: bool = False
    """Whether it may let a delivery wait: no endpoint is removed meanwhile."""
    removes: bool = False
    """Whether it removes an endpoint: nobody lets a delivery wait meanwhile."""


NO_LOCKS = Locks()


class Transaction:
    """What one call may do within the transaction that it shares."""

    def __init__(self, connection: Connection, slots: list[int], logged: int) -> None:
        self.slots = slots
        """The locks of order that this transaction holds."""
        self.logged = logged
        self.due: dict[int, int] = {}
        self.endpoints_changed = False
        self.totals: Counter[tuple[int, int]] = Counter()
        self._connection = connection

    async def rows(self, statement: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        """Run a statement that returns rows."""
        cursor = await self._connection.execute(statement, values)
        found: list[Row] = await cursor.fetchall()
        return found

    def position(self, count: int) -> int:
        """The first of so many places in the log of this transaction."""
        if self.logged + count >= sql.MOST_LOGGED:
            raise StoreError(
                f"one transaction logs up to {sql.MOST_LOGGED} rows; store fewer results at once"
            )
        first, self.logged = self.logged, self.logged + count
        return first

    def tell(self, endpoint: int, due: int) -> None:
        """Let the other processes know, once this is committed, that something waits."""
        self.due[endpoint] = min(due, self.due.get(endpoint, due))

    def count(self, state: int, attempts: int, change: int = 1) -> None:
        """There is a delivery more (or less) in this state, after so many attempts."""
        self.totals[state, attempts + 1 if state == WAITING else 0] += change


Work = Callable[[Transaction], Awaitable[T]]


@dataclass(eq=False)
class _Call(Generic[T]):
    work: Work[T]
    locks: Locks
    answer: asyncio.Future[T]
    tries: int = 0
    result: T | None = field(default=None)


class Server:
    """Where the database is, and how to speak to it."""

    def __init__(self, dsn: str) -> None:
        try:
            parts = conninfo.conninfo_to_dict(dsn)
        except psycopg.Error as error:
            raise StoreError(
                f"store {_without_password(dsn)!r} is no PostgreSQL address ({_first_line(error)}); "
                "write postgresql://user@host:5432/database"
            ) from None
        self.place = f"PostgreSQL at {parts.get('host') or 'the local socket'}:{parts.get('port') or 5432}"
        self._dsn = conninfo.make_conninfo(dsn, **{k: v for k, v in _KEEP_ALIVE.items() if k not in parts})

    async def connect(self, settings: str = "") -> Connection:
        """A new connection, in which each statement is its own transaction until one begins.

        Raises:
            StoreUnavailableError: the server cannot be reached now.
            StoreError: it refuses this user or this database.
        """
        try:
            connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        except AWAY as error:
            raise self.refused(error) from error
        try:
            await connection.execute(f"{_SETTINGS};{settings}")
        except psycopg.Error as error:
            await connection.close()
            raise self.translated(error) from error
        return connection

    def refused(self, error: Exception) -> StoreError:
        """What a failed connection means; the server tells of a wrong name or password in words only."""
        said = _first_line(error)
        for words, remedy in _REMEDIES.items():
            if words in str(error):
                return StoreError(f"{self.place} refuses: {said}; {remedy}")
        return StoreUnavailableError(
            f"{self.place} cannot be reached: {said}; start it, or correct the address"
        )

    def translated(self, error: Exception) -> StoreError:
        """A failure of a statement as the port tells it."""
        if isinstance(error, StoreError):
            return error
        if isinstance(error, (*AWAY, *CLASHES)):
            return StoreUnavailableError(f"{self.place} does not answer now: {_first_line(error)}; try again")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return StoreError(
                f"{self.place}: {_first_line(error)}; let its owner run: grant create on database … to …"
            )
        return StoreError(f"{self.place}: {_first_line(error)}")


_REMEDIES = {
    "password authentication failed": "correct user and password in its address",
    "no password supplied": "put the password into its address, or into ~/.pgpass",
    "does not exist": "create it (createdb, createuser), or correct the address",
    "no pg_hba.conf entry": "let its administrator allow this host in pg_hba.conf",
    "permission denied for database": "let its owner run: grant connect, create on database … to …",
}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _without_password(dsn: str) -> str:
    before, at, after = dsn.rpartition("@")
    scheme, slashes, user = before.partition("://")
    return f"{scheme}{slashes}{user.partition(':')[0]}{at}{after}" if at else dsn


class Session:
    """One connection, used by many tasks."""

    def __init__(self, server: Server, *, settings: str = "", process: Callable[[], int] = int) -> None:
        self._server = server
        self._settings = settings
        self._process = process
        self._calls: deque[_Call[Any]] = deque()
        self._wake = asyncio.Event()
        self._connection: Connection | None = None
        self._retry_at = 0
        self._pause = 0
        self._why: StoreError | None = None
        self._closing = False
        self._task = asyncio.create_task(self._serve())

    async def run(self, work: Work[T], locks: Locks = NO_LOCKS) -> T:
        """The result of ``work``, committed; what it raises undoes what it did, and nothing else.

        Raises:
            StoreUnavailableError: the server is away; whether a commit under way came through is not known.
        """
        if self._closing:
            raise StoreUnavailableError("the store is closed")
        call = _Call(work, locks, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._wake.set()
        answer: T = await call.answer
        return answer

    async def close(self) -> None:
        """Do what was asked for, then disconnect."""
        self._closing = True
        self._wake.set()
        await self._task
        await self._disconnect()

    async def _serve(self) -> None:
        while self._calls or not self._closing:
            if not self._calls:
                self._wake.clear()
                await self._wake.wait()
                continue
            calls = [self._calls.popleft() for _ in range(min(len(self._calls), MOST_SHARING))]
            try:
                failed = await self._transact(await self._connected(), calls)
            except Exception as error:
                await self._disconnect()
                failed = dict.fromkeys(calls, error)
            self._answer(calls, failed)

    async def _transact(self, connection: Connection, calls: list[_Call[Any]]) -> dict[_Call[Any], Exception]:
        """Run these calls in one transaction; what failed of them."""
        failed: dict[_Call[Any], Exception] = {}
        done: list[Transaction] = []
        logged = 0
        async with connection.pipeline() as pipeline:
            await connection.execute("begin")
            slots = await _lock(connection, [call.locks for call in calls])
            for place, call in enumerate(calls):
                part = Transaction(connection, slots, logged)
                await connection.execute("savepoint call")
                try:
                    call.result = await call.work(part)
                except Exception as error:
                    if connection.closed:
                        raise
                    failed[call] = error
                    await (
                        pipeline.sync()
                    )  # leaves the state in which the server ignores what follows an error
                    await connection.execute("rollback to savepoint call")
                    if isinstance(error, CLASHES):
                        # The others' locks are let go before more are asked for: one clash, not one per call.
                        failed |= dict.fromkeys(calls[place + 1 :], error)
                        break
                else:
                    await connection.execute("release savepoint call")
                    done.append(part)
                logged = part.logged
            await _sum_up(connection, self._process() % sql.TOTAL_SLOTS, done)
            if payload := _payload(self._process(), done):
                await connection.execute(sql.NOTIFY, {"payload": payload})
            await connection.execute("commit")
        return failed

    def _answer(self, calls: list[_Call[Any]], failed: dict[_Call[Any], Exception]) -> None:
        for call in reversed(calls):
            error = failed.get(call)
            if isinstance(error, CLASHES) and call.tries < TRIES:
                call.tries += 1
                self._calls.appendleft(call)
            elif call.answer.done():  # whoever asked has gone
                continue
            elif error is None:
                call.answer.set_result(call.result)
            else:
                told = self._server.translated(error)
                told.__cause__ = error if told is not error else error.__cause__
                call.answer.set_exception(told)

    async def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.closed and not _has_ended(self._connection):
            return self._connection
        await self._disconnect()
        if self._why is not None and clock.now() < self._retry_at:
            raise type(self._why)(str(self._why))
        try:
            self._connection = await self._server.connect(self._settings)
        except StoreError as error:
            self._pause = min(max(2 * self._pause, SECOND // 10), LONGEST_PAUSE)
            self._retry_at, self._why = clock.now() + self._pause, error
            raise
        self._pause, self._why = 0, None
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*AWAY):
                await self._connection.close()
            self._connection = None


def _has_ended(connection: Connection) -> bool:
    """Whether the server has said something unasked, which on an idle connection is its farewell."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _lock(connection: Connection, wanted: list[Locks]) -> list[int]:
    """Take the locks of all calls at once, in the order in which everybody takes them; the slots."""
    if any(locks.removes for locks in wanted):
        await connection.execute(sql.LOCK, {"key": sql.REMOVAL_LOCK})
    elif any(locks.lets_wait for locks in wanted):
        await connection.execute(sql.LOCK_SHARED, {"key": sql.REMOVAL_LOCK})
    values = {
        name: list({item for locks in wanted for item in getattr(locks, name)})
        for name in ("slots", "targets", "deliveries", "endpoints")
    }
    if not any(values.values()):
        return []
    cursor = await connection.execute(sql.LOCK_ORDER, values)
    return [slot for slot, _ in await cursor.fetchall()]


async def _sum_up(connection: Connection, slot: int, done: list[Transaction]) -> None:
    """Write what all calls have changed together, last of all: rows that others want are held for a moment only."""
    if any(part.endpoints_changed for part in done):
        await connection.execute(sql.NEXT_GENERATION)
    totals: Counter[tuple[int, int]] = Counter()
    for part in done:
        for place, change in part.totals.items():
            totals[place] += change
    changed = sorted((place, change) for place, change in totals.items() if change)
    if changed:
        values = {
            "slot": slot,
            "states": [state for (state, _), _ in changed],
            "tiers": [tier for (_, tier), _ in changed],
            "changes": [change for _, change in changed],
        }
        await connection.execute(sql.COUNT, values)


def _payload(process: int, done: list[Transaction]) -> str:
    """One notification for all that a transaction has to tell; empty: nothing."""
    due: dict[int, int] = {}
    for part in done:
        for endpoint, when in part.due.items():
            due[endpoint] = min(when, due.get(endpoint, when))
    changed = any(part.endpoints_changed for part in done)
    if not due and not changed:
        return ""
    first = sorted(due.items(), key=lambda item: item[1])[:MOST_TOLD]
    return json.dumps({"from": process, "endpoints": changed, "due": first}, separators=(",", ":"))
