"""From a posted event to a stored one: identity, digest, fan-out; answered once it is durable."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from hashlib import blake2b

import orjson

from loadtest import clock
from loadtest.dispatcher.records import Accepted, Endpoint, NewEvent
from loadtest.dispatcher.scheduler import Scheduler
from loadtest.dispatcher.schemas import IncomingEvent, Refused
from loadtest.dispatcher.store import Store
from loadtest.dispatcher.subscriptions import Subscriptions
from sim.errors import Problem

MOST_DATA = 256 * 1024
"""Bytes of one event's data."""


class Intake:
    """Accepts events. ``holds_id``: data goes into the object store, and the queue holds only ids."""

    def __init__(
        self, store: Store, subscriptions: Subscriptions, scheduler: Scheduler, holds_id: bool
    ) -> None:
        self.store = store
        self.subscriptions = subscriptions
        self.scheduler = scheduler
        self.holds_id = holds_id

    async def accept(
        self, incoming: Sequence[IncomingEvent], only: Endpoint | None = None
    ) -> tuple[list[NewEvent], list[Accepted]]:
        """Store events, all or none, and start what is due; ``only``: for one endpoint, whatever it listens to.

        Raises:
            Refused: an event that is too large.
            ConflictError, StoreUnavailableError: see ``Store.add``.
        """
        now = clock.now()
        events = [await self.event(one, now, only, at) for at, one in enumerate(incoming)]
        accepted = await self.store.add(events)
        self.scheduler.accept(events, accepted)
        return events, accepted

    async def event(self, incoming: IncomingEvent, now: int, only: Endpoint | None, at: int) -> NewEvent:
        """One event as it goes into the store."""
        data = orjson.dumps(incoming.data)
        if len(data) > MOST_DATA:
            rule = f"must be at most {MOST_DATA:,} bytes of JSON; it has {len(data):,}"
            raise Refused([Problem(f"{at}.data", None, rule)])
        name = incoming.id or uuid.uuid4().hex
        target = incoming.object
        seq = -1 if incoming.seq is None else incoming.seq
        occurred = now if incoming.occurred_at is None else incoming.occurred_at
        content = orjson.dumps(
            [
                incoming.type,
                incoming.key,
                seq,
                incoming.occurred_at,
                target.type if target else "",
                target.id if target else "",
            ]
        )
        digest = blake2b(content + data, digest_size=16).digest()
        if self.holds_id and target is None:
            await self.store.put_object(incoming.type, name, data, now)
            kept, object_type, object_id = b"", incoming.type, name
        elif target is not None:
            kept, object_type, object_id = (data if data != b"null" else b""), target.type, target.id
        else:
            kept, object_type, object_id = data, "", ""
        endpoints = (only,) if only is not None else await self.subscriptions.of(incoming.type)
        out = tuple(self.scheduler.fan_out(name, incoming.key, one, now) for one in endpoints)
        return NewEvent(
            name, digest, incoming.type, incoming.key, seq, occurred, now, kept, object_type, object_id, out
        )
