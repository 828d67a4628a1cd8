"""The dice: every random number of a run, found by its address instead of drawn from a stream.

A draw is a pure function of (seed, stream, event, endpoint, n, sub), computed by the counter-based
generator Philox4x64-10. Nobody's luck depends on who drew before, so two engines, two policies or a
receiver in another process meet the same world.

Standard library only. Functions listed in ``COMPILABLE`` take plain numbers and run unchanged as Python and
as compiled code, with the same result to the last bit: both call the same ``log``, ``exp`` and ``sqrt``, and
``pow``, which a compiler may rewrite, is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

MASK = 2**64 - 1  # the largest unsigned 64-bit word
LONGEST_NS = 2**62
"""Where durations saturate, in nanoseconds (146 years): the sum of two still fits a signed 64-bit integer."""


class Stream(IntEnum):
    """One stream per cause of randomness.

    The numbers are part of the reproducibility contract: a changed number changes every published result,
    so new causes get new numbers and old numbers are never given away again.
    """

    ARRIVAL = 1
    TYPE = 2
    KEY = 3
    BATCH = 4
    OBJECT_DELETED = 5
    OBJECT_UPDATED = 6
    MIX = 7
    POLL_PHASE = 8
    FAULT = 9
    LATENCY = 10
    FAULT_LATENCY = 11
    OUTAGE_UP = 12
    OUTAGE_DOWN = 13
    OUTAGE_START = 14
    JITTER = 15
    STATE = 16


class DistributionKind(IntEnum):
    """Families of durations and what their parameters mean; the numbers do not change."""

    CONSTANT = 0  # a: the value
    EXPONENTIAL = 1  # a: the mean
    LOGNORMAL = 2  # a: mu, b: sigma of the logarithm of the seconds
    ERLANG = 3  # a: the mean of one stage, b: the number of stages
    HYPEREXPONENTIAL = 4  # a: probability of mean b; otherwise mean c
    PARETO = 5  # a: the minimum, b: the shape (the tail falls as x to the power -b)
    UNIFORM = 6  # a: low, b: high
    EMPIRICAL = 7  # a piecewise linear quantile function in points


# Enum members are objects to a compiler; these are numbers.
_CONSTANT, _EXPONENTIAL, _LOGNORMAL, _ERLANG, *_OTHERS = map(int, DistributionKind)
_HYPEREXPONENTIAL, _PARETO, _UNIFORM, _EMPIRICAL = _OTHERS


class Distribution(NamedTuple):
    """A distribution of durations as plain numbers, in seconds.

    ``points`` has two equal halves: probabilities rising from 0 to 1, then the quantiles in seconds at them;
    it is empty for every kind but ``EMPIRICAL``. Unpacked it is the head of the arguments of ``sample_ns``.
    """

    kind: int
    a: float
    b: float
    c: float
    points: tuple[float, ...]


# --------------------------------------------------------------------------- words and addresses


def philox(key0: int, key1: int, c0: int, c1: int, c2: int, c3: int) -> tuple[int, int, int, int]:
    """Philox4x64-10 of a key and a counter: four independent uniform 64-bit words.

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC11). NumPy's ``Philox``
    adds one to the counter before its first block, so its words are those of ``c0 + 1`` here.
    """
    for _ in range(10):
        product0 = 0xD2E7470EE14C6C93 * c0
        product1 = 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (
            (product1 >> 64) ^ c1 ^ key0,
            product1 & MASK,
            (product0 >> 64) ^ c3 ^ key1,
            product0 & MASK,
        )
        key0 = (key0 + 0x9E3779B97F4A7C15) & MASK
        key1 = (key1 + 0xBB67AE8584CAA73B) & MASK
    return c0, c1, c2, c3


def later_block(sub: int, count: int) -> int:
    """The ``sub`` of the block ``count`` blocks after ``sub``: those of one draw are 2**32 apart.

    So a caller may number its own draws ``sub`` = 0 … 2**32 - 1 and none meets the continuation of another.
    """
    return (sub + count * 2**32) & MASK


def block(seed: int, stream: int, event: int, endpoint: int, n: int, sub: int) -> tuple[int, int, int, int]:
    """The four words at an address; each part is an int 0 … 2**64 - 1, and not NumPy's, which overflows."""
    return philox(seed, stream, n, event, endpoint, sub)


