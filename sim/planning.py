"""Capacity planning: the smallest, or the cheapest, setting that meets all service level objectives.

With one varied leaf and no prices the smallest is looked for, taking it that a setting after one that meets the
objectives meets them as well: a look at a few settings, halving between the last that does not and the first that
does, then a look at the neighbours, since simulation is random (``smallest``). With prices every setting is run, and
the cheapest taken. What it means to meet an objective stands in ``sim.planning_slo``.

Every setting meets the same luck. Who chooses the best of many by their luck chooses the lucky: so the setting found
is run again with replications that the search has not seen, and is the answer only if it meets the objectives in these
alone. If not, the search goes on to the next. The confidence of an answer is that of this last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sim import beside, experiment_results, intervals, planning_cost, planning_slo, variation
from sim.errors import Problem, ScenarioError
from sim.execution import Progress
from sim.experiment import Source, how_many, override_texts, point, require_different, seeded
from sim.experiment_session import Session, Variant, session
from sim.fields import parse_share
from sim.planning_results import Plan, Setting, figure_of
from sim.planning_slo import Slo
from sim.scenario import load
from sim.shown import shown, shown_share, unit

KIND = "plan"
"""Of its folder."""
REPLICATIONS = 20
FIRST_LOOK = 9
"""Settings of one leaf that are tried before the search halves: they are the curve, and show one that is not even."""


def plan(
    scenario: Source,
    *,
    slo: str | Iterable[str],
    vary: str | Iterable[str],
    cost: Mapping[str, float] | str | Iterable[str] = (),
    confidence: float | str = intervals.CONFIDENCE,
    replications: int | None = None,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> Plan:
    """Find the smallest or cheapest setting that meets all objectives with a confidence.

    ``slo``: texts such as ``delivery_latency_s_p99<=30s`` or ``within_share{1m}>=99%``, see ``sim.planning_slo``.
    ``vary``: the settings, as a sweep takes them; of one leaf the values in the order from small to large.
    ``cost``: prices such as ``worker_hour=0.05``, see ``sim.planning_cost``; needed where several leaves vary.
    ``replications`` of each setting (default 20), and as many more of the one that is found. The rest as in
    ``experiment.replicate``.

    Raises:
        ScenarioError: anything wrong with the scenario, a setting or an argument; then nothing has been run. Or a run
            that could not be finished.
    """
    slos = planning_slo.read(slo)
    prices = planning_cost.read(cost)
    share, overrides = _confidence(confidence), override_texts(overrides)
    base = seeded(load(scenario, overrides), seed)
    count, _ = how_many(replications, None, REPLICATIONS)
    if count < 2:
        raise ScenarioError([Problem("replications", count, "must be at least 2: one run has no interval")])
    grid = variation.axes(vary)
    variation.require_unset(grid, overrides)
    if len(grid) > 1 and not prices:
        rule = f"which of several leaves is to be small? Give prices, such as --cost {planning_cost.WORKER_HOUR}=0.05"
        raise ScenarioError(rule)
    points = [point(base, texts, values) for texts, values in variation.points(grid)]
    require_different(points)
    planning_cost.require_countable(prices, points)
    expected = [points[at] for at in spread(len(points), len(points) if prices else FIRST_LOOK)]
    with session(
        KIND,
        base,
        expected,
        count,
        figures=tuple(slo.metric for slo in slos),
        jobs=jobs,
        dask=dask,
        out=out,
        table_format=table_format,
        progress=progress,
    ) as under_way:
        texts = [_by_leaf(grid, given) for given, _ in variation.points(grid)]
        search = _Search(under_way, points, texts, slos, prices, share, count)
        answer = _answer(len(points), search, cheapest=bool(prices))
        tried = search.tried()
        told = tried if answer is None else [answer]
        runs = under_way.runs(points)
        leaves = [axis.path for axis in grid]
        judged = runs[runs["replication"] <= count]
        found = Plan(
            scenario=base.name,
            seed=base.seed,
            replications=count,
            confidence=share,
            warnings=(*under_way.warnings(points, told), *_warnings(search, answer, tried)),
            runs=runs,
            table=experiment_results.table_of(judged, leaves, 2 * share - 1),
            slos=slos,
            prices=prices,
            size=len(points),
            tried=tuple(search.setting(at, fresh=at in search.refused) for at in tried),
            answer=None if answer is None else search.setting(answer, fresh=True),
            theory=() if answer is None else tuple(_theory(search, answer)),
        )
        pictures = {"curve": lambda: figure_of(found.plot())}
        under_way.finish({"runs": runs, "curve": found.curve}, found.to_json(), pictures)
        return found


def _by_leaf(grid: Sequence[variation.Axis], texts: Sequence[str]) -> dict[str, str]:
    """``path=value`` texts as a mapping."""
    return {axis.path: text.removeprefix(f"{axis.path}=") for axis, text in zip(grid, texts, strict=True)}


def _confidence(given: float | str) -> float:
    try:
        share = parse_share(given)
    except ValueError as error:
        raise ScenarioError([Problem("confidence", given, str(error))]) from None
    if not 0.5 < share < 1:
        raise ScenarioError([Problem("confidence", given, "must be above 50% and below 100%, such as 95%")])
    return share


# --------------------------------------------------------------------------- searching

Judge = Callable[[Collection[int]], Mapping[int, bool]]
"""Says of settings, by their positions, whether they meet."""


def smallest(size: int, judge: Judge) -> int | None:
    """The first of ``size`` settings that meets, taking it that all after it do; None if none looked at does.

    ``FIRST_LOOK`` settings spread over the range come first, then the middle between the first known to meet and the
    one known before it, and last the neighbours of the answer, two below it and one above: whichever of all these is
    the first to meet is the answer.
    """
    known = dict(judge(spread(size, FIRST_LOOK)))
    while True:
        answer = min((at for at, meets in known.items() if meets), default=None)
        if answer is None:
            return None
        below = max((at for at in known if at < answer), default=-1)
        if answer - below > 1:
            wanted = [(answer + below) // 2]
        else:
            wanted = [at for at in (answer - 2, answer + 1) if 0 <= at < size and at not in known]
        if not wanted:
            return answer
        known.update(judge(wanted))


def spread(size: int, count: int) -> list[int]:
    """So many positions of a range, spread evenly, both ends included; all if there are fewer."""
    if size <= count:
        return list(range(size))
    return [round(at * (size - 1) / (count - 1)) for at in range(count)]


@dataclass
class _Search:
    """The settings, what of them has been run, and who was refused by a second look."""

    session: Session
    points: Sequence[Variant]
    texts: Sequence[Mapping[str, str]]
    """Of each setting, the values by leaf as ``--set`` takes them."""
    slos: tuple[Slo, ...]
    prices: Mapping[str, float]
    confidence: float
    count: int
    refused: set[int] = field(default_factory=set)

    def judge(self, chosen: Collection[int]) -> dict[int, bool]:
        """Run the settings that have not been, and say which meet every objective."""
        self._run([at for at in chosen if not self.session.outcomes(at)], fresh=False)
        return {at: at not in self.refused and self.setting(at).met for at in chosen}

    def confirm(self, at: int) -> bool:
        """Whether a setting meets every objective in replications that the search has not seen."""
        self._run([at], fresh=True)
        if not self.setting(at, fresh=True).met:
            self.refused.add(at)
        return at not in self.refused

    def _run(self, chosen: Sequence[int], *, fresh: bool) -> None:
        begin = self.count if fresh else 0
        self.session.run(self.points, range(begin + 1, begin + self.count + 1), chosen)
        self.session.require_finished(self.points)

    def figures(self, at: int, metric: str, *, fresh: bool = False) -> intervals.Floats:
        """A figure in the replications of the search, or in the fresh ones."""
        return np.array(
            [
                outcome.figures[metric]
                for replication, outcome in self.session.outcomes(at)
                if (replication > self.count) == fresh
            ]
        )

    def setting(self, at: int, *, fresh: bool = False) -> Setting:
        """A setting that has been run, judged."""
        return Setting(
            texts=self.texts[at],
            values=self.points[at].labels,
            verdicts=tuple(
                planning_slo.judge(slo, self.figures(at, slo.metric, fresh=fresh), self.confidence)
                for slo in self.slos
            ),
            cost=self.cost(at),
        )

    def cost(self, at: int) -> float:
        """Of a million deliveries, by the means of the search; NaN without prices."""
        if not self.prices:
            return math.nan
        means = {name: float(self.figures(at, name).mean()) for name in planning_cost.FIGURES}
        return planning_cost.per_million(self.prices, self.points[at].scenario, means)

    def tried(self) -> list[int]:
        """The settings that have been run, in the order of the grid."""
        return [at for at in range(len(self.points)) if self.session.outcomes(at)]


def _answer(size: int, search: _Search, *, cheapest: bool) -> int | None:
    """The position of the setting to take; None if none that was tried meets every objective twice."""
    if cheapest:
        meets = search.judge(range(size))
        ranked = sorted((at for at in meets if meets[at]), key=search.cost)
        return next((at for at in ranked if search.confirm(at)), None)
    while (found := smallest(size, search.judge)) is not None:
        if search.confirm(found):
            return found
    return None


# --------------------------------------------------------------------------- what to tell


def _theory(search: _Search, answer: int) -> Iterator[beside.Beside]:
    """The closed forms of a setting that apply, beside the means of the search; not those of one group."""
    for form in beside.closed_forms(search.points[answer].scenario):
        if form.value is None or form.group is not None:
            continue
        first = search.session.outcomes(answer)[0][1].figures
        known = search.figures(answer, form.metric) if form.metric in first else np.array([])
        known = known[~np.isnan(known)]
        yield beside.Beside(form=form, simulated=float(known.mean()) if len(known) else None)


def _warnings(search: _Search, answer: int | None, tried: Sequence[int]) -> Iterator[str]:
    """What to know before believing the answer."""
    size = len(search.points)
    for at in sorted(search.refused):
        yield (
            f"{search.points[at].name} met every objective in the {search.count:,} runs of the search, and not in "
            f"{search.count:,} others: it lies too close to tell; more --replications tell more"
        )
    if answer is None:
        if len(tried) < size:
            yield (
                f"{len(tried):,} of {size:,} settings were tried, spread over the range: one in between can meet the "
                "objectives only if they do not get easier along it"
            )
        return
    yield from _without_spread(search, answer)
    if search.prices:
        return
    if answer == 0 and size > 1:
        yield f"{search.points[0].name} is the first of the range: a smaller setting may do as well"
    uneven = [at for at in tried if at > answer and not search.setting(at).met]
    if uneven:
        names = ", ".join(search.points[at].name for at in uneven)
        yield (
            f"the objectives do not get easier along the range: {names} miss{'es' if len(uneven) == 1 else ''} what "
            f"{search.points[answer].name} meets; look at the curve before taking it"
        )


def _without_spread(search: _Search, answer: int) -> Iterator[str]:
    """Shares that are the same in every run: Student's t has nothing to judge by, and rare losses look like none.

    Exact one-sided limit of the share of runs that are otherwise (Clopper and Pearson): 1 - (1 - confidence)^(1/n).
    """
    others = 1 - (1 - search.confidence) ** (1 / search.count)
    for slo in search.slos:
        figures = search.figures(answer, slo.metric, fresh=True)
        if unit(slo.metric) == "share" and figures.min() == figures.max():
            yield (
                f"{slo.metric} is {shown(slo.metric, float(figures[0]))} in all {search.count:,} runs: of all runs, up "
                f"to {shown_share(others)} may have another ({shown_share(search.confidence)} confidence)"
            )
