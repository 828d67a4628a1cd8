"""What a scenario is like, asked for by closed forms: is it Poisson, do attempts fail independently, does it settle.

Every question is answered by reasons why not; no reason means yes. The answers err on the safe side: what is
not known to hold counts as not holding. Times are seconds and rates are per second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from sim import dice, model, policy, receiver
from sim.blocks_dispatcher import matches
from sim.blocks_policy import PolicyBlock
from sim.blocks_world import Fault, Outage, ReceiverBlock
from sim.errors import path_of
from sim.policy import FOREVER, Policy
from sim.receiver import Receiver
from sim.scenario import DEFAULT_EVENT_TYPE, Scenario
from sim.shown import shown_duration

NEVER_LATE = 1e-9
"""Share of answers after the timeout below which a run is taken to have none."""
MOST_ATTEMPTS = 1000
"""Attempts of a schedule that are summed up one by one."""
FORGOTTEN = 1000
"""A run this many times longer than what its empty start influences has forgotten it."""
BUSIEST = 0.9
"""Share of the workers that may be needed at the busiest time, where all must have settled by the end."""
LONGEST_JITTER = 20.0
"""No exponential gap is longer than so many times its mean: one in 5·10⁸ is."""

_MEAN_FACTOR = {
    "none": 1.0,
    "full": 0.5,
    "equal": 0.75,
    "exponential": 1.0,
    "plus_minus": 1.0,
    "additive": 1.0,
}


@dataclass(frozen=True)
class Pair:
    """The one policy and the one receiver of a scenario in which every delivery meets the same."""

    scenario: Scenario
    policy_name: str
    receiver_name: str

    @cached_property
    def block(self) -> PolicyBlock:
        """The policy as the file has it."""
        return self.scenario.policies[self.policy_name]

    @cached_property
    def rules(self) -> Policy:
        """The policy as numbers."""
        return model.lower_policy(self.block)

    @cached_property
    def receiver(self) -> ReceiverBlock:
        """The receiver as the file has it."""
        return self.scenario.receivers[self.receiver_name]

    @cached_property
    def spec(self) -> Receiver:
        """The receiver as numbers."""
        return model.lower_receiver(self.receiver)

    @property
    def attempts(self) -> int:
        """Attempts of a delivery that always fails; ``FOREVER`` if there is no end."""
        return self.rules.run_ends[-1]

    @property
    def outages(self) -> list[Outage]:
        """The outages among the receiver's faults."""
        return [fault.outage for fault in self.receiver.faults if fault.outage is not None]

    @cached_property
    def gaps_s(self) -> list[float]:
        """Gaps before attempt 2, 3, …, without jitter; of schedules with ``MOST_ATTEMPTS`` at most."""
        assert self.attempts <= MOST_ATTEMPTS, self.attempts
        return [policy.gap_before(self.rules, number) / 1e9 for number in range(2, self.attempts + 1)]

    @property
    def first_gap_s(self) -> float:
        """Gap before attempt 1, without jitter."""
        return policy.gap_before(self.rules, 1) / 1e9

    def mean_gap_s(self, gap_s: float) -> float:
        """The mean of a gap once it is jittered."""
        extra = self.rules.jitter_amount / 2e9 if self.block.jitter.kind == "additive" else 0.0
        return gap_s * _MEAN_FACTOR[self.block.jitter.kind] + extra

    @property
    def mean_first_gap_s(self) -> float:
        """The mean of the gap before attempt 1; a gap of 0 s has no jitter."""
        return self.mean_gap_s(self.first_gap_s) if self.first_gap_s > 0 else 0.0

    def longest_s(self) -> float:
        """From the event to the end of the last attempt at most, waiting aside."""
        kind, amount = self.block.jitter.kind, self.rules.jitter_amount
        factor = {"exponential": LONGEST_JITTER, "plus_minus": 1 + amount}.get(kind, 1.0)
        extra = amount / 1e9 if kind == "additive" else 0.0
        timeouts = policy.attempt_timeout(self.rules, 1) + (self.attempts - 1) * policy.attempt_timeout(
            self.rules, 2
        )
        return (self.first_gap_s + sum(self.gaps_s)) * factor + extra * self.attempts + timeouts / 1e9

    @property
    def timeouts_s(self) -> list[float]:
        """The timeouts of a first attempt and of a retry."""
        return [policy.attempt_timeout(self.rules, number) / 1e9 for number in (1, 2)]

    def late_share(self) -> float:
        """Share of answers, errors aside, that come after the timeout; 0 below ``NEVER_LATE``."""
        late = _above(self.spec.latency, self.timeouts_s[-1])
        return late if late > NEVER_LATE else 0.0

    def shares(self) -> tuple[float, float]:
        """(error, lost answer): shares of attempts that meet them; the first fault in the list that applies counts."""
        error = lost = 0.0
        left = 1.0
        for fault in self.receiver.faults:
            if fault.error is not None:
                error += left * fault.error.probability
                left *= 1 - fault.error.probability
            elif fault.lost_answer is not None:
                lost += left * fault.lost_answer.probability
                left *= 1 - fault.lost_answer.probability
        return error, lost

    def error_s_mean(self) -> float:
        """How long an error takes on average; 0 where there is none."""
        total, weight, left = 0.0, 0.0, 1.0
        for position, fault in enumerate(self.receiver.faults):
            if fault.error is not None:
                share = left * fault.error.probability
                left -= share
                weight += share
                total += share * dice.mean_s(*self.error_latency(position)) if share else 0.0
        return total / weight if weight else 0.0

    def error_latency(self, position: int) -> dice.Distribution:
        """How long an error of this fault takes."""
        error = self.receiver.faults[position].error
        assert error is not None
        return self.spec.latency if error.latency is None else model.lower_distribution(error.latency)