def name_word(name: str) -> int:
    """BLAKE2b-64 of a name, low byte first: the word of its item 0."""
    # a name taken from a header may hold half a character; it still deserves the same luck each time
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def item_word(base: int, index: int) -> int:
    """``base + index`` modulo 2**64, in compiled code too: the word of an item from that of its item 0."""
    return (base + index) & MASK


def event_word(producer_name: str, index: int) -> int:
    """The word of a producer's event: ``name_word(producer_name) + index``, modulo 2**64.

    It holds no position in a file, so adding a producer changes nobody else's luck.
    """
    return item_word(name_word(producer_name), index)


def endpoint_word(group_name: str, member: int) -> int:
    """The word of a member of an endpoint group: ``name_word(group_name) + member``, modulo 2**64."""
    return item_word(name_word(group_name), member)


def foreign_word(text: str) -> int:
    """The word of an id that hooklab did not make: BLAKE2b-64 of the whole text."""
    return name_word(text)


def _numbered(text: str) -> tuple[str, int] | None:
    """Split ``name:number``; None unless it has that very form, so that two spellings are two ids."""
    name, _, digits = text.rpartition(":")
    if not name or ":" in name or not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return None
    return (name, int(digits)) if digits == "0" or digits[0] != "0" else None


def delivery_words(delivery_id: str) -> tuple[int, int]:
    """The (event, endpoint) words of a delivery id, which is also its ``webhook-id`` on the wire.

    ``producer:index:group:member`` gives the words the simulator uses. ``X:group:member`` with any other X
    gives ``foreign_word(X)`` and the endpoint's word. Any other text is one foreign id: its word, and 0.
    """
    head, _, member = delivery_id.rpartition(":")
    event_id, _, group = head.rpartition(":")
    endpoint = _numbered(f"{group}:{member}")
    if not event_id or endpoint is None:
        return foreign_word(delivery_id), 0
    event = _numbered(event_id)
    return event_word(*event) if event else foreign_word(event_id), endpoint_word(*endpoint)


# --------------------------------------------------------------------------- uniform and normal numbers


def uniform_of(word: int) -> float:
    """A number in the open interval (0, 1): the middle of the word's cell of width 2**-52.

    It is exact, never 0 or 1, and so is ``1 - u``; logarithms need no guard.
    """
    return ((word >> 12) + 0.5) * 2.220446049250313e-16


def uniform(seed: int, stream: int, event: int, endpoint: int, n: int, sub: int) -> float:
    """The uniform number in (0, 1) at an address: that of the first word of its block."""
    return uniform_of(block(seed, stream, event, endpoint, n, sub)[0])


