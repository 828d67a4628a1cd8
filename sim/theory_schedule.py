"""Closed forms for what a retry schedule does: latency, loss, jitter, outages, load and spikes.

Times are seconds and rates are per second. Every function checks its input and raises ``ValueError`` naming
the field, the value and the rule. Import these names from ``sim.theory``; the checks at the top are shared
by its parts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

GapJitter = Literal["none", "full", "equal", "exponential"]
Jitter = Literal["none", "full", "equal", "exponential", "decorrelated"]
Floats = NDArray[np.float64]
_NODES = 40  # per Chebyshev piece: a piece spans at most a factor of three, so 40 reach double precision


# ---- shared by the parts of theory -------------------------------------------------------------------------


def require_positive(**fields: float) -> None:
    """Raise ``ValueError`` unless every field is finite and above 0."""
    for field, value in fields.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{field} is {value}; it must be finite and above 0")


def require_not_negative(**fields: float) -> None:
    """Raise ``ValueError`` unless every field is finite and at least 0."""
    for field, value in fields.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{field} is {value}; it must be finite and at least 0")


def require_probability(*, below_one: bool = False, **fields: float) -> None:
    """Raise ``ValueError`` unless every field lies in [0, 1], or in [0, 1) with ``below_one``."""
    for field, value in fields.items():
        if not 0 <= value <= 1 or (below_one and value == 1):
            rule = "at least 0 and below 1" if below_one else "between 0 and 1"
            raise ValueError(f"{field} is {value}; it must be {rule}")


def require_count(**fields: int) -> None:
    """Raise ``ValueError`` unless every field is a whole number of at least 1."""
    for field, value in fields.items():
        if not (math.isfinite(value) and value == int(value) and value >= 1):
            raise ValueError(f"{field} is {value}; it must be a whole number of at least 1")


def require_below(field: str, value: float, limit: float, meaning: str) -> None:
    """Raise ``ValueError`` unless ``value`` is below ``limit``: the condition for a steady state."""
    if not value < limit:
        raise ValueError(f"{field} is {value}; it must be below {meaning} ({limit}) for a steady state")


def require_gaps(gaps_s: Sequence[float]) -> None:
    """Raise ``ValueError`` unless every gap is finite and at least 0."""
    require_not_negative(**{f"gaps_s[{index}]": gap for index, gap in enumerate(gaps_s)})


def solve_rising(rising: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The smallest point of [low, high] where a rising function reaches ``target``, by bisection."""
    while high - low > 4e-16 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if rising(middle) >= target else (middle, high)
    return high


# ---- independent attempts ---------------------------------------------------------------------------------


def attempts_mean(failure_probability: float, max_attempts: int | None) -> float:
    """Mean number of attempts, Σ qᵏ for k < n = (1−qⁿ)/(1−q); with ``None``, until success, 1/(1−q).

    Assumes attempts that fail independently. Raises ``ValueError`` for q outside [0, 1], for q = 1 without
    a limit, and for a limit below 1. Source: the truncated geometric distribution.
    """
    require_probability(below_one=max_attempts is None, failure_probability=failure_probability)
    if max_attempts is None:
        return 1 / (1 - failure_probability)
    require_count(max_attempts=max_attempts)
    return math.fsum(failure_probability**failures for failures in range(max_attempts))


def failed_attempts_s(gaps_s: Sequence[float], failed_attempt_s: float = 0.0) -> Floats:
    """Seconds from an event to the start of attempt k+1, S_k = k·a_fail + d_1 + … + d_k with S_0 = 0."""
    require_gaps(gaps_s)
    require_not_negative(failed_attempt_s=failed_attempt_s)
    return np.array(list(accumulate((gap + failed_attempt_s for gap in gaps_s), initial=0.0)))


def attempt_probabilities(failure_probability: float, attempts: int) -> Floats:
    """Probability (1−q)·qᵏ that attempt k+1 of ``attempts`` is the one that delivers."""
    require_probability(failure_probability=failure_probability)
    powers: Floats = np.power(failure_probability, np.arange(attempts, dtype=float))
    return (1 - failure_probability) * powers


