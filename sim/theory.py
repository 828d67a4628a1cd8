"""Closed forms to put beside a run: queues here, schedules, outages, order and duplicates re-exported.

Times are seconds and rates are per second. Each docstring states the formula, what it assumes, and where it
comes from. Input that makes no sense, or a queue without a steady state, raises ``ValueError`` with field,
value and rule. Results are frozen; names shared with the metrics of a run mean the same. Nothing here
simulates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.theory_order import (
    Duplicates,
    HeadOfLineQueue,
    LatencyOrder,
    OrderOutcome,
    PairInversion,
    Polling,
    ThinPayloadMiss,
    TierWait,
    adjacent_inversion_poisson,
    duplicates,
    exponential_tail,
    fifo_hol,
    fifo_tier_random_delay,
    lognormal_tail,
    ordering_exp_latency,
    ordering_poisson,
    pair_inversion,
    pair_inversion_inf,
    polling,
    thin_payload_miss,
)
from sim.theory_reach import outlasting_share
from sim.theory_schedule import (
    Floats,
    FluidDrain,
    JitterTotal,
    Metastability,
    OutageOutcome,
    RetryBudgetLoad,
    ScheduleOutcome,
    SingleOutage,
    SyncSpike,
    amplification,
    attempts_mean,
    fluid_drain,
    jitter_total,
    metastable,
    outage_attempt_rate,
    outage_ctmc,
    require_below,
    require_count,
    require_gaps,
    require_not_negative,
    require_positive,
    require_probability,
    retry_budget_load,
    schedule_iid,
    single_outage,
    solve_rising,
    sync_spike,
)

__all__ = [
    "DispatcherQueue",
    "Duplicates",
    "FluidDrain",
    "HeadOfLineQueue",
    "JitterTotal",
    "LatencyOrder",
    "LossQueue",
    "Metastability",
    "MultiServerQueue",
    "OrderOutcome",
    "OutageOutcome",
    "PairInversion",
    "Polling",
    "RetrialQueue",
    "RetryBudgetLoad",
    "ScheduleOutcome",
    "SingleOutage",
    "SingleServerQueue",
    "SyncSpike",
    "ThinPayloadMiss",
    "TierWait",
    "adjacent_inversion_poisson",
    "amplification",
    "attempts_mean",
    "dispatcher_bcmp",
    "duplicates",
    "exponential_tail",
    "feedback_mmc",
    "fifo_hol",
    "fifo_tier_random_delay",
    "fluid_drain",
    "jitter_total",
    "lognormal_tail",
    "md1_queue_wait_cdf",
    "md1_queue_wait_quantile",
    "metastable",
    "mg1",
    "mmc",
    "mmck",
    "ordering_exp_latency",
    "ordering_poisson",
    "outage_attempt_rate",
    "outage_ctmc",
    "outlasting_share",
    "pair_inversion",
    "pair_inversion_inf",
    "polling",
    "retrial_mg1",
    "retrial_mm1",
    "retrial_mmc",
    "retry_budget_load",
    "schedule_iid",
    "single_outage",
    "sync_spike",
    "thin_payload_miss",
]


# ---- many servers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MultiServerQueue:
    """An M/M/c queue in steady state."""

    arrival_rate_per_s: float
    service_rate_per_s: float
    servers: int
    utilization: float
    wait_probability: float
    queue_wait_s_mean: float
    sojourn_s_mean: float
    queue_length_mean: float
    in_system_mean: float

    @property
    def _spare_rate(self) -> float:
        return self.servers * self.service_rate_per_s - self.arrival_rate_per_s

    def queue_wait_tail(self, duration_s: float) -> float:
        """P(wait > t) = C·e^{−(cμ−λ)t}."""
        require_not_negative(duration_s=duration_s)
        return self.wait_probability * math.exp(-self._spare_rate * duration_s)

    def queue_wait_s_quantile(self, probability: float) -> float:
        """Quantile of the wait: max(0, ln(C/(1−p))/(cμ−λ)); 0 for all who need not wait."""
        require_probability(below_one=True, probability=probability)
        if self.wait_probability <= 1 - probability:
            return 0.0
        return math.log(self.wait_probability / (1 - probability)) / self._spare_rate

    def sojourn_tail(self, duration_s: float) -> float:
        """P(wait + service > t) = e^{−μt}(1 + C(1−e^{−μt·x})/x), x = c−1−λ/μ; at x = 0 it is e^{−μt}(1 + Cμt)."""
        require_not_negative(duration_s=duration_s)
        served = self.service_rate_per_s * duration_s
        excess = self.servers - 1 - self.arrival_rate_per_s / self.service_rate_per_s
        if abs(served * excess) < 1:
            growth = served if abs(excess) < 1e-12 else -math.expm1(-served * excess) / excess
            return math.exp(-served) * (1 + self.wait_probability * growth)
        # far out the factors of the product are no longer numbers, and their difference is
        ends = math.exp(-served)
        return ends + self.wait_probability * (ends - math.exp(-served * (1 + excess))) / excess


def mmc(arrival_rate_per_s: float, service_rate_per_s: float, servers: int) -> MultiServerQueue:
    """M/M/c: Poisson arrivals λ, exponential service μ, c servers, one unlimited FIFO queue.

    P(wait) is Erlang's C = B/(1−ρ(1−B)), ρ = λ/(cμ), with Erlang's B from the stable recursion B_k =
    aB/(k+aB), a = λ/μ; mean wait C/(cμ−λ); the rest by Little's law. Raises ``ValueError`` for rates not
    above 0, fewer than one server, and λ ≥ cμ. Source: Erlang 1917.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s, service_rate_per_s=service_rate_per_s)
    require_count(servers=servers)
    capacity = servers * service_rate_per_s
    require_below("arrival_rate_per_s", arrival_rate_per_s, capacity, "servers × service_rate_per_s")
    offered = arrival_rate_per_s / service_rate_per_s
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    utilization = arrival_rate_per_s / capacity
    waiting = blocked / (1 - utilization * (1 - blocked))
    wait = waiting / (capacity - arrival_rate_per_s)
    sojourn = wait + 1 / service_rate_per_s
    return MultiServerQueue(
        arrival_rate_per_s=arrival_rate_per_s,
        service_rate_per_s=service_rate_per_s,
        servers=servers,
        utilization=utilization,
        wait_probability=waiting,
        queue_wait_s_mean=wait,
        sojourn_s_mean=sojourn,
        queue_length_mean=arrival_rate_per_s * wait,
        in_system_mean=arrival_rate_per_s * sojourn,
    )


