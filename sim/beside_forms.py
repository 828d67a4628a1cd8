"""A closed form as a value: its assumptions, its figures; and the forms about schedules.

What each ``kind`` of form claims stands in ``sim.beside``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sim import beside_world as ask
from sim import dice, model, theory
from sim.beside_world import Pair
from sim.shown import shown_duration, shown_share


class Value(NamedTuple):
    """A figure by a formula, and why it applies."""

    metric: str
    value: float
    why: str


class Refused(Exception):  # noqa: N818  (no error: a reason found only while calculating)
    """The formula does not apply after all."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A formula: its assumptions, each a question with reasons against it, and its values."""

    formula: str
    """Name of the function in ``sim.theory``."""
    title: str
    metric: str
    """The figure that a row without a value names."""
    kind: str
    assumes: tuple[Callable[[Pair], Iterator[str]], ...]
    values: Callable[[Pair], Iterator[Value]]
    source: str
    by_group: bool = False
    """Whether it holds for an endpoint group whatever the other groups do."""


# --------------------------------------------------------------------------- schedules


def _failing(pair: Pair) -> tuple[float, str]:
    """Probability that an attempt fails, and what it is made of."""
    error, lost = pair.shares()
    late = (1 - error - lost) * pair.late_share()
    parts = {"errors": error, "lost answers": lost, "late answers": late}
    told = ", ".join(f"{name} {shown_share(share)}" for name, share in parts.items() if share > 0)
    return error + lost + late, told or "none fails"


def tries(pair: Pair) -> str:
    """How many attempts there are, in words."""
    return f"{pair.attempts:,} attempt{'s' if pair.attempts > 1 else ''}"


def _loss(pair: Pair) -> Iterator[Value]:
    failing, told = _failing(pair)
    outcome = theory.schedule_iid(failing, pair.gaps_s)
    why = f"{tries(pair)} fail independently of one another ({told})"
    yield Value("lost_share", outcome.lost_share, why)
    yield Value("attempts_per_delivery", outcome.attempts_per_delivery, why)


def _latency(pair: Pair) -> Iterator[Value]:
    failing, told = _failing(pair)
    if failing >= 1:
        raise Refused("nothing is delivered")
    served_s, error_s = dice.mean_s(*pair.spec.latency), pair.error_s_mean()
    if not math.isfinite(served_s + error_s):
        raise Refused("the latency has no mean")
    gaps = [pair.mean_gap_s(gap) for gap in pair.gaps_s]
    outcome = theory.schedule_iid(failing, gaps, error_s, served_s)
    delivered_s = pair.mean_first_gap_s + outcome.delivery_latency_s_mean
    given_up_s = pair.mean_first_gap_s + sum(gaps) + pair.attempts * error_s
    why = f"no attempt waits at the sender, and {tries(pair)} fail independently ({told}); means add up"
    yield Value("delivery_latency_s_mean", delivered_s, why)
    lost = outcome.lost_share
    yield Value("settle_time_s_mean", (1 - lost) * delivered_s + lost * given_up_s, why)


def _duplicates(pair: Pair) -> Iterator[Value]:
    error, lost = pair.shares()
    unknown = lost + (1 - error - lost) * pair.late_share()
    if unknown == 0:
        raise Refused("nothing is processed without the sender learning of it")
    outcome = theory.duplicates(unknown / (1 - error), pair.attempts, error)
    why = f"each attempt is processed unknown to the sender with probability {shown_share(unknown)}"
    yield Value("duplicates_per_delivery", outcome.duplicates_per_delivery, why)
    yield Value("duplicate_share", outcome.duplicate_share, why)
    yield Value("false_loss_share", outcome.false_loss_share, why)


