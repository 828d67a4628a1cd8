"""An experiment under way: variants of a scenario run for replications, wherever that is, and kept where it is asked.

**Seeds.** Replication 1 has the experiment's seed (the scenario's own, unless one is given), so it is what
``hooklab run`` gives (quantiles of large runs within 0.2 %: they are streamed); replication r > 1 has 53 bits of a
digest of that seed and r (``replication_seed``). Every variant and every point meets the seeds of the same
replications: common random numbers.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sim import advice, execution, experiment_results, experiment_store, intervals, output, shown
from sim.errors import Problem, ScenarioError
from sim.execution import Failure, Job, Outcome, Progress
from sim.experiment_results import WarmUp
from sim.experiment_store import Store
from sim.result import WORTH_COMPILING
from sim.scenario import Scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOORS = {"share": 1e-4, "s": 1e-3, "ratio": 1e-3, "1/s": 1e-3, "count": 0.5, "B": 1.0, "B/s": 1.0}
"""Half-widths by unit that are narrow enough whatever the mean: a share of 0.01 % needs no two per cent of it."""
WORTH_PROCESSES = 2_000_000
"""Attempts from which worker processes pay: fewer are made before these have started."""
_PARTS = shown.SPREAD.strip("{}").split(",")
NEAREST = 3
"""Figures that are told where a name is none."""


def replication_seed(seed: int, replication: int) -> int:
    """The seed of a replication, from 1: a rule of these two alone.

    Below 2⁵³ (but for replication 1, which has the seed itself), so that every reader of JSON takes it whole; and
    scattered, so that experiments with neighbouring seeds share no run.
    """
    if replication == 1:
        return seed
    words = hashlib.blake2b(f"hooklab replication {seed} {replication}".encode(), digest_size=8).digest()
    return int.from_bytes(words, "big") >> 11


@dataclass(frozen=True)
class Variant:
    """What is replicated: a scenario, what messages call it, and its columns in tables."""

    name: str
    """Empty if there is only one."""
    labels: Mapping[str, Any]
    scenario: Scenario


@dataclass
class Session:
    """Where an experiment runs, what of it has finished, and where that is kept."""

    seed: int
    figures: tuple[str, ...]
    many: bool
    """Whether enough is run to load the compiled engine for it."""
    place: execution.Workers
    store: Store | None
    table_format: str
    progress: Progress | None
    results: dict[int, dict[int, Outcome | Failure]] = field(default_factory=dict)
    """By position of the variant, then by replication."""

    def run(
        self, variants: Sequence[Variant], replications: range, chosen: Iterable[int] | None = None
    ) -> None:
        """Make these replications of every variant, or of those at ``chosen``, or take what has finished before."""
        wanted: list[tuple[tuple[int, int], str, Job]] = []
        for at in range(len(variants)) if chosen is None else chosen:
            variant = variants[at]
            mapping = experiment_store.sent(variant.scenario)
            for replication in replications:
                seed = replication_seed(self.seed, replication)
                job = Job(
                    name=variant.name, scenario=mapping, seed=seed, figures=self.figures, many=self.many
                )
                key = experiment_store.digest(job)
                before = None if self.store is None else self.store.get(key)
                if before is None:
                    wanted.append(((at, replication), key, job))
                else:
                    self.results.setdefault(at, {})[replication] = before
        jobs = [job for *_, job in wanted]
        finished = sum(map(len, self.results.values()))
        for position, outcome in execution.run_all(jobs, self.place, self._overall(finished)):
            (at, replication), key, job = wanted[position]
            self.results.setdefault(at, {})[replication] = outcome
            if self.store is not None and isinstance(outcome, Outcome):
                self.store.add(key, job, outcome)

    def _overall(self, before: int) -> Progress | None:
        """Progress that counts what has finished before."""
        tell = self.progress
        if tell is None:
            return None
        return lambda finished, total, left_s: tell(before + finished, before + total, left_s)

    def run_until_precise(
        self, variants: Sequence[Variant], count: int, relative: float | None, precise: Sequence[str]
    ) -> tuple[int, tuple[str, ...]]:
        """Make ``count`` replications, or as many of them as a precision takes.

        Gives how many were made, and a warning if the precision was not reached.
        """
        if relative is None:
            self.run(variants, range(1, count + 1))
            return count, ()
        made, short = 0, {"": min(intervals.LEAST_REPLICATIONS, count)}
        while short and made < count:
            wanted = min(max(short.values()), count)
            self.run(variants, range(made + 1, wanted + 1))
            made = wanted
            if self._failures():
                break
            short = self._short_of(variants, relative, precise)
        if not short:
            return made, ()
        return made, (
            f"after {made:,} replications a precision of {shown.shown_share(relative)} is not reached for "
            f"{', '.join(short)}; allow more (--replications), or lengthen the horizon",
        )

    def _short_of(
        self, variants: Sequence[Variant], relative: float, precise: Sequence[str]
    ) -> dict[str, int]:
        """The figures that are not precise enough yet, and the replications that each is likely to need."""
        short: dict[str, int] = {}
        for at in range(len(variants)):
            outcomes = [outcome for _, outcome in self.outcomes(at)]
            for name in precise:
                found = intervals.mean_interval([outcome.figures[name] for outcome in outcomes])
                needed = intervals.replications_needed(found, relative, FLOORS[shown.unit(name)])
                if needed > found.n:
                    # of the replications in which the figure exists, so many more
                    short[name] = max(short.get(name, 0), math.ceil(needed * len(outcomes) / found.n))
        return short

    # what came of it

    def outcomes(self, at: int) -> list[tuple[int, Outcome]]:
        """The finished replications of a variant, in order."""
        own = sorted(self.results.get(at, {}).items(), key=lambda item: item[0])
        return [(replication, result) for replication, result in own if isinstance(result, Outcome)]

    def _failures(self) -> list[tuple[int, int, str]]:
        """Variant, replication and reason of what could not be finished, in order."""
        return sorted(
            (at, replication, result.reason)
            for at, own in self.results.items()
            for replication, result in own.items()
            if isinstance(result, Failure)
        )

    def require_finished(self, variants: Sequence[Variant]) -> None:
        """Refuse to sum up if a run could not be finished.

        Raises:
            ScenarioError: names each.
        """
        problems = [
            Problem(
                f"{variants[at].name or 'scenario'}, replication {replication}, seed "
                f"{replication_seed(self.seed, replication)}:",
                None,
                reason,
            )
            for at, replication, reason in self._failures()
        ]
        if problems:
            raise ScenarioError(problems)

    def runs(self, variants: Sequence[Variant]) -> pd.DataFrame:
        """One row per finished run: labels of its variant, replication, seed and figures."""
        rows: list[dict[str, Any]] = []
        for at, variant in enumerate(variants):
            for replication, outcome in self.outcomes(at):
                seed = replication_seed(self.seed, replication)
                rows.append({**variant.labels, "replication": replication, "seed": seed, **outcome.figures})
        columns = None if rows else [*variants[0].labels, "replication", "seed"]
        return pd.DataFrame(rows, columns=columns).astype({"seed": "uint64"})

    def failed(self, variants: Sequence[Variant]) -> pd.DataFrame:
        """One row per run that could not be finished: point, replication, seed, reason."""
        rows = [
            (variants[at].name, replication, replication_seed(self.seed, replication), reason)
            for at, replication, reason in self._failures()
        ]
        return pd.DataFrame(rows, columns=["point", "replication", "seed", "reason"])

    def warnings(self, variants: Sequence[Variant], chosen: Sequence[int] | None = None) -> tuple[str, ...]:
        """What to know before believing the figures: of the scenarios, and of how their runs ended.

        Of every variant, or of those at ``chosen``. What holds for all of these is said once.
        """
        said: dict[str, list[str]] = {}
        looked_at = range(len(variants)) if chosen is None else chosen
        for at in looked_at:
            variant = variants[at]
            outcomes = [outcome for _, outcome in self.outcomes(at)]
            unsettled = [outcome.figures["unsettled_share"] for outcome in outcomes]
            scenario = variant.scenario
            settling = self._settling(at)
            for text in (
                *scenario.warnings(),
                *experiment_results.unsettled_warning(unsettled),
                *experiment_results.warm_up_warning(settling, scenario.horizon / 1e9, scenario.warmup / 1e9),
                *_too_short(scenario),
            ):
                said.setdefault(text, []).append(variant.name)
        return tuple(
            text if len(names) == len(looked_at) else f"{_first(names)}: {text}"
            for text, names in said.items()
        )

    def _settling(self, at: int) -> np.ndarray[Any, Any]:
        """Latency over time of the replications of a variant, a row each; empty if it is ``terminating``."""
        return np.array([outcome.settling for _, outcome in self.outcomes(at)])

    def warmup(self, variants: Sequence[Variant]) -> WarmUp | None:
        """What came of the check of the warm-up; None: no variant is ``steady``, so there is none."""
        steady = [at for at, variant in enumerate(variants) if variant.scenario.kind == "steady"]
        if not steady:
            return None
        found = [
            experiment_results.settled_after(
                self._settling(at), variants[at].scenario.horizon / 1e9, variants[at].scenario.warmup / 1e9
            )
            for at in steady
        ]
        if None in found:
            return WarmUp(checked=False, settled=None)
        return WarmUp(checked=True, settled=all(found))

    def finish(
        self,
        tables: Mapping[str, pd.DataFrame],
        told: Mapping[str, Any],
        pictures: Mapping[str, Callable[[], Figure]] | None = None,
    ) -> None:
        """Write tables, result and pictures into the folder, if there is one."""
        if self.store is not None:
            from sim.plots import png

            drawn = {name: png(draw()) for name, draw in (pictures or {}).items()}
            self.store.finish(tables, told, self.table_format, drawn)


def _too_short(scenario: Scenario) -> Iterator[str]:
    """That a closed form asks for a longer warm-up than a ``steady`` scenario has."""
    if scenario.kind == "steady":
        from sim.beside import asked_of_warmup

        for text in asked_of_warmup(scenario):
            given = shown.shown_duration(scenario.warmup / 1e9)
            yield (
                f"{text} (by the closed form of its queue; the scenario has {given}, and the comparison of latency "
                "over time has little power against so slow a drift)"
            )


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1:,} more)"


@contextmanager
def session(
    kind: str,
    base: Scenario,
    variants: Sequence[Variant],
    replications: int,
    *,
    figures: Sequence[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> Iterator[Session]:
    """Begin an experiment of a kind, or continue it in its folder; workers and folder are let go at the end.

    ``variants`` and ``replications`` are what is to be run; by its size ``jobs`` None chooses between this process
    and one for each core.

    Raises:
        ScenarioError: an argument is wrong, the folder holds something else, or workers cannot be had.
    """
    output.require_format(table_format)
    wanted = known_figures("figures", figures)
    load = sum(advice.expected_attempts(variant.scenario) for variant in variants) * replications
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if load >= WORTH_PROCESSES else 1
    with ExitStack() as resources:
        store = None
        if out is not None:
            store = resources.enter_context(experiment_store.open_store(Path(out), kind, base))
        place = resources.enter_context(execution.workers(jobs, dask))
        yield Session(base.seed, wanted, load >= WORTH_COMPILING, place, store, table_format, progress)


def known_figures(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of figures, each of which a run has.

    Raises:
        ScenarioError: one is none; names ``argument`` and tells the nearest.
    """
    for name in names:
        try:
            shown.entry_of(name)
        except KeyError:
            known = [entry.replace(shown.SPREAD, part) for entry in shown.MEANINGS for part in _PARTS]
            near = difflib.get_close_matches(str(name), dict.fromkeys(known), n=NEAREST, cutoff=0.3)
            asked = f"; did you mean {' or '.join(near)}?" if near else ""
            rule = f"must be a figure of a run{asked} (hooklab figures lists them)"
            raise ScenarioError([Problem(argument, name, rule)]) from None
    return tuple(names)