@dataclass(frozen=True, kw_only=True)
class LossQueue:
    """An M/M/c/K queue in steady state; waits are of accepted arrivals."""

    loss_probability: float
    wait_probability: float
    queue_wait_s_mean: float
    queue_length_mean: float
    in_system_mean: float
    goodput_per_s: float


def mmck(arrival_rate_per_s: float, service_rate_per_s: float, servers: int, places: int) -> LossQueue:
    """M/M/c/K: as M/M/c with K places, servers included; who finds all places taken is refused.

    p_n ∝ Π_{i≤n} λ/(min(i,c)μ); loss p_K; an accepted arrival waits with probability Σ_{c≤n<K} p_n/(1−p_K),
    on average L_q/(λ(1−p_K)). K = c is Erlang's loss system. Any load is allowed. Raises ``ValueError`` for
    rates not above 0, fewer than one server, and fewer places than servers. Source: Erlang 1917.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s, service_rate_per_s=service_rate_per_s)
    require_count(servers=servers, places=places)
    if places < servers:
        raise ValueError(f"places is {places}; it must be at least servers ({servers})")
    number = np.arange(places + 1)
    step = np.log(arrival_rate_per_s / (service_rate_per_s * np.minimum(number[1:], servers)))
    logs = np.concatenate([[0.0], np.cumsum(step)])  # in logarithms: a large c would overflow
    shares = np.exp(logs - logs.max())
    shares /= shares.sum()
    accepted = float(shares[:-1].sum())
    queue_length = float(shares @ np.maximum(0, number - servers))
    return LossQueue(
        loss_probability=float(shares[-1]),
        wait_probability=float(shares[servers:-1].sum()) / accepted,
        queue_wait_s_mean=queue_length / (arrival_rate_per_s * accepted),
        queue_length_mean=queue_length,
        in_system_mean=float(shares @ number),
        goodput_per_s=arrival_rate_per_s * accepted,
    )


@dataclass(frozen=True, kw_only=True)
class DispatcherQueue:
    """Workers, their queue and the retries around them; waits are per attempt, totals per delivery."""

    attempt_rate_per_s: float
    utilization: float
    arrival_rate_per_s_max: float
    wait_probability: float
    queue_wait_s_mean: float
    in_system_mean: float
    orbit_mean: float
    orbit_variance: float
    settle_time_s_mean: float
    lost_share: float


def dispatcher_bcmp(
    arrival_rate_per_s: float,
    service_rate_per_s: float,
    workers: int,
    failure_probability: float,
    gaps_s: Sequence[float],
) -> DispatcherQueue:
    """Queue of c workers that serve first attempts and retries alike, with gaps to wait out in between.

    The workers are an M/M/c queue at λ·E[A], E[A] = Σ qᵏ for k ≤ n = len(gaps_s); independent of it, the
    orbit is Poisson with mean λ Σ qᵏ·d_k. A delivery, lost ones included, takes E[A]·(wait + 1/μ) + Σ
    qᵏ·d_k. ``in_system_mean`` counts waiting and busy, not the orbit. Assumes Poisson arrivals, exponential
    service alike for good and failed attempts, FIFO by due time, and independent failures; gaps may have
    any distribution with mean d_k. Raises ``ValueError`` for rates not above 0, q outside [0, 1], negative
    gaps, and λ·E[A] ≥ cμ. Source: product form of Baskett, Chandy, Muntz and Palacios 1975 (BCMP).
    """
    require_gaps(gaps_s)
    attempts = attempts_mean(failure_probability, len(gaps_s) + 1)
    in_gaps = math.fsum(failure_probability ** (k + 1) * gap for k, gap in enumerate(gaps_s))
    lost = failure_probability ** (len(gaps_s) + 1)
    return _dispatcher(arrival_rate_per_s, service_rate_per_s, workers, attempts, in_gaps, lost)


def feedback_mmc(
    arrival_rate_per_s: float,
    service_rate_per_s: float,
    servers: int,
    failure_probability: float,
    max_attempts: int | None = None,
) -> DispatcherQueue:
    """M/M/c with immediate feedback: a failed attempt joins the queue again at once.

    M/M/c at λ·E[A], E[A] = 1/(1−q) until success (``max_attempts`` None) or (1−qⁿ)/(1−q); total time
    E[A]·(wait + 1/μ), lost qⁿ. The mean wait and queue are exact; the wait is also the fresh arrival's, by
    the arrival theorem. Assumes Poisson arrivals, exponential service drawn anew, independent failures.
    Raises ``ValueError`` for rates not above 0, q outside [0, 1] (below 1 without a limit), and λ·E[A] ≥
    cμ. Source: Jackson 1957; BCMP 1975.
    """
    attempts = attempts_mean(failure_probability, max_attempts)
    lost = 0.0 if max_attempts is None else failure_probability**max_attempts
    return _dispatcher(arrival_rate_per_s, service_rate_per_s, servers, attempts, 0.0, lost)


def _dispatcher(
    arrivals: float, service: float, workers: int, attempts: float, in_gaps: float, lost: float
) -> DispatcherQueue:
    """The M/M/c queue of all attempts, and the orbit beside it."""
    require_positive(arrival_rate_per_s=arrivals, service_rate_per_s=service)
    require_count(servers=workers)
    limit = workers * service / attempts
    require_below("arrival_rate_per_s", arrivals, limit, "servers × service_rate_per_s / attempts")
    queue = mmc(arrivals * attempts, service, workers)
    return DispatcherQueue(
        attempt_rate_per_s=arrivals * attempts,
        utilization=queue.utilization,
        arrival_rate_per_s_max=limit,
        wait_probability=queue.wait_probability,
        queue_wait_s_mean=queue.queue_wait_s_mean,
        in_system_mean=queue.in_system_mean,
        orbit_mean=arrivals * in_gaps,
        orbit_variance=arrivals * in_gaps,
        settle_time_s_mean=attempts * queue.sojourn_s_mean + in_gaps,
        lost_share=lost,
    )


# ---- one server -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SingleServerQueue:
    """An M/G/1 queue in steady state."""

    wait_probability: float
    queue_wait_s_mean: float
    sojourn_s_mean: float
    queue_length_mean: float
    in_system_mean: float


def mg1(arrival_rate_per_s: float, service_s_mean: float, service_cv: float) -> SingleServerQueue:
    """M/G/1: Poisson arrivals λ, one server, service times S with a mean and a coefficient of variation.

    Mean wait λE[S²]/(2(1−ρ)), E[S²] = mean²(1+cv²), ρ = λ·mean = P(wait); the rest by Little's law. cv is 0
    for a constant, 1 for exponential, 1/√k for Erlang-k, √(e^{σ²}−1) for lognormal. Assumes FIFO and
    independent service times. Raises ``ValueError`` for a rate or mean not above 0, a negative cv, and ρ ≥
    1. Source: Pollaczek 1930, Khinchine 1932.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s, service_s_mean=service_s_mean)
    require_not_negative(service_cv=service_cv)
    require_below("arrival_rate_per_s", arrival_rate_per_s, 1 / service_s_mean, "1 / service_s_mean")
    busy = arrival_rate_per_s * service_s_mean
    wait = busy * service_s_mean * (1 + service_cv**2) / (2 * (1 - busy))
    sojourn = wait + service_s_mean
    return SingleServerQueue(
        wait_probability=busy,
        queue_wait_s_mean=wait,
        sojourn_s_mean=sojourn,
        queue_length_mean=arrival_rate_per_s * wait,
        in_system_mean=arrival_rate_per_s * sojourn,
    )