def _outage_chain(pair: Pair) -> Iterator[Value]:
    (outage,) = pair.outages
    assert outage.up is not None
    assert outage.down is not None
    up_s, down_s = model.mean_s(outage.up), model.mean_s(outage.down)
    jitter: Any = pair.block.jitter.kind
    outcome = theory.outage_ctmc(up_s, down_s, pair.gaps_s, jitter, pair.shares()[0])
    why = (
        f"up for {shown_duration(up_s)} and down for {shown_duration(down_s)} on average, both exponential; "
        f"failed attempts take no time"
    )
    yield Value("lost_share", outcome.lost_share, why)
    yield Value("attempts_per_delivery", outcome.attempts_per_delivery, why)
    served_s = dice.mean_s(*pair.spec.latency) + pair.mean_first_gap_s
    if math.isfinite(served_s) and not math.isnan(outcome.delivery_latency_s_mean):
        yield Value("delivery_latency_s_mean", outcome.delivery_latency_s_mean + served_s, why)


def _drawn_outage(pair: Pair) -> Iterator[str]:
    """Whether there is one outage, with exponential up and down times, in which all fails at once."""
    if len(pair.outages) != 1:
        yield "there is no outage" if not pair.outages else "there are several outages"
        return
    (outage,) = pair.outages
    if (
        outage.up is None
        or outage.up.exponential is None
        or outage.down is None
        or outage.down.exponential is None
    ):
        yield "up and down times are not exponential"
    if outage.how.refuse is None and not _answers_at_once(pair):
        yield "during the outage attempts do not fail at once"
    if any(
        f.error is not None and pair.error_latency(i) != dice.constant(0.0)
        for i, f in enumerate(pair.receiver.faults)
    ):
        yield "errors take time"
    if any(f.lost_answer is not None for f in pair.receiver.faults):
        yield "answers are lost"
    if pair.receiver.servers != "unlimited" or pair.receiver.answers != "after_processing":
        yield "the receiver queues requests"
    if pair.block.jitter.kind not in ("none", "full", "equal", "exponential"):
        yield f"there is no formula for jitter {pair.block.jitter.kind}"


def _answers_at_once(pair: Pair) -> bool:
    """Whether an outage that answers with a status does so in no time, as the receiver's latency is."""
    return pair.outages[0].how.status is not None and pair.spec.latency == dice.constant(0.0)


def jitter_with_mean(pair: Pair) -> Iterator[str]:
    """Whether the mean of a gap is known by itself."""
    if pair.block.jitter.kind == "decorrelated":
        yield "gaps of decorrelated jitter depend on one another"


_INDEPENDENT = (
    ask.counted_schedule,
    ask.ends_by_attempts,
    ask.verdicts_retry,
    ask.only_chance_fails,
    ask.no_overhead,
    ask.settles,
)
SCHEDULE_FORMS = (
    Form(
        formula="schedule_iid",
        title="loss qⁿ",
        metric="lost_share",
        kind="exact",
        assumes=_INDEPENDENT,
        values=_loss,
        by_group=True,
        source="truncated geometric distribution",
    ),
    Form(
        formula="schedule_iid",
        title="latency of a schedule",
        metric="delivery_latency_s_mean",
        kind="exact",
        assumes=(*_INDEPENDENT, ask.sender_never_waits, ask.no_lost_answers, jitter_with_mean),
        values=_latency,
        by_group=True,
        source="truncated geometric distribution",
    ),
    Form(
        formula="duplicates",
        title="duplicates",
        metric="duplicates_per_delivery",
        kind="exact",
        assumes=_INDEPENDENT,
        values=_duplicates,
        by_group=True,
        source="enumeration",
    ),
    Form(
        formula="outage_ctmc",
        title="outage chain",
        metric="lost_share",
        kind="exact",
        assumes=(
            _drawn_outage,
            ask.counted_schedule,
            ask.ends_by_attempts,
            ask.verdicts_retry,
            ask.never_late,
            ask.sender_never_waits,
            ask.no_overhead,
            ask.settles,
        ),
        values=_outage_chain,
        by_group=True,
        source="two-state Markov chain (Kolmogorov 1931)",
    ),
)
