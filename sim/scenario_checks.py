"""What the blocks of a scenario must agree on: names, references, subscriptions, times, and files it replays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sim import presets
from sim.blocks_dispatcher import matches
from sim.blocks_policy import schedule_runs
from sim.errors import Problem, ScenarioError, nearest, path_of
from sim.fields import format_duration
from sim.policy import FOREVER, LONGEST

if TYPE_CHECKING:
    from sim.blocks import Distribution
    from sim.blocks_dispatcher import Endpoint
    from sim.scenario import Scenario

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_NAME_RULE = "must be a name of letters, digits, '.', '_' and '-' (it becomes part of ids)"


def problems(scenario: Scenario) -> list[Problem]:
    """All that is wrong between the blocks; if nothing is, all that is wrong with the files they name."""
    return list(_between_blocks(scenario)) or list(_files(scenario))


def _between_blocks(scenario: Scenario) -> Iterator[Problem]:
    for section in ("producers", "endpoints", "policies", "receivers"):
        for name in getattr(scenario, section):
            if not _NAME.fullmatch(name):
                yield Problem(path_of([section, name]), None, _NAME_RULE)
    if scenario.warmup >= scenario.horizon:
        rule = f"must be below the horizon ({format_duration(scenario.horizon)})"
        yield Problem("warmup", format_duration(scenario.warmup), rule)
    references = [
        p for name, endpoint in scenario.endpoints.items() for p in _endpoint(scenario, name, endpoint)
    ]
    end = [] if references else list(_end(scenario))
    yield from references
    yield from end
    drain = 0 if references or end else scenario.drain_ns
    yield from _alternations(scenario, int(scenario.horizon), int(scenario.horizon) + drain)


def _alternations(scenario: Scenario, horizon: int, end: int) -> Iterator[Problem]:
    """Bursts and drawn outages that are so short that a run would never be done with them."""
    for name, producer in scenario.producers.items():
        bursts = producer.arrivals.bursts
        if bursts is not None:
            path = path_of(["producers", name, "arrivals", "bursts", "on_for"])
            yield from _too_many(path, bursts.on_for, bursts.off_for, horizon)
    for name, receiver in scenario.receivers.items():
        for i, fault in enumerate(receiver.faults):
            outage = fault.outage
            if outage is not None and outage.up is not None and outage.down is not None:
                path = path_of(["receivers", name, "faults", str(i), "outage", "up"])
                yield from _too_many(path, outage.up, outage.down, end)


def _too_many(path: str, one: Distribution, other: Distribution, span: int) -> Iterator[Problem]:
    from sim.model import MOST_OUTAGES, mean_s

    cycle = mean_s(one) + mean_s(other)
    if cycle * MOST_OUTAGES < span / 1e9:
        rule = (
            f"makes a cycle of {cycle:.3g} s on average, more than {MOST_OUTAGES:,} of them in the run; "
            "lengthen one of its times"
        )
        yield Problem(path, None, rule)


def _end(scenario: Scenario) -> Iterator[Problem]:
    """Whether the run ends, and within the time that can be counted."""
    if scenario.drain is None and scenario.horizon + scenario.drain_ns > LONGEST:
        name, _ = scenario.longest_policy()
        endless = (
            any(times >= FOREVER for _, times in schedule_runs(scenario.policies[name])) if name else False
        )
        how_long = "forever" if endless else "for longer than a run can count (36 years)"
        rule = f"is required: policy {name} goes on {how_long}; give drain, or limit it by max_age or max_attempts"
        yield Problem("drain", None, rule)
    elif scenario.horizon + scenario.drain_ns > LONGEST:
        rule = f"must end, with a drain of {format_duration(scenario.drain_ns)}, within 36 years"
        yield Problem("horizon", format_duration(scenario.horizon), rule)


# --------------------------------------------------------------------------- endpoints


def _endpoint(scenario: Scenario, name: str, endpoint: Endpoint) -> Iterator[Problem]:
    def at(key: str) -> str:
        return path_of(["endpoints", name, key])

    if endpoint.policy is not None and endpoint.policy not in scenario.policies:
        yield Problem(at("policy"), endpoint.policy, _unknown("policies", endpoint.policy, scenario))
    for receiver in endpoint.receiver if isinstance(endpoint.receiver, dict) else [endpoint.receiver]:
        if receiver not in scenario.receivers:
            yield Problem(at("receiver"), receiver, _unknown("receivers", receiver, scenario))
    producers = scenario.producers if endpoint.producers is None else endpoint.producers
    missing = [producer for producer in producers if producer not in scenario.producers]
    for producer in missing:
        known = ", ".join(scenario.producers)
        rule = f"is not a producer of this scenario{nearest(producer, scenario.producers)} (known: {known})"
        yield Problem(at("producers"), producer, rule)
    if missing:
        return
    try:
        types = list(dict.fromkeys(kind for producer in producers for kind in scenario.event_types(producer)))
    except ScenarioError:
        return  # the file is at fault, and is told about by itself
    for pattern in endpoint.subscribes:
        if not any(matches([pattern], kind) for kind in types):
            more = ", …" if len(types) > 8 else ""
            rule = f"matches no event type of its producers (they emit {', '.join(types[:8])}{more})"
            yield Problem(at("subscribes"), pattern, rule)


def _unknown(section: str, name: str, scenario: Scenario) -> str:
    known = [*getattr(scenario, section), *presets.names(section)]
    return (
        f"is not in {section} of this file, nor bundled{nearest(name, known)} "
        f"(hooklab {section} lists the bundled ones)"
    )


# --------------------------------------------------------------------------- files


def _files(scenario: Scenario) -> Iterator[Problem]:
    """Read every file that the scenario replays, so that a bad row is found before a run starts."""
    from sim.workload import read_arrivals, read_outages

    for name, producer in scenario.producers.items():
        if producer.arrivals.replay is not None:
            try:
                read_arrivals(producer.arrivals.replay, scenario.folder, path_of(["producers", name]))
            except ScenarioError as error:
                yield from error.problems
    for name, receiver in scenario.receivers.items():
        for i, fault in enumerate(receiver.faults):
            if fault.outage is not None and fault.outage.replay is not None:
                where = path_of(["receivers", name, "faults", str(i), "outage"])
                try:
                    read_outages(fault.outage.replay, scenario.folder, where)
                except ScenarioError as error:
                    yield from error.problems