def md1_queue_wait_cdf(arrival_rate_per_s: float, service_s: float, duration_s: float) -> float:
    """P(wait ≤ t) of the M/D/1 queue with constant service D.

    With k = ⌊t/D⌋ + 1 and y = λ(kD−t): Σ_{j<k} P(N ≤ k−j)·e^{−y}y^j/j!, N the number in the system, found
    by level crossing. All terms are positive, so that it holds at any t; Crommelin's alternating sum, which
    it equals, loses all digits from t ≈ 20 D. Raises ``ValueError`` for a rate or time not above 0, a
    negative duration, and λD ≥ 1. Source: Crommelin 1932, in the form of Franx 2001.
    """
    _check_md1(arrival_rate_per_s, service_s)
    require_not_negative(duration_s=duration_s)
    intervals = math.floor(duration_s / service_s) + 1
    return _md1_cdf(
        arrival_rate_per_s, service_s, _md1_levels(arrival_rate_per_s * service_s, intervals), duration_s
    )


def md1_queue_wait_quantile(arrival_rate_per_s: float, service_s: float, probability: float) -> float:
    """Quantile in seconds of the M/D/1 wait, by bisection of ``md1_queue_wait_cdf``; 0 up to P(no wait) = 1−λD.

    Raises ``ValueError`` as that function does, and for a probability outside [0, 1). Source: Crommelin
    1932.
    """
    _check_md1(arrival_rate_per_s, service_s)
    require_probability(below_one=True, probability=probability)
    busy = arrival_rate_per_s * service_s
    if probability <= 1 - busy:
        return 0.0
    intervals = 8
    while True:
        levels = _md1_levels(busy, intervals)
        if _md1_cdf(arrival_rate_per_s, service_s, levels, (intervals - 1) * service_s) > probability:
            break
        intervals *= 2
    return solve_rising(
        lambda t: _md1_cdf(arrival_rate_per_s, service_s, levels, t),
        probability,
        0.0,
        (intervals - 1) * service_s,
    )


