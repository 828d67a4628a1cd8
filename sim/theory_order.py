"""Closed forms for order, duplicates and thin messages: what the receiver sees of a schedule.

Times are seconds and rates are per second. Import these names from ``sim.theory``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.theory_schedule import (
    Floats,
    attempt_probabilities,
    attempts_mean,
    failed_attempts_s,
    require_below,
    require_count,
    require_not_negative,
    require_positive,
    require_probability,
    schedule_iid,
    solve_rising,
)


@dataclass(frozen=True, kw_only=True)
class PairInversion:
    """Order of two events of one key: later one first, given both delivered, and only the later delivered."""

    inverted_probability: float
    inverted_given_both_probability: float
    gap_probability: float


def pair_inversion(failure_probability: float, gaps_s: Sequence[float], distance_s: float) -> PairInversion:
    """Probability that the second of two events created Δ apart is processed before the first.

    P(T₁ > Δ + T₂) = Σ p_j·p_k over S_j > Δ + S_k, with p_k = (1−q)qᵏ and S_k the sum of the first k gaps;
    divided by (1−qⁿ⁺¹)² given that both are delivered. ``gap_probability`` = qⁿ⁺¹(1−qⁿ⁺¹): the first is
    lost and the second is not. Assumes independent attempts that take no time; events processed at one
    instant keep their order. Raises ``ValueError`` for q outside [0, 1), negative gaps or distance. Source:
    enumeration.
    """
    require_probability(below_one=True, failure_probability=failure_probability)
    require_not_negative(distance_s=distance_s)
    offsets = failed_attempts_s(gaps_s)
    shares = attempt_probabilities(failure_probability, len(offsets))
    inverted = float(shares @ (offsets[:, None] > distance_s + offsets[None, :]) @ shares)
    lost = failure_probability ** len(offsets)
    return PairInversion(
        inverted_probability=inverted,
        inverted_given_both_probability=inverted / (1 - lost) ** 2,
        gap_probability=lost * (1 - lost),
    )


def pair_inversion_inf(failure_probability: float, gap_s: float, distance_s: float) -> float:
    """Inversion probability of two events Δ apart, retried every d seconds until success: q^(⌊Δ/d⌋+1)/(1+q).

    Assumes independent attempts that take no time; equal instants keep their order. Raises ``ValueError``
    for q outside [0, 1), a gap not above 0 and a negative distance. Source: difference of two geometric
    variables.
    """
    require_probability(below_one=True, failure_probability=failure_probability)
    require_positive(gap_s=gap_s)
    require_not_negative(distance_s=distance_s)
    q = failure_probability
    return float(q ** (math.floor(distance_s / gap_s) + 1) / (1 + q))


def adjacent_inversion_poisson(failure_probability: float, gap_s: float, arrival_rate_per_s: float) -> float:
    """Probability that an event is overtaken by the very next one: q/(1+q)·(1−x)/(1−qx) with x = e^{−λd}.

    The mean of ``pair_inversion_inf`` over an exponential distance: Poisson arrivals of one key, a constant
    gap d, retries until success. Raises ``ValueError`` for q outside [0, 1) and for a gap or rate not above
    0. Source: geometric series over ⌊Δ/d⌋.
    """
    require_probability(below_one=True, failure_probability=failure_probability)
    require_positive(gap_s=gap_s, arrival_rate_per_s=arrival_rate_per_s)
    q, unit = failure_probability, arrival_rate_per_s * gap_s
    return q / (1 + q) * -math.expm1(-unit) / (1 - q * math.exp(-unit))


@dataclass(frozen=True, kw_only=True)
class OrderOutcome:
    """Order violations per processed event of one key, and the share of events never processed."""

    late_share: float
    inversions_per_event: float
    lost_share: float


def ordering_poisson(
    failure_probability: float, gaps_s: Sequence[float], arrival_rate_per_s: float
) -> OrderOutcome:
    """Late share and inversions per processed event for Poisson arrivals of one key on a schedule.

    An event processed S_j after its creation is overtaken by a Poisson number of later ones with mean m_j =
    λ∫₀^{S_j} G(u)du = λ Σ_k p_k·(S_j−S_k)⁺, G the (defective) distribution of the delivered latency. So
    late = Σ p_j(1−e^{−m_j})/Σ p_j and inversions = Σ p_j·m_j/Σ p_j; multiply by 1 − ``lost_share`` for
    shares of all events. Assumes independent attempts that take no time, and no waiting. Raises
    ``ValueError`` for q outside [0, 1), negative gaps and a rate not above 0. Source: thinning of a Poisson
    process (as in the M/G/∞ queue).
    """
    require_probability(below_one=True, failure_probability=failure_probability)
    require_positive(arrival_rate_per_s=arrival_rate_per_s)
    offsets = failed_attempts_s(gaps_s)
    shares = attempt_probabilities(failure_probability, len(offsets))
    overtaking = arrival_rate_per_s * np.maximum(0.0, offsets[:, None] - offsets[None, :]) @ shares
    delivered = shares.sum()
    return OrderOutcome(
        late_share=float(shares @ -np.expm1(-overtaking) / delivered),
        inversions_per_event=float(shares @ overtaking / delivered),
        lost_share=failure_probability ** len(offsets),
    )


@dataclass(frozen=True, kw_only=True)
class LatencyOrder:
    """Order violations caused by random latency alone."""

    pair_probability: float
    adjacent_probability: float
    inversions_per_event: float
    late_share: float


def ordering_exp_latency(
    arrival_rate_per_s: float, latency_rate_per_s: float, distance_s: float = 0.0
) -> LatencyOrder:
    """Order violations of Poisson events of one key with exponential latency and no limit on concurrency.

    Two events Δ apart: e^{−νΔ}/2. Neighbours: λ/(2(λ+ν)). Inversions per event: λ/(2ν). Late: 1 − E
    exp(−λ∫₀ᵀ G) = 1 − eʳ·r^{−r−1}·γ(r+1, r) with r = λ/ν, summed as Kummer's series. Raises ``ValueError``
    for rates not above 0 and a negative distance. Source: memoryless latency, and thinning of a Poisson
    process (M/M/∞).
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s, latency_rate_per_s=latency_rate_per_s)
    require_not_negative(distance_s=distance_s)
    ratio = arrival_rate_per_s / latency_rate_per_s
    late, term, index = ratio / (ratio + 1), 1 / (ratio + 1), 1
    while term > 1e-17 * late:
        term *= ratio / (ratio + 1 + index)
        late, index = late - term, index + 1
    return LatencyOrder(
        pair_probability=math.exp(-latency_rate_per_s * distance_s) / 2,
        adjacent_probability=arrival_rate_per_s / (2 * (arrival_rate_per_s + latency_rate_per_s)),
        inversions_per_event=ratio / 2,
        late_share=late,
    )


