"""The command ``hooklab agree``: simulate a scenario, run it for real, and say whether the two agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.cli_loadtest import FAILED
from loadtest.cli_real import Compress, Processes, Receivers, Store, Tiers, interruptible, read_scenario
from sim import cli
from sim.cli_experiment import Overrides, ScenarioName, Seed

if TYPE_CHECKING:
    from loadtest.agreement import Agreement
    from loadtest.load_result import LoadResult


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(agree)


def agree(
    scenario: ScenarioName,
    compress: Compress = None,
    seed: Seed = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for both runs' tables and the picture.")] = None,
    processes: Processes = 1,
    receivers: Receivers = 1,
    store: Store = "",
    tiers: Tiers = "",
    as_json: cli.AsJson = False,
) -> int:
    """Simulate a scenario, run it for real with the same luck, and print both with their differences.

    Exit code 1: they do not agree, or the real run cannot be believed.
    """
    from loadtest import agreement_shown, harness
    from sim import output, tables

    loaded = read_scenario(scenario, overrides or (), compress)
    if out is not None:
        output.require_replaceable(out)
    with interruptible(), cli.progress() as stage:
        real = harness.run(
            loaded,
            seed=seed,
            progress=stage,
            processes=processes,
            receivers=receivers,
            store=store,
            tiers=tiers,
        )
        if real.interrupted:
            raise KeyboardInterrupt
        stage("simulating and comparing", None)
        found = compared(real)
        if out is not None:
            _save(real, found, out)
    if as_json:
        cli.print_json(found.to_json())
    else:
        tables.write(agreement_shown.table(found))
    if out is not None:
        cli.tell(f"written to {out}")
    return 0 if found.agree else FAILED


def compared(real: LoadResult) -> Agreement:
    """Simulate what was run for real, and compare."""
    import sim
    from loadtest.agreement import compare

    simulated = sim.run(real.model.scenario, seed=real.model.seed, stream=False)
    gated_s = simulated.metrics["delivery_latency_s_p99"]
    return compare(simulated.trace, real.trace, real.model, invalid=real.invalid(gated_s))


def _save(real: LoadResult, found: Agreement, folder: Path) -> None:
    """The real run as ``loadtest`` writes it, with the verdict and the picture of both beside."""
    from loadtest import agreement_shown
    from loadtest.gate_output import Outcome, figures_of
    from sim.plots import png

    outcome = Outcome(
        name=real.model.scenario.name,
        seed=real.model.seed,
        judged=(),
        metrics=figures_of(real.trace, real.requests),
        problems=found.invalid,
        facts=real.facts,
        wall_s=real.wall_s,
    )
    verdict = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
    real.recorded.files |= {
        "agreement.json": verdict.encode(),
        "agreement.png": png(agreement_shown.picture(found)),
    }
    real.save(folder, outcome.to_json())
