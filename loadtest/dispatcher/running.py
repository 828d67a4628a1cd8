"""What the HTTP API asks of the scheduler that runs beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from loadtest.dispatcher.records import Accepted, Endpoint, NewDelivery, NewEvent, Released
from loadtest.dispatcher.store import Changes


class Running(Changes, Protocol):
    """The scheduler: what is under way, and what becomes due."""

    async def start(self) -> None:
        """Load endpoints and what is due; the store is open, and tells this object of changes."""

    async def stop(self, within_s: float) -> None:
        """Start nothing more, let attempts end for so many seconds, store what they brought."""

    def count_from(self, start: int) -> None:
        """The scenario's time begins: what its dispatcher does over time counts from here, ns since 1970."""

    def fan_out(self, event_id: str, key: str, endpoint: Endpoint, now: int) -> NewDelivery:
        """A new event's delivery to an endpoint, with the due time of its first attempt."""

    def accept(self, events: Sequence[NewEvent], accepted: Sequence[Accepted]) -> None:
        """Events have been stored: take their deliveries into memory, or leave them to the store."""

    async def refresh(self) -> None:
        """Take over the endpoints as they are stored."""

    async def poke(self, released: Sequence[Released]) -> None:
        """Deliveries wait in the store from now on."""

    async def drop(self, number: int, state: int, cause: int) -> int:
        """Settle all that waits for an endpoint but for what is in flight; how many there were."""

    def doubt(self) -> None:
        """A call of the store has failed and may have come through all the same: look for what nobody told of."""

    def forget(self, endpoint: int, delivery: int) -> None:
        """A delivery that waited has been settled in the store."""

    def in_flight(self, delivery: int) -> bool:
        """Whether an attempt of a delivery is under way."""

    def counts(self) -> Mapping[str, int | None]:
        """``in_flight``, ``ready`` and ``oldest_due`` (ns since 1970; None: nothing is loaded), among others."""

    def room(self) -> bool:
        """Whether more events may be accepted."""
