"""The SimPy engine: producers, deliveries and polling endpoints as processes. It is the specification.

A delivery is a process: it waits until it is due, for its turn, for the answer, and decides what follows. Every
decision is one of ``sim.policy``; what a receiver makes of a request is ``sim.receiver``; luck comes from
``sim.dice``; who gets a turn and what an answer leads to is ``sim.dispatch``; what comes first at one instant is
``sim.instant``. So what stands here is the course of things: read ``deliver`` first, then ``attempt``.

Time is int nanoseconds.
"""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Callable, Generator, Mapping
from typing import cast

import numpy as np
import simpy

from sim import dice, instant, jit, policy, receiver
from sim.clock import Clock
from sim.dispatch import NOT_YET, Delivery, Dispatcher, Endpoint
from sim.errors import ScenarioError, shown
from sim.model import STANDSTILL, Member, Model
from sim.receiver import NEVER
from sim.trace import (
    ATTEMPT_COLUMNS,
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    NO_OUTCOME,
    POLL_COLUMNS,
    Columns,
    Ints,
)
from sim.user import Request, UserReceiver, answer_of

Process = Generator[simpy.Event, object, None]
UserReceivers = Mapping[str, UserReceiver | Callable[[str], UserReceiver]]
Receive = Callable[[int, int, int], tuple[int, int, int, int, int]]
"""(now, event word, attempt number) → the parts of an ``Answer``."""

FINISHED, OUTCOME, STATUS, PROCESSED, SERVED = (
    ATTEMPT_COLUMNS.index(name) for name in ("finished", "outcome", "status", "processed", "served")
)


class Turned(Delivery):
    """A delivery whose process waits for its turn."""

    __slots__ = ("turn",)
    turn: simpy.Event


