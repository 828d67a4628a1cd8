"""When events happen, of which types and for which keys: an attempt log's events as a producer block.

Candidates are constant, Poisson, daily (a rate for each hour) and bursts (on and off, an MMPP with two states);
the Bayesian information criterion of their likelihoods chooses. The likelihood of the MMPP is exact: Rydén,
"Parameter estimation for Markov modulated Poisson processes", Stochastic Models 10 (1994), 795-829.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from sim.calibrate_durations import (
    LEVEL,
    NORMAL,
    Goodness,
    Parameter,
    digits,
    duration,
    plain,
    proportion,
    resolution,
    spreads_of,
)
from sim.calibrate_families import Floats, uniforms

DAY_S = 86_400.0
FOR_RATE = 10
"""Changes from which a rate is fitted."""
FOR_BURSTS = 200
"""Changes from which bursts are tried."""
FOR_DAILY_S = 2 * DAY_S
"""Length of a log from which hours of the day are told apart; every hour must also expect ``PER_HOUR`` changes."""
PER_HOUR = 10
MOST_FITTED = 50_000
"""Changes that the likelihood of bursts looks at: the first ones."""
UNLIKELY = 0.001
"""A chance below which arrivals are no Poisson process, or hours differ."""
COARSE_S = 1e-3
"""Steps of times from which changes that share one are spread over it, if ``TIES`` of them do."""
TIES = 0.01
PER_KEY = 5
"""Events for each key seen, on average, from which a Zipf exponent is fitted."""
MOST_KEYS = 20_000
"""Keys up to which the exponent is freed from the error of ordering keys by their counts."""
WORLDS = 200
"""Worlds drawn for that."""


@dataclass(frozen=True)
class ArrivalFit:
    """A producer block, and how it was found."""

    block: dict[str, Any]
    parameters: tuple[Parameter, ...]
    goodness: tuple[Goodness, ...]
    criteria: dict[str, float]
    dispersion: float
    """Variance over mean of counts in windows of a hundred mean gaps; 1: Poisson."""
    gaps: Floats
    """Between changes, in time scaled so that a true fit makes them exponential with mean 1; for pictures."""
    warnings: tuple[str, ...]


def fit_arrivals(
    events: pd.DataFrame, window_s: tuple[float, float] | None, hour_offset_s: float
) -> ArrivalFit | None:
    """Fit a producer to events (``created_s``, and ``type``, ``key`` where known); None: too few.

    ``window_s`` is when they were recorded (None: from the first to the last); ``hour_offset_s`` is the time of
    day at time 0, s.
    """
    events = events.sort_values("created_s", kind="stable")
    changes, batch, batch_parameters, warnings, unseen = _batches(events)
    if len(changes) < FOR_RATE:
        return None
    start, end = window_s if window_s is not None else (float(changes[0]), float(changes[-1]))
    if not end > start:
        return None
    # what begins and ends with an event has one event less than it seems
    counted = len(changes) if window_s is not None else len(changes) - 1
    at = _apart(changes - start)
    length = end - start
    arrivals, parameters, goodness, criteria, scaled, told = _process(
        at, length, counted, hour_offset_s + start
    )
    block: dict[str, Any] = {"arrivals": _more(arrivals, unseen)}
    if batch:
        block["batch"] = batch
        parameters = [*parameters, *batch_parameters]
    elif "type" in events:
        block["events"], shares = _types(events["type"])
        parameters = [*parameters, *shares]
    if "key" in events:
        keys, found, more = fit_keys(events["key"].value_counts().to_numpy())
        block["keys"] = keys
        parameters = [*parameters, *found]
        warnings = (*warnings, *more)
    dispersion = _dispersion(at, length, 100 * length / max(counted, 1))[0]
    return ArrivalFit(
        block, tuple(parameters), tuple(goodness), criteria, dispersion, scaled, (*warnings, *told)
    )  # fmt: skip


def _more(arrivals: dict[str, Any], share_seen: float) -> dict[str, Any]:
    """The process with changes that emitted nothing, and so left no trace, added."""
    if share_seen == 1.0 or "poisson" not in arrivals:
        return arrivals
    return {"poisson": f"{plain(float(arrivals['poisson'].split('/')[0]) / share_seen)}/s"}


# --------------------------------------------------------------------------- batches and types


def _batches(events: pd.DataFrame) -> tuple[Floats, dict[str, Any], list[Parameter], tuple[str, ...], float]:
    """Times of changes; the counts of each type in one where changes emit several, else nothing."""
    at = events["created_s"].to_numpy(dtype=float)
    if "key" not in events or len(at) < FOR_RATE:
        return at, {}, [], (), 1.0
    change = events.groupby(["created_s", "key"], sort=True).ngroup().to_numpy()
    total = int(change.max()) + 1
    joined = 1 - total / len(at)
    # times in coarse steps make events of one key meet by chance
    shares = events["key"].value_counts(normalize=True).to_numpy()
    step = float(np.min(np.diff(np.unique(at)), initial=np.inf))
    by_chance = len(at) * step / max(float(np.ptp(at)), 1e-9) * float((shares**2).sum()) / 2
    if joined < max(0.05, 2 * by_chance):
        return at, {}, [], (), 1.0
    kinds = events["type"] if "type" in events else pd.Series("event", events.index)
    codes, names = pd.factorize(kinds)
    counts = np.zeros((total, len(names)))
    np.add.at(counts, (change, codes), 1)
    times = np.zeros(total)
    times[change] = at
    fixed = np.ptp(counts, axis=0) == 0
    # a change that emits nothing is not seen: Poisson counts of what is seen are cut off at nothing
    mean_total = float(counts.sum(axis=1).mean())
    seen = 1.0
    if not fixed.any():
        seen = 1 - math.exp(
            -optimize.brentq(lambda m: m / -math.expm1(-m) - mean_total, 1e-9, mean_total + 1)
        )
    block: dict[str, Any] = {}
    parameters = []
    warnings = []
    for kind, column, same in zip(names, counts.T, fixed, strict=True):
        mean = float(column.mean()) * seen
        if same:
            block[str(kind)] = int(column[0])
        else:
            block[str(kind)] = {"poisson": digits(mean)}
            spread = NORMAL * math.sqrt(mean / total)
            parameters.append(
                Parameter(f"batch.{kind}", mean, max(mean - spread, 0.0), mean + spread, "", total)
            )
            chance = float(stats.chi2.sf((total - 1) * column.var() / max(column.mean(), 1e-12), total - 1))
            if seen == 1.0 and min(chance, 1 - chance) < UNLIKELY / 2:
                warnings.append(
                    f"batch.{kind}: the number in a change is not Poisson, which is all the format has"
                )
    order = np.argsort(times, kind="stable")
    return times[order], block, parameters, tuple(warnings), seen


def _types(kinds: pd.Series[str]) -> tuple[dict[str, int], list[Parameter]]:
    """Weights of event types, and their shares with intervals."""
    counts = kinds.value_counts(sort=False)
    counts = counts[counts > 0]
    total = int(counts.sum())
    weights = {str(kind): int(count) for kind, count in counts.items()}
    if len(weights) < 2:
        return weights, []
    return weights, [proportion(f"events.{kind}", count, total) for kind, count in weights.items()]


# --------------------------------------------------------------------------- arrival processes


def _process(
    at: Floats, length: float, counted: int, offset_s: float
) -> tuple[dict[str, Any], list[Parameter], list[Goodness], dict[str, float], Floats, tuple[str, ...]]:
    """The block, parameters, tests, criteria, scaled gaps and warnings of the best arrival process."""
    rate = counted / length
    gaps = np.diff(at)
    if len(gaps) and gaps.std() <= 1e-3 * gaps.mean():
        value = 1 / float(gaps.mean())
        parameter = Parameter("constant", value, value, value, "1/s", counted)
        return {"constant": rate_text(value)}, [parameter], [], {}, gaps * value, ()
    low, high = (
        float(stats.gamma.ppf(p, counted + o)) / length
        for p, o in (((1 - LEVEL) / 2, 0), ((1 + LEVEL) / 2, 1))
    )
    poisson = Parameter("poisson", rate, low, high, "1/s", counted)
    criteria = {"poisson": -2 * (counted * math.log(rate) - rate * length) + math.log(counted)}
    index, chance = _dispersion(at, length, 100 / rate)
    tests = [
        Goodness(
            "arrivals: index of dispersion of counts, 1 if Poisson", "chi-square", index, chance, counted
        )
    ]
    warnings: list[str] = []
    daily = _daily(at, length, counted, offset_s, tests, warnings)
    if daily is not None:
        criteria["daily"] = daily[2]
    bursts = None
    if daily is not None and _is_poisson(daily[3](at)):
        return daily[0], daily[1], tests, criteria, np.diff(daily[3](at)), tuple(warnings)
    if counted >= FOR_BURSTS:
        short, short_chance = _dispersion(at, length, 10 / rate)
        if min(chance, short_chance) < UNLIKELY and max(index, short) > 1:
            bursts = _bursts(at)
            if bursts is not None:
                # of the first part only: scaled to all changes, to be compared
                part = min(counted, MOST_FITTED) / counted
                criteria["bursts"] = bursts[2] / part
    elif counted < FOR_BURSTS:
        warnings.append(
            f"arrivals: {counted} changes are too few to look for bursts ({FOR_BURSTS} are needed)"
        )
    best = min(criteria, key=criteria.__getitem__)
    if best == "daily" and daily is not None:
        if bursts is not None:
            warnings.append(
                "arrivals: hours differ, and bursts remain within them, which the format has no word for"
            )
        return daily[0], daily[1], tests, criteria, np.diff(daily[3](at)), tuple(warnings)
    if best == "bursts" and bursts is not None:
        return bursts[0], bursts[1], tests, criteria, gaps * rate, tuple(warnings)
    if chance < UNLIKELY and index > 1:
        warnings.append(
            f"arrivals: counts vary {index:.1f} times as much as those of the Poisson process given; replay the log "
            "where that matters"
        )
    return {"poisson": rate_text(rate)}, [poisson], tests, criteria, gaps * rate, tuple(warnings)


def _apart(at: Floats) -> Floats:
    """Times written in coarse steps, in which many meet, spread over their steps: ties would look like bursts."""
    grid = resolution(at)
    if grid < COARSE_S or (np.diff(at) == 0).mean() < TIES:
        return at
    return np.sort(at + grid * uniforms("steps", len(at)))


def rate_text(per_s: float) -> str:
    """A rate in five digits, in the unit that suits it."""
    unit, seconds = next(
        ((u, s) for u, s in (("s", 1), ("m", 60), ("h", 3600)) if per_s * s >= 1), ("d", 86400)
    )
    return f"{plain(per_s * seconds)}/{unit}"


def _dispersion(at: Floats, length: float, window_s: float) -> tuple[float, float]:
    """Variance over mean of the counts in windows, and how likely a Poisson process differs so from 1."""
    windows = max(int(length / window_s), 2)
    counts, _ = np.histogram(at, bins=windows, range=(0.0, length))
    index = float(counts.var(ddof=1) / counts.mean()) if counts.mean() > 0 else math.nan
    upper = float(stats.chi2.sf(index * (windows - 1), windows - 1))
    return index, min(2 * min(upper, 1 - upper), 1.0)


def _is_poisson(scaled: Floats) -> bool:
    """Whether arrivals, in a time in which one is expected per unit, vary no more than a Poisson process."""
    chances = [_dispersion(scaled, float(scaled[-1]), window) for window in (10.0, 100.0)]
    return all(chance >= UNLIKELY or index < 1 for index, chance in chances)


def _exposure(length: float, offset_s: float) -> Floats:
    """How long each hour of the day was recorded, s."""
    edges = np.unique(np.concatenate(([0.0, length], np.arange(-(offset_s % 3600), length, 3600.0))))
    edges = edges[(edges >= 0) & (edges <= length)]
    middles = (edges[1:] + edges[:-1]) / 2
    hours = ((middles + offset_s) // 3600 % 24).astype(int)
    return np.asarray(np.bincount(hours, weights=np.diff(edges), minlength=24), dtype=float)


def _daily(
    at: Floats, length: float, counted: int, offset_s: float, tests: list[Goodness], warnings: list[str]
) -> tuple[dict[str, Any], list[Parameter], float, Callable[[Floats], Floats]] | None:
    """Rates by hour of the day, if the log is long enough and hours differ."""
    if length < FOR_DAILY_S or counted < 24 * PER_HOUR:
        if length > DAY_S / 2:
            warnings.append(
                f"arrivals: hours of the day need {FOR_DAILY_S / DAY_S:.0f} days and {24 * PER_HOUR} changes; this log "
                f"has {length / DAY_S:.1f} days and {counted:,}"
            )
        return None
    exposure = _exposure(length, offset_s)
    hours = ((at + offset_s) // 3600 % 24).astype(int)
    counts = np.bincount(hours, minlength=24)
    expected = counts.sum() * exposure / exposure.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    chance = float(stats.chi2.sf(statistic, 23))
    tests.append(Goodness("arrivals: hours of the day alike", "chi-square", statistic, chance, counted))
    if chance >= UNLIKELY:
        return None
    rates = counts / exposure
    fitted = float(np.sum(special.xlogy(counts, rates))) - float(counts.sum())
    parameters = []
    for hour in range(24):
        low, high = (
            float(special.gammaincinv(counts[hour] + extra, p)) / exposure[hour]
            if counts[hour] + extra
            else 0.0
            for extra, p in ((0, (1 - LEVEL) / 2), (1, (1 + LEVEL) / 2))
        )
        parameters.append(
            Parameter(f"daily.{hour:02d}h", float(rates[hour]), low, high, "1/s", int(counts[hour]))
        )

    def scaled(times: Floats) -> Floats:
        """Expected changes up to each time."""
        grid = np.arange(0.0, length + 1800, 3600.0)
        edges = np.unique(np.concatenate(([0.0, length], grid - offset_s % 3600)))
        edges = edges[(edges >= 0) & (edges <= length)]
        middles = (edges[1:] + edges[:-1]) / 2
        passed = np.cumsum(np.diff(edges) * rates[((middles + offset_s) // 3600 % 24).astype(int)])
        return np.interp(times, edges, np.concatenate(([0.0], passed)))

    block = {"daily": [rate_text(float(rate)) if rate > 0 else "0/s" for rate in rates]}
    return block, parameters, -2 * fitted + 24 * math.log(counted), scaled


# --------------------------------------------------------------------------- bursts


def _log_likelihood(gaps: Floats, theta: Any, silent: bool) -> float:
    """Of the gaps of an MMPP with two states, in the state that events find; a tree of 2×2 products.

    ``theta``: logarithms of the rate while on, of the rates of leaving on and off, and (unless ``silent`` while
    off) the log-odds of the rate while off to that while on.
    """
    on, leave_on, leave_off = np.exp(np.clip(theta[:3], -60, 60))
    off = 0.0 if silent else on * special.expit(theta[3])
    # exp((Q - Λ) t) of a 2×2 matrix by its two eigenvalues
    a, d = -(on + leave_on), -(off + leave_off)
    half = (a + d) / 2
    root = math.sqrt(((a - d) / 2) ** 2 + leave_on * leave_off)
    fast, slow = np.exp((half - root) * gaps), np.exp((half + root) * gaps)
    even, odd = (slow + fast) / 2, (slow - fast) / (2 * root)
    m = np.empty((len(gaps), 2, 2))
    m[:, 0, 0] = (even + odd * (a - half)) * on
    m[:, 0, 1] = odd * leave_on * off
    m[:, 1, 0] = odd * leave_off * on
    m[:, 1, 1] = (even + odd * (d - half)) * off
    total = 0.0
    while len(m) > 1:
        last = m[-1:] if len(m) % 2 else m[:0]
        m = np.concatenate((m[0 : len(m) - 1 : 2] @ m[1::2], last))
        size = m.max(axis=(1, 2))
        if not (size > 0).all() or not np.isfinite(size).all():
            return -math.inf
        total += float(np.log(size).sum())
        m /= size[:, None, None]
    first = np.array([leave_off * on, leave_on * off])  # what state an event finds in the long run
    value = float((first / first.sum() @ m[0]).sum())
    return total + math.log(value) if value > 0 else -math.inf


def _burst_starts(at: Floats) -> list[list[float]]:
    """First guesses: windows with more events than the mean are on, at several lengths of window."""
    length = float(at[-1] - at[0])
    mean_gap = length / (len(at) - 1)
    found = []
    for gaps in (5, 30, 200):
        bins = int(length / (gaps * mean_gap))
        if bins < 8:
            continue
        counts, _ = np.histogram(at - at[0], bins=bins)
        busy = counts > counts.mean()
        switches = max(int((np.diff(busy.astype(int)) != 0).sum()), 1)
        width = length / bins
        if not busy.any() or busy.all():
            continue
        on, off = counts[busy].mean() / width, max(counts[~busy].mean() / width, 1e-3 / width)
        leave_on = switches / 2 / (busy.sum() * width)
        leave_off = switches / 2 / ((~busy).sum() * width)
        found.append(
            [math.log(on), math.log(leave_on), math.log(leave_off), float(special.logit(min(off / on, 0.9)))]
        )
    return found


def _bursts(at: Floats) -> tuple[dict[str, Any], list[Parameter], float] | None:
    """Rates and stays of on and off, and the criterion; None where none can be had."""
    at = at[: MOST_FITTED + 1]
    # ties would have no density under any process
    gaps = np.maximum(np.diff(at), 1e-9)
    starts = _burst_starts(at)
    best: tuple[float, Any, bool] | None = None
    for silent in (True, False):
        size = 3 if silent else 4

        def loss(theta: Any, silent: bool = silent) -> float:
            value = _log_likelihood(gaps, theta, silent)
            return -value if math.isfinite(value) else 1e300

        ranked = sorted((loss(start[:size]), start[:size]) for start in starts)[:2]
        for _, start in ranked:
            found = optimize.minimize(
                loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-5, "maxfev": 1500}
            )
            criterion = 2 * float(found.fun) + size * math.log(len(gaps))
            if math.isfinite(criterion) and (best is None or criterion < best[0]):
                best = (criterion, found.x, silent)
    if best is None:
        return None
    criterion, theta, silent = best
    spreads = spreads_of(lambda moved: -_log_likelihood(gaps, moved, silent), list(theta))
    values = []
    names = [("bursts.on", "1/s", 1), ("bursts.on_for", "s", -1), ("bursts.off_for", "s", -1)]
    for (name, unit, sign), value, spread in zip(names, theta[:3], spreads[:3], strict=True):
        ends = sorted(math.exp(sign * (value + side * NORMAL * min(spread, 50.0))) for side in (-1, 1))
        values.append(Parameter(name, math.exp(sign * value), ends[0], ends[1], unit, len(gaps)))
    block: dict[str, Any] = {"on": rate_text(values[0].value)}
    if not silent:
        off = values[0].value * float(special.expit(theta[3]))
        ends = [
            values[0].value * float(special.expit(theta[3] + side * NORMAL * min(spreads[3], 50.0)))
            for side in (-1, 1)
        ]
        values.append(Parameter("bursts.off", off, ends[0], ends[1], "1/s", len(gaps)))
        block["off"] = rate_text(off)
    block["on_for"] = {"exponential": {"mean": duration(values[1].value)}}
    block["off_for"] = {"exponential": {"mean": duration(values[2].value)}}
    return {"bursts": block}, values, criterion


# --------------------------------------------------------------------------- keys


def fit_keys(counts: Any) -> tuple[dict[str, Any], list[Parameter], tuple[str, ...]]:
    """Number of keys and Zipf exponent, of the events that each key seen had.

    The exponent is that of maximum likelihood with keys ranked by their counts, freed from the error of that
    ranking: it is the one whose own worlds, ranked the same way, give the estimate found (indirect inference:
    Gouriéroux, Monfort and Renault, Journal of Applied Econometrics 8 (1993), S85-S118). The number of keys is
    the one that lets as many be seen as were.
    """
    counts = np.sort(np.asarray(counts)[np.asarray(counts) > 0])[::-1].astype(float)
    total, seen = float(counts.sum()), len(counts)
    if seen == 1:
        return {"count": 1}, [Parameter("keys.count", 1.0, 1.0, 1.0, "", int(total))], ()
    if total < PER_KEY * seen:
        told = (
            f"keys: {total:,.0f} events of {seen:,} keys are too few for a Zipf exponent ({PER_KEY} for each key are "
            "needed), and keys that had none are not counted"
        )
        return (
            {"count": seen},
            [Parameter("keys.count", float(seen), float(seen), math.inf, "", int(total))],
            (told,),
        )
    count = seen
    for _ in range(3):
        exponent = _exponent(counts, count)[0]
        before, count = count, _key_count(seen, total, exponent, 0.0)
        if count == before:
            break
    exponent, least, most = _exponent(counts, count, ends=True)
    low, high = (_key_count(seen, total, exponent, side) for side in (-NORMAL, NORMAL))
    parameters = [
        Parameter("keys.count", float(count), float(max(low, seen)), float(high), "", int(total)),
        Parameter("keys.zipf", exponent, least, most, "", int(total)),
    ]
    block: dict[str, Any] = {"count": count}
    if least > 0:
        block["zipf"] = digits(exponent, 4)
    warnings: tuple[str, ...] = ()
    if count > 1.05 * seen:
        warnings = (
            f"keys: {seen:,} were seen and some {count:,} are there, if the rare ones follow the same law",
        )
    return block, parameters, warnings


def _shares(count: int, exponent: float) -> Floats:
    weights = np.arange(1, count + 1, dtype=float) ** -exponent
    return np.asarray(weights / weights.sum())


def _key_count(seen: int, total: float, exponent: float, side: float) -> int:
    """The number of keys of which ``seen`` are expected to have an event, ``side`` deviations aside."""

    def expected(count: float) -> float:
        unseen = np.exp(-total * _shares(int(count), exponent))
        return int(count) - float(unseen.sum()) - side * math.sqrt(float((unseen * (1 - unseen)).sum()))

    if expected(seen) >= seen - 0.5:
        return seen
    low, high = seen, 2 * seen
    while expected(high) < seen and high < 100 * seen:
        low, high = high, 2 * high
    while high - low > max(1, seen // 2000):
        middle = (low + high) // 2
        low, high = (middle, high) if expected(middle) < seen - 0.5 else (low, middle)
    return high


def _exponent(counts: Floats, count: int, ends: bool = False) -> tuple[float, float, float]:
    """The exponent and (if asked for) the ends of its interval, given the number of keys."""
    logs = np.log(np.arange(1, count + 1))
    grid = np.linspace(0.0, 6.0, 601)
    means = np.array([float(_shares(count, s) @ logs) for s in grid])

    def ranked(column: Floats) -> Floats:
        """Maximum likelihood of counts in falling order, a world a row: the exponent of their mean log rank."""
        mean = column @ logs[: column.shape[-1]] / column.sum(axis=-1)
        return np.asarray(np.interp(-mean, -means, grid))

    found = float(ranked(counts[None, :])[0])
    total = float(counts.sum())
    if count > MOST_KEYS:
        shares = _shares(count, found)
        spread = 1 / math.sqrt(total * float(shares @ logs**2 - (shares @ logs) ** 2))
        return found, max(found - NORMAL * spread, 0.0), found + NORMAL * spread
    rows = int(np.clip(100_000 / count, 40, WORLDS))
    luck = uniforms(f"keys {count}", rows * count).reshape(rows, count)

    def worlds(exponent: float) -> Floats:
        return ranked(-np.sort(-_poisson(luck, total * _shares(count, exponent)), axis=1))

    def inverse(target: float) -> float:
        """The exponent whose worlds, ranked, give this estimate on average."""
        low, high = 0.0, min(max(target, 0.0) + 0.5, 6.0)
        if float(worlds(low).mean()) >= target:
            return low
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (middle, high) if float(worlds(middle).mean()) < target else (low, middle)
        return (low + high) / 2

    exponent = inverse(found)
    if not ends:
        return exponent, math.nan, math.nan
    spread = NORMAL * float(worlds(exponent).std(ddof=1))
    return exponent, inverse(found - spread), inverse(found + spread)


def _poisson(luck: Floats, means: Floats) -> Floats:
    """Poisson counts of uniform numbers; exact for small means, else by the Cornish-Fisher expansion."""
    deviate = special.ndtri(luck)
    made = np.floor(means + np.sqrt(means) * deviate + (deviate**2 - 1) / 6 + 0.5)
    small = means < 15
    if small.any():
        exact = np.zeros((len(luck), int(small.sum())))
        for count in range(60):
            above = luck[:, small] > special.pdtr(count, means[small])
            if not above.any():
                break
            exact += above
        made[:, small] = exact
    return np.asarray(np.maximum(made, 0.0))