def _check_md1(arrival_rate: float, service: float) -> None:
    require_positive(arrival_rate_per_s=arrival_rate, service_s=service)
    require_below("arrival_rate_per_s", arrival_rate, 1 / service, "1 / service_s")


def _md1_levels(busy: float, intervals: int) -> Floats:
    """P(N ≤ 1), …, P(N ≤ intervals) of M/D/1, by level crossing: ups to n+1 or more equal downs from n+1."""
    point = np.cumprod(busy / np.arange(1, 61)) * math.exp(-busy)
    more = np.cumsum(point[::-1])[::-1]  # P(A ≥ 1), P(A ≥ 2), …; past 60 it is below 1e-80
    level = np.zeros(intervals + 1)
    level[0] = 1 - busy
    for n in range(intervals):
        # p_(n+1)·P(A=0) = p_0·P(A>n) + Σ_{1≤j≤n} p_j·P(A>n+1−j), A the arrivals in one service
        first = max(1, n + 2 - len(more))
        up = level[first : n + 1] @ more[1 : n + 2 - first][::-1]
        if n < len(more):
            up += level[0] * more[n]
        level[n + 1] = up * math.exp(busy)
    return np.cumsum(level)[1:]


def _md1_cdf(arrival_rate: float, service: float, levels: Floats, duration: float) -> float:
    """The positive sum for one t; ``levels`` must reach ⌊t/D⌋ + 1."""
    intervals = min(math.floor(duration / service) + 1, len(levels))
    ahead = max(0.0, arrival_rate * (intervals * service - duration))
    weights = np.cumprod(np.concatenate([[1.0], ahead / np.arange(1, intervals)]))
    return min(1.0, float(levels[:intervals][::-1] @ weights) * math.exp(-ahead))


