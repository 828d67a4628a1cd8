"""The scenario as numbers: what both engines, and what runs for real, are given.

A ``Model`` is made once from a scenario and a seed. It holds plain ints, floats and tuples in the shapes that
``policy``, ``receiver`` and ``workload`` take, and the names to turn results back into words.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sim import dice, policy, receiver, workload
from sim.blocks import Distribution
from sim.blocks_dispatcher import UNLIMITED, Endpoint, matches
from sim.blocks_policy import PolicyBlock
from sim.blocks_world import ErrorFault, Outage, Producer, ReceiverBlock
from sim.errors import Problem, ScenarioError, path_of
from sim.fields import parse_codes
from sim.policy import FOREVER, Policy
from sim.receiver import Outages, RandomOutage, Receiver
from sim.scenario import DEFAULT_EVENT_TYPE, Scenario, schedule_runs
from sim.workload import ArrivalProcess, EventSource

STANDSTILL = 10_000
"""Attempts of one delivery at one instant after which time is taken to stand still."""
MANY_OUTAGES = 2000
"""Drawn outages of one member from which compiled code draws them."""
MOST_OUTAGES = 5_000_000
"""Drawn outages of one member over a run: more of them would fill the memory."""
_NOTHING = dice.constant(0.0)


class FanOut(NamedTuple):
    """Endpoints that get an event: ``members`` from ``first`` on, all of them or one by key."""

    first: int
    members: int
    by_key: bool


class Member(NamedTuple):
    """One endpoint: a member of an endpoint group, with its own receiver and its own luck."""

    name: str
    group: str
    word: int
    policy: int
    """Position in ``Model.policies``; -1: it polls."""
    receiver: int
    """Position in ``Model.receivers``."""
    outages: Outages
    max_in_flight: int
    rate_interval: int
    """Least time between two starts, ns; 0: no limit."""
    poll_every: int
    """0: events are pushed."""
    poll_phase: int


class ObjectLife(NamedTuple):
    """How long the object behind an event lives, and how long between its updates."""

    deleted_after: dice.Distribution | None
    updated_every: dice.Distribution | None


MOST_OPEN = 10_000_000
"""Deliveries that may be open at a time, if nothing else is said: about 4 GB."""


@dataclass(frozen=True)
class Model:
    """A scenario and a seed, ready to run. Times are ns."""

    scenario: Scenario
    seed: int
    horizon: int
    end: int
    warmup: int
    producers: tuple[str, ...]
    sources: tuple[EventSource, ...]
    event_types: tuple[str, ...]
    """All event types; an event's type is a position in it."""
    type_codes: tuple[tuple[int, ...], ...]
    """For each producer, its own types as positions in ``event_types``."""
    key_names: tuple[tuple[str, ...] | None, ...]
    """For each producer, the recorded keys; None: keys are numbers."""
    lives: tuple[ObjectLife | None, ...]
    body_bytes: tuple[int, ...]
    fan_out: tuple[tuple[tuple[FanOut, ...], ...], ...]
    """For each producer and each of its types, who gets it."""
    policies: tuple[Policy, ...]
    policy_names: tuple[str, ...]
    receivers: tuple[Receiver, ...]
    receiver_names: tuple[str, ...]
    members: tuple[Member, ...]
    most_open: int = MOST_OPEN
    """A run ends before an event that would leave more deliveries open."""

    def dedupe_ns(self, member: Member) -> int:
        """For how long a member's receiver tells repeats; 0: not at all."""
        block = self.scenario.receivers[self.receiver_names[member.receiver]]
        return int(block.dedupe.window) if block.dedupe is not None else 0

    def guarded(self, member: Member) -> bool:
        """Whether a member's receiver ignores what is older than the newest of its key."""
        return self.scenario.receivers[self.receiver_names[member.receiver]].stale_guard

    def outages_until(self, ended: int) -> list[tuple[int, int]]:
        """The outages [start, end) of all members that begin before the horizon, in order of their end.

        Only those that have ended by then; of several that end together the first member's.
        """
        found: dict[int, int] = {}
        for member in self.members:
            for start, end in zip(member.outages.start, member.outages.end, strict=True):
                if end <= ended and start < self.horizon:
                    found.setdefault(end, start)
        return [(found[end], end) for end in sorted(found)]

    def standstill(self, member: Member, now: int) -> ScenarioError:
        """What to say when an endpoint's deliveries are retried over and over at one instant."""
        return ScenarioError(
            f"policies.{self.policy_names[member.policy]}.schedule retries without a gap, and {member.name} fails "
            f"in no time: {STANDSTILL:,} attempts of one delivery at {now / 1e9:g} s; give it a gap or a breaker, "
            "or the failures a latency"
        )

    def deleted_at(self, source: int, index: int, created: int) -> int:
        """When the object of an event is deleted, ns; ``FOREVER`` if it is not."""
        life = self.lives[source]
        if life is None or life.deleted_after is None:
            return FOREVER
        event = dice.item_word(self.sources[source].word, index)
        return created + dice.sample(
            life.deleted_after, self.seed, dice.Stream.OBJECT_DELETED, event, 0, 0, 0
        )


