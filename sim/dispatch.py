"""Who may start: deliveries, endpoints and what blocks them, worker pools, tiers, and orderings.

A delivery *enters* when it begins to wait for an attempt, is *offered* when it comes due, and gets its *turn*
when a worker takes it. Dispatch looks at everything that is due in order of (due, id). What an endpoint blocks
(a slot, its rate, its breaker, …) is set aside without a worker, keeps its place, and competes again once the
block has gone. The pools are one of two disciplines: ``Lane`` (shared: any due delivery) or ``Tier`` (per_tier:
each worker takes the head of its tier, due or not, and holds it until it has been sent).

The SimPy engine and the real dispatcher both run this, each with its own clock; what a turn, a final state or a
disabled endpoint means beyond that is theirs (``Course``).
"""

from __future__ import annotations

import functools
from collections import deque
from heapq import heappop, heappush
from typing import Any, Protocol

from sim import instant, policy
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.instant import Clock
from sim.model import Member
from sim.policy import FOREVER

NOT_YET = -1
"""A time that has not come."""


class Delivery:
    """The duty to bring one event to one endpoint."""

    __slots__ = (
        "attempts", "born", "cause", "created", "deleted_at", "delivered", "due", "endpoint", "event",
        "event_word", "gap", "held", "is_due", "number", "offered", "probe", "settled", "standing", "state",
        "stream", "tier",
    )  # fmt: skip

    def __init__(self, number: int, event: int, event_word: int, created: int, endpoint: Endpoint) -> None:
        self.number = number
        self.event = event
        self.event_word = event_word
        self.created = created
        self.endpoint = endpoint
        self.state = policy.WAITING
        self.attempts = 0
        self.due = created
        self.gap = 0  # the one that led to due, for jitter that looks back
        self.born = created  # what max_age counts from
        self.deleted_at = FOREVER
        self.delivered = NOT_YET
        self.settled = NOT_YET
        self.cause = 0  # what it waits for once it is due
        self.is_due = False
        self.offered = NOT_YET  # since when it competes for a turn
        self.held = False  # by a worker of its tier
        self.probe = False  # the attempt that an open breaker lets through
        self.standing = 0  # attempts in a row at one instant
        self.stream: Queue | None = None
        self.tier: Tier | None = None


Queue = deque[Delivery]
Ranked = list[tuple[int, int, Delivery]]
"""A heap of (due, number, delivery): who may start first."""


def push(heap: Ranked, delivery: Delivery) -> None:
    """Add a delivery to a heap."""
    heappush(heap, (delivery.due, delivery.number, delivery))


def pop_waiting(heap: Ranked) -> Delivery | None:
    """Take the first delivery of a heap that has not been dropped meanwhile."""
    while heap:
        delivery = heappop(heap)[2]
        if delivery.state == policy.WAITING:
            return delivery
    return None


class Lane:
    """A worker pool of the shared discipline, and the due deliveries that wait for it."""

    def __init__(self, workers: int) -> None:
        self.free = workers
        self.ready: Ranked = []


class Tier:
    """The queue of one policy and attempt number under ``per_tier``: first come, first held."""

    def __init__(self, workers: int) -> None:
        self.free = workers
        self.queue: Queue = deque()
        self.returned: Ranked = []
        """Those that were held once, but were blocked when they came due."""

    def head(self) -> Delivery | None:
        """Take who is next: those that were held before, then first come."""
        returned = pop_waiting(self.returned)
        while returned is None and self.queue:
            delivery = self.queue.popleft()
            if delivery.state == policy.WAITING:
                return delivery
        return returned


class Endpoint:
    """What the sender knows about one endpoint."""

    def __init__(self, index: int, member: Member, rules: policy.Policy | None) -> None:
        self.index = index
        self.member = member
        self.policy = rules
        self.health = policy.healthy()
        self.watched = rules is not None and policy.watches_health(rules)
        self.budget = policy.Budget(0.0, 0) if rules is None else policy.budget_full(rules)
        self.in_flight = 0
        self.free_again = 0
        """When its rate limit lets the next attempt start."""
        self.rested_until = 0
        """Until when it has asked not to be called at all."""
        self.disabled = False
        self.parked: dict[Lane | Tier, Ranked] = {}
        """Due deliveries that the endpoint blocks, by the pool whose worker they need."""
        self.wake_at = FOREVER

    def blocked(self, now: int) -> int:
        """Why no attempt may start now: a wait cause, 0 if one may."""
        shut = self.health.breaker != policy.CLOSED and policy.breaker_blocks(self.health, now)
        most = self.member.max_in_flight
        return policy.block(
            self.disabled, self.in_flight, most, shut, self.rested_until, self.free_again, now
        )

    def blocked_until(self, cause: int) -> int:
        """When time alone ends a block; ``FOREVER``: it takes more than time."""
        health = self.health
        return policy.block_ends(
            cause, health.breaker, health.opened_until, self.rested_until, self.free_again
        )


