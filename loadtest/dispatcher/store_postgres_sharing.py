"""How processes share endpoints: leases on shards, renewed each second over the connection that also listens.

An endpoint belongs to shard ``number % SHARDS``. A process answers ``owns`` from memory, and its memory ends with its
lease: one that hears nothing from the server believes itself to own nothing before another may take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from loadtest import clock
from loadtest.dispatcher import store_postgres_sql as sql
from loadtest.dispatcher.store import Changes, StoreError
from loadtest.dispatcher.store_postgres_session import AWAY, Connection, Row, Server
from sim.policy import SECOND

SHARDS = 32
LEASE = sql.LEASE_S * SECOND
BEAT_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
EVERYBODY = {"from": 0, "endpoints": False, "due": [], "shards": True}
"""What a process sends that came or went."""


def shard(endpoint: int) -> int:
    """The shard to which an endpoint belongs."""
    return endpoint % SHARDS


def fair_share(me: int, living: list[int]) -> int:
    """How many shards a process is to have: all shares together are all shards, and none differ by more than one."""
    each, more = divmod(SHARDS, len(living))
    return each + (living.index(me) < more)


class Sharing:
    """One process among the others."""

    def __init__(self, server: Server, name: str, settled: Callable[[], Awaitable[None]]) -> None:
        """``settled`` returns when all that other connections had begun is committed."""
        self.process = 0
        """Its number; a new one after each lapse of its lease, so that what it had claimed before is void."""
        self._server = server
        self._name = name
        self._settled = settled
        self._owned: frozenset[int] = frozenset()
        self._leaving: frozenset[int] = frozenset()
        self._left: frozenset[int] = frozenset()
        self._lease_end = 0
        self._connection: Connection | None = None
        self._changes: Changes
        self._tasks: set[asyncio.Task[None]] = set()
        self._lapse: asyncio.TimerHandle | None = None
        self._told: frozenset[int] = frozenset()

    @property
    def shards(self) -> frozenset[int]:
        """Those whose endpoints this process owns now."""
        return self._owned - self._leaving if clock.now() < self._lease_end else frozenset()

    def owns(self, endpoint: int) -> bool:
        """Whether this process sends what waits for this endpoint."""
        return shard(endpoint) in self.shards

    async def open(self, changes: Changes) -> None:
        """Take part; returns with the first shards owned, if any were free."""
        self._changes = changes
        try:
            await self._join()
        except psycopg.Error as error:
            await self._disconnect()
            raise self._server.translated(error) from error
        self._spawn(self._live())

    async def close(self) -> None:
        """Give everything up at once, and tell the others."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lease_end = 0
        if self._lapse:
            self._lapse.cancel()
        if self._connection is not None:
            with contextlib.suppress(*AWAY):  # the leases then run out by themselves
                await self._rows(sql.GIVE_UP, shards=list(range(SHARDS)))
                await self._rows(sql.LEAVE)
                await self._rows(sql.NOTIFY, payload=json.dumps(EVERYBODY))
        await self._disconnect()

    # ----------------------------------------------------------------- the life of a process

    async def _live(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                if self._connection is None:
                    await self._join()
                else:
                    await self._beat()
                pause = FIRST_PAUSE_S
                await self._listen()
            except (StoreError, psycopg.Error, OSError):
                await self._disconnect()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _join(self) -> None:
        """Connect, and beat; whoever was away does not know what has changed meanwhile."""
        self._connection = await self._server.connect(sql.LISTEN)
        await self._beat()
        self._changes.endpoints_changed()

    async def _beat(self) -> None:
        """Renew what is owned, take what is free, leave what is too much."""
        asked = clock.now()
        if not self.process or not await self._rows(sql.HEARTBEAT):
            self._owned = self._leaving = self._left = frozenset()
            [(self.process,)] = await self._rows(sql.JOIN, name=self._name)
            await self._rows(sql.FORGET_DEAD)
            await self._rows(sql.NOTIFY, payload=json.dumps(EVERYBODY))
        if self._left:
            await self._rows(sql.GIVE_UP, shards=sorted(self._left))
            await self._rows(sql.NOTIFY, payload=json.dumps(EVERYBODY))
            self._leaving, self._left = self._leaving - self._left, frozenset()
        living = [number for (number,) in await self._rows(sql.LIVING)]
        share = fair_share(self.process, sorted({*living, self.process}))
        owned = {number for (number,) in await self._rows(sql.RENEW)}
        if len(owned) < share:
            owned |= {number for (number,) in await self._rows(sql.TAKE, room=share - len(owned))}
        self._owned, self._lease_end = frozenset(owned), asked + LEASE
        if surplus := sorted(owned - self._leaving)[share:]:
            self._leave(frozenset(surplus))
        self._tell()

    def _leave(self, surplus: frozenset[int]) -> None:
        """Own no more at once; let others have it when what was begun for it is committed."""
        self._leaving |= surplus

        async def hand_over() -> None:
            with contextlib.suppress(StoreError):  # then nothing is under way
                await self._settled()
            self._left |= surplus

        self._spawn(hand_over())

    def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        if self._lapse:
            self._lapse.cancel()
        left = max(self._lease_end - clock.now(), 0) / SECOND
        self._lapse = loop.call_later(left + 0.001, self._tell_if_changed)
        self._tell_if_changed()

    def _tell_if_changed(self) -> None:
        if self.shards != self._told:
            self._told = self.shards
            self._changes.owned_changed()

    # ----------------------------------------------------------------- what others tell

    async def _listen(self) -> None:
        """Pass on what others have done, until it is time to beat or somebody came or went."""
        assert self._connection is not None
        until = clock.now() + int(BEAT_S * SECOND)
        while (left := (until - clock.now()) / SECOND) > 0:
            async for notice in self._connection.notifies(timeout=left, stop_after=1):
                if self._heard(json.loads(notice.payload)):
                    return

    def _heard(self, told: dict[str, Any]) -> bool:
        if told["from"] != self.process:
            if told["endpoints"]:
                self._changes.endpoints_changed()
            for endpoint, due in told["due"]:
                if self.owns(endpoint):
                    self._changes.due_changed(endpoint, due)
        return bool(told.get("shards"))

    # ----------------------------------------------------------------- connection

    async def _rows(self, statement: str, **values: Any) -> list[Row]:
        assert self._connection is not None
        cursor = await self._connection.execute(statement, {"me": self.process, **values})
        found: list[Row] = await cursor.fetchall()
        return found

    async def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*AWAY):
                await self._connection.close()
            self._connection = None

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