@dataclass(frozen=True, kw_only=True)
class ScheduleOutcome:
    """What a schedule does to a delivery; latencies are of delivered ones, NaN when nothing is delivered."""

    lost_share: float
    attempts_per_delivery: float
    delivery_latency_s_mean: float
    delivery_latency_s_sd: float
    latencies_s: tuple[float, ...]
    probabilities: tuple[float, ...]

    def within_share(self, duration_s: float) -> float:
        """Share of all deliveries, lost ones included, that are delivered within ``duration_s``."""
        pairs = zip(self.latencies_s, self.probabilities, strict=True)
        return math.fsum(share for latency, share in pairs if latency <= duration_s)

    def delivery_latency_s_quantile(self, probability: float) -> float:
        """Smallest latency that at least ``probability`` of the delivered deliveries stay within."""
        require_probability(probability=probability)
        target = probability * (1 - self.lost_share) * (1 - 1e-12)  # a step met exactly must not be missed
        reached = accumulate(self.probabilities)
        return next(
            (t for t, share in zip(self.latencies_s, reached, strict=True) if share >= target), math.nan
        )


def schedule_iid(
    failure_probability: float,
    gaps_s: Sequence[float],
    failed_attempt_s: float = 0.0,
    delivered_attempt_s: float = 0.0,
) -> ScheduleOutcome:
    """Latency and loss of a schedule whose attempts fail independently with probability q.

    P(T = k·a_fail + d_1 + … + d_k + a_ok) = (1−q)·qᵏ for k = 0 … n, and qⁿ⁺¹ is lost, n = len(gaps_s).
    Assumes no waiting for a worker and constant durations. Raises ``ValueError`` for q outside [0, 1] and
    for negative times. Source: the truncated geometric distribution.
    """
    require_not_negative(delivered_attempt_s=delivered_attempt_s)
    latencies = failed_attempts_s(gaps_s, failed_attempt_s) + delivered_attempt_s
    shares = attempt_probabilities(failure_probability, len(latencies))
    delivered = float(shares.sum())
    mean = variance = math.nan
    if delivered > 0:
        mean = float(shares @ latencies) / delivered
        variance = float(shares @ (latencies - mean) ** 2) / delivered
    return ScheduleOutcome(
        lost_share=failure_probability ** len(latencies),
        attempts_per_delivery=attempts_mean(failure_probability, len(latencies)),
        delivery_latency_s_mean=mean,
        delivery_latency_s_sd=math.sqrt(variance),
        latencies_s=tuple(latencies.tolist()),
        probabilities=tuple(shares.tolist()),
    )


# ---- jitter -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JitterTotal:
    """Moments in seconds of the sum of the first gaps, and the mean of the last of them."""

    total_s_mean: float
    total_s_sd: float
    last_gap_s_mean: float


def jitter_total(
    kind: Jitter, base_s: float, gaps: int, cap_s: float | None = None, factor: float = 2.0
) -> JitterTotal:
    """Mean and standard deviation of the sum of the first ``gaps`` backoff gaps.

    Backoff b_k = min(cap, base·factor^(k−1)). ``none``: b_k. ``full``: uniform on (0, b_k), variance b²/12.
    ``equal``: uniform on (b_k/2, b_k), variance b²/48. ``exponential``: exponential with mean b_k, not
    clipped afterwards. ``decorrelated``: g_k = min(cap, uniform(base, 3·g_(k−1))), g_0 = base, so the cap
    clips the draw and ``factor`` is not used; its moments come from a linear recursion without a cap and,
    with one, from an exact numerical method (backward integration on Chebyshev pieces between cap/3ʲ).
    Raises ``ValueError`` for an unknown kind, a base or factor not above 0, fewer than one gap, and a cap
    below the base. Source: moments of the uniform distribution; the kinds are those of Brooker,
    "Exponential Backoff And Jitter", 2015.
    """
    require_positive(base_s=base_s, factor=factor)
    require_count(gaps=gaps)
    cap = math.inf if cap_s is None else cap_s
    if not cap >= base_s:
        raise ValueError(f"cap_s is {cap_s}; it must be at least base_s ({base_s})")
    if kind == "decorrelated":
        return _decorrelated(base_s, gaps) if cap == math.inf else _decorrelated_capped(base_s, gaps, cap)
    spread = {"none": (1.0, 0.0), "full": (0.5, 1 / 12), "equal": (0.75, 1 / 48), "exponential": (1.0, 1.0)}
    if kind not in spread:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join([*spread, 'decorrelated'])}")
    mean, variance = spread[kind]
    backoffs = [min(cap, base_s * factor**index) for index in range(gaps)]
    return JitterTotal(
        total_s_mean=mean * math.fsum(backoffs),
        total_s_sd=math.sqrt(variance * math.fsum(b * b for b in backoffs)),
        last_gap_s_mean=mean * backoffs[-1],
    )


