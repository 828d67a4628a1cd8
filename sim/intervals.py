"""Intervals from independent replications: pure statistics over arrays, nothing of webhooks.

One run has no interval: its deliveries share outages and queues, so they say little about each other's spread.
A figure of each replication (a mean, a share, a quantile) is one observation, replications are independent, and
Student's t over them holds for all of these alike (Law, *Simulation Modeling and Analysis*, 5th ed., §9.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

Floats = np.ndarray[Any, np.dtype[np.float64]]

CONFIDENCE = 0.95
LEAST_REPLICATIONS = 10
"""Replications before a precision is judged: a spread of fewer is a guess."""
FIRST_PART, LAST_PART = 0.1, 0.5
"""Parts of a series that Geweke compares."""
WARM_UP_DOUBT = 0.01
"""Share of steady series that the check of the warm-up calls unsteady."""


class Interval(NamedTuple):
    """A figure over replications; ``low`` and ``high`` are NaN where there are fewer than two."""

    mean: float
    low: float
    high: float
    n: int
    """Replications in which the figure exists."""


class Difference(NamedTuple):
    """A paired difference over replications, with Holm's correction over the family it belongs to."""

    mean: float
    low: float
    high: float
    n: int
    p: float
    """Two-sided p of no difference, by itself."""
    p_holm: float
    """The same, corrected: below 1 - confidence, the difference is shown."""
    variance_ratio: float
    """Variance of the difference with luck of their own ÷ with common luck: what pairing brought."""