class Simulation:
    """One run of a model."""

    def __init__(self, model: Model, receivers: UserReceivers) -> None:
        self.model = model
        self.env = Clock()
        self.dispatcher = Dispatcher(self.env, model.scenario.dispatcher, self)
        self.overhead = int(model.scenario.dispatcher.overhead)
        self.holds_id = model.scenario.dispatcher.queue_holds == "id"
        self.endpoints = [
            Endpoint(i, member, model.policies[member.policy] if member.policy >= 0 else None)
            for i, member in enumerate(model.members)
        ]
        self.receive: list[Receive] = [
            jit.receiver_of(model.receivers[member.receiver], member.outages, model.seed, member.word)
            for member in model.members
        ]
        self.own_receivers = {
            i: own
            for i, member in enumerate(model.members)
            if (own := _own_receiver(model, member, receivers)) is not None
        }
        self.mailboxes: dict[int, list[Turned]] = {}
        self.open: dict[int, Turned] = {}
        # flat rows of 64-bit numbers: millions of tuples would keep Python's garbage collector busy
        self.events = array("q")
        self.deliveries = array("q")
        self.attempts = array("q")
        self.polls = array("q")
        self.producing = len(model.sources)
        self.over = self.env.event()
        self.stopped = False

    def run(self, progress: Callable[[int], None] | None = None) -> Columns:
        """Run until all is settled or the drain has passed, and give what was recorded."""
        env = self.env
        for source in range(len(self.model.sources)):
            env.process(self.produce(source))
        for endpoint in self.endpoints:
            if endpoint.member.poll_every:
                env.process(self.poll(endpoint))
        if progress is not None:
            env.process(self.tell(progress))
        env.call(self.model.end, instant.END, 0, lambda _: self.finish())
        env.run(until=self.over)
        return self.columns()

    def finish(self) -> None:
        """End the run, whatever is still under way."""
        if not self.over.triggered:
            self.over.succeed()

    def tell(self, progress: Callable[[int], None]) -> Process:
        """Report how far the run has come, now and then."""
        for part in range(1, 201):
            yield self.env.at(self.model.horizon * part // 200, instant.END, 1)
            progress(self.env.now)

    # ----------------------------------------------------------------- events

    def produce(self, source: int) -> Process:
        """A producer: event after event until the horizon, each fanned out by the subscriptions to its type."""
        env, model = self.env, self.model
        spec = model.sources[source]
        for index, (time, kind, key, seq) in enumerate(jit.events(spec, model.seed, model.horizon)):
            yield env.at(time, instant.EVENT, source)
            fan_out = model.fan_out[source][kind]
            if (
                len(self.open) + sum(1 if group.by_key else group.members for group in fan_out)
                > model.most_open
            ):
                self.stopped = True
                self.finish()
                return
            row = len(self.events) // len(EVENT_COLUMNS)
            self.events.extend((source, index, model.type_codes[source][kind], key, seq, time))
            for group in fan_out:
                chosen = range(group.first, group.first + group.members)
                for member in (chosen[key % group.members],) if group.by_key else chosen:
                    self.create(row, source, index, key, self.endpoints[member])
        yield env.at(model.horizon, instant.EVENT, source)
        self.producing -= 1
        if not self.open and not self.producing:
            self.finish()

    def create(self, event: int, source: int, index: int, key: int, endpoint: Endpoint) -> None:
        """A new delivery, unless it is over before it begins."""
        now = self.env.now
        word = dice.item_word(self.model.sources[source].word, index)
        delivery = Turned(len(self.deliveries) // len(DELIVERY_COLUMNS), event, word, now, endpoint)
        self.deliveries.extend((event, endpoint.index, policy.WAITING, 0, NOT_YET, NOT_YET, NOT_YET, 0))
        self.open[delivery.number] = delivery
        rules = endpoint.policy
        if rules is None:
            self.mailboxes.setdefault(endpoint.index, []).append(delivery)
            return
        if self.holds_id:
            delivery.deleted_at = self.model.deleted_at(source, index, now)
        self.dispatcher.arrange(delivery, source, key)
        delivery.due = now + policy.first_gap(rules, self.luck(delivery))
        state, cause = policy.at_creation(rules, endpoint.disabled, delivery.due, now)
        if state != policy.WAITING:
            self.settle(delivery, state, cause)
        else:
            self.env.process(self.deliver(delivery))

    # ----------------------------------------------------------------- a delivery

    def deliver(self, delivery: Turned) -> Process:
        """The life of a delivery: due, turn, attempt, verdict; again and again until it is settled."""
        while delivery.state == policy.WAITING:
            self.dispatcher.enter(delivery)
            if delivery.due > self.env.now:
                yield self.env.at(delivery.due, instant.DUE, delivery.number)
                if delivery.state != policy.WAITING:
                    return  # dropped with its endpoint
            delivery.turn = self.env.event()
            self.dispatcher.offer(delivery)
            yield delivery.turn
            yield from self.attempt(delivery)

    def attempt(self, delivery: Turned) -> Process:
        """One HTTP try. Its worker is taken until the sender has an answer, is refused, or gives up."""
        env, endpoint, number = self.env, delivery.endpoint, delivery.attempts
        rules = endpoint.policy
        assert rules is not None
        started = env.now
        row = len(self.attempts)
        cause, due = delivery.cause, delivery.due
        self.attempts.extend(
            (delivery.number, number, number, due, started, NOT_YET, NO_OUTCOME, 0, NEVER, NEVER, cause)
        )
        if number == 1 and rules.age_from_first_attempt:
            delivery.born = started
        if self.overhead:  # the sender's own work, before the request leaves; the run may end in it
            yield env.at(started + self.overhead, instant.ATTEMPT, delivery.number)
        sent = env.now
        if endpoint.index in self.own_receivers:
            reply = self.own_receivers[endpoint.index].receive(self.request(delivery))
            code, answered, served, processed, asked = answer_of(reply, sent)
        else:
            code, answered, served, processed, asked = self.receive[endpoint.index](
                sent, delivery.event_word, number
            )
        code, finished, asked = policy.heard(rules, number, sent, code, answered, asked)
        self.attempts[row + PROCESSED], self.attempts[row + SERVED] = processed, served

        yield env.at(finished, instant.ATTEMPT, delivery.number)
        action = policy.verdict(rules, code)
        self.attempts[row + FINISHED] = finished
        self.attempts[row + OUTCOME] = policy.outcome(action, code)
        self.attempts[row + STATUS] = max(code, 0)
        self.dispatcher.conclude(delivery, action, asked)
        if delivery.state == policy.WAITING:
            self.require_progress(delivery, due)

    def begin(self, delivery: Turned) -> None:
        """A worker has taken a delivery: its process goes on."""
        delivery.turn.succeed()

    def luck(self, delivery: Turned) -> float:
        """The uniform number behind the jitter of the gap before the next attempt."""
        endpoint = delivery.endpoint
        if endpoint.policy is None or endpoint.policy.jitter == policy.NO_JITTER:
            return 0.5  # looked at by nobody
        return jit.uniform(
            self.model.seed,
            dice.Stream.JITTER,
            delivery.event_word,
            endpoint.member.word,
            delivery.attempts + 1,
            0,
        )

    def settle(self, delivery: Turned, state: int, cause: int = 0) -> None:
        """A final state, and why."""
        delivery.state = state
        delivery.cause = cause
        delivery.settled = self.env.now
        self.dispatcher.forget(delivery)
        self.record(delivery)
        del self.open[delivery.number]
        if not self.open and not self.producing:
            self.finish()

    def vanish(self, delivery: Turned) -> None:
        """The object of an event is gone when its attempt would start: there is nothing to send."""
        self.settle(delivery, policy.VANISHED, policy.BY_OBJECT)

    def disable(self, endpoint: Endpoint) -> None:
        """An endpoint has been switched off: what waits for it is held, or dropped in order of creation."""
        assert endpoint.policy is not None
        if endpoint.policy.disable_holds:
            return
        for delivery in list(self.open.values()):
            if delivery.endpoint is endpoint and delivery.state == policy.WAITING:
                self.settle(delivery, policy.DROPPED, policy.BY_DISABLING)

    def require_progress(self, delivery: Turned, due_before: int) -> None:
        """Refuse retries without a gap against a receiver that fails in no time: time would stand still."""
        delivery.standing = delivery.standing + 1 if delivery.due == due_before else 0
        if delivery.standing > STANDSTILL:
            raise self.model.standstill(delivery.endpoint.member, self.env.now)

    def request(self, delivery: Turned) -> Request:
        """An attempt in the words of a user's own receiver."""
        row = delivery.event * len(EVENT_COLUMNS)
        source, index, kind, key, seq, _ = self.events[row : row + len(EVENT_COLUMNS)]
        name = delivery.endpoint.member.name
        return Request(
            time_s=self.env.now / 1e9,
            delivery_id=f"{self.model.producers[source]}:{index}:{name}",
            endpoint=name,
            event_type=self.model.event_types[kind],
            key=key,
            seq=seq,
            attempt_number=delivery.attempts,
        )

    # ----------------------------------------------------------------- polling

    def poll(self, endpoint: Endpoint) -> Process:
        """An endpoint that fetches what waits for it; it needs no worker, and does not poll while it is out."""
        member = endpoint.member
        spec = self.model.receivers[member.receiver]
        time = member.poll_phase
        while True:
            yield self.env.at(time, instant.ENDPOINT, endpoint.index)
            if not receiver.any_outage(spec, member.outages, time):
                mailbox = self.mailboxes.pop(endpoint.index, [])
                self.polls.extend((endpoint.index, time, len(mailbox)))
                for delivery in mailbox:
                    self.fetch(delivery, time)
            time += member.poll_every

    def fetch(self, delivery: Turned, time: int) -> None:
        """A delivery returned by a poll: one row, tier 0, processed at once."""
        delivery.attempts = 1
        delivery.delivered = time
        cause = policy.FOR_POLL if time > delivery.created else 0
        self.attempts.extend((delivery.number, 1, 0, delivery.created, time, time))
        self.attempts.extend((policy.DELIVERED, receiver.OK, time, time, cause))
        self.settle(delivery, policy.STATE_DELIVERED)

    # ----------------------------------------------------------------- results

    def record(self, delivery: Turned) -> None:
        """Write down how a delivery stands."""
        row = delivery.number * len(DELIVERY_COLUMNS)
        self.deliveries[row + 2] = delivery.state
        self.deliveries[row + 3] = delivery.attempts
        self.deliveries[row + 4] = delivery.delivered
        self.deliveries[row + 5] = delivery.settled
        self.deliveries[row + 6] = delivery.due if delivery.state == policy.WAITING else NOT_YET
        self.deliveries[row + 7] = delivery.cause

    def columns(self) -> Columns:
        """What was recorded, as integers."""
        for delivery in self.open.values():
            held = delivery.endpoint.disabled and delivery.state == policy.WAITING
            delivery.cause = policy.BY_DISABLING if held else 0
            self.record(delivery)
        return Columns(
            events=_rows(self.events, EVENT_COLUMNS),
            deliveries=_rows(self.deliveries, DELIVERY_COLUMNS),
            attempts=_rows(self.attempts, ATTEMPT_COLUMNS),
            polls=_rows(self.polls, POLL_COLUMNS),
            ended=self.env.now,
            stopped=self.stopped,
        )


def _rows(flat: array[int], columns: tuple[str, ...]) -> Ints:
    return np.array(flat, dtype=np.int64).reshape(-1, len(columns))


_RECEIVER_RULE = "must have a method receive(request) giving a sim.Reply, or make such an object of a name"


def _own_receiver(model: Model, member: Member, given: UserReceivers) -> UserReceiver | None:
    """A user's receiver for an endpoint, by its receiver's name or its group's; a factory makes one each."""
    own = given.get(model.receiver_names[member.receiver], given.get(member.group))
    if own is None:
        return None
    if not isinstance(own, type) and callable(getattr(own, "receive", None)):
        return cast("UserReceiver", own)
    name = model.receiver_names[member.receiver]
    who = f"receivers: the one for {name if name in given else member.group}"
    if not callable(own) or (isinstance(own, type) and not hasattr(own, "receive")):
        raise ScenarioError(f"{who} {_RECEIVER_RULE}; {shown(own)} is neither")
    try:
        inspect.signature(own).bind(member.name)
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{who} {_RECEIVER_RULE}; it cannot be called with a name: {error}") from None
    made: UserReceiver = own(member.name)
    if not callable(getattr(made, "receive", None)):
        raise ScenarioError(f"{who} {_RECEIVER_RULE}; it made {'None' if made is None else shown(made)}")
    return made


def run(
    model: Model, receivers: UserReceivers | None = None, progress: Callable[[int], None] | None = None
) -> Columns:
    """Run a model; ``receivers`` replaces receivers or endpoint groups by a user's own objects.

    Raises:
        ScenarioError: an unknown name in ``receivers``; a schedule under which time would stand still.
    """
    known = {*model.receiver_names, *(member.group for member in model.members)}
    for name in receivers or {}:
        if name not in known:
            raise ScenarioError(f"receivers: {name!r} is neither a receiver nor a group of this scenario")
    return Simulation(model, receivers or {}).run(progress)
