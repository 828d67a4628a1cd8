"""A bound on what a schedule can do about outages: the longest of them. Import it from ``sim.theory``."""

import math

from sim.theory_schedule import require_not_negative, require_positive


def _below(x: float) -> float:
    """The standard normal distribution function."""
    return math.erfc(-x / math.sqrt(2)) / 2


def outlasting_share(mean_up_s: float, median_down_s: float, down_sigma: float, reach_s: float) -> float:
    """Share of events that meet an outage which lasts longer than the schedule reaches: no schedule loses less.

    E(D−r)⁺/(E[U]+E[D]) with r the time from the event to the last attempt, U and D up and down times, D lognormal with
    the sd σ of its logarithm: E(D−r)⁺ = m·e^{σ²/2}·Φ((ln(m/r)+σ²)/σ) − r·Φ(ln(m/r)/σ). At r = 0 it is the share of
    time away. Assumes that events come at any time alike; a schedule with gaps loses more, by outages that begin
    between attempts. Raises ``ValueError`` for times or a sigma not above 0 and a negative reach. Source: the residual
    life of a renewal process (Cox 1962).
    """
    require_positive(mean_up_s=mean_up_s, median_down_s=median_down_s, down_sigma=down_sigma)
    require_not_negative(reach_s=reach_s)
    mean_down = median_down_s * math.exp(down_sigma**2 / 2)
    if reach_s == 0:
        return mean_down / (mean_up_s + mean_down)
    at = math.log(median_down_s / reach_s)
    excess = mean_down * _below((at + down_sigma**2) / down_sigma) - reach_s * _below(at / down_sigma)
    return max(excess, 0.0) / (mean_up_s + mean_down)