@dataclass(frozen=True, kw_only=True)
class HeadOfLineQueue:
    """An endpoint served strictly in order, so that every attempt and gap holds up all that follow."""

    service_s_mean: float
    utilization: float
    arrival_rate_per_s_max: float
    wait_probability: float
    queue_wait_s_mean: float
    settle_time_s_mean: float


def fifo_hol(
    arrival_rate_per_s: float,
    failure_probability: float,
    gaps_s: Sequence[float],
    failed_attempt_s: float = 0.0,
    delivered_attempt_s: float = 0.0,
) -> HeadOfLineQueue:
    """Strict order: a delivery starts when its predecessor is delivered or lost.

    M/G/1 with service S_k + a_ok with probability (1−q)qᵏ and S_n + a_fail with qⁿ⁺¹, S_k = k·a_fail + d_1
    + … + d_k: mean wait λE[S²]/(2(1−λE[S])). Assumes Poisson arrivals of one order, independent failures,
    constant durations, and free workers. ``settle_time_s_mean`` counts lost deliveries too. Raises
    ``ValueError`` for a rate not above 0, q outside [0, 1], negative times, attempts and gaps that all take
    no time, and λE[S] ≥ 1. Source: Pollaczek 1930, Khinchine 1932.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s)
    outcome = schedule_iid(failure_probability, gaps_s, failed_attempt_s, delivered_attempt_s)
    all_failed = float(failed_attempts_s(gaps_s, failed_attempt_s)[-1]) + failed_attempt_s
    times = np.array([*outcome.latencies_s, all_failed])
    shares = np.array([*outcome.probabilities, outcome.lost_share])
    mean, square = float(shares @ times), float(shares @ times**2)
    if mean == 0:
        raise ValueError(f"delivered_attempt_s is {delivered_attempt_s}; some attempt or gap must take time")
    utilization = arrival_rate_per_s * mean
    require_below("arrival_rate_per_s", arrival_rate_per_s, 1 / mean, "1 / E[S]")
    wait = arrival_rate_per_s * square / (2 * (1 - utilization))
    return HeadOfLineQueue(
        service_s_mean=mean,
        utilization=utilization,
        arrival_rate_per_s_max=1 / mean,
        wait_probability=utilization,
        queue_wait_s_mean=wait,
        settle_time_s_mean=wait + mean,
    )


# ---- duplicates -------------------------------------------------------------------------------------------


def exponential_tail(duration_s: float, mean_s: float) -> float:
    """P(latency > t) = e^{−t/mean} of an exponential latency: the timeout probability of an answer.

    Raises ``ValueError`` for a negative duration and a mean not above 0. Source: the exponential
    distribution.
    """
    require_not_negative(duration_s=duration_s)
    require_positive(mean_s=mean_s)
    return math.exp(-duration_s / mean_s)


def lognormal_tail(duration_s: float, median_s: float, sigma: float) -> float:
    """P(latency > t) = erfc(ln(t/median)/(σ√2))/2 of a lognormal latency, σ the sd of its logarithm.

    Raises ``ValueError`` for times or a sigma not above 0. Source: the lognormal distribution.
    """
    require_positive(duration_s=duration_s, median_s=median_s, sigma=sigma)
    return math.erfc(math.log(duration_s / median_s) / (sigma * math.sqrt(2))) / 2


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What a receiver processes of one delivery while the sender gives up on slow answers."""

    attempts_per_delivery: float
    processed_per_delivery: float
    duplicates_per_delivery: float
    duplicate_share: float
    given_up_share: float
    false_loss_share: float
    never_processed_share: float
    effect_duplicates_per_delivery: float