def build(
    scenario: Scenario,
    seed: int | None = None,
    arrivals: Mapping[str, Iterable[Any]] | None = None,
    most_open: int = MOST_OPEN,
) -> Model:
    """The model of a scenario; ``arrivals`` replaces producers' arrivals by a user's own times.

    Raises:
        ScenarioError: an unknown producer in ``arrivals``, or outages too many to hold.
    """
    seed = _checked_seed(scenario.seed if seed is None else seed)
    horizon = int(scenario.horizon)
    end = horizon + scenario.drain_ns
    arrivals = dict(arrivals or {})
    for name in arrivals:
        if name not in scenario.producers:
            rule = f"is not a producer of this scenario ({', '.join(scenario.producers)})"
            raise ScenarioError([Problem("arrivals", name, rule)])
    sources, types, keys = [], [], []
    for name, producer in scenario.producers.items():
        source, own_types, own_keys = _source(scenario, name, producer, arrivals.get(name), horizon)
        sources.append(source)
        types.append(own_types)
        keys.append(own_keys)
    event_types = tuple(dict.fromkeys(kind for own in types for kind in own))
    policy_names = tuple(dict.fromkeys(e.policy for e in scenario.endpoints.values() if e.policy is not None))
    receiver_names = tuple(scenario.receivers)
    members: list[Member] = []
    groups: list[tuple[str, int]] = []
    for group, endpoint in scenario.endpoints.items():
        groups.append((group, len(members)))
        for member in range(endpoint.count):
            members.append(
                _member(scenario, group, endpoint, member, policy_names, receiver_names, seed, end)
            )
    return Model(
        scenario=scenario,
        seed=seed,
        horizon=horizon,
        end=end,
        warmup=int(scenario.warmup),
        producers=tuple(scenario.producers),
        sources=tuple(sources),
        event_types=event_types,
        type_codes=tuple(tuple(event_types.index(kind) for kind in own) for own in types),
        key_names=tuple(keys),
        lives=tuple(_life(producer) for producer in scenario.producers.values()),
        body_bytes=tuple(producer.body for producer in scenario.producers.values()),
        fan_out=tuple(
            tuple(_fan_out(scenario, groups, name, kind) for kind in own)
            for name, own in zip(scenario.producers, types, strict=True)
        ),
        policies=tuple(lower_policy(scenario.policies[name]) for name in policy_names),
        policy_names=policy_names,
        receivers=tuple(lower_receiver(block) for block in scenario.receivers.values()),
        receiver_names=receiver_names,
        members=tuple(members),
        most_open=most_open,
    )