def _decorrelated(base: float, gaps: int) -> JitterTotal:
    """Uncapped: E[g'|g] = (b+3g)/2 and E[g'²|g] = (b²+3bg+9g²)/3 close the recursion for g and the sum s."""
    g, g2, s, s2, sg = base, base * base, 0.0, 0.0, 0.0
    for _ in range(gaps):
        s_next_g = (base * s + 3 * sg) / 2
        g, g2 = (base + 3 * g) / 2, (base * base + 3 * base * g + 9 * g2) / 3
        s, s2, sg = s + g, s2 + 2 * s_next_g + g2, s_next_g + g2
    return JitterTotal(total_s_mean=s, total_s_sd=math.sqrt(max(0.0, s2 - s * s)), last_gap_s_mean=g)


def _decorrelated_capped(base: float, gaps: int, cap: float) -> JitterTotal:
    """Capped: moments of the remaining sum as functions of the present gap, worked out from the end back."""
    if cap == base:
        return JitterTotal(total_s_mean=gaps * cap, total_s_sd=0.0, last_gap_s_mean=cap)
    edges = [cap]
    while edges[-1] / 3 > base * (1 + 1e-9):
        edges.append(edges[-1] / 3)
    bounds = np.array([base, *reversed(edges)])
    middle, half = (bounds[1:] + bounds[:-1]) / 2, (bounds[1:] - bounds[:-1]) / 2
    gap = middle[:, None] + half[:, None] * chebyshev.chebpts1(_NODES)
    rest, square, last = np.zeros_like(gap), np.zeros_like(gap), gap
    for _ in range(gaps):
        square = _next_gap_mean(gap**2 + 2 * gap * rest + square, gap, middle, half)
        rest = _next_gap_mean(gap + rest, gap, middle, half)
        last = _next_gap_mean(last, gap, middle, half)
    mean, second, final = (float(chebyshev.chebval(-1, _fit(f)[0])) for f in (rest, square, last))
    sd = math.sqrt(max(0.0, second - mean * mean))
    return JitterTotal(total_s_mean=mean, total_s_sd=sd, last_gap_s_mean=final)


def _fit(values: Floats) -> Floats:
    """Chebyshev coefficients of each row of values at the Chebyshev points of its piece."""
    coefficients = values @ chebyshev.chebvander(chebyshev.chebpts1(_NODES), _NODES - 1) * (2 / _NODES)
    coefficients[:, 0] /= 2
    return np.asarray(coefficients)


def _next_gap_mean(values: Floats, gap: Floats, middle: Floats, half: Floats) -> Floats:
    """E[f(min(cap, U(base, 3g)))] for every g in ``gap``: f's integral up to 3g, and f(cap) if clipped."""
    fitted = _fit(values)
    integral = chebyshev.chebint(fitted, lbnd=-1, axis=1) * half[:, None]
    start = np.concatenate([[0.0], np.cumsum(integral.sum(axis=1))])
    base, cap = middle[0] - half[0], middle[-1] + half[-1]
    result = np.empty_like(gap)
    for index in range(len(gap) - 1):  # bounds are factors of three apart, so 3g lies in the next piece
        where = (3 * gap[index] - middle[index + 1]) / half[index + 1]
        result[index] = start[index + 1] + chebyshev.chebval(where, integral[index + 1])
    result[-1] = start[-1] + (3 * gap[-1] - cap) * fitted[-1].sum()
    return np.asarray(result / (3 * gap - base))


