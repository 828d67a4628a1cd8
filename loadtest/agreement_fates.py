"""The fates of deliveries on both sides, where no timing can make a difference: they must be equal, one by one.

A fate is the state of a delivery and the pairs (attempt_number, outcome). One difference is excused: an answer whose
drawn latency lies so near its timeout that milliseconds of a real machine decide whether it comes in time. What
follows from there is another history of the same delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim import dice, jit, policy
from sim.model import Member, Model
from sim.receiver import NEVER
from sim.trace import Trace

NEAR_S = 0.05
"""How far a drawn latency may lie from its timeout for milliseconds to decide, s."""
MOST_EXCUSED = 0.01
"""Share of deliveries that may differ for that."""
IN_FLIGHT = "in_flight"
"""Stands for the outcome of an attempt that had none when the run ended."""
ABSENT = "absent"


class Fate(NamedTuple):
    """What became of a delivery."""

    state: str
    attempts: tuple[tuple[int, str], ...]
    """(attempt_number, outcome), in order."""


class Difference(NamedTuple):
    """A delivery whose fates differ; ``ABSENT`` is the state of one that a side does not have."""

    delivery_id: str
    sim: Fate
    real: Fate


@dataclass(frozen=True, kw_only=True)
class Fates:
    """What comparing the fates of all deliveries has found."""

    deliveries: int
    near_timeout: int
    """Simulated attempts whose drawn latency is near their timeout, whether or not anything differs."""
    excused: tuple[Difference, ...] = field(default=())
    different: tuple[Difference, ...] = field(default=())
    most_excused: float = MOST_EXCUSED

    @property
    def ok(self) -> bool:
        """Whether all fates are equal but for a few that are excused."""
        return not self.different and len(self.excused) <= self.most_excused * self.deliveries


def compare_fates(
    simulated: Trace, real: Trace, model: Model, near_s: float = NEAR_S, most_excused: float = MOST_EXCUSED
) -> Fates:
    """Compare the fates of all deliveries of two runs of a model in which no timing decides any."""
    sim, other = fates(simulated), fates(real)
    gap = latency_to_timeout(model)
    excused: list[Difference] = []
    different: list[Difference] = []
    nothing = Fate(ABSENT, ())
    for delivery_id in {**sim, **other}:
        pair = Difference(delivery_id, sim.get(delivery_id, nothing), other.get(delivery_id, nothing))
        if pair.sim != pair.real:
            (excused if _excusable(pair, gap, near_s) else different).append(pair)
    return Fates(
        deliveries=len(sim),
        near_timeout=sum(
            abs(gap(delivery_id, number)) <= near_s
            for delivery_id, fate in sim.items()
            for number, _ in fate.attempts
        ),
        excused=tuple(excused),
        different=tuple(different),
        most_excused=most_excused,
    )


def fates(trace: Trace) -> dict[str, Fate]:
    """The fate of every delivery, by its id."""
    attempts: dict[str, list[tuple[int, str]]] = {
        str(delivery_id): [] for delivery_id in trace.deliveries["delivery_id"]
    }
    outcomes = trace.attempts["outcome"].astype(object)
    for delivery_id, number, outcome in zip(
        trace.attempts["delivery_id"],
        trace.attempts["attempt_number"],
        outcomes.where(outcomes.notna(), IN_FLIGHT),
        strict=True,
    ):
        attempts.setdefault(str(delivery_id), []).append((int(number), str(outcome)))
    states: Mapping[str, str] = dict(
        zip(map(str, trace.deliveries["delivery_id"]), map(str, trace.deliveries["state"]), strict=True)
    )
    return {name: Fate(states.get(name, ABSENT), tuple(sorted(made))) for name, made in attempts.items()}


def latency_to_timeout(model: Model) -> Callable[[str, int], float]:
    """(delivery id, attempt_number) → s by which the drawn answer comes after the timeout (before it: below 0).

    Infinite where no answer comes at all, and for polls. True where receivers answer independently of what else they
    have to do, as they do in a scenario in which no timing decides fates.
    """
    members: dict[str, tuple[Member, Any]] = {
        member.name: (
            member,
            jit.receiver_of(model.receivers[member.receiver], member.outages, model.seed, member.word),
        )
        for member in model.members
        if member.policy >= 0
    }

    def gap(delivery_id: str, attempt_number: int) -> float:
        name = ":".join(delivery_id.rsplit(":", 2)[1:])
        if name not in members:
            return float("inf")
        member, receive = members[name]
        answered = receive(0, dice.delivery_words(delivery_id)[0], attempt_number)[1]
        if answered >= NEVER:
            return float("inf")
        limit = policy.attempt_timeout(model.policies[member.policy], attempt_number)
        return float(answered - limit) / policy.SECOND

    return gap


def _excusable(pair: Difference, gap: Callable[[str, int], float], near_s: float) -> bool:
    """Whether histories part at an attempt that both made, and whose answer came near its timeout."""
    for (number, own), (other_number, other) in zip(pair.sim.attempts, pair.real.attempts, strict=False):
        if (number, own) != (other_number, other):
            return number == other_number and abs(gap(pair.delivery_id, number)) <= near_s
    return False