def reachable_attempts(rules: Policy, end: int) -> int:
    """An upper bound of the attempts that one delivery can make until ``end``: gaps take their time."""
    least = {policy.NO_JITTER: 1.0, policy.ADDITIVE: 1.0, policy.EQUAL: 0.5}.get(rules.jitter, 0.0)
    if rules.jitter == policy.PLUS_MINUS:
        least = 1.0 - rules.jitter_amount
    if rules.retry_after in (policy.CLAMP_MULTIPLES, policy.CLAMP_DURATIONS):
        least = 0.0  # what a receiver asks for may be shorter than the gap
    attempts, passed = 0, 0.0
    for last, gap in zip(rules.run_ends, rules.run_gaps, strict=True):
        shortest = least * gap
        fit = last - attempts if shortest <= 0 else min(last - attempts, int((end - passed) // shortest) + 1)
        if fit < last - attempts:
            return attempts + max(fit, 0) + 1
        attempts, passed = last, passed + shortest * fit
    return attempts


def _checked_seed(seed: object) -> int:
    """The seed as a plain int: NumPy's integers would go another way through the dice."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise ScenarioError([Problem("seed", seed, "must be a whole number from 0 to 2**64 - 1")])
    return number


# --------------------------------------------------------------------------- distributions


def lower_distribution(block: Distribution) -> dice.Distribution:
    """A distribution of the file as the numbers that the dice take."""
    if block.constant is not None:
        return dice.constant(block.constant / 1e9)
    if block.exponential is not None:
        return dice.exponential(block.exponential.mean / 1e9)
    if block.lognormal is not None:
        form = block.lognormal
        if form.mean is not None and form.cv is not None:
            return dice.lognormal_mean_cv(form.mean / 1e9, form.cv)
        assert form.median is not None
        if form.p99 is not None:
            return dice.lognormal(median=form.median / 1e9, p99=form.p99 / 1e9)
        assert form.sigma is not None
        return dice.lognormal_sigma(form.median / 1e9, form.sigma)
    if block.erlang is not None:
        return dice.erlang(block.erlang.mean / 1e9, block.erlang.stages)
    if block.hyperexponential is not None:
        return dice.hyperexponential(block.hyperexponential.mean / 1e9, block.hyperexponential.cv)
    if block.pareto is not None:
        return dice.pareto(block.pareto.minimum / 1e9, block.pareto.shape)
    if block.uniform is not None:
        return dice.uniform_between(block.uniform.low / 1e9, block.uniform.high / 1e9)
    assert block.empirical is not None
    return dice.empirical({share: at / 1e9 for share, at in block.empirical.quantiles.items()})


def mean_s(block: Distribution) -> float:
    """Mean of a distribution of the file, s."""
    return dice.mean_s(*lower_distribution(block))


# --------------------------------------------------------------------------- producers


def _source(
    scenario: Scenario, name: str, producer: Producer, own: Iterable[Any] | None, horizon: int
) -> tuple[EventSource, tuple[str, ...], tuple[str, ...] | None]:
    """The producer as numbers, its event types, and its recorded keys if it has them."""
    recorded = None
    if own is not None:
        recorded = workload.listed(own, horizon, path_of(["arrivals", name]))
        if recorded.types and producer.batch:
            rule = f"must be times only: {path_of(['producers', name, 'batch'])} says which types each change emits"
            raise ScenarioError([Problem(path_of(["arrivals", name]), None, rule)])
    elif producer.arrivals.replay is not None:
        recorded = workload.read_arrivals(producer.arrivals.replay, scenario.folder, f"producers.{name}")
    types = tuple(producer.events or producer.batch or (DEFAULT_EVENT_TYPE,))
    if recorded is not None and recorded.types:
        types = recorded.types
    counts, means = [], []
    for count in (producer.batch or {}).values():
        counts.append(count if isinstance(count, int) else -1)
        means.append(0.0 if isinstance(count, int) else count.poisson)
    keys = producer.keys
    listed_keys = recorded.key_codes if recorded is not None else ()
    process = _process(producer, recorded)
    source = EventSource(
        word=dice.name_word(name),
        process=process,
        type_weights=tuple(
            dice.cumulative_weights(list((producer.events or {DEFAULT_EVENT_TYPE: 1}).values()))
        )
        if not counts
        else (),
        batch_counts=tuple(counts),
        batch_means=tuple(means),
        key_count=len(recorded.keys) if recorded is not None and listed_keys else keys.count,
        key_weights=tuple(dice.zipf_cumulative(keys.count, keys.zipf))
        if keys.zipf > 0 and not listed_keys
        else (),
        listed_types=recorded.type_codes if recorded is not None else (),
        listed_keys=listed_keys,
    )
    return source, types, recorded.keys if recorded is not None and listed_keys else None


def _process(producer: Producer, recorded: workload.RecordedArrivals | None) -> ArrivalProcess:
    arrivals = producer.arrivals
    blank = ArrivalProcess(workload.LISTED, 1.0, 0.0, 1, (), (), _NOTHING, _NOTHING, 1.0)
    if recorded is not None:
        return blank._replace(times=recorded.times)
    if arrivals.constant is not None:
        return blank._replace(kind=workload.CONSTANT, rate=arrivals.constant)
    if arrivals.poisson is not None:
        return blank._replace(kind=workload.POISSON, rate=arrivals.poisson)
    if arrivals.bursts is not None:
        bursts = arrivals.bursts
        on, off = lower_distribution(bursts.on_for), lower_distribution(bursts.off_for)
        on_mean, off_mean = dice.mean_s(*on), dice.mean_s(*off)
        return blank._replace(
            kind=workload.BURSTS,
            rate=bursts.on,
            second_rate=bursts.off,
            on_for=on,
            off_for=off,
            on_share=on_mean / (on_mean + off_mean),
        )
    if arrivals.daily is not None:
        return blank._replace(
            kind=workload.DAILY, rates=arrivals.daily.rates, span=int(arrivals.daily.period)
        )
    if arrivals.ramp is not None:
        ramp = arrivals.ramp
        return blank._replace(kind=workload.RAMP, rate=ramp.start, second_rate=ramp.end, span=int(ramp.over))
    assert arrivals.at is not None
    return blank._replace(times=tuple(map(int, arrivals.at)))


def _life(producer: Producer) -> ObjectLife | None:
    objects = producer.objects
    if objects is None:
        return None
    return ObjectLife(
        lower_distribution(objects.deleted_after) if objects.deleted_after is not None else None,
        lower_distribution(objects.updated_every) if objects.updated_every is not None else None,
    )


def _fan_out(
    scenario: Scenario, groups: list[tuple[str, int]], producer: str, kind: str
) -> tuple[FanOut, ...]:
    """The subscriptions that an event type of a producer matches."""
    found = []
    for group, first in groups:
        endpoint = scenario.endpoints[group]
        listens = endpoint.producers is None or producer in endpoint.producers
        if listens and matches(endpoint.subscribes, kind):
            found.append(FanOut(first, endpoint.count, endpoint.route == "by_key"))
    return tuple(found)


# --------------------------------------------------------------------------- policies


def lower_policy(block: PolicyBlock) -> Policy:
    """A policy of the file as the numbers that ``sim.policy`` takes."""
    runs = schedule_runs(block)
    run_ends, run_gaps = policy.schedule(runs)
    jitter = block.jitter
    retries = [gap for gap, _ in runs[1:]] or [gap for gap, _ in runs]
    caps = [s.exponential.cap for s in block.schedule if s.exponential is not None and s.exponential.cap]
    base = int(jitter.base) if jitter.base is not None else next((gap for gap in retries if gap > 0), 0)
    cap = int(jitter.cap) if jitter.cap is not None else max(caps, default=policy.LONGEST)
    lows, highs, actions = [], [], []
    for code, action in [*block.verdicts.items(), *((str(code), "success") for code in block.success)]:
        low, high = _codes(code)
        lows.append(low)
        highs.append(high)
        actions.append(policy.ACTIONS[action])
    asked = block.retry_after
    mode, low_limit, high_limit = policy.IGNORE, 0.0, 0.0
    if asked.clamp is not None:
        durations = isinstance(asked.clamp[0], int)
        mode = policy.CLAMP_DURATIONS if durations else policy.CLAMP_MULTIPLES
        low_limit, high_limit = float(asked.clamp[0]), float(asked.clamp[1])
    elif asked.honour:
        mode = policy.HONOUR
    amount = float(jitter.share or 0.0) if jitter.up_to is None else float(jitter.up_to)
    budget, breaker, disable = block.budget, block.breaker, block.disable
    return Policy(
        run_ends=run_ends,
        run_gaps=run_gaps,
        jitter=policy.JITTERS.index(jitter.kind),
        jitter_amount=amount,
        jitter_base=base,
        jitter_cap=int(cap),
        timeout=int(block.timeout),
        first_timeout=int(block.first_timeout or 0),
        total_budget=int(block.total_budget or 0),
        max_age=int(block.max_age or 0),
        age_from_first_attempt=block.max_age_from == "first_attempt",
        max_attempts=block.max_attempts or 0,
        verdict_low=tuple(lows),
        verdict_high=tuple(highs),
        verdict_action=tuple(actions),
        retry_after=mode,
        retry_after_low=low_limit,
        retry_after_high=high_limit,
        retry_after_endpoint=asked.scope == "endpoint",
        budget_ratio=budget.ratio if budget is not None else -1.0,
        budget_per_s=budget.min_per_s if budget is not None else 0.0,
        budget_capacity=budget.capacity if budget is not None else 0.0,
        breaker_share=breaker.failures if breaker is not None else 0.0,
        breaker_window=int(breaker.window) if breaker is not None else 1,
        breaker_min_requests=breaker.min_requests if breaker is not None else 1,
        breaker_open=int(breaker.open) if breaker is not None else 0,
        disable_after=int(disable.failing_for or 0) if disable is not None else 0,
        disable_consecutive=(disable.consecutive or 0) if disable is not None else 0,
        disable_share=(disable.share or 0.0) if disable is not None else 0.0,
        disable_window=int(disable.window) if disable is not None else 1,
        disable_min_requests=disable.min_requests if disable is not None else 1,
        disable_holds=disable is not None and disable.rest == "hold",
    )


def _codes(text: str) -> tuple[int, int]:
    words = {
        "timeout": (policy.NO_ANSWER, policy.NO_ANSWER),
        "refused": (policy.CONNECTION_REFUSED, policy.CONNECTION_REFUSED),
        "redirect": (300, 399),
    }
    return words[text] if text in words else parse_codes(text)


# --------------------------------------------------------------------------- receivers


def lower_receiver(block: ReceiverBlock) -> Receiver:
    """A receiver of the file as the numbers that ``sim.receiver`` takes."""
    kinds, probabilities, statuses, asked, own = [], [], [], [], []
    latencies: list[dice.Distribution] = []
    for fault in block.faults:
        kind, error = _fault(fault.lost_answer is not None, fault.error, fault.outage)
        kinds.append(kind)
        probabilities.append(
            fault.lost_answer.probability if fault.lost_answer is not None else error.probability
        )
        statuses.append(error.status)
        asked.append(-1 if error.retry_after is None else int(error.retry_after))
        own.append(-1 if error.latency is None else len(latencies))
        if error.latency is not None:
            latencies.append(lower_distribution(error.latency))
    starts = [0]
    for latency in latencies:
        starts.append(starts[-1] + len(latency.points))
    backlog = block.backlog
    beyond, beyond_asked = 503, -1
    if backlog is not None:
        beyond = policy.NO_ANSWER if backlog.beyond == "hang" else int(backlog.beyond)
        beyond_asked = -1 if backlog.retry_after is None else int(backlog.retry_after)
    return Receiver(
        latency=lower_distribution(block.latency),
        servers=0 if block.servers == "unlimited" else block.servers,
        backlog=-1 if backlog is None else backlog.size,
        beyond=beyond,
        beyond_retry_after=beyond_asked,
        on_arrival=block.answers == "on_arrival",
        fault_kind=tuple(kinds),
        fault_probability=tuple(probabilities),
        fault_status=tuple(statuses),
        fault_retry_after=tuple(asked),
        fault_latency=tuple(own),
        latency_kind=tuple(int(latency.kind) for latency in latencies),
        latency_a=tuple(latency.a for latency in latencies),
        latency_b=tuple(latency.b for latency in latencies),
        latency_c=tuple(latency.c for latency in latencies),
        latency_from=tuple(starts),
        latency_points=tuple(point for latency in latencies for point in latency.points),
    )


def _fault(lost: bool, error: ErrorFault | None, outage: Outage | None) -> tuple[int, ErrorFault]:
    """Kind of a fault, and the error that it answers with where it does."""
    always = ErrorFault(probability=1.0)
    if lost:
        return receiver.LOST_ANSWER, always
    if error is not None:
        return receiver.ERROR, error
    assert outage is not None
    how = outage.how
    if how.error is not None:
        return receiver.ERROR_OUTAGE, how.error
    if how.status is not None:
        return receiver.ERROR_OUTAGE, ErrorFault(probability=1.0, status=how.status)
    return (receiver.REFUSE if how.refuse else receiver.HANG if how.hang else receiver.PAUSE), always


def _member(
    scenario: Scenario,
    group: str,
    endpoint: Endpoint,
    member: int,
    policy_names: tuple[str, ...],
    receiver_names: tuple[str, ...],
    seed: int,
    end: int,
) -> Member:
    word = dice.endpoint_word(group, member)
    name = endpoint.receiver
    if isinstance(name, dict):
        shares = dice.cumulative_weights(list(name.values()))
        name = list(name)[dice.pick(shares, dice.uniform(seed, dice.Stream.MIX, 0, word, 0, 0))]
    poll = int(endpoint.mode.poll.every) if endpoint.mode is not None else 0
    phase = dice.uniform(seed, dice.Stream.POLL_PHASE, 0, word, 0, 0) * poll
    return Member(
        name=f"{group}:{member}",
        group=group,
        word=word,
        policy=policy_names.index(endpoint.policy) if endpoint.policy is not None and not poll else -1,
        receiver=receiver_names.index(name),
        outages=_outages(scenario, name, word, member, seed, end),
        max_in_flight=endpoint.max_in_flight or UNLIMITED,
        rate_interval=rate_interval(endpoint.rate_limit),
        poll_every=poll,
        poll_phase=policy.rounded(phase),
    )


def rate_interval(limit_per_s: float | None) -> int:
    """Least time between two starts, ns; 0: no limit (None or 0)."""
    return policy.rounded(1e9 / limit_per_s) if limit_per_s else 0


def _outages(scenario: Scenario, name: str, word: int, member: int, seed: int, end: int) -> Outages:
    """All outages of one member of a receiver until the end of the run."""
    first, starts, ends = [0], [], []
    for position, fault in enumerate(scenario.receivers[name].faults):
        if fault.outage is not None:
            path = f"receivers.{name}.faults.{position}.outage"
            for start, stop in _windows(
                scenario, fault.outage, name, word, member, position, seed, end, path
            ):
                starts.append(start)
                ends.append(stop)
        first.append(len(starts))
    return Outages(tuple(first), tuple(starts), tuple(ends))


def _windows(
    scenario: Scenario,
    outage: Outage,
    name: str,
    word: int,
    member: int,
    position: int,
    seed: int,
    end: int,
    path: str,
) -> Iterable[tuple[int, int]]:
    if outage.windows is not None:
        return [(int(start), int(stop)) for start, stop in outage.windows]
    if outage.replay is not None:
        recorded = workload.read_outages(outage.replay, scenario.folder, path)
        return recorded[0 if outage.scope == "all together" else member % len(recorded)]
    assert outage.up is not None
    assert outage.down is not None
    up, down = lower_distribution(outage.up), lower_distribution(outage.down)
    cycle = dice.mean_s(*up) + dice.mean_s(*down)
    if cycle * MOST_OUTAGES < end / 1e9:
        rule = (
            f"and down together last {cycle:.3g} s on average: more than {MOST_OUTAGES:,} outages in the run"
        )
        raise ScenarioError([Problem(f"{path}.up", None, rule)])
    drawn = RandomOutage(up, down, dice.mean_s(*down) / cycle)
    together = outage.scope == "all together"
    event, endpoint = (dice.name_word(name), 0) if together else (0, word)
    if end / 1e9 < cycle * MANY_OUTAGES:
        return receiver.random_outages(drawn, seed, event, endpoint, position, end)
    from sim import jit

    return jit.random_outages(drawn, seed, event, endpoint, position, end)
