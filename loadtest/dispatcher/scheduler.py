"""The heart of the dispatcher: from what is stored to attempts, and from answers back to what is stored.

Who may start is ``sim.dispatch``; what an answer leads to is ``sim.policy``: the very code that is simulated. Here
stand only the loading (``feed``), the request, and the writing down. A result is stored before its delivery leaves
memory; until then a crash repeats the attempt with the same number and the same luck.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import NamedTuple

from loadtest import clock
from loadtest.dispatcher import message
from loadtest.dispatcher.feed import LOOKAHEAD, Feed
from loadtest.dispatcher.live import LEFT, LiveDelivery, LiveEndpoint, Policies, write_health
from loadtest.dispatcher.message import delivery_id
from loadtest.dispatcher.realtime import RealClock
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
from loadtest.dispatcher.store import HINT_GRACE, Store, StoreError
from sim import dice, instant, policy
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.dispatch import Dispatcher

log = logging.getLogger(__name__)

TURN = 5_000_000
"""What a turn of a busy loop may take, ns: who starts in the next one has not waited for a worker."""

Hint = Callable[[int, int, int], bool]
"""(delivery, attempts, gap in ns) → whether a broker will say when the delivery is due."""


class Observer(NamedTuple):
    """Who is told of attempts and endpoints, for the metrics page."""

    attempted: Callable[[str, float], None]
    """Outcome and duration in s of an attempt."""


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
        failed: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        self.store = store
        self.sender = sender
        self.rules = rules
        self.seed = seed
        self.hint = hint
        self.observer = observer
        self.most_stored = most_stored
        self.when_failed = failed
        self.policies = Policies()
        self.specs: dict[int, Endpoint] = {}
        self.attempting: dict[int, LiveDelivery] = {}
        self.results: list[tuple[Result, LiveDelivery, bool]] = []
        """What is to be stored: the result, its delivery, and whether that stays in memory."""
        self.recording = self.results
        """What is being stored now."""
        self.result_came = asyncio.Event()
        self.stored = 0
        """Deliveries that wait, about."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.started = False
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
        self.started = True

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
        task.add_done_callback(self.tasks.discard)

    # ----------------------------------------------------------------- what a store tells

    def endpoints_changed(self) -> None:
        """See ``store.Changes``."""
        if not self.stopping:
            self.spawn(self.refresh())

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
        self.when_failed(error)

    # ----------------------------------------------------------------- what the API asks

    def fan_out(self, event_id: str, key: str, endpoint: Endpoint, now: int) -> NewDelivery:
        """A new event's delivery to an endpoint: when its first attempt is due, and whether there will be one."""
        stream = {"none": None, "key": key, "endpoint": ""}[endpoint.ordering]
        if endpoint.mode != PUSH:
            return NewDelivery(endpoint.number, now, stream)
        rules = self.policies[endpoint.policy].rules
        gap = policy.first_gap(rules, self.draw(rules, delivery_id(event_id, endpoint.id), 1))
        if endpoint.status == DISABLED and not rules.disable_holds:
            return NewDelivery(endpoint.number, now, stream, policy.DROPPED, policy.BY_DISABLING)
        if policy.too_old(rules, now + gap, now) and not rules.age_from_first_attempt:
            return NewDelivery(endpoint.number, now, stream, policy.EXPIRED, policy.BY_AGE)
        return NewDelivery(endpoint.number, now + gap, stream, gap=gap)

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
        """Take over the endpoints as they are stored, and give up those that are somebody else's now."""
        specs = {spec.number: spec for spec in await self.store.endpoints()}
        self.specs = specs
        fresh = []
        for number, spec in specs.items():
            if not self.serves(spec):
                continue
            known = self.endpoints.get(number)
            if known is None:
                self.endpoints[number] = LiveEndpoint(spec, self.policies)
                fresh.append(number)
            else:
                was_callable = known.callable
                known.update(spec, self.policies)
                if known.callable and not was_callable:
                    fresh.append(number)
                self.dispatcher.release(known)
        for number in [n for n in self.endpoints if n not in specs or not self.serves(specs[n])]:
            self.give_up(self.endpoints.pop(number))
            await self.store.release(number, self.in_flight_of(number))
        if fresh:
            await self.feed.survey(fresh)

    def serves(self, spec: Endpoint) -> bool:
        """Whether this process sends to an endpoint."""
        return spec.mode == PUSH and self.store.owns(spec.number)

    async def poke(self, released: Sequence[Released]) -> None:
        """Deliveries wait in the store from now on."""
        for endpoint, due in released:
            self.due_changed(endpoint, due)

    def forget(self, endpoint: int, delivery: int) -> None:
        """A delivery that waited has been settled in the store: it is not started any more."""
        live = self.endpoints.get(endpoint)
        loaded = live.loaded.get(delivery) if live is not None else None
        if loaded is not None and delivery not in self.attempting:
            self.leave(loaded)
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
        else:
            self.time.call(delivery.due, instant.DUE, delivery.number, lambda _: self.come_due(delivery))

    def come_due(self, delivery: LiveDelivery) -> None:
        """Its time has come, unless it has been dropped meanwhile."""
        if delivery.state == policy.WAITING and not delivery.is_due:
            self.dispatcher.offer(delivery)

    def begin(self, delivery: LiveDelivery) -> None:
        """A worker takes a delivery."""
        delivery.started = self.time.now
        if delivery.cause == policy.FOR_WORKER and delivery.started - delivery.offered < TURN:
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

    def drop_waiting(self, endpoint: LiveEndpoint) -> None:
        """An endpoint has been disabled: ``_disable`` drops what waits for it, in memory and in the store."""

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
        answer = await self.sender.send(self.request(delivery, data, rules))
        action = policy.verdict(rules, answer.code)
        outcome = policy.outcome(action, answer.code)
        was_disabled = endpoint.disabled
        del self.attempting[delivery.number]
        self.dispatcher.conclude(delivery, action, answer.asked)
        finished = self.time.now
        if endpoint.disabled and not was_disabled:
            endpoint.disabling = True
            self.spawn(self._disable(endpoint, answer, outcome))
        done = Attempt(
            number, number, due, delivery.started, finished, outcome, max(answer.code, 0), cause,
            answer.body, answer.error,
        )  # fmt: skip
        if self.observer is not None:
            self.observer.attempted(policy.OUTCOMES[outcome], (finished - delivery.started) / 1e9)
        self.write_down(delivery, done, finished)

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
        stays = waits and self.feed.tiers is None and delivery.due <= at + LOOKAHEAD
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

    def leave(self, delivery: LiveDelivery) -> None:
        """Put a waiting delivery out of this process's hands."""
        delivery.state = LEFT
        delivery.settled = self.time.now
        self.dispatcher.forget(delivery)
        self.feed.left_tier(delivery.attempts)
        self.feed.unload(delivery)

    def give_up(self, endpoint: LiveEndpoint) -> None:
        """An endpoint has been removed, or another process serves it now."""
        endpoint.next_due = policy.FOREVER
        for delivery in list(endpoint.loaded.values()):
            if delivery.state == policy.WAITING and delivery.number not in self.attempting:
                self.leave(delivery)

    async def drop(self, number: int, state: int, cause: int) -> int:
        """Settle all that waits for an endpoint but for what is in flight; how many there were."""
        while any(result.endpoint == number for result, _, _ in [*self.results, *self.recording]):
            await asyncio.sleep(0.005)  # what has been decided already comes first
        endpoint = self.endpoints.get(number)
        in_flight = self.in_flight_of(number)
        if endpoint is not None:
            for delivery in list(endpoint.loaded.values()):
                if delivery.number not in in_flight:
                    self.leave(delivery)
        dropped = await self.store.settle_waiting(number, state, cause, clock.now(), in_flight)
        self.stored -= dropped
        return dropped

    async def _disable(self, endpoint: LiveEndpoint, answer: Answer, outcome: int) -> None:
        """Store that an endpoint has been disabled and why, and drop what waits unless its policy holds it."""
        what = f"status {answer.code}" if answer.code > 0 else answer.error or "no answer"
        reason = f"disabled by its policy after an attempt that was {policy.OUTCOMES[outcome]} ({what})"
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
        while True:
            try:
                await work()
                return
            except StoreError as error:
                log.warning("%s failed, trying again: %s", what, error)
                await asyncio.sleep(0.5)

    async def _watch(self) -> None:
        """Once a second: keep health, count what waits, and find what no notice told of."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self._save_health()
                self.stored = sum((await self.store.backlog()).values())
                await self.feed.survey()
                for endpoint in self.endpoints.values():
                    if endpoint.next_due < policy.FOREVER and not endpoint.disabling:
                        await self._drop_if_off(endpoint)  # accepted while it was being disabled
            except StoreError as error:
                log.warning("the store does not answer: %s", error)

    async def _save_health(self) -> None:
        changed = {}
        for number, endpoint in self.endpoints.items():
            if endpoint.watched and (text := write_health(endpoint.health)) != endpoint.health_saved:
                changed[number] = endpoint.health_saved = text
        if changed:
            await self.store.save_health(changed)
