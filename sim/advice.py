"""Warnings: what is legal in a scenario but suspicious, each with its figures and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from sim import dice, model, policy, workload
from sim.fields import format_duration
from sim.scenario import Scenario


def warnings(scenario: Scenario) -> tuple[str, ...]:
    """All warnings about a scenario, most general first."""
    built = model.build(scenario)
    return tuple(
        (
            *_undocumented(scenario),
            *_first_entries(scenario),
            *_connect_timeouts(scenario),
            *_loads(scenario, built),
        )
    )


def _undocumented(scenario: Scenario) -> Iterator[str]:
    for name in scenario.undocumented:
        yield f"policy {name}: its gaps are assumed, nobody documents them (hooklab policies {name} says which)"


def _first_entries(scenario: Scenario) -> Iterator[str]:
    for name, block in scenario.policies.items():
        first = block.schedule[0].delay
        if first is None or first > 0:
            shown = "a family of gaps" if first is None else format_duration(first)
            yield (
                f"policies.{name}.schedule starts with {shown}: every delivery waits before its first attempt; "
                "write 0s first if the list was meant as the gaps between attempts"
            )


def _connect_timeouts(scenario: Scenario) -> Iterator[str]:
    for name, block in scenario.policies.items():
        if block.connect_timeout is not None and block.connect_timeout > block.timeout:
            yield (
                f"policies.{name}.connect_timeout ({format_duration(block.connect_timeout)}) is longer than the "
                f"timeout of the whole attempt ({format_duration(block.timeout)}), which ends it first"
            )


def _loads(scenario: Scenario, built: model.Model) -> Iterator[str]:
    """Offered load against capacity, of the workers and of every receiver."""
    seconds = built.horizon / 1e9
    busy = 0.0
    offered: dict[int, float] = {}
    for number, member in enumerate(built.members):
        rate = _rate_to(built, number)
        if member.policy < 0 or not rate:
            continue
        spec = built.receivers[member.receiver]
        rules = built.policies[member.policy]
        timeout_s = policy.attempt_timeout(rules, 2) / 1e9
        attempts = _attempts(built, member)
        busy += rate * attempts * _held_s(spec.latency, timeout_s, spec.on_arrival)
        if spec.servers:
            offered[number] = rate * attempts * dice.mean_s(*spec.latency) / spec.servers
    heaviest = max(offered, key=lambda number: offered[number], default=None)
    if heaviest is not None and offered[heaviest] >= 1:
        member = built.members[heaviest]
        servers = built.receivers[member.receiver].servers
        more = sum(load >= 1 for load in offered.values()) - 1
        others = f" (and {more} more)" if more else ""
        yield (
            f"endpoint {member.name}{others} is unstable: it is offered {offered[heaviest] * servers:.3g} servers' "
            f"worth of work and has {servers}; its queue grows for the {seconds:g} s of the horizon"
        )
    workers = _workers(scenario, built)
    if workers is not None and busy >= workers:
        yield (
            f"dispatcher.workers is unstable: attempts keep {busy:.3g} workers busy and there are {workers:g}; "
            "the backlog grows; raise dispatcher.workers"
        )


def _rate_to(built: model.Model, number: int) -> float:
    """Deliveries per second to a member, on average over the horizon."""
    total = 0.0
    for source, spec in enumerate(built.sources):
        changes = workload.mean_rate_per_s(spec.process, built.horizon)
        for kind, groups in enumerate(built.fan_out[source]):
            for group in groups:
                if group.first <= number < group.first + group.members:
                    total += changes * _share(spec, kind) / (group.members if group.by_key else 1)
    return total


def _share(spec: workload.EventSource, kind: int) -> float:
    """Events of a type per arrival of a producer."""
    if spec.batch_counts:
        count = spec.batch_counts[kind]
        return float(count) if count >= 0 else spec.batch_means[kind]
    if spec.listed_types:
        return spec.listed_types.index(kind) >= 0 and spec.listed_types.count(kind) / len(spec.listed_types)  # type: ignore[attr-defined,no-any-return]
    before = spec.type_weights[kind - 1] if kind else 0.0
    return spec.type_weights[kind] - before


def _attempts(built: model.Model, member: model.Member) -> float:
    """Attempts per delivery when only the error faults fail, each independently."""
    from sim import receiver

    spec, rules = built.receivers[member.receiver], built.policies[member.policy]
    good = 1.0
    for kind, probability in zip(spec.fault_kind, spec.fault_probability, strict=True):
        if kind in (receiver.ERROR, receiver.LOST_ANSWER):
            good *= 1 - probability
    failing = 1 - good
    most = rules.run_ends[-1]
    if failing >= 1:
        return float(min(most, 1000))
    return float((1 - failing ** min(most, 10_000)) / (1 - failing))


def _held_s(latency: dice.Distribution, timeout_s: float, on_arrival: bool) -> float:
    """How long an attempt holds its worker at an idle receiver, on average."""
    return 0.0 if on_arrival else dice.capped_mean_s(*latency, timeout_s)


def _workers(scenario: Scenario, built: model.Model) -> float | None:
    dispatcher = scenario.dispatcher
    if dispatcher.lanes is not None:
        return float(dispatcher.lanes.first + dispatcher.lanes.retries)
    if dispatcher.discipline == "per_tier":
        return None  # each tier has its own
    most = max(count for _, count in built.workers_at())
    return None if most == model.UNLIMITED else float(most)