# ---- outages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OutageOutcome:
    """What outages do to the deliveries of a schedule; NaN latency when nothing is delivered."""

    lost_share: float
    attempts_per_delivery: float
    delivery_latency_s_mean: float
    first_attempt_share: float
    availability: float


def outage_ctmc(
    mean_up_s: float,
    mean_down_s: float,
    gaps_s: Sequence[float],
    jitter: GapJitter = "none",
    up_failure_probability: float = 0.0,
    down_failure_probability: float = 1.0,
) -> OutageOutcome:
    """Loss, attempts and latency against a receiver that alternates between up and down.

    State vector v ← v·diag(f)·E[e^{QG}] per failed attempt, starting in steady state; for two states e^{Qg}
    = Π + e^{−sg}(I−Π), s = 1/up + 1/down, so a random gap only needs E[e^{−sG}], and the latency needs
    E[G·e^{−sG}]. Gaps: ``none`` constant d; ``full`` uniform on (0, d); ``equal`` uniform on (d/2, d);
    ``exponential`` with mean d. Assumes exponential up and down times, attempts that take no time, one gap
    per retry, and no waiting. ``first_attempt_share`` is delivered by attempt 1. Raises ``ValueError`` for
    times not above 0, negative gaps, probabilities outside [0, 1] and an unknown jitter. Source: two-state
    Markov chains (Kolmogorov 1931).
    """
    require_positive(mean_up_s=mean_up_s, mean_down_s=mean_down_s)
    require_gaps(gaps_s)
    require_probability(
        up_failure_probability=up_failure_probability, down_failure_probability=down_failure_probability
    )
    rate = 1 / mean_up_s + 1 / mean_down_s
    steady = np.array([mean_up_s, mean_down_s]) / (mean_up_s + mean_down_s)
    forget, keep = np.tile(steady, (2, 1)), np.eye(2) - np.tile(steady, (2, 1))
    failure = np.array([up_failure_probability, down_failure_probability])
    state, age = steady, np.zeros(2)  # age: the mean time since the event, on each state
    delivered, latency, attempts = [], [], []
    for gap in [*gaps_s, None]:
        attempts.append(float(state.sum()))
        delivered.append(float(state @ (1 - failure)))
        latency.append(float(age @ (1 - failure)))
        state, age = state * failure, age * failure
        if gap is not None:
            mean, discount, discounted_mean = _gap_transform(gap, jitter, rate)
            move, moved_time = forget + discount * keep, mean * forget + discounted_mean * keep
            state, age = state @ move, age @ move + state @ moved_time
    total = math.fsum(delivered)
    return OutageOutcome(
        lost_share=float(state.sum()),
        attempts_per_delivery=math.fsum(attempts),
        delivery_latency_s_mean=math.fsum(latency) / total if total > 0 else math.nan,
        first_attempt_share=delivered[0],
        availability=float(steady[0]),
    )


def _gap_transform(gap: float, jitter: GapJitter, rate: float) -> tuple[float, float, float]:
    """E[G], E[e^{−sG}] and E[G·e^{−sG}] of a gap G with nominal length ``gap``."""
    if jitter == "exponential":
        return gap, 1 / (1 + rate * gap), gap / (1 + rate * gap) ** 2
    if jitter not in ("none", "full", "equal"):
        raise ValueError(f"jitter is {jitter!r}; it must be one of none, full, equal, exponential")
    low = {"none": gap, "full": 0.0, "equal": gap / 2}[jitter]
    if low == gap:
        return gap, math.exp(-rate * gap), gap * math.exp(-rate * gap)
    width = gap - low
    if rate * width < 1:  # the closed form below cancels here, and ten Gauss-Legendre points are exact enough
        nodes, weights = np.polynomial.legendre.leggauss(10)
        points = low + width * (nodes + 1) / 2
        decay = np.exp(-rate * points) * weights / 2
        return (low + gap) / 2, float(decay.sum()), float(points @ decay)
    at_low, at_gap = math.exp(-rate * low), math.exp(-rate * gap)
    discount = (at_low - at_gap) / (rate * width)
    return (low + gap) / 2, discount, discount / rate + (low * at_low - gap * at_gap) / (rate * width)