def duplicates(
    timeout_probability: float,
    max_attempts: int,
    error_probability: float = 0.0,
    gaps_s: Sequence[float] = (),
    timeout_s: float = 0.0,
    dedupe_window_s: float = 0.0,
) -> Duplicates:
    """Duplicates when the receiver processes also what the sender has given up on.

    Per attempt: error f (answered, not processed), timeout g = (1−f)p (processed late), success (1−f)(1−p);
    an attempt fails with F = f + g. Attempts Σ F^k; processed (1−f)·attempts; never fⁿ; duplicates =
    processed − 1 + fⁿ; more than once = 1 − fⁿ − (1−f−g)·Σ f^k − n·g·fⁿ⁻¹; given up Fⁿ; false loss Fⁿ − fⁿ.
    With a dedupe window w the effect is repeated by an attempt that starts more than w after the one that
    last took effect, summed over all patterns of errors and timeouts. Without a window every duplicate
    takes effect.

    Assumes independent attempts, that an error takes no time and a timeout ``timeout_s``; ``gaps_s`` (empty
    for none) has an entry per retry. Comparing starts instead of processing times is exact but for windows
    within a latency of a sum of gaps. Raises ``ValueError`` for probabilities outside [0, 1], fewer than
    one attempt, negative times, and gaps that do not fit the attempts. Source: enumeration.
    """
    require_probability(timeout_probability=timeout_probability, error_probability=error_probability)
    require_count(max_attempts=max_attempts)
    require_not_negative(timeout_s=timeout_s, dedupe_window_s=dedupe_window_s)
    if len(gaps_s) > 0 and len(gaps_s) != max_attempts - 1:
        raise ValueError(
            f"gaps_s has {len(gaps_s)} entries; it must have max_attempts - 1 ({max_attempts - 1})"
        )
    error, n = error_probability, max_attempts
    late = (1 - error) * timeout_probability
    failure = error + late
    attempts = attempts_mean(failure, n)
    never = error**n
    once = (1 - failure) * attempts_mean(error, n) + n * late * error ** (n - 1)
    repeated = (1 - error) * attempts - (1 - never)
    if dedupe_window_s > 0:
        starts = failed_attempts_s(gaps_s if len(gaps_s) > 0 else [0.0] * (n - 1))
        repeated = _past_dedupe(error, late, starts, timeout_s, dedupe_window_s)
    return Duplicates(
        attempts_per_delivery=attempts,
        processed_per_delivery=(1 - error) * attempts,
        duplicates_per_delivery=(1 - error) * attempts - (1 - never),
        duplicate_share=max(0.0, 1 - never - once),
        given_up_share=failure**n,
        false_loss_share=failure**n - never,
        never_processed_share=never,
        effect_duplicates_per_delivery=repeated,
    )


