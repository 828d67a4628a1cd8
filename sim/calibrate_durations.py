"""Fitting a random duration of the scenario format to measured ones, some of which were cut off.

Maximum likelihood for every family that the format offers; the Bayesian information criterion (Schwarz, Annals of
Statistics 6 (1978), 461-464) chooses one. The choice must then pass a Kolmogorov-Smirnov test against the
Kaplan-Meier estimate (Journal of the American Statistical Association 53 (1958), 457-481) whose distribution,
parameters being estimated, comes from a parametric bootstrap (Stute, González Manteiga and Presedo Quindimil,
Metrika 40 (1993), 243-256), stopped early where much speaks for the family (Besag and Clifford, Biometrika 78
(1991), 301-304). Where it does not pass, the measured quantiles stand in its place. Times are s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special, stats

from sim.calibrate_families import (
    EXPONENTIAL,
    FAMILIES,
    UNANSWERED,
    Family,
    Floats,
    Sample,
    Theta,
    log_of,
    sample,
    uniforms,
    with_unanswered,
)
from sim.intervals import proportion_interval
from sim.shown import shown_duration

LEVEL = 0.95
"""Of all intervals."""
NORMAL = float(stats.norm.ppf((1 + LEVEL) / 2))
GUARD = 0.01
"""A family whose test gives less is refused: so is the true one, once in a hundred."""
REPLICATES = 299
"""Bootstrap samples of a test at most; it ends sooner when ``ENOUGH`` of them fit worse than the data."""
ENOUGH = 10
HOPELESS = 120
"""Bootstrap samples after which a test ends if none of them fits worse than the data."""
TESTED = 2_000
"""Values that a test looks at, evenly out of all: more would refuse any family for what no plan depends on."""
FITTED = 200_000
"""Values that a fit looks at, evenly out of all."""
FOR_A_FAMILY = 50
"""Complete durations from which a family is chosen by criterion and tested; with fewer it is exponential."""
SHARES = tuple(i / 20 for i in range(1, 20))
"""Of the quantiles that stand in for a family; beyond, where they are steep, more are taken, see ``_chosen``."""
TOLD = (0.1, 0.5, 0.9, 0.99, 0.999)
"""Of those that the table shows."""
NEEDED = float(stats.chi2.ppf(0.90, 1))
"""Twice the logarithm of the likelihood ratio from which some requests are never answered: 5 %, on one side."""
GAPS = 10
"""Gaps between measured values on both sides of which a quantile stands: lines must not run across them."""
FEW_LEFT = 5
"""Durations still going on below which an estimate of the tail is luck."""
STEEP = 1.3
"""By how much the number of values beyond falls from one quantile to the next in the tails."""


# --------------------------------------------------------------------------- maximum likelihood


def log_likelihood(family: Family, taken: Sample, theta: Theta) -> float:
    """Of complete, cut-off and residual durations; the latter have the density survival / mean (Cox, 1962)."""
    values, ended, residual = taken.values, taken.ended, taken.residual
    total = float(family.log_density(values[ended & ~residual], theta).sum())
    if not ended.all():
        total += float(family.log_survival(values[~ended & ~residual], theta).sum())
    if residual.any():
        mean = family.mean(theta)
        if not 0 < mean < 1e300:
            return -math.inf
        total += float(family.log_survival(values[ended & residual], theta).sum())
        total += float(log_of(family.excess(values[~ended & residual], theta)).sum())
        total -= int(residual.sum()) * math.log(mean)
    return total if math.isfinite(total) else -math.inf


def maximize(family: Family, taken: Sample) -> list[float]:
    """Theta of the greatest likelihood."""
    start = family.start(taken)
    mixed = family.parameters[-1][0] == UNANSWERED
    closed = family.name in ("exponential", "pareto") or (
        taken.ended.all() and family.name != "hyperexponential"
    )
    if closed and not mixed and not taken.residual.any():
        return start

    def loss(theta: Any) -> float:
        return -log_likelihood(family, taken, theta)

    if family.name == "pareto" and mixed:  # the minimum is the least value, whatever the rest
        found = optimize.minimize(lambda rest: loss([start[0], *rest]), start[1:], method="Nelder-Mead")
        return [start[0], *(float(value) for value in found.x)]
    if family.name == "pareto":
        found = optimize.minimize_scalar(lambda s: loss([start[0], s]), bounds=(1e-3, 8.0), method="bounded")
        return [start[0], float(found.x)]
    found = optimize.minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6, "maxfev": 1000}
    )
    return [float(value) for value in found.x]


def spreads_of(loss: Callable[[Any], float], theta: Sequence[float]) -> list[float]:
    """Standard errors from the observed information, the curvature of the likelihood at its top."""
    size = len(theta)
    step = 1e-3
    information = np.empty((size, size))
    for i in range(size):
        for j in range(i, size):
            total = 0.0
            for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                moved = list(theta)
                moved[i] += signs[0] * step
                moved[j] += signs[1] * step
                total += signs[0] * signs[1] * loss(moved)
            information[i, j] = information[j, i] = total / (4 * step * step)
    try:
        variances = np.diag(np.linalg.inv(information))
    except np.linalg.LinAlgError:
        return [math.inf] * size
    return [math.sqrt(value) if value > 0 else math.inf for value in variances]


class Parameter(NamedTuple):
    """A fitted number and its 95 % interval; the interval is missing (NaN) where the data give none."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    observations: int
    """Durations, attempts or events that it rests on."""