@dataclass(frozen=True, kw_only=True)
class SingleOutage:
    """What one outage does to the deliveries created in it; NaN latency when nothing is delivered."""

    lost_share: float
    attempts_per_delivery: float
    delivery_latency_s_mean: float


def single_outage(outage_s: float, gaps_s: Sequence[float]) -> SingleOutage:
    """Loss, attempts and latency of events that are created uniformly over one outage of length D.

    With S_k the sum of the first k gaps: lost (D−S_n)⁺/D, attempts 1 + Σ (D−S_k)⁺/D for k < n, and latency
    S_k for the events created in the last S_k − S_(k−1) seconds not served earlier. Assumes every attempt
    in the window fails, every later one succeeds, and attempts take no time. Raises ``ValueError`` for an
    outage not above 0 or a negative gap. Source: a uniform starting point on a line.
    """
    require_positive(outage_s=outage_s)
    offsets = failed_attempts_s(gaps_s)
    failing = np.maximum(0.0, outage_s - offsets) / outage_s  # entry k: the share whose attempt k+1 fails
    shares = failing[:-1] - failing[1:]
    delivered = float(shares.sum())
    return SingleOutage(
        lost_share=float(failing[-1]),
        attempts_per_delivery=1 + float(failing[:-1].sum()),
        delivery_latency_s_mean=float(shares @ offsets[1:]) / delivered if delivered > 0 else math.nan,
    )


def outage_attempt_rate(
    time_s: float, arrival_rate_per_s: float, outage_s: float, gaps_s: Sequence[float]
) -> float:
    """Attempts per second at ``time_s`` after the start of an outage of length D that every attempt fails in.

    λ·(1 + #{k : t−S_k ≥ 0 and t−d_k < D}): events created at t−S_k now make attempt k+1 if attempt k still
    fell into the outage. Assumes Poisson arrivals (the value is the exact expectation), constant gaps, and
    attempts that take no time. Raises ``ValueError`` for a rate or an outage not above 0 and for a negative
    gap. Source: superposition of shifted Poisson processes.
    """
    require_positive(arrival_rate_per_s=arrival_rate_per_s, outage_s=outage_s)
    offsets = failed_attempts_s(gaps_s)
    pairs = zip(offsets[1:], gaps_s, strict=True)
    retrying = sum(1 for offset, gap in pairs if time_s >= offset and time_s - gap < outage_s)
    return arrival_rate_per_s * (1 + retrying)


@dataclass(frozen=True, kw_only=True)
class FluidDrain:
    """Backlog of one outage in the fluid limit."""

    drain_s: float
    backlog_max: float
    backlog_area_s: float
    affected_delay_s_mean: float


def fluid_drain(
    arrival_rate_per_s: float, service_rate_per_s: float, servers: int, outage_s: float
) -> FluidDrain:
    """Backlog while c servers stand still for D seconds and afterwards work it off.

    Peak λD, drained after Dλ/(cμ−λ), area λD(D+drain)/2 (delivery-seconds), mean delay of the affected D/2.
    Assumes the fluid limit: large λD; the real drain differs by about c/(cμ−λ) seconds. Raises
    ``ValueError`` for rates or an outage not above 0, fewer than one server, and λ ≥ cμ. Source:
    deterministic queueing (Newell 1971).
    """
    require_positive(
        arrival_rate_per_s=arrival_rate_per_s, service_rate_per_s=service_rate_per_s, outage_s=outage_s
    )
    require_count(servers=servers)
    capacity = servers * service_rate_per_s
    require_below("arrival_rate_per_s", arrival_rate_per_s, capacity, "servers × service_rate_per_s")
    peak = arrival_rate_per_s * outage_s
    drain = peak / (capacity - arrival_rate_per_s)
    return FluidDrain(
        drain_s=drain,
        backlog_max=peak,
        backlog_area_s=peak * (outage_s + drain) / 2,
        affected_delay_s_mean=outage_s / 2,
    )