def _above(latency: dice.Distribution, limit_s: float) -> float:
    """P(X > limit), by bisection of the quantile function."""
    if dice.quantile_s(*latency, 1 - 2**-50) <= limit_s:
        return 0.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if dice.quantile_s(*latency, middle) <= limit_s else (low, middle)
    return 1 - low


def pair_of(scenario: Scenario, group: str | None = None) -> Pair | str:
    """The policy and receiver that all deliveries (of an endpoint group) meet, or why there is not one of each."""
    endpoints = scenario.endpoints if group is None else {group: scenario.endpoints[group]}
    pairs = set()
    for name, endpoint in endpoints.items():
        if endpoint.mode is not None or endpoint.policy is None:
            return f"endpoints.{name} polls"
        named = [endpoint.receiver] if isinstance(endpoint.receiver, str) else list(endpoint.receiver)
        if len(named) > 1:
            return f"endpoints.{name} has a mix of receivers"
        pairs.add((endpoint.policy, named[0]))
    if len(pairs) > 1:
        return "the endpoint groups differ in policy or receiver, and figures of the run mix them"
    ((rules, who),) = pairs
    return Pair(scenario, rules, who)


# --------------------------------------------------------------------------- the sender


def ends_by_attempts(pair: Pair) -> Iterator[str]:
    """Whether a delivery ends only by success or by using up its attempts."""
    path = path_of(["policies", pair.policy_name])
    for rule in ("max_age", "budget", "breaker", "disable"):
        if getattr(pair.block, rule) is not None:
            yield f"{path}.{rule} may end or hold back deliveries"
    asks = any(
        error is not None and error.retry_after is not None
        for fault in pair.receiver.faults
        for error in (fault.error, fault.outage.how.error if fault.outage is not None else None)
    ) or (pair.receiver.backlog is not None and pair.receiver.backlog.retry_after is not None)
    if pair.rules.retry_after != policy.IGNORE and asks:
        yield f"{path}.retry_after lets the receiver move retries"
    producers = pair.scenario.producers.values()
    if pair.scenario.dispatcher.queue_holds == "id" and any(
        p.objects is not None and p.objects.deleted_after is not None for p in producers
    ):
        yield "objects are deleted while their ids wait"


def counted_schedule(pair: Pair) -> Iterator[str]:
    """Whether the schedule ends, within ``MOST_ATTEMPTS``."""
    if pair.attempts > MOST_ATTEMPTS:
        yield (
            "the schedule has no end" if pair.attempts >= FOREVER else f"more than {MOST_ATTEMPTS:,} attempts"
        )


def verdicts_retry(pair: Pair) -> Iterator[str]:
    """Whether 200 is success and each failure that can happen leads to a retry."""
    if policy.verdict(pair.rules, receiver.OK) != policy.SUCCESS:
        yield "200 is no success"
    codes = {pair.spec.fault_status[i] for i, f in enumerate(pair.receiver.faults) if f.lost_answer is None}
    if pair.receiver.backlog is not None and pair.spec.beyond != policy.NO_ANSWER:
        codes.add(pair.spec.beyond)
    codes |= {policy.NO_ANSWER, policy.CONNECTION_REFUSED}
    odd = [code for code in sorted(codes) if policy.verdict(pair.rules, code) != policy.RETRY]
    words = {policy.NO_ANSWER: "a timeout", policy.CONNECTION_REFUSED: "a refused connection"}
    if odd:
        yield f"{words.get(odd[0], odd[0])} is not retried"


def no_overhead(pair: Pair) -> Iterator[str]:
    """Whether a worker is busy with the attempt alone."""
    if pair.scenario.dispatcher.overhead > 0:
        yield "the sender has an overhead"


