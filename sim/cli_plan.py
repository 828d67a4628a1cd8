"""The command ``hooklab plan``. The result goes to stdout, everything else to stderr."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim import cli, cli_experiment
from sim.cli_experiment import Dask, Format, Jobs, Out, Overrides, ScenarioName, Seed
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from sim.experiment_results import Experiment

NOTHING_MEETS = 1
"""Exit code of a plan in which no setting meets the objectives."""


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(plan)


def plan(
    scenario: ScenarioName,
    slo: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC<=VALUE", help="What is to be met, or METRIC>=VALUE; repeatable."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=A..B", help="The settings to choose from, as in a sweep; repeatable."),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PRICE", help="worker_hour, gb_egress or gb_stored: find the cheapest."),
    ] = None,
    confidence: Annotated[str | None, typer.Option(help="Of the answer, above 50%; default 95%.")] = None,
    find: Annotated[
        str | None,
        typer.Option(
            metavar="outage|rate|errors",
            help="Instead: what it recovers from; sizes as in outage=1s..1h/33log.",
        ),
    ] = None,
    during: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long the rate or the errors of --find last.")
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(metavar="1,2,5,10", help="Instead: what breaks first at these multiples of the load."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="SIZE", help="With --load: room for the backlog, such as 10GB.")
    ] = None,
    replications: Annotated[
        int | None, typer.Option(help="Runs of each setting; default 20, with --load 10.")
    ] = None,
    seed: Seed = None,
    overrides: Overrides = None,
    jobs: Jobs = None,
    dask: Dask = None,
    out: Out = None,
    table_format: Format = None,
    as_json: cli.AsJson = False,
) -> None:
    """Find the smallest or cheapest setting that meets objectives; or what it recovers from; or what breaks first."""
    _require_one_question({"--slo": slo or vary, "--find": find, "--load": load})
    _require_belongs("--slo", slo or vary, {"--cost": cost, "--confidence": confidence})
    _require_belongs("--find", find, {"--during": during})
    _require_belongs("--load", load, {"--storage": storage})
    from sim import intervals, planning, planning_breaking, planning_load, tables_plan
    from sim.planning_results import Plan

    found: Experiment
    parts: list[RenderableType]
    with cli_experiment.under_way(jobs, dask, out, table_format) as places:
        options: dict[str, Any] = {
            "replications": replications,
            "seed": seed,
            "overrides": overrides or (),
            **places,
        }
        if find is not None:
            found = planning_breaking.breaking_point(scenario, find, during=during, **options)
        elif load is not None:
            found = planning_load.stress(scenario, load, storage=storage, **options)
        else:
            found = planning.plan(
                scenario,
                slo=slo or (),
                vary=vary or (),
                cost=cost or (),
                confidence=intervals.CONFIDENCE if confidence is None else confidence,
                **options,
            )
    parts = tables_plan.of(found) if not as_json else []
    _print(found, parts, out)
    given = {
        "--slo": slo,
        "--vary": vary,
        "--cost": cost,
        "--confidence": [confidence],
        "--find": [find],
        "--during": [during],
        "--load": [load],
        "--storage": [storage],
        "--set": overrides,
        "--replications": [None if replications is None else str(replications)],
    }
    _repeat(scenario, found.seed, given)
    if isinstance(found, Plan) and found.answer is None:
        raise typer.Exit(NOTHING_MEETS)


def _require_one_question(asked: Mapping[str, object]) -> None:
    given = [option for option, value in asked.items() if value]
    if len(given) != 1:
        rule = "ask one thing: --slo with --vary, --find, or --load"
        raise ScenarioError(
            f"{' and '.join(given)} together; {rule}" if given else f"nothing is asked; {rule}"
        )


def _require_belongs(question: str, asked: object, options: Mapping[str, object]) -> None:
    for option, value in options.items():
        if value is not None and not asked:
            raise ScenarioError(f"{option} goes with {question}")


def _print(found: Experiment, parts: Sequence[RenderableType], out: Path | None) -> None:
    from sim import tables

    if parts:
        tables.write(parts)
    else:
        for text in found.warnings:
            cli.tell(f"warning: {text}")
        cli.print_json(found.to_json())
    sys.stdout.flush()
    if out is not None:
        cli.tell(f"written to {out}; next: hooklab report {out}")


def _repeat(scenario: str, seed: int, given: Mapping[str, Sequence[str | None] | None]) -> None:
    """Tell the command that repeats it to the last bit."""
    words = ["hooklab", "plan", scenario, "--seed", str(seed)]
    for option, values in given.items():
        for value in values or ():
            words += [] if value is None else [option, value]
    cli.tell(f"repeat with: {shlex.join(words)}")