# ---- load and spikes --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SyncSpike:
    """Attempts in the fullest bin after a common failure: all without jitter, fewer with full jitter."""

    peak_without_jitter: int
    bin_mean: float
    bin_sd: float
    peak_mean: float
    peak_median: int
    peak_p95: int
    peak_ratio: float


def sync_spike(deliveries: int, gap_s: float, bin_s: float) -> SyncSpike:
    """Peak of N retries spread by full jitter over a gap cut into m = gap/bin equal bins.

    P(max ≤ x) = N!/m^N · [z^N] (Σ_{j≤x} z^j/j!)^m, computed exactly as P(X≤x)^m · P(ΣXᵢ = N | all Xᵢ ≤ x) /
    P(Poisson(N) = N) with Poisson(N/m) counts and one Fourier transform per x (absolute error about 1e-12),
    not simulated; the time taken grows with m times the square of the peak. Raises ``ValueError`` for fewer
    than one delivery, times not above 0, and a gap that is not a whole number of bins. Source: multinomial
    maximum by Poissonisation (Levin 1981).
    """
    require_count(deliveries=deliveries)
    require_positive(gap_s=gap_s, bin_s=bin_s)
    bins = round(gap_s / bin_s)
    if bins < 1 or abs(bins * bin_s - gap_s) > 1e-9 * gap_s:
        raise ValueError(f"gap_s is {gap_s}; it must be a whole multiple of bin_s ({bin_s})")
    below = _peak_distribution(deliveries, bins)
    peak_mean = float((1 - below).sum())
    return SyncSpike(
        peak_without_jitter=deliveries,
        bin_mean=deliveries / bins,
        bin_sd=math.sqrt(deliveries / bins * (1 - 1 / bins)),
        peak_mean=peak_mean,
        peak_median=int(np.argmax(below >= 0.5 - 1e-12)),
        peak_p95=int(np.argmax(below >= 0.95 - 1e-12)),
        peak_ratio=deliveries / peak_mean,
    )