class Course(Protocol):
    """Whoever runs the deliveries: what they are told, and asked, on the way."""

    def begin(self, delivery: Any) -> None:
        """The delivery has its turn: its attempt starts now."""

    def vanish(self, delivery: Any) -> None:
        """The object of a delivery is gone at its start."""

    def settle(self, delivery: Any, state: int, cause: int) -> None:
        """The delivery has come to a final state, and why; must call ``Dispatcher.forget``."""

    def disable(self, endpoint: Any) -> None:
        """The endpoint has been disabled; unless its policy holds what waits, that is to be settled as dropped."""

    def luck(self, delivery: Any) -> float:
        """The uniform number behind the jitter of the gap before the delivery's next attempt."""


class Dispatcher:
    """The sender's queues and workers. ``origin`` is what the times of a list ``[from, n]`` of workers count from."""

    def __init__(self, env: Clock, rules: Rules, course: Course, origin: int = 0) -> None:
        self.env = env
        self.rules = rules
        self.course = course
        self.per_tier = rules.discipline == "per_tier"
        workers = [] if self.per_tier else [rules.workers_at()[0][1]]
        if rules.lanes is not None:
            workers = [rules.lanes.first, rules.lanes.retries]
        self.lanes = [Lane(count) for count in workers]
        """The pool of first attempts and the pool of retries; usually one for both."""
        self.tiers: dict[tuple[int, int], Tier] = {}
        self.looking: dict[Tier, None] = {}
        """Tiers whose free workers have yet to look at their queue."""
        self.held_due: Ranked = []
        self.streams: dict[tuple[int, ...], Queue] = {}
        self.pending = False
        self.workers = workers[0] if workers else 0
        """Of the shared pool, as the list ``[from, n]`` has it now."""
        self.origins = 0
        self.count_from(origin)

    def count_from(self, origin: int) -> None:
        """Let the times of a list ``[from, n]`` of workers count from here, and no more from an earlier origin."""
        if self.per_tier or self.rules.lanes is not None:
            return
        self.origins += 1
        (_, first), *later = self.rules.workers_at()
        self.set_workers(first, self.origins, None)
        for start, count in later:
            change = functools.partial(self.set_workers, count, self.origins)
            self.env.call(origin + start, instant.WORKERS, 0, change)

    # ----------------------------------------------------------------- the way in

    def arrange(self, delivery: Delivery, source: int, key: int) -> None:
        """Give a new delivery its place in the order of its key or endpoint."""
        if self.rules.ordering != "none":
            index = delivery.endpoint.index
            name = (index,) if self.rules.ordering == "endpoint" else (index, source, key)
            delivery.stream = self.streams.setdefault(name, deque())
            delivery.stream.append(delivery)

    def enter(self, delivery: Delivery) -> None:
        """A delivery begins to wait for its next attempt."""
        delivery.cause = 0
        if self.per_tier:
            name = (delivery.endpoint.member.policy, delivery.attempts + 1)
            tier = self.tiers.get(name)
            if tier is None:
                tier = self.tiers[name] = Tier(self.rules.tier_workers(delivery.attempts + 1))
            delivery.tier = tier
            tier.queue.append(delivery)
            self.look(tier)

    def offer(self, delivery: Delivery) -> None:
        """A delivery has come due: it waits for its turn."""
        delivery.is_due = True
        delivery.offered = self.env.now
        if not self.per_tier and delivery.stream is not None and delivery.stream[0] is not delivery:
            delivery.cause = policy.FOR_ORDER
        else:
            self.compete(delivery)

    def compete(self, delivery: Delivery) -> None:
        """Take part in the next dispatch."""
        if not self.per_tier:
            lane = self.lane(delivery.attempts + 1)
            push(lane.ready, delivery)
            if lane.free > 0:
                self.wake()
        elif delivery.held:
            push(self.held_due, delivery)
            self.wake()
        elif delivery.cause:
            assert delivery.tier is not None
            push(delivery.tier.returned, delivery)
            self.look(delivery.tier)

    def lane(self, attempt_number: int) -> Lane:
        """The pool that serves an attempt number."""
        return self.lanes[0] if attempt_number == 1 else self.lanes[-1]

    def pool(self, delivery: Delivery) -> Lane | Tier:
        """The pool whose worker a waiting delivery needs."""
        return delivery.tier if delivery.tier is not None else self.lane(delivery.attempts + 1)

    def look(self, tier: Tier) -> None:
        """Let a tier's free workers look at its queue."""
        if tier.free > 0:
            self.looking[tier] = None
            self.wake()

    # ----------------------------------------------------------------- dispatch

    def wake(self) -> None:
        """Dispatch once everything else at this instant has happened."""
        if not self.pending:
            self.pending = True
            self.env.call(self.env.now, instant.DISPATCH, 0, self.dispatch)

    def dispatch(self, _moment: object) -> None:
        """Start all that can start, in order of (due, id)."""
        self.pending = False
        following = self.next_held if self.per_tier else self.next_ready
        while (delivery := following()) is not None:
            self.start_or_park(delivery)

    def next_ready(self) -> Delivery | None:
        """The first due delivery of the lanes that have a free worker."""
        best: Lane | None = None
        for lane in self.lanes:
            ready = lane.ready
            while ready and ready[0][2].state != policy.WAITING:
                heappop(ready)
            if ready and lane.free > 0 and (best is None or ready[0] < best.ready[0]):
                best = lane
        return None if best is None else heappop(best.ready)[2]

    def next_held(self) -> Delivery | None:
        """The first due delivery that a worker of its tier holds, once free workers have taken what they can."""
        while self.looking:
            tier = next(iter(self.looking))
            head = tier.head() if tier.free > 0 else None
            if head is None:
                del self.looking[tier]
                continue
            tier.free -= 1
            head.held = True
            if head.is_due:
                push(self.held_due, head)
        while (delivery := pop_waiting(self.held_due)) is not None:
            if delivery.held:  # or else it was listed twice: its predecessor vanished while it was due itself
                return delivery
        return None

    def start_or_park(self, delivery: Delivery) -> None:
        """Give a due delivery its turn, or set it aside until what blocks it has gone."""
        now = self.env.now
        endpoint = delivery.endpoint
        if delivery.stream is not None and delivery.stream[0] is not delivery:
            delivery.cause = policy.FOR_ORDER
            self.let_go(delivery)
            return
        cause = endpoint.blocked(now)
        if cause:
            delivery.cause = cause
            self.let_go(delivery)
            push(endpoint.parked.setdefault(self.pool(delivery), []), delivery)
            self.wake_endpoint(endpoint, endpoint.blocked_until(cause))
            return
        if delivery.deleted_at <= now:
            self.let_go(delivery)
            self.course.vanish(delivery)
        else:
            self.start(delivery, now)
        self.release(endpoint)

    def start(self, delivery: Delivery, now: int) -> None:
        """A worker takes a delivery: its process goes on."""
        endpoint = delivery.endpoint
        delivery.cause = policy.cause_at_start(delivery.cause, delivery.offered, now, self.per_tier)
        delivery.attempts += 1
        delivery.state = policy.IN_FLIGHT
        delivery.held = delivery.is_due = False
        if not self.per_tier:
            self.lane(delivery.attempts).free -= 1
        endpoint.in_flight += 1
        if endpoint.health.breaker != policy.CLOSED:  # it lets one through, to find out
            delivery.probe = True
            endpoint.health = policy.start_probing(endpoint.health)
        if endpoint.member.rate_interval:
            endpoint.free_again = now + endpoint.member.rate_interval
        self.course.begin(delivery)

    # ----------------------------------------------------------------- the way out

    def let_go(self, delivery: Delivery) -> None:
        """A worker that holds a delivery gives it up: what is blocked or dropped holds no worker."""
        if delivery.held:
            delivery.held = False
            assert delivery.tier is not None
            delivery.tier.free += 1
            self.look(delivery.tier)

    def finish(self, delivery: Delivery) -> None:
        """An attempt has ended: its worker and its slot are free."""
        delivery.endpoint.in_flight -= 1
        if delivery.tier is not None:
            delivery.tier.free += 1
            self.look(delivery.tier)
        else:
            lane = self.lane(delivery.attempts)
            lane.free += 1
            if lane.ready:
                self.wake()

    def withdraw(self, delivery: Delivery) -> None:
        """A turn is given back: there is nothing to send, and no attempt has been made."""
        endpoint = delivery.endpoint
        self.finish(delivery)
        delivery.attempts -= 1
        if delivery.probe:  # the next one finds out
            endpoint.health = policy.stop_probing(endpoint.health)
            delivery.probe = False

    def conclude(self, delivery: Delivery, action: int, asked: int) -> None:
        """An attempt has brought an answer or none: what it means for its endpoint and for the delivery.

        ``action`` is the verdict of ``policy.verdict``; ``asked`` what a Retry-After asks for, ns (-1: nothing).
        """
        now, endpoint = self.env.now, delivery.endpoint
        rules = endpoint.policy
        assert rules is not None
        self.finish(delivery)
        failed = action != policy.SUCCESS
        if endpoint.watched:
            endpoint.health = policy.health_after(rules, endpoint.health, now, failed, delivery.probe)
            delivery.probe = False
        if failed:
            rest = policy.endpoint_rest(rules, delivery.attempts, asked)
            endpoint.rested_until = max(endpoint.rested_until, now + rest)
            if action == policy.DISABLE or policy.disables(rules, endpoint.health, now):
                endpoint.disabled = True
                self.course.disable(endpoint)
            self.after_failure(delivery, rules, action, asked)
        else:
            if rules.budget_ratio >= 0:
                endpoint.budget = policy.budget_after_success(rules, endpoint.budget, now)
            delivery.delivered = now
            self.course.settle(delivery, policy.STATE_DELIVERED, 0)
        self.release(endpoint)

    def after_failure(self, delivery: Delivery, rules: policy.Policy, action: int, asked: int) -> None:
        """Let a delivery wait for its next attempt, or settle it."""
        endpoint = delivery.endpoint
        state, cause, delivery.due, delivery.gap, endpoint.budget = policy.after_failure(
            rules,
            action,
            endpoint.disabled,
            delivery.attempts,
            self.env.now,
            delivery.born,
            delivery.gap,
            asked,
            self.course.luck(delivery),
            endpoint.budget,
        )
        if state == policy.WAITING:
            delivery.state = state
        else:
            self.course.settle(delivery, state, cause)

    def forget(self, delivery: Delivery) -> None:
        """A delivery has been settled: it waits no more, and its successor may go."""
        self.let_go(delivery)
        delivery.is_due = False
        stream = delivery.stream
        if stream is not None and stream[0] is delivery:
            while stream and stream[0].settled != NOT_YET:
                stream.popleft()
            if stream and stream[0].is_due:
                self.compete(stream[0])

    def release(self, endpoint: Endpoint) -> None:
        """Let the first delivery of every pool that was set aside compete again, if nothing blocks it any more."""
        if not endpoint.parked:
            return
        pools = [pool for pool, parked in endpoint.parked.items() if parked]
        if pools:
            cause = endpoint.blocked(self.env.now)
            if cause:
                self.wake_endpoint(endpoint, endpoint.blocked_until(cause))
                return
            for pool in pools:
                if (delivery := pop_waiting(endpoint.parked[pool])) is not None:
                    self.compete(delivery)

    def wake_endpoint(self, endpoint: Endpoint, until: int) -> None:
        """Look again at what was set aside once time has ended the block."""
        if until < endpoint.wake_at:
            endpoint.wake_at = until
            self.env.call(until, instant.ENDPOINT, endpoint.index, lambda _: self.woken(endpoint, until))

    def woken(self, endpoint: Endpoint, at: int) -> None:
        """The time of ``wake_endpoint`` has come."""
        if endpoint.wake_at == at:  # or else an earlier one was found meanwhile
            endpoint.wake_at = FOREVER
            self.release(endpoint)

    def set_workers(self, count: int, origin: int, _moment: object) -> None:
        """The number of workers changes, unless another origin holds by now; what is under way is finished."""
        if origin != self.origins:
            return
        lane = self.lanes[0]
        lane.free += count - self.workers
        self.workers = count
        if lane.free > 0 and lane.ready:
            self.wake()