def _past_dedupe(error: float, late: float, starts: Floats, timeout: float, window: float) -> float:
    """Mean number of repeated effects; a state is (timeouts, (attempt, timeouts) of the last effect)."""
    repeated = 0.0
    states: dict[tuple[int, tuple[int, int] | None], float] = {(0, None): 1.0}
    for attempt, base in enumerate(starts.tolist()):
        following: dict[tuple[int, tuple[int, int] | None], float] = {}
        for (timeouts, effect), chance in states.items():
            forgotten = effect is None
            if effect is not None:
                since = base + timeouts * timeout - (starts[effect[0]] + effect[1] * timeout)
                forgotten = bool(since > window)
                repeated += chance * (1 - error) * forgotten
            latest = (attempt, timeouts) if forgotten else effect
            for key, share in (((timeouts, effect), error), ((timeouts + 1, latest), late)):
                following[key] = following.get(key, 0.0) + chance * share
        states = following
    return repeated


# ---- thin messages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ThinPayloadMiss:
    """What deliveries find that fetch their object only when an attempt starts."""

    missing_share: float
    newer_share: float
    vanished_share: float


def thin_payload_miss(
    failure_probability: float, gaps_s: Sequence[float], delete_rate_per_s: float, update_rate_per_s: float
) -> ThinPayloadMiss:
    """Share of deliveries whose object is gone, or has changed, by the attempt that delivers them.

    ``missing_share`` = Σ p_k·(1 − e^{−δS_k})/Σ p_k with p_k = (1−q)qᵏ, S_k the sum of the first k gaps and
    δ the rate of deletions: of the deliveries that get through. ``newer_share`` is the same with the rate
    of updates, whether or not the object is still there. ``vanished_share`` = Σ_{k≥1} qᵏ(e^{−δS_(k−1)} −
    e^{−δS_k}): of all deliveries, those whose retries end because an attempt finds the object gone. Assumes
    exponential lifetimes from the event on, and independent attempts that take no time. Raises
    ``ValueError`` for q outside [0, 1), negative gaps or rates. Source: Laplace transform of the delivered
    latency.
    """
    require_probability(below_one=True, failure_probability=failure_probability)
    require_not_negative(delete_rate_per_s=delete_rate_per_s, update_rate_per_s=update_rate_per_s)
    offsets = failed_attempts_s(gaps_s)
    shares = attempt_probabilities(failure_probability, len(offsets))
    shares /= shares.sum()
    dying = np.exp(-delete_rate_per_s * offsets[:-1]) * -np.expm1(-delete_rate_per_s * np.diff(offsets))
    retried = np.power(failure_probability, np.arange(1, len(offsets), dtype=float))
    return ThinPayloadMiss(
        missing_share=float(shares @ -np.expm1(-delete_rate_per_s * offsets)),
        newer_share=float(shares @ -np.expm1(-update_rate_per_s * offsets)),
        vanished_share=float(retried @ dying),
    )


