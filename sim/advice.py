"""Warnings: what is legal in a scenario but suspicious, each with its figures and what to do about it.

Loads are averages over the horizon. They count the failures that come one by one (error faults, lost answers,
answers after the timeout) and leave out outages, so they are what the scenario asks for on a quiet day.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sim import dice, model, policy, receiver, workload
from sim.blocks_dispatcher import matches
from sim.blocks_policy import PolicyBlock, schedule_runs
from sim.blocks_world import Keys
from sim.errors import path_of
from sim.fields import format_duration, format_rate, format_share
from sim.scenario import Scenario
from sim.shown import shown_gap

MANY_ATTEMPTS = 100_000_000
"""Rows of a run that take hours and gigabytes."""
MOST_TIERS = 100
"""Tiers whose load is looked at; those after it get next to nothing."""


def warnings(scenario: Scenario) -> tuple[str, ...]:
    """All warnings about a scenario, most general first."""
    flows = list(_flows(scenario))
    return (
        *_undocumented(scenario),
        *_warm_up(scenario),
        *_schedules(scenario),
        *_timeouts(scenario),
        *_mixes(scenario),
        *_unheard(scenario),
        *_unused(scenario),
        *_beyond_the_end(scenario),
        *_head_of_line(scenario),
        *_short_of_tiers(scenario),
        *_receivers(flows),
        *_limits(scenario, flows),
        *_workers(scenario, flows),
        *_size(scenario, flows),
    )


def _used(scenario: Scenario) -> dict[str, PolicyBlock]:
    pushed = [e.policy for e in scenario.endpoints.values() if e.policy is not None and e.mode is None]
    return {name: scenario.policies[name] for name in dict.fromkeys(pushed)}


# --------------------------------------------------------------------------- times and references


def _undocumented(scenario: Scenario) -> Iterator[str]:
    for name in scenario.undocumented:
        yield f"policy {name}: its gaps are assumed, nobody documents them (hooklab policies {name} says which)"


def _warm_up(scenario: Scenario) -> Iterator[str]:
    if scenario.kind == "steady" and scenario.warmup == 0:
        yield (
            "warmup is 0s with kind: steady: the run starts empty, and long-run averages count its start; "
            f"give a warmup, such as a tenth of the horizon ({format_duration(scenario.horizon)})"
        )


def _schedules(scenario: Scenario) -> Iterator[str]:
    """Schedules that begin with a wait, and entries that no delivery lives to see."""
    for name, block in _used(scenario).items():
        path = path_of(["policies", name, "schedule"])
        first = block.schedule[0].runs()[0][0]
        if first > 0:
            yield (
                f"{path} starts with {format_duration(first)}: every delivery waits before its first attempt; "
                "write 0s first if the list was meant as the gaps between attempts"
            )
        yield from _unreached(path, block)


def _unreached(path: str, block: PolicyBlock) -> Iterator[str]:
    least = _least_share_of_gap(block)
    attempts, elapsed = 0, 0.0
    for position, entry in enumerate(block.schedule):
        runs = entry.runs()
        due = elapsed + runs[0][0] * (1.0 if position == 0 else least)
        if position == 0 and block.max_age_from == "first_attempt":
            due = 0.0
        if block.max_attempts is not None and attempts >= block.max_attempts:
            yield f"{path}.{position} is never reached: max_attempts is {block.max_attempts}, and it comes after them"
            return
        if block.max_age is not None and due > block.max_age:
            yield (
                f"{path}.{position} is never reached: it comes due {shown_gap(round(due))} after the event "
                f"at the earliest, and max_age is {format_duration(block.max_age)}"
            )
            return
        attempts += sum(times for _, times in runs)
        elapsed = due + least * (sum(gap * times for gap, times in runs) - runs[0][0])


def _least_share_of_gap(block: PolicyBlock) -> float:
    """The least that jitter and Retry-After leave of a gap, as a share of it."""
    clamp = block.retry_after.clamp
    if clamp is not None and (block.retry_after.clamp != (1.0, 1.0) and not _lengthens(clamp)):
        return 0.0
    if block.jitter.kind == "plus_minus":
        return 1.0 - (block.jitter.share or 0.0)
    return {"none": 1.0, "additive": 1.0, "equal": 0.5}.get(block.jitter.kind, 0.0)


def _lengthens(clamp: tuple[float, float]) -> bool:
    """Whether a clamp in multiples of the gap never makes it shorter."""
    return isinstance(clamp[0], float) and clamp[0] >= 1


def _timeouts(scenario: Scenario) -> Iterator[str]:
    for name, block in _used(scenario).items():
        whole = block.timeout if block.total_budget is None else min(block.timeout, block.total_budget)
        if block.connect_timeout is not None and block.connect_timeout > whole:
            yield (
                f"{path_of(['policies', name, 'connect_timeout'])} ({format_duration(block.connect_timeout)}) is "
                f"longer than the whole attempt may take ({format_duration(whole)}), which ends it first"
            )


def _mixes(scenario: Scenario) -> Iterator[str]:
    for name, endpoint in scenario.endpoints.items():
        if isinstance(endpoint.receiver, dict):
            total = sum(endpoint.receiver.values())
            if abs(total - 1) > 1e-6:
                yield (
                    f"{path_of(['endpoints', name, 'receiver'])} has shares that sum to {total * 100:.4g}%; they are "
                    "taken as weights, so each is more or less than it says"
                )


def _unheard(scenario: Scenario) -> Iterator[str]:
    for producer in scenario.producers:
        kinds = scenario.event_types(producer)
        if not any(
            _listens(scenario, group, producer, kind) for group in scenario.endpoints for kind in kinds
        ):
            yield f"{path_of(['producers', producer])} is heard by nobody: no endpoint subscribes to its events"


def _unused(scenario: Scenario) -> Iterator[str]:
    for section, name in scenario.unused:
        yield f"{path_of([section, name])} is used by nobody: no endpoint names it; remove it, or name it in endpoints"


def _listens(scenario: Scenario, group: str, producer: str, kind: str) -> bool:
    endpoint = scenario.endpoints[group]
    listens = endpoint.producers is None or producer in endpoint.producers
    return listens and matches(endpoint.subscribes, kind)


def _beyond_the_end(scenario: Scenario) -> Iterator[str]:
    """Recorded arrivals after the horizon, and outages after the end of the run: nobody meets them."""
    for name, producer in scenario.producers.items():
        replay = producer.arrivals.replay
        if replay is not None:
            times = workload.read_arrivals(replay, scenario.folder, path_of(["producers", name])).times
            played = bisect.bisect_left(times, int(scenario.horizon))
            if played < len(times):
                yield (
                    f"{path_of(['producers', name, 'arrivals', 'replay'])} plays {played:,} of the {len(times):,} rows "
                    f"of {replay.file}: the others come after the horizon ({format_duration(scenario.horizon)}), and "
                    f"the last one {shown_gap(times[-1])} after the first"
                )
    named = {name for section, name in scenario.unused if section == "receivers"}
    for name, block in scenario.receivers.items():
        for position, fault in enumerate(block.faults):
            outage = fault.outage
            if outage is not None and outage.windows is not None and name not in named:
                yield from _late_windows(
                    scenario, ["receivers", name, "faults", str(position)], outage.windows
                )


def _late_windows(scenario: Scenario, keys: list[str], windows: Sequence[tuple[int, int]]) -> Iterator[str]:
    end = int(scenario.horizon) + scenario.drain_ns
    late = [position for position, (start, _) in enumerate(windows) if start >= end]
    for position in late[:1]:
        others = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
        yield (
            f"{path_of([*keys, 'outage', 'windows', str(position)])}{others} begins at "
            f"{format_duration(windows[position][0])}, when the run has ended (horizon and drain: {shown_gap(end)})"
        )


def _short_of_tiers(scenario: Scenario) -> Iterator[str]:
    """Lists of workers by tier that end before the schedules do."""
    workers = scenario.dispatcher.workers
    if scenario.dispatcher.discipline != "per_tier" or not isinstance(workers, tuple):
        return
    for name, block in _used(scenario).items():
        most = sum(times for _, times in schedule_runs(block))
        if most > len(workers):
            attempts = "attempts without end" if most >= policy.FOREVER else f"{most} attempts"
            yield (
                f"dispatcher.workers has {len(workers)} tiers and policy {name} {attempts}: each tier after the list "
                f"has {workers[-1]} workers, too, as its last one"
            )
            return


def _head_of_line(scenario: Scenario) -> Iterator[str]:
    if scenario.dispatcher.discipline != "per_tier":
        return
    for name, block in _used(scenario).items():
        uneven = []
        if block.jitter.kind != "none":
            uneven.append(f"jitter ({block.jitter.kind})")
        if block.retry_after.honour or block.retry_after.clamp is not None:
            uneven.append("retry_after")
        if uneven:
            yield (
                f"policy {name} has {' and '.join(uneven)} under discipline: per_tier: a tier keeps the order of "
                "entry, so a delivery that is due waits behind a head that is not; use jitter: none, or the "
                "shared discipline"
            )


# --------------------------------------------------------------------------- loads


class Flow(NamedTuple):
    """What one member of an endpoint group is sent, for one receiver of its mix."""

    group: str
    members: float
    """How many members have this receiver, on average."""
    receiver: str
    rate_per_s: float
    """Deliveries per second to one member."""
    policy: str
    retried: float
    """Probability that an attempt fails and is tried again."""
    most: int
    """Attempts that the policy allows."""
    served_s: float
    """How long an attempt keeps a server busy, on average."""
    held_s: tuple[float, float]
    """How long a first attempt and a retry hold a worker at an idle receiver, on average."""
    servers: int
    backlog: int

    def attempts(self, after: int = 0) -> float:
        """Attempts per delivery, those up to number ``after`` left out."""
        most = min(self.most, 10**6)
        if self.retried >= 1:
            return float(max(most - after, 0))
        return float((self.retried**after - self.retried**most) / (1 - self.retried)) if most > after else 0.0


def _flows(scenario: Scenario) -> Iterator[Flow]:
    # a group's members are alike, so one of each is enough, and keys change no load
    one_each = {name: e.model_copy(update={"count": 1}) for name, e in scenario.endpoints.items()}
    keyless = {name: p.model_copy(update={"keys": Keys()}) for name, p in scenario.producers.items()}
    built = model.build(scenario.model_copy(update={"endpoints": one_each, "producers": keyless}))
    for name, endpoint in scenario.endpoints.items():
        if endpoint.policy is None or endpoint.mode is not None:
            continue
        rate = _rate_to(scenario, built, name)
        rules = built.policies[built.policy_names.index(endpoint.policy)]
        mix = endpoint.receiver if isinstance(endpoint.receiver, dict) else {endpoint.receiver: 1.0}
        for who, share in mix.items():
            if rate > 0 and share > 0:
                spec = built.receivers[built.receiver_names.index(who)]
                members = endpoint.count * share / sum(mix.values())
                retried, served_s, first_s = _attempt(spec, rules, 1)
                retried, _, retry_s = _attempt(spec, rules, 2)
                yield Flow(
                    group=name,
                    members=members,
                    receiver=who,
                    rate_per_s=rate,
                    policy=endpoint.policy,
                    retried=retried,
                    most=min(rules.run_ends[-1], model.reachable_attempts(rules, built.end)),
                    served_s=served_s,
                    held_s=(first_s, retry_s),
                    servers=spec.servers,
                    backlog=spec.backlog,
                )


def _rate_to(scenario: Scenario, built: model.Model, group: str) -> float:
    """Deliveries per second to each member of a group, on average over the horizon."""
    total = 0.0
    for number, producer in enumerate(scenario.producers):
        spec = built.sources[number]
        kinds = [built.event_types[code] for code in built.type_codes[number]]
        per_change = sum(
            _share(spec, code) for code, kind in enumerate(kinds) if _listens(scenario, group, producer, kind)
        )
        total += workload.mean_rate_per_s(spec.process, built.horizon) * per_change
    endpoint = scenario.endpoints[group]
    return total / endpoint.count if endpoint.route == "by_key" else total


def _share(spec: workload.EventSource, kind: int) -> float:
    """Events of a type per arrival of a producer."""
    if spec.batch_counts:
        count = spec.batch_counts[kind]
        return float(count) if count >= 0 else spec.batch_means[kind]
    if spec.listed_types:
        return list(spec.listed_types).count(kind) / len(spec.listed_types)
    before = spec.type_weights[kind - 1] if kind else 0.0
    return spec.type_weights[kind] - before


def _attempt(spec: receiver.Receiver, rules: policy.Policy, number: int) -> tuple[float, float, float]:
    """P(an attempt is followed by another), mean time of a server, mean time of a worker; both in s."""
    timeout_s = policy.attempt_timeout(rules, number) / 1e9
    late = policy.verdict(rules, policy.NO_ANSWER) == policy.RETRY
    left, retried, served_s, held_s = 1.0, 0.0, 0.0, 0.0
    for fault, kind in enumerate(spec.fault_kind):
        if kind not in (receiver.ERROR, receiver.LOST_ANSWER):
            continue
        weight = left * spec.fault_probability[fault]
        left -= weight
        if kind == receiver.LOST_ANSWER:
            retried += weight * late
            served_s += weight * dice.mean_s(*spec.latency)
            held_s += weight * timeout_s
            continue
        latency = _error_latency(spec, fault)
        again = policy.verdict(rules, spec.fault_status[fault]) == policy.RETRY
        too_late = _share_above(latency, timeout_s)
        retried += weight * (too_late * late + (1 - too_late) * again)
        served_s += 0.0 if spec.on_arrival else weight * dice.mean_s(*latency)
        held_s += weight * dice.capped_mean_s(*latency, timeout_s)
    served_s += left * dice.mean_s(*spec.latency)
    if not spec.on_arrival:
        retried += left * _share_above(spec.latency, timeout_s) * late
        held_s += left * dice.capped_mean_s(*spec.latency, timeout_s)
    return min(retried, 1.0), served_s, held_s


def _error_latency(spec: receiver.Receiver, fault: int) -> dice.Distribution:
    i = spec.fault_latency[fault]
    if i < 0:
        return dice.constant(0.0) if spec.on_arrival else spec.latency
    points = tuple(spec.latency_points[spec.latency_from[i] : spec.latency_from[i + 1]])
    return dice.Distribution(
        spec.latency_kind[i], spec.latency_a[i], spec.latency_b[i], spec.latency_c[i], points
    )


def _share_above(latency: dice.Distribution, cap_s: float) -> float:
    """P(latency > cap): the slope of E[min(latency, cap)] beyond it."""
    step = cap_s * 1e-6
    rise = dice.capped_mean_s(*latency, cap_s + step) - dice.capped_mean_s(*latency, cap_s)
    return min(max(rise / step, 0.0), 1.0) if rise > 1e-9 * step else 0.0


def _receivers(flows: list[Flow]) -> Iterator[str]:
    """Receivers that are offered more work than their servers can do."""

    def offered(flow: Flow) -> float:
        return flow.rate_per_s * flow.attempts() * flow.served_s / flow.servers

    unstable = sorted((f for f in flows if f.servers and offered(f) >= 1), key=offered, reverse=True)
    for flow in unstable[:1]:
        others = f" (and {len(unstable) - 1} more)" if len(unstable) > 1 else ""
        who = f"receiver {flow.receiver} of endpoint {flow.group}{others}"
        then = (
            "its queue grows"
            if flow.backlog < 0
            else f"its backlog of {flow.backlog} fills, and the rest is refused"
        )
        first = flow.rate_per_s * flow.served_s
        everything = offered(flow) * flow.servers
        if first < flow.servers:
            yield (
                f"{who} is unstable, though only through retries: first attempts keep {first:.3g} of its "
                f"{flow.servers} servers busy, but {format_share(round(flow.retried, 4))} of attempts fail or "
                f"come too late, and the {flow.attempts():.3g} attempts per delivery ask for {everything:.3g}; {then}"
            )
        else:
            yield (
                f"{who} is unstable: it is offered {everything:.3g} servers' worth of work and has "
                f"{flow.servers}; {then}"
            )


def _limits(scenario: Scenario, flows: list[Flow]) -> Iterator[str]:
    """Limits of an endpoint below what it is to be sent."""
    for name, own in itertools.groupby(flows, key=lambda flow: flow.group):
        endpoint = scenario.endpoints[name]
        heaviest = max(own, key=lambda flow: flow.attempts())
        attempts_per_s = heaviest.rate_per_s * heaviest.attempts()
        if endpoint.rate_limit is not None and attempts_per_s >= endpoint.rate_limit:
            yield (
                f"{path_of(['endpoints', name, 'rate_limit'])} is unstable: {attempts_per_s:.3g} attempts/s are to be "
                f"made and {format_rate(endpoint.rate_limit)} are allowed; the backlog grows"
            )
        busy = heaviest.rate_per_s * (heaviest.held_s[0] + heaviest.attempts(after=1) * heaviest.held_s[1])
        if endpoint.max_in_flight is not None and busy >= endpoint.max_in_flight:
            yield (
                f"{path_of(['endpoints', name, 'max_in_flight'])} is unstable: {busy:.3g} attempts are to be in flight "
                f"and {endpoint.max_in_flight} are allowed; the backlog grows"
            )


def _workers(scenario: Scenario, flows: list[Flow]) -> Iterator[str]:
    """Workers that are given more than they can do."""
    overhead_s = scenario.dispatcher.overhead / 1e9

    def busy(of: Callable[[Flow], float]) -> float:
        return sum(flow.members * flow.rate_per_s * of(flow) for flow in flows)

    first = busy(lambda flow: flow.held_s[0] + overhead_s)
    retries = busy(lambda flow: flow.attempts(after=1) * (flow.held_s[1] + overhead_s))
    dispatcher = scenario.dispatcher
    if dispatcher.lanes is not None:
        pools = [
            ("lanes.first", first, dispatcher.lanes.first),
            ("lanes.retries", retries, dispatcher.lanes.retries),
        ]
    elif dispatcher.discipline == "per_tier":
        yield from _tiers(scenario, flows, overhead_s)
        return
    elif dispatcher.workers == "unlimited":
        return
    else:
        steps = dispatcher.workers if isinstance(dispatcher.workers, tuple) else ((0, dispatcher.workers),)
        pools = [("workers", first + retries, max(step[1] for step in steps))]  # type: ignore[index]
    for name, needed, there in pools:
        if needed >= there:
            yield (
                f"dispatcher.{name} is unstable: attempts keep {needed:.3g} workers busy and there are {there}; "
                f"the backlog grows; raise dispatcher.{name}"
            )


def _tiers(scenario: Scenario, flows: list[Flow], overhead_s: float) -> Iterator[str]:
    workers = scenario.dispatcher.workers
    for name in _used(scenario):
        for tier in range(1, MOST_TIERS + 1):
            there = workers[min(tier, len(workers)) - 1] if isinstance(workers, tuple) else workers
            needed = sum(
                flow.members
                * flow.rate_per_s
                * flow.retried ** (tier - 1)
                * (flow.held_s[0 if tier == 1 else 1] + overhead_s)
                for flow in flows
                if flow.policy == name and tier <= flow.most
            )
            if needed >= float(there):  # type: ignore[arg-type]
                yield (
                    f"dispatcher.workers is unstable: attempts keep {needed:.3g} workers of tier {tier} of policy "
                    f"{name} busy and there are {there}; its backlog grows; give that tier more"
                )
                break


def expected_attempts(scenario: Scenario) -> float:
    """About how many attempts a run makes, outages aside."""
    return _attempts_of(scenario, list(_flows(scenario)))


def _attempts_of(scenario: Scenario, flows: list[Flow]) -> float:
    return sum(flow.members * flow.rate_per_s * flow.attempts() for flow in flows) * scenario.horizon / 1e9


def _size(scenario: Scenario, flows: list[Flow]) -> Iterator[str]:
    rows = _attempts_of(scenario, flows)
    if rows >= MANY_ATTEMPTS:
        yield f"the run makes about {rows:.2g} attempts, each a row of the trace; shorten the horizon or lower rates"