def sequence_uniform(seed: int, stream: int, event: int, i: int) -> float:
    """Number ``i`` of a long sequence at one address, four to a block: a quarter of the work of ``uniform``."""
    return uniform_of(block(seed, stream, event, 0, i // 4, 0)[i % 4])


def normal_quantile(p: float) -> float:
    """The standard normal quantile at 0 < p < 1, good to about 1e-16 of its value.

    Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37 (1988), 477-484.
    """
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        numerator = 2.5090809287301226727e3 * r + 3.3430575583588128105e4
        numerator = (numerator * r + 6.7265770927008700853e4) * r + 4.5921953931549871457e4
        numerator = (numerator * r + 1.3731693765509461125e4) * r + 1.9715909503065514427e3
        numerator = (numerator * r + 1.3314166789178437745e2) * r + 3.3871328727963666080e0
        denominator = 5.2264952788528545610e3 * r + 2.8729085735721942674e4
        denominator = (denominator * r + 3.9307895800092710610e4) * r + 2.1213794301586595867e4
        denominator = (denominator * r + 5.3941960214247511077e3) * r + 6.8718700749205790830e2
        denominator = (denominator * r + 4.2313330701600911252e1) * r + 1.0
        return numerator * q / denominator
    tail = p if q < 0.0 else 1.0 - p
    r = math.sqrt(-math.log(tail))
    if r <= 5.0:
        r = r - 1.6
        numerator = 7.74545014278341407640e-4 * r + 2.27238449892691845833e-2
        numerator = (numerator * r + 2.41780725177450611770e-1) * r + 1.27045825245236838258e0
        numerator = (numerator * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0
        numerator = (numerator * r + 4.63033784615654529590e0) * r + 1.42343711074968357734e0
        denominator = 1.05075007164441684324e-9 * r + 5.47593808499534494600e-4
        denominator = (denominator * r + 1.51986665636164571966e-2) * r + 1.48103976427480074590e-1
        denominator = (denominator * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0
        denominator = (denominator * r + 2.05319162663775882187e0) * r + 1.0
    else:
        r = r - 5.0
        numerator = 2.01033439929228813265e-7 * r + 2.71155556874348757815e-5
        numerator = (numerator * r + 1.24266094738807843860e-3) * r + 2.65321895265761230930e-2
        numerator = (numerator * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0
        numerator = (numerator * r + 5.46378491116411436990e0) * r + 6.65790464350110377720e0
        denominator = 2.04426310338993978564e-15 * r + 1.42151175831644588870e-7
        denominator = (denominator * r + 1.84631831751005468180e-5) * r + 7.86869131145613259100e-4
        denominator = (denominator * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1
        denominator = (denominator * r + 5.99832206555887937690e-1) * r + 1.0
    x = numerator / denominator
    return -x if q < 0.0 else x


# ----------------------------- distributions, in seconds, named as in a scenario file, which checks them


def constant(seconds: float) -> Distribution:
    """Always the same duration; 0 is legal."""
    return Distribution(_CONSTANT, seconds, 0.0, 0.0, ())


def exponential(mean: float) -> Distribution:
    """Memoryless durations."""
    return Distribution(_EXPONENTIAL, mean, 0.0, 0.0, ())


def lognormal(*, median: float, p99: float) -> Distribution:
    """Lognormal durations through two quantiles: half are below ``median``, 99 % below ``p99``."""
    return lognormal_sigma(median, math.log(p99 / median) / normal_quantile(0.99))


def lognormal_mean_cv(mean: float, cv: float) -> Distribution:
    """Lognormal durations by mean and coefficient of variation (standard deviation over mean)."""
    variance = math.log1p(cv * cv)
    return Distribution(_LOGNORMAL, math.log(mean) - variance / 2, math.sqrt(variance), 0.0, ())


def lognormal_sigma(median: float, sigma: float) -> Distribution:
    """Lognormal durations by median and the standard deviation of the logarithm."""
    return Distribution(_LOGNORMAL, math.log(median), sigma, 0.0, ())


def erlang(mean: float, stages: int) -> Distribution:
    """The sum of ``stages`` equal exponential durations, ``mean`` altogether."""
    return Distribution(_ERLANG, mean / stages, float(stages), 0.0, ())


def hyperexponential(mean: float, cv: float) -> Distribution:
    """Durations more variable than exponential (``cv`` > 1): two exponentials with balanced means.

    Balanced means both branches contribute half of the mean: H2b of Whitt, "Approximating a point process
    by a renewal process", Operations Research 30 (1982), 125-147.
    """
    square = cv * cv
    # the rarer branch goes first: 1 - probability would lose its digits when cv is large
    rare = 1.0 / ((square + 1.0) * (1.0 + math.sqrt((square - 1.0) / (square + 1.0))))
    return hyperexponential_mixture(rare, mean / (2.0 * rare), mean / (2.0 * (1.0 - rare)))


def hyperexponential_mixture(probability: float, first_mean: float, second_mean: float) -> Distribution:
    """Exponential with ``first_mean`` in a share ``probability`` of cases, else with ``second_mean``."""
    return Distribution(_HYPEREXPONENTIAL, probability, first_mean, second_mean, ())


def pareto(minimum: float, shape: float) -> Distribution:
    """Heavy-tailed durations; the mean is infinite for shape ≤ 1, the variance for shape ≤ 2."""
    return Distribution(_PARETO, minimum, shape, 0.0, ())


def uniform_between(low: float, high: float) -> Distribution:
    """Durations spread evenly from ``low`` to ``high``."""
    return Distribution(_UNIFORM, low, high, 0.0, ())


def empirical(quantiles: Mapping[float, float]) -> Distribution:
    """Measured durations: probability → seconds, joined by straight lines.

    Where 0 or 1 is missing, the nearest value given is repeated there: nothing is shorter than the first
    quantile or longer than the last. A tail that matters must be given.
    """
    knots = sorted(quantiles.items())
    if knots[0][0] > 0.0:
        knots.insert(0, (0.0, knots[0][1]))
    if knots[-1][0] < 1.0:
        knots.append((1.0, knots[-1][1]))
    points = [float(probability) for probability, _ in knots] + [float(seconds) for _, seconds in knots]
    return Distribution(_EMPIRICAL, 0.0, 0.0, 0.0, tuple(points))


# --------------------------------------------------------------------------- draws


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds of a duration, halves up, at most ``LONGEST_NS``."""
    value = seconds * 1e9
    if value >= 4611686018427387904.0:
        return LONGEST_NS
    # adding a half before cutting would be wrong for 0.49999999999999994 and for odd numbers above 2**52
    whole = int(value)
    return whole + 1 if value - whole >= 0.5 else whole


def _exponential_s(mean: float, u: float) -> float:
    return -mean * math.log(1.0 - u)


def _power_of_e(exponent: float) -> float:
    # Python raises where compiled code overflows to infinity; both are saturated long before 1e304 s
    return math.exp(min(exponent, 700.0))


def _erlang_s(
    mean: float, stages: int, seed: int, stream: int, event: int, endpoint: int, n: int, sub: int
) -> float:
    total = 0.0
    words = block(seed, stream, event, endpoint, n, sub)
    for stage in range(stages):
        if stage > 0 and stage % 4 == 0:
            words = block(seed, stream, event, endpoint, n, later_block(sub, stage // 4))
        total += _exponential_s(mean, uniform_of(words[stage % 4]))
    return total


def _first_above(values: Sequence[float], low: int, high: int, u: float) -> int:
    """The first index from ``low`` on with ``u < values[index]``, or else ``high``."""
    while low < high:
        middle = (low + high) // 2
        if u < values[middle]:
            high = middle
        else:
            low = middle + 1
    return low


def _empirical_s(points: Sequence[float], u: float) -> float:
    half = len(points) // 2
    i = _first_above(points, 1, half - 1, u)
    share = (u - points[i - 1]) / (points[i] - points[i - 1])
    return points[half + i - 1] + share * (points[half + i] - points[half + i - 1])


def _empirical_mean(points: Sequence[float]) -> float:
    half = len(points) // 2
    total = 0.0
    for i in range(1, half):
        total += (points[i] - points[i - 1]) * (points[half + i - 1] + points[half + i]) * 0.5
    return total


def _empirical_length_biased_s(points: Sequence[float], u: float) -> float:
    """A value drawn with density proportional to itself: pieces by their share of the mean, then a root."""
    half = len(points) // 2
    goal = u * _empirical_mean(points)
    for i in range(1, half):
        low = points[half + i - 1]
        high = points[half + i]
        part = (points[i] - points[i - 1]) * (low + high) * 0.5
        if goal < part:
            return math.sqrt(low * low + goal / part * (high * high - low * low))
        goal -= part
    return points[2 * half - 1]


def sample_ns(
    kind: int, a: float, b: float, c: float, points: Sequence[float],
    seed: int, stream: int, event: int, endpoint: int, n: int, sub: int,
) -> int:  # fmt: skip
    """Draw one duration at an address, in nanoseconds, rounded once (halves up, at most ``LONGEST_NS``).

    ``kind`` … ``points`` are a ``Distribution``, unpacked; ``points`` is a tuple or, in compiled code, a 1-D
    array. The quantile function is taken at the first word, so a larger uniform is a longer duration. A
    hyperexponential takes its branch from word 0 and its length from word 1; an Erlang takes a word per
    stage, four to a block, from blocks ``sub``, ``sub + 2**32``, ``sub + 2 * 2**32``, … None rejects draws.
    """
    if kind == _CONSTANT:
        return nanoseconds(a)
    if kind == _ERLANG:
        return nanoseconds(_erlang_s(a, int(b), seed, stream, event, endpoint, n, sub))
    words = block(seed, stream, event, endpoint, n, sub)
    u = uniform_of(words[0])
    seconds = 0.0
    if kind == _EXPONENTIAL:
        seconds = _exponential_s(a, u)
    elif kind == _LOGNORMAL:
        seconds = _power_of_e(a + b * normal_quantile(u))
    elif kind == _HYPEREXPONENTIAL:
        seconds = _exponential_s(b if u < a else c, uniform_of(words[1]))
    elif kind == _PARETO:
        seconds = a * _power_of_e(-math.log(1.0 - u) / b)
    elif kind == _UNIFORM:
        seconds = a + u * (b - a)
    elif kind == _EMPIRICAL:
        seconds = _empirical_s(points, u)
    return nanoseconds(seconds)


def residual_ns(
    kind: int, a: float, b: float, c: float, points: Sequence[float],
    seed: int, stream: int, event: int, endpoint: int, n: int, sub: int,
) -> int:  # fmt: skip
    """Draw the time left of a duration that is met at a random instant, in nanoseconds.

    The arguments are those of ``sample_ns``. A random instant falls into long intervals more often, and
    anywhere within them: the draw is a length-biased duration (word 0) times a uniform number (word 1; for
    an Erlang the word after its stages); its mean is E[X²] / (2 E[X]). Exponential kinds are memoryless
    and use that instead. See Cox, "Renewal Theory" (1962), chapter 5. A Pareto needs shape > 1: with an
    infinite mean there is no steady state, and the caller must refuse it.
    """
    if kind == _ERLANG:
        # length-biasing a sum of k stages adds one stage
        stages = int(b) + 1
        total = _erlang_s(a, stages, seed, stream, event, endpoint, n, sub)
        words = block(seed, stream, event, endpoint, n, later_block(sub, stages // 4))
        return nanoseconds(total * uniform_of(words[stages % 4]))
    words = block(seed, stream, event, endpoint, n, sub)
    u = uniform_of(words[0])
    place = uniform_of(words[1])
    seconds = 0.0
    if kind == _CONSTANT:
        seconds = a * place
    elif kind == _EXPONENTIAL:
        seconds = _exponential_s(a, u)
    elif kind == _LOGNORMAL:
        seconds = _power_of_e(a + b * b + b * normal_quantile(u)) * place
    elif kind == _HYPEREXPONENTIAL:
        # a branch is met in proportion to the time spent in it
        first = a * b
        seconds = _exponential_s(b if u * (first + (1.0 - a) * c) < first else c, place)
    elif kind == _PARETO:
        seconds = a * _power_of_e(-math.log(1.0 - u) / (b - 1.0)) * place
    elif kind == _UNIFORM:
        seconds = math.sqrt(a * a + u * (b * b - a * a)) * place
    elif kind == _EMPIRICAL:
        seconds = _empirical_length_biased_s(points, u) * place
    return nanoseconds(seconds)


def sample(shape: Distribution, seed: int, stream: int, event: int, endpoint: int, n: int, sub: int) -> int:
    """``sample_ns`` of a distribution that is still in one piece."""
    return sample_ns(
        shape.kind, shape.a, shape.b, shape.c, shape.points, seed, stream, event, endpoint, n, sub
    )


def residual(shape: Distribution, seed: int, stream: int, event: int, endpoint: int, n: int, sub: int) -> int:
    """``residual_ns`` of a distribution that is still in one piece."""
    return residual_ns(
        shape.kind, shape.a, shape.b, shape.c, shape.points, seed, stream, event, endpoint, n, sub
    )


# --------------------------------------------------------------------------- choices and counts


def pick(cumulative: Sequence[float], u: float) -> int:
    """The first index with ``u < cumulative[index]``; the last one if there is none."""
    return _first_above(cumulative, 0, len(cumulative) - 1, u)


def poisson_count(mean: float, u: float) -> int:
    """A Poisson count by adding up probabilities until they exceed ``u``; at most 10,000.

    ``mean`` must be 0 … 700 (the caller refuses more): beyond, the probability of 0 leaves the floats.
    """
    probability = math.exp(-mean)
    total = probability
    count = 0
    while u >= total and count < 10_000:
        count += 1
        probability *= mean / count
        # rounding can leave the whole sum below a u next to 1; the tail then adds nothing any more
        if count > mean and total + probability == total:
            break
        total += probability
    return count


def cumulative_weights(weights: Sequence[float]) -> list[float]:
    """Running shares of positive weights, for ``pick``; the last is exactly 1."""
    total = 0.0
    running = []
    for weight in weights:
        total += weight
        running.append(total)
    return [share / total for share in running[:-1]] + [1.0]


def zipf_cumulative(count: int, exponent: float) -> list[float]:
    """Running shares of ``count`` items with weights 1, 2**-exponent, 3**-exponent, …; 0 is uniform."""
    return cumulative_weights([math.pow(rank, -exponent) for rank in range(1, count + 1)])


COMPILABLE: tuple[Callable[..., object], ...] = (
    block, uniform_of, uniform, sequence_uniform, normal_quantile, nanoseconds, _exponential_s, _power_of_e,
    _erlang_s, _first_above, _empirical_s, _empirical_mean, _empirical_length_biased_s,
    sample_ns, residual_ns, sample, residual, pick, poisson_count,
)  # fmt: skip
"""What compiled code may call by name, beside ``philox`` and two sums of words, which differ there."""


# --------------------------------------------------------------------------- closed forms (Python only)


def _pieces(points: Sequence[float]) -> list[tuple[float, float, float]]:
    """(probability, low, high) of the straight pieces of a quantile function."""
    half = len(points) // 2
    return [(points[i] - points[i - 1], points[half + i - 1], points[half + i]) for i in range(1, half)]


def mean_s(kind: int, a: float, b: float, c: float, points: Sequence[float]) -> float:
    """The mean in seconds; infinite for a Pareto with shape ≤ 1."""
    if kind == _LOGNORMAL:
        return _power_of_e(a + b * b / 2)
    if kind == _ERLANG:
        return a * b
    if kind == _HYPEREXPONENTIAL:
        return a * b + (1 - a) * c
    if kind == _PARETO:
        return a * b / (b - 1) if b > 1 else math.inf
    if kind == _UNIFORM:
        return (a + b) / 2
    return _empirical_mean(points) if kind == _EMPIRICAL else a


def second_moment_s2(kind: int, a: float, b: float, c: float, points: Sequence[float]) -> float:
    """E[X²] in squared seconds; infinite for a Pareto with shape ≤ 2."""
    if kind == _EXPONENTIAL:
        return 2 * a * a
    if kind == _LOGNORMAL:
        return _power_of_e(2 * a + 2 * b * b)
    if kind == _ERLANG:
        return a * a * b * (b + 1)
    if kind == _HYPEREXPONENTIAL:
        return 2 * (a * b * b + (1 - a) * c * c)
    if kind == _PARETO:
        return a * a * b / (b - 2) if b > 2 else math.inf
    if kind == _UNIFORM:
        return (a * a + a * b + b * b) / 3
    if kind == _EMPIRICAL:
        return math.fsum(p * (low * low + low * high + high * high) / 3 for p, low, high in _pieces(points))
    return a * a


def _erlang_survival(stages: int, x: float) -> float:
    """P(Erlang with stages of mean 1 > x): a Poisson count of mean x stays below ``stages``."""
    if x <= 0:
        return 1.0
    # by logarithms: exp(-x) alone underflows when there are hundreds of stages
    return math.fsum(math.exp(i * math.log(x) - x - math.lgamma(i + 1)) for i in range(stages))


def _survival(kind: int, a: float, b: float, c: float, x: float) -> float:
    """P(X > x) of the two kinds whose quantiles have no closed form."""
    if kind == _ERLANG:
        return _erlang_survival(int(b), x / a)
    return a * math.exp(-x / b) + (1 - a) * math.exp(-x / c)


def quantile_s(kind: int, a: float, b: float, c: float, points: Sequence[float], p: float) -> float:
    """The quantile in seconds at 0 < p < 1; Erlang and hyperexponential by bisection."""
    if kind == _EXPONENTIAL:
        return -a * math.log1p(-p)
    if kind == _LOGNORMAL:
        return _power_of_e(a + b * normal_quantile(p))
    if kind == _PARETO:
        return a * _power_of_e(-math.log1p(-p) / b)
    if kind == _UNIFORM:
        return a + p * (b - a)
    if kind == _EMPIRICAL:
        return _empirical_s(points, p)
    if kind == _CONSTANT:
        return a
    low, high = 0.0, mean_s(kind, a, b, c, points)
    while _survival(kind, a, b, c, high) > 1 - p:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if _survival(kind, a, b, c, middle) > 1 - p:
            low = middle
        else:
            high = middle
    return high


def capped_mean_s(kind: int, a: float, b: float, c: float, points: Sequence[float], cap: float) -> float:
    """E[min(X, cap)] in seconds: what a duration costs a sender who gives up after ``cap`` seconds."""
    if cap <= 0:
        return 0.0
    if math.isinf(cap):
        return mean_s(kind, a, b, c, points)
    if kind == _EXPONENTIAL:
        return _capped_exponential(a, cap)
    if kind == _LOGNORMAL:
        return _capped_lognormal(a, b, cap)
    if kind == _ERLANG:
        stages, x = int(b), cap / a
        return a * b * (1 - _erlang_survival(stages + 1, x)) + cap * _erlang_survival(stages, x)
    if kind == _HYPEREXPONENTIAL:
        return a * _capped_exponential(b, cap) + (1 - a) * _capped_exponential(c, cap)
    if kind == _PARETO and a < cap:
        # ∫ (a/x)^b dx from a to cap; expm1 keeps the digits where the shape is near 1
        log_ratio, gap = math.log(cap / a), 1 - b
        return a + a * (math.expm1(gap * log_ratio) / gap if gap else log_ratio)
    if kind == _UNIFORM:
        return _capped_uniform(a, b, cap)
    if kind == _EMPIRICAL:
        return math.fsum(p * _capped_uniform(low, high, cap) for p, low, high in _pieces(points))
    return min(a, cap)


def _capped_exponential(mean: float, cap: float) -> float:
    return -mean * math.expm1(-cap / mean) if mean > 0 else 0.0


def _capped_lognormal(mu: float, sigma: float, cap: float) -> float:
    if sigma == 0:
        return min(_power_of_e(mu), cap)
    z = (math.log(cap) - mu) / sigma
    below = math.erfc((sigma - z) / math.sqrt(2)) / 2
    return _power_of_e(mu + sigma * sigma / 2) * below + cap * math.erfc(z / math.sqrt(2)) / 2


def _capped_uniform(low: float, high: float, cap: float) -> float:
    if cap <= low:
        return cap
    return (low + high) / 2 if high <= cap else cap - (cap - low) ** 2 / (2 * (high - low))