# ---- retrials ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RetrialQueue:
    """Servers without a queue, whose refused arrivals come back after exponential delays."""

    busy_mean: float
    blocking_probability: float
    orbit_mean: float
    orbit_time_s_mean: float
    attempts_per_delivery: float
    empty_probability: float | None


def _retrial(
    arrivals: float, retries: float, busy: float, blocked: float, orbit: float, empty: float | None
) -> RetrialQueue:
    """Little's law on the orbit, and attempts 1 + θ·orbit/λ."""
    return RetrialQueue(
        busy_mean=busy,
        blocking_probability=blocked,
        orbit_mean=orbit,
        orbit_time_s_mean=orbit / arrivals,
        attempts_per_delivery=1 + retries * orbit / arrivals,
        empty_probability=empty,
    )


def retrial_mg1(
    arrival_rate_per_s: float, service_s_mean: float, service_cv: float, retry_rate_per_s: float
) -> RetrialQueue:
    """M/G/1 retrial queue: one server, no place to wait, each refused delivery comes back at rate θ.

    Orbit λ²(E[S²]/2 + E[S]/θ)/(1−ρ), orbit time orbit/λ, attempts 1 + θ·orbit/λ, P(busy) = ρ = λE[S].
    Assumes Poisson arrivals and exponential retrial delays without limit. ``empty_probability`` is None: it
    depends on more than two moments. Raises ``ValueError`` for rates or a mean not above 0, a negative cv,
    and ρ ≥ 1. Source: Falin and Templeton 1997, chapter 1.
    """
    require_positive(
        arrival_rate_per_s=arrival_rate_per_s,
        service_s_mean=service_s_mean,
        retry_rate_per_s=retry_rate_per_s,
    )
    require_not_negative(service_cv=service_cv)
    require_below("arrival_rate_per_s", arrival_rate_per_s, 1 / service_s_mean, "1 / service_s_mean")
    busy = arrival_rate_per_s * service_s_mean
    half_square = service_s_mean**2 * (1 + service_cv**2) / 2
    orbit = arrival_rate_per_s**2 * (half_square + service_s_mean / retry_rate_per_s) / (1 - busy)
    return _retrial(arrival_rate_per_s, retry_rate_per_s, busy, busy, orbit, None)


