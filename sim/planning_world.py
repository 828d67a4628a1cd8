"""Scenarios under more load, or with an episode in their middle: what breaking points are looked for in.

An *episode* is a window of time in which receivers are down, or err, or more arrives than usual. It stands in the
scenario as an outage of every receiver together (of an error of 0 % where only more arrives), so that ``drain_s``
counts from its end; outages that the scenario has of its own are left out, so that it counts from no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sim import experiment_store, model, workload
from sim.errors import Problem, ScenarioError, path_of
from sim.fields import Nanoseconds, format_duration, format_rate, format_share, parse_rate
from sim.scenario import Scenario, load

OUTAGE, RATE, ERRORS = KINDS = ("outage", "rate", "errors")
"""What an episode may be."""
PART_BEFORE = 0.25
"""Part of the time after the warm-up before an episode: it shows the backlog to come back to."""
PART_DURING = 0.1
"""Part of the time after the warm-up that an episode of more load or errors lasts, unless a time is given."""
MOST_PARTS = 1000
"""An episode is at least this part of the horizon."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """When an episode begins and, unless its length is what is looked for, how long it is, ns."""

    start: int
    length: int


def episode_of(base: Scenario, during: int | None) -> Episode:
    """The episode of a scenario: at its own first outage, if it has one at a given time, else in the first half.

    Raises:
        ScenarioError: ``during`` (ns) leaves no room in the horizon.
    """
    open_ns = base.horizon - base.warmup
    length = int(open_ns * PART_DURING) if during is None else during
    if not base.horizon / MOST_PARTS <= length <= open_ns / 2:
        low, high = (format_duration(Nanoseconds(ns)) for ns in (base.horizon // MOST_PARTS, open_ns // 2))
        rule = f"must lie between {low} and {high}: the system needs room to recover within the horizon"
        raise ScenarioError([Problem("during", format_duration(Nanoseconds(length)), rule)])
    own = [start for start in _own_starts(base) if base.warmup < start < base.horizon]
    start = min(own, default=base.warmup + int(open_ns * PART_BEFORE))
    return Episode(start=start, length=length)


def _own_starts(base: Scenario) -> Iterator[int]:
    for receiver in base.receivers.values():
        for fault in receiver.faults:
            if fault.outage is not None and fault.outage.windows:
                yield int(fault.outage.windows[0][0])


def with_outage(base: Scenario, episode: Episode, length: int) -> Scenario:
    """The scenario with all receivers down for a time, ns, in the way of their own outages (else: refusing)."""
    return _with_episode(base, episode.start, episode.start + length, None)


def with_errors(base: Scenario, episode: Episode, share: float) -> Scenario:
    """The scenario in which this share of what receivers are sent fails while the episode lasts."""
    how = {"error": {"probability": format_share(share)}}
    return _with_episode(base, episode.start, episode.start + episode.length, how)


def with_surge(base: Scenario, episode: Episode, factor: float) -> Scenario:
    """The scenario in which as many times the usual events arrive while the episode lasts.

    It begins at a whole multiple of its length. A second producer beside each brings what is more, as Poisson arrivals.

    Raises:
        ScenarioError: arrivals are recorded: there is no usual rate to multiply.
    """
    position = -(-episode.start // episode.length)
    parts = max(-(-base.horizon // episode.length), position + 1)
    start = position * episode.length
    calm = _with_episode(base, start, start + episode.length, {"error": {"probability": "0%"}})
    if factor == 1:
        return calm
    mapping = experiment_store.sent(calm)
    built = model.build(base, base.seed)
    for name, source in zip(built.producers, built.sources, strict=True):
        _require_rates(name, mapping["producers"][name]["arrivals"])
        extra = (factor - 1) * workload.mean_rate_per_s(source.process, built.horizon)
        rates = ["0/s"] * parts
        rates[position] = format_rate(extra)
        period = format_duration(Nanoseconds(parts * episode.length))
        surge = _unused(f"{name}-surge", mapping["producers"])
        arrivals = {"daily": {"rates": rates, "period": period}}
        mapping["producers"][surge] = {**mapping["producers"][name], "arrivals": arrivals}
        for endpoint in mapping["endpoints"].values():
            if name in endpoint.get("producers", ()):
                endpoint["producers"] = [*endpoint["producers"], surge]
    return load(mapping)


def _unused(name: str, known: dict[str, Any]) -> str:
    while name in known:
        name += "-"
    return name


def _with_episode(base: Scenario, start: int, end: int, how: object) -> Scenario:
    """The scenario with one outage, of all receivers together; ``how`` None: as each has it of its own."""
    mapping = experiment_store.sent(base)
    window = [format_duration(Nanoseconds(at)) for at in (start, end)]
    for receiver in mapping["receivers"].values():
        faults = receiver.get("faults", [])
        own = [fault["outage"].get("how", "refuse") for fault in faults if "outage" in fault]
        meets = how if how is not None else (own or ["refuse"])[0]
        episode = {"outage": {"windows": [window], "how": meets, "scope": "all together"}}
        receiver["faults"] = [episode, *(fault for fault in faults if "outage" not in fault)]
    return load(mapping)


def episode_end_s(scenario: Scenario) -> float:
    """When the episode of a scenario that has one is over, s."""
    outage = next(iter(scenario.receivers.values())).faults[0].outage
    assert outage is not None
    assert outage.windows
    return outage.windows[0][1] / 1e9


# --------------------------------------------------------------------------- more of everything


def with_load(base: Scenario, factor: float) -> Scenario:
    """The scenario with every rate of arrivals multiplied, all the time.

    Raises:
        ScenarioError: arrivals are recorded, or a rate becomes too high to tell.
    """
    mapping = experiment_store.sent(base)
    for name, producer in mapping["producers"].items():
        _require_rates(name, producer["arrivals"])
        producer["arrivals"] = _multiplied(producer["arrivals"], factor)
    return load(mapping)


def _require_rates(producer: str, arrivals: dict[str, Any]) -> None:
    for key in ("at", "replay"):
        if key in arrivals:
            path = path_of(["producers", producer, "arrivals", key])
            rule = (
                "is recorded and has no rate to multiply; give a rate, such as poisson (hooklab fit finds it)"
            )
            raise ScenarioError([Problem(path, None, rule)])


def _multiplied(value: Any, factor: float) -> Any:
    """A copy of an arrivals block in which every rate is multiplied; times stay."""
    if isinstance(value, dict):
        return {key: _multiplied(item, factor) for key, item in value.items()}
    if isinstance(value, list):
        return [_multiplied(item, factor) for item in value]
    if isinstance(value, str) and "/" in value:
        return format_rate(parse_rate(value) * factor)
    return value
