"""Breaking points: the longest outage, the highest surge or the largest share of errors that a system recovers from.

A run *recovers* if, after the episode and before the horizon, so while new events keep coming, what waits at the
sender and at receivers is back at its mean from before (``drain_s`` exists and ends in time). Whether it does hangs on
luck near the edge. So two edges are looked for, over replications with the same luck for every size: the largest size
up to which every run recovers, and the smallest from which none does. That n of n runs recover does not mean that all
do: the share that does is at least ``sure_share`` (Clopper and Pearson's exact one-sided limit).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sim import experiment_results, intervals, variation
from sim import planning_world as worlds
from sim.errors import Problem, ScenarioError, nearest
from sim.execution import Outcome, Progress
from sim.experiment import Source, how_many, require_different, seeded
from sim.experiment_results import Experiment
from sim.experiment_session import Session, Variant, session
from sim.fields import Nanoseconds, format_duration, parse_duration, parse_share
from sim.planning import FIRST_LOOK, smallest, spread
from sim.planning_results import figure_of
from sim.planning_world import ERRORS, KINDS, OUTAGE, RATE, Episode
from sim.scenario import Scenario, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "breaking point"
"""Of its folder."""
REPLICATIONS = 20
SIZES = 33
"""Sizes of an outage that are told apart, by equal factors, unless others are given."""
DEFAULT_RANGES = {RATE: "1..10.0/37", ERRORS: "5%..100%/20"}
MOST_TIMES = 1000.0
NAMES = {OUTAGE: "outage", RATE: "rate multiple", ERRORS: "error share"}


@dataclass(frozen=True, repr=False, kw_only=True)
class BreakingPoint(Experiment):
    """From what a system recovers."""

    what: str
    """``outage`` (its length), ``rate`` (times the usual) or ``errors`` (their share)."""
    start_s: float
    """When the episode begins."""
    horizon_s: float
    """By when a run has to be back."""
    during_s: float | None
    """How long it is; None where that is what is looked for."""
    recovers: str | None
    """The largest size up to which every run recovers; None: not even the smallest tried."""
    fails: str | None
    """The smallest size from which no run recovers; None: some recover from the largest tried."""
    tried: pd.DataFrame
    """One row per size: size (s, a multiple or a share), text, recovered, runs, share, low, high (exact interval of
    the share), drain_s (mean over the runs that recovered)."""

    @property
    def sure_share(self) -> float:
        """The share of runs that recovers at least, where all of these did, with the confidence."""
        return float((1 - self.confidence) ** (1 / self.replications))

    def plot(self, ax: Axes | None = None) -> Axes:
        """The share of runs that recover, by the size of the episode."""
        from sim.plots_plan import recovery_curve

        return recovery_curve(self, ax)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab plan --find --json`` prints; a number that does not exist is None."""
        return {
            **super().to_json(),
            "find": self.what,
            "start_s": self.start_s,
            "horizon_s": self.horizon_s,
            "during_s": self.during_s,
            "recovers": self.recovers,
            "fails": self.fails,
            "sure_share": self.sure_share,
            "tried": experiment_results.records(self.tried),
        }


CONTROL = "no episode"
"""What the scenario is called in which nothing happens, by which it is known whether the measure says anything."""


