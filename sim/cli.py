"""The simulator's commands: run, policies, scenarios, schema. ``loadtest.cli`` makes one command of them all.

The result goes to stdout, everything else to stderr. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.errors import ScenarioError

_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def add_to(app: typer.Typer) -> None:
    """Add the simulator's commands to an application."""
    for command in (run, policies, scenarios, schema):
        app.command()(command)


def run(
    scenario: Annotated[str, typer.Argument(help="Name of a bundled scenario, or path of a file.")],
    engine: Annotated[str, typer.Option(help="auto, or one by name; the result is the same.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Instead of the seed of the scenario.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a leaf, as in horizon=1h; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables, figures and a picture.")] = None,
    table_format: Annotated[
        str | None, typer.Option("--format", help="Of the tables in the folder: parquet (default) or csv.")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Simulate a scenario and print its figures."""
    if table_format is not None and out is None:
        raise ScenarioError("--format says how tables are written: it needs --out FOLDER")
    import sim

    loaded = sim.load(scenario, overrides or ())
    if out is not None:
        from sim import output

        output.require_format(table_format or "parquet")
        output.require_replaceable(out)
    used = loaded.seed if seed is None else seed
    tell(f"repeat with: {_repeating(scenario, used, overrides or ())}")
    with _progress() as stage:
        result = sim.run(loaded, seed=used, engine=engine, progress=lambda share: stage("simulating", share))
        stage("working out figures", None)
        printed = result.to_json()
        if out is not None:
            stage("writing", None)
            result.save(out, table_format or "parquet")
    if as_json:
        for text in result.warnings:
            tell(f"warning: {text}")
        _print_json(printed)
    else:
        from sim import tables

        tables.write(tables.of_run(result))
    if out is not None:
        tell(f"written to {out}")


def policies(
    name: Annotated[str | None, typer.Argument(help="One policy, with all that is known of it.")] = None,
    as_json: _AsJson = False,
) -> None:
    """List the bundled retry policies, or show one."""
    from sim import catalogue

    if name is not None:
        entry = catalogue.entry(name)
        if as_json:
            _print_json(entry.details())
        else:
            from sim import tables

            tables.write(tables.of_policy(entry))
        return
    entries = catalogue.entries()
    if as_json:
        _print_json({"policies": {entry.name: entry.summary() for entry in entries}})
    else:
        from sim import tables

        tables.write(tables.of_policies(entries))


def scenarios(
    name: Annotated[str | None, typer.Argument(help="One scenario, as its file.")] = None,
    as_json: _AsJson = False,
) -> None:
    """List the bundled scenarios, or print one."""
    from sim import catalogue, presets

    if name is not None:
        catalogue.require("scenarios", name)
        if as_json:
            _print_json(presets.read("scenarios", name))
        else:
            sys.stdout.write(presets.text("scenarios", name))
        return
    questions = {
        known: presets.read("scenarios", known).get("question") for known in presets.names("scenarios")
    }
    if as_json:
        _print_json({"scenarios": questions})
    else:
        from sim import tables

        tables.write(tables.of_scenarios(questions))


def schema() -> None:
    """Print the JSON Schema of the scenario file, for editors."""
    from sim.scenario import json_schema

    _print_json(json_schema())


# --------------------------------------------------------------------------- what commands share


def tell(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _repeating(scenario: str, seed: int, overrides: Iterable[str]) -> str:
    """The command that repeats a run to the last bit."""
    words = ["hooklab", "run", scenario, "--seed", str(seed)]
    for text in overrides:
        words += ["--set", text]
    return shlex.join(words)


@contextmanager
def _progress() -> Iterator[Callable[[str, float | None], None]]:
    """A function that shows (what is being done, its share): a bar on stderr if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(what: str, share: float | None) -> None:
            if share is None:
                bar.update(task, description=what)
            else:  # a share of the horizon; the drain after it has no known end
                bar.update(task, description=what if share < 1 else "draining", total=1.0, completed=share)

        if _compiles_first():
            show("compiling (once)", None)
        yield show


def _compiles_first() -> bool:
    """Whether there is no machine code from an earlier run, so that some seconds go by before anything moves."""
    from sim import jit

    return jit.CACHE_FOLDER is None or not any(jit.CACHE_FOLDER.rglob("*.nbc"))