def own_workers(pair: Pair) -> Iterator[str]:
    """Whether no other endpoint group can keep workers from this one's deliveries."""
    if pair.scenario.dispatcher.workers != "unlimited" or pair.scenario.dispatcher.lanes is not None:
        yield "the endpoint groups share workers"


def sender_never_waits(pair: Pair) -> Iterator[str]:
    """Whether an attempt starts the moment it is due."""
    dispatcher = pair.scenario.dispatcher
    if dispatcher.workers != "unlimited" or dispatcher.lanes is not None:
        yield "attempts wait for workers"
    yield from no_limits(pair)


def no_limits(pair: Pair) -> Iterator[str]:
    """Whether nothing but a worker is ever waited for."""
    if pair.scenario.dispatcher.ordering != "none":
        yield "deliveries wait for their predecessors"
    for name, endpoint in pair.scenario.endpoints.items():
        for limit in ("max_in_flight", "rate_limit"):
            if getattr(endpoint, limit) is not None:
                yield f"endpoints.{name}.{limit} holds attempts back"


def one_pool(pair: Pair) -> Iterator[str]:
    """Whether there is one pool of a fixed number of workers, first come, first served."""
    dispatcher = pair.scenario.dispatcher
    if dispatcher.discipline != "shared" or dispatcher.lanes is not None:
        yield "the workers are no single pool"
    elif dispatcher.workers == "unlimited":
        yield "workers are unlimited, so nothing waits for one"
    elif not isinstance(dispatcher.workers, int):
        yield "the number of workers changes"
    yield from no_limits(pair)


def settles(pair: Pair) -> Iterator[str]:
    """Whether every delivery has its end within the run."""
    if pair.attempts > MOST_ATTEMPTS:
        return  # ``counted_schedule`` says so
    if pair.block.jitter.kind == "decorrelated":
        yield "decorrelated jitter may outlast the run"
        return
    slack_s = 0.0
    dispatcher = pair.scenario.dispatcher
    if list(sender_never_waits(pair)):
        workers = dispatcher.workers
        if list(one_pool(pair)) or not isinstance(workers, int):
            yield "what waits at the sender may outlast the run"
            return
        held_s = max(pair.timeouts_s)
        peak = _peak_rate(pair.scenario)
        tries = _attempts_mean(sum(pair.shares()) + pair.late_share(), pair.attempts)
        busy_s = max(_held_s_mean(pair), 1e-9)
        if not peak * tries * busy_s < BUSIEST * workers:
            yield "at the busiest time attempts may keep most of the workers busy"
            return
        slack_s = 1000 * busy_s / (workers * (1 - BUSIEST)) + held_s
    if pair.longest_s() + slack_s > pair.scenario.drain_ns / 1e9:
        yield f"drain is shorter than the longest way of a delivery ({shown_duration(pair.longest_s() + slack_s)})"


def _attempts_mean(failing: float, most: int) -> float:
    """Attempts per delivery if so many fail."""
    return float(most) if failing >= 1 else (1 - failing**most) / (1 - failing)


def _held_s_mean(pair: Pair) -> float:
    """How long an attempt holds a worker on average, at most."""
    timeout_s = max(pair.timeouts_s)
    error, lost = pair.shares()
    answered = dice.capped_mean_s(*pair.spec.latency, timeout_s)
    return (1 - error - lost) * answered + lost * timeout_s + error * min(pair.error_s_mean(), timeout_s)


def _peak_rate(scenario: Scenario) -> float:
    """Most deliveries per second that are asked for at any time, on average; infinite where nobody knows."""
    total = 0.0
    for name, producer in scenario.producers.items():
        arrivals = producer.arrivals
        known = arrivals.poisson or arrivals.constant
        if known is None and arrivals.daily is not None:
            known = max(arrivals.daily.rates)
        if known is None and arrivals.ramp is not None:
            known = max(arrivals.ramp.start, arrivals.ramp.end)
        if known is None and arrivals.bursts is not None:
            known = max(arrivals.bursts.on, arrivals.bursts.off)
        if known is None or producer.batch is not None:
            return math.inf
        total += known * max(_fan_out(scenario, name).values())
    return total


# --------------------------------------------------------------------------- the receiver


def only_chance_fails(pair: Pair) -> Iterator[str]:
    """Whether attempts fail by chance alone, each like any other."""
    if pair.outages:
        yield "outages fail many attempts together"
    if pair.receiver.answers != "after_processing":
        yield "the receiver answers before it works"
    if pair.receiver.servers != "unlimited":
        yield "the receiver's servers are few, and answers wait for them"
    if pair.timeouts_s[0] != pair.timeouts_s[1]:
        yield "the first attempt has a timeout of its own"