def breaking_point(
    scenario: Source,
    find: str,
    *,
    during: str | None = None,
    replications: int | None = None,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> BreakingPoint:
    """Find what size of an episode a scenario recovers from.

    ``find``: ``outage``, ``rate`` or ``errors``, alone or with the sizes to tell apart, as in ``outage=10s..2h/50log``,
    ``rate=1..4/13`` or ``errors=10%..90%/9``. ``during``: how long more arrives, or errors happen (default: a tenth of
    the time after the warm-up). The rest as in ``planning.plan``; see ``planning_world`` for what an episode is.

    Raises:
        ScenarioError: anything wrong with the scenario or an argument, or a run that could not be finished.
    """
    base = seeded(load(scenario, overrides), seed)
    count, _ = how_many(replications, None, REPLICATIONS)
    what, given = _what(find)
    if what == OUTAGE and during is not None:
        rule = "is for rate and errors; of an outage the length is looked for"
        raise ScenarioError([Problem("during", during, rule)])
    episode = worlds.episode_of(base, None if during is None else _length(during))
    sizes = _sizes(what, _default_range(what, base, episode) if given is None else given, base, episode)
    points = [
        Variant(f"{NAMES[what]} {text}", {what: size}, _with(what, base, episode, size))
        for text, size in sizes.items()
    ]
    require_different(points)
    control = Variant(CONTROL, {what: math.nan}, worlds.with_errors(base, episode, 0.0))
    expected = [control, *(points[at] for at in spread(len(points), FIRST_LOOK))]
    with session(
        KIND,
        base,
        expected,
        count,
        jobs=jobs,
        dask=dask,
        out=out,
        table_format=table_format,
        progress=progress,
    ) as under_way:
        counted = _Counted(under_way, [*points, control], count)
        smallest(len(points), counted.judge(lambda recovered: recovered < count))
        smallest(len(points), counted.judge(lambda recovered: recovered == 0))
        tried = counted.tried(sizes)
        recovers, fails = edges(tried)
        undisturbed = counted.recovered(len(points))
        runs = under_way.runs(points)
        found = BreakingPoint(
            scenario=base.name,
            seed=base.seed,
            replications=count,
            confidence=intervals.CONFIDENCE,
            warnings=(*under_way.warnings([*points, control], [len(points)]), *_unsteady(undisturbed, count)),
            runs=runs,
            table=experiment_results.table_of(runs, [what], intervals.CONFIDENCE),
            what=what,
            start_s=worlds.episode_end_s(points[0].scenario)
            - _lasts_s(what, episode, next(iter(sizes.values()))),
            horizon_s=base.horizon / 1e9,
            during_s=None if what == OUTAGE else episode.length / 1e9,
            recovers=recovers,
            fails=fails,
            tried=tried,
        )
        pictures = {"curve": lambda: figure_of(found.plot())}
        under_way.finish({"runs": runs, "tried": tried}, found.to_json(), pictures)
        return found


# --------------------------------------------------------------------------- arguments


def _what(find: str) -> tuple[str, str | None]:
    """What is looked for, and its sizes if they are given."""
    what, equals, given = find.partition("=")
    what = what.strip()
    if what not in KINDS:
        rule = f"must be {', '.join(KINDS[:-1])} or {KINDS[-1]}{nearest(what, KINDS)}"
        raise ScenarioError([Problem("find", what, rule)])
    return what, given if equals else None


def _length(during: str) -> int:
    try:
        return int(parse_duration(during))
    except ValueError as error:
        raise ScenarioError([Problem("during", during, str(error))]) from None


def _default_range(what: str, base: Scenario, episode: Episode) -> str:
    """Outages up to half of the time that is left, unless other sizes are asked for."""
    if what != OUTAGE:
        return DEFAULT_RANGES[what]
    longest = (base.horizon - episode.start) // 2
    first, last = (format_duration(Nanoseconds(_round(ns))) for ns in (longest // 500, longest))
    return f"{first}..{last}/{SIZES}log"


def _round(ns: int) -> int:
    """To two digits: nobody asks for an outage of 3,247 s."""
    step: int = 10 ** max(len(str(ns)) - 2, 0)
    return max(ns // step * step, 1)


def _sizes(what: str, given: str, base: Scenario, episode: Episode) -> dict[str, float]:
    """The sizes of an episode by their texts, from small to large: s, multiples or shares.

    Raises:
        ScenarioError: one is of another unit, too small or too large; or they do not rise.
    """
    room_s = (base.horizon - episode.start) / 1e9
    readers: dict[str, tuple[Callable[[str], float], float, float, str]] = {
        OUTAGE: (
            _seconds,
            1e-9,
            room_s - 1e-9,
            f"times above 0s and below {room_s:g}s, what is left of the horizon",
        ),
        RATE: (float, 1.0, MOST_TIMES, f"multiples from 1 to {MOST_TIMES:,.0f}, such as 1..4.0/13"),
        ERRORS: (parse_share, 0.0, 1.0, "shares, such as 10%..90%/9"),
    }
    read, low, high, rule = readers[what]
    try:
        sizes = {text: read(text) for text in variation.axis(f"{what}={given}").texts}
    except ScenarioError as error:
        told = [problem._replace(path=problem.path.replace("vary", "find", 1)) for problem in error.problems]
        raise ScenarioError(told) from None
    except ValueError:
        sizes = {}
    values = list(sizes.values())
    if not values or not all(low <= value <= high for value in values) or values != sorted(values):
        raise ScenarioError([Problem(f"find {what}", given, f"must be {rule}, rising")])
    return sizes


def _seconds(text: str) -> float:
    return parse_duration(text) / 1e9


def _with(what: str, base: Scenario, episode: Episode, size: float) -> Scenario:
    if what == OUTAGE:
        return worlds.with_outage(base, episode, round(size * 1e9))
    make = worlds.with_surge if what == RATE else worlds.with_errors
    return make(base, episode, size)


def _lasts_s(what: str, episode: Episode, size: float) -> float:
    return size if what == OUTAGE else episode.length / 1e9


# --------------------------------------------------------------------------- counting


def recovers(outcome: Outcome, end_s: float, horizon_s: float) -> bool:
    """Whether what waits is back where it was before the episode that ends at ``end_s``, before the horizon."""
    drain_s = outcome.figures["drain_s"]
    return not math.isnan(drain_s) and end_s + drain_s <= horizon_s


def edges(tried: pd.DataFrame) -> tuple[str | None, str | None]:
    """The largest size up to which all runs recovered, and the smallest from which none did; None: there is none."""
    rows = tried.to_dict("records")
    sure = list(itertools.takewhile(lambda row: row["recovered"] == row["runs"], rows))
    never = list(itertools.takewhile(lambda row: row["recovered"] == 0, reversed(rows)))
    return (sure[-1]["text"] if sure else None), (never[-1]["text"] if never else None)


def _unsteady(undisturbed: int, count: int) -> Iterator[str]:
    """That what waits is not steady by itself, so that not being back means little."""
    if undisturbed < count:
        yield (
            f"even where nothing happens, only {undisturbed:,} of {count:,} runs have as little waiting afterwards as "
            "before: the backlog grows or follows the hours by itself, so what is said of recovery means little; give "
            "a warmup of the longest schedule, or a longer horizon"
        )


class _Counted:
    """The sizes, and how many runs recover from each."""

    def __init__(self, under_way: Session, points: Sequence[Variant], count: int) -> None:
        self._session = under_way
        self._points = points
        self._count = count

    def judge(self, wanted: Callable[[int], bool]) -> Callable[[Collection[int]], Mapping[int, bool]]:
        """A judge, as ``planning.smallest`` takes it, by the number of runs that recover."""

        def look(chosen: Collection[int]) -> dict[int, bool]:
            new = [at for at in chosen if not self._session.outcomes(at)]
            self._session.run(self._points, range(1, self._count + 1), new)
            self._session.require_finished(self._points)
            return {at: wanted(len(self._drains(at))) for at in chosen}

        return look

    def recovered(self, at: int) -> int:
        """How many runs recover from a size."""
        self.judge(bool)([at])
        return len(self._drains(at))

    def _drains(self, at: int) -> list[float]:
        """How long the runs took that recovered, s."""
        scenario = self._points[at].scenario
        end_s, horizon_s = worlds.episode_end_s(scenario), scenario.horizon / 1e9
        outcomes = [outcome for _, outcome in self._session.outcomes(at)]
        return [o.figures["drain_s"] for o in outcomes if recovers(o, end_s, horizon_s)]

    def tried(self, sizes: Mapping[str, float]) -> pd.DataFrame:
        """See ``BreakingPoint.tried``."""
        rows = []
        for at, (text, size) in enumerate(sizes.items()):
            if self._session.outcomes(at):
                drains = self._drains(at)
                share = intervals.proportion_interval(len(drains), self._count)
                drain_s = float(np.mean(drains)) if drains else math.nan
                rows.append(
                    (size, text, len(drains), self._count, share.mean, share.low, share.high, drain_s)
                )
        columns = ["size", "text", "recovered", "runs", "share", "low", "high", "drain_s"]
        return pd.DataFrame(rows, columns=columns)
