"""The heart of the dispatcher: from what is stored to attempts, and from answers back to what is stored.

Who may start is ``sim.dispatch``; what an answer leads to is ``sim.policy``: the very code that is simulated. Here
stand only the loading (``feed``), the request, and the writing down. A result is stored before its delivery leaves
memory; until then a crash repeats the attempt with the same number and the same luck.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from loadtest import clock
from loadtest.dispatcher import message
from loadtest.dispatcher.feed import LOOKAHEAD, Feed
from loadtest.dispatcher.live import LEFT, LiveDelivery, LiveEndpoint, Policies, write_health
from loadtest.dispatcher.message import delivery_id
from loadtest.dispatcher.records import (
    DISABLED,
    PUSH,
    Accepted,
    Attempt,
    Endpoint,
    NewDelivery,
    NewEvent,
    Released,
    Result,
    Waiting,
)
from loadtest.dispatcher.request import Answer, OutgoingRequest, Sender
from loadtest.dispatcher.store import HINT_GRACE, Store, StoreError, StoreUnavailableError
from loadtest.realtime import RealClock
from sim import dice, instant, policy
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.dispatch import Dispatcher
from sim.policy import SECOND

log = logging.getLogger(__name__)

TURN = 5_000_000
"""What a turn of a busy loop may take, ns: who starts in the next one has not waited for a worker."""
SHORT = (policy.FOR_WORKER, policy.FOR_HEAD_OF_LINE)
"""What takes no longer than that is no wait."""

ORPHANS_EVERY = 60
"""Turns of a second after which what waits for endpoints that others have removed is looked for again."""
DOUBT = 10 * SECOND
"""For how long after a call of the store has failed it may still come through, and be heard of by nobody, ns."""

Hint = Callable[[int, int, int], bool]
"""(delivery, attempts, gap in ns) → whether a broker will say when the delivery is due."""


Observer = Callable[[str, float], None]
"""Told of the outcome and the duration in s of every attempt."""


class Scheduler:
    """All endpoints that this process serves, and what is under way to them."""

    def __init__(
        self,
        store: Store,
        sender: Sender,
        rules: Rules,
        seed: int,
        *,
        hint: Hint | None = None,
        observer: Observer | None = None,
        most_stored: int = 10_000_000,
    ) -> None:
        self.store = store
        self.sender = sender
        self.rules = rules
        self.seed = seed
        self.hint = hint
        self.observer = observer
        self.most_stored = most_stored
        self.policies = Policies()
        self.attempting: dict[int, LiveDelivery] = {}
        self.results: list[tuple[Result, LiveDelivery, bool]] = []
        """What is to be stored: the result, its delivery, and whether that stays in memory."""
        self.recording = self.results
        """What is being stored now."""
        self.result_came = asyncio.Event()
        self.stored = 0
        """Deliveries that wait, about."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.doubted_until = 0
        """Until when busy endpoints, too, are asked for what waits."""
        self.refreshing = asyncio.Lock()
        self.refreshes_asked = self.refreshes_done = 0
        self.stopping = False

    # ----------------------------------------------------------------- life

    async def start(self) -> None:
        """Load the endpoints and what is due. The store must be open, with this object as its ``Changes``."""
        loop = asyncio.get_running_loop()
        self.time = RealClock(loop)
        self.feed = Feed(self.store, self.time, self.take)
        self.endpoints = self.feed.endpoints
        self.dispatcher = Dispatcher(self.time, self.rules, self, origin=clock.now())
        if self.dispatcher.per_tier:
            self.feed.tiers = {}
        await self.refresh()
        self.stored = sum((await self.store.backlog()).values())
        self.recorder = loop.create_task(self._record())
        self.spawn(self._watch())

    async def stop(self, within_s: float = 10.0) -> None:
        """Start nothing more, let what is under way end, and store what it brought."""
        self.stopping = True
        self.time.stop()
        deadline = asyncio.get_running_loop().time() + within_s
        while self.attempting and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await self.sender.close()
        self.result_came.set()
        await asyncio.wait({self.recorder}, timeout=max(within_s, 1.0))
        for task in [*self.tasks, *self.feed.tasks, self.recorder]:
            task.cancel()
        await asyncio.gather(*self.tasks, *self.feed.tasks, self.recorder, return_exceptions=True)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine beside the others."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a task of the dispatcher has failed", exc_info=error)

    # ----------------------------------------------------------------- what a store tells

    def endpoints_changed(self) -> None:
        """See ``store.Changes``."""
        if not self.stopping:
            self.spawn(self._insist(self.refresh, "reading the endpoints"))

    def due_changed(self, endpoint: int, due: int) -> None:
        """See ``store.Changes``."""
        if (live := self.endpoints.get(endpoint)) is not None:
            self.feed.note(live, due)

    def owned_changed(self) -> None:
        """See ``store.Changes``."""
        self.endpoints_changed()

    async def hinted(self, delivery: int, attempts: int) -> None:
        """A broker says that a delivery is due (or will be in a moment)."""
        endpoint = await self.store.hint(delivery, attempts)
        if endpoint is not None:
            self.due_changed(endpoint, clock.now())

    def failed(self, error: StoreError) -> None:
        """See ``store.Changes``."""
        log.critical("the store is broken: %s", error)

    # ----------------------------------------------------------------- what the API asks

    def count_from(self, start: int) -> None:
        """The scenario's time begins: workers that change over time are counted from here, ns since 1970."""
        self.dispatcher.count_from(start)

    def fan_out(self, event_id: str, key: str, endpoint: Endpoint, now: int) -> NewDelivery:
        """A new event's delivery to an endpoint: when its first attempt is due, and whether there will be one."""
        stream = {"none": None, "key": key, "endpoint": ""}[endpoint.ordering]
        if endpoint.mode != PUSH:
            return NewDelivery(endpoint.number, now, stream)
        rules = self.policies[endpoint.policy].rules
        gap = policy.first_gap(rules, self.draw(rules, delivery_id(event_id, endpoint.id), 1))
        state, cause = policy.at_creation(rules, endpoint.status == DISABLED, now + gap, now)
        return NewDelivery(endpoint.number, now + gap, stream, state, cause)

    def accept(self, events: Sequence[NewEvent], accepted: Sequence[Accepted]) -> None:
        """Events have been stored: start what is due, leave the rest to the store."""
        for event, done in zip(events, accepted, strict=True):
            for new, number, held in zip(
                event.deliveries, done.deliveries, done.held, strict=bool(done.deliveries)
            ):
                if new.state != policy.WAITING:
                    continue
                self.stored += 1
                endpoint = self.endpoints.get(new.endpoint)
                if held or endpoint is None:
                    continue
                self.feed.offer(
                    endpoint,
                    Waiting(
                        number, new.endpoint, 0, new.due, 0, event.created, event.created, event.id, event.type,
                        event.key, event.seq, event.occurred, event.data, event.object_type, event.object_id,
                    ),
                )  # fmt: skip

    async def refresh(self) -> None:
        """Take over the endpoints as they are stored, and give up those that are not this process's any more."""
        self.refreshes_asked += 1
        mine = self.refreshes_asked
        async with self.refreshing:  # or else an older reading might come last
            if mine <= self.refreshes_done:  # a reading that began since then
                return
            begun = self.refreshes_asked
            specs = {spec.number: spec for spec in await self.store.endpoints()}
            fresh = [number for number, spec in specs.items() if self.serves(spec) and self._took_over(spec)]
            for number, endpoint in list(self.endpoints.items()):
                if number not in specs or not self.serves(specs[number]):
                    endpoint.removed = number not in specs
                    await self.give_up(endpoint)
            if fresh:
                await self.feed.survey(fresh)
            self.refreshes_done = begun

    def serves(self, spec: Endpoint) -> bool:
        """Whether this process sends to an endpoint."""
        return spec.mode == PUSH and self.store.owns(spec.number)

    def _took_over(self, spec: Endpoint) -> bool:
        """Bring an endpoint up to date; whether it can be called now and could not before."""
        known = self.endpoints.get(spec.number)
        if known is None:
            self.endpoints[spec.number] = LiveEndpoint(spec, self.policies)
            return True
        if known.served and known.spec == spec:
            return False
        was_callable, known.served = known.callable, True
        known.update(spec, self.policies)
        self.dispatcher.release(known)
        return known.callable and not was_callable

    async def poke(self, released: Sequence[Released]) -> None:
        """Deliveries wait in the store from now on."""
        for endpoint, due in released:
            self.due_changed(endpoint, due)

    def doubt(self) -> None:
        """A call of the store has failed: what it brought may be there, and nobody has been told."""
        self.doubted_until = clock.now() + DOUBT

    def forget(self, endpoint: int, delivery: int) -> None:
        """A delivery that waited has been settled in the store: it is not started any more."""
        live = self.endpoints.get(endpoint)
        if live is not None and delivery in live.loaded:
            self.leave(live, only=delivery)
        self.stored -= 1

    def in_flight(self, delivery: int) -> bool:
        """Whether an attempt of a delivery is under way."""
        return delivery in self.attempting

    def in_flight_of(self, endpoint: int) -> set[int]:
        """Numbers of the deliveries to an endpoint whose attempt is under way."""
        return {n for n, d in self.attempting.items() if d.endpoint.index == endpoint}

    def counts(self) -> dict[str, int | None]:
        """What is under way, for the metrics page."""
        return {
            "in_flight": len(self.attempting),
            "ready": self.feed.loaded_count - len(self.attempting),
            "unstored": len(self.results),
            "oldest_due": min(
                (d.due for e in self.endpoints.values() for d in e.loaded.values()), default=None
            ),
        }

    def room(self) -> bool:
        """Whether more may be accepted."""
        return self.stored < self.most_stored

    # ----------------------------------------------------------------- what dispatch asks (sim.dispatch.Course)

    def take(self, delivery: LiveDelivery) -> None:
        """A delivery has been loaded."""
        self.dispatcher.enter(delivery)
        if delivery.due <= self.time.now:
            self.dispatcher.offer(delivery)
            if delivery.row.released:  # it was due, and another went before it
                delivery.cause, delivery.offered = policy.FOR_ORDER, delivery.due
        else:
            self.time.call(delivery.due, instant.DUE, delivery.number, lambda _: self.come_due(delivery))

    def come_due(self, delivery: LiveDelivery) -> None:
        """Its time has come, unless it has been dropped meanwhile."""
        if delivery.state == policy.WAITING and not delivery.is_due:
            self.dispatcher.offer(delivery)

    def begin(self, delivery: LiveDelivery) -> None:
        """A worker takes a delivery."""
        delivery.started = self.time.now
        if delivery.cause in SHORT and delivery.started - delivery.offered < TURN:
            delivery.cause = 0
        self.attempting[delivery.number] = delivery
        self.feed.left_tier(delivery.attempts - 1)
        self.spawn(self.attempt(delivery))

    def settle(self, delivery: LiveDelivery, state: int, cause: int) -> None:
        """A final state, and why."""
        delivery.state = state
        delivery.cause = cause
        delivery.settled = self.time.now
        self.dispatcher.forget(delivery)

    def vanish(self, delivery: LiveDelivery) -> None:
        """Never called: objects are fetched when an attempt starts."""
        raise AssertionError(f"delivery {delivery.number} has no known end of its object")

    def disable(self, endpoint: LiveEndpoint) -> None:
        """An endpoint has been disabled: store that, and then drop what waits unless its policy holds it."""
        if endpoint.spec.status != DISABLED and not endpoint.disabling and not endpoint.removed:
            endpoint.disabling = True
            self.spawn(self._disable(endpoint))

    def luck(self, delivery: LiveDelivery) -> float:
        """The uniform number behind the jitter of the gap before the next attempt."""
        assert delivery.endpoint.policy is not None
        name = delivery_id(delivery.row.event_id, delivery.endpoint.spec.id)
        return self.draw(delivery.endpoint.policy, name, delivery.attempts + 1)

    def draw(self, rules: policy.Policy, delivery: str, attempt_number: int) -> float:
        """The luck of one gap, from the address that the simulator uses."""
        if rules.jitter == policy.NO_JITTER:
            return 0.5  # looked at by nobody
        event, endpoint = dice.delivery_words(delivery)
        return dice.uniform(self.seed, dice.Stream.JITTER, event, endpoint, attempt_number, 0)

    # ----------------------------------------------------------------- one attempt

    async def attempt(self, delivery: LiveDelivery) -> None:
        """One HTTP request, and what follows from it."""
        endpoint, row = delivery.endpoint, delivery.row
        rules = endpoint.policy
        assert rules is not None
        number, cause, due = delivery.attempts, delivery.cause, delivery.due
        data: bytes | None = row.data
        if row.object_id:
            data = await self._object(row)
        if data is None:
            self.gone(delivery)
            return
        if number == 1 and rules.age_from_first_attempt:
            delivery.born = delivery.started
        answer = await self.answer(delivery, data, rules)
        action = policy.verdict(rules, answer.code)
        outcome = policy.outcome(action, answer.code)
        what = f"status {answer.code}" if answer.code > 0 else answer.error or "no answer"
        endpoint.last_failure = f"{policy.OUTCOMES[outcome]} ({what})"
        del self.attempting[delivery.number]
        self.dispatcher.conclude(delivery, action, answer.asked)
        finished = self.time.now
        if endpoint.removed and delivery.state == policy.WAITING:
            self.settle(delivery, policy.DROPPED, policy.BY_DISABLING)
        done = Attempt(
            number, number, due, delivery.started, finished, outcome, max(answer.code, 0), cause,
            answer.body, answer.error,
        )  # fmt: skip
        if self.observer is not None:
            self.observer(policy.OUTCOMES[outcome], (finished - delivery.started) / 1e9)
        self.write_down(delivery, done, finished)

    async def answer(self, delivery: LiveDelivery, data: bytes, rules: policy.Policy) -> Answer:
        """What the request of an attempt brings; a request that cannot be made is a failure like others."""
        try:
            return await self.sender.send(self.request(delivery, data, rules))
        except Exception as error:  # or else the delivery would be in flight for ever
            log.exception("the request of delivery %s could not be made", delivery.number)
            return Answer(policy.CONNECTION_REFUSED, error=f"the request could not be made: {error}")

    def request(self, delivery: LiveDelivery, data: bytes, rules: policy.Policy) -> OutgoingRequest:
        """The HTTP request of an attempt."""
        endpoint, row = delivery.endpoint, delivery.row
        spec = endpoint.spec
        name = delivery_id(row.event_id, spec.id)
        body = message.body(row, data, self.rules.message, spec, self.time.now)
        timeout = policy.attempt_timeout(rules, delivery.attempts)
        return OutgoingRequest(
            url=spec.url,
            headers=message.headers(spec, name, delivery.attempts, row.key, row.seq, body, self.time.now),
            body=body,
            connect_timeout_ms=max(min(endpoint.connect_timeout or timeout, timeout) // 1_000_000, 1),
            timeout_ms=max(timeout // 1_000_000, 1),
        )

    async def _object(self, row: Waiting) -> bytes | None:
        """The object that an event tells of, as it is now."""
        while True:
            try:
                return await self.store.object(row.object_type, row.object_id)
            except StoreError as error:
                log.warning("fetching %s/%s failed: %s", row.object_type, row.object_id, error)
                await asyncio.sleep(0.5)

    def gone(self, delivery: LiveDelivery) -> None:
        """The object is gone: there is nothing to send, and the attempt has not been."""
        del self.attempting[delivery.number]
        self.dispatcher.withdraw(delivery)
        self.settle(delivery, policy.VANISHED, policy.BY_OBJECT)
        self.dispatcher.release(delivery.endpoint)
        self.write_down(delivery, None, self.time.now)

    # ----------------------------------------------------------------- writing down

    def write_down(self, delivery: LiveDelivery, done: Attempt | None, at: int) -> None:
        """Queue what has become of a delivery; one that comes due within a moment stays in memory."""
        row, state = delivery.row, delivery.state
        waits = state == policy.WAITING
        soon = delivery.due <= at + LOOKAHEAD
        stays = waits and soon and self.feed.tiers is None and delivery.endpoint.served
        hinted = (
            waits
            and not stays
            and self.hint is not None
            and self._broker_can(delivery)
            and self.hint(delivery.number, delivery.attempts, delivery.gap)
        )
        result = Result(
            row.number, row.endpoint, delivery.attempts, state, delivery.cause if not waits else 0,
            delivery.due, delivery.gap, delivery.born, at, done, hinted,
        )  # fmt: skip
        self.results.append((result, delivery, stays))
        self.result_came.set()
        if stays:
            delivery.is_due = False
            self.take(delivery)

    def _broker_can(self, delivery: LiveDelivery) -> bool:
        """Whether the gap is one of the schedule's own: others wait in the store's index."""
        rules = delivery.endpoint.policy
        assert rules is not None
        planned = policy.gap_before(rules, delivery.attempts + 1)
        as_planned = delivery.gap == planned and abs(self.time.now + planned - delivery.due) < 50_000_000
        return rules.jitter == policy.NO_JITTER and as_planned

    async def _record(self) -> None:
        """Store results, all that have come together in one go, as long as there are any."""
        while self.results or not self.stopping:
            if not self.results:
                self.result_came.clear()
                if self.stopping:
                    return
                await self.result_came.wait()
                continue
            batch = self.recording = self.results
            self.results = []
            try:
                released = await self.store.record([result for result, _, _ in batch])
            except StoreError as error:
                log.warning("storing %s results failed, trying again: %s", len(batch), error)
                self.doubt()
                self.results = batch + self.results
                self.recording = []
                await asyncio.sleep(0.2)
                continue
            self.recording = []
            for result, delivery, stays in batch:
                self._stored(result, delivery, stays)
            await self.poke(released)

    def _stored(self, result: Result, delivery: LiveDelivery, stays: bool) -> None:
        if result.state != policy.WAITING:
            self.stored -= 1
        if stays:
            return
        self.feed.unload(delivery)
        if result.state == policy.WAITING:
            self.feed.note(delivery.endpoint, result.due + HINT_GRACE * result.hinted, result.attempts)

    # ----------------------------------------------------------------- endpoints

    def leave(self, endpoint: LiveEndpoint, *, only: int | None = None) -> None:
        """Put what waits in memory for an endpoint (or one delivery of it) out of this process's hands.

        What is in flight, or has a result that takes it out of memory once that is stored, goes its way.
        """
        busy = {result.delivery for result, _, stays in [*self.recording, *self.results] if not stays}
        for delivery in list(endpoint.loaded.values()) if only is None else [endpoint.loaded[only]]:
            if delivery.state == policy.WAITING and delivery.number not in busy:
                delivery.state = LEFT
                delivery.settled = self.time.now
                self.dispatcher.forget(delivery)
                self.feed.left_tier(delivery.attempts)
                self.feed.unload(delivery)

    async def give_up(self, endpoint: LiveEndpoint) -> None:
        """An endpoint has been removed, polls from now on, or is served by another process."""
        endpoint.served = False
        endpoint.next_due = policy.FOREVER
        self.leave(endpoint)
        await self.store.release(endpoint.index, set(endpoint.loaded))
        if not endpoint.loaded:
            del self.endpoints[endpoint.index]  # or else it is looked at again: what is in flight stays known

    async def drop(self, number: int, state: int, cause: int) -> int:
        """Settle all that waits for an endpoint but for what is in flight; how many there were."""
        while any(result.endpoint == number for result, _, _ in [*self.results, *self.recording]):
            await asyncio.sleep(0.005)  # what has been decided already comes first
        endpoint = self.endpoints.get(number)
        if endpoint is not None:
            self.leave(endpoint)
        in_flight = self.in_flight_of(number)
        dropped = await self.store.settle_waiting(number, state, cause, clock.now(), in_flight)
        self.stored -= dropped
        return dropped

    async def _disable(self, endpoint: LiveEndpoint) -> None:
        """Store that an endpoint has been disabled and why, and drop what waits unless its policy holds it."""
        reason = f"disabled by its policy after an attempt that was {endpoint.last_failure}"
        log.warning("endpoint %s %s", endpoint.spec.id, reason)
        endpoint.spec = dataclasses.replace(
            endpoint.spec,
            status=DISABLED,
            reason=reason,
            changed=clock.now(),
            health=write_health(endpoint.health),
        )
        name = endpoint.spec.id
        await self._insist(lambda: self.store.put_endpoint(endpoint.spec), f"disabling endpoint {name}")
        endpoint.disabling = False
        await self._drop_if_off(endpoint)

    async def _drop_if_off(self, endpoint: LiveEndpoint) -> None:
        assert endpoint.policy is not None
        if endpoint.disabled and not endpoint.policy.disable_holds:
            number, name = endpoint.spec.number, endpoint.spec.id
            await self._insist(
                lambda: self.drop(number, policy.DROPPED, policy.BY_DISABLING),
                f"dropping what waits for {name}",
            )

    async def _insist(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Do something until the store has done it; what it refuses for good (a removed endpoint) is over."""
        while True:
            try:
                await work()
                return
            except StoreUnavailableError as error:
                log.warning("%s failed, trying again: %s", what, error)
                await asyncio.sleep(0.5)
            except StoreError as error:
                log.warning("%s is refused: %s", what, error)
                return

    async def _watch(self) -> None:
        """Once a second: keep health, count what waits, and find what no notice told of."""
        for turn in itertools.count():
            try:
                if turn % ORPHANS_EVERY == 0:
                    for number in await self.store.orphans():
                        await self.drop(number, policy.DROPPED, policy.BY_DISABLING)
            except StoreError as error:
                log.warning("the store does not answer: %s", error)
            await asyncio.sleep(1.0)
            try:
                await self._save_health()
                self.stored = sum((await self.store.backlog()).values())
                await self.feed.survey(busy=clock.now() < self.doubted_until)
                await self._drop_rest()
            except StoreError as error:
                log.warning("the store does not answer: %s", error)
                self.doubt()

    async def _drop_rest(self) -> None:
        """Drop what was accepted while its endpoint was being disabled, and what a crash has left of such a drop."""
        off = [one for one in self.endpoints.values() if one.disabled and not one.disabling]
        # Heads of tiers are not loaded for an endpoint that is off, so nothing else knows what waits for it.
        waits = await self.store.next_due() if off and self.feed.tiers is not None else {}
        for endpoint in off:
            if endpoint.next_due < policy.FOREVER or endpoint.spec.number in waits:
                await self._drop_if_off(endpoint)

    async def _save_health(self) -> None:
        changed = {}
        for number, endpoint in self.endpoints.items():
            if endpoint.watched and (text := write_health(endpoint.health)) != endpoint.health_saved:
                changed[number] = endpoint.health_saved = text
        if changed:
            await self.store.save_health(changed)