def no_lost_answers(pair: Pair) -> Iterator[str]:
    """Whether no processing stays unknown to the sender."""
    if pair.shares()[1] > 0:
        yield "answers are lost"
    yield from never_late(pair)


def never_late(pair: Pair) -> Iterator[str]:
    """Whether no answer comes after the timeout."""
    timeout_s = min(pair.timeouts_s)
    latencies = [pair.spec.latency]
    latencies += [
        pair.error_latency(i) for i, fault in enumerate(pair.receiver.faults) if fault.error is not None
    ]
    if any(dice.quantile_s(*latency, 1 - NEVER_LATE) > timeout_s for latency in latencies):
        yield f"some answers take longer than the timeout ({shown_duration(timeout_s)})"


def alike(pair: Pair) -> Iterator[str]:
    """Whether errors take as long as answers."""
    if any(fault.error is not None and fault.error.latency is not None for fault in pair.receiver.faults):
        yield "errors have a latency of their own"


def exponential_latency(pair: Pair) -> Iterator[str]:
    """Whether the latency is exponential."""
    if pair.receiver.latency.exponential is None:
        yield "the latency is not exponential"


def no_faults(pair: Pair) -> Iterator[str]:
    """Whether nothing fails at the receiver."""
    if any(_happens(fault) for fault in pair.receiver.faults):
        yield "requests meet faults"


def _happens(fault: Fault) -> bool:
    chance = fault.error or fault.lost_answer
    return chance is None or chance.probability > 0


# --------------------------------------------------------------------------- arrivals


def poisson_deliveries(pair: Pair) -> Iterator[str]:
    """Whether deliveries come as a Poisson stream: independent events, each with one delivery."""
    yield from poisson_events(pair)
    for name in pair.scenario.producers:
        if max(_fan_out(pair.scenario, name).values()) > 1:
            yield f"an event of producers.{name} becomes several deliveries at once"


def poisson_at_each(pair: Pair) -> Iterator[str]:
    """Whether events come to each endpoint as a Poisson stream, of the same rate for all."""
    yield from poisson_events(pair)
    if len(pair.scenario.endpoints) > 1:
        yield "there are several endpoint groups"
    elif (endpoint := next(iter(pair.scenario.endpoints.values()))).route == "by_key" and endpoint.count > 1:
        yield "keys split the events unevenly among the endpoints"


def poisson_events(pair: Pair) -> Iterator[str]:
    """Whether events are independent, at a rate that does not change."""
    for name, producer in pair.scenario.producers.items():
        if producer.arrivals.poisson is None:
            yield f"the arrivals of producers.{name} are not poisson"
        elif producer.batch is not None:
            yield f"producers.{name} emits batches"


def delivery_rate(scenario: Scenario) -> float:
    """Deliveries per second of Poisson producers."""
    return sum(
        _rate_of(scenario, name, kind) * count
        for name in scenario.producers
        for kind, count in _fan_out(scenario, name).items()
    )


def rate_to_each(scenario: Scenario) -> float:
    """Deliveries per second to each endpoint of the only group, which gets all events that it subscribes to."""
    (endpoint,) = scenario.endpoints.values()
    return delivery_rate(scenario) / (1 if endpoint.route == "by_key" else endpoint.count)


def _rate_of(scenario: Scenario, producer: str, kind: str) -> float:
    block = scenario.producers[producer]
    weights = block.events or {DEFAULT_EVENT_TYPE: 1.0}
    return (block.arrivals.poisson or 0.0) * weights[kind] / sum(weights.values())


def _fan_out(scenario: Scenario, producer: str) -> dict[str, int]:
    """For each event type that a producer emits, how many deliveries such an event becomes."""
    found = {}
    block = scenario.producers[producer]
    for kind in block.events or block.batch or {DEFAULT_EVENT_TYPE: 1.0}:
        found[kind] = sum(
            1 if endpoint.route == "by_key" else endpoint.count
            for endpoint in scenario.endpoints.values()
            if (endpoint.producers is None or producer in endpoint.producers)
            and matches(endpoint.subscribes, kind)
        )
    return found


STARTS_EMPTY = "the run starts empty, and a warmup of at least"
"""How the reason begins that ``start_forgotten`` gives."""


def start_forgotten(scenario: Scenario, influence_s: float) -> Iterator[str]:
    """Whether figures are those of the long run, if an empty start has an influence for so long."""
    measured_s = (scenario.horizon - scenario.warmup) / 1e9
    if scenario.warmup / 1e9 < influence_s and measured_s < FORGOTTEN * influence_s:
        yield f"{STARTS_EMPTY} {shown_duration(influence_s)} is needed to forget it"
