"""The command ``hooklab fit``: from a log to blocks of a scenario."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import AsJson, print_json, tell
from sim.errors import Problem, ScenarioError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sim.calibrate import FitResult


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(fit)


def fit(
    log: Annotated[
        str,
        typer.Argument(
            help="File (.csv, .tsv, .parquet, .ndjson; .gz too), or folder of run, loadtest, trace --out."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="YAML file for the blocks.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="OURS=THEIRS,…", help="As in started_s=ts,finished_s=end,status=code."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Keep rows by value; repeatable.")
    ] = None,
    endpoint: Annotated[
        str, typer.Option(metavar="PATTERN", help="Keep endpoints by name, as in 'shop*'.")
    ] = "*",
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Leave out what is earlier.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Leave out what is later.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="A bundled policy: --out is then a scenario that runs, not blocks only."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="File for a picture, .png or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit receiver and producer blocks to a log of attempts, or to a history of outages or checks.

    Of a real sender's run (loadtest, trace) the overhead per attempt is measured too: its work, and its timers.
    """
    from sim import calibrate_output
    from sim.calibrate import fit as fit_log

    calibrate_output.require_policy(policy)
    if policy is not None and out is None:
        raise ScenarioError("--policy makes a scenario of --out: it needs --out FILE")
    if out is not None:
        calibrate_output.require_replaceable("out", out)
    if picture is not None:
        calibrate_output.require_picture(picture)
    result = fit_log(
        log, columns=columns, where=_pairs(where or ()), endpoint=endpoint, observed=(since, until)
    )
    for text in result.warnings:
        tell(f"warning: {text}")
    if as_json:
        print_json(result.to_json())
    else:
        from sim import tables

        tables.write(_shown(result))
        sys.stdout.flush()
    if out is not None:
        result.save(out, policy)
        tell(f"written to {out}" + (f"; next: hooklab run {out}" if policy is not None else ""))
    if picture is not None:
        calibrate_output.save_picture(result, picture)
        tell(f"picture in {picture}")


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    """``column=value`` texts as a mapping."""
    found = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise ScenarioError([Problem("where", text, "must be COLUMN=VALUE")])
        found[column] = value
    return found


def _shown(result: FitResult) -> list[RenderableType]:
    """Parameters, goodness of fit, and the blocks to paste."""
    from rich.text import Text

    from sim import calibrate_output, yamlio

    parts: list[RenderableType] = [
        _table(("parameter", "fitted", "95 % interval", "of"), calibrate_output.table_rows(result))
    ]
    if len(result.goodness):
        heads = ("goodness of fit", "test", "statistic", "p")
        parts += [Text(""), _table(heads, calibrate_output.goodness_rows(result))]
    return [*parts, Text(""), Text(yamlio.dump(result.blocks()).rstrip(), no_wrap=True)]


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    """A table whose numbers stand on the right."""
    from sim import tables

    made = tables.blank_table(heads)
    for column in made.columns[1:]:
        column.justify = "left" if column.header == "test" else "right"
    for row in rows:
        made.add_row(*row)
    return made
