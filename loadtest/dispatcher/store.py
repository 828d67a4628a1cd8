"""The port to what lasts, and what may go wrong there.

A store promises: when ``add`` or ``record`` has returned, what it was given survives the death of the process and,
unless it was told otherwise, of the machine. Every coroutine is called from the dispatcher's event loop and never
blocks it. Calls of many tasks at once share commits; a bad one fails alone.

One endpoint's deliveries are handed to one process at a time (``owns``): slots, rates, breaker and budget of an
endpoint are then exact, and its deliveries come in order of (due, number).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
from sim.policy import SECOND

HINT_GRACE = 5 * SECOND
"""How much later than due a hinted delivery comes out of ``Store.due`` if no hint has come."""


class StoreError(Exception):
    """The store cannot do its work now; the message says why and what to do."""


class StoreUnavailableError(StoreError):
    """The store does not answer now (its server is away, its disk is full); the same call may succeed later."""


class ConflictError(StoreError):
    """An event with this id and other content is there already."""


class Changes(Protocol):
    """What a store tells of what other processes, or its own writers, have done. Called in the event loop."""

    def endpoints_changed(self) -> None:
        """Endpoints, types or subscriptions are not what they were."""

    def due_changed(self, endpoint: int, due: int) -> None:
        """A delivery of this endpoint waits in the store from now on and is due then."""

    def owned_changed(self) -> None:
        """``owns`` answers differently from now on."""

    def failed(self, error: StoreError) -> None:
        """The store is broken for good: the process must end, rather than accept what it cannot keep."""


class Store(Protocol):
    """Events, deliveries, attempts, endpoints and objects."""

    # ----------------------------------------------------------------- life

    async def open(self, changes: Changes) -> None:
        """Connect, bring the schema up to date and take part in the sharing of endpoints.

        Raises:
            StoreError: what keeps it from working, and what to do about it.
        """

    async def close(self) -> None:
        """Finish what was asked for, give up all ownership, disconnect."""

    async def check(self) -> None:
        """Whether it can be read and written now; raises ``StoreUnavailableError``."""

    def owns(self, endpoint: int) -> bool:
        """Whether this process sends what waits for this endpoint."""

    # ----------------------------------------------------------------- types and endpoints

    async def types(self) -> list[str]:
        """All event types; a type's position is its bit in the masks."""

    async def register(self, types: Sequence[str]) -> list[str]:
        """Add those types that are new to the types and to the masks of the endpoints; all types afterwards.

        Who gets events of the types before them stays as it is, so nobody is told.
        """

    async def endpoints(self) -> list[Endpoint]:
        """All endpoints, in order of number."""

    async def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Insert (number 0) or replace an endpoint and its mask; a type that it names is registered with it.

        Raises:
            ConflictError: its id is taken.
        """

    async def save_health(self, health: dict[int, str]) -> None:
        """Replace ``Endpoint.health`` by number, and nothing else."""

    async def remove_endpoint(self, number: int) -> None:
        """Remove an endpoint; its settled deliveries stay listed under its id, and nothing comes to wait for it.

        What waited before is for the caller to settle (``settle_waiting``).
        """

    async def subscribers(self, type: str) -> list[int] | None:  # noqa: A002  the word of the domain
        """Numbers of the endpoints whose mask has this type's bit, in order; None: the type is not registered."""

    async def generation(self) -> int:
        """Another number whenever another process has changed endpoints, told of it or not."""

    # ----------------------------------------------------------------- intake

    async def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """Store events and their deliveries, all or none.

        A delivery with a ``stream`` is held while an earlier one of its endpoint and stream is not settled. One
        that would wait for an endpoint which has been removed meanwhile is dropped, and told as held.

        Raises:
            ConflictError: an event with the same id and another digest is there, or is twice in the list.
            StoreUnavailableError: nothing was stored.
        """

    async def add_deliveries(
        self, event_id: str, deliveries: Sequence[NewDelivery], created: int
    ) -> list[int]:
        """More deliveries of a stored event; those that exist already are left alone. Numbers of the new ones.

        What would wait for an endpoint that has been removed is dropped, as by ``add``.
        """

    # ----------------------------------------------------------------- what is due

    async def due(self, endpoint: int, until: int, room: int, loaded: set[int]) -> tuple[list[Waiting], int]:
        """What waits for an endpoint, is not held and is due by ``until``, in order of (due, number).

        At most ``room`` rows; numbers in ``loaded`` are left out. With them, when the next one after those is
        due (``sim.policy.FOREVER``: there is none).
        """

    async def tier(
        self, attempts: int, endpoints: Sequence[int], room: int, loaded: set[int]
    ) -> list[Waiting]:
        """What waits for attempt ``attempts + 1`` at these endpoints, due or not, first come first.

        First come: by the time at which it began to wait for this attempt, then number.
        """

    async def release(self, endpoint: int, in_flight: set[int]) -> None:
        """Give back what was handed out for an endpoint that is no longer owned, but for the numbers in flight."""

    async def next_due(self) -> dict[int, int]:
        """For each owned endpoint where something waits that is not held, when the first of it is due."""

    async def hint(self, delivery: int, attempts: int) -> int | None:
        """A broker says that this delivery is due; its endpoint, or None if the hint is old or came before."""

    # ----------------------------------------------------------------- results

    async def record(self, results: Sequence[Result]) -> list[Released]:
        """Store what attempts brought, in one transaction, and release the successors of what is settled.

        A delivery that has been settled meanwhile (cancelled) keeps its state; its attempt is logged all the same.
        """

    async def settle_waiting(
        self, endpoint: int, state: int, cause: int, at: int, in_flight: set[int]
    ) -> int:
        """Settle all that waits for an endpoint, but for the numbers in flight; how many there were.

        In parts: a crash leaves the rest waiting as it did, of each stream exactly one not held. Call it again.
        """

    async def orphans(self) -> list[int]:
        """Removed endpoints for which something waits: whoever removed them died before it had settled all."""

    async def cancel(self, delivery: int, state: int, cause: int, at: int) -> bool:
        """Settle one waiting delivery; False if it is settled already."""

    async def resend(self, deliveries: Sequence[int], due: int) -> list[Released]:
        """Let settled deliveries wait once more, due and born then; their attempts go on counting.

        One whose stream has others that are not settled is held behind them, whatever their numbers. Those that
        wait already are left alone. Released are those that may be started. The trace tells of each.
        """

    # ----------------------------------------------------------------- what is shown

    async def event(self, event_id: str) -> Event | None:
        """One event with the ids of its deliveries."""

    async def events_between(self, since: int, until: int, after: int, limit: int) -> list[Event]:
        """Events created in [since, until) with a number above ``after``, in order of number."""

    async def delivery(self, delivery_id: str) -> Delivery | None:
        """One delivery with its log."""

    async def deliveries(self, chosen: Filter) -> list[Delivery]:
        """Deliveries without their logs, new ones first."""

    async def poll(self, endpoint: int, after: int, limit: int) -> list[Waiting]:
        """Deliveries of a polling endpoint with a number above ``after``, settled or not, in order of number."""

    async def trace(self, after: int, limit: int) -> list[TraceRow]:
        """What happened after a cursor, in the order in which it was stored; nothing is ever skipped."""

    async def backlog(self) -> dict[int, int]:
        """How many deliveries wait for each attempt number, over all processes; kept, never counted."""

    async def totals(self) -> dict[int, int]:
        """How many deliveries there are in each state, over all processes; kept, never counted."""

    # ----------------------------------------------------------------- objects and retention

    async def put_object(self, type: str, id: str, data: bytes, at: int) -> None:  # noqa: A002
        """Store an object, or its new version."""

    async def object(self, type: str, id: str) -> bytes | None:  # noqa: A002
        """An object as it is now."""

    async def delete_object(self, type: str, id: str) -> bool:  # noqa: A002
        """Delete an object; False if there was none."""

    async def prune(self, before: int, limit: int) -> int:
        """Delete up to ``limit`` deliveries settled before then; how many were deleted.

        Their logs go with them, and events that have no other delivery; so do events created before then that
        never had one. Numbers and cursors of what was deleted are not given again.
        """