# ---- tiers and polling ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TierWait:
    """Time from entering a FIFO tier to leaving it, and the part spent due behind a head that is not."""

    tier_wait_s_mean: float
    head_of_line_wait_s_mean: float
    tier_wait_s_median: float


def fifo_tier_random_delay(arrival_rate_per_s: float, low_s: float, high_s: float) -> TierWait:
    """FIFO tier whose entries have gaps uniform on (a, b): each leaves when it and all before it are due.

    P(W ≤ w) = F(w)·exp(−λ∫_w^∞(1−F)) = F(w)·exp(−λ(b−w)²/(2L)) on [a, b], L = b−a, so E[W] = b −
    √(πL/(2λ))·erf(√(λL/2)) + (1−e^{−λL/2})/λ; the median by bisection. Constant gaps (a = b) add nothing.
    Assumes Poisson entries and free workers. Raises ``ValueError`` for a rate not above 0, negative gaps,
    and b < a. Source: maximum over a Poisson process.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s)
    require_not_negative(low_s=low_s, high_s=high_s)
    if high_s < low_s:
        raise ValueError(f"high_s is {high_s}; it must be at least low_s ({low_s})")
    rate, length = arrival_rate_per_s, high_s - low_s
    if length == 0:
        return TierWait(tier_wait_s_mean=low_s, head_of_line_wait_s_mean=0.0, tier_wait_s_median=low_s)
    half = rate * length / 2
    early = length * math.sqrt(math.pi / half) / 2 * math.erf(math.sqrt(half)) + math.expm1(-half) / rate
    median = solve_rising(lambda left: math.exp(-half * (1 - left) ** 2) * left, 0.5, 0.0, 1.0)
    return TierWait(
        tier_wait_s_mean=high_s - early,
        head_of_line_wait_s_mean=length / 2 - early,
        tier_wait_s_median=low_s + length * median,
    )


@dataclass(frozen=True, kw_only=True)
class Polling:
    """An endpoint that asks at fixed intervals instead of being called."""

    staleness_s_mean: float
    staleness_s_p95: float
    polls_per_s: float
    empty_poll_share: float
    batch_mean: float
    stale_time_share: float
    polls_per_event: float


def polling(arrival_rate_per_s: float, every_s: float) -> Polling:
    """Polling every P seconds that takes all there is, with Poisson arrivals λ.

    Staleness is uniform on (0, P): mean P/2, p95 0.95 P. Empty polls e^{−λP}; batch λP/(1−e^{−λP}), of
    polls that are not empty; share of time with something unseen 1 − (1−e^{−λP})/(λP); polls per event
    1/(λP). Raises ``ValueError`` for a rate or an interval not above 0. Source: conditional uniformity of
    Poisson arrivals.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s, every_s=every_s)
    events = arrival_rate_per_s * every_s
    some = -math.expm1(-events)
    return Polling(
        staleness_s_mean=every_s / 2,
        staleness_s_p95=0.95 * every_s,
        polls_per_s=1 / every_s,
        empty_poll_share=math.exp(-events),
        batch_mean=events / some,
        stale_time_share=1 - some / events,
        polls_per_event=1 / events,
    )