def _peak_distribution(deliveries: int, bins: int) -> Floats:
    """P(max ≤ x) for x = 0, 1, …, up to where it reaches 1."""
    if bins == 1:
        return np.append(np.zeros(deliveries), 1.0)
    mean = deliveries / bins
    counts = np.arange(deliveries + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    log_point = counts * math.log(mean) - mean - log_factorial
    log_total = deliveries * math.log(deliveries) - deliveries - log_factorial[-1]
    share = np.cumsum(np.exp(log_point))
    log_binomial = log_factorial[-1] - log_factorial - log_factorial[::-1]
    log_binomial += (deliveries - counts) * math.log1p(-1 / bins) - counts * math.log(bins)
    beyond = bins * np.cumsum(np.exp(log_binomial)[::-1])[::-1]  # P(max ≥ x) is at most this
    below = [0.0]
    for peak in range(1, deliveries):
        if beyond[peak + 1] < 1e-14:
            break
        log_all = bins * math.log(min(1.0, share[peak])) if share[peak] > 0 else -math.inf
        if log_all - log_total < -40 or peak * bins < deliveries:  # then P(max ≤ x) is below 1e-17
            below.append(0.0)
            continue
        size = 1 << (peak * bins).bit_length()  # holds all sums, so nothing wraps around
        one = np.fft.rfft(np.exp(log_point[: peak + 1]) / share[peak], size)
        at_total = float(np.fft.irfft(one**bins, size)[deliveries])
        below.append(min(1.0, max(0.0, at_total * math.exp(log_all - log_total))))
    return np.array([*below, 1.0])


def amplification(attempts: int, layers: int) -> int:
    """Calls at the bottom of a stack of layers that each make up to a number of attempts: attempts^layers.

    Assumes that every call fails, so that each layer uses all its attempts. Raises ``ValueError`` for
    counts below 1. Source: multiplication of independent retry loops.
    """
    require_count(attempts=attempts, layers=layers)
    return int(attempts**layers)


@dataclass(frozen=True, kw_only=True)
class RetryBudgetLoad:
    """Attempts and successes per first attempt, with and without a retry budget."""

    load: float
    success_share: float
    limited: bool
    load_without_budget: float


def retry_budget_load(failure_probability: float, max_retries: int, ratio: float) -> RetryBudgetLoad:
    """Offered load per first attempt when each success earns ``ratio`` retries.

    Unlimited load Σ fᵏ for k ≤ max_retries; the budget holds it to L = 1 + ratio·(1−f)·L, so L =
    1/(1−ratio(1−f)); the smaller one applies, and successes are (1−f)·L. Assumes failures independent of
    the load and a long run (the bucket's first filling is forgotten). Raises ``ValueError`` for f outside
    [0, 1], negative ``ratio`` or ``max_retries``. Source: balance of tokens earned and spent.
    """
    require_probability(failure_probability=failure_probability)
    require_not_negative(max_retries=max_retries, ratio=ratio)
    unlimited = attempts_mean(failure_probability, max_retries + 1)
    earned = ratio * (1 - failure_probability)
    budgeted = 1 / (1 - earned) if earned < 1 else math.inf
    load = min(unlimited, budgeted)
    return RetryBudgetLoad(
        load=load,
        success_share=load * (1 - failure_probability),
        limited=budgeted < unlimited,
        load_without_budget=unlimited,
    )


@dataclass(frozen=True, kw_only=True)
class Metastability:
    """Whether retries can hold a receiver down after the outage that started it is over."""

    collapsed_load_per_s: float
    vulnerable: bool
    collapse_expected: bool
    backlog_growth_per_s: float
    drain_rate_with_budget_per_s: float


def metastable(
    arrival_rate_per_s: float,
    capacity_per_s: float,
    max_attempts: int,
    timeout_s: float,
    outage_s: float = math.inf,
    queue_limit: float = math.inf,
) -> Metastability:
    """Fluid prediction of a metastable collapse of a receiver that works off what the sender gave up on.

    Collapsed load λ·max_attempts; ``vulnerable`` when it exceeds the capacity μ; it then grows by the
    difference. With a budget nothing succeeds and so nothing is retried, which leaves μ−λ for the backlog.
    ``collapse_expected`` adds the trigger: the outage, and a full queue (limit/μ), must last longer than
    the timeout; near equality chance decides. Assumes open-loop arrivals, late work that is not cancelled,
    and gaps short against the collapse. Raises ``ValueError`` for rates or times not above 0 and fewer than
    one attempt. Source: Bronson et al. 2021 (metastable failures), fluid limit.
    """
    require_positive(
        arrival_rate_per_s=arrival_rate_per_s, capacity_per_s=capacity_per_s, timeout_s=timeout_s
    )
    require_count(max_attempts=max_attempts)
    for field, value in {"outage_s": outage_s, "queue_limit": queue_limit}.items():
        if not value >= 0:
            raise ValueError(f"{field} is {value}; it must be at least 0")
    collapsed = arrival_rate_per_s * max_attempts
    vulnerable = collapsed > capacity_per_s
    return Metastability(
        collapsed_load_per_s=collapsed,
        vulnerable=vulnerable,
        collapse_expected=vulnerable and min(outage_s, queue_limit / capacity_per_s) > timeout_s,
        backlog_growth_per_s=collapsed - capacity_per_s,
        drain_rate_with_budget_per_s=capacity_per_s - arrival_rate_per_s,
    )
