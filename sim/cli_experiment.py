"""The commands of experiments: replicate, compare, sweep. The result goes to stdout, everything else to stderr."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim import cli
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.execution import Progress
    from sim.experiment_results import Experiment

UNFINISHED = 1
"""Exit code of a sweep in which some runs could not be finished."""

ScenarioName = Annotated[str, typer.Argument(help="Name of a bundled scenario, or path of a file.")]
Seed = Annotated[int | None, typer.Option(help="Instead of the seed of the scenario.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a leaf, as in horizon=1h; repeatable."),
]
_Replications = Annotated[
    int | None, typer.Option(help="Runs with luck of their own; with --precision, the most there may be.")
]
_Precision = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Go on until intervals are so narrow, such as 2%, either way."),
]
_Precise = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="FIGURE", help="A figure that --precision is about; repeatable."),
]
Jobs = Annotated[
    int | None, typer.Option(help="Worker processes. Default: one per core, or none where that takes longer.")
]
Dask = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster with this scheduler instead.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for tables; keeps finished runs, so that the same command continues."),
]
Format = Annotated[
    str | None, typer.Option("--format", help="Of the tables in the folder: parquet (default) or csv.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of experiments to an application."""
    for command in (replicate, compare, sweep):
        app.command()(command)


def replicate(
    scenario: ScenarioName,
    replications: _Replications = None,
    precision: _Precision = None,
    metric: _Precise = None,
    seed: Seed = None,
    overrides: Overrides = None,
    jobs: Jobs = None,
    dask: Dask = None,
    out: Out = None,
    table_format: Format = None,
    as_json: cli.AsJson = False,
) -> None:
    """Run a scenario several times and print its figures with intervals."""
    from sim import experiment

    with under_way(jobs, dask, out, table_format) as options:
        found = experiment.replicate(
            scenario,
            replications=replications,
            precision=precision,
            precise=_precise_figures(metric, precision),
            seed=seed,
            overrides=overrides or (),
            **options,
        )
    _print(found, as_json, out)
    _repeat("replicate", scenario, found, replications, precision, {"--metric": metric, "--set": overrides})


def compare(
    scenario: ScenarioName,
    policies: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Policies that every endpoint group is sent to by, in turn."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=VALUE|FILE", help="A leaf changed, or another scenario; repeatable."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What the others are held against; default: the first.")
    ] = None,
    replications: _Replications = None,
    precision: _Precision = None,
    metric: _Precise = None,
    seed: Seed = None,
    overrides: Overrides = None,
    jobs: Jobs = None,
    dask: Dask = None,
    out: Out = None,
    table_format: Format = None,
    as_json: cli.AsJson = False,
) -> None:
    """Compare policies, or variants of a scenario, under the same luck."""
    from sim import experiment

    with under_way(jobs, dask, out, table_format) as options:
        found = experiment.compare(
            scenario,
            policies=() if policies is None else policies,
            variants=variant or (),
            baseline=baseline,
            replications=replications,
            precision=precision,
            precise=_precise_figures(metric, precision),
            seed=seed,
            overrides=overrides or (),
            **options,
        )
    _print(found, as_json, out)
    chosen = {"--policies": [policies], "--variant": variant, "--baseline": [baseline], "--metric": metric}
    _repeat("compare", scenario, found, replications, precision, {**chosen, "--set": overrides})


def sweep(
    scenario: ScenarioName,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=VALUES",
            help="V1,V2,… or A..B (whole numbers) or A..B/N or A..B/Nlog (N values); several make a grid.",
        ),
    ] = None,
    replications: Annotated[int | None, typer.Option(help="Of each point; default 10.")] = None,
    seed: Seed = None,
    overrides: Overrides = None,
    jobs: Jobs = None,
    dask: Dask = None,
    out: Out = None,
    table_format: Format = None,
    as_json: cli.AsJson = False,
) -> None:
    """Run a scenario at every point of a grid; an interrupted sweep with --out continues."""
    from sim import experiment

    with under_way(jobs, dask, out, table_format) as options:
        found = experiment.sweep(
            scenario,
            vary=vary or (),
            replications=replications,
            seed=seed,
            overrides=overrides or (),
            **options,
        )
    _print(found, as_json, out)
    _repeat("sweep", scenario, found, replications, None, {"--vary": vary, "--set": overrides})
    for row in found.failed.to_dict("records"):
        cli.tell(
            f"error: {row['point']}, replication {row['replication']}, seed {row['seed']}: {row['reason']}"
        )
    if len(found.failed):
        raise typer.Exit(UNFINISHED)


# --------------------------------------------------------------------------- what they share


def _precise_figures(metric: list[str] | None, precision: str | None) -> Sequence[str]:
    """The figures that a precision is about."""
    from sim import experiment
    from sim.experiment_session import known_figures

    if metric and precision is None:
        raise ScenarioError("--metric says what a precision is about: it needs --precision SHARE")
    return known_figures("--metric", metric) if metric else experiment.PRECISE


@contextmanager
def under_way(
    jobs: int | None, dask: str | None, out: Path | None, table_format: str | None
) -> Iterator[dict[str, Any]]:
    """The arguments that the experiments share; shows progress, and tells of what is kept when they are cut short."""
    if table_format is not None and out is None:
        raise ScenarioError("--format says how tables are written: it needs --out FOLDER")
    if jobs is not None and dask is not None:
        raise ScenarioError("--jobs and --dask are two places to run in; give one of them")
    with cli.progress() as stage:
        try:
            yield {
                "jobs": jobs,
                "dask": dask,
                "out": out,
                "table_format": table_format or "parquet",
                "progress": _told(stage),
            }
        except KeyboardInterrupt:
            if out is not None:
                cli.tell(f"what has finished is kept in {out}; the same command continues")
            raise


def _told(stage: Callable[[str, float | None], None]) -> Progress:
    """Progress as it is shown."""
    from sim.shown import shown_duration

    def tell(finished: int, total: int, left_s: float | None) -> None:
        left = "" if left_s is None else f", {shown_duration(round(left_s))} left"
        stage(f"{finished:,} of {total:,} runs{left}", finished / total if total else None)

    return tell


def _print(found: Experiment, as_json: bool, out: Path | None) -> None:
    from sim import experiment_results as results
    from sim import tables, tables_experiment

    if as_json:
        for text in found.warnings:
            cli.tell(f"warning: {text}")
        cli.print_json(found.to_json())
    elif isinstance(found, results.Comparison):
        tables.write(tables_experiment.of_comparison(found))
    elif isinstance(found, results.Sweep):
        tables.write(tables_experiment.of_sweep(found))
    elif isinstance(found, results.Replicated):
        tables.write(tables_experiment.of_replication(found))
    sys.stdout.flush()
    if out is not None:
        cli.tell(f"written to {out}")


def _repeat(
    command: str,
    scenario: str,
    found: Experiment,
    replications: int | None,
    precision: str | None,
    chosen: Mapping[str, Sequence[str | None] | None],
) -> None:
    """Tell the command that repeats an experiment to the last bit."""
    words = ["hooklab", command, scenario, "--seed", str(found.seed)]
    numbers: dict[str, Sequence[str | None]] = {
        "--replications": [None if replications is None else str(replications)],
        "--precision": [precision],
    }
    for option, values in {**numbers, **chosen}.items():
        for value in values or ():
            words += [] if value is None else [option, value]
    cli.tell(f"repeat with: {shlex.join(words)}")
