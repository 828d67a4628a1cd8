"""What a setting costs, from prices that the user gives: workers, bytes sent, and room for the backlog.

The cost is that of a million deliveries, for the rates and the backlog of the interval that figures are taken over:

- ``worker_hour``: an hour of one worker, busy or not; workers that change over time count as their average;
- ``gb_egress``: 10⁹ bytes sent, by the figure ``egress_bytes_per_s``;
- ``gb_stored``: 10⁹ bytes kept for a month of 30 days. Paid is room for the highest backlog, ``backlog_bytes_max``,
  all the time: storage that must not overflow cannot be sized by an average.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from sim.blocks_policy import schedule_runs
from sim.errors import Problem, ScenarioError, nearest
from sim.experiment_session import Variant
from sim.metrics import capacity
from sim.policy import FOREVER
from sim.scenario import Scenario

WORKER_HOUR, GB_EGRESS, GB_STORED = PRICED = ("worker_hour", "gb_egress", "gb_stored")
"""What may have a price."""
FIGURES = ("deliveries", "egress_bytes_per_s", "backlog_bytes_max")
"""Figures that a cost is made of."""
MONTH_S = 30 * 86_400.0
GB = 1e9


def read(costs: Mapping[str, float] | str | Iterable[str]) -> dict[str, float]:
    """Read prices, each ``name=price``, or a mapping.

    Raises:
        ScenarioError: a name is none that has a price, stands twice, or a price is no number of at least 0.
    """
    if isinstance(costs, str):
        costs = [costs]
    pairs = list(costs.items()) if isinstance(costs, Mapping) else [_pair(text) for text in costs]
    prices: dict[str, float] = {}
    for name, price in pairs:
        if name not in PRICED:
            rule = f"has no price here{nearest(name, PRICED)} (priced are {', '.join(PRICED)})"
            raise ScenarioError([Problem("cost", name, rule)])
        if name in prices:
            raise ScenarioError([Problem("cost", name, "stands twice; give one price")])
        try:
            prices[name] = float(price)
        except (TypeError, ValueError):
            prices[name] = math.nan
        if not 0 <= prices[name] < math.inf:
            raise ScenarioError(
                [Problem(f"cost {name}", price, "must be a price of at least 0, such as 0.05")]
            )
    return prices


def _pair(text: str) -> tuple[str, str]:
    name, equals, price = text.partition("=")
    if not equals:
        raise ScenarioError([Problem("cost", text, "must be NAME=PRICE, such as worker_hour=0.05")])
    return name.strip(), price.strip()


def require_countable(prices: Mapping[str, float], points: Iterable[Variant]) -> None:
    """Refuse a price of workers where their number has no bound.

    Raises:
        ScenarioError: it has none; names the setting.
    """
    if WORKER_HOUR not in prices:
        return
    for point in points:
        if not math.isfinite(workers_mean(point.scenario)):
            rule = "needs a number of workers, and they are unlimited; set dispatcher.workers"
            raise ScenarioError([Problem(f"cost worker_hour, {point.name or 'scenario'}:", None, rule)])


def workers_mean(scenario: Scenario) -> float:
    """Workers on average over the horizon after the warm-up; infinite where they are unlimited.

    Under ``per_tier`` each tier has its own, whether or not an attempt gets so far.
    """
    dispatcher = scenario.dispatcher
    if dispatcher.lanes is not None:
        return float(dispatcher.lanes.first + dispatcher.lanes.retries)
    workers = dispatcher.workers
    if workers == "unlimited":
        return math.inf
    if dispatcher.discipline == "per_tier":
        return sum(_of_tiers(workers, count) for count in _attempts(scenario))
    if isinstance(workers, int):
        return float(workers)
    start, end = scenario.warmup / 1e9, scenario.horizon / 1e9
    steps = [[float(at) / 1e9, float(count)] for at, count in workers]  # type: ignore[misc]
    return capacity(steps, start, end) / (end - start)


def _attempts(scenario: Scenario) -> list[int]:
    """The most attempts of each policy in use: its tiers."""
    used = [e.policy for e in scenario.endpoints.values() if e.policy is not None and e.mode is None]
    return [sum(times for _, times in schedule_runs(scenario.policies[name])) for name in dict.fromkeys(used)]


def _of_tiers(workers: object, tiers: int) -> float:
    """The workers of all tiers of a policy; the last number given serves the tiers after it."""
    if tiers >= FOREVER:
        return math.inf
    if isinstance(workers, tuple):
        listed = workers[:tiers]
        return float(sum(listed) + workers[-1] * (tiers - len(listed)))
    assert isinstance(workers, int)
    return float(workers * tiers)


def per_million(prices: Mapping[str, float], scenario: Scenario, means: Mapping[str, float]) -> float:
    """The cost of a million deliveries of a setting; NaN where there are none.

    ``means``: the means over replications of ``FIGURES``.
    """
    per_s = 0.0
    if WORKER_HOUR in prices:
        per_s += prices[WORKER_HOUR] * workers_mean(scenario) / 3600
    per_s += prices.get(GB_EGRESS, 0.0) * means["egress_bytes_per_s"] / GB
    per_s += prices.get(GB_STORED, 0.0) * means["backlog_bytes_max"] / GB / MONTH_S
    window_s = (scenario.horizon - scenario.warmup) / 1e9
    return per_s * window_s / means["deliveries"] * 1e6 if means["deliveries"] else math.nan
