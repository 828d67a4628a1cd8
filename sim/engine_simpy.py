"""The SimPy model: producers, deliveries, endpoints, a dispatcher. It is the specification, meant to be read.

A delivery is a process: it waits until it is due, for its turn, for the answer, and decides what follows. The
decisions are those of ``sim.policy``; what a receiver does with a request is ``sim.receiver``; luck comes from
``sim.dice``. What stands here is only who waits for whom.

**Order within an instant.** Everything visible happens in the order (time, kind, id, attempt), with the kinds
below. SimPy breaks ties by priority, then by age; so every visible moment is a ``Moment`` whose priority holds
kind, id and attempt. SimPy's own wake-ups have the priorities 0 and 1 and come first, in the order in which
they were caused. Dispatch has the last kind but one: it runs when nothing else is left at this instant, starts
all it can, and what that causes at the same instant runs before it is asked again.

Time is int nanoseconds.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from heapq import heappop, heappush

import numpy as np
import simpy
from simpy.events import EventPriority

from sim import dice, jit, policy, receiver
from sim.errors import ScenarioError
from sim.model import Member, Model
from sim.policy import FOREVER
from sim.receiver import Answer
from sim.trace import NO_OUTCOME, NOT_YET, WAIT_CAUSES, Columns
from sim.user import Request, UserReceiver, answer_of

Process = Generator[simpy.Event, object, None]

# Kinds of moment, in the order in which they happen at one instant. Receivers need none of their own: they
# know the future of a request when it arrives.
WORKERS_CHANGE, ATTEMPT, DUE, EVENT, DISPATCH = 1, 2, 3, 4, 5
STANDSTILL = 10_000
"""Attempts of one delivery at one instant after which time is taken to stand still."""

CAUSE = {name: position for position, name in enumerate(WAIT_CAUSES)}


class Moment(simpy.Event):
    """A point in time at which a process goes on, placed in the order of its instant by kind, id and attempt."""

    def __init__(self, env: simpy.Environment, at: int, kind: int, number: int, attempt: int = 0) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        # attempt numbers beyond 2**20 of one delivery never meet others of the same delivery at one instant
        priority = (kind << 68) + (number << 20) + (attempt & 0xFFFFF)
        env.schedule(self, EventPriority(priority), at - env.now)


class Delivery:
    """The duty to bring one event to one endpoint."""

    __slots__ = (
        "attempts", "born", "cause", "created", "deleted_at", "delivered", "due", "endpoint", "event", "event_word",
        "gap", "held", "is_due", "number", "probe", "settled", "standing", "state", "stream", "tier", "turn",
    )  # fmt: skip

    def __init__(self, number: int, event: int, event_word: int, created: int, endpoint: Endpoint) -> None:
        self.number = number
        self.event = event
        self.event_word = event_word
        self.created = created
        self.endpoint = endpoint
        self.state = policy.WAITING
        self.attempts = 0
        self.born = created
        self.due = created
        self.gap = 0
        self.delivered = NOT_YET
        self.settled = NOT_YET
        self.deleted_at = FOREVER
        self.cause = 0
        self.is_due = False
        self.held = False
        self.probe = False
        self.standing = 0
        self.stream: Stream | None = None
        self.tier: Tier | None = None
        self.turn: simpy.Event | None = None


Stream = deque[Delivery]
"""Deliveries of one ordering key, unsettled, in order of creation: only the first may start."""
Ranked = list[tuple[int, int, Delivery]]
"""A heap of (due, number, delivery): who may start first."""


def push(heap: Ranked, delivery: Delivery) -> None:
    """Add a delivery to a heap."""
    heappush(heap, (delivery.due, delivery.number, delivery))


class Lane:
    """A worker pool of the shared discipline, and the due deliveries that wait for it."""

    def __init__(self, workers: int) -> None:
        self.free = workers
        self.ready: Ranked = []


class Tier:
    """A queue of one policy and attempt number under ``per_tier``: first come, first held.

    Each of its workers takes the head, due or not, and holds it until it has been sent.
    """

    def __init__(self, workers: int) -> None:
        self.free = workers
        self.queue: Stream = deque()
        self.returned: Ranked = []


class Endpoint:
    """What the sender knows about one endpoint, and its receiver."""

    def __init__(self, model: Model, index: int, member: Member, user: UserReceiver | None) -> None:
        self.index = index
        self.member = member
        self.policy = model.policies[member.policy] if member.policy >= 0 else None
        self.user = user
        self.in_flight = 0
        self.free_again = 0
        self.rested_until = 0
        self.disabled = False
        self.health = policy.healthy()
        self.budget = policy.budget_full(self.policy) if self.policy is not None else policy.Budget(0.0, 0)
        self.waiting: dict[int, Delivery] = {}
        self.parked: Ranked = []
        self.wake_at = FOREVER
        spec = model.receivers[member.receiver]
        self._receive = jit.receiver_of(spec, member.outages, model.seed, member.word)

    def receive(self, request: Callable[[], Request], event_word: int, now: int, attempt: int) -> Answer:
        """Hand a request to the receiver."""
        if self.user is not None:
            return answer_of(self.user.receive(request()), now)
        return Answer(*self._receive(now, event_word, attempt))

    def blocked(self, now: int) -> tuple[str, int]:
        """Why no attempt may start now, and when that ends by itself (``FOREVER``: not by time); "" if it may."""
        if self.disabled:
            return "disabled", FOREVER
        if self.in_flight >= self.member.max_in_flight:
            return "slot", FOREVER
        if policy.breaker_blocks(self.health, now):
            probing = self.health.breaker == policy.PROBING
            return "breaker", FOREVER if probing else self.health.opened_until
        if now < self.rested_until:
            return "retry_after", self.rested_until
        if now < self.free_again:
            return "rate", self.free_again
        return "", now


class Simulation:
    """One run of a model."""

    def __init__(
        self, model: Model, receivers: Mapping[str, UserReceiver | Callable[[str], UserReceiver]]
    ) -> None:
        self.model = model
        self.env = simpy.Environment()
        self.dispatcher = model.scenario.dispatcher
        self.per_tier = self.dispatcher.discipline == "per_tier"
        self.endpoints = [
            Endpoint(model, i, member, _user_receiver(model, member, receivers))
            for i, member in enumerate(model.members)
        ]
        lanes = self.dispatcher.lanes
        self.lanes = [Lane(lanes.first), Lane(lanes.retries)] if lanes else [Lane(model.workers_at()[0][1])]
        if self.per_tier:
            self.lanes = []
        self.tiers: dict[tuple[int, int], Tier] = {}
        self.touched: dict[Tier, None] = {}
        self.held_ready: Ranked = []
        self.streams: dict[tuple[int, ...], Stream] = {}
        self.dispatch_pending = False
        self.unsettled = 0
        self.producing = len(model.sources)
        self.deliveries: list[Delivery] = []
        self.events: list[tuple[int, ...]] = []
        self.attempts: list[list[int]] = []
        self.polls: list[tuple[int, int, int]] = []
        self.mailboxes: list[list[Delivery]] = [[] for _ in self.endpoints]

    def at(self, time: int, kind: int, number: int, attempt: int = 0) -> Moment:
        """A moment of this run."""
        return Moment(self.env, time, kind, number, attempt)

    def run(self, progress: Callable[[int], None] | None = None) -> Columns:
        """Run until all is settled or the drain has passed, and give what was recorded."""
        for source in range(len(self.model.sources)):
            self.env.process(self.produce(source))
        for endpoint in self.endpoints:
            if endpoint.member.poll_every:
                self.env.process(self.poll(endpoint))
        if not self.per_tier and not self.dispatcher.lanes and len(self.model.workers_at()) > 1:
            self.env.process(self.change_workers())
        env, end = self.env, self.model.end
        steps = 0
        while (self.producing or self.unsettled) and env.peek() <= end:
            env.step()
            steps += 1
            if progress is not None and steps % 20_000 == 0:
                progress(int(env.now))
        return self.columns(min(int(env.now), end) if not self.unsettled else end)

    # ----------------------------------------------------------------- producers

    def produce(self, source: int) -> Process:
        """A producer: its events one by one, each fanned out to the endpoints that subscribe to its type."""
        spec = self.model.sources[source]
        codes = self.model.type_codes[source]
        index = -1
        for index, (time, kind, key, seq) in enumerate(jit.events(spec, self.model.seed, self.model.horizon)):
            yield self.at(time, EVENT, source, index)
            row = len(self.events)
            self.events.append((source, index, codes[kind], key, seq, time))
            word = (spec.word + index) & dice.MASK
            for members in self.model.fan_out[source][kind]:
                chosen = range(members.first, members.first + members.members)
                if members.by_key:
                    chosen = range(chosen[key % len(chosen)], chosen[key % len(chosen)] + 1)
                for member in chosen:
                    self.create(row, word, source, index, key, self.endpoints[member])
        yield self.at(self.model.horizon, EVENT, source, index + 1)
        self.producing -= 1

    def create(self, event: int, word: int, source: int, index: int, key: int, endpoint: Endpoint) -> None:
        """A new delivery."""
        delivery = Delivery(len(self.deliveries), event, word, int(self.env.now), endpoint)
        self.deliveries.append(delivery)
        self.unsettled += 1
        if endpoint.policy is None:
            self.mailboxes[endpoint.index].append(delivery)
            return
        endpoint.waiting[delivery.number] = delivery
        if endpoint.disabled and not endpoint.policy.disable_holds:
            self.settle(delivery, policy.DROPPED)
            return
        if self.dispatcher.queue_holds == "id":
            delivery.deleted_at = self.model.deleted_at(source, index, delivery.created)
        if self.dispatcher.ordering != "none":
            name = (
                (endpoint.index,) if self.dispatcher.ordering == "endpoint" else (endpoint.index, source, key)
            )
            delivery.stream = self.streams.setdefault(name, deque())
            delivery.stream.append(delivery)
        gap = policy.first_gap(endpoint.policy, self.luck(delivery, 1))
        delivery.due = delivery.created + gap
        if (
            endpoint.policy.max_age
            and gap > endpoint.policy.max_age
            and not endpoint.policy.age_from_first_attempt
        ):
            self.settle(delivery, policy.EXPIRED)
            return
        self.env.process(self.deliver(delivery))

    def luck(self, delivery: Delivery, attempt: int) -> float:
        """The uniform number behind the jitter of the gap before an attempt."""
        spec = delivery.endpoint.policy
        assert spec is not None
        if spec.jitter == policy.NO_JITTER:
            return 0.5
        word = delivery.endpoint.member.word
        return jit.uniform(self.model.seed, dice.Stream.JITTER, delivery.event_word, word, attempt, 0)

    # ----------------------------------------------------------------- a delivery

    def deliver(self, delivery: Delivery) -> Process:
        """The life of a delivery: due, turn, attempt, verdict; again and again until it is settled."""
        while delivery.state == policy.WAITING:
            self.enter(delivery)
            if delivery.due > self.env.now:
                yield self.at(delivery.due, DUE, delivery.number, delivery.attempts + 1)
                if delivery.state != policy.WAITING:
                    return  # dropped meanwhile
            delivery.is_due = True
            delivery.turn = self.env.event()
            self.offer(delivery)
            yield delivery.turn
            yield from self.attempt(delivery)

    def attempt(self, delivery: Delivery) -> Process:
        """One HTTP try: the worker is taken already; it is free again when the sender knows or gives up."""
        endpoint = delivery.endpoint
        spec = endpoint.policy
        assert spec is not None
        number = delivery.attempts
        if self.dispatcher.overhead:
            yield self.at(int(self.env.now) + self.dispatcher.overhead, ATTEMPT, delivery.number, number)
        started = int(self.env.now)
        if number == 1 and spec.age_from_first_attempt:
            delivery.born = started
        answer = endpoint.receive(
            lambda: self.request(delivery, number), delivery.event_word, started, number
        )
        deadline = started + policy.attempt_timeout(spec, number)
        in_time = answer.answered <= deadline and answer.code != policy.NO_ANSWER
        finished = answer.answered if in_time else deadline
        code = answer.code if in_time else policy.NO_ANSWER
        row = [
            delivery.number, number, number, delivery.due, started, NOT_YET, NO_OUTCOME,
            0, answer.processed, answer.served, delivery.cause,
        ]  # fmt: skip
        self.attempts.append(row)

        yield self.at(finished, ATTEMPT, delivery.number, number)
        action = policy.verdict(spec, code)
        row[5:8] = finished, policy.outcome(action, code), max(code, 0)
        self.free_worker(delivery)
        self.decide(delivery, endpoint, spec, action, answer.retry_after if in_time else -1)
        self.release(endpoint)

    def decide(
        self, delivery: Delivery, endpoint: Endpoint, spec: policy.Policy, action: int, asked: int
    ) -> None:
        """After an attempt: what the endpoint's health becomes, and what becomes of the delivery."""
        now = int(self.env.now)
        failed = action != policy.SUCCESS
        endpoint.health = policy.health_after(spec, endpoint.health, now, failed, delivery.probe)
        delivery.probe = False
        if not failed:
            if spec.budget_ratio >= 0:
                endpoint.budget = policy.budget_after_success(spec, endpoint.budget, now)
            delivery.delivered = now
            self.settle(delivery, policy.STATE_DELIVERED)
            return
        rest = policy.endpoint_rest(spec, max(policy.gap_before(spec, delivery.attempts + 1), 0), asked)
        endpoint.rested_until = max(endpoint.rested_until, now + rest)
        if action == policy.DISABLE or policy.disables(spec, endpoint.health, now):
            self.disable(endpoint)
        if action in (policy.DROP, policy.DISABLE) or (endpoint.disabled and not spec.disable_holds):
            self.settle(delivery, policy.DROPPED)
            return
        state, due, gap = policy.retry(
            spec,
            delivery.attempts,
            now,
            delivery.born,
            delivery.gap,
            asked,
            self.luck(delivery, delivery.attempts + 1),
        )
        if state == policy.WAITING and spec.budget_ratio >= 0:
            paid, endpoint.budget = policy.budget_take(spec, endpoint.budget, now)
            state = policy.WAITING if paid else policy.DEAD
        if state != policy.WAITING:
            self.settle(delivery, state)
            return
        self.require_progress(delivery, due)
        delivery.state = policy.WAITING
        delivery.due, delivery.gap = due, gap
        endpoint.waiting[delivery.number] = delivery

    def require_progress(self, delivery: Delivery, due: int) -> None:
        """Refuse a schedule of no gaps against a receiver that answers in no time: time would stand still."""
        delivery.standing = delivery.standing + 1 if due == delivery.due else 0
        if delivery.standing > STANDSTILL:
            spec = self.model.policy_names[delivery.endpoint.member.policy]
            raise ScenarioError(
                f"policies.{spec}.schedule retries without any gap, and {delivery.endpoint.member.name} fails in "
                f"no time: {STANDSTILL:,} attempts at {int(self.env.now) / 1e9:g} s; give a gap, a breaker, or a "
                "latency to the failures"
            )

    def settle(self, delivery: Delivery, state: int) -> None:
        """A final state; the successor of its key may go."""
        delivery.state = state
        delivery.settled = int(self.env.now)
        delivery.is_due = False
        self.unsettled -= 1
        delivery.endpoint.waiting.pop(delivery.number, None)
        stream = delivery.stream
        if stream is not None and stream and stream[0] is delivery:
            while stream and stream[0].settled >= 0:
                stream.popleft()
            if stream and stream[0].is_due:
                self.compete(stream[0])

    def disable(self, endpoint: Endpoint) -> None:
        """Switch an endpoint off: what waits for it is dropped, or held until the end of the run."""
        endpoint.disabled = True
        assert endpoint.policy is not None
        if not endpoint.policy.disable_holds:
            for delivery in sorted(endpoint.waiting.values(), key=lambda waiting: waiting.number):
                self.let_go(delivery)
                self.settle(delivery, policy.DROPPED)

    def request(self, delivery: Delivery, attempt: int) -> Request:
        """An attempt in the words of a user's own receiver."""
        source, index, kind, key, seq, _ = self.events[delivery.event]
        event_id = f"{self.model.producers[source]}:{index}"
        return Request(
            time_s=int(self.env.now) / 1e9,
            delivery_id=f"{event_id}:{delivery.endpoint.member.name}",
            endpoint=delivery.endpoint.member.name,
            event_type=self.model.event_types[kind],
            key=key,
            seq=seq,
            attempt_number=attempt,
        )

    # ----------------------------------------------------------------- the dispatcher

    def enter(self, delivery: Delivery) -> None:
        """Begin to wait for the next attempt."""
        delivery.cause = 0
        if self.per_tier:
            name = (delivery.endpoint.member.policy, delivery.attempts + 1)
            tier = self.tiers.get(name)
            if tier is None:
                tier = self.tiers[name] = Tier(self.model.tier_workers(delivery.attempts + 1))
            delivery.tier = tier
            tier.queue.append(delivery)
            self.touch(tier)

    def offer(self, delivery: Delivery) -> None:
        """A delivery has come due: it may start, unless a predecessor of its key is still unsettled."""
        stream = delivery.stream
        if stream is not None and stream[0] is not delivery and not self.per_tier:
            delivery.cause = CAUSE["order"]
        else:
            self.compete(delivery)

    def compete(self, delivery: Delivery) -> None:
        """Take part in the next dispatch."""
        if not self.per_tier:
            lane = self.lane_of(delivery)
            push(lane.ready, delivery)
            if lane.free > 0:
                self.wake()
        elif delivery.held:
            push(self.held_ready, delivery)
            self.wake()
        elif delivery.tier is not None and delivery.cause:
            # it was its turn once, but something held it up: it goes before those that were never taken
            push(delivery.tier.returned, delivery)
            self.touch(delivery.tier)

    def lane_of(self, delivery: Delivery) -> Lane:
        """The worker pool that serves a delivery."""
        return self.lanes[min(delivery.attempts + (delivery.state == policy.WAITING), len(self.lanes)) - 1]

    def touch(self, tier: Tier) -> None:
        """Let the tier's free workers look at its queue in the next dispatch."""
        if tier.free > 0:
            self.touched[tier] = None
            self.wake()

    def wake(self) -> None:
        """Dispatch once everything else at this instant has happened."""
        if not self.dispatch_pending:
            self.dispatch_pending = True
            moment = self.at(int(self.env.now), DISPATCH, 0)
            assert moment.callbacks is not None
            moment.callbacks.append(self.dispatch)

    def dispatch(self, _: simpy.Event) -> None:
        """Start all that can start, in order of (due, id)."""
        self.dispatch_pending = False
        while True:
            delivery = self.next_held() if self.per_tier else self.next_ready()
            if delivery is None:
                return
            self.start_or_park(delivery)

    def next_ready(self) -> Delivery | None:
        """The first due delivery of a lane with a free worker."""
        best: Lane | None = None
        for lane in self.lanes:
            while lane.ready and lane.ready[0][2].state != policy.WAITING:
                heappop(lane.ready)  # dropped meanwhile
            if lane.free > 0 and lane.ready and (best is None or lane.ready[0] < best.ready[0]):
                best = lane
        return heappop(best.ready)[2] if best is not None else None

    def next_held(self) -> Delivery | None:
        """The first due delivery that a worker of its tier holds, once free workers have taken heads."""
        while self.touched:
            tier = next(iter(self.touched))
            head = self.head_of(tier) if tier.free > 0 else None
            if head is None:
                del self.touched[tier]
                continue
            tier.free -= 1
            head.held = True
            if head.is_due:
                push(self.held_ready, head)
        while self.held_ready and not self.held_ready[0][2].held:
            heappop(self.held_ready)
        return heappop(self.held_ready)[2] if self.held_ready else None

    @staticmethod
    def head_of(tier: Tier) -> Delivery | None:
        """Who is next in a tier: those that were held up before, then first come, first held."""
        while tier.returned:
            delivery = heappop(tier.returned)[2]
            if delivery.state == policy.WAITING:
                return delivery
        while tier.queue:
            delivery = tier.queue.popleft()
            if delivery.state == policy.WAITING:
                return delivery
        return None

    def start_or_park(self, delivery: Delivery) -> None:
        """Give a due delivery its turn, or set it aside until what blocks it has gone."""
        now = int(self.env.now)
        endpoint = delivery.endpoint
        stream = delivery.stream
        if stream is not None and stream[0] is not delivery:
            delivery.cause = CAUSE["order"]
            self.let_go(delivery)
            return
        cause, until = endpoint.blocked(now)
        if cause:
            delivery.cause = CAUSE[cause]
            self.let_go(delivery)
            push(endpoint.parked, delivery)
            self.wake_endpoint(endpoint, until)
            return
        if delivery.deleted_at <= now:
            self.let_go(delivery)
            self.settle(delivery, policy.VANISHED)
            self.release(endpoint)
            return
        if not self.per_tier:
            self.lane_of(delivery).free -= 1
        if delivery.due == now:
            delivery.cause = 0
        elif not delivery.cause:
            delivery.cause = CAUSE["head_of_line" if self.per_tier else "worker"]
        delivery.held = delivery.is_due = False
        delivery.state = policy.IN_FLIGHT
        delivery.attempts += 1
        del endpoint.waiting[delivery.number]
        endpoint.in_flight += 1
        delivery.probe = endpoint.health.breaker == policy.OPEN
        endpoint.health = policy.start_probing(endpoint.health)
        if endpoint.member.rate_interval:
            endpoint.free_again = now + endpoint.member.rate_interval
        assert delivery.turn is not None
        delivery.turn.succeed()
        self.release(endpoint)

    def let_go(self, delivery: Delivery) -> None:
        """A worker that held a delivery under ``per_tier`` gives it up: blocked deliveries hold no worker."""
        if delivery.held:
            delivery.held = False
            assert delivery.tier is not None
            delivery.tier.free += 1
            self.touch(delivery.tier)

    def free_worker(self, delivery: Delivery) -> None:
        """The worker of an attempt that has ended is free again."""
        delivery.endpoint.in_flight -= 1
        if self.per_tier:
            assert delivery.tier is not None
            delivery.tier.free += 1
            self.touch(delivery.tier)
            return
        lane = self.lane_of(delivery)
        lane.free += 1
        if lane.ready:
            self.wake()

    def release(self, endpoint: Endpoint) -> None:
        """Let the first delivery that was set aside compete again, if nothing blocks it any more."""
        now = int(self.env.now)
        while endpoint.parked:
            cause, until = endpoint.blocked(now)
            if cause:
                self.wake_endpoint(endpoint, until)
                return
            delivery = heappop(endpoint.parked)[2]
            if delivery.state == policy.WAITING:
                self.compete(delivery)
                return

    def wake_endpoint(self, endpoint: Endpoint, until: int) -> None:
        """Look again at what was set aside once time alone has ended the block."""
        if until < endpoint.wake_at:
            endpoint.wake_at = until
            moment = self.at(until, DUE, endpoint.index)
            assert moment.callbacks is not None
            moment.callbacks.append(lambda _: self.woken(endpoint, until))

    def woken(self, endpoint: Endpoint, at: int) -> None:
        """The time of ``wake_endpoint`` has come."""
        if endpoint.wake_at == at:  # or else an earlier one was found meanwhile
            endpoint.wake_at = FOREVER
            self.release(endpoint)

    def change_workers(self) -> Process:
        """The number of workers over time; an attempt under way is finished all the same."""
        lane = self.lanes[0]
        steps = self.model.workers_at()
        for (_, before), (start, count) in itertools.pairwise(steps):
            yield self.at(start, WORKERS_CHANGE, 0)
            lane.free += count - before
            if lane.free > 0 and lane.ready:
                self.wake()

    # ----------------------------------------------------------------- polling

    def poll(self, endpoint: Endpoint) -> Process:
        """An endpoint that fetches what waits for it: it needs no worker, and does not poll while it is out."""
        member = endpoint.member
        faults = self.model.receivers[member.receiver].fault_kind
        time = member.poll_phase
        while time < self.model.horizon or self.unsettled or self.producing:
            yield self.at(time, DUE, endpoint.index)
            down = any(
                kind not in (receiver.ERROR, receiver.LOST_ANSWER)
                and receiver.out(member.outages, fault, time)
                for fault, kind in enumerate(faults)
            )
            if not down:
                mailbox, self.mailboxes[endpoint.index] = self.mailboxes[endpoint.index], []
                self.polls.append((endpoint.index, time, len(mailbox)))
                for delivery in mailbox:
                    self.fetch(delivery, time)
            time += member.poll_every

    def fetch(self, delivery: Delivery, time: int) -> None:
        """A delivery returned by a poll: one row, tier 0, processed at once."""
        delivery.attempts = 1
        delivery.delivered = time
        cause = CAUSE["poll"] if time > delivery.created else 0
        times = [delivery.created, time, time]
        self.attempts.append(
            [delivery.number, 1, 0, *times, policy.DELIVERED, receiver.OK, time, time, cause]
        )
        self.settle(delivery, policy.STATE_DELIVERED)

    # ----------------------------------------------------------------- results

    def columns(self, ended: int) -> Columns:
        """What was recorded, as integers."""
        deliveries = [
            (
                d.event,
                d.endpoint.index,
                d.state,
                d.attempts,
                d.delivered,
                d.settled,
                d.due if d.state == policy.WAITING else NOT_YET,
            )
            for d in self.deliveries
        ]
        return Columns(
            events=np.array(self.events, dtype=np.int64),
            deliveries=np.array(deliveries, dtype=np.int64),
            attempts=np.array(self.attempts, dtype=np.int64),
            polls=np.array(self.polls, dtype=np.int64),
            ended=ended,
        )


def _user_receiver(
    model: Model, member: Member, given: Mapping[str, UserReceiver | Callable[[str], UserReceiver]]
) -> UserReceiver | None:
    """A user's own receiver for this endpoint: by its receiver's name or its group's; a factory makes one each."""
    name = model.receiver_names[member.receiver]
    own = given.get(name, given.get(member.group))
    if own is None or (hasattr(own, "receive") and not isinstance(own, type)):
        return own
    made: UserReceiver = own(member.name)
    return made


def run(
    model: Model,
    receivers: Mapping[str, UserReceiver | Callable[[str], UserReceiver]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Columns:
    """Run a model under SimPy; ``receivers`` replaces receivers or groups by a user's own objects.

    Raises:
        ScenarioError: an unknown name in ``receivers``; a schedule under which time would stand still.
    """
    given = receivers or {}
    known: Iterable[str] = [*model.receiver_names, *(member.group for member in model.members)]
    for name in given:
        if name not in known:
            raise ScenarioError(
                f"receivers: {name!r} is neither a receiver nor an endpoint group of this scenario"
            )
    return Simulation(model, given).run(progress)