def intervals(family: Family, taken: Sample, theta: Sequence[float]) -> list[Parameter]:
    """The parameters of a fit with intervals: exact for a Pareto, else normal where theta lives."""
    count = int(taken.ended.sum())
    if family.name == "pareto" and len(theta) == 2:
        return _pareto_intervals(theta, count)
    if family.name == "pareto":
        spreads = [
            0.0,
            *spreads_of(lambda rest: -log_likelihood(family, taken, [theta[0], *rest]), theta[1:]),
        ]
        return [_pareto_intervals(theta, count)[0], *_normal(family, theta, spreads, count)[1:]]
    spreads = spreads_of(lambda moved: -log_likelihood(family, taken, moved), theta)
    return _normal(family, theta, spreads, count)


def _normal(family: Family, theta: Sequence[float], spreads: Sequence[float], count: int) -> list[Parameter]:
    """The parameters of theta, with intervals that are normal there."""
    made = []
    for (name, unit, meaning), value, spread in zip(family.parameters, theta, spreads, strict=True):
        low, high = (meaning(value + side * NORMAL * min(spread, 100.0)) for side in (-1, 1))
        made.append(Parameter(name, meaning(value), low, high, unit, count))
    return made


def _pareto_intervals(theta: Sequence[float], count: int) -> list[Parameter]:
    """The least of n values lies above the minimum by a Pareto of shape n·shape; logarithms add up to a gamma."""
    least, shape = math.exp(theta[0]), math.exp(theta[1])
    total = (count - 1) / shape
    low, high = (float(stats.gamma.ppf(p, count - 1)) / total for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    bottom = least * math.exp(math.log(1 - LEVEL) / (count * shape))
    return [
        Parameter("minimum", least, bottom, least, "s", count),
        Parameter("shape", shape, low, high, "", count),
    ]


# --------------------------------------------------------------------------- goodness of fit


def kaplan_meier(taken: Sample) -> tuple[Floats, Floats]:
    """Distinct times at which durations ended, and the share that lasts longer than each."""
    values, ended = taken.values, taken.ended
    times = np.unique(values[ended])
    ordered = np.sort(values)
    at_risk = len(values) - np.searchsorted(ordered, times, side="left")
    deaths = np.bincount(np.searchsorted(times, values[ended]), minlength=len(times))
    return times, np.asarray(np.cumprod(1 - deaths / at_risk), dtype=float)


def distance(family: Family, theta: Theta, taken: Sample, grid: float) -> float:
    """Largest difference between a fit and the Kaplan-Meier estimate; values are rounded to ``grid``."""
    times, after = kaplan_meier(taken)
    if not len(times):
        return 0.0
    before = np.concatenate(([1.0], after[:-1]))
    below = np.exp(family.log_survival(np.maximum(times - grid / 2, 1e-300), theta))
    above = np.exp(family.log_survival(times + grid / 2, theta))
    return float(max(np.abs(before - below).max(), np.abs(after - above).max()))


class Goodness(NamedTuple):
    """How well something fits: a distance, and how often one that large comes about if the fit is true."""

    what: str
    test: str
    statistic: float
    p_value: float
    observations: int


def goodness(family: Family, whole: Sample, grid: float, label: str) -> Goodness:
    """Test a family on some of the values: see the head of this module."""
    taken = whole.where(~whole.residual).taken(TESTED)
    count = len(taken.values)
    theta = maximize(family, taken)
    found = distance(family, theta, taken, grid)
    luck = uniforms(f"{label} {family.name}", 2 * count * REPLICATES).reshape(REPLICATES, 2, count)
    worse = done = 0
    while done < REPLICATES and worse < ENOUGH and (worse or done < HOPELESS):
        drawn = family.draw(luck[done][0], luck[done][1], theta)
        ended = drawn <= taken.limits
        values = _on_grid(np.minimum(drawn, taken.limits), grid)
        other = sample(values, ended, taken.limits)
        done += 1
        if other.ended.sum() >= 3 and np.ptp(values[ended]) > 0:
            worse += distance(family, maximize(family, other), other, grid) >= found
    p_value = worse / done if worse >= ENOUGH else (worse + 1) / (done + 1)
    return Goodness(label, "Kolmogorov-Smirnov, parametric bootstrap", found, p_value, count)


def resolution(values: Floats) -> float:
    """The coarsest of 1 min, 1 s, …, 1 μs of which all values are multiples, in s; 0: none."""
    for grid in (60.0, 1.0, 0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6):
        steps = values / grid
        if len(values) and np.all(np.abs(steps - np.round(steps)) < 1e-4 + 1e-8 / grid):
            return grid
    return 0.0


def _on_grid(values: Floats, grid: float) -> Floats:
    """Values rounded to the grid; none of them 0, which has no logarithm: those are a quarter of a step."""
    return np.maximum(np.round(values / grid) * grid, grid / 4) if grid > 0 else np.maximum(values, 1e-12)


# --------------------------------------------------------------------------- choosing


@dataclass(frozen=True)
class Fit:
    """A duration of the scenario format fitted to a sample."""

    what: str
    family: str
    """A family of the format, constant, or quantiles."""
    theta: tuple[float, ...]
    block: Any
    """As a scenario file has it."""
    parameters: tuple[Parameter, ...]
    goodness: tuple[Goodness, ...]
    criteria: dict[str, float]
    """BIC of every family tried."""
    sample: Sample
    warnings: tuple[str, ...]
    points: tuple[tuple[float, float], ...] = ()
    """Of quantiles: share and value, s."""
    shape: Family | None = None
    """The family, with requests that are never answered if there are some."""

    @property
    def unanswered(self) -> Parameter | None:
        """The share of requests whose timeout the tail of the latency does not account for; None: not needed."""
        return next((p for p in self.parameters if p.name == UNANSWERED), None)

    @property
    def mean_s(self) -> float:
        """The mean of what was fitted, s."""
        from sim.blocks import Distribution
        from sim.model import mean_s

        if self.family == "constant":
            return self.parameters[0].value
        return mean_s(Distribution.model_validate(self.block))

    def survival(self, at: Floats) -> Floats | None:
        """Share that lasts longer than each of these; None for quantiles and constants."""
        return None if self.shape is None else np.exp(self.shape.log_survival(at, self.theta))


def fit_duration(
    whole: Sample,
    what: str,
    *,
    mean_s: float | None = None,
    form: str | None = None,
    unanswered: bool = False,
) -> Fit:
    """Choose and fit a distribution; there must be at least one complete duration.

    ``form`` is a family, or ``quantiles``, that has been chosen already: nothing is tested then. Where quantiles
    must stand in and the longest durations were cut off, ``mean_s`` is the mean to be kept: it sets an exponential
    tail beyond what was seen. ``unanswered`` says that some may never end, more than the tail of any family says.
    """
    complete = whole.ended & ~whole.residual
    grid = resolution(whole.values[complete])
    whole = Sample(_on_grid(whole.values, grid), whole.ended, whole.limits, whole.residual)
    values = whole.values[complete]
    if np.ptp(values) <= max(1e-9, 1e-9 * float(values.max())):
        return _constant(whole, what, grid)
    taken = whole.taken(FITTED)
    if form in FAMILIES:
        return _as_family(FAMILIES[form], taken, what, maximize(FAMILIES[form], taken))
    if form is not None:
        return _quantiles(whole, what, {}, (), "", mean_s)
    if whole.complete < FOR_A_FAMILY:
        told = (
            f"{what}: {whole.complete} complete durations are too few to choose a family ({FOR_A_FAMILY} are needed); "
            "an exponential one is given"
        )
        return _as_family(EXPONENTIAL, taken, what, maximize(EXPONENTIAL, taken), warnings=(told,))
    unanswered = unanswered and int((~taken.ended).sum()) >= FEW_LEFT
    tried = _tried(taken, unanswered)
    name = min(tried, key=lambda known: tried[known][2])
    family, theta, _ = tried[name]
    criteria = {known: criterion for known, (_, _, criterion) in tried.items()}
    test = goodness(family, whole, grid, what)
    if test.p_value < GUARD:
        told = (
            f"{what}: no family fits (the best, {name}, is off by {test.statistic:.1%}, p = {test.p_value:.2g}); "
            "measured quantiles are given"
        )
        return _quantiles(whole, what, criteria, (test,), told, mean_s)
    return _as_family(family, taken, what, theta, criteria, (test,))


def _tried(taken: Sample, unanswered: bool) -> dict[str, tuple[Family, list[float], float]]:
    """Every family that can be had, its theta and its BIC."""
    found = {}
    for name, family in FAMILIES.items():
        theta = maximize(family, taken)
        likelihood = log_likelihood(family, taken, theta)
        if unanswered:
            mixed = with_unanswered(family)
            other = maximize(mixed, taken)
            more = log_likelihood(mixed, taken, other)
            if 2 * (more - likelihood) > NEEDED:
                family, theta, likelihood = mixed, other, more
        beyond = name == "erlang" and round(math.exp(min(theta[1], 14.0))) not in range(2, 1001)
        flat = name == "hyperexponential" and theta[1] < -9
        endless = name == "pareto" and (math.exp(theta[1]) >= 1e6 or (taken.residual.any() and theta[1] <= 0))
        if math.isfinite(likelihood) and not (beyond or flat or endless):
            found[name] = (
                family,
                theta,
                -2 * likelihood + len(theta) * math.log(max(int(taken.ended.sum()), 2)),
            )
    return found


def _as_family(
    family: Family,
    taken: Sample,
    what: str,
    theta: list[float],
    criteria: dict[str, float] | None = None,
    tests: tuple[Goodness, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Fit:
    parameters = intervals(family, taken, theta)
    if family.name == "erlang":
        theta, parameters = _whole_stages(family, taken, theta, parameters)
    block = {
        p.name: duration(p.value)
        if p.unit == "s"
        else round(p.value)
        if p.name == "stages"
        else digits(p.value)
        for p in parameters
        if p.name != UNANSWERED
    }
    return Fit(
        what, family.name, tuple(theta), {family.name: block}, tuple(parameters), tests, criteria or {}, taken,
        warnings, shape=family,
    )  # fmt: skip


def _whole_stages(
    family: Family, taken: Sample, theta: list[float], parameters: list[Parameter]
) -> tuple[list[float], list[Parameter]]:
    """The better of the two whole numbers of stages around the best shape; the interval in whole numbers."""
    shape = math.exp(theta[1])
    options = [
        [theta[0], math.log(stages), *theta[2:]]
        for stages in sorted({max(math.floor(shape), 2), max(math.ceil(shape), 2)})
    ]
    best = max(options, key=lambda option: log_likelihood(family, taken, option))
    stages = round(math.exp(best[1]))
    old = parameters[1]
    low, high = min(math.ceil(old.low), stages), max(math.floor(old.high), stages)
    return best, [
        parameters[0],
        old._replace(value=float(stages), low=float(low), high=float(high)),
        *parameters[2:],
    ]


def _constant(whole: Sample, what: str, grid: float) -> Fit:
    value = float(whole.values[whole.ended & ~whole.residual][0])
    value = 0.0 if value <= max(grid / 4, 1e-9) else value
    # of durations of 0 nobody can tell in which steps they were measured
    half = grid / 2 if value > 0 else 0.0
    parameter = Parameter("constant", value, value - half, value + half, "s", whole.complete)
    return Fit(what, "constant", (), duration(value), (parameter,), (), {}, whole, ())


def _quantiles(
    whole: Sample, what: str, criteria: dict[str, float], tests: tuple[Goodness, ...], told: str, mean_s: float | None
) -> Fit:  # fmt: skip
    """Quantiles of the Kaplan-Meier estimate, close enough together to keep its mean.

    Each time stands in the middle of its step: joined by straight lines, all keep their weights.
    """
    taken = whole.where(~whole.residual)
    times, after = kaplan_meier(taken)
    warnings = [told] * bool(told)
    cut = taken.values[~taken.ended]
    if mean_s is not None and len(cut) and cut.max() >= times[-1] / 2:
        # where few are left to be seen, steps become a matter of luck
        at_risk = len(taken.values) - np.searchsorted(np.sort(taken.values), times)
        kept = max(int((at_risk >= FEW_LEFT).sum()), 1)
        times, after = times[:kept], after[:kept]
    before = np.concatenate(([1.0], after[:-1]))
    middles = 1 - (before + after) / 2
    points = {0.0: float(times[0])}
    points |= {
        digits(float(middles[i]), 8): float(times[i]) for i in _chosen(times, middles, len(taken.values))
    }
    last, left = float(times[-1]), float(after[-1])
    if left <= 0.5 / len(taken.values):
        points[1.0] = last
    elif mean_s is None:
        points[digits(1 - left, 8)] = last
        points[1.0] = 2 * max(float(cut.max()), last)
        warnings.append(
            f"{what}: {left:.2%} were cut off, the last at {shown_duration(float(cut.max()))}; quantiles spread them "
            "up to twice that"
        )
    else:
        excess = max((mean_s - float(((before - after) * times).sum())) / left - last, 1e-3 * last)
        points |= {digits(1 - left * (1 - share), 8): last + excess * at for share, at in _unit_tail()}
        warnings.append(
            f"{what}: the longest {left:.2%} were cut off; beyond {shown_duration(last)} the tail is exponential, "
            f"so that the mean is {shown_duration(mean_s)}, the time watched for each that ended"
        )
    parameters = tuple(
        _quantile(times, after, share, len(taken.values))
        for share in TOLD
        if share < 1 - left and (1 - share) * len(taken.values) >= FEW_LEFT
    )
    block = {share_text(share): duration(at) for share, at in sorted(points.items())}
    return Fit(
        what, "quantiles", (), {"empirical": {"quantiles": block}}, parameters, tests, criteria, whole, tuple(warnings),
        tuple(sorted(points.items())),
    )  # fmt: skip


def _unit_tail(cells: int = 20) -> list[tuple[float, float]]:
    """Points of an exponential quantile function of mean 1: cells of equal share by their means, and the end."""
    edges = np.linspace(0.0, 1.0, cells + 1)
    passed = special.xlogy(1 - edges, 1 - edges) + edges  # the integral of -log(1 - u)
    means = np.diff(passed) * cells
    shares = (edges[:-1] + edges[1:]) / 2
    return [*zip(shares.tolist(), means.tolist(), strict=True), (1.0, float(means[-1]))]


def _chosen(times: Floats, middles: Floats, count: int) -> list[int]:
    """Which steps of an estimate to keep: at ``SHARES``, ever closer in both tails, and beside the widest gaps."""
    shares = list(SHARES)
    beyond = 0.05 * count
    while beyond > 0.6:
        shares += [beyond / count, 1 - beyond / count]
        beyond /= STEEP
    shares += [1 - 1.5 / count, 1 - 0.5 / count]
    nearest = np.clip(np.searchsorted(middles, sorted(shares)), 0, len(middles) - 1)
    wide = np.argsort(np.diff(times), kind="stable")[-GAPS:]
    return sorted({*nearest.tolist(), *wide.tolist(), *(wide + 1).tolist()})


def _quantile(times: Floats, after: Floats, share: float, count: int) -> Parameter:
    """A quantile with the interval of its order statistics: binomial, as if nothing had been cut off."""
    ranks = stats.binom.ppf(((1 - LEVEL) / 2, (1 + LEVEL) / 2), count, share) / count
    low, value, high = (
        float(times[min(np.searchsorted(-after, -(1 - rank), side="left"), len(times) - 1)])
        for rank in (ranks[0], share, ranks[1])
    )
    return Parameter(f"p{share * 100:.10g}", value, low, high, "s", count)


# --------------------------------------------------------------------------- numbers as a file has them


def duration(seconds: float) -> str:
    """A duration in five digits, in the unit that suits it."""
    if seconds < 5e-10:
        return "0s"
    unit, size = next(
        (u, s) for u, s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
        if seconds >= s * (2 if s > 1 else 0.99999) or s == 1e-9
    )  # fmt: skip
    return f"{plain(seconds / size)}{unit}"


def digits(value: float, count: int = 5) -> float:
    """The number in so many digits."""
    return float(f"{value:.{count}g}")


def plain(value: float, count: int = 5) -> str:
    """The number in so many digits, without an exponent."""
    places = max(count - 1 - math.floor(math.log10(value)), 0) if value > 0 else 0
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def share_text(share: float) -> str:
    """A share in per cent, in five digits, counted from the nearer end."""
    if share <= 0.5:
        return f"{plain(share * 100)}%"
    missing = float(plain((1 - share) * 100)) if share < 1 else 0.0
    return f"{100 - missing:.10f}".rstrip("0").rstrip(".") + "%"


def proportion(name: str, hits: int, count: int) -> Parameter:
    """A share with its exact binomial interval: the attempts of a log are taken for independent."""
    found = proportion_interval(hits, count, LEVEL)
    return Parameter(name, found.mean, found.low, found.high, "share", count)
