"""Bringing what is due soon from the store into memory: bounded, endpoint by endpoint.

The store may hold millions of waiting deliveries; memory holds those of the next moment. Every endpoint has a share
of the room, so that one whose deliveries are stuck takes nothing away from the others. Under ``per_tier`` the
heads of each tier are loaded, due or not, since a worker holds the head until it is due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from loadtest import clock
from loadtest.dispatcher.live import LiveDelivery, LiveEndpoint
from loadtest.dispatcher.records import Waiting
from loadtest.dispatcher.store import Store, StoreError
from loadtest.realtime import RealClock
from sim import instant
from sim.policy import FOREVER, SECOND

log = logging.getLogger(__name__)

LOOKAHEAD = SECOND
"""How long before they are due deliveries are loaded, ns."""
MOST_LOADED = 10_000
"""Deliveries in memory."""
MOST_OF_ONE = 1_000
"""Deliveries of one endpoint in memory."""
TIER_ROOM = 500
"""Deliveries of one tier in memory, beyond those that its workers hold."""


class Feed:
    """What is loaded, and when to load more. ``take`` is called with each delivery that is loaded."""

    def __init__(self, store: Store, time: RealClock, take: Callable[[LiveDelivery], None]) -> None:
        self.store = store
        self.time = time
        self.take = take
        self.endpoints: dict[int, LiveEndpoint] = {}
        self.loaded_count = 0
        self.tiers: dict[int, int] | None = None
        """Under ``per_tier``: by attempts made, how many of that tier are loaded."""
        self.tier_rest: set[int] = set()
        """Tiers of which the store may hold more than is loaded."""
        self.tier_feeding: set[int] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    # ----------------------------------------------------------------- room

    @property
    def share(self) -> int:
        """Room of one endpoint."""
        return min(max(MOST_LOADED // max(len(self.endpoints), 1), 1), MOST_OF_ONE)

    def room(self, endpoint: LiveEndpoint) -> int:
        """How many more deliveries of an endpoint may be loaded."""
        return min(self.share - len(endpoint.loaded), MOST_LOADED - self.loaded_count)

    # ----------------------------------------------------------------- in and out

    def offer(self, endpoint: LiveEndpoint, row: Waiting) -> bool:
        """Load a delivery that has just been stored, if it is its endpoint's turn and there is room."""
        if row.number in endpoint.loaded:  # found in the store before this process heard that it is there
            return True
        if self.tiers is not None:
            fits = row.attempts not in self.tier_rest and self.tiers.get(row.attempts, 0) < TIER_ROOM
        else:
            fits = row.due <= min(clock.now() + LOOKAHEAD, endpoint.next_due)
        if fits and endpoint.callable and not endpoint.feeding and self.room(endpoint) > 0:
            self.load(endpoint, row)
            return True
        self.note(endpoint, row.due, row.attempts)
        return False

    def load(self, endpoint: LiveEndpoint, row: Waiting) -> None:
        """Take a row into memory."""
        delivery = LiveDelivery(row, endpoint)
        endpoint.loaded[row.number] = delivery
        self.loaded_count += 1
        if self.tiers is not None:
            self.tiers[row.attempts] = self.tiers.get(row.attempts, 0) + 1
        self.take(delivery)

    def unload(self, delivery: LiveDelivery) -> None:
        """A delivery leaves memory: it is settled, waits longer than a moment, or is somebody else's."""
        endpoint = delivery.endpoint
        if endpoint.loaded.pop(delivery.number, None) is None:
            return
        self.loaded_count -= 1
        if endpoint.feeding:
            endpoint.passed.add(delivery.number)
        if endpoint.next_due < FOREVER and len(endpoint.loaded) <= self.share // 2:
            self.look(endpoint)

    def left_tier(self, attempts: int) -> None:
        """A delivery of a tier has been started or dropped."""
        if self.tiers is not None:
            self.tiers[attempts] -= 1
            if attempts in self.tier_rest and self.tiers[attempts] <= TIER_ROOM // 2:
                self.look_at_tier(attempts)

    def note(self, endpoint: LiveEndpoint, due: int, attempts: int | None = None) -> None:
        """A delivery waits in the store from now on; ``attempts`` None: nobody knows of which tier."""
        if self.tiers is not None:
            if attempts is not None:  # what nobody knows the tier of is found by the survey
                self.look_at_tier(attempts)
            return
        if endpoint.feeding:
            endpoint.missed = min(endpoint.missed, due)
        endpoint.next_due = min(endpoint.next_due, due)
        self.look(endpoint)

    # ----------------------------------------------------------------- shared: by endpoint

    def look(self, endpoint: LiveEndpoint) -> None:
        """Load what is due soon now, or when that time has come."""
        if (
            endpoint.feeding
            or endpoint.next_due >= FOREVER
            or not endpoint.callable
            or self.tiers is not None
        ):
            return
        at = endpoint.next_due - LOOKAHEAD
        if at > clock.now():
            if at < endpoint.looks_at:
                endpoint.looks_at = at
                self.time.call(at, instant.ENDPOINT, endpoint.index, lambda _: self.come(endpoint, at))
        elif self.room(endpoint) > 0:
            endpoint.feeding = True
            self._spawn(self._feed(endpoint))

    def come(self, endpoint: LiveEndpoint, at: int) -> None:
        """The time of ``look`` has come; an earlier one may have been found meanwhile."""
        if endpoint.looks_at == at:
            endpoint.looks_at = FOREVER
            self.look(endpoint)

    async def _feed(self, endpoint: LiveEndpoint) -> None:
        number = endpoint.spec.number
        endpoint.passed.clear()
        endpoint.missed = FOREVER
        until = clock.now() + LOOKAHEAD
        try:
            rows, following = await self.store.due(
                number, until, max(self.room(endpoint), 1), set(endpoint.loaded)
            )
        except StoreError as error:
            log.warning("loading for endpoint %s failed: %s", endpoint.spec.id, error)
            await asyncio.sleep(0.5)
            endpoint.feeding = False
            self.look(endpoint)
            return
        endpoint.feeding = False
        endpoint.next_due = min(following, endpoint.missed)
        if not endpoint.served:  # given up meanwhile
            await self.store.release(number, set(endpoint.loaded))
            return
        for row in rows:
            if row.number not in endpoint.loaded and row.number not in endpoint.passed:
                self.load(endpoint, row)
        if len(endpoint.loaded) <= self.share // 2:
            self.look(endpoint)
        self.starving()

    def starving(self) -> None:
        """Endpoints that found no room look again."""
        if self.loaded_count < MOST_LOADED:
            for endpoint in self.endpoints.values():
                if not endpoint.loaded and endpoint.next_due <= clock.now() + LOOKAHEAD:
                    self.look(endpoint)

    # ----------------------------------------------------------------- per_tier: by attempt number

    def look_at_tier(self, attempts: int) -> None:
        """Load the heads of a tier."""
        assert self.tiers is not None
        self.tiers.setdefault(attempts, 0)
        self.tier_rest.add(attempts)
        if attempts not in self.tier_feeding and self.tiers[attempts] < TIER_ROOM:
            self.tier_feeding.add(attempts)
            self._spawn(self._feed_tier(attempts))

    async def _feed_tier(self, attempts: int) -> None:
        assert self.tiers is not None
        open_ones = [e for e in self.endpoints.values() if e.callable and self.room(e) > 0]
        loaded = {number for e in open_ones for number in e.loaded}
        room = TIER_ROOM - self.tiers[attempts]
        self.tier_rest.discard(attempts)  # what is stored from now on says so again
        try:
            rows = await self.store.tier(attempts, [e.spec.number for e in open_ones], room, loaded)
        except StoreError as error:
            log.warning("loading tier %s failed: %s", attempts + 1, error)
            await asyncio.sleep(0.5)
            rows = []
            self.tier_rest.add(attempts)
        if len(rows) >= room:
            self.tier_rest.add(attempts)
        for row in rows:
            endpoint = self.endpoints.get(row.endpoint)
            if endpoint is not None and endpoint.served and row.number not in endpoint.loaded:
                self.load(endpoint, row)
        self.tier_feeding.discard(attempts)
        if attempts in self.tier_rest and self.tiers[attempts] <= TIER_ROOM // 2:
            self.look_at_tier(attempts)

    # ----------------------------------------------------------------- all

    async def survey(self, only: Iterable[int] | None = None, *, busy: bool = False) -> None:
        """Ask the store where anything waits: at the start, for endpoints taken over, and now and then.

        Those that have deliveries in memory are told of what is stored for them; ``busy`` asks for them all the same.
        """
        if self.tiers is not None:
            for attempt_number in await self.store.backlog():
                self.look_at_tier(attempt_number - 1)
            return
        dues = await self.store.next_due()
        chosen = self.endpoints if only is None else set(only)
        for number, due in dues.items():
            if (
                number in chosen
                and (endpoint := self.endpoints.get(number)) is not None
                and (busy or not endpoint.loaded)
            ):
                self.note(endpoint, due)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
