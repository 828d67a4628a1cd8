"""Experiments: one scenario replicated, variants compared under the same luck, a grid swept.

The same call gives the same figures to the last bit, wherever it runs and whether or not it was interrupted; the
rule of the seeds stands in ``sim.experiment_session``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim import experiment_results, experiment_store, intervals, presets, variation
from sim.errors import Problem, ScenarioError, nearest, path_of
from sim.execution import Job, Progress
from sim.experiment_results import Comparison, Replicated, Sweep
from sim.experiment_session import Variant, known_figures, session
from sim.fields import parse_share, parse_whole
from sim.scenario import Scenario, load

Source = str | Path | Mapping[str, Any] | Scenario

REPLICATIONS = 20
SWEEP_REPLICATIONS = 10
MOST_REPLICATIONS = 1_000_000
PRECISION_CAP = 1000
"""Replications at which the search for a precision ends, unless ``replications`` says otherwise."""
PRECISE = ("delivered_share", "delivery_latency_s_p50", "delivery_latency_s_p99", "attempts_per_delivery")
"""The figures whose precision is asked for unless others are named."""
UNCHANGED = "unchanged"
"""What the scenario as it is is called among its variants."""


# --------------------------------------------------------------------------- the three experiments


def replicate(
    scenario: Source,
    *,
    replications: int | None = None,
    precision: float | str | None = None,
    precise: Sequence[str] = PRECISE,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    figures: Sequence[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> Replicated:
    """Run a scenario several times with luck of its own each, for figures with intervals.

    ``replications``: how many (default 20). With ``precision`` (``"2%"`` or 0.02) they go on until the half-width
    of each figure in ``precise`` is at most that part of its mean, or its floor in ``experiment_session.FLOORS``; then
    ``replications`` is the most there may be (default 1,000; at least 10 are made). ``figures``: wanted beyond those
    of every run. ``jobs``, ``dask``: where to run, see ``execution.workers``; ``jobs`` None chooses by size. ``out``: a
    folder in which finished runs are kept and an interrupted experiment continues. ``progress`` is called with
    (finished, total, time left in s).

    Raises:
        ScenarioError: anything wrong with the scenario or an argument, or a run that could not be finished.
    """
    base = seeded(load(scenario, overrides), seed)
    count, relative = how_many(replications, precision, REPLICATIONS)
    precise = known_figures("precise", precise)
    least = count if relative is None else intervals.LEAST_REPLICATIONS
    variants = [Variant("", {}, base)]
    with session(
        "replication",
        base,
        variants,
        least,
        figures=figures,
        jobs=jobs,
        dask=dask,
        out=out,
        table_format=table_format,
        progress=progress,
    ) as under_way:
        made, narrow = under_way.run_until_precise(variants, count, relative, precise)
        under_way.require_finished(variants)
        runs = under_way.runs(variants)
        table = experiment_results.table_of(runs, [], intervals.CONFIDENCE)
        found = Replicated(
            scenario=base.name,
            seed=base.seed,
            replications=made,
            confidence=intervals.CONFIDENCE,
            warnings=(*under_way.warnings(variants), *narrow),
            warmup=under_way.warmup(variants),
            runs=runs,
            table=table,
        )
        under_way.finish({"runs": runs, "table": table}, found.to_json())
        return found


def compare(
    scenario: Source,
    *,
    policies: str | Sequence[str] = (),
    variants: Sequence[str] | Mapping[str, str | Sequence[str] | Source] = (),
    baseline: str | None = None,
    replications: int | None = None,
    precision: float | str | None = None,
    precise: Sequence[str] = PRECISE,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    figures: Sequence[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> Comparison:
    """Compare variants of a scenario, replication by replication under the same luck.

    ``policies``: each in turn becomes the policy of every endpoint group that is sent to (groups that poll have no
    use for one and stay as they are); a bundled one or one of the scenario; ``"a,b"`` or a list. ``variants``:
    ``path=value`` texts, bundled names or paths of scenario files; or a mapping from names to such texts, several of
    them, or scenarios.
    ``seed`` and ``overrides`` hold for all of them. Without ``policies``, the scenario as it is is one of the variants.
    ``baseline``: the one that the others are held against; default: the first. The rest as in ``replicate``.

    Raises:
        ScenarioError: anything wrong with the scenario, a variant or an argument, or a run that could not be finished.
    """
    overrides, policies = override_texts(overrides), _names(policies)
    base = seeded(load(scenario, overrides), seed)
    count, relative = how_many(replications, precision, REPLICATIONS)
    if count < 2:
        raise ScenarioError([Problem("replications", count, "must be at least 2: one pair has no interval")])
    precise = known_figures("precise", precise)
    least = count if relative is None else intervals.LEAST_REPLICATIONS
    compared = _variants(base, policies, variants, overrides)
    names = [variant.name for variant in compared]
    against = names[0] if baseline is None else baseline
    if against not in names:
        rule = f"is not one of the variants{nearest(against, names)} ({', '.join(names)})"
        raise ScenarioError([Problem("baseline", against, rule)])
    with session(
        "comparison",
        base,
        compared,
        least,
        figures=figures,
        jobs=jobs,
        dask=dask,
        out=out,
        table_format=table_format,
        progress=progress,
    ) as under_way:
        made, narrow = under_way.run_until_precise(compared, count, relative, precise)
        under_way.require_finished(compared)
        runs = under_way.runs(compared)
        table = experiment_results.table_of(runs, ["variant"], intervals.CONFIDENCE)
        apart = experiment_results.differences_of(runs, names, against, intervals.CONFIDENCE)
        # a policy that waits for its turn is not unused
        waiting = [f"{path_of(['policies', name])} is used by nobody" for name in policies]
        warnings = (
            *(_polling(base) if policies else ()),
            *(text for text in under_way.warnings(compared) if not any(unused in text for unused in waiting)),
            *experiment_results.pairing_warnings(apart, table, against),
            *narrow,
        )
        found = Comparison(
            scenario=base.name,
            seed=base.seed,
            replications=made,
            confidence=intervals.CONFIDENCE,
            warnings=warnings,
            warmup=under_way.warmup(compared),
            runs=runs,
            table=table,
            variants=tuple(names),
            baseline=against,
            differences=apart,
            winners=experiment_results.winners_of(table, apart, intervals.CONFIDENCE),
            pareto=experiment_results.pareto_of(table, names),
        )
        tables = {
            name: getattr(found, name) for name in ("runs", "table", "differences", "winners", "pareto")
        }
        under_way.finish(tables, found.to_json(), {"trade_off": found.plot})
        return found


def sweep(
    scenario: Source,
    *,
    vary: str | Iterable[str] | Mapping[str, Sequence[Any]],
    replications: int | None = None,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    figures: Sequence[str] = (),
    jobs: int | None = 1,
    dask: str | None = None,
    out: str | Path | None = None,
    table_format: str = "parquet",
    progress: Progress | None = None,
) -> Sweep:
    """Run a scenario at every point of a grid.

    ``vary``: texts such as ``dispatcher.workers=4..16``, see ``sim.variation``; several make a grid. Or a mapping
    from leaves to lists of their values.
    ``replications`` of each point (default 10; 1 gives no intervals). A run that cannot be finished is a row of
    ``failed``. The rest as in ``replicate``.

    Raises:
        ScenarioError: anything wrong with the scenario, a point or an argument; then nothing has been run.
    """
    overrides = override_texts(overrides)
    base = seeded(load(scenario, overrides), seed)
    count, _ = how_many(replications, None, SWEEP_REPLICATIONS)
    grid = variation.axes(vary)
    variation.require_unset(grid, overrides)
    points = [point(base, texts, values) for texts, values in variation.points(grid)]
    require_different(points)
    with session(
        "sweep",
        base,
        points,
        count,
        figures=figures,
        jobs=jobs,
        dask=dask,
        out=out,
        table_format=table_format,
        progress=progress,
    ) as under_way:
        under_way.run(points, range(1, count + 1))
        runs = under_way.runs(points)
        table = experiment_results.table_of(runs, [axis.path for axis in grid], intervals.CONFIDENCE)
        found = Sweep(
            scenario=base.name,
            seed=base.seed,
            replications=count,
            confidence=intervals.CONFIDENCE,
            warnings=under_way.warnings(points),
            warmup=under_way.warmup(points),
            runs=runs,
            table=table,
            axes={axis.path: axis.values for axis in grid},
            texts={axis.path: axis.texts for axis in grid},
            failed=under_way.failed(points),
            points=tuple(point.labels for point in points),
        )
        under_way.finish({"runs": runs, "table": table}, found.to_json())
        return found


# --------------------------------------------------------------------------- arguments


def override_texts(overrides: str | Iterable[str]) -> list[str]:
    """Overrides to be read more than once."""
    return [overrides] if isinstance(overrides, str) else list(overrides)


def seeded(scenario: Scenario, seed: int | None) -> Scenario:
    """The scenario with the seed of the experiment."""
    if seed is None:
        return scenario
    try:
        return scenario.with_overrides([f"seed={parse_whole(seed, 0, 2**64 - 1)}"])
    except ValueError as error:
        raise ScenarioError([Problem("seed", seed, str(error))]) from None


def how_many(
    replications: int | None, precision: float | str | None, default: int
) -> tuple[int, float | None]:
    """Replications to make, or the most there may be; and the relative precision, if one is asked for."""
    count = default if precision is None else PRECISION_CAP
    least = 1 if precision is None else intervals.LEAST_REPLICATIONS
    if replications is not None:
        try:
            count = parse_whole(replications, least, MOST_REPLICATIONS)
        except ValueError as error:
            more = "" if precision is None else " to judge a precision by"
            raise ScenarioError([Problem("replications", replications, f"{error}{more}")]) from None
    if precision is None:
        return count, None
    try:
        relative = parse_share(precision)
    except ValueError as error:
        raise ScenarioError([Problem("precision", precision, str(error))]) from None
    if not 0 < relative < 1:
        raise ScenarioError([Problem("precision", precision, "must be above 0% and below 100%, such as 2%")])
    return count, relative


# --------------------------------------------------------------------------- variants and points


def _variants(
    base: Scenario,
    policies: Sequence[str],
    variants: Sequence[str] | Mapping[str, str | Sequence[str] | Source],
    overrides: Sequence[str],
) -> list[Variant]:
    given = variants if isinstance(variants, Mapping) else {text: text for text in variants}
    if not isinstance(variants, Mapping) and len(given) < len(variants):
        raise ScenarioError("a variant stands twice; remove one of them")
    if not policies and not given:
        raise ScenarioError(
            "nothing to compare; give --policies A,B,… or --variant PATH=VALUE, or a scenario file"
        )
    found = [(name, _with_policy(base, name)) for name in policies]
    if not policies:
        found.append((UNCHANGED, base))
    found += [(name, _variant(base, name, what, overrides)) for name, what in given.items()]
    names = [name for name, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise ScenarioError(f"{name} stands twice among what is compared; remove one of them")
    if len(found) < 2:
        raise ScenarioError(f"there is only {names[0]} to compare; name at least two")
    made = [Variant(name, {"variant": name}, scenario) for name, scenario in found]
    require_different(made)
    return made


def require_different(variants: Iterable[Variant]) -> None:
    """Refuse two variants that are one scenario: their difference would be nothing, and said to be exact."""
    known: dict[str, str] = {}
    for variant in variants:
        key = experiment_store.digest(
            Job(name=variant.name, scenario=experiment_store.sent(variant.scenario), seed=0)
        )
        if key in known:
            raise ScenarioError(
                f"{known[key]} and {variant.name} are the same scenario; leave one of them out"
            )
        known[key] = variant.name


def _names(policies: str | Sequence[str]) -> list[str]:
    """The names in ``"a,b"``, or in a list."""
    names = [name.strip() for name in policies.split(",")] if isinstance(policies, str) else list(policies)
    if not all(names):
        raise ScenarioError([Problem("policies", policies, "has an empty name between commas; write A,B,…")])
    return names


def _with_policy(base: Scenario, name: str) -> Scenario:
    """The scenario with every endpoint group that is sent to under this policy."""
    known = [*base.policies, *presets.names("policies")]
    if name not in known:
        rule = f"is not in policies of this scenario, nor bundled{nearest(name, known)} (hooklab policies lists them)"
        raise ScenarioError([Problem("policies", name, rule)])
    pushed = [group for group, endpoint in base.endpoints.items() if endpoint.mode is None]
    if not pushed:
        raise ScenarioError([Problem("policies", name, "makes no difference: every endpoint group polls")])
    return _named(
        name,
        lambda: base.with_overrides(f"{path_of(['endpoints', group, 'policy'])}={name}" for group in pushed),
    )


def _polling(base: Scenario) -> Iterator[str]:
    """That some groups have no use for a policy."""
    groups = [
        path_of(["endpoints", group])
        for group, endpoint in base.endpoints.items()
        if endpoint.mode is not None
    ]
    if groups:
        yield f"{', '.join(groups)}: polls, so the compared policies make no difference to it"


def _variant(
    base: Scenario, name: str, what: str | Sequence[str] | Source, overrides: Sequence[str]
) -> Scenario:
    """A variant: leaves replaced, or another scenario with the seed of the experiment."""
    if isinstance(what, str) and "=" in what:
        what = [what]
    if isinstance(what, str | Path | Mapping | Scenario):
        return _named(name, lambda: seeded(load(what, overrides), base.seed))
    return _named(name, lambda: base.with_overrides(what))


def _named(name: str, make: Callable[[], Scenario]) -> Scenario:
    """The scenario that is made; what is wrong with it is told with its name."""
    try:
        return make()
    except ScenarioError as error:
        raise ScenarioError(error.problems, name) from None


def point(base: Scenario, texts: Sequence[str], values: dict[str, Any]) -> Variant:
    """The scenario at a point of a grid: leaves replaced by ``path=value`` texts, and its columns in tables.

    Raises:
        ScenarioError: it is no scenario there; names the point.
    """
    name = ", ".join(texts)
    try:
        return Variant(name, values, _named(name, lambda: base.with_overrides(texts)))
    except ScenarioError as error:
        told = [
            problem._replace(rule=re.sub(r"^--set\b", "--vary", problem.rule)) for problem in error.problems
        ]
        raise ScenarioError(told, error.source) from None
