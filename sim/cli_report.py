"""The command ``hooklab report``: one HTML file of a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim import cli
from sim.errors import Problem, ScenarioError


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(report)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder written with --out.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the report. Default: report.html in the folder.")
    ] = None,
    as_json: cli.AsJson = False,
) -> None:
    """Write one HTML file with everything a folder of results says: question, figures, pictures, how to repeat it."""
    from sim import report as pages

    try:
        written = pages.write(folder, out)
    except OSError as error:  # the path that it has may be that of a temporary file
        target = out or folder / pages.NAME
        reason = f"cannot be written: {error.strerror or error}"
        raise ScenarioError([Problem(f"out {target}", None, reason)]) from None
    if as_json:
        cli.print_json({"report": str(written)})
    else:
        cli.tell(f"written to {written}")
