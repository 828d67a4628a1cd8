"""The command ``hooklab loadtest``: a scenario for real, judged by gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadtest.capacity import CAPACITY
from loadtest.cli_real import Compress, Processes, Receivers, Store, Tiers, interruptible, read_scenario
from sim import cli
from sim.cli_experiment import Overrides, ScenarioName, Seed
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from loadtest.gate import Gate, Judged
    from loadtest.gate_baseline import Baseline
    from loadtest.gate_output import Outcome
    from loadtest.load_result import LoadResult

FAILED, INTERRUPTED = 1, 130
"""Exit codes: a gate failed or the run is not valid; it was stopped."""
GATED = ("delivery_latency_s_", "request_latency_s_", "settle_time_s_", "queue_wait_s_")
"""Figures whose limits say how late the load generator may be."""


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(loadtest)


def loadtest(
    scenario: ScenarioName,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="EXPR", help="As in 'lost_share==0'; repeatable. Exit 1 if one fails."
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="JSON or folder of an earlier run, for gates with baseline.")
    ] = None,
    seed: Seed = None,
    overrides: Overrides = None,
    compress: Compress = None,
    shape: Annotated[
        str | None, typer.Option(help="ramp, spike or soak, instead of the scenario's arrivals.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables, figures, report, logs and a picture.")
    ] = None,
    table_format: Annotated[
        str | None, typer.Option("--format", help="Of the tables in the folder: parquet (default) or csv.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="File to append a summary to, as to $GITHUB_STEP_SUMMARY.")
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(help="JSON file for a history of benchmarks (customSmallerIsBetter).")
    ] = None,
    processes: Processes = 1,
    receivers: Receivers = 1,
    store: Store = "",
    tiers: Tiers = "",
    closed_loop: Annotated[
        int, typer.Option(metavar="USERS", help="So many users that wait for answers, for comparison.")
    ] = 0,
    capacity: Annotated[
        int, typer.Option(help="Requests under way at once, of each sending process.")
    ] = CAPACITY,
    as_json: cli.AsJson = False,
) -> int:
    """Run a scenario for real, dispatcher, receivers and Locust on this machine, and judge it by gates."""
    from loadtest import gate, gate_baseline, gate_output, harness
    from loadtest.load_shapes import shaped
    from sim import output, tables

    wanted = gate.read(gates or ())
    base = None if baseline is None else gate_baseline.read(baseline)
    loaded = read_scenario(scenario, overrides or (), compress)
    if shape is not None:
        loaded = shaped(loaded, shape)
    gate.check(wanted, loaded, base)
    output.require_format(table_format or "parquet")
    if table_format is not None and out is None:
        raise ScenarioError("--format says how tables are written: it needs --out FOLDER")
    if out is not None:
        output.require_replaceable(out)
    gate_output.require_writable(*filter(None, (junit, markdown, benchmark)))
    with interruptible(), cli.progress() as stage:
        result = harness.run(
            loaded,
            seed=seed,
            progress=stage,
            processes=processes,
            receivers=receivers,
            store=store,
            tiers=tiers,
            closed_loop=closed_loop,
            capacity=capacity,
        )
        outcome = _judged(result, wanted, base)
        if out is not None:
            result.save(out, outcome.to_json(), table_format or "parquet")
            gate_output.write_report(out)
    if junit is not None:
        gate_output.write_junit(junit, outcome)
    if markdown is not None:
        gate_output.append_markdown(markdown, outcome)
    if benchmark is not None:
        gate_output.write_benchmarks(benchmark, outcome)
    if as_json:
        cli.print_json(outcome.to_json() | {"partial": result.partial})
    else:
        tables.write(shown(result, outcome))
    for text in outcome.problems:
        cli.tell(f"not valid: {text}")
    cli.tell(outcome.headline)
    if out is not None:
        cli.tell(f"written to {out}{', as far as it came' if result.partial else ''}")
    return INTERRUPTED if result.interrupted else 0 if outcome.ok else FAILED


def _judged(result: LoadResult, wanted: Sequence[Gate], base: Baseline | None) -> Outcome:
    """Judge a run and gather what its outputs tell."""
    import sim
    from loadtest import gate
    from loadtest.gate_output import Outcome, figures_of

    prediction = None
    if gate.needs(wanted, "sim"):
        prediction = sim.run(result.model.scenario, seed=result.model.seed).made
    judged = gate.judge(wanted, result.trace, requests=result.requests, baseline=base, prediction=prediction)
    return Outcome(
        name=result.model.scenario.name,
        seed=result.model.seed,
        judged=judged,
        metrics=figures_of(result.trace, result.requests),
        problems=result.invalid(_gated_s(judged)),
        facts=result.facts,
        warnings=result.result.warnings,
        undocumented=result.model.scenario.undocumented,
        wall_s=result.wall_s,
    )


def _gated_s(judged: Sequence[Judged]) -> float:
    """The smallest time that a gate asks for, s; infinite if none does."""
    limits = [one.limit for one in judged if one.figure.startswith(GATED) and one.limit > 0]
    return min(limits, default=math.inf)


def shown(result: LoadResult, outcome: Outcome) -> list[Any]:
    """Gates and figures for a terminal."""
    from rich.table import Table
    from rich.text import Text

    from loadtest.gate_output import SUMMARY
    from sim.shown import shown as figure

    parts: list[Any] = [Text(f"{outcome.name}, for real, seed {outcome.seed}")]
    figures = Table(box=None, pad_edge=False, show_header=False)
    for name in SUMMARY:
        if name in outcome.metrics:
            figures.add_row(name, Text(figure(name, outcome.metrics[name]), justify="right"))
    parts.append(figures)
    parts += [Text(text, style="dim") for text in outcome.facts]
    if outcome.judged:
        table = Table(box=None, pad_edge=False)
        for head in ("gate", "", "what came out"):
            table.add_column(head, overflow="fold")
        for one in outcome.judged:
            verdict = Text("passed", style="green") if one.ok else Text("failed", style="bold red")
            table.add_row(Text(one.expr), verdict, Text(one.by))
        parts.append(table)
    return parts
