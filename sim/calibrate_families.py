"""The families of random durations that a scenario offers, as likelihoods need them; and samples of durations.

``theta`` are the parameters of a family where any number will do, so that a maximum is looked for without limits.
Times are s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import shake_128
from typing import Any, NamedTuple

import numpy as np
from scipy import special

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Sample:
    """Measured durations. All columns are as long as ``values``."""

    values: Floats
    """How long each was seen to last, s."""
    ended: Bools
    """Whether it ended then; False: it was cut off, and lasted longer."""
    limits: Floats
    """When each would have been cut off, s; infinite: never."""
    residual: Bools
    """Whether it had begun at an unknown time before it was first seen: the value is the time that was left."""

    @property
    def complete(self) -> int:
        """Durations seen from beginning to end."""
        return int((self.ended & ~self.residual).sum())

    def taken(self, most: int) -> Sample:
        """At most so many of them, evenly."""
        if len(self.values) <= most:
            return self
        kept = np.linspace(0, len(self.values) - 1, most).astype(int)
        return Sample(self.values[kept], self.ended[kept], self.limits[kept], self.residual[kept])

    def where(self, kept: Bools) -> Sample:
        """Those marked."""
        return Sample(self.values[kept], self.ended[kept], self.limits[kept], self.residual[kept])


def sample(values: Any, ended: Any = None, limits: Any = None, residual: Any = None) -> Sample:
    """A sample; by default all ended, none would have been cut off, and none was under way at first."""
    values = np.asarray(values, dtype=float)
    count = len(values)
    return Sample(
        values,
        np.ones(count, bool) if ended is None else np.asarray(ended, bool),
        np.full(count, np.inf) if limits is None else np.asarray(limits, float),
        np.zeros(count, bool) if residual is None else np.asarray(residual, bool),
    )


def uniforms(label: str, count: int) -> Floats:
    """Uniform numbers in (0, 1), always the same ones for a label: a fit repeats to the last bit."""
    words = np.frombuffer(shake_128(label.encode()).digest(8 * count), dtype="<u8")
    return np.asarray(((words >> np.uint64(12)) + 0.5) * 2.0**-52)


# --------------------------------------------------------------------------- families

Theta = Sequence[float]


class Family(NamedTuple):
    """A family of durations; ``theta`` are its parameters where any number will do."""

    name: str
    parameters: tuple[tuple[str, str, Callable[[float], float]], ...]
    """Name in the format, unit, and what one of theta means: each parameter has one, and grows with it."""
    start: Callable[[Sample], list[float]]
    log_density: Callable[[Floats, Theta], Floats]
    log_survival: Callable[[Floats, Theta], Floats]
    mean: Callable[[Theta], float]
    excess: Callable[[Floats, Theta], Floats]
    """E[max(X - x, 0)]: what is left of the tail beyond x."""
    draw: Callable[[Floats, Floats, Theta], Floats]
    """Durations of two columns of uniform numbers."""


def _cv(theta: float) -> float:
    return math.sqrt(1 + math.exp(min(theta, 27.0)))


def _branches(theta: Theta) -> tuple[float, float, float]:
    """Probability of the rarer branch, its mean, the other mean: balanced means, as ``dice`` has them."""
    mean, square = math.exp(theta[0]), 1 + math.exp(min(theta[1], 27.0))
    rare = 1 / ((square + 1) * (1 + math.sqrt((square - 1) / (square + 1))))
    return rare, mean / (2 * rare), mean / (2 * (1 - rare))


def _hyper(x: Floats, theta: Theta, power: int) -> Floats:
    """Log of the sum of both branches: of their densities (power 1), survivals (0) or excesses (-1)."""
    rare, first, second = _branches(theta)
    return np.logaddexp(
        math.log(rare) - power * math.log(first) - x / first,
        math.log1p(-rare) - power * math.log(second) - x / second,
    )


def _gamma(theta: Theta) -> tuple[float, float]:
    """Shape and scale."""
    shape = math.exp(min(theta[1], 14.0))
    return shape, math.exp(theta[0]) / shape


def log_of(x: Floats) -> Floats:
    """The logarithm, and a very small one of what rounding has made nothing."""
    return np.log(np.maximum(x, 1e-300))


def _moments(taken: Sample) -> tuple[float, float]:
    """Mean (as exponential) and coefficient of variation of the values, for a start."""
    values = taken.values
    mean = float(values.sum()) / max(int(taken.ended.sum()), 1)
    return mean, float(values.std() / values.mean()) if values.mean() > 0 else 1.0


def _log_moments(taken: Sample) -> list[float]:
    logs = np.log(taken.values[taken.ended])
    return [float(logs.mean()), math.log(max(float(logs.std()), 1e-3))]


def _gamma_start(taken: Sample) -> list[float]:
    """Exact where nothing is cut off: the root of log k - digamma(k) = log mean - mean log."""
    values = taken.values[taken.ended]
    mean = float(values.mean())
    gap = max(math.log(mean) - float(np.log(values).mean()), 1e-9)
    shape = (3 - gap + math.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(4):
        step = math.log(shape) - float(special.digamma(shape)) - gap
        shape = 1 / (1 / shape + step / (shape * shape * (1 / shape - float(special.polygamma(1, shape)))))
    return [math.log(mean), math.log(shape)]


def _lognormal_excess(x: Floats, theta: Theta) -> Floats:
    sigma = math.exp(theta[1])
    z = (theta[0] - log_of(x)) / sigma
    mean = math.exp(min(theta[0] + sigma * sigma / 2, 700.0))
    return np.asarray(mean * special.ndtr(z + sigma) - x * special.ndtr(z))


def _gamma_excess(x: Floats, theta: Theta) -> Floats:
    shape, scale = _gamma(theta)
    return np.asarray(
        shape * scale * special.gammaincc(shape + 1, x / scale) - x * special.gammaincc(shape, x / scale)
    )


def _log_tail(shape: float, x: Floats) -> Floats:
    """Log of the upper incomplete gamma share, far out by its leading term (Abramowitz and Stegun 6.5.32)."""
    share = special.gammaincc(shape, x)
    far = (shape - 1) * log_of(x) - x - special.gammaln(shape)
    return np.where(share > 1e-290, log_of(share), far)


def _pareto_excess(x: Floats, theta: Theta) -> Floats:
    least, shape = math.exp(theta[0]), math.exp(theta[1])
    beyond = np.maximum(x, least)
    return np.asarray(
        np.maximum(least - x, 0) + beyond * np.exp(-shape * np.log(beyond / least)) / (shape - 1)
    )


def _pareto_mean(theta: Theta) -> float:
    shape = math.exp(theta[1])
    return math.exp(theta[0]) * shape / (shape - 1) if shape > 1 else math.inf


def _pareto_start(taken: Sample) -> list[float]:
    """Maximum likelihood: the least value, and complete durations over the sum of logarithms above it."""
    least = float(taken.values[taken.ended & ~taken.residual].min())
    total = float(np.log(np.maximum(taken.values / least, 1.0)).sum())
    shape = max(int(taken.ended.sum()) - 1, 1) / max(total, 1e-12)
    return [math.log(least), math.log(min(shape, 1e6))]


EXPONENTIAL = Family(
    "exponential",
    (("mean", "s", math.exp),),
    lambda taken: [math.log(_moments(taken)[0])],
    lambda x, t: -t[0] - x * math.exp(-t[0]),
    lambda x, t: -x * math.exp(-t[0]),
    lambda t: math.exp(t[0]),
    lambda x, t: np.exp(t[0] - x * math.exp(-t[0])),
    lambda u, v, t: -math.exp(t[0]) * np.log(u),
)
_LOGNORMAL = Family(
    "lognormal",
    (("median", "s", math.exp), ("sigma", "", math.exp)),
    _log_moments,
    lambda x, t: (
        -0.5 * ((log_of(x) - t[0]) * math.exp(-t[1])) ** 2 - log_of(x) - t[1] - 0.5 * math.log(2 * math.pi)
    ),
    lambda x, t: np.asarray(special.log_ndtr((t[0] - log_of(x)) * math.exp(-t[1]))),
    lambda t: math.exp(min(t[0] + math.exp(2 * t[1]) / 2, 700.0)),
    _lognormal_excess,
    lambda u, v, t: np.exp(t[0] + math.exp(t[1]) * special.ndtri(u)),
)
_ERLANG = Family(
    "erlang",
    (("mean", "s", math.exp), ("stages", "", math.exp)),
    _gamma_start,
    lambda x, t: (
        (_gamma(t)[0] - 1) * log_of(x)
        - x / _gamma(t)[1]
        - special.gammaln(_gamma(t)[0])
        - _gamma(t)[0] * math.log(_gamma(t)[1])
    ),
    lambda x, t: _log_tail(_gamma(t)[0], x / _gamma(t)[1]),
    lambda t: math.exp(t[0]),
    _gamma_excess,
    lambda u, v, t: special.gammaincinv(_gamma(t)[0], u) * _gamma(t)[1],
)
_HYPEREXPONENTIAL = Family(
    "hyperexponential",
    (("mean", "s", math.exp), ("cv", "", _cv)),
    lambda taken: [math.log(_moments(taken)[0]), math.log(max(_moments(taken)[1] ** 2 - 1, 0.1))],
    lambda x, t: _hyper(x, t, 1),
    lambda x, t: _hyper(x, t, 0),
    lambda t: math.exp(t[0]),
    lambda x, t: np.exp(_hyper(x, t, -1)),
    lambda u, v, t: -np.where(v < _branches(t)[0], _branches(t)[1], _branches(t)[2]) * np.log(u),
)
_PARETO = Family(
    "pareto",
    (("minimum", "s", math.exp), ("shape", "", math.exp)),
    _pareto_start,
    lambda x, t: np.where(
        x >= math.exp(t[0]) * (1 - 1e-12), t[1] + math.exp(t[1]) * (t[0] - log_of(x)) - log_of(x), -1e300
    ),
    lambda x, t: -math.exp(t[1]) * np.maximum(log_of(x) - t[0], 0),
    _pareto_mean,
    _pareto_excess,
    lambda u, v, t: math.exp(t[0]) * np.exp(-np.log(u) * math.exp(-t[1])),
)
UNANSWERED = "unanswered"
"""The share of requests that the tail of the latency does not account for."""
FAMILIES = {family.name: family for family in (EXPONENTIAL, _LOGNORMAL, _ERLANG, _HYPEREXPONENTIAL, _PARETO)}


def with_unanswered(family: Family) -> Family:
    """The family for a share 1 - p of requests; the rest never ends, so that it always meets the timeout."""

    def split(theta: Theta) -> tuple[Theta, float]:
        return theta[:-1], float(special.expit(theta[-1]))

    def start(taken: Sample) -> list[float]:
        share = float((~taken.ended).mean()) / 2
        return [*family.start(taken.where(taken.ended)), math.log(share / (1 - share))]

    def log_density(x: Floats, theta: Theta) -> Floats:
        inner, share = split(theta)
        return family.log_density(x, inner) + math.log1p(-share)

    def log_survival(x: Floats, theta: Theta) -> Floats:
        inner, share = split(theta)
        return np.log(share + (1 - share) * np.exp(family.log_survival(x, inner)))

    def draw(u: Floats, v: Floats, theta: Theta) -> Floats:
        inner, share = split(theta)
        # one uniform number serves both: what is left of it above the share is uniform again
        answered = u >= share
        ends = family.draw(np.where(answered, (u - share) / (1 - share), 0.5), v, inner)
        return np.where(answered, ends, np.inf)

    return family._replace(
        parameters=(*family.parameters, (UNANSWERED, "share", lambda value: float(special.expit(value)))),
        start=start,
        log_density=log_density,
        log_survival=log_survival,
        draw=draw,
    )