def mean_interval(values: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Interval:
    """Student's t-interval of the mean; NaN, a figure that does not exist in a replication, is left out."""
    known = _known(values)
    n = len(known)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean, error = _mean_and_error(known)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = _t(n, confidence) * error
    return Interval(mean, mean - half, mean + half, n)


def proportion_interval(count: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Exact (Clopper–Pearson) interval of a proportion, for replications in which something happened at all.

    Deliveries of one run are not independent, so it must not be taken over them. Source: Clopper and Pearson,
    *The use of confidence or fiducial limits illustrated in the case of the binomial*, Biometrika 26 (1934).
    """
    if not 0 <= count <= n:
        raise ValueError(f"count is {count}; it must be between 0 and n ({n})")
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(special.betaincinv(count + 1, n - count, 1 - tail))
    return Interval(count / n, low, high, n)


# --------------------------------------------------------------------------- differences


def differences(
    pairs: Sequence[tuple[Sequence[float] | Floats, Sequence[float] | Floats]], confidence: float = CONFIDENCE
) -> list[Difference]:
    """For each (values, values of the other) their paired difference, corrected by Holm over all of them.

    Pairs are the replications of one number. An interval is as wide as the step at which Holm decides about
    it: it leaves out 0 exactly where ``p_holm`` is below 1 - ``confidence``, and covers by itself with at least
    ``confidence``. Source: Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Statist. 6
    (1979).
    """
    paired = [_paired(np.asarray(own, dtype=float), np.asarray(other, dtype=float)) for own, other in pairs]
    spreads = [_mean_and_error(own - other) if len(own) else (math.nan, math.nan) for own, other in paired]
    single = [_p(mean, error, len(own)) for (mean, error), (own, _) in zip(spreads, paired, strict=True)]
    adjusted, shares = holm(single, 1 - confidence)
    found = []
    for (own, other), (mean, error), p, corrected, share in zip(
        paired, spreads, single, adjusted, shares, strict=True
    ):
        half = _t(len(own), 1 - share) * error if len(own) > 1 else math.nan
        ratio = _variance_ratio(own, other)
        found.append(Difference(mean, mean - half, mean + half, len(own), p, corrected, ratio))
    return found


def holm(p_values: Sequence[float], doubt: float = 1 - CONFIDENCE) -> tuple[list[float], list[float]]:
    """Holm's corrected p values, and for each the share of ``doubt`` at which it is decided.

    NaN (nothing to compare) belongs to no family and stays NaN.
    """
    corrected = [math.nan] * len(p_values)
    shares = [doubt] * len(p_values)
    family = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    highest, deciding = 0.0, True
    for step, i in enumerate(family):
        if deciding:  # once one is kept, all after it are kept at the same step
            share = doubt / (len(family) - step)
        highest = max(highest, min(p_values[i] * (len(family) - step), 1.0))
        deciding = deciding and highest < doubt
        corrected[i], shares[i] = highest, share
    return corrected, shares


def _paired(own: Floats, other: Floats) -> tuple[Floats, Floats]:
    both = ~(np.isnan(own) | np.isnan(other))
    return own[both], other[both]


def _p(mean: float, error: float, n: int) -> float:
    """Two-sided p of a mean of 0 by Student's t; replications that all differ alike leave no doubt."""
    if n < 2:
        return math.nan
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(n - 1, -abs(mean) / error))


def _variance_ratio(own: Floats, other: Floats) -> float:
    """Infinity where the difference never varies; NaN where nothing does."""
    if len(own) < 2:
        return math.nan
    apart, together = float(own.var(ddof=1) + other.var(ddof=1)), float((own - other).var(ddof=1))
    if together == 0:
        return math.inf if apart > 0 else math.nan
    return apart / together


# --------------------------------------------------------------------------- precision


def replications_needed(interval: Interval, relative: float, floor: float) -> int:
    """Replications after which the half-width is likely at most ``relative`` × mean, or ``floor`` if that is more.

    At most twice those there are, since their spread is an estimate; ``interval.n`` if it is narrow enough already.
    A figure that does not exist asks for none. Stopping so is asymptotically valid: Chow and Robbins, *On the
    asymptotic theory of fixed-width sequential confidence intervals*, Ann. Math. Statist. 36 (1965).
    """
    if interval.n < 2:
        return interval.n
    half = (interval.high - interval.low) / 2
    allowed = max(relative * abs(interval.mean), floor)
    if half <= allowed:
        return interval.n
    wanted = math.inf if allowed == 0 else interval.n * (half / allowed) ** 2
    return min(max(math.ceil(min(wanted, 1e9)), interval.n + 1), 2 * interval.n)


# --------------------------------------------------------------------------- warm-up


def settled(series: Floats, confidence: float = 1 - WARM_UP_DOUBT) -> bool:
    """Whether series (a row per replication, a column per piece of time) have no trend: Geweke's comparison.

    The mean of the first tenth is held against that of the last half, as Geweke does (*Evaluating the accuracy of
    sampling-based approaches to the calculation of posterior moments*, 1992). Where he estimates a spectral density
    from one chain, the spread here comes from replications, so that a t-test is all it takes: its rate of false
    alarms is known. Truncation rules such as MSER have none, and cut neighbouring columns that depend on each other,
    as those of a queue do, anywhere.
    """
    count = series.shape[1]
    first, last = max(round(count * FIRST_PART), 1), max(round(count * LAST_PART), 1)
    own = np.array([_mean(row[:first]) for row in series])
    other = np.array([_mean(row[count - last :]) for row in series])
    found = differences([(own, other)], confidence)[0]
    return not found.p < 1 - confidence


def settled_from(series: Floats, least: int = 0) -> int | None:
    """The first column, from ``least``, from which on no trend shows; None: there is none in the first half."""
    columns = range(least, series.shape[1] // 2 + 1)
    return next((column for column in columns if settled(series[:, column:])), None)


# --------------------------------------------------------------------------- small parts


def _known(values: Sequence[float] | Floats) -> Floats:
    array: Floats = np.asarray(values, dtype=float)
    known: Floats = array[~np.isnan(array)]
    return known


def _mean(values: Floats) -> float:
    known = _known(values)
    return float(known.mean()) if len(known) else math.nan


def _mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean and its standard error; equal values have no error, whatever rounding makes of their sum."""
    if values.min() == values.max():
        return float(values[0]), 0.0
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _t(n: int, confidence: float) -> float:
    return float(special.stdtrit(n - 1, (1 + confidence) / 2))
