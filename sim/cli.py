"""The simulator's commands, from run to schema. ``loadtest.cli`` makes one command of them all.

The result goes to stdout, everything else to stderr. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.errors import ScenarioError, nearest

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def add_to(app: typer.Typer) -> None:
    """Add the simulator's commands to an application."""
    for command in (run, figures, policies, scenarios, receivers, schema):
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
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Gather figures as the run goes and keep no tables; the default for runs of millions of attempts.",
            show_default=False,
        ),
    ] = None,
    backlog_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop, with the figures until then, at so many open deliveries (default: 10 million).",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a scenario and print its figures; ``hooklab figures`` tells what they mean."""
    begun = time.perf_counter()
    from sim import output

    output.require_format(table_format or "parquet")
    if table_format is not None and out is None:
        raise ScenarioError("--format says how tables are written: it needs --out FOLDER")
    import sim

    loaded = sim.load(scenario, overrides or ())
    if out is not None:
        output.require_replaceable(out)
    used = loaded.seed if seed is None else seed
    options = [] if stream is None else ["--stream" if stream else "--no-stream"]
    if backlog_limit is not None:
        options += ["--backlog-limit", str(backlog_limit)]
    with progress() as stage, _announced(_repeating(scenario, used, overrides or (), options)) as announce:

        def advance(share: float) -> None:
            announce()
            stage("simulating", share)

        result = sim.run(
            loaded, seed=used, engine=engine, stream=stream, backlog_limit=backlog_limit, progress=advance
        )
        announce()
        stage("working out figures", None)
        printed = result.to_json()
        if out is not None:
            stage("writing", None)
            result.save(out, table_format or "parquet")
    if as_json:
        for text in result.warnings:
            tell(f"warning: {text}")
        print_json(printed)
    else:
        from sim import tables

        tables.write(tables.of_run(result))
        sys.stdout.flush()
        if _is_bundled(scenario):
            tell(f"what to try next: hooklab scenarios {scenario}")
    if out is not None:
        tell(f"written to {out}")
    from sim import jit
    from sim.shown import shown_duration

    if jit.CACHE_FOLDER is None:
        tell(
            "warning: compiled code cannot be kept and is made again at every run; let XDG_CACHE_HOME name a folder"
        )
    tell(f"took {shown_duration(time.perf_counter() - begun)} in all")


def figures(
    name: Annotated[str | None, typer.Argument(help="One figure, as in delivery_latency_s_p99.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what the figures of a run mean, and their units."""
    from sim import shown

    if name is not None:
        try:
            chosen = {name: shown.entry_of(name)}
        except KeyError:
            near = nearest(name, shown.MEANINGS)
            raise ScenarioError(f"{name!r} is no figure{near} (hooklab figures lists them)") from None
    else:
        chosen = {known: known for known in shown.MEANINGS}
    if as_json:
        told = {
            key: {"unit": shown.unit(key), "meaning": shown.MEANINGS[entry]} for key, entry in chosen.items()
        }
        print_json({"figures": told})
    else:
        from sim import tables

        tables.write(tables.of_figures(chosen.values()))


def policies(
    name: Annotated[str | None, typer.Argument(help="One policy, with all that is known of it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled retry policies, or show one."""
    from sim import catalogue

    if name is not None:
        entry = catalogue.entry(name)
        if as_json:
            print_json(entry.details())
        else:
            from sim import tables

            tables.write(tables.of_policy(entry))
        return
    entries = catalogue.entries()
    if as_json:
        print_json({"policies": {entry.name: entry.summary() for entry in entries}})
    else:
        from sim import tables

        tables.write(tables.of_policies(entries))


def scenarios(
    name: Annotated[str | None, typer.Argument(help="One scenario, as its file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled scenarios, or print one."""
    from sim import catalogue, presets

    if name is not None:
        catalogue.require("scenarios", name)
        if as_json:
            print_json(presets.read("scenarios", name))
        else:
            sys.stdout.write(presets.text("scenarios", name))
        return
    questions = {
        known: presets.read("scenarios", known).get("question") for known in presets.names("scenarios")
    }
    if as_json:
        print_json({"scenarios": questions})
    else:
        from sim import tables

        tables.write(tables.of_scenarios(questions))


def receivers(
    name: Annotated[str | None, typer.Argument(help="One receiver, as its file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled receivers, or print one."""
    from sim import catalogue, presets

    if name is not None:
        catalogue.require("receivers", name)
        if as_json:
            print_json({"name": name, **presets.read("receivers", name)})
        else:
            sys.stdout.write(presets.text("receivers", name))
        return
    titles = {known: presets.read("receivers", known)["title"] for known in presets.names("receivers")}
    if as_json:
        print_json({"receivers": titles})
    else:
        from sim import tables

        tables.write(tables.of_receivers(titles))


def schema() -> None:
    """Print the JSON Schema of the scenario file, for editors."""
    from sim.scenario import json_schema

    print_json(json_schema())


# --------------------------------------------------------------------------- what commands share


def tell(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_json(value: dict[str, Any]) -> None:
    """The result of a command as one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _repeating(scenario: str, seed: int, overrides: Iterable[str], options: Iterable[str]) -> str:
    """The command that repeats a run to the last bit."""
    words = ["hooklab", "run", scenario, "--seed", str(seed), *options]
    for text in overrides:
        words += ["--set", text]
    return shlex.join(words)


def _is_bundled(scenario: str) -> bool:
    from sim import presets

    return scenario in presets.names("scenarios") and not Path(scenario).is_file()


@contextmanager
def _announced(command: str) -> Iterator[Callable[[], None]]:
    """A function that tells, once, how to repeat the run: when it has begun or broken, not if it was refused."""
    told = False

    def announce() -> None:
        nonlocal told
        if not told:
            told = True
            tell(f"repeat with: {command}")

    try:
        yield announce
    except ScenarioError:
        raise
    except BaseException:
        announce()
        raise


@contextmanager
def progress() -> Iterator[Callable[[str, float | None], None]]:
    """A function that shows (what is being done, its share) on stderr if that is a terminal, else nothing.

    A share is a bar; without one, and when it is the whole, there is a spinner: the end is not known.
    """
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    text, elapsed = TextColumn("{task.description}"), TimeElapsedColumn()
    spinner: tuple[ProgressColumn, ...] = (SpinnerColumn(), text, elapsed)
    bar: tuple[ProgressColumn, ...] = (text, BarColumn(), TaskProgressColumn(), elapsed)
    with Progress(*spinner, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(what: str, share: float | None) -> None:
            known = share is not None and share < 1
            progress.columns = bar if known else spinner
            # a share is one of the horizon; the drain and the tables after it have no known end
            doing = what if share is None or known else "finishing"
            progress.update(task, description=doing, completed=min(share, 0.99) if share is not None else 0.0)

        if _compiles_first():
            show("compiling (once)", None)
        yield show


def _compiles_first() -> bool:
    """Whether machine code of an engine is yet to be made, so that some seconds go by before anything moves."""
    from sim import jit

    return not (jit.is_cached("jit._receive_packed") and jit.is_cached("compiled_loop.advance"))