def retrial_mm1(
    arrival_rate_per_s: float, service_rate_per_s: float, retry_rate_per_s: float
) -> RetrialQueue:
    """M/M/1 retrial queue: ``retrial_mg1`` with exponential service of rate μ.

    Orbit ρ(λ/θ + ρ)/(1−ρ), P(server idle and orbit empty) = (1−ρ)^(λ/θ+1). Assumptions as there. Raises
    ``ValueError`` for rates not above 0 and for λ ≥ μ. Source: Falin and Templeton 1997, chapter 1.
    """
    require_positive(service_rate_per_s=service_rate_per_s)
    queue = retrial_mg1(arrival_rate_per_s, 1 / service_rate_per_s, 1.0, retry_rate_per_s)
    empty = (1 - queue.busy_mean) ** (arrival_rate_per_s / retry_rate_per_s + 1)
    return replace(queue, empty_probability=empty)


def retrial_mmc(
    arrival_rate_per_s: float, service_rate_per_s: float, servers: int, retry_rate_per_s: float
) -> RetrialQueue:
    """M/M/c retrial queue: c servers, no place to wait, each refused delivery comes back at rate θ.

    No closed form for c > 2: the chain (busy, orbit) is solved numerically, cut at an orbit where less than
    1e-13 of the probability is left (found by doubling), by backward matrix recursion over the orbit; exact
    but for that cut. ``blocking_probability`` is what a new arrival meets. Takes long for loads very near 1
    or θ ≪ λ. Raises ``ValueError`` for rates not above 0, fewer than one server, λ ≥ cμ, and when 200,000
    in orbit are not enough. Source: Falin and Templeton 1997, chapter 2; Bright and Taylor 1995.
    """
    require_positive(
        arrival_rate_per_s=arrival_rate_per_s,
        service_rate_per_s=service_rate_per_s,
        retry_rate_per_s=retry_rate_per_s,
    )
    require_count(servers=servers)
    capacity = servers * service_rate_per_s
    require_below("arrival_rate_per_s", arrival_rate_per_s, capacity, "servers × service_rate_per_s")
    cut = 64
    while cut <= 200_000:
        levels = _retrial_levels(arrival_rate_per_s, service_rate_per_s, servers, retry_rate_per_s, cut)
        orbit = levels.sum(axis=1)
        if orbit[-1] * cut < 1e-13:
            return _retrial(
                arrival_rate_per_s,
                retry_rate_per_s,
                float(levels.sum(axis=0) @ np.arange(servers + 1)),
                float(levels[:, -1].sum()),
                float(orbit @ np.arange(cut + 1)),
                max(0.0, float(levels[0, 0])),
            )
        cut *= 2
    raise ValueError(
        f"retry_rate_per_s is {retry_rate_per_s}; with this load more than 200000 deliveries are in orbit"
    )


def _retrial_levels(arrivals: float, service: float, servers: int, retries: float, cut: int) -> Floats:
    """P(orbit = n, busy = i) as rows n ≤ cut: p_(n+1) = p_n[c]·λe_c·(−T_(n+1))⁻¹, T with all that lies above."""
    busy = np.arange(servers + 1)
    inside = np.diag(np.full(servers, arrivals), 1) + np.diag(service * busy[1:], -1)
    up = np.zeros(servers + 1)
    up[-1] = arrivals
    ratio = np.zeros((cut + 1, servers + 1))  # row n: p_n for one unit of p_(n−1)[c]
    down = np.zeros(servers + 1)  # what returns to this level from above, per unit of p_n[c]
    for orbit in range(cut, -1, -1):
        leaving = inside.sum(axis=1) + np.where(
            busy < servers, orbit * retries, arrivals if orbit < cut else 0
        )
        level = inside - np.diag(leaving)
        level[-1] += down
        if orbit == 0:
            break
        ratio[orbit] = np.linalg.solve(level.T, -up)
        down = np.append(0.0, ratio[orbit][:-1])
        # all that goes up comes back: made exact here, or rounding grows from level to level
        down *= arrivals / down.sum()
    level[:, 0] = 1.0  # level 0: the balance equations are dependent, one gives way to normalization
    ratio[0] = np.linalg.solve(level.T, np.append(1.0, np.zeros(servers)))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratio[:-1, -1]))])  # products over levels could overflow
    levels = ratio * np.exp(logs - logs.max())[:, None]
    return np.asarray(levels / levels.sum())
