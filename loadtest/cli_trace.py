"""The command ``hooklab trace``: what a dispatcher has recorded, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim import cli
from sim.errors import Problem, ScenarioError


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(trace)


def trace(
    out: Annotated[Path, typer.Option(help="Folder for the tables attempts and deliveries.")],
    url: Annotated[str, typer.Argument(help="Of the dispatcher.")] = "http://127.0.0.1:8080",
    table_format: Annotated[str, typer.Option("--format", help="Of the tables: parquet or csv.")] = "parquet",
    after: Annotated[
        int, typer.Option(metavar="CURSOR", help="Only what came after this; 0: all that is kept.")
    ] = 0,
    token: Annotated[
        str, typer.Option(envvar="HOOKLAB_TOKEN", show_envvar=True, help="Of the dispatcher's API.")
    ] = "",
    as_json: cli.AsJson = False,
) -> None:
    """Write what a dispatcher has recorded as the tables attempts and deliveries; hooklab fit reads them."""
    from sim import output

    output.require_format(table_format)
    if not 0 <= after < 2**63:
        raise ScenarioError([Problem("after", after, "must be a cursor: a whole number from 0")])
    if not (token.isascii() and token.isprintable()):
        raise ScenarioError("HOOKLAB_TOKEN (or --token) must be visible ASCII characters")
    output.require_replaceable(out)
    from loadtest import trace_rows, trace_tables

    reader = trace_rows.PageReader(url, token=token, after=after)
    pages = []
    with cli.progress() as stage:
        stage(f"reading {reader.url}", None)
        for page in reader.pages():
            pages.append(page)
            stage(f"reading {reader.url}: cursor {reader.after:,}", None)
        reader.close()
        stage("writing", None)
        rows = trace_rows.dispatcher_rows(pages, f"the trace of {reader.url}")
        counts = trace_tables.save(rows, out, table_format)
    if as_json:
        cli.print_json({**counts, "cursor": reader.after, "out": str(out)})
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    cli.tell(f"{told} written to {out}; go on with --after {reader.after}")
